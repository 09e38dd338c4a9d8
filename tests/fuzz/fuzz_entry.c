// SPDX-License-Identifier: GPL-2.0-or-later
/* Values of private xattrs: stamps, places, file handles, metacopies. What is decoded is encoded to the same. */
#include "index/entry.h"
#include "index/stamp.h"
#include "layer/fetch.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t stamp[RVL_STAMP_SIZE], place[RVL_NAME_AT_ENCODED_MAX],
		value[RVL_HANDLE_ENCODED_MAX], metacopy[RVL_METACOPY_VALUE_MAX];
	struct rvl_handle handle;
	struct rvl_name_at at;
	struct rvl_kept kept;
	struct rvl_id id;

	if (rvl_stamp_decode(data, size, &id) == 0) {
		rvl_stamp_encode(&id, stamp);
		FUZZ_CHECK(memcmp(stamp, data, size) == 0);
	}
	if (rvl_name_at_decode(data, size, &at) == 0) {
		FUZZ_CHECK(rvl_name_at_encode(&at, place) == size);
		FUZZ_CHECK(memcmp(place, data, size) == 0);
	}
	if (rvl_metacopy_decode(data, size, &kept) == RVL_METACOPY_FETCH) {
		FUZZ_CHECK(rvl_fetch_encode(&kept, metacopy) == size);
		FUZZ_CHECK(memcmp(metacopy, data, size) == 0);
	}
	if (size <= RVL_HANDLE_ENCODED_MAX && rvl_handle_decode(data, (unsigned)size, &handle) == 0)
		FUZZ_CHECK(rvl_handle_encode(&handle, value) > 0);
	return 0;
}
