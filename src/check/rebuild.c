// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The index is lost as a whole: a new state, with the instances that stamps in upper name kept
 * free. The entries are then missing like any that got lost, and the passes make them. Killed in
 * between, the overlay has a state, counts as not cleanly stopped, and repair goes on; if a rebind makes
 * it, that one alone.
 */
#include "check/rebuild.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/private.h"
#include "index/fsck.h"
#include "index/stamp.h"
#include "layer/path.h"
#include "layer/tree.h"

struct scan {
	const struct rvl_stack *stack;
	uint64_t used[(RVL_INSTANCE_MAX + 1) / 64];
};

static int note(void *arg, const struct rvl_tree_name *name)
{
	struct scan *scan = arg;
	uint8_t buf[RVL_STAMP_SIZE];
	struct rvl_id id;
	ssize_t n = rvl_xattr_get(&scan->stack->xattr, name->dirfd, name->name, RVL_XATTR_INO, buf,
				  sizeof(buf));
	unsigned instance;

	if (n < 0 || rvl_stamp_decode(buf, (size_t)n, &id))
		return 0;
	instance = (unsigned)(id.number >> RVL_INSTANCE_SHIFT);
	scan->used[instance / 64] |= 1ULL << (instance % 64);
	return 0;
}

static bool is_lost(const struct rvl_stack *stack)
{
	_cleanup_close_ int fd = rvl_path_open(stack->work_fd, "inodes", O_RDONLY | O_DIRECTORY, 0);
	struct rvl_state *state = NULL;
	int r = fd < 0 ? fd : rvl_state_load(fd, &state);

	rvl_state_free(state);
	return r == -ENOENT || r == -EUCLEAN;
}

int rvl_rebuild(const struct rvl_check_config *config)
{
	struct scan scan = { .stack = config->stack };
	_cleanup_free_ char *path = NULL;
	int r;

	if (!config->stack->has_upper) {
		rvl_error("without upperdir and workdir there is no index to make again");
		return -EINVAL;
	}
	if (!config->is_rebind && !is_lost(config->stack))
		return 0;
	r = rvl_tree_walk(config->stack->layers[0].fd, note, &scan, &path);
	if (r)
		rvl_error("upperdir=%s: %s: %s", config->stack->layers[0].path, path ?: "",
			  strerror(-r));
	return r ?: rvl_index_rebuild(config->stack, scan.used, config->is_rebind);
}
