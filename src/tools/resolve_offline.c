// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * resolve, of layers that are not mounted: by entry and map, else by a walk of the merged tree
 * (view.h).
 */
#include "tools/resolve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/entry.h"
#include "index/map.h"
#include "tools/layers.h"
#include "tools/view.h"

#define DEPTH_MAX 4096

struct found {
	const struct rvl_layers *layers;
	struct rvl_resolve_answer *answer;
	uint64_t number;
	bool is_any;
};

static int take_place(void *arg, const struct rvl_map_row *row)
{
	struct rvl_name_at *at = arg;

	*at = row->at;
	return 1;
}

static int found_name(void *arg, const char *path, const struct rvl_view_object *object)
{
	struct found *found = arg;
	struct rvl_resolve_answer *answer = found->answer;
	const struct rvl_stack *stack = &found->layers->stack;

	rvl_resolve_add_path(answer, path);
	if (object->is_upper)
		rvl_resolve_add_real(answer, stack->layers[0].path, path);
	if (!found->is_any) {
		answer->id = object->id;
		answer->type = object->mode;
	}
	answer->is_upper |= object->is_upper;
	/* A lower name of a file that is in upper is served from its entry. */
	for (unsigned i = 0; i < object->lower.n && !answer->entry; i++)
		rvl_resolve_add_real(answer, object->lower.v[i].layer->path,
				     object->lower.v[i].path);
	found->is_any = true;
	return S_ISDIR(object->mode); /* one name is all */
}

/* The place of a directory, or a place of another object: by its entry, or a row of the map. */
static int place_of(struct rvl_index *index, uint64_t number, struct rvl_name_at *ret)
{
	enum rvl_entry_kind kind = RVL_ENTRY_NONE;
	struct rvl_entry_directory entry;
	struct statx stx;
	int r = index->stack->has_upper ? rvl_entry_look(index, number, &kind, &stx) : 0;

	if (r == 0 && kind == RVL_ENTRY_DIRECTORY) {
		r = rvl_entry_get_directory(index, number, &entry);
		*ret = entry.path;
	} else if (r == 0) {
		r = kind == RVL_ENTRY_NONE ? rvl_map_get(index, number, take_place, ret) : -ESTALE;
	}
	return r < 0 ? r : 0;
}

/* The path of a name, by the places of the directories above. */
static int path_of(struct rvl_index *index, const struct rvl_name_at *at, char **ret)
{
	_cleanup_free_ char *path = strdup(at->name);
	uint64_t number = at->parent;

	for (int depth = 0; path && number != RVL_NUMBER_ROOT; depth++) {
		struct rvl_name_at above;
		int r = depth < DEPTH_MAX ? place_of(index, number, &above) : -ELOOP;
		char *longer;

		if (r < 0)
			return r;
		if (asprintf(&longer, "%s/%s", above.name, path) < 0)
			return -ENOMEM;
		free(path);
		path = longer;
		number = above.parent;
	}
	*ret = rvl_take_ptr(path);
	return *ret ? 0 : -ENOMEM;
}

/* A row of the map: is it a name of the number? 1: it cannot be told by the map. */
static int try_row(void *arg, const struct rvl_map_row *row)
{
	struct rvl_view_object object = { .upper_fd = -EBADF };
	_cleanup_free_ char *path = NULL;
	struct found *found = arg;
	int r = path_of(found->layers->index, &row->at, &path);

	if (r == 0)
		r = rvl_view_path(found->layers, path, &object);
	if (r == 0 && object.id.number == found->number)
		(void)found_name(found, path, &object);
	rvl_view_object_release(&object);
	return r == -ENOMEM ? r : r < 0 && r != -ENOENT && r != -ENOTDIR;
}

/* What is only in lower has the names that the map knows, under directories that may have been
 * renamed. 0: found; 1: it takes a walk of all. */
static int find_by_map(struct found *found)
{
	int r = rvl_map_is_complete(found->layers->index) ?
			rvl_map_get(found->layers->index, found->number, try_row, found) :
			1;

	return r < 0 && r != -ENOMEM ? 1 : r ?: !found->is_any;
}

static int resolve_number_offline(const struct rvl_layers *layers, uint64_t number,
				  struct rvl_resolve_answer *answer)
{
	struct found found = { .layers = layers, .answer = answer, .number = number };
	enum rvl_entry_kind kind = RVL_ENTRY_NONE;
	struct statx stx;
	int r = 0;

	answer->id.number = number;
	if (layers->index->inodes_fd >= 0 && layers->stack.has_upper)
		r = rvl_entry_look(layers->index, number, &kind, &stx);
	if (r < 0) {
		rvl_error("the index entry of %llu: %s; see reverlayctl check",
			  (unsigned long long)number, strerror(-r));
		return r;
	}
	if (kind == RVL_ENTRY_TOMBSTONE) {
		rvl_resolve_die(answer, "the object was removed");
		return 0;
	}
	if (kind == RVL_ENTRY_OBJECT) {
		char path[RVL_ENTRY_PATH_SIZE];

		rvl_entry_path(number, path);
		rvl_resolve_set_entry(answer, layers->stack.work_path, path);
		answer->is_upper = true;
	}
	r = kind == RVL_ENTRY_NONE ? find_by_map(&found) : 1;
	if (r == 1)
		r = rvl_view_find(layers, number, found_name, &found);
	if (r >= 0 && !found.is_any)
		rvl_resolve_die(answer, "no name leads to it");
	return r < 0 ? r : 0;
}

int rvl_resolve_offline(const char *options, const struct rvl_resolve_query *query,
			struct rvl_resolve_answer *answer)
{
	uint64_t number = query->number;
	struct rvl_layers layers;
	int r = rvl_layers_open(options, &layers);

	if (r < 0)
		return r;
	memcpy(answer->uuid, layers.index->uuid, sizeof(answer->uuid));
	if (!layers.index->is_persistent)
		rvl_warn(
			"without workdir= there is no index: numbers and handles are those of no mount");
	if (query->kind == RVL_RESOLVE_PATH) {
		struct rvl_view_object object = { .upper_fd = -EBADF };

		r = rvl_view_path(&layers, query->text, &object);
		number = object.id.number;
		rvl_view_object_release(&object);
		if (r < 0) {
			rvl_error("%s: %s", query->text, strerror(-r));
		} else if (number == 0) {
			rvl_error(
				"%s: has no number yet: it came into upper while the overlay was not mounted",
				query->text);
			r = -ENODATA;
		}
	}
	if (r == 0)
		r = resolve_number_offline(&layers, number, answer);
	if (r == 0)
		rvl_resolve_check_handle(query, answer);
	rvl_layers_close(&layers);
	return r;
}
