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

/*
 * The number of the stamp is shown for an object in lower already: both were one before upper was
 * changed offline. This one gets another number, stamp and entry; the entry of the old one goes.
 * Nothing of the lower object is being copied up: that would have the number in upper. dir is locked.
 */
int rvl_identify_anew(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
		      const struct rvl_found *lower, struct rvl_id *id);

/*
 * The number of a lower file with one name, which is about to be copied up, has an entry, mostly that of
 * another object, whose inode lower gave again when it was changed offline. What has no name (a tombstone,
 * what an attempt left) goes; any other object gets another number. In a copy-up's turn, with no directory
 * locked: takes identify_lock. -EUCLEAN: the entry is a directory's.
 */
int rvl_identify_free_number(struct rvl_overlay *ov, uint64_t number);

/*
 * The other way round: a lower object whose number is shown for upper's. It gets one of its own, recorded.
 * is_other_life: it is certain that the two are not one (rvl_entry_is_of_other_life). -EEXIST: the number
 * that it has is recorded (by a rebind, a claim), and that is not certain.
 */
int rvl_identify_uncovered(struct rvl_dir *dir, const char *name, const struct rvl_found *lower,
			   bool is_other_life, struct rvl_id *id);

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
