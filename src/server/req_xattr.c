// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests on extended attributes, POSIX ACLs among them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "layer/xattr.h"
#include "base/counters.h"
#include "server/caller.h"
#include "server/reply.h"
#include "server/requests.h"

/* A buffer for a value or a list; the kernel asks for no more than 64 KiB. */
static char *buffer_for(size_t size)
{
	return size <= RVL_XATTR_VALUE_MAX ? malloc(size ?: 1) : NULL;
}

void rvl_req_getxattr(fuse_req_t req, fuse_ino_t number, const char *name, size_t size)
{
	_cleanup_free_ char *buf = buffer_for(size);
	ssize_t r = -ENOMEM;

	rvl_count(req_getxattr);
	if (buf)
		r = rvl_overlay_getxattr(rvl_overlay_of(req), number, name, buf, size);
	rvl_reply_bytes(req, r, buf, size == 0);
}

/* trusted.* is for the privileged alone; filesystems with a list of their own see to it, FUSE does
 * not. */
static ssize_t drop_trusted(fuse_req_t req, char *list, ssize_t len)
{
	bool is_asked = false;
	char *to = list;

	for (char *name = list, *next; name < list + len; name = next) {
		next = name + strlen(name) + 1;
		if (!strncmp(name, "trusted.", 8)) {
			if (!is_asked && rvl_caller_may_trusted(req))
				return len;
			is_asked = true;
			continue;
		}
		memmove(to, name, next - name);
		to += next - name;
	}
	return to - list;
}

void rvl_req_listxattr(fuse_req_t req, fuse_ino_t number, size_t size)
{
	rvl_count(req_listxattr);
	/* the whole list, also where only its length is asked for: names may have to go */
	_cleanup_free_ char *buf = buffer_for(RVL_XATTR_LIST_MAX);
	ssize_t r = -ENOMEM;

	if (buf)
		r = rvl_overlay_listxattr(rvl_overlay_of(req), number, buf, RVL_XATTR_LIST_MAX);
	if (r > 0)
		r = drop_trusted(req, buf, r);
	if (size && r > (ssize_t)size)
		r = -ERANGE;
	rvl_reply_bytes(req, r, buf, size == 0);
}

/*
 * Does setting the access ACL take setgid away? The kernel tells by FUSE_SETXATTR_ACL_KILL_SGID,
 * which libfuse does not pass on: so decide here as it does (fs/fuse/acl.c, fuse_set_acl). Seldom:
 * only for objects with setgid.
 */
static bool is_setgid_lost(fuse_req_t req, uint64_t number, const char *name)
{
	struct rvl_entry entry;

	if (strcmp(name, "system.posix_acl_access") != 0 || !rvl_server_of(req)->has_acl)
		return false;
	if (rvl_overlay_getattr(rvl_overlay_of(req), rvl_asker_of(req), number, &entry) < 0 ||
	    !(entry.st.st_mode & S_ISGID))
		return false;
	return !rvl_caller_may_setgid(req, entry.st.st_gid);
}

void rvl_req_setxattr(fuse_req_t req, fuse_ino_t number, const char *name, const char *value,
		      size_t size, int flags)
{
	rvl_count(req_setxattr);
	rvl_reply_changed(req,
			  rvl_overlay_setxattr(rvl_overlay_of(req), number, name, value, size,
					       flags, is_setgid_lost(req, number, name)),
			  number);
}

void rvl_req_removexattr(fuse_req_t req, fuse_ino_t number, const char *name)
{
	rvl_count(req_removexattr);
	rvl_reply_changed(req, rvl_overlay_removexattr(rvl_overlay_of(req), number, name), number);
}
