// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rebinding, the lowers: rvl_rebind_lowers of rebind.h. In this order:
 *
 *   record_directory   index made again: the lower parts of directories in upper, by their handles
 *   visit_name         a walk of the lower view: which real object has which old number, by its place
 *   record_by_origin   map lost, lowers the same: what upper has of objects whose place told nothing
 *   settle_unkept      what has no object any more is told, and forgets its origin after the commit
 *   rvl_bind_claims    numbers of stamps that are still free
 *   rvl_map_build      the map's own walk, which finds all numbers as a mount would
 *   renew_place        records of directories whose parent has another number now
 */
#include <dirent.h>
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/counters.h"
#include "base/stop.h"
#include "index/bind.h"
#include "index/fsck.h"
#include "index/map_private.h"
#include "index/number_private.h"
#include "index/rebind_private.h"
#include "layer/path.h"

#define LOST_MAX (1 << 28)

/* Where the name of a former hard link lies that was met first. */
struct first {
	uint64_t number;
	const struct rvl_layer *layer;
	char *path; /* owned */
	uint64_t parent;
	char *name; /* owned */
};

/* A number that was given to names of a former hard link which are none of its links. */
struct parted {
	uint64_t number, former;
};

/* ---- what is remembered ---- */

static char *path_of(const struct rvl_map_visit *visit)
{
	return rvl_path_join(visit->dir_path, visit->path);
}

static void free_first(void *p)
{
	struct first *first = p;

	free(first->path);
	free(first->name);
	free(first);
}

void rvl_rebind_walk_release(struct rvl_rebind *rebind)
{
	tdestroy(rebind->firsts, free_first);
	tdestroy(rebind->parted, free);
	free(rebind->lost);
}

/* Of struct first and struct parted, which begin with their number. */
static int compare_numbers(const void *pa, const void *pb)
{
	const uint64_t *a = pa, *b = pb;

	return *a < *b ? -1 : *a > *b;
}

static struct first *find_first(struct rvl_rebind *rebind, uint64_t number)
{
	const struct first key = { .number = number };
	struct first **found = tfind(&key, &rebind->firsts, compare_numbers);

	return found ? *found : NULL;
}

static int remember_first(struct rvl_rebind *rebind, uint64_t number,
			  const struct rvl_map_visit *visit)
{
	struct first *first;

	if (find_first(rebind, number))
		return 0;
	first = calloc(1, sizeof(*first));
	if (!first)
		return -ENOMEM;
	first->number = number;
	first->layer = visit->layer;
	first->path = path_of(visit);
	first->parent = visit->parent;
	first->name = strdup(visit->name);
	if (!first->path || !first->name || !tsearch(first, &rebind->firsts, compare_numbers)) {
		free_first(first);
		return -ENOMEM;
	}
	return 0;
}

/* Was this number given in place of that one? */
static bool is_parted_from(struct rvl_rebind *rebind, uint64_t number, uint64_t former)
{
	const struct parted key = { .number = number };
	struct parted **found = tfind(&key, &rebind->parted, compare_numbers);

	return found && (*found)->former == former;
}

static int remember_parted(struct rvl_rebind *rebind, uint64_t number, uint64_t former)
{
	struct parted *parted;

	if (is_parted_from(rebind, number, former))
		return 0;
	parted = calloc(1, sizeof(*parted));
	if (!parted)
		return -ENOMEM;
	*parted = (struct parted){ number, former };
	if (tsearch(parted, &rebind->parted, compare_numbers))
		return 0;
	free(parted);
	return -ENOMEM;
}

/* ---- what is told ---- */

static void note(struct rvl_rebind *rebind, enum rvl_rebind_note what,
		 const struct rvl_old_place *place)
{
	_cleanup_free_ char *path = rvl_old_places_path(rebind->places, place);

	rebind->sink->note(rebind->sink->arg, what, place->number, path);
}

