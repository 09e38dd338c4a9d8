// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The life of a server, from options to the end of the mount:
 *
 *   stack    layers opened and checked, nothing changed on disk
 *   lock     upper and workdir are ours
 *   index    state, map and log opened or made
 *   overlay  recovered, ready
 *   session  mounted, serving, unmounted
 *
 * and back in the reverse order. Each step logs its own errors.
 */
#include "server/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/rebind.h"
#include "layer/lock.h"
#include "layer/xattr.h"
#include "server/mountpoint.h"
#include "server/reply.h"

#define LOCK_TIMEOUT_MS 5000

static bool layer_has_acl(const struct rvl_layer *layer)
{
	return rvl_xattrat_get(layer->fd, "", "system.posix_acl_access", NULL, 0) != -EOPNOTSUPP;
}

/* New objects get their ACLs in upper; without one it is enough that a lower may have some. */
static bool stack_has_acl(const struct rvl_stack *stack)
{
	if (stack->has_upper)
		return layer_has_acl(&stack->layers[0]);
	for (unsigned i = 1; i < rvl_stack_data_start(stack); i++)
		if (layer_has_acl(&stack->layers[i]))
			return true;
	return false;
}

static bool is_read_only(const struct rvl_server *server)
{
	return !server->options.upper || (server->options.flags & MS_RDONLY);
}

/* How copied data are synced (layer/sync.h). */
static const char *name_of_sync(const struct rvl_server *server)
{
	if (server->options.sync == RVL_SYNC_VOLATILE)
		return "none";
	return server->options.sync == RVL_SYNC_AUTO && server->index->features.has_ordered_data ?
		       "ordered" :
		       "fsync";
}

/* What `reverlayctl stat` shows of the configuration. */
static int make_config(struct rvl_server *server)
{
	_cleanup_free_ char *options = NULL;
	size_t options_len;
	FILE *to;
	int r = rvl_options_format(&server->options, false, &options, &options_len);

	if (r < 0)
		return r;
	to = open_memstream(&server->config, &server->config_len);
	if (!to)
		return -ENOMEM;
	fprintf(to, "version=%s%c", RVL_VERSION, '\0');
	fprintf(to, "pid=%d%c", (int)getpid(), '\0');
	fprintf(to, "mount_point=%s%c", server->mount_point, '\0');
	fprintf(to, "source=%s%c", server->options.fsname ?: "reverlay", '\0');
	if (is_read_only(server))
		fprintf(to, "read_only%c", '\0');
	/*
	 * Not "uuid", which is an option of the kernel's. Without a workdir it is drawn at each
	 * mount.
	 */
	fputs("overlay_uuid=", to);
	for (size_t i = 0; i < sizeof(server->index->uuid); i++)
		fprintf(to, "%02x", server->index->uuid[i]);
	fputc('\0', to);
	if (server->index->is_persistent)
		fprintf(to, "persistent%c", '\0');
	if (!is_read_only(server))
		fprintf(to, "copy_up_sync=%s%c", name_of_sync(server), '\0');
	fwrite(options, 1, options_len, to);
	return fclose(to) == 0 ? 0 : -ENOMEM;
}

int rvl_server_add_config(struct rvl_server *server, const char *format, ...)
{
	_cleanup_free_ char *line = NULL;
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vasprintf(&line, format, args);
	va_end(args);
	text = len < 0 ? NULL : realloc(server->config, server->config_len + len + 1);
	if (!text)
		return -ENOMEM;
	memcpy(text + server->config_len, line, len + 1);
	server->config = text;
	server->config_len += len + 1;
	return 0;
}

/* Upper's access times are this mount's business and not that of the mount that upper lies on, as
 * in the kernel (fs/overlayfs/super.c, ovl_get_upper). */
static uint64_t atime_of(const struct rvl_options *options)
{
	return (options->flags & MS_NOATIME	? MOUNT_ATTR_NOATIME :
		options->flags & MS_STRICTATIME ? MOUNT_ATTR_STRICTATIME :
						  MOUNT_ATTR_RELATIME) |
	       (options->flags & MS_NODIRATIME ? MOUNT_ATTR_NODIRATIME : 0);
}

