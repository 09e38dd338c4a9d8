// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Identity of filesystems across reboots, devices, users and containers. What counts, by kind:
 *
 *   btrfs                  its fsid, and the subvolume's uuid and id
 *   with a uuid            that uuid
 *   other disks, images    sizes from statfs
 *   nfs, cifs, 9p, …       the source of the mount, as the mount table has it
 *   FUSE                   type, size, the source where it is a host's
 *   the kernel's overlay   the file identifier of the layer's root
 *   tmpfs, proc, unknown   holds for this mount only, and says so (is_stable)
 *   st_dev inside a layer
 *
 * The second digest (visible) is of the layer's root: its inode number and birth time, in an image
 * also names in it. It decides where one of the two that are compared has no uuid, for the uuid
 * of a disk may take root's rights to read (before Linux 6.9), and where both have none, for two
 * disks may have one size, and one disk may grow. The layer's root, and not the filesystem's, since
 * all who mount the layer see the same of it: in a container the rest is out of reach.
 */
#include "layer/identity.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "layer/handle.h"
#include "layer/identity_private.h"
#include "layer/mount.h"
#include "layer/path.h"

#define CEPH_MAGIC 0x00c36400
#define ROMFS_MAGIC 0x7275
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif

/* What the digest is made of: fields in a fixed order, each little-endian. */
struct digest_input {
	uint8_t bytes[1024];
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

static void put_time(struct digest_input *in, const struct statx_timestamp *time)
{
	put_u64(in, (uint64_t)time->tv_sec);
	put_u64(in, time->tv_nsec);
}

static bool is_zero(const uint8_t digest[16])
{
	static const uint8_t zero[16];

	return memcmp(digest, zero, sizeof(zero)) == 0;
}

/* All that is asked of the place where a filesystem was met. */
struct place {
	const struct rvl_layer *layer; /* borrowed */
	int fd; /* borrowed; readable, or O_PATH where reading is forbidden */
	uint64_t dev, magic;
	struct statfs sfs;
	struct statx stx;
	bool is_inner; /* not the layer's own st_dev */
};

bool rvl_identity_is_image(uint64_t fs_magic)
{
	switch (fs_magic) {
	case SQUASHFS_MAGIC:
	case EROFS_SUPER_MAGIC_V1:
	case ISOFS_SUPER_MAGIC:
	case CRAMFS_MAGIC:
	case ROMFS_MAGIC:
		return true;
	}
	return false;
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

/* Gone with the machine, or made up by the kernel. */
static bool is_memory(uint64_t magic)
{
	switch (magic) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case HUGETLBFS_MAGIC:
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
		return true;
	}
	return false;
}

/* Not so: fuseblk, that has a device of its own (ntfs-3g). */
static bool is_fuse(const struct place *place)
{
	return place->magic == FUSE_SUPER_MAGIC && major(place->dev) == 0;
}

/* FUSE servers whose st_ino are known to last. */
static bool has_lasting_inos(const char *type)
{
	static const char *const types[] = { "fuse.reverlay", "fuse.squashfuse_ll" };

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(type, types[i]) == 0)
			return true;
	return false;
}

static int put_names(int fd, struct digest_input *in, bool is_deep, bool has_inos)
{
	uint64_t n, sum;
	int r = rvl_identity_names(fd, is_deep, has_inos, &n, &sum);

	if (r < 0)
		return r;
	put_u64(in, n);
	put_u64(in, sum);
	return 0;
}

static int put_image(const struct place *place, struct digest_input *in)
{
	put_u64(in, (uint64_t)place->sfs.f_bsize);
	put_u64(in, place->sfs.f_blocks);
	put_u64(in, place->sfs.f_files);
	put_u64(in, place->stx.stx_ino);
	put_time(in, &place->stx.stx_mtime);
	return put_names(place->fd, in, true, true);
}

/* What is left where nothing else is known: the object that is the layer's root. */
static void put_root(const struct place *place, struct digest_input *in)
{
	put_u64(in, (uint64_t)place->sfs.f_bsize);
	put_u64(in, place->stx.stx_ino);
	if (place->stx.stx_mask & STATX_BTIME) {
		put_time(in, &place->stx.stx_btime);
	} else {
		put_u64(in, place->sfs.f_blocks);
		put_u64(in, place->sfs.f_files);
	}
}

