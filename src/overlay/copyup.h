/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copy-up: a lower object gets its upper one, with the same number.
 *
 *   1 the directories above are copied up, from the topmost down
 *   2 log COPY_UP
 *   3 temporary in work/: data, xattrs, origin, place, stamp, owner, mode, times; synced by policy
 *   4 the entry: hard link inodes/xx/#n (a directory: its record)
 *   5 under the parent's lock: if the name still leads to this number, the temporary is renamed
 *     to it; else the object stays in the index alone (unlinked or renamed meanwhile)
 *   6 the node turns to upper, the log record ends
 */
#ifndef RVL_OVERLAY_COPYUP_H
#define RVL_OVERLAY_COPYUP_H

#include "overlay/private.h"

enum {
	RVL_COPY_UP_NO_DATA = 1 << 0, /* it is truncated at once */
	RVL_COPY_UP_DATA = 1 << 1, /* it will be written: metacopy files get their data */
	RVL_COPY_UP_NO_PUBLISH = 1 << 2, /* its name goes anyway: entry only */
	RVL_COPY_UP_RENAME = 1 << 3, /* it gets another name: its data must be found without it */
};

/* Nothing to do (0) where there is an upper object already (with its data, for RVL_COPY_UP_DATA).
 * No locks held. -EROFS; -ENOSPC …: the old state is whole. */
int rvl_copy_up(struct rvl_node *node, unsigned flags);

/* Would rvl_copy_up do nothing? */
bool rvl_copy_up_is_done(const struct rvl_node *node, unsigned flags);

/* The second name of a lower file whose object is in upper already: link it to this name, so that
 * the name can be changed. The parent is locked for write. */
int rvl_publish_alias(struct rvl_node *node, struct rvl_node *dir, int dirfd, const char *name);

/* overlay.impure on an upper directory that has, or had, objects with an origin (the kernel's
 * readdir needs it). */
int rvl_set_impure(struct rvl_node *dir, int dirfd);

#endif
