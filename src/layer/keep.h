/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a change of a file's data takes from it, where the change is not the user's: times, setuid,
 * and capabilities (the kernel: ovl_copy_up_meta_inode_data). */
#ifndef RVL_LAYER_KEEP_H
#define RVL_LAYER_KEEP_H

#include <sys/stat.h>
#include <sys/types.h>

#define RVL_CAPABILITY_SIZE 64 /* vfs_ns_cap_data has 24 bytes */

struct rvl_kept {
	struct statx st;
	char capability[RVL_CAPABILITY_SIZE];
	ssize_t capability_len; /* negative: none */
};

/* fd is of a regular file, open for writing. Errors of statx. */
int rvl_keep(int fd, struct rvl_kept *ret);
/* As far as it can be put back. */
void rvl_keep_restore(int fd, const struct rvl_kept *kept);

#endif