/* first: the name that has kept the number; NULL: this one has it. */
static int tell_split(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
		      const struct rvl_id *id, const struct first *first, bool has_entry,
		      bool is_joined)
{
	_cleanup_free_ char *path = path_of(visit);
	const struct rvl_rebind_split split = {
		.id = *id,
		.parent = visit->parent,
		.name = visit->name,
		.layer = visit->layer,
		.path = path,
		.ino = visit->stx->stx_ino,
		.first_layer = first ? first->layer : NULL,
		.first_path = first ? first->path : NULL,
		.first_parent = first ? first->parent : 0,
		.first_name = first ? first->name : NULL,
		.has_entry = has_entry,
		.is_joined = is_joined,
	};

	return path ? rebind->sink->split(rebind->sink->arg, &split) : -ENOMEM;
}

/* ---- objects that were parted or joined ---- */

/* 1: the entry is an object in upper. */
static int is_copied_up(struct rvl_rebind *rebind, uint64_t number)
{
	enum rvl_entry_kind kind = RVL_ENTRY_NONE;
	struct statx st;
	int r = 0;

	if (rebind->config.stack->has_upper)
		r = rvl_entry_look(rebind->next, number, &kind, &st);
	return r < 0 ? (r == -EUCLEAN || r == -ENOENT ? 0 : r) : kind == RVL_ENTRY_OBJECT;
}

/*
 * What were two objects is one in the lowers now: *id becomes what that has. Where upper has one of the two,
 * what it has must not show under the other's names: this one is told, to become a link of its own object
 * in upper.
 */
static int settle_joined(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
			 const struct rvl_old_place *place, const struct rvl_id *other,
			 struct rvl_id *id)
{
	int r = is_copied_up(rebind, id->number);

	if (r > 0)
		r = tell_split(rebind, visit, id, NULL, true, false);
	else if (r == 0 && (r = is_copied_up(rebind, other->number)) > 0)
		r = tell_split(rebind, visit, id, NULL, false, true);
	else if (r == 0) {
		rebind->counts->n_joined++;
		note(rebind, RVL_REBIND_JOINED, place);
	}
	*id = *other;
	return r;
}

/* A name of a former hard link that is none of its links gets another number: at once, so that a name that
 * comes later, and is a link of it, finds it taken. */
static int settle_parted(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
			 const struct rvl_real_id *real, struct rvl_id *id)
{
	const uint64_t former = id->number;
	int has_entry = is_copied_up(rebind, former), r = has_entry < 0 ? has_entry : 0;

	rebind->counts->n_split++;
	r = r ?: tell_split(rebind, visit, id, find_first(rebind, former), has_entry, false);
	r = r ?: rvl_number_assign(rebind->next, real, id);
	return r ?: remember_parted(rebind, id->number, former);
}

/* The real object has another number, or the number another object. 1: it gets a new one. */
static int settle_conflict(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
			   const struct rvl_old_place *place, const struct rvl_real_id *real,
			   struct rvl_id *id)
{
	struct rvl_id other;
	int r = rvl_real_number(rebind->next, real, &other);

	if (!r && other.number == id->number)
		return 0;
	if (!r && !is_parted_from(rebind, other.number, id->number))
		return settle_joined(rebind, visit, place, &other, id);
	if ((r && r != -ENOENT) || visit->type == DT_DIR)
		return r == -ENOENT ? 1 : r;
	return settle_parted(rebind, visit, real, id) ?: 1;
}

/* ---- a name ---- */

/* It was a hard link that has been copied up, and the copy is none: nothing but upper can say that
 * its names are one object. */
static int check_entry(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
		       const struct rvl_id *id)
{
	int r = visit->stx->stx_nlink > 1 ? 0 : is_copied_up(rebind, id->number);

	return r > 0 ? tell_split(rebind, visit, id, NULL, true, false) : r;
}

