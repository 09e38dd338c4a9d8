// SPDX-License-Identifier: GPL-2.0-or-later
/* inodes/state. */
#include "index/state.h"

#include <xxhash.h>

#include "base/bytes.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size + 1);
	struct rvl_state *state = NULL;

	if (!bytes || size < 24) {
		free(bytes);
		return 0;
	}
	memcpy(bytes, data, size);
	memcpy(bytes, "RVLSTATE", 8);
	rvl_put_le32(bytes + 20, (uint32_t)size);
	rvl_put_le64(bytes + 8, XXH3_64bits(bytes + 16, size - 16));
	if (rvl_state_decode(bytes, size, &state) == 0)
		rvl_state_free(state);
	state = NULL;
	if (rvl_state_decode(data, size, &state) == 0)
		rvl_state_free(state);
	free(bytes);
	return 0;
}
