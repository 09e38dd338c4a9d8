// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Real objects of nodes. The descriptor of an upper directory is found from its parent's and its
 * name (recursively, up to the upper's root), and is believed only if the inode is the one that the
 * node knows: a rename in between is simply tried again, and what offline changes made of it is
 * decode's business.
 */
#include "overlay/real.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <sys/sysmacros.h>

#include "index/stamp.h"
#include "layer/lift.h"
#include "layer/path.h"
#include "overlay/debt.h"

#define RENAME_RETRIES 16

static int pin_cached(struct rvl_node *dir, struct rvl_fd *ret)
{
	*ret = RVL_FD_NONE;
	if (dir->id.number == RVL_NUMBER_ROOT) {
		ret->fd = dir->ov->stack->layers[0].fd;
		return 0;
	}
	return rvl_fdcache_get(dir->ov->fds, dir->id.number, RVL_FD_UPPER_DIR, ret);
}

static bool is_open(struct rvl_node *dir)
{
	struct rvl_fd fd;

	if (pin_cached(dir, &fd) < 0)
		return false;
	rvl_fdcache_unpin(dir->ov->fds, &fd);
	return true;
}

/* Open one directory beneath its parent's. -ESTALE: it is not there (any more). */
static int open_beneath(struct rvl_node *dir, struct rvl_fd *ret)
{
	struct rvl_overlay *ov = dir->ov;
	struct rvl_node _cleanup_node_ *parent = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct rvl_fd parent_fd;
	const char *name;
	struct statx stx;
	uint64_t number;
	int r;

	if (atomic_load(&dir->is_dead))
		return -ENOENT;
	rvl_node_get_place(dir, &number, &name);
	parent = name ? rvl_node_find(ov, number) : NULL;
	r = parent && pin_cached(parent, &parent_fd) == 0 ? 0 : -ESTALE;
	if (r == 0) {
		fd = rvl_retry_emfile(ov,
				      rvl_path_open(parent_fd.fd, name, O_PATH | O_DIRECTORY, 0));
		rvl_fdcache_unpin(ov->fds, &parent_fd);
		r = fd < 0 ? fd : rvl_path_statx(fd, "", STATX_INO, &stx);
	}
	rvl_refstr_put(name);
	if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP ||
	    (r == 0 && stx.stx_ino != dir->upper_ino))
		return -ESTALE;
	if (r < 0)
		return r;
	return rvl_fdcache_add(ov->fds, dir->id.number, RVL_FD_UPPER_DIR, rvl_take_fd(&fd), ret);
}

/* Open the ancestors that are not, from above, and then the directory. */
static int open_upper_dir(struct rvl_node *dir, struct rvl_fd *ret)
{
	struct rvl_overlay *ov = dir->ov;
	struct rvl_chain _cleanup_chain_ chain = {};
	struct rvl_fd above = RVL_FD_NONE;
	int r = rvl_chain_read(dir, is_open, &chain);

	if (r == 0 && chain.n == 0)
		return pin_cached(dir, ret);
	for (size_t i = chain.n; r == 0 && i > 0; i--) {
		r = open_beneath(chain.v[i - 1], ret);
		/* pinned until the next one below is open */
		rvl_fdcache_unpin(ov->fds, &above);
		if (r == 0)
			above = *ret;
	}
	if (r < 0)
		*ret = RVL_FD_NONE;
	return r;
}

int rvl_upper_dir(struct rvl_node *dir, struct rvl_fd *ret)
{
	int r = pin_cached(dir, ret);

	/* a rename on the way is seen as -ESTALE: look again */
	for (unsigned i = 0; r < 0 && i < RENAME_RETRIES; i++) {
		r = open_upper_dir(dir, ret);
		if (r < 0 && r != -ESTALE)
			return r;
	}
	if (r < 0)
		rvl_warn_limited(
			"directory %llu is no longer where it was: was upper changed while mounted?",
			(unsigned long long)dir->id.number);
	return r;
}

