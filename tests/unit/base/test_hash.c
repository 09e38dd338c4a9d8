// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hashes: their values are on disk and in clients' directory offsets, so that they are written
 * down here; a change of library or machine that changes them must fail.
 */
#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define KNOWN_HASH UINT64_C(0xe6876f2c07f5d3c6)
#define KNOWN_CHECKSUM UINT32_C(0xc5d95bd6)
#define KNOWN_KEYED UINT64_C(0x1973387b0be21433)
#define KNOWN_DIGEST "37e06e6a1d19edb4b4a6ac3f4f5a28c3"

static void values_never_change(void **state)
{
	static const uint8_t key[32] = "0123456789abcdef0123456789abcdef";
	struct rvl_secret secret;
	uint8_t digest[16];
	char hex[33];

	rvl_secret_init(&secret, key);
	assert_int_equal(rvl_hash("reverlay", 8), KNOWN_HASH);
	assert_int_equal(rvl_checksum("reverlay", 8), KNOWN_CHECKSUM);
	assert_int_equal(rvl_hash_keyed(&secret, "reverlay", 8), KNOWN_KEYED);
	rvl_digest("reverlay", 8, digest);
	for (int i = 0; i < 16; i++)
		sprintf(hex + 2 * i, "%02x", digest[i]);
	assert_string_equal(hex, KNOWN_DIGEST);
}

static void key_matters(void **state)
{
	uint8_t key[32] = { 0 };
	struct rvl_secret a, b;

	rvl_secret_init(&a, key);
	key[31] = 1;
	rvl_secret_init(&b, key);
	/* short and long inputs take different ways through xxHash */
	for (size_t len = 1; len < 300; len += 37) {
		char text[300];

		memset(text, 'x', sizeof(text));
		assert_int_not_equal(rvl_hash_keyed(&a, text, len), rvl_hash_keyed(&b, text, len));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_never_change),
		cmocka_unit_test(key_matters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
