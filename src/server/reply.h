/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Answers. A reply that the kernel no longer wants (the request was interrupted, the mount is gone)
 * takes back what it would have counted: look-ups, opens.
 *
 * Time-outs are practically infinite: what is below changes only through this mount. But attributes
 * of a file that is open for passthrough and may be mapped are not kept (passthrough.h).
 */
#ifndef RVL_SERVER_REPLY_H
#define RVL_SERVER_REPLY_H

#include "server/fuse.h"
#include "server/server.h"

#define RVL_TIMEOUT_S 1e9

static inline struct rvl_server *rvl_server_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static inline struct rvl_overlay *rvl_overlay_of(fuse_req_t req)
{
	return rvl_server_of(req)->overlay;
}

/* The thread that asks, in the eyes of the kernel: not its process (fs/fuse/dev.c, fuse_get_req). */
static inline pid_t rvl_asker_of(fuse_req_t req)
{
	return fuse_req_ctx(req)->pid;
}

/* An object as libfuse's replies have it. */
void rvl_entry_to_fuse(fuse_req_t req, const struct rvl_entry *entry, struct fuse_entry_param *ret);
/* How long the kernel may keep the attributes, in seconds. */
double rvl_attr_timeout(fuse_req_t req, uint64_t number);

/*
 * Before the reply to a change, where that does not tell the attributes of number: sends the notice
 * that rvl_overlay_changed() asks for, if any. result: 0 or -errno of the change; an error voids nothing
 * in the kernel, so that who asked counts as anybody.
 */
void rvl_tell(fuse_req_t req, int result, uint64_t number, enum rvl_change change);
/* The same of what the kernel does not know to be changed: it takes the attributes that it has for
 * good until it is told. */
void rvl_tell_old(fuse_req_t req, uint64_t number);
/* The same of what changed beside the object of a request: tell_changed of rvl_overlay_config, whose
 * context is the server. */
void rvl_tell_changed(void *server, uint64_t number);
/* The kernel is not to keep the listing of this directory, which was read to its end. */
void rvl_tell_not_to_keep(fuse_req_t req, uint64_t number);

/* result: 0 or -errno. */
void rvl_reply_status(fuse_req_t req, int result);
/* The same, after a change of this object, which is told in any case: an error may have come after
 * the first steps. */
void rvl_reply_changed(fuse_req_t req, int result, uint64_t number);
/* The same, after a change of names in this directory. */
void rvl_reply_names(fuse_req_t req, int result, uint64_t number);
void rvl_reply_none(fuse_req_t req);
/* entry: counted once by the overlay; looked at only where result is 0. */
void rvl_reply_entry(fuse_req_t req, int result, const struct rvl_entry *entry);
/* The name does not exist, and the kernel may remember it. */
void rvl_reply_absent(fuse_req_t req);
void rvl_reply_attr(fuse_req_t req, int result, const struct rvl_entry *entry);
/* A file just opened; entry for a new one (CREATE, TMPFILE), else NULL. */
void rvl_reply_opened(fuse_req_t req, int result, uint64_t number, const struct rvl_entry *entry,
		      struct fuse_file_info *fi);
/* result: bytes written, or -errno. */
void rvl_reply_written(fuse_req_t req, ssize_t result);
/* result: bytes in buf, or -errno. is_size_only: the reply to a question for the length. */
void rvl_reply_bytes(fuse_req_t req, ssize_t result, const void *buf, bool is_size_only);

#endif
