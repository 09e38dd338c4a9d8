/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Paths met in a walk, in a file without a name instead of in memory: each item is a name and the
 * item of its directory, so a path costs what its last component costs. An item is known by where
 * it lies in the file. Not thread-safe.
 */
#ifndef RVL_CHECK_SPOOL_H
#define RVL_CHECK_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#define RVL_SPOOL_ROOT 0 /* the item of the root, whose path is "" */
#define RVL_SPOOL_DEPTH_MAX 65536 /* components of a path */

struct rvl_spool;

/* A file without a name in $TMPDIR, else /var/tmp, else /tmp. A descriptor owned by the caller, or
 * -errno. */
int rvl_temp_file_open(void);
/* All of it, at this offset. -errno, logged. */
int rvl_temp_file_write(int fd, const void *data, size_t len, uint64_t at);

int rvl_spool_new(struct rvl_spool **ret);
/* Accepts NULL. */
void rvl_spool_free(struct rvl_spool *spool);

/* name: any bytes but NUL, at most 65,535 (one component, or a path of its own below `parent`). */
int rvl_spool_add(struct rvl_spool *spool, uint64_t parent, const char *name, uint64_t *ret);
/* Path from the root, without a leading slash; owned by the caller. */
int rvl_spool_path(struct rvl_spool *spool, uint64_t item, char **ret);
/* The last component alone, and (may be NULL) the item of its directory. */
int rvl_spool_name(struct rvl_spool *spool, uint64_t item, char **ret, uint64_t *ret_parent);

#endif
