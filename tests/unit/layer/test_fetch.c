// SPDX-License-Identifier: GPL-2.0-or-later
/* A fetch of data into a metacopy file: done, undone, cut short. */
#include "fixture.h"

#include "layer/fetch.h"

#define CAPABILITY "security.capability"
#define SIZE 100

/* vfs_cap_data, version 2: CAP_CHOWN, permitted and effective. */
static const unsigned char capability[20] = { 1, 0, 0, 2, 1 };
static const struct timespec times[2] = { { 1000, 1 }, { -2000, 2 } };
static struct rvl_xattr_names names;

/* "f": a metacopy file with all that a change of data takes. */
static int make(const char *value, size_t len)
{
	int fd;

	rvl_xattr_names_init(&names, false);
	assert_int_equal(sh("cd %s && rm -f f && truncate -s %d f", fixture_dir, SIZE), 0);
	fd = open(at("f"), O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, 06755), 0);
	assert_int_equal(fsetxattr(fd, CAPABILITY, capability, sizeof(capability), 0), 0);
	assert_int_equal(rvl_xattr_set(&names, fd, "", RVL_XATTR_METACOPY, value, len), 0);
	assert_int_equal(rvl_xattr_set(&names, fd, "", RVL_XATTR_REDIRECT, "/f", 2), 0);
	assert_int_equal(futimens(fd, times), 0);
	return fd;
}

static void check_attributes(int fd)
{
	unsigned char value[sizeof(capability)];
	struct stat st;

	assert_int_equal(fgetxattr(fd, CAPABILITY, value, sizeof(value)), sizeof(value));
	assert_memory_equal(value, capability, sizeof(value));
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 06755);
	assert_int_equal(st.st_size, SIZE);
	assert_int_equal(st.st_atim.tv_sec, 1000);
	assert_int_equal(st.st_mtim.tv_sec, -2000);
	assert_int_equal(st.st_mtim.tv_nsec, 2);
}

static ssize_t value_of(int fd, uint8_t value[RVL_METACOPY_VALUE_MAX])
{
	return rvl_xattr_get(&names, fd, "", RVL_XATTR_METACOPY, value, RVL_METACOPY_VALUE_MAX);
}

static void ends_whole(void **state)
{
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	struct rvl_kept kept;
	int fd = make("", 0);

	assert_int_equal(rvl_fetch_begin(&names, fd, &kept), 0);
	assert_int_equal(pwrite(fd, "data", 4, 0), 4);
	assert_int_equal(rvl_fetch_end(&names, fd, &kept), 0);
	check_attributes(fd);
	assert_int_equal(value_of(fd, value), -ENODATA);
	assert_int_equal(rvl_xattr_get(&names, fd, "", RVL_XATTR_REDIRECT, value, sizeof(value)),
			 -ENODATA);
	/* nothing is left to be undone */
	assert_int_equal(rvl_fetch_recover(&names, fd), 0);
	assert_int_equal(pread(fd, value, 4, 0), 4);
	assert_memory_equal(value, "data", 4);
	close(fd);
}

/* Cut short after a part of the data, or a truncation: by the value alone it is as before, and data
 * that may be nowhere else are there. */
static void cut_short(void **state)
{
	static const off_t truncations[] = { SIZE, 0, SIZE + 5 };
	uint8_t value[RVL_METACOPY_VALUE_MAX];

	for (size_t i = 0; i < sizeof(truncations) / sizeof(truncations[0]); i++) {
		struct rvl_kept kept;
		int fd = make("", 0);

		assert_int_equal(rvl_fetch_begin(&names, fd, &kept), 0);
		assert_true(value_of(fd, value) > RVL_METACOPY_VALUE_MIN);
		assert_int_equal(pwrite(fd, "data", 4, 0), 4);
		assert_int_equal(ftruncate(fd, truncations[i]), 0);
		assert_int_equal(fchmod(fd, 0755), 0);
		assert_int_equal(rvl_fetch_recover(&names, fd), 0);
		check_attributes(fd);
		assert_int_equal(value_of(fd, value), 0);
		assert_int_equal(pread(fd, value, 4, 0), 4);
		assert_memory_equal(value, truncations[i] ? "data" : "\0\0\0", 4);
		close(fd);
	}
}

