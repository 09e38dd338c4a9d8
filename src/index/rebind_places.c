// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Old places: an array sorted by hash and number. A hash that fits is not believed: the row of the
 * map, or the entry, must name the very place.
 */
#include "index/rebind_places.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/fsck.h"
#include "index/map.h"
#include "index/stamp.h"

#define DEPTH_MAX 4096 /* directories of a path that is shown */

struct rvl_old_places {
	struct rvl_index *index; /* borrowed */
	struct rvl_old_place *v; /* owned */
	size_t n, size;
	uint64_t last_number; /* of the row before, while rows are read */
};

static uint64_t hash_of(uint64_t parent, const char *name)
{
	uint8_t buf[8 + NAME_MAX];
	size_t len = strnlen(name, NAME_MAX);

	rvl_put_le64(buf, parent);
	memcpy(buf + 8, name, len);
	return rvl_hash(buf, 8 + len);
}

static int add(struct rvl_old_places *places, uint64_t number, const struct rvl_name_at *at,
	       struct rvl_old_place **ret)
{
	if (places->n == places->size) {
		size_t size = places->size ? places->size * 2 : 1024;
		struct rvl_old_place *v = reallocarray(places->v, size, sizeof(*v));

		if (!v)
			return -ENOMEM;
		places->v = v;
		places->size = size;
	}
	*ret = &places->v[places->n++];
	**ret = (struct rvl_old_place){ .hash = hash_of(at->parent, at->name), .number = number };
	return 0;
}

/* Rows come in the order of their numbers. */
static int add_row(void *arg, uint64_t number, const struct rvl_map_row *row)
{
	struct rvl_old_places *places = arg;
	struct rvl_old_place *place;
	int r;

	if (!rvl_number_is_valid(number) || number == RVL_NUMBER_ROOT)
		return 0;
	r = add(places, number, &row->at, &place);
	if (r)
		return r;
	place->generation = row->generation;
	place->type = row->type;
	if (places->last_number == number)
		place->has_other_names = place[-1].has_other_names = true;
	places->last_number = number;
	return 0;
}

/* ---- entries ---- */

/* Type and generation of an object in upper that has the number. */
static int read_object(struct rvl_index *index, uint64_t number, const struct statx *stx,
		       struct rvl_old_place *ret)
{
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_id id;
	int r;

	rvl_entry_path(number, path);
	r = rvl_stamp_get(index, index->inodes_fd, path, stx->stx_mode, stx->stx_ino, &id);
	if (r || id.number != number)
		return r ?: -EUCLEAN;
	ret->type = IFTODT(stx->stx_mode);
	ret->generation = id.generation;
	return 0;
}

/* A private attribute of such an object. */
static ssize_t get_attribute(struct rvl_index *index, uint64_t number, const struct statx *stx,
			     enum rvl_xattr which, void *buf, size_t size)
{
	char path[RVL_ENTRY_PATH_SIZE];

	rvl_entry_path(number, path);
	return rvl_upper_xattr_get(index, index->inodes_fd, path, stx->stx_mode, stx->stx_ino,
				   which, buf, size);
}

int rvl_old_place_of_entry(struct rvl_index *old, uint64_t number, struct rvl_name_at *ret,
			   struct rvl_old_place *ret_about)
{
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_entry_directory dir;
	enum rvl_entry_kind kind;
	struct statx stx;
	ssize_t n;
	int r = rvl_entry_look(old, number, &kind, &stx);

	if (!r && kind == RVL_ENTRY_DIRECTORY) {
		r = rvl_entry_get_directory(old, number, &dir);
		/* in itself: it is not known (docs/format.md) */
		if (r || !dir.is_merged || dir.place.parent == number)
			return r ?: -ENODATA;
		*ret = dir.place;
		ret_about->type = DT_DIR;
		return 0;
	}
	if (r || kind != RVL_ENTRY_OBJECT)
		return r ?: -ENODATA;
	n = get_attribute(old, number, &stx, RVL_XATTR_PLACE, value, sizeof(value));
	r = n < 0 ? (int)n : rvl_name_at_decode(value, (size_t)n, ret);
	return r ?: read_object(old, number, &stx, ret_about);
}

