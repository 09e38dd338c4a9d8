// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Import, the kernel's index (fs/overlayfs/namei.c, ovl_verify_index): workdir/index/<hex of the
 * handle of a lower object> is
 *
 *   a hard link of the upper file that this object was copied up to: it becomes our entry, which is
 *   a hard link too, so overlay.nlink stays what it is
 *   a directory with overlay.upper, the handle of the upper directory: that has overlay.origin, and
 *   gets its number by that; where it is gone, the object is dead
 *   a whiteout: the object is dead
 *   "#…": left over from something in the making
 *
 * Each name is gone from there when it is taken over, so that a death in between leaves the rest.
 * What is dead comes last, when everything that lives has its entry: a directory that was copied
 * since is not where its handle says, and still has its number.
 */
#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/stop.h"
#include "check/import_private.h"
#include "check/mend.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "index/workdir.h"
#include "layer/merge.h"
#include "layer/origin.h"
#include "layer/path.h"

#define PROGRESS_NAMES 1000

struct name {
	struct rvl_import *import;
	const char *name;
	struct statx st;
	struct rvl_id id; /* number 0: lower has it no more */
};

static bool is_dry(const struct name *n)
{
	return n->import->config->is_dry_run;
}

static int tell(const struct name *n, enum rvl_import_told what)
{
	n->import->result->n_told[what]++;
	n->import->config->told(n->import->config->arg, what, n->name);
	return 0;
}

static int drop(const struct name *n)
{
	return is_dry(n) ? 0 : rvl_workdir_remove(n->import->kernel_fd, n->name);
}

/* The number of the lower object with this handle. */
static int find_number(struct name *n, const struct rvl_handle *origin, mode_t type)
{
	const struct rvl_layer *layer;
	struct statx st;
	_cleanup_close_ int fd = rvl_origin_find(n->import->config->stack, n->import->uuids, origin,
						 type, &layer, &st);

	if (fd < 0)
		return fd == -EPERM ? fd : 0;
	return rvl_number_of_lower(n->import->index, layer, fd, "", &st, &n->id);
}

/* A whiteout does not say of what kind the object was. */
static int find_dead(struct name *n, const struct rvl_handle *origin)
{
	static const mode_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO,
					S_IFCHR, S_IFBLK, S_IFSOCK };
	int r = 0;

	for (unsigned i = 0; !r && !n->id.number && i < sizeof(types) / sizeof(types[0]); i++)
		r = find_number(n, origin, types[i]);
	return r;
}

/* ---- what is dead ---- */

static int bury(struct name *n)
{
	struct rvl_index *index = n->import->index;
	enum rvl_entry_kind kind;
	struct statx st;
	int r = 0;

	n->import->result->n_dead++;
	if (is_dry(n))
		return 0;
	if (n->id.number > RVL_NUMBER_ROOT)
		r = rvl_entry_look(index, n->id.number, &kind, &st);
	if (!r && n->id.number > RVL_NUMBER_ROOT && kind == RVL_ENTRY_NONE) {
		r = rvl_entry_bury(index, n->id.number, true);
		n->import->n_buried++;
	}
	return r ?: drop(n);
}

static int take_directory(struct name *n, const struct rvl_handle *origin)
{
	const struct rvl_stack *stack = n->import->config->stack;
	const struct rvl_layer *upper = rvl_stack_upper(stack);
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle handle;
	struct statx st;
	ssize_t len = rvl_xattr_get(&stack->xattr, n->import->kernel_fd, n->name, RVL_XATTR_UPPER,
				    value, sizeof(value));
	int r = len < 0 ? (int)len : rvl_handle_decode(value, (unsigned)len, &handle);

	if (r && r != -ENODATA && r != -ERANGE && r != -EUCLEAN && r != -ESTALE)
		return r;
	if (!r) {
		_cleanup_close_ int fd = rvl_handle_open(upper->fd, &handle);

		if (fd >= 0 && !rvl_path_statx(fd, "", RVL_STATX_MASK, &st) &&
		    S_ISDIR(st.stx_mode) && st.stx_nlink && rvl_layer_may_have_dir(upper, fd)) {
			n->import->result->n_directories++;
			return drop(n);
		}
	}
	r = find_number(n, origin, S_IFDIR);
	return r ?: bury(n);
}

/* ---- an object ---- */