static int open_stack(struct rvl_server *server)
{
	const struct rvl_options *options = &server->options;
	const struct rvl_stack_config config = {
		.lower = (const char *const *)options->lower.items,
		.n_lower = options->lower.n,
		.n_data = options->n_data,
		.upper = options->upper,
		.work = options->work,
		.atime = atime_of(options),
		.is_userxattr = options->is_userxattr,
		.is_redirect_nofollow = options->redirect == RVL_REDIRECT_NOFOLLOW,
	};
	int r = rvl_stack_open(&config, &server->stack);

	if (r < 0)
		return r;
	server->has_acl = stack_has_acl(&server->stack);
	/* an open is where a file is copied up; where nothing is, there is no need to ask */
	server->has_open = (!is_read_only(server) && !options->is_copy_up_late) ||
			   options->is_allow_root; /* who opens is looked at */
	return rvl_mountpoint_check(server->mount_point, &server->stack);
}

static void tell_rebound(void *arg, enum rvl_rebind_told what, uint64_t number, const char *path)
{
	rvl_info("rebind=auto: %s (number %llu): %s", path, (unsigned long long)number,
		 rvl_rebind_text(what));
}

/* Layers that are not those of the index: rebind=auto takes them for the overlay's own, moved. */
static int rebind(struct rvl_server *server)
{
	const struct rvl_check_rebind_config config = { .stack = &server->stack,
							.told = tell_rebound };
	struct rvl_check_rebind_result result;
	unsigned long long n_told = 0;
	int r = rvl_check_rebind(&config, &result);

	if (r < 0)
		return r;
	for (int i = 0; i < RVL_TOLD_N; i++)
		n_told += result.n_told[i];
	rvl_warn(
		"rebind=auto: bound to other layers than before; %llu objects are gone or changed%s",
		n_told,
		result.has_other_lowers && !result.has_map ?
			", and there was no complete map: numbers of lower objects are new" :
			"");
	return 0;
}

static int open_index(struct rvl_server *server)
{
	const struct rvl_options *options = &server->options;
	struct rvl_index_config config = {
		.stack = &server->stack,
		.is_read_only = options->flags & MS_RDONLY,
		.is_volatile = options->sync == RVL_SYNC_VOLATILE,
		.is_rebind = options->is_rebind_auto && !(options->flags & MS_RDONLY),
	};
	int r = rvl_index_open(&config, &server->index);

	if (r != -ESTALE || !config.is_rebind)
		return r;
	r = rebind(server);
	config.is_rebind = false;
	return r < 0 ? r : rvl_index_open(&config, &server->index);
}

static int open_overlay(struct rvl_server *server)
{
	const struct rvl_options *options = &server->options;
	struct rvl_overlay_config overlay = {
		.stack = &server->stack,
		.redirect = options->redirect,
		.sync = options->sync,
		.is_read_only = is_read_only(server),
		.has_acl = server->has_acl,
		.has_metacopy = options->has_metacopy,
		.node_limit = options->node_limit,
		.tell_changed = rvl_tell_changed,
		.context = server,
	};
	int r;

	if (server->stack.has_upper || server->stack.work_fd >= 0) {
		r = rvl_stack_lock(&server->stack, LOCK_TIMEOUT_MS, server->lock_fds);
		if (r < 0)
			return r;
	}
	r = open_index(server);
	if (r < 0)
		return r;
	if (!server->index->is_persistent)
		rvl_info("no workdir: inode numbers and handles hold for this mount only");
	overlay.index = server->index;
	/* only now: the rebind of open_index compares data */
	server->stack.is_data_checked_late = true;
	return rvl_overlay_open(&overlay, &server->overlay);
}

int rvl_server_run(struct rvl_server *server)
{
	int r;

	server->owner = getuid();
	server->lock_fds[0] = server->lock_fds[1] = -EBADF;
	r = open_stack(server);
	if (r == 0)
		r = open_overlay(server);
	if (r == 0)
		r = make_config(server);
	if (r == 0)
		r = rvl_session_run(server);

	rvl_overlay_close(server->overlay);
	rvl_index_close(server->index);
	rvl_close(server->lock_fds[0]);
	rvl_close(server->lock_fds[1]);
	rvl_stack_release(&server->stack);
	free(server->config);
	return r;
}
