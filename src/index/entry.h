/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entries: inodes/<xx>/#<number>, xx the low 8 bits of the number in hex, the number in decimal
 * (docs/format.md).
 *
 *   non-directory   hard link of the upper inode: it IS the object
 *   directory       small regular file with overlay.upper, overlay.path and, if merged, overlay.fh,
 *                   overlay.place; mode 0, told from an object by its overlay.path
 *   dead            tombstone: a whiteout (hard links of one, a new one at EMLINK)
 *
 * No locks: link and unlink are atomic on disk, the callers hold the object's lock where it
 * matters.
 */
#ifndef RVL_INDEX_ENTRY_H
#define RVL_INDEX_ENTRY_H

#include <limits.h>

#include "index/number.h"
#include "layer/handle.h"
#include "layer/merge.h"

/* Path of an entry relative to inodes_fd: "a3/#163". */
#define RVL_ENTRY_PATH_SIZE 32
void rvl_entry_path(uint64_t number, char ret[RVL_ENTRY_PATH_SIZE]);

enum rvl_entry_kind {
	RVL_ENTRY_NONE,
	RVL_ENTRY_OBJECT,    /* st is the upper inode's */
	RVL_ENTRY_DIRECTORY, /* the record is to be read with rvl_entry_get_directory */
	RVL_ENTRY_TOMBSTONE,
};

/*
 * What a number's entry is. Returns 0 also for NONE; st only for OBJECT. -EUCLEAN: something that
 * no entry can be.
 */
int rvl_entry_look(struct rvl_index *index, uint64_t number, enum rvl_entry_kind *ret_kind,
		   struct statx *ret_st);

/*
 * A lower object has the number of an entry: is it another one all the same, which was given the inode when
 * lower was changed offline? 1: it has another type than what the entry is of, or another file handle than
 * what that was copied up from (overlay.origin, overlay.fh). 0, also where the handle is not known, or handles
 * do not tell, of a tombstone, and without an entry; -errno of the entry, or of opening the lower object.
 * uuids: of rvl_identity_uuids.
 */
int rvl_entry_is_of_other_life(struct rvl_index *index, uint64_t number, const struct rvl_found *lower,
			       uint8_t (*uuids)[16]);

/*
 * Calls fn with the number of each entry, in no order, until it returns non-zero, which is
 * returned. What has no entry's name is left out. For tools: fn may change that entry, but nobody
 * else may change the index meanwhile.
 */
typedef int rvl_entry_each_fn(void *arg, uint64_t number);
int rvl_entry_each(struct rvl_index *index, rvl_entry_each_fn *fn, void *arg);

/*
 * Make the entry of a non-directory: a hard link of dirfd/name (name "" for an O_PATH, or O_TMPFILE
 * descriptor).
 * -EEXIST: the number has an entry (another name won, or a tombstone). -EMLINK.
 */
int rvl_entry_link(struct rvl_index *index, int dirfd, const char *name, uint64_t number);

/*
 * The same, of an object whose link at dirfd/name (on the same mount) is not needed any more: one
 * rename.
 */
int rvl_entry_move(struct rvl_index *index, int dirfd, const char *name, uint64_t number);

/* A place: parent's number + name. Encoded: 8 bytes little-endian, then the name's bytes. */
struct rvl_name_at {
	uint64_t parent;
	char name[NAME_MAX + 1];
};
#define RVL_NAME_AT_ENCODED_MAX (8 + NAME_MAX)
bool rvl_name_at_equal(const struct rvl_name_at *a, const struct rvl_name_at *b);
unsigned rvl_name_at_encode(const struct rvl_name_at *at, uint8_t buf[RVL_NAME_AT_ENCODED_MAX]);
int rvl_name_at_decode(const void *buf, size_t len, struct rvl_name_at *ret); /* -EUCLEAN */

struct rvl_entry_directory {
	struct rvl_name_at path;  /* in the overlay */
	struct rvl_handle upper;  /* of the upper directory; len 0: the filesystem has no handles */
	bool is_merged;		  /* it was copied up; then: */
	struct rvl_handle lower;  /* overlay.fh, of the topmost lower directory; len 0: none */
	struct rvl_name_at place; /* overlay.place, in the merged lower view */
};
/* Does it say that the directory hides what lower has at its name? A merged one that has lost one of
 * overlay.place and overlay.fh has the other. */
static inline bool rvl_entry_hides_lower(const struct rvl_entry_directory *dir)
{
	return !dir->is_merged && !dir->lower.len;
}
/*
 * Written whole in work/, then renamed into place: -EEXIST as above (is_replace: over what is
 * there).
 */
int rvl_entry_put_directory(struct rvl_index *index, uint64_t number, const struct rvl_entry_directory *dir,
			    bool is_replace);
/* -ENOENT none, -EUCLEAN damaged or of another kind. */
int rvl_entry_get_directory(struct rvl_index *index, uint64_t number, struct rvl_entry_directory *ret);
/*
 * Another number, one that was never used, for the upper object at dirfd/name, whose entry is that of `old`.
 * record: what the new entry of a directory says, NULL for all else. In this order: new entry, stamp, the
 * old entry goes. A death between leaves an object with two entries, of which its stamp tells the right one;
 * an error before the stamp leaves it as it was.
 */
int rvl_entry_renumber(struct rvl_index *index, uint64_t old, int dirfd, const char *name,
		       const struct statx *st, const struct rvl_entry_directory *record,
		       struct rvl_id *ret);
/* After a rename: one setxattr. */
int rvl_entry_set_path(struct rvl_index *index, uint64_t number, const struct rvl_name_at *path);

/*
 * The object is dead. is_copied_up: a tombstone replaces the entry, else it is removed. -ENOENT is
 * success.
 */
int rvl_entry_bury(struct rvl_index *index, uint64_t number, bool is_copied_up);

#endif
