// SPDX-License-Identifier: GPL-2.0-or-later
/* What is to be said of one number: records of directories, link counts, places, lost names. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "check/data.h"
#include "check/group.h"
#include "check/mend.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "layer/merge.h"
#include "layer/path.h"

/* The place that lower has for the number; parent 0: none. */
static int read_view(struct rvl_check *check, const struct rvl_group *group,
		     struct rvl_name_at *ret)
{
	_cleanup_free_ char *name = NULL;
	int r = group->n_views ? rvl_spool_name(check->spool, group->view.item, &name, NULL) : 0;

	*ret = (struct rvl_name_at){ .parent = group->view.parent };
	if (!r && name)
		snprintf(ret->name, sizeof(ret->name), "%s", name);
	return r;
}

/* ---- the record of a directory ---- */

struct record {
	struct rvl_check *check;
	const struct rvl_group *group;
	const struct rvl_fact *fact; /* of the directory */
	struct rvl_entry_directory stored;
	const char *path;
	bool is_written; /* anew, so all of it is right */
};

static int rewrite(struct record *record)
{
	const struct rvl_group *group = record->group;

	record->is_written = true;
	return rvl_mend_record(record->check, group->number, record->fact->item,
			       rvl_parent_number(record->check, record->fact->item),
			       group->has_merged ? group->merged.item : 0,
			       record->stored.is_merged ? &record->stored.place : NULL);
}

static int stale(struct record *record, enum rvl_problem_id id)
{
	if (!rvl_problem_begin(record->check, id, record->group->number, record->path, NULL))
		return 0;
	return rvl_problem_end(record->check, record->is_written ? 0 : rewrite(record));
}

static int check_path(struct record *record, const struct rvl_upper_at *at)
{
	uint64_t parent = record->fact->parent;

	/* a directory that had no number of its own may have one since */
	if (record->check->mode != RVL_CHECK_LOOK)
		parent = rvl_parent_number(record->check, record->fact->item);
	if (!parent || rvl_check_is_pending(record->check, parent) ||
	    (record->stored.path.parent == parent && !strcmp(record->stored.path.name, at->name)))
		return 0;
	return stale(record, RVL_P_PATH_STALE);
}

static int check_upper(struct record *record, const struct rvl_upper_at *at)
{
	struct rvl_handle handle;

	rvl_handle_for_entry(at->dirfd, at->name, &handle);
	if (!handle.len || rvl_handle_equal(&handle, &record->stored.upper))
		return 0;
	return stale(record, RVL_P_UPPER_STALE);
}

static int check_lower(struct record *record)
{
	struct rvl_check *check = record->check;
	const struct rvl_group *group = record->group;
	const struct rvl_layer *layer;
	struct rvl_handle handle;

	if (!group->has_merged)
		return 0;
	_cleanup_close_ int fd = rvl_lower_item_open(check, group->merged.item,
						       O_PATH | O_DIRECTORY, &layer);

	if (fd < 0)
		return 0;
	rvl_handle_for_entry(fd, "", &handle);
	/* an upper without handles keeps none of lower either */
	if (!record->stored.upper.len ||
	    (record->stored.is_merged &&
	     (!handle.len || rvl_handle_equal(&handle, &record->stored.lower))))
		return 0;
	return stale(record, RVL_P_FH_STALE);
}

/* Its lower part is where the record says, at another place than the directory is now. */
static bool is_renamed(const struct record *record)
{
	const struct rvl_name_at *place = &record->stored.place, *path = &record->stored.path;
	struct rvl_name_at view;

	return (place->parent != path->parent || strcmp(place->name, path->name)) &&
	       record->group->n_views && !read_view(record->check, record->group, &view) &&
	       view.parent == place->parent && !strcmp(view.name, place->name);
}

/* It was merged by a redirect, and nothing of its lower part is shown any more. */
static int check_redirect(struct record *record, const struct rvl_upper_at *at)
{
	struct rvl_check *check = record->check;
	const struct rvl_group *group = record->group;
	const struct rvl_layer *layer;
	struct statx st;

	/* one that is there and leads nowhere is a problem of its own */
	if (rvl_xattr_get(&check->stack->xattr, at->dirfd, at->name, RVL_XATTR_REDIRECT, NULL, 0) >=
	    0)
		return 0;
	if (!record->stored.is_merged || group->has_own_merged || !record->stored.lower.len ||
	    record->fact->what & RVL_WHAT_OPAQUE)
		return 0;
	_cleanup_close_ int fd = rvl_lower_of_number(check->index, &record->stored.lower, S_IFDIR,
						     group->number, &layer, &st);

	if (fd < 0 || group->n_directories || !is_renamed(record))
		return 0;
	if (!rvl_problem_begin(check, RVL_P_REDIRECT_MISSING, group->number, record->path, NULL))
		return 0;
	return rvl_problem_end(check, rvl_mend_lost_redirect(check, at, group->number));
}

