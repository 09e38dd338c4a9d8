// SPDX-License-Identifier: GPL-2.0-or-later
/* Import: the order of its parts, see import.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/import_private.h"
#include "index/log.h"
#include "index/state.h"
#include "layer/identity.h"
#include "layer/path.h"

const char *rvl_import_text(enum rvl_import_told what)
{
	static const char *const texts[RVL_IMPORT_TOLD_N] = {
		[RVL_IMPORT_UNKNOWN] = "is no entry of the kernel's index: left where it is",
		[RVL_IMPORT_PARTED] = "what it was copied up from is not in lower any more: names of "
				      "it that are only in lower are parted from it",
		[RVL_IMPORT_TAKEN] = "its number is another object's: it gets one of its own",
		[RVL_IMPORT_UNNAMED] = "it has no name in upper and leads to nothing in lower: left "
				       "where it is",
	};

	return texts[what];
}

/*
 * Operations that a mount began are finished by the next one, not here. That they are is durable
 * before the mark is: else a power cut could leave both, and neither could go first.
 */
static int check_log(const struct rvl_stack *stack)
{
	_cleanup_close_ int fd =
		rvl_path_open(stack->work_fd, "inodes", O_RDONLY | O_DIRECTORY, 0);
	struct rvl_log *log = NULL;
	size_t n = 0;
	int r = fd < 0 ? fd : rvl_log_open(fd, false, false, &log);

	if (!r)
		n = rvl_log_pending(log);
	if (!r && !n && syncfs(fd))
		r = -errno;
	rvl_log_close(log);
	if (r && r != -ENOENT)
		rvl_error("workdir=%s: inodes/log cannot be read: %s", stack->work_path,
			  strerror(-r));
	if (n)
		rvl_error(
			"workdir=%s: the last mount did not end as it should: mount and umount it first",
			stack->work_path);
	return n ? -EBUSY : r == -ENOENT ? 0 : r;
}

static int check_before(const struct rvl_stack *stack)
{
	const struct rvl_index_config config = {
		.stack = stack, .is_read_only = true, .is_offline = true, .is_import = true
	};
	int r;

	if (!stack->has_upper) {
		rvl_error("an import takes upperdir and workdir");
		return -EINVAL;
	}
	r = rvl_index_admit(&config);
	if (r == -ENOENT || r == -EUCLEAN) /* none yet; or damaged, which the open tells */
		return 0;
	return r ?: check_log(stack);
}

static int take_index(struct rvl_import *import, bool is_after)
{
	const struct rvl_stack *stack = import->config->stack;
	bool is_dry = import->config->is_dry_run;
	const struct rvl_index_config config = { .stack = stack,
						 .is_read_only = is_dry,
						 .is_offline = is_dry,
						 .is_repair = !is_dry,
						 .is_import = true };
	int r = rvl_index_open(&config, &import->index);

	if (r)
		return r;
	import->config->sink->pass(import->config->sink->arg, 0,
				   is_after ? "removed objects" : "the kernel's index");
	import->n_names = 0;
	import->kernel_fd =
		rvl_path_open(stack->work_fd, RVL_KERNEL_INDEX, O_RDONLY | O_DIRECTORY, 0);
	r = import->kernel_fd < 0 && import->kernel_fd != -ENOENT ? import->kernel_fd : 0;
	r = r ?: rvl_identity_uuids(stack, &import->uuids);
	if (!r && import->kernel_fd >= 0)
		r = rvl_import_index(import, is_after);
	if (r && r != -ECANCELED)
		rvl_error("workdir=%s: the kernel's index cannot be taken over: %s; it can be run "
			  "again",
			  stack->work_path, strerror(-r));
	rvl_close(rvl_take_fd(&import->kernel_fd));
	free(rvl_take_ptr(import->uuids));
	import->index->stays_unclean = !is_after; /* till all is done */
	rvl_index_close(import->index);
	return r;
}

/* All is ours. */
static int end(const struct rvl_stack *stack, bool is_clean)
{
	_cleanup_close_ int fd =
		rvl_path_open(stack->work_fd, "inodes", O_RDONLY | O_DIRECTORY, 0);
	struct rvl_state *state = NULL;
	int r = fd < 0 ? fd : syncfs(fd) ? -errno : rvl_state_load(fd, &state);

	if (!r) {
		state->flags &= ~(uint32_t)(RVL_STATE_KERNEL | RVL_STATE_INCOMPLETE);
		if (!is_clean)
			state->flags &= ~(uint32_t)RVL_STATE_CLEAN;
		r = rvl_state_save(state, fd, false);
	}
	if (r)
		rvl_error("workdir=%s: inodes/state cannot be written: %s", stack->work_path,
			  strerror(-r));
	rvl_state_free(state);
	return r;
}

/*
 * The kernel's index may call dead what is seen in lower again, where somebody took its whiteout out
 * of upper offline.
 */
static int check_buried(const struct rvl_import *import, const struct rvl_check_config *config)
{
	struct rvl_check_result *all = &import->result->check, result;
	int r;

	if (!import->n_buried)
		return 0;
	r = rvl_check_run(config, &result);
	for (unsigned i = 0; i <= RVL_ERROR; i++)
		all->n_found[i] += result.n_found[i];
	all->n_mended += result.n_mended;
	all->n_left = result.n_left;
	return r;
}

int rvl_import_run(const struct rvl_import_config *config, struct rvl_import_result *ret)
{
	struct rvl_import import = { .config = config, .result = ret, .kernel_fd = -EBADF };
	const struct rvl_check_config check = {
		.stack = config->stack,
		.sink = config->sink,
		.mode = config->is_dry_run ? RVL_CHECK_LOOK : RVL_CHECK_PREEN,
		.is_import = true,
		.stop = config->stop,
	};
	int r;

	*ret = (struct rvl_import_result){ 0 };
	r = check_before(config->stack);
	r = r ?: take_index(&import, false);
	r = r ?: rvl_check_run(&check, &ret->check);
	r = r ?: take_index(&import, true);
	r = r ?: check_buried(&import, &check);
	if (r || config->is_dry_run)
		return r;
	return end(config->stack, !ret->check.n_left);
}
