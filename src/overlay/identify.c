// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stamps believed and stamps given. A stamp counts only if the entry of its number agrees: is this
 * inode, or leads to this directory. So a copy of a stamped file that was made offline is another
 * object, as it should be, and a forged stamp steals no number. Strangers are stamped one at a
 * time, under a lock of their own, since two names of one inode may be met by two threads.
 */
#include "overlay/identify.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "index/place.h"
#include "index/stamp.h"
#include "layer/origin.h"
#include "layer/path.h"
#include "overlay/nlink.h"

#define NUMBER_RETRIES 8

struct stranger {
	struct rvl_dir *dir;
	const char *name;
	struct rvl_upper_name *upper;
	const struct rvl_found *lower;
};

static bool is_dir(const struct stranger *s)
{
	return S_ISDIR(s->upper->st.stx_mode);
}

static struct rvl_overlay *overlay_of(const struct stranger *s)
{
	return s->dir->node->ov;
}

void rvl_identify_record(struct rvl_dir *dir, const char *name, const struct rvl_upper_name *upper,
			 const struct rvl_found *lower, struct rvl_entry_directory *ret)
{
	struct rvl_overlay *ov = dir->node->ov;

	*ret = (struct rvl_entry_directory){ .path.parent = dir->node->id.number };
	snprintf(ret->path.name, sizeof(ret->path.name), "%s", name);
	rvl_handle_of(ov, dir->fd.fd.fd, name, &ret->upper);
	if (lower->places.n == 0)
		return;
	ret->is_merged = true;
	ret->place = ret->path;
	/* the kernel, or somebody offline, renamed it; one that cannot be found stays where the
	 * directory is now: see reverlayctl check */
	if (upper->redirect)
		(void)rvl_place_of_redirect(ov->index, upper->redirect, &ret->place);
	rvl_handle_of(ov, lower->places.v[0].layer->fd, lower->places.v[0].path, &ret->lower);
}

/* -EEXIST: the number has an entry. */
static int put_entry(const struct stranger *s, uint64_t number)
{
	struct rvl_index *index = overlay_of(s)->index;
	struct rvl_entry_directory record;

	if (!is_dir(s))
		return rvl_entry_link(index, s->dir->fd.fd.fd, s->name, number);
	rvl_identify_record(s->dir, s->name, s->upper, s->lower, &record);
	return rvl_entry_put_directory(index, number, &record, false);
}

/* Does the entry of this number lead here? 1 yes, 0 no. */
static int agrees_directory(const struct stranger *s, uint64_t number)
{
	struct rvl_overlay *ov = overlay_of(s);
	struct rvl_entry_directory entry;
	struct rvl_handle handle;
	struct rvl_name_at here = { .parent = s->dir->node->id.number };
	int r = rvl_entry_get_directory(ov->index, number, &entry);

	if (r < 0)
		return r == -ENOENT || r == -EUCLEAN ? 0 : r;
	snprintf(here.name, sizeof(here.name), "%s", s->name);
	if (rvl_name_at_equal(&entry.path, &here))
		return 1;
	rvl_handle_of(ov, s->dir->fd.fd.fd, s->name, &handle);
	if (handle.len == 0 || !rvl_handle_equal(&handle, &entry.upper))
		return 0;
	/* Renamed offline, or just before a crash: the path is out of step, the handle is not. */
	if (!ov->config.is_read_only && rvl_entry_set_path(ov->index, number, &here) == 0)
		rvl_count(paths_mended);
	return 1;
}

static int agrees_object(const struct stranger *s, uint64_t number)
{
	struct rvl_overlay *ov = overlay_of(s);
	enum rvl_entry_kind kind;
	struct statx stx;
	int r = rvl_entry_look(ov->index, number, &kind, &stx);

	if (r < 0)
		return r == -EUCLEAN ? 0 : r;
	return kind == RVL_ENTRY_OBJECT && stx.stx_ino == s->upper->st.stx_ino;
}

/* 1: this stamp is the object's, 0: it is not. */
static int is_believed(const struct stranger *s, const struct rvl_id *id)
{
	struct rvl_overlay *ov = overlay_of(s);
	struct rvl_node _cleanup_node_ *node = NULL;

	if (id->number == RVL_NUMBER_ROOT)
		return 0;
	node = rvl_node_find(ov, id->number);
	if (node && rvl_node_has_upper(node) && !atomic_load(&node->is_dead))
		return node->upper_ino == s->upper->st.stx_ino;
	return is_dir(s) ? agrees_directory(s, id->number) : agrees_object(s, id->number);
}

/* Of a file, which the entry is one link more of. */
static void count_link(const struct stranger *s)
{
	if (!is_dir(s))
		s->upper->st.stx_nlink++;
}

/* After an unclean stop of the machine a stamp may have survived without its entry, and after one on
 * a full disk, where it could not be made: the number is free, take it. */
