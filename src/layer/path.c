// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Safe resolution of real paths. The kernel does the work (openat2); what is here cuts paths that
 * are longer than PATH_MAX into pieces and keeps single names at a single system call, which
 * is safe without openat2: one component cannot lead out of its directory but by a mount, and
 * statx tells of those.
 */
#include "layer/path.h"

#include <errno.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PATH_PIECE_MAX (PATH_MAX - 1)
#define PATH_LEN_MAX (1024 * 1024) /* deeper trees than this are refused */
#define OPEN_RETRIES_MAX 16 /* openat2 answers EAGAIN when a rename raced with ".." */

#define RESOLVE_FLAGS \
	(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

static int open_piece(int dirfd, const char *path, uint64_t flags, mode_t mode)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC | O_NOFOLLOW,
		.mode = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? mode : 0,
		.resolve = RESOLVE_FLAGS,
	};

	for (unsigned i = 0; i < OPEN_RETRIES_MAX; i++) {
		int fd = (int)syscall(SYS_openat2, dirfd, *path ? path : ".", &how, sizeof(how));

		if (fd >= 0)
			return fd;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return -EAGAIN;
}

/* Length of the longest start of path that fits into one piece and ends before a slash. */
static size_t piece_len(const char *path)
{
	size_t len = PATH_PIECE_MAX;

	while (len > 0 && path[len] != '/')
		len--;
	return len;
}

int rvl_path_open(int dirfd, const char *path, uint64_t flags, mode_t mode)
{
	_cleanup_close_ int at = -EBADF;
	size_t len = strlen(path);

	if (len > PATH_LEN_MAX)
		return -ENAMETOOLONG;
	while (len > PATH_PIECE_MAX) {
		char piece[PATH_MAX];
		size_t n = piece_len(path);
		int fd;

		if (n == 0)
			return path[0] == '/' ? -EXDEV : -ENAMETOOLONG;
		memcpy(piece, path, n);
		piece[n] = '\0';
		fd = open_piece(at >= 0 ? at : dirfd, piece, O_PATH | O_DIRECTORY, 0);
		if (fd < 0)
			return fd;
		rvl_close(at);
		at = fd;
		path += n + 1;
		len -= n + 1;
	}
	return open_piece(at >= 0 ? at : dirfd, path, flags, mode);
}

int rvl_path_open_noatime(int dirfd, const char *path, uint64_t flags)
{
	int fd = rvl_path_open(dirfd, path, flags | O_NOATIME, 0);

	/* O_NOATIME is for the owner and CAP_FOWNER only. */
	if (fd == -EPERM)
		fd = rvl_path_open(dirfd, path, flags, 0);
	return fd;
}

int rvl_path_statx(int dirfd, const char *path, unsigned mask, struct statx *ret)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_AS_STAT;
	_cleanup_close_ int fd = -EBADF;
	struct statx stx;

	if (strchr(path, '/')) {
		fd = rvl_path_open(dirfd, path, O_PATH, 0);
		if (fd < 0)
			return fd;
		dirfd = fd;
		path = "";
	} else if (strcmp(path, "..") == 0) {
		return -EXDEV;
	}
	if (statx(dirfd, path, flags | (*path ? 0 : AT_EMPTY_PATH), mask, &stx) < 0)
		return -errno;
	/* Without a private clone of the mount a single name can be a mount point. */
	if (*path && strcmp(path, ".") != 0 && (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT))
		return -EXDEV;
	*ret = stx;
	return 0;
}

void rvl_fd_path(int fd, char ret[RVL_FD_PATH_SIZE])
{
	snprintf(ret, RVL_FD_PATH_SIZE, "/proc/self/fd/%d", fd);
}

ssize_t rvl_fd_read_path(int fd, char ret[PATH_MAX])
{
	char link[RVL_FD_PATH_SIZE];
	ssize_t n;

	rvl_fd_path(fd, link);
	n = readlink(link, ret, PATH_MAX - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	return n;
}

int rvl_fd_reopen(int fd, int flags)
{
	char path[RVL_FD_PATH_SIZE];
	int ret;

	if (flags & O_DIRECTORY) {
		ret = openat(fd, ".", flags | O_CLOEXEC);
		return ret < 0 ? -errno : ret;
	}
	rvl_fd_path(fd, path);
	/* Not followed, the magic link itself would be opened. */
	ret = open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	return ret < 0 ? -errno : ret;
}

void rvl_fd_restore_times(int fd, const struct statx *st)
{
	const struct timespec times[2] = {
		{ st->stx_atime.tv_sec, st->stx_atime.tv_nsec },
		{ st->stx_mtime.tv_sec, st->stx_mtime.tv_nsec },
	};
	char path[RVL_FD_PATH_SIZE];

	rvl_fd_path(fd, path);
	(void)utimensat(AT_FDCWD, path, times, 0);
}

int rvl_dir_stream(int fd, DIR **ret)
{
	int r;

	if (fd < 0)
		return fd;
	*ret = fdopendir(fd);
	if (*ret)
		return 0;
	r = -errno;
	rvl_close(fd);
	return r;
}

int rvl_dir_next(DIR *dir, const struct dirent **ret)
{
	do {
		errno = 0;
		*ret = readdir(dir);
		if (!*ret)
			return -errno;
	} while (!strcmp((*ret)->d_name, ".") || !strcmp((*ret)->d_name, ".."));
	return 1;
}

uint64_t rvl_statx_dev(const struct statx *stx)
{
	return makedev(stx->stx_dev_major, stx->stx_dev_minor);
}

void rvl_stat_from_statx(const struct statx *stx, struct stat *ret)
{
	*ret = (struct stat){
		.st_dev = rvl_statx_dev(stx),
		.st_ino = stx->stx_ino,
		.st_mode = stx->stx_mode,
		.st_nlink = stx->stx_nlink,
		.st_uid = stx->stx_uid,
		.st_gid = stx->stx_gid,
		.st_rdev = makedev(stx->stx_rdev_major, stx->stx_rdev_minor),
		.st_size = (off_t)stx->stx_size,
		.st_blksize = stx->stx_blksize,
		.st_blocks = (blkcnt_t)stx->stx_blocks,
		.st_atim = { stx->stx_atime.tv_sec, stx->stx_atime.tv_nsec },
		.st_mtim = { stx->stx_mtime.tv_sec, stx->stx_mtime.tv_nsec },
		.st_ctim = { stx->stx_ctime.tv_sec, stx->stx_ctime.tv_nsec },
	};
}

char *rvl_path_join(const char *dir, const char *name)
{
	char *path;

	return asprintf(&path, "%s%s%s", dir, *dir && *name ? "/" : "", name) < 0 ? NULL : path;
}

bool rvl_name_is_valid(const char *name)
{
	if (name[0] == '\0' || strchr(name, '/'))
		return false;
	return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}
