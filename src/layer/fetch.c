// SPDX-License-Identifier: GPL-2.0-or-later
/* Data of a metacopy file, see fetch.h. */
#include "layer/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "layer/path.h"

/* struct ovl_metacopy (fs/overlayfs/overlayfs.h): version, len, flags, digest_algo, digest[] */
enum {
	AT_VERSION = 0,
	AT_LEN = 1,
	AT_FLAGS = 2,
	AT_ALGORITHM = 3,
	/* instead of a digest, of a fetch: */
	AT_MODE = 4,
	AT_ATIME = 6,
	AT_MTIME = 18,
	AT_SIZE = 30,
	AT_CAPABILITY = 38,
};
#define NSEC_END 1000000000U

static void put_time(uint8_t *p, const struct statx_timestamp *time)
{
	rvl_put_le64(p, (uint64_t)time->tv_sec);
	rvl_put_le32(p + 8, time->tv_nsec);
}

static bool get_time(const uint8_t *p, struct statx_timestamp *ret)
{
	ret->tv_sec = (int64_t)rvl_get_le64(p);
	ret->tv_nsec = rvl_get_le32(p + 8);
	return ret->tv_nsec < NSEC_END;
}

size_t rvl_metacopy_encode(const struct rvl_kept *kept, uint8_t ret[RVL_METACOPY_VALUE_MAX])
{
	const size_t capability_len = kept->capability_len > 0 ? (size_t)kept->capability_len : 0;
	const size_t len = AT_CAPABILITY + capability_len;

	if (len > RVL_METACOPY_VALUE_MAX)
		return 0;
	memset(ret, 0, AT_MODE);
	ret[AT_LEN] = (uint8_t)len;
	rvl_put_le16(ret + AT_MODE, kept->st.stx_mode & 07777);
	put_time(ret + AT_ATIME, &kept->st.stx_atime);
	put_time(ret + AT_MTIME, &kept->st.stx_mtime);
	rvl_put_le64(ret + AT_SIZE, kept->st.stx_size);
	memcpy(ret + AT_CAPABILITY, kept->capability, capability_len);
	return len;
}

int rvl_metacopy_decode(const void *value, size_t len, struct rvl_kept *ret_kept)
{
	struct rvl_kept kept = { 0 };
	const uint8_t *p = value;

	if (len == 0)
		return RVL_METACOPY_PLAIN;
	if (len < RVL_METACOPY_VALUE_MIN || len > RVL_METACOPY_VALUE_MAX || p[AT_VERSION] ||
	    p[AT_LEN] != len)
		return -EUCLEAN;
	if (p[AT_ALGORITHM])
		return RVL_METACOPY_DIGEST;
	if (len == RVL_METACOPY_VALUE_MIN)
		return RVL_METACOPY_PLAIN;
	if (len < AT_CAPABILITY || p[AT_FLAGS])
		return -EUCLEAN;
	kept.st.stx_mode = rvl_get_le16(p + AT_MODE);
	kept.st.stx_size = rvl_get_le64(p + AT_SIZE);
	kept.capability_len = (ssize_t)len - AT_CAPABILITY;
	memcpy(kept.capability, p + AT_CAPABILITY, len - AT_CAPABILITY);
	if (!get_time(p + AT_ATIME, &kept.st.stx_atime) ||
	    !get_time(p + AT_MTIME, &kept.st.stx_mtime) || kept.st.stx_mode & ~07777 ||
	    kept.st.stx_size > INT64_MAX)
		return -EUCLEAN;
	if (ret_kept)
		*ret_kept = kept;
	return RVL_METACOPY_FETCH;
}

/* As rvl_metacopy_decode. */
static int read_value(const struct rvl_xattr_names *names, int dirfd, const char *name,
		      struct rvl_kept *ret_kept)
{
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	ssize_t n = rvl_xattr_get(names, dirfd, name, RVL_XATTR_METACOPY, value, sizeof(value));

	if (n < 0)
		return n == -ENODATA ? RVL_METACOPY_NONE : n == -ERANGE ? -EUCLEAN : (int)n;
	return rvl_metacopy_decode(value, (size_t)n, ret_kept);
}

int rvl_fetch_begin(const struct rvl_xattr_names *names, int fd, struct rvl_kept *ret_kept)
{
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	size_t len;
	int r = rvl_kept_get(fd, ret_kept);

	if (r || names->is_user)
		return r;
	r = read_value(names, fd, "", ret_kept);
	if (r != RVL_METACOPY_PLAIN)
		return r < 0 && r != -EUCLEAN ? r : 0;
	len = rvl_metacopy_encode(ret_kept, value);
	return len ? rvl_xattr_set(names, fd, "", RVL_XATTR_METACOPY, value, len) : 0;
}

int rvl_fetch_end(const struct rvl_xattr_names *names, int fd, const struct rvl_kept *kept)
{
	int r = rvl_kept_restore(fd, kept);

	if (!r)
		r = rvl_xattr_remove(names, fd, "", RVL_XATTR_METACOPY);
	if (r && r != -ENODATA)
		return r;
	(void)rvl_xattr_remove(names, fd, "", RVL_XATTR_REDIRECT); /* it means nothing now */
	return 0;
}

int rvl_fetch_undo(const struct rvl_xattr_names *names, int fd, const struct rvl_kept *kept)
{
	int r;

	/* without data of its own, and without the room for them */
	if (ftruncate(fd, 0) || ftruncate(fd, (off_t)kept->st.stx_size))
		return -errno;
	r = rvl_kept_restore(fd, kept);
	if (!r && !names->is_user)
		r = read_value(names, fd, "", NULL);
	return r == RVL_METACOPY_FETCH ?
		       rvl_xattr_set(names, fd, "", RVL_XATTR_METACOPY, NULL, 0) :
		       r < 0 ? r : 0;
}

int rvl_fetch_recover(const struct rvl_xattr_names *names, int dirfd, const char *name)
{
	_cleanup_close_ int fd = -EBADF;
	struct rvl_kept kept;
	int r;

	if (names->is_user)
		return 0;
	fd = rvl_path_open(dirfd, name, O_RDWR, 0);
	if (fd < 0)
		return fd;
	r = read_value(names, fd, "", &kept);
	return r == RVL_METACOPY_FETCH ? rvl_fetch_undo(names, fd, &kept) : r < 0 ? r : 0;
}
