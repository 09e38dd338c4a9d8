// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The rules of a stack, one case each: what a name stands for. Layers are made of a line of text
 * each, so that a case shows its stack (see make_layer()).
 */
#include "fixture.h"

#include "base/hash.h"
#include "base/refstr.h"
#include "layer/listing.h"
#include "layer/merge.h"

static struct rvl_stack stack;
static struct rvl_places root;
static struct rvl_secret secret;
static unsigned n_stacks;

/*
 * One object for each word: "a/b/" directory, "a" file, "-a" whiteout, "=a/" opaque directory,
 * "%a/" directory with xattr whiteouts, "~a" such a whiteout, "a>b" redirect (of a directory), "a!"
 * metacopy file, "a!>b" with a redirect, "a@" symlink.
 */
static void make_layer(const char *layer, const char *words)
{
	char copy[4096], *save = NULL;

	make_dir(layer);
	snprintf(copy, sizeof(copy), "%s", words);
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		char path[8192], mark = strchr("-=~%", *w) ? *w++ : 0;
		char *redirect = strchr(w, '>'), *bang;

		if (redirect)
			*redirect++ = '\0';
		bang = strchr(w, '!');
		if (bang)
			*bang = '\0';
		snprintf(path, sizeof(path), "%s/%s", layer, w);
		make_parents(path);
		if (w[strlen(w) - 1] == '/' || (redirect && !bang)) {
			make_dir(path);
			if (mark == '=')
				set_x(path, "opaque", "y");
			if (mark == '%')
				set_x(path, "opaque", "x");
		} else if (mark == '-') {
			make_whiteout(path);
		} else if (w[strlen(w) - 1] == '@') {
			path[strlen(path) - 1] = '\0';
			assert_int_equal(symlink("target", path), 0);
		} else {
			make_file(path, mark == '~' ? "" : "data");
			if (mark == '~')
				set_x(path, "whiteout", "y");
			if (bang)
				set_x(path, "metacopy", "");
		}
		if (redirect)
			set_x(path, "redirect", redirect);
	}
}

static void open_stack(unsigned n_data, ...)
{
	char lowers[4096] = "";
	const char *words;
	va_list ap;
	unsigned n = 0;

	n_stacks++;
	va_start(ap, n_data);
	while ((words = va_arg(ap, const char *))) {
		char name[64];

		snprintf(name, sizeof(name), "s%u-%u", n_stacks, ++n);
		make_layer(at("%s", name), words);
		strcat(strcat(lowers, n > 1 ? ":" : ""), name);
	}
	va_end(ap);
	assert_int_equal(open_lowers(lowers, n_data, false, &stack), 0);
	assert_int_equal(rvl_places_of_root(&stack, &root), 0);
}

static int close_stack(void **state)
{
	rvl_places_release(&root);
	rvl_stack_release(&stack);
	return 0;
}

/* What the path (from the root) stands for: "1:b 3:a", "" absent, "error -5"; data after "=". With
 * the complete listing as a hint and without it, which must not differ. */
static const char *lookup(const char *path)
{
	static char text[2][8192];

	for (int with_hint = 0; with_hint < 2; with_hint++) {
		struct rvl_places parent;
		struct rvl_found found = { 0 };
		char copy[4096], *save = NULL, *out = text[with_hint];

		assert_int_equal(rvl_places_copy(&root, &parent), 0);
		snprintf(copy, sizeof(copy), "%s", path);
		for (char *w = strtok_r(copy, "/", &save); w; w = strtok_r(NULL, "/", &save)) {
			struct rvl_listing *hint = NULL;
			int r;

			if (with_hint)
				assert_int_equal(
					rvl_listing_read(&stack, &parent, &secret, 0, &hint), 0);
			rvl_found_release(&found);
			r = rvl_merge_lookup(&stack, &parent, w, NULL, hint, &found);
			rvl_listing_put(hint);
			rvl_places_release(&parent);
			if (r < 0) {
				snprintf(out, 8192, "error %d", r);
				break;
			}
			assert_int_equal(rvl_places_copy(&found.places, &parent), 0);
			snprintf(out, 8192, "%s", places_text(&found.places));
			if (found.data.layer)
				snprintf(out + strlen(out), 100, "=%u:%s", found.data.layer->index,
					 found.data.path);
		}
		rvl_places_release(&parent);
		rvl_found_release(&found);
	}
	assert_string_equal(text[0], text[1]);
	return text[0];
}

static void topmost_file_wins(void **state)
{
	open_stack(0, "a", "a b", "a/ b/ c@", NULL);
	assert_string_equal(lookup("a"), "1:a");
	assert_string_equal(lookup("b"), "2:b");
	assert_string_equal(lookup("c"), "3:c");
	assert_string_equal(lookup("d"), "");
	assert_string_equal(lookup("d/e"), "");
}

