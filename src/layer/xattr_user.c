// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What users see of extended attributes, and what a copy-up takes along.
 *
 *   in the layer                   seen by the user
 *   trusted.overlay.opaque         (hidden: it is this overlay's own)
 *   trusted.overlay.overlay.opaque trusted.overlay.opaque (that of an overlay on top of this one)
 *   trusted.other, user.x, …       the same
 *
 * With userxattr the same for user.overlay., and trusted.overlay. is then a name like others.
 * Kernel: fs/overlayfs/xattrs.c, and ovl_copy_xattr in fs/overlayfs/copy_up.c.
 */
#include "layer/xattr.h"

#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/cleanup.h"

#define ESCAPE "overlay."
#define ESCAPE_LEN (sizeof(ESCAPE) - 1)
#define READ_RETRIES_MAX 8 /* of a value that grows between asking for its size and reading it */

static bool is_own(const struct rvl_xattr_names *names, const char *name)
{
	return strncmp(name, names->prefix, strlen(names->prefix)) == 0;
}

static bool is_escaped(const struct rvl_xattr_names *names, const char *name)
{
	return is_own(names, name) &&
	       strncmp(name + strlen(names->prefix), ESCAPE, ESCAPE_LEN) == 0;
}

bool rvl_xattr_is_private(const struct rvl_xattr_names *names, const char *name)
{
	return is_own(names, name) && !is_escaped(names, name);
}

int rvl_xattr_to_layer(const struct rvl_xattr_names *names, const char *name, char *buf,
		       const char **ret)
{
	size_t prefix_len = strlen(names->prefix), len = strlen(name);

	if (!is_own(names, name)) {
		*ret = name;
		return 0;
	}
	if (len == prefix_len) /* as without an overlay: fs/xattr.c, xattr_resolve_name */
		return -EINVAL;
	if (len + ESCAPE_LEN > XATTR_NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(buf, names->prefix, prefix_len);
	memcpy(buf + prefix_len, ESCAPE, ESCAPE_LEN);
	memcpy(buf + prefix_len + ESCAPE_LEN, name + prefix_len, len - prefix_len + 1);
	*ret = buf;
	return 0;
}

size_t rvl_xattr_list_to_user(const struct rvl_xattr_names *names, char *list, size_t len)
{
	size_t prefix_len = strlen(names->prefix), out = 0;

	for (size_t in = 0; in < len;) {
		char *name = list + in;
		size_t n = strnlen(name, len - in) + 1;

		if (in + n > len)
			break; /* not terminated: the kernel never does that */
		in += n;
		if (rvl_xattr_is_private(names, name))
			continue;
		if (is_escaped(names, name)) {
			memmove(name + prefix_len, name + prefix_len + ESCAPE_LEN,
				n - prefix_len - ESCAPE_LEN);
			n -= ESCAPE_LEN;
		}
		memmove(list + out, name, n);
		out += n;
	}
	return out;
}

/* Attributes that belong to the new object and not to the copied one: the security modules' labels
 * (security_inode_copy_up_xattr discards them likewise). */
static bool is_label_of_module(const char *name)
{
	return strcmp(name, "security.selinux") == 0 ||
	       strncmp(name, "security.SMACK64", strlen("security.SMACK64")) == 0 ||
	       strcmp(name, "security.evm") == 0;
}

/* ovl_must_copy_xattr */
static bool must_copy(const char *name)
{
	return strcmp(name, "system.posix_acl_access") == 0 ||
	       strcmp(name, "system.posix_acl_default") == 0 ||
	       strncmp(name, "security.", strlen("security.")) == 0;
}

/* The whole list of names; *ret is owned by the caller. Returns its length. */
static ssize_t read_list(int dirfd, const char *name, char **ret)
{
	ssize_t n = -ERANGE;

	for (unsigned i = 0; n == -ERANGE && i < READ_RETRIES_MAX; i++) {
		_cleanup_free_ char *list = NULL;

		n = rvl_xattrat_list(dirfd, name, NULL, 0);
		if (n <= 0)
			break;
		list = malloc((size_t)n);
		if (!list)
			return -ENOMEM;
		n = rvl_xattrat_list(dirfd, name, list, (size_t)n);
		if (n >= 0)
			*ret = rvl_take_ptr(list);
	}
	return n == -EOPNOTSUPP ? 0 : n;
}

/* buf has RVL_XATTR_VALUE_MAX bytes. */
static int copy_one(int from_dirfd, const char *from, int to_dirfd, const char *to,
		    const char *xattr, void *buf)
{
	ssize_t n = rvl_xattrat_get(from_dirfd, from, xattr, buf, RVL_XATTR_VALUE_MAX);
	int r;

	if (n < 0)
		/* listed, but gone or not readable by anyone: system.* of some filesystems */
		return n == -ENODATA || (n == -EOPNOTSUPP && !must_copy(xattr)) ? 0 : (int)n;
	r = rvl_xattrat_set(to_dirfd, to, xattr, buf, (size_t)n, 0);
	if (r == -EOPNOTSUPP && !must_copy(xattr))
		return 0;
	return r;
}

int rvl_xattr_copy(const struct rvl_xattr_names *names, int from_dirfd, const char *from,
		   int to_dirfd, const char *to)
{
	_cleanup_free_ char *list = NULL;
	_cleanup_free_ void *buf = NULL;
	ssize_t len = read_list(from_dirfd, from, &list);

	if (len <= 0)
		return (int)len;
	for (ssize_t i = 0; i < len; i += (ssize_t)strlen(list + i) + 1) {
		const char *xattr = list + i;
		int r;

		if (rvl_xattr_is_private(names, xattr) || is_label_of_module(xattr))
			continue;
		if (!buf) {
			buf = malloc(RVL_XATTR_VALUE_MAX);
			if (!buf)
				return -ENOMEM;
		}
		r = copy_one(from_dirfd, from, to_dirfd, to, xattr, buf);
		if (r < 0)
			return r;
	}
	return 0;
}
