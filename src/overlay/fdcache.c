// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Bounded cache of descriptors: shards of hash chains, each with a least-recently-used list of its
 * unpinned slots. A slot that is dropped while pinned leaves the table and is closed by its last
 * unpin.
 *
 * Not here: how an object is opened (real.c, file.c).
 */
#include "overlay/fdcache.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"

#define N_SHARDS 16
#define N_BUCKETS 256 /* a shard */
#define OTHER_FDS 1024 /* beside those of the cache: layers, requests */

struct rvl_fd_slot {
	uint64_t number;
	enum rvl_fd_kind kind;
	int fd;
	unsigned pins;
	bool is_dropped;
	struct rvl_fd_slot *hash_next;
	struct rvl_fd_slot *older, *newer; /* in the list only while pins == 0 */
};

struct shard {
	pthread_mutex_t lock;
	struct rvl_fd_slot *buckets[N_BUCKETS];
	struct rvl_fd_slot *oldest, *newest;
	unsigned n;
};

struct rvl_fdcache {
	struct shard shards[N_SHARDS];
	unsigned limit; /* a shard */
};

static uint64_t mix(uint64_t number, enum rvl_fd_kind kind)
{
	return (number * (RVL_FD_PLACE + 1) + kind) * 0x9e3779b97f4a7c15ULL;
}

static struct shard *shard_of(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind)
{
	return &cache->shards[mix(number, kind) >> 60];
}

static struct rvl_fd_slot **bucket_of(struct shard *shard, uint64_t number, enum rvl_fd_kind kind)
{
	return &shard->buckets[(mix(number, kind) >> 40) % N_BUCKETS];
}

static struct rvl_fd_slot **find(struct shard *shard, uint64_t number, enum rvl_fd_kind kind)
{
	struct rvl_fd_slot **p = bucket_of(shard, number, kind);

	while (*p && ((*p)->number != number || (*p)->kind != kind))
		p = &(*p)->hash_next;
	return p;
}

static void list_remove(struct shard *shard, struct rvl_fd_slot *slot)
{
	*(slot->older ? &slot->older->newer : &shard->oldest) = slot->newer;
	*(slot->newer ? &slot->newer->older : &shard->newest) = slot->older;
	slot->older = slot->newer = NULL;
}

static void list_append(struct shard *shard, struct rvl_fd_slot *slot)
{
	slot->older = shard->newest;
	slot->newer = NULL;
	*(shard->newest ? &shard->newest->newer : &shard->oldest) = slot;
	shard->newest = slot;
}

static void pin(struct shard *shard, struct rvl_fd_slot *slot, struct rvl_fd *ret)
{
	if (slot->pins++ == 0)
		list_remove(shard, slot);
	*ret = (struct rvl_fd){ .fd = slot->fd, .slot = slot };
}

/* Take one unpinned slot out of the shard: the oldest, if there are more than keep. */
static struct rvl_fd_slot *take_oldest(struct shard *shard, unsigned keep)
{
	struct rvl_fd_slot *slot = shard->oldest;

	if (!slot || shard->n <= keep)
		return NULL;
	list_remove(shard, slot);
	*find(shard, slot->number, slot->kind) = slot->hash_next;
	shard->n--;
	return slot;
}

static void slot_free(struct rvl_fd_slot *slot)
{
	if (!slot)
		return;
	rvl_close(slot->fd);
	free(slot);
}

/*
 * The kernel's table of descriptors doubles when it is full, and in a process with threads whoever opens
 * the next one waits until all CPUs have let go of the old one (expand_fdtable in fs/file.c), some
 * milliseconds each time. So it has its size from the start, where the process's limit allows.
 */
static void make_room(unsigned limit)
{
	rlim_t n = (rlim_t)limit + OTHER_FDS;
	struct rlimit max;

	if (getrlimit(RLIMIT_NOFILE, &max) == 0 && n >= max.rlim_cur)
		n = max.rlim_cur - 1;
	rvl_close(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, (int)n));
}