int rvl_lower_pin(struct rvl_node *node, struct rvl_fd *ret)
{
	struct rvl_overlay *ov = node->ov;
	const struct rvl_place *place;
	int fd;

	*ret = RVL_FD_NONE;
	if (node->lower.n == 0)
		return -ESTALE;
	if (rvl_fdcache_get(ov->fds, node->id.number, RVL_FD_LOWER, ret) == 0)
		return 0;
	/* a file that is read is open already, and is looked at after that; where the data are
	 * elsewhere, it is another one */
	if (S_ISREG(node->type) && !node->data.layer &&
	    rvl_fdcache_get(ov->fds, node->id.number, RVL_FD_LOWER_DATA, ret) == 0)
		return 0;
	place = &node->lower.v[0];
	fd = rvl_retry_emfile(ov, rvl_path_open(place->layer->fd, place->path, O_PATH, 0));
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR ? -ESTALE : fd;
	return rvl_fdcache_add(ov->fds, node->id.number, RVL_FD_LOWER, fd, ret);
}

int rvl_lower_pin_in(struct rvl_node *dir, unsigned layer, struct rvl_fd *ret)
{
	const enum rvl_fd_kind kind = RVL_FD_PLACE + layer;
	struct rvl_overlay *ov = dir->ov;
	const struct rvl_place *place;
	unsigned i = 0;
	int fd;

	*ret = RVL_FD_NONE;
	while (i < dir->lower.n && dir->lower.v[i].layer->index != layer)
		i++;
	if (i == dir->lower.n)
		return -ESTALE;
	if (i == 0)
		return rvl_lower_pin(dir, ret);
	if (rvl_fdcache_get(ov->fds, dir->id.number, kind, ret) == 0)
		return 0;
	place = &dir->lower.v[i];
	fd = rvl_retry_emfile(ov, rvl_path_open(place->layer->fd, place->path, O_PATH, 0));
	return fd < 0 ? fd : rvl_fdcache_add(ov->fds, dir->id.number, kind, fd, ret);
}

/* An object of a read-only upper that has no entry. */
static int get_by_name(struct rvl_node *node, struct rvl_real *ret)
{
	struct rvl_node _cleanup_node_ *parent = NULL;
	uint64_t number;
	int r;

	rvl_node_get_place(node, &number, &ret->own_name);
	if (!ret->own_name)
		return -ESTALE;
	r = rvl_node_get_dir(node->ov, number, &parent);
	if (r == 0)
		r = rvl_upper_dir(parent, &ret->pin);
	ret->dirfd = ret->pin.fd;
	ret->name = ret->own_name;
	return r;
}

int rvl_real_get(struct rvl_node *node, struct rvl_real *ret)
{
	int r;

	*ret = (struct rvl_real){ .dirfd = -EBADF, .name = "", .pin = RVL_FD_NONE, .ov = node->ov };
	if (!rvl_node_has_upper(node)) {
		r = rvl_lower_pin(node, &ret->pin);
		ret->dirfd = ret->pin.fd;
		return r;
	}
	ret->is_upper = true;
	if (!rvl_node_is_dir(node) && node->is_unindexed)
		return get_by_name(node, ret);
	if (!rvl_node_is_dir(node)) {
		const enum rvl_fd_kind kind = rvl_node_fd_kind(node);

		/* a descriptor spares the way by the entry, which a new or dead object may not have */
		r = rvl_fdcache_get(node->ov->fds, node->id.number, kind, &ret->pin);
		if (r < 0 && rvl_is_owed(node)) {
			r = rvl_debt_open(node, &ret->pin);
			/* removed meanwhile, and held */
			if (r == -ESTALE)
				r = rvl_fdcache_get(node->ov->fds, node->id.number, kind, &ret->pin);
		}
		if (r == 0) {
			ret->dirfd = ret->pin.fd;
			ret->is_open = kind == RVL_FD_WRITE;
			return 0;
		}
		r = rvl_debt_pay(node);
		if (r < 0)
			return r;
		rvl_entry_path(node->id.number, ret->entry);
		ret->name = ret->entry;
		ret->dirfd = node->ov->index->inodes_fd;
		return 0;
	}
	r = rvl_upper_dir(node, &ret->pin);
	ret->dirfd = ret->pin.fd;
	return r;
}

struct opening {
	const struct rvl_real *real;
	int flags;
};

static int open_real(void *arg)
{
	const struct opening *o = arg;
	const struct rvl_real *real = o->real;

	return real->name[0] ? rvl_path_open(real->dirfd, real->name, (uint64_t)o->flags, 0) :
			       rvl_fd_reopen(real->dirfd, o->flags);
}

int rvl_real_open(const struct rvl_real *real, int flags)
{
	const struct rvl_lift object = { real->dirfd, real->name };
	struct opening o = { real, flags };
	int fd = open_real(&o);

	/* who opened it before its mode changed may go on */
	return fd == -EACCES && real->is_upper ? rvl_lift_call(&object, 1, open_real, &o) : fd;
}

