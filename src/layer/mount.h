/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private clones of mounts, so that a layer is one tree without what is mounted inside it. */
#ifndef RVL_LAYER_MOUNT_H
#define RVL_LAYER_MOUNT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/mount.h>

/*
 * A detached clone of the mount of fd with the directory of fd as its root; O_PATH, owned by the
 * caller. It lives as long as descriptors in it do, and the mount point of the original is not kept
 * busy. attributes: MOUNT_ATTR_RDONLY, and what is to become of access times, whatever the original
 * says (0: relatime; MOUNT_ATTR_NOATIME, _STRICTATIME, _NODIRATIME), as far as flags that a user
 * namespace has locked allow.
 * -EPERM and others where the process may not: the caller goes on with fd itself.
 */
int rvl_mount_clone(int fd, uint64_t attributes);

/* Is there a mount point below this absolute path (not at it)? 1 with the mount point in *ret
 * (owned by the caller), 0 if not or if /proc/self/mountinfo cannot be read. */
int rvl_mount_find_inside(const char *path, char **ret);

/* Type ("fuse.sshfs") and source ("server:/export") of the filesystem with st_dev dev, as mountinfo
 * has them (escaped) of the first mount of it that this process sees; -ENOENT: it sees none.
 * The caller owns both. */
int rvl_mount_of_device(uint64_t dev, char **ret_type, char **ret_source);

/* Where a directory lies in its filesystem, by whichever mount it is seen. */
struct rvl_mount_place {
	uint64_t mnt_id; /* in */
	const char *path; /* in: absolute; borrowed */
	uint64_t dev; /* of the filesystem, as mountinfo has it */
	char *in_fs; /* owned; from the filesystem's root, "/…"; NULL: it cannot be told */
};
/* Fills dev and in_fs, as far as /proc/self/mountinfo tells. Some network filesystems call the root
 * of every mount "/": what two paths say of one another is to be verified. 0 or -ENOMEM. */
int rvl_mount_find_places(struct rvl_mount_place *places, unsigned n);

#endif
