/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Identity of the filesystem under a layer, the same after a reboot or on another loop device
 * (docs/format.md), for whoever asks, and however much of its mount he sees; and what its inode
 * numbers are worth. Never of st_dev, an fsid or a path alone.
 */
#ifndef RVL_LAYER_IDENTITY_H
#define RVL_LAYER_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "layer/layer.h"

/* What tells the objects of a filesystem apart, today and after the next mount. */
enum rvl_inos {
	RVL_INOS_LASTING, /* (st_dev, st_ino) */
	RVL_INOS_OVERLAY, /* the kernel's overlay: see rvl_identity_fid */
	RVL_INOS_FLEETING, /* most FUSE servers, FAT: st_ino is made up at each mount; only the
			    * path lasts */
};

struct rvl_identity {
	uint8_t digest[16]; /* of the filesystem, whichever layer of it */
	/* Of the layer's root, and of nothing but what every user on every kernel sees; zeros where
	 * there is nothing. Stored and compared together: rvl_identity_is. */
	uint8_t visible[16];
	uint8_t uuid[16]; /* zeros where there is none */
	uint64_t fs_magic;
	enum rvl_inos inos;
	bool has_uuid;
	bool is_stable; /* false: holds for this mount only */
};

/*
 * Identity of the filesystem with st_dev == dev that was met in this layer at dirfd: its root, or a
 * directory inside where st_dev changed (btrfs subvolumes). Where st_dev is not a disk's and there
 * is no uuid, two layers on one filesystem may have different digests: the caller asks once for
 * each st_dev.
 * Errors: only those that pass or that make the layer unusable (-EMFILE, -ENOMEM, -EIO, …); what
 * the filesystem cannot or the caller may not is no error.
 */
int rvl_identity_get(const struct rvl_layer *layer, int dirfd, uint64_t dev,
		     struct rvl_identity *ret);

/* A filesystem that is an image (squashfs, erofs, ISO 9660, cramfs, romfs): nobody changes anything in it. */
bool rvl_identity_is_image(uint64_t fs_magic);

/*
 * Where another filesystem in the stack has the same digest (a copy of the disk, with its uuid): a sample
 * of the names in the layer goes into identity->digest as well, so that the two are told apart in
 * whichever order they come. What changes these names makes it another filesystem. -EACCES: the layer's
 * root may not be listed; others are the layer's.
 */
int rvl_identity_add_names(const struct rvl_layer *layer, struct rvl_identity *identity);

/*
 * uuids of the filesystems of all layers by layer index, as overlay.origin has them; zeros
 * where there is none. Owned by the caller.
 */
int rvl_identity_uuids(const struct rvl_stack *stack, uint8_t (**ret)[16]);

/* What is kept of an identity; zeros where something is not known. */
struct rvl_identity_record {
	const uint8_t *digest, *visible, *uuid; /* borrowed; 16 bytes each */
};

/* Is it the filesystem of the record? is_same_layer: also the same layer's root on it, as far as
 * there is no uuid to be sure. */
bool rvl_identity_is(const struct rvl_identity *identity, const struct rvl_identity_record *record,
		     bool is_same_layer);

/*
 * File identifier of an object of a kernel overlay: uuid of the real filesystem and the real file's
 * handle there, as name_to_handle_at(2) with AT_HANDLE_FID gives it since Linux 6.6, also without
 * nfs_export. It lasts over remounts. path beneath dirfd, "" for dirfd itself. Returns the length.
 * -EOPNOTSUPP: none to be had (an older kernel, a real filesystem without handles or uuid).
 */
#define RVL_FID_BYTES_MAX 132
int rvl_identity_fid(int dirfd, const char *path, uint8_t ret[RVL_FID_BYTES_MAX]);

/* Is st_ino of this object of a FUSE filesystem only the id that its server has made up for it
 * (libfuse without use_ino)? 1, 0, -errno. */
int rvl_identity_is_nodeid(int dirfd, const char *path, uint64_t ino);

#endif
