// SPDX-License-Identifier: GPL-2.0-or-later
/* Shared strings: their text, joining, and that the last put and only that frees (ASan sees). */
#include "base/refstr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void join_has_no_slash_at_the_root(void **state)
{
	const char *root = rvl_refstr_new(""), *a = rvl_refstr_join(root, "a");
	const char *ab = rvl_refstr_join(a, "b");

	assert_string_equal(root, "");
	assert_string_equal(a, "a");
	assert_string_equal(ab, "a/b");
	rvl_refstr_put(root);
	rvl_refstr_put(a);
	assert_string_equal(ab, "a/b");
	rvl_refstr_put(ab);
}

static void get_shares_and_put_frees_last(void **state)
{
	const char *s = rvl_refstr_new("text"), *t = rvl_refstr_get(s);

	assert_ptr_equal(s, t);
	rvl_refstr_put(s);
	assert_string_equal(t, "text");
	rvl_refstr_put(t);
	rvl_refstr_put(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(join_has_no_slash_at_the_root),
		cmocka_unit_test(get_shares_and_put_frees_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
