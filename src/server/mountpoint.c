// SPDX-License-Identifier: GPL-2.0-or-later
/* The mount point: resolved, checked against the layers, remounted. */
#include "server/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/stat_ioctl.h"

#ifndef ST_NOSYMFOLLOW
#define ST_NOSYMFOLLOW 0x2000 /* include/linux/statfs.h */
#endif

#define DEPTH_MAX 4096 /* of directories above a mount point: PATH_MAX bytes hold no more */

int rvl_mountpoint_resolve(const char *path, char **ret)
{
	_cleanup_free_ char *absolute = realpath(path, NULL);
	struct stat st;

	if (!absolute || stat(absolute, &st) < 0) {
		int r = -errno;

		if (r == -ENOTCONN)
			rvl_error(
				"mount point %s: the server of the mount that is there has ended; first: umount -l %s",
				path, path);
		else
			rvl_error("mount point %s: %m", path);
		return r;
	}
	if (!S_ISDIR(st.st_mode)) {
		rvl_error("mount point %s: not a directory", path);
		return -ENOTDIR;
	}
	*ret = rvl_take_ptr(absolute);
	return 0;
}

/* Is fd's directory, or one above it, the directory `root`? 1, 0 or -errno. */
static int is_inside(int fd, int root)
{
	_cleanup_close_ int above = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	struct stat want, st, last = {};

	if (above < 0 || fstat(root, &want) < 0)
		return -errno;
	for (int depth = 0; depth < DEPTH_MAX; depth++) {
		int next;

		if (fstat(above, &st) < 0)
			return -errno;
		if (st.st_dev == want.st_dev && st.st_ino == want.st_ino)
			return 1;
		if (depth > 0 && st.st_dev == last.st_dev && st.st_ino == last.st_ino)
			return 0; /* ".." of the root */
		last = st;
		next = openat(above, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (next < 0)
			return -errno;
		rvl_close(above);
		above = next;
	}
	return -ELOOP;
}

int rvl_mountpoint_check(const char *path, const struct rvl_stack *stack)
{
	const struct {
		const char *option, *path;
		int fd;
	} places[] = {
		{ "upperdir", stack->has_upper ? stack->layers[0].path : NULL,
		  stack->has_upper ? stack->layers[0].fd : -EBADF },
		{ "workdir", stack->work_path, stack->work_fd },
	};
	_cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		rvl_error("mount point %s: %m", path);
		return -errno;
	}
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int r = places[i].fd >= 0 ? is_inside(fd, places[i].fd) : 0;

		if (r < 0) {
			rvl_error("mount point %s: %s", path, strerror(-r));
			return r;
		}
		if (r > 0) {
			rvl_error("mount point %s: lies in %s=%s; choose a directory outside of it",
				  path, places[i].option, places[i].path);
			return -EINVAL;
		}
	}
	return 0;
}

/* ---- remount ---- */

/* Every option that was named must be what the live mount has. */
static int check_unchanged(const char *path, const struct rvl_options *options, const char *config,
			   size_t config_len)
{
	_cleanup_free_ char *given = NULL;
	size_t len;
	int r = rvl_options_format(options, true, &given, &len);

	if (r < 0)
		return r;
	for (const char *p = given; p < given + len; p += strlen(p) + 1) {
		if (rvl_stat_has(config, config_len, p))
			continue;
		rvl_error(
			"option %s: cannot be changed while %s is mounted; umount it, and mount it anew",
			p, path);
		return -EINVAL;
	}
	return 0;
}

/* The flags of the mount as it is. */
static int current_flags(int fd, unsigned long *ret)
{
	static const struct {
		unsigned long st, ms;
	} pairs[] = {
		{ ST_RDONLY, MS_RDONLY },
		{ ST_NOSUID, MS_NOSUID },
		{ ST_NODEV, MS_NODEV },
		{ ST_NOEXEC, MS_NOEXEC },
		{ ST_SYNCHRONOUS, MS_SYNCHRONOUS },
		{ ST_NOATIME, MS_NOATIME },
		{ ST_NODIRATIME, MS_NODIRATIME },
		{ ST_RELATIME, MS_RELATIME },
		{ ST_NOSYMFOLLOW, MS_NOSYMFOLLOW },
	};
	struct statvfs st;

	if (fstatvfs(fd, &st) < 0)
		return -errno;
	*ret = 0;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		if (st.f_flag & pairs[i].st)
			*ret |= pairs[i].ms;
	return 0;
}

int rvl_mountpoint_remount(const char *path, const struct rvl_options *options)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *config = NULL;
	unsigned long flags = 0;
	size_t len = 0;
	int r;

	if (fd < 0) {
		rvl_error("mount point %s: %m", path);
		return -errno;
	}
	r = rvl_stat_fetch(fd, RVL_STAT_CONFIG, 0, &config, &len);
	if (r < 0) {
		rvl_error("remount %s: not a live mount of reverlay, or not yours (%s)", path,
			  strerror(-r));
		return r;
	}
	r = check_unchanged(path, options, config, len);
	if (r == 0)
		r = current_flags(fd, &flags);
	if (r < 0)
		return r;
	flags = (flags & ~options->flags_set) | (options->flags & options->flags_set);
	if (!(flags & MS_RDONLY) && rvl_stat_has(config, len, "read_only")) {
		rvl_error(
			"option rw: %s was mounted read-only, its layers too; umount it, and mount it anew",
			path);
		return -EROFS;
	}
	rvl_close(rvl_take_fd(&fd)); /* an open descriptor does not hinder ro, but why keep it */
	if (mount("none", path, NULL, MS_REMOUNT | flags, NULL) < 0) {
		r = -errno;
		rvl_error("remount %s: %m", path);
		return r;
	}
	return 0;
}
