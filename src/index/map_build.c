// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The walk of the merged lower view that fills the map.
 *
 * Depth first, by listings and look-ups of the stack alone, so redirects, whiteouts and merges are
 * settled by the code that serves them. A name that is no directory costs one system call, for the
 * generation: it must be in the row before the layers are copied, since birth times are not copied
 * (docs/decisions/0011). Rows are gathered, sorted by number and written many at a time. Memory:
 * the listings on the way down, and one batch.
 *
 * What cannot be seen by users (damaged, forbidden) is left out and does not make the map
 * incomplete: no number of it was shown.
 */
#include "index/map_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "index/number.h"
#include "index/real.h"
#include "layer/listing.h"
#include "layer/merge.h"
#include "layer/path.h"

#define BATCH_ROWS (1 << 16) /* an umount waits till they are written */
#define DEPTH_MAX 16384
#define REPORT_S 5
#define FILE_MASK (STATX_TYPE | STATX_INO | STATX_BTIME | STATX_NLINK)

/* A directory on the way down. */
struct frame {
	struct rvl_places places; /* owned */
	struct rvl_listing *listing; /* counted; NULL: not read yet */
	uint32_t *order; /* owned; indices into the listing, by real inode number */
	size_t next; /* in order: the next to look at for directories */
	uint64_t number;
};

struct rvl_map_walk {
	struct rvl_index *index; /* borrowed */
	struct frame *frames; /* owned */
	unsigned n, size;
	struct rvl_map_pending batch; /* rows gathered */
	uint64_t n_names, n_skipped;
	time_t reported_s; /* when its progress was last told */
	rvl_map_visit_fn *visit; /* NULL: rows are written */
	void *visit_arg;
};

static void pop(struct rvl_map_walk *walk)
{
	struct frame *frame = &walk->frames[--walk->n];

	rvl_places_release(&frame->places);
	free(frame->order);
	if (frame->listing)
		rvl_listing_put(frame->listing);
}

void rvl_map_walk_free(struct rvl_map_walk *walk)
{
	if (!walk)
		return;
	while (walk->n)
		pop(walk);
	free(walk->frames);
	rvl_map_pending_release(&walk->batch);
	free(walk);
}

/* Takes the places over, also when it fails. */
static int push(struct rvl_map_walk *walk, struct rvl_places *places, uint64_t number)
{
	if (walk->n == walk->size) {
		unsigned size = walk->size ? walk->size * 2 : 64;
		struct frame *frames = reallocarray(walk->frames, size, sizeof(*frames));

		if (!frames) {
			rvl_places_release(places);
			return -ENOMEM;
		}
		walk->frames = frames;
		walk->size = size;
	}
	walk->frames[walk->n++] = (struct frame){ .places = *places, .number = number };
	*places = (struct rvl_places){ 0 };
	return 0;
}

static int walk_new(struct rvl_index *index, struct rvl_map_walk **ret)
{
	struct rvl_map_walk *walk = calloc(1, sizeof(*walk));
	struct rvl_places root = { 0 };
	int r;

	if (!walk)
		return -ENOMEM;
	walk->index = index;
	r = rvl_places_of_root(index->stack, &root);
	if (!r && !root.n) /* no lower layers: nothing to walk */
		rvl_places_release(&root);
	else if (!r)
		r = push(walk, &root, RVL_NUMBER_ROOT);
	if (r) {
		rvl_map_walk_free(walk);
		return r;
	}
	*ret = walk;
	return 0;
}

static int flush_batch(struct rvl_map_walk *walk, enum rvl_map_extent extent)
{
	struct rvl_index *index = walk->index;
	int r = rvl_map_ensure(index, true);

	r = r ?: rvl_map_pending_write(index->map->store, &walk->batch, extent);
	/* one that a rebind makes is more than a cache */
	if ((r == -ENOSPC || r == -EDQUOT) && !index->is_prepared)
		r = rvl_map_to_memory(index) ?:
			    rvl_map_pending_write(index->map->store, &walk->batch, extent);
	if (r)
		return r;
	walk->batch.n = 0;
	walk->batch.text_len = 0;
	return 0;
}

static int add_row(struct rvl_map_walk *walk, const struct frame *frame, const char *name,
		   const struct rvl_id *id, uint8_t type)
{
	struct rvl_map_row row = { .generation = id->generation,
				   .type = type,
				   .at.parent = frame->number };

	walk->n_names++;
	if (walk->batch.n >= BATCH_ROWS) {
		int r = flush_batch(walk, RVL_MAP_PART);

		if (r)
			return r;
	}
	snprintf(row.at.name, sizeof(row.at.name), "%s", name);
	return rvl_map_pending_add(&walk->batch, id->number, &row);
}

