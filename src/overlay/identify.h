/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which number has an upper object? That of its stamp, if the index agrees; else it is a stranger
 * (made by the kernel, copied in offline, forged) and gets its stamp on sight.
 */
#ifndef RVL_OVERLAY_IDENTIFY_H
#define RVL_OVERLAY_IDENTIFY_H

#include "overlay/lookup.h"

/* lower: what the lower view has under this name (for the number of a stranger that was copied up
 * from there); places.n may be 0. dir is locked; upper->st is kept true (a stranger gains a link).
 * Errors: -EUCLEAN damaged stamp; -EROFS never: a read-only overlay computes a number for this
 * mount. */
int rvl_identify(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
		 const struct rvl_found *lower, struct rvl_id *ret);

/* The number of an upper object that a read-only overlay can give none: that of its inode. */
int rvl_identify_for_mount(struct rvl_dir *dir, const char *name, const struct rvl_upper_name *upper,
			   struct rvl_id *ret);

/* What the entry of an upper directory is to say. dir is locked. */
void rvl_identify_record(struct rvl_dir *dir, const char *name, const struct rvl_upper_name *upper,
			 const struct rvl_found *lower, struct rvl_entry_directory *ret);

/*
 * A lower file with several names may have been copied up by the kernel's overlayfs with index=on
 * under one of them: then workdir/index/<hex of its handle> is the upper object. Gives it stamp and
 * entry: 1, or 0 where there is none.
 */
int rvl_identify_kernel_index(struct rvl_overlay *ov, const struct rvl_found *lower,
			      const struct rvl_id *id);

/*
 * The lower object that an upper one says it was copied up from (overlay.origin), if it is of this
 * type: an O_PATH descriptor (owned by the caller), its layer and stat. -ESTALE: none can be found.
 * -EUCLEAN: the attribute is malformed.
 */
int rvl_origin_open(struct rvl_overlay *ov, int dirfd, const char *name, mode_t type,
		    const struct rvl_layer **ret_layer, struct statx *ret_st);

#endif
