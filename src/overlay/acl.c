// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Inheritance. The format is that of the system.posix_acl_* attributes (linux/posix_acl_xattr.h):
 * le32 version 2, then entries of le16 tag, le16 permissions, le32 id. With a default ACL on the
 * parent the umask does not count (acl(5), OBJECT CREATION AND DEFAULT ACLs).
 */
#include "overlay/acl.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "layer/path.h"
#include "layer/xattr.h"

#define ACL_VERSION 2
#define HEADER_SIZE 4
#define ENTRY_SIZE 8

enum {
	TAG_USER_OBJ = 1,
	TAG_USER = 2,
	TAG_GROUP_OBJ = 4,
	TAG_GROUP = 8,
	TAG_MASK = 16,
	TAG_OTHER = 32
};

/* Narrow one entry to what the creator asked for, and the mode to what the entry allows. */
static void narrow(uint8_t *entry, unsigned shift, mode_t *mode)
{
	uint16_t perm = rvl_get_le16(entry + 2) & ((*mode >> shift) & 7);

	rvl_put_le16(entry + 2, perm);
	*mode = (*mode & ~(mode_t)(7 << shift)) | (mode_t)(perm << shift);
}

/* acl is the default ACL and becomes the access ACL. Returns 1 if it says more than the mode does.
 * -EUCLEAN. */
static int apply(uint8_t *acl, unsigned len, mode_t *mode)
{
	uint8_t *group = NULL, *mask = NULL;
	bool is_extended = false;

	if (len < HEADER_SIZE || (len - HEADER_SIZE) % ENTRY_SIZE ||
	    rvl_get_le32(acl) != ACL_VERSION)
		return -EUCLEAN;
	for (unsigned at = HEADER_SIZE; at < len; at += ENTRY_SIZE) {
		switch (rvl_get_le16(acl + at)) {
		case TAG_USER_OBJ:
			narrow(acl + at, 6, mode);
			break;
		case TAG_GROUP_OBJ:
			group = acl + at;
			break;
		case TAG_MASK:
			mask = acl + at;
			break;
		case TAG_OTHER:
			narrow(acl + at, 0, mode);
			break;
		case TAG_USER:
		case TAG_GROUP:
			is_extended = true;
			break;
		default:
			return -EUCLEAN;
		}
	}
	if (!mask && !group)
		return -EUCLEAN;
	narrow(mask ? mask : group, 3, mode);
	return is_extended || mask;
}

/* The parent's default ACL into ret->access: its length, or 0 for none. */
static ssize_t read_default(struct rvl_dir *dir, struct rvl_inherited *ret)
{
	static const char name[] = "system.posix_acl_default";
	_Atomic unsigned *state = &dir->node->default_acl;
	unsigned seen = atomic_load(state);
	ssize_t n;

	if (!dir->node->ov->config.has_acl || seen & RVL_NO_DEFAULT_ACL)
		return 0;
	ret->access = ret->buf[0];
	ret->def = ret->buf[1];
	n = rvl_xattrat_get(dir->fd.fd.fd, "", name, ret->access, RVL_ACL_SIZE_USUAL);
	if (n == -ERANGE) { /* filesystems in memory have them up to the largest size of a value */
		ret->large = malloc(2 * RVL_XATTR_VALUE_MAX);
		if (!ret->large)
			return -ENOMEM;
		ret->access = ret->large;
		ret->def = ret->large + RVL_XATTR_VALUE_MAX;
		n = rvl_xattrat_get(dir->fd.fd.fd, "", name, ret->access, RVL_XATTR_VALUE_MAX);
	}
	/* not if one was set meanwhile */
	if (n == -ENODATA)
		atomic_compare_exchange_strong(state, &seen, seen | RVL_NO_DEFAULT_ACL);
	return n == -ENODATA || n == -EOPNOTSUPP ? 0 : n;
}

int rvl_inherit(struct rvl_dir *dir, const struct rvl_cred *cred, mode_t mode,
		struct rvl_inherited *ret)
{
	struct statx stx;
	ssize_t n;
	int r = rvl_path_statx(dir->fd.fd.fd, "", STATX_MODE | STATX_UID | STATX_GID, &stx);

	if (r < 0)
		return r;
	ret->access_len = ret->def_len = 0;
	ret->uid = cred->uid;
	ret->gid = cred->gid;
	if (stx.stx_mode & S_ISGID) {
		ret->gid = stx.stx_gid;
		if (S_ISDIR(mode))
			mode |= S_ISGID;
	}
	ret->mode = mode;
	if (S_ISLNK(mode))
		return 0;
	n = read_default(dir, ret);
	if (n <= 0) {
		ret->mode &= ~cred->umask;
		return (int)n;
	}
	if (S_ISDIR(mode)) {
		memcpy(ret->def, ret->access, (size_t)n);
		ret->def_len = (unsigned)n;
	}
	r = apply(ret->access, (unsigned)n, &ret->mode);
	if (r > 0)
		ret->access_len = (unsigned)n;
	return r < 0 ? r : 0;
}

void rvl_inherited_release(struct rvl_inherited *inherited)
{
	free(inherited->large);
	inherited->large = NULL;
}
