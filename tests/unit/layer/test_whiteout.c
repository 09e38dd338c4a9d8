// SPDX-License-Identifier: GPL-2.0-or-later
/* Whiteouts in both forms, opaque values, and AUFS names. */
#include "fixture.h"

#include "layer/aufs.h"
#include "layer/path.h"

static struct rvl_stack stack;

static int check(const char *name, bool is_marked)
{
	struct statx stx;

	assert_int_equal(rvl_path_statx(stack.layers[1].fd, name, STATX_BASIC_STATS, &stx), 0);
	return rvl_whiteout_check(&stack, stack.layers[1].fd, name, &stx, is_marked);
}

static void both_forms(void **state)
{
	make_whiteout(at("l/char"));
	make_file(at("l/empty"), "");
	make_file(at("l/xattr"), "");
	set_x(at("l/xattr"), "whiteout", "");
	make_file(at("l/full"), "text");
	set_x(at("l/full"), "whiteout", "y");
	make_dir(at("l/dir"));
	set_x(at("l/dir"), "whiteout", "y");
	assert_int_equal(check("char", false), 1);
	assert_int_equal(check("empty", true), 0);
	assert_int_equal(check("xattr", true), 1);
	assert_int_equal(check("xattr", false), 0);
	assert_int_equal(check("full", true), 0);
	assert_int_equal(check("dir", true), 0);
}

static void opaque_values(void **state)
{
	enum rvl_opaque o;

	make_dir(at("l/o"));
	assert_int_equal(rvl_opaque_get(&stack, stack.layers[1].fd, "o", &o), 0);
	assert_int_equal(o, RVL_OPAQUE_NO);
	set_x(at("l/o"), "opaque", "y");
	assert_int_equal(rvl_opaque_get(&stack, stack.layers[1].fd, "o", &o), 0);
	assert_int_equal(o, RVL_OPAQUE_YES);
	set_x(at("l/o"), "opaque", "x");
	assert_int_equal(rvl_opaque_get(&stack, stack.layers[1].fd, "o", &o), 0);
	assert_int_equal(o, RVL_OPAQUE_XWHITEOUTS);
	set_x(at("l/o"), "opaque", "yy");
	assert_int_equal(rvl_opaque_get(&stack, stack.layers[1].fd, "o", &o), 0);
	assert_int_equal(o, RVL_OPAQUE_NO);
	assert_int_equal(rvl_opaque_get(&stack, stack.layers[1].fd, "none", &o), -ENOENT);
}

static void aufs_names(void **state)
{
	assert_string_equal(rvl_aufs_hidden_name(".wh.a"), "a");
	assert_null(rvl_aufs_hidden_name(".wh."));
	assert_null(rvl_aufs_hidden_name(".wh..wh..opq"));
	assert_null(rvl_aufs_hidden_name(".wh..wh.plnk"));
	assert_null(rvl_aufs_hidden_name("a"));
	assert_true(rvl_aufs_is_reserved(".wh."));
	assert_false(rvl_aufs_is_reserved(".wh"));
	make_file(at("l/.wh.gone"), "");
	assert_int_equal(rvl_aufs_is_whited_out(stack.layers[1].fd, "gone"), 1);
	assert_int_equal(rvl_aufs_is_whited_out(stack.layers[1].fd, "there"), 0);
	make_dir(at("l/q"));
	assert_int_equal(rvl_aufs_is_opaque(stack.layers[1].fd, "q"), 0);
	make_file(at("l/q/.wh..wh..opq"), "");
	assert_int_equal(rvl_aufs_is_opaque(stack.layers[1].fd, "q"), 1);
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
		cmocka_unit_test(both_forms),
		cmocka_unit_test(opaque_values),
		cmocka_unit_test(aufs_names),
	};

	if (!has_trusted()) {
		print_message("1..0 # SKIP: trusted.* attributes and whiteouts need root\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
