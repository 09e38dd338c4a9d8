// SPDX-License-Identifier: GPL-2.0-or-later
/* The instance table on the root of an upper. */
#include "index/table.h"

#include "base/bytes.h"
#include "base/hash.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t bytes[2 * RVL_TABLE_MAX_BYTES], again[RVL_TABLE_MAX_BYTES];
	struct rvl_table table;

	if (size > sizeof(bytes) || size < 8)
		return 0;
	memcpy(bytes, data, size);
	memcpy(bytes, "RVLI", 4);
	rvl_put_le32(bytes + 4, rvl_checksum(bytes + 8, size - 8));
	if (rvl_table_decode(bytes, size, &table) == 0)
		FUZZ_CHECK(rvl_table_encode(&table, again) <= RVL_TABLE_MAX_BYTES);
	(void)rvl_table_decode(data, size, &table);
	return 0;
}
