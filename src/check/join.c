// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The facts, number by number: does what the index says agree with what upper and lower have?
 *
 * Whose number is it, when several claim it? The entry of a file is the file: a hard link. The
 * record of a directory knows its handle, and where it is. Without either, the first object that
 * has the stamp keeps it. Whoever does not keep it gets a number of its own; nothing is removed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "check/group.h"
#include "check/mend.h"
#include "index/map.h"
#include "index/stamp.h"
#include "index/state.h"
#include "layer/path.h"

struct join {
	struct rvl_check *check;
	struct rvl_group group;
	bool is_map_complete;
};

char *rvl_item_path(struct rvl_check *check, uint64_t item)
{
	char *path = NULL;

	return rvl_spool_path(check->spool, item, &path) ? NULL : path;
}

uint64_t rvl_parent_number(struct rvl_check *check, uint64_t item)
{
	_cleanup_free_ char *name = NULL, *path = NULL;
	struct rvl_id id;
	struct statx st;
	uint64_t parent;

	if (rvl_spool_name(check->spool, item, &name, &parent))
		return 0;
	if (parent == RVL_SPOOL_ROOT)
		return RVL_NUMBER_ROOT;
	path = rvl_item_path(check, parent);
	if (!path)
		return 0;
	_cleanup_close_ int fd =
		rvl_path_open(check->stack->layers[0].fd, path, O_PATH | O_DIRECTORY, 0);

	if (fd < 0 || rvl_path_statx(fd, "", STATX_INO, &st) ||
	    rvl_stamp_get(check->index, fd, "", S_IFDIR, st.stx_ino, &id))
		return 0;
	return id.number;
}

/* ---- gathering ---- */

static int add_object(struct rvl_group *group, const struct rvl_fact *fact)
{
	struct rvl_group_object *objects;

	if (group->n_objects && group->objects[group->n_objects - 1].fact.key == fact->key) {
		group->objects[group->n_objects - 1].n_names++;
		return 0;
	}
	if (group->n_objects == RVL_GROUP_OBJECTS_MAX)
		return 0;
	objects = reallocarray(group->objects, group->n_objects + 1, sizeof(*objects));
	if (!objects)
		return -ENOMEM;
	group->objects = objects;
	objects[group->n_objects++] = (struct rvl_group_object){ .fact = *fact, .n_names = 1 };
	return 0;
}

static int append(struct rvl_fact **facts, unsigned *n, const struct rvl_fact *fact)
{
	struct rvl_fact *more;

	if (*n == RVL_GROUP_FACTS_MAX)
		return 0;
	more = reallocarray(*facts, *n + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	*facts = more;
	more[(*n)++] = *fact;
	return 0;
}

/* All facts of one place are there. */
static void end_key(struct join *join)
{
	struct rvl_group *group = &join->group;

	if (!group->has_key)
		return;
	if (group->key_has_place && !group->key_has_view && !group->has_stale_place) {
		group->has_stale_place = true;
		group->place = group->key_place;
	}
	if ((group->key_has_row && !group->key_has_view) ||
	    (group->key_has_view && !group->key_has_row && join->is_map_complete))
		join->check->is_map_stale = true;
	group->has_key = group->key_has_place = group->key_has_row = group->key_has_view = false;
}

static void add_place(struct join *join, const struct rvl_fact *fact)
{
	struct rvl_group *group = &join->group;

	if (group->has_key && group->key != fact->key)
		end_key(join);
	group->has_key = true;
	group->key = fact->key;
	if (fact->kind == RVL_FACT_VIEW) {
		group->key_has_view = true;
		if (!group->n_views++)
			group->view = *fact;
	} else if (fact->kind == RVL_FACT_ROW) {
		group->key_has_row = true;
	} else {
		group->has_place = true;
		if (!group->key_has_place)
			group->key_place = *fact;
		group->key_has_place = true;
	}
}

static int add_fact(struct join *join, const struct rvl_fact *fact)
{
	struct rvl_group *group = &join->group;

	switch ((enum rvl_fact_kind)fact->kind) {
	case RVL_FACT_ENTRY:
		group->has_entry = true;
		group->entry = *fact;
		return 0;
	case RVL_FACT_OBJECT:
		return add_object(group, fact);
	case RVL_FACT_MERGED:
		/* with several directories of this stamp, one that fits */
		if (!group->has_own_merged)
			group->merged = *fact;
		group->has_merged = true;
		group->has_own_merged |= fact->key == fact->number;
		return 0;
	case RVL_FACT_ORIGIN:
		return append(&group->directories, &group->n_directories, fact);
	case RVL_FACT_STRAY:
		/* by another of its names */
		if (group->n_strays && group->strays[group->n_strays - 1].key == fact->key)
			return 0;
		return append(&group->strays, &group->n_strays, fact);
	case RVL_FACT_SEEN:
		if (!group->n_seen++)
			group->seen = *fact;
		return 0;
	default:
		add_place(join, fact);
		return 0;
	}
}

static void group_release(struct rvl_group *group)
{
	free(group->objects);
	free(group->directories);
	free(group->strays);
	*group = (struct rvl_group){ 0 };
}

/* ---- whose number it is ---- */

static bool is_directory(const struct rvl_fact *fact)
{
	return fact->type == DT_DIR;
}

static bool has_handle(struct rvl_check *check, const struct rvl_fact *fact,
		       const struct rvl_handle *handle)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	struct rvl_handle own;

	if (!handle->len || rvl_upper_at_open(check, fact->item, &at))
		return false;
	rvl_handle_for_entry(at.dirfd, at.name, &own);
	return own.len && rvl_handle_equal(&own, handle);
}