/* The index link goes: one less that overlay.nlink counts. */
static int drop_link(struct name *n)
{
	int r;

	if (is_dry(n))
		return 0;
	r = rvl_nlink_change(n->import->index, n->import->kernel_fd, n->name, n->st.stx_mode,
			     n->st.stx_ino, 1);
	return r ?: drop(n);
}

/* It is not what the name says, but nothing is lost with this link if it has another one. */
static int refuse(struct name *n, enum rvl_import_told what)
{
	if (n->st.stx_nlink == 1)
		return tell(n, RVL_IMPORT_UNNAMED);
	return tell(n, what) ?: drop_link(n);
}

/*
 * A stamp from before goes before the handle, which is another one after a move. Not without its
 * entry: it may be a copy.
 */
static int find_stamp(struct name *n)
{
	struct rvl_index *index = n->import->index;
	enum rvl_entry_kind kind;
	struct rvl_id id;
	struct statx st;
	int r = rvl_stamp_get(index, n->import->kernel_fd, n->name, n->st.stx_mode, n->st.stx_ino,
			      &id);

	if (r)
		return r == -ENODATA || r == -EUCLEAN ? 0 : r;
	r = id.number == RVL_NUMBER_ROOT ? -EUCLEAN : rvl_entry_look(index, id.number, &kind, &st);
	if (r)
		return r == -EUCLEAN ? 0 : r;
	if (kind == RVL_ENTRY_NONE || (kind == RVL_ENTRY_OBJECT && st.stx_ino == n->st.stx_ino))
		n->id = id;
	return 0;
}

static int take_object(struct name *n, const struct rvl_handle *origin)
{
	struct rvl_index *index = n->import->index;
	enum rvl_entry_kind kind;
	struct statx st;
	int r = find_stamp(n);

	if (!r && !n->id.number)
		r = find_number(n, origin, n->st.stx_mode);
	if (r)
		return r;
	if (n->id.number <= RVL_NUMBER_ROOT)
		return refuse(n, RVL_IMPORT_PARTED);
	r = rvl_entry_look(index, n->id.number, &kind, &st);
	if (r && r != -EUCLEAN)
		return r;
	if (!r && kind == RVL_ENTRY_OBJECT && st.stx_ino == n->st.stx_ino) {
		n->import->result->n_links++;
		return drop_link(n);
	}
	if (r || kind != RVL_ENTRY_NONE)
		return refuse(n, RVL_IMPORT_TAKEN);
	n->import->result->n_links++;
	if (is_dry(n))
		return 0;
	r = rvl_stamp_set(index, n->import->kernel_fd, n->name, n->st.stx_mode, n->st.stx_ino,
			  &n->id);
	return r ?: rvl_entry_move(index, n->import->kernel_fd, n->name, n->id.number);
}

/* ---- all ---- */

static int take(struct rvl_import *import, const char *text, bool is_after)
{
	struct name n = { .import = import, .name = text };
	struct rvl_handle origin;
	int r = rvl_path_statx(import->kernel_fd, text, RVL_STATX_MASK, &n.st);

	if (r)
		return r;
	if (*text == '#')
		return is_after ? 0 : drop(&n);
	r = rvl_handle_name_decode(text, &origin);
	if (r)
		return is_after ? 0 : tell(&n, RVL_IMPORT_UNKNOWN);
	if (!rvl_is_whiteout(&n.st) && !S_ISDIR(n.st.stx_mode))
		return is_after ? 0 : take_object(&n, &origin);
	if (!is_after)
		return 0;
	if (S_ISDIR(n.st.stx_mode))
		return take_directory(&n, &origin);
	r = find_dead(&n, &origin);
	return r ?: bury(&n);
}

static int tick(struct rvl_import *import)
{
	const struct rvl_import_config *config = import->config;

	if (++import->n_names % PROGRESS_NAMES)
		return 0;
	if (config->sink->progress)
		config->sink->progress(config->sink->arg, import->n_names);
	return rvl_stop_check(config->stop);
}

int rvl_import_index(struct rvl_import *import, bool is_after)
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(import->kernel_fd,
					     O_RDONLY | O_DIRECTORY | O_CLOEXEC),
			       &dir);

	while (!r && (r = rvl_dir_next(dir, &entry)) > 0) {
		r = take(import, entry->d_name, is_after);
		r = r ?: tick(import);
	}
	if (!r && is_after && !import->config->is_dry_run &&
	    unlinkat(import->config->stack->work_fd, RVL_KERNEL_INDEX, AT_REMOVEDIR) &&
	    errno != ENOTEMPTY && errno != EEXIST)
		r = -errno;
	return r;
}
