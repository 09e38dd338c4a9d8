/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hashes: the one place that includes xxHash. None of them is a defence by itself; where names
 * come from strangers the secret of the overlay's state is the key. */
#ifndef RVL_BASE_HASH_H
#define RVL_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct rvl_secret {
	uint8_t bytes[192]; /* XXH3_SECRET_DEFAULT_SIZE */
};

/* Expand a 32-byte key from the state into the secret. */
void rvl_secret_init(struct rvl_secret *secret, const uint8_t key[32]);
/* Keyed hash of a name or of other bytes. */
uint64_t rvl_hash_keyed(const struct rvl_secret *secret, const void *data, size_t len);
/* Hash without a key, the same on every machine: digests and checksums of records on disk. */
uint64_t rvl_hash(const void *data, size_t len);
uint32_t rvl_checksum(const void *data, size_t len);
/* 128-bit digest, as bytes in canonical (big-endian) order. */
void rvl_digest(const void *data, size_t len, uint8_t ret[16]);

#endif