/* Does the walk go on after this error of a name? Then it is counted. */
static bool is_skipped(struct rvl_map_walk *walk, int r, const char *name)
{
	if (!rvl_merge_is_local_error(r))
		return false;
	walk->n_skipped++;
	rvl_debug("map: %s is left out: %s", name, strerror(-r));
	return true;
}

/* Number and row of a name, or a visit. 1: not to be entered. */
static int take(struct rvl_map_walk *walk, const struct frame *frame,
		const struct rvl_map_visit *visit, struct rvl_id *ret)
{
	int r;

	if (walk->visit)
		return walk->visit(walk->visit_arg, visit, ret);
	r = rvl_number_of_lower(walk->index, visit->layer, visit->dirfd, visit->path, visit->stx,
				ret);
	return r ?: add_row(walk, frame, visit->name, ret, visit->type);
}

/* Look a directory up and take it. The caller releases *found. */
static int take_directory(struct rvl_map_walk *walk, const struct frame *frame, const char *name,
			  struct rvl_found *found, struct rvl_id *ret)
{
	struct rvl_map_visit visit = {
		.index = walk->index, .parent = frame->number, .name = name, .stx = &found->st
	};
	int r = rvl_merge_lookup(walk->index->stack, &frame->places, name, NULL, frame->listing,
				 found);

	if (r)
		return r;
	if (!found->places.n)
		return -ENOENT;
	visit.type = IFTODT(found->st.stx_mode);
	visit.layer = found->places.v[0].layer;
	visit.path = found->places.v[0].path;
	visit.dirfd = visit.layer->fd;
	visit.dir_path = "";
	return take(walk, frame, &visit, ret);
}

/* The real directory of a frame in one layer, opened when it is first needed: fds is by place. */
static int directory_of(const struct frame *frame, unsigned layer, int *fds, const char **ret_path)
{
	for (unsigned i = 0; i < frame->places.n; i++) {
		const struct rvl_place *place = &frame->places.v[i];

		if (place->layer->index != layer)
			continue;
		*ret_path = place->path;
		if (fds[i] < 0)
			fds[i] = rvl_path_open(place->layer->fd, place->path, O_PATH | O_DIRECTORY,
					       0);
		return fds[i];
	}
	return -ESTALE;
}

static int add_file(struct rvl_map_walk *walk, const struct frame *frame,
		    const struct rvl_listing_name *entry, int *fds)
{
	const char *name = rvl_listing_text(frame->listing, entry);
	struct rvl_map_visit visit = { .index = walk->index,
				       .parent = frame->number,
				       .name = name,
				       .type = entry->type,
				       .layer = &walk->index->stack->layers[entry->layer],
				       .path = name };
	struct statx stx;
	struct rvl_id id;
	int r = 0;

	visit.stx = &stx;
	visit.dirfd = directory_of(frame, entry->layer, fds, &visit.dir_path);
	if (visit.dirfd < 0)
		r = visit.dirfd;
	r = r ?: rvl_path_statx(visit.dirfd, name, FILE_MASK, &stx);
	r = r ?: take(walk, frame, &visit, &id);
	return r > 0 || is_skipped(walk, r, name) ? 0 : r;
}

static int compare_inos(const void *pa, const void *pb, void *arg)
{
	const struct rvl_listing_name *names = arg;
	const uint64_t a = names[*(const uint32_t *)pa].ino, b = names[*(const uint32_t *)pb].ino;

	return (a > b) - (a < b);
}

/* Real inode numbers mostly rise from directory to directory: in their order rows come to LMDB
 * nearly as it keeps them, so that its pages get full, and the disk is read forward. */
static int sort(struct frame *frame)
{
	const struct rvl_listing *listing = frame->listing;

	frame->order = malloc(listing->n * sizeof(*frame->order) + 1);
	if (!frame->order)
		return -ENOMEM;
	for (size_t i = 0; i < listing->n; i++)
		frame->order[i] = (uint32_t)i;
	qsort_r(frame->order, listing->n, sizeof(*frame->order), compare_inos, listing->v);
	return 0;
}

/* Read the directory on top and add all its names but directories. */
static int enter(struct rvl_map_walk *walk, struct frame *frame)
{
	int r = rvl_listing_read(walk->index->stack, &frame->places, &walk->index->secret, 0,
				 &frame->listing);
	_cleanup_free_ int *fds = malloc(frame->places.n * sizeof(*fds));

	if (!fds)
		return r ?: -ENOMEM;
	for (unsigned i = 0; i < frame->places.n; i++)
		fds[i] = -EBADF;
	r = r ?: sort(frame);
	for (size_t i = 0; !r && i < frame->listing->n; i++) {
		const struct rvl_listing_name *entry = &frame->listing->v[frame->order[i]];

		if (entry->type != DT_DIR)
			r = add_file(walk, frame, entry, fds);
	}
	for (unsigned i = 0; i < frame->places.n; i++)
		rvl_close(fds[i]);
	return r;
}

