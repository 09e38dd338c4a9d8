// SPDX-License-Identifier: GPL-2.0-or-later
/* Merged listings: what is visible, once, at offsets that mean the same for ever. */
#include "fixture.h"

#include <dirent.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "layer/listing.h"
#include "layer/listing_raw.h"

static struct rvl_secret secret;
static struct rvl_stack stack;
static struct rvl_places root;
static struct rvl_listing *listing;

static void open_stack(const char *lowers)
{
	assert_int_equal(open_lowers(lowers, 0, false, &stack), 0);
	assert_int_equal(rvl_places_of_root(&stack, &root), 0);
}

static int close_all(void **state)
{
	rvl_listing_put(listing);
	listing = NULL;
	rvl_places_release(&root);
	rvl_stack_release(&stack);
	return 0;
}

/* "name@layer" + type letter, sorted by name; "+" where merged, "++" where named below. */
static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static const char *text_of(const struct rvl_listing *l)
{
	static char out[8192];
	char *items[256];

	assert_true(l->n < 256);
	for (size_t i = 0; i < l->n; i++) {
		const struct rvl_listing_name *e = &l->v[i];

		assert_true(asprintf(&items[i], "%s@%u%s%s%s", rvl_listing_text(l, e), e->layer,
				     e->type == DT_DIR ? "d" : "", e->is_merged ? "+" : "",
				     e->is_named_below ? "+" : "") > 0);
	}
	qsort(items, l->n, sizeof(*items), by_text);
	out[0] = '\0';
	for (size_t i = 0; i < l->n; i++) {
		strcat(strcat(out, i ? " " : ""), items[i]);
		free(items[i]);
	}
	return out;
}

static void check_order(const struct rvl_listing *l)
{
	for (size_t i = 0; i < l->n; i++) {
		const char *name = rvl_listing_text(l, &l->v[i]);

		assert_int_equal(l->v[i].offset, rvl_listing_offset(&secret, name));
		assert_ptr_equal(rvl_listing_find(l, name), &l->v[i]);
		if (i > 0)
			assert_true(l->v[i - 1].offset <= l->v[i].offset);
	}
}

static void merges_what_is_visible(void **state)
{
	make_dir(at("1/d"));
	make_dir(at("1/e"));
	make_file(at("1/f"), "");
	make_whiteout(at("1/w"));
	make_dir(at("2/d"));
	make_dir(at("2/f"));
	make_file(at("2/e"), "");
	make_file(at("2/w"), "");
	make_file(at("2/g"), "");
	make_dir(at("3/e"));
	make_dir(at("3/h"));
	assert_int_equal(symlink("x", at("3/l")), 0);
	open_stack("1:2:3");
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	assert_string_equal(text_of(listing), "d@1d++ e@1d+ f@1 g@2 h@3d l@3");
	check_order(listing);
	assert_null(rvl_listing_find(listing, "w"));
	assert_int_equal(rvl_listing_seek(listing, 0), 0);
	assert_int_equal(rvl_listing_seek(listing, UINT64_MAX), listing->n);
	assert_true(listing->size_bytes > sizeof(*listing));
}

static void inos_are_the_real_ones(void **state)
{
	struct stat st;

	make_file(at("1/f"), "");
	open_stack("1");
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	assert_int_equal(stat(at("1/f"), &st), 0);
	assert_int_equal(rvl_listing_find(listing, "f")->ino, st.st_ino);
	rvl_listing_put(listing);
	stack.layers[1].has_ino_in_dirents = false;
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	assert_int_equal(rvl_listing_find(listing, "f")->ino, st.st_ino);
}

static void aufs_names_are_interpreted(void **state)
{
	make_file(at("1/.wh.a"), "");
	make_file(at("1/.wh..wh..opq"), "");
	make_dir(at("1/.wh..wh.plnk"));
	make_file(at("1/.wh.d"), "");
	make_dir(at("1/d"));
	make_file(at("1/.wh."), "");
	make_dir(at("2/d"));
	make_file(at("2/a"), "");
	make_file(at("2/b"), "");
	open_stack("1:2");
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	/* d is merged as far as a redirect could lead on, but d of layer 2 is hidden */
	assert_string_equal(text_of(listing), "b@2 d@1d+");
}

static void xattr_whiteouts_need_the_mark(void **state)
{
	make_dir(at("1"));
	make_file(at("1/w"), "");
	set_x(at("1/w"), "whiteout", "");
	make_dir(at("2"));
	make_file(at("2/w"), "");
	open_stack("1:2");
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	assert_string_equal(text_of(listing), "w@1");
	rvl_listing_put(listing);
	set_x(at("1"), "opaque", "x");
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	assert_string_equal(text_of(listing), "");
}

