// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rebind, lower files whose hard links the copy has parted: their names are made links of one
 * object in upper, so that they no longer hang on anything that is stored elsewhere.
 *
 *   it was copied up     its entry is the object; each lower name that upper does not hide becomes
 *                        a link of it
 *   it was not           it is copied up here, if the names are equal; what is not is told and is
 *                        an object of its own
 *
 * The other way round, names that have become links of what was another object: if either is in upper, they
 * are copied up here as well. They keep their number; where other names have it already, those that were joined
 * with one file get one new number.
 *
 * What is made in upper, and in which order: rebind_make.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/stop.h"
#include "check/rebind_private.h"
#include "index/entry.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "layer/merge.h"
#include "layer/path.h"

#define SPLITS_MAX (1 << 24)

/* ---- what is remembered of the walk ---- */

int rvl_rebind_link_add(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	struct rvl_rebind_split *copy;
	int r = rvl_array_reserve(&rb->splits, &rb->splits_size, rb->n_splits, sizeof(*rb->splits),
				  SPLITS_MAX);

	if (r)
		return r;
	copy = &rb->splits[rb->n_splits];
	*copy = *split;
	copy->name = strdup(split->name);
	copy->path = strdup(split->path);
	copy->first_path = split->first_path ? strdup(split->first_path) : NULL;
	copy->first_name = split->first_name ? strdup(split->first_name) : NULL;
	rb->n_splits++;
	return copy->name && copy->path && !copy->first_path == !split->first_path &&
			       !copy->first_name == !split->first_name ?
		       0 :
		       -ENOMEM;
}

void rvl_rebind_link_release(struct rvl_check_rebind *rb)
{
	while (rb->n_splits) {
		struct rvl_rebind_split *split = &rb->splits[--rb->n_splits];

		free((char *)split->name);
		free((char *)split->path);
		free((char *)split->first_path);
		free((char *)split->first_name);
	}
	free(rb->splits);
	rb->splits = NULL;
}

/* ---- one split ---- */

/* Are the lower objects equal, and all there is of them in one layer? */
static int is_equal(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	const struct rvl_stack *stack = rb->config->stack;
	int r = rvl_rebind_is_equal(stack, split->first_layer->fd, split->first_path,
				    split->layer->fd, split->path);

	if (r <= 0 || split->has_entry)
		return r;
	r = rvl_metacopy_get(stack, split->first_layer->fd, split->first_path);
	return r < 0 ? r : !r;
}

/* How many names of the number are to be linked, from this split on: they lie side by side. */
static int count_equal(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	const uint64_t number = split->id.number;
	int n = 0;

	for (; split < rb->splits + rb->n_splits && split->id.number == number && !split->is_joined;
	     split++) {
		int r = is_equal(rb, split);

		if (r < 0)
			return r;
		n += r;
	}
	return n;
}

/*
 * All names count that will be links of it, and those that the copy has left together: each link
 * that is made takes one from overlay.nlink, whichever run makes it.
 */
static int copy_up(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	struct rvl_rebind_source from = { .layer = split->first_layer, .path = split->first_path };
	struct rvl_name_at place = { .parent = split->first_parent };
	int n = count_equal(rb, split);
	int r = n < 0 ? n : rvl_path_statx(from.layer->fd, from.path, RVL_STATX_MASK, &from.st);

	snprintf(place.name, sizeof(place.name), "%s", split->first_name);
	if (!r && from.st.stx_nlink > (unsigned)(RVL_NLINK_MAX - n))
		r = -EMLINK;
	return r ?: rvl_rebind_copy_up(rb, &from, &split->id, &place,
				       (int)from.st.stx_nlink + n);
}

static int has_entry(struct rvl_check_rebind *rb, uint64_t number)
{
	enum rvl_entry_kind kind;
	struct statx st;
	int r = rvl_entry_look(rb->index, number, &kind, &st);

	return r < 0 ? r : kind != RVL_ENTRY_NONE;
}

/* What was copied up counts as a copy of the name that has the number now. */
static int move_place(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	struct rvl_name_at place = { .parent = split->first_parent };
	struct rvl_index *index = rb->index;
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	char entry[RVL_ENTRY_PATH_SIZE];
	struct statx st;
	int r;

	rvl_entry_path(split->id.number, entry);
	snprintf(place.name, sizeof(place.name), "%s", split->first_name);
	r = rvl_path_statx(index->inodes_fd, entry, RVL_STATX_MASK, &st);
	r = r	  ?:
		    rvl_upper_xattr_set(index, index->inodes_fd, entry, st.stx_mode, st.stx_ino,
					RVL_XATTR_PLACE, value, rvl_name_at_encode(&place, value));
	return r     ?:
		       rvl_rebind_renew_origin(rb, split->id.number, split->first_layer,
					       split->first_layer->fd, split->first_path);
}

/* Names of one number that were joined with one file: they lie side by side. */
static bool are_together(const struct rvl_rebind_split *a, const struct rvl_rebind_split *b)
{
	return a->is_joined && b->is_joined && a->id.number == b->id.number && a->layer == b->layer &&
	       a->ino == b->ino;
}

/* How many, from this one on. */
static int count_joined(const struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	int n = 0;

	while (split + n < rb->splits + rb->n_splits && are_together(split, &split[n]))
		n++;
	return n;
}

/* Do names of this number that were joined with another file come before it? They keep the number. */
static bool comes_after_others(const struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	const struct rvl_rebind_split *before = split;

	while (before > rb->splits && are_together(before - 1, split))
		before--;
	return before > rb->splits && before[-1].is_joined && before[-1].id.number == split->id.number;
}