static int put_overlay(const struct place *place, struct digest_input *in)
{
	uint8_t fid[RVL_FID_BYTES_MAX];
	int n = rvl_identity_fid(place->layer->fd, "", fid);

	if (n < 0 && n != -EOPNOTSUPP)
		return n;
	if (n > 0)
		put(in, fid, (size_t)n);
	else if (place->stx.stx_mask & STATX_BTIME)
		put_time(in, &place->stx.stx_btime);
	else
		put_u64(in, place->sfs.f_blocks);
	return 0;
}

/* Of a disk or an image without a uuid. */
static void put_sizes(const struct place *place, struct digest_input *in)
{
	put_u64(in, (uint64_t)place->sfs.f_bsize);
	put_u64(in, place->sfs.f_blocks);
	if (rvl_identity_is_image(place->magic))
		put_u64(in, place->sfs.f_files);
}

static bool is_of_a_host(const char *source)
{
	return strchr(source, ':') != NULL;
}

static int put_fuse(const struct place *place, struct digest_input *in, struct rvl_identity *id)
{
	_cleanup_free_ char *type = NULL, *source = NULL;
	int r = rvl_mount_of_device(place->dev, &type, &source);

	if (r < 0 && !rvl_identity_is_refusal(r))
		return r;
	id->inos = r == 0 && has_lasting_inos(type) ? RVL_INOS_LASTING : RVL_INOS_FLEETING;
	if (r == 0)
		put(in, type, strlen(type));
	if (r == 0 && is_of_a_host(source))
		put(in, source, strlen(source));
	put_u64(in, (uint64_t)place->sfs.f_bsize);
	put_u64(in, place->sfs.f_blocks);
	if (id->inos == RVL_INOS_LASTING)
		put_u64(in, place->stx.stx_ino);
	return 0;
}

/* Identity by where the mount comes from. */
static int put_network(const struct place *place, struct digest_input *in)
{
	_cleanup_free_ char *type = NULL, *source = NULL;
	int r = rvl_mount_of_device(place->dev, &type, &source);

	if (r == 0)
		put(in, source, strlen(source));
	else if (rvl_identity_is_refusal(r))
		put_root(place, in);
	else
		return r;
	return 0;
}

/* What everyone sees; fields after the type. */
static int put_visible(const struct place *place, struct digest_input *in, struct rvl_identity *id)
{
	if (place->magic == OVERLAYFS_SUPER_MAGIC)
		return put_overlay(place, in);
	if (is_fuse(place))
		return put_fuse(place, in, id);
	if (is_network(place->magic))
		return put_network(place, in);
	if (rvl_identity_is_image(place->magic))
		return put_image(place, in);
	put_root(place, in);
	return 0;
}

/* The fsid is the uuid; the subvolume goes into the digest, for its inos are its own. 0: it cannot
 * be asked. */
static int btrfs_identity(const struct place *place, struct digest_input *in,
			  struct rvl_identity *id)
{
	struct btrfs_ioctl_fs_info_args info = { 0 };
	struct btrfs_ioctl_get_subvol_info_args subvol = { 0 };

	if (ioctl(place->fd, BTRFS_IOC_FS_INFO, &info) < 0 ||
	    ioctl(place->fd, BTRFS_IOC_GET_SUBVOL_INFO, &subvol) < 0)
		return rvl_identity_is_refusal(-errno) ? 0 : -errno;
	memcpy(id->uuid, info.fsid, sizeof(id->uuid));
	put(in, id->uuid, sizeof(id->uuid));
	put(in, subvol.uuid, sizeof(subvol.uuid));
	put_u64(in, subvol.treeid);
	return 1;
}

/* 1 with the fields of a filesystem with a uuid; 0: none is known. */
static int put_uuid(const struct place *place, struct digest_input *in, struct rvl_identity *id)
{
	int r;

	if (place->magic == BTRFS_SUPER_MAGIC) {
		r = btrfs_identity(place, in, id);
		if (r)
			return r;
	}
	r = rvl_uuid_from_kernel(place->fd, id->uuid);
	if (r == 0 && !is_memory(place->magic))
		r = rvl_uuid_from_device(place->dev, id->uuid);
	if (r <= 0)
		return r;
	put(in, id->uuid, sizeof(id->uuid));
#ifdef STATX_SUBVOL
	/* bcachefs, and others to come */
	if (place->stx.stx_mask & STATX_SUBVOL)
		put_u64(in, place->stx.stx_subvol);
#endif
	return 1;
}