static void upper_over_lower(void **state)
{
	_cleanup_close_ int upper_fd = -EBADF;
	struct rvl_listing *both;

	make_dir(at("1/d"));
	make_dir(at("1/e"));
	make_file(at("1/a"), "");
	make_file(at("1/w"), "");
	make_file(at("1/z"), "");
	make_dir(at("up/d"));
	make_file(at("up/e"), "");
	make_dir(at("up/n"));
	make_dir(at("up/a"));
	make_whiteout(at("up/w"));
	make_file(at("up/.wh.z"), "");
	open_stack("1");
	stack.layers[0] = stack.layers[1];
	stack.layers[0].index = 0;
	stack.layers[0].is_upper = true;
	stack.layers[0].has_aufs = false;
	upper_fd = open(at("up"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	assert_int_equal(rvl_listing_read_upper(&stack, upper_fd, listing, false, &secret, &both),
			 0);
	assert_string_equal(text_of(both), ".wh.z@0 a@0d d@0d++ e@0 n@0d z@1");
	check_order(both);
	rvl_listing_put(both);
	/* again with the same descriptor, opaque, and without a lower part */
	assert_int_equal(rvl_listing_read_upper(&stack, upper_fd, listing, true, &secret, &both),
			 0);
	assert_string_equal(text_of(both), ".wh.z@0 a@0d d@0d e@0 n@0d");
	rvl_listing_put(both);
	assert_int_equal(rvl_listing_read_upper(&stack, upper_fd, NULL, false, &secret, &both), 0);
	assert_string_equal(text_of(both), ".wh.z@0 a@0d d@0d e@0 n@0d");
	rvl_listing_put(both);
	stack.layers[0] = (struct rvl_layer){ .fd = -EBADF };
}

static void limit_of_names(void **state)
{
	for (int i = 0; i < 20; i++) {
		make_dir(at("1"));
		make_dir(at("2"));
		make_file(at("%d/f%d", i < 10 ? 1 : 2, i), "");
	}
	open_stack("1:2");
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 9, &listing), -E2BIG);
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 19, &listing), -E2BIG);
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 20, &listing), 0);
	assert_int_equal(listing->n, 20);
}

static void offsets_stay_in_their_range(void **state)
{
	for (int i = 0; i < 100000; i++) {
		char name[16];
		uint64_t offset;

		snprintf(name, sizeof(name), "%d", i);
		offset = rvl_listing_offset(&secret, name);
		assert_true(offset >= 3 && offset <= (UINT64_C(1) << 63) - 2);
	}
}

static void equal_hashes_are_in_name_order(void **state)
{
	static char text[] = "b\0a\0c\0a";
	struct rvl_raw_name v[] = {
		{ .offset = 9, .name = 0, .layer = 1 },
		{ .offset = 9, .name = 2, .layer = 2 },
		{ .offset = 5, .name = 4, .layer = 1 },
		{ .offset = 9, .name = 6, .layer = 1 },
	};
	struct rvl_raw raw = { .v = v, .n = 4, .text = text };

	rvl_raw_sort(&raw);
	assert_int_equal(v[0].name, 4);
	assert_int_equal(v[1].name, 6);
	assert_int_equal(v[2].name, 2);
	assert_int_equal(v[3].name, 0);
}

static void a_million_names_are_sorted_quickly(void **state)
{
	size_t n = 1000000;
	struct rvl_raw raw = { .v = calloc(n, sizeof(*raw.v)), .n = n, .text = malloc(n * 8) };
	struct timespec a, b;
	double s;

	for (size_t i = 0; i < n; i++) {
		raw.v[i].name = (uint32_t)(i * 8);
		snprintf(raw.text + i * 8, 8, "%07x", (unsigned)i);
		raw.v[i].offset = rvl_listing_offset(&secret, raw.text + i * 8);
	}
	clock_gettime(CLOCK_MONOTONIC, &a);
	rvl_raw_sort(&raw);
	clock_gettime(CLOCK_MONOTONIC, &b);
	s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("# a million names sorted in %.2f s\n", s);
	for (size_t i = 1; i < n; i++)
		assert_true(raw.v[i - 1].offset <= raw.v[i].offset);
	rvl_raw_release(&raw);
}

static void counted_references(void **state)
{
	struct rvl_listing *again;

	make_file(at("1/f"), "");
	open_stack("1");
	assert_int_equal(rvl_listing_read(&stack, &root, &secret, 0, &listing), 0);
	again = rvl_listing_get(listing);
	rvl_listing_put(listing);
	assert_int_equal(again->n, 1);
	rvl_listing_put(NULL);
}

static int new_dir(void **state)
{
	return sh("rm -rf %s/[0-9] %s/up", fixture_dir, fixture_dir) || (make_dir(at("1")), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, new_dir, close_all)
	const struct CMUnitTest tests[] = {
		T(merges_what_is_visible),
		T(inos_are_the_real_ones),
		T(aufs_names_are_interpreted),
		T(xattr_whiteouts_need_the_mark),
		T(upper_over_lower),
		T(limit_of_names),
		T(counted_references),
		cmocka_unit_test(offsets_stay_in_their_range),
		cmocka_unit_test(equal_hashes_are_in_name_order),
		cmocka_unit_test(a_million_names_are_sorted_quickly),
	};

	if (!has_trusted()) {
		print_message("1..0 # SKIP: trusted.* attributes and whiteouts need root\n");
		return 0;
	}
	rvl_secret_init(&secret, (const uint8_t *)"0123456789abcdef0123456789abcdef");
	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
