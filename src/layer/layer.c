// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Opening a stack. Every root is opened once in the caller's namespace, checked, then opened again
 * in a private clone of its mount where the process may make one; the first descriptor is closed at
 * once, so that 500 layers do not need 1,000 descriptors. The stack is constant from then on.
 *
 * Which layers overlap: overlap.c. Clones: mount.c. What upper can do: upper_probe.c.
 */
#include "layer/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/mount.h"
#include "layer/overlap.h"
#include "layer/path.h"

#define XFS_MAGIC 0x58465342
#define EXFAT_MAGIC 0x2011BAB0

/* A root as the caller named it, in his own namespace. */
struct named_root {
	int fd; /* owned */
	char *path; /* owned; absolute */
	uint64_t mnt_id;
};

static void named_root_release(struct named_root *root)
{
	rvl_close(rvl_take_fd(&root->fd));
	free(rvl_take_ptr(root->path));
}

#define _cleanup_root_ __attribute__((cleanup(named_root_release)))
#define NAMED_ROOT_INIT      \
	{                    \
		.fd = -EBADF \
	}

/* The absolute path of an open directory; where the kernel cannot tell (chroot, no /proc), the
 * path that was given. */
static char *path_of_fd(int fd, const char *given)
{
	char path[PATH_MAX];

	return strdup(rvl_fd_read_path(fd, path) < 0 || path[0] != '/' ? given : path);
}

static int named_root_open(const char *option, const char *path, struct named_root *ret)
{
	_cleanup_root_ struct named_root root = NAMED_ROOT_INIT;
	struct statx stx;
	int r;

	root.fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root.fd < 0) {
		r = -errno;
		rvl_error("%s=%s: %s", option, path, strerror(-r));
		return r;
	}
	r = rvl_path_statx(root.fd, "", STATX_BASIC_STATS | STATX_MNT_ID, &stx);
	if (r < 0) {
		rvl_error("%s=%s: %s", option, path, strerror(-r));
		return r;
	}
	root.mnt_id = stx.stx_mnt_id;
	root.path = path_of_fd(root.fd, path);
	if (!root.path)
		return -ENOMEM;
	ret->fd = rvl_take_fd(&root.fd);
	ret->path = rvl_take_ptr(root.path);
	ret->mnt_id = root.mnt_id;
	return 0;
}

/* Filesystems whose getdents gives the same inos as stat for every entry. Others, and unknown ones,
 * are asked entry by entry: btrfs (subvolumes), overlay, fuse and network filesystems. */
static bool fs_has_ino_in_dirents(uint64_t magic)
{
	static const uint64_t known[] = {
		EXT4_SUPER_MAGIC, XFS_MAGIC,	     TMPFS_MAGIC,
		RAMFS_MAGIC,	  SQUASHFS_MAGIC,    EROFS_SUPER_MAGIC_V1,
		F2FS_SUPER_MAGIC, ISOFS_SUPER_MAGIC, REISERFS_SUPER_MAGIC,
		CRAMFS_MAGIC,
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i] == magic)
			return true;
	return false;
}

/* Fill in what is known of a layer once its root is open. */
static int layer_init(struct rvl_layer *layer, const struct rvl_xattr_names *names,
		      const char *path)
{
	struct statfs sfs;
	struct statx stx;
	ssize_t n;
	int r = rvl_path_statx(layer->fd, "", STATX_BASIC_STATS, &stx);

	if (r == 0 && fstatfs(layer->fd, &sfs) < 0)
		r = -errno;
	if (r < 0) {
		rvl_error("%s: %s", path, strerror(-r));
		return r;
	}
	layer->dev = rvl_statx_dev(&stx);
	layer->ino = stx.stx_ino;
	layer->fs_magic = (uint64_t)sfs.f_type & UINT32_MAX;
	layer->has_ino_in_dirents = fs_has_ino_in_dirents(layer->fs_magic);
	n = rvl_xattrat_get(layer->fd, "", names->name[RVL_XATTR_OPAQUE], NULL, 0);
	/* An image of squashfs without any says so to listxattr only. */
	if (layer->fs_magic == SQUASHFS_MAGIC && n == -ENODATA)
		n = rvl_xattrat_list(layer->fd, "", NULL, 0);
	layer->has_xattrs = n != -EOPNOTSUPP;
	layer->has_aufs = !layer->is_upper &&
			  rvl_xattrat_get(layer->fd, "", names->name[RVL_XATTR_INSTANCES], NULL, 0) < 0;
	return 0;
}

