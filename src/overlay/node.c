// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The node cache: hash table in shards, each with the list of its nodes that nobody holds, oldest
 * first. Over the limit the oldest is dropped; if the kernel still knows a node that no index entry
 * leads to, its place goes into the map first, so that its number resolves from disk as all others
 * do.
 *
 * Not here: how a node is made (lookup.c) or found again (decode.c).
 */
#include "overlay/node.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number_set.h"
#include "index/map.h"
#include "overlay/decode.h"
#include "overlay/private.h"

#define N_SHARDS 32
#define NODES_DEFAULT 100000
#define NODES_MIN 1024
#define CHAIN_MAX (1 << 16) /* ancestors */
#define UNCOUNTED_MAX (1 << 15) /* a shard; of more the counts are taken for whole */
/* values in the set: of what the number was when its node was dropped */
#define WAS_LOWER 1
#define WAS_UPPER 2

struct shard {
	pthread_mutex_t lock;
	pthread_cond_t copied; /* some node's is_copying became false */
	struct rvl_node **buckets;
	struct rvl_node *oldest, *newest; /* refs == 0, nothing forbids dropping */
	unsigned n;
	/* nodes that were dropped while the kernel knew them: it may know more than is counted */
	struct rvl_number_set uncounted; /* owned */
	bool is_uncounted_lost; /* a number did not go into it: any may be missing */
};

struct rvl_node_cache {
	struct rvl_overlay *ov; /* borrowed */
	struct shard shards[N_SHARDS];
	unsigned n_buckets; /* a shard; power of two */
	unsigned limit; /* a shard */
};

static uint64_t mix(uint64_t number)
{
	return number * 0x9e3779b97f4a7c15ULL;
}

static struct shard *shard_of(struct rvl_node_cache *cache, uint64_t number)
{
	return &cache->shards[mix(number) >> 59];
}

static struct shard *shard_of_node(struct rvl_node *node)
{
	return shard_of(node->ov->nodes, node->id.number);
}

static struct rvl_node **find(struct rvl_node_cache *cache, struct shard *shard, uint64_t number)
{
	struct rvl_node **p = &shard->buckets[(mix(number) >> 32) & (cache->n_buckets - 1)];

	while (*p && (*p)->id.number != number)
		p = &(*p)->hash_next;
	return p;
}

static void list_remove(struct shard *shard, struct rvl_node *node)
{
	*(node->older ? &node->older->newer : &shard->oldest) = node->newer;
	*(node->newer ? &node->newer->older : &shard->newest) = node->older;
	node->older = node->newer = NULL;
}

static void list_append(struct shard *shard, struct rvl_node *node)
{
	node->older = shard->newest;
	node->newer = NULL;
	*(shard->newest ? &shard->newest->newer : &shard->oldest) = node;
	shard->newest = node;
}

/* May this node, which nobody holds, be dropped? Open files, orphans and the root may not. */
static bool is_droppable(const struct rvl_node *node)
{
	/* counts may have been lost with a former node: of what is dead only FORGET says the end */
	return node->n_open == 0 &&
	       (!atomic_load(&node->is_dead) || atomic_load(&node->is_forgotten)) &&
	       node->id.number != RVL_NUMBER_ROOT;
}

int rvl_node_cache_new(struct rvl_overlay *ov, unsigned limit, struct rvl_node_cache **ret)
{
	struct rvl_node_cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return -ENOMEM;
	if (limit == 0)
		limit = NODES_DEFAULT;
	if (limit < NODES_MIN)
		limit = NODES_MIN;
	cache->ov = ov;
	cache->limit = limit / N_SHARDS;
	for (cache->n_buckets = 64; cache->n_buckets < cache->limit; cache->n_buckets *= 2)
		;
	for (unsigned i = 0; i < N_SHARDS; i++) {
		struct shard *shard = &cache->shards[i];

		pthread_mutex_init(&shard->lock, NULL);
		pthread_cond_init(&shard->copied, NULL);
		shard->buckets = calloc(cache->n_buckets, sizeof(*shard->buckets));
		if (!shard->buckets) {
			rvl_node_cache_free(cache);
			return -ENOMEM;
		}
	}
	*ret = cache;
	return 0;
}

