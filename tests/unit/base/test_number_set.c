// SPDX-License-Identifier: GPL-2.0-or-later
/* Sets of numbers against an array: what was put in is there, what was taken out is not. */
#include "base/number_set.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#define KEYS 2000

static void as_an_array(void **state)
{
	static uint64_t values[KEYS];
	struct rvl_number_set set = {};
	size_t n = 0;

	srand(1);
	for (unsigned i = 1; i < 200000; i++) {
		unsigned k = 1 + (unsigned)rand() % (KEYS - 1);

		if (rand() % 2) {
			assert_int_equal(rvl_number_set_add(&set, k, i, SIZE_MAX), 0);
			n += !values[k];
			values[k] = i;
		} else {
			assert_int_equal(rvl_number_set_take(&set, k), values[k]);
			n -= values[k] != 0;
			values[k] = 0;
		}
		assert_int_equal(set.n, n);
		k = 1 + (unsigned)rand() % (KEYS - 1);
		assert_int_equal(rvl_number_set_get(&set, k), values[k]);
	}
	for (unsigned k = 1; k < KEYS; k++)
		assert_int_equal(rvl_number_set_get(&set, k), values[k]);
	rvl_number_set_release(&set);
}

static void limit(void **state)
{
	struct rvl_number_set set = {};

	assert_int_equal(rvl_number_set_get(&set, 1), 0);
	assert_int_equal(rvl_number_set_take(&set, 1), 0);
	assert_int_equal(rvl_number_set_add(&set, 0, 1, 2), 0);
	assert_int_equal(rvl_number_set_add(&set, 1, 1, 2), 0);
	assert_int_equal(rvl_number_set_add(&set, 2, 1, 2), 0);
	assert_int_equal(rvl_number_set_add(&set, 3, 1, 2), -E2BIG);
	assert_int_equal(rvl_number_set_add(&set, 2, 9, 2), 0);
	assert_int_equal(rvl_number_set_take(&set, 2), 9);
	assert_int_equal(rvl_number_set_add(&set, 3, 1, 2), 0);
	rvl_number_set_release(&set);
	assert_int_equal(set.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_an_array),
		cmocka_unit_test(limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
