// SPDX-License-Identifier: GPL-2.0-or-later
/* Attributes are listed for who looks at what he lists, and for nobody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "overlay/overlay.h"
#include "server/lister.h"

#define LATER 1000 /* offset after a first part */
#define GAPS 16 /* names without attributes among those of an attributed directory */
#define ALL 1000 /* names of a directory without attributes */

/* Each test has threads of its own: what is known is kept for good. */
static void look_up(pid_t asker, uint64_t directory, unsigned n)
{
	while (n--)
		rvl_lister_looks_up(asker, directory);
}

/* find, in a directory with more than one part. Had it attributes? */
static bool reads_then_looks(pid_t asker, uint64_t directory)
{
	const bool with_attr = rvl_lister_wants_attr(asker, LATER);
	const unsigned n_without = with_attr ? GAPS : ALL;

	rvl_lister_has_listed(asker, directory, 0, n_without);
	look_up(asker, directory, n_without);
	return with_attr;
}

static bool only_reads(pid_t asker, uint64_t directory)
{
	const bool with_attr = rvl_lister_wants_attr(asker, LATER);

	rvl_lister_has_listed(asker, directory, 0, with_attr ? GAPS : ALL);
	return with_attr;
}

static void first_part(void **state)
{
	assert_true(rvl_lister_wants_attr(0, 0));
	assert_true(rvl_lister_wants_attr(1, RVL_OFFSET_DOTS));
	assert_false(rvl_lister_wants_attr(1, LATER));
}

static void walk(void **state)
{
	assert_false(reads_then_looks(2, 20));
	for (uint64_t i = 21; i < 1000; i++) {
		assert_true(reads_then_looks(2, i));
		/* small ones between: all of their names had attributes */
		rvl_lister_has_listed(2, i + 10000, 0, 0);
	}
}

/* ls -l: each name as it is read. */
static void looks_while_reading(void **state)
{
	assert_true(rvl_lister_wants_attr(3, 0));
	rvl_lister_has_listed(3, 30, 0, 3);
	look_up(3, 30, 3);
	assert_true(rvl_lister_wants_attr(3, LATER));
}

static void no_reason(void **state)
{
	assert_false(only_reads(4, 40));
	look_up(4, 41, ALL); /* in another directory */
	look_up(5, 40, ALL); /* another thread */
	look_up(4, 40, ALL / 4); /* not at half of them */
	assert_false(only_reads(4, 42));
	look_up(4, 40, ALL); /* no more the last that he has read */
	assert_false(only_reads(4, 43));
	rvl_lister_has_listed(6, 60, 0, 1);
	look_up(6, 60, 1); /* one proves nothing */
	assert_false(only_reads(6, 61));
}

/* A shell that had reason to look once, and then matches patterns. */
static void looks_no_more(void **state)
{
	unsigned n = 0;

	reads_then_looks(7, 70);
	while (only_reads(7, 71 + n))
		n++;
	assert_in_range(n, 1, 10);
	assert_false(only_reads(7, 200));
	assert_false(reads_then_looks(7, 201));
	assert_true(reads_then_looks(7, 202));
}

/* Many times the same directory, at last with a reason. */
static void lists_one_again(void **state)
{
	for (unsigned i = 0; i < 10; i++)
		assert_false(only_reads(9, 90));
	assert_false(reads_then_looks(9, 90));
	for (unsigned i = 0; i < 3; i++)
		assert_true(only_reads(9, 90));
	assert_true(rvl_lister_wants_attr(9, LATER));
	only_reads(9, 90);
	assert_false(rvl_lister_wants_attr(9, LATER));
}

/* A thread that takes the place of another in memory starts anew. */
static void place_of_another(void **state)
{
	const pid_t other = 8 + (1 << 20);

	reads_then_looks(8, 80);
	assert_false(reads_then_looks(other, 80));
	assert_true(reads_then_looks(other, 81));
	assert_false(reads_then_looks(8, 81));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_part),	cmocka_unit_test(walk),
		cmocka_unit_test(looks_while_reading), cmocka_unit_test(no_reason),
		cmocka_unit_test(looks_no_more), cmocka_unit_test(lists_one_again),
		cmocka_unit_test(place_of_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
