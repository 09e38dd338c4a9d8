// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Companions: finding and making them. On disk: a file in work/ with the inode's birth time as its
 * mtime, linked to its name; before the link there is no companion. inodes/c is made with the
 * first of them.
 */
#include "index/companion.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/stamp.h"
#include "layer/path.h"

#define COMPANIONS_NAME "c"
#define OPEN_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

int rvl_companions_open(struct rvl_index *index)
{
	int fd;

	if (index->inodes_fd < 0)
		return 0;
	fd = openat(index->inodes_fd, COMPANIONS_NAME, OPEN_FLAGS);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	index->companions_fd = fd;
	return 0;
}

static int make_directory(struct rvl_index *index)
{
	int r = 0;

	if (!index->is_writable)
		return -EROFS;
	pthread_mutex_lock(&index->companions_lock);
	if (index->companions_fd < 0) {
		if (mkdirat(index->inodes_fd, COMPANIONS_NAME, 0700) && errno != EEXIST)
			r = -errno;
		else
			r = rvl_companions_open(index);
		if (!r && index->companions_fd < 0)
			r = -EIO;
	}
	pthread_mutex_unlock(&index->companions_lock);
	return r;
}

/* The birth time of an inode as a companion's mtime; zero where the filesystem tells none. */
static int birth_time(int dirfd, const char *name, uint64_t real_ino, struct timespec *ret)
{
	struct statx stx;
	int r = rvl_path_statx(dirfd, name, STATX_BTIME | STATX_INO, &stx);

	if (r)
		return r;
	if (stx.stx_ino != real_ino)
		return -ESTALE;
	*ret = (struct timespec){ 0 };
	if (stx.stx_mask & STATX_BTIME) {
		ret->tv_sec = stx.stx_btime.tv_sec;
		ret->tv_nsec = stx.stx_btime.tv_nsec;
	}
	return 0;
}

static int make(struct rvl_index *index, const char *name, const struct timespec *birth)
{
	char temp[RVL_TEMP_NAME_SIZE];
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, *birth };
	_cleanup_close_ int fd = -EBADF;
	int r = 0;

	rvl_index_temp_name(index, temp);
	fd = openat(index->temp_fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (futimens(fd, times) || renameat(index->temp_fd, temp, index->companions_fd, name)) {
		r = -errno;
		unlinkat(index->temp_fd, temp, 0);
	}
	return r;
}

int rvl_companion_find(struct rvl_index *index, int dirfd, const char *name, uint64_t real_ino,
		       bool is_create, char ret[RVL_COMPANION_NAME_SIZE])
{
	struct timespec birth;
	struct stat st;
	int r;

	if (!rvl_companions_exist(index)) {
		if (!is_create)
			return -ENODATA;
		r = make_directory(index);
		if (r)
			return r;
	}
	snprintf(ret, RVL_COMPANION_NAME_SIZE, "%llu", (unsigned long long)real_ino);
	if (fstatat(index->companions_fd, ret, &st, AT_SYMLINK_NOFOLLOW)) {
		if (errno != ENOENT)
			return -errno;
		if (!is_create)
			return -ENODATA;
		st.st_mode = 0;
	}
	r = birth_time(dirfd, name, real_ino, &birth);
	if (r)
		return r;
	if (S_ISREG(st.st_mode) && st.st_mtim.tv_sec == birth.tv_sec &&
	    st.st_mtim.tv_nsec == birth.tv_nsec)
		return 0;
	/* Of a dead inode. Replacing it is one step. */
	return is_create ? make(index, ret, &birth) : -ENODATA;
}

void rvl_companion_remove(struct rvl_index *index, mode_t type, uint64_t real_ino)
{
	char name[RVL_COMPANION_NAME_SIZE];

	if (!rvl_companions_exist(index) || !real_ino || !index->is_writable)
		return;
	snprintf(name, sizeof(name), "%llu", (unsigned long long)real_ino);
	/* What cannot be removed is not believed by a later inode of that number. */
	if (unlinkat(index->companions_fd, name, 0) && errno != ENOENT)
		rvl_warn_limited("inodes/%s/%s cannot be removed: %m", COMPANIONS_NAME, name);
}
