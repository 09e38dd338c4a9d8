// SPDX-License-Identifier: GPL-2.0-or-later
/* Data of a metacopy file, see fetch.h. */
#include "layer/fetch.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

/* struct ovl_metacopy (fs/overlayfs/overlayfs.h): version, len, flags, digest_algo, digest[] */
enum {
	AT_VERSION = 0,
	AT_LEN = 1,
	AT_FLAGS = 2,
	AT_ALGORITHM = 3,
	/* instead of a digest, of a fetch: */
	AT_MODE = 4,
	AT_UID = 6,
	AT_GID = 10,
	AT_MTIME = 14,
	AT_SIZE = 26,
	AT_CAPABILITY = 34,
};
#define NSEC_END 1000000000U

size_t rvl_fetch_encode(const struct rvl_kept *kept, uint8_t ret[RVL_METACOPY_VALUE_MAX])
{
	const size_t capability_len = kept->capability_len > 0 ? (size_t)kept->capability_len : 0;
	const size_t len = AT_CAPABILITY + capability_len;

	if (len > RVL_METACOPY_VALUE_MAX)
		return 0;
	memset(ret, 0, AT_MODE);
	ret[AT_LEN] = (uint8_t)len;
	rvl_put_le16(ret + AT_MODE, kept->st.stx_mode & 07777);
	rvl_put_le32(ret + AT_UID, kept->st.stx_uid);
	rvl_put_le32(ret + AT_GID, kept->st.stx_gid);
	rvl_put_le64(ret + AT_MTIME, (uint64_t)kept->st.stx_mtime.tv_sec);
	rvl_put_le32(ret + AT_MTIME + 8, kept->st.stx_mtime.tv_nsec);
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
	kept.st.stx_uid = rvl_get_le32(p + AT_UID);
	kept.st.stx_gid = rvl_get_le32(p + AT_GID);
	kept.st.stx_mtime.tv_sec = (int64_t)rvl_get_le64(p + AT_MTIME);
	kept.st.stx_mtime.tv_nsec = rvl_get_le32(p + AT_MTIME + 8);
	kept.st.stx_size = rvl_get_le64(p + AT_SIZE);
	kept.capability_len = (ssize_t)len - AT_CAPABILITY;
	memcpy(kept.capability, p + AT_CAPABILITY, len - AT_CAPABILITY);
	if (kept.st.stx_mtime.tv_nsec >= NSEC_END || kept.st.stx_mode & ~07777 ||
	    kept.st.stx_size > INT64_MAX)
		return -EUCLEAN;
	if (ret_kept)
		*ret_kept = kept;
	return RVL_METACOPY_FETCH;
}

/* As rvl_metacopy_decode. */
static int read_value(const struct rvl_xattr_names *names, int fd, struct rvl_kept *ret_kept)
{
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	ssize_t n = rvl_xattr_get(names, fd, "", RVL_XATTR_METACOPY, value, sizeof(value));

	if (n < 0)
		return n == -ENODATA ? RVL_METACOPY_NONE : n == -ERANGE ? -EUCLEAN : (int)n;
	return rvl_metacopy_decode(value, (size_t)n, ret_kept);
}

static int set_plain(const struct rvl_xattr_names *names, int fd)
{
	return rvl_xattr_set(names, fd, "", RVL_XATTR_METACOPY, NULL, 0);
}

int rvl_fetch_begin(const struct rvl_xattr_names *names, int fd, struct rvl_kept *ret_kept)
{
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	int r = rvl_kept_get(fd, ret_kept);
	size_t len;

	if (r || names->is_user)
		return r;
	r = read_value(names, fd, NULL);
	len = r == RVL_METACOPY_PLAIN ? rvl_fetch_encode(ret_kept, value) : 0;
	if (!len)
		return r < 0 && r != -EUCLEAN ? r : 0;
	r = rvl_xattr_set(names, fd, "", RVL_XATTR_METACOPY, value, len);
	return r == -ENOSPC || r == -EDQUOT || r == -E2BIG || r == -ERANGE ? 0 : r;
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
	int kind = read_value(names, fd, NULL), error, r = 0;

	/* the removal failed, and was done all the same: a hole must not count as data */
	if (kind == RVL_METACOPY_NONE)
		r = set_plain(names, fd);
	if (r)
		return r;
	/* without data of its own, and without the room for them */
	if (ftruncate(fd, 0) || ftruncate(fd, (off_t)kept->st.stx_size))
		r = -errno;
	error = rvl_kept_restore(fd, kept);
	r = r ?: error;
	error = kind == RVL_METACOPY_FETCH && !names->is_user ? set_plain(names, fd) : 0;
	return r ?: error;
}

/* ---- one that was cut short ---- */

/* Is it still the file that had the setuid, setgid and capability? */
static bool is_same(const struct rvl_kept *now, const struct rvl_kept *kept)
{
	const mode_t others = 07777 & ~(S_ISUID | S_ISGID);

	return now->st.stx_uid == kept->st.stx_uid && now->st.stx_gid == kept->st.stx_gid &&
	       (now->st.stx_mode & others) == (kept->st.stx_mode & others);
}

static int put_back(int fd, const struct rvl_kept *kept)
{
	const struct timespec times[2] = {
		{ .tv_nsec = UTIME_OMIT },
		{ kept->st.stx_mtime.tv_sec, kept->st.stx_mtime.tv_nsec },
	};
	struct rvl_kept now;
	int r = rvl_kept_get(fd, &now);

	if (!r && now.st.stx_size != kept->st.stx_size) {
		r = ftruncate(fd, (off_t)kept->st.stx_size) ? -errno : 0;
		r = r ?: rvl_kept_get(fd, &now); /* it may have taken them now */
	}
	if (r)
		return r;
	if (is_same(&now, kept) && (now.st.stx_mode & 07777) != kept->st.stx_mode &&
	    fchmod(fd, kept->st.stx_mode))
		r = -errno;
	if (is_same(&now, kept) && now.capability_len < 0 && kept->capability_len > 0) {
		int error = rvl_xattrat_set(fd, "", RVL_CAPABILITY_NAME, kept->capability,
					    (size_t)kept->capability_len, 0);

		r = r ?: error;
	}
	if (futimens(fd, times))
		r = r ?: -errno;
	return r;
}

int rvl_fetch_recover(const struct rvl_xattr_names *names, int fd)
{
	struct rvl_kept kept;
	int error, r = names->is_user ? 0 : read_value(names, fd, &kept);

	if (r != RVL_METACOPY_FETCH)
		return r < 0 ? r : 0;
	r = put_back(fd, &kept);
	/* in any case: later it would take back what has been changed since */
	error = set_plain(names, fd);
	return r ?: error;
}
