// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Extended attributes of real objects, by descriptor and name: the raw calls and the private
 * attributes. What users see of them is in xattr_user.c.
 *
 * The kernel's *xattrat calls (6.13) take O_PATH descriptors as directories, but not as the object
 * itself (AT_EMPTY_PATH answers EBADF, as fgetxattr does), so that case goes by way of /proc/self/fd
 * on every kernel.
 */
#include "layer/xattr.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "layer/lift.h"

/* The numbers are the same on all architectures; libc's headers may be older than the kernel. */
#define NR_SETXATTRAT 463
#define NR_GETXATTRAT 464
#define NR_LISTXATTRAT 465
#define NR_REMOVEXATTRAT 466

struct xattr_args {
	uint64_t value __attribute__((aligned(8)));
	uint32_t size;
	uint32_t flags;
};

#define N(trusted, suffix) (trusted ? "trusted.overlay." suffix : "user.overlay." suffix)

void rvl_xattr_names_init(struct rvl_xattr_names *ret, bool is_user)
{
	bool t = !is_user;

	*ret = (struct rvl_xattr_names){
		.is_user = is_user,
		.prefix = N(t, ""),
		.name = {
			[RVL_XATTR_OPAQUE] = N(t, "opaque"),
			[RVL_XATTR_REDIRECT] = N(t, "redirect"),
			[RVL_XATTR_ORIGIN] = N(t, "origin"),
			[RVL_XATTR_IMPURE] = N(t, "impure"),
			[RVL_XATTR_NLINK] = N(t, "nlink"),
			[RVL_XATTR_UPPER] = N(t, "upper"),
			[RVL_XATTR_UUID] = N(t, "uuid"),
			[RVL_XATTR_METACOPY] = N(t, "metacopy"),
			[RVL_XATTR_PROTATTR] = N(t, "protattr"),
			[RVL_XATTR_WHITEOUT] = N(t, "whiteout"),
			[RVL_XATTR_INO] = N(t, "ino"),
			[RVL_XATTR_PATH] = N(t, "path"),
			[RVL_XATTR_FH] = N(t, "fh"),
			[RVL_XATTR_PLACE] = N(t, "place"),
			[RVL_XATTR_INSTANCES] = N(t, "instances"),
		},
	};
}

/* Set once a kernel has said that it does not know the calls; racing threads find the same. */
static _Atomic bool is_xattrat_missing;

/* Does the kernel not know the call, so that the way by /proc is to be tried? */
static bool must_fall_back(void)
{
	if (errno != ENOSYS)
		return false;
	is_xattrat_missing = true;
	return true;
}

#define PROC_PATH_MAX (PATH_MAX + 32)

/* The object as a path through /proc. With a name the last component is not to be followed, without
 * one it must be, since it is the magic link. */
static int proc_path(char buf[PROC_PATH_MAX], int dirfd, const char *name)
{
	int n = snprintf(buf, PROC_PATH_MAX, *name ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d",
			 dirfd, name);

	return n < PROC_PATH_MAX ? 0 : -ENAMETOOLONG;
}

ssize_t rvl_xattrat_get(int dirfd, const char *name, const char *xattr, void *buf, size_t size)
{
	char path[PROC_PATH_MAX];
	ssize_t n;
	int r;

	if (size > RVL_XATTR_VALUE_MAX)
		size = RVL_XATTR_VALUE_MAX;
	if (*name && !is_xattrat_missing) {
		struct xattr_args args = { .value = (uintptr_t)buf, .size = (uint32_t)size };

		n = syscall(NR_GETXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW, xattr, &args, sizeof(args));
		if (n >= 0)
			return n;
		if (!must_fall_back())
			return -errno;
	}
	if (!*name) {
		n = fgetxattr(dirfd, xattr, buf, size);
		if (n >= 0)
			return n;
		if (errno != EBADF) /* else it is an O_PATH descriptor */
			return -errno;
	}
	r = proc_path(path, dirfd, name);
	if (r < 0)
		return r;
	n = *name ? lgetxattr(path, xattr, buf, size) : getxattr(path, xattr, buf, size);
	return n < 0 ? -errno : n;
}

