// SPDX-License-Identifier: GPL-2.0-or-later
/* The steps of repair on numbers, stamps and entries. Those on values: mend_value.c. */
#include "check/mend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "check/group.h"
#include "index/nlink.h"
#include "index/place.h"
#include "index/stamp.h"
#include "index/state.h"
#include "layer/origin.h"
#include "layer/path.h"

#define NUMBER_RETRIES 8
#define UNSTAMPED_DEPTH_MAX 256 /* more is for the next run */
#define LOST_NAMES_MAX 100

/* ---- finding things ---- */

void rvl_upper_at_release(struct rvl_upper_at *at)
{
	rvl_close(at->dirfd);
	free(at->name);
	*at = (struct rvl_upper_at){ .dirfd = -EBADF };
}

int rvl_upper_at_open(struct rvl_check *check, uint64_t item, struct rvl_upper_at *ret)
{
	_cleanup_free_ char *path = NULL;
	uint64_t parent;
	int r;

	*ret = (struct rvl_upper_at){ .dirfd = -EBADF };
	r = rvl_spool_name(check->spool, item, &ret->name, &parent);
	r = r ?: rvl_spool_path(check->spool, parent, &path);
	if (!r) {
		ret->dirfd =
			rvl_path_open(check->stack->layers[0].fd, path, O_PATH | O_DIRECTORY, 0);
		r = ret->dirfd < 0 ? ret->dirfd : 0;
	}
	r = r ?: rvl_path_statx(ret->dirfd, ret->name, RVL_STATX_MASK, &ret->st);
	if (r)
		rvl_upper_at_release(ret);
	return r;
}

int rvl_lower_of_number(struct rvl_index *index, const struct rvl_handle *handle, mode_t type,
			uint64_t number, const struct rvl_layer **ret_layer, struct statx *ret_st)
{
	const struct rvl_stack *stack = index->stack;
	int result = -ESTALE;

	for (unsigned i = 1; i < stack->n; i++) {
		_cleanup_close_ int fd =
			rvl_origin_find_in(&stack->layers[i], handle, type, ret_st);
		struct rvl_id id;

		if (fd == -EPERM)
			result = -EPERM;
		if (fd < 0 || rvl_number_of_lower(index, &stack->layers[i], fd, "", ret_st, &id) ||
		    id.number != number)
			continue;
		*ret_layer = &stack->layers[i];
		return rvl_take_fd(&fd);
	}
	return result;
}

int rvl_lower_item_add(struct rvl_check *check, const struct rvl_place *place, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;

	if (asprintf(&text, "%u:%s", place->layer->index, place->path) < 0) {
		text = NULL;
		return -ENOMEM;
	}
	return rvl_spool_add(check->spool, RVL_SPOOL_ROOT, text, ret);
}

int rvl_lower_item_open(struct rvl_check *check, uint64_t item, uint64_t flags,
			const struct rvl_layer **ret_layer)
{
	_cleanup_free_ char *text = NULL;
	unsigned long i;
	char *end;
	int r = rvl_spool_name(check->spool, item, &text, NULL);

	if (r)
		return r;
	i = strtoul(text, &end, 10);
	if (*end != ':' || i >= check->stack->n)
		return -EIO;
	*ret_layer = &check->stack->layers[i];
	if (flags & O_PATH)
		return rvl_path_open((*ret_layer)->fd, end + 1, flags, 0);
	return rvl_path_open_noatime((*ret_layer)->fd, end + 1, flags);
}

bool rvl_number_is_of_lower(const struct rvl_check *check, uint64_t number)
{
	const struct rvl_state_instance *instance = rvl_state_instance_by_id(
		check->index->state, (uint16_t)(number >> RVL_INSTANCE_SHIFT));

	return instance && !(instance->flags & (RVL_INSTANCE_COUNTER | RVL_INSTANCE_IMPORTED));
}

/* ---- stamps and numbers ---- */

int rvl_mend_stamp(struct rvl_check *check, int dirfd, const char *name, const struct statx *st,
		   uint64_t number, const struct rvl_handle *lower)
{
	struct rvl_index *index = check->index;
	struct rvl_id id = { .number = number };
	const struct rvl_layer *layer;
	struct statx lower_st = { 0 };

	if (lower && lower->len && !rvl_number_is_born(index, number)) {
		_cleanup_close_ int fd = rvl_lower_of_number(index, lower, st->stx_mode, number,
							     &layer, &lower_st);

		if (fd < 0)
			lower_st.stx_mask = 0;
	}
	/* without birth time: that of a born object */
	id.generation = rvl_number_generation(index, &lower_st);
	return rvl_stamp_set(index, dirfd, name, st->stx_mode, st->stx_ino, &id);
}

