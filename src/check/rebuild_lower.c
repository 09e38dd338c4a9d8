// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Of a lost index: the numbers of lower objects that are not computed, since what was copied up from
 * them has another one. So it is after a rebind: the stamp has the number from before, overlay.origin
 * is the handle of the lower object that there is now, and what led from one to the other was in the map.
 *
 * A record that is missing parts names of lower from their object; a wrong one shows a file under the
 * name of another. So each object of upper that claims a lower one must be likely to be right
 * (find_claim), and alone: nothing else in upper has or claims the lower object's number, and nothing
 * claims another one with the same stamp. Two sorts find that out, one by stamp, one by the number that
 * the lower object would have; where two of them claim it nobody gets it.
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

struct claim {
	struct rvl_id id; /* the stamp */
	struct rvl_real_id real;
	uint64_t computed; /* the number of real without a record, or NO_NUMBER */
	bool is_stamped; /* the lower object's own stamp says it */
};

struct recorder {
	const struct rvl_check_config *config; /* borrowed */
	struct rvl_index *index; /* borrowed */
	uint8_t (*uuids)[16]; /* owned; of the filesystems of layers, by layer index */
	/* OBJECT: upper has an object with this number; CLAIM: see put_claim */
	struct rvl_sorter *by_stamp, *by_lower; /* owned */
	bool has_recorded;
};

/* Claims of one number, of its stamp or computed. */
struct group {
	uint64_t number;
	bool has_object, has_claim, is_contested;
	struct claim claim; /* the first */
};

/* ---- claims as facts ---- */

static int put_object(struct rvl_sorter *sorter, uint64_t number)
{
	const struct rvl_fact fact = { .number = number, .kind = RVL_FACT_OBJECT };

	return rvl_sorter_add(sorter, &fact);
}

static int put_claim(struct rvl_sorter *sorter, const struct claim *claim, bool is_by_lower)
{
	const struct rvl_fact fact = {
		.number = is_by_lower ? claim->computed : claim->id.number,
		.kind = RVL_FACT_CLAIM,
		.key = is_by_lower ? claim->id.number : claim->computed,
		.item = claim->real.ino,
		.parent = claim->real.instance,
		.nlink = claim->id.generation,
		.what = claim->is_stamped,
	};

	return rvl_sorter_add(sorter, &fact);
}

static struct claim get_claim(const struct rvl_fact *fact, bool is_by_lower)
{
	return (struct claim){
		.id = { is_by_lower ? fact->key : fact->number, fact->nlink },
		.real = { .ino = fact->item, .instance = (uint16_t)fact->parent },
		.computed = is_by_lower ? fact->number : fact->key,
		.is_stamped = fact->what,
	};
}

/* ---- does an object of upper claim a lower one? ---- */

/* A number that is computed of what is in these lowers now, or of nothing in them. */
static bool is_of_now(const struct rvl_state *state, uint64_t number)
{
	for (unsigned i = 0; i < state->n_lowers; i++)
		if (state->lowers[i].instance == number >> RVL_INSTANCE_SHIFT)
			return true;
	return false;
}

/* What is left of an index that has lost its state knows better than a stamp. */
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
 * Are the names of a lower object names of what upper has? Of several they are if the copy-up has counted
 * them. What has one, or is a directory, must lie where upper has it, which covers it, or is merged with it:
 * anywhere else it may be seen as what it is. An entry (no name->dir) lies nowhere.
 */
static bool is_joined(const struct recorder *rec, const struct rvl_tree_name *name,
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
static int find_claim(const struct recorder *rec, const struct rvl_tree_name *name,
		      const struct statx *st, const struct rvl_id *id, struct claim *ret)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_index *index = rec->index;
	struct rvl_handle origin;
	struct statx lower;
	uint64_t key[2];
	ssize_t n;
	int r;

	/* what was born has no origin, but for copies that were made offline, and what the kernel copied up
	 * and we took for an object of its own */
	if (is_of_now(index->state, id->number) || rvl_number_may_be_born(index, id))
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
	/* the same for filesystems within a layer */
	return ret->real.instance != id->number >> RVL_INSTANCE_SHIFT &&
	       !has_other_entry(index, id->number, st) && is_joined(rec, name, st, &lower);
}

/* A name of upper's, or an entry. */
static int take(struct recorder *rec, const struct rvl_tree_name *name, const struct statx *st,
		const struct rvl_id *id)
{
	struct claim claim;
	int r = find_claim(rec, name, st, id, &claim);

	if (r < 0)
		return r;
	return r ? put_claim(rec->by_stamp, &claim, false) : put_object(rec->by_stamp, id->number);
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

static bool is_same_claim(const struct claim *a, const struct claim *b)
{
	return a->id.number == b->id.number && a->real.ino == b->real.ino &&
	       a->real.instance == b->real.instance;
}

static int add_to_group(struct recorder *rec, struct group *group, const struct rvl_fact *fact,
			bool is_by_lower)
{
	const struct claim claim = get_claim(fact, is_by_lower);

	if (fact->kind == RVL_FACT_OBJECT) {
		group->has_object = true;
	} else if (!group->has_claim) {
		group->has_claim = true;
		group->claim = claim;
	} else if (!is_same_claim(&claim, &group->claim)) { /* else it is another name */
		group->is_contested = true;
		/* nobody else gets it either */
		return is_by_lower ? 0 : put_object(rec->by_lower, claim.computed);
	}
	return 0;
}

/* Objects with one stamp. */
static int settle_stamp(struct recorder *rec, const struct group *group)
{
	int r = put_object(rec->by_lower, group->number);

	if (r || !group->has_claim)
		return r;
	if (!group->is_contested)
		return put_claim(rec->by_lower, &group->claim, true);
	rvl_warn_limited("number %llu: the objects in upper that have it were copied up from several "
			 "in lower: which names of lower are theirs cannot be told",
			 (unsigned long long)group->number);
	return put_object(rec->by_lower, group->claim.computed);
}

/* Claims of one lower object. */
static int settle_lower(struct recorder *rec, const struct group *group)
{
	const struct claim *claim = &group->claim;
	struct rvl_id there;
	int r;

	if (!group->has_claim || group->has_object)
		return 0;
	if (group->is_contested) {
		rvl_warn_limited("number %llu: upper has more that was copied up from the same in "
				 "lower: whose the names of lower are cannot be told",
				 (unsigned long long)claim->id.number);
		return 0;
	}
	if (claim->is_stamped) /* the next mount takes it over with the others of its layer */
		return 0;
	r = rvl_real_record(rec->index, &claim->real, &claim->id);
	if (r == -EEXIST) {
		r = rvl_real_number(rec->index, &claim->real, &there);
		if (r || there.number != claim->id.number)
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
