/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A server: one mount from its options to its end. It is made by main() before any thread runs, and
 * read-only from then on but for what its parts guard themselves.
 */
#ifndef RVL_SERVER_SERVER_H
#define RVL_SERVER_SERVER_H

#include <pthread.h>
#include <stdbool.h>

#include "index/index.h"
#include "layer/layer.h"
#include "overlay/overlay.h"
#include "server/daemon.h"
#include "server/options.h"

struct fuse_session;
struct rvl_transport;
struct rvl_passthrough;
struct rvl_awake;

#define RVL_MAX_WRITE (1U << 20) /* bytes of data in a request or reply */
/* of a thread that serves: decoding goes up through the ancestors (overlay/decode.c) */
#define RVL_STACK_SIZE (64UL << 20)

struct rvl_server {
	struct rvl_options options; /* owned */
	const char *mount_point; /* borrowed from main(); absolute */
	struct rvl_daemon daemon;
	uid_t owner; /* of the mount: may ask for its counters */
	bool has_acl; /* POSIX ACLs are in use */
	bool has_open; /* the kernel is to ask for each open */
	int lock_fds[2]; /* owned */
	struct rvl_stack stack; /* owned */
	struct rvl_index *index; /* owned */
	struct rvl_overlay *overlay; /* owned */
	char *config; /* owned; lines of `reverlayctl stat`, each ended by NUL */
	size_t config_len;
	struct fuse_session *session; /* owned by session.c while it runs */
	struct rvl_transport *transport; /* the same */
	struct rvl_passthrough *passthrough; /* the same */
	struct rvl_awake *awake; /* the same; NULL: CPUs are not kept awake */
	dev_t device; /* st_dev of the mount; 0: not known */
	_Atomic bool is_unmounted; /* by us, after a signal */
};

/*
 * Opens what the options name, mounts, serves until the end of the mount, lets go of all. 0 or
 * -errno, message logged.
 */
int rvl_server_run(struct rvl_server *server);

/*
 * Adds a line to what `reverlayctl stat` shows of the configuration. Only before requests are
 * served. -ENOMEM.
 */
int rvl_server_add_config(struct rvl_server *server, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Mount and serve: from fuse_session_new to fuse_session_destroy (session.c). -errno, message
 * logged.
 */
int rvl_session_run(struct rvl_server *server);

#endif
