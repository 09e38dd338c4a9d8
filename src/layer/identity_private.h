/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What identity.c, identity_names.c and identity_uuid.c share. */
#ifndef RVL_LAYER_IDENTITY_PRIVATE_H
#define RVL_LAYER_IDENTITY_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

/* "Not here, or not for you" (true), or an error that the open must report (false)? For negative
 * errno values. */
bool rvl_identity_is_refusal(int r);

/* uuid of the filesystem of fd, from the kernel (FS_IOC_GETFSUUID, Linux 6.9), or from its
 * superblock on the block device dev; 1 found, 0 there is none or it may not be read. */
int rvl_uuid_from_kernel(int fd, uint8_t ret[16]);
int rvl_uuid_from_device(uint64_t dev, uint8_t ret[16]);

/*
 * A sample of the names beneath the directory fd (readable), with inode number (has_inos: where these last), size
 * and mtime of each; with is_deep also in the directories below that everybody may list. *ret_n: how many;
 * *ret_sum: over all of them. Errors are those of the root: -EACCES where it may not be listed, -EIO; and
 * -ENOMEM, -EMFILE, -ENFILE.
 */
int rvl_identity_names(int fd, bool is_deep, bool has_inos, uint64_t *ret_n, uint64_t *ret_sum);

#endif
