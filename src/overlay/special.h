/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices 0:0 that users make (an overlay on top of this one does, for its whiteouts) are no
 * whiteouts of ours: they are stored as character devices 0:1 with overlay.whiteout, and shown as
 * 0:0.
 */
#ifndef RVL_OVERLAY_SPECIAL_H
#define RVL_OVERLAY_SPECIAL_H

#include <sys/sysmacros.h>

#include "overlay/private.h"

#define RVL_USER_WHITEOUT_RDEV makedev(0, 1)

/* Make one; for RENAME_WHITEOUT (create.c). No locks held. */
int rvl_create_user_whiteout(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
			     const char *name);

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
