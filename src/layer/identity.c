// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Identity of filesystems across reboots and devices. What counts, by kind of filesystem:
 *
 *   btrfs                       its fsid, and the subvolume's uuid and id
 *   with a uuid of its own      that uuid (the kernel's answer, else libblkid's from the device)
 *   nfs, cifs, 9p, …            the source of the mount, as the mount table has it
 *   others on a device or image a fingerprint: sizes from statfs, the top directory's ino and times
 *   tmpfs, fuse, overlay inside holds for this mount only, and says so (is_stable)
 *
 * A fingerprint must be the same whichever layer of the filesystem it is asked through, so that it
 * is taken of the top directory of the mount and not of the layer's root.
 */
#include "layer/identity.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "layer/mount.h"
#include "layer/path.h"

#define CEPH_MAGIC 0x00c36400
#define ROMFS_MAGIC 0x7275
#define TOP_DEPTH_MAX 4096

/* linux/fs.h since 6.9 */
struct fs_uuid {
	uint8_t len;
	uint8_t uuid[16];
};
#define IOC_GET_FS_UUID _IOR(0x15, 0, struct fs_uuid)

/* What the digest is made of: fields in a fixed order, each little-endian. */
struct digest_input {
	uint8_t bytes[512];
	size_t len;
};

static void put(struct digest_input *in, const void *data, size_t len)
{
	if (len > sizeof(in->bytes) - in->len)
		len = sizeof(in->bytes) - in->len;
	memcpy(in->bytes + in->len, data, len);
	in->len += len;
}

static void put_u64(struct digest_input *in, uint64_t v)
{
	uint8_t le[8];

	rvl_put_le64(le, v);
	put(in, le, sizeof(le));
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

static int device_open(uint64_t dev)
{
	char path[64];
	struct stat st;
	int fd;

	if (major(dev) == 0)
		return -ENODEV;
	snprintf(path, sizeof(path), "/dev/block/%u:%u", major(dev), minor(dev));
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
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

/* From the superblock on the device; needs the right to read it. */
static bool uuid_from_device(uint64_t dev, uint8_t ret[16])
{
	_cleanup_close_ int fd = device_open(dev);
	__attribute__((cleanup(cleanup_probe))) blkid_probe probe = NULL;
	const char *text;
	size_t len;

	if (fd < 0)
		return false;
	probe = blkid_new_probe();
	if (!probe || blkid_probe_set_device(probe, fd, 0, 0) != 0)
		return false;
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_UUID);
	if (blkid_do_safeprobe(probe) != 0 ||
	    blkid_probe_lookup_value(probe, "UUID", &text, &len) != 0 || !*text)
		return false;
	if (!parse_uuid(text, ret))
		rvl_digest(text, strlen(text), ret);
	return !is_zero(ret);
}

static bool uuid_from_kernel(int fd, uint8_t ret[16])
{
	struct fs_uuid u = { 0 };

	if (ioctl(fd, IOC_GET_FS_UUID, &u) < 0 || u.len == 0 || u.len > sizeof(u.uuid) ||
	    is_zero(u.uuid))
		return false;
	memcpy(ret, u.uuid, sizeof(u.uuid));
	return true;
}

/* The fsid is the uuid; the subvolume goes into the digest, for its inos are its own. */
static int btrfs_identity(int fd, struct digest_input *in, struct rvl_identity *id)
{
	struct btrfs_ioctl_fs_info_args info = { 0 };
	struct btrfs_ioctl_get_subvol_info_args subvol = { 0 };

	if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) < 0 ||
	    ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &subvol) < 0)
		return -errno;
	memcpy(id->uuid, info.fsid, sizeof(id->uuid));
	id->has_uuid = id->is_stable = true;
	put(in, id->uuid, sizeof(id->uuid));
	put(in, subvol.uuid, sizeof(subvol.uuid));
	put_u64(in, subvol.treeid);
	return 0;
}

