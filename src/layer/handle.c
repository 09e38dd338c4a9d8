// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * File handles in the kernel overlayfs's record (struct ovl_fb):
 *
 *   0 version 0 | 1 magic 0xfb | 2 length of all | 3 flags | 4 type | 5..20 uuid | 21.. fid
 *
 * Records come from xattrs of layers and are not trusted: decode checks every field, and what a
 * decoded handle opens is verified by the caller.
 */
#include "layer/handle.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"

#define FB_VERSION 0
#define FB_MAGIC 0xfb
#define FB_HEADER 21

/* OVL_FH_FLAG_* */
#define FB_FLAG_BIG_ENDIAN 0x01
#define FB_FLAG_ANY_ENDIAN 0x02
#define FB_FLAG_PATH_UPPER 0x04
#define FB_FLAGS_KNOWN (FB_FLAG_BIG_ENDIAN | FB_FLAG_ANY_ENDIAN | FB_FLAG_PATH_UPPER)
#define FB_FLAG_CPU_ENDIAN (__BYTE_ORDER == __BIG_ENDIAN ? FB_FLAG_BIG_ENDIAN : 0)

static_assert(FB_HEADER + RVL_FID_MAX == RVL_HANDLE_ENCODED_MAX, "size of the record");
static_assert(RVL_HANDLE_ENCODED_MAX <= 255, "the length is one byte");

/* struct file_handle with room for the fid. */
union handle_buf {
	struct file_handle h;
	uint8_t bytes[sizeof(struct file_handle) + RVL_FID_MAX];
};

int rvl_handle_get(int dirfd, const char *name, const uint8_t uuid[16], struct rvl_handle *ret)
{
	union handle_buf buf = { .h.handle_bytes = RVL_FID_MAX };
	int mount_id;

	if (name_to_handle_at(dirfd, name, &buf.h, &mount_id, *name ? 0 : AT_EMPTY_PATH) < 0)
		return -errno;
	if (buf.h.handle_type < 0 || buf.h.handle_type > 255 || buf.h.handle_bytes > RVL_FID_MAX)
		return -EOVERFLOW;
	if (buf.h.handle_bytes == 0)
		return -EOPNOTSUPP;
	*ret = (struct rvl_handle){
		.type = (uint8_t)buf.h.handle_type,
		.len = (uint8_t)buf.h.handle_bytes,
	};
	if (uuid)
		memcpy(ret->uuid, uuid, sizeof(ret->uuid));
	memcpy(ret->fid, buf.h.f_handle, buf.h.handle_bytes);
	return 0;
}

void rvl_handle_for_entry(int dirfd, const char *name, struct rvl_handle *ret)
{
	if (rvl_handle_get(dirfd, name, NULL, ret))
		*ret = (struct rvl_handle){ 0 };
}

int rvl_handle_encode(const struct rvl_handle *handle, uint8_t buf[RVL_HANDLE_ENCODED_MAX])
{
	buf[0] = FB_VERSION;
	buf[1] = FB_MAGIC;
	buf[2] = (uint8_t)(FB_HEADER + handle->len);
	buf[3] = FB_FLAG_CPU_ENDIAN;
	buf[4] = handle->type;
	memcpy(buf + 5, handle->uuid, sizeof(handle->uuid));
	memcpy(buf + FB_HEADER, handle->fid, handle->len);
	return FB_HEADER + handle->len;
}

int rvl_handle_encode_upper(const struct rvl_handle *handle, uint8_t buf[RVL_HANDLE_ENCODED_MAX])
{
	int len = rvl_handle_encode(handle, buf);

	buf[3] |= FB_FLAG_PATH_UPPER;
	return len;
}

