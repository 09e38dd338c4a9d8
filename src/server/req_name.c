// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests on names: look-up (also "." and ".." of handles), forget, unlink, rmdir, rename. */
#include <errno.h>
#include <string.h>

#include "base/counters.h"
#include "server/lister.h"
#include "server/passthrough.h"
#include "server/reply.h"
#include "server/requests.h"

static bool is_dot(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

/*
 * The kernel takes each error of a handle for ESTALE (exportfs_decode_fh in fs/exportfs/expfs.c,
 * nfsd_set_fh_dentry in fs/nfsd/nfsfh.c) but this one, which knfsd tells its client as "try again".
 */
static int error_of_handle(int r)
{
	return r == -EINTR || r == -EAGAIN || r == -EMFILE || r == -ENFILE ? -ENOMEM : r;
}

void rvl_req_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct rvl_entry entry;
	int r = rvl_overlay_lookup(rvl_overlay_of(req), rvl_asker_of(req), parent, name, &entry);

	rvl_count(req_lookup);
	/* "." and ".." ask for an object, not for a name: there is nothing to remember. */
	if (is_dot(name)) {
		rvl_reply_entry(req, error_of_handle(r), &entry);
		return;
	}
	if (r == 0)
		rvl_lister_looks_up(rvl_asker_of(req), parent);
	if (r == -ENOENT)
		rvl_reply_absent(req);
	else
		rvl_reply_entry(req, r, &entry);
}

void rvl_req_forget(fuse_req_t req, fuse_ino_t number, uint64_t n_lookups)
{
	rvl_count(req_forget);
	rvl_passthrough_forget(rvl_server_of(req)->passthrough, number);
	rvl_overlay_forget(rvl_overlay_of(req), number, n_lookups);
	rvl_reply_none(req);
}

void rvl_req_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);

	rvl_count(req_forget_multi);
	for (size_t i = 0; i < count; i++) {
		rvl_passthrough_forget(rvl_server_of(req)->passthrough, forgets[i].ino);
		rvl_overlay_forget(overlay, forgets[i].ino, forgets[i].nlookup);
	}
	rvl_reply_none(req);
}

void rvl_req_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	rvl_count(req_unlink);
	rvl_reply_names(req, rvl_overlay_unlink(rvl_overlay_of(req), parent, name), parent);
}

void rvl_req_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	rvl_count(req_rmdir);
	rvl_reply_names(req, rvl_overlay_rmdir(rvl_overlay_of(req), parent, name), parent);
}

void rvl_req_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to_parent,
		    const char *to_name, unsigned flags)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	const struct rvl_cred cred = { .uid = ctx->uid, .gid = ctx->gid };
	uint64_t moved[2];
	int r = rvl_overlay_rename(rvl_overlay_of(req), &cred, parent, name, to_parent, to_name,
				   flags, moved);

	rvl_count(req_rename);
	for (size_t i = 0; r == 0 && i < 2; i++)
		if (moved[i])
			/* ".." of a directory is what it was where its parent is */
			rvl_tell(req, r, moved[i],
				 to_parent == parent ? RVL_CHANGE_ATTRIBUTES : RVL_CHANGE_PLACE);
	if (to_parent != parent)
		rvl_tell(req, r, to_parent, RVL_CHANGE_NAMES);
	rvl_reply_names(req, r, parent);
}