void rvl_node_free(struct rvl_node *node)
{
	if (!node)
		return;
	rvl_places_release(&node->lower);
	rvl_refstr_put(node->data.path);
	rvl_refstr_put(node->view_path);
	rvl_refstr_put(node->name);
	free(node->removed);
	rvl_listing_slot_destroy(&node->ov->listings, &node->lower_listing);
	rvl_listing_slot_destroy(&node->ov->listings, &node->merged_listing);
	pthread_rwlock_destroy(&node->lock);
	free(node);
}

void rvl_node_cache_free(struct rvl_node_cache *cache)
{
	if (!cache)
		return;
	for (unsigned i = 0; i < N_SHARDS; i++) {
		struct shard *shard = &cache->shards[i];

		for (unsigned b = 0; shard->buckets && b < cache->n_buckets; b++) {
			struct rvl_node *node, *next;

			for (node = shard->buckets[b]; node; node = next) {
				next = node->hash_next;
				rvl_node_free(node);
			}
		}
		free(shard->buckets);
		rvl_number_set_release(&shard->uncounted);
		pthread_cond_destroy(&shard->copied);
		pthread_mutex_destroy(&shard->lock);
	}
	free(cache);
}

struct rvl_node *rvl_node_new(struct rvl_overlay *ov, const struct rvl_id *id, mode_t type)
{
	struct rvl_node *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	node->ov = ov;
	node->id = *id;
	node->type = type & S_IFMT;
	node->nlink_diff = -1;
	node->given_to = RVL_GIVEN_TO_MANY; /* by a former node of this number, maybe */
	node->held = RVL_FD_NONE;
	node->refs = 1;
	pthread_rwlock_init(&node->lock, NULL);
	rvl_listing_slot_init(&node->lower_listing);
	rvl_listing_slot_init(&node->merged_listing);
	return node;
}

/*
 * The place of a node that the kernel still knows must be in the map before the node goes, unless
 * an entry leads to it.
 */
static void spill(struct rvl_node *node)
{
	struct rvl_map_row row = { .generation = node->id.generation,
				   .type = IFTODT(node->type),
				   .at.parent = node->parent };
	int r;

	if ((node->n_lookups == 0 && !node->is_uncounted) || !node->name ||
	    (rvl_node_has_upper(node) && !node->is_unindexed) || atomic_load(&node->is_dead))
		return;
	snprintf(row.at.name, sizeof(row.at.name), "%s", node->name);
	r = rvl_map_put(node->ov->index, node->id.number, &row);
	if (r < 0)
		rvl_warn_limited("the place of object %llu could not be kept in the map: %s",
				 (unsigned long long)node->id.number, strerror(-r));
}

/* Take the oldest node out if the shard is over its limit. */
static struct rvl_node *take_oldest(struct rvl_node_cache *cache, struct shard *shard)
{
	struct rvl_node *node = shard->oldest;

	if (!node || shard->n <= cache->limit)
		return NULL;
	spill(node);
	if (node->n_lookups || node->is_uncounted)
		shard->is_uncounted_lost |=
			rvl_number_set_add(&shard->uncounted, node->id.number,
					   rvl_node_has_upper(node) ? WAS_UPPER : WAS_LOWER,
					   UNCOUNTED_MAX) < 0;
	list_remove(shard, node);
	*find(cache, shard, node->id.number) = node->hash_next;
	shard->n--;
	rvl_count(nodes_evicted);
	rvl_count_n(nodes, -1);
	return node;
}

/* With the shard's lock. */
static void ref(struct shard *shard, struct rvl_node *node)
{
	if (node->refs++ == 0 && (node->older || node->newer || shard->oldest == node))
		list_remove(shard, node);
}

struct rvl_node *rvl_node_insert(struct rvl_node *node)
{
	struct rvl_node_cache *cache = node->ov->nodes;
	struct shard *shard = shard_of(cache, node->id.number);
	struct rvl_node **p, *spare = NULL, *ret;

	pthread_mutex_lock(&shard->lock);
	p = find(cache, shard, node->id.number);
	if (*p) {
		spare = node;
		ret = *p;
		ref(shard, ret);
	} else {
		node->hash_next = NULL;
		node->is_uncounted = rvl_number_set_take(&shard->uncounted, node->id.number);
		/* by a former node of this number, maybe */
		if (node->is_uncounted || shard->is_uncounted_lost)
			atomic_store(&node->are_names_given, true);
		*p = node;
		shard->n++;
		rvl_count(nodes);
		ret = node;
		spare = take_oldest(cache, shard);
	}
	pthread_mutex_unlock(&shard->lock);
	rvl_node_free(spare);
	return ret;
}