static bool is_at(struct rvl_check *check, const struct rvl_fact *fact,
		  const struct rvl_name_at *place)
{
	_cleanup_free_ char *name = NULL;

	return fact->parent == place->parent &&
	       !rvl_spool_name(check->spool, fact->item, &name, NULL) && !strcmp(name, place->name);
}

/* The directory of a record, among those with its number; -1: none. */
static int find_directory(struct rvl_check *check, const struct rvl_group *group)
{
	struct rvl_entry_directory record;
	int first = -1, at = -1;

	if (rvl_entry_get_directory(check->index, group->number, &record))
		record = (struct rvl_entry_directory){ 0 };
	for (unsigned i = 0; i < group->n_objects; i++) {
		const struct rvl_fact *fact = &group->objects[i].fact;

		if (!is_directory(fact))
			continue;
		if (has_handle(check, fact, &record.upper))
			return (int)i;
		if (at < 0 && is_at(check, fact, &record.path))
			at = (int)i;
		if (first < 0)
			first = (int)i;
	}
	return at >= 0 ? at : first;
}

/* Who keeps the number; -1: none of the objects with a name in upper. */
static int find_owner(struct rvl_check *check, const struct rvl_group *group)
{
	if (!group->n_objects)
		return -1;
	if (!group->has_entry || group->entry.what == RVL_ENTRY_TOMBSTONE)
		return 0;
	if (group->entry.what == RVL_ENTRY_DIRECTORY)
		return find_directory(check, group);
	for (unsigned i = 0; i < group->n_objects; i++)
		if (group->objects[i].fact.key == group->entry.key)
			return (int)i;
	return -1;
}

static int make_entry(struct rvl_check *check, const struct rvl_group *group,
		      const struct rvl_fact *fact)
{
	if (!is_directory(fact))
		return rvl_mend_entry(check, group->number, fact->item);
	return rvl_mend_record(check, group->number, fact->item,
			       rvl_parent_number(check, fact->item),
			       group->has_merged ? group->merged.item : 0, NULL);
}

static int judge_owner(struct rvl_check *check, const struct rvl_group *group,
		       const struct rvl_group_object *object)
{
	const struct rvl_fact *fact = &object->fact;
	_cleanup_free_ char *path = rvl_item_path(check, fact->item);
	int r;

	rvl_check_note_number(check, group->number);
	if (!group->has_entry) {
		if (!rvl_problem_begin(check, RVL_P_OBJECT_WITHOUT_ENTRY, group->number, path,
				       NULL))
			return 0;
		return rvl_problem_end(check, make_entry(check, group, fact));
	}
	if (group->entry.what == RVL_ENTRY_TOMBSTONE) {
		if (!rvl_problem_begin(check, RVL_P_TOMBSTONE_ALIVE, group->number, path, NULL))
			return 0;
		r = rvl_entry_bury(check->index, group->number, false);
		return rvl_problem_end(check, r ?: make_entry(check, group, fact));
	}
	if (group->entry.is_damaged) {
		if (!rvl_problem_begin(check, RVL_P_ENTRY_DAMAGED, group->number, path, NULL))
			return 0;
		return rvl_problem_end(check, make_entry(check, group, fact));
	}
	if (is_directory(fact))
		return rvl_judge_record(check, group, object);
	return rvl_judge_nlink(check, group, object->n_names);
}

