/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * File handles of real objects in the kernel overlayfs's record (struct ovl_fb in
 * fs/overlayfs/overlayfs.h), as `overlay.origin`, `overlay.upper` and `overlay.fh` hold them.
 */
#ifndef RVL_LAYER_HANDLE_H
#define RVL_LAYER_HANDLE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#define RVL_FID_MAX 128 /* MAX_HANDLE_SZ */

struct rvl_handle {
	uint8_t uuid[16]; /* of the filesystem; zeros where it has none */
	uint8_t type;	  /* handle_type, fits one byte (kernel: same) */
	uint8_t len;	  /* of fid, bytes */
	uint8_t fid[RVL_FID_MAX];
};
#define RVL_HANDLE_ENCODED_MAX (21 + RVL_FID_MAX)

/* name_to_handle_at of an object (name "" with dirfd itself). uuid is copied in; NULL: zeros.
 * Errors: -EOPNOTSUPP: the filesystem has none; -EOVERFLOW: too long or type > 255. */
int rvl_handle_get(int dirfd, const char *name, const uint8_t uuid[16], struct rvl_handle *ret);
/* As the entry of a directory keeps it: without a uuid; len 0 where there is none. */
void rvl_handle_for_entry(int dirfd, const char *name, struct rvl_handle *ret);
/* One encode, one decode function. Encode returns the length; decode -EUCLEAN on any malformed
 * record, -ESTALE for the kernel's empty origin (a zero-length value is its "no origin") and for
 * what the kernel treats so: another endianness, a newer version, unknown flags. */
int rvl_handle_encode(const struct rvl_handle *handle, uint8_t buf[RVL_HANDLE_ENCODED_MAX]);
/* The same, of an object of upper (OVL_FH_FLAG_PATH_UPPER). */
int rvl_handle_encode_upper(const struct rvl_handle *handle, uint8_t buf[RVL_HANDLE_ENCODED_MAX]);
int rvl_handle_decode(const uint8_t *buf, unsigned len, struct rvl_handle *ret);
/* handle types (include/linux/exportfs.h): inode number of 4 or 8 bytes, generation of 4. FUSE has the
 * second for its nodeid. */
#define RVL_FID_INO32_GEN 0x01
#define RVL_FID_INO64_GEN 0x81
#define RVL_FID_BTRFS 0x4d /* FILEID_BTRFS_WITHOUT_PARENT: fs/btrfs/export.h, struct btrfs_fid */
bool rvl_handle_equal(const struct rvl_handle *a, const struct rvl_handle *b);
/*
 * Two lives of one inode: the same filesystem and inode number, and another generation? Of the types
 * above only (ext4, xfs, btrfs, most others); false for any other. Of FUSE and of images the generation means
 * nothing, which is for the caller to know.
 */
bool rvl_handle_is_other_life(const struct rvl_handle *a, const struct rvl_handle *b);
/*
 * Name of an object in the kernel's index (workdir/index): the record of its lower handle in hex
 * (fs/overlayfs/namei.c, ovl_get_index_name_fh). encode: -ENAMETOOLONG; decode as rvl_handle_decode,
 * and -EUCLEAN for what is no such name.
 */
#define RVL_HANDLE_NAME_SIZE (NAME_MAX + 1)
int rvl_handle_name_encode(const struct rvl_handle *handle, char ret[RVL_HANDLE_NAME_SIZE]);
int rvl_handle_name_decode(const char *name, struct rvl_handle *ret);
/* open_by_handle_at with O_PATH beneath the mount of mount_fd. Needs CAP_DAC_READ_SEARCH, or what
 * the kernel takes instead (fs/fhandle.c, may_decode_fh). Used for origins and `overlay.upper`
 * hints only, never for numbers or handles that come from a client. The caller verifies what he
 * got. */
int rvl_handle_open(int mount_fd, const struct rvl_handle *handle);

#endif