/* For this mount only: whatever distinguishes it from others as long as it lives. */
static void transient_identity(const struct place *place, struct digest_input *in,
			       struct rvl_identity *id)
{
	id->is_stable = false;
	put(in, id->uuid, sizeof(id->uuid));
	put_u64(in, place->dev);
	rvl_digest(in->bytes, in->len, id->digest);
}

static bool is_fat(uint64_t magic)
{
	return magic == MSDOS_SUPER_MAGIC || magic == EXFAT_SUPER_MAGIC;
}

static int identify(const struct place *place, struct rvl_identity *id)
{
	struct digest_input in = { 0 };
	int r = 0;

	put_u64(&in, place->magic);
	/* Another st_dev than that of the place: it vanished, or the caller's mistake. */
	if (rvl_statx_dev(&place->stx) == place->dev)
		r = put_uuid(place, &in, id);
	if (r < 0)
		return r;
	id->has_uuid = r > 0;
	id->inos = place->magic == OVERLAYFS_SUPER_MAGIC ? RVL_INOS_OVERLAY :
		   is_fat(place->magic)			 ? RVL_INOS_FLEETING :
							   RVL_INOS_LASTING;
	if (is_memory(place->magic) || (!id->has_uuid && place->is_inner)) {
		in.len = 8;
		transient_identity(place, &in, id);
		return 0;
	}
	id->is_stable = true;
	if (!id->has_uuid && major(place->dev) != 0)
		put_sizes(place, &in);
	rvl_digest(in.bytes, in.len, id->digest);
	/* Which directory of an inner filesystem was met first is chance. */
	if (place->is_inner)
		return 0;
	in.len = 8;
	r = put_visible(place, &in, id);
	if (r < 0)
		return r;
	rvl_digest(in.bytes, in.len, id->visible);
	if (!id->has_uuid && major(place->dev) == 0)
		memcpy(id->digest, id->visible, sizeof(id->digest));
	return 0;
}

int rvl_identity_add_names(const struct rvl_layer *layer, struct rvl_identity *identity)
{
	_cleanup_close_ int fd = rvl_path_open_noatime(layer->fd, "", O_RDONLY | O_DIRECTORY);
	struct digest_input in = { 0 };
	int r = fd < 0 ? fd : 0;

	put(&in, identity->digest, sizeof(identity->digest));
	if (r == 0)
		r = put_names(fd, &in, rvl_identity_is_image(identity->fs_magic),
			      identity->inos == RVL_INOS_LASTING);
	if (r == 0)
		rvl_digest(in.bytes, in.len, identity->digest);
	return r;
}

int rvl_identity_get(const struct rvl_layer *layer, int dirfd, uint64_t dev,
		     struct rvl_identity *ret)
{
	_cleanup_close_ int fd = rvl_path_open_noatime(dirfd, "", O_RDONLY | O_DIRECTORY);
	unsigned mask = RVL_STATX_MASK;
	struct place place = { .layer = layer, .dev = dev, .is_inner = dev != layer->dev };
	struct rvl_identity id = { 0 };
	int r;

#ifdef STATX_SUBVOL
	mask |= STATX_SUBVOL;
#endif
	if (fd < 0 && fd != -EACCES && fd != -EPERM)
		return fd;
	place.fd = fd < 0 ? dirfd : fd;
	if (fstatfs(place.fd, &place.sfs) < 0)
		return -errno;
	r = rvl_path_statx(place.fd, "", mask, &place.stx);
	if (r < 0)
		return r;
	id.fs_magic = place.magic = (uint64_t)place.sfs.f_type & UINT32_MAX;
	r = identify(&place, &id);
	if (r < 0)
		return r;
	*ret = id;
	return 0;
}

