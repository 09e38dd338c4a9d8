/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The threads that read requests from /dev/fuse and serve them. As few as will do read at a time,
 * most often one: it asks again and again for a moment before it sleeps, so that the next request
 * of a caller that goes on at once finds it awake. Waking a thread is the dearest part of a round
 * trip, and a second reader would be woken as often as the first (docs/decisions/0017).
 */
#ifndef RVL_SERVER_READERS_H
#define RVL_SERVER_READERS_H

struct fuse_session;
struct rvl_awake;

/*
 * Serves until the end of the session, in at most max_threads threads; they have ended then. A
 * reader asks for poll_us microseconds before it sleeps; 0: it sleeps at once. stop_fd: an eventfd
 * that is written to when the session is to end, by others (fuse_session_exit) or by a reader that
 * sees the end of the connection. awake: is told of each request; NULL: nobody is. 0 or -errno.
 */
int rvl_readers_run(struct fuse_session *session, int stop_fd, unsigned max_threads,
		    unsigned poll_us, struct rvl_awake *awake);

#endif
