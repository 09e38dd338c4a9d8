// SPDX-License-Identifier: GPL-2.0-or-later
/* The kernel's counts of nodes: what is dropped and found again is known until all is given back. */
#include "overlay/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "overlay/private.h"

#define MANY 5000 /* more than are kept */

static struct rvl_overlay ov;

static int setup(void **state)
{
	rvl_listings_init(&ov.listings, 100);
	return rvl_node_cache_new(&ov, 1, &ov.nodes);
}

static int teardown(void **state)
{
	rvl_node_cache_free(ov.nodes);
	rvl_listings_destroy(&ov.listings);
	return 0;
}

static struct rvl_node *make(uint64_t number)
{
	const struct rvl_id id = { .number = number };
	struct rvl_node *node = rvl_node_new(&ov, &id, S_IFREG);

	assert_non_null(node);
	return rvl_node_insert(node);
}

static void look_up(uint64_t number, unsigned n)
{
	struct rvl_node *node = make(number);

	while (n--)
		rvl_node_count_lookup(node);
	rvl_node_put(node);
}

static void push_out(uint64_t number)
{
	struct rvl_node *node;

	for (uint64_t i = 0; i < MANY; i++)
		look_up(1000000 + i, 0);
	node = rvl_node_find(&ov, number);
	assert_null(node);
}

/* Was that all? */
static bool forget(uint64_t number, uint64_t n)
{
	struct rvl_node *node = rvl_node_forget(&ov, number, n);

	rvl_node_put(node);
	return node;
}

/* One that was never dropped: its last look-up is the last. */
static void counted(void **state)
{
	struct rvl_node *node;

	look_up(10, 3);
	node = make(10);
	assert_true(rvl_node_is_known(node));
	assert_false(forget(10, 1));
	assert_true(forget(10, 2));
	assert_false(rvl_node_is_known(node));
	rvl_node_put(node);
}

/* Dropped with three look-ups and found again: a part is not all, also if it is all that is counted. */
static void found_again(void **state)
{
	struct rvl_node *node;

	look_up(10, 3);
	push_out(10);
	look_up(10, 1);
	node = make(10);
	assert_false(forget(10, 1));
	assert_true(rvl_node_is_known(node));
	assert_true(forget(10, 3));
	assert_false(rvl_node_is_known(node));
	rvl_node_put(node);
	/* and once more */
	push_out(10);
	look_up(10, 1);
	node = make(10);
	assert_true(forget(10, 1));
	rvl_node_put(node);
}

/* Dropped twice: still known. */
static void dropped_twice(void **state)
{
	struct rvl_node *node;

	look_up(10, 3);
	push_out(10);
	look_up(10, 0);
	push_out(10);
	node = make(10);
	assert_true(rvl_node_is_known(node));
	rvl_node_put(node);
}

/* Given back while it is not in memory: what comes with its number is new. */
static void forgotten_while_dropped(void **state)
{
	struct rvl_node *node;

	look_up(10, 3);
	push_out(10);
	assert_false(forget(10, 3));
	node = make(10);
	assert_false(rvl_node_is_known(node));
	rvl_node_put(node);
}

/* A dead one that the kernel asks for by its number is not open, though its FORGET is still to come. */
static void dead_and_not_forgotten(void **state)
{
	struct rvl_node *node;

	look_up(10, 2);
	node = make(10);
	assert_true(rvl_node_count_living(node));
	atomic_store(&node->is_dead, true);
	assert_true(rvl_node_is_known(node));
	assert_false(rvl_node_count_living(node));
	assert_true(forget(10, 3));
	rvl_node_put(node);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(counted, setup, teardown),
		cmocka_unit_test_setup_teardown(found_again, setup, teardown),
		cmocka_unit_test_setup_teardown(dropped_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(forgotten_while_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(dead_and_not_forgotten, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
