// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rebind, lower files whose hard links the copy has parted: their names are made links of one
 * object in upper, so that they no longer hang on anything that is stored elsewhere.
 *
 *   it was copied up     its entry is the object; each lower name that upper does not hide becomes
 *                        a link of it
 *   it was not           it is copied up here, if the names are equal; what is not is told and is
 *                        an object of its own
 *
 * The other way round, names that have become links of what was another object: if either is in upper, they
 * are copied up here as well. They keep their number; where other names have it already, those that were joined
 * with one file get one new number.
 *
 * Directories on the way that are not in upper are copied up, from above. Order of a copy-up:
 * temporary in work/ with all it needs, synced; entry; names. After a death in between the entry is
 * found by the next run, which makes the names. Link counts (overlay.nlink) are lowered after the
 * link: a death in between leaves one too high, which keeps an object, and never one too low.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/stop.h"
#include "check/check.h"
#include "check/rebind_private.h"
#include "index/entry.h"
#include "index/map.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "layer/copy.h"
#include "layer/keep.h"
#include "layer/merge.h"
#include "layer/path.h"

#define DEPTH_MAX 4096
#define SPLITS_MAX (1 << 24)

/* A real object of a layer. */
struct source {
	const struct rvl_layer *layer;
	const char *path;
	struct statx st;
};

/* One object in the making, in work/. */
struct temp {
	struct rvl_check_rebind *rb;
	char name[RVL_TEMP_NAME_SIZE];
	int fd; /* owned; regular files */
	struct statx st;
	bool is_named;
	bool is_of_other; /* it is made from what is another object now: that is no origin */
};

/* ---- what is remembered of the walk ---- */

int rvl_rebind_link_add(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	struct rvl_rebind_split *copy;
	int r = rvl_array_reserve(&rb->splits, &rb->splits_size, rb->n_splits, sizeof(*rb->splits),
				  SPLITS_MAX);

	if (r)
		return r;
	copy = &rb->splits[rb->n_splits];
	*copy = *split;
	copy->name = strdup(split->name);
	copy->path = strdup(split->path);
	copy->first_path = split->first_path ? strdup(split->first_path) : NULL;
	copy->first_name = split->first_name ? strdup(split->first_name) : NULL;
	rb->n_splits++;
	return copy->name && copy->path && !copy->first_path == !split->first_path &&
			       !copy->first_name == !split->first_name ?
		       0 :
		       -ENOMEM;
}

void rvl_rebind_link_release(struct rvl_check_rebind *rb)
{
	while (rb->n_splits) {
		struct rvl_rebind_split *split = &rb->splits[--rb->n_splits];

		free((char *)split->name);
		free((char *)split->path);
		free((char *)split->first_path);
		free((char *)split->first_name);
	}
	free(rb->splits);
	rb->splits = NULL;
}

/* ---- temporaries ---- */

static void temp_release(struct temp *temp)
{
	rvl_close(temp->fd);
	if (temp->is_named && unlinkat(temp->rb->index->temp_fd, temp->name, 0) && errno == EISDIR)
		unlinkat(temp->rb->index->temp_fd, temp->name, AT_REMOVEDIR);
}
#define _cleanup_temp_ __attribute__((cleanup(temp_release)))

static int make_object(struct temp *temp, const struct source *from)
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

static int copy_data(struct temp *temp, const struct source *from)
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
static int set_identity(struct temp *temp, const struct source *from, const struct rvl_id *id,
			const struct rvl_name_at *place)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX], encoded[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_handle origin;
	int len = 0, r = 0;

	if (!temp->is_of_other &&
	    !rvl_handle_get(from->layer->fd, from->path, temp->rb->uuids[from->layer->index], &origin))
		len = rvl_handle_encode(&origin, value);
	r = set_private(temp, RVL_XATTR_ORIGIN, value, len < 0 ? 0 : (size_t)len);
	if (!r && !S_ISDIR(from->st.stx_mode))
		r = set_private(temp, RVL_XATTR_PLACE, encoded, rvl_name_at_encode(place, encoded));
	return r     ?:
		       rvl_stamp_set(temp->rb->index, temp->rb->index->temp_fd, temp->name,
				     temp->st.stx_mode, temp->st.stx_ino, id);
}

static int set_attributes(struct temp *temp, const struct source *from)
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

