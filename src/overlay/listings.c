// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which listings are kept. A list of slots in the order in which they got theirs; the oldest
 * is dropped over the limit, unless it was used since it came to that end: then it goes to the
 * other end ("second chance"), as does one that is busy, while all are within the second limit. So a
 * use writes one flag under the slot's own lock, and the lock of all is taken for keeping and dropping
 * only.
 *
 * A slot that is locked is in use. It is never waited for here, since the own slot's lock is held.
 */
#include "overlay/listings.h"

#include "base/clock.h"
#include "base/counters.h"

void rvl_listings_init(struct rvl_listings *cache, size_t limit_bytes)
{
	*cache = (struct rvl_listings){ .limit_bytes = limit_bytes };
	pthread_mutex_init(&cache->lock, NULL);
}

void rvl_listings_destroy(struct rvl_listings *cache)
{
	pthread_mutex_destroy(&cache->lock);
}

static void list_remove(struct rvl_listings *cache, struct rvl_listing_slot *slot)
{
	*(slot->older ? &slot->older->newer : &cache->oldest) = slot->newer;
	*(slot->newer ? &slot->newer->older : &cache->newest) = slot->older;
	slot->older = slot->newer = NULL;
}

static void list_append(struct rvl_listings *cache, struct rvl_listing_slot *slot)
{
	slot->older = cache->newest;
	slot->newer = NULL;
	*(cache->newest ? &cache->newest->newer : &cache->oldest) = slot;
	cache->newest = slot;
}

/* With both locks. */
static void drop(struct rvl_listings *cache, struct rvl_listing_slot *slot)
{
	list_remove(cache, slot);
	cache->n--;
	cache->size_bytes -= slot->listing->size_bytes;
	rvl_count_n(listing_bytes, -slot->listing->size_bytes);
	slot->n_idle_looks = 0;
	slot->busy_until = 0;
	rvl_listing_put(slot->listing);
	slot->listing = NULL;
}

static time_t now_s(void)
{
	return (time_t)(rvl_now_ns(CLOCK_MONOTONIC_COARSE) / RVL_NS_PER_S);
}

static bool is_busy(const struct rvl_listing_slot *slot)
{
	return slot->busy_until > now_s();
}

/* Drop the oldest, or put it to the other end. own: the slot whose lock is held. */
static void age(struct rvl_listings *cache, struct rvl_listing_slot *own)
{
	struct rvl_listing_slot *slot = cache->oldest;
	const bool is_locked = slot == own || pthread_mutex_trylock(&slot->lock) == 0;
	const bool may_be_busy = cache->size_bytes <= RVL_LISTINGS_BUSY_FACTOR * cache->limit_bytes;

	if (is_locked && !slot->is_used && !(may_be_busy && is_busy(slot))) {
		drop(cache, slot);
	} else {
		if (is_locked)
			slot->is_used = false;
		list_remove(cache, slot);
		list_append(cache, slot);
	}
	if (is_locked && slot != own)
		pthread_mutex_unlock(&slot->lock);
}

/* To the limit. With both locks. */
static void shrink(struct rvl_listings *cache, struct rvl_listing_slot *own)
{
	/* twice round is enough, unless all are locked or busy: then it is for the next to do */
	for (size_t n = 2 * cache->n; cache->size_bytes > cache->limit_bytes && n > 0; n--)
		age(cache, own);
}

void rvl_listing_slot_init(struct rvl_listing_slot *slot)
{
	*slot = (struct rvl_listing_slot){ .n_looks_due = RVL_LISTING_LOOKS_MIN };
	pthread_mutex_init(&slot->lock, NULL);
}

void rvl_listing_slot_drop(struct rvl_listings *cache, struct rvl_listing_slot *slot)
{
	pthread_mutex_lock(&cache->lock);
	if (slot->listing)
		drop(cache, slot);
	pthread_mutex_unlock(&cache->lock);
}

void rvl_listing_slot_destroy(struct rvl_listings *cache, struct rvl_listing_slot *slot)
{
	/* nobody else has the slot but, for a moment, one who holds the cache's lock */
	rvl_listing_slot_drop(cache, slot);
	pthread_mutex_destroy(&slot->lock);
}

struct rvl_listing *rvl_listing_slot_get(struct rvl_listing_slot *slot)
{
	if (!slot->listing)
		return NULL;
	slot->is_used = true;
	return rvl_listing_get(slot->listing);
}

void rvl_listing_slot_keep(struct rvl_listings *cache, struct rvl_listing_slot *slot,
			   struct rvl_listing *listing)
{
	if (listing->size_bytes > cache->limit_bytes && !is_busy(slot))
		return;
	slot->listing = rvl_listing_get(listing);
	slot->is_used = false;
	pthread_mutex_lock(&cache->lock);
	list_append(cache, slot);
	cache->n++;
	cache->size_bytes += listing->size_bytes;
	rvl_count_n(listing_bytes, listing->size_bytes);
	shrink(cache, slot);
	pthread_mutex_unlock(&cache->lock);
}

void rvl_listing_slot_busy(struct rvl_listing_slot *slot)
{
	slot->busy_until = now_s() + RVL_LISTING_BUSY_S;
}

void rvl_listing_slot_idle(struct rvl_listings *cache, struct rvl_listing_slot *slot)
{
	slot->busy_until = 0;
	pthread_mutex_lock(&cache->lock);
	if (slot->listing && slot->listing->size_bytes > cache->limit_bytes)
		drop(cache, slot);
	shrink(cache, slot);
	pthread_mutex_unlock(&cache->lock);
}
