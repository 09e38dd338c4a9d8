// SPDX-License-Identifier: GPL-2.0-or-later
/* To the kernel: the order of its parts, see to_kernel.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/stop.h"
#include "check/import_private.h"
#include "check/to_kernel_private.h"
#include "index/workdir.h"
#include "layer/identity.h"
#include "layer/merge.h"
#include "layer/path.h"
#include "layer/tree.h"

#define PROGRESS_NAMES 1000
#define AUFS_PREFIX ".wh."

const char *rvl_to_kernel_text(enum rvl_to_kernel_told what)
{
	static const char *const texts[RVL_KERNEL_TOLD_N] = {
		[RVL_KERNEL_DEVICE] = "a device 0:0: the kernel will show it as 0:1",
		[RVL_KERNEL_AUFS] = "an AUFS whiteout: the kernel will show it, and what it hides",
		[RVL_KERNEL_BESIDE] = "it cannot carry attributes: the kernel will show another "
				      "inode number",
		[RVL_KERNEL_NUMBER] = "what it was copied up from has no file handle: the kernel "
				      "will show another inode number",
		[RVL_KERNEL_UNNAMED] = "it has no name: it stays in the index of reverlay",
		[RVL_KERNEL_NO_DATA] = "its data cannot be found: the kernel will refuse it without "
				       "metacopy=on",
		[RVL_KERNEL_REDIRECT] = "it was renamed, and the kernel follows no overlay.redirect "
					"with userxattr: it will refuse it (EPERM)",
	};

	return texts[what];
}

void rvl_to_kernel_tell(struct rvl_to_kernel *tk, enum rvl_to_kernel_told what, uint64_t number,
			const char *path)
{
	tk->result->n_told[what]++;
	tk->config->told(tk->config->arg, what, number, path);
}

void rvl_to_kernel_pass(struct rvl_to_kernel *tk, const char *title)
{
	const struct rvl_check_sink *sink = tk->config->import.sink;

	tk->n_names = 0;
	sink->pass(sink->arg, 0, title);
}

int rvl_to_kernel_tick(struct rvl_to_kernel *tk)
{
	const struct rvl_import_config *config = &tk->config->import;

	if (++tk->n_names % PROGRESS_NAMES)
		return 0;
	if (config->sink->progress)
		config->sink->progress(config->sink->arg, tk->n_names);
	return rvl_stop_check(config->stop);
}

/* ---- AUFS whiteouts ---- */

struct aufs {
	struct rvl_to_kernel *tk;
	const struct rvl_layer *layer;
};

static int look_for_aufs(void *arg, const struct rvl_tree_name *name)
{
	const struct aufs *aufs = arg;
	_cleanup_free_ char *path = NULL, *shown = NULL;

	if (strncmp(name->name, AUFS_PREFIX, strlen(AUFS_PREFIX)) != 0)
		return rvl_to_kernel_tick(aufs->tk);
	path = rvl_tree_path(name);
	if (!path || asprintf(&shown, "%s/%s", aufs->layer->path, path) < 0)
		return -ENOMEM;
	rvl_to_kernel_tell(aufs->tk, RVL_KERNEL_AUFS, 0, shown);
	return 1;
}

static int look_at_lowers(struct rvl_to_kernel *tk)
{
	int r = 0;

	rvl_to_kernel_pass(tk, "lower layers");
	for (unsigned i = 1; !r && i < rvl_stack_data_start(tk->stack); i++) {
		struct aufs aufs = { tk, &tk->stack->layers[i] };

		if (aufs.layer->has_aufs)
			r = rvl_tree_walk(aufs.layer->fd, look_for_aufs, &aufs, NULL);
		if (r == -EACCES || r == -EPERM) /* nobody sees it */
			r = 0;
	}
	return r;
}

/* ---- upper ---- */

static int visit(void *arg, const struct rvl_tree_name *name)
{
	struct rvl_to_kernel *tk = arg;
	_cleanup_free_ char *path = NULL;
	struct statx st;
	int r = rvl_path_statx(name->dirfd, name->name, RVL_STATX_MASK, &st);

	r = r ?: rvl_whiteout_check(tk->stack, name->dirfd, name->name, &st, true);
	if (r)
		return r < 0 ? r : rvl_to_kernel_tick(tk);
	path = rvl_tree_path(name);
	if (!path)
		return -ENOMEM;
	r = rvl_to_kernel_object(tk, name->dirfd, name->name, &st, path);
	return r ?: rvl_to_kernel_tick(tk);
}

