// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The index is lost as a whole: a new state, with the instances that stamps in upper name kept free, and
 * the numbers of lower objects that stamps tell (rebuild_lower.c). The entries are then missing like any
 * that got lost, and the passes make them. Killed in between, the overlay has a state, counts as not
 * cleanly stopped, and repair goes on; if a rebind makes it, that one alone.
 */
#include "check/rebuild.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/mend.h"
#include "check/private.h"
#include "index/bind.h"
#include "index/fsck.h"
#include "index/stamp.h"
#include "index/table.h"
#include "layer/merge.h"
#include "layer/origin.h"
#include "layer/path.h"

struct scan {
	const struct rvl_stack *stack;
	const struct rvl_binding *binding; /* borrowed; NULL: origins are not looked for */
	uint64_t used[(RVL_INSTANCE_MAX + 1) / 64];
	/* of directories in upper that came from lower: is one of them known, and found? */
	bool has_origin, is_origin_found;
	char *elsewhere; /* owned; a file whose origin is not where it was, in an image */
};

/*
 * Where the lower view has what upper has under this path, by the redirects of the directories on the way, and
 * its own. Owned by the caller; NULL: it cannot be told.
 */
static char *view_path(const struct rvl_stack *stack, const struct rvl_tree_name *name)
{
	const int upper_fd = rvl_stack_upper(stack)->fd;
	_cleanup_free_ char *path = rvl_tree_path(name), *prefix = path ? strdup(path) : NULL;

	/* redirects are absolute: the nearest one above decides. A relative one is not judged. */
	while (prefix && *prefix) {
		_cleanup_free_ char *redirect = NULL;
		char *slash = strrchr(prefix, '/');

		if (rvl_redirect_get(stack, upper_fd, prefix, &redirect) ||
		    (redirect && *redirect != '/'))
			return NULL;
		if (redirect) {
			const char *rest = path + strlen(prefix);

			return rvl_path_join(redirect + 1, *rest ? rest + 1 : "");
		}
		prefix[slash ? slash - prefix : 0] = '\0';
	}
	return rvl_take_ptr(path);
}

int rvl_rebuild_is_at_place(const struct rvl_stack *stack, const struct rvl_tree_name *name,
			    const struct statx *lower)
{
	_cleanup_free_ char *path = view_path(stack, name);
	struct rvl_found found = { 0 };
	bool is_there;

	if (!path)
		return -ENODATA;
	is_there = !rvl_merge_lookup_path(stack, path, &found) &&
		   found.st.stx_ino == lower->stx_ino &&
		   rvl_statx_dev(&found.st) == rvl_statx_dev(lower);
	rvl_found_release(&found);
	return is_there;
}

/* What a handle opens in a lower layer: 1; 0: nothing; -ENODATA: it cannot be told. */
static int open_origin(const struct scan *scan, unsigned lower, const struct rvl_handle *origin,
		       mode_t type, struct statx *ret)
{
	const struct rvl_identity *identity = &scan->binding->identities[lower];
	_cleanup_close_ int fd = -EBADF;

	if (identity->inos == RVL_INOS_FLEETING)
		return -ENODATA;
	if (!rvl_origin_may_be_of(origin, identity->uuid))
		return 0;
	fd = rvl_origin_find_in(&scan->stack->layers[lower + 1], origin, type, ret);
	return fd >= 0 ? 1 : fd == -EPERM ? -ENODATA : 0;
}

/* Does a directory's handle lead into one of the lowers? Also true where that cannot be told. */
static bool is_in_lowers(const struct scan *scan, const struct rvl_handle *origin,
			 const struct rvl_tree_name *name)
{
	for (unsigned i = 0; i < scan->binding->n_lowers; i++) {
		struct statx st;
		int r = open_origin(scan, i, origin, S_IFDIR, &st);

		if (r < 0 || (r && (!rvl_identity_is_image(scan->binding->identities[i].fs_magic) ||
				    rvl_rebuild_is_at_place(scan->stack, name, &st))))
			return true;
	}
	return false;
}