int rvl_xattrat_set(int dirfd, const char *name, const char *xattr, const void *buf, size_t size,
		    int flags)
{
	char path[PROC_PATH_MAX];
	int r;

	if (size > RVL_XATTR_VALUE_MAX)
		return -E2BIG;
	if (*name && !is_xattrat_missing) {
		struct xattr_args args = {
			.value = (uintptr_t)buf,
			.size = (uint32_t)size,
			.flags = (uint32_t)flags,
		};

		if (syscall(NR_SETXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW, xattr, &args,
			    sizeof(args)) == 0)
			return 0;
		if (!must_fall_back())
			return -errno;
	}
	r = proc_path(path, dirfd, name);
	if (r < 0)
		return r;
	r = *name ? lsetxattr(path, xattr, buf, size, flags) :
		    setxattr(path, xattr, buf, size, flags);
	return r < 0 ? -errno : 0;
}

int rvl_xattrat_remove(int dirfd, const char *name, const char *xattr)
{
	char path[PROC_PATH_MAX];
	int r;

	if (*name && !is_xattrat_missing) {
		if (syscall(NR_REMOVEXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW, xattr) == 0)
			return 0;
		if (!must_fall_back())
			return -errno;
	}
	r = proc_path(path, dirfd, name);
	if (r < 0)
		return r;
	r = *name ? lremovexattr(path, xattr) : removexattr(path, xattr);
	return r < 0 ? -errno : 0;
}

ssize_t rvl_xattrat_list(int dirfd, const char *name, char *buf, size_t size)
{
	char path[PROC_PATH_MAX];
	ssize_t n;
	int r;

	if (size > RVL_XATTR_LIST_MAX)
		size = RVL_XATTR_LIST_MAX;
	if (*name && !is_xattrat_missing) {
		n = syscall(NR_LISTXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW, buf, size);
		if (n >= 0)
			return n;
		if (!must_fall_back())
			return -errno;
	}
	r = proc_path(path, dirfd, name);
	if (r < 0)
		return r;
	n = *name ? llistxattr(path, buf, size) : listxattr(path, buf, size);
	return n < 0 ? -errno : n;
}

ssize_t rvl_xattr_get(const struct rvl_xattr_names *names, int dirfd, const char *name,
		      enum rvl_xattr which, void *buf, size_t size)
{
	ssize_t n = rvl_xattrat_get(dirfd, name, names->name[which], buf, size);

	return n == -EOPNOTSUPP ? -ENODATA : n;
}

struct change {
	const struct rvl_lift *object;
	const char *xattr;
	const void *value;
	size_t size;
	bool is_removed;
};

static int do_change(void *arg)
{
	const struct change *c = arg;

	if (c->is_removed)
		return rvl_xattrat_remove(c->object->dirfd, c->object->name, c->xattr);
	return rvl_xattrat_set(c->object->dirfd, c->object->name, c->xattr, c->value, c->size, 0);
}

/* user.* of a read-only file are refused to its owner, too. */
static int change(struct change *c)
{
	int r = do_change(c);

	return r == -EACCES ? rvl_lift_call(c->object, 1, do_change, c) : r;
}

int rvl_xattr_set(const struct rvl_xattr_names *names, int dirfd, const char *name,
		  enum rvl_xattr which, const void *buf, size_t size)
{
	const struct rvl_lift object = { dirfd, name };

	return change(&(struct change){ &object, names->name[which], buf, size, false });
}

int rvl_xattr_remove(const struct rvl_xattr_names *names, int dirfd, const char *name,
		     enum rvl_xattr which)
{
	const struct rvl_lift object = { dirfd, name };
	int r = change(&(struct change){ &object, names->name[which], .is_removed = true });

	return r == -EOPNOTSUPP ? -ENODATA : r;
}

bool rvl_protattr_is_valid(const char *value, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (value[i] != 'i' && value[i] != 'a')
			return false;
	return len > 0;
}