static void count_linked(struct rvl_to_kernel *tk, uint64_t number)
{
	char path[RVL_ENTRY_PATH_SIZE];
	uint64_t *n = tk->config->is_nfs_export ? &tk->result->n_copied : &tk->result->n_metacopy;

	rvl_entry_path(number, path);
	*n += rvl_metacopy_get(tk->stack, tk->index->inodes_fd, path) > 0;
	tk->result->n_links++;
}

static int tell_unnamed(void *arg, uint64_t number)
{
	struct rvl_to_kernel *tk = arg;
	enum rvl_entry_kind kind;
	struct statx st;
	int r = rvl_entry_look(tk->index, number, &kind, &st);

	if (r)
		return r == -EUCLEAN ? 0 : r;
	if (kind != RVL_ENTRY_OBJECT || st.stx_nlink > 1)
		return 0;
	r = rvl_to_kernel_is_dry(tk) ? rvl_to_kernel_lower_names(tk, number, &st) : 0;
	if (r > 0) /* it would have got one */
		count_linked(tk, number);
	else if (!r)
		rvl_to_kernel_tell(tk, RVL_KERNEL_UNNAMED, number, NULL);
	return r < 0 ? r : 0;
}

static int look_at_upper(struct rvl_to_kernel *tk)
{
	const struct rvl_layer *upper = rvl_stack_upper(tk->stack);
	_cleanup_free_ char *path = NULL;
	int r;

	rvl_to_kernel_pass(tk, "upper");
	r = rvl_tree_walk(upper->fd, visit, tk, &path);
	if (r && r != -ECANCELED)
		rvl_error("upperdir=%s: /%s: %s", upper->path, path ?: "", strerror(-r));
	return r ?: rvl_entry_each(tk->index, tell_unnamed, tk);
}

/*
 * The kernel compares the origin of upper's root with the topmost lower, and sets it where there is
 * none.
 */
static int clear_root(struct rvl_to_kernel *tk)
{
	const struct rvl_layer *upper = rvl_stack_upper(tk->stack);
	int r = rvl_to_kernel_is_dry(tk) ?
			0 :
			rvl_xattr_remove(&tk->stack->xattr, upper->fd, "", RVL_XATTR_ORIGIN);

	return r == -ENODATA ? 0 : r;
}

/* ---- all ---- */

static int open_index(struct rvl_to_kernel *tk)
{
	bool is_dry = rvl_to_kernel_is_dry(tk);
	const struct rvl_index_config config = { .stack = tk->stack,
						 .is_read_only = is_dry,
						 .is_offline = is_dry,
						 .is_repair = !is_dry,
						 .is_import = true };
	int r = rvl_index_open(&config, &tk->index);

	if (r)
		return r;
	tk->index->stays_unclean = true; /* till all is done */
	r = rvl_identity_uuids(tk->stack, &tk->uuids);
	if (r || is_dry)
		return r;
	tk->kernel_fd = rvl_workdir_open(tk->stack, RVL_KERNEL_INDEX, true);
	return tk->kernel_fd < 0 ? tk->kernel_fd : 0;
}

static int run(struct rvl_to_kernel *tk)
{
	int r = open_index(tk);

	r = r ?: rvl_to_kernel_links(tk);
	r = r ?: look_at_upper(tk);
	r = r ?: clear_root(tk);
	r = r ?: look_at_lowers(tk);
	if (!r && !rvl_to_kernel_is_dry(tk) && syncfs(tk->index->temp_fd))
		r = -errno;
	if (!r)
		tk->index->stays_unclean = false;
	rvl_index_close(tk->index);
	rvl_close(tk->kernel_fd);
	free(tk->uuids);
	rvl_number_set_release(&tk->seen);
	return r;
}

int rvl_to_kernel_run(const struct rvl_to_kernel_config *config, struct rvl_to_kernel_result *ret)
{
	struct rvl_to_kernel tk = { .config = config,
				    .stack = config->import.stack,
				    .result = ret,
				    .kernel_fd = -EBADF };
	int r;

	*ret = (struct rvl_to_kernel_result){ 0 };
	r = rvl_import_run(&config->import, &ret->import);
	if (r)
		return r;
	if (ret->import.check.n_left && !config->import.is_dry_run) {
		rvl_error("something is wrong with this overlay: run reverlayctl repair first");
		return -EUCLEAN;
	}
	r = run(&tk);
	if (r && r != -ECANCELED)
		rvl_error("workdir=%s: it cannot be made the kernel's: %s; it can be run again",
			  tk.stack->work_path, strerror(-r));
	return r;
}