static int adopt(const struct stranger *s, const struct rvl_id *id)
{
	struct rvl_overlay *ov = overlay_of(s);
	int r;

	if (ov->config.is_read_only || (!atomic_load(&ov->index->is_incomplete) &&
					!rvl_number_set_get(&ov->unmade, id->number)))
		return 0;
	r = put_entry(s, id->number);
	if (r < 0)
		return r == -EEXIST ? 0 : r;
	count_link(s);
	return 1;
}

int rvl_origin_open(struct rvl_overlay *ov, int dirfd, const char *name, mode_t type,
		    const struct rvl_layer **ret_layer, struct statx *ret_st)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle origin;
	ssize_t n = rvl_xattr_get(&ov->stack->xattr, dirfd, name, RVL_XATTR_ORIGIN, value,
				  sizeof(value));
	int r = n <= 0 ? (int)n : rvl_handle_decode(value, (unsigned)n, &origin);

	if (r == -EUCLEAN || r == -ERANGE) {
		rvl_count(damaged);
		rvl_warn_limited("%s: damaged overlay.origin", name);
		return -EUCLEAN;
	}
	if (n <= 0 || r < 0)
		return -ESTALE;
	r = rvl_origin_find(ov->stack, ov->layer_uuids, &origin, type, ret_layer, ret_st);
	return r < 0 ? -ESTALE : r;
}

/*
 * A lower file with several names is one object with what the kernel copied up only if the kernel's
 * index says so: else it has broken the link, and the other names go on in lower.
 */
static bool is_broken_link(const struct stranger *s, const struct rvl_layer *layer, int fd,
			   const struct statx *lower)
{
	struct rvl_overlay *ov = overlay_of(s);
	char name[RVL_HANDLE_NAME_SIZE];
	struct rvl_handle origin;
	struct statx stx;

	return !is_dir(s) && lower->stx_nlink > 1 &&
	       (ov->kernel_index_fd < 0 ||
		rvl_handle_get(fd, "", ov->layer_uuids[layer->index], &origin) < 0 ||
		rvl_handle_name_encode(&origin, name) < 0 ||
		rvl_path_statx(ov->kernel_index_fd, name, STATX_INO, &stx) < 0 ||
		stx.stx_ino != s->upper->st.stx_ino);
}

/* The number of the lower object that a stranger was copied up from by the kernel (overlay.origin);
 * 0: none. */
static int number_of_origin(const struct stranger *s, struct rvl_id *ret)
{
	struct rvl_overlay *ov = overlay_of(s);
	_cleanup_close_ int fd = -EBADF;
	const struct rvl_layer *layer;
	struct statx stx;

	ret->number = 0;
	if (is_dir(s) && s->lower->places.n) {
		const struct rvl_place *top = &s->lower->places.v[0];

		return rvl_number_of_lower(ov->index, top->layer, top->layer->fd, top->path,
					   &s->lower->st, ret);
	}
	fd = rvl_origin_open(ov, s->dir->fd.fd.fd, s->name, s->upper->st.stx_mode, &layer, &stx);
	if (fd == -EUCLEAN)
		return fd;
	if (fd < 0 || is_broken_link(s, layer, fd, &stx))
		return 0;
	return rvl_number_of_lower(ov->index, layer, fd, "", &stx, ret);
}

/* The kernel's link count does not know our index link. st: of before that. */
static int correct_nlink(struct rvl_overlay *ov, int dirfd, const char *name,
			 const struct statx *st, const struct rvl_id *id)
{
	struct rvl_node *node = rvl_node_new(ov, id, st->stx_mode);
	char value[RVL_NLINK_VALUE_SIZE];
	int r;

	if (!node)
		return -ENOMEM;
	node->upper_ino = st->stx_ino;
	r = rvl_nlink_read(node, dirfd, name, st->stx_nlink);
	if (r == 0 && node->has_nlink_xattr)
		r = rvl_upper_xattr_set(ov->index, dirfd, name, node->type, node->upper_ino,
					RVL_XATTR_NLINK, value,
					rvl_nlink_format(node->nlink_diff - 1, value));
	rvl_node_free(node);
	return r;
}

/* Of a metacopy file: where its data are to be looked for when it is found by its entry alone. */
static int set_place(const struct stranger *s)
{
	struct rvl_name_at at = { .parent = s->dir->node->id.number };
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];

	snprintf(at.name, sizeof(at.name), "%s", s->name);
	return rvl_upper_xattr_set(overlay_of(s)->index, s->dir->fd.fd.fd, s->name,
				   s->upper->st.stx_mode, s->upper->st.stx_ino, RVL_XATTR_PLACE,
				   value, rvl_name_at_encode(&at, value));
}