static int record(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
		  const struct rvl_old_place *place, struct rvl_id *id)
{
	struct rvl_real_id real;
	int r = rvl_real_of_lower(rebind->next, visit->layer, visit->dirfd, visit->path, visit->stx,
				  &real);

	r = r ?: rvl_real_record(rebind->next, &real, id);
	if (r == -EEXIST)
		return settle_conflict(rebind, visit, place, &real, id);
	if (r || !place->has_other_names)
		return r;
	r = remember_first(rebind, id->number, visit);
	return r ?: check_entry(rebind, visit, id);
}

/* The number that a directory in upper has given its topmost lower part. -ENOENT: none. */
static int find_recorded(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
			 struct rvl_id *ret)
{
	struct rvl_real_id real;
	int r;

	if (!rebind->config.is_rebuilt || visit->type != DT_DIR)
		return -ENOENT;
	r = rvl_real_of_lower(rebind->next, visit->layer, visit->dirfd, visit->path, visit->stx,
			      &real);
	return r ?: rvl_real_number(rebind->next, &real, ret);
}

/* Was what upper has of a number copied up from what is met? */
enum origin {
	ORIGIN_THIS = 1,
	ORIGIN_OTHER,
	ORIGIN_NONE, /* it has none, or none any more */
	ORIGIN_UNKNOWN, /* handles do not tell */
};

/* By the handles, where the lowers are the same: an enum origin, or -errno. */
static int find_origin(struct rvl_rebind *rebind, uint64_t number, const struct rvl_map_visit *visit)
{
	struct rvl_old_place about;
	struct rvl_handle origin, here;
	int r;

	if (rebind->has_other_lowers ||
	    rvl_handle_get(visit->dirfd, visit->path, rebind->uuids[visit->layer->index], &here))
		return ORIGIN_UNKNOWN;
	r = rvl_old_place_origin(rebind->old, number, &origin, &about);
	if (r)
		return r == -ENODATA ? ORIGIN_NONE : r;
	return rvl_handle_equal(&origin, &here) ? ORIGIN_THIS : ORIGIN_OTHER;
}

/* Does an entry alone say what was at a place? Not that of an object whose former place is seen as lower's; nor,
 * where the map is lost, one without an origin: it was made of what is another object (check/rebind_link.c), or
 * its own was gone. */
static int is_told_by_entry(struct rvl_rebind *rebind, uint64_t number, const struct rvl_map_visit *visit)
{
	int r;

	if (rebind->has_map) {
		r = rebind->sink->is_seen(rebind->sink->arg, visit->parent, visit->name);
		return r < 0 ? r : !r;
	}
	if (!rebind->has_origins)
		return 1;
	r = find_origin(rebind, number, visit);
	return r < 0 ? r : r != ORIGIN_NONE;
}

/* What was at the place: by the map, which knows better than an entry, whose object may have been copied up
 * from what was there before, unless its origin says that the map is behind. */
static int find_place(struct rvl_rebind *rebind, const struct rvl_map_visit *visit,
		      struct rvl_old_place **ret)
{
	struct rvl_old_place *entry;
	int r = rvl_old_places_find(rebind->places, visit->parent, visit->name, ret, &entry);

	if (r || !entry)
		return r;
	if (*ret) {
		r = find_origin(rebind, entry->number, visit);
		if (r == ORIGIN_THIS)
			*ret = entry;
		return r < 0 ? r : 0;
	}
	*ret = entry;
	r = is_told_by_entry(rebind, entry->number, visit);
	return r < 0 ? r : r ? 0 : -ENOENT;
}

