// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Companions: finding and making them. On disk: a file in work/ with the inode's birth time as its
 * mtime, linked to its name; before the link there is no companion. inodes/c is made with the
 * first of them.
 */
#include "index/companion.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/entry.h"
#include "index/stamp.h"
#include "index/workdir.h"
#include "layer/path.h"

#define COMPANIONS_NAME "c"
#define OLD_NAME "c.old" /* while a rebind moves them */
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

/* ---- after a copy ---- */

static int copy_attributes(struct rvl_index *index, int from_fd, const char *from, const char *to)
{
	const struct rvl_xattr_names *names = &index->stack->xattr;
	_cleanup_free_ char *value = malloc(RVL_XATTR_VALUE_MAX);
	int r = value ? 0 : -ENOMEM;

	for (unsigned which = 0; !r && which < RVL_XATTR_N; which++) {
		ssize_t n = rvl_xattr_get(names, from_fd, from, (enum rvl_xattr)which, value,
					  RVL_XATTR_VALUE_MAX);

		if (n >= 0)
			r = rvl_xattr_set(names, index->companions_fd, to, (enum rvl_xattr)which,
					  value, (size_t)n);
		else if (n != -ENODATA)
			r = (int)n;
	}
	return r;
}

/* One of a dead object has no entry any more, and goes. */
static int move(struct rvl_index *index, int old_fd, const char *name)
{
	char entry[RVL_ENTRY_PATH_SIZE], companion[RVL_COMPANION_NAME_SIZE];
	uint8_t buf[RVL_STAMP_SIZE];
	enum rvl_entry_kind kind;
	struct rvl_id id;
	struct statx st;
	ssize_t n = rvl_xattr_get(&index->stack->xattr, old_fd, name, RVL_XATTR_INO, buf,
				  sizeof(buf));
	int r;

	if (n < 0 || rvl_stamp_decode(buf, (size_t)n, &id))
		return n == -ENODATA || n == -ERANGE || n >= 0 ? 0 : (int)n;
	r = rvl_entry_look(index, id.number, &kind, &st);
	if (r || kind != RVL_ENTRY_OBJECT)
		return r == -EUCLEAN ? 0 : r;
	rvl_entry_path(id.number, entry);
	r = rvl_companion_find(index, index->inodes_fd, entry, st.stx_ino, true, companion);
	return r ?: copy_attributes(index, old_fd, name, companion);
}

static int move_all(struct rvl_index *index, int old_fd)
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(old_fd, O_RDONLY | O_DIRECTORY | O_CLOEXEC), &dir);

	while (!r && (r = rvl_dir_next(dir, &entry)) > 0)
		r = move(index, old_fd, entry->d_name);
	return r;
}

int rvl_companions_move(struct rvl_index *index)
{
	_cleanup_close_ int old_fd = -EBADF;
	int r;

	if (renameat2(index->inodes_fd, COMPANIONS_NAME, index->inodes_fd, OLD_NAME,
		      RENAME_NOREPLACE) &&
	    errno != EEXIST && errno != ENOENT)
		return -errno;
	old_fd = openat(index->inodes_fd, OLD_NAME, OPEN_FLAGS);
	if (old_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	rvl_close(index->companions_fd);
	index->companions_fd = -EBADF;
	r = rvl_companions_open(index); /* of a run before that died */
	r = r ?: move_all(index, old_fd);
	return r ?: rvl_workdir_remove(index->inodes_fd, OLD_NAME);
}
