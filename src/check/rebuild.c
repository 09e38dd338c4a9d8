// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The index is lost as a whole: a new state, with the instances that stamps in upper name kept
 * free. The entries are then missing like any that got lost, and the passes make them. Killed in
 * between, the overlay has a state, counts as not cleanly stopped, and repair goes on; if a rebind makes
 * it, that one alone.
 */
#include "check/rebuild.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/mend.h"
#include "check/private.h"
#include "index/bind.h"
#include "index/fsck.h"
#include "index/stamp.h"
#include "index/table.h"
#include "layer/path.h"
#include "layer/tree.h"

struct scan {
	const struct rvl_stack *stack;
	const struct rvl_binding *binding; /* borrowed; NULL: origins are not looked for */
	uint64_t used[(RVL_INSTANCE_MAX + 1) / 64];
	/* of directories in upper that came from lower: is one of them known, and found? */
	bool has_origin, is_origin_found;
};

static bool may_be_uuid(const uint8_t a[16], const uint8_t b[16])
{
	static const uint8_t none[16];

	return !memcmp(a, b, 16) || !memcmp(a, none, 16) || !memcmp(b, none, 16);
}

/* Does a directory's handle lead into one of the lowers? Also true where that cannot be told. */
static bool is_in_lowers(const struct scan *scan, const struct rvl_handle *origin)
{
	for (unsigned i = 1; i < scan->stack->n; i++) {
		const struct rvl_layer *layer = &scan->stack->layers[i];
		const struct rvl_identity *identity = &scan->binding->identities[i - 1];
		_cleanup_close_ int fd = rvl_handle_open(layer->fd, origin);
		struct statx st;

		if (fd == -EPERM || identity->inos == RVL_INOS_FLEETING)
			return true;
		if (fd >= 0 && may_be_uuid(identity->uuid, origin->uuid) &&
		    !rvl_path_statx(fd, "", STATX_TYPE, &st) && S_ISDIR(st.stx_mode) &&
		    rvl_layer_may_have_dir(layer, fd))
			return true;
	}
	return false;
}

static void look_for_origin(struct scan *scan, const struct rvl_tree_name *name)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle origin;
	ssize_t n;

	if (!scan->binding || scan->is_origin_found || name->type != DT_DIR)
		return;
	n = rvl_xattr_get(&scan->stack->xattr, name->dirfd, name->name, RVL_XATTR_ORIGIN, value,
			  sizeof(value));
	if (n <= 0 || rvl_handle_decode(value, (unsigned)n, &origin))
		return;
	scan->has_origin = true;
	scan->is_origin_found = is_in_lowers(scan, &origin);
}

static int note(void *arg, const struct rvl_tree_name *name)
{
	struct scan *scan = arg;
	uint8_t buf[RVL_STAMP_SIZE];
	struct rvl_id id;
	unsigned instance;
	ssize_t n;

	look_for_origin(scan, name);
	n = rvl_xattr_get(&scan->stack->xattr, name->dirfd, name->name, RVL_XATTR_INO, buf,
			  sizeof(buf));
	if (n < 0 || rvl_stamp_decode(buf, (size_t)n, &id))
		return 0;
	instance = (unsigned)(id.number >> RVL_INSTANCE_SHIFT);
	scan->used[instance / 64] |= 1ULL << (instance % 64);
	return 0;
}

/* 0, -ENOENT, -EUCLEAN, or another error. */
static int load_state(const struct rvl_stack *stack)
{
	_cleanup_close_ int fd = rvl_path_open(stack->work_fd, "inodes", O_RDONLY | O_DIRECTORY, 0);
	struct rvl_state *state = NULL;
	int r = fd < 0 ? fd : rvl_state_load(fd, &state);

	rvl_state_free(state);
	return r;
}

/* Of copied layers the numbers of lower are others, and which names of lower are those of a file in
 * upper cannot be told by handles. */
static int refuse_copied(const struct rvl_stack *stack)
{
	_cleanup_free_ char *options = rvl_bind_options(stack);

	rvl_error("upperdir=%s: no directory that it has copied up is found in these lower layers: they "
		  "were copied or replaced, and --rebuild is for layers that are where they were. Run: "
		  "reverlayctl rebind %s",
		  rvl_stack_upper(stack)->path, options ?: "");
	return -ESTALE;
}

static int scan_upper(struct scan *scan)
{
	const struct rvl_layer *upper = rvl_stack_upper(scan->stack);
	_cleanup_free_ char *path = NULL;
	int r = rvl_tree_walk(upper->fd, note, scan, &path);

	if (r)
		rvl_error("upperdir=%s: %s: %s", upper->path, path ?: "", strerror(-r));
	return r;
}

int rvl_rebuild(const struct rvl_check_config *config)
{
	struct scan scan = { .stack = config->stack };
	struct rvl_binding binding = { 0 };
	struct rvl_table table;
	int state, r = 0;

	if (!config->stack->has_upper) {
		rvl_error("without upperdir and workdir there is no index to make again");
		return -EINVAL;
	}
	state = load_state(config->stack);
	if (!config->is_rebind && state != -ENOENT && state != -EUCLEAN)
		return 0;
	/* a rebind needs the table; what has a state that is damaged has its entries */
	if (!config->is_rebind && state == -ENOENT &&
	    !rvl_bind_read_table(config->stack, rvl_stack_upper(config->stack), &table)) {
		r = rvl_binding_read(config->stack, &binding);
		scan.binding = &binding;
	}
	r = r ?: scan_upper(&scan);
	rvl_binding_release(&binding);
	if (!r && scan.has_origin && !scan.is_origin_found)
		r = refuse_copied(config->stack);
	return r ?: rvl_index_rebuild(config->stack, scan.used, config->is_rebind);
}
