// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Requests by ioctl(2): the inode flags of chattr(1) and lsattr(1), in both forms (the kernel has
 * checked rights: vfs_fileattr_set), and our own for `reverlayctl stat` (base/stat_ioctl.h).
 */
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/stat_ioctl.h"
#include "index/map.h"
#include "server/reply.h"
#include "server/requests.h"

static void reply_data(fuse_req_t req, int result, const void *data, size_t size)
{
	if (result < 0) {
		rvl_reply_status(req, result);
		return;
	}
	rvl_count(requests);
	fuse_reply_ioctl(req, 0, data, size);
}

/* ---- inode flags ---- */

static const struct {
	unsigned flag; /* FS_*_FL */
	unsigned xflag; /* FS_XFLAG_* */
} flag_forms[] = {
	{ FS_SYNC_FL, FS_XFLAG_SYNC },	     { FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE },
	{ FS_APPEND_FL, FS_XFLAG_APPEND },   { FS_NODUMP_FL, FS_XFLAG_NODUMP },
	{ FS_NOATIME_FL, FS_XFLAG_NOATIME },
};
#define N_FLAG_FORMS (sizeof(flag_forms) / sizeof(flag_forms[0]))

static void get_flags(fuse_req_t req, uint64_t number, const void *in)
{
	unsigned flags = 0;
	int r = rvl_overlay_get_flags(rvl_overlay_of(req), number, &flags);

	reply_data(req, r, &flags, sizeof(flags));
}

/* The kernel does not take it for a change, but the ctime is another. */
static void reply_flags(fuse_req_t req, uint64_t number, int result)
{
	rvl_tell_old(req, number);
	reply_data(req, result, NULL, 0);
}

static void set_flags(fuse_req_t req, uint64_t number, const void *in)
{
	unsigned flags;

	memcpy(&flags, in, sizeof(flags));
	reply_flags(req, number, rvl_overlay_set_flags(rvl_overlay_of(req), number, flags));
}

static void get_xflags(fuse_req_t req, uint64_t number, const void *in)
{
	struct fsxattr x = {};
	unsigned flags = 0;
	int r = rvl_overlay_get_flags(rvl_overlay_of(req), number, &flags);

	for (size_t i = 0; i < N_FLAG_FORMS; i++)
		if (flags & flag_forms[i].flag)
			x.fsx_xflags |= flag_forms[i].xflag;
	reply_data(req, r, &x, sizeof(x));
}

static void set_xflags(fuse_req_t req, uint64_t number, const void *in)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	struct fsxattr x;
	unsigned flags = 0;
	int r;

	memcpy(&x, in, sizeof(x));
	/* Extent size hints and project quotas belong to a layer's filesystem. */
	if (x.fsx_extsize || x.fsx_projid || x.fsx_cowextsize) {
		rvl_reply_status(req, -EOPNOTSUPP);
		return;
	}
	r = rvl_overlay_get_flags(overlay, number, &flags);
	for (size_t i = 0; i < N_FLAG_FORMS; i++) {
		flags &= ~flag_forms[i].flag;
		if (x.fsx_xflags & flag_forms[i].xflag) {
			flags |= flag_forms[i].flag;
			x.fsx_xflags &= ~flag_forms[i].xflag;
		}
	}
	if (r == 0)
		r = x.fsx_xflags ? -EOPNOTSUPP : rvl_overlay_set_flags(overlay, number, flags);
	reply_flags(req, number, r);
}

/* ---- what the mount tells of itself ---- */

static size_t format_counters(char *buf, size_t size)
{
	size_t len = 0;

#define X(name, unit, help)                                                                       \
	if (len < size)                                                                           \
		len += snprintf(buf + len, size - len, #name "=%llu",                             \
				(unsigned long long)atomic_load_explicit(&rvl_counters.name,      \
									 memory_order_relaxed)) + \
		       1;
	RVL_COUNTERS(X)
#undef X
	return len < size ? len : size;
}

