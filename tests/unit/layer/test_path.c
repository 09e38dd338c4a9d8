// SPDX-License-Identifier: GPL-2.0-or-later
/* Safe resolution: nothing in a layer leads out of it, whatever the path's length. */
#include "fixture.h"

#include <dirent.h>

#include "base/cleanup.h"
#include "layer/path.h"

static int open_fixture(void)
{
	return open(fixture_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void opens_beneath(void **state)
{
	_cleanup_close_ int dir = open_fixture(), fd = -EBADF, again = -EBADF, self = -EBADF;
	char buf[8] = "";

	make_dir(at("a/b"));
	make_file(at("a/b/f"), "text");
	fd = rvl_path_open(dir, "a/b/f", O_RDONLY, 0);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, 8), 4);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	again = rvl_fd_reopen(fd, O_RDWR);
	assert_true(again >= 0);
	assert_int_equal(write(again, "TEXT", 4), 4);
	self = rvl_path_open(dir, "", O_RDONLY | O_DIRECTORY, 0);
	assert_true(self >= 0);
	assert_int_equal(rvl_path_open(dir, "a/none", O_RDONLY, 0), -ENOENT);
	assert_int_equal(rvl_path_open(dir, "a/b/f/x", O_RDONLY, 0), -ENOTDIR);
	rvl_close(fd);
	fd = rvl_path_open(dir, "a/new", O_CREAT | O_EXCL | O_WRONLY, 0640);
	assert_true(fd >= 0);
}