static int visit_name(void *arg, const struct rvl_map_visit *visit, struct rvl_id *ret)
{
	struct rvl_rebind *rebind = arg;
	const struct rvl_state *state = rebind->next->state;
	struct rvl_old_place *place;
	int has_entry;
	int r = rvl_stop_check(rebind->config.stop) ?: find_recorded(rebind, visit, ret);

	/* what an entry keeps of it is of the lower layers from before the copy */
	if (r == 0)
		r = rebind->sink->origin(rebind->sink->arg, ret->number, visit->layer,
					 visit->dirfd, visit->path);
	if (r != -ENOENT)
		return r;
	r = find_place(rebind, visit, &place);
	if (r)
		return r == -ENOENT ? 1 : r;
	if (place->type && place->type != visit->type) {
		rebind->counts->n_other_kind++;
		note(rebind, RVL_REBIND_OTHER_KIND, place);
		return 1;
	}
	/* Nothing that could be recorded of it means the same at the next mount. */
	if (state->lowers[visit->layer->index - 1].flags & RVL_ROOT_UNSTABLE) {
		place->is_kept = true;
		return 1;
	}
	has_entry = place->has_entry;
	*ret = (struct rvl_id){ place->number, place->generation };
	r = record(rebind, visit, place, ret);
	place->is_kept = !r && ret->number == place->number;
	/* the one that the entry names may be gone: any of its names will do */
	if (place->is_kept && !place->has_entry && place->has_other_names)
		has_entry = is_copied_up(rebind, place->number);
	if (has_entry < 0)
		return has_entry;
	if (place->is_kept && has_entry)
		r = rebind->sink->origin(rebind->sink->arg, place->number, visit->layer,
					 visit->dirfd, visit->path);
	if (r)
		return r;
	rebind->counts->n_kept++;
	rebind->counts->n_unknown_generation += !ret->generation;
	return 0;
}

/* What upper has of it was copied up from nothing that is known: a handle that is kept would lead to
 * something else one day. */
static int remember_lost(struct rvl_rebind *rebind, const struct rvl_old_place *place)
{
	int r = place->has_entry ? rvl_number_is_recorded(rebind->next, place->number) : 1;

	if (r) /* 1: kept by another of its names */
		return r < 0 ? r : 0;
	r = rvl_array_reserve(&rebind->lost, &rebind->lost_size, rebind->n_lost,
			      sizeof(*rebind->lost), LOST_MAX);
	if (!r)
		rebind->lost[rebind->n_lost++] = place->number;
	return r;
}

int rvl_rebind_forget_lost(struct rvl_rebind *rebind)
{
	int r = 0;

	for (size_t i = 0; !r && i < rebind->n_lost; i++)
		r = rebind->sink->origin(rebind->sink->arg, rebind->lost[i], NULL, -EBADF, "");
	return r;
}

/* Is it to be told that nothing is there? Not of a place that an entry alone knows while the map was complete:
 * lower had lost it before, and that was told then. */
static bool is_to_be_told(const struct rvl_rebind *rebind, const struct rvl_old_place *place)
{
	return !place->is_from_entry || !rebind->has_map;
}

static int settle_unkept(struct rvl_rebind *rebind)
{
	int r = 0;

	for (size_t i = 0; !r && i < rvl_old_places_count(rebind->places); i++) {
		const struct rvl_old_place *place = rvl_old_places_at(rebind->places, i);

		if (place->is_kept || (rebind->config.is_rebuilt && place->type == DT_DIR))
			continue;
		if (!is_to_be_told(rebind, place))
			rebind->counts->n_old--;
		else if (!place->is_seen) {
			rebind->counts->n_gone++;
			note(rebind, RVL_REBIND_GONE, place);
		}
		r = remember_lost(rebind, place);
	}
	return r;
}

/* ---- without the old map: what was copied up, by the handle of its lower object ---- */

/*
 * The walk knows an entry by its place. That says nothing where the directory that it was in has
 * been removed, and what the kernel copied up has none. But an object with a number of its own has
 * none of the names of what it was copied up from.
 */
