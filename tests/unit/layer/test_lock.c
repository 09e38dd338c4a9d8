// SPDX-License-Identifier: GPL-2.0-or-later
/* One writer: locks on upper and workdir, and kernel overlays that use them. */
#include <sys/wait.h>
#include <time.h>

#include "fixture.h"
#include "layer/lock.h"

static struct rvl_stack stack;
static int fds[2] = { -EBADF, -EBADF };

static int open_stack(const char *upper, const char *work)
{
	const char *lower = strdup(at("l"));
	char *up = strdup(at("%s", upper)), *wo = strdup(at("%s", work));
	int r;

	make_dir(lower);
	make_dir(up);
	make_dir(wo);
	r = rvl_stack_open(
		&(struct rvl_stack_config){
			.lower = &lower, .n_lower = 1, .upper = up, .work = wo },
		&stack);
	free((char *)lower);
	free(up);
	free(wo);
	return r;
}

static int release(void **state)
{
	for (int i = 0; i < 2; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -EBADF;
	}
	rvl_stack_release(&stack);
	return 0;
}

static void the_second_is_refused(void **unused)
{
	int other[2] = { -EBADF, -EBADF };

	assert_int_equal(open_stack("u", "w"), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, fds), 0);
	assert_true(fds[0] >= 0 && fds[1] >= 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, other), -EBUSY);
	assert_int_equal(other[0], -EBADF);
	rvl_stack_release(&stack);
	/* The same workdir with another upper, and the other way round. */
	assert_int_equal(open_stack("u2", "w"), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, other), -EBUSY);
	rvl_stack_release(&stack);
	assert_int_equal(open_stack("u", "w2"), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, other), -EBUSY);
	/* What was taken before the refusal is free again. */
	rvl_stack_release(&stack);
	assert_int_equal(open_stack("u2", "w2"), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, other), 0);
	close(other[0]);
	close(other[1]);
}

static void it_waits_for_a_holder_that_goes(void **unused)
{
	int status, ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(open_stack("u", "w"), 0);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		struct timespec pause = { .tv_nsec = 100000000 };

		if (rvl_stack_lock(&stack, 0, fds) || write(ready[1], "x", 1) != 1)
			_exit(1);
		nanosleep(&pause, NULL);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(rvl_stack_lock(&stack, 10000, fds), 0);
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	close(ready[0]);
	close(ready[1]);
}

static void a_read_only_stack_needs_none(void **unused)
{
	make_dir(at("l"));
	assert_int_equal(open_lowers("l", 0, false, &stack), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, fds), 0);
	assert_true(fds[0] < 0 && fds[1] < 0);
}

static void kernel_overlays_are_seen(void **unused)
{
	need_mounts();
	make_dir(at("mk"));
	make_dir(at("l"));
	make_dir(at("u,x y"));
	make_dir(at("w:x"));
	if (sh("mount -t overlay ov -o 'lowerdir=%s/l,upperdir=%s/u\\,x y,workdir=%s/w:x' %s/mk 2>/dev/null",
	       fixture_dir, fixture_dir, fixture_dir, fixture_dir)) {
		print_message("# skipped: no kernel overlay here\n");
		skip();
	}
	assert_int_equal(open_stack("u,x y", "w3"), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, fds), -EBUSY);
	rvl_stack_release(&stack);
	assert_int_equal(open_stack("u3", "w:x"), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, fds), -EBUSY);
	rvl_stack_release(&stack);
	assert_int_equal(umount2(at("mk"), 0), 0);
	assert_int_equal(open_stack("u,x y", "w:x"), 0);
	assert_int_equal(rvl_stack_lock(&stack, 0, fds), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, release)
	const struct CMUnitTest tests[] = {
		T(the_second_is_refused),
		T(it_waits_for_a_holder_that_goes),
		T(a_read_only_stack_needs_none),
		T(kernel_overlays_are_seen),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
