// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The uuid of a filesystem: what the kernel says, else what libblkid finds on the device, which
 * needs the right to read it. Absence, and a right that is missing, are answers; an error that may
 * pass is an error, for the identity would be another one without it.
 */
#include "layer/identity_private.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/hash.h"

/* linux/fs.h since 6.9 */
struct fs_uuid {
	uint8_t len;
	uint8_t uuid[16];
};
#define IOC_GET_FS_UUID _IOR(0x15, 0, struct fs_uuid)

bool rvl_identity_is_refusal(int r)
{
	switch (r) {
	case -EACCES:
	case -EPERM:
	case -ENOENT:
	case -ENOTTY:
	case -EOPNOTSUPP:
	case -ENOSYS:
	case -EINVAL:
	case -ENODEV:
	case -ENXIO:
	case -ENOTDIR:
	case -ENOMEDIUM:
	case -EOVERFLOW:
	case -EBADF: /* an O_PATH descriptor has no ioctls */
		return true;
	}
	return false;
}

static bool is_zero(const uint8_t uuid[16])
{
	static const uint8_t zero[16];

	return memcmp(uuid, zero, sizeof(zero)) == 0;
}

/* "0b5a…-…" to 16 bytes. False where the text is not of that form (FAT, ISO 9660). */
static bool parse_uuid(const char *text, uint8_t ret[16])
{
	unsigned n = 0;

	while (n < 16) {
		unsigned byte;
		int used = 0;

		if (*text == '-')
			text++;
		if (sscanf(text, "%2x%n", &byte, &used) != 1 || used != 2)
			return false;
		ret[n++] = (uint8_t)byte;
		text += 2;
	}
	return *text == '\0';
}

/* What the kernel calls a device: its path below /dev. */
static int device_name(uint64_t dev, char ret[NAME_MAX])
{
	char path[64], line[NAME_MAX];
	FILE *uevent;
	int r = -ENOENT;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/uevent", major(dev), minor(dev));
	uevent = fopen(path, "re");
	if (!uevent)
		return -errno;
	while (r < 0 && fgets(line, sizeof(line), uevent))
		if (sscanf(line, "DEVNAME=%254s", ret) == 1)
			r = 0;
	fclose(uevent);
	return r;
}

static int device_open(uint64_t dev)
{
	char path[64 + NAME_MAX], name[NAME_MAX];
	struct stat st;
	int fd;

	if (major(dev) == 0)
		return -ENODEV;
	snprintf(path, sizeof(path), "/dev/block/%u:%u", major(dev), minor(dev));
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT && device_name(dev, name) == 0) { /* no udev here */
		snprintf(path, sizeof(path), "/dev/%s", name);
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	}
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISBLK(st.st_mode) || st.st_rdev != dev) {
		rvl_close(fd);
		return -ENODEV;
	}
	return fd;
}

static void cleanup_probe(blkid_probe *probe)
{
	if (*probe)
		blkid_free_probe(*probe);
}

int rvl_uuid_from_device(uint64_t dev, uint8_t ret[16])
{
	_cleanup_close_ int fd = device_open(dev);
	__attribute__((cleanup(cleanup_probe))) blkid_probe probe = NULL;
	const char *text;
	size_t len;
	int r;

	if (fd < 0)
		return rvl_identity_is_refusal(fd) ? 0 : fd;
	probe = blkid_new_probe();
	if (!probe)
		return -ENOMEM;
	errno = 0;
	if (blkid_probe_set_device(probe, fd, 0, 0) != 0)
		return errno && !rvl_identity_is_refusal(-errno) ? -errno : 0;
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_UUID);
	errno = 0;
	r = blkid_do_safeprobe(probe);
	if (r == -1 && errno && !rvl_identity_is_refusal(-errno))
		return -errno;
	if (r != 0 || blkid_probe_lookup_value(probe, "UUID", &text, &len) != 0 || !*text)
		return 0;
	if (!parse_uuid(text, ret))
		rvl_digest(text, strlen(text), ret);
	return !is_zero(ret);
}

int rvl_uuid_from_kernel(int fd, uint8_t ret[16])
{
	struct fs_uuid u = { 0 };

	if (ioctl(fd, IOC_GET_FS_UUID, &u) < 0)
		return rvl_identity_is_refusal(-errno) ? 0 : -errno;
	if (u.len == 0 || u.len > sizeof(u.uuid) || is_zero(u.uuid))
		return 0;
	memset(ret, 0, 16);
	memcpy(ret, u.uuid, u.len);
	return 1;
}
