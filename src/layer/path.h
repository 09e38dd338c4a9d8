/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Safe resolution: every real path is descriptor + relative path, resolved with openat2(2) beneath
 * the descriptor, without symlinks, magic links or mount crossings, whatever a layer contains.
 */
#ifndef RVL_LAYER_PATH_H
#define RVL_LAYER_PATH_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/*
 * Open path ("" is the directory itself; longer than PATH_MAX is walked in pieces) beneath dirfd.
 * flags as for open(2); O_CLOEXEC | O_NOFOLLOW are added. The last component, if a symlink, opens
 * only with O_PATH. Returns a descriptor (owned by the caller) or -errno: -EXDEV a mount point, or
 * what leads out of dirfd; -ELOOP a symlink; else as open(2).
 */
int rvl_path_open(int dirfd, const char *path, uint64_t flags, mode_t mode);

/* The same for reading data or a directory of a lower: O_NOATIME is added where it is allowed. */
int rvl_path_open_noatime(int dirfd, const char *path, uint64_t flags);

/* statx of path beneath dirfd, never following a symlink; with birth time, STATX_MNT_ID etc. as in
 * mask. A path of one component costs one system call. -EXDEV: a mount point is in the way. */
int rvl_path_statx(int dirfd, const char *path, unsigned mask, struct statx *ret);

/* For rvl_path_statx: all that is asked of an object. */
#define RVL_STATX_MASK (STATX_BASIC_STATS | STATX_BTIME)

/* Open the object of a descriptor, O_PATH or not, once more with other flags: a directory
 * (O_DIRECTORY) by ".", others through /proc/self/fd. A descriptor (owned by the caller) or
 * -errno. */
int rvl_fd_reopen(int fd, int flags);

/* /proc/self/fd/N: for calls that take a path alone, or no O_PATH descriptor. */
#define RVL_FD_PATH_SIZE 32
void rvl_fd_path(int fd, char ret[RVL_FD_PATH_SIZE]);

/*
 * Where the object of a descriptor is, as this process sees it: to be shown, or compared with that
 * of another descriptor, not to be opened. Its length (never 0), or an error of readlink(2):
 * -ENAMETOOLONG where it has PATH_MAX bytes or more.
 */
ssize_t rvl_fd_read_path(int fd, char ret[PATH_MAX]);

/* Access and modification times as in st, of the object of a descriptor, O_PATH or not. Best effort:
 * for what is no change that people should see. */
void rvl_fd_restore_times(int fd, const struct statx *st);

/*
 * A stream of the names of a directory: closedir(3) is the caller's. fd is taken over, by an error
 * too; a negative one is an error that is returned.
 */
int rvl_dir_stream(int fd, DIR **ret);
/* The next name, but for "." and "..": 1, 0 at the end, or -errno. */
int rvl_dir_next(DIR *dir, const struct dirent **ret);

/* The st_dev of stat(2). */
uint64_t rvl_statx_dev(const struct statx *stx);

/* statx -> stat, st_ino and st_dev as they are. */
void rvl_stat_from_statx(const struct statx *stx, struct stat *ret);

/* dir/name, or the other one where one of them is "". Owned by the caller; NULL without memory. */
char *rvl_path_join(const char *dir, const char *name);

/* Is name one component that may be served: not empty, ".", "..", no slash? */
bool rvl_name_is_valid(const char *name);

#endif
