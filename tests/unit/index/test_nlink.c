// SPDX-License-Identifier: GPL-2.0-or-later
/* overlay.nlink: hostile values, and changes of it. */
#include "fixture.h"

#include "index/nlink.h"

static void values(void **unused)
{
	static const struct {
		const char *value;
		int error, diff;
		bool is_lower;
	} cases[] = {
		{ "U+0", 0, 0, false },
		{ "U-12", 0, -12, false },
		{ "L+3", 0, 3, true },
		{ "U+1048576", 0, RVL_NLINK_MAX, false },
		{ "", -EUCLEAN, 0, false },
		{ "U", -EUCLEAN, 0, false },
		{ "U+", -EUCLEAN, 0, false },
		{ "U1", -EUCLEAN, 0, false },
		{ "X+1", -EUCLEAN, 0, false },
		{ "U+1 ", -EUCLEAN, 0, false },
		{ "U+ 1", -EUCLEAN, 0, false },
		{ "U+-1", -EUCLEAN, 0, false },
		{ "U+1048577", -EUCLEAN, 0, false },
		{ "U-9223372036854775808", -EUCLEAN, 0, false },
		{ "U+99999999999999999999", -EUCLEAN, 0, false },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rvl_nlink nlink = { 0 };

		print_message("'%s'\n", cases[i].value);
		assert_int_equal(rvl_nlink_parse(cases[i].value, &nlink), cases[i].error);
		assert_int_equal(nlink.diff, cases[i].diff);
		assert_true(nlink.is_lower == cases[i].is_lower);
	}
}

static int change(int delta, char *ret, size_t size)
{
	ssize_t n;
	int r = rvl_nlink_change(idx, stack.layers[0].fd, "f", S_IFREG, ino_of(at("u/f")), delta);

	n = getxattr(at("u/f"), "trusted.overlay.nlink", ret, size - 1);
	ret[n < 0 ? 0 : n] = '\0';
	return r;
}

static void only_a_count_relative_to_upper_is_changed(void **unused)
{
	static const char *const kept[] = { "L+1", "U+9223372036854775807", "U+1x",
					    "U+00000000000000000000001" };
	char value[64];

	make_file(at("u/f"));
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(change(-1, value, sizeof(value)), 0);
	assert_string_equal(value, ""); /* none */
	assert_int_equal(sh("setfattr -n trusted.overlay.nlink -v U+1 u/f"), 0);
	assert_int_equal(change(-2, value, sizeof(value)), 0);
	assert_string_equal(value, "U-1");
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		assert_int_equal(sh("setfattr -n trusted.overlay.nlink -v %s u/f", kept[i]), 0);
		assert_int_equal(change(1, value, sizeof(value)), 0);
		assert_string_equal(value, kept[i]);
	}
	close_index();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values),
		cmocka_unit_test(only_a_count_relative_to_upper_is_changed),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
