/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a stored file handle leads to in the lower layers. */
#ifndef RVL_LAYER_ORIGIN_H
#define RVL_LAYER_ORIGIN_H

#include <sys/stat.h>

#include "layer/handle.h"
#include "layer/layer.h"
#include "layer/merge.h"

/*
 * The object of this type (S_IFMT bits) that a handle opens in one layer: one that has this very handle, and
 * lies in the layer if it is a directory. An O_PATH descriptor, owned by the caller; -ESTALE: none;
 * -EPERM: handles may not be opened.
 */
int rvl_origin_find_in(const struct rvl_layer *layer, const struct rvl_handle *handle, mode_t type,
		       struct statx *ret_st);

/* May it be a handle of the filesystem with this uuid? As the kernel has it (fs/overlayfs/namei.c,
 * ovl_decode_real_fh), but that a uuid may not be known (zeros). */
bool rvl_origin_may_be_of(const struct rvl_handle *handle, const uint8_t uuid[16]);

/*
 * rvl_origin_find_in for all lower layers whose filesystem may have the handle's uuid. A handle may be no
 * more than an inode number (squashfs, erofs): -ENOTUNIQ where different objects have it, so that it cannot
 * be told which is meant. uuids: of rvl_identity_uuids. *ret_layer: the layer, or another on the same
 * filesystem.
 */
int rvl_origin_find(const struct rvl_stack *stack, uint8_t (*uuids)[16],
		    const struct rvl_handle *handle, mode_t type,
		    const struct rvl_layer **ret_layer, struct statx *ret_st);

/*
 * Is the object at this place another life of the inode that the handle is of: has the inode been given
 * again? 1; 0, also where handles do not tell (rvl_handle_is_other_life); or -errno. uuids: as above; NULL
 * for a handle that is without one (of an entry).
 */
int rvl_origin_is_other_life(const struct rvl_handle *origin, const struct rvl_place *now,
			     uint8_t (*uuids)[16]);

#endif
