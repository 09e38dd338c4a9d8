/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of a rebind share. Private to src/check. */
#ifndef RVL_CHECK_REBIND_PRIVATE_H
#define RVL_CHECK_REBIND_PRIVATE_H

#include <sys/stat.h>

#include "check/rebind.h"
#include "layer/merge.h"

struct rvl_name_at;

struct rvl_check_rebind {
	const struct rvl_check_rebind_config *config; /* borrowed */
	struct rvl_check_rebind_result *result; /* borrowed */
	struct rvl_rebind *rebind; /* owned; NULL: names are linked with the index as it is (to_kernel.c) */
	struct rvl_index *index; /* borrowed from it */
	uint8_t (*uuids)[16]; /* owned; of the filesystems of layers, by layer index */
	struct rvl_rebind_split *splits; /* owned, and their strings */
	size_t n_splits, splits_size;
	/* borrowed from splits; of the last names that could not keep their number; NULL: none */
	const struct rvl_rebind_split *parted_from;
	struct rvl_id parted; /* what they got */
	bool is_reserved; /* rvl_rebind_reserve is done */
	void *dirs; /* owned; tsearch(3): number of an upper directory -> its path in upper */
};

void rvl_rebind_tell(struct rvl_check_rebind *rb, enum rvl_rebind_told what, uint64_t number,
		     const char *path);

/* The walk of upper: entries, links, handles; fills rb->dirs. */
int rvl_rebind_upper(struct rvl_check_rebind *rb);
/* Path in upper of the upper directory with this number; NULL: none. Borrowed. */
const char *rvl_rebind_upper_path(const struct rvl_check_rebind *rb, uint64_t number);
/* One more. */
int rvl_rebind_upper_add(struct rvl_check_rebind *rb, uint64_t number, const char *path);
void rvl_rebind_upper_release(struct rvl_check_rebind *rb);

/* The handles of a lower object that upper and index keep of it. arg: the rebind. */
int rvl_rebind_renew_origin(void *arg, uint64_t number, const struct rvl_layer *layer, int dirfd,
			    const char *path);

/* ---- what is made in upper (rebind_make.c): 0, or -errno of the layers, the index or memory ---- */

/* Does upper have this directory, and show what lower has at this name? 1, 0, -errno. arg: the rebind. */
int rvl_rebind_is_seen(void *arg, uint64_t parent, const char *name);
/* Where a directory of the lower view lies, by the map. The caller releases *ret. -ENOENT. */
int rvl_rebind_lower_of(struct rvl_check_rebind *rb, uint64_t number, struct rvl_places *ret);

/* A real object of a layer, to be copied up. */
struct rvl_rebind_source {
	const struct rvl_layer *layer; /* borrowed */
	const char *path; /* borrowed; in the layer */
	struct statx st;
	bool is_of_other; /* it is another object now: no origin of the copy */
};
/*
 * Copy it up as the entry of this number. place: a name of it; n_names: how many it is to have
 * (overlay.nlink makes up for those that are not linked yet).
 */
int rvl_rebind_copy_up(struct rvl_check_rebind *rb, const struct rvl_rebind_source *from,
		       const struct rvl_id *id, const struct rvl_name_at *place, int n_names);
/* Link the entry at this name, and lower overlay.nlink by one. Nothing, and 0, where upper has or hides
 * the name. */
int rvl_rebind_make_name(struct rvl_check_rebind *rb, uint64_t number, uint64_t parent,
			 const char *name);
/* A descriptor of the directory in upper, which is made where it is only in lower. -ENOENT: upper hides
 * it, or has or hides the name. */
int rvl_rebind_make_parent(struct rvl_check_rebind *rb, uint64_t parent, const char *name);

/* ---- names that the copy has parted or joined (rebind_link.c) ---- */

/* Lower names that the copy has parted: to be remembered, and after the walk to be linked. */
int rvl_rebind_link_add(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split);
int rvl_rebind_link(struct rvl_check_rebind *rb);
void rvl_rebind_link_release(struct rvl_check_rebind *rb);

/* Are two objects equal: type, owner, mode, contents (and do both have them, or neither)? 1 yes, 0
 * no. */
int rvl_rebind_is_equal(const struct rvl_stack *stack, int a_dirfd, const char *a, int b_dirfd,
			const char *b);

#endif
