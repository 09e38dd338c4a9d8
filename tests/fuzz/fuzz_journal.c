// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The journal of real objects (inodes/assigned): whatever it holds, an object has one number and a
 * number one object, and what is left of it is read again to the same.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/fsck.h"
#include "index/index.h"
#include "index/map_private.h"
#include "index/real.h"

#include "fuzz.h"

static struct rvl_stack stack;
static struct rvl_index index_ = {
	.stack = &stack, .is_persistent = true, .is_writable = true, .is_volatile = true
};

static void setup(void)
{
	int fs = fuzz_filesystem();

	rvl_log_setup("", RVL_LOG_STDERR, LOG_EMERG);
	FUZZ_CHECK(mkdirat(fs, "inodes", 0700) == 0);
	index_.inodes_fd = openat(fs, "inodes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	FUZZ_CHECK(rvl_state_new(&index_.state) == 0);
	index_.state->flags |= RVL_STATE_HAS_REALS;
	FUZZ_CHECK(rvl_map_open(&index_, &index_.map) == 0);
}

/* The checksums of whole records put right, but for those that the first byte spares. */
static void write_journal(const uint8_t *data, size_t size, unsigned spared)
{
	int fd = openat(index_.inodes_fd, "assigned", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint8_t record[RVL_REAL_RECORD_SIZE];

	FUZZ_CHECK(fd >= 0);
	for (size_t done = 0; done < size; done += sizeof(record)) {
		size_t len = size - done < sizeof(record) ? size - done : sizeof(record);

		memcpy(record, data + done, len);
		if (len == sizeof(record) && done / sizeof(record) != spared)
			rvl_put_le32(record, rvl_checksum(record + 4, sizeof(record) - 4));
		FUZZ_CHECK(write(fd, record, len) == (ssize_t)len);
	}
	close(fd);
}

/* The records that are in force; returns how many bytes the journal has. */
static size_t check_journal(const uint8_t *data, size_t size)
{
	struct stat st;

	FUZZ_CHECK(fstatat(index_.inodes_fd, "assigned", &st, 0) == 0);
	FUZZ_CHECK((size_t)st.st_size <= size && st.st_size % RVL_REAL_RECORD_SIZE == 0);
	for (size_t done = 0; done < (size_t)st.st_size; done += RVL_REAL_RECORD_SIZE) {
		uint8_t record[RVL_REAL_RECORD_SIZE], again[RVL_REAL_RECORD_SIZE];
		struct rvl_real_id real, owner;
		struct rvl_id id, found;

		memcpy(record, data + done, sizeof(record));
		rvl_put_le32(record, rvl_checksum(record + 4, sizeof(record) - 4));
		FUZZ_CHECK(rvl_real_record_decode(record, sizeof(record), &real, &id) == 0);
		rvl_real_record_encode(&real, &id, again);
		FUZZ_CHECK(memcmp(record, again, sizeof(record)) == 0);
		/* it holds, or one before it that has one of the two */
		FUZZ_CHECK(rvl_real_number(&index_, &real, &found) == 0 ||
			   rvl_real_owner(&index_, id.number, &owner) == 0);
		if (rvl_real_number(&index_, &real, &found) == 0) {
			FUZZ_CHECK(rvl_real_owner(&index_, found.number, &owner) == 0);
			FUZZ_CHECK(owner.ino == real.ino && owner.instance == real.instance);
		}
	}
	return (size_t)st.st_size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t len;

	if (!index_.state)
		setup();
	if (!size)
		return 0;
	write_journal(data + 1, size - 1, data[0]);
	FUZZ_CHECK(rvl_reals_open(&index_, &index_.reals) == 0);
	len = check_journal(data + 1, size - 1);
	rvl_reals_free(index_.reals);
	/* cut where it was damaged: the rest is as it was */
	FUZZ_CHECK(rvl_reals_open(&index_, &index_.reals) == 0);
	FUZZ_CHECK(check_journal(data + 1, size - 1) == len);
	rvl_reals_free(index_.reals);
	index_.reals = NULL;
	return 0;
}