static void directories_merge_until_something_else(void **state)
{
	open_stack(0, "a/x b/ c/ d/", "a/y b c/", "a/x a/z b/ -c", "a/w c/ d/", NULL);
	assert_string_equal(lookup("a"), "1:a 2:a 3:a 4:a");
	assert_string_equal(lookup("a/x"), "1:a/x");
	assert_string_equal(lookup("a/w"), "4:a/w");
	/* a file between, a whiteout between, nothing between */
	assert_string_equal(lookup("b"), "1:b");
	assert_string_equal(lookup("c"), "1:c 2:c");
	assert_string_equal(lookup("d"), "1:d 4:d");
}

static void whiteouts_hide(void **state)
{
	open_stack(0, "-a d/ -d/x", "a b", "d/x d/y", NULL);
	assert_string_equal(lookup("a"), "");
	assert_string_equal(lookup("d/x"), "");
	assert_string_equal(lookup("d/y"), "3:d/y");
}

static void other_devices_are_no_whiteouts(void **state)
{
	open_stack(0, "x", "a b", NULL);
	assert_int_equal(mknod(at("s%u-1/a", n_stacks), S_IFCHR, makedev(0, 1)), 0);
	assert_int_equal(mknod(at("s%u-1/b", n_stacks), S_IFBLK, makedev(0, 0)), 0);
	assert_string_equal(lookup("a"), "1:a");
	assert_string_equal(lookup("b"), "1:b");
}

static void xattr_whiteouts_need_the_mark(void **state)
{
	open_stack(0, "%a/ ~a/x a/y b/ ~b/x %c/ c/x", "a/x a/y b/x c/x", NULL);
	assert_string_equal(lookup("a/x"), "");
	assert_string_equal(lookup("a/y"), "1:a/y");
	assert_string_equal(lookup("b/x"), "1:b/x");
	assert_string_equal(lookup("a"), "1:a 2:a");
	/* only empty files */
	set_x(at("s%u-1/c/x", n_stacks), "whiteout", "");
	assert_string_equal(lookup("c/x"), "1:c/x");
}

static void opaque_ends(void **state)
{
	open_stack(0, "=a/ b/", "a/x =b/ b/x", "b/y", NULL);
	assert_string_equal(lookup("a"), "1:a");
	assert_string_equal(lookup("a/x"), "");
	assert_string_equal(lookup("b"), "1:b 2:b");
	assert_string_equal(lookup("b/y"), "");
	set_x(at("s%u-1/a", n_stacks), "opaque", "yes");
	assert_string_equal(lookup("a"), "1:a 2:a");
}

static void aufs_names(void **state)
{
	open_stack(0, ".wh.a d/ d/.wh..wh..opq e/ .wh.e .wh..wh.plnk/", "a d/x e/x b .wh.c",
		   "c d/y", NULL);
	assert_string_equal(lookup("a"), "");
	assert_string_equal(lookup("c"), "");
	assert_string_equal(lookup("b"), "2:b");
	assert_string_equal(lookup("d"), "1:d");
	/* beside its own whiteout a directory is seen, but nothing below it */
	assert_string_equal(lookup("e"), "1:e");
	assert_string_equal(lookup(".wh.a"), "");
	assert_string_equal(lookup(".wh..wh.plnk"), "");
	assert_string_equal(lookup("d/.wh..wh..opq"), "");
}

static void redirects_rename_what_is_below(void **state)
{
	open_stack(0, "b>/a r/n>o", "a/x r/o/1 r/n/2", "a", NULL);
	assert_string_equal(lookup("b"), "1:b 2:a");
	assert_string_equal(lookup("b/x"), "2:a/x");
	assert_string_equal(lookup("r/n"), "1:r/n 2:r/o");
	assert_string_equal(lookup("r/n/1"), "2:r/o/1");
	assert_string_equal(lookup("r/n/2"), "");
}

static void redirects_chain(void **state)
{
	/* /c was /b was /a; and the path of a redirect goes through a directory that was renamed */
	open_stack(0, "c>/b deep>/p/q", "b>/a p>/o", "a/x o/q/y p/q/z", NULL);
	assert_string_equal(lookup("c"), "1:c 2:b 3:a");
	assert_string_equal(lookup("c/x"), "3:a/x");
	assert_string_equal(lookup("deep"), "1:deep 3:o/q");
	assert_string_equal(lookup("deep/y"), "3:o/q/y");
}

static void redirect_through_relative_redirect(void **state)
{
	open_stack(0, "t>/p/q/r", "p/q>s p/q/x", "p/s/r/y p/q/r/n", NULL);
	assert_string_equal(lookup("t"), "1:t 3:p/s/r");
}

