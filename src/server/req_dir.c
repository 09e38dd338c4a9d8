// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Listing. Directories are opened without asking, and the kernel keeps each listing that it has read
 * to its end, until a name changes (docs/decisions/0006).
 */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "server/lister.h"
#include "server/reply.h"
#include "server/requests.h"
#include "server/transport.h"

#define REPLY_MAX (1U << 20)
#define PLUS_ENTRY_MIN 160 /* struct fuse_direntplus with a name of one byte, aligned */

/* Asked once for a mount: after ENOSYS the kernel opens directories without asking (Linux 5.1). */
void rvl_req_opendir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
	rvl_count(req_opendir);
	if (rvl_server_of(req)->options.is_allow_root) { /* who asks is looked at each time */
		rvl_count(requests);
		fuse_reply_open(req, fi);
		return;
	}
	rvl_reply_status(req, -ENOSYS);
}

/* A reply that is being filled. */
struct filling {
	fuse_req_t req;
	char *buf;
	size_t size, used;
	uint64_t *counted; /* numbers that the reply counts as looked up; NULL: without attributes */
	size_t n_counted;
	unsigned n_without; /* names that the kernel has to ask for, but for "." and ".." */
};

static bool fill(void *arg, const struct rvl_dirent *dirent)
{
	struct filling *f = arg;
	const bool is_dot = dirent->next_offset <= RVL_OFFSET_DOTS;
	const size_t room = f->size - f->used;
	struct fuse_entry_param param = {
		.attr = { .st_ino = dirent->number, .st_mode = DTTOIF(dirent->type) },
	};
	size_t need;

	/* Without attributes: nodeid 0, which the kernel takes as a plain entry. */
	if (dirent->entry && !is_dot)
		rvl_entry_to_fuse(f->req, dirent->entry, &param);
	need = fuse_add_direntry_plus(f->req, f->buf + f->used, room, dirent->name, &param,
				      dirent->next_offset);
	if (need > room)
		return false;
	if (param.ino)
		f->counted[f->n_counted++] = param.ino;
	else if (!is_dot && !dirent->is_kept)
		f->n_without++;
	f->used += need;
	return true;
}

/*
 * The reply that ends a pass completes the kernel's listing. If that is not to be kept, its pages are
 * dropped before the reply, so that no other pass reads them.
 */
static void end_pass(fuse_req_t req, uint64_t number)
{
	if (!rvl_overlay_end_pass(rvl_overlay_of(req), number))
		rvl_tell_not_to_keep(req, number);
}

/* The kernel never sends READDIR: session.c refuses its choice between the two. */
void rvl_req_readdirplus(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset,
			 struct fuse_file_info *fi)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	_cleanup_free_ char *own = NULL;
	_cleanup_free_ uint64_t *counted = NULL;
	const pid_t asker = rvl_asker_of(req);
	struct filling f = { .req = req };
	const bool with_attr = rvl_lister_wants_attr(asker, (uint64_t)offset);
	int r;

	rvl_count(req_readdirplus);
	f.size = size < REPLY_MAX ? size : REPLY_MAX;
	f.buf = rvl_transport_payload(f.size);
	if (!f.buf)
		f.buf = own = malloc(f.size ?: 1);
	if (with_attr)
		f.counted = counted = malloc((f.size / PLUS_ENTRY_MIN + 1) * sizeof(*counted));
	if (!f.buf || (with_attr && !counted)) {
		rvl_reply_status(req, -ENOMEM);
		return;
	}
	r = rvl_overlay_readdir(overlay, asker, number, offset, with_attr, fill, &f);
	/* What was read before an error is good; the next request meets the error again. */
	if (r < 0 && f.used == 0) {
		rvl_reply_status(req, r);
		return;
	}
	if (f.used == 0)
		end_pass(req, number);
	rvl_lister_has_listed(asker, number, (uint64_t)offset, f.n_without);
	rvl_count_n(listed_attributes, f.n_counted);
	rvl_count(requests);
	if (fuse_reply_buf(req, f.buf, f.used) != 0)
		for (size_t i = 0; i < f.n_counted; i++)
			rvl_overlay_forget(overlay, counted[i], 1);
}
