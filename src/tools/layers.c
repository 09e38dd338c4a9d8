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

static int parse(struct names *names, char *rest)
{
	char *option;
	int r = 0;

	while (r == 0 && (option = rvl_optstring_next(&rest))) {
		char *value = strchr(option, '=');

		if (!strcmp(option, "userxattr"))
			names->config.is_userxattr = true;
		if (!value)
			continue;
		*value++ = '\0';
		if (!strcmp(option, "lowerdir"))
			r = add_lowerdir(names, value);
		else if (!strcmp(option, "lowerdir+"))
			r = add_lower(names, plain(value), false);
		else if (!strcmp(option, "datadir+"))
			r = add_lower(names, plain(value), true);
		else if (!strcmp(option, "upperdir"))
			names->config.upper = plain(value);
		else if (!strcmp(option, "workdir"))
			names->config.work = plain(value);
		else if (!strcmp(option, "redirect_dir"))
			names->config.is_redirect_nofollow = !strcmp(value, "nofollow");
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
	r = parse(names, text);
	if (r == 0)
		r = rvl_stack_open(&names->config, &ret->stack);
	if (r < 0)
		return r;
	if (is_locked && (ret->stack.has_upper || ret->stack.work_fd >= 0))
		r = rvl_stack_lock(&ret->stack, LOCK_TIMEOUT_MS, ret->lock_fds);
	if (r == -EBUSY)
		rvl_error("it is mounted: unmount it; check --online, map and resolve take the mount "
			  "point instead of -o");
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