/* Go down into the next directory of the one on top; 1 when there is none left. */
static int descend(struct rvl_map_walk *walk, struct frame *frame)
{
	const struct rvl_listing_name *entry;
	struct rvl_found found = { 0 };
	const char *name;
	struct rvl_id id;
	int r;

	do {
		if (frame->next == frame->listing->n)
			return 1;
		entry = &frame->listing->v[frame->order[frame->next++]];
	} while (entry->type != DT_DIR);
	name = rvl_listing_text(frame->listing, entry);
	r = take_directory(walk, frame, name, &found, &id);
	if (r) {
		r = r > 0 || is_skipped(walk, r, name) ? 0 : r;
	} else if (S_ISDIR(found.st.stx_mode)) {
		if (walk->n >= DEPTH_MAX)
			rvl_warn_limited("map: directories deeper than %d are left out", DEPTH_MAX);
		else
			r = push(walk, &found.places, id.number);
	}
	rvl_found_release(&found);
	return r;
}

static int step(struct rvl_map_walk *walk)
{
	struct frame *frame = &walk->frames[walk->n - 1];
	int r;

	if (!frame->listing) {
		r = enter(walk, frame);
		if (is_skipped(walk, r, "a directory")) {
			pop(walk);
			return 0;
		}
		return r;
	}
	r = descend(walk, frame);
	if (r > 0) {
		pop(walk);
		r = 0;
	}
	return r;
}

static int finish(struct rvl_map_walk *walk)
{
	struct rvl_index *index = walk->index;
	int r = rvl_reals_flush(index);

	/* on a full disk they stay in the journal */
	r = r == -ENOSPC || r == -EDQUOT ? 0 : r;
	r = r ?: flush_batch(walk, walk->n_skipped ? RVL_MAP_COMPLETE_WITH_GAPS : RVL_MAP_COMPLETE);
	r = r ?: rvl_store_sync(index->map->store);
	if (r)
		return r;
	rvl_map_set_complete(index->map, walk->n_skipped != 0);
	rvl_info("the map of the lower layers is complete: %llu names, %llu left out",
		 (unsigned long long)walk->n_names, (unsigned long long)walk->n_skipped);
	return 0;
}

/* For people, in counters and log. */
static void report(struct rvl_map_walk *walk)
{
	struct timespec now;

	atomic_store_explicit(&rvl_counters.map_names, walk->n_names, memory_order_relaxed);
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (walk->reported_s == 0)
		walk->reported_s = now.tv_sec;
	if (now.tv_sec - walk->reported_s < REPORT_S)
		return;
	walk->reported_s = now.tv_sec;
	rvl_info("the map of the lower layers is being made: %llu names so far",
		 (unsigned long long)walk->n_names);
}

static int build_locked(struct rvl_index *index, const _Atomic bool *stop)
{
	struct rvl_map *map = index->map;
	int r = 0;

	if (rvl_map_is_complete(index))
		return 0;
	if (!map->walk)
		r = walk_new(index, &map->walk);
	while (!r && map->walk->n) {
		r = step(map->walk);
		report(map->walk);
		/* what is done is kept: the rows are found also while the map is not complete */
		if (!r && stop && atomic_load_explicit(stop, memory_order_relaxed))
			return flush_batch(map->walk, RVL_MAP_PART);
	}
	r = r ?: finish(map->walk);
	rvl_map_walk_free(map->walk);
	map->walk = NULL;
	return r;
}

int rvl_map_build(struct rvl_index *index, const _Atomic bool *stop)
{
	int r;

	pthread_mutex_lock(&index->map->build_lock);
	r = build_locked(index, stop);
	pthread_mutex_unlock(&index->map->build_lock);
	if (r)
		rvl_warn("the map of the lower layers could not be completed: %s", strerror(-r));
	return r;
}

int rvl_map_walk(struct rvl_index *index, rvl_map_visit_fn *visit, void *arg)
{
	struct rvl_map_walk *walk;
	int r = walk_new(index, &walk);

	if (r)
		return r;
	walk->visit = visit;
	walk->visit_arg = arg;
	while (!r && walk->n)
		r = step(walk);
	rvl_map_walk_free(walk);
	return r;
}
