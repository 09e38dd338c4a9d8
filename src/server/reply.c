// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Answers: from the overlay's results to libfuse's. Every request is counted once: here, or by who
 * answers it with a function of libfuse.
 */
#include "server/reply.h"

#include <errno.h>

#include "base/counters.h"
#include "base/log.h"
#include "server/passthrough.h"

#define ERRNO_MAX \
	511 /* the kernel (fuse_dev_do_write) takes -511 … 0 only, else the reply is lost */

#define MOMENT_S 1.0 /* for which attributes are kept that may be changing */

/* With allow_root libfuse refuses the others, request by request: so the kernel must ask. */
static double timeout_of(fuse_req_t req)
{
	return rvl_server_of(req)->options.is_allow_root ? 0 : RVL_TIMEOUT_S;
}

double rvl_attr_timeout(fuse_req_t req, uint64_t number)
{
	const double most = timeout_of(req);

	switch (rvl_passthrough_is_mapped(rvl_server_of(req)->passthrough, number)) {
	case RVL_MAY_BE_MAPPED:
		return 0;
	case RVL_WAS_MAPPED:
		return most < MOMENT_S ? most : MOMENT_S;
	default:
		return most;
	}
}

void rvl_entry_to_fuse(fuse_req_t req, const struct rvl_entry *entry, struct fuse_entry_param *ret)
{
	*ret = (struct fuse_entry_param){
		.ino = entry->number,
		.generation = entry->generation,
		.attr = entry->st,
		.attr_timeout = rvl_attr_timeout(req, entry->number),
		.entry_timeout = timeout_of(req),
	};
}

void rvl_reply_status(fuse_req_t req, int result)
{
	if (result > 0 || result < -ERRNO_MAX) {
		rvl_warn_limited("a request ended with %d, which is no error code", result);
		result = -EIO;
	}
	/* Damage in a layer or the index: to a program it is what cannot be read. */
	if (result == -EUCLEAN)
		result = -EIO;
	rvl_count(requests);
	fuse_reply_err(req, -result);
}

static void send_notice(const struct rvl_server *server, uint64_t number, enum rvl_notice notice)
{
	/* attributes go in any case; pages of a directory are its listing */
	const off_t offset = notice == RVL_NOTICE_LISTING ? 0 : -1;

	rvl_count(notices);
	fuse_lowlevel_notify_inval_inode(server->session, number, offset, 0);
}

void rvl_tell(fuse_req_t req, int result, uint64_t number, enum rvl_change change)
{
	/* an error voids nothing that the kernel has, though the first steps may be done */
	const pid_t changer = result < 0 ? 0 : rvl_asker_of(req);
	const enum rvl_notice notice =
		rvl_overlay_changed(rvl_overlay_of(req), changer, number, change);

	if (notice != RVL_NOTICE_NONE)
		send_notice(rvl_server_of(req), number, notice);
}

void rvl_tell_old(fuse_req_t req, uint64_t number)
{
	(void)rvl_overlay_changed(rvl_overlay_of(req), rvl_asker_of(req), number,
				  RVL_CHANGE_ATTRIBUTES);
	send_notice(rvl_server_of(req), number, RVL_NOTICE_ATTRIBUTES);
}

void rvl_tell_not_to_keep(fuse_req_t req, uint64_t number)
{
	send_notice(rvl_server_of(req), number, RVL_NOTICE_LISTING);
}

void rvl_tell_changed(void *server, uint64_t number)
{
	/* recovery: nothing is mounted */
	if (((const struct rvl_server *)server)->session)
		send_notice(server, number, RVL_NOTICE_ATTRIBUTES);
}

void rvl_reply_changed(fuse_req_t req, int result, uint64_t number)
{
	rvl_tell(req, result, number, RVL_CHANGE_ATTRIBUTES);
	rvl_reply_status(req, result);
}

void rvl_reply_names(fuse_req_t req, int result, uint64_t number)
{
	rvl_tell(req, result, number, RVL_CHANGE_NAMES);
	rvl_reply_status(req, result);
}

void rvl_reply_none(fuse_req_t req)
{
	rvl_count(requests);
	fuse_reply_none(req);
}

void rvl_reply_entry(fuse_req_t req, int result, const struct rvl_entry *entry)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	struct fuse_entry_param param;

	if (result < 0) {
		rvl_reply_status(req, result);
		return;
	}
	rvl_count(requests);
	rvl_entry_to_fuse(req, entry, &param);
	if (fuse_reply_entry(req, &param) != 0)
		rvl_overlay_forget(overlay, entry->number, 1);
}

void rvl_reply_absent(fuse_req_t req)
{
	const struct fuse_entry_param param = { .entry_timeout = timeout_of(req) };

	rvl_count(requests);
	fuse_reply_entry(req, &param);
}

void rvl_reply_attr(fuse_req_t req, int result, const struct rvl_entry *entry)
{
	if (result < 0) {
		rvl_reply_status(req, result);
		return;
	}
	rvl_count(requests);
	fuse_reply_attr(req, &entry->st, rvl_attr_timeout(req, entry->number));
}

static void take_back(struct rvl_overlay *overlay, uint64_t number, const struct rvl_entry *entry)
{
	rvl_overlay_release_file(overlay, number);
	if (entry)
		rvl_overlay_forget(overlay, number, 1);
}

void rvl_reply_opened(fuse_req_t req, int result, uint64_t number, const struct rvl_entry *entry,
		      struct fuse_file_info *fi)
{
	struct rvl_server *server = rvl_server_of(req);
	struct rvl_overlay *overlay = server->overlay;
	int r = result;

	if (r == 0)
		r = rvl_passthrough_open(server->passthrough, number, fuse_req_ctx(req)->uid,
					 entry != NULL, fi);
	if (r < 0) {
		if (result == 0)
			take_back(overlay, number, entry);
		rvl_reply_status(req, r);
		return;
	}
	/* Data changes only through this mount; a close has nothing to flush. */
	fi->keep_cache = !fi->backing_id;
	fi->noflush = 1;
	rvl_count(requests);
	if (entry) {
		struct fuse_entry_param param;

		rvl_entry_to_fuse(req, entry, &param);
		r = fuse_reply_create(req, &param, fi);
	} else {
		r = fuse_reply_open(req, fi);
	}
	if (r == 0)
		return;
	rvl_passthrough_release(server->passthrough, number, fi->flags);
	take_back(overlay, number, entry);
}

void rvl_reply_written(fuse_req_t req, ssize_t result)
{
	if (result < 0) {
		rvl_reply_status(req, result);
		return;
	}
	rvl_count(requests);
	fuse_reply_write(req, result);
}

void rvl_reply_bytes(fuse_req_t req, ssize_t result, const void *buf, bool is_size_only)
{
	if (result < 0) {
		rvl_reply_status(req, result);
		return;
	}
	rvl_count(requests);
	if (is_size_only)
		fuse_reply_xattr(req, result);
	else
		fuse_reply_buf(req, buf, result);
}
