// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The two walks. The tree: what the mount shows, upper over lower, by the rules of look-up
 * (layer/merge.h); objects of upper are judged on the way, and every visible name becomes a fact.
 * The view: the merged lower view alone, as the map describes it.
 *
 * Directories that are found wait on a stack; each is read whole, so there is no recursion, and no
 * descriptor is kept for one that waits.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "check/mend.h"
#include "check/private.h"
#include "layer/listing.h"
#include "layer/path.h"

#define NUMBER_APART (1ULL << 63) /* no number has it (rvl_number_is_valid) */

struct directory {
	char *upper; /* owned; path from upper's root; NULL: not in upper */
	struct rvl_places lower; /* owned */
	uint64_t number; /* 0: not known */
	uint64_t item;
	bool is_opaque;
};

struct walk {
	struct rvl_check *check; /* borrowed */
	struct directory *waiting; /* owned */
	size_t n, size;
	bool is_view;
};

static void directory_release(struct directory *dir)
{
	free(dir->upper);
	rvl_places_release(&dir->lower);
}

static void walk_release(struct walk *walk)
{
	while (walk->n)
		directory_release(&walk->waiting[--walk->n]);
	free(walk->waiting);
}

/* Takes *dir over, also when it fails. */
static int push(struct walk *walk, struct directory *dir)
{
	int r = rvl_array_reserve(&walk->waiting, &walk->size, walk->n, sizeof(*walk->waiting),
				  RVL_WALK_DIRECTORIES_MAX);

	if (r)
		directory_release(dir);
	else
		walk->waiting[walk->n++] = *dir;
	return r;
}

static void warn_left_out(struct walk *walk, const char *what, int r)
{
	/* removed or renamed meanwhile */
	if (walk->check->config->is_online && (r == -ENOENT || r == -ESTALE))
		return;
	rvl_warn("%s: %s; left out", what, strerror(-r));
}

static int add_fact(struct walk *walk, const struct rvl_fact *fact)
{
	return rvl_sorter_add(walk->check->sorter, fact);
}

/* ---- lower names ---- */

/*
 * Where a rebind makes an index again, what lower's objects are numbered with says nothing of stamps,
 * and may be the stamp of another object: the copy may be on the filesystem that an original was on.
 * So the facts of both are kept apart.
 */
static uint64_t fact_number(const struct walk *walk, uint64_t lower_number)
{
	return walk->check->config->is_rebind ? lower_number | NUMBER_APART : lower_number;
}

static int lower_number(struct walk *walk, const struct rvl_found *found, struct rvl_id *ret)
{
	const struct rvl_place *top = &found->places.v[0];

	return rvl_number_of_lower(walk->check->index, top->layer, top->layer->fd, top->path,
				   &found->st, ret);
}

/* Look it up where the listing is not enough. -ENOENT: it cannot be seen after all. */
static int look_up(struct walk *walk, const struct directory *dir, const struct rvl_listing *lower,
		   const char *name, struct rvl_found *found, struct rvl_id *ret)
{
	int r = rvl_merge_lookup(walk->check->stack, &dir->lower, name, NULL, lower, found);

	if (!r && !found->places.n)
		r = -ENOENT;
	if (!r && walk->check->index)
		r = lower_number(walk, found, ret);
	return r;
}

