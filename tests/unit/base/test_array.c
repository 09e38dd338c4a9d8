// SPDX-License-Identifier: GPL-2.0-or-later
/* Arrays that grow: what is in them stays, and the limit is kept. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/array.h"

static void items_stay(void **state)
{
	uint32_t *v = NULL;
	size_t size = 0;

	for (size_t n = 0; n < 1000; n++) {
		assert_int_equal(rvl_array_reserve(&v, &size, n, sizeof(*v), 1000), 0);
		assert_true(size > n);
		v[n] = (uint32_t)n * 7;
	}
	for (size_t n = 0; n < 1000; n++)
		assert_int_equal(v[n], n * 7);
	free(v);
}

static void limits_are_kept(void **state)
{
	char **v = NULL;
	size_t size = 0;

	assert_int_equal(rvl_array_reserve(&v, &size, 0, sizeof(*v), 0), -E2BIG);
	assert_null(v);
	assert_int_equal(rvl_array_reserve(&v, &size, 0, sizeof(*v), 1), 0);
	assert_int_equal(rvl_array_reserve(&v, &size, 1, sizeof(*v), 1), -E2BIG);
	/* more than there is: what is there stays */
	char **before = v;
	assert_int_equal(rvl_array_reserve(&v, &size, size, SIZE_MAX / 4, SIZE_MAX), -ENOMEM);
	assert_ptr_equal(v, before);
	free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(items_stay),
		cmocka_unit_test(limits_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
