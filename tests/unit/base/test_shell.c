// SPDX-License-Identifier: GPL-2.0-or-later
/* Quoting for a shell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/shell.h"

/* Owned by the caller. */
static char *quoted(const char *text)
{
	char *result = NULL;
	size_t len;
	FILE *to = open_memstream(&result, &len);

	assert_non_null(to);
	rvl_shell_quote(to, text);
	assert_int_equal(fclose(to), 0);
	return result;
}

static void check(const char *text, const char *want)
{
	char *got = quoted(text);

	assert_string_equal(got, want);
	free(got);
}

/* What needs no quotes has none. */
static void test_plain(void **state)
{
	check("lowerdir=/a/b-c:/d_1.e,upperdir=/u", "lowerdir=/a/b-c:/d_1.e,upperdir=/u");
}

static void test_quoted(void **state)
{
	check("/a b", "'/a b'");
	check("/a$b", "'/a$b'");
	check("/a\\,b", "'/a\\,b'");
	check("/it's", "'/it'\\''s'");
	check("~", "'~'");
	check("", "''");
}

/* A shell makes of it what it was. */
static void test_shell(void **state)
{
	static const char *const texts[] = {
		"o$t'her", "''", "a b", "*", "\\,", "\"$(id)`id`\"", "-x", "#", "\303\251;!|&<>",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char *argument = quoted(texts[i]), command[128], got[64] = "";
		FILE *shell;

		snprintf(command, sizeof(command), "printf '[%%s]' %s", argument);
		shell = popen(command, "r");
		assert_non_null(shell);
		assert_non_null(fgets(got, sizeof(got), shell));
		assert_int_equal(pclose(shell), 0);
		snprintf(command, sizeof(command), "[%s]", texts[i]);
		assert_string_equal(got, command);
		free(argument);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_quoted),
		cmocka_unit_test(test_shell),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
