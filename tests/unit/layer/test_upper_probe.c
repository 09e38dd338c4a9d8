// SPDX-License-Identifier: GPL-2.0-or-later
/* The probe of upper: what it finds, that it leaves nothing behind, and what it refuses. */
#include "fixture.h"

#include <dirent.h>

#include "base/cleanup.h"

static struct rvl_stack stack;
static int temp_fd;

static int open_on(const char *dir, bool is_userxattr)
{
	_cleanup_free_ char *lower = NULL, *upper = NULL, *work = NULL;
	const char *lowers[1];
	int r;

	make_dir(at("low"));
	make_dir(at("%s/up", dir));
	make_dir(at("%s/wk/work", dir));
	lower = strdup(at("low"));
	upper = strdup(at("%s/up", dir));
	work = strdup(at("%s/wk", dir));
	lowers[0] = lower;
	r = rvl_stack_open(&(struct rvl_stack_config){ .lower = lowers,
						       .n_lower = 1,
						       .upper = upper,
						       .work = work,
						       .is_userxattr = is_userxattr },
			   &stack);
	if (r == 0)
		temp_fd = openat(stack.work_fd, "work", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return r;
}

static int close_it(void **state)
{
	rvl_close(temp_fd);
	temp_fd = -EBADF;
	rvl_stack_release(&stack);
	return 0;
}

static unsigned count_names(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void finds_all_and_leaves_nothing(void **state)
{
	struct rvl_upper_features f = { 0 };
	struct stat before, after;

	assert_int_equal(open_on("o", false), 0);
	assert_int_equal(stat(at("o/up"), &before), 0);
	assert_int_equal(rvl_upper_probe(&stack, temp_fd, &f), 0);
	assert_true(f.has_rename_whiteout && f.has_rename_exchange && f.has_tmpfile &&
		    f.has_handles && f.has_symlink_xattrs && f.has_char_whiteouts);
	assert_int_equal(stat(at("o/up"), &after), 0);
	assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim));
	assert_int_equal(count_names(at("o/up")), 0);
	assert_int_equal(count_names(at("o/wk/work")), 0);
	assert_int_equal(rvl_upper_probe(&stack, temp_fd, &f), 0);
}

static void user_attributes_not_on_symlinks(void **state)
{
	struct rvl_upper_features f = { 0 };

	assert_int_equal(open_on("o", true), 0);
	assert_int_equal(rvl_upper_probe(&stack, temp_fd, &f), 0);
	assert_false(f.has_symlink_xattrs);
	assert_int_equal(count_names(at("o/wk/work")), 0);
}

static void leftovers_of_a_killed_probe_go(void **state)
{
	struct rvl_upper_features f;

	assert_int_equal(open_on("o", false), 0);
	make_file(at("o/up/.reverlay-probe"), "");
	set_x(at("o/up/.reverlay-probe"), "ino", "probe");
	make_file(at("o/wk/work/#probe-file"), "");
	assert_int_equal(rvl_upper_probe(&stack, temp_fd, &f), 0);
	assert_int_equal(count_names(at("o/up")), 0);
	assert_int_equal(count_names(at("o/wk/work")), 0);
	/* but not a file of the user's */
	make_file(at("o/up/.reverlay-probe"), "mine");
	assert_int_equal(rvl_upper_probe(&stack, temp_fd, &f), 0);
	assert_int_equal(count_names(at("o/up")), 1);
	assert_int_equal(unlink(at("o/up/.reverlay-probe")), 0);
}

static void without_xattrs_is_refused(void **state)
{
	struct rvl_upper_features f;

	need_mounts();
	make_dir(at("mr"));
	assert_int_equal(mount("none", at("mr"), "ramfs", 0, NULL), 0);
	assert_int_equal(open_on("mr", false), 0);
	assert_int_equal(rvl_upper_probe(&stack, temp_fd, &f), -EOPNOTSUPP);
	assert_int_equal(count_names(at("mr/wk/work")), 0);
	assert_int_equal(count_names(at("mr/up")), 0);
}

static void on_tmpfs(void **state)
{
	struct rvl_upper_features f = { 0 };

	need_mounts();
	make_dir(at("mt"));
	assert_int_equal(mount("none", at("mt"), "tmpfs", 0, NULL), 0);
	assert_int_equal(open_on("mt", false), 0);
	assert_int_equal(rvl_upper_probe(&stack, temp_fd, &f), 0);
	assert_true(f.has_rename_whiteout && f.has_tmpfile && f.has_char_whiteouts);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, close_it)
	const struct CMUnitTest tests[] = {
		T(finds_all_and_leaves_nothing),
		T(user_attributes_not_on_symlinks),
		T(leftovers_of_a_killed_probe_go),
		T(without_xattrs_is_refused),
		T(on_tmpfs),
	};

	const struct CMUnitTest tests_for_all[] = {
		T(user_attributes_not_on_symlinks),
	};

	if (!has_trusted()) {
		print_message("# skipped but for one: trusted.* attributes need root\n");
		return cmocka_run_group_tests(tests_for_all, fixture_setup, fixture_teardown);
	}
	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