struct rvl_node *rvl_node_find(struct rvl_overlay *ov, uint64_t number)
{
	struct shard *shard = shard_of(ov->nodes, number);
	struct rvl_node *node;

	pthread_mutex_lock(&shard->lock);
	node = *find(ov->nodes, shard, number);
	if (node)
		ref(shard, node);
	pthread_mutex_unlock(&shard->lock);
	return node;
}

static uint64_t was(struct rvl_overlay *ov, uint64_t number)
{
	struct shard *shard = shard_of(ov->nodes, number);
	uint64_t ret;

	pthread_mutex_lock(&shard->lock);
	ret = rvl_number_set_get(&shard->uncounted, number);
	pthread_mutex_unlock(&shard->lock);
	return ret;
}

bool rvl_node_was_lower(struct rvl_overlay *ov, uint64_t number)
{
	return was(ov, number) == WAS_LOWER;
}

bool rvl_node_was_upper(struct rvl_overlay *ov, uint64_t number)
{
	return was(ov, number) == WAS_UPPER;
}

int rvl_node_get(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret)
{
	struct rvl_node *node;

	if (!rvl_number_is_valid(number))
		return -ESTALE;
	node = rvl_node_find(ov, number);
	if (node) {
		*ret = node;
		return 0;
	}
	return rvl_decode(ov, number, ret);
}

int rvl_node_get_dir(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret)
{
	struct rvl_node *node;
	int r = rvl_node_get(ov, number, &node);

	if (r < 0)
		return r;
	if (!rvl_node_is_dir(node)) {
		rvl_node_put(node);
		return -ENOTDIR;
	}
	*ret = node;
	return 0;
}

void rvl_node_ref(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);

	pthread_mutex_lock(&shard->lock);
	ref(shard, node);
	pthread_mutex_unlock(&shard->lock);
}

void rvl_node_put(struct rvl_node *node)
{
	struct rvl_node *spare = NULL;
	struct shard *shard;

	if (!node)
		return;
	shard = shard_of_node(node);
	pthread_mutex_lock(&shard->lock);
	if (--node->refs == 0 && is_droppable(node)) {
		list_append(shard, node);
		spare = take_oldest(node->ov->nodes, shard);
	}
	pthread_mutex_unlock(&shard->lock);
	rvl_node_free(spare);
}

void rvl_node_get_place(struct rvl_node *node, uint64_t *ret_parent, const char **ret_name)
{
	struct shard *shard = shard_of_node(node);

	pthread_mutex_lock(&shard->lock);
	*ret_parent = node->parent;
	*ret_name = node->name ? rvl_refstr_get(node->name) : NULL;
	pthread_mutex_unlock(&shard->lock);
}

bool rvl_node_is_in(struct rvl_node *node, uint64_t parent)
{
	struct shard *shard = shard_of_node(node);
	bool ret;

	pthread_mutex_lock(&shard->lock);
	ret = node->name && node->parent == parent;
	pthread_mutex_unlock(&shard->lock);
	return ret;
}

int rvl_node_set_place(struct rvl_node *node, uint64_t parent, const char *name)
{
	struct shard *shard = shard_of_node(node);
	const char *new = NULL, *old;

	if (name) {
		new = rvl_refstr_new(name);
		if (!new)
			return -ENOMEM;
	}
	pthread_mutex_lock(&shard->lock);
	old = node->name;
	node->parent = parent;
	node->name = new;
	pthread_mutex_unlock(&shard->lock);
	rvl_refstr_put(old);
	return 0;
}

void rvl_node_count_lookup(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);

	pthread_mutex_lock(&shard->lock);
	node->n_lookups++;
	pthread_mutex_unlock(&shard->lock);
}

/* By the kernel. With the shard's lock. */
static bool is_known(const struct rvl_node *node)
{
	return node->n_open || node->n_lookups || node->is_uncounted;
}

struct rvl_node *rvl_node_forget(struct rvl_overlay *ov, uint64_t number, uint64_t n)
{
	struct shard *shard = shard_of(ov->nodes, number);
	struct rvl_node *node;

