// SPDX-License-Identifier: GPL-2.0-or-later
/* Stamps, on the inode and on its companion. */
#include "fixture.h"

static const struct rvl_id id = { .number = 0x1234000000000042ULL, .generation = 0xdeadbeef };

static void stamps_are_twelve_little_endian_bytes(void **unused)
{
	static const uint8_t expected[] = {
		0x42, 0, 0, 0, 0, 0, 0x34, 0x12, 0xef, 0xbe, 0xad, 0xde
	};
	uint8_t buf[RVL_STAMP_SIZE];
	struct rvl_id out;

	rvl_stamp_encode(&id, buf);
	assert_memory_equal(buf, expected, sizeof(expected));
	assert_int_equal(rvl_stamp_decode(buf, sizeof(buf), &out), 0);
	assert_true(out.number == id.number && out.generation == id.generation);
}

static void damaged_stamps_are_refused(void **unused)
{
	uint8_t buf[RVL_STAMP_SIZE + 4] = { 0 };
	struct rvl_id out;

	for (size_t len = 0; len < sizeof(buf); len++)
		assert_int_equal(rvl_stamp_decode(buf, len, &out),
				 -EUCLEAN); /* length, or number 0 */
	buf[7] = 0x80;
	assert_int_equal(rvl_stamp_decode(buf, RVL_STAMP_SIZE, &out), -EUCLEAN);
}

static struct rvl_id get(const char *name)
{
	struct rvl_id out = { 0 };
	struct stat st;

	assert_int_equal(lstat(at("u/%s", name), &st), 0);
	assert_int_equal(rvl_stamp_get(idx, stack.layers[0].fd, name, st.st_mode & S_IFMT,
				       st.st_ino, &out),
			 0);
	return out;
}

static int get_error(const char *name)
{
	struct rvl_id out;
	struct stat st;

	assert_int_equal(lstat(at("u/%s", name), &st), 0);
	return rvl_stamp_get(idx, stack.layers[0].fd, name, st.st_mode & S_IFMT, st.st_ino, &out);
}

static int set(const char *name)
{
	struct stat st;

	assert_int_equal(lstat(at("u/%s", name), &st), 0);
	return rvl_stamp_set(idx, stack.layers[0].fd, name, st.st_mode & S_IFMT, st.st_ino, &id);
}

static void every_type_carries_one(void **unused)
{
	/* trusted.: on the inode itself; user.: symlinks, fifos and devices have a companion. */
	static const char *const names[] = { "file", "dir", "link", "fifo", "dev" };

	for (int flags = 0; flags <= USERXATTR; flags += USERXATTR) {
		assert_int_equal(
			sh("touch u/file && mkdir u/dir && ln -s x u/link && mkfifo u/fifo && "
			   "mknod u/dev c 1 3"),
			0);
		assert_int_equal(open_index("l1", "u", "w", flags), 0);
		for (unsigned i = 0; i < 5; i++) {
			assert_int_equal(get_error(names[i]), -ENODATA);
			assert_int_equal(set(names[i]), 0);
			assert_true(get(names[i]).number == id.number);
			assert_int_equal(get(names[i]).generation, id.generation);
		}
		assert_int_equal(access(at("w/inodes/c"), F_OK), flags ? 0 : -1);
		close_index();
		assert_int_equal(open_index("l1", "u", "w", flags), 0);
		for (unsigned i = 0; i < 5; i++)
			assert_true(get(names[i]).number == id.number);
		close_index();
		assert_int_equal(sh("rm -r u w && mkdir u w"), 0);
	}
}

static struct statx_timestamp birth_of(const char *name)
{
	struct statx stx;

	assert_int_equal(statx(AT_FDCWD, at("u/%s", name), AT_SYMLINK_NOFOLLOW, STATX_BTIME, &stx), 0);
	return stx.stx_btime;
}

static void companions_of_dead_inodes_are_not_believed(void **unused)
{
	/* The symlink is removed behind our back, and another one, born later, has its inode number:
	 * the companion is renamed, for which number comes back is the filesystem's own choice. */
	struct statx_timestamp old;
	uint64_t ino, dead;

	assert_int_equal(symlink("x", at("u/a")), 0);
	assert_int_equal(open_index("l1", "u", "w", USERXATTR), 0);
	assert_int_equal(set("a"), 0);
	dead = ino_of(at("u/a"));
	old = birth_of("a");
	do { /* until the clock of births has gone on */
		unlink(at("u/b"));
		assert_int_equal(symlink("y", at("u/b")), 0);
	} while (old.tv_sec == birth_of("b").tv_sec && old.tv_nsec == birth_of("b").tv_nsec);
	ino = ino_of(at("u/b"));
	assert_int_equal(sh("rm u/a && mv u/b u/a && mv w/inodes/c/%llu w/inodes/c/%llu",
			    (unsigned long long)dead, (unsigned long long)ino),
			 0);
	assert_int_equal(get_error("a"), -ENODATA);
	assert_int_equal(set("a"), 0);
	assert_true(get("a").number == id.number);
	rvl_companion_remove(idx, S_IFLNK, ino);
	assert_int_equal(get_error("a"), -ENODATA);
	assert_int_equal(sh("test -z \"$(ls w/inodes/c)\""), 0);
}

static void a_full_inode_gets_a_companion(void **unused)
{
	/* ext4 has room for one block of attributes: the stamp goes elsewhere, and comes back when
	 * there is room. */
	static char big[60000];
	size_t size = sizeof(big);
	struct stat st;
	uint8_t buf[64];

	make_file(at("u/f"));
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	while (size > 16 && setxattr(at("u/f"), "user.big", big, size, 0))
		size -= 4;
	while (size > 8 && !setxattr(at("u/f"), "trusted.overlay.ino", big, 12, 0)) {
		removexattr(at("u/f"), "trusted.overlay.ino");
		break;
	}
	for (int i = 0; i < 64; i++) { /* small ones for the inode's own room */
		char name[32];

		snprintf(name, sizeof(name), "user.%d", i);
		setxattr(at("u/f"), name, big, 4, 0);
	}
	if (!setxattr(at("u/f"), "trusted.overlay.ino", big, 12, 0)) {
		print_message("# skipped: this filesystem has room for more\n");
		skip();
	}
	assert_int_equal(set("f"), 0);
	assert_true(get("f").number == id.number);
	assert_int_equal(sh("test -n \"$(ls w/inodes/c)\""), 0);
	assert_int_equal(removexattr(at("u/f"), "user.big"), 0);
	assert_int_equal(set("f"), 0);
	assert_int_equal(getxattr(at("u/f"), "trusted.overlay.ino", buf, sizeof(buf)),
			 RVL_STAMP_SIZE);
	assert_int_equal(lstat(at("u/f"), &st), 0);
	assert_int_equal(rvl_upper_xattr_remove(idx, stack.layers[0].fd, "f", S_IFREG, st.st_ino,
						RVL_XATTR_INO),
			 0);
	assert_int_equal(get_error("f"), -ENODATA);
}

static void damaged_values_are_told(void **unused)
{
	make_file(at("u/f"));
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	for (size_t len = 0; len < 40; len++) {
		static const uint8_t zeros[40];

		assert_int_equal(setxattr(at("u/f"), "trusted.overlay.ino", zeros, len, 0), 0);
		assert_int_equal(get_error("f"), -EUCLEAN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(stamps_are_twelve_little_endian_bytes),
		T(damaged_stamps_are_refused),
		T(every_type_carries_one),
		T(companions_of_dead_inodes_are_not_believed),
		T(a_full_inode_gets_a_companion),
		T(damaged_values_are_told),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
