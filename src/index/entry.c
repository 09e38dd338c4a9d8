// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Entries: inodes/<xx>/#<number>.
 *
 * Each change is one rename or link: an entry is as before or as after. The 256 directories are
 * made when they are first needed (ENOENT of a link; a container that copies nothing up has none).
 * The file of a directory entry has mode 0, so that no look at a usual object costs a getxattr;
 * without privileges its owner could not read its xattrs then, so with userxattr it is 01600,
 * which no editor makes.
 *
 * inodes/tombstone is the whiteout that all tombstones are links of; at EMLINK a new one takes its
 * place.
 */
#include "index/entry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "index/stamp.h"
#include "layer/origin.h"
#include "layer/path.h"

#define TOMBSTONE_NAME "tombstone"
#define DIRECTORY_MODE_USER 01600

void rvl_entry_path(uint64_t number, char ret[RVL_ENTRY_PATH_SIZE])
{
	snprintf(ret, RVL_ENTRY_PATH_SIZE, "%02x/#%llu", (unsigned)(number & 0xff),
		 (unsigned long long)number);
}

bool rvl_name_at_equal(const struct rvl_name_at *a, const struct rvl_name_at *b)
{
	return a->parent == b->parent && strcmp(a->name, b->name) == 0;
}

unsigned rvl_name_at_encode(const struct rvl_name_at *at, uint8_t buf[RVL_NAME_AT_ENCODED_MAX])
{
	size_t len = strnlen(at->name, NAME_MAX);

	rvl_put_le64(buf, at->parent);
	memcpy(buf + 8, at->name, len);
	return 8 + (unsigned)len;
}

int rvl_name_at_decode(const void *buf, size_t len, struct rvl_name_at *ret)
{
	size_t name_len = len - 8;

	if (len <= 8 || name_len > NAME_MAX || memchr((const uint8_t *)buf + 8, 0, name_len))
		return -EUCLEAN;
	ret->parent = rvl_get_le64(buf);
	memcpy(ret->name, (const uint8_t *)buf + 8, name_len);
	ret->name[name_len] = 0;
	return rvl_number_is_valid(ret->parent) && rvl_name_is_valid(ret->name) ? 0 : -EUCLEAN;
}

/* An empty file with a mode that hardly an object has: what is it? */
static int look_at_special(struct rvl_index *index, const char *path, enum rvl_entry_kind *ret)
{
	const struct rvl_xattr_names *names = &index->stack->xattr;
	uint8_t buf[RVL_NAME_AT_ENCODED_MAX];
	ssize_t n = rvl_xattr_get(names, index->inodes_fd, path, RVL_XATTR_PATH, buf, sizeof(buf));

	*ret = RVL_ENTRY_DIRECTORY;
	if (n >= 0 || n == -ERANGE)
		return 0;
	if (n != -ENODATA)
		return (int)n;
	n = rvl_xattr_get(names, index->inodes_fd, path, RVL_XATTR_WHITEOUT, buf, sizeof(buf));
	*ret = n >= 0 || n == -ERANGE ? RVL_ENTRY_TOMBSTONE : RVL_ENTRY_OBJECT;
	return n < 0 && n != -ENODATA && n != -ERANGE ? (int)n : 0;
}

int rvl_entry_look(struct rvl_index *index, uint64_t number, enum rvl_entry_kind *ret_kind,
		   struct statx *ret_st)
{
	char path[RVL_ENTRY_PATH_SIZE];
	struct statx stx;
	unsigned mode;

	*ret_kind = RVL_ENTRY_NONE;
	if (index->inodes_fd < 0)
		return 0;
	rvl_entry_path(number, path);
	if (statx(index->inodes_fd, path, AT_SYMLINK_NOFOLLOW, RVL_STATX_MASK, &stx))
		return errno == ENOENT ? 0 : -errno;
	if (S_ISDIR(stx.stx_mode))
		return -EUCLEAN;
	if (S_ISCHR(stx.stx_mode) && !stx.stx_rdev_major && !stx.stx_rdev_minor) {
		*ret_kind = RVL_ENTRY_TOMBSTONE;
		return 0;
	}
	mode = stx.stx_mode & 07777;
	*ret_kind = RVL_ENTRY_OBJECT;
	if (S_ISREG(stx.stx_mode) && !stx.stx_size && (!mode || mode == DIRECTORY_MODE_USER)) {
		int r = look_at_special(index, path, ret_kind);

		if (r)
			return r;
	}
	if (*ret_kind == RVL_ENTRY_OBJECT)
		*ret_st = stx;
	return 0;
}

