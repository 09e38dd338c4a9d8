// SPDX-License-Identifier: GPL-2.0-or-later
/* Attributes are listed for who looks at what he lists, and for nobody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/lister.h"

#define START 2 /* offset after "." and ".." */
#define LATER 1000
#define MANY 16 /* look-ups that tell */
#define DIRECTORIES 64 /* that they tell for */

/* Each test has threads and directories of its own: what is known is kept for good. */
static void look_up(pid_t asker, uint64_t directory, unsigned n)
{
	while (n--)
		rvl_lister_looks_up(asker, directory);
}

static void first_part(void **state)
{
	assert_true(rvl_lister_wants_attr(0, 10, 0));
	assert_true(rvl_lister_wants_attr(1, 10, START));
	assert_false(rvl_lister_wants_attr(1, 10, LATER));
	assert_true(rvl_lister_wants_attr(1, 10, START));
}

/* find: a directory to its end, then each name of it, then the next one. */
static void reads_then_looks(void **state)
{
	assert_false(rvl_lister_wants_attr(2, 20, LATER));
	assert_false(rvl_lister_wants_attr(2, 20, LATER + 1));
	look_up(2, 20, MANY);
	for (uint64_t i = 0; i < DIRECTORIES; i++) {
		assert_true(rvl_lister_wants_attr(2, 21 + i, LATER));
		assert_true(rvl_lister_wants_attr(2, 21 + i, LATER + 1));
	}
	assert_false(rvl_lister_wants_attr(2, 1000, LATER));
	look_up(2, 1000, MANY);
	assert_true(rvl_lister_wants_attr(2, 1001, LATER));
}

/* ls -l: each name as it is read. */
static void looks_while_reading(void **state)
{
	assert_false(rvl_lister_wants_attr(3, 30, LATER));
	look_up(3, 30, MANY);
	assert_true(rvl_lister_wants_attr(3, 30, LATER + 1));
}

static void no_reason(void **state)
{
	assert_false(rvl_lister_wants_attr(4, 40, LATER));
	look_up(4, 41, MANY); /* another directory */
	look_up(5, 40, MANY); /* another thread */
	look_up(4, 40, MANY - 1); /* a few */
	assert_false(rvl_lister_wants_attr(4, 42, LATER));
	look_up(4, 40, MANY); /* no more the last that it has read */
	assert_false(rvl_lister_wants_attr(4, 43, LATER));
}

/* A thread that takes the place of another in memory starts anew. */
static void place_of_another(void **state)
{
	const pid_t other = 6 + (1 << 20);

	assert_false(rvl_lister_wants_attr(6, 60, LATER));
	look_up(6, 60, MANY);
	assert_false(rvl_lister_wants_attr(other, 60, LATER));
	look_up(6, 60, MANY);
	assert_false(rvl_lister_wants_attr(other, 61, LATER));
	assert_false(rvl_lister_wants_attr(6, 61, LATER));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_part),
		cmocka_unit_test(reads_then_looks),
		cmocka_unit_test(looks_while_reading),
		cmocka_unit_test(no_reason),
		cmocka_unit_test(place_of_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