bool rvl_identity_is(const struct rvl_identity *identity, const struct rvl_identity_record *record,
		     bool is_same_layer)
{
	bool is_same = memcmp(identity->digest, record->digest, 16) == 0;

	if (!identity->is_stable || is_zero(identity->visible) || is_zero(record->visible))
		return is_same;
	/* a uuid may be given to an image that is made anew */
	if (identity->has_uuid && !is_zero(record->uuid))
		return is_same && (!is_same_layer || !rvl_identity_is_image(identity->fs_magic) ||
				   memcmp(identity->visible, record->visible, 16) == 0);
	/* Another image of one size is likelier than another directory of one image. */
	if (is_same && !is_same_layer && !rvl_identity_is_image(identity->fs_magic))
		return true;
	return memcmp(identity->visible, record->visible, 16) == 0;
}

/* struct file_handle with room for the fid. */
union handle_buf {
	struct file_handle h;
	uint8_t bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static int handle_of(int dirfd, const char *path, int flags, union handle_buf *ret)
{
	_cleanup_close_ int fd = -EBADF;
	int mount_id;

	ret->h.handle_bytes = MAX_HANDLE_SZ;
	/* Only a single name is safe without openat2. */
	if (strchr(path, '/')) {
		fd = rvl_path_open(dirfd, path, O_PATH, 0);
		if (fd < 0)
			return fd;
		dirfd = fd;
		path = "";
	}
	if (name_to_handle_at(dirfd, path, &ret->h, &mount_id,
			      flags | (*path ? 0 : AT_EMPTY_PATH)) < 0)
		return errno != ENOENT && rvl_identity_is_refusal(-errno) ? -EOPNOTSUPP : -errno;
	return ret->h.handle_bytes ? 0 : -EOPNOTSUPP;
}

int rvl_identity_fid(int dirfd, const char *path, uint8_t ret[RVL_FID_BYTES_MAX])
{
	union handle_buf buf;
	int r = handle_of(dirfd, path, AT_HANDLE_FID, &buf);

	/*
	 * struct ovl_fh (fs/overlayfs/overlayfs.h): 3 bytes of padding, then the record that
	 * handle.c describes, whose uuid is that of the real filesystem. Without it two real
	 * filesystems could not be told apart.
	 */
	static_assert(RVL_FID_BYTES_MAX >= 4 + MAX_HANDLE_SZ, "room for a handle");
	if (r < 0)
		return r;
	if (buf.h.handle_bytes <= 3 + 21 || buf.h.f_handle[4] != 0xfb ||
	    is_zero(buf.h.f_handle + 3 + 5))
		return -EOPNOTSUPP;
	rvl_put_le32(ret, (uint32_t)buf.h.handle_type);
	memcpy(ret + 4, buf.h.f_handle, buf.h.handle_bytes);
	return 4 + (int)buf.h.handle_bytes;
}

int rvl_identity_is_nodeid(int dirfd, const char *path, uint64_t ino)
{
	union handle_buf buf;
	uint32_t high, low;
	int r = handle_of(dirfd, path, 0, &buf);

	if (r == -EOPNOTSUPP)
		return 0;
	if (r < 0)
		return r;
	if (buf.h.handle_type != RVL_FID_INO64_GEN || buf.h.handle_bytes < 8)
		return 0;
	memcpy(&high, buf.h.f_handle, sizeof(high));
	memcpy(&low, buf.h.f_handle + 4, sizeof(low));
	return ((uint64_t)high << 32 | low) == ino;
}

int rvl_identity_uuids(const struct rvl_stack *stack, uint8_t (**ret)[16])
{
	uint8_t(*uuids)[16] = calloc(stack->n, sizeof(*uuids));

	if (!uuids)
		return -ENOMEM;
	for (unsigned i = stack->has_upper ? 0 : 1; i < stack->n; i++) {
		const struct rvl_layer *layer = &stack->layers[i];
		struct rvl_identity identity;

		if (i > 0 && layer[-1].fd >= 0 && layer->dev == layer[-1].dev)
			memcpy(uuids[i], uuids[i - 1], sizeof(*uuids));
		else if (!rvl_identity_get(layer, layer->fd, layer->dev, &identity))
			memcpy(uuids[i], identity.uuid, sizeof(*uuids));
	}
	*ret = uuids;
	return 0;
}
