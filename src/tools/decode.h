/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private extended attributes of objects in layers and in the index, made readable. */
#ifndef RVL_TOOLS_DECODE_H
#define RVL_TOOLS_DECODE_H

#include <jansson.h>

/*
 * All private attributes (trusted.overlay.* and user.overlay.*) of an object, an object of JSON
 * with a member for each. What is malformed is shown as {"damaged": reason, "hex": bytes}. Returns
 * 0 and *ret (may be empty), or -errno.
 */
int rvl_decode_xattrs(int dirfd, const char *name, json_t **ret);

#endif