static int judge_others(struct rvl_check *check, const struct rvl_group *group, int owner)
{
	int r = 0;

	for (unsigned i = 0; !r && i < group->n_objects; i++) {
		const struct rvl_fact *fact = &group->objects[i].fact;
		_cleanup_free_ char *path = NULL;

		/* names of a file that were links are compared by the rebind */
		if ((int)i == owner || (check->config->is_rebind && !is_directory(fact)))
			continue;
		path = rvl_item_path(check, fact->item);
		if (rvl_problem_begin(check, RVL_P_STAMP_TWICE, group->number, path, NULL))
			r = rvl_problem_end(check, rvl_mend_number(check, fact->item));
	}
	return r;
}

/* ---- objects without a stamp ---- */

/* By another name, or as a directory of another object, it has got one since. */
static bool has_number_now(struct rvl_check *check, const struct rvl_fact *fact)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	struct rvl_id id;

	return check->mode != RVL_CHECK_LOOK && !rvl_upper_at_open(check, fact->item, &at) &&
	       !rvl_stamp_get(check->index, at.dirfd, at.name, at.st.stx_mode, at.st.stx_ino,
			      &id) &&
	       id.number > RVL_NUMBER_ROOT;
}

static int judge_unstamped(struct rvl_check *check, const struct rvl_fact *fact)
{
	_cleanup_free_ char *path = NULL;
	enum rvl_problem_id id = fact->what & RVL_WHAT_MALFORMED ? RVL_P_STAMP_DAMAGED :
								   RVL_P_STAMP_MISSING;

	if (has_number_now(check, fact))
		return 0;
	path = rvl_item_path(check, fact->item);
	if (!rvl_problem_begin(check, id, 0, path, NULL))
		return 0;
	return rvl_problem_end(check, rvl_mend_number(check, fact->item));
}

/* ---- one number ---- */

static int judge(struct rvl_check *check, const struct rvl_group *group)
{
	enum rvl_entry_kind kind = group->has_entry ? group->entry.what : RVL_ENTRY_NONE;
	_cleanup_free_ char *path = NULL;
	int owner, r = 0;

	if (!group->number || rvl_check_is_pending(check, group->number))
		return 0;
	owner = find_owner(check, group);
	if (owner >= 0) {
		r = judge_owner(check, group, &group->objects[owner]);
	} else if (kind == RVL_ENTRY_OBJECT || kind == RVL_ENTRY_DIRECTORY) {
		r = rvl_judge_unnamed(check, group);
	} else if (kind == RVL_ENTRY_TOMBSTONE && group->n_seen) {
		path = rvl_item_path(check, group->seen.item);
		if (rvl_problem_begin(check, RVL_P_TOMBSTONE_ALIVE, group->number, path, NULL))
			r = rvl_problem_end(check,
					    rvl_entry_bury(check->index, group->number, false));
	}
	r = r ?: judge_others(check, group, owner);
	r = r ?: rvl_judge_place(check, group);
	r = r ?: rvl_judge_strays(check, group);
	return r ?: rvl_judge_directories(check, group);
}

static int end_group(struct join *join)
{
	int r;

	end_key(join);
	r = judge(join->check, &join->group);
	group_release(&join->group);
	return r ?: rvl_check_tick(join->check);
}

static int next_fact(struct join *join, const struct rvl_fact *fact, uint64_t *last_ino)
{
	int r = 0;

	if (fact->number != join->group.number)
		r = end_group(join);
	join->group.number = fact->number;
	if (r || fact->number)
		return r ?: add_fact(join, fact);
	if (fact->kind != RVL_FACT_OBJECT || fact->key == *last_ino)
		return 0;
	*last_ino = fact->key;
	return judge_unstamped(join->check, fact);
}

int rvl_check_numbers(struct rvl_check *check)
{
	struct join join = { .check = check };
	struct rvl_fact fact;
	uint64_t last_ino = 0;
	int r;

	rvl_check_pass(check, "numbers");
	join.is_map_complete = check->has_map &&
			       !(check->index->state->flags & RVL_STATE_MAP_IS_TRUTH) &&
			       rvl_map_is_complete(check->index);
	while ((r = rvl_sorter_next(check->sorter, &fact)) > 0) {
		r = next_fact(&join, &fact, &last_ino);
		if (r)
			break;
	}
	r = r ?: end_group(&join);
	group_release(&join.group);
	return r;
}
