// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Groups and capabilities of the process behind a request, from /proc/PID/status. The process waits
 * for the reply, so it cannot change meanwhile; it may be killed, and then the answer does not
 * matter.
 */
#include "server/caller.h"

#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "server/reply.h"

static bool has_group(char *list, gid_t gid)
{
	char *save;

	for (char *word = strtok_r(list, " \t\n", &save); word;
	     word = strtok_r(NULL, " \t\n", &save))
		if (strtoul(word, NULL, 10) == gid)
			return true;
	return false;
}

/* /proc/PID/status of the caller, or NULL. */
static FILE *open_status(const struct fuse_ctx *ctx)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", ctx->pid);
	return ctx->pid > 0 ? fopen(path, "re") : NULL;
}

/* In a user namespace of his own everybody has all capabilities, which mean nothing out here. */
static bool is_in_our_namespace(const struct fuse_ctx *ctx)
{
	struct stat own, other;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/user", ctx->pid);
	return stat("/proc/self/ns/user", &own) == 0 && stat(path, &other) == 0 &&
	       own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

static bool has_capability(const struct fuse_ctx *ctx, const char *line, unsigned capability)
{
	return !strncmp(line, "CapEff:", 7) &&
	       strtoull(line + 7, NULL, 16) & (1ULL << capability) && is_in_our_namespace(ctx);
}

bool rvl_caller_may_setgid(fuse_req_t req, gid_t gid)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	bool may = false;
	FILE *status;

	if (ctx->gid == gid)
		return true;
	status = open_status(ctx);
	if (!status)
		return ctx->uid == 0;
	while (!may && getline(&line, &size, status) > 0)
		may = !strncmp(line, "Groups:", 7) ? has_group(line + 7, gid) :
						     has_capability(ctx, line, CAP_FSETID);
	fclose(status);
	return may;
}

bool rvl_caller_may_trusted(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	bool may = false;
	FILE *status = open_status(ctx);

	if (!status)
		return ctx->uid == 0;
	while (!may && getline(&line, &size, status) > 0)
		may = has_capability(ctx, line, CAP_SYS_ADMIN);
	fclose(status);
	return may;
}

int rvl_caller_kill_suidgid(fuse_req_t req, fuse_ino_t number, bool is_chown_next)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	struct rvl_entry entry;
	mode_t mode, taken = 0;
	int r = rvl_overlay_getattr(overlay, rvl_asker_of(req), number, &entry);

	if (r < 0 || S_ISDIR(entry.st.st_mode) || !(entry.st.st_mode & (S_ISUID | S_ISGID)))
		return r;
	mode = entry.st.st_mode & ~(mode_t)S_ISUID;
	if (mode & S_IXGRP || (mode & S_ISGID && !rvl_caller_may_setgid(req, entry.st.st_gid)))
		mode &= ~(mode_t)S_ISGID;
	if (is_chown_next)
		taken = S_ISUID | (mode & S_IXGRP ? S_ISGID : 0);
	if ((mode | taken) == (entry.st.st_mode | taken))
		return 0;
	entry.st.st_mode = mode;
	return rvl_overlay_setattr(overlay, number, &entry.st, RVL_SET_MODE, &entry);
}
