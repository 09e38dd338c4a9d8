// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Decoding a number. The entry of a non-directory is the object. For a directory, and for what is
 * only in lower, parent's number and name are known (from the entry, or from the map): the parent
 * is found in the same way, the name is looked up in it, and the number must come out. So nothing
 * outside the merged tree can be reached, whatever number a stranger makes up.
 *
 * The names of a file from lower are not counted alone: lower may have links of it outside the
 * layer, or under names that layers above hide. When upper has none of its names the map's are
 * looked up, and without one that the tree shows the object is dead.
 */
#include "overlay/decode.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "index/map.h"
#include "index/stamp.h"
#include "layer/path.h"
#include "overlay/complete.h"
#include "overlay/lookup.h"
#include "overlay/mend.h"
#include "overlay/metacopy.h"
#include "overlay/remove.h"

/*
 * Ancestors; more is a loop in damaged metadata. Each is a round of decode, also on stacks of 8 MiB:
 * what is large lies on the heap, or in functions beside the way up.
 */
#define DEPTH_MAX 4096

static _Thread_local unsigned depth;

/* Of an entry, or what it leads to: told once, where it is found. */
static int report_damage(uint64_t number)
{
	rvl_count(damaged);
	rvl_warn_limited("the index entry of object %llu is damaged; see reverlayctl check",
			 (unsigned long long)number);
	return -EUCLEAN;
}

/* *ret_has_parent: the directory is there, whatever becomes of the name. */
static int by_name(struct rvl_overlay *ov, uint64_t number, const struct rvl_name_at *at,
		   bool *ret_has_parent, struct rvl_node **ret)
{
	struct rvl_node _cleanup_node_ *dir = NULL, _cleanup_node_ *node = NULL;
	int r = rvl_check_name(at->name);

	if (r == 0)
		r = rvl_node_get_dir(ov, at->parent, &dir);
	*ret_has_parent = r == 0;
	if (r == 0)
		r = rvl_lookup(dir, at->name, &node);
	if (r == -ENOENT || r == -ENOTDIR || (r == 0 && node->id.number != number))
		return -ESTALE;
	if (r == 0)
		*ret = rvl_take_ptr(node);
	return r;
}

/* fn with each place that the map has for a number, until it returns 1: then 0. The map is built if
 * it is not complete. -ESTALE: there is none left. */
static int each_row(struct rvl_overlay *ov, uint64_t number, rvl_map_row_fn *fn, void *arg)
{
	int r = rvl_map_get(ov->index, number, fn, arg);

	if ((r == 0 || r == -ENOENT) && !rvl_map_is_complete(ov->index)) {
		r = rvl_overlay_build_map(ov);
		if (r == 0)
			r = rvl_map_get(ov->index, number, fn, arg);
	}
	return r == 1 ? 0 : r == 0 || r == -ENOENT ? -ESTALE : r;
}

struct row_search {
	struct rvl_overlay *ov;
	uint64_t number;
	struct rvl_node **ret;
	bool is_damaged; /* what is above a place: it cannot be told what is there */
	bool is_lost; /* a place's directory leads to nothing, and no tombstone says that it died */
};

static bool has_died(struct rvl_overlay *ov, uint64_t number)
{
	enum rvl_entry_kind kind;
	struct statx stx;

	return ov->stack->has_upper && rvl_entry_look(ov->index, number, &kind, &stx) == 0 &&
	       kind == RVL_ENTRY_TOMBSTONE;
}

static int try_row(void *arg, const struct rvl_map_row *row)
{
	struct row_search *search = arg;
	bool has_parent;
	int r = by_name(search->ov, search->number, &row->at, &has_parent, search->ret);

	if (r == -EUCLEAN && !has_parent)
		search->is_damaged = true;
	else if (r != -ESTALE)
		return r == 0 ? 1 : r;
	else if (!has_parent && !has_died(search->ov, row->at.parent))
		search->is_lost = true;
	return 0;
}

/* *ret_is_lost: of -ESTALE it is not certain that there is no such object (struct row_search). */
static int by_map(struct rvl_overlay *ov, uint64_t number, bool *ret_is_lost, struct rvl_node **ret)
{
	struct row_search search = { ov, number, ret, false, false };
	int r = each_row(ov, number, try_row, &search);

	*ret_is_lost = search.is_lost;
	return r == -ESTALE && search.is_damaged ? -EUCLEAN : r;
}

/* ---- data of an upper metacopy file ---- */