static int describe_map(const struct rvl_server *server, bool is_to_be_made, char **ret,
			size_t *ret_len)
{
	struct rvl_map_info info;
	int r = is_to_be_made ? rvl_overlay_build_map(server->overlay) : 0;
	FILE *to;

	r = r ?: rvl_overlay_map_info(server->overlay, &info);
	if (r < 0)
		return r;
	to = open_memstream(ret, ret_len);
	if (!to)
		return -ENOMEM;
	if (info.is_complete)
		fprintf(to, "complete%c", '\0');
	if (info.is_in_memory)
		fprintf(to, "in_memory%c", '\0');
	fprintf(to, "names=%llu%c", (unsigned long long)info.n_names, '\0');
	fprintf(to, "bytes=%llu%c", (unsigned long long)info.n_bytes, '\0');
	if (fclose(to) == 0)
		return 0;
	free(*ret);
	*ret = NULL;
	return -ENOMEM;
}

static void get_stat(fuse_req_t req, uint64_t number, const void *in)
{
	const struct rvl_server *server = rvl_server_of(req);
	const uid_t uid = fuse_req_ctx(req)->uid;
	_cleanup_free_ char *object = NULL;
	struct rvl_stat_page page = {};
	char counters[sizeof(page.data)];
	const char *text;
	size_t len;
	int r;

	if (number != FUSE_ROOT_ID) {
		rvl_reply_status(req, -ENOTTY);
		return;
	}
	if (uid != 0 && uid != server->owner) {
		rvl_reply_status(req, -EPERM);
		return;
	}
	memcpy(&page, in, offsetof(struct rvl_stat_page, data));
	switch (page.text) {
	case RVL_STAT_COUNTERS:
		text = counters;
		page.total = format_counters(counters, sizeof(counters));
		break;
	case RVL_STAT_CONFIG:
		text = server->config;
		page.total = server->config_len;
		break;
	case RVL_STAT_OBJECT:
	case RVL_STAT_MAP:
		r = page.text == RVL_STAT_MAP ?
			    describe_map(server, page.total == 1, &object, &len) :
			    rvl_overlay_describe(server->overlay, page.total, &object, &len);
		if (r < 0) {
			rvl_reply_status(req, r);
			return;
		}
		text = object;
		page.total = len;
		break;
	default:
		rvl_reply_status(req, -EINVAL);
		return;
	}
	page.len = 0;
	if (page.offset < page.total) {
		const uint64_t rest = page.total - page.offset;

		page.len = rest < sizeof(page.data) ? rest : sizeof(page.data);
		memcpy(page.data, text + page.offset, page.len);
	}
	reply_data(req, 0, &page, sizeof(page));
}

/* ---- which is which ---- */

static const struct {
	unsigned cmd;
	size_t in_size, out_size;
	void (*fn)(fuse_req_t req, uint64_t number, const void *in);
} commands[] = {
	/* The first two are declared with `long` but move an int (linux/fs.h). */
	{ FS_IOC_GETFLAGS, 0, sizeof(unsigned), get_flags },
	{ FS_IOC_SETFLAGS, sizeof(unsigned), 0, set_flags },
	{ FS_IOC_FSGETXATTR, 0, sizeof(struct fsxattr), get_xflags },
	{ FS_IOC_FSSETXATTR, sizeof(struct fsxattr), 0, set_xflags },
	{ RVL_IOC_STAT, sizeof(struct rvl_stat_page), sizeof(struct rvl_stat_page), get_stat },
};

void rvl_req_ioctl(fuse_req_t req, fuse_ino_t number, unsigned cmd, void *arg,
		   struct fuse_file_info *fi, unsigned flags, const void *in, size_t in_size,
		   size_t out_size)
{
	rvl_count(req_ioctl);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (commands[i].cmd != cmd)
			continue;
		if (in_size < commands[i].in_size || out_size < commands[i].out_size)
			rvl_reply_status(req, -EINVAL);
		else
			commands[i].fn(req, number, in);
		return;
	}
	rvl_reply_status(req, -ENOTTY);
}
