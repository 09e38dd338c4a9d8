// SPDX-License-Identifier: GPL-2.0-or-later
/* Texts of a mount: parts are compared whole; what is no mount of ours says so. (Whole texts of
 * several pages come from real mounts only: tests/e2e/test_options.py.) */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/stat_ioctl.h"

static void parts_are_compared_whole(void **unused)
{
	static const char text[] = "read_only\0upperdir=/u\0persistent";
	const size_t len = sizeof(text);

	assert_true(rvl_stat_has(text, len, "read_only"));
	assert_true(rvl_stat_has(text, len, "upperdir=/u"));
	assert_true(rvl_stat_has(text, len, "persistent"));
	assert_false(rvl_stat_has(text, len, "read"));
	assert_false(rvl_stat_has(text, len, "upperdir=/"));
	assert_false(rvl_stat_has(text, len, ""));
	assert_false(rvl_stat_has(text, 0, "read_only"));
}

static void other_filesystems_are_told(void **unused)
{
	const int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *text = NULL;
	size_t len = 0;

	assert_true(fd >= 0);
	assert_int_equal(rvl_stat_fetch(fd, RVL_STAT_CONFIG, 0, &text, &len), -ENOTTY);
	assert_null(text);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parts_are_compared_whole),
		cmocka_unit_test(other_filesystems_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
