// SPDX-License-Identifier: GPL-2.0-or-later
/* Lists of places: adding, copying, and that each holds its own reference (ASan sees). */
#include "fixture.h"

#include "base/refstr.h"

static void copies_live_on(void **state)
{
	struct rvl_layer layers[2] = { { .index = 1 }, { .index = 2 } };
	struct rvl_places a = { 0 }, b = { 0 }, none = { 0 };
	const char *path = rvl_refstr_new("d/e");

	assert_int_equal(rvl_places_add(&a, &layers[0], path), 0);
	assert_int_equal(rvl_places_add(&a, &layers[1], path), 0);
	rvl_refstr_put(path);
	assert_int_equal(rvl_places_copy(&a, &b), 0);
	rvl_places_release(&a);
	assert_int_equal(a.n, 0);
	assert_string_equal(places_text(&b), "1:d/e 2:d/e");
	rvl_places_release(&b);
	rvl_places_release(&b);
	assert_int_equal(rvl_places_copy(&none, &b), 0);
	assert_int_equal(b.n, 0);
	rvl_places_release(&b);
}

static void root_has_all_but_data_only(void **state)
{
	struct rvl_layer layers[4] = {
		{ .index = 0 }, { .index = 1 }, { .index = 2 }, { .index = 3 }
	};
	struct rvl_stack stack = { .layers = layers, .n = 4, .n_data = 1 };
	struct rvl_places root;

	assert_int_equal(rvl_places_of_root(&stack, &root), 0);
	assert_string_equal(places_text(&root), "1: 2:");
	rvl_places_release(&root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_live_on),
		cmocka_unit_test(root_has_all_but_data_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