int rvl_judge_record(struct rvl_check *check, const struct rvl_group *group,
		     const struct rvl_group_object *object)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	_cleanup_free_ char *path = rvl_item_path(check, object->fact.item);
	struct record record = {
		.check = check, .group = group, .fact = &object->fact, .path = path
	};
	int r = rvl_upper_at_open(check, object->fact.item, &at);

	r = r ?: rvl_entry_get_directory(check->index, group->number, &record.stored);
	if (r)
		return r == -ENOENT || r == -EUCLEAN ? 0 : r;
	r = check_path(&record, &at);
	r = r ?: check_upper(&record, &at);
	r = r ?: check_lower(&record);
	return r ?: check_redirect(&record, &at);
}

/* ---- link counts ---- */

int rvl_look_in_view(struct rvl_check *check, uint64_t item, struct rvl_found *ret)
{
	_cleanup_free_ char *path = NULL;
	int r = rvl_spool_path(check->spool, item, &path);

	*ret = (struct rvl_found){ 0 };
	return r ?: rvl_merge_lookup_path(check->stack, path, ret);
}

/* Links of the lower object that no name of the lower view is. */
static uint64_t hidden_links(struct rvl_check *check, const struct rvl_group *group)
{
	struct rvl_found found;
	uint64_t n = 0;

	if (group->n_views && !rvl_look_in_view(check, group->view.item, &found)) {
		if (found.st.stx_nlink > group->n_views)
			n = found.st.stx_nlink - group->n_views;
		rvl_found_release(&found);
	}
	return n;
}

/*
 * Links that the object of an entry shows, by its overlay.nlink: 1 where it has one, 0 where it has none.
 * -EUCLEAN: malformed, which is said elsewhere, or the kernel's, which is relative to lower.
 */
static int read_nlink(struct rvl_check *check, const char *entry, const struct statx *st,
		      int64_t *ret_shown)
{
	struct rvl_nlink nlink = { .diff = -1 };
	int r = rvl_nlink_get(check->index, check->index->inodes_fd, entry, st->stx_mode,
			      st->stx_ino, &nlink);

	if (r < 0 || nlink.is_lower)
		return -EUCLEAN;
	*ret_shown = (int64_t)st->stx_nlink + nlink.diff;
	return r;
}

/* With the same time it may be either. */
static bool is_later(const struct statx_timestamp *time, int64_t sec, uint32_t nsec)
{
	return time->tv_sec > sec || (time->tv_sec == sec && time->tv_nsec >= nsec);
}

/* Its names in lower are those of another object, which has got the inode since: they prove nothing of its
 * link count. 1, 0, -errno. */
static int is_of_other_life(struct rvl_check *check, const struct rvl_group *group)
{
	struct rvl_found found;
	int r;

	if (!group->n_views || rvl_look_in_view(check, group->view.item, &found))
		return 0;
	r = rvl_entry_is_of_other_life(check->index, group->number, &found, check->uuids);
	rvl_found_release(&found);
	return r;
}

int rvl_judge_nlink(struct rvl_check *check, const struct rvl_group *group, uint64_t n_names)
{
	int64_t names = (int64_t)(n_names + group->n_seen), shown, most;
	char path[RVL_ENTRY_PATH_SIZE];
	bool has_value;
	struct statx st;
	int r;

	/* a file that was born here has no overlay.nlink, and names that come and go have a log */
	if (rvl_number_is_born(check->index, group->number))
		return 0;
	rvl_entry_path(group->number, path);
	r = rvl_path_statx(check->index->inodes_fd, path, RVL_STATX_MASK, &st);
	if (r)
		return r == -ENOENT ? 0 : r;
	/* on a live mount: whether its names are those that were counted */
	if (check->config->is_online && is_later(&st.stx_ctime, check->begin.tv_sec,
						 (uint32_t)check->begin.tv_nsec))
		return 0;
	r = read_nlink(check, path, &st, &shown);
	if (r < 0)
		return 0;
	has_value = r > 0;
	most = names + (int64_t)hidden_links(check, group);
	if (shown >= names && (!has_value || !group->n_views || shown <= most))
		return 0;
	r = is_of_other_life(check, group);
	if (r)
		return r < 0 ? r : 0;
	return rvl_defer_nlink(
		check, &(struct rvl_late_nlink){ .number = group->number,
						 .names = names,
						 .shown = shown,
						 .most = most,
						 .item = n_names ? group->objects[0].fact.item :
								   group->seen.item });
}