void rvl_real_put(struct rvl_real *real)
{
	/* Without an own pin (the upper root) there is nothing to give back. */
	if (real->ov)
		rvl_fdcache_unpin(real->ov->fds, &real->pin);
	rvl_refstr_put(real->own_name);
	real->own_name = NULL;
}

ssize_t rvl_real_xattr_get(struct rvl_node *node, const struct rvl_real *real, enum rvl_xattr which,
			   void *buf, size_t size)
{
	return rvl_upper_xattr_get(node->ov->index, real->dirfd, real->name, node->type,
				   node->upper_ino, which, buf, size);
}

int rvl_real_xattr_set(struct rvl_node *node, const struct rvl_real *real, enum rvl_xattr which,
		       const void *buf, size_t size)
{
	return rvl_upper_xattr_set(node->ov->index, real->dirfd, real->name, node->type,
				   node->upper_ino, which, buf, size);
}

static int change_mode(const struct rvl_real *real, mode_t mode)
{
	char path[RVL_FD_PATH_SIZE];

	if (real->is_open)
		return fchmod(real->dirfd, mode);
	if (real->name[0])
		return fchmodat(real->dirfd, real->name, mode, 0);
	rvl_fd_path(real->dirfd, path);
	return chmod(path, mode);
}

int rvl_real_chmod(const struct rvl_real *real, mode_t mode)
{
	int r;

	rvl_lift_lock();
	r = change_mode(real, mode & 07777) < 0 ? -errno : 0;
	rvl_lift_unlock();
	return r;
}

int rvl_real_chown(const struct rvl_real *real, uid_t uid, gid_t gid)
{
	int flags = AT_SYMLINK_NOFOLLOW | (real->name[0] ? 0 : AT_EMPTY_PATH);

	return fchownat(real->dirfd, real->name, uid, gid, flags) < 0 ? -errno : 0;
}

int rvl_real_utimens(const struct rvl_real *real, const struct timespec times[2])
{
	char path[RVL_FD_PATH_SIZE];
	int r;

	if (real->is_open)
		return futimens(real->dirfd, times) < 0 ? -errno : 0;
	rvl_fd_path(real->dirfd, path);
	if (real->name[0])
		r = utimensat(real->dirfd, real->name, times, AT_SYMLINK_NOFOLLOW);
	else
		r = utimensat(AT_FDCWD, path, times, 0);
	return r < 0 ? -errno : 0;
}

/* Linking an entry that was owed is no change of the file (overlay/debt.c). */
static void show_ctime(const struct rvl_node *node, const struct statx *stx, struct stat *ret)
{
	int state = atomic_load(&node->ctime_state);

	while (state == RVL_CTIME_LINKING && stx->stx_nlink > 1) {
		sched_yield();
		state = atomic_load(&node->ctime_state);
	}
	if (state == RVL_CTIME_KEPT && ret->st_ctim.tv_sec == node->ctime_linked.tv_sec &&
	    ret->st_ctim.tv_nsec == node->ctime_linked.tv_nsec)
		ret->st_ctim = node->ctime_shown;
}

void rvl_node_stat_from(const struct rvl_node *node, const struct statx *stx, bool is_upper,
			struct rvl_entry *ret)
{
	rvl_stat_from_statx(stx, &ret->st);
	ret->number = node->id.number;
	ret->generation = node->id.generation;
	ret->st.st_ino = node->id.number;
	ret->st.st_dev = 0;
	ret->btime = (struct timespec){};
	if (stx->stx_mask & STATX_BTIME)
		ret->btime = (struct timespec){ stx->stx_btime.tv_sec, stx->stx_btime.tv_nsec };
	if (node->is_user_whiteout)
		ret->st.st_rdev = makedev(0, 0);
	if (rvl_node_is_dir(node)) {
		/* The links of a merged directory are not counted (kernel: ovl_getattr); those of a
		 * lower one neither, so that they stay what they are when it becomes merged. */
		if (atomic_load(&node->is_dead))
			ret->st.st_nlink = 0;
		else if (node->lower.n)
			ret->st.st_nlink = 1;
	} else if (!is_upper) {
		/* unlinked while it is open: its one name was whited out */
		if (atomic_load(&node->is_dead))
			ret->st.st_nlink = 0;
	} else {
		long n = (long)stx->stx_nlink + node->nlink_diff;

		/* what is alive has a name; its entry may have been linked since stx was read */
		if (n < 1)
			n = atomic_load(&node->is_dead) ? 0 : 1;
		ret->st.st_nlink = (nlink_t)n;
		show_ctime(node, stx, &ret->st);
	}
}

