// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Of a lost index: the numbers of lower objects that are not computed, since what was copied up from
 * them has another one. So it is after a rebind: the stamp has the number from before, overlay.origin
 * is the handle of the lower object that there is now, and what led from one to the other was in the map.
 *
 * A record that is missing parts names of lower from their object; a wrong one shows a file under the
 * name of another. So each object of upper that names a lower one as its origin must be likely to be right
 * (find_candidate), and alone: nothing else in upper has or would get the lower object's number, and no
 * other origin comes with the same stamp. Two sorts find that out, one by stamp, one by the number that
 * the lower object would have; where two of them would get it nobody does.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/stop.h"
#include "check/rebuild.h"
#include "check/sorter.h"
#include "index/bind.h"
#include "index/entry.h"
#include "index/fsck.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "index/state.h"
#include "index/table.h"
#include "layer/identity.h"
#include "layer/merge.h"
#include "layer/origin.h"
#include "layer/path.h"

/* Instead of a number that cannot be computed: and a hash of what the lower object is known by. */
#define NO_NUMBER (1ULL << 63)

struct candidate {
	struct rvl_id id; /* the stamp */
	struct rvl_real_id real;
	uint64_t computed; /* the number of real without a record, or NO_NUMBER */
	bool is_stamped; /* the lower object's own stamp says it, too: a claim (index/claims.c) */
};

struct recorder {
	const struct rvl_check_config *config; /* borrowed */
	struct rvl_index *index; /* borrowed */
	uint8_t (*uuids)[16]; /* owned; of the filesystems of layers, by layer index */
	/* OBJECT: upper has an object with this number; CLAIM: see put_candidate */
	struct rvl_sorter *by_stamp, *by_lower; /* owned */
	bool has_recorded;
};

/* All facts of one number: of one stamp (by_stamp), or of one computed number (by_lower). */
struct group {
	uint64_t number;
	bool has_object, has_candidate, is_contested;
	struct candidate candidate; /* the first */
};

/* ---- candidates as facts ---- */

static int put_object(struct rvl_sorter *sorter, uint64_t number)
{
	const struct rvl_fact fact = { .number = number, .kind = RVL_FACT_OBJECT };

	return rvl_sorter_add(sorter, &fact);
}

static int put_candidate(struct rvl_sorter *sorter, const struct candidate *candidate, bool is_by_lower)
{
	const struct rvl_fact fact = {
		.number = is_by_lower ? candidate->computed : candidate->id.number,
		.kind = RVL_FACT_CANDIDATE,
		.key = is_by_lower ? candidate->id.number : candidate->computed,
		.item = candidate->real.ino,
		.parent = candidate->real.instance,
		.nlink = candidate->id.generation,
		.what = candidate->is_stamped,
	};

	return rvl_sorter_add(sorter, &fact);
}

static struct candidate get_candidate(const struct rvl_fact *fact, bool is_by_lower)
{
	return (struct candidate){
		.id = { is_by_lower ? fact->key : fact->number, fact->nlink },
		.real = { .ino = fact->item, .instance = (uint16_t)fact->parent },
		.computed = is_by_lower ? fact->number : fact->key,
		.is_stamped = fact->what,
	};
}

/* ---- is an object of upper a candidate? ---- */

/* Is it of the instance that one of these lowers has now, so that it is computed and needs no record? */
static bool is_computed_here(const struct rvl_state *state, uint64_t number)
{
	for (unsigned i = 0; i < state->n_lowers; i++)
		if (state->lowers[i].instance == number >> RVL_INSTANCE_SHIFT)
			return true;
	return false;
}

/* What is left of an index that has lost its state knows better than a stamp. An entry that cannot be read
 * counts as one. */
static bool has_other_entry(struct rvl_index *index, uint64_t number, const struct statx *st)
{
	enum rvl_entry_kind kind;
	struct statx entry;

	if (rvl_entry_look(index, number, &kind, &entry))
		return true;
	return kind == RVL_ENTRY_TOMBSTONE ||
	       (kind == RVL_ENTRY_OBJECT && entry.stx_ino != st->stx_ino);
}

/*
 * Do the names of the lower object lead to what upper has? Of several names: if the copy-up has counted them
 * (overlay.nlink). What has one name, or is a directory, must lie where upper has it, which covers it, or is
 * merged with it: anywhere else it may be seen as an object of its own. An entry (no name->dir) lies nowhere.
 */
static bool shares_names(const struct recorder *rec, const struct rvl_tree_name *name,
		      const struct statx *st, const struct statx *lower)
{
	enum rvl_opaque opaque = RVL_OPAQUE_NO;
	struct rvl_nlink nlink;

	if (!S_ISDIR(st->stx_mode) && lower->stx_nlink > 1)
		return rvl_nlink_get(rec->index, name->dirfd, name->name, st->stx_mode, st->stx_ino,
				     &nlink) == 1;
	if (S_ISDIR(st->stx_mode) &&
	    (rvl_opaque_get(rec->config->stack, name->dirfd, name->name, &opaque) ||
	     opaque == RVL_OPAQUE_YES))
		return false;
	return name->dir && rvl_rebuild_is_at_place(rec->config->stack, name, lower) == 1;
}

