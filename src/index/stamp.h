/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stamps: `overlay.ino` on an upper object: number (8 bytes) and generation (4), little-endian.
 * Where the inode cannot carry xattrs (user.* on symlinks and devices; no room) they lie on its
 * companion inodes/c/<real ino>, transparently for callers. No locks; the callers hold the
 * object's.
 */
#ifndef RVL_INDEX_STAMP_H
#define RVL_INDEX_STAMP_H

#include "index/number.h"

#define RVL_STAMP_SIZE 12

void rvl_stamp_encode(const struct rvl_id *id, uint8_t buf[RVL_STAMP_SIZE]);
/* -EUCLEAN: wrong length, number 0 or with bit 63. */
int rvl_stamp_decode(const void *buf, size_t len, struct rvl_id *ret);

/*
 * Private xattr of an upper object, wherever it is kept. type: S_IFMT bits of its mode, and
 * real_ino its inode number: they find the companion (real_ino may be 0 for types that have none).
 */
ssize_t rvl_upper_xattr_get(struct rvl_index *index, int dirfd, const char *name, mode_t type,
			    uint64_t real_ino, enum rvl_xattr which, void *buf, size_t size);
int rvl_upper_xattr_set(struct rvl_index *index, int dirfd, const char *name, mode_t type,
			uint64_t real_ino, enum rvl_xattr which, const void *buf, size_t size);
int rvl_upper_xattr_remove(struct rvl_index *index, int dirfd, const char *name, mode_t type,
			   uint64_t real_ino, enum rvl_xattr which);

/* The stamp alone. get: -ENODATA where there is none, -EUCLEAN damaged. */
int rvl_stamp_get(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		  uint64_t real_ino, struct rvl_id *ret);
int rvl_stamp_set(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		  uint64_t real_ino, const struct rvl_id *id);

/* The object is gone for ever: remove its companion, if it has one. */
void rvl_companion_remove(struct rvl_index *index, mode_t type, uint64_t real_ino);

#endif