/* Has a run that died begun an object for this name? 1: *ret is its number. Such an object still waits for names
 * (overlay.nlink), and has the contents of the file. */
static int is_begun(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split, struct rvl_id *ret)
{
	struct rvl_index *index = rb->index;
	char entry[RVL_ENTRY_PATH_SIZE];
	struct rvl_nlink nlink;
	struct statx st;
	int r = rvl_rebind_copy_of(rb->rebind, split->parent, split->name, split->id.number, ret);

	if (r)
		return r == -ENOENT ? 0 : r;
	rvl_entry_path(ret->number, entry);
	r = rvl_path_statx(index->inodes_fd, entry, RVL_STATX_MASK, &st);
	r = r ?: rvl_nlink_get(index, index->inodes_fd, entry, st.stx_mode, st.stx_ino, &nlink);
	if (r <= 0 || nlink.is_lower || nlink.diff < 0)
		return r == -ENOENT || r == -EUCLEAN || r > 0 ? 0 : r;
	return rvl_rebind_is_equal(index->stack, index->inodes_fd, entry, split->layer->fd, split->path);
}

/* A number for joined names whose own has stayed with others: one for all that are together, from this one on;
 * that of a run before this one, if it had begun. */
static int number_of_parted(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split,
			    struct rvl_id *ret)
{
	const int n = count_joined(rb, split);
	int r = rb->parted_from && are_together(rb->parted_from, split);

	for (int i = 0; !r && i < n; i++)
		r = is_begun(rb, &split[i], &rb->parted);
	if (!r)
		r = rvl_number_born(rb->index, &rb->parted);
	if (r < 0)
		return r;
	rb->parted_from = split;
	*ret = rb->parted;
	return 0;
}

/* The links that the file has in lower are the other's, and count for none of its names. */
static int copy_up_joined(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split,
			  const struct rvl_id *id)
{
	struct rvl_rebind_source from = { .layer = split->layer,
					  .path = split->path,
					  .is_of_other = true };
	struct rvl_name_at place = { .parent = split->parent };
	int r = rvl_path_statx(from.layer->fd, from.path, RVL_STATX_MASK, &from.st);

	snprintf(place.name, sizeof(place.name), "%s", split->name);
	return r ?: rvl_rebind_copy_up(rb, &from, id, &place, count_joined(rb, split));
}

/* A name whose file has become a link of one that is in upper. */
static int part_joined(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	_cleanup_close_ int fd = -EBADF;
	struct rvl_id id = split->id;
	int is_taken, r = rvl_metacopy_get(rb->config->stack, split->layer->fd, split->path);

	if (r > 0) /* its data are elsewhere: it cannot be copied by itself */
		rvl_rebind_tell(rb, RVL_TOLD_JOINED, id.number, split->path);
	if (r)
		return r < 0 ? r : 0;
	is_taken = comes_after_others(rb, split) ? 1 : rvl_number_is_recorded(rb->index, id.number);
	if (is_taken < 0)
		return is_taken;
	if (is_taken)
		rvl_rebind_tell(rb, RVL_TOLD_SPLIT, id.number, split->path);
	rb->result->n_lower_linked++;
	if (rb->config->is_dry_run)
		return 0;
	if (is_taken)
		r = number_of_parted(rb, split, &id);
	if (r)
		return r;
	/* before anything is copied: does upper show the name? */
	fd = rvl_rebind_make_parent(rb, split->parent, split->name);
	r = fd < 0 ? fd : has_entry(rb, id.number);
	if (r == 0)
		r = copy_up_joined(rb, split, &id);
	if (r >= 0)
		r = rvl_rebind_make_name(rb, id.number, split->parent, split->name);
	return r == -ENOENT ? 0 : r; /* upper has or hides the name */
}

static int join(struct rvl_check_rebind *rb, const struct rvl_rebind_split *split)
{
	uint64_t number = split->id.number;
	int r = split->first_layer ? is_equal(rb, split) : 1;

	if (r < 0)
		return r;
	if (!r || !rb->config->stack->has_upper) {
		rvl_rebind_tell(rb, RVL_TOLD_SPLIT, number, split->path);
		return 0;
	}
	rb->result->n_lower_linked++;
	if (rb->config->is_dry_run)
		return 0;
	if (split->has_entry && split->first_layer)
		r = move_place(rb, split);
	if (r < 0)
		return r;
	if (split->has_entry)
		return rvl_rebind_make_name(rb, number, split->parent, split->name);
	r = has_entry(rb, number);
	if (r == 0)
		r = copy_up(rb, split);
	if (r >= 0)
		r = rvl_rebind_make_name(rb, number, split->first_parent, split->first_name);
	return r ?: rvl_rebind_make_name(rb, number, split->parent, split->name);
}

static int compare_splits(const void *pa, const void *pb)
{
	const struct rvl_rebind_split *a = pa, *b = pb;

	if (a->id.number != b->id.number)
		return a->id.number < b->id.number ? -1 : 1;
	if (a->is_joined != b->is_joined)
		return a->is_joined - b->is_joined;
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->ino < b->ino ? -1 : a->ino > b->ino;
}

int rvl_rebind_link(struct rvl_check_rebind *rb)
{
	int r = 0;

	if (!rb->n_splits)
		return 0;
	qsort(rb->splits, rb->n_splits, sizeof(*rb->splits), compare_splits);
	for (size_t i = 0; !r && i < rb->n_splits; i++) {
		const struct rvl_rebind_split *split = &rb->splits[i];

		r = rvl_stop_check(rb->config->stop);
		if (!r)
			r = split->is_joined ? part_joined(rb, split) : join(rb, split);
	}
	return r;
}
