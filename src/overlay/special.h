/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices 0:0 that users make (an overlay on top of this one does, for its whiteouts) are no
 * whiteouts of ours: they are stored as character devices 0:1 with overlay.whiteout, and shown as
 * 0:0.
 */
#ifndef RVL_OVERLAY_SPECIAL_H
#define RVL_OVERLAY_SPECIAL_H

#include <sys/sysmacros.h>

#include "overlay/lookup.h"
#include "overlay/temp.h"

#define RVL_USER_WHITEOUT_RDEV makedev(0, 1)

/*
 * For RENAME_WHITEOUT (create.c): made before the rename, in work/ and with its entry, so that
 * after it one more rename gives it the name. The directory is locked for writing.
 */
struct rvl_user_whiteout {
	struct rvl_id id;
	uint64_t log_id;
	struct rvl_temp temp;
};
int rvl_user_whiteout_make(struct rvl_dir *dir, const struct rvl_cred *cred, const char *name,
			   struct rvl_user_whiteout *ret);
/* The name is free, or a whiteout's. An error leaves the record: the next mount does it. */
int rvl_user_whiteout_publish(struct rvl_user_whiteout *whiteout, struct rvl_dir *dir,
			      const char *name);
/* There was no rename. Accepts a zeroed one. */
void rvl_user_whiteout_drop(struct rvl_user_whiteout *whiteout);

/* Is dirfd/name with this stat such a device? */
static inline bool rvl_is_user_whiteout(struct rvl_overlay *ov, int dirfd, const char *name,
					const struct statx *stx)
{
	char value[1];

	return S_ISCHR(stx->stx_mode) && stx->stx_rdev_major == 0 && stx->stx_rdev_minor == 1 &&
	       rvl_xattr_get(&ov->stack->xattr, dirfd, name, RVL_XATTR_WHITEOUT, value,
			     sizeof(value)) == 1;
}

#endif
