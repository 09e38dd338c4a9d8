// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the filesystem of upper can do, by doing it. All is done with temporary objects in temp_fd,
 * but for the link and the rename into upper itself: these must be seen to work (mounts, project
 * quotas), so that a name is in upper for a moment. It carries a mark, and one that a killed
 * process left there is removed by the next probe. The times of upper's root are put back.
 */
#include "layer/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/handle.h"
#include "layer/merge.h"
#include "layer/path.h"
#include "layer/sync.h"

#define FILE_NAME "#probe-file"
#define OTHER_NAME "#probe-other"
#define IN_UPPER_NAME ".reverlay-probe"
#define MARK "probe"

struct probe {
	const struct rvl_stack *stack;
	int temp_fd;
	int upper_fd;
};

static void remove_temps(const struct probe *p)
{
	unlinkat(p->temp_fd, FILE_NAME, 0);
	unlinkat(p->temp_fd, OTHER_NAME, 0);
}

static int make_file(const struct probe *p, const char *name)
{
	int fd = openat(p->temp_fd, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW,
			0600);

	if (fd < 0)
		return -errno;
	rvl_close(fd);
	return 0;
}

static int set_mark(const struct probe *p, const char *name)
{
	return rvl_xattr_set(&p->stack->xattr, p->temp_fd, name, RVL_XATTR_INO, MARK,
			     sizeof(MARK) - 1);
}

/* Remove what a killed process has left in upper: 0 if the name is free now. */
static int free_name_in_upper(const struct probe *p)
{
	char value[sizeof(MARK)];
	struct statx stx;
	ssize_t n;
	int r = rvl_path_statx(p->upper_fd, IN_UPPER_NAME, STATX_TYPE, &stx);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	n = rvl_xattr_get(&p->stack->xattr, p->upper_fd, IN_UPPER_NAME, RVL_XATTR_INO, value,
			  sizeof(value));
	if (n != sizeof(MARK) - 1 || memcmp(value, MARK, sizeof(MARK) - 1) != 0)
		return -EEXIST; /* it is somebody's */
	return unlinkat(p->upper_fd, IN_UPPER_NAME, 0) < 0 ? -errno : 0;
}

static int link_and_rename(const struct probe *p)
{
	if (linkat(p->temp_fd, FILE_NAME, p->upper_fd, IN_UPPER_NAME, 0) < 0)
		return -errno;
	if (unlinkat(p->upper_fd, IN_UPPER_NAME, 0) < 0)
		return -errno;
	if (renameat(p->temp_fd, FILE_NAME, p->upper_fd, IN_UPPER_NAME) < 0)
		return -errno;
	/* Back again: the file is needed for what follows. */
	if (renameat(p->upper_fd, IN_UPPER_NAME, p->temp_fd, FILE_NAME) < 0)
		return -errno;
	return 0;
}

static int probe_into_upper(const struct probe *p)
{
	const char *path = p->stack->layers[0].path;
	struct timespec times[2];
	struct statx stx;
	int r = rvl_path_statx(p->upper_fd, "", STATX_BASIC_STATS, &stx);

	if (r < 0)
		return r;
	r = free_name_in_upper(p);
	/* With a user's file of that name there is no probing: nothing is known against upper. */
	if (r == 0)
		r = link_and_rename(p);
	else if (r == -EEXIST)
		r = 0;
	times[0] = (struct timespec){ stx.stx_atime.tv_sec, stx.stx_atime.tv_nsec };
	times[1] = (struct timespec){ stx.stx_mtime.tv_sec, stx.stx_mtime.tv_nsec };
	if (utimensat(p->upper_fd, ".", times, 0) < 0)
		rvl_debug("upperdir=%s: times not put back: %s", path, strerror(errno));
	if (r < 0)
		rvl_error("upperdir=%s: no link and rename from workdir=%s to it: %s", path,
			  p->stack->work_path, strerror(-r));
	return r;
}

