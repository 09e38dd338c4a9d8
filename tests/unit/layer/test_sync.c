// SPDX-License-Identifier: GPL-2.0-or-later
/* Which filesystems keep data before the names that come after, as they are mounted; syncing. */
#include "fixture.h"

#include <stdbool.h>

#include "layer/sync.h"

static bool is_ordered(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool is;

	assert_true(fd >= 0);
	is = rvl_has_ordered_data(fd);
	close(fd);
	return is;
}

static void check_image(const char *mkfs, const char *options, bool expected)
{
	need_mounts();
	make_dir(at("m"));
	assert_int_equal(sh("cd %s && rm -f img && truncate -s 320M img && %s img >/dev/null 2>&1 "
			    "&& mount -o loop,%s img m",
			    fixture_dir, mkfs, options),
			 0);
	assert_int_equal(is_ordered(at("m")), expected);
	assert_int_equal(sh("umount %s/m", fixture_dir), 0);
}

/* The journal waits for the data that come with it. */
static void ordered(void **state)
{
	check_image("mkfs.ext4 -q -F", "rw", true);
	check_image("mkfs.xfs -q -f", "rw", true);
}

/* No journal, one that does not wait, a device that keeps no order; others. */
static void not_ordered(void **state)
{
	check_image("mkfs.ext4 -q -F -O ^has_journal", "rw", false);
	check_image("mkfs.ext4 -q -F", "data=writeback", false);
	check_image("mkfs.ext4 -q -F", "data=journal", false);
	check_image("mkfs.ext4 -q -F", "nobarrier", false);
	check_image("mkfs.btrfs -q -f", "rw", false);
	need_mounts();
	assert_int_equal(mount("none", at("m"), "tmpfs", 0, NULL), 0);
	assert_false(is_ordered(at("m")));
	assert_int_equal(umount(at("m")), 0);
}

/* A journal on another device, which flushes its own. */
static void outer_journal(void **state)
{
	need_mounts();
	make_dir(at("m"));
	assert_int_equal(sh("cd %s && rm -f img && truncate -s 320M img && truncate -s 64M journal && "
			    "J=$(losetup -f --show journal) && { mkfs.ext4 -q -F -b 4096 -O journal_dev $J "
			    "&& mkfs.ext4 -q -F -b 4096 -J device=$J img && mount -o loop img m; r=$?; "
			    "losetup -d $J; exit $r; } >/dev/null 2>&1",
			    fixture_dir),
			 0);
	assert_false(is_ordered(at("m")));
	assert_int_equal(sh("umount %s/m", fixture_dir), 0);
}

/* Either way; and the error of what cannot be synced. */
static void sync_data(void **state)
{
	int fd = open(at("file"), O_CREAT | O_RDWR | O_CLOEXEC, 0600), ends[2];

	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(rvl_sync_data(fd, true), 0);
	assert_int_equal(rvl_sync_data(fd, false), 0);
	close(fd);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(rvl_sync_data(ends[1], true), -ESPIPE);
	assert_int_equal(rvl_sync_data(ends[1], false), -EINVAL);
	assert_int_equal(rvl_sync_data(-1, true), -EBADF);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ordered),
		cmocka_unit_test(not_ordered),
		cmocka_unit_test(outer_journal),
		cmocka_unit_test(sync_data),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