/* n_names: that are to count for it beside its one link; 0: it is a directory. */
static int temp_make(struct temp *temp, const struct source *from, const struct rvl_id *id,
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

/* Does upper let lower names of this directory show at this name? -ENOENT: no. */
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
	struct source from;
	struct statx st;
	int r = rvl_rebind_lower_of(rb, number, &places);

	if (r)
		return r;
	from = (struct source){ .layer = places.v[0].layer, .path = places.v[0].path };
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

/* One more link of the entry, and one name less that counts beside them. */
static int link_name(struct rvl_check_rebind *rb, uint64_t number, uint64_t parent, const char *name)
{
	_cleanup_close_ int fd = open_directory(rb, parent, 0);
	struct rvl_index *index = rb->index;
	char entry[RVL_ENTRY_PATH_SIZE];
	struct statx st, object;
	int r = fd < 0 ? fd : check_shows(rb, fd, name);

	if (r)
		return r == -ENOENT ? 0 : r; /* upper has or hides it: it hangs on nothing */
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

/* ---- one split ---- */

/* Are the lower objects equal, and all there is of them in one layer? */
static int is_equal(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	const struct rvl_stack *stack = rb->config->stack;
	int r = rvl_rebind_is_equal(stack, split->first_layer->fd, split->first_path,
				    split->layer->fd, split->path);

	if (r <= 0 || split->has_entry)
		return r;
	r = rvl_metacopy_get(stack, split->first_layer->fd, split->first_path);
	return r < 0 ? r : !r;
}

/* How many names of the number are to be linked, from this split on: they lie side by side. */
static int count_equal(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	const uint64_t number = split->id.number;
	int n = 0;

	for (; split < rb->splits + rb->n_splits && split->id.number == number && !split->is_joined;
	     split++) {
		int r = is_equal(rb, split);

		if (r < 0)
			return r;
		n += r;
	}
	return n;
}

/*
 * All names count that will be links of it, and those that the copy has left together: each link
 * that is made takes one from overlay.nlink, whichever run makes it.
 */
static int copy_up(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	struct source from = { .layer = split->first_layer, .path = split->first_path };
	struct rvl_name_at place = { .parent = split->first_parent };
	struct temp _cleanup_temp_ temp = { .rb = rb, .fd = -EBADF };
	struct rvl_index *index = rb->index;
	int n = count_equal(rb, split);
	int r = n < 0 ? n : rvl_path_statx(from.layer->fd, from.path, RVL_STATX_MASK, &from.st);

	snprintf(place.name, sizeof(place.name), "%s", split->first_name);
	if (!r && from.st.stx_nlink > (unsigned)(RVL_NLINK_MAX - n))
		r = -EMLINK;
	r = r ?: temp_make(&temp, &from, &split->id, &place, (int)from.st.stx_nlink + n);
	return r ?: rvl_entry_link(index, index->temp_fd, temp.name, split->id.number);
}

static int has_entry(struct rvl_check_rebind *rb, uint64_t number)
{
	enum rvl_entry_kind kind;
	struct statx st;
	int r = rvl_entry_look(rb->index, number, &kind, &st);

	return r < 0 ? r : kind != RVL_ENTRY_NONE;
}

/* What was copied up counts as a copy of the name that has the number now. */
static int move_place(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	struct rvl_name_at place = { .parent = split->first_parent };
	struct rvl_index *index = rb->index;
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	char entry[RVL_ENTRY_PATH_SIZE];
	struct statx st;
	int r;

	rvl_entry_path(split->id.number, entry);
	snprintf(place.name, sizeof(place.name), "%s", split->first_name);
	r = rvl_path_statx(index->inodes_fd, entry, RVL_STATX_MASK, &st);
	r = r	  ?:
		    rvl_upper_xattr_set(index, index->inodes_fd, entry, st.stx_mode, st.stx_ino,
					RVL_XATTR_PLACE, value, rvl_name_at_encode(&place, value));
	return r     ?:
		       rvl_rebind_renew_origin(rb, split->id.number, split->first_layer,
					       split->first_layer->fd, split->first_path);
}

/* Names of one number that were joined with one file: they lie side by side. */
static bool are_together(const struct rvl_rebind_split *a, const struct rvl_rebind_split *b)
{
	return a->is_joined && b->is_joined && a->id.number == b->id.number && a->layer == b->layer &&
	       a->ino == b->ino;
}

/* How many, from this one on. */
static int count_joined(const struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	int n = 0;

	while (split + n < rb->splits + rb->n_splits && are_together(split, &split[n]))
		n++;
	return n;
}

/* Do names of this number that were joined with another file come before it? They keep the number. */
static bool comes_after_others(const struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	const struct rvl_rebind_split *before = split;

	while (before > rb->splits && are_together(before - 1, split))
		before--;
	return before > rb->splits && before[-1].is_joined && before[-1].id.number == split->id.number;
}

/* Has a run that died begun an object for this name? 1: *ret is its number. Such an object still waits for names
 * (overlay.nlink), and has the contents of the file. */
static int is_begun(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split, struct rvl_id *ret)
{
	struct rvl_index *index = rb->index;
	char entry[RVL_ENTRY_PATH_SIZE];
	struct rvl_nlink nlink;
	struct statx st;
	int r = rvl_rebind_copy_of(rb->rebind, split->parent, split->name, split->id.number, ret);

	if (r)
		return r == -ENOENT ? 0 : r;
	rvl_entry_path(ret->number, entry);
	r = rvl_path_statx(index->inodes_fd, entry, RVL_STATX_MASK, &st);
	r = r ?: rvl_nlink_get(index, index->inodes_fd, entry, st.stx_mode, st.stx_ino, &nlink);
	if (r <= 0 || nlink.is_lower || nlink.diff < 0)
		return r == -ENOENT || r == -EUCLEAN || r > 0 ? 0 : r;
	return rvl_rebind_is_equal(index->stack, index->inodes_fd, entry, split->layer->fd, split->path);
}

/* A number for joined names whose own has stayed with others: one for all that are together, from this one on;
 * that of a run before this one, if it had begun. */
static int number_of_parted(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split,
			    struct rvl_id *ret)
{
	const int n = count_joined(rb, split);
	int r = rb->parted_from && are_together(rb->parted_from, split);

	for (int i = 0; !r && i < n; i++)
		r = is_begun(rb, &split[i], &rb->parted);
	if (!r)
		r = rvl_number_born(rb->index, &rb->parted);
	if (r < 0)
		return r;
	rb->parted_from = split;
	*ret = rb->parted;
	return 0;
}

/* The links that the file has in lower are the other's, and count for none of its names. */
static int copy_up_joined(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split,
			  const struct rvl_id *id)
{
	struct source from = { .layer = split->layer, .path = split->path };
	struct rvl_name_at place = { .parent = split->parent };
	struct temp _cleanup_temp_ temp = { .rb = rb, .fd = -EBADF, .is_of_other = true };
	struct rvl_index *index = rb->index;
	int r = rvl_path_statx(from.layer->fd, from.path, RVL_STATX_MASK, &from.st);

	snprintf(place.name, sizeof(place.name), "%s", split->name);
	r = r ?: temp_make(&temp, &from, id, &place, count_joined(rb, split));
	return r ?: rvl_entry_link(index, index->temp_fd, temp.name, id->number);
}

/* A name whose file has become a link of one that is in upper. */
static int part_joined(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	_cleanup_close_ int fd = -EBADF;
	struct rvl_id id = split->id;
	int is_taken, r = rvl_metacopy_get(rb->config->stack, split->layer->fd, split->path);

	if (r > 0) /* its data are elsewhere: it cannot be copied by itself */
		rvl_rebind_tell(rb, RVL_TOLD_JOINED, id.number, split->path);
	if (r)
		return r < 0 ? r : 0;
	is_taken = comes_after_others(rb, split) ? 1 : rvl_number_is_recorded(rb->index, id.number);
	if (is_taken < 0)
		return is_taken;
	if (is_taken)
		rvl_rebind_tell(rb, RVL_TOLD_SPLIT, id.number, split->path);
	rb->result->n_lower_linked++;
	if (rb->config->is_dry_run)
		return 0;
	if (is_taken)
		r = number_of_parted(rb, split, &id);
	if (r)
		return r;
	fd = open_directory(rb, split->parent, 0);
	r = fd < 0 ? fd : check_shows(rb, fd, split->name);
	r = r ?: has_entry(rb, id.number);
	if (r == 0)
		r = copy_up_joined(rb, split, &id);
	if (r >= 0)
		r = link_name(rb, id.number, split->parent, split->name);
	return r == -ENOENT ? 0 : r; /* upper has or hides the name */
}

static int join(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	uint64_t number = split->id.number;
	int r = split->first_layer ? is_equal(rb, split) : 1;

	if (r < 0)
		return r;
	if (!r || !rb->config->stack->has_upper) {
		rvl_rebind_tell(rb, RVL_TOLD_SPLIT, number, split->path);
		return 0;
	}
	rb->result->n_lower_linked++;
	if (rb->config->is_dry_run)
		return 0;
	if (split->has_entry && split->first_layer)
		r = move_place(rb, split);
	if (r < 0)
		return r;
	if (split->has_entry)
		return link_name(rb, number, split->parent, split->name);
	r = has_entry(rb, number);
	if (r == 0)
		r = copy_up(rb, split);
	if (r >= 0)
		r = link_name(rb, number, split->first_parent, split->first_name);
	return r ?: link_name(rb, number, split->parent, split->name);
}

static int compare_splits(const void *pa, const void *pb)
{
	const struct rvl_rebind_split *a = pa, *b = pb;

	if (a->id.number != b->id.number)
		return a->id.number < b->id.number ? -1 : 1;
	if (a->is_joined != b->is_joined)
		return a->is_joined - b->is_joined;
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->ino < b->ino ? -1 : a->ino > b->ino;
}

int rvl_rebind_link(struct rvl_check_rebind *rb)
{
	int r = 0;

	if (!rb->n_splits)
		return 0;
	qsort(rb->splits, rb->n_splits, sizeof(*rb->splits), compare_splits);
	for (size_t i = 0; !r && i < rb->n_splits; i++) {
		const struct rvl_rebind_split *split = &rb->splits[i];

		r = rvl_stop_check(rb->config->stop);
		if (!r)
			r = split->is_joined ? part_joined(rb, split) : join(rb, split);
	}
	return r;
}
