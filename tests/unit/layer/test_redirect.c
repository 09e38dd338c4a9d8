// SPDX-License-Identifier: GPL-2.0-or-later
/* What is taken as a redirect and as a metacopy mark, and what is damage. */
#include "fixture.h"

#include "base/cleanup.h"
#include "base/counters.h"
#include "layer/fetch.h"

static struct rvl_stack stack;

static void which_values_are_valid(void **state)
{
	char name[400] = "/";

	assert_true(rvl_redirect_is_valid("a"));
	assert_true(rvl_redirect_is_valid("..."));
	assert_true(rvl_redirect_is_valid("/a"));
	assert_true(rvl_redirect_is_valid("/a/b/..c"));
	assert_false(rvl_redirect_is_valid(""));
	assert_false(rvl_redirect_is_valid("/"));
	assert_false(rvl_redirect_is_valid("a/b"));
	assert_false(rvl_redirect_is_valid("a/"));
	assert_false(rvl_redirect_is_valid("//a"));
	assert_false(rvl_redirect_is_valid("/a/"));
	assert_false(rvl_redirect_is_valid("/a/../b"));
	assert_false(rvl_redirect_is_valid("."));
	assert_false(rvl_redirect_is_valid("/.."));
	memset(name + 1, 'n', 255);
	assert_true(rvl_redirect_is_valid(name));
	assert_true(rvl_redirect_is_valid(name + 1));
	name[256] = 'n';
	assert_false(rvl_redirect_is_valid(name));
	assert_false(rvl_redirect_is_valid(name + 1));
}

static void long_values_are_read_whole(void **state)
{
	char value[3000], *got = NULL;

	/* longer than what the kernel writes, of valid components */
	for (size_t i = 0; i < sizeof(value) - 1; i++)
		value[i] = i % 100 == 0 ? '/' : 'n';
	value[sizeof(value) - 1] = '\0';
	make_file(at("l/f"), "");
	set_x(at("l/f"), "redirect", value);
	assert_int_equal(rvl_redirect_get(&stack, stack.layers[1].fd, "f", &got), 0);
	assert_string_equal(got, value);
	free(got);
	got = (char *)1;
	make_file(at("l/none"), "");
	assert_int_equal(rvl_redirect_get(&stack, stack.layers[1].fd, "none", &got), 0);
	assert_null(got);
	assert_int_equal(rvl_redirect_get(&stack, stack.layers[1].fd, "absent", &got), -ENOENT);
}

static void damage_is_counted(void **state)
{
	uint64_t before = rvl_counters.damaged;
	char *got = (char *)1;

	make_file(at("l/bad"), "");
	set_x(at("l/bad"), "redirect", "/../etc");
	assert_int_equal(rvl_redirect_get(&stack, stack.layers[1].fd, "bad", &got), -EUCLEAN);
	assert_ptr_equal(got, (char *)1);
	assert_int_equal(rvl_counters.damaged, before + 1);
}

static void metacopy_values(void **state)
{
	static const struct {
		const char *value;
		size_t len;
		int result;
	} cases[] = {
		{ "", 0, RVL_METACOPY_PLAIN },
		{ "\0\4\0\0", 4, RVL_METACOPY_PLAIN },
		{ "\0\6\0\1dd", 6, RVL_METACOPY_DIGEST },
		{ "\0\4\0", 3, -EUCLEAN },
		{ "\1\4\0\0", 4, -EUCLEAN },
		{ "\0\5\0\0", 4, -EUCLEAN },
	};
	char big[200] = { 0, (char)200 };

	make_file(at("l/m"), "");
	assert_int_equal(rvl_metacopy_get(&stack, stack.layers[1].fd, "m"), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(lsetxattr(at("l/m"), "trusted.overlay.metacopy", cases[i].value,
					   cases[i].len, 0),
				 0);
		assert_int_equal(rvl_metacopy_get(&stack, stack.layers[1].fd, "m"),
				 cases[i].result);
	}
	assert_int_equal(lsetxattr(at("l/m"), "trusted.overlay.metacopy", big, 200, 0), 0);
	assert_int_equal(rvl_metacopy_get(&stack, stack.layers[1].fd, "m"), -EUCLEAN);
}

static int setup(void **state)
{
	if (fixture_setup(state) < 0)
		return -1;
	make_dir(at("l"));
	return open_lowers("l", 0, false, &stack);
}

static int teardown(void **state)
{
	rvl_stack_release(&stack);
	return fixture_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(which_values_are_valid),
		cmocka_unit_test(long_values_are_read_whole),
		cmocka_unit_test(damage_is_counted),
		cmocka_unit_test(metacopy_values),
	};

	if (!has_trusted()) {
		print_message("1..0 # SKIP: trusted.* attributes need root\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
