// SPDX-License-Identifier: GPL-2.0-or-later
/* Counters: they count, and the table names each field once. */
#include "base/counters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void counts_add_up(void **state)
{
	rvl_count(lookups);
	rvl_count_n(lookups, 4);
	assert_int_equal(rvl_counters.lookups, 5);
	assert_int_equal(rvl_counters.requests, 0);
}

static void table_covers_the_struct(void **state)
{
	size_t n = 0;

#define X(name, unit, help)                                \
	assert_true(sizeof(unit) > 1 && sizeof(help) > 1); \
	n++;
	RVL_COUNTERS(X)
#undef X
	assert_int_equal(n * sizeof(uint64_t), sizeof(struct rvl_counters));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_add_up),
		cmocka_unit_test(table_covers_the_struct),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
