/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a new object inherits: owner, group, mode and POSIX ACLs (posix_acl_create and
 * inode_init_owner of the kernel). */
#ifndef RVL_OVERLAY_ACL_H
#define RVL_OVERLAY_ACL_H

#include "overlay/lookup.h"

#define RVL_ACL_SIZE_MAX 4096

struct rvl_inherited {
	uid_t uid;
	gid_t gid;
	mode_t mode; /* with the type's bits */
	uint8_t access[RVL_ACL_SIZE_MAX]; /* xattr value to set; access_len 0: none */
	unsigned access_len;
	uint8_t def[RVL_ACL_SIZE_MAX]; /* directories: the default ACL, handed on */
	unsigned def_len;
};

/* dir: the locked parent. -EUCLEAN: its default ACL is malformed. */
int rvl_inherit(struct rvl_dir *dir, const struct rvl_cred *cred, mode_t mode,
		struct rvl_inherited *ret);

#endif
