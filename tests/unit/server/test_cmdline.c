// SPDX-License-Identifier: GPL-2.0-or-later
/* The command line in all its forms. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <cmocka.h>

#include "base/log.h"
#include "server/cmdline.h"

#define ARGS_MAX 16

static struct rvl_options options;
static struct rvl_cmdline cmdline;

/* words: separated by blanks, at most ARGS_MAX - 1. */
static int parse(const char *words)
{
	static char text[256];
	char *argv[ARGS_MAX] = {};
	int argc = 0;
	char *save;

	strcpy(text, words);
	for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	rvl_options_release(&options);
	rvl_options_init(&options, true);
	return rvl_cmdline_parse(argc, argv, &options, &cmdline);
}

static int teardown(void **state)
{
	rvl_options_release(&options);
	return 0;
}

static void test_own(void **state)
{
	assert_int_equal(parse("/usr/bin/reverlay -o lowerdir=/a /mnt"), 0);
	assert_int_equal(cmdline.action, RVL_ACTION_MOUNT);
	assert_string_equal(cmdline.mount_point, "/mnt");
	assert_null(cmdline.source);
	assert_false(cmdline.is_foreground);
	assert_false(cmdline.is_helper);
	/* as mount.fuse3 calls it */
	assert_int_equal(parse("reverlay src /mnt -o rw,lowerdir=/a,dev,suid"), 0);
	assert_string_equal(cmdline.source, "src");
	assert_string_equal(options.fsname, "src");
	assert_int_equal(parse("reverlay /mnt -f -o lowerdir=/a -o ro"), 0);
	assert_true(cmdline.is_foreground);
	assert_int_equal(options.flags, MS_RDONLY);
	/* an explicit name is better than the source */
	assert_int_equal(parse("reverlay src /mnt -o fsname=name"), 0);
	assert_string_equal(options.fsname, "name");
	assert_int_equal(parse("reverlay -d /mnt"), 0);
	assert_true(options.is_debug && cmdline.is_foreground);
	assert_int_equal(parse("reverlay -o debug /mnt"), 0);
	assert_true(cmdline.is_foreground);
}

static void test_own_information(void **state)
{
	assert_int_equal(parse("reverlay -h"), 0);
	assert_int_equal(cmdline.action, RVL_ACTION_HELP);
	assert_int_equal(parse("reverlay --version"), 0);
	assert_int_equal(cmdline.action, RVL_ACTION_VERSION);
}

static void test_own_refused(void **state)
{
	assert_int_equal(parse("reverlay"), -EINVAL);
	assert_int_equal(parse("reverlay -o lowerdir=/a"), -EINVAL);
	assert_int_equal(parse("reverlay a b c"), -EINVAL);
	assert_int_equal(parse("reverlay -x /mnt"), -EINVAL);
	assert_int_equal(parse("reverlay --nothing /mnt"), -EINVAL);
	assert_int_equal(parse("reverlay /mnt -o"), -EINVAL);
}

/* As mount(8) calls /sbin/mount.fuse.reverlay: -f is another one here. */
static void test_helper(void **state)
{
	assert_int_equal(
		parse("/sbin/mount.fuse.reverlay src /mnt -o rw,lowerdir=/a -t fuse.reverlay"), 0);
	assert_true(cmdline.is_helper);
	assert_false(cmdline.is_fake);
	assert_string_equal(cmdline.source, "src");
	assert_string_equal(cmdline.mount_point, "/mnt");
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -f -n -v -o lowerdir=/a"), 0);
	assert_true(cmdline.is_fake);
	assert_false(cmdline.is_foreground);
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -o lowerdir=/a,foo -s"), 0);
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -o lowerdir=/a,foo"), -EINVAL);
	/* the letters of values are none of its own */
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -o foos"), -EINVAL);
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -o remount,ro,user_id=0"), 0);
	assert_true(options.is_remount);
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -r"), 0);
	assert_int_equal(options.flags, MS_RDONLY);
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -N /proc/1/ns/mnt"), -EINVAL);
	assert_int_equal(parse("mount.fuse.reverlay src /mnt -z"), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_own, teardown),
		cmocka_unit_test_teardown(test_own_information, teardown),
		cmocka_unit_test_teardown(test_own_refused, teardown),
		cmocka_unit_test_teardown(test_helper, teardown),
	};

	rvl_log_setup("test", RVL_LOG_STDERR, LOG_EMERG);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