static int lower_name(struct walk *walk, const struct directory *dir,
		      const struct rvl_listing *lower, const struct rvl_listing_name *entry,
		      const char *name)
{
	struct rvl_check *check = walk->check;
	struct rvl_fact fact = { .kind = walk->is_view ? RVL_FACT_VIEW : RVL_FACT_SEEN,
				 .type = entry->type,
				 .parent = dir->number };
	struct rvl_found found = { 0 };
	struct rvl_id id = { 0 };
	int r = -EAGAIN;

	if (entry->type != DT_DIR && check->index)
		r = rvl_number_of_dirent(check->index, &check->stack->layers[entry->layer],
					 entry->ino, entry->type, &id.number);
	if (r == -EAGAIN && (check->index || entry->type == DT_DIR))
		r = look_up(walk, dir, lower, name, &found, &id);
	if (!r) {
		fact.number = fact_number(walk, id.number);
		fact.key = rvl_place_hash(dir->number, name);
		r = rvl_spool_add(check->spool, dir->item, name, &fact.item);
	}
	if (!r && check->index)
		r = add_fact(walk, &fact);
	if (!r && entry->type == DT_DIR) {
		struct directory child = { .lower = found.places,
					   .number = id.number,
					   .item = fact.item };

		found.places = (struct rvl_places){ 0 };
		r = push(walk, &child);
	}
	rvl_found_release(&found);
	if (r == -EAGAIN || rvl_merge_is_local_error(r))
		r = 0;
	return r ?: rvl_check_tick(check);
}

/* ---- upper names ---- */

static int whiteout(struct walk *walk, const struct directory *dir, int dirfd, const char *name,
		    const struct rvl_listing *lower, const char *path)
{
	struct rvl_check *check = walk->check;
	enum rvl_problem_id id;

	if (dir->is_opaque)
		id = RVL_P_WHITEOUT_IN_OPAQUE;
	else if (!lower || !rvl_listing_find(lower, name))
		id = RVL_P_WHITEOUT_USELESS;
	else
		return 0;
	if (!rvl_problem_begin(check, id, 0, path, NULL))
		return 0;
	return rvl_problem_end(check, unlinkat(dirfd, name, 0) ? -errno : 0);
}

/* The lower directories that an upper one is merged with. */
static int find_merged(struct walk *walk, const struct directory *dir, struct rvl_object *object,
		       struct rvl_found *ret)
{
	int r;

	*ret = (struct rvl_found){ 0 };
	if (object->is_opaque || (!dir->lower.n && !(object->redirect && *object->redirect == '/')))
		return 0;
	r = rvl_merge_lookup(walk->check->stack, &dir->lower, object->name, object->redirect, NULL,
			     ret);
	if (!r && ret->places.n && !S_ISDIR(ret->st.stx_mode))
		rvl_found_release(ret);
	if (!r && !ret->places.n && object->redirect)
		return -ENOENT;
	return r;
}

static int add_merged_facts(struct walk *walk, const struct rvl_object *object,
			    const struct rvl_found *found)
{
	struct rvl_check *check = walk->check;
	struct rvl_fact fact = { .number = object->stamp.number, .kind = RVL_FACT_MERGED };
	struct rvl_id id;
	int r = lower_number(walk, found, &id);

	if (r)
		return rvl_merge_is_local_error(r) ? 0 : r;
	fact.key = fact_number(walk, id.number);
	r = rvl_lower_item_add(check, &found->places.v[0], &fact.item);
	if (!r && check->mode != RVL_CHECK_LOOK) {
		r = rvl_number_set_add(&check->merged, object->st->stx_ino, fact.item,
				       RVL_NUMBER_SET_MAX);
		if (r == -E2BIG) {
			check->is_merged_incomplete = true;
			r = 0;
		}
	}
	if (!r && fact.number)
		r = add_fact(walk, &fact);
	fact.kind = RVL_FACT_ORIGIN;
	fact.number = fact_number(walk, id.number);
	fact.key = object->st->stx_ino;
	fact.parent = object->stamp.number;
	fact.item = object->item;
	return r ?: add_fact(walk, &fact);
}

static bool is_older(const struct statx *a, const struct statx *b)
{
	return a->stx_mask & b->stx_mask & STATX_BTIME &&
	       (a->stx_btime.tv_sec < b->stx_btime.tv_sec ||
		(a->stx_btime.tv_sec == b->stx_btime.tv_sec &&
		 a->stx_btime.tv_nsec < b->stx_btime.tv_nsec));
}

