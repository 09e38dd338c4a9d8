// SPDX-License-Identifier: GPL-2.0-or-later
/* Rows of the map. */
#include "index/map_private.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rvl_map_row row;

	if (rvl_map_row_decode(data, size, &row) == 0)
		FUZZ_CHECK(strnlen(row.at.name, sizeof(row.at.name)) < sizeof(row.at.name));
	return 0;
}