static void redirect_path_stopped_by_a_component(void **state)
{
	open_stack(0, "a>/p/q b>/o/q c>/w/q d>/f/q", "=p/ p/q/1 =o/ o/z -w f",
		   "p/q/2 o/q/3 w/q/4 f/q/5", NULL);
	assert_string_equal(lookup("a"), "1:a 2:p/q");
	assert_string_equal(lookup("b"), "1:b");
	assert_string_equal(lookup("c"), "1:c");
	assert_string_equal(lookup("d"), "1:d");
}

static void absolute_redirect_resets_opaque_above(void **state)
{
	open_stack(0, "a>/p/q", "=p/ p/q>/z", "z/1 p/q/2", NULL);
	assert_string_equal(lookup("a"), "1:a 2:p/q 3:z");
}

static void redirect_leaves_the_parents_layers(void **state)
{
	/* layer 2 is no place of d, but /e is found in it */
	open_stack(0, "d/n>/e", "e/1", "d/ e/2", NULL);
	assert_string_equal(lookup("d/n"), "1:d/n 2:e 3:e");
}

static void malformed_redirects_are_damage(void **state)
{
	static const char *const bad[] = { "",	 "/",	    "a/b",  "/a//b", "/a/",
					   "..", "/a/../b", "/./a", "." };

	open_stack(0, "n/", "n/", NULL);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set_x(at("s%u-1/n", n_stacks), "redirect", bad[i]);
		assert_string_equal(lookup("n"), "error -117");
	}
	assert_int_equal(
		lsetxattr(at("s%u-1/n", n_stacks), "trusted.overlay.redirect", "a\0b", 3, 0), 0);
	assert_string_equal(lookup("n"), "error -117");
}

static void metacopy_finds_its_data(void **state)
{
	open_stack(0, "a! b!>/x c!", "a b! c!>/y", "b x y -d", NULL);
	assert_string_equal(lookup("a"), "1:a=2:a");
	assert_string_equal(lookup("b"), "1:b=3:x");
	assert_string_equal(lookup("c"), "1:c=3:y");
}

/* What the kernel does: the file without data undoes what the opaque directory above it stopped. */
static void metacopy_beneath_opaque_goes_on(void **state)
{
	open_stack(0, "a!>/o/a", "=o/ o/a!", "o/a", NULL);
	assert_string_equal(lookup("a"), "1:a=3:o/a");
}

static void metacopy_without_data_is_an_error(void **state)
{
	open_stack(0, "a! b! c! d!", "-a b/ c! d@", "a b c! d", NULL);
	assert_string_equal(lookup("a"), "error -5");
	assert_string_equal(lookup("b"), "error -5");
	assert_string_equal(lookup("c"), "error -5");
	assert_string_equal(lookup("d"), "error -5");
	assert_int_equal(
		lsetxattr(at("s%u-1/a", n_stacks), "trusted.overlay.metacopy", "\1\4\0", 4, 0), 0);
	assert_string_equal(lookup("a"), "error -117");
}

static void data_only_layers(void **state)
{
	open_stack(1, "a!>/o/f1 b!>/none c!", "d!>/o/f1 f", "o/f1 c f g", NULL);
	assert_string_equal(lookup("a"), "1:a=3:o/f1");
	assert_string_equal(lookup("d"), "2:d=3:o/f1");
	assert_string_equal(lookup("f"), "2:f");
	assert_string_equal(lookup("g"), "");
	/* attributes without data, where the data should be in a data-only layer */
	assert_string_equal(lookup("b"), "1:b");
	assert_string_equal(lookup("c"), "error -5");
	assert_int_equal(root.n, 2);
}

static void nofollow_refuses_redirects(void **state)
{
	open_stack(0, "b>/a c/", "a/ c/", NULL);
	stack.can_redirect_follow = false;
	assert_string_equal(lookup("b"), "error -1");
	assert_string_equal(lookup("c"), "1:c 2:c");
}

static void upper_redirect_starts_the_search(void **state)
{
	struct rvl_places d;
	struct rvl_found found;
	const char *path = rvl_refstr_new("d");

	open_stack(0, "d/n/1 a/b/2", "a/b/3", NULL);
	d = (struct rvl_places){ 0 };
	assert_int_equal(rvl_places_add(&d, &stack.layers[1], path), 0);
	assert_int_equal(rvl_merge_lookup(&stack, &d, "x", "n", NULL, &found), 0);
	assert_string_equal(places_text(&found.places), "1:d/n");
	rvl_found_release(&found);
	assert_int_equal(rvl_merge_lookup(&stack, &d, "x", "/a/b", NULL, &found), 0);
	assert_string_equal(places_text(&found.places), "1:a/b 2:a/b");
	assert_true(S_ISDIR(found.st.stx_mode));
	rvl_found_release(&found);
	rvl_places_release(&d);
	rvl_refstr_put(path);
}

