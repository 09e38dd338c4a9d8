// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The record of a directory in the index (overlay.path, .upper, .fh, .place) and the file handles
 * in it: what is read from it is written to the same, and a handle opens nothing or an object.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "index/entry.h"
#include "index/index.h"
#include "layer/path.h"

#include "fuzz.h"

#define NUMBER 0x101

static struct rvl_stack stack;
static struct rvl_index index_;

static void setup(void)
{
	int fs = fuzz_filesystem();

	FUZZ_CHECK(mkdirat(fs, "inodes", 0700) == 0 && mkdirat(fs, "work", 0700) == 0);
	rvl_xattr_names_init(&stack.xattr, false);
	index_ = (struct rvl_index){
		.stack = &stack,
		.inodes_fd = openat(fs, "inodes", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.temp_fd = openat(fs, "work", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.is_writable = true,
	};
	FUZZ_CHECK(index_.inodes_fd >= 0 && index_.temp_fd >= 0);
	FUZZ_CHECK(mkdirat(index_.inodes_fd, "01", 0700) == 0);
	FUZZ_CHECK(mknodat(index_.inodes_fd, "01/#257", S_IFREG, 0) == 0);
}

/* The first byte: is it there at all? */
static void set(enum rvl_xattr which, const uint8_t **data, size_t *size)
{
	const uint8_t *value;
	size_t len = fuzz_piece(data, size, &value);

	(void)rvl_xattr_remove(&stack.xattr, index_.inodes_fd, "01/#257", which);
	if (len)
		FUZZ_CHECK(rvl_xattr_set(&stack.xattr, index_.inodes_fd, "01/#257", which,
					 value + 1, len - 1) == 0);
}

static void try_handle(const struct rvl_handle *handle)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle again;
	struct statx st;
	int fd;

	if (!handle->len)
		return;
	FUZZ_CHECK(rvl_handle_decode(value, (unsigned)rvl_handle_encode(handle, value), &again) ==
		   0);
	FUZZ_CHECK(rvl_handle_equal(handle, &again));
	fd = rvl_handle_open(index_.inodes_fd, handle);
	if (fd >= 0)
		FUZZ_CHECK(rvl_path_statx(fd, "", STATX_TYPE, &st) == 0);
	rvl_close(fd);
}

static int same_at(const struct rvl_name_at *a, const struct rvl_name_at *b)
{
	return a->parent == b->parent && strcmp(a->name, b->name) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rvl_entry_directory dir, again;
	enum rvl_entry_kind kind;
	struct statx st;

	if (!index_.stack)
		setup();
	set(RVL_XATTR_PATH, &data, &size);
	set(RVL_XATTR_UPPER, &data, &size);
	set(RVL_XATTR_FH, &data, &size);
	set(RVL_XATTR_PLACE, &data, &size);
	FUZZ_CHECK(rvl_entry_look(&index_, NUMBER, &kind, &st) == 0);
	if (rvl_entry_get_directory(&index_, NUMBER, &dir) < 0)
		return 0;
	FUZZ_CHECK(kind == RVL_ENTRY_DIRECTORY);
	try_handle(&dir.upper);
	try_handle(&dir.lower);
	FUZZ_CHECK(rvl_entry_put_directory(&index_, NUMBER, &dir, true) == 0);
	FUZZ_CHECK(rvl_entry_get_directory(&index_, NUMBER, &again) == 0);
	FUZZ_CHECK(same_at(&dir.path, &again.path) && dir.is_merged == again.is_merged);
	FUZZ_CHECK(rvl_handle_equal(&dir.upper, &again.upper));
	FUZZ_CHECK(!dir.is_merged || (same_at(&dir.place, &again.place) &&
				      rvl_handle_equal(&dir.lower, &again.lower)));
	return 0;
}
