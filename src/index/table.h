/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The instance table: what the stamps of an upper mean, kept on its root (overlay.instances) so
 * that it travels with them. At most 2 KiB; what does not fit is left out, and the stamps of an
 * instance that is left out mean "instance n of overlay <uuid>": unique, but not to be recognised
 * as a filesystem.
 */
#ifndef RVL_INDEX_TABLE_H
#define RVL_INDEX_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RVL_TABLE_VERSION 1
#define RVL_TABLE_MAX_BYTES 2048
#define RVL_TABLE_ROWS_MAX 112

struct rvl_table_row {
	uint16_t id;
	uint8_t digest[16];
};

struct rvl_table {
	uint8_t uuid[16]; /* of the overlay */
	bool is_truncated;
	unsigned n;
	struct rvl_table_row rows[RVL_TABLE_ROWS_MAX];
};

/* One encode (returns the length), one decode function. decode: -EUCLEAN, -EPROTONOSUPPORT. */
unsigned rvl_table_encode(const struct rvl_table *table, uint8_t buf[RVL_TABLE_MAX_BYTES]);
int rvl_table_decode(const void *buf, size_t len, struct rvl_table *ret);

/* What an id of the table means: its digest, or one made of uuid and id. */
void rvl_table_digest(const struct rvl_table *table, uint16_t id, uint8_t ret[16]);
/* The digest of instance `id` of overlay `uuid`, for instances that are no filesystem's. */
void rvl_table_own_digest(const uint8_t uuid[16], uint16_t id, uint8_t ret[16]);

#endif
