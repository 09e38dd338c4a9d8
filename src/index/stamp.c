// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stamps, and the private xattrs of upper objects wherever they are.
 *
 * An attribute is on the inode or on its companion. The inode is asked first, so the inode's value
 * wins while one is moved: to the companion it is written there before the inode's goes; to the
 * inode, the other way round.
 */
#include "index/stamp.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "index/companion.h"

struct disk_stamp {
	uint64_t number;
	uint32_t generation;
} __attribute__((packed));
static_assert(sizeof(struct disk_stamp) == RVL_STAMP_SIZE, "disk_stamp");

void rvl_stamp_encode(const struct rvl_id *id, uint8_t buf[RVL_STAMP_SIZE])
{
	struct disk_stamp disk = { .number = htole64(id->number),
				   .generation = htole32(id->generation) };

	memcpy(buf, &disk, sizeof(disk));
}

int rvl_stamp_decode(const void *buf, size_t len, struct rvl_id *ret)
{
	struct disk_stamp disk;

	if (len != sizeof(disk))
		return -EUCLEAN;
	memcpy(&disk, buf, sizeof(disk));
	if (!rvl_number_is_valid(le64toh(disk.number)))
		return -EUCLEAN;
	ret->number = le64toh(disk.number);
	ret->generation = le32toh(disk.generation);
	return 0;
}

/* Can the inode not carry it: the type of the object, or no room? */
static bool needs_companion(int r, mode_t type)
{
	bool is_special = !S_ISREG(type) && !S_ISDIR(type);

	return r == -ENOSPC || r == -E2BIG || r == -EDQUOT ||
	       (is_special && (r == -EPERM || r == -EACCES || r == -EOPNOTSUPP || r == -EINVAL));
}

ssize_t rvl_upper_xattr_get(struct rvl_index *index, int dirfd, const char *name, mode_t type,
			    uint64_t real_ino, enum rvl_xattr which, void *buf, size_t size)
{
	const struct rvl_xattr_names *names = &index->stack->xattr;
	char companion[RVL_COMPANION_NAME_SIZE];
	ssize_t n = rvl_xattr_get(names, dirfd, name, which, buf, size);
	int r;

	if (n >= 0 || !rvl_companions_exist(index) || !real_ino)
		return n;
	if (n != -ENODATA && n != -EPERM && n != -EACCES)
		return n;
	r = rvl_companion_find(index, dirfd, name, real_ino, false, companion);
	return r ? r : rvl_xattr_get(names, index->companions_fd, companion, which, buf, size);
}

static int set_on_companion(struct rvl_index *index, int dirfd, const char *name, uint64_t real_ino,
			    enum rvl_xattr which, const void *buf, size_t size)
{
	const struct rvl_xattr_names *names = &index->stack->xattr;
	char companion[RVL_COMPANION_NAME_SIZE];
	int r = rvl_companion_find(index, dirfd, name, real_ino, true, companion);

	r = r ?: rvl_xattr_set(names, index->companions_fd, companion, which, buf, size);
	if (r)
		return r;
	r = rvl_xattr_remove(names, dirfd, name, which);
	return r == -ENODATA || r == -EPERM || r == -EACCES || r == -EOPNOTSUPP ? 0 : r;
}

int rvl_upper_xattr_set(struct rvl_index *index, int dirfd, const char *name, mode_t type,
			uint64_t real_ino, enum rvl_xattr which, const void *buf, size_t size)
{
	const struct rvl_xattr_names *names = &index->stack->xattr;
	char companion[RVL_COMPANION_NAME_SIZE];
	int r = rvl_xattr_set(names, dirfd, name, which, buf, size);

	if (r && real_ino && index->is_writable && needs_companion(r, type))
		return set_on_companion(index, dirfd, name, real_ino, which, buf, size) ? r : 0;
	if (r || !rvl_companions_exist(index) || !real_ino)
		return r;
	r = rvl_companion_find(index, dirfd, name, real_ino, false, companion);
	r = r ?: rvl_xattr_remove(names, index->companions_fd, companion, which);
	return r == -ENODATA ? 0 : r;
}

int rvl_upper_xattr_remove(struct rvl_index *index, int dirfd, const char *name, mode_t type,
			   uint64_t real_ino, enum rvl_xattr which)
{
	const struct rvl_xattr_names *names = &index->stack->xattr;
	char companion[RVL_COMPANION_NAME_SIZE];
	int on_companion = -ENODATA, r;

	/* The companion's first: else it would show for a moment. */
	if (rvl_companions_exist(index) && real_ino) {
		on_companion = rvl_companion_find(index, dirfd, name, real_ino, false, companion);
		if (!on_companion)
			on_companion =
				rvl_xattr_remove(names, index->companions_fd, companion, which);
		if (on_companion && on_companion != -ENODATA)
			return on_companion;
	}
	r = rvl_xattr_remove(names, dirfd, name, which);
	if (!on_companion && (r == -ENODATA || r == -EPERM || r == -EACCES || r == -EOPNOTSUPP))
		return 0;
	return r;
}

int rvl_stamp_get(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		  uint64_t real_ino, struct rvl_id *ret)
{
	uint8_t buf[RVL_STAMP_SIZE];
	ssize_t n = rvl_upper_xattr_get(index, dirfd, name, type, real_ino, RVL_XATTR_INO, buf,
					sizeof(buf));

	if (n == -ERANGE)
		return -EUCLEAN;
	return n < 0 ? (int)n : rvl_stamp_decode(buf, (size_t)n, ret);
}

int rvl_stamp_set(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		  uint64_t real_ino, const struct rvl_id *id)
{
	uint8_t buf[RVL_STAMP_SIZE];

	rvl_stamp_encode(id, buf);
	return rvl_upper_xattr_set(index, dirfd, name, type, real_ino, RVL_XATTR_INO, buf,
				   sizeof(buf));
}