static int read_origin(struct rvl_check *check, const struct rvl_upper_at *at,
		       struct rvl_handle *ret)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	ssize_t n = rvl_upper_xattr_get(check->index, at->dirfd, at->name, at->st.stx_mode,
					at->st.stx_ino, RVL_XATTR_ORIGIN, value, sizeof(value));

	return n <= 0 ? -ENODATA : rvl_handle_decode(value, (unsigned)n, ret);
}

/*
 * A lower file with several names is one object with what the kernel copied up only if the kernel's
 * index says so: else it has broken the link.
 */
static bool is_broken_link(struct rvl_check *check, const struct rvl_upper_at *at,
			   const struct rvl_handle *origin, const struct statx *lower)
{
	char path[sizeof("index/") + RVL_HANDLE_NAME_SIZE] = "index/";
	struct statx st;

	return !S_ISDIR(at->st.stx_mode) && lower->stx_nlink > 1 &&
	       (rvl_handle_name_encode(origin, path + strlen(path)) ||
		rvl_path_statx(check->stack->work_fd, path, STATX_INO, &st) ||
		st.stx_ino != at->st.stx_ino);
}

/*
 * The number of what an unstamped object was copied up from, or is merged with; 0: nothing is
 * known, as in a rebind, where lower's numbers are not yet what they will be.
 */
static void number_of_origin(struct rvl_check *check, const struct rvl_upper_at *at,
			     struct rvl_id *ret)
{
	const uint64_t merged = rvl_number_set_get(&check->merged, at->st.stx_ino);
	_cleanup_close_ int fd = -EBADF;
	const struct rvl_layer *layer;
	struct rvl_handle origin;
	struct statx st;

	*ret = (struct rvl_id){ 0 };
	if (check->config->is_rebind)
		return;
	if (merged) {
		fd = rvl_lower_item_open(check, merged, O_PATH | O_DIRECTORY, &layer);
		if (fd >= 0 && rvl_path_statx(fd, "", RVL_STATX_MASK, &st))
			return;
	} else if (!read_origin(check, at, &origin)) {
		fd = rvl_origin_find(check->stack, check->uuids, &origin, at->st.stx_mode, &layer,
				     &st);
		if (fd >= 0 && is_broken_link(check, at, &origin, &st))
			return;
	}
	if (fd >= 0 && rvl_number_of_lower(check->index, layer, fd, "", &st, ret))
		ret->number = 0;
}

/*
 * Where the merged directory of a new record is in lower; ret: in, where it is in upper. Of copied
 * layers the numbers of lower's directories are not known yet: its place is in itself then, which says
 * nothing, and the rebind finds it by its handle.
 */
static int find_place(struct rvl_check *check, uint64_t number, const struct rvl_upper_at *at,
		      struct rvl_name_at *ret)
{
	_cleanup_free_ char *redirect = NULL;
	int r = rvl_redirect_get(check->stack, at->dirfd, at->name, &redirect);

	if (!r && redirect && check->config->is_rebind && *redirect == '/')
		ret->parent = number;
	else if (!r && redirect)
		r = rvl_place_of_redirect(check->index, redirect, ret);
	return rvl_merge_is_local_error(r) ? 0 : r;
}

int rvl_mend_record(struct rvl_check *check, uint64_t number, uint64_t item, uint64_t parent,
		    uint64_t lower_item, const struct rvl_name_at *place)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	struct rvl_entry_directory record = { .path.parent = parent };
	const struct rvl_layer *layer;
	int r = rvl_upper_at_open(check, item, &at);

	if (r)
		return r;
	if (!parent || !S_ISDIR(at.st.stx_mode))
		return -ESTALE; /* when the directory above has its number */
	snprintf(record.path.name, sizeof(record.path.name), "%s", at.name);
	rvl_handle_for_entry(at.dirfd, at.name, &record.upper);
	if (lower_item) {
		_cleanup_close_ int fd = -EBADF;

		if (lower_item != RVL_ITEM_UNKNOWN)
			fd = rvl_lower_item_open(check, lower_item, O_PATH | O_DIRECTORY, &layer);
		record.is_merged = true;
		record.place = place ? *place : record.path;
		if (!place)
			r = find_place(check, number, &at, &record.place);
		if (r)
			return r;
		if (fd >= 0)
			rvl_handle_for_entry(fd, "", &record.lower);
	}
	return rvl_entry_put_directory(check->index, number, &record, true);
}

