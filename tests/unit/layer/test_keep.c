// SPDX-License-Identifier: GPL-2.0-or-later
/* What a change of data takes from a file is put back. */
#include "fixture.h"

#include "layer/keep.h"

/* vfs_cap_data, version 2: CAP_CHOWN, permitted and effective. */
static const unsigned char capability[20] = { 1, 0, 0, 2, 1 };

/* What ftruncate(2) took is there again: times, setuid and setgid, capability. */
static void times_mode_and_capability(void **state)
{
	const struct timespec times[2] = { { 1000, 1 }, { 2000, 2 } };
	struct rvl_kept before, after;
	int fd;

	assert_int_equal(sh("cd %s && echo data >f", fixture_dir), 0);
	fd = open(at("f"), O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, 06755), 0);
	assert_int_equal(fsetxattr(fd, "security.capability", capability, 20, 0), 0);
	assert_int_equal(futimens(fd, times), 0);
	assert_int_equal(rvl_kept_get(fd, &before), 0);
	assert_int_equal(before.capability_len, 20);
	assert_int_equal(ftruncate(fd, 100), 0);
	assert_int_equal(fgetxattr(fd, "security.capability", NULL, 0), -1);
	rvl_kept_restore(fd, &before);
	assert_int_equal(rvl_kept_get(fd, &after), 0);
	assert_int_equal(after.capability_len, 20);
	assert_memory_equal(after.capability, capability, 20);
	assert_int_equal(after.st.stx_mode & 07777, 06755);
	assert_int_equal(after.st.stx_atime.tv_sec, 1000);
	assert_int_equal(after.st.stx_mtime.tv_sec, 2000);
	assert_int_equal(after.st.stx_mtime.tv_nsec, 2);
	close(fd);
}

/* A file without a capability gets none. */
static void without_capability(void **state)
{
	struct rvl_kept kept;
	int fd;

	assert_int_equal(sh("cd %s && echo data >f", fixture_dir), 0);
	fd = open(at("f"), O_RDWR | O_CLOEXEC);
	assert_int_equal(rvl_kept_get(fd, &kept), 0);
	assert_true(kept.capability_len < 0);
	rvl_kept_restore(fd, &kept);
	assert_int_equal(fgetxattr(fd, "security.capability", NULL, 0), -1);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(times_mode_and_capability),
		cmocka_unit_test(without_capability),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
