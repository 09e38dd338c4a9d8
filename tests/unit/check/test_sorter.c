// SPDX-License-Identifier: GPL-2.0-or-later
/* Facts come back in order, from memory and from many runs on disk alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "check/sorter.h"

static uint64_t random_state = 1;

static uint64_t next_random(void)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return random_state >> 33;
}

/* n random facts through buffers of max: each comes back once, numbers rise, kinds rise within one. */
static void sort_some(size_t max, size_t n)
{
	struct rvl_sorter *sorter;
	struct rvl_fact fact, last = { 0 };
	uint64_t sum = 0;
	size_t count = 0;

	assert_int_equal(rvl_sorter_new(max, &sorter), 0);
	for (size_t i = 0; i < n; i++) {
		fact = (struct rvl_fact){ .number = next_random() % 50,
					  .key = next_random() % 8,
					  .item = i,
					  .kind = (uint8_t)(next_random() % RVL_FACT_N) };
		assert_int_equal(rvl_sorter_add(sorter, &fact), 0);
		sum += i;
	}
	assert_int_equal(rvl_sorter_count(sorter), n);
	while (rvl_sorter_next(sorter, &fact) == 1) {
		assert_true(fact.number >= last.number);
		if (count && fact.number == last.number && fact.kind < RVL_FACT_VIEW)
			assert_true(last.kind <= fact.kind);
		/* places come by their hash, whoever says so */
		if (count && fact.number == last.number && last.kind >= RVL_FACT_VIEW)
			assert_true(last.key <= fact.key);
		last = fact;
		sum -= fact.item;
		count++;
	}
	assert_int_equal(count, n);
	assert_int_equal(sum, 0);
	assert_int_equal(rvl_sorter_next(sorter, &fact), 0);
	rvl_sorter_free(sorter);
}

static void test_in_memory(void **state)
{
	sort_some(0, 0);
	sort_some(0, 1);
	sort_some(0, 5000);
}

static void test_in_runs(void **state)
{
	sort_some(7, 8);
	sort_some(16, 16);
	sort_some(16, 5000);
	sort_some(3000, 100000);
}

static void test_free_null(void **state)
{
	rvl_sorter_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_memory),
		cmocka_unit_test(test_in_runs),
		cmocka_unit_test(test_free_null),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