/*
 * Lower is shown beneath a directory that was made in its place when it had been removed: the record
 * says so, and lower's is the older one. A newer one came with a newer lower, and is to be seen. The
 * record must be this very directory's.
 */
static bool has_lost_opaque(struct walk *walk, const struct rvl_object *object,
			    const struct rvl_found *found)
{
	struct rvl_check *check = walk->check;
	struct rvl_entry_directory record;
	struct rvl_handle own;

	if (check->config->is_rebind || !object->stamp.number || !found->places.n ||
	    rvl_check_is_pending(check, object->stamp.number) ||
	    !rvl_number_is_born(check->index, object->stamp.number) ||
	    !is_older(&found->st, object->st) ||
	    rvl_entry_get_directory(check->index, object->stamp.number, &record) ||
	    !rvl_entry_hides_lower(&record))
		return false;
	rvl_handle_for_entry(object->dirfd, object->name, &own);
	return own.len && rvl_handle_equal(&own, &record.upper);
}

static int upper_directory(struct walk *walk, const struct directory *dir,
			   struct rvl_object *object)
{
	struct rvl_check *check = walk->check;
	struct directory child = { .number = object->stamp.number,
				   .item = object->item,
				   .is_opaque = object->is_opaque };
	struct rvl_found found;
	int r = find_merged(walk, dir, object, &found);

	if (r == -ENOENT && object->redirect) {
		r = 0;
		if (!rvl_check_is_pending(check, object->stamp.number) &&
		    rvl_problem_begin(check, RVL_P_REDIRECT_DANGLING, object->stamp.number,
				      object->path, "to %s", object->redirect))
			r = rvl_problem_end(check, rvl_mend_redirect(check, object));
		if (!r) {
			rvl_found_release(&found);
			r = find_merged(walk, dir, object, &found);
		}
	}
	if (rvl_merge_is_local_error(r))
		r = 0;
	if (!r && check->index && has_lost_opaque(walk, object, &found)) {
		/* mended or not: what lower has there is none of this overlay's names */
		rvl_found_release(&found);
		found = (struct rvl_found){ 0 };
		child.is_opaque = true;
		if (rvl_problem_begin(check, RVL_P_OPAQUE_MISSING, object->stamp.number,
				      object->path, NULL))
			r = rvl_problem_end(check, rvl_mend_opaque(check, object->dirfd,
								   object->name,
								   object->stamp.number));
	}
	if (!r && found.places.n && check->index)
		r = add_merged_facts(walk, object, &found);
	child.upper = strdup(object->path);
	child.lower = found.places;
	found.places = (struct rvl_places){ 0 };
	rvl_found_release(&found);
	if (r || !child.upper) {
		directory_release(&child);
		return r ?: -ENOMEM;
	}
	return push(walk, &child);
}

static int upper_name(struct walk *walk, const struct directory *dir, int dirfd, const char *name,
		      const struct rvl_listing *lower)
{
	struct rvl_check *check = walk->check;
	_cleanup_free_ char *path = rvl_path_join(dir->upper, name);
	struct rvl_object object = {
		.dirfd = dirfd, .name = name, .parent = dir->number, .lower = &dir->lower
	};
	struct statx stx;
	int r = rvl_path_statx(dirfd, name, RVL_STATX_MASK, &stx);

	if (!path)
		return -ENOMEM;
	if (r)
		return rvl_merge_is_local_error(r) ? 0 : r; /* gone meanwhile: online */
	r = rvl_whiteout_check(check->stack, dirfd, name, &stx, false);
	if (r)
		return r < 0 ? r : whiteout(walk, dir, dirfd, name, lower, path);
	check->result->n_objects += !check->is_silent;
	object.path = path;
	object.st = &stx;
	r = rvl_spool_add(check->spool, dir->item, name, &object.item);
	r = r ?: rvl_check_object(check, &object);
	if (!r && S_ISDIR(stx.stx_mode))
		r = upper_directory(walk, dir, &object);
	rvl_object_release(&object);
	if (rvl_merge_is_local_error(r)) {
		warn_left_out(walk, path, r);
		r = 0;
	}
	return r ?: rvl_check_tick(check);
}