int rvl_mend_entry(struct rvl_check *check, uint64_t number, uint64_t item)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	int r = rvl_upper_at_open(check, item, &at);

	return r ?: rvl_entry_link(check->index, at.dirfd, at.name, number);
}

/* The number of the directory of an item, which gets one if it has none. */
static int number_of_parent(struct rvl_check *check, uint64_t item, unsigned depth, uint64_t *ret);

static int give_number(struct rvl_check *check, uint64_t item, unsigned depth)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	struct rvl_index *index = check->index;
	struct rvl_id origin, id;
	uint64_t parent = 0, merged;
	bool is_dir;
	int r = rvl_upper_at_open(check, item, &at);

	is_dir = !r && S_ISDIR(at.st.stx_mode);
	if (is_dir)
		r = number_of_parent(check, item, depth, &parent);
	if (r)
		return r;
	/* the record of a merged one says so from the start: else it is one that hides lower */
	merged = rvl_number_set_get(&check->merged, at.st.stx_ino);
	if (!merged && check->is_merged_incomplete)
		merged = RVL_ITEM_UNKNOWN;
	number_of_origin(check, &at, &origin);
	for (unsigned i = 0; !r && i < NUMBER_RETRIES; i++) {
		r = !i && origin.number ? rvl_number_for_unstamped(index, &origin, &id) :
					  rvl_number_born(index, &id);
		r = r	  ?:
			    rvl_stamp_set(index, at.dirfd, at.name, at.st.stx_mode, at.st.stx_ino,
					  &id);
		r = r ?: is_dir ?
			    rvl_mend_record(check, id.number, item, parent, merged, NULL) :
			    rvl_entry_link(index, at.dirfd, at.name, id.number);
		if (r == -EEXIST) {
			r = 0;
			continue;
		}
		if (!r && !is_dir)
			r = rvl_nlink_change(check->index, at.dirfd, at.name, at.st.stx_mode,
					     at.st.stx_ino, -1);
		return r;
	}
	return r ?: -EIO;
}

static int number_of_parent(struct rvl_check *check, uint64_t item, unsigned depth, uint64_t *ret)
{
	_cleanup_free_ char *name = NULL;
	uint64_t parent;
	int r;

	*ret = rvl_parent_number(check, item);
	if (*ret)
		return 0;
	if (depth >= UNSTAMPED_DEPTH_MAX)
		return -ELOOP;
	r = rvl_spool_name(check->spool, item, &name, &parent);
	r = r ?: give_number(check, parent, depth + 1);
	*ret = r ? 0 : rvl_parent_number(check, item);
	return r ?: *ret ? 0 : -ESTALE;
}

int rvl_mend_number(struct rvl_check *check, uint64_t item)
{
	return give_number(check, item, 0);
}

/* ---- lost+found ---- */

/* A free name for the directory, or that of one which is in upper. 1: it is there. */
static int find_lost_name(struct rvl_check *check, char ret[NAME_MAX + 1], struct rvl_id *ret_id)
{
	const struct rvl_layer *upper = &check->stack->layers[0];
	struct rvl_places root = { 0 };
	int r = rvl_places_of_root(check->stack, &root), is_there = 0;

	for (unsigned i = 0; !r && i < LOST_NAMES_MAX; i++) {
		struct rvl_found found = { 0 };
		struct statx st;

		snprintf(ret, NAME_MAX + 1, i ? RVL_LOST_NAME ".%u" : RVL_LOST_NAME, i);
		r = rvl_path_statx(upper->fd, ret, RVL_STATX_MASK, &st);
		if (!r && S_ISDIR(st.stx_mode) &&
		    !rvl_stamp_get(check->index, upper->fd, ret, S_IFDIR, st.stx_ino, ret_id)) {
			is_there = 1;
			break;
		}
		if (!r)
			continue;
		if (r != -ENOENT)
			break;
		r = root.n ? rvl_merge_lookup(check->stack, &root, ret, NULL, NULL, &found) : 0;
		is_there = found.places.n ? 1 : 0;
		rvl_found_release(&found);
		if (!r && !is_there)
			break;
		is_there = 0;
	}
	rvl_places_release(&root);
	return r ?: is_there;
}

