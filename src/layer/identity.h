/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Identity of the filesystem under a layer, the same after a reboot or on another loop device
 * (design section 3): its uuid (FS_IOC_GETFSUUID, else blkid), type; where there is no uuid a
 * fingerprint of the superblock (statfs blocks and files, the filesystem root's times as far as
 * visible through the layer). Never st_dev, an fsid or a path alone.
 */
#ifndef RVL_LAYER_IDENTITY_H
#define RVL_LAYER_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "layer/layer.h"

struct rvl_identity {
	uint8_t digest[16]; /* of all below: what is compared and stored */
	uint8_t uuid[16];   /* zeros where there is none */
	uint64_t fs_magic;
	bool has_uuid;
	bool is_stable; /* false: holds for this mount only (e.g. an overlay's inner st_dev) */
};

/* Identity of the filesystem with st_dev == dev that was met in this layer at dirfd (its root, or a
 * directory inside where st_dev changed: btrfs subvolumes get the subvolume's uuid into it). */
int rvl_identity_get(const struct rvl_layer *layer, int dirfd, uint64_t dev,
		     struct rvl_identity *ret);

#endif