/* Of a layer that was an upper: does its table and the lower object's stamp say this number? */
static bool is_stamped(const struct recorder *rec, const struct rvl_handle *origin, mode_t type,
		       uint64_t number)
{
	const struct rvl_stack *stack = rec->config->stack;
	const struct rvl_state *state = rec->index->state;
	const struct rvl_state_instance *instance =
		rvl_state_instance_by_id(state, (uint16_t)(number >> RVL_INSTANCE_SHIFT));
	uint8_t buf[RVL_STAMP_SIZE], digest[16];
	_cleanup_close_ int fd = -EBADF;
	const struct rvl_layer *layer;
	struct rvl_table table;
	struct rvl_id stamp;
	struct statx st;
	ssize_t n;

	if (!instance || !(instance->flags & RVL_INSTANCE_IMPORTED))
		return false;
	fd = rvl_origin_find(stack, rec->uuids, origin, type, &layer, &st);
	if (fd < 0 || !(state->lowers[layer->index - 1].flags & RVL_ROOT_HAS_TABLE))
		return false;
	n = rvl_xattr_get(&stack->xattr, fd, "", RVL_XATTR_INO, buf, sizeof(buf));
	if (n < 0 || rvl_stamp_decode(buf, (size_t)n, &stamp) ||
	    rvl_bind_read_table(stack, layer, &table))
		return false;
	rvl_table_digest(&table, (uint16_t)(stamp.number >> RVL_INSTANCE_SHIFT), digest);
	return !memcmp(digest, instance->digest, sizeof(digest)) &&
	       (stamp.number & RVL_REAL_INO_MASK) == (number & RVL_REAL_INO_MASK);
}

/* 1: it does. id: its stamp. */
static int find_candidate(const struct recorder *rec, const struct rvl_tree_name *name,
		      const struct statx *st, const struct rvl_id *id, struct candidate *ret)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_index *index = rec->index;
	struct rvl_handle origin;
	struct statx lower;
	uint64_t key[2];
	ssize_t n;
	int r;

	/* What was born has no origin, as a rule; where it has one (a copy that was made offline, or what the kernel
	 * copied up and we took for an object of its own) that does not make it the lower object. */
	if (is_computed_here(index->state, id->number) || rvl_number_may_be_born(index, id))
		return 0;
	n = rvl_upper_xattr_get(index, name->dirfd, name->name, st->stx_mode, st->stx_ino,
				RVL_XATTR_ORIGIN, value, sizeof(value));
	if (n <= 0 || rvl_handle_decode(value, (unsigned)n, &origin))
		return 0;
	ret->id = *id;
	r = rvl_real_of_origin(index, rec->uuids, &origin, st->stx_mode, &ret->real, &lower);
	if (r)
		return r == -ENOENT || r == -ENODATA || rvl_merge_is_local_error(r) ? 0 : r;
	key[0] = ret->real.instance;
	key[1] = ret->real.ino;
	if (!rvl_number_compute(index, &ret->real, &ret->computed))
		ret->computed = NO_NUMBER | rvl_hash(key, sizeof(key));
	ret->is_stamped = is_stamped(rec, &origin, st->stx_mode, id->number);
	/* computed, too: of a filesystem that is mounted within a layer and has an instance of its own */
	return ret->real.instance != id->number >> RVL_INSTANCE_SHIFT &&
	       !has_other_entry(index, id->number, st) && shares_names(rec, name, st, &lower);
}

/* A name of upper's, or an entry. */
static int take(struct recorder *rec, const struct rvl_tree_name *name, const struct statx *st,
		const struct rvl_id *id)
{
	struct candidate candidate;
	int r = find_candidate(rec, name, st, id, &candidate);

	if (r < 0)
		return r;
	return r ? put_candidate(rec->by_stamp, &candidate, false) : put_object(rec->by_stamp, id->number);
}

static int visit(void *arg, const struct rvl_tree_name *name)
{
	struct recorder *rec = arg;
	struct statx st;
	struct rvl_id id;
	int r = rvl_stop_check(rec->config->stop) ?:
			rvl_path_statx(name->dirfd, name->name, RVL_STATX_MASK, &st);

	if (r)
		return r == -ENOENT ? 0 : r;
	r = rvl_stamp_get(rec->index, name->dirfd, name->name, st.stx_mode, st.stx_ino, &id);
	if (r || id.number == RVL_NUMBER_ROOT)
		return r == -ENODATA || r == -EUCLEAN ? 0 : r;
	return take(rec, name, &st, &id);
}

