// SPDX-License-Identifier: GPL-2.0-or-later
/* Handles in the forms of NFS servers: made, read, and refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/nfs_handle.h"

static const struct rvl_id id = { .number = 0x0001000200030004, .generation = 0xaabbccdd };
static const uint8_t uuid[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

/* What is made is read back, by each form's name. */
static void test_round_trip(void **state)
{
	char text[RVL_NFS_HANDLE_TEXT_MAX];
	struct rvl_nfs_handle handle;

	rvl_nfs_handle_fuse(&id, text);
	assert_int_equal(rvl_nfs_handle_parse(text, &handle), 0);
	assert_int_equal(handle.form, RVL_NFS_FUSE);
	assert_int_equal(handle.id.number, id.number);
	assert_int_equal(handle.id.generation, id.generation);

	rvl_nfs_handle_knfsd(&id, uuid, text);
	assert_int_equal(rvl_nfs_handle_parse(text, &handle), 0);
	assert_int_equal(handle.form, RVL_NFS_KNFSD);
	assert_int_equal(handle.id.number, id.number);
	assert_true(handle.has_uuid);
	assert_memory_equal(handle.uuid, uuid, sizeof(uuid));

	rvl_nfs_handle_ganesha(&id, 45083, text);
	assert_int_equal(rvl_nfs_handle_parse(text, &handle), 0);
	assert_int_equal(handle.form, RVL_NFS_GANESHA);
	assert_int_equal(handle.id.number, id.number);
	assert_int_equal(handle.id.generation, id.generation);
}

/* Taken from real servers: Ganesha 4.3 (v3, padded) and the root of an export of knfsd. */
static void test_known(void **state)
{
	struct rvl_nfs_handle handle;
	char text[RVL_NFS_HANDLE_TEXT_MAX];

	assert_int_equal(rvl_nfs_handle_parse("0x4300b01b1642000000000000000081000000000800"
					      "0200aa70847e00",
					      &handle),
			 0);
	assert_int_equal(handle.id.number, 131080);
	assert_int_equal(handle.id.generation, 0x7e8470aa);
	rvl_nfs_handle_ganesha(&handle.id, 45083, text);
	assert_string_equal(text, "4300b01b164200000000000000008100000000080002"
				  "00aa70847e");
	assert_int_equal(
		rvl_nfs_handle_parse("01000600 cf612f3e9bf24b96a67563a166061c00", &handle), 0);
	assert_int_equal(handle.id.number, RVL_NUMBER_ROOT);
	assert_int_equal(handle.id.generation, 0);
}

/* The words of knfsd's debug messages are numbers of this machine's byte order. */
static void test_words(void **state)
{
	struct rvl_nfs_handle handle;

	assert_int_equal(rvl_nfs_handle_parse("20: 81010001 0000002a 00000000 00020008 7e8470aa",
					      &handle),
			 0);
	assert_int_equal(handle.id.number, 131080);
	assert_int_equal(handle.id.generation, 0x7e8470aa);
	/* cut off, as those messages are after six words */
	assert_int_equal(rvl_nfs_handle_parse("32: 81060001 3e2f61cf 964bf29b a16375a6 001c0666 00000000",
					      &handle),
			 -EINVAL);
}

/* Every beginning of a good handle, and noise: refused or read, nothing read beyond the end. */
static void test_hostile(void **state)
{
	char text[RVL_NFS_HANDLE_TEXT_MAX + 64];
	struct rvl_nfs_handle handle;
	unsigned seed = 1;

	for (int form = 0; form < 2; form++) {
		if (form)
			rvl_nfs_handle_knfsd(&id, uuid, text);
		else
			rvl_nfs_handle_ganesha(&id, 7, text);
		for (size_t len = strlen(text) - 1; len > 0; len--) {
			text[len] = '\0';
			if (len != 24) /* the length of FUSE's own */
				assert_int_equal(rvl_nfs_handle_parse(text, &handle), -EINVAL);
		}
	}
	for (int i = 0; i < 100000; i++) {
		const size_t len = rand_r(&seed) % (sizeof(text) - 1);

		for (size_t k = 0; k < len; k++)
			text[k] = "0123456789abcdef"[rand_r(&seed) % 16];
		memcpy(text, i % 2 ? "4300" : "0100", len < 4 ? len : 4);
		text[len] = '\0';
		if (rvl_nfs_handle_parse(text, &handle) == 0)
			assert_true(rvl_number_is_valid(handle.id.number));
	}
	assert_int_equal(rvl_nfs_handle_parse("", &handle), -EINVAL);
	/* the root has no generation but 0 */
	assert_int_equal(rvl_nfs_handle_parse("000000000100000000000000", &handle), 0);
	assert_int_equal(rvl_nfs_handle_parse("000000000100000001000000", &handle), -EINVAL);
	assert_int_equal(rvl_nfs_handle_parse("0x", &handle), -EINVAL);
	assert_int_equal(rvl_nfs_handle_parse("not hex", &handle), -EINVAL);
}

/* Ganesha keeps 0 for its pseudo root; all of ours fit 16 bits. */
static void test_export_id(void **state)
{
	uint8_t some[16] = {};

	for (unsigned i = 0; i < 70000; i++) {
		unsigned got;

		memcpy(some + 12, &i, sizeof(i));
		got = rvl_nfs_export_id(some);
		assert_in_range(got, 2, 65535);
	}
}

static void test_export_id_given(void **state)
{
	static const char *const bad[] = { "", "abc", "0", "-1", " 7", "7 ", "65536", "1x" };
	unsigned got = 0;

	assert_int_equal(rvl_nfs_export_id_parse("65535", &got), 0);
	assert_int_equal(got, 65535);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(rvl_nfs_export_id_parse(bad[i], &got), -EINVAL);
	assert_int_equal(got, 65535);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_known),
		cmocka_unit_test(test_words),	   cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_export_id),  cmocka_unit_test(test_export_id_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
