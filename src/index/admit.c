// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * May this index be used with these layers? Formats first, since what is newer must not be judged,
 * then whether the layers are those of the state, then who has it. All that changes or mends
 * something asks before its first step, so that what is refused is left as it was. Nothing here
 * writes.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/bind.h"
#include "index/log.h"
#include "index/table.h"
#include "index/workdir.h"

void rvl_index_tell_newer(const char *option, const char *path, const char *what)
{
	rvl_error("%s=%s: %s is of a newer version of reverlay: use that version", option, path,
		  what);
}

/*
 * With userxattr and without it are two sets of attributes. An upper that has a table in the other
 * one has its numbers, whiteouts and redirects there: with this one all would seem lost.
 */
static int check_namespace(const struct rvl_stack *stack, bool is_silent)
{
	struct rvl_xattr_names other;

	rvl_xattr_names_init(&other, !stack->xattr.is_user);
	if (rvl_xattr_get(&other, stack->layers[0].fd, "", RVL_XATTR_INSTANCES, NULL, 0) < 0)
		return 0;
	if (!is_silent)
		rvl_error("upperdir=%s: it was made %s userxattr: give the options that it was made with",
			  stack->layers[0].path, other.is_user ? "with" : "without");
	return -EINVAL;
}

int rvl_admit_formats(const struct rvl_stack *stack, int inodes_fd, bool is_silent)
{
	struct rvl_table table;
	int r = inodes_fd < 0 ? 0 : rvl_log_check_version(inodes_fd);

	if (r) {
		if (!is_silent)
			rvl_index_tell_newer("workdir", stack->work_path, "inodes/log");
		return r;
	}
	if (!stack->has_upper)
		return 0;
	r = rvl_bind_read_table(stack, &stack->layers[0], &table);
	if (r == -ENODATA)
		return check_namespace(stack, is_silent);
	if (r != -EPROTONOSUPPORT)
		return 0;
	if (!is_silent)
		rvl_index_tell_newer("upperdir", stack->layers[0].path, "its instance table");
	return r;
}

/* What the kernel's overlayfs has in use has no entries here. */
static int check_kernel(const struct rvl_index *index, const struct rvl_index_config *config)
{
	_cleanup_free_ char *options = NULL;

	if (config->is_import || !(index->state->flags & RVL_STATE_KERNEL))
		return 0;
	if (config->is_silent)
		return -EBUSY;
	options = rvl_bind_options(index->stack);
	rvl_error(
		"upperdir=%s: it was handed to the kernel's overlayfs. Run: reverlayctl import %s",
		index->stack->layers[0].path, options ?: "-o ...");
	return -EBUSY;
}

/* Records of directories are those of the copy, and what only the rebind knows is still to be done. */
static int check_rebuilt(const struct rvl_index *index, const struct rvl_index_config *config)
{
	_cleanup_free_ char *options = NULL;

	if (config->is_rebuilding || !(index->state->flags & RVL_STATE_REBUILT))
		return 0;
	if (!config->is_rebind && !config->is_silent) {
		options = rvl_bind_options(index->stack);
		rvl_error("workdir=%s: a rebind has not ended. Run: reverlayctl rebind %s",
			  index->stack->work_path, options ?: "-o ...");
	}
	return -ESTALE;
}

int rvl_admit_state(const struct rvl_index *index, const struct rvl_binding *binding,
		    const struct rvl_index_config *config)
{
	int r = rvl_bind_check(index, binding, config->is_rebind || config->is_silent);

	r = r ?: check_kernel(index, config);
	return r ?: check_rebuilt(index, config);
}

int rvl_index_admit(const struct rvl_index_config *config)
{
	const struct rvl_stack *stack = config->stack;
	_cleanup_close_ int inodes_fd =
		stack->work_fd < 0 ? -ENOENT : rvl_workdir_open(stack, "inodes", false);
	struct rvl_index index = { .stack = stack, .inodes_fd = inodes_fd };
	struct rvl_binding binding = { 0 };
	int r;

	if (inodes_fd < 0 && inodes_fd != -ENOENT)
		return inodes_fd;
	r = inodes_fd < 0 ? -ENOENT : rvl_state_load(inodes_fd, &index.state);
	if (r && r != -ENOENT && r != -EUCLEAN && !config->is_silent)
		rvl_index_tell_state(stack, r);
	if (!r || r == -ENOENT || r == -EUCLEAN)
		r = rvl_admit_formats(stack, inodes_fd, config->is_silent) ?: r;
	r = r ?: rvl_binding_read(stack, &binding);
	r = r ?: rvl_admit_state(&index, &binding, config);
	rvl_binding_release(&binding);
	rvl_state_free(index.state);
	return r;
}
