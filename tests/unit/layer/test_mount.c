// SPDX-License-Identifier: GPL-2.0-or-later
/* Clones of mounts, and the mount table. */
#include "fixture.h"

#include "base/cleanup.h"
#include "layer/mount.h"
#include "layer/path.h"

static void mount_points_inside_are_found(void **state)
{
	_cleanup_free_ char *inside = NULL;

	need_mounts();
	make_dir(at("a/with space/p"));
	make_dir(at("ab"));
	assert_int_equal(rvl_mount_find_inside(at("a"), &inside), 0);
	assert_int_equal(mount("none", at("a/with space/p"), "tmpfs", 0, NULL), 0);
	assert_int_equal(mount("none", at("ab"), "tmpfs", 0, NULL), 0);
	assert_int_equal(rvl_mount_find_inside(at("a"), &inside), 1);
	assert_string_equal(inside, at("a/with space/p"));
	free(rvl_take_ptr(inside));
	assert_int_equal(rvl_mount_find_inside(at("a/with space"), &inside), 1);
	free(rvl_take_ptr(inside));
	/* not at the place itself, and not beside it */
	assert_int_equal(rvl_mount_find_inside(at("a/with space/p"), &inside), 0);
	assert_int_equal(rvl_mount_find_inside(at("ab"), &inside), 0);
	assert_int_equal(rvl_mount_find_inside("/", &inside), 1);
	umount2(at("a/with space/p"), MNT_DETACH);
	umount2(at("ab"), MNT_DETACH);
}

static void source_of_a_mount(void **state)
{
	_cleanup_free_ char *source = NULL, *type = NULL;
	struct stat st;

	need_mounts();
	make_dir(at("ms"));
	assert_int_equal(mount("server:/export", at("ms"), "tmpfs", 0, NULL), 0);
	assert_int_equal(stat(at("ms"), &st), 0);
	assert_int_equal(rvl_mount_of_device(st.st_dev, &type, &source), 0);
	assert_string_equal(source, "server:/export");
	assert_string_equal(type, "tmpfs");
	free(rvl_take_ptr(source));
	free(rvl_take_ptr(type));
	assert_int_equal(rvl_mount_of_device(makedev(4000, 1), &type, &source), -ENOENT);
	umount2(at("ms"), MNT_DETACH);
}

static void clones_are_separate(void **state)
{
	_cleanup_close_ int fd = -EBADF, clone = -EBADF, writable = -EBADF, f = -EBADF;

	need_mounts();
	make_dir(at("c"));
	fd = open(at("c"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	clone = rvl_mount_clone(fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME);
	writable = rvl_mount_clone(fd, 0);
	assert_true(clone >= 0 && writable >= 0);
	assert_true(openat(clone, "f", O_CREAT | O_WRONLY, 0600) < 0);
	f = openat(writable, "f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(f >= 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mount_points_inside_are_found),
		cmocka_unit_test(source_of_a_mount),
		cmocka_unit_test(clones_are_separate),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
