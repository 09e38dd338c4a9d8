/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The listings that are kept in memory, of directories' lower parts and merged: a slot for each of
 * the two a directory, and a limit on the bytes of all. Whoever needs a listing gets it counted, so
 * that it may be dropped at any time. One that a pass is reading is kept over the limit, up to
 * RVL_LISTINGS_BUSY_FACTOR times the limit for all: to read all names again for each request of a pass
 * is a cost that grows with the square.
 */
#ifndef RVL_OVERLAY_LISTINGS_H
#define RVL_OVERLAY_LISTINGS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "layer/listing.h"

#define RVL_LISTINGS_BYTES_MAX (64UL << 20)
#define RVL_LISTING_BUSY_S 5 /* a pass without a request for so long counts as given up */
#define RVL_LISTINGS_BUSY_FACTOR 4
#define RVL_LISTING_LOOKS_MIN 16 /* in vain, before a listing is read for look-ups */

struct rvl_listing_slot {
	pthread_mutex_t
		lock; /* guards what follows up to the list; held while the directory is read */
	struct rvl_listing *listing; /* counted; NULL: not kept */
	bool is_used; /* since it was last looked at for dropping */
	time_t busy_until; /* a pass counts as under way: CLOCK_MONOTONIC, seconds; 0: none */
	unsigned n_idle_looks; /* into layers that did not have the name, while there is none */
	unsigned n_looks_due; /* after so many of them it is to be read */
	struct rvl_listing_slot *older, *newer; /* guarded by the cache's lock */
};

struct rvl_listings {
	pthread_mutex_t lock; /* taken inside a slot's; guards all below */
	struct rvl_listing_slot *oldest, *newest; /* those that keep one */
	size_t n, size_bytes, limit_bytes;
};

void rvl_listings_init(struct rvl_listings *cache, size_t limit_bytes);
/* No slot keeps one any more. */
void rvl_listings_destroy(struct rvl_listings *cache);

void rvl_listing_slot_init(struct rvl_listing_slot *slot);
void rvl_listing_slot_destroy(struct rvl_listings *cache, struct rvl_listing_slot *slot);

/* All with the slot's lock. get: counted, or NULL. */
struct rvl_listing *rvl_listing_slot_get(struct rvl_listing_slot *slot);
/*
 * Keep one, where none is, and drop what has not been used for the longest time; this one too if it
 * is over the limit alone, and no pass is under way. The caller keeps his count.
 */
void rvl_listing_slot_keep(struct rvl_listings *cache, struct rvl_listing_slot *slot,
			   struct rvl_listing *listing);
/* A request of a pass: the listing, which may still be to come, is busy for RVL_LISTING_BUSY_S. */
void rvl_listing_slot_busy(struct rvl_listing_slot *slot);
/* A pass has ended: not busy. What is over the limit is dropped, this one if it is so alone. */
void rvl_listing_slot_idle(struct rvl_listings *cache, struct rvl_listing_slot *slot);
/* Keep none. */
void rvl_listing_slot_drop(struct rvl_listings *cache, struct rvl_listing_slot *slot);

#endif