/* ---- link counts that wait ---- */

int rvl_defer_nlink(struct rvl_check *check, const struct rvl_late_nlink *late)
{
	int r;

	if (check->n_late == RVL_LATE_NLINKS_MAX)
		return 0; /* for the next run */
	r = rvl_array_reserve(&check->late, &check->late_size, check->n_late, sizeof(*check->late),
			      RVL_LATE_NLINKS_MAX);
	if (!r)
		check->late[check->n_late++] = *late;
	return r;
}

static int mend_nlink(struct rvl_check *check, const struct rvl_late_nlink *late)
{
	int inodes_fd = check->index->inodes_fd;
	char path[RVL_ENTRY_PATH_SIZE], value[32];
	struct statx st;
	int r;

	rvl_entry_path(late->number, path);
	r = rvl_path_statx(inodes_fd, path, RVL_STATX_MASK, &st);
	if (r)
		return r;
	snprintf(value, sizeof(value), "U%+lld", (long long)(late->most - (int64_t)st.stx_nlink));
	return rvl_upper_xattr_set(check->index, inodes_fd, path, st.stx_mode, st.stx_ino,
				   RVL_XATTR_NLINK, value, strlen(value));
}

int rvl_check_link_counts(struct rvl_check *check)
{
	int r = 0;

	for (size_t i = 0; !r && i < check->n_late && !check->is_tree_unsure; i++) {
		const struct rvl_late_nlink *late = &check->late[i];
		_cleanup_free_ char *path = rvl_item_path(check, late->item);

		if (rvl_problem_begin(check, RVL_P_NLINK_WRONG, late->number, path,
				      "%lld links, %lld names", (long long)late->shown,
				      (long long)late->names))
			r = rvl_problem_end(check, mend_nlink(check, late));
	}
	check->n_late = 0;
	return r;
}

/* ---- entries without a name ---- */

/* Has the object of an entry nothing that the lower one has not? */
static bool is_same_as_lower(struct rvl_check *check, const char *entry, const struct statx *st,
			     const struct rvl_found *lower)
{
	const struct rvl_place *place = lower->data.layer ? &lower->data : &lower->places.v[0];
	_cleanup_close_ int a = -EBADF, b = -EBADF;

	if (st->stx_mode != lower->st.stx_mode || st->stx_uid != lower->st.stx_uid ||
	    st->stx_gid != lower->st.stx_gid || S_ISLNK(st->stx_mode))
		return false;
	if (!S_ISREG(st->stx_mode))
		return true;
	if (rvl_metacopy_get(check->stack, check->index->inodes_fd, entry) > 0)
		return true;
	if (st->stx_size != lower->st.stx_size)
		return false;
	a = rvl_path_open(check->index->inodes_fd, entry, O_RDONLY, 0);
	b = rvl_path_open_noatime(place->layer->fd, place->path, O_RDONLY);
	return a >= 0 && b >= 0 && rvl_is_same_data(a, b) > 0;
}

/* A name in lost+found, under a number of its own: each state between is an object with a name. */
static int part_from_lower(struct rvl_check *check, uint64_t number, const struct statx *st)
{
	struct rvl_id id;
	char path[RVL_ENTRY_PATH_SIZE];
	int r = rvl_mend_lost(check, number, st);

	rvl_entry_path(number, path);
	return r ?: rvl_entry_renumber(check->index, number, check->index->inodes_fd, path, st, NULL,
				       &id);
}

