// SPDX-License-Identifier: GPL-2.0-or-later
/* The table of problems: what programs rely on. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "check/problem.h"

/* Ids are small letters and dashes, and each is one problem's. */
static void test_ids(void **state)
{
	for (unsigned i = 0; i < RVL_PROBLEM_N; i++) {
		const char *id = rvl_problem_kinds[i].id;

		assert_true(*id);
		for (const char *p = id; *p; p++)
			assert_true(islower((unsigned char)*p) || *p == '-');
		for (unsigned j = 0; j < i; j++)
			assert_string_not_equal(id, rvl_problem_kinds[j].id);
	}
}

/* Each says what it is and what is done, in one line; a note can always be mended unasked. */
static void test_texts(void **state)
{
	for (unsigned i = 0; i < RVL_PROBLEM_N; i++) {
		const struct rvl_problem_kind *kind = &rvl_problem_kinds[i];

		assert_true(*kind->what && *kind->mend);
		assert_null(strchr(kind->what, '\n'));
		assert_null(strchr(kind->mend, '\n'));
	}
	assert_string_equal(rvl_severity_name(RVL_NOTE), "note");
	assert_string_equal(rvl_severity_name(RVL_WARNING), "warning");
	assert_string_equal(rvl_severity_name(RVL_ERROR), "error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ids),
		cmocka_unit_test(test_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
