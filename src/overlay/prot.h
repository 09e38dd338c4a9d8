/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Immutable and append-only (chattr +i, +a). On upper they are the kernel's overlay.protattr, not
 * real flags, which would forbid the server its own work; the real flags of a lower object count
 * until it is copied up. The kernel does not know them of a FUSE inode, so they are enforced here,
 * as the VFS does it for others.
 */
#ifndef RVL_OVERLAY_PROT_H
#define RVL_OVERLAY_PROT_H

#include "overlay/private.h"

enum {
	RVL_PROT_IMMUTABLE = 1 << 0,
	RVL_PROT_APPEND = 1 << 1,
	RVL_PROT_ANY = RVL_PROT_IMMUTABLE | RVL_PROT_APPEND,
};

/* What an object has. Read once, then from the node. -errno. */
int rvl_prot_get(struct rvl_node *node);
/* -EPERM if the object has one of these. */
int rvl_prot_check(struct rvl_node *node, int forbidden);
/* Set on an upper object (copied up by the caller). */
int rvl_prot_set(struct rvl_node *node, int prot);
/* The attribute's value ("i", "a", "ai"); its length. */
unsigned rvl_prot_format(int prot, char ret[2]);
/* A node that was just made has none. */
void rvl_prot_none(struct rvl_node *node);

#endif