int rvl_old_place_origin(struct rvl_index *old, uint64_t number, struct rvl_handle *ret,
			 struct rvl_old_place *ret_about)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_entry_directory dir = { 0 };
	enum rvl_entry_kind kind;
	struct statx stx;
	ssize_t n;
	int r = rvl_entry_look(old, number, &kind, &stx);

	if (!r && kind == RVL_ENTRY_DIRECTORY) {
		r = rvl_entry_get_directory(old, number, &dir);
		*ret = dir.lower;
		ret_about->type = DT_DIR;
		if (!r && (!dir.is_merged || !dir.lower.len))
			r = -ENODATA;
	} else if (!r && kind == RVL_ENTRY_OBJECT) {
		n = get_attribute(old, number, &stx, RVL_XATTR_ORIGIN, value, sizeof(value));
		r = n < 0 ? (int)n : rvl_handle_decode(value, (unsigned)n, ret);
		r = r ?: read_object(old, number, &stx, ret_about);
	} else if (!r) {
		r = -ENODATA;
	}
	return r == -ESTALE || r == -EUCLEAN || r == -ERANGE ? -ENODATA : r;
}

static int add_entry(void *arg, uint64_t number)
{
	struct rvl_old_places *places = arg;
	struct rvl_old_place about = { 0 }, *place;
	struct rvl_name_at at;
	int r = rvl_old_place_of_entry(places->index, number, &at, &about);

	if (r) /* nothing said, or damaged: then it is not known */
		return r == -ENOMEM || r == -EIO ? r : 0;
	r = add(places, number, &at, &place);
	if (r)
		return r;
	place->generation = about.generation;
	place->type = about.type;
	place->is_from_entry = place->has_entry = true;
	return 0;
}

/* ---- finding ---- */

static int compare(const void *pa, const void *pb)
{
	const struct rvl_old_place *a = pa, *b = pb;

	if (a->hash != b->hash)
		return a->hash < b->hash ? -1 : 1;
	if (a->number != b->number)
		return a->number < b->number ? -1 : 1;
	return a->is_from_entry - b->is_from_entry;
}

/* The same place by map and by entry is one. */
static void sort(struct rvl_old_places *places)
{
	size_t n = 0;

	if (places->n)
		qsort(places->v, places->n, sizeof(*places->v), compare);
	for (size_t i = 0; i < places->n; i++) {
		if (n && places->v[n - 1].hash == places->v[i].hash &&
		    places->v[n - 1].number == places->v[i].number) {
			places->v[n - 1].has_entry |= places->v[i].has_entry;
			continue;
		}
		places->v[n++] = places->v[i];
	}
	places->n = n;
}

int rvl_old_places_read(struct rvl_index *old, bool *ret_has_map, struct rvl_old_places **ret)
{
	struct rvl_old_places *places = calloc(1, sizeof(*places));
	int r;

	if (!places)
		return -ENOMEM;
	places->index = old;
	*ret_has_map = rvl_map_is_complete(old);
	r = rvl_map_scan(old, add_row, places);
	if (r == -EUCLEAN) {
		rvl_warn("inodes/map.mdb is damaged: what is in it after %zu names is not known",
			 places->n);
		*ret_has_map = false;
		r = 0;
	}
	r = r ?: rvl_entry_each(old, add_entry, places);
	if (r) {
		rvl_old_places_free(places);
		return r;
	}
	sort(places);
	*ret = places;
	return 0;
}

void rvl_old_places_free(struct rvl_old_places *places)
{
	if (!places)
		return;
	free(places->v);
	free(places);
}

struct wanted {
	uint64_t parent;
	const char *name;
};

static int is_wanted(void *arg, const struct rvl_map_row *row)
{
	const struct wanted *wanted = arg;

	return row->at.parent == wanted->parent && !strcmp(row->at.name, wanted->name);
}

/* 1: yes. */
static int is_at(struct rvl_old_places *places, const struct rvl_old_place *place, uint64_t parent,
		 const char *name)
{
	struct wanted wanted = { parent, name };
	struct rvl_old_place about;
	struct rvl_name_at at;
	int r;

	if (!place->is_from_entry) {
		r = rvl_map_get(places->index, place->number, is_wanted, &wanted);
		return r == -ENOENT ? 0 : r;
	}
	r = rvl_old_place_of_entry(places->index, place->number, &at, &about);
	if (r)
		return 0;
	return at.parent == parent && !strcmp(at.name, name);
}

