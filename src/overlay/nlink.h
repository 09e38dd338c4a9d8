/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Link counts. A file shows st_nlink of the upper inode + nlink_diff. Without overlay.nlink the
 * difference is -1, the index link. A file that had several names in lower keeps the kernel's
 * overlay.nlink ("U+n"), where lower names not yet linked into upper count:
 *
 *   lower a, b = one inode      st_nlink 2
 *   copied up by writing to a   upper: a and the index link, 2; b is served from the entry:
 *                               "U+0" shows 2
 *   unlink b (a whiteout)       set "U-1" first, then the whiteout: shows 1
 *   unlink a                    upper st_nlink 1, "U-1": 0, the file is dead
 */
#ifndef RVL_OVERLAY_NLINK_H
#define RVL_OVERLAY_NLINK_H

#include "index/nlink.h"
#include "overlay/private.h"

/* Read the difference of an upper object, whose st_nlink is upper_nlink, into a node that nobody else
 * has yet. -EUCLEAN: malformed. */
int rvl_nlink_read(struct rvl_node *node, int dirfd, const char *name, uint32_t upper_nlink);
/* Change by delta, on disk first, then in the node. Under the node's lock. A no-op for delta 0. */
int rvl_nlink_add(struct rvl_node *node, int delta);
/* Take back rvl_nlink_add of the same delta, under the node's lock: in the node in any case. An error: not
 * on disk; the caller leaves its record of the log, by which the next mount does it. */
int rvl_nlink_undo(struct rvl_node *node, int delta);
/* Links that are visible; real st_nlink is read. Negative: -errno. */
long rvl_nlink_visible(struct rvl_node *node);

#endif