/* Its one lower name is shown, and leads past the entry. */
static int judge_hidden(struct rvl_check *check, const struct rvl_group *group,
			const struct rvl_found *lower)
{
	_cleanup_free_ char *path = rvl_item_path(check, group->seen.item);
	char entry[RVL_ENTRY_PATH_SIZE];
	struct statx st;
	int r;

	if (!rvl_problem_begin(check, RVL_P_ENTRY_HIDDEN, group->number, path, NULL))
		return 0;
	rvl_entry_path(group->number, entry);
	r = rvl_path_statx(check->index->inodes_fd, entry, RVL_STATX_MASK, &st);
	if (!r)
		r = is_same_as_lower(check, entry, &st, lower) ?
			    rvl_entry_bury(check->index, group->number, false) :
			    part_from_lower(check, group->number, &st);
	return rvl_problem_end(check, r);
}

/*
 * Did a living filesystem take its last name, after our last mount? Then that was meant: a name
 * that is lost with a damaged directory leaves the object's ctime as it was.
 */
static bool is_removed(const struct rvl_check *check, const struct statx *st)
{
	const struct statx_timestamp *end = &check->clean_end;

	return end->tv_sec && st->stx_nlink == 1 &&
	       is_later(&st->stx_ctime, end->tv_sec, end->tv_nsec + 1);
}

static int judge_unnamed_file(struct rvl_check *check, const struct rvl_group *group)
{
	char entry[RVL_ENTRY_PATH_SIZE];
	struct rvl_found lower;
	struct statx st;
	int64_t shown;
	bool is_hidden;
	int r;

	if (group->n_seen) { /* served from the entry under lower names, if there are several */
		if (!group->n_views || rvl_look_in_view(check, group->view.item, &lower))
			return 0;
		is_hidden = lower.st.stx_nlink <= 1;
		r = is_hidden ? judge_hidden(check, group, &lower) :
				rvl_judge_nlink(check, group, 0);
		rvl_found_release(&lower);
		return r;
	}
	rvl_entry_path(group->number, entry);
	r = rvl_path_statx(check->index->inodes_fd, entry, RVL_STATX_MASK, &st);
	/* lower names that it was still served under are none that are shown: its last one was removed */
	if (!r && st.stx_nlink == 1 && !check->config->is_import &&
	    read_nlink(check, entry, &st, &shown) >= 0 && shown > 0) {
		rvl_problem_note(check, RVL_P_ENTRY_DEAD, group->number, NULL, NULL);
		return 0;
	}
	/* the kernel knows nothing of entries */
	if (!r && (is_removed(check, &st) ||
		   (check->config->is_import && st.stx_nlink == 1))) {
		if (!rvl_problem_begin(check, RVL_P_ENTRY_REMOVED, group->number, NULL, NULL))
			return 0;
		return rvl_problem_end(check,
				       rvl_entry_bury(check->index, group->number,
						      !rvl_number_is_born(check->index,
									  group->number)));
	}
	if (!rvl_problem_begin(check, RVL_P_ENTRY_WITHOUT_NAME, group->number, NULL, NULL))
		return 0;
	return rvl_problem_end(check, r ?: rvl_mend_lost(check, group->number, &st));
}

int rvl_judge_unnamed(struct rvl_check *check, const struct rvl_group *group)
{
	bool is_dead;

	if (group->entry.what == RVL_ENTRY_OBJECT)
		return judge_unnamed_file(check, group);
	if (!rvl_problem_begin(check,
			       group->entry.is_damaged ? RVL_P_ENTRY_DAMAGED :
							 RVL_P_ENTRY_WITHOUT_OBJECT,
			       group->number, NULL, NULL))
		return 0;
	/* what came from lower and is not to be seen is dead for ever */
	is_dead = !rvl_number_is_born(check->index, group->number) && !group->n_seen;
	return rvl_problem_end(check, rvl_entry_bury(check->index, group->number, is_dead));
}

/* ---- places ---- */

static int set_place(struct rvl_check *check, uint64_t item, const struct rvl_name_at *place)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	int r = rvl_upper_at_open(check, item, &at);

	if (r)
		return r;
	if (!place->parent)
		return rvl_upper_xattr_remove(check->index, at.dirfd, at.name, at.st.stx_mode,
					      at.st.stx_ino, RVL_XATTR_PLACE);
	return rvl_upper_xattr_set(check->index, at.dirfd, at.name, at.st.stx_mode, at.st.stx_ino,
				   RVL_XATTR_PLACE, value, rvl_name_at_encode(place, value));
}