static int lower_open(struct rvl_stack *stack, const char *path, struct rvl_layer *layer,
		      struct rvl_ancestry *ret_ancestry)
{
	_cleanup_root_ struct named_root root = NAMED_ROOT_INIT;
	int r = named_root_open("lowerdir", path, &root);

	if (r < 0)
		return r;
	layer->path = rvl_take_ptr(root.path);
	r = rvl_ancestry_read(root.fd, RVL_ROOT_LOWER, layer->path, ret_ancestry);
	if (r < 0)
		return r;
	layer->fd = rvl_mount_clone(root.fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME);
	if (layer->fd < 0) {
		rvl_debug("lowerdir=%s: no private clone of its mount: %s", layer->path,
			  strerror(-layer->fd));
		layer->fd = rvl_take_fd(&root.fd);
	}
	return layer_init(layer, &stack->xattr, layer->path);
}

static int check_writable(const char *option, const struct named_root *root)
{
	_cleanup_free_ char *inside = NULL;
	struct statvfs vfs;
	int r;

	if (fstatvfs(root->fd, &vfs) < 0)
		return -errno;
	if (vfs.f_flag & ST_RDONLY) {
		rvl_error("%s=%s: the filesystem is mounted read-only", option, root->path);
		return -EROFS;
	}
	r = rvl_mount_find_inside(root->path, &inside);
	if (r > 0) {
		rvl_error("%s=%s: %s is mounted inside it", option, root->path, inside);
		return -EBUSY;
	}
	return r;
}

/* Length of the path of the lowest directory that has both; 0 stands for "/". */
static size_t common_len(const char *a, const char *b)
{
	size_t len = 0;

	for (size_t i = 0;; i++) {
		bool a_ends = a[i] == '/' || a[i] == '\0', b_ends = b[i] == '/' || b[i] == '\0';

		if (a_ends && b_ends)
			len = i;
		if (a[i] != b[i] || a[i] == '\0')
			return len;
	}
}

