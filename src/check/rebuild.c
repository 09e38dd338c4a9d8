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
#include "layer/merge.h"
#include "layer/path.h"
#include "layer/tree.h"

struct scan {
	const struct rvl_stack *stack;
	const struct rvl_binding *binding; /* borrowed; NULL: origins are not looked for */
	uint64_t used[(RVL_INSTANCE_MAX + 1) / 64];
	/* of directories in upper that came from lower: is one of them known, and found? */
	bool has_origin, is_origin_found;
	bool is_changed; /* a file's origin is not where it was, in an image */
};

static bool may_be_uuid(const uint8_t a[16], const uint8_t b[16])
{
	static const uint8_t none[16];

	return !memcmp(a, b, 16) || !memcmp(a, none, 16) || !memcmp(b, none, 16);
}

/*
 * Where the lower view has what upper has under this path, by the redirects of the directories on the way, and
 * its own. Owned by the caller; NULL: it cannot be told.
 */
static char *view_path(const struct rvl_stack *stack, const struct rvl_tree_name *name)
{
	const int upper_fd = rvl_stack_upper(stack)->fd;
	_cleanup_free_ char *path = rvl_tree_path(name), *prefix = path ? strdup(path) : NULL;

	/* absolute ones: the first from below says it all */
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

/* Is what was copied up at this place, with this inode number, there still? Also true where that cannot be
 * told. */
static bool is_at_its_place(const struct scan *scan, const struct rvl_tree_name *name, uint64_t ino)
{
	_cleanup_free_ char *path = view_path(scan->stack, name);
	struct rvl_found found = { 0 };
	bool is_there;

	if (!path)
		return true;
	is_there = !rvl_merge_lookup_path(scan->stack, path, &found) && found.st.stx_ino == ino;
	rvl_found_release(&found);
	return is_there;
}

/* What a handle of this type opens in a layer. *ret_ino 0: nothing. false: it cannot be told. */
static bool open_origin(const struct scan *scan, unsigned layer_index, const struct rvl_handle *origin,
			bool is_dir, uint64_t *ret_ino)
{
	const struct rvl_layer *layer = &scan->stack->layers[layer_index];
	const struct rvl_identity *identity = &scan->binding->identities[layer_index - 1];
	_cleanup_close_ int fd = rvl_handle_open(layer->fd, origin);
	struct statx st;

	*ret_ino = 0;
	if (fd == -EPERM || identity->inos == RVL_INOS_FLEETING)
		return false;
	if (fd >= 0 && may_be_uuid(identity->uuid, origin->uuid) &&
	    !rvl_path_statx(fd, "", STATX_TYPE | STATX_INO, &st) && S_ISDIR(st.stx_mode) == is_dir &&
	    (!is_dir || rvl_layer_may_have_dir(layer, fd)))
		*ret_ino = st.stx_ino;
	return true;
}

/* Does a directory's handle lead into one of the lowers? Also true where that cannot be told. */
static bool is_in_lowers(const struct scan *scan, const struct rvl_handle *origin,
			 const struct rvl_tree_name *name)
{
	for (unsigned i = 1; i < scan->stack->n; i++) {
		uint64_t ino;

		if (!open_origin(scan, i, origin, true, &ino))
			return true;
		if (ino && (!rvl_identity_is_image(&scan->binding->identities[i - 1]) ||
			    is_at_its_place(scan, name, ino)))
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

	for (unsigned i = 1; i < scan->stack->n; i++) {
		uint64_t ino;

		if (!rvl_identity_is_image(&scan->binding->identities[i - 1]))
			continue;
		if (!open_origin(scan, i, origin, false, &ino) ||
		    (ino && is_at_its_place(scan, name, ino)))
			return false;
		is_opened |= ino != 0;
	}
	return is_opened && is_unmoved(scan, name);
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
		scan->is_changed = scan->is_changed || is_elsewhere(scan, &origin, name);
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

/* Is there a filesystem among the lowers that upper has never had beneath it? */
static bool has_unknown_lower(const struct scan *scan, const struct rvl_table *table)
{
	for (unsigned i = 0; i < scan->binding->n_lowers; i++) {
		const struct rvl_identity *identity = &scan->binding->identities[i];
		unsigned row = 0;

		while (row < table->n && memcmp(table->rows[row].digest, identity->digest, 16))
			row++;
		if (row == table->n && !table->is_truncated && identity->is_stable)
			return true;
	}
	return false;
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

	rvl_error("upperdir=%s: what it has copied up is not found in these lower layers: they were "
		  "copied or replaced, and --rebuild is for layers that are where they were. Run: "
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
	if (!r && (scan.is_changed || (scan.has_origin && !scan.is_origin_found) ||
		   (scan.binding && has_unknown_lower(&scan, &table))))
		r = refuse_copied(config->stack);
	rvl_binding_release(&binding);
	return r ?: rvl_index_rebuild(config->stack, scan.used, config->is_rebind);
}
