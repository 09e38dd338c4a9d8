// SPDX-License-Identifier: GPL-2.0-or-later
/* Splitting and escapes of option lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/optstring.h"

/* Splits text and compares; want ends with NULL. */
static void check_split(const char *text, const char *const *want)
{
	char *copy = strdup(text);
	char *rest = copy;

	for (; *want; want++) {
		char *option = rvl_optstring_next(&rest);

		assert_non_null(option);
		assert_string_equal(option, *want);
	}
	assert_null(rvl_optstring_next(&rest));
	free(copy);
}

#define CHECK_SPLIT(text, ...) check_split(text, (const char *const[]){ __VA_ARGS__, NULL })

/* Commas separate, escaped ones do not, and escapes stay for the next step. */
static void test_split(void **state)
{
	CHECK_SPLIT("a,b=c,d", "a", "b=c", "d");
	CHECK_SPLIT("lowerdir=/a\\,b,ro", "lowerdir=/a\\,b", "ro");
	CHECK_SPLIT("x=\\\\,ro", "x=\\\\", "ro");
	CHECK_SPLIT("", "");
	CHECK_SPLIT(",", "", "");
	CHECK_SPLIT("a,", "a", "");
	/* a backslash at the very end takes nothing */
	CHECK_SPLIT("a\\", "a\\");
}

/*
 * The categories of an SELinux context have commas; its quotes protect them, those of a path do
 * not.
 */
static void test_context(void **state)
{
	CHECK_SPLIT("context=\"u:r:t:s0:c1,c2\",ro", "context=\"u:r:t:s0:c1,c2\"", "ro");
	CHECK_SPLIT("ro,rootcontext=\"a,b\"", "ro", "rootcontext=\"a,b\"");
	CHECK_SPLIT("context=u:r:t,ro", "context=u:r:t", "ro");
	CHECK_SPLIT("lowerdir=\"a,b\"", "lowerdir=\"a", "b\"");
	/* an unpaired quote protects nothing */
	CHECK_SPLIT("context=\"a,ro", "context=\"a", "ro");
}

static void check_layers(const char *text, const char *const *want, const char *data, int is_error)
{
	char *copy = strdup(text);
	char *rest = copy;
	const char *error;
	char *layer;
	int is_data;

	for (; *want; want++, data++) {
		layer = rvl_optstring_next_layer(&rest, &is_data, &error);
		assert_non_null(layer);
		assert_string_equal(layer, *want);
		assert_int_equal(is_data, *data == 'd');
	}
	layer = rvl_optstring_next_layer(&rest, &is_data, &error);
	assert_null(layer);
	assert_int_equal(error != NULL, is_error);
	free(copy);
}

#define CHECK_LAYERS(text, data, is_error, ...) \
	check_layers(text, (const char *const[]){ __VA_ARGS__, NULL }, data, is_error)

/* Layers as the kernel splits them: ":" a lower one, "::" a data-only one, "\:" a colon. */
static void test_layers(void **state)
{
	CHECK_LAYERS("/a", "l", 0, "/a");
	CHECK_LAYERS("/a:/b", "ll", 0, "/a", "/b");
	CHECK_LAYERS("/a:/b::/c::/d", "lldd", 0, "/a", "/b", "/c", "/d");
	CHECK_LAYERS("/a::/c:/b", "ldl", 0, "/a", "/c", "/b");
	CHECK_LAYERS("/a\\:b:/c\\,d:/e\\\\", "lll", 0, "/a:b", "/c,d", "/e\\");
	CHECK_LAYERS("/a\\::/b", "ll", 0, "/a:", "/b");
}

/* Malformed lists are told from the end of a good one. */
static void test_layers_malformed(void **state)
{
	CHECK_LAYERS("/a:", "l", 1, "/a");
	CHECK_LAYERS("/a::", "l", 1, "/a");
	CHECK_LAYERS("/a:::/b", "l", 1, "/a");
	CHECK_LAYERS("", "", 1, NULL);
}

/* What is escaped comes back. */
static void test_escape(void **state)
{
	static const char *const paths[] = { "/plain", "/a,b:c", "\\", ",,::\\\\", "/x\ny" };

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		char *text = NULL, *rest, *layer;
		const char *error;
		size_t len;
		int is_data;
		FILE *to = open_memstream(&text, &len);

		rvl_optstring_escape(to, paths[i], ",:");
		fclose(to);
		rest = text;
		assert_ptr_equal(rvl_optstring_next(&rest), text);
		assert_null(rest);
		rest = text;
		layer = rvl_optstring_next_layer(&rest, &is_data, &error);
		assert_string_equal(layer, paths[i]);
		assert_null(rest);
		free(text);
	}
}

static void test_unescape(void **state)
{
	char text[] = "a\\,b\\\\c\\";

	rvl_optstring_unescape(text);
	assert_string_equal(text, "a,b\\c");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split),  cmocka_unit_test(test_context),
		cmocka_unit_test(test_layers), cmocka_unit_test(test_layers_malformed),
		cmocka_unit_test(test_escape), cmocka_unit_test(test_unescape),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
