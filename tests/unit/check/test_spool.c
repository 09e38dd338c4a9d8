// SPDX-License-Identifier: GPL-2.0-or-later
/* Paths in the spool: whatever was added comes back, from the buffer and from the file. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check/spool.h"

#define N_ITEMS 100000

/* More than the buffer holds; each path is its parents' names and its own. */
static void test_paths(void **state)
{
	uint64_t directory, *items = calloc(N_ITEMS, sizeof(*items));
	struct rvl_spool *spool;
	char name[32], *path;

	assert_int_equal(rvl_spool_new(&spool), 0);
	assert_int_equal(rvl_spool_add(spool, RVL_SPOOL_ROOT, "directory", &directory), 0);
	for (unsigned i = 0; i < N_ITEMS; i++) {
		snprintf(name, sizeof(name), "file %u", i);
		assert_int_equal(rvl_spool_add(spool, directory, name, &items[i]), 0);
	}
	for (unsigned i = 0; i < N_ITEMS; i += 997) {
		char expected[64];

		snprintf(expected, sizeof(expected), "directory/file %u", i);
		assert_int_equal(rvl_spool_path(spool, items[i], &path), 0);
		assert_string_equal(path, expected);
		free(path);
	}
	assert_int_equal(rvl_spool_path(spool, items[N_ITEMS - 1], &path), 0);
	assert_string_equal(path, "directory/file 99999");
	free(path);
	rvl_spool_free(spool);
	free(items);
}

/* The root is the empty path; a name alone comes with its directory. */
static void test_root_and_names(void **state)
{
	uint64_t item, parent = 7;
	struct rvl_spool *spool;
	char *text;

	assert_int_equal(rvl_spool_new(&spool), 0);
	assert_int_equal(rvl_spool_path(spool, RVL_SPOOL_ROOT, &text), 0);
	assert_string_equal(text, "");
	free(text);
	assert_int_equal(rvl_spool_add(spool, RVL_SPOOL_ROOT, "a", &item), 0);
	assert_int_equal(rvl_spool_name(spool, item, &text, &parent), 0);
	assert_string_equal(text, "a");
	assert_int_equal(parent, RVL_SPOOL_ROOT);
	free(text);
	rvl_spool_free(spool);
	rvl_spool_free(NULL);
}

/* What was never added is an error, not a read past the end. */
static void test_made_up_item(void **state)
{
	struct rvl_spool *spool;
	char *path;

	assert_int_equal(rvl_spool_new(&spool), 0);
	assert_true(rvl_spool_path(spool, 12345, &path) < 0);
	assert_true(rvl_spool_path(spool, UINT64_MAX, &path) < 0);
	rvl_spool_free(spool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_root_and_names),
		cmocka_unit_test(test_made_up_item),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