/* Walk up from the layer's place in the caller's namespace to the top of its mount. */
static int top_statx(const struct rvl_layer *layer, uint64_t dev, struct statx *ret)
{
	_cleanup_close_ int at = open(layer->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	unsigned mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;
	struct statx stx;
	int r;

	if (at < 0)
		return -errno;
	r = rvl_path_statx(at, "", mask, &stx);
	if (r < 0)
		return r;
	/* Something else is mounted at the path by now. */
	if (rvl_statx_dev(&stx) != dev)
		return -ESTALE;
	*ret = stx;
	for (unsigned i = 0; i < TOP_DEPTH_MAX; i++) {
		int up = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (up < 0)
			break;
		rvl_close(at);
		at = up;
		r = rvl_path_statx(at, "", mask, &stx);
		if (r < 0 || stx.stx_mnt_id != ret->stx_mnt_id || rvl_statx_dev(&stx) != dev ||
		    stx.stx_ino == ret->stx_ino)
			break;
		*ret = stx;
	}
	return 0;
}

/* Filesystems that are images, of which nobody changes anything. */
static bool is_image(uint64_t magic)
{
	switch (magic) {
	case SQUASHFS_MAGIC:
	case EROFS_SUPER_MAGIC_V1:
	case ISOFS_SUPER_MAGIC:
	case CRAMFS_MAGIC:
	case ROMFS_MAGIC:
		return true;
	}
	return false;
}

/* No uuid anywhere: what statfs and the top directory tell, of which nothing changes in use. */
static int fingerprint(const struct rvl_layer *layer, int fd, uint64_t dev, struct digest_input *in)
{
	struct statfs sfs;
	struct statx top;
	int r;

	if (fstatfs(fd, &sfs) < 0)
		return -errno;
	r = top_statx(layer, dev, &top);
	if (r < 0)
		return r;
	put_u64(in, (uint64_t)sfs.f_bsize);
	put_u64(in, sfs.f_blocks);
	put_u64(in, top.stx_ino);
	if (top.stx_mask & STATX_BTIME) {
		put_u64(in, (uint64_t)top.stx_btime.tv_sec);
		put_u64(in, top.stx_btime.tv_nsec);
	}
	if (is_image((uint64_t)sfs.f_type & UINT32_MAX)) {
		put_u64(in, sfs.f_files);
		put_u64(in, (uint64_t)top.stx_mtime.tv_sec);
		put_u64(in, top.stx_mtime.tv_nsec);
		put_u64(in, top.stx_nlink);
		put_u64(in, top.stx_size);
	}
	return 0;
}

static bool is_network(uint64_t magic)
{
	switch (magic) {
	case NFS_SUPER_MAGIC:
	case CIFS_SUPER_MAGIC:
	case SMB2_SUPER_MAGIC:
	case SMB_SUPER_MAGIC:
	case CEPH_MAGIC:
	case AFS_SUPER_MAGIC:
	case V9FS_MAGIC:
		return true;
	}
	return false;
}

/* Identity by where the mount comes from. */
static int source_identity(const struct rvl_layer *layer, uint64_t dev, struct digest_input *in)
{
	_cleanup_free_ char *source = NULL;
	struct statx top;
	int r = top_statx(layer, dev, &top);

	if (r == 0)
		r = rvl_mount_source(top.stx_mnt_id, &source);
	if (r < 0)
		return r;
	put(in, source, strlen(source));
	return 0;
}

/* For this mount only: whatever distinguishes it from others as long as it lives. */
static void transient_identity(uint64_t dev, struct digest_input *in, struct rvl_identity *id)
{
	id->is_stable = false;
	put(in, id->uuid, sizeof(id->uuid));
	put_u64(in, dev);
}

static bool is_transient(const struct rvl_layer *layer, uint64_t magic, uint64_t dev)
{
	switch (magic) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case HUGETLBFS_MAGIC:
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
		return true;
	case FUSE_SUPER_MAGIC:
		return major(dev) == 0; /* not so: fuseblk */
	case OVERLAYFS_SUPER_MAGIC:
		/* The st_dev of a layer within a layer is made up at each mount. */
		return dev != layer->dev;
	}
	return false;
}

int rvl_identity_get(const struct rvl_layer *layer, int dirfd, uint64_t dev,
		     struct rvl_identity *ret)
{
	_cleanup_close_ int fd = rvl_path_open_noatime(dirfd, "", O_RDONLY | O_DIRECTORY);
	struct rvl_identity id = { 0 };
	struct digest_input in = { 0 };
	struct statfs sfs;
	int r = -ENODATA;

	if (fd < 0)
		return fd;
	if (fstatfs(fd, &sfs) < 0)
		return -errno;
	id.fs_magic = (uint64_t)sfs.f_type & UINT32_MAX;
	put_u64(&in, id.fs_magic);
	if (id.fs_magic == BTRFS_SUPER_MAGIC)
		r = btrfs_identity(fd, &in, &id);
	if (r < 0) {
		bool may_have_uuid = !is_transient(layer, id.fs_magic, dev);

		id.has_uuid = uuid_from_kernel(fd, id.uuid) ||
			      (may_have_uuid && uuid_from_device(dev, id.uuid));
		if (id.has_uuid && may_have_uuid) {
			id.is_stable = true;
			put(&in, id.uuid, sizeof(id.uuid));
			r = 0;
		} else if (is_network(id.fs_magic)) {
			r = source_identity(layer, dev, &in);
			id.is_stable = r == 0;
		} else if (may_have_uuid && major(dev) != 0) {
			r = fingerprint(layer, fd, dev, &in);
			id.is_stable = r == 0;
		}
	}
	if (r < 0)
		transient_identity(dev, &in, &id);
	rvl_digest(in.bytes, in.len, id.digest);
	*ret = id;
	return 0;
}
