// SPDX-License-Identifier: GPL-2.0-or-later
/* Listings are kept within a limit of bytes, and those in use stay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "overlay/listings.h"

#define N 8

static struct rvl_listings cache;
static struct rvl_listing_slot slots[N];

static int setup(void **state)
{
	rvl_listings_init(&cache, 100);
	for (unsigned i = 0; i < N; i++)
		rvl_listing_slot_init(&slots[i]);
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < N; i++)
		rvl_listing_slot_destroy(&cache, &slots[i]);
	assert_int_equal(cache.n, 0);
	assert_int_equal(cache.size_bytes, 0);
	assert_null(cache.oldest);
	rvl_listings_destroy(&cache);
	return 0;
}

/* Someone reads the directory of a slot, and is done with what he got. */
static void keep(unsigned i, size_t size_bytes)
{
	struct rvl_listing *listing = calloc(1, sizeof(*listing));

	assert_non_null(listing);
	listing->size_bytes = size_bytes;
	listing->refs = 1;
	pthread_mutex_lock(&slots[i].lock);
	rvl_listing_slot_keep(&cache, &slots[i], listing);
	pthread_mutex_unlock(&slots[i].lock);
	rvl_listing_put(listing);
}

static struct rvl_listing *get(unsigned i)
{
	struct rvl_listing *listing;

	pthread_mutex_lock(&slots[i].lock);
	listing = rvl_listing_slot_get(&slots[i]);
	pthread_mutex_unlock(&slots[i].lock);
	return listing;
}

static bool is_kept(unsigned i)
{
	return slots[i].listing != NULL;
}

/* However many are read, no more bytes are kept than the limit says; the oldest go first. */
static void test_limit(void **state)
{
	for (unsigned i = 0; i < N; i++) {
		slots[i].n_idle_looks = 16;
		keep(i, 40);
		assert_true(cache.size_bytes <= 100);
	}
	assert_int_equal(cache.n, 2);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(is_kept(i), i >= N - 2);
	/* one that was dropped is not read again for the next name */
	assert_int_equal(slots[0].n_idle_looks, 0);
}

/* One that is asked for again and again stays, though others are read all the time. */
static void test_in_use(void **state)
{
	keep(0, 40);
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 1; i < N; i++) {
			rvl_listing_put(get(0));
			keep(i, 20);
			assert_true(is_kept(0));
			assert_true(cache.size_bytes <= 100);
		}
		for (unsigned i = 1; i < N; i++) {
			rvl_listing_slot_destroy(&cache, &slots[i]);
			rvl_listing_slot_init(&slots[i]);
		}
	}
}

/* What is too large alone is not kept, and pushes nothing out. */
static void test_too_large(void **state)
{
	keep(0, 60);
	keep(1, 101);
	assert_true(is_kept(0));
	assert_false(is_kept(1));
	assert_null(get(1));
}

static void set_busy(unsigned i, bool is_busy)
{
	pthread_mutex_lock(&slots[i].lock);
	if (is_busy)
		rvl_listing_slot_busy(&slots[i]);
	else
		rvl_listing_slot_idle(&cache, &slots[i]);
	pthread_mutex_unlock(&slots[i].lock);
}

/* What a pass is reading stays, whatever its size and what else is read, until its end. */
static void test_pass(void **state)
{
	set_busy(0, true);
	keep(0, 200);
	for (unsigned i = 1; i < N; i++) {
		keep(i, 40);
		assert_true(is_kept(0));
	}
	set_busy(0, false);
	assert_false(is_kept(0));
	set_busy(1, true);
	keep(1, 60);
	keep(2, 60);
	assert_true(is_kept(1));
	set_busy(1, false);
	assert_true(is_kept(1));
	keep(3, 60);
	assert_false(is_kept(1));
}

/* Passes that were left in the middle keep four times the limit at most, and what comes later less. */
static void test_many_passes(void **state)
{
	for (unsigned i = 0; i < N; i++) {
		set_busy(i, true);
		keep(i, 80);
		assert_true(cache.size_bytes <= RVL_LISTINGS_BUSY_FACTOR * 100);
	}
	assert_true(is_kept(N - 1));
	for (unsigned i = 0; i < N; i++)
		slots[i].busy_until = 1; /* long ago */
	set_busy(N - 1, false);
	assert_true(cache.size_bytes <= 100);
}

/* Who has one keeps it when it is dropped; a slot that is locked is left alone. */
static void test_counted(void **state)
{
	struct rvl_listing *listing;

	keep(0, 60);
	listing = get(0);
	pthread_mutex_lock(&slots[0].lock);
	keep(1, 60);
	assert_true(slots[0].listing == listing);
	assert_false(is_kept(1));
	pthread_mutex_unlock(&slots[0].lock);
	keep(1, 60);
	keep(2, 60);
	assert_false(is_kept(0));
	assert_int_equal(listing->size_bytes, 60);
	rvl_listing_put(listing);
}

/* What is given up makes room, and its slot may have another. */
static void test_drop(void **state)
{
	for (unsigned round = 0; round < 3; round++) {
		keep(0, 60);
		keep(1, 40);
		assert_true(is_kept(0) && is_kept(1));
		pthread_mutex_lock(&slots[0].lock);
		rvl_listing_slot_drop(&cache, &slots[0]);
		rvl_listing_slot_drop(&cache, &slots[0]);
		pthread_mutex_unlock(&slots[0].lock);
		assert_false(is_kept(0));
		assert_int_equal(cache.size_bytes, 40);
		pthread_mutex_lock(&slots[1].lock);
		rvl_listing_slot_drop(&cache, &slots[1]);
		pthread_mutex_unlock(&slots[1].lock);
		assert_int_equal(cache.n, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_in_use, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pass, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_passes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drop, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
