// SPDX-License-Identifier: GPL-2.0-or-later
/* Options of the mount, as far as they name layers. */
#include "tools/layers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/optstring.h"
#include "index/state.h"
#include "layer/lock.h"

#define LOCK_TIMEOUT_MS 1000 /* a server whose mount is gone ends in that time */

struct names {
	const char *lower[RVL_LAYERS_MAX]; /* into the text of the options */
	struct rvl_stack_config config;
};

static int add_lower(struct names *names, const char *path, bool is_data)
{
	if (names->config.n_lower == RVL_LAYERS_MAX || (!is_data && names->config.n_data > 0) ||
	    !*path) {
		rvl_error("option lowerdir: too many layers, an empty path, or one after \"::\"");
		return -EINVAL;
	}
	names->lower[names->config.n_lower++] = path;
	names->config.n_data += is_data;
	return 0;
}

static int add_lowerdir(struct names *names, char *value)
{
	const char *error = NULL;
	int is_data, r = 0;
	char *path;

	names->config.n_lower = names->config.n_data = 0;
	while (r == 0 && (path = rvl_optstring_next_layer(&value, &is_data, &error)))
		r = add_lower(names, path, is_data);
	if (r == 0 && error) {
		rvl_error("option lowerdir: %s", error);
		r = -EINVAL;
	}
	return r;
}

static char *plain(char *value)
{
	rvl_optstring_unescape(value);
	return value;
}

/* What a mount takes and is nothing to a tool: a style test compares it with server/options.c. */
static const char *const other_options[] = {
	"index",
	"nfs_export",
	"xino",
	"uuid",
	"metacopy",
	"volatile",
	"fsync",
	"rebind",
	"copy_up",
	"io_uring",
	"passthrough",
	"node_limit",
	"poll",
	"awake",
	"default_permissions",
	"verity",
	"override_creds",
	/* of the mount */
	"allow_other",
	"allow_root",
	"fsname",
	"subtype",
	"debug",
	"remount",
	"ro",
	"rw",
	"nosuid",
	"suid",
	"nodev",
	"dev",
	"noexec",
	"exec",
	"sync",
	"async",
	"dirsync",
	"noatime",
	"atime",
	"nodiratime",
	"diratime",
	"relatime",
	"norelatime",
	"strictatime",
	"nostrictatime",
	"nosymfollow",
	"symfollow",
	"context",
	"fscontext",
	"defcontext",
	"rootcontext",
	/* of mount(8), fstab(5) and systemd.mount(5) */
	"defaults",
	"auto",
	"noauto",
	"nofail",
	"_netdev",
	"user",
	"nouser",
	"users",
	"nousers",
	"owner",
	"noowner",
	"group",
	"nogroup",
	"comment",
	"uhelper",
	"helper",
	"silent",
	"loud",
	"lazytime",
	"nolazytime",
	"iversion",
	"noiversion",
	"mand",
	"nomand",
};

static int check_other(const char *option)
{
	if (!*option || ((*option == 'x' || *option == 'X') && option[1] == '-'))
		return 0;
	for (size_t i = 0; i < sizeof(other_options) / sizeof(other_options[0]); i++)
		if (!strcmp(other_options[i], option))
			return 0;
	rvl_error("option %s: unknown; see reverlay(8)", option);
	return -EINVAL;
}

static int set_path(const char *option, char *value, const char **ret)
{
	if (!*value) {
		rvl_error("option %s: the path is empty", option);
		return -EINVAL;
	}
	*ret = plain(value);
	return 0;
}

/* One that tells of the layers. 1: it is none of them. */
static int take_option(struct names *names, const char *option, char *value)
{
	static const char *const with_value[] = { "lowerdir", "lowerdir+", "datadir+",
						  "upperdir", "workdir",   "redirect_dir" };

	for (size_t i = 0; !value && i < sizeof(with_value) / sizeof(with_value[0]); i++) {
		if (!strcmp(with_value[i], option)) {
			rvl_error("option %s: needs a value", option);
			return -EINVAL;
		}
	}
	if (!strcmp(option, "userxattr"))
		names->config.is_userxattr = true;
	else if (!strcmp(option, "lowerdir"))
		return add_lowerdir(names, value);
	else if (!strcmp(option, "lowerdir+"))
		return add_lower(names, plain(value), false);
	else if (!strcmp(option, "datadir+"))
		return add_lower(names, plain(value), true);
	else if (!strcmp(option, "upperdir"))
		return set_path(option, value, &names->config.upper);
	else if (!strcmp(option, "workdir"))
		return set_path(option, value, &names->config.work);
	else if (!strcmp(option, "redirect_dir"))
		names->config.is_redirect_nofollow = !strcmp(value, "nofollow");
	else
		return 1;
	return 0;
}

