/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How requests come and replies go: by io_uring where the kernel and libfuse have it and the option
 * allows it, else by /dev/fuse. Requests are handled alike on both.
 */
#ifndef RVL_SERVER_TRANSPORT_H
#define RVL_SERVER_TRANSPORT_H

#include <stddef.h>

struct rvl_server;
struct rvl_transport;

/* For a mounted session. *ret is owned by the caller. -ENOMEM, or of eventfd(2). */
int rvl_transport_new(struct rvl_server *server, struct rvl_transport **ret);
/* Accepts NULL. */
void rvl_transport_free(struct rvl_transport *transport);

/*
 * Serves until the end of the mount, or rvl_transport_stop; its threads have ended then. Adds to
 * the server's configuration what serves, and why not the other. 0 or -errno.
 */
int rvl_transport_serve(struct rvl_transport *transport);
/* From another thread: serving ends soon. */
void rvl_transport_stop(struct rvl_transport *transport);

/*
 * For the request that this thread serves: memory for a reply's data of up to size bytes from which
 * they need not be copied once more, or NULL. The request is lost once it is written to.
 */
char *rvl_transport_payload(size_t size);

#endif
