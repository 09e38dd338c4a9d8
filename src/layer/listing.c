// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merged listings. What was read from all places (listing_read.c) is sorted by (offset, name,
 * layer), so that the same name from several layers comes together, topmost first, and one pass
 * decides what is visible. A listing never changes once it is built.
 */
#include "layer/listing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "layer/listing_raw.h"
#include "layer/path.h"

/* Offsets 0 … 2 are for the start, "." and ".."; 2^63-1 is the end for some callers. */
#define OFFSET_FIRST 3
#define OFFSET_N ((UINT64_C(1) << 63) - 2 - OFFSET_FIRST + 1)

uint64_t rvl_listing_offset(const struct rvl_secret *secret, const char *name)
{
	return OFFSET_FIRST + rvl_hash_keyed(secret, name, strlen(name)) % OFFSET_N;
}

/* With room for so many names and so much text. */
static struct rvl_listing *listing_new(const struct rvl_secret *secret, size_t n, size_t text_bytes)
{
	struct rvl_listing *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->v = calloc(n ? n : 1, sizeof(*l->v));
	l->text = malloc(text_bytes ? text_bytes : 1);
	l->secret = secret;
	atomic_init(&l->refs, 1);
	if (!l->v || !l->text) {
		rvl_listing_put(l);
		return NULL;
	}
	return l;
}

/* The entry's text is copied, its position set. The room is there: see listing_new(). */
static void listing_add(struct rvl_listing *l, const struct rvl_listing_name *entry,
			const char *name)
{
	size_t bytes = strlen(name) + 1;

	l->v[l->n] = *entry;
	l->v[l->n].name = (uint32_t)l->text_bytes;
	memcpy(l->text + l->text_bytes, name, bytes);
	l->text_bytes += bytes;
	l->n++;
}

/* Give back what was too much of the room. */
static void listing_finish(struct rvl_listing *l)
{
	void *v = l->n ? reallocarray(l->v, l->n, sizeof(*l->v)) : NULL;
	char *text = l->text_bytes ? realloc(l->text, l->text_bytes) : NULL;

	if (v)
		l->v = v;
	if (text)
		l->text = text;
	l->size_bytes = sizeof(*l) + l->n * sizeof(*l->v) + l->text_bytes;
	rvl_count(listings);
}

static bool is_same_name(const struct rvl_raw *raw, size_t a, size_t b)
{
	return raw->v[a].offset == raw->v[b].offset &&
	       strcmp(raw->text + raw->v[a].name, raw->text + raw->v[b].name) == 0;
}

/* The entries first … end-1 have one name; what of it is visible? */
static void merge_group(const struct rvl_stack *stack, const struct rvl_raw *raw, size_t first,
			size_t end, struct rvl_listing *l)
{
	const struct rvl_raw_name *top = &raw->v[first], *next;
	struct rvl_listing_name entry;
	const struct rvl_layer *layer;

	if (top->kind != RVL_RAW_NAME)
		return;
	layer = &stack->layers[top->layer];
	entry = (struct rvl_listing_name){
		.offset = top->offset,
		.ino = top->ino,
		.layer = top->layer,
		.type = top->type,
	};
	if (top->type == DT_DIR && first + 1 < end) {
		next = &raw->v[first + 1];
		entry.is_named_below = next->kind == RVL_RAW_NAME && next->type == DT_DIR;
	}
	/* A redirect can lead anywhere in the layers below. */
	entry.is_merged = entry.is_named_below ||
			  (top->type == DT_DIR && layer->has_xattrs && stack->can_redirect_follow &&
			   top->layer + 1u < rvl_stack_data_start(stack));
	listing_add(l, &entry, raw->text + top->name);
}

static int read_places(const struct rvl_stack *stack, const struct rvl_places *places,
		       const struct rvl_secret *secret, size_t max_names, struct rvl_raw *raw)
{
	for (unsigned i = 0; i < places->n; i++) {
		const struct rvl_place *place = &places->v[i];
		_cleanup_close_ int fd = rvl_path_open_noatime(place->layer->fd, place->path,
							       O_RDONLY | O_DIRECTORY);
		int r;

		if (fd == -ENOENT || fd == -ENOTDIR)
			continue;
		if (fd < 0)
			return fd;
		r = rvl_raw_read(stack, place->layer, fd, secret, max_names, raw);
		if (r < 0)
			return r;
	}
	return 0;
}