/* Is a file where it was copied up, by overlay.place? */
static bool is_unmoved(const struct scan *scan, const struct rvl_tree_name *name)
{
	uint8_t value[RVL_NAME_AT_ENCODED_MAX], stamp[RVL_STAMP_SIZE];
	const struct rvl_xattr_names *names = &scan->stack->xattr;
	struct rvl_id parent = { .number = RVL_NUMBER_ROOT };
	struct rvl_name_at at;
	ssize_t n = rvl_xattr_get(names, name->dirfd, name->name, RVL_XATTR_PLACE, value,
				  sizeof(value));

	if (n < 0 || rvl_name_at_decode(value, (size_t)n, &at) || strcmp(at.name, name->name))
		return false;
	n = *name->dir ? rvl_xattr_get(names, name->dirfd, "", RVL_XATTR_INO, stamp, sizeof(stamp)) :
			 0;
	return n >= 0 && (!*name->dir || !rvl_stamp_decode(stamp, (size_t)n, &parent)) &&
	       parent.number == at.parent;
}

/*
 * In an image a handle is an inode number, which leads to something in any other image as well. But a file
 * that has not moved is there where it was.
 */
static bool is_elsewhere(const struct scan *scan, const struct rvl_handle *origin,
			 const struct rvl_tree_name *name)
{
	bool is_opened = false;

	if (!is_unmoved(scan, name))
		return false;
	for (unsigned i = 0; i < scan->binding->n_lowers; i++) {
		struct statx st;
		int r;

		if (!rvl_identity_is_image(scan->binding->identities[i].fs_magic))
			continue;
		r = open_origin(scan, i, origin, DTTOIF(name->type), &st);
		if (r < 0 || (r && rvl_rebuild_is_at_place(scan->stack, name, &st)))
			return false;
		is_opened |= r > 0;
	}
	return is_opened;
}

static void look_for_origin(struct scan *scan, const struct rvl_tree_name *name)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle origin;
	ssize_t n;

	if (!scan->binding || (scan->is_origin_found && name->type == DT_DIR))
		return;
	n = rvl_xattr_get(&scan->stack->xattr, name->dirfd, name->name, RVL_XATTR_ORIGIN, value,
			  sizeof(value));
	if (n <= 0 || rvl_handle_decode(value, (unsigned)n, &origin))
		return;
	if (name->type != DT_DIR) {
		if (!scan->elsewhere && is_elsewhere(scan, &origin, name))
			scan->elsewhere = rvl_tree_path(name);
		return;
	}
	scan->has_origin = true;
	scan->is_origin_found = is_in_lowers(scan, &origin, name);
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

/* A lower on a filesystem that upper has never had beneath it; NULL: none. */
static const struct rvl_layer *find_unknown_lower(const struct scan *scan, const struct rvl_table *table)
{
	for (unsigned i = 0; i < scan->binding->n_lowers; i++) {
		const struct rvl_identity *identity = &scan->binding->identities[i];
		unsigned row = 0;

		while (row < table->n && memcmp(table->rows[row].digest, identity->digest, 16))
			row++;
		if (row == table->n && !table->is_truncated && identity->is_stable)
			return &scan->stack->layers[i + 1];
	}
	return NULL;
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
 * upper cannot be told by handles. -ESTALE: they are such. */
static int refuse_copied(const struct scan *scan, const struct rvl_table *table)
{
	const char *upper = rvl_stack_upper(scan->stack)->path;
	const struct rvl_layer *unknown = find_unknown_lower(scan, table);
	_cleanup_free_ char *options = rvl_bind_options(scan->stack);

	if (unknown)
		rvl_error("lowerdir=%s: upperdir=%s was never used with this filesystem", unknown->path,
			  upper);
	else if (scan->elsewhere)
		rvl_error("upperdir=%s: %s: the image has not at its place what it was copied up from",
			  upper, scan->elsewhere);
	else if (scan->has_origin && !scan->is_origin_found)
		rvl_error("upperdir=%s: no directory that it has copied up is found in the lower layers",
			  upper);
	else
		return 0;
	rvl_error("the lower layers were copied or replaced, and --rebuild is for layers that are where they "
		  "were. Run: reverlayctl rebind %s",
		  options ?: "");
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
	if (!r && scan.binding)
		r = refuse_copied(&scan, &table);
	rvl_binding_release(&binding);
	free(scan.elsewhere);
	return r ?: rvl_index_rebuild(config->stack, scan.used,
				      config->is_rebind ? NULL : rvl_rebuild_record,
				      (void *)config);
}