/* Of two numbers of one place the one that was assigned later: the other is of a file whose inode was given
 * again (overlay/renumber.c, put_places). */
static bool is_later(const struct rvl_old_places *places, const struct rvl_old_place *a,
		     const struct rvl_old_place *b)
{
	const uint16_t assigned = places->index->state->counters[RVL_COUNTER_ASSIGNED].instance;

	return a->number >> RVL_INSTANCE_SHIFT == assigned &&
	       (b->number >> RVL_INSTANCE_SHIFT != assigned || a->number > b->number);
}

/* The first with this hash, or where it would be. */
static size_t first_of_hash(const struct rvl_old_places *places, uint64_t hash)
{
	size_t low = 0, high = places->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (places->v[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int rvl_old_places_find(struct rvl_old_places *places, uint64_t parent, const char *name,
			struct rvl_old_place **ret_row, struct rvl_old_place **ret_entry)
{
	const uint64_t hash = hash_of(parent, name);

	*ret_row = *ret_entry = NULL;

	for (size_t i = first_of_hash(places, hash); i < places->n && places->v[i].hash == hash; i++) {
		struct rvl_old_place *place = &places->v[i];
		struct rvl_old_place **best = place->is_from_entry ? ret_entry : ret_row;
		int r = is_at(places, place, parent, name);

		if (r < 0)
			return r;
		if (!r)
			continue;
		place->is_seen = true;
		if (!*best || is_later(places, place, *best))
			*best = place;
	}
	return *ret_row || *ret_entry ? 0 : -ENOENT;
}

int rvl_old_places_copy(struct rvl_old_places *places, uint64_t parent, const char *name,
			uint64_t except, struct rvl_id *ret)
{
	const uint64_t hash = hash_of(parent, name);

	for (size_t i = first_of_hash(places, hash); i < places->n && places->v[i].hash == hash; i++) {
		const struct rvl_old_place *place = &places->v[i];
		const struct rvl_state_instance *instance = rvl_state_instance_by_id(
			places->index->state, (uint16_t)(place->number >> RVL_INSTANCE_SHIFT));

		if (!place->is_from_entry || place->number == except || !instance ||
		    !(instance->flags & RVL_INSTANCE_COUNTER) || is_at(places, place, parent, name) != 1)
			continue;
		*ret = (struct rvl_id){ place->number, place->generation };
		return 0;
	}
	return -ENOENT;
}

size_t rvl_old_places_count(const struct rvl_old_places *places)
{
	return places->n;
}

struct rvl_old_place *rvl_old_places_at(struct rvl_old_places *places, size_t i)
{
	return &places->v[i];
}

/* ---- for people ---- */

struct with_hash {
	uint64_t hash; /* 0: any */
	struct rvl_name_at at;
};

static int take_place(void *arg, const struct rvl_map_row *row)
{
	struct with_hash *wanted = arg;

	if (wanted->hash && hash_of(row->at.parent, row->at.name) != wanted->hash)
		return 0;
	wanted->at = row->at;
	return 1;
}

char *rvl_old_places_path(struct rvl_old_places *places, const struct rvl_old_place *place)
{
	struct with_hash wanted = { .hash = place->hash };
	uint64_t number = place->number;
	char *path = NULL;

	for (unsigned depth = 0; number != RVL_NUMBER_ROOT && depth < DEPTH_MAX; depth++) {
		struct rvl_old_place about;
		char *longer;
		int r = rvl_map_get(places->index, number, take_place, &wanted);

		if (r != 1 && rvl_old_place_of_entry(places->index, number, &wanted.at, &about))
			break;
		if (asprintf(&longer, "/%s%s", wanted.at.name, path ?: "") < 0)
			break;
		free(path);
		path = longer;
		number = wanted.at.parent;
		wanted.hash = 0;
	}
	if (number == RVL_NUMBER_ROOT)
		return path;
	free(path);
	return NULL;
}
