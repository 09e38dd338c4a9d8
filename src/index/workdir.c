// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * workdir/work and workdir/inodes. Nothing else in the workdir is touched: the kernel's overlayfs
 * keeps its own index in workdir/index.
 */
#include "index/workdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/bind.h"
#include "layer/path.h"

#define INCOMPAT_NAME "incompat"
#define DEPTH_MAX 64 /* temporary objects are flat; a kernel's leftovers nearly so */
#define OPEN_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

int rvl_workdir_open(const struct rvl_stack *stack, const char *name, bool is_create)
{
	int fd;

	if (is_create && mkdirat(stack->work_fd, name, 0700) && errno != EEXIST) {
		rvl_error("workdir=%s: %s cannot be made: %m", stack->work_path, name);
		return -errno;
	}
	fd = openat(stack->work_fd, name, OPEN_FLAGS);
	/* Mode 0, as the kernel's overlayfs makes it, is for those who need no permission. */
	if (fd < 0 && errno == EACCES && is_create && !fchmodat(stack->work_fd, name, 0700, 0))
		fd = openat(stack->work_fd, name, OPEN_FLAGS);
	if (fd < 0 && errno != ENOENT)
		rvl_error("workdir=%s: %s cannot be opened: %m", stack->work_path, name);
	return fd < 0 ? -errno : fd;
}

static int empty(int fd, unsigned depth);

static int remove_entry(int fd, const char *name, unsigned char type, unsigned depth)
{
	_cleanup_close_ int child = -EBADF;
	int r;

	if (type != DT_DIR) {
		if (!unlinkat(fd, name, 0))
			return 0;
		if (errno != EISDIR)
			return -errno;
	}
	if (!unlinkat(fd, name, AT_REMOVEDIR))
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return -errno;
	if (depth >= DEPTH_MAX)
		return -ELOOP;
	child = openat(fd, name, OPEN_FLAGS);
	if (child < 0 && errno == EACCES && !fchmodat(fd, name, 0700, 0))
		child = openat(fd, name, OPEN_FLAGS);
	if (child < 0)
		return -errno;
	r = empty(child, depth + 1);
	if (r)
		return r;
	return unlinkat(fd, name, AT_REMOVEDIR) ? -errno : 0;
}

static int empty(int fd, unsigned depth)
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(fd, OPEN_FLAGS), &dir);

	while (!r && (r = rvl_dir_next(dir, &entry)) > 0) {
		bool is_kept = depth == 0 && !strcmp(entry->d_name, INCOMPAT_NAME);

		r = is_kept ? 0 : remove_entry(fd, entry->d_name, entry->d_type, depth);
	}
	return r;
}

int rvl_workdir_remove(int fd, const char *name)
{
	return remove_entry(fd, name, DT_UNKNOWN, 1);
}

int rvl_workdir_check_incompat(const struct rvl_stack *stack, int temp_fd)
{
	int fd = openat(temp_fd, INCOMPAT_NAME, OPEN_FLAGS), r;
	_cleanup_closedir_ DIR *dir = NULL;
	_cleanup_free_ char *options = NULL;
	const struct dirent *entry;

	if (fd < 0 && errno == ENOENT)
		return 0;
	r = fd < 0 ? -errno : rvl_dir_stream(fd, &dir);
	r = r ?: rvl_dir_next(dir, &entry);
	if (r < 0)
		rvl_error("workdir=%s: work/%s cannot be read: %s", stack->work_path, INCOMPAT_NAME,
			  strerror(-r));
	if (r <= 0)
		return r;
	options = rvl_bind_options(stack);
	rvl_error("workdir=%s: work/%s/%s is there: a mount with %s has used upper, which may not be "
		  "whole. Throw upper and workdir away, or run: reverlayctl repair -y %s",
		  stack->work_path, INCOMPAT_NAME, entry->d_name, entry->d_name,
		  options ?: "-o ...");
	return -EINVAL;
}

int rvl_workdir_empty(const struct rvl_stack *stack, int temp_fd)
{
	int r = rvl_workdir_check_incompat(stack, temp_fd);

	if (r)
		return r;
	r = empty(temp_fd, 0);
	if (r)
		rvl_error("workdir=%s: work cannot be emptied: %s", stack->work_path, strerror(-r));
	return r;
}

int rvl_workdir_mark_volatile(int temp_fd)
{
	_cleanup_close_ int fd = -EBADF;

	if (mkdirat(temp_fd, INCOMPAT_NAME, 0700) && errno != EEXIST)
		return -errno;
	fd = openat(temp_fd, INCOMPAT_NAME, OPEN_FLAGS);
	if (fd < 0)
		return -errno;
	return mkdirat(fd, "volatile", 0700) && errno != EEXIST ? -errno : 0;
}
