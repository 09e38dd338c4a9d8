/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A metacopy file gets data of its own, in place (docs/consistency.md, "Data of a metacopy file in
 * upper"). What that takes from it (keep.h) is in the value of its overlay.metacopy from before the
 * first byte until the file is whole, so that who meets a fetch that was cut short can put it back:
 * docs/format.md. To the kernel such a value is that of a metacopy file without a digest
 * (fs/overlayfs/util.c, ovl_check_metacopy_xattr).
 *
 * No locks: the caller sees to it that one thread at a time is at a file.
 */
#ifndef RVL_LAYER_FETCH_H
#define RVL_LAYER_FETCH_H

#include <stdint.h>

#include "layer/keep.h"
#include "layer/xattr.h"

#define RVL_METACOPY_VALUE_MIN 4  /* but for an empty one */
#define RVL_METACOPY_VALUE_MAX 68 /* with the largest digest, SHA-512 */

/* A value of overlay.metacopy. */
enum rvl_metacopy {
	RVL_METACOPY_NONE,
	RVL_METACOPY_PLAIN,
	RVL_METACOPY_DIGEST,
	RVL_METACOPY_FETCH, /* a fetch has begun: the value has what it takes away */
};

/* Returns which, or -EUCLEAN. ret_kept (may be NULL): filled for RVL_METACOPY_FETCH, of st the mode
 * without the type, owner, group, mtime and size. */
int rvl_metacopy_decode(const void *value, size_t len, struct rvl_kept *ret_kept);
/* Of a fetch. Returns the length, 0 if the capability is too long to be one. */
size_t rvl_fetch_encode(const struct rvl_kept *kept, uint8_t ret[RVL_METACOPY_VALUE_MAX]);

/*
 * fd: the metacopy file, open for reading and writing. After begin, and the data, comes end: the
 * file is whole; or, also where end fails, undo: it is as before, with a hole for data.
 * *ret_kept: for these two, and the size. Where the value cannot say it (the file has a digest;
 * there is no room for it; with userxattr anyone may set the attribute) it is kept in memory alone.
 */
int rvl_fetch_begin(const struct rvl_xattr_names *names, int fd, struct rvl_kept *ret_kept);
int rvl_fetch_end(const struct rvl_xattr_names *names, int fd, const struct rvl_kept *kept);
/* What can be put back is; the first error is returned. */
int rvl_fetch_undo(const struct rvl_xattr_names *names, int fd, const struct rvl_kept *kept);

/*
 * Puts back what a fetch that was cut short has taken, and ends it; 0 also if there is none. Data
 * stay: who knows where else they are? What others may have changed since is left to them: setuid,
 * setgid and capability come back only to the same owner and permissions. An error: not all could
 * be put back, and it is ended all the same, if that can be written.
 */
int rvl_fetch_recover(const struct rvl_xattr_names *names, int fd);

#endif