int rvl_handle_decode(const uint8_t *buf, unsigned len, struct rvl_handle *ret)
{
	unsigned fid_len;

	if (len == 0)
		return -ESTALE;
	if (len < FB_HEADER || buf[1] != FB_MAGIC || buf[2] != len)
		return -EUCLEAN;
	/* ovl_check_fb_len: newer versions, unknown flags and the other endianness are no damage,
	 * they mean that the origin is unknown. */
	if (buf[0] != FB_VERSION || (buf[3] & ~FB_FLAGS_KNOWN))
		return -ESTALE;
	if (!(buf[3] & FB_FLAG_ANY_ENDIAN) && (buf[3] & FB_FLAG_BIG_ENDIAN) != FB_FLAG_CPU_ENDIAN)
		return -ESTALE;
	fid_len = len - FB_HEADER;
	if (fid_len == 0 || fid_len > RVL_FID_MAX)
		return -EUCLEAN;
	*ret = (struct rvl_handle){ .type = buf[4], .len = (uint8_t)fid_len };
	memcpy(ret->uuid, buf + 5, sizeof(ret->uuid));
	memcpy(ret->fid, buf + FB_HEADER, fid_len);
	return 0;
}

int rvl_handle_name_encode(const struct rvl_handle *handle, char ret[RVL_HANDLE_NAME_SIZE])
{
	static const char digits[] = "0123456789abcdef";
	uint8_t buf[RVL_HANDLE_ENCODED_MAX];
	int len = rvl_handle_encode(handle, buf);

	if (2 * len > NAME_MAX)
		return -ENAMETOOLONG;
	for (int i = 0; i < len; i++) {
		ret[2 * i] = digits[buf[i] >> 4];
		ret[2 * i + 1] = digits[buf[i] & 15];
	}
	ret[2 * len] = '\0';
	return 0;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 'a' ^ 'A';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int rvl_handle_name_decode(const char *name, struct rvl_handle *ret)
{
	uint8_t buf[RVL_HANDLE_ENCODED_MAX];
	size_t len = strlen(name);

	if (!len || len % 2 || len / 2 > sizeof(buf))
		return -EUCLEAN;
	for (size_t i = 0; i < len; i++) {
		int n = digit(name[i]);

		if (n < 0)
			return -EUCLEAN;
		buf[i / 2] = (uint8_t)(i % 2 ? buf[i / 2] | n : n << 4);
	}
	return rvl_handle_decode(buf, (unsigned)(len / 2), ret);
}

bool rvl_handle_equal(const struct rvl_handle *a, const struct rvl_handle *b)
{
	return a->type == b->type && a->len == b->len &&
	       memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0 &&
	       memcmp(a->fid, b->fid, a->len) == 0;
}

bool rvl_handle_is_other_life(const struct rvl_handle *a, const struct rvl_handle *b)
{
	/* before the generation: inode number; on btrfs with that of its subvolume */
	const unsigned ino_len = a->type == RVL_FID_INO32_GEN ? 4 :
				 a->type == RVL_FID_INO64_GEN ? 8 :
				 a->type == RVL_FID_BTRFS     ? 16 :
								0;

	return ino_len && a->type == b->type && a->len == ino_len + 4 && b->len == a->len &&
	       memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0 &&
	       memcmp(a->fid, b->fid, ino_len) == 0 && memcmp(a->fid, b->fid, a->len) != 0;
}

int rvl_handle_open(int mount_fd, const struct rvl_handle *handle)
{
	union handle_buf buf = {
		.h.handle_bytes = handle->len,
		.h.handle_type = handle->type,
	};
	_cleanup_close_ int readable_fd = -EBADF;
	int fd;

	if (handle->len == 0 || handle->len > RVL_FID_MAX)
		return -EINVAL;
	memcpy(buf.h.f_handle, handle->fid, handle->len);
	fd = open_by_handle_at(mount_fd, &buf.h, O_PATH | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0)
		return fd;
	if (errno != EBADF)
		return -errno;
	/* An O_PATH descriptor does not stand for its mount here. */
	readable_fd = openat(mount_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (readable_fd < 0)
		return -errno;
	fd = open_by_handle_at(readable_fd, &buf.h, O_PATH | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}