/* The state alone is lost: what the index has and upper has no name of is shown by names of lower. */
static int visit_entry(void *arg, uint64_t number)
{
	struct recorder *rec = arg;
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_tree_name name = { .dirfd = rec->index->inodes_fd, .name = path };
	enum rvl_entry_kind kind;
	struct statx st;
	struct rvl_id id;
	int r = rvl_stop_check(rec->config->stop) ?: rvl_entry_look(rec->index, number, &kind, &st);

	if (r || kind != RVL_ENTRY_OBJECT || st.stx_nlink > 1)
		return r == -EUCLEAN ? 0 : r;
	rvl_entry_path(number, path);
	r = rvl_stamp_get(rec->index, name.dirfd, path, st.stx_mode, st.stx_ino, &id);
	if (r || id.number != number)
		return r == -ENODATA || r == -EUCLEAN ? 0 : r;
	return take(rec, &name, &st, &id);
}

/* ---- is it alone? ---- */

static bool is_same_candidate(const struct candidate *a, const struct candidate *b)
{
	return a->id.number == b->id.number && a->real.ino == b->real.ino &&
	       a->real.instance == b->real.instance;
}

static int add_to_group(struct recorder *rec, struct group *group, const struct rvl_fact *fact,
			bool is_by_lower)
{
	const struct candidate candidate = get_candidate(fact, is_by_lower);

	if (fact->kind == RVL_FACT_OBJECT) {
		group->has_object = true;
	} else if (!group->has_candidate) {
		group->has_candidate = true;
		group->candidate = candidate;
	} else if (!is_same_candidate(&candidate, &group->candidate)) { /* else it is another name */
		group->is_contested = true;
		/* nobody else gets it either */
		return is_by_lower ? 0 : put_object(rec->by_lower, candidate.computed);
	}
	return 0;
}

/* Objects with one stamp. */
static int settle_stamp(struct recorder *rec, const struct group *group)
{
	int r = put_object(rec->by_lower, group->number);

	if (r || !group->has_candidate)
		return r;
	if (!group->is_contested)
		return put_candidate(rec->by_lower, &group->candidate, true);
	rvl_warn_limited("number %llu: objects in upper with this stamp were copied up from different "
			 "objects of lower; names that are only in lower show what lower has",
			 (unsigned long long)group->number);
	return put_object(rec->by_lower, group->candidate.computed);
}

/* Claims of one lower object. */
static int settle_lower(struct recorder *rec, const struct group *group)
{
	const struct candidate *candidate = &group->candidate;
	struct rvl_id there;
	int r;

	if (!group->has_candidate || group->has_object)
		return 0;
	if (group->is_contested) {
		rvl_warn_limited("number %llu: other objects in upper were copied up from the same "
				 "object of lower; names that are only in lower show what lower has",
				 (unsigned long long)candidate->id.number);
		return 0;
	}
	if (candidate->is_stamped) /* the next mount takes it over with the others of its layer */
		return 0;
	r = rvl_real_record(rec->index, &candidate->real, &candidate->id);
	if (r == -EEXIST) {
		r = rvl_real_number(rec->index, &candidate->real, &there);
		if (r || there.number != candidate->id.number)
			return r == -ENOENT ? 0 : r;
	}
	rec->has_recorded |= !r;
	return r;
}

static int each_group(struct recorder *rec, bool is_by_lower)
{
	struct rvl_sorter *sorter = is_by_lower ? rec->by_lower : rec->by_stamp;
	int (*settle)(struct recorder *rec, const struct group *group) =
		is_by_lower ? settle_lower : settle_stamp;
	struct group group = { 0 };
	struct rvl_fact fact;
	int r;

	while ((r = rvl_sorter_next(sorter, &fact)) > 0) {
		if (fact.number != group.number) {
			r = group.number ? settle(rec, &group) : 0;
			if (r)
				return r;
			group = (struct group){ .number = fact.number };
		}
		r = add_to_group(rec, &group, &fact, is_by_lower);
		if (r)
			return r;
	}
	return r ?: group.number ? settle(rec, &group) : 0;
}

/* ---- all ---- */

static int walk(struct recorder *rec)
{
	const struct rvl_layer *upper = rvl_stack_upper(rec->config->stack);
	_cleanup_free_ char *path = NULL;
	int r = rvl_tree_walk(upper->fd, visit, rec, &path);

	if (r && r != -ECANCELED)
		rvl_error("upperdir=%s: %s: %s", upper->path, path ?: "", strerror(-r));
	return r;
}

int rvl_rebuild_record(void *arg, struct rvl_index *index)
{
	struct recorder rec = { .config = arg, .index = index };
	int r = rvl_identity_uuids(rec.config->stack, &rec.uuids);

	r = r ?: rvl_sorter_new(0, &rec.by_stamp);
	r = r ?: walk(&rec);
	r = r ?: rvl_entry_each(index, visit_entry, &rec);
	r = r ?: rvl_sorter_new(0, &rec.by_lower);
	r = r ?: each_group(&rec, false);
	r = r ?: each_group(&rec, true);
	rvl_sorter_free(rec.by_stamp);
	rvl_sorter_free(rec.by_lower);
	free(rec.uuids);
	return r ?: rec.has_recorded;
}
