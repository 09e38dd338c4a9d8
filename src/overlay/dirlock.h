/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories under lock: what every look-up and change of names begins with. */
#ifndef RVL_OVERLAY_DIRLOCK_H
#define RVL_OVERLAY_DIRLOCK_H

#include "overlay/real.h"

/* A directory that is locked, with the descriptor of its upper part (fd.fd -EBADF without). */
struct rvl_dir {
	struct rvl_node *node; /* borrowed */
	struct rvl_pinned fd;
	bool is_locked;
};

/*
 * Lock a directory for look-up. The descriptor is pinned BEFORE the lock is taken: finding it may
 * need the directory's ancestors, and no ancestor is looked for while a lock is held
 * (docs/locking.md). -ENOENT: removed.
 */
int rvl_dir_lock_read(struct rvl_node *node, struct rvl_dir *ret);
/* For a change: copied up first (errors of rvl_copy_up). Listings that were read before are out of
 * date from then on. */
int rvl_dir_lock_write(struct rvl_node *node, struct rvl_dir *ret);
/* Two for a rename, in the order of their numbers. May be the same node: then *ret_a alone is
 * locked, and *ret_b is to be unlocked all the same. After an error neither is. */
int rvl_dir_lock_two(struct rvl_node *a, struct rvl_node *b, struct rvl_dir *ret_a,
		     struct rvl_dir *ret_b);
void rvl_dir_unlock(struct rvl_dir *dir); /* accepts a zeroed one, and one unlocked before */
#define _cleanup_dir_ __attribute__((cleanup(rvl_dir_unlock)))

#endif
