/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The mount point: checks before anything is changed, and changes to what is mounted there. */
#ifndef RVL_SERVER_MOUNTPOINT_H
#define RVL_SERVER_MOUNTPOINT_H

#include "layer/layer.h"
#include "server/options.h"

/*
 * Its absolute path, *ret owned by the caller. Missing, not a directory, a dead mount: -errno,
 * logged.
 */
int rvl_mountpoint_resolve(const char *path, char **ret);

/*
 * Must lie neither in upper nor in work (nor be one of them): what is there would be hidden from
 * the overlay itself. -EINVAL, logged.
 */
int rvl_mountpoint_check(const char *path, const struct rvl_stack *stack);

/*
 * `mount -o remount`: changes ro, rw, nosuid, … of a live mount of ours. Options of the overlay may
 * be named if they are what they are already. -errno, logged.
 */
int rvl_mountpoint_remount(const char *path, const struct rvl_options *options);

#endif
