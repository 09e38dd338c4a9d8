/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a new object inherits: owner, group, mode and POSIX ACLs (posix_acl_create and
 * inode_init_owner of the kernel). */
#ifndef RVL_OVERLAY_ACL_H
#define RVL_OVERLAY_ACL_H

#include "overlay/lookup.h"

#define RVL_ACL_SIZE_USUAL 4096

/* Points into itself: not to be copied. */
struct rvl_inherited {
	uid_t uid;
	gid_t gid;
	mode_t mode; /* with the type's bits */
	uint8_t *access; /* in buf or large: xattr value to set; access_len 0: none */
	unsigned access_len;
	uint8_t *def; /* as access; directories: the default ACL, handed on */
	unsigned def_len;
	uint8_t buf[2][RVL_ACL_SIZE_USUAL];
	uint8_t *large; /* owned; for both, where buf is too small */
};

/*
 * dir: the locked parent. ret is zeroed, and to be released also after errors. -EUCLEAN: its
 * default ACL is malformed.
 */
int rvl_inherit(struct rvl_dir *dir, const struct rvl_cred *cred, mode_t mode,
		struct rvl_inherited *ret);
void rvl_inherited_release(struct rvl_inherited *inherited);

#endif
