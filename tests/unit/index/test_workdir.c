// SPDX-License-Identifier: GPL-2.0-or-later
/* The directories inside the workdir: made, emptied, marked. */
#include "fixture.h"
#include "index/workdir.h"

static int temp_fd;

static void open_temp(void)
{
	assert_int_equal(open_stack("l1", "u", "w", 0), 0);
	temp_fd = rvl_workdir_open(&stack, "work", true);
	assert_true(temp_fd >= 0);
}

static int temp_teardown(void **state)
{
	close(temp_fd);
	rvl_stack_release(&stack);
	return case_teardown(state);
}

static void directories_are_made_once(void **unused)
{
	struct stat st;
	int fd;

	open_temp();
	assert_int_equal(rvl_workdir_open(&stack, "inodes", false), -ENOENT);
	fd = rvl_workdir_open(&stack, "inodes", true);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	close(fd);
	fd = rvl_workdir_open(&stack, "inodes", true);
	assert_true(fd >= 0);
	close(fd);
}

static void symlinks_are_not_followed(void **unused)
{
	assert_int_equal(sh("ln -s ../l1 w/inodes && ln -s ../l1 w/file"), 0);
	open_temp();
	assert_true(rvl_workdir_open(&stack, "inodes", true) < 0);
	assert_int_equal(sh("touch l1/keep && ln -s ../../l1 w/work/link"), 0);
	assert_int_equal(rvl_workdir_empty(&stack, temp_fd), 0);
	assert_int_equal(access(at("l1/keep"), F_OK), 0);
}

static void all_is_removed_but_incompat(void **unused)
{
	open_temp();
	assert_int_equal(
		sh("cd w/work && mkdir -p a/b/c/d incompat && touch '#1' a/f a/b/c/d/g && mknod wh c 0 0 && "
		   "mkdir shut && touch shut/f && chmod 0 shut"),
		0);
	assert_int_equal(rvl_workdir_empty(&stack, temp_fd), 0);
	assert_int_equal(sh("test \"$(ls w/work)\" = incompat"), 0);
}

static void too_deep_trees_are_an_error(void **unused)
{
	open_temp();
	assert_int_equal(sh("cd w/work && for i in $(seq 100); do mkdir d && cd d; done"), 0);
	assert_int_equal(rvl_workdir_empty(&stack, temp_fd), -ELOOP);
}

static void anything_in_incompat_refuses(void **unused)
{
	open_temp();
	assert_int_equal(rvl_workdir_mark_volatile(temp_fd), 0);
	assert_int_equal(rvl_workdir_mark_volatile(temp_fd), 0);
	assert_int_equal(access(at("w/work/incompat/volatile"), F_OK), 0);
	assert_int_equal(rvl_workdir_empty(&stack, temp_fd), -EINVAL);
	assert_int_equal(sh("rmdir w/work/incompat/volatile && mkdir w/work/incompat/future"), 0);
	assert_int_equal(rvl_workdir_empty(&stack, temp_fd), -EINVAL);
}

#define W(f) cmocka_unit_test_teardown(f, temp_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		W(directories_are_made_once),	 W(symlinks_are_not_followed),
		W(all_is_removed_but_incompat),	 W(too_deep_trees_are_an_error),
		W(anything_in_incompat_refuses),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