static int mend_place(struct rvl_check *check, const struct rvl_group *group)
{
	struct rvl_entry_directory record;
	struct rvl_name_at place;
	int r = read_view(check, group, &place);

	if (r || group->place.type != DT_DIR)
		return r ?: set_place(check, group->place.item, &place);
	r = rvl_entry_get_directory(check->index, group->number, &record);
	record.is_merged = group->n_views;
	record.place = place;
	return r ?: rvl_entry_put_directory(check->index, group->number, &record, true);
}

/* Of a file in upper that has its entry, and lies in lower, too. */
static int judge_missing_place(struct rvl_check *check, const struct rvl_group *group)
{
	_cleanup_free_ char *path = NULL;
	struct rvl_name_at place;
	int r;

	if (group->has_place || !group->n_views || group->n_objects != 1 ||
	    group->objects[0].fact.type == DT_DIR || !group->has_entry ||
	    group->entry.what != RVL_ENTRY_OBJECT || check->config->is_online)
		return 0;
	path = rvl_item_path(check, group->objects[0].fact.item);
	if (!rvl_problem_begin(check, RVL_P_PLACE_MISSING, group->number, path, NULL))
		return 0;
	r = read_view(check, group, &place);
	return rvl_problem_end(check, r ?: set_place(check, group->objects[0].fact.item, &place));
}

int rvl_judge_place(struct rvl_check *check, const struct rvl_group *group)
{
	const struct rvl_fact *fact = &group->place;
	_cleanup_free_ char *path = NULL;
	bool is_malformed = fact->what & RVL_WHAT_MALFORMED;

	/* of a number of its own: the kernel's objects, whose place is where they are */
	if (!group->has_stale_place || rvl_number_is_born(check->index, group->number))
		return judge_missing_place(check, group);
	/*
	 * of a file the place is used for the data of a metacopy, and where the kernel had renamed
	 * it that is looked up by the redirect: it may be any place
	 */
	if (fact->item && !is_malformed)
		return 0;
	/* lower gives it another number than it has in upper, and so may its place's parent have */
	if (fact->type == DT_DIR && group->has_merged && !group->n_views)
		return 0;
	if (fact->item)
		path = rvl_item_path(check, fact->item);
	if (!rvl_problem_begin(check, RVL_P_PLACE_STALE, group->number, path, "%s",
			       is_malformed ? "malformed" : "lower has another object there"))
		return 0;
	return rvl_problem_end(check, mend_place(check, group));
}

/* ---- one lower directory, shown twice ---- */

static bool is_above(const char *a, const char *b)
{
	size_t len = strlen(a);

	return !strncmp(a, b, len) && b[len] == '/';
}

static int part(struct rvl_check *check, const struct rvl_group *group, const struct rvl_fact *fact)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	int r = rvl_upper_at_open(check, fact->item, &at);

	return r ?: rvl_mend_opaque(check, at.dirfd, at.name, fact->parent);
}

int rvl_judge_directories(struct rvl_check *check, const struct rvl_group *group)
{
	bool is_seen = group->n_seen && group->seen.type == DT_DIR;
	_cleanup_free_ char *kept = NULL;
	unsigned keeps = 0;
	int r = 0;

	if (!group->n_directories || (group->n_directories == 1 && !is_seen))
		return 0;
	for (unsigned i = 0; i < group->n_directories; i++)
		if (group->directories[i].parent == group->number)
			keeps = i;
	kept = rvl_item_path(check, group->directories[keeps].item);
	for (unsigned i = 0; !r && i < group->n_directories; i++) {
		const struct rvl_fact *fact = &group->directories[i];
		_cleanup_free_ char *path = NULL;
		bool is_loop;

		if (i == keeps)
			continue;
		path = rvl_item_path(check, fact->item);
		is_loop = path && kept && (is_above(path, kept) || is_above(kept, path));
		if (rvl_problem_begin(check, is_loop ? RVL_P_REDIRECT_LOOP : RVL_P_DIRECTORY_TWICE,
				      group->number, path, "as /%s", kept ?: ""))
			r = rvl_problem_end(check, part(check, group, fact));
	}
	if (!r && is_seen) {
		_cleanup_free_ char *path = rvl_item_path(check, group->seen.item);

		if (rvl_problem_begin(check, RVL_P_DIRECTORY_TWICE, group->number, path, "as /%s",
				      kept ?: "")) {
			r = rvl_mend_whiteout(check, group->seen.item);
			if (r == -ENOENT || r == -ENOTDIR)
				r = part(check, group, &group->directories[keeps]);
			r = rvl_problem_end(check, r);
		}
	}
	return r;
}
