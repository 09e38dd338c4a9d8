// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rebind, what it makes in upper: objects copied up from lower, names, and the directories that these
 * need, from above.
 *
 * Order of a copy-up: temporary in work/ with all it needs, synced; entry; names. After a death in
 * between the entry is found by the next run, which makes the names. Link counts (overlay.nlink) are
 * lowered after the link: a death in between leaves one too high, which keeps an object, and never
 * one too low.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "check/rebind_private.h"
#include "index/entry.h"
#include "index/map.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "layer/copy.h"
#include "layer/keep.h"
#include "layer/path.h"

#define DEPTH_MAX 4096 /* directories above one another */

/* One object in the making, in work/. */
struct temp {
	struct rvl_check_rebind *rb;
	char name[RVL_TEMP_NAME_SIZE];
	int fd; /* owned; regular files */
	struct statx st;
	bool is_named;
};

/* ---- temporaries ---- */

static void temp_release(struct temp *temp)
{
	rvl_close(temp->fd);
	if (temp->is_named && unlinkat(temp->rb->index->temp_fd, temp->name, 0) && errno == EISDIR)
		unlinkat(temp->rb->index->temp_fd, temp->name, AT_REMOVEDIR);
}
#define _cleanup_temp_ __attribute__((cleanup(temp_release)))

static int make_object(struct temp *temp, const struct rvl_rebind_source *from)
{
	int dirfd = temp->rb->index->temp_fd;
	char target[PATH_MAX];
	_cleanup_close_ int fd = -EBADF;
	ssize_t n;

	switch (from->st.stx_mode & S_IFMT) {
	case S_IFDIR:
		return mkdirat(dirfd, temp->name, 0700) ? -errno : 0;
	case S_IFREG:
		temp->fd = openat(dirfd, temp->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		return temp->fd < 0 ? -errno : 0;
	case S_IFLNK:
		fd = rvl_path_open(from->layer->fd, from->path, O_PATH, 0);
		n = fd < 0 ? fd : readlinkat(fd, "", target, sizeof(target) - 1);
		if (n < 0)
			return fd < 0 ? fd : -errno;
		target[n] = '\0';
		return symlinkat(target, dirfd, temp->name) ? -errno : 0;
	default:
		return mknodat(dirfd, temp->name, (from->st.stx_mode & S_IFMT) | 0600,
			       makedev(from->st.stx_rdev_major, from->st.stx_rdev_minor)) ?
			       -errno :
			       0;
	}
}

static int copy_data(struct temp *temp, const struct rvl_rebind_source *from)
{
	_cleanup_close_ int fd = -EBADF;

	if (!S_ISREG(from->st.stx_mode) || !from->st.stx_size)
		return 0;
	fd = rvl_path_open_noatime(from->layer->fd, from->path, O_RDONLY);
	return fd < 0 ? fd : rvl_copy_data(fd, temp->fd, from->st.stx_size, NULL);
}

static int set_private(struct temp *temp, enum rvl_xattr which, const void *value, size_t len)
{
	struct rvl_index *index = temp->rb->index;

	return rvl_upper_xattr_set(index, index->temp_fd, temp->name, temp->st.stx_mode,
				   temp->st.stx_ino, which, value, len);
}

/* Before the first object gets a number that is only in the state to come. */
static int reserve(struct rvl_check_rebind *rb)
{
	int r = 0;

	if (rb->rebind && !rb->is_reserved)
		r = rvl_rebind_reserve(rb->rebind);
	rb->is_reserved = !r;
	return r;
}

/* Origin, stamp, and (of no directory) the place. */
static int set_identity(struct temp *temp, const struct rvl_rebind_source *from, const struct rvl_id *id,
			const struct rvl_name_at *place)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX], encoded[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_handle origin;
	int len = 0, r = 0;

	if (!from->is_of_other &&
	    !rvl_handle_get(from->layer->fd, from->path, temp->rb->uuids[from->layer->index], &origin))
		len = rvl_handle_encode(&origin, value);
	r = set_private(temp, RVL_XATTR_ORIGIN, value, len < 0 ? 0 : (size_t)len);
	if (!r && !S_ISDIR(from->st.stx_mode))
		r = set_private(temp, RVL_XATTR_PLACE, encoded, rvl_name_at_encode(place, encoded));
	return r     ?:
		       rvl_stamp_set(temp->rb->index, temp->rb->index->temp_fd, temp->name,
				     temp->st.stx_mode, temp->st.stx_ino, id);
}

