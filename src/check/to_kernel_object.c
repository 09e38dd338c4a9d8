// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * To the kernel, one object of upper. Of a file:
 *
 *   lower has several names (or nfs_export)   overlay.origin exactly as the kernel would write it,
 *                                             then the entry is renamed to workdir/index/<hex of
 *                                             it>: st_nlink and overlay.nlink stay true
 *   else                                      overlay.nlink goes, which nobody reads then; the
 *                                             entry goes
 *
 * Of a merged directory overlay.origin is made exact (with nfs_export the kernel does not merge
 * another one), and for nfs_export it gets an entry: a directory with overlay.upper.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "check/mend.h"
#include "check/to_kernel_private.h"
#include "index/stamp.h"
#include "layer/copy.h"
#include "layer/fetch.h"
#include "layer/merge.h"
#include "layer/path.h"


struct object {
	struct rvl_to_kernel *tk;
	int dirfd;
	const char *name, *path;
	const struct statx *st;
	struct rvl_id id;
	bool is_first; /* of its names */
	/* what it was copied up from; fd -EBADF: not known */
	int lower_fd; /* owned */
	const struct rvl_layer *layer;
	struct statx lower_st;
	struct rvl_handle origin; /* of it, with the uuid; len 0: it has none */
};

static void tell(const struct object *o, enum rvl_to_kernel_told what)
{
	rvl_to_kernel_tell(o->tk, what, o->id.number, o->path);
}

static ssize_t get(const struct object *o, enum rvl_xattr which, void *buf, size_t size)
{
	return rvl_upper_xattr_get(o->tk->index, o->dirfd, o->name, o->st->stx_mode,
				   o->st->stx_ino, which, buf, size);
}

static int set(const struct object *o, enum rvl_xattr which, const void *buf, size_t size)
{
	if (rvl_to_kernel_is_dry(o->tk))
		return 0;
	return rvl_upper_xattr_set(o->tk->index, o->dirfd, o->name, o->st->stx_mode, o->st->stx_ino,
				   which, buf, size);
}

/* ---- where it came from ---- */

/* The lower object of a handle, if it has the number of the object. */
static int find_lower(struct object *o, const struct rvl_handle *handle)
{
	int fd = rvl_lower_of_number(o->tk->index, handle, o->st->stx_mode, o->id.number, &o->layer,
				     &o->lower_st);

	if (fd < 0)
		return fd == -EPERM ? fd : 0;
	o->lower_fd = fd;
	if (rvl_handle_get(fd, "", o->tk->uuids[o->layer->index], &o->origin))
		o->origin.len = 0;
	return 0;
}

/* As the kernel compares it: byte by byte. */
static int set_origin(const struct object *o)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX], old[RVL_HANDLE_ENCODED_MAX];
	size_t len = (size_t)rvl_handle_encode(&o->origin, value);
	ssize_t n = get(o, RVL_XATTR_ORIGIN, old, sizeof(old));

	return n == (ssize_t)len && !memcmp(value, old, len) ?
		       0 :
		       set(o, RVL_XATTR_ORIGIN, value, len);
}

/* ---- the kernel's index ---- */

/* A name there, made in work/ under `temp`. */
static int publish(struct rvl_to_kernel *tk, const char *temp, const char *name)
{
	int r = renameat2(tk->index->temp_fd, temp, tk->kernel_fd, name, RENAME_NOREPLACE) ?
			-errno :
			0;

	if (r && unlinkat(tk->index->temp_fd, temp, 0) && errno == EISDIR)
		unlinkat(tk->index->temp_fd, temp, AT_REMOVEDIR);
	return r == -EEXIST ? 0 : r;
}

int rvl_to_kernel_whiteout(struct rvl_to_kernel *tk, const struct rvl_handle *lower)
{
	char name[RVL_HANDLE_NAME_SIZE], temp[RVL_TEMP_NAME_SIZE];

	if (rvl_handle_name_encode(lower, name))
		return 0;
	tk->result->n_dead++;
	if (rvl_to_kernel_is_dry(tk))
		return 0;
	rvl_index_temp_name(tk->index, temp);
	if (mknodat(tk->index->temp_fd, temp, S_IFCHR, makedev(0, 0)))
		return errno == EPERM ? 0 : -errno;
	return publish(tk, temp, name);
}