static int record_by_origin(void *arg, uint64_t number)
{
	struct rvl_rebind *rebind = arg;
	struct rvl_old_place about = { 0 };
	struct rvl_handle origin;
	struct rvl_name_at at;
	struct rvl_real_id real;
	struct rvl_id id;
	struct statx st;
	int r = rvl_real_owner(rebind->next, number, &real);
	bool has_place;

	if (r != -ENOENT)
		return r;
	has_place = !rvl_old_place_of_entry(rebind->old, number, &at, &about);
	r = rvl_old_place_origin(rebind->old, number, &origin, &about);
	id = (struct rvl_id){ number, about.generation };
	/* of a clone the old one knows */
	if (!r && (rvl_number_may_be_born(rebind->next, &id) || rvl_number_may_be_born(rebind->old, &id)))
		return 0;
	if (r == -ENODATA)
		r = -ENOENT;
	r = r ?: rvl_real_of_origin(rebind->next, rebind->uuids, &origin, DTTOIF(about.type), &real,
				    &st);
	if (r == -ENOENT || r == -ENODATA)
		return r == -ENOENT && has_place && rebind->config.is_retiring ? -ESTALE : 0;
	r = r ?: rvl_real_record(rebind->next, &real, &id);
	if (r == -EEXIST) /* the other one has its names in lower, this one is in upper alone */
		return 0;
	rebind->counts->n_kept += !r;
	rebind->counts->n_old += !r && !has_place;
	return r;
}

static int record_directory(void *arg, uint64_t number)
{
	struct rvl_rebind *rebind = arg;
	struct rvl_entry_directory dir;
	int r = rvl_entry_get_directory(rebind->old, number, &dir);

	if (r || !dir.is_merged || !dir.lower.len)
		return r == -EUCLEAN || r == -ENOENT ? 0 : r;
	return record_by_origin(rebind, number);
}

struct row_search {
	const struct rvl_name_at *at;
	struct rvl_name_at *ret;
};

/* The row of a place, else any. */
static int take_row(void *arg, const struct rvl_map_row *row)
{
	struct row_search *search = arg;

	*search->ret = row->at;
	return rvl_name_at_equal(&row->at, search->at);
}

/* The parent of a directory's place may have another number now: one that has been removed has
 * nothing that tells the old one. */
static int renew_place(void *arg, uint64_t number)
{
	struct rvl_rebind *rebind = arg;
	struct rvl_entry_directory dir;
	struct rvl_name_at at;
	struct row_search search = { &dir.place, &at };
	int r = rvl_entry_get_directory(rebind->next, number, &dir);

	if (r || !dir.is_merged)
		return r == -EUCLEAN || r == -ENOENT ? 0 : r;
	r = rvl_map_get(rebind->next, number, take_row, &search);
	if (r)
		return r == 1 || r == -ENOENT ? 0 : r;
	dir.place = at;
	return rvl_entry_put_directory(rebind->next, number, &dir, true);
}

int rvl_rebind_lowers(struct rvl_rebind *rebind, const struct rvl_rebind_sink *sink,
		      struct rvl_rebind_counts *ret)
{
	bool has_map;
	int r;

	*ret = (struct rvl_rebind_counts){ 0 };
	if (!rebind->needs_map)
		return 0;
	rebind->sink = sink;
	rebind->counts = ret;
	r = rvl_old_places_read(rebind->old, &has_map, &rebind->places);
	if (r)
		return r;
	rebind->has_map = has_map;
	ret->n_old = rvl_old_places_count(rebind->places);
	if (rebind->config.is_rebuilt)
		r = rvl_entry_each(rebind->old, record_directory, rebind);
	r = r ?: rvl_map_walk(rebind->next, visit_name, rebind);
	if (!r && rebind->has_origins)
		r = rvl_entry_each(rebind->old, record_by_origin, rebind);
	r = r ?: settle_unkept(rebind);
	r = r ?: rvl_bind_claims(rebind->next);
	r = r ?: rvl_map_build(rebind->next, rebind->config.stop);
	r = r ?: rvl_stop_check(rebind->config.stop);
	if (!r && (rebind->has_origins || rebind->config.is_rebuilt) && !rebind->config.is_dry_run)
		r = rvl_entry_each(rebind->next, renew_place, rebind);
	ret->n_names = rvl_counters.map_names;
	return r;
}

int rvl_rebind_copy_of(struct rvl_rebind *rebind, uint64_t parent, const char *name, uint64_t except,
		       struct rvl_id *ret)
{
	return rvl_old_places_copy(rebind->places, parent, name, except, ret);
}