static int upper_names(struct walk *walk, const struct directory *dir, int fd,
		       const struct rvl_listing *lower)
{
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(fd, O_RDONLY | O_DIRECTORY), &names);

	while (!r && (r = rvl_dir_next(names, &entry)) > 0)
		r = upper_name(walk, dir, fd, entry->d_name, lower);
	return r;
}

/* ---- one directory ---- */

/* Names of lower that upper leaves to be seen. */
static int lower_names(struct walk *walk, const struct directory *dir,
		       const struct rvl_listing *lower, const struct rvl_listing *merged)
{
	int r = 0;

	for (size_t i = 0; !r && i < merged->n; i++)
		if (merged->v[i].layer)
			r = lower_name(walk, dir, lower, &merged->v[i],
				       rvl_listing_text(merged, &merged->v[i]));
	return r;
}

static int read_merged(struct walk *walk, const struct directory *dir)
{
	const struct rvl_stack *stack = walk->check->stack;
	const struct rvl_secret *secret = &walk->check->secret;
	_cleanup_close_ int fd =
		rvl_path_open(stack->layers[0].fd, dir->upper, O_RDONLY | O_DIRECTORY, 0);
	struct rvl_listing *lower = NULL, *merged = NULL;
	int r = fd < 0 ? fd : 0;

	if (!r && dir->lower.n)
		r = rvl_listing_read(stack, &dir->lower, secret, 0, &lower);
	/* upper's names first: mending may uncover lower ones */
	r = r ?: upper_names(walk, dir, fd, lower);
	if (!r && lower) {
		r = rvl_listing_read_upper(stack, fd, lower, dir->is_opaque, secret, &merged);
		r = r ?: lower_names(walk, dir, lower, merged);
	}
	rvl_listing_put(lower);
	rvl_listing_put(merged);
	return r;
}

static int read_lower(struct walk *walk, const struct directory *dir)
{
	struct rvl_listing *lower = NULL;
	int r = rvl_listing_read(walk->check->stack, &dir->lower, &walk->check->secret, 0, &lower);

	r = r ?: lower_names(walk, dir, lower, lower);
	rvl_listing_put(lower);
	return r;
}

static int walk_all(struct walk *walk)
{
	int r = 0;

	while (!r && walk->n) {
		struct directory dir = walk->waiting[--walk->n];

		r = dir.upper ? read_merged(walk, &dir) : read_lower(walk, &dir);
		if (rvl_merge_is_local_error(r)) {
			warn_left_out(walk, dir.upper && *dir.upper ? dir.upper : "a directory", r);
			r = 0;
		}
		directory_release(&dir);
	}
	walk_release(walk);
	return r;
}

static int walk_from_root(struct rvl_check *check, bool is_view)
{
	struct walk walk = { .check = check, .is_view = is_view };
	struct directory root = { .number = RVL_NUMBER_ROOT, .item = RVL_SPOOL_ROOT };
	int r = rvl_places_of_root(check->stack, &root.lower);

	if (!r && !is_view && check->stack->has_upper) {
		root.upper = strdup("");
		r = root.upper ? 0 : -ENOMEM;
	}
	if (r || (!root.upper && !root.lower.n)) {
		directory_release(&root);
		return r;
	}
	r = push(&walk, &root);
	return r ?: walk_all(&walk);
}

int rvl_check_tree(struct rvl_check *check)
{
	rvl_check_pass(check, "the tree");
	return walk_from_root(check, false);
}

int rvl_check_view(struct rvl_check *check)
{
	rvl_check_pass(check, "the lower view");
	return walk_from_root(check, true);
}