static int set_attributes(struct temp *temp, const struct rvl_rebind_source *from)
{
	const struct timespec times[2] = {
		{ from->st.stx_atime.tv_sec, from->st.stx_atime.tv_nsec },
		{ from->st.stx_mtime.tv_sec, from->st.stx_mtime.tv_nsec },
	};
	int dirfd = temp->rb->index->temp_fd;
	char value[1024];
	ssize_t n;

	if (fchownat(dirfd, temp->name, from->st.stx_uid, from->st.stx_gid, AT_SYMLINK_NOFOLLOW))
		return -errno;
	if (!S_ISLNK(from->st.stx_mode) &&
	    fchmodat(dirfd, temp->name, from->st.stx_mode & 07777, 0))
		return -errno;
	/* the change of owner took it away */
	n = rvl_xattrat_get(from->layer->fd, from->path, RVL_CAPABILITY_NAME, value, sizeof(value));
	if (n > 0 && S_ISREG(from->st.stx_mode)) {
		int r = rvl_xattrat_set(dirfd, temp->name, RVL_CAPABILITY_NAME, value, (size_t)n, 0);

		if (r)
			return r;
	}
	return utimensat(dirfd, temp->name, times, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

/* n_names: as in rvl_rebind_copy_up; 0: it is a directory. */
static int temp_make(struct temp *temp, const struct rvl_rebind_source *from, const struct rvl_id *id,
		     const struct rvl_name_at *place, int n_names)
{
	struct rvl_index *index = temp->rb->index;
	char nlink[RVL_NLINK_VALUE_SIZE];
	int r = reserve(temp->rb);

	rvl_index_temp_name(index, temp->name);
	r = r ?: make_object(temp, from);
	temp->is_named = r == 0;
	r = r ?: rvl_path_statx(index->temp_fd, temp->name, RVL_STATX_MASK, &temp->st);
	r = r ?: copy_data(temp, from);
	r = r	  ?:
		    rvl_xattr_copy(&index->stack->xattr, from->layer->fd, from->path,
				   index->temp_fd, temp->name);
	r = r ?: set_identity(temp, from, id, place);
	if (!r && n_names)
		r = set_private(temp, RVL_XATTR_NLINK, nlink, rvl_nlink_format(n_names - 1, nlink));
	r = r ?: set_attributes(temp, from);
	return r ?: temp->fd >= 0 && fsync(temp->fd) ? -errno : 0;
}

int rvl_rebind_copy_up(struct rvl_check_rebind *rb, const struct rvl_rebind_source *from,
		       const struct rvl_id *id, const struct rvl_name_at *place, int n_names)
{
	struct temp _cleanup_temp_ temp = { .rb = rb, .fd = -EBADF };
	struct rvl_index *index = rb->index;
	int r = temp_make(&temp, from, id, place, n_names);

	return r ?: rvl_entry_link(index, index->temp_fd, temp.name, id->number);
}

/* ---- directories ---- */

static int take_row(void *arg, const struct rvl_map_row *row)
{
	*(struct rvl_map_row *)arg = *row;
	return 1;
}

static int row_of(struct rvl_check_rebind *rb, uint64_t number, struct rvl_map_row *ret)
{
	int r = rvl_map_get(rb->index, number, take_row, ret);

	return r == 1 ? 0 : r ?: -ENOENT;
}

int rvl_rebind_lower_of(struct rvl_check_rebind *rb, uint64_t number, struct rvl_places *ret)
{
	_cleanup_free_ struct rvl_map_row *rows = NULL;
	unsigned n = 0;
	int r;

	for (; number != RVL_NUMBER_ROOT; number = rows[n++].at.parent) {
		struct rvl_map_row *v = n < DEPTH_MAX ? reallocarray(rows, n + 1, sizeof(*v)) :
							NULL;

		if (!v)
			return n < DEPTH_MAX ? -ENOMEM : -ELOOP;
		rows = v;
		r = row_of(rb, number, &rows[n]);
		if (r)
			return r;
	}
	r = rvl_places_of_root(rb->config->stack, ret);
	while (!r && n) {
		struct rvl_found found = { 0 };

		r = rvl_merge_lookup(rb->config->stack, ret, rows[--n].at.name, NULL, NULL, &found);
		rvl_places_release(ret);
		if (!r && (!found.places.n || !S_ISDIR(found.st.stx_mode)))
			r = -ENOENT;
		if (!r) {
			*ret = found.places;
			found.places = (struct rvl_places){ 0 };
		}
		rvl_found_release(&found);
	}
	return r;
}

/* What is in a directory came from elsewhere: the kernel's mark. Not on the root. */
static int mark_impure(struct rvl_check_rebind *rb, uint64_t number, int fd)
{
	if (number == RVL_NUMBER_ROOT)
		return 0;
	return rvl_xattr_set(&rb->config->stack->xattr, fd, "", RVL_XATTR_IMPURE, "y", 1);
}

/* 0: lower's object of this name would show in this upper directory; -ENOENT: upper has or hides it. */
static int check_shows(struct rvl_check_rebind *rb, int fd, const char *name)
{
	enum rvl_opaque opaque;
	struct statx st;
	int r = rvl_opaque_get(rb->config->stack, fd, "", &opaque);

	if (r || opaque == RVL_OPAQUE_YES)
		return r ?: -ENOENT;
	r = rvl_path_statx(fd, name, RVL_STATX_MASK, &st);
	return r == -ENOENT ? 0 : r ?: -ENOENT;
}

int rvl_rebind_is_seen(void *arg, uint64_t parent, const char *name)
{
	struct rvl_check_rebind *rb = arg;
	const char *path = rvl_rebind_upper_path(rb, parent);
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (!path)
		return 0;
	fd = rvl_path_open(rvl_stack_upper(rb->config->stack)->fd, path, O_PATH | O_DIRECTORY, 0);
	r = fd < 0 ? fd : check_shows(rb, fd, name);
	return r == -ENOENT ? 0 : r ?: 1;
}

static int make_directory(struct rvl_check_rebind *rb, uint64_t number,
			  const struct rvl_map_row *row, int parent_fd)
{
	struct rvl_entry_directory entry = { .path = row->at, .is_merged = true, .place = row->at };
	struct temp _cleanup_temp_ temp = { .rb = rb, .fd = -EBADF };
	const struct rvl_id id = { number, row->generation };
	struct rvl_index *index = rb->index;
	struct rvl_places places = { 0 };
	struct rvl_rebind_source from;
	struct statx st;
	int r = rvl_rebind_lower_of(rb, number, &places);

	if (r)
		return r;
	from = (struct rvl_rebind_source){ .layer = places.v[0].layer, .path = places.v[0].path };
	r = rvl_path_statx(from.layer->fd, from.path, RVL_STATX_MASK, &from.st);
	r = r ?: temp_make(&temp, &from, &id, NULL, 0);
	if (!r) {
		rvl_handle_for_entry(index->temp_fd, temp.name, &entry.upper);
		rvl_handle_for_entry(from.layer->fd, from.path, &entry.lower);
		r = rvl_entry_put_directory(index, number, &entry, true);
	}
	r = r ?: rvl_path_statx(parent_fd, "", RVL_STATX_MASK, &st);
	r = r ?: mark_impure(rb, row->at.parent, parent_fd);
	if (!r && renameat2(index->temp_fd, temp.name, parent_fd, row->at.name, RENAME_NOREPLACE))
		r = -errno;
	if (!r) {
		temp.is_named = false;
		rvl_fd_restore_times(parent_fd, &st);
	}
	rvl_places_release(&places);
	return r;
}

/* A descriptor of the directory in upper, which is made where it is only in lower. -ENOENT: upper
 * hides it. */
static int open_directory(struct rvl_check_rebind *rb, uint64_t number, unsigned depth)
{
	int upper_fd = rvl_stack_upper(rb->config->stack)->fd, r;
	const char *path = rvl_rebind_upper_path(rb, number);
	_cleanup_close_ int parent_fd = -EBADF;
	_cleanup_free_ char *own = NULL;
	enum rvl_entry_kind kind;
	struct rvl_map_row row;
	struct statx st;

	if (path)
		return rvl_path_open(upper_fd, path, O_PATH | O_DIRECTORY, 0);
	if (depth >= DEPTH_MAX)
		return -ELOOP;
	r = rvl_entry_look(rb->index, number, &kind, &st);
	if (!r && kind == RVL_ENTRY_TOMBSTONE)
		r = -ENOENT;
	r = r ?: row_of(rb, number, &row);
	if (r)
		return r;
	parent_fd = open_directory(rb, row.at.parent, depth + 1);
	if (parent_fd < 0)
		return parent_fd;
	r = check_shows(rb, parent_fd, row.at.name);
	r = r ?: make_directory(rb, number, &row, parent_fd);
	if (r)
		return r;
	path = rvl_rebind_upper_path(rb, row.at.parent);
	own = rvl_path_join(path, row.at.name);
	if (!own)
		return -ENOMEM;
	r = rvl_rebind_upper_add(rb, number, own);
	return r ?: rvl_path_open(parent_fd, row.at.name, O_PATH | O_DIRECTORY, 0);
}

/* ---- names ---- */

int rvl_rebind_make_parent(struct rvl_check_rebind *rb, uint64_t parent, const char *name)
{
	_cleanup_close_ int fd = open_directory(rb, parent, 0);
	int r = fd < 0 ? fd : check_shows(rb, fd, name);

	return r < 0 ? r : rvl_take_fd(&fd);
}

int rvl_rebind_make_name(struct rvl_check_rebind *rb, uint64_t number, uint64_t parent,
			 const char *name)
{
	_cleanup_close_ int fd = rvl_rebind_make_parent(rb, parent, name);
	struct rvl_index *index = rb->index;
	char entry[RVL_ENTRY_PATH_SIZE];
	struct statx st, object;
	int r;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd; /* upper has or hides it: it hangs on nothing */
	rvl_entry_path(number, entry);
	r = rvl_path_statx(fd, "", RVL_STATX_MASK, &st);
	r = r ?: rvl_path_statx(index->inodes_fd, entry, RVL_STATX_MASK, &object);
	r = r ?: mark_impure(rb, parent, fd);
	if (!r && linkat(index->inodes_fd, entry, fd, name, 0))
		r = -errno;
	if (r)
		return r;
	rvl_fd_restore_times(fd, &st);
	return rvl_nlink_change(index, index->inodes_fd, entry, object.stx_mode, object.stx_ino, -1);
}