static int parse(struct names *names, char *rest)
{
	char *option;
	int r = 0;

	while (r == 0 && (option = rvl_optstring_next(&rest))) {
		char *value = strchr(option, '=');

		if (value)
			*value++ = '\0';
		r = take_option(names, option, value);
		if (r > 0)
			r = check_other(option);
	}
	return r;
}

static int parse_whole(struct names *names, char *text)
{
	int r = parse(names, text);

	if (r == 0 && !names->config.n_lower) {
		rvl_error(
			"option lowerdir: missing; an overlay needs a lower layer: -o lowerdir=DIR");
		r = -EINVAL;
	} else if (r == 0 && names->config.upper && !names->config.work) {
		rvl_error("option upperdir: needs workdir=DIR, where the index lies");
		r = -EINVAL;
	}
	return r;
}

const char *rvl_layers_add_options(const char *more)
{
	static char *all;
	char *before = all;

	if (asprintf(&all, "%s%s%s", before ?: "", before ? "," : "", more) < 0)
		all = NULL;
	free(before);
	return all;
}

int rvl_layers_check_options(const char *options, bool needs_upper)
{
	_cleanup_free_ struct names *names = calloc(1, sizeof(*names));
	_cleanup_free_ char *text = strdup(options);
	int r;

	if (!names || !text)
		return -ENOMEM;
	names->config.lower = names->lower;
	r = parse_whole(names, text);
	if (r == 0 && needs_upper && !names->config.upper) {
		rvl_error("option upperdir: missing; without upperdir=DIR and workdir=DIR there is "
			  "nothing to do");
		r = -EINVAL;
	}
	return r;
}

static int open_stack(const char *options, bool is_locked, struct rvl_layers *ret)
{
	_cleanup_free_ struct names *names = calloc(1, sizeof(*names));
	_cleanup_free_ char *text = strdup(options);
	int r;

	*ret = (struct rvl_layers){ .lock_fds = { -EBADF, -EBADF } };
	if (!names || !text)
		return -ENOMEM;
	names->config.lower = names->lower;
	names->config.atime = MOUNT_ATTR_NOATIME; /* it only looks */
	r = parse_whole(names, text);
	if (r == 0)
		r = rvl_stack_open(&names->config, &ret->stack);
	if (r < 0)
		return r;
	if (is_locked && (ret->stack.has_upper || ret->stack.work_fd >= 0))
		r = rvl_stack_lock(&ret->stack, LOCK_TIMEOUT_MS, ret->lock_fds);
	if (r == -EBUSY)
		rvl_error("workdir=%s: it is mounted: unmount it; check --online, map and resolve take "
			  "the mount point instead of -o",
			  ret->stack.work_path ?: "");
	if (r < 0)
		rvl_layers_close(ret);
	return r;
}

int rvl_layers_open_stack(const char *options, struct rvl_layers *ret)
{
	return open_stack(options, true, ret);
}

int rvl_layers_open_unlocked(const char *options, struct rvl_layers *ret)
{
	return open_stack(options, false, ret);
}

int rvl_layers_open(const char *options, struct rvl_layers *ret)
{
	const struct rvl_index_config config = { .stack = &ret->stack,
						 .is_read_only = true,
						 .is_offline = true };
	int r = rvl_layers_open_stack(options, ret);

	if (r < 0)
		return r;
	r = rvl_index_open(&config, &ret->index);
	if (r < 0)
		rvl_layers_close(ret);
	return r;
}

int rvl_layers_open_writable(const char *options, struct rvl_layers *ret)
{
	struct rvl_index_config config = { .stack = &ret->stack };
	int r = rvl_layers_open(options, ret);

	if (r < 0)
		return r;
	if (!ret->index->is_persistent) {
		rvl_error(ret->stack.work_fd < 0 ?
				  "without workdir= there is nowhere to keep it" :
				  "it was not mounted yet; mount and umount it first");
		r = -EINVAL;
	} else if (!(ret->index->state->flags & RVL_STATE_CLEAN)) {
		rvl_error(
			"workdir=%s: the last mount did not end cleanly; mount and umount it first, or run reverlayctl repair",
			ret->stack.work_path);
		r = -EBUSY;
	}
	rvl_index_close(rvl_take_ptr(ret->index));
	if (r == 0)
		r = rvl_index_open(&config, &ret->index);
	if (r < 0)
		rvl_layers_close(ret);
	return r;
}

void rvl_layers_close(struct rvl_layers *layers)
{
	rvl_index_close(layers->index);
	rvl_close(layers->lock_fds[0]);
	rvl_close(layers->lock_fds[1]);
	rvl_stack_release(&layers->stack);
	*layers = (struct rvl_layers){ .lock_fds = { -EBADF, -EBADF } };
}