static int probe_xattrs(const struct probe *p)
{
	int r = set_mark(p, FILE_NAME);

	if (r == 0)
		return 0;
	rvl_error("upperdir=%s: its filesystem does not take %s* attributes: %s%s",
		  p->stack->layers[0].path, p->stack->xattr.prefix, strerror(-r),
		  r == -EPERM && !p->stack->xattr.is_user ? " (try the option userxattr)" : "");
	return r;
}

/* RENAME_EXCHANGE and RENAME_WHITEOUT, with the two files that are there. */
static int probe_renames(const struct probe *p, struct rvl_upper_features *features)
{
	struct statx stx;

	features->has_rename_exchange =
		renameat2(p->temp_fd, FILE_NAME, p->temp_fd, OTHER_NAME, RENAME_EXCHANGE) == 0;
	if (renameat2(p->temp_fd, FILE_NAME, p->temp_fd, OTHER_NAME, RENAME_WHITEOUT) == 0) {
		int r = rvl_path_statx(p->temp_fd, FILE_NAME, STATX_BASIC_STATS, &stx);

		if (r < 0)
			return r;
		features->has_rename_whiteout = rvl_is_whiteout(&stx);
	}
	remove_temps(p);
	return 0;
}

static bool probe_tmpfile(const struct probe *p)
{
	_cleanup_close_ int fd = openat(p->temp_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	char path[RVL_FD_PATH_SIZE];
	bool is_linked;

	if (fd < 0)
		return false;
	rvl_fd_path(fd, path);
	is_linked = linkat(AT_FDCWD, path, p->temp_fd, FILE_NAME, AT_SYMLINK_FOLLOW) == 0;
	remove_temps(p);
	return is_linked;
}

static bool probe_symlink_xattrs(const struct probe *p)
{
	bool is_set = symlinkat("-", p->temp_fd, FILE_NAME) == 0 && set_mark(p, FILE_NAME) == 0;

	remove_temps(p);
	return is_set;
}

static bool probe_char_whiteouts(const struct probe *p)
{
	struct statx stx;
	bool is_made = mknodat(p->temp_fd, FILE_NAME, S_IFCHR, makedev(0, 0)) == 0 &&
		       rvl_path_statx(p->temp_fd, FILE_NAME, STATX_BASIC_STATS, &stx) == 0 &&
		       rvl_is_whiteout(&stx);

	remove_temps(p);
	return is_made;
}

struct rvl_upper_features rvl_upper_features_read_only(const struct rvl_stack *stack)
{
	struct rvl_handle handle;

	return (struct rvl_upper_features){
		.has_handles = rvl_handle_get(stack->layers[0].fd, "", NULL, &handle) == 0,
	};
}

int rvl_upper_probe(const struct rvl_stack *stack, int temp_fd, struct rvl_upper_features *ret)
{
	struct probe p = {
		.stack = stack,
		.temp_fd = temp_fd,
		.upper_fd = stack->layers[0].fd,
	};
	struct rvl_upper_features features = { 0 };
	struct rvl_handle handle;
	int r;

	remove_temps(&p);
	r = make_file(&p, FILE_NAME);
	if (r == 0)
		r = make_file(&p, OTHER_NAME);
	if (r < 0)
		rvl_error("workdir=%s: no file can be made in it: %s", stack->work_path,
			  strerror(-r));
	if (r == 0)
		r = probe_xattrs(&p);
	if (r == 0)
		r = probe_into_upper(&p);
	if (r == 0) {
		features.has_handles = rvl_handle_get(temp_fd, FILE_NAME, NULL, &handle) == 0;
		r = probe_renames(&p, &features);
	}
	remove_temps(&p);
	if (r < 0)
		return r;
	features.has_tmpfile = probe_tmpfile(&p);
	features.has_symlink_xattrs = probe_symlink_xattrs(&p);
	features.has_char_whiteouts = probe_char_whiteouts(&p);
	features.has_ordered_data = rvl_has_ordered_data(temp_fd);
	*ret = features;
	return 0;
}
