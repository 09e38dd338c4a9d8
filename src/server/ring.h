/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FUSE over io_uring (Linux 6.14, fs/fuse/dev_uring.c): one ring with one entry, for one thread.
 *
 * The kernel has a queue for each CPU and puts a request into an entry that was registered for the
 * CPU that asks. It finishes a request in the thread that gave the entry to it, so a thread that is
 * busy or blocked would hold up every entry it owns: so a thread has just one, and while it works
 * there is nothing that waits for it. The entry given back last is the first to be used again,
 * which keeps one thread of a queue warm.
 */
#ifndef RVL_SERVER_RING_H
#define RVL_SERVER_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct rvl_ring;

/*
 * A ring for the queue, on a descriptor of /dev/fuse (borrowed), whose requests and replies have up
 * to payload_size bytes. To be called by the thread that will use it; nothing is registered yet.
 * -errno of io_uring_setup(2) and io_uring_enter(2), which is tried with a command that does nothing:
 * -ENOSYS, -EPERM (denied), -ENOMEM; or -EINVAL: it lacks what is needed.
 */
int rvl_ring_new(int fuse_fd, unsigned queue, size_t payload_size, struct rvl_ring **ret);
/* Accepts NULL. */
void rvl_ring_free(struct rvl_ring *ring);

/*
 * Give the entry to the kernel, once INIT is answered. -errno: it is not taken, e.g. -EOPNOTSUPP if
 * fuse.enable_uring was cleared meanwhile.
 */
int rvl_ring_register(struct rvl_ring *ring);

/*
 * Wait for a request: gives the reply of the one before to the kernel. *ret is the request as it
 * would be read from /dev/fuse, in memory of the ring, until the reply. -EINTR: a signal came
 * first, call again; -ENOTCONN: the connection has ended.
 */
int rvl_ring_wait(struct rvl_ring *ring, void **ret, size_t *ret_size);

/* The same for the reply alone, at the end. */
void rvl_ring_flush(struct rvl_ring *ring);

/* Is this the answer to the request that was given out last? */
bool rvl_ring_is_asked(const struct rvl_ring *ring, uint64_t unique);
/* The reply: iov[0] is a struct fuse_out_header. Sent by the next wait. Bytes, or -1 with errno. */
ssize_t rvl_ring_reply(struct rvl_ring *ring, const struct iovec *iov, int count);
/* Where a reply's data may be put without being copied; the request is overwritten by it. */
char *rvl_ring_payload(struct rvl_ring *ring, size_t *ret_size);

#endif
