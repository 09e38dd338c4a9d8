// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests on attributes: getattr, statx, setattr, readlink, and statfs. */
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/counters.h"
#include "server/caller.h"
#include "server/reply.h"
#include "server/requests.h"

void rvl_req_getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
	struct rvl_entry entry;

	rvl_count(req_getattr);
	rvl_reply_attr(req,
		       rvl_overlay_getattr(rvl_overlay_of(req), rvl_asker_of(req), number, &entry),
		       &entry);
}

/* ---- setattr ---- */

static const struct {
	int fuse;
	unsigned ours;
} set_bits[] = {
	{ FUSE_SET_ATTR_MODE, RVL_SET_MODE },	    { FUSE_SET_ATTR_UID, RVL_SET_UID },
	{ FUSE_SET_ATTR_GID, RVL_SET_GID },	    { FUSE_SET_ATTR_SIZE, RVL_SET_SIZE },
	{ FUSE_SET_ATTR_ATIME, RVL_SET_ATIME },	    { FUSE_SET_ATTR_MTIME, RVL_SET_MTIME },
	{ FUSE_SET_ATTR_ATIME_NOW, RVL_SET_ATIME }, { FUSE_SET_ATTR_MTIME_NOW, RVL_SET_MTIME },
};

/*
 * Is setuid to go? The kernel leaves it to us at every change of the owner, also chown(2) with -1
 * for both, which sets nothing (fs/fuse/dir.c, fuse_setattr), and says so at a truncate without
 * CAP_FSETID (FATTR_KILL_SUIDGID).
 */
static bool is_kill_wanted(int to_set, unsigned mask)
{
	if (mask & RVL_SET_MODE)
		return false;
	return mask == 0 || mask & (RVL_SET_UID | RVL_SET_GID) || to_set & FUSE_SET_ATTR_KILL_SUID;
}

void rvl_req_setattr(fuse_req_t req, fuse_ino_t number, struct stat *attr, int to_set,
		     struct fuse_file_info *fi)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	struct rvl_entry entry;
	unsigned mask = 0;
	int r = 0;

	rvl_count(req_setattr);
	for (size_t i = 0; i < sizeof(set_bits) / sizeof(set_bits[0]); i++)
		if (to_set & set_bits[i].fuse)
			mask |= set_bits[i].ours;
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		attr->st_atim.tv_nsec = UTIME_NOW;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		attr->st_mtim.tv_nsec = UTIME_NOW;
	if (mask & RVL_SET_SIZE && fi)
		mask |= RVL_SET_OPEN;
	if (is_kill_wanted(to_set, mask))
		r = rvl_caller_kill_suidgid(req, number, mask & (RVL_SET_UID | RVL_SET_GID));
	if (r == 0 && mask)
		r = rvl_overlay_setattr(overlay, number, attr, mask, &entry);
	else if (r == 0)
		r = rvl_overlay_getattr(overlay, rvl_asker_of(req), number, &entry);
	if (r < 0) /* it may be copied up */
		rvl_tell(req, r, number, RVL_CHANGE_ATTRIBUTES);
	rvl_reply_attr(req, r, &entry);
}

/* ---- the others ---- */

void rvl_req_readlink(fuse_req_t req, fuse_ino_t number)
{
	char target[PATH_MAX + 1];
	int r = rvl_overlay_readlink(rvl_overlay_of(req), number, target, sizeof(target));

	rvl_count(req_readlink);
	if (r < 0) {
		rvl_reply_status(req, r);
		return;
	}
	rvl_count(requests);
	fuse_reply_readlink(req, target);
}

void rvl_req_statfs(fuse_req_t req, fuse_ino_t number)
{
	struct statvfs st;
	int r = rvl_overlay_statfs(rvl_overlay_of(req), number ?: FUSE_ROOT_ID, &st);

	rvl_count(req_statfs);
	if (r < 0) {
		rvl_reply_status(req, r);
		return;
	}
	rvl_count(requests);
	fuse_reply_statfs(req, &st);
}

#ifdef RVL_HAVE_FUSE_STATX
static struct statx_timestamp time_to_statx(struct timespec t)
{
	return (struct statx_timestamp){ .tv_sec = t.tv_sec, .tv_nsec = t.tv_nsec };
}

/* Asked by the kernel (6.6) where the birth time is wanted. */
void rvl_req_statx(fuse_req_t req, fuse_ino_t number, int flags, int mask,
		   struct fuse_file_info *fi)
{
	struct rvl_entry entry;
	struct statx stx = { .stx_mask = STATX_BASIC_STATS };
	int r = rvl_overlay_getattr(rvl_overlay_of(req), rvl_asker_of(req), number, &entry);

	rvl_count(req_statx);
	if (r < 0) {
		rvl_reply_status(req, r);
		return;
	}
	stx.stx_ino = entry.number;
	stx.stx_mode = entry.st.st_mode;
	stx.stx_nlink = entry.st.st_nlink;
	stx.stx_uid = entry.st.st_uid;
	stx.stx_gid = entry.st.st_gid;
	stx.stx_size = entry.st.st_size;
	stx.stx_blocks = entry.st.st_blocks;
	stx.stx_blksize = entry.st.st_blksize;
	stx.stx_rdev_major = major(entry.st.st_rdev);
	stx.stx_rdev_minor = minor(entry.st.st_rdev);
	stx.stx_atime = time_to_statx(entry.st.st_atim);
	stx.stx_mtime = time_to_statx(entry.st.st_mtim);
	stx.stx_ctime = time_to_statx(entry.st.st_ctim);
	if (entry.btime.tv_sec || entry.btime.tv_nsec) {
		stx.stx_mask |= STATX_BTIME;
		stx.stx_btime = time_to_statx(entry.btime);
	}
	rvl_count(requests);
	fuse_reply_statx(req, 0, &stx, rvl_attr_timeout(req, number));
}
#endif