/* Stamped and with its entry before it gets its name. */
static int make_lost(struct rvl_check *check, const char *name, struct rvl_id *ret)
{
	struct rvl_entry_directory record = { .path.parent = RVL_NUMBER_ROOT };
	struct rvl_index *index = check->index;
	char temp[RVL_TEMP_NAME_SIZE];
	struct statx st;
	int r;

	rvl_index_temp_name(index, temp);
	if (mkdirat(index->temp_fd, temp, 0700))
		return -errno;
	r = rvl_path_statx(index->temp_fd, temp, RVL_STATX_MASK, &st);
	r = r ?: rvl_number_born(index, ret);
	r = r ?: rvl_stamp_set(index, index->temp_fd, temp, S_IFDIR, st.stx_ino, ret);
	snprintf(record.path.name, sizeof(record.path.name), "%s", name);
	rvl_handle_for_entry(index->temp_fd, temp, &record.upper);
	r = r ?: rvl_entry_put_directory(index, ret->number, &record, false);
	if (!r &&
	    renameat2(index->temp_fd, temp, check->stack->layers[0].fd, name, RENAME_NOREPLACE))
		r = -errno;
	return r;
}

static int open_lost(struct rvl_check *check)
{
	char name[NAME_MAX + 1];
	struct rvl_id id;
	int r;

	if (check->lost_fd >= 0)
		return 0;
	r = find_lost_name(check, name, &id);
	if (!r)
		r = make_lost(check, name, &id);
	if (r < 0)
		return r;
	check->lost_fd = rvl_path_open(check->stack->layers[0].fd, name, O_RDONLY | O_DIRECTORY, 0);
	check->lost_dir = id.number;
	return check->lost_fd < 0 ? check->lost_fd : 0;
}

int rvl_mend_lost_at(struct rvl_check *check, int dirfd, const char *name, const struct statx *st)
{
	char lost[48 + NAME_MAX];
	struct statx there;
	int r = open_lost(check);

	for (unsigned i = 0; !r && i < LOST_NAMES_MAX; i++) {
		const char *last = strrchr(name, '/');

		snprintf(lost, sizeof(lost), i ? "%.200s.%u" : "%.200s", last ? last + 1 : name, i);
		if (!linkat(dirfd, name, check->lost_fd, lost, 0))
			return 0;
		/* by a repair that was interrupted */
		if (errno == EEXIST && !rvl_path_statx(check->lost_fd, lost, STATX_INO, &there) &&
		    there.stx_ino == st->stx_ino)
			return 0;
		if (errno != EEXIST)
			r = -errno;
	}
	return r ?: -EEXIST;
}

int rvl_mend_lost(struct rvl_check *check, uint64_t number, const struct statx *st)
{
	char path[RVL_ENTRY_PATH_SIZE];
	int r;

	rvl_entry_path(number, path);
	r = rvl_mend_lost_at(check, check->index->inodes_fd, path, st);
	if (r)
		return r;
	/* its one name now */
	r = rvl_upper_xattr_remove(check->index, check->index->inodes_fd, path, st->stx_mode,
				   st->stx_ino, RVL_XATTR_NLINK);
	/* user.* on a symlink or a device: it cannot have any */
	return r == -ENODATA || r == -EPERM || r == -EACCES || r == -EOPNOTSUPP ? 0 : r;
}

/* ---- whiteouts ---- */

int rvl_mend_whiteout(struct rvl_check *check, uint64_t item)
{
	_cleanup_free_ char *name = NULL, *path = NULL;
	_cleanup_close_ int dirfd = -EBADF;
	uint64_t parent;
	int r = rvl_spool_name(check->spool, item, &name, &parent);

	r = r ?: rvl_spool_path(check->spool, parent, &path);
	if (r)
		return r;
	dirfd = rvl_path_open(check->stack->layers[0].fd, path, O_PATH | O_DIRECTORY, 0);
	if (dirfd < 0)
		return dirfd;
	return mknodat(dirfd, name, S_IFCHR, makedev(0, 0)) ? -errno : 0;
}