/* Open root's directory again, beneath clone, whose root is at the path's first len characters. */
static int reopen_beneath(int clone, const struct named_root *root, size_t len)
{
	const char *rest = root->path + len;
	_cleanup_close_ int fd = -EBADF;
	struct statx was, is;
	int r;

	while (*rest == '/')
		rest++;
	fd = rvl_path_open(clone, rest, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	r = rvl_path_statx(root->fd, "", STATX_INO, &was);
	if (r == 0)
		r = rvl_path_statx(fd, "", STATX_INO, &is);
	if (r < 0)
		return r;
	if (was.stx_ino != is.stx_ino || rvl_statx_dev(&was) != rvl_statx_dev(&is))
		return -ESTALE;
	return rvl_take_fd(&fd);
}

/* Upper and work in one clone of the mount of their common ancestor. */
static int clone_pair(const struct named_root *upper, const struct named_root *work, uint64_t atime,
		      int *ret_upper, int *ret_work)
{
	size_t len = common_len(upper->path, work->path);
	_cleanup_free_ char *path = strndup(upper->path, len);
	_cleanup_close_ int fd = -EBADF, clone = -EBADF, upper_fd = -EBADF, work_fd = -EBADF;
	struct statx stx;
	int r;

	if (!path)
		return -ENOMEM;
	fd = open(len ? path : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = rvl_path_statx(fd, "", STATX_MNT_ID, &stx);
	if (r < 0)
		return r;
	if (stx.stx_mnt_id != upper->mnt_id)
		return -EXDEV;
	clone = rvl_mount_clone(fd, atime);
	if (clone < 0)
		return clone;
	upper_fd = reopen_beneath(clone, upper, len);
	if (upper_fd < 0)
		return upper_fd;
	work_fd = reopen_beneath(clone, work, len);
	if (work_fd < 0)
		return work_fd;
	*ret_upper = rvl_take_fd(&upper_fd);
	*ret_work = rvl_take_fd(&work_fd);
	return 0;
}

static int writable_root_open(const char *option, const char *path, enum rvl_root_kind kind,
			      struct named_root *ret, struct rvl_ancestry *ret_ancestry)
{
	int r = named_root_open(option, path, ret);

	if (r == 0)
		r = check_writable(option, ret);
	if (r == 0)
		r = rvl_ancestry_read(ret->fd, kind, ret->path, ret_ancestry);
	return r;
}

/* Open the workdir and, where there is one, upper, into the stack. */
static int writable_open(const struct rvl_stack_config *config, struct rvl_stack *stack,
			 struct rvl_ancestry roots[2])
{
	_cleanup_root_ struct named_root upper = NAMED_ROOT_INIT, work = NAMED_ROOT_INIT;
	struct rvl_layer *layer = &stack->layers[0];
	int r;

	r = writable_root_open("workdir", config->work, RVL_ROOT_WORK, &work, &roots[0]);
	if (r == 0 && config->upper)
		r = writable_root_open("upperdir", config->upper, RVL_ROOT_UPPER, &upper,
				       &roots[1]);
	/* Now, with the clearer message, and not only when all layers are open. */
	if (r == 0 && config->upper)
		r = rvl_overlap_check(roots, 2);
	if (r == 0 && config->upper && upper.mnt_id != work.mnt_id) {
		rvl_error("workdir=%s must be on the same mount as upperdir=%s", work.path,
			  upper.path);
		r = -EINVAL;
	}
	if (r == 0 && config->upper) {
		r = clone_pair(&upper, &work, config->atime, &layer->fd, &stack->work_fd);
	} else if (r == 0) {
		stack->work_fd = rvl_mount_clone(work.fd, config->atime);
		r = stack->work_fd < 0 ? stack->work_fd : 0;
	} else {
		goto out;
	}
	if (r < 0) {
		rvl_debug("workdir=%s: no private clone of its mount: %s", work.path, strerror(-r));
		layer->fd = rvl_take_fd(&upper.fd);
		stack->work_fd = rvl_take_fd(&work.fd);
	}
	r = config->upper ? layer_init(layer, &stack->xattr, upper.path) : 0;
out:
	/* The ancestries borrow these for their messages. */
	layer->path = rvl_take_ptr(upper.path);
	stack->work_path = rvl_take_ptr(work.path);
	stack->work_dev = roots[0].self.dev;
	stack->work_ino = roots[0].self.ino;
	return r;
}

static int config_check(const struct rvl_stack_config *config)
{
	if (config->n_lower == 0) {
		rvl_error("lowerdir= is missing");
		return -EINVAL;
	}
	if (config->n_lower > RVL_LAYERS_MAX) {
		rvl_error("lowerdir=: %u layers, at most %d are possible", config->n_lower,
			  RVL_LAYERS_MAX);
		return -EINVAL;
	}
	if (config->n_data >= config->n_lower) {
		rvl_error("lowerdir=: at least one layer must not be data-only");
		return -EINVAL;
	}
	if (config->upper && !config->work) {
		rvl_error("upperdir=%s: workdir= is missing", config->upper);
		return -EINVAL;
	}
	return 0;
}

static int stack_alloc(const struct rvl_stack_config *config, struct rvl_stack *ret)
{
	*ret = (struct rvl_stack){
		.n = config->n_lower + 1,
		.n_data = config->n_data,
		.has_upper = config->upper != NULL,
		.work_fd = -EBADF,
		.can_redirect_follow = !config->is_redirect_nofollow,
	};
	rvl_xattr_names_init(&ret->xattr, config->is_userxattr);
	ret->layers = calloc(ret->n, sizeof(*ret->layers));
	if (!ret->layers)
		return -ENOMEM;
	for (unsigned i = 0; i < ret->n; i++) {
		ret->layers[i].fd = -EBADF;
		ret->layers[i].index = i;
		ret->layers[i].is_upper = i == 0;
		ret->layers[i].is_data_only = i >= rvl_stack_data_start(ret);
	}
	return 0;
}

int rvl_stack_open(const struct rvl_stack_config *config, struct rvl_stack *ret)
{
	struct rvl_ancestry *roots = NULL;
	struct rvl_stack stack = { .work_fd = -EBADF };
	unsigned n_roots = 0;
	int r = config_check(config);

	if (r < 0)
		return r;
	r = stack_alloc(config, &stack);
	if (r < 0)
		return r;
	roots = calloc(stack.n + 1, sizeof(*roots));
	if (!roots) {
		r = -ENOMEM;
		goto out;
	}
	if (config->work) {
		r = writable_open(config, &stack, roots);
		if (r < 0)
			goto out;
		n_roots = config->upper ? 2 : 1;
	}
	for (unsigned i = 0; i < config->n_lower; i++) {
		r = lower_open(&stack, config->lower[i], &stack.layers[i + 1], &roots[n_roots]);
		if (r < 0)
			goto out;
		n_roots++;
	}
	r = rvl_overlap_check(roots, n_roots);
out:
	for (unsigned i = 0; roots && i < stack.n + 1; i++)
		rvl_ancestry_release(&roots[i]);
	free(roots);
	if (r < 0)
		rvl_stack_release(&stack);
	else
		*ret = stack;
	return r;
}

void rvl_stack_release(struct rvl_stack *stack)
{
	/* A zeroed stack has no layers, and its work_fd is not a descriptor of ours. */
	if (!stack->layers)
		return;
	for (unsigned i = 0; i < stack->n; i++) {
		rvl_close(stack->layers[i].fd);
		free(stack->layers[i].path);
	}
	free(stack->layers);
	rvl_close(stack->work_fd);
	free(stack->work_path);
	*stack = (struct rvl_stack){ .work_fd = -EBADF };
}

bool rvl_stack_is_hidden(const struct rvl_stack *stack, uint64_t dev, uint64_t ino)
{
	const struct rvl_layer *upper = &stack->layers[0];

	if (stack->has_upper && upper->ino == ino && upper->dev == dev)
		return true;
	return stack->work_fd >= 0 && stack->work_ino == ino && stack->work_dev == dev;
}

/* The kernel tells "/" also of what lies beside the root of a mount that is attached nowhere. */
static int check_is_root(const struct rvl_layer *layer, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_ino == layer->ino && st.st_dev == layer->dev ? 0 : -ESTALE;
}

int rvl_layer_place(const struct rvl_layer *layer, int dirfd, const char *name, char **ret)
{
	char root[PATH_MAX], dir[PATH_MAX];
	const char *inside;
	ssize_t n;
	size_t len;

	if (dirfd == layer->fd) {
		*ret = strdup(name);
		return *ret ? 0 : -ENOMEM;
	}
	n = rvl_fd_read_path(layer->fd, root);
	if (n >= 0)
		n = rvl_fd_read_path(dirfd, dir);
	if (n < 0)
		return (int)n;
	len = strcmp(root, "/") ? strlen(root) : 0;
	if (strncmp(root, dir, len) || (dir[len] && dir[len] != '/'))
		return -ESTALE;
	inside = dir + len + (dir[len] == '/');
	if (!*inside) {
		int r = check_is_root(layer, dirfd);

		if (r < 0)
			return r;
	}
	*ret = rvl_path_join(inside, name);
	return *ret ? 0 : -ENOMEM;
}

bool rvl_layer_may_have_dir(const struct rvl_layer *layer, int fd)
{
	_cleanup_free_ char *place = NULL;

	return rvl_layer_place(layer, fd, "", &place) != -ESTALE;
}
