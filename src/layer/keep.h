/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel takes from a file when its data change: times, setuid and setgid, capabilities. It
 * is put back where the change is not the user's (the kernel: ovl_copy_up_meta_inode_data).
 */
#ifndef RVL_LAYER_KEEP_H
#define RVL_LAYER_KEEP_H

#include <sys/stat.h>
#include <sys/types.h>

#define RVL_CAPABILITY_NAME "security.capability"
#define RVL_CAPABILITY_SIZE 64 /* vfs_ns_cap_data has 24 bytes */

struct rvl_kept {
	struct statx st;
	char capability[RVL_CAPABILITY_SIZE];
	ssize_t capability_len; /* negative: none */
};

/* fd: a regular file, open for writing. -errno of statx; a capability that cannot be read counts as
 * none. */
int rvl_kept_get(int fd, struct rvl_kept *ret);
/* What may not be put back (EPERM), and the times, are no error; -errno of the rest. */
int rvl_kept_restore(int fd, const struct rvl_kept *kept);

#endif
