// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Requests that make objects and names. The umask comes with each (FUSE_CAP_DONT_MASK): a default
 * ACL replaces it.
 */
#include "base/counters.h"
#include "server/reply.h"
#include "server/requests.h"

static struct rvl_cred cred_of(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct rvl_cred){ .uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask };
}

static void reply_entry(fuse_req_t req, int result, const struct rvl_entry *entry, uint64_t parent)
{
	rvl_tell(req, result, parent, RVL_CHANGE_NAMES);
	rvl_reply_entry(req, result, entry);
}

void rvl_req_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	const struct rvl_cred cred = cred_of(req);
	struct rvl_entry entry;
	int r = rvl_overlay_mknod(rvl_overlay_of(req), &cred, parent, name, mode, rdev, &entry);

	rvl_count(req_mknod);
	reply_entry(req, r, &entry, parent);
}

void rvl_req_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	const struct rvl_cred cred = cred_of(req);
	struct rvl_entry entry;
	int r = rvl_overlay_mkdir(rvl_overlay_of(req), &cred, parent, name, mode, &entry);

	rvl_count(req_mkdir);
	reply_entry(req, r, &entry, parent);
}

void rvl_req_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	const struct rvl_cred cred = cred_of(req);
	struct rvl_entry entry;
	int r = rvl_overlay_symlink(rvl_overlay_of(req), &cred, parent, name, target, &entry);

	rvl_count(req_symlink);
	reply_entry(req, r, &entry, parent);
}

void rvl_req_link(fuse_req_t req, fuse_ino_t number, fuse_ino_t parent, const char *name)
{
	struct rvl_entry entry;
	int r = rvl_overlay_link(rvl_overlay_of(req), number, parent, name, &entry);

	rvl_count(req_link);
	reply_entry(req, r, &entry, parent);
}

/* Where opens are not asked for, no RELEASE comes either. */
static void reply_made(fuse_req_t req, int result, const struct rvl_entry *entry,
		       struct fuse_file_info *fi)
{
	if (result == 0 && !rvl_server_of(req)->has_open)
		rvl_overlay_release_file(rvl_overlay_of(req), entry->number);
	rvl_reply_opened(req, result, entry->number, entry, fi);
}

void rvl_req_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		    struct fuse_file_info *fi)
{
	const struct rvl_cred cred = cred_of(req);
	struct rvl_entry entry = {};
	int r = rvl_overlay_create(rvl_overlay_of(req), &cred, parent, name, mode, &entry);

	rvl_count(req_create);
	rvl_tell(req, r, parent, RVL_CHANGE_NAMES);
	reply_made(req, r, &entry, fi);
}

void rvl_req_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
	const struct rvl_cred cred = cred_of(req);
	struct rvl_entry entry = {};
	int r = rvl_overlay_tmpfile(rvl_overlay_of(req), &cred, parent, mode, &entry);

	rvl_count(req_tmpfile);
	reply_made(req, r, &entry, fi);
}