static int find_data_at(struct rvl_overlay *ov, const struct rvl_name_at *at, const char *redirect,
			struct rvl_place *ret)
{
	struct rvl_node _cleanup_node_ *dir = NULL;
	int r = rvl_node_get_dir(ov, at->parent, &dir);

	return r < 0 ? r : rvl_merge_lookup_data(ov->stack, &dir->lower, at->name, redirect, 0, ret);
}

struct data_search {
	struct rvl_overlay *ov;
	uint64_t number;
	struct rvl_place *ret;
};

/* Has the merged lower view this number there? What the map says was true when it was built. 0;
 * -ESTALE, -ENOENT: no. */
static int check_view(struct rvl_overlay *ov, const struct rvl_name_at *at, uint64_t number)
{
	struct rvl_found _cleanup_found_ found = {};
	struct rvl_node _cleanup_node_ *dir = NULL;
	const struct rvl_place *top;
	struct rvl_id id;
	int r = rvl_node_get_dir(ov, at->parent, &dir);

	if (r == 0)
		r = rvl_merge_lookup(ov->stack, &dir->lower, at->name, NULL, NULL, &found);
	if (r < 0 || !found.places.n)
		return r ?: -ENOENT;
	top = &found.places.v[0];
	r = rvl_number_of_lower(ov->index, top->layer, top->layer->fd, top->path, &found.st, &id);
	if (r == 0 && id.number != number)
		r = -ESTALE;
	return r;
}

static int try_data(void *arg, const struct rvl_map_row *row)
{
	struct data_search *search = arg;
	int r = check_view(search->ov, &row->at, search->number);

	if (r == 0)
		r = find_data_at(search->ov, &row->at, NULL, search->ret);
	return r == -ESTALE || r == -ENOENT || r == -ENODATA ? 0 : r == 0 ? 1 : r;
}

/* By its place in the merged lower view; or by another name there, if the directory of that was
 * removed. */
static int find_data_by_place(struct rvl_overlay *ov, uint64_t number, const char *path,
			      const struct statx *stx, const char *redirect, struct rvl_place *ret)
{
	struct data_search search = { ov, number, ret };
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_name_at at;
	ssize_t n = rvl_upper_xattr_get(ov->index, ov->index->inodes_fd, path, stx->stx_mode,
					stx->stx_ino, RVL_XATTR_PLACE, value, sizeof(value));
	int r = n < 0 ? (int)n : rvl_name_at_decode(value, (size_t)n, &at);

	if (r == 0)
		r = find_data_at(ov, &at, redirect, ret);
	return r == -ESTALE ? each_row(ov, number, try_data, &search) : r;
}

/* Nowhere is no error: the attributes can be had all the same. */
static int find_data(struct rvl_overlay *ov, uint64_t number, const char *path,
		     const struct statx *stx, struct rvl_place *ret)
{
	_cleanup_free_ char *redirect = NULL;
	int r = rvl_redirect_get(ov->stack, ov->index->inodes_fd, path, &redirect);

	if (r == 0 && redirect && redirect[0] == '/')
		r = rvl_merge_lookup_data(ov->stack, &ov->root->lower, path, redirect, 0, ret);
	else if (r == 0)
		r = find_data_by_place(ov, number, path, stx, redirect, ret);
	return r == -ENODATA || r == -ENOENT || r == -ESTALE || r == -EIO ? 0 : r;
}

/* Can only names of lower be left of it? 1, 0, or -errno. */
static int is_left_to_lower(struct rvl_node *node)
{
	char path[RVL_ENTRY_PATH_SIZE];
	struct statx stx;
	int diff, r;

	if (!rvl_node_has_upper(node) || rvl_node_is_dir(node) || node->is_unindexed ||
	    atomic_load(&node->is_dead) || rvl_number_is_born(node->ov->index, node->id.number))
		return 0;
	pthread_rwlock_rdlock(&node->lock);
	diff = node->nlink_diff;
	pthread_rwlock_unlock(&node->lock);
	if (diff <= -1)
		return 0;
	rvl_entry_path(node->id.number, path);
	r = rvl_path_statx(node->ov->index->inodes_fd, path, STATX_NLINK, &stx);
	return r < 0 ? r : stx.stx_nlink == 1;
}

int rvl_bury_if_unnamed(struct rvl_node *node, bool may_walk)
{
	struct rvl_node _cleanup_node_ *found = NULL;
	struct rvl_overlay *ov = node->ov;
	bool is_lost = false;
	int r = is_left_to_lower(node);

	if (r <= 0)
		return r;
	if (!may_walk && !rvl_map_is_complete(ov->index))
		return 0;
	r = by_map(ov, node->id.number, &is_lost, &found);
	/* a name may lie where the walk could not look, or in a directory whose entry was lost: its
	 * data are kept */
	if (r != -ESTALE || is_lost || rvl_map_has_gaps(ov->index))
		return r;
	/* one that was moved meanwhile was made upper's own first */
	r = is_left_to_lower(node);
	if (r <= 0)
		return r;
	rvl_node_bury_unnamed(node);
	return -ESTALE;
}

