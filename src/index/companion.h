/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Companions (inodes/c/<real ino>): small files that carry the private xattrs which an upper inode
 * cannot. Used by stamp.c alone, others use rvl_upper_xattr_…. A companion belongs to one life
 * of its inode number: its mtime is the inode's birth time, and one whose birth time differs is
 * left over from a dead inode and is not believed.
 */
#ifndef RVL_INDEX_COMPANION_H
#define RVL_INDEX_COMPANION_H

#include "index/index.h"

/* Open inodes/c if it is there. */
int rvl_companions_open(struct rvl_index *index);

static inline bool rvl_companions_exist(const struct rvl_index *index)
{
	return index->companions_fd >= 0;
}

#define RVL_COMPANION_NAME_SIZE 24

/*
 * Name of the companion of dirfd/name with inode real_ino (relative to companions_fd). is_create:
 * make it, and what is left of a dead inode goes. -ENODATA: there is none of this inode.
 */
int rvl_companion_find(struct rvl_index *index, int dirfd, const char *name, uint64_t real_ino,
		       bool is_create, char ret[RVL_COMPANION_NAME_SIZE]);

/*
 * Upper was copied: its inodes have other numbers, and the entries are links of them. Each companion
 * goes to the inode of the entry that its stamp names. The old ones are in inodes/c.old meanwhile,
 * so a death in between is gone on with.
 */
int rvl_companions_move(struct rvl_index *index);

#endif
