/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The descriptors of the server: a bounded cache, so that no object owns one. A descriptor is found
 * by number and kind, pinned while it is used, and closed when it is the least recently used one
 * over the limit. Locks: one mutex a shard, leaf in the order; close(2) happens outside.
 */
#ifndef RVL_OVERLAY_FDCACHE_H
#define RVL_OVERLAY_FDCACHE_H

#include <stdbool.h>
#include <stdint.h>

enum rvl_fd_kind {
	RVL_FD_UPPER_DIR, /* O_PATH on an upper directory */
	RVL_FD_LOWER, /* O_PATH on the topmost lower object */
	RVL_FD_LOWER_DATA, /* data that are in lower, O_RDONLY */
	RVL_FD_READ, /* data in upper, O_RDONLY */
	RVL_FD_WRITE, /* data in upper, O_RDWR */
	RVL_FD_SPECIAL, /* O_PATH on what is neither directory nor regular file, in upper, while its
			   entry is owed, or when it never got one */
	RVL_FD_PLACE, /* + n: O_PATH on the place in layer n of a lower directory, not the topmost */
};

struct rvl_fd_slot;
struct rvl_fdcache;

struct rvl_fd {
	int fd; /* borrowed from the cache while pinned */
	struct rvl_fd_slot *slot; /* counted */
};
#define RVL_FD_NONE ((struct rvl_fd){ .fd = -EBADF })

int rvl_fdcache_new(unsigned limit, struct rvl_fdcache **ret);
/* Closes all; nothing may be pinned. Accepts NULL. */
void rvl_fdcache_free(struct rvl_fdcache *cache);

/* Pin what is there: 0, or -ENOENT. */
int rvl_fdcache_get(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind,
		    struct rvl_fd *ret);
/* Hand over a descriptor and pin it; if another thread was faster, that one is pinned and fd
 * closed. On -ENOMEM fd is closed. */
int rvl_fdcache_add(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind, int fd,
		    struct rvl_fd *ret);
/* The same without pinning it. */
void rvl_fdcache_put(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind, int fd);
/* Accepts RVL_FD_NONE. */
void rvl_fdcache_unpin(struct rvl_fdcache *cache, struct rvl_fd *fd);
/* Forget one: closed at once, or by the last unpin. */
void rvl_fdcache_drop(struct rvl_fdcache *cache, uint64_t number, enum rvl_fd_kind kind);
/* Close all that is not pinned: after EMFILE. */
void rvl_fdcache_shrink(struct rvl_fdcache *cache);

#endif