static void nothing_leads_out(void **state)
{
	_cleanup_close_ int dir = -EBADF, link = -EBADF;
	struct statx stx;

	make_dir(at("jail/sub"));
	make_file(at("secret"), "");
	assert_int_equal(symlink("../secret", at("jail/link")), 0);
	assert_int_equal(symlink("/", at("jail/root")), 0);
	assert_int_equal(symlink("sub", at("jail/inner")), 0);
	dir = open(at("jail"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_path_open(dir, "..", O_PATH, 0), -EXDEV);
	assert_int_equal(rvl_path_open(dir, "sub/../../secret", O_PATH, 0), -EXDEV);
	assert_int_equal(rvl_path_open(dir, "/etc", O_PATH, 0), -EXDEV);
	assert_int_equal(rvl_path_open(dir, "root/etc", O_PATH, 0), -ELOOP);
	assert_int_equal(rvl_path_open(dir, "inner/x", O_PATH, 0), -ELOOP);
	assert_int_equal(rvl_path_open(dir, "link", O_RDONLY, 0), -ELOOP);
	assert_int_equal(rvl_path_statx(dir, "..", STATX_TYPE, &stx), -EXDEV);
	assert_int_equal(rvl_path_statx(dir, "sub/../..", STATX_TYPE, &stx), -EXDEV);
	/* the symlink itself can be had */
	link = rvl_path_open(dir, "link", O_PATH, 0);
	assert_true(link >= 0);
	assert_int_equal(rvl_path_statx(dir, "link", STATX_TYPE, &stx), 0);
	assert_true(S_ISLNK(stx.stx_mode));
	assert_int_equal(rvl_path_statx(link, "", STATX_TYPE, &stx), 0);
	assert_true(S_ISLNK(stx.stx_mode));
}

static void mounts_are_not_crossed(void **state)
{
	_cleanup_close_ int dir = -EBADF;
	struct statx stx;

	need_mounts();
	make_dir(at("mnt/in"));
	assert_int_equal(mount("none", at("mnt/in"), "tmpfs", 0, NULL), 0);
	dir = open(at("mnt"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_path_open(dir, "in", O_PATH, 0), -EXDEV);
	assert_int_equal(rvl_path_statx(dir, "in", STATX_TYPE, &stx), -EXDEV);
	assert_int_equal(rvl_path_statx(dir, "in/x", STATX_TYPE, &stx), -EXDEV);
	umount2(at("mnt/in"), MNT_DETACH);
}

static void paths_beyond_PATH_MAX(void **state)
{
	_cleanup_close_ int top = open_fixture(), fd = -EBADF;
	char name[200], path[60 * 200 + 10] = "";
	struct statx stx;
	int dir = dup(top);

	/* 60 directories of 199 characters, then a file */
	memset(name, 'n', 199);
	name[199] = '\0';
	for (int i = 0; i < 60; i++) {
		int next;

		assert_int_equal(mkdirat(dir, name, 0755), 0);
		next = openat(dir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		close(dir);
		dir = next;
		strcat(path, name);
		strcat(path, "/");
	}
	close(openat(dir, "file", O_CREAT | O_WRONLY, 0644));
	close(dir);
	strcat(path, "file");
	fd = rvl_path_open(top, path, O_RDONLY, 0);
	assert_true(fd >= 0);
	assert_int_equal(rvl_path_statx(top, path, STATX_BASIC_STATS, &stx), 0);
	assert_true(S_ISREG(stx.stx_mode));
	strcpy(path + strlen(path) - 4, "none");
	assert_int_equal(rvl_path_open(top, path, O_RDONLY, 0), -ENOENT);
}

static void one_long_component_is_refused(void **state)
{
	_cleanup_close_ int top = open_fixture();
	char *path = malloc(9000);

	memset(path, 'x', 8999);
	path[8999] = '\0';
	assert_int_equal(rvl_path_open(top, path, O_RDONLY, 0), -ENAMETOOLONG);
	path[0] = '/';
	assert_int_equal(rvl_path_open(top, path, O_RDONLY, 0), -EXDEV);
	free(path);
}

static void noatime_falls_back_for_strangers(void **state)
{
	_cleanup_close_ int top = open_fixture(), fd = -EBADF;

	if (geteuid() != 0) {
		print_message("# skipped: not root, so there is no other owner\n");
		skip();
	}
	make_file(at("roots"), "x");
	chmod(fixture_dir, 0755);
	if (seteuid(65534) < 0) {
		print_message("# skipped: no other user in this user namespace\n");
		skip();
	}
	fd = rvl_path_open_noatime(top, "roots", O_RDONLY);
	assert_int_equal(seteuid(0), 0);
	assert_true(fd >= 0);
	assert_false(fcntl(fd, F_GETFL) & O_NOATIME);
	rvl_close(fd);
	fd = rvl_path_open_noatime(top, "roots", O_RDONLY);
	assert_true(fcntl(fd, F_GETFL) & O_NOATIME);
}

static void stat_and_statx_agree(void **state)
{
	_cleanup_close_ int top = open_fixture();
	struct stat a, b;
	struct statx stx;

	make_file(at("s"), "12345");
	assert_int_equal(rvl_path_statx(top, "s", STATX_BASIC_STATS, &stx), 0);
	rvl_stat_from_statx(&stx, &a);
	assert_int_equal(stat(at("s"), &b), 0);
	assert_int_equal(a.st_dev, b.st_dev);
	assert_int_equal(rvl_statx_dev(&stx), b.st_dev);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(a.st_mode, b.st_mode);
	assert_int_equal(a.st_nlink, b.st_nlink);
	assert_int_equal(a.st_size, 5);
	assert_int_equal(a.st_blocks, b.st_blocks);
	assert_memory_equal(&a.st_mtim, &b.st_mtim, sizeof(a.st_mtim));
	assert_memory_equal(&a.st_ctim, &b.st_ctim, sizeof(a.st_ctim));
}

static void names_are_single_components(void **state)
{
	assert_true(rvl_name_is_valid("a"));
	assert_true(rvl_name_is_valid("..."));
	assert_true(rvl_name_is_valid(".a"));
	assert_false(rvl_name_is_valid(""));
	assert_false(rvl_name_is_valid("."));
	assert_false(rvl_name_is_valid(".."));
	assert_false(rvl_name_is_valid("a/b"));
}

static void streams_have_names_alone(void **state)
{
	_cleanup_close_ int dir = open_fixture();
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	unsigned n = 0;
	int fd, r;

	make_dir(at("stream"));
	make_dir(at("stream/one"));
	make_file(at("stream/two"), "");
	assert_int_equal(rvl_dir_stream(rvl_path_open(dir, "stream", O_RDONLY | O_DIRECTORY, 0), &names),
			 0);
	while ((r = rvl_dir_next(names, &entry)) > 0) {
		assert_true(!strcmp(entry->d_name, "one") || !strcmp(entry->d_name, "two"));
		n++;
	}
	assert_int_equal(r, 0);
	assert_int_equal(n, 2);
	/* an error goes through, and what is no directory is closed */
	assert_int_equal(rvl_dir_stream(-ELOOP, &names), -ELOOP);
	fd = rvl_path_open(dir, "stream/two", O_RDONLY, 0);
	assert_int_equal(rvl_dir_stream(fd, &(DIR *){ NULL }), -ENOTDIR);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_beneath),
		cmocka_unit_test(nothing_leads_out),
		cmocka_unit_test(mounts_are_not_crossed),
		cmocka_unit_test(paths_beyond_PATH_MAX),
		cmocka_unit_test(one_long_component_is_refused),
		cmocka_unit_test(noatime_falls_back_for_strangers),
		cmocka_unit_test(stat_and_statx_agree),
		cmocka_unit_test(streams_have_names_alone),
		cmocka_unit_test(names_are_single_components),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