/* Not inlined: what it has on the stack would be there once more for each ancestor (DEPTH_MAX). */
__attribute__((noinline)) static int by_object(struct rvl_overlay *ov, uint64_t number,
					       struct statx *stx, struct rvl_node **ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_place data = {};
	bool is_metacopy = false;
	struct rvl_id id;
	int r;

	rvl_entry_path(number, path);
	r = rvl_stamp_get(ov->index, ov->index->inodes_fd, path, stx->stx_mode, stx->stx_ino, &id);
	if (r == -ENODATA || r == -EUCLEAN || (r == 0 && id.number != number))
		return report_damage(number);
	if (r < 0)
		return r;
	if (S_ISREG(stx->stx_mode)) {
		r = rvl_metacopy_look(ov, ov->index->inodes_fd, path, stx);
		if (r > 0) {
			r = find_data(ov, number, path, stx, &data);
			is_metacopy = true;
		}
	}
	if (r >= 0)
		r = rvl_node_from_entry(ov, &id, stx, is_metacopy ? &data : NULL, false, &node);
	if (r == -EAGAIN) /* another thread has it in memory: rvl_decode looks there last */
		r = -ESTALE;
	rvl_refstr_put(data.path);
	if (r < 0)
		return r;
	if (!rvl_node_is_known(node))
		r = rvl_bury_if_unnamed(node, !ov->is_recovering);
	if (r == 0)
		*ret = rvl_take_ptr(node);
	return r;
}

static int by_directory(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret)
{
	_cleanup_free_ struct rvl_entry_directory *dir = malloc(sizeof(*dir));
	bool has_parent = false;
	uint64_t parent;
	int error, r;

	if (!dir)
		return -ENOMEM;
	r = rvl_entry_get_directory(ov->index, number, dir);
	if (r < 0)
		return r == -EUCLEAN ? report_damage(number) : r;
	error = by_name(ov, number, &dir->path, &has_parent, ret);
	if (error != -ESTALE && error != -EUCLEAN)
		return error;
	parent = dir->path.parent;
	r = rvl_mend_path(ov, number, dir);
	/* a parent that leads to nothing is not asked once more: each level of a deep path would ask
	 * twice what is above it */
	if (r == -ESTALE || (r == 0 && !has_parent && dir->path.parent == parent))
		r = error;
	return r ?: by_name(ov, number, &dir->path, &has_parent, ret);
}

static int decode(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret)
{
	enum rvl_entry_kind kind = RVL_ENTRY_NONE;
	bool is_lost;
	struct statx stx;
	int r = 0;

	/* of two objects with the number the kernel means the one that it was shown */
	if (ov->stack->has_upper && !rvl_node_was_lower(ov, number))
		r = rvl_entry_look(ov->index, number, &kind, &stx);
	if (r < 0)
		return r == -EUCLEAN ? report_damage(number) : r;
	switch (kind) {
	case RVL_ENTRY_OBJECT:
		return by_object(ov, number, &stx, ret);
	case RVL_ENTRY_DIRECTORY:
		return by_directory(ov, number, ret);
	case RVL_ENTRY_NONE:
		/* what was born here is in no map */
		return rvl_number_is_born(ov->index, number) ? -ESTALE :
							       by_map(ov, number, &is_lost, ret);
	case RVL_ENTRY_TOMBSTONE:
		break;
	}
	return -ESTALE;
}

int rvl_decode(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret)
{
	bool may_come = rvl_complete_is_going(ov);
	int r;

	if (depth >= DEPTH_MAX)
		return report_damage(number);
	depth++;
	rvl_count(decodes);
	r = decode(ov, number, ret);
	if (r == -ESTALE && may_come) {
		rvl_complete_wait(ov);
		r = decode(ov, number, ret);
		if (r == -ESTALE && atomic_load(&ov->is_stopping))
			r = -EINTR; /* the walk may have been cut short */
	}
	/* It may have been moved since its place was read: who moves it has it in memory. */
	if (r == -ESTALE) {
		*ret = rvl_node_find(ov, number);
		r = *ret ? 0 : r;
	}
	depth--;
	if (r == -ESTALE)
		rvl_count(decodes_stale);
	return r;
}
