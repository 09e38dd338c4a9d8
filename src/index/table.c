// SPDX-License-Identifier: GPL-2.0-or-later
/* The record of the instance table. Who writes and who reads it: bind.c. */
#include "index/table.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "index/number.h"

#define TABLE_MAGIC "RVLI"
#define TABLE_TRUNCATED 1

struct disk_table {
	uint8_t magic[4];
	uint32_t checksum; /* of all that follows */
	uint8_t version;
	uint8_t flags;
	uint16_t n;
	uint32_t zero;
	uint8_t uuid[16];
};
static_assert(sizeof(struct disk_table) == 32, "disk_table");

struct disk_row {
	uint16_t id;
	uint8_t digest[16];
};
static_assert(sizeof(struct disk_row) == 18, "disk_row");
static_assert(sizeof(struct disk_table) + RVL_TABLE_ROWS_MAX * sizeof(struct disk_row) <=
		      RVL_TABLE_MAX_BYTES,
	      "RVL_TABLE_ROWS_MAX");

unsigned rvl_table_encode(const struct rvl_table *table, uint8_t buf[RVL_TABLE_MAX_BYTES])
{
	struct disk_table disk = {
		.version = RVL_TABLE_VERSION,
		.flags = table->is_truncated ? TABLE_TRUNCATED : 0,
		.n = htole16((uint16_t)table->n),
	};
	unsigned len = sizeof(disk);

	memcpy(disk.magic, TABLE_MAGIC, sizeof(disk.magic));
	memcpy(disk.uuid, table->uuid, sizeof(disk.uuid));
	memcpy(buf, &disk, sizeof(disk));
	for (unsigned i = 0; i < table->n; i++) {
		struct disk_row row = { .id = htole16(table->rows[i].id) };

		memcpy(row.digest, table->rows[i].digest, sizeof(row.digest));
		memcpy(buf + len, &row, sizeof(row));
		len += sizeof(row);
	}
	rvl_put_le32(buf + 4, rvl_checksum(buf + 8, len - 8));
	return len;
}

int rvl_table_decode(const void *buf, size_t len, struct rvl_table *ret)
{
	const uint8_t *bytes = buf;
	struct disk_table disk;

	if (len < sizeof(disk) || len > RVL_TABLE_MAX_BYTES)
		return -EUCLEAN;
	memcpy(&disk, bytes, sizeof(disk));
	if (memcmp(disk.magic, TABLE_MAGIC, sizeof(disk.magic)) ||
	    le32toh(disk.checksum) != rvl_checksum(bytes + 8, len - 8) || !disk.version)
		return -EUCLEAN;
	if (disk.version > RVL_TABLE_VERSION)
		return -EPROTONOSUPPORT;
	if (le16toh(disk.n) > RVL_TABLE_ROWS_MAX ||
	    len != sizeof(disk) + le16toh(disk.n) * sizeof(struct disk_row))
		return -EUCLEAN;
	*ret = (struct rvl_table){ .is_truncated = disk.flags & TABLE_TRUNCATED };
	memcpy(ret->uuid, disk.uuid, sizeof(ret->uuid));
	for (unsigned i = 0; i < le16toh(disk.n); i++) {
		struct disk_row row;

		memcpy(&row, bytes + sizeof(disk) + i * sizeof(row), sizeof(row));
		if (le16toh(row.id) > RVL_INSTANCE_MAX)
			return -EUCLEAN;
		for (unsigned j = 0; j < i; j++)
			if (ret->rows[j].id == le16toh(row.id))
				return -EUCLEAN;
		ret->rows[i].id = le16toh(row.id);
		memcpy(ret->rows[i].digest, row.digest, sizeof(row.digest));
		ret->n++;
	}
	return 0;
}

void rvl_table_own_digest(const uint8_t uuid[16], uint16_t id, uint8_t ret[16])
{
	uint8_t buf[16 + 2 + 8] = { 0 };

	memcpy(buf, uuid, 16);
	rvl_put_le16(buf + 16, id);
	memcpy(buf + 18, "reverlay", 8);
	rvl_digest(buf, sizeof(buf), ret);
}

void rvl_table_digest(const struct rvl_table *table, uint16_t id, uint8_t ret[16])
{
	for (unsigned i = 0; i < table->n; i++) {
		if (table->rows[i].id == id) {
			memcpy(ret, table->rows[i].digest, 16);
			return;
		}
	}
	rvl_table_own_digest(table->uuid, id, ret);
}
