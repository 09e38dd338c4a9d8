/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handles as NFS servers put them on the wire and into their logs, and the kernel's handle of a
 * FUSE object inside.
 *
 *   FUSE     12 bytes, type 0x81: number (high, low), generation, each 32 bits of this machine's
 *            order (fs/fuse/inode.c, fuse_encode_fh)
 *   knfsd    1, 0, type of fsid, type of the object; fsid; the object's handle, none for the root of the export
 *            (fs/nfsd/nfsfh.h)
 *   Ganesha  0x43, flags, export id (2 bytes), length, then of FSAL_VFS: flags, fsid, type, the object's handle
 *            (src/include/nfs_fh.h, src/FSAL/FSAL_VFS/os/linux/handle_syscalls.c)
 */
#ifndef RVL_TOOLS_NFS_HANDLE_H
#define RVL_TOOLS_NFS_HANDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "index/number.h"

#define RVL_NFS_HANDLE_MAX 128
#define RVL_NFS_HANDLE_TEXT_MAX (2 * RVL_NFS_HANDLE_MAX + 1)

/* Whose form it has. */
enum rvl_nfs_form { RVL_NFS_FUSE, RVL_NFS_KNFSD, RVL_NFS_GANESHA };

struct rvl_nfs_handle {
	enum rvl_nfs_form form;
	struct rvl_id id;
	bool has_uuid; /* knfsd: the fsid is one */
	uint8_t uuid[16];
};

/*
 * Hex digits with or without 0x, blanks and colons between them; or the words that knfsd's debug
 * messages show ("36: 01060081 …", each a number of 32 bits), with what they leave off missing.
 * -EINVAL: not a handle of a FUSE object.
 */
int rvl_nfs_handle_parse(const char *text, struct rvl_nfs_handle *ret);

/* The handles that exports by `reverlayctl export` get, in hex. */
void rvl_nfs_handle_fuse(const struct rvl_id *id, char ret[RVL_NFS_HANDLE_TEXT_MAX]);
void rvl_nfs_handle_knfsd(const struct rvl_id *id, const uint8_t uuid[16],
			  char ret[RVL_NFS_HANDLE_TEXT_MAX]);
void rvl_nfs_handle_ganesha(const struct rvl_id *id, unsigned export_id,
			    char ret[RVL_NFS_HANDLE_TEXT_MAX]);

/* Ganesha's Export_Id where none is given: of the uuid, so that it is the same on every machine. */
unsigned rvl_nfs_export_id(const uint8_t uuid[16]);

/* The value of --export-id. -EINVAL: none, and told so. */
int rvl_nfs_export_id_parse(const char *text, unsigned *ret);

#endif
