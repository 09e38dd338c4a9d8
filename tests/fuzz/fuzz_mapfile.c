// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * inodes/map.mdb and map.seal: a sound file with changes, with a seal that is a sound one's, made up,
 * or gone. What is opened can be read to its end without a crash.
 *
 * An input is the form of the seal, then changes: where (4 bytes), their piece; a change of no
 * bytes cuts the file off there.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/fsck.h"
#include "index/index.h"
#include "index/map_private.h"

#include "fuzz.h"

#define ROWS 600
#define SEAL_SIZE 32

static struct rvl_stack stack;
static struct rvl_index index_ = { .stack = &stack, .is_persistent = true, .is_volatile = true };
static uint8_t *whole, *bytes, seal[SEAL_SIZE];
static size_t whole_len;

static int open_map(bool is_writable)
{
	index_.is_writable = is_writable;
	FUZZ_CHECK(rvl_map_open(&index_, &index_.map) == 0);
	return rvl_map_ensure(&index_, is_writable);
}

static void close_map(void)
{
	rvl_map_free(index_.map);
	index_.map = NULL;
}

static void write_file(const char *name, const void *data, size_t len)
{
	int fd = openat(index_.inodes_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	FUZZ_CHECK(fd >= 0 && write(fd, data, len) == (ssize_t)len);
	close(fd);
}

static size_t read_file(const char *name, void *data, size_t size)
{
	int fd = openat(index_.inodes_fd, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, data, size);

	FUZZ_CHECK(n > 0);
	close(fd);
	return (size_t)n;
}

static void setup(void)
{
	struct stat st;
	int fs = fuzz_filesystem();

	rvl_log_setup("", RVL_LOG_STDERR, LOG_EMERG);
	FUZZ_CHECK(mkdirat(fs, "inodes", 0700) == 0);
	index_.inodes_fd = openat(fs, "inodes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	FUZZ_CHECK(rvl_state_new(&index_.state) == 0 && open_map(true) == 0);
	memcpy(index_.uuid, index_.state->uuid, sizeof(index_.uuid));
	/* one name for most numbers, a page of them for one, a tree of them for another */
	close_map();
	FUZZ_CHECK(unlinkat(index_.inodes_fd, "map.mdb", 0) == 0 && open_map(true) == 0);
	for (unsigned i = 0; i < ROWS; i++) {
		struct rvl_map_row row = { .generation = i, .type = 8, .at.parent = 1 + i % 7 };

		snprintf(row.at.name, sizeof(row.at.name), "name-%u-%0*u", i, (int)(i % 100), i);
		FUZZ_CHECK(rvl_map_put(&index_, i % 3 ? 1000 + i : 10 + i % 2, &row) == 0);
	}
	FUZZ_CHECK(rvl_map_flush(&index_) == 0 && rvl_map_seal(&index_) == 0);
	close_map();
	FUZZ_CHECK(fstatat(index_.inodes_fd, "map.mdb", &st, 0) == 0);
	whole_len = (size_t)st.st_size;
	whole = malloc(whole_len);
	bytes = malloc(whole_len);
	FUZZ_CHECK(whole && bytes);
	FUZZ_CHECK(read_file("map.mdb", whole, whole_len) == whole_len);
	FUZZ_CHECK(read_file("map.seal", seal, SEAL_SIZE) == SEAL_SIZE);
}

static size_t change(const uint8_t *data, size_t size)
{
	size_t len = whole_len;

	memcpy(bytes, whole, whole_len);
	while (size > 4) {
		size_t where = rvl_get_le32(data) % whole_len, n;
		const uint8_t *piece;

		data += 4;
		size -= 4;
		n = fuzz_piece(&data, &size, &piece);
		if (n > whole_len - where)
			n = whole_len - where;
		memcpy(bytes + where, piece, n);
		if (n == 0)
			len = where;
	}
	return len;
}

/* Of a file that it does not fit: then that is damaged. Sound seals of damaged files are made by
 * nobody, and are believed. */
static void put_seal(uint8_t form, const uint8_t *data, size_t size)
{
	uint8_t made[SEAL_SIZE] = {};

	(void)unlinkat(index_.inodes_fd, "map.seal", 0);
	if (form % 4 == 1)
		write_file("map.seal", seal, SEAL_SIZE);
	memcpy(made, data, size < SEAL_SIZE ? size : SEAL_SIZE);
	if (form % 4 == 3) {
		memcpy(made, "RVLSEAL", 8);
		rvl_put_le64(made + 24, rvl_hash(made, 24));
	}
	if (form % 4 >= 2)
		write_file("map.seal", made, SEAL_SIZE - form / 4 % SEAL_SIZE);
}

static int read_row(void *arg, uint64_t number, const struct rvl_map_row *row)
{
	unsigned *n = arg;

	FUZZ_CHECK(rvl_number_is_valid(number));
	FUZZ_CHECK(strnlen(row->at.name, sizeof(row->at.name)) < sizeof(row->at.name));
	(*n)++;
	return 0;
}

static int read_name(void *arg, const struct rvl_map_row *row)
{
	return read_row(arg, RVL_NUMBER_ROOT, row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned n = 0;

	if (!whole)
		setup();
	if (!size)
		return 0;
	write_file("map.mdb", bytes, change(data + 1, size - 1));
	put_seal(data[0], data + 1, size - 1);
	if (open_map(false) == 0) {
		(void)rvl_map_scan(&index_, read_row, &n);
		FUZZ_CHECK(!index_.map->below || n > 0 || memcmp(bytes, whole, whole_len) != 0);
		(void)rvl_map_get(&index_, 10, read_name, &n);
		(void)rvl_map_get(&index_, 1001, read_name, &n);
	}
	close_map();
	return 0;
}
