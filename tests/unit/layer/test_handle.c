// SPDX-License-Identifier: GPL-2.0-or-later
/* Handles: the record is the kernel's, decode refuses everything else, and what is opened is the
 * object. */
#include "fixture.h"

#include "base/cleanup.h"
#include "layer/handle.h"

static const uint8_t uuid[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

static void round_trip(void **state)
{
	_cleanup_close_ int dir = open(fixture_dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -EBADF;
	uint8_t buf[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle a, b;
	struct stat x, y;
	int len;

	make_file(at("f"), "");
	assert_int_equal(rvl_handle_get(dir, "f", uuid, &a), 0);
	len = rvl_handle_encode(&a, buf);
	assert_int_equal(rvl_handle_decode(buf, (unsigned)len, &b), 0);
	assert_true(rvl_handle_equal(&a, &b));
	fd = rvl_handle_open(dir, &b);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &x), 0);
	assert_int_equal(stat(at("f"), &y), 0);
	assert_int_equal(x.st_ino, y.st_ino);
	unlink(at("f"));
	rvl_close(rvl_take_fd(&fd));
	assert_int_equal(rvl_handle_open(dir, &b), -ESTALE);
	/* the directory itself */
	assert_int_equal(rvl_handle_get(dir, "", uuid, &b), 0);
	assert_false(rvl_handle_equal(&a, &b));
	assert_int_equal(rvl_handle_get(dir, "none", uuid, &b), -ENOENT);
}

static void malformed_records_are_refused(void **state)
{
	struct rvl_handle h = { .type = 1, .len = 8, .fid = "12345678" }, out;
	uint8_t buf[RVL_HANDLE_ENCODED_MAX + 50] = { 0 }, bad[sizeof(buf)];
	unsigned len = (unsigned)rvl_handle_encode(&h, buf);

	assert_int_equal(len, 29);
	assert_int_equal(rvl_handle_decode(buf, 0, &out), -ESTALE);
	for (unsigned n = 1; n < len; n++)
		assert_int_equal(rvl_handle_decode(buf, n, &out), -EUCLEAN);
	assert_int_equal(rvl_handle_decode(buf, len + 1, &out), -EUCLEAN);
	memcpy(bad, buf, sizeof(buf));
	bad[1] = 0xfa;
	assert_int_equal(rvl_handle_decode(bad, len, &out), -EUCLEAN);
	memcpy(bad, buf, sizeof(buf));
	bad[2] = 21;
	assert_int_equal(rvl_handle_decode(bad, 21, &out), -EUCLEAN);
	bad[2] = 21 + RVL_FID_MAX + 1;
	assert_int_equal(rvl_handle_decode(bad, 21 + RVL_FID_MAX + 1, &out), -EUCLEAN);
	bad[2] = 21 + RVL_FID_MAX;
	assert_int_equal(rvl_handle_decode(bad, 21 + RVL_FID_MAX, &out), 0);
	/* not damage, but of unknown origin */
	memcpy(bad, buf, sizeof(buf));
	bad[0] = 1;
	assert_int_equal(rvl_handle_decode(bad, len, &out), -ESTALE);
	memcpy(bad, buf, sizeof(buf));
	bad[3] ^= 1;
	assert_int_equal(rvl_handle_decode(bad, len, &out), -ESTALE);
	bad[3] |= 2; /* any endianness */
	assert_int_equal(rvl_handle_decode(bad, len, &out), 0);
	bad[3] = 0x40;
	assert_int_equal(rvl_handle_decode(bad, len, &out), -ESTALE);
}

static void kernel_writes_the_same_record(void **state)
{
	_cleanup_close_ int low = -EBADF;
	uint8_t theirs[256], ours[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle h, k;
	char options[2048];
	ssize_t n;

	need_mounts();
	make_dir(at("l"));
	make_dir(at("u"));
	make_dir(at("w"));
	make_dir(at("mo"));
	make_file(at("l/f"), "x");
	snprintf(options, sizeof(options), "lowerdir=%s/l,upperdir=%s/u,workdir=%s/w", fixture_dir,
		 fixture_dir, fixture_dir);
	if (mount("overlay", at("mo"), "overlay", 0, options) < 0) {
		print_message("# skipped: no kernel overlay here (%s)\n", strerror(errno));
		skip();
	}
	assert_int_equal(chmod(at("mo/f"), 0600), 0);
	umount2(at("mo"), MNT_DETACH);
	n = lgetxattr(at("u/f"), "trusted.overlay.origin", theirs, sizeof(theirs));
	assert_true(n > 0);
	assert_int_equal(rvl_handle_decode(theirs, (unsigned)n, &k), 0);
	low = open(at("l"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_handle_get(low, "f", k.uuid, &h), 0);
	assert_true(rvl_handle_equal(&h, &k));
	assert_int_equal(rvl_handle_encode(&h, ours), n);
	assert_memory_equal(ours, theirs, (size_t)n);
}

/* Names in the kernel's index: hex of the record, both ways, and nothing else. */
static void names_are_hex(void **state)
{
	struct rvl_handle h = { .type = 1, .len = 8, .fid = "\xff\x01""345678" }, out;
	char name[RVL_HANDLE_NAME_SIZE];
	static const char *const bad[] = { "", "0", "README", "00fb1d0g", "#1", "00fb1d00" };

	memcpy(h.uuid, uuid, sizeof(uuid));
	assert_int_equal(rvl_handle_name_encode(&h, name), 0);
	assert_string_equal(name, "00fb1d0001" "0102030405060708090a0b0c0d0e0f10" "ff01333435363738");
	assert_int_equal(rvl_handle_name_decode(name, &out), 0);
	assert_true(rvl_handle_equal(&h, &out));
	name[2] = 'F';
	assert_int_equal(rvl_handle_name_decode(name, &out), 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(rvl_handle_name_decode(bad[i], &out), -EUCLEAN);
	/* twice as long as a name may be */
	h.len = RVL_FID_MAX;
	assert_int_equal(rvl_handle_name_encode(&h, name), -ENAMETOOLONG);
}

static void upper_handles_are_marked(void **state)
{
	struct rvl_handle h = { .type = 1, .len = 8, .fid = "12345678" }, out;
	uint8_t a[RVL_HANDLE_ENCODED_MAX], b[RVL_HANDLE_ENCODED_MAX];
	int len = rvl_handle_encode(&h, a);

	assert_int_equal(rvl_handle_encode_upper(&h, b), len);
	assert_int_equal(b[3], a[3] | 4);
	b[3] = a[3];
	assert_memory_equal(a, b, (size_t)len);
	b[3] |= 4;
	assert_int_equal(rvl_handle_decode(b, (unsigned)len, &out), 0);
	assert_true(rvl_handle_equal(&h, &out));
}

static void lives_of_an_inode(void **state)
{
	const struct rvl_handle one = { .type = RVL_FID_INO32_GEN, .len = 8, .fid = "inodgen1" };
	const struct rvl_handle large = { .type = RVL_FID_INO64_GEN, .len = 12, .fid = "inode 64gen1" };
	struct rvl_handle two = one;

	assert_false(rvl_handle_is_other_life(&one, &one));
	memcpy(two.fid, "inodgen2", 8);
	assert_true(rvl_handle_is_other_life(&one, &two));
	/* another filesystem, inode, kind of handle, length */
	two.uuid[3] = 1;
	assert_false(rvl_handle_is_other_life(&one, &two));
	two = one;
	memcpy(two.fid, "inoDgen2", 8);
	assert_false(rvl_handle_is_other_life(&one, &two));
	two = one;
	memcpy(two.fid, "inodgen2", 8);
	two.type = 2;
	assert_false(rvl_handle_is_other_life(&one, &two));
	assert_false(rvl_handle_is_other_life(&two, &two));
	two.type = one.type;
	two.len = 12;
	assert_false(rvl_handle_is_other_life(&one, &two));
	two = large;
	memcpy(two.fid, "inode 64gen2", 12);
	assert_true(rvl_handle_is_other_life(&large, &two));
	memcpy(two.fid, "inodE 64gen2", 12);
	assert_false(rvl_handle_is_other_life(&large, &two));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(malformed_records_are_refused),
		cmocka_unit_test(names_are_hex),
		cmocka_unit_test(upper_handles_are_marked),
		cmocka_unit_test(lives_of_an_inode),
		cmocka_unit_test(kernel_writes_the_same_record),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