static void data_of_an_upper_metacopy(void **state)
{
	struct rvl_place place;

	open_stack(1, "a! b", "a -c", "c o", NULL);
	assert_int_equal(rvl_merge_lookup_data(&stack, &root, "a", NULL, 0, &place), 0);
	assert_int_equal(place.layer->index, 2);
	rvl_refstr_put(place.path);
	assert_int_equal(rvl_merge_lookup_data(&stack, &root, "z", "/b", 0, &place), 0);
	assert_string_equal(place.path, "b");
	rvl_refstr_put(place.path);
	assert_int_equal(rvl_merge_lookup_data(&stack, &root, "z", "/o", 0, &place), 0);
	assert_int_equal(place.layer->index, 3);
	rvl_refstr_put(place.path);
	assert_int_equal(rvl_merge_lookup_data(&stack, &root, "b", NULL, 1, &place), -EIO);
	assert_int_equal(rvl_merge_lookup_data(&stack, &root, "c", NULL, 0, &place), -EIO);
}

static void upper_below_a_lower_is_hidden(void **state)
{
	const char *lower;
	struct rvl_stack_config config = { .lower = &lower, .n_lower = 1 };

	make_dir(at("h/up/sub"));
	make_dir(at("h/wk"));
	make_dir(at("h/other"));
	lower = strdup(at("h"));
	config.upper = at("h/up");
	config.work = at("h/wk");
	assert_int_equal(rvl_stack_open(&config, &stack), 0);
	assert_int_equal(rvl_places_of_root(&stack, &root), 0);
	assert_string_equal(lookup("other"), "1:other");
	assert_string_equal(lookup("up"), "");
	assert_string_equal(lookup("up/sub"), "");
	assert_string_equal(lookup("wk"), "");
	free((char *)lower);
}

static void layer_without_xattrs_is_plain(void **state)
{
	need_mounts();
	make_layer(at("sq"), "a/ b");
	if (sh("mksquashfs %s/sq %s/sq.img -no-xattrs -quiet -no-progress >/dev/null 2>&1",
	       fixture_dir, fixture_dir) != 0) {
		print_message("# skipped: no mksquashfs\n");
		skip();
	}
	make_dir(at("msq"));
	if (sh("mount -o loop,ro %s/sq.img %s/msq", fixture_dir, fixture_dir) != 0) {
		print_message("# skipped: no loop device for squashfs\n");
		skip();
	}
	make_layer(at("below"), "a/x b/ c");
	assert_int_equal(open_lowers("msq:below", 0, false, &stack), 0);
	assert_int_equal(rvl_places_of_root(&stack, &root), 0);
	assert_false(stack.layers[1].has_xattrs);
	assert_true(stack.layers[2].has_xattrs);
	assert_string_equal(lookup("a"), "1:a 2:a");
	assert_string_equal(lookup("b"), "1:b");
	assert_string_equal(lookup("c"), "2:c");
}

static void long_names_are_absent(void **state)
{
	char name[300];

	open_stack(0, "a", "b", NULL);
	memset(name, 'n', 299);
	name[299] = '\0';
	assert_string_equal(lookup(name), "");
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, close_stack)
	const struct CMUnitTest tests[] = {
		T(topmost_file_wins),
		T(directories_merge_until_something_else),
		T(whiteouts_hide),
		T(other_devices_are_no_whiteouts),
		T(xattr_whiteouts_need_the_mark),
		T(opaque_ends),
		T(aufs_names),
		T(redirects_rename_what_is_below),
		T(redirects_chain),
		T(redirect_through_relative_redirect),
		T(redirect_path_stopped_by_a_component),
		T(absolute_redirect_resets_opaque_above),
		T(redirect_leaves_the_parents_layers),
		T(malformed_redirects_are_damage),
		T(metacopy_finds_its_data),
		T(metacopy_beneath_opaque_goes_on),
		T(metacopy_without_data_is_an_error),
		T(data_only_layers),
		T(nofollow_refuses_redirects),
		T(upper_redirect_starts_the_search),
		T(data_of_an_upper_metacopy),
		T(upper_below_a_lower_is_hidden),
		T(layer_without_xattrs_is_plain),
		T(long_names_are_absent),
	};

	if (!has_trusted()) {
		print_message("1..0 # SKIP: trusted.* attributes and whiteouts need root\n");
		return 0;
	}
	rvl_secret_init(&secret, (const uint8_t *)"0123456789abcdef0123456789abcdef");
	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
