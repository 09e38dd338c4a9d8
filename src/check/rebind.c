// SPDX-License-Identifier: GPL-2.0-or-later
/* Rebind: the order of its parts, see rebind.h. */
#include "check/rebind_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/stop.h"
#include "check/check.h"
#include "index/entry.h"
#include "index/stamp.h"
#include "index/state.h"
#include "index/workdir.h"
#include "layer/identity.h"
#include "layer/path.h"

const char *rvl_rebind_text(enum rvl_rebind_told what)
{
	static const char *const texts[RVL_TOLD_N] = {
		[RVL_TOLD_GONE] = "is not there any more",
		[RVL_TOLD_OTHER_KIND] = "another kind of object is there: it gets a new number",
		[RVL_TOLD_JOINED] = "is a hard link of another object now, and has its number",
		[RVL_TOLD_SPLIT] = "was a hard link, and is not equal to the other names any more: "
				   "it gets a new number",
		[RVL_TOLD_UNEQUAL] = "in upper: was a hard link, and is not equal to the other "
				     "names any more: both are kept",
		[RVL_TOLD_DEAD] = "in upper: has the number of a removed object: it gets a new one",
	};

	return texts[what];
}

void rvl_rebind_tell(struct rvl_check_rebind *rb, enum rvl_rebind_told what, uint64_t number,
		     const char *path)
{
	rb->result->n_told[what]++;
	rb->config->told(rb->config->arg, what, number, path ?: "?");
}

/* ---- what must be there ---- */

static int is_any(void *arg, uint64_t number)
{
	return 1;
}

/* A copy that left the private attributes out shows what was removed, and what was renamed twice. */
static int refuse_without_attributes(const struct rvl_stack *stack)
{
	rvl_error(
		"upperdir=%s: its private attributes (%s*) are not there, which the index in workdir=%s "
		"knows of: the copy left them out. Without them what was removed would come back. Copy again, "
		"as root, with: rsync -aHAX, cp -a, or tar --xattrs --xattrs-include='*' for making and for "
		"unpacking",
		rvl_stack_upper(stack)->path, stack->xattr.prefix, stack->work_path);
	return -ENODATA;
}

/* Has upper a table? 1, 0, or -errno. */
static int has_table(const struct rvl_stack *stack)
{
	uint8_t buf[1];
	ssize_t n = rvl_xattr_get(&stack->xattr, rvl_stack_upper(stack)->fd, "", RVL_XATTR_INSTANCES,
				  buf, sizeof(buf));

	return n == -ENODATA ? 0 : n >= 0 || n == -ERANGE ? 1 : (int)n;
}

static int check_attributes(struct rvl_check_rebind *rb)
{
	int r = has_table(rb->config->stack);

	if (r)
		return r < 0 ? r : 0;
	r = rvl_entry_each(rb->index, is_any, NULL);
	return r <= 0 ? r : refuse_without_attributes(rb->config->stack);
}

/* ---- what the walk of the lowers tells ---- */

static void note(void *arg, enum rvl_rebind_note what, uint64_t number, const char *path)
{
	static const enum rvl_rebind_told told[] = {
		[RVL_REBIND_GONE] = RVL_TOLD_GONE,
		[RVL_REBIND_OTHER_KIND] = RVL_TOLD_OTHER_KIND,
		[RVL_REBIND_JOINED] = RVL_TOLD_JOINED,
	};

	rvl_rebind_tell(arg, told[what], number, path);
}

static int split(void *arg, const struct rvl_rebind_split *split)
{
	struct rvl_check_rebind *rb = arg;

	return rvl_stop_check(rb->config->stop) ?: rvl_rebind_link_add(rb, split);
}

static int set_directory_origin(struct rvl_check_rebind *rb, uint64_t number, const void *value,
				size_t len)
{
	const struct rvl_layer *upper = rvl_stack_upper(rb->config->stack);
	const char *path = rvl_rebind_upper_path(rb, number);
	_cleanup_close_ int fd = -EBADF;

	if (!path)
		return 0;
	fd = rvl_path_open(upper->fd, path, O_PATH | O_DIRECTORY, 0);
	return fd < 0 ? fd :
			rvl_xattr_set(&rb->config->stack->xattr, fd, "", RVL_XATTR_ORIGIN, value,
				      len);
}

int rvl_rebind_renew_origin(void *arg, uint64_t number, const struct rvl_layer *layer, int dirfd,
			    const char *path)
{
	struct rvl_check_rebind *rb = arg;
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	char entry_path[RVL_ENTRY_PATH_SIZE];
	struct rvl_entry_directory directory;
	enum rvl_entry_kind kind;
	struct rvl_handle handle;
	struct statx st;
	int len, r = rvl_stop_check(rb->config->stop);

	if (r || rb->config->is_dry_run)
		return r;
	r = rvl_entry_look(rb->index, number, &kind, &st);
	if (r)
		return r == -EUCLEAN ? 0 : r;
	handle.len = 0;
	if (layer && rvl_handle_get(dirfd, path, rb->uuids[layer->index], &handle))
		handle.len = 0;
	len = handle.len ? rvl_handle_encode(&handle, value) : 0;
	len = len < 0 ? 0 : len;
	if (kind == RVL_ENTRY_DIRECTORY) {
		r = rvl_entry_get_directory(rb->index, number, &directory);
		if (r)
			return r == -EUCLEAN ? 0 : r;
		directory.lower = handle;
		memset(directory.lower.uuid, 0, sizeof(directory.lower.uuid));
		r = rvl_entry_put_directory(rb->index, number, &directory, true);
		return r ?: set_directory_origin(rb, number, value, (size_t)len);
	}
	if (kind != RVL_ENTRY_OBJECT)
		return 0;
	rvl_entry_path(number, entry_path);
	return rvl_upper_xattr_set(rb->index, rb->index->inodes_fd, entry_path, st.stx_mode,
				   st.stx_ino, RVL_XATTR_ORIGIN, value, (size_t)len);
}

