// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * To the kernel, by the map of the lower view: a lower name of an object that is in upper under
 * another name is served from the entry, which the kernel does not know. With index=on it would
 * find it by its own index, without it it would show the lower file; so the name becomes a link in
 * upper, as a rebind makes it (rebind_link.c).
 */
#include <errno.h>
#include <stdlib.h>

#include "base/array.h"
#include "check/rebind_private.h"
#include "check/to_kernel_private.h"
#include "index/map.h"
#include "index/nlink.h"

#define NUMBERS_MAX (1 << 24) /* 128 MiB */

struct links {
	struct rvl_to_kernel *tk;
	struct rvl_check_rebind rb; /* what the linking needs; no rebind */
	struct rvl_check_rebind_config config;
	struct rvl_check_rebind_result result;
	uint64_t *numbers; /* owned; of objects with names in lower */
	size_t n, size;
	uint64_t number; /* whose rows are read */
};

static void ignore(void *arg, enum rvl_rebind_told what, uint64_t number, const char *path)
{
}

int rvl_to_kernel_lower_names(struct rvl_to_kernel *tk, uint64_t number, const struct statx *st)
{
	struct rvl_index *index = tk->index;
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_nlink nlink;
	int r;

	rvl_entry_path(number, path);
	r = rvl_nlink_get(index, index->inodes_fd, path, st->stx_mode, st->stx_ino, &nlink);
	if (r <= 0)
		return r == -EUCLEAN ? 0 : r;
	return nlink.is_lower ? 0 : nlink.diff + 1;
}

static int note(void *arg, uint64_t number)
{
	struct links *links = arg;
	struct rvl_index *index = links->tk->index;
	enum rvl_entry_kind kind;
	struct statx st;
	int r = rvl_entry_look(index, number, &kind, &st);

	if (r)
		return r == -EUCLEAN ? 0 : r;
	r = rvl_to_kernel_tick(links->tk);
	if (!r && kind == RVL_ENTRY_OBJECT && !rvl_number_is_born(index, number)) {
		r = rvl_to_kernel_lower_names(links->tk, number, &st);
		links->tk->result->n_linked += r > 0 ? (uint64_t)r : 0;
	} else if (!r && kind == RVL_ENTRY_TOMBSTONE && links->tk->config->is_nfs_export) {
		r = 1;
	}
	if (r <= 0)
		return r;
	r = rvl_array_reserve(&links->numbers, &links->size, links->n, sizeof(*links->numbers),
			      NUMBERS_MAX);
	if (!r)
		links->numbers[links->n++] = number;
	return r;
}

/* What lower has at a place of the map, if that is the object of the number still. ret->places.n == 0: it
 * is not. ret is to be released. */
static int look_at_row(struct links *links, const struct rvl_map_row *row, struct rvl_found *ret)
{
	const struct rvl_stack *stack = links->tk->stack;
	struct rvl_places places = { 0 };
	struct rvl_id id;
	int r = rvl_rebind_lower_of(&links->rb, row->at.parent, &places);

	*ret = (struct rvl_found){ 0 };
	r = r ?: rvl_merge_lookup(stack, &places, row->at.name, NULL, NULL, ret);
	if (!r && ret->places.n &&
	    (rvl_number_of_lower(links->tk->index, ret->places.v[0].layer,
				 ret->places.v[0].layer->fd, ret->places.v[0].path, &ret->st,
				 &id) ||
	     id.number != links->number)) {
		rvl_found_release(ret);
		*ret = (struct rvl_found){ 0 };
	}
	rvl_places_release(&places);
	return r == -ENOENT || r == -EUCLEAN || r == -EIO ? 0 : r;
}

static int add_name(void *arg, const struct rvl_map_row *row)
{
	struct links *links = arg;
	const struct rvl_rebind_split split = { .id.number = links->number,
						.parent = row->at.parent,
						.name = row->at.name,
						.path = "",
						.has_entry = true };
	struct rvl_found found;
	int r = look_at_row(links, row, &found);
	bool is_there = !r && found.places.n;

	if (is_there)
		r = rvl_entry_is_of_other_life(links->tk->index, links->number, &found,
					       links->tk->uuids);
	if (is_there && !r)
		r = rvl_rebind_link_add(&links->rb, &split);
	rvl_found_release(&found);
	return r < 0 ? r : 0;
}

/* A dead object that lower still has: its handle must open nothing. */
static int add_whiteout(void *arg, const struct rvl_map_row *row)
{
	struct links *links = arg;
	struct rvl_to_kernel *tk = links->tk;
	struct rvl_found found;
	struct rvl_handle handle;
	int r = look_at_row(links, row, &found);

	if (!r && found.places.n) {
		const struct rvl_place *top = &found.places.v[0];

		if (!rvl_handle_get(top->layer->fd, top->path, tk->uuids[top->layer->index],
				    &handle))
			r = rvl_to_kernel_whiteout(tk, &handle);
	}
	rvl_found_release(&found);
	return r;
}

static int add(struct links *links, uint64_t number)
{
	enum rvl_entry_kind kind;
	struct statx st;
	int r = rvl_entry_look(links->tk->index, number, &kind, &st);

	if (r)
		return r;
	links->number = number;
	r = rvl_map_get(links->tk->index, number,
			kind == RVL_ENTRY_TOMBSTONE ? add_whiteout : add_name, links);
	return r == -ENOENT ? 0 : r;
}

static int link_all(struct links *links)
{
	struct rvl_to_kernel *tk = links->tk;
	int r = rvl_map_build(tk->index, NULL);

	for (size_t i = 0; !r && i < links->n; i++)
		r = add(links, links->numbers[i]);
	if (!r && links->rb.n_splits)
		r = rvl_rebind_upper(&links->rb);
	return r ?: rvl_rebind_link(&links->rb);
}

int rvl_to_kernel_links(struct rvl_to_kernel *tk)
{
	struct links links = { .tk = tk,
			       .config = { .stack = tk->stack,
					   .is_dry_run = rvl_to_kernel_is_dry(tk),
					   .told = ignore } };
	int r;

	links.rb = (struct rvl_check_rebind){ .config = &links.config,
					      .result = &links.result,
					      .index = tk->index,
					      .uuids = tk->uuids };
	rvl_to_kernel_pass(tk, "names that are only in lower");
	r = rvl_entry_each(tk->index, note, &links);
	if (!r && links.n)
		r = link_all(&links);
	rvl_rebind_link_release(&links.rb);
	rvl_rebind_upper_release(&links.rb);
	free(links.numbers);
	return r;
}
