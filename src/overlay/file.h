/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Data descriptors inside overlay/: what rvl_overlay_pin_read and its like give to the front, by
 * node. */
#ifndef RVL_OVERLAY_FILE_H
#define RVL_OVERLAY_FILE_H

#include "overlay/real.h"

/*
 * A descriptor on the data of a regular file, pinned. is_write: O_RDWR on upper, where it must have
 * been copied up to. -EISDIR, -EINVAL: no regular file; -ESTALE: gone; others of
 * rvl_lower_data_open(). The caller has not begun its copy-up: that of another thread is waited for.
 */
int rvl_file_pin(struct rvl_node *node, bool is_write, struct rvl_fd *ret);

#endif