int rvl_fdcache_new(unsigned limit, struct rvl_fdcache **ret)
{
	struct rvl_fdcache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return -ENOMEM;
	for (unsigned i = 0; i < N_SHARDS; i++)
		pthread_mutex_init(&cache->shards[i].lock, NULL);
	cache->limit = limit / N_SHARDS ? limit / N_SHARDS : 1;
	make_room(limit);
	*ret = cache;
	return 0;
}

void rvl_fdcache_free(struct rvl_fdcache *cache)
{
	if (!cache)
		return;
	for (unsigned i = 0; i < N_SHARDS; i++) {
		struct rvl_fd_slot *slot;

		while ((slot = take_oldest(&cache->shards[i], 0)))
			slot_free(slot);
		pthread_mutex_destroy(&cache->shards[i].lock);
	}
	free(cache);
}

int rvl_fdcache_get(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind,
		    struct rvl_fd *ret)
{
	struct shard *shard = shard_of(cache, number, kind);
	struct rvl_fd_slot *slot;

	pthread_mutex_lock(&shard->lock);
	slot = *find(shard, number, kind);
	if (slot)
		pin(shard, slot, ret);
	pthread_mutex_unlock(&shard->lock);
	return slot ? 0 : -ENOENT;
}

int rvl_fdcache_add(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind, int fd,
		    struct rvl_fd *ret)
{
	struct shard *shard = shard_of(cache, number, kind);
	struct rvl_fd_slot *slot = calloc(1, sizeof(*slot)), *spare = NULL, **p;

	if (!slot) {
		rvl_close(fd);
		return -ENOMEM;
	}
	*slot = (struct rvl_fd_slot){ .number = number, .kind = kind, .fd = fd };
	pthread_mutex_lock(&shard->lock);
	p = find(shard, number, kind);
	if (*p) {
		spare = slot;
		pin(shard, *p, ret);
	} else {
		slot->pins = 1;
		slot->hash_next = *p;
		*p = slot;
		shard->n++;
		*ret = (struct rvl_fd){ .fd = fd, .slot = slot };
		spare = take_oldest(shard, cache->limit);
	}
	pthread_mutex_unlock(&shard->lock);
	slot_free(spare);
	return 0;
}

void rvl_fdcache_unpin(struct rvl_fdcache *cache, struct rvl_fd *fd)
{
	struct rvl_fd_slot *slot = fd->slot, *spare = NULL;
	struct shard *shard;

	if (!slot)
		return;
	*fd = RVL_FD_NONE;
	shard = shard_of(cache, slot->number, slot->kind);
	pthread_mutex_lock(&shard->lock);
	if (--slot->pins == 0) {
		if (slot->is_dropped) {
			spare = slot;
		} else {
			list_append(shard, slot);
			spare = take_oldest(shard, cache->limit);
		}
	}
	pthread_mutex_unlock(&shard->lock);
	slot_free(spare);
}

void rvl_fdcache_put(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind, int fd)
{
	struct rvl_fd pin;

	if (rvl_fdcache_add(cache, number, kind, fd, &pin) == 0)
		rvl_fdcache_unpin(cache, &pin);
}

void rvl_fdcache_drop(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind)
{
	struct shard *shard = shard_of(cache, number, kind);
	struct rvl_fd_slot *slot, **p;

	pthread_mutex_lock(&shard->lock);
	p = find(shard, number, kind);
	slot = *p;
	if (slot) {
		*p = slot->hash_next;
		shard->n--;
		if (slot->pins) {
			slot->is_dropped = true;
			slot = NULL;
		} else {
			list_remove(shard, slot);
		}
	}
	pthread_mutex_unlock(&shard->lock);
	slot_free(slot);
}

void rvl_fdcache_shrink(struct rvl_fdcache *cache)
{
	for (unsigned i = 0; i < N_SHARDS; i++) {
		struct shard *shard = &cache->shards[i];
		struct rvl_fd_slot *slot;

		do {
			pthread_mutex_lock(&shard->lock);
			slot = take_oldest(shard, 0);
			pthread_mutex_unlock(&shard->lock);
			slot_free(slot);
		} while (slot);
	}
}