static int index_directory(const struct object *o)
{
	char name[RVL_HANDLE_NAME_SIZE], temp[RVL_TEMP_NAME_SIZE];
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_to_kernel *tk = o->tk;
	struct rvl_handle handle;
	int r;

	if (rvl_handle_name_encode(&o->origin, name) ||
	    rvl_handle_get(o->dirfd, o->name, tk->uuids[0], &handle))
		return 0;
	tk->result->n_directories++;
	if (rvl_to_kernel_is_dry(tk))
		return 0;
	rvl_index_temp_name(tk->index, temp);
	if (mkdirat(tk->index->temp_fd, temp, 0700))
		return -errno;
	r = rvl_xattr_set(&tk->stack->xattr, tk->index->temp_fd, temp, RVL_XATTR_UPPER, value,
			  (size_t)rvl_handle_encode_upper(&handle, value));
	return r ?: publish(tk, temp, name);
}

/* ---- a directory ---- */

/* fs/overlayfs/params.c (ovl_fs_params_verify): userxattr means redirect_dir=nofollow. */
static int look_at_redirect(const struct object *o)
{
	const struct rvl_stack *stack = o->tk->stack;
	_cleanup_free_ char *redirect = NULL;
	enum rvl_opaque opaque;
	int r = !stack->xattr.is_user ? 0 : rvl_redirect_get(stack, o->dirfd, o->name, &redirect);

	if (r || !redirect)
		return r == -EUCLEAN ? 0 : r;
	r = rvl_opaque_get(stack, o->dirfd, o->name, &opaque);
	if (!r && opaque != RVL_OPAQUE_YES)
		tell(o, RVL_KERNEL_REDIRECT);
	return r;
}

static int take_directory(struct object *o)
{
	struct rvl_to_kernel *tk = o->tk;
	struct rvl_entry_directory record;
	int r = look_at_redirect(o);

	r = r ?: rvl_entry_get_directory(tk->index, o->id.number, &record);
	if (r || !record.is_merged || !record.lower.len)
		return r == -ENOENT || r == -EUCLEAN ? 0 : r;
	r = find_lower(o, &record.lower);
	if (r || o->lower_fd < 0 || !o->origin.len)
		return r;
	r = set_origin(o);
	return r || !tk->config->is_nfs_export ? r : index_directory(o);
}

/* ---- a file ---- */

/* nfs_export and metacopy cannot be had together: the data are copied, as at the first change. */
static int fetch_data(const struct object *o)
{
	const struct rvl_stack *stack = o->tk->stack;
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	struct rvl_kept kept;
	int r;

	if (o->lower_fd < 0 || o->lower_st.stx_size != o->st->stx_size ||
	    rvl_metacopy_get(stack, o->lower_fd, "")) {
		tell(o, RVL_KERNEL_NO_DATA);
		return 0;
	}
	o->tk->result->n_copied++;
	if (rvl_to_kernel_is_dry(o->tk))
		return 0;
	from = rvl_fd_reopen(o->lower_fd, O_RDONLY | O_CLOEXEC);
	to = rvl_path_open(o->dirfd, o->name, O_RDWR, 0);
	if (from < 0 || to < 0)
		return from < 0 ? from : to;
	r = rvl_fetch_begin(&stack->xattr, to, &kept);
	if (r)
		return r;
	r = kept.st.stx_size ? rvl_copy_data(from, to, kept.st.stx_size, NULL) : 0;
	if (!r && fsync(to))
		r = -errno;
	r = r ?: rvl_fetch_end(&stack->xattr, to, &kept);
	if (r)
		(void)rvl_fetch_undo(&stack->xattr, to, &kept);
	return r;
}

static int look_at_values(const struct object *o)
{
	const struct rvl_stack *stack = o->tk->stack;
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	int r = 0;

	if (S_ISCHR(o->st->stx_mode) && get(o, RVL_XATTR_WHITEOUT, value, sizeof(value)) >= 0)
		tell(o, RVL_KERNEL_DEVICE);
	if (S_ISREG(o->st->stx_mode))
		r = rvl_metacopy_get(stack, o->dirfd, o->name);
	if (r > 0 && o->tk->config->is_nfs_export)
		return o->is_first ? fetch_data(o) : 0;
	o->tk->result->n_metacopy += r > 0 && o->is_first;
	return r < 0 && r != -EUCLEAN ? r : 0;
}

