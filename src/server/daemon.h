/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The server as a process: in the foreground (-f), or a child that tells its parent when the mount
 * is live, and only then leaves the terminal. So every error until then is on stderr, and the
 * command's exit code is true.
 */
#ifndef RVL_SERVER_DAEMON_H
#define RVL_SERVER_DAEMON_H

#include <stdbool.h>

struct rvl_daemon {
	bool is_foreground;
	int ready_fd; /* owned; pipe to the parent, -EBADF in the foreground and once told */
};

/*
 * To be called first: descriptors 0, 1 and 2 are open, SIGPIPE is ignored, no umask, as many
 * descriptors as allowed.
 */
void rvl_process_prepare(void);

/*
 * Forks unless is_foreground; to be called before there are threads. Returns in the server only: 0
 * or -errno (logged). The waiting parent exits with 0 once the server is ready, with 1 if it ends
 * before.
 */
int rvl_daemon_start(struct rvl_daemon *daemon, bool is_foreground);

/*
 * The mount is live: leave session, terminal and directory, messages to syslog, let the parent
 * exit. From any thread.
 */
void rvl_daemon_ready(struct rvl_daemon *daemon);

#endif