/* A metacopy object takes its blocks from where its data is, or should be: who sees none takes it for
 * a hole (kernel: ovl_getattr). */
static void stat_data(struct rvl_node *node, struct rvl_entry *ret)
{
	const struct rvl_place *data = &node->data;
	struct statx stx;

	if (rvl_node_has_upper(node))
		data = atomic_load(&node->is_metacopy) ? rvl_node_data(node) : NULL;
	if (node->is_data_missing && (!rvl_node_has_upper(node) || atomic_load(&node->is_metacopy)))
		ret->st.st_blocks = (ret->st.st_size + 511) / 512;
	else if (data && data->layer &&
	    rvl_path_statx(data->layer->fd, data->path, STATX_BLOCKS, &stx) == 0)
		ret->st.st_blocks = (blkcnt_t)stx.stx_blocks;
}

static int stat_real(const struct rvl_real *real, struct statx *ret)
{
	unsigned turn;
	int r;

	/* "xx/#n" lies in directories that only the server makes: no need to resolve it by steps */
	do {
		turn = rvl_lift_read_begin();
		r = statx(real->dirfd, real->name, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH,
			  RVL_STATX_MASK, ret);
	} while (rvl_lift_read_again(turn));
	return r < 0 ? -errno : 0;
}

int rvl_node_stat(struct rvl_node *node, struct rvl_entry *ret)
{
	struct rvl_real _cleanup_real_ real = {};
	struct statx stx;
	int r = rvl_real_get(node, &real);

	if (r == 0)
		r = stat_real(&real, &stx);
	if ((r == -ENOENT || r == -ESTALE) && atomic_load(&node->is_dead) && node->removed) {
		rvl_node_stat_from(node, node->removed, true, ret);
		ret->st.st_nlink = 0;
		return 0;
	}
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if ((stx.stx_mode & S_IFMT) != node->type)
		return -ESTALE;
	rvl_node_stat_from(node, &stx, real.is_upper, ret);
	stat_data(node, ret);
	return 0;
}

/* A metacopy file has the size of its data, also in lower (format: overlay/metacopy.h). */
static int check_data_size(struct rvl_node *node, int fd)
{
	struct rvl_entry entry;
	struct statx stx;
	int r = rvl_node_stat(node, &entry);

	r = r ?: rvl_path_statx(fd, "", STATX_SIZE, &stx);
	if (r == -EUCLEAN)
		return -EIO; /* of the layer's filesystem */
	return r ?: (uint64_t)entry.st.st_size == stx.stx_size ? 0 : -EUCLEAN;
}

int rvl_lower_data_open(struct rvl_node *node, int flags)
{
	const bool is_metacopy = rvl_node_has_upper(node) ? atomic_load(&node->is_metacopy) :
							    node->data.layer != NULL;
	const struct rvl_place *data = rvl_node_data(node);
	int fd, r = 0;

	if (!data)
		return node->is_data_missing ? -EIO : -ESTALE;
	fd = rvl_retry_emfile(node->ov, rvl_path_open_noatime(data->layer->fd, data->path,
							      O_RDONLY | flags));
	if (fd >= 0)
		r = rvl_merge_check_data(node->ov->stack, data, fd, "");
	if (fd == -EUCLEAN || r == -EUCLEAN)
		r = -EIO;
	else if (fd >= 0 && r == 0 && is_metacopy)
		r = check_data_size(node, fd);
	if (r < 0)
		rvl_close(fd);
	return r < 0 ? r : fd;
}

int rvl_lower_data_differ(const struct rvl_node *node)
{
	rvl_warn_limited("object %" PRIu64 ": overlay.metacopy, but its data in lower (%s) have "
			 "another size: see reverlayctl check",
			 node->id.number, rvl_node_data(node)->path);
	return -EUCLEAN;
}

void rvl_handle_of(struct rvl_overlay *ov, int dirfd, const char *name, struct rvl_handle *ret)
{
	if (ov->index->features.has_handles)
		rvl_handle_for_entry(dirfd, name, ret);
	else
		ret->len = 0;
}