static int give_stamp(const struct stranger *s, struct rvl_id *ret)
{
	struct rvl_overlay *ov = overlay_of(s);
	int dirfd = s->dir->fd.fd.fd;
	struct rvl_id origin;
	int r = number_of_origin(s, &origin);

	for (unsigned i = 0; r == 0 && i < NUMBER_RETRIES; i++) {
		r = i == 0 && origin.number ? rvl_number_for_unstamped(ov->index, &origin, ret) :
					      rvl_number_born(ov->index, ret);
		if (r < 0)
			return r;
		r = rvl_stamp_set(ov->index, dirfd, s->name, s->upper->st.stx_mode,
				  s->upper->st.stx_ino, ret);
		if (r < 0)
			return r;
		if (s->upper->is_metacopy)
			r = set_place(s);
		if (r < 0)
			return r;
		r = put_entry(s, ret->number);
		/* after the link: a death in between leaves a count too high, never too low */
		if (r == 0 && !is_dir(s))
			r = correct_nlink(ov, dirfd, s->name, &s->upper->st, ret);
		if (r == 0) {
			count_link(s);
			rvl_count(stamped_on_sight);
			return 0;
		}
		if (r == -EEXIST)
			r = 0;
	}
	return r < 0 ? r : -EIO;
}

int rvl_identify_for_mount(struct rvl_dir *dir, const char *name,
			   const struct rvl_upper_name *upper, struct rvl_id *ret)
{
	struct rvl_overlay *ov = dir->node->ov;

	return rvl_number_of_lower(ov->index, rvl_stack_upper(ov->stack), dir->fd.fd.fd, name,
				   &upper->st, ret);
}

/* The number of its stamp, which could be read or not: 1; 0: it is a stranger. */
static int take_stamp(const struct stranger *s, int stamp_error, const struct rvl_id *id)
{
	int r = stamp_error;

	if (r < 0)
		return r == -ENODATA ? 0 : r;
	r = is_believed(s, id);
	return r == 0 ? adopt(s, id) : r;
}

/* With identify_lock. */
static int identify_stranger(const struct stranger *s, struct rvl_id *ret)
{
	struct rvl_id old = {};
	/* once more: another thread may have stamped it meanwhile */
	int r = rvl_stamp_get(overlay_of(s)->index, s->dir->fd.fd.fd, s->name,
			      s->upper->st.stx_mode, s->upper->st.stx_ino, &old);

	*ret = old;
	r = take_stamp(s, r, &old);
	if (r == 0)
		r = give_stamp(s, ret);
	if (r < 0)
		return r;
	if (old.number && ret->number != old.number) {
		rvl_count(stamps_refused);
		rvl_warn_limited("%s: its stamp %llu is another object's; it gets a new number",
				 s->name, (unsigned long long)old.number);
	}
	return 0;
}

int rvl_identify(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
		 const struct rvl_found *lower, struct rvl_id *ret)
{
	const struct stranger s = { dir, name, upper, lower };
	struct rvl_overlay *ov = dir->node->ov;
	int r;

	*ret = upper->stamp;
	r = take_stamp(&s, upper->stamp_error, ret);
	if (r != 0)
		return r < 0 ? r : 0;
	if (ov->config.is_read_only) {
		upper->is_unindexed = true;
		return rvl_identify_for_mount(dir, name, upper, ret);
	}
	pthread_mutex_lock(&ov->identify_lock);
	r = identify_stranger(&s, ret);
	pthread_mutex_unlock(&ov->identify_lock);
	return r;
}

static int take_from_kernel_index(struct rvl_overlay *ov, const char *name, mode_t type,
				  const struct rvl_id *id)
{
	enum rvl_entry_kind kind;
	struct statx stx;
	int fd = ov->kernel_index_fd;
	/* another name of it may have been met by another thread meanwhile */
	int r = rvl_entry_look(ov->index, id->number, &kind, &stx);

	if (r < 0 || kind != RVL_ENTRY_NONE)
		return r < 0 ? r : 1;
	r = rvl_path_statx(fd, name, RVL_STATX_MASK, &stx);
	if (r == -ENOENT || (r == 0 && (stx.stx_mode & S_IFMT) != (type & S_IFMT)))
		return 0;
	if (r == 0)
		r = rvl_stamp_set(ov->index, fd, name, stx.stx_mode, stx.stx_ino, id);
	if (r == 0)
		r = rvl_entry_link(ov->index, fd, name, id->number);
	if (r == 0)
		r = correct_nlink(ov, fd, name, &stx, id);
	if (r < 0)
		return r == -EEXIST ? 1 : r;
	rvl_count(stamped_on_sight);
	return 1;
}

int rvl_identify_kernel_index(struct rvl_overlay *ov, const struct rvl_found *lower,
			      const struct rvl_id *id)
{
	const struct rvl_place *top = &lower->places.v[0];
	char name[RVL_HANDLE_NAME_SIZE];
	struct rvl_handle handle;
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (ov->kernel_index_fd < 0 || ov->config.is_read_only)
		return 0;
	fd = rvl_path_open(top->layer->fd, top->path, O_PATH, 0);
	if (fd < 0)
		return fd;
	if (rvl_handle_get(fd, "", ov->layer_uuids[top->layer->index], &handle) < 0)
		return 0;
	if (rvl_handle_name_encode(&handle, name) < 0)
		return 0;
	pthread_mutex_lock(&ov->identify_lock);
	r = take_from_kernel_index(ov, name, lower->st.stx_mode, id);
	pthread_mutex_unlock(&ov->identify_lock);
	return r;
}
