// SPDX-License-Identifier: GPL-2.0-or-later
/* Copying data on and between real filesystems: holes stay, extents are shared, errors come
 * through. */
#include "fixture.h"

#include "base/cleanup.h"
#include "layer/copy.h"

static int open_new(const char *path)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

/* Data here and there: at the start, in the middle, and a hole at the end. */
static int sparse_source(const char *path, off_t size)
{
	int fd = open_new(path);
	char block[4096];

	memset(block, 's', sizeof(block));
	assert_int_equal(pwrite(fd, block, 4096, 0), 4096);
	assert_int_equal(pwrite(fd, block, 4096, size / 2 / 4096 * 4096), 4096);
	assert_int_equal(pwrite(fd, "x", 1, size / 2 + 100000), 1);
	assert_int_equal(ftruncate(fd, size), 0);
	fsync(fd);
	return fd;
}

static void assert_same(int a, int b, off_t size)
{
	struct stat st;

	assert_int_equal(fstat(b, &st), 0);
	assert_int_equal(st.st_size, size);
	for (off_t at_byte = 0; at_byte < size;) {
		char x[4096] = { 0 }, y[4096] = { 0 };
		off_t p = lseek(a, at_byte, SEEK_DATA), q = lseek(b, at_byte, SEEK_DATA);

		if (p < 0 && q < 0)
			return;
		if (p < 0 || (q >= 0 && q < p))
			p = q;
		assert_int_equal(pread(a, x, 4096, p), pread(b, y, 4096, p));
		assert_memory_equal(x, y, 4096);
		at_byte = p + 4096;
	}
}

static void copy_between(const char *from_dir, const char *to_dir, off_t size)
{
	_cleanup_close_ int from = sparse_source(at("%s/source", from_dir), size);
	_cleanup_close_ int to = open_new(at("%s/target", to_dir));
	struct stat st;
	uint64_t bytes;

	assert_int_equal(rvl_copy_data(from, to, (uint64_t)size, &bytes), 0);
	assert_same(from, to, size);
	assert_int_equal(fstat(to, &st), 0);
	assert_true(st.st_blocks <= 2048);
	assert_true(bytes <= 1024 * 1024);
	print_message("# %s -> %s: %llu bytes copied\n", *from_dir ? from_dir : "here",
		      *to_dir ? to_dir : "here", (unsigned long long)bytes);
}

static void sparse_files_stay_sparse(void **state)
{
	copy_between("", "", 50000000);
}

static void huge_sparse_files(void **state)
{
	copy_between("", "", (off_t)1 << 40);
}

static bool mount_image(const char *name, const char *mkfs)
{
	need_mounts();
	make_dir(at("m%s", name));
	if (sh("truncate -s 320M %s/%s.img && %s %s/%s.img >/dev/null 2>&1 && "
	       "mount -o loop %s/%s.img %s/m%s 2>/dev/null",
	       fixture_dir, name, mkfs, fixture_dir, name, fixture_dir, name, fixture_dir,
	       name) == 0)
		return true;
	print_message("# skipped: no %s here\n", name);
	return false;
}

static void on_and_between_filesystems(void **state)
{
	static const char *const fs[][2] = {
		{ "btrfs", "mkfs.btrfs -f" },
		{ "xfs", "mkfs.xfs -f" },
		{ "ext4", "mkfs.ext4 -F" },
	};
	bool is_mounted[3];

	make_dir(at("mtmpfs"));
	need_mounts();
	assert_int_equal(mount("none", at("mtmpfs"), "tmpfs", 0, NULL), 0);
	for (int i = 0; i < 3; i++) {
		is_mounted[i] = mount_image(fs[i][0], fs[i][1]);
		if (is_mounted[i])
			copy_between(at("m%s", fs[i][0]) + strlen(fixture_dir) + 1,
				     at("m%s", fs[i][0]) + strlen(fixture_dir) + 1, 50000000);
	}
	for (int i = 0; i < 3; i++) {
		if (!is_mounted[i])
			continue;
		copy_between("mtmpfs", at("m%s", fs[i][0]) + strlen(fixture_dir) + 1, 50000000);
		copy_between(at("m%s", fs[i][0]) + strlen(fixture_dir) + 1, "mtmpfs", 50000000);
		if (is_mounted[(i + 1) % 3])
			copy_between(at("m%s", fs[i][0]) + strlen(fixture_dir) + 1,
				     at("m%s", fs[(i + 1) % 3][0]) + strlen(fixture_dir) + 1,
				     50000000);
	}
}

static void extents_are_shared_where_they_can_be(void **state)
{
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	uint64_t bytes = 1;

	if (!mount_image("shared", "mkfs.btrfs -f"))
		skip();
	from = sparse_source(at("mshared/a"), 10000000);
	to = open_new(at("mshared/b"));
	assert_int_equal(rvl_copy_data(from, to, 10000000, &bytes), 0);
	assert_int_equal(bytes, 0);
	assert_same(from, to, 10000000);
	/* less than all of the source */
	assert_int_equal(ftruncate(to, 0), 0);
	assert_int_equal(rvl_copy_data(from, to, 4000, &bytes), 0);
	assert_int_equal(lseek(to, 0, SEEK_END), 4000);
}

static void exactly_the_size_asked_for(void **state)
{
	_cleanup_close_ int from = open_new(at("from")), to = open_new(at("to"));
	char buf[16];

	assert_int_equal(write(from, "0123456789", 10), 10);
	assert_int_equal(rvl_copy_data(from, to, 4, NULL), 0);
	assert_int_equal(pread(to, buf, 16, 0), 4);
	assert_memory_equal(buf, "0123", 4);
	assert_int_equal(ftruncate(to, 0), 0);
	assert_int_equal(rvl_copy_data(from, to, 0, NULL), 0);
	assert_int_equal(lseek(to, 0, SEEK_END), 0);
	assert_int_equal(rvl_copy_data(from, to, 11, NULL), -EIO);
}

static void no_space_comes_through(void **state)
{
	_cleanup_close_ int from = open_new(at("big")), to = -EBADF;
	char *block = calloc(1, 1 << 20);

	need_mounts();
	make_dir(at("msmall"));
	assert_int_equal(mount("none", at("msmall"), "tmpfs", 0, "size=1m"), 0);
	memset(block, 'x', 1 << 20);
	for (int i = 0; i < 3; i++)
		assert_int_equal(write(from, block, 1 << 20), 1 << 20);
	free(block);
	to = open_new(at("msmall/t"));
	assert_int_equal(rvl_copy_data(from, to, 3 << 20, NULL), -ENOSPC);
}

static void source_without_sizes(void **state)
{
	/* procfs says 0 for its files, and cannot tell holes from data */
	_cleanup_close_ int from = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int to = open_new(at("p"));

	assert_int_equal(rvl_copy_data(from, to, 10, NULL), -EIO);
	assert_int_equal(rvl_copy_data(from, to, 0, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sparse_files_stay_sparse),
		cmocka_unit_test(huge_sparse_files),
		cmocka_unit_test(on_and_between_filesystems),
		cmocka_unit_test(extents_are_shared_where_they_can_be),
		cmocka_unit_test(exactly_the_size_asked_for),
		cmocka_unit_test(no_space_comes_through),
		cmocka_unit_test(source_without_sizes),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