/* inodes/<xx> of a path is missing: make it. */
static int make_parent(struct rvl_index *index, const char *path)
{
	const char directory[3] = { path[0], path[1], 0 };

	return mkdirat(index->inodes_fd, directory, 0700) && errno != EEXIST ? -errno : 0;
}

static int link_once(int dirfd, const char *name, int to_fd, const char *path)
{
	char proc[RVL_FD_PATH_SIZE];

	if (*name)
		return linkat(dirfd, name, to_fd, path, 0) ? -errno : 0;
	if (!linkat(dirfd, "", to_fd, path, AT_EMPTY_PATH))
		return 0;
	/* Without CAP_DAC_READ_SEARCH this is ENOENT (open(2), O_TMPFILE); so is a missing
	 * directory. */
	if (errno != ENOENT)
		return -errno;
	rvl_fd_path(dirfd, proc);
	return linkat(AT_FDCWD, proc, to_fd, path, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

static int link_entry(struct rvl_index *index, int dirfd, const char *name, const char *path)
{
	int r;

	if (!index->is_writable)
		return -EROFS;
	r = link_once(dirfd, name, index->inodes_fd, path);
	if (r != -ENOENT)
		return r;
	r = make_parent(index, path);
	return r ?: link_once(dirfd, name, index->inodes_fd, path);
}

int rvl_entry_link(struct rvl_index *index, int dirfd, const char *name, uint64_t number)
{
	char path[RVL_ENTRY_PATH_SIZE];

	rvl_entry_path(number, path);
	return link_entry(index, dirfd, name, path);
}

/* Rename to an entry's path. *ret_is_left: the old name is still there. */
static int rename_to(struct rvl_index *index, int dirfd, const char *name, const char *path,
		     bool is_replace, bool *ret_is_left)
{
	unsigned flags = is_replace ? 0 : RENAME_NOREPLACE;
	int r = 0;

	/* a rename between two links of one inode (tombstones) does nothing */
	*ret_is_left = is_replace;
	for (int tries = 0; tries < 2; tries++) {
		r = renameat2(dirfd, name, index->inodes_fd, path, flags) ? -errno : 0;
		if (r != -ENOENT || tries)
			break;
		r = make_parent(index, path);
		if (r)
			break;
	}
	if (r == -EINVAL && flags) { /* the filesystem has no RENAME_NOREPLACE */
		r = link_entry(index, dirfd, name, path);
		*ret_is_left = true;
	}
	return r;
}

/* Move work/temp to an entry's path; the temp is gone afterwards in any case. */
static int publish(struct rvl_index *index, const char *temp, const char *path, bool is_replace)
{
	bool is_left;
	int r = rename_to(index, index->temp_fd, temp, path, is_replace, &is_left);

	if ((r || is_left) && unlinkat(index->temp_fd, temp, 0) && errno != ENOENT && !r)
		r = -errno;
	return r;
}

int rvl_entry_move(struct rvl_index *index, int dirfd, const char *name, uint64_t number)
{
	char path[RVL_ENTRY_PATH_SIZE];
	bool is_left;
	int r;

	if (!index->is_writable)
		return -EROFS;
	rvl_entry_path(number, path);
	r = rename_to(index, dirfd, name, path, false, &is_left);
	return !r && is_left && unlinkat(dirfd, name, 0) ? -errno : r;
}

static int set_at(struct rvl_index *index, int dirfd, const char *name, enum rvl_xattr which,
		  const struct rvl_name_at *at)
{
	uint8_t buf[RVL_NAME_AT_ENCODED_MAX];
	unsigned len = rvl_name_at_encode(at, buf);

	return rvl_xattr_set(&index->stack->xattr, dirfd, name, which, buf, len);
}

static int set_handle(struct rvl_index *index, int dirfd, const char *name, enum rvl_xattr which,
		      const struct rvl_handle *handle)
{
	uint8_t buf[RVL_HANDLE_ENCODED_MAX];
	int len;

	if (!handle->len)
		return 0;
	len = rvl_handle_encode(handle, buf);
	if (len < 0)
		return len;
	return rvl_xattr_set(&index->stack->xattr, dirfd, name, which, buf, (size_t)len);
}

int rvl_entry_put_directory(struct rvl_index *index, uint64_t number,
			    const struct rvl_entry_directory *dir, bool is_replace)
{
	mode_t mode = index->stack->xattr.is_user ? DIRECTORY_MODE_USER : 0;
	char path[RVL_ENTRY_PATH_SIZE], temp[RVL_TEMP_NAME_SIZE];
	_cleanup_close_ int fd = -EBADF;
	int r = 0;

	if (!index->is_writable)
		return -EROFS;
	rvl_entry_path(number, path);
	rvl_index_temp_name(index, temp);
	fd = openat(index->temp_fd, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    mode & 0600);
	if (fd < 0)
		return -errno;
	if (mode && fchmod(fd, mode))
		r = -errno;
	r = r ?: set_at(index, fd, "", RVL_XATTR_PATH, &dir->path);
	r = r ?: set_handle(index, fd, "", RVL_XATTR_UPPER, &dir->upper);
	if (dir->is_merged) {
		r = r ?: set_handle(index, fd, "", RVL_XATTR_FH, &dir->lower);
		r = r ?: set_at(index, fd, "", RVL_XATTR_PLACE, &dir->place);
	}
	if (r) {
		unlinkat(index->temp_fd, temp, 0);
		return r;
	}
	return publish(index, temp, path, is_replace);
}

static int get_at(struct rvl_index *index, const char *path, enum rvl_xattr which,
		  struct rvl_name_at *ret)
{
	uint8_t buf[RVL_NAME_AT_ENCODED_MAX];
	ssize_t n = rvl_xattr_get(&index->stack->xattr, index->inodes_fd, path, which, buf,
				  sizeof(buf));

	if (n == -ERANGE)
		return -EUCLEAN;
	return n < 0 ? (int)n : rvl_name_at_decode(buf, (size_t)n, ret);
}

/* An absent one is a handle with len 0. */
static int get_handle(struct rvl_index *index, const char *path, enum rvl_xattr which,
		      struct rvl_handle *ret)
{
	uint8_t buf[RVL_HANDLE_ENCODED_MAX];
	ssize_t n = rvl_xattr_get(&index->stack->xattr, index->inodes_fd, path, which, buf,
				  sizeof(buf));
	int r;

	*ret = (struct rvl_handle){ 0 };
	if (n == -ENODATA)
		return 0;
	if (n == -ERANGE)
		return -EUCLEAN;
	if (n < 0)
		return (int)n;
	r = rvl_handle_decode(buf, (unsigned)n, ret);
	return r ? -EUCLEAN : 0;
}

int rvl_entry_get_directory(struct rvl_index *index, uint64_t number,
			    struct rvl_entry_directory *ret)
{
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_entry_directory dir = { 0 };
	struct statx stx;
	int r;

	if (index->inodes_fd < 0)
		return -ENOENT;
	rvl_entry_path(number, path);
	r = get_at(index, path, RVL_XATTR_PATH, &dir.path);
	if (r == -ENODATA || r == -EPERM || r == -EACCES) {
		/* Of another kind; or there is none at all, which some kernels call ENODATA
		 * through /proc. */
		if (statx(index->inodes_fd, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &stx))
			return -errno;
		return -EUCLEAN;
	}
	r = r ?: get_handle(index, path, RVL_XATTR_UPPER, &dir.upper);
	r = r ?: get_handle(index, path, RVL_XATTR_FH, &dir.lower);
	if (r)
		return r;
	r = get_at(index, path, RVL_XATTR_PLACE, &dir.place);
	if (r && r != -ENODATA)
		return r;
	dir.is_merged = !r;
	*ret = dir;
	return 0;
}

int rvl_entry_set_path(struct rvl_index *index, uint64_t number, const struct rvl_name_at *path)
{
	char entry[RVL_ENTRY_PATH_SIZE];

	if (!index->is_writable)
		return -EROFS;
	rvl_entry_path(number, entry);
	return set_at(index, index->inodes_fd, entry, RVL_XATTR_PATH, path);
}

/* A new inodes/tombstone in place of the old one, if there is one. */
static int make_tombstone(struct rvl_index *index)
{
	char temp[RVL_TEMP_NAME_SIZE];
	int r = 0;

	rvl_index_temp_name(index, temp);
	if (index->features.has_char_whiteouts) {
		if (mknodat(index->temp_fd, temp, S_IFCHR, makedev(0, 0)))
			return -errno;
	} else {
		_cleanup_close_ int fd = openat(index->temp_fd, temp,
						O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
						0600);

		if (fd < 0)
			return -errno;
		r = rvl_xattr_set(&index->stack->xattr, fd, "", RVL_XATTR_WHITEOUT, "y", 1);
		if (!r && fchmod(fd, index->stack->xattr.is_user ? DIRECTORY_MODE_USER : 0))
			r = -errno;
	}
	if (!r && renameat2(index->temp_fd, temp, index->inodes_fd, TOMBSTONE_NAME, 0))
		r = -errno;
	if (r)
		unlinkat(index->temp_fd, temp, 0);
	return r;
}

/* A tombstone under a fresh name in work/. */
static int link_tombstone(struct rvl_index *index, const char *temp)
{
	int r = 0;

	pthread_mutex_lock(&index->tombstone_lock);
	for (int tries = 0; tries < 2; tries++) {
		r = linkat(index->inodes_fd, TOMBSTONE_NAME, index->temp_fd, temp, 0) ? -errno : 0;
		if (r != -ENOENT && r != -EMLINK)
			break;
		r = make_tombstone(index);
		if (r)
			break;
		r = -EMLINK;
	}
	pthread_mutex_unlock(&index->tombstone_lock);
	return r;
}

int rvl_entry_bury(struct rvl_index *index, uint64_t number, bool is_copied_up)
{
	char path[RVL_ENTRY_PATH_SIZE], temp[RVL_TEMP_NAME_SIZE];
	int r;

	if (!index->is_writable)
		return -EROFS;
	rvl_entry_path(number, path);
	if (!is_copied_up)
		return unlinkat(index->inodes_fd, path, 0) && errno != ENOENT ? -errno : 0;
	rvl_index_temp_name(index, temp);
	r = link_tombstone(index, temp);
	return r ?: publish(index, temp, path, true);
}

/* "#<number>", as it is written. 0: not so. */
static uint64_t number_of_name(const char *name)
{
	char path[RVL_ENTRY_PATH_SIZE];
	uint64_t number;
	char *end;

	if (name[0] != '#' || name[1] < '1' || name[1] > '9')
		return 0;
	errno = 0;
	number = strtoull(name + 1, &end, 10);
	if (errno || *end || !rvl_number_is_valid(number))
		return 0;
	rvl_entry_path(number, path);
	return strcmp(path + 3, name) ? 0 : number;
}

static int each_of(struct rvl_index *index, unsigned low, rvl_entry_each_fn *fn, void *arg)
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	char name[4];
	int fd, r;

	snprintf(name, sizeof(name), "%02x", low & 0xff);
	fd = openat(index->inodes_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = rvl_dir_stream(fd, &dir);
	while (!r && (r = rvl_dir_next(dir, &entry)) > 0) {
		uint64_t number = number_of_name(entry->d_name);

		r = number && (number & 0xff) == low ? fn(arg, number) : 0;
	}
	return r;
}

int rvl_entry_renumber(struct rvl_index *index, uint64_t old, int dirfd, const char *name,
		       const struct statx *st, const struct rvl_entry_directory *record,
		       struct rvl_id *ret)
{
	int r = rvl_number_born(index, ret);

	if (r)
		return r;
	r = record ? rvl_entry_put_directory(index, ret->number, record, false) :
		     rvl_entry_link(index, dirfd, name, ret->number);
	if (r)
		return r;
	r = rvl_stamp_set(index, dirfd, name, st->stx_mode, st->stx_ino, ret);
	if (r) {
		(void)rvl_entry_bury(index, ret->number, false);
		return r;
	}
	return rvl_entry_bury(index, old, false);
}

/* rvl_entry_is_of_other_life of an entry that is an object of the same type: by overlay.origin. */
static int is_of_other_origin(struct rvl_index *index, uint64_t number, const struct statx *st,
			      const struct rvl_place *lower, uint8_t (*uuids)[16])
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_handle origin;
	ssize_t n;

	rvl_entry_path(number, path);
	n = rvl_upper_xattr_get(index, index->inodes_fd, path, st->stx_mode, st->stx_ino,
				RVL_XATTR_ORIGIN, value, sizeof(value));
	if (n <= 0 || rvl_handle_decode(value, (unsigned)n, &origin))
		return 0;
	return rvl_origin_is_other_life(&origin, lower, uuids);
}

int rvl_entry_is_of_other_life(struct rvl_index *index, uint64_t number, const struct rvl_found *lower,
			       uint8_t (*uuids)[16])
{
	struct rvl_entry_directory record;
	enum rvl_entry_kind kind;
	struct statx st;
	int r = rvl_entry_look(index, number, &kind, &st);

	if (r || kind == RVL_ENTRY_NONE || kind == RVL_ENTRY_TOMBSTONE)
		return r;
	if (kind == RVL_ENTRY_OBJECT)
		return (st.stx_mode ^ lower->st.stx_mode) & S_IFMT ?
			       1 :
			       is_of_other_origin(index, number, &st, &lower->places.v[0], uuids);
	if (!S_ISDIR(lower->st.stx_mode))
		return 1;
	r = rvl_entry_get_directory(index, number, &record);
	if (r)
		return r == -EUCLEAN || r == -ENOENT ? 0 : r;
	return rvl_origin_is_other_life(&record.lower, &lower->places.v[0], NULL);
}

int rvl_entry_each(struct rvl_index *index, rvl_entry_each_fn *fn, void *arg)
{
	int r = 0;

	for (unsigned low = 0; !r && index->inodes_fd >= 0 && low < 256; low++)
		r = each_of(index, low, fn, arg);
	return r;
}
