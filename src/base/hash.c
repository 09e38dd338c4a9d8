// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hashes. Their results lie on disk (checksums, digests) and are seen by clients (directory
 * offsets), so only functions whose output xxHash keeps for ever are used; the secret is expanded
 * with XXH64 and not with xxHash's own generator, whose output has changed between releases.
 */
#include "base/hash.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"

static_assert(sizeof(((struct rvl_secret *)0)->bytes) >= XXH3_SECRET_SIZE_MIN,
	      "xxHash wants a longer secret");

void rvl_secret_init(struct rvl_secret *secret, const uint8_t key[32])
{
	for (size_t i = 0; i < sizeof(secret->bytes) / 8; i++)
		rvl_put_le64(secret->bytes + i * 8, XXH64(key, 32, i));
}

uint64_t rvl_hash_keyed(const struct rvl_secret *secret, const void *data, size_t len)
{
	return XXH3_64bits_withSecret(data, len, secret->bytes, sizeof(secret->bytes));
}

uint64_t rvl_hash(const void *data, size_t len)
{
	return XXH3_64bits(data, len);
}

uint32_t rvl_checksum(const void *data, size_t len)
{
	return XXH32(data, len, 0);
}

void rvl_digest(const void *data, size_t len, uint8_t ret[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, len));
	memcpy(ret, canonical.digest, 16);
}
