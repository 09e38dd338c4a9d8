/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a live mount tells of itself (base/stat_ioctl.h), fetched and parsed. */
#ifndef RVL_TOOLS_LIVE_H
#define RVL_TOOLS_LIVE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/stat_ioctl.h"

/*
 * Opens the root of a live mount. Returns a descriptor, owned by the caller, or -errno (logged).
 */
int rvl_live_open(const char *mount_point);

/*
 * One of the texts as an object: "name=value" is a member, "name" alone is true. is_number: values
 * are integers. Paths keep the escapes that options have; only what JSON or a terminal cannot take
 * is escaped once more. path: for messages. Returns 0 and *ret (owned by the caller), or -errno,
 * logged: not the root of a live mount of ours; -EPERM: not root, not the mount's owner.
 */
int rvl_live_get(int fd, const char *path, enum rvl_stat_text which, bool is_number, json_t **ret);

#endif