/* Its owner, or its permissions, have been changed since: no setuid and no capability come back. */
static void changed_since(void **state)
{
	for (int i = 0; i < 3; i++) {
		struct rvl_kept kept;
		struct stat st;
		int fd = make("", 0);

		assert_int_equal(rvl_fetch_begin(&names, fd, &kept), 0);
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(fchown(fd, i == 0 ? 7 : 0, i == 1 ? 7 : 0), 0);
		assert_int_equal(fchmod(fd, i == 2 ? 0700 : 0755), 0);
		assert_int_equal(rvl_fetch_recover(&names, fd), 0);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_mode & 06000, 0);
		assert_int_equal(st.st_size, SIZE);
		assert_int_equal(fgetxattr(fd, CAPABILITY, NULL, 0), -1);
		close(fd);
	}
}

/* A failure while it goes on: a hole again; and never one that counts as data. */
static void undone(void **state)
{
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	static const char hole[4];
	struct rvl_kept kept;
	int fd;

	for (int i = 0; i < 2; i++) {
		fd = make("", 0);
		assert_int_equal(rvl_fetch_begin(&names, fd, &kept), 0);
		assert_int_equal(pwrite(fd, "data", 4, 0), 4);
		if (i)
			assert_int_equal(rvl_xattr_remove(&names, fd, "", RVL_XATTR_METACOPY), 0);
		assert_int_equal(rvl_fetch_undo(&names, fd, &kept), 0);
		check_attributes(fd);
		assert_int_equal(value_of(fd, value), 0);
		assert_int_equal(pread(fd, value, 4, 0), 4);
		assert_memory_equal(value, hole, 4);
		close(fd);
	}
}

/* A digest stays, and with userxattr anyone may write the value: it is not used, and not believed. */
static void in_memory_alone(void **state)
{
	const char digest[] = { 0, 8, 0, 1, 'd', 'i', 'g', 'e' };
	uint8_t value[RVL_METACOPY_VALUE_MAX], forged[RVL_METACOPY_VALUE_MAX];
	struct rvl_kept kept;
	size_t len;
	int fd = make(digest, sizeof(digest));

	assert_int_equal(rvl_fetch_begin(&names, fd, &kept), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(value_of(fd, value), sizeof(digest));
	assert_int_equal(rvl_fetch_undo(&names, fd, &kept), 0);
	check_attributes(fd);
	assert_int_equal(value_of(fd, value), sizeof(digest));
	len = rvl_fetch_encode(&kept, forged);
	rvl_xattr_names_init(&names, true);
	assert_int_equal(fchmod(fd, 0600), 0);
	assert_int_equal(rvl_xattr_set(&names, fd, "", RVL_XATTR_METACOPY, forged, len), 0);
	assert_int_equal(rvl_fetch_recover(&names, fd), 0);
	assert_int_equal(rvl_fetch_begin(&names, fd, &kept), 0);
	assert_int_equal(kept.st.stx_mode & 07777, 0600);
	close(fd);
}

static void values(void **state)
{
	struct rvl_kept kept = { .capability_len = -ENODATA }, back;
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	size_t len = rvl_fetch_encode(&kept, value);

	assert_int_equal(rvl_metacopy_decode("", 0, NULL), RVL_METACOPY_PLAIN);
	assert_int_equal(rvl_metacopy_decode("\0\4\0\0", 4, NULL), RVL_METACOPY_PLAIN);
	assert_int_equal(rvl_metacopy_decode("\0\5\0\1x", 5, NULL), RVL_METACOPY_DIGEST);
	assert_int_equal(rvl_metacopy_decode(value, len, &back), RVL_METACOPY_FETCH);
	assert_true(back.capability_len <= 0);
	kept.capability_len = RVL_METACOPY_VALUE_MAX;
	assert_int_equal(rvl_fetch_encode(&kept, (uint8_t[RVL_METACOPY_VALUE_MAX]){ 0 }), 0);
	for (size_t n = 1; n < len; n++)
		if (n != RVL_METACOPY_VALUE_MIN)
			assert_int_equal(rvl_metacopy_decode(value, n, NULL), -EUCLEAN);
	value[len - 1] = 0x80; /* the size is negative */
	assert_int_equal(rvl_metacopy_decode(value, len, NULL), -EUCLEAN);
	value[len - 1] = 0;
	value[5] = 0x80; /* more than permissions in the mode */
	assert_int_equal(rvl_metacopy_decode(value, len, NULL), -EUCLEAN);
	value[5] = 0;
	memset(value + 22, 0xff, 4); /* nanoseconds */
	assert_int_equal(rvl_metacopy_decode(value, len, NULL), -EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ends_whole),	   cmocka_unit_test(cut_short),
		cmocka_unit_test(changed_since),   cmocka_unit_test(undone),
		cmocka_unit_test(in_memory_alone), cmocka_unit_test(values),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