/* Does the inode itself have the origin, and not a companion, which the kernel does not know? */
static bool has_origin(const struct object *o)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];

	return rvl_xattr_get(&o->tk->stack->xattr, o->dirfd, o->name, RVL_XATTR_ORIGIN, value,
			     sizeof(value)) > 0;
}

static bool is_entry(const struct object *o, struct statx *ret)
{
	enum rvl_entry_kind kind;

	return !rvl_entry_look(o->tk->index, o->id.number, &kind, ret) &&
	       kind == RVL_ENTRY_OBJECT && ret->stx_ino == o->st->stx_ino;
}

/* It has its names, and needs no other link. */
static int drop_entry(const struct object *o)
{
	struct rvl_to_kernel *tk = o->tk;
	struct statx st;
	int r;

	if (rvl_to_kernel_is_dry(tk) || !is_entry(o, &st))
		return 0;
	r = rvl_upper_xattr_remove(tk->index, o->dirfd, o->name, o->st->stx_mode, o->st->stx_ino,
				   RVL_XATTR_NLINK);
	if (r && r != -ENODATA && r != -EPERM && r != -EACCES && r != -EOPNOTSUPP)
		return r;
	return rvl_entry_bury(tk->index, o->id.number, false);
}

static int move_entry(const struct object *o)
{
	char name[RVL_HANDLE_NAME_SIZE], entry[RVL_ENTRY_PATH_SIZE];
	struct rvl_to_kernel *tk = o->tk;
	struct statx st;
	int r;

	if (rvl_handle_name_encode(&o->origin, name))
		return drop_entry(o);
	r = set_origin(o);
	if (r || !is_entry(o, &st)) /* by another name, before */
		return r;
	tk->result->n_links += o->is_first;
	if (rvl_to_kernel_is_dry(tk))
		return 0;
	rvl_entry_path(o->id.number, entry);
	r = renameat2(tk->index->inodes_fd, entry, tk->kernel_fd, name, RENAME_NOREPLACE) ? -errno :
											    0;
	return r == -EEXIST ? drop_entry(o) : r;
}

static int take_file(struct object *o)
{
	struct rvl_to_kernel *tk = o->tk;
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_handle origin;
	ssize_t n = get(o, RVL_XATTR_ORIGIN, value, sizeof(value));
	int r = 0;

	if (n > 0 && !rvl_handle_decode(value, (unsigned)n, &origin))
		r = find_lower(o, &origin);
	r = r ?: look_at_values(o);
	if (r)
		return r;
	if (n >= 0 && !has_origin(o))
		tell(o, n ? RVL_KERNEL_BESIDE : RVL_KERNEL_NUMBER);
	if (o->lower_fd >= 0 && o->origin.len && has_origin(o) &&
	    (o->lower_st.stx_nlink > 1 || tk->config->is_nfs_export))
		return move_entry(o);
	return drop_entry(o);
}

int rvl_to_kernel_object(struct rvl_to_kernel *tk, int dirfd, const char *name,
			 const struct statx *st, const char *path)
{
	struct object o = {
		.tk = tk, .dirfd = dirfd, .name = name, .path = path, .st = st, .lower_fd = -EBADF
	};
	int r = rvl_stamp_get(tk->index, dirfd, name, st->stx_mode, st->stx_ino, &o.id);

	if (r)
		return r == -ENODATA || r == -EUCLEAN ? 0 : r;
	o.is_first = st->stx_nlink < 3 || !rvl_number_set_get(&tk->seen, st->stx_ino);
	if (!S_ISDIR(st->stx_mode) && o.is_first && st->stx_nlink > 2)
		r = rvl_number_set_add(&tk->seen, st->stx_ino, 1, RVL_NUMBER_SET_MAX);
	if (r && r != -E2BIG) /* more than that are counted by name */
		return r;
	r = S_ISDIR(st->stx_mode) ? take_directory(&o) : take_file(&o);
	rvl_close(o.lower_fd);
	return r;
}