/* ---- in order ---- */

static int run(struct rvl_check_rebind *rb)
{
	const struct rvl_rebind_sink sink = { rb, note, split, rvl_rebind_renew_origin,
					      rvl_rebind_is_seen };
	int r = 0;

	rb->index = rvl_rebind_index(rb->rebind);
	rb->result->is_moved = rvl_rebind_is_moved(rb->rebind);
	rb->result->has_other_lowers = rvl_rebind_walks_lowers(rb->rebind);
	if (rb->config->stack->has_upper) {
		r = check_attributes(rb);
		if (!r && !rb->config->is_dry_run)
			r = rvl_rebind_companions(rb->rebind);
		r = r ?: rvl_identity_uuids(rb->config->stack, &rb->uuids);
		r = r ?: rvl_rebind_upper(rb);
	}
	r = r ?: rvl_rebind_lowers(rb->rebind, &sink, &rb->result->lower);
	r = r ?: rvl_rebind_link(rb);
	r = r ?: rvl_stop_check(rb->config->stop);
	rb->result->has_map = rvl_rebind_has_map(rb->rebind);
	if (r || rb->config->is_dry_run)
		return r;
	return rvl_rebind_commit(rb->rebind);
}

/* ---- there is no index ---- */

static void ignore_pass(void *arg, unsigned pass, const char *title)
{
}

static void ignore_problem(void *arg, const struct rvl_problem *problem)
{
}

/* Upper was used with an index that was not copied: it is made again from stamps and names. */
static int rebuild(const struct rvl_check_rebind_config *config,
		   struct rvl_check_rebind_result *ret)
{
	const struct rvl_check_sink sink = { .arg = config->arg,
					     .pass = ignore_pass,
					     .problem = ignore_problem,
					     .progress = config->progress };
	const struct rvl_check_config check = { .stack = config->stack,
						.sink = &sink,
						.mode = RVL_CHECK_ALL,
						.is_rebind = true,
						.stop = config->stop };
	struct rvl_check_result result = { 0 };
	int r = config->is_dry_run ? 0 : rvl_check_run(&check, &result);

	ret->is_rebuilt = true;
	ret->n_upper = result.n_objects;
	ret->n_entries = result.n_mended;
	return r;
}

/*
 * 1: there is none, or one that a rebind had begun to make: how far it came does not matter. 0: it is
 * there, or upper had none. Others: -errno.
 */
static int is_index_lost(const struct rvl_stack *stack)
{
	struct rvl_state *state = NULL;
	bool is_begun;
	int r;

	if (!stack->has_upper)
		return 0;
	r = rvl_index_load_state(stack, &state);
	is_begun = !r && state->flags & RVL_STATE_REBUILT;
	rvl_state_free(state);
	if (r != -ENOENT && !is_begun)
		return r;
	r = has_table(stack);
	return !r && is_begun ? refuse_without_attributes(stack) : r;
}

/* Before the index is made again, which would take the mark for something to be mended. */
static int check_volatile(const struct rvl_stack *stack)
{
	_cleanup_close_ int fd = rvl_workdir_open(stack, "work", false);

	return fd < 0 ? (fd == -ENOENT ? 0 : fd) : rvl_workdir_check_incompat(stack, fd);
}

int rvl_check_rebind(const struct rvl_check_rebind_config *config,
		     struct rvl_check_rebind_result *ret)
{
	struct rvl_rebind_config begin = { .stack = config->stack,
						 .is_clone = config->is_clone,
						 .is_dry_run = config->is_dry_run,
						 .stop = config->stop };
	struct rvl_check_rebind rb = { .config = config, .result = ret };
	uint64_t entries = 0;
	int r;

	*ret = (struct rvl_check_rebind_result){ 0 };
	r = check_volatile(config->stack) ?: is_index_lost(config->stack);
	if (r < 0)
		return r;
	if (r) {
		r = rebuild(config, ret);
		if (r || config->is_dry_run)
			return r;
		entries = ret->n_entries;
		begin.is_rebuilt = true;
	}
	r = rvl_rebind_begin(&begin, &rb.rebind);
	if (r)
		return r;
	r = run(&rb);
	ret->n_entries += entries;
	if (r && r != -ENODATA && r != -ECANCELED)
		rvl_error("rebind has failed: %s; it can be run again", strerror(-r));
	rvl_rebind_link_release(&rb);
	rvl_rebind_upper_release(&rb);
	free(rb.uuids);
	rvl_rebind_free(rb.rebind);
	return r;
}
