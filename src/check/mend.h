/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What repair does, one function a step that is seen on disk. Each leaves either the old or the new
 * state, or one that is itself a problem which is found and mended by the next run. Nothing with
 * data in it is ever removed. Private to src/check.
 */
#ifndef RVL_CHECK_MEND_H
#define RVL_CHECK_MEND_H

#include "check/private.h"
#include "layer/merge.h"

#define RVL_LOST_NAME "lost+found" /* in upper's root: what has no name that is its own */

/* The directory of an upper object and its name there. */
struct rvl_upper_at {
	int dirfd; /* owned */
	char *name; /* owned */
	struct statx st;
};
int rvl_upper_at_open(struct rvl_check *check, uint64_t item, struct rvl_upper_at *ret);
void rvl_upper_at_release(struct rvl_upper_at *at);
#define _cleanup_upper_at_ __attribute__((cleanup(rvl_upper_at_release)))

/* An object's stamp becomes `number`; the generation is found by the lower handle (may be NULL). */
int rvl_mend_stamp(struct rvl_check *check, int dirfd, const char *name, const struct statx *st,
		   uint64_t number, const struct rvl_handle *lower);
/*
 * Give an upper object the number of its origin if that is free, else a born one: stamp, then
 * entry. The directories above get theirs first.
 */
int rvl_mend_number(struct rvl_check *check, uint64_t item);
/* Make the missing entry of an object that is no directory. */
int rvl_mend_entry(struct rvl_check *check, uint64_t number, uint64_t item);
/*
 * Write the record of a directory anew; parent: its directory's number; lower_item: of its MERGED fact,
 * 0: none, RVL_ITEM_UNKNOWN: it has one, not known which, so that overlay.fh is left to the next round;
 * place: what it keeps of overlay.place, or NULL (where its redirect leads, else its own place).
 */
#define RVL_ITEM_UNKNOWN UINT64_MAX
int rvl_mend_record(struct rvl_check *check, uint64_t number, uint64_t item, uint64_t parent,
		    uint64_t lower_item, const struct rvl_name_at *place);
/* A name in lost+found for the object of an entry. */
int rvl_mend_lost(struct rvl_check *check, uint64_t number, const struct statx *st);
/* The same for a link anywhere else. */
int rvl_mend_lost_at(struct rvl_check *check, int dirfd, const char *name, const struct statx *st);
/* overlay.redirect anew from the entry, or opaque. */
int rvl_mend_redirect(struct rvl_check *check, struct rvl_object *object);
/* The same for one that has lost it; -ESTALE: it cannot be told. */
int rvl_mend_lost_redirect(struct rvl_check *check, const struct rvl_upper_at *at, uint64_t number);
/* overlay.redirect of a metacopy file: to this path in the lower view, no leading slash. */
int rvl_mend_data_redirect(struct rvl_check *check, uint64_t item, const char *path);
/* Has lower what a file was copied up from still, where overlay.place says? 1, 0, or -errno. */
int rvl_is_in_lower(struct rvl_check *check, const struct rvl_object *object);
/*
 * overlay.origin anew: the handle of the lower object with its number, found by overlay.place or
 * overlay.fh; else "origin unknown".
 */
int rvl_mend_origin(struct rvl_check *check, const struct rvl_object *object);
/* A directory becomes opaque, and its entry says that it has no lower part. */
int rvl_mend_opaque(struct rvl_check *check, int dirfd, const char *name, uint64_t number);
/* A whiteout over a lower name. -ENOENT: its directory is not in upper. */
int rvl_mend_whiteout(struct rvl_check *check, uint64_t item);

/* The lower object with this handle and number: an O_PATH descriptor, owned by the caller, and its layer.
 * -ESTALE: none; -EPERM: handles may not be opened. */
int rvl_lower_of_number(struct rvl_index *index, const struct rvl_handle *handle, mode_t type,
			uint64_t number, const struct rvl_layer **ret_layer, struct statx *ret_st);
/* The item of a place in lower, as the facts MERGED and STRAY have it: layer and path, below the root. */
int rvl_lower_item_add(struct rvl_check *check, const struct rvl_place *place, uint64_t *ret);
/* What the item of a MERGED or STRAY fact names in lower: a descriptor (owned by the caller), with these
 * flags of open(2), and its layer. */
int rvl_lower_item_open(struct rvl_check *check, uint64_t item, uint64_t flags,
			const struct rvl_layer **ret_layer);
/* Is it a number of a filesystem, and not of a counter? */
bool rvl_number_is_of_lower(const struct rvl_check *check, uint64_t number);

#endif
