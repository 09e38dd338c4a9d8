// SPDX-License-Identifier: GPL-2.0-or-later
/* Records of the log. */
#include "base/bytes.h"
#include "base/hash.h"
#include "index/log.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t bytes[RVL_LOG_RECORD_MAX + 8], again[RVL_LOG_RECORD_MAX];
	struct rvl_log_record record = {};
	enum rvl_log_kind kind;
	uint64_t id;
	int n;

	if (size > RVL_LOG_RECORD_MAX || size < 8)
		return 0;
	memcpy(bytes, data, size);
	rvl_put_le32(bytes, (uint32_t)size);
	rvl_put_le32(bytes + 4, rvl_checksum(bytes + 8, size - 8));
	n = rvl_log_record_decode(bytes, size, &kind, &id, &record);
	if (n > 0) {
		FUZZ_CHECK((size_t)n == size);
		FUZZ_CHECK(rvl_log_record_encode(kind, id, &record, again) > 0);
	}
	/* as it is: the checksum is wrong, or the length */
	(void)rvl_log_record_decode(data, size, &kind, &id, &record);
	return 0;
}