	pthread_mutex_lock(&shard->lock);
	node = *find(ov->nodes, shard, number);
	if (!node) {
		(void)rvl_number_set_take(&shard->uncounted, number);
	} else {
		/* A node that was dropped and found again has counted less than the kernel, which
		 * gives a part back at times; only what is more than was counted is all. */
		if (n > node->n_lookups)
			node->is_uncounted = false;
		node->n_lookups -= n < node->n_lookups ? n : node->n_lookups;
		if (is_known(node))
			node = NULL;
		else
			ref(shard, node);
	}
	pthread_mutex_unlock(&shard->lock);
	return node;
}

void rvl_node_count_open(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);

	pthread_mutex_lock(&shard->lock);
	node->n_open++;
	pthread_mutex_unlock(&shard->lock);
}

void rvl_node_release(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);

	pthread_mutex_lock(&shard->lock);
	if (node->n_open)
		node->n_open--;
	pthread_mutex_unlock(&shard->lock);
}

bool rvl_node_is_known(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);
	bool ret;

	pthread_mutex_lock(&shard->lock);
	ret = is_known(node);
	pthread_mutex_unlock(&shard->lock);
	return ret;
}

bool rvl_node_count_living(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);
	bool is_living;

	pthread_mutex_lock(&shard->lock);
	is_living = !atomic_load(&node->is_dead);
	node->n_lookups += is_living;
	pthread_mutex_unlock(&shard->lock);
	return is_living;
}

void rvl_node_copy_begin(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);

	pthread_mutex_lock(&shard->lock);
	while (node->is_copying)
		pthread_cond_wait(&shard->copied, &shard->lock);
	node->is_copying = true;
	pthread_mutex_unlock(&shard->lock);
}

void rvl_node_copy_end(struct rvl_node *node)
{
	struct shard *shard = shard_of_node(node);

	pthread_mutex_lock(&shard->lock);
	node->is_copying = false;
	pthread_cond_broadcast(&shard->copied);
	pthread_mutex_unlock(&shard->lock);
}

void rvl_node_each_orphan(struct rvl_overlay *ov, void (*fn)(struct rvl_node *))
{
	struct rvl_node_cache *cache = ov->nodes;

	/* The connection is gone: the table does not change but by fn, which removes no node. */
	for (unsigned i = 0; i < N_SHARDS; i++) {
		for (unsigned b = 0; b < cache->n_buckets; b++) {
			struct rvl_node *node, *next;

			for (node = cache->shards[i].buckets[b]; node; node = next) {
				next = node->hash_next;
				if (node->log_id || node->held.slot)
					fn(node);
			}
		}
	}
}

void rvl_chain_release(struct rvl_chain *chain)
{
	for (size_t i = 0; i < chain->n; i++)
		rvl_node_put(chain->v[i]);
	free(chain->v);
	*chain = (struct rvl_chain){};
}

static int chain_add(struct rvl_chain *chain, struct rvl_node *node)
{
	/* grows at the powers of two */
	if ((chain->n & (chain->n - 1)) == 0) {
		size_t room = chain->n ? 2 * chain->n : 1;
		struct rvl_node **v =
			chain->n < CHAIN_MAX ? reallocarray(chain->v, room, sizeof(*v)) : NULL;

		if (!v) {
			rvl_node_put(node);
			return chain->n < CHAIN_MAX ? -ENOMEM : -ELOOP;
		}
		chain->v = v;
	}
	chain->v[chain->n++] = node;
	return 0;
}

int rvl_chain_read(struct rvl_node *dir, bool (*is_end)(struct rvl_node *), struct rvl_chain *ret)
{
	struct rvl_node *node = dir;
	int r = 0;

	*ret = (struct rvl_chain){};
	rvl_node_ref(dir);
	while (r == 0 && node->id.number != RVL_NUMBER_ROOT && !is_end(node)) {
		const char *name;
		uint64_t parent;

		r = chain_add(ret, node);
		if (r < 0)
			goto fail;
		rvl_node_get_place(node, &parent, &name);
		r = name ? rvl_node_get_dir(node->ov, parent, &node) : -ESTALE;
		rvl_refstr_put(name);
		if (r < 0)
			goto fail;
	}
	rvl_node_put(node);
	return 0;
fail:
	rvl_chain_release(ret);
	return r;
}
