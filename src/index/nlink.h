/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's overlay.nlink on a copied-up file: what is to be added to st_nlink of the upper
 * inode ("U+1", "U-2"), or to that of the lower one ("L…", left by a copy-up that the kernel did
 * not finish). From fs/overlayfs/util.c, ovl_get_nlink and ovl_set_nlink_common.
 */
#ifndef RVL_INDEX_NLINK_H
#define RVL_INDEX_NLINK_H

#include "index/stamp.h"

#define RVL_NLINK_MAX (1 << 20) /* no filesystem has more links */
#define RVL_NLINK_VALUE_SIZE 16

struct rvl_nlink {
	bool is_lower; /* relative to the lower inode */
	int diff; /* within +-RVL_NLINK_MAX */
};

/* Returns 0, or -EUCLEAN. */
int rvl_nlink_parse(const char *value, struct rvl_nlink *ret);
/* The value as it is written: "U%+d". Returns its length. */
unsigned rvl_nlink_format(int diff, char ret[RVL_NLINK_VALUE_SIZE]);

/*
 * Read that of an object, as rvl_upper_xattr_get(). 1: it has one, 0: it has none, -EUCLEAN:
 * malformed.
 */
int rvl_nlink_get(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		  uint64_t real_ino, struct rvl_nlink *ret);

/* Add delta, where it has one that is relative to upper; all others are left as they are. */
int rvl_nlink_change(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		     uint64_t real_ino, int delta);

#endif