int rvl_listing_read(const struct rvl_stack *stack, const struct rvl_places *places,
		     const struct rvl_secret *secret, size_t max_names, struct rvl_listing **ret)
{
	__attribute__((cleanup(rvl_raw_release))) struct rvl_raw raw = { 0 };
	struct rvl_listing *l;
	int r = read_places(stack, places, secret, max_names, &raw);

	if (r < 0)
		return r;
	rvl_raw_sort(&raw);
	l = listing_new(secret, raw.n, raw.text_bytes);
	if (!l)
		return -ENOMEM;
	for (size_t first = 0, end; first < raw.n; first = end) {
		for (end = first + 1; end < raw.n && is_same_name(&raw, first, end);)
			end++;
		merge_group(stack, &raw, first, end, l);
	}
	if (max_names && l->n > max_names) {
		rvl_listing_put(l);
		return -E2BIG;
	}
	listing_finish(l);
	*ret = l;
	return 0;
}

/* Order of an upper name to a lower one: <0, 0, >0. */
static int compare_names(const struct rvl_raw *raw, const struct rvl_raw_name *a,
			 const struct rvl_listing *lower, const struct rvl_listing_name *b)
{
	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	return strcmp(raw->text + a->name, rvl_listing_text(lower, b));
}

static void merge_upper(const struct rvl_raw *raw, const struct rvl_listing *lower,
			struct rvl_listing *l)
{
	size_t i = 0, j = 0, n_lower = lower ? lower->n : 0;

	while (i < raw->n || j < n_lower) {
		const struct rvl_raw_name *up = i < raw->n ? &raw->v[i] : NULL;
		const struct rvl_listing_name *low = j < n_lower ? &lower->v[j] : NULL;
		int order = !up ? 1 : !low ? -1 : compare_names(raw, up, lower, low);
		struct rvl_listing_name entry;

		i += order <= 0;
		j += order >= 0;
		if (order > 0) {
			listing_add(l, low, rvl_listing_text(lower, low));
			continue;
		}
		if (up->kind != RVL_RAW_NAME)
			continue;
		entry = (struct rvl_listing_name){
			.offset = up->offset,
			.ino = up->ino,
			.type = up->type,
		};
		if (order == 0 && up->type == DT_DIR && low->type == DT_DIR)
			entry.is_merged = entry.is_named_below = true;
		listing_add(l, &entry, raw->text + up->name);
	}
}

int rvl_listing_read_upper(const struct rvl_stack *stack, int upper_fd,
			   const struct rvl_listing *lower, bool is_opaque,
			   const struct rvl_secret *secret, struct rvl_listing **ret)
{
	__attribute__((cleanup(rvl_raw_release))) struct rvl_raw raw = { 0 };
	struct rvl_listing *l;
	int r;

	if (lseek(upper_fd, 0, SEEK_SET) < 0)
		return -errno;
	r = rvl_raw_read(stack, &stack->layers[0], upper_fd, secret, 0, &raw);
	if (r < 0)
		return r;
	if (is_opaque)
		lower = NULL;
	if (lower && lower->text_bytes > UINT32_MAX - raw.text_bytes)
		return -E2BIG;
	rvl_raw_sort(&raw);
	l = listing_new(secret, raw.n + (lower ? lower->n : 0),
			raw.text_bytes + (lower ? lower->text_bytes : 0));
	if (!l)
		return -ENOMEM;
	merge_upper(&raw, lower, l);
	listing_finish(l);
	*ret = l;
	return 0;
}

struct rvl_listing *rvl_listing_get(struct rvl_listing *listing)
{
	atomic_fetch_add_explicit(&listing->refs, 1, memory_order_relaxed);
	return listing;
}

void rvl_listing_put(struct rvl_listing *listing)
{
	if (!listing || atomic_fetch_sub_explicit(&listing->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(listing->v);
	free(listing->text);
	free(listing);
}

size_t rvl_listing_seek(const struct rvl_listing *listing, uint64_t offset)
{
	size_t low = 0, high = listing->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (listing->v[middle].offset < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct rvl_listing_name *rvl_listing_find(const struct rvl_listing *listing,
						const char *name)
{
	uint64_t offset = rvl_listing_offset(listing->secret, name);

	for (size_t i = rvl_listing_seek(listing, offset);
	     i < listing->n && listing->v[i].offset == offset; i++)
		if (strcmp(rvl_listing_text(listing, &listing->v[i]), name) == 0)
			return &listing->v[i];
	return NULL;
}
