// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Files: data descriptors are found by number in the cache, or opened there; an open file keeps
 * nothing but a count. The descriptor of a lower file is dropped when its copy-up is done, so that
 * whoever opened it before reads what is written after.
 */
#include "overlay/file.h"

#include <fcntl.h>

#include "layer/path.h"
#include "overlay/copyup.h"
#include "overlay/debt.h"
#include "overlay/given.h"
#include "overlay/prot.h"

static int open_upper(struct rvl_node *node, bool is_write)
{
	struct rvl_real _cleanup_real_ real = {};
	int flags = (is_write ? O_RDWR : O_RDONLY) | O_NONBLOCK;
	int r = rvl_real_get(node, &real);

	if (r < 0)
		return r;
	return rvl_retry_emfile(node->ov, rvl_real_open(&real, flags));
}

/* data of a metacopy object in upper are below until they are copied */
static bool has_upper_data(const struct rvl_node *node)
{
	return rvl_node_has_upper(node) && !atomic_load(&node->is_metacopy);
}

static int pin_file(struct rvl_node *node, bool is_write, struct rvl_fd *ret)
{
	struct rvl_fdcache *fds = node->ov->fds;
	uint64_t number = node->id.number;
	const bool is_upper = has_upper_data(node);
	enum rvl_fd_kind kind = !is_upper ? RVL_FD_LOWER_DATA :
				is_write  ? RVL_FD_WRITE :
					    RVL_FD_READ;
	int fd;

	*ret = RVL_FD_NONE;
	if (!S_ISREG(node->type))
		return rvl_node_is_dir(node) ? -EISDIR : -EINVAL;
	if (is_write && !is_upper)
		return -EIO; /* the caller has not copied it up */
	if (is_upper && rvl_fdcache_get(fds, number, RVL_FD_WRITE, ret) == 0)
		return 0;
	if (!is_write && rvl_fdcache_get(fds, number, kind, ret) == 0)
		return 0;
	fd = is_upper ? open_upper(node, is_write) : rvl_lower_data_open(node, O_NONBLOCK);
	if (fd < 0)
		return fd == -ENOENT ? -ESTALE : fd;
	return rvl_fdcache_add(fds, number, kind, fd, ret);
}

int rvl_file_pin(struct rvl_node *node, bool is_write, struct rvl_fd *ret)
{
	int r = pin_file(node, is_write, ret);

	if (r != -EUCLEAN || has_upper_data(node))
		return r;
	/* another thread may be truncating it, and have changed its size alone so far */
	rvl_node_copy_begin(node);
	rvl_node_copy_end(node);
	r = pin_file(node, is_write, ret);
	return r == -EUCLEAN && !has_upper_data(node) ? rvl_lower_data_differ(node) : r;
}

/*
 * fdatasync(2) need not wait for the name that a copy-up made, nor for the end of overlay.metacopy:
 * without them the data would not be found. So the first sync of a file waits for all.
 */
static int sync_file(struct rvl_node *node, bool is_data_only)
{
	struct rvl_pinned _cleanup_pinned_ file = { .ov = node->ov };
	int r = rvl_file_pin(node, false, &file.fd);

	if (r < 0)
		return r;
	r = is_data_only && atomic_load(&node->is_name_synced) ? fdatasync(file.fd.fd) :
							    fsync(file.fd.fd);
	if (r < 0)
		return -errno;
	atomic_store(&node->is_name_synced, true);
	return 0;
}

static int copy_up_to_write(struct rvl_node *node, unsigned flags)
{
	int r;

	if (rvl_copy_up_is_done(node, flags))
		return 0;
	r = rvl_copy_up(node, flags);
	/* the ctime is another now; the kernel takes neither an open nor an error for a change */
	rvl_given_tell(node);
	return r;
}

/* What is written through this open may be synced without the server's knowledge (passthrough). */
static int sync_before_writes(struct rvl_node *node, int flags)
{
	enum rvl_sync_mode mode = node->ov->config.sync;

	if (mode == RVL_SYNC_VOLATILE || (mode != RVL_SYNC_STRICT && !(flags & O_DSYNC)) ||
	    (flags & O_ACCMODE) == O_RDONLY || !has_upper_data(node) ||
	    atomic_load(&node->is_name_synced) || rvl_number_is_born(node->ov->index, node->id.number))
		return 0;
	return sync_file(node, false);
}

int rvl_overlay_open_file(struct rvl_overlay *ov, uint64_t number, int flags)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_pinned _cleanup_pinned_ file = { .ov = ov };
	bool is_truncate = flags & O_TRUNC;
	int r = rvl_node_get(ov, number, &node);

	if (r < 0)
		return r;
	if (!S_ISREG(node->type))
		return rvl_node_is_dir(node) ? -EISDIR : -ENXIO;
	if (is_truncate || (flags & O_ACCMODE) != O_RDONLY)
		r = rvl_prot_check(node, is_truncate || !(flags & O_APPEND) ? RVL_PROT_ANY :
									      RVL_PROT_IMMUTABLE);
	if (r == 0 && (is_truncate || (flags & O_ACCMODE) != O_RDONLY))
		r = copy_up_to_write(node, is_truncate ? RVL_COPY_UP_NO_DATA : RVL_COPY_UP_DATA);
	if (r == 0 && node->is_data_missing && !rvl_node_has_upper(node))
		r = -EIO;
	if (r == 0 && is_truncate) {
		r = rvl_file_pin(node, true, &file.fd);
		if (r == 0 && ftruncate(file.fd.fd, 0) < 0)
			r = -errno;
	}
	if (r == 0)
		r = sync_before_writes(node, flags);
	if (r == 0)
		rvl_node_count_open(node);
	return r;
}

void rvl_overlay_release_file(struct rvl_overlay *ov, uint64_t number)
{
	struct rvl_node _cleanup_node_ *node = rvl_node_find(ov, number);

	/* an orphan stays until the kernel forgets it */
	if (node)
		rvl_node_release(node);
}

/* offset -1: anywhere. */
static int pin_number(struct rvl_overlay *ov, uint64_t number, bool is_write, off_t offset,
		      struct rvl_fd *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_entry entry;
	int prot, r = rvl_node_get(ov, number, &node);

	if (r < 0)
		return r;
	if (!is_write) {
		rvl_given_note_read(node);
		return rvl_file_pin(node, false, ret);
	}
	prot = rvl_prot_get(node);
	if (prot < 0)
		return prot;
	if (prot & RVL_PROT_APPEND && offset >= 0) {
		r = rvl_node_stat(node, &entry);
		if (r == 0 && offset >= entry.st.st_size)
			prot &= ~RVL_PROT_APPEND;
	}
	if (prot)
		return r < 0 ? r : -EPERM;
	r = copy_up_to_write(node, RVL_COPY_UP_DATA);
	return r < 0 ? r : rvl_file_pin(node, true, ret);
}

static int pin(struct rvl_overlay *ov, uint64_t number, bool is_write, off_t offset,
	       struct rvl_pin *ret)
{
	struct rvl_fd fd;
	int r = pin_number(ov, number, is_write, offset, &fd);

	if (r == 0)
		*ret = (struct rvl_pin){ .fd = fd.fd, .opaque = fd.slot };
	return r;
}

int rvl_overlay_pin_read(struct rvl_overlay *ov, uint64_t number, struct rvl_pin *ret)
{
	return pin(ov, number, false, -1, ret);
}

int rvl_overlay_pin_write(struct rvl_overlay *ov, uint64_t number, off_t offset,
			  struct rvl_pin *ret)
{
	return pin(ov, number, true, offset, ret);
}

int rvl_overlay_pin_backing(struct rvl_overlay *ov, uint64_t number, struct rvl_pin *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_fd fd;
	int r = rvl_node_get(ov, number, &node);

	if (r < 0)
		return r;
	if (!rvl_node_has_upper(node) || atomic_load(&node->is_metacopy) || rvl_prot_get(node) != 0)
		return -EOPNOTSUPP;
	r = rvl_file_pin(node, false, &fd);
	if (r == 0)
		*ret = (struct rvl_pin){ .fd = fd.fd, .opaque = fd.slot };
	return r;
}

void rvl_overlay_unpin(struct rvl_overlay *ov, struct rvl_pin *pin)
{
	struct rvl_fd fd = { .fd = pin->fd, .slot = pin->opaque };

	rvl_fdcache_unpin(ov->fds, &fd);
	*pin = (struct rvl_pin){ .fd = -EBADF };
}

int rvl_overlay_fallocate(struct rvl_overlay *ov, uint64_t number, int mode, off_t offset,
			  off_t length)
{
	struct rvl_pinned _cleanup_pinned_ file = { .ov = ov };
	/* of an append-only file room may be asked for (fs/open.c, vfs_fallocate) */
	const off_t at = mode & ~FALLOC_FL_KEEP_SIZE ? -1 : INT64_MAX;
	int r = pin_number(ov, number, true, at, &file.fd);

	if (r < 0)
		return r;
	return fallocate(file.fd.fd, mode, offset, length) < 0 ? -errno : 0;
}

off_t rvl_overlay_lseek(struct rvl_overlay *ov, uint64_t number, off_t offset, int whence)
{
	struct rvl_pinned _cleanup_pinned_ file = { .ov = ov };
	off_t at;
	int r;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	r = pin_number(ov, number, false, -1, &file.fd);
	if (r < 0)
		return r;
	at = lseek(file.fd.fd, offset, whence);
	return at < 0 ? -errno : at;
}

ssize_t rvl_overlay_copy_range(struct rvl_overlay *ov, uint64_t from, off_t from_offset,
			       uint64_t to, off_t to_offset, size_t length)
{
	struct rvl_pinned _cleanup_pinned_ source = { .ov = ov },
					   _cleanup_pinned_ target = { .ov = ov };
	ssize_t n;
	int r = pin_number(ov, to, true, to_offset, &target.fd);

	if (r == 0)
		r = pin_number(ov, from, false, -1, &source.fd);
	if (r < 0)
		return r;
	n = copy_file_range(source.fd.fd, &from_offset, target.fd.fd, &to_offset, length, 0);
	return n < 0 ? -errno : n;
}

/* ---- syncing ---- */

static int sync_object(struct rvl_node *node, bool is_data_only)
{
	struct rvl_overlay *ov = node->ov;
	struct rvl_real _cleanup_real_ real = {};
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (S_ISREG(node->type) && !atomic_load(&node->is_metacopy))
		return sync_file(node, is_data_only);
	if (!rvl_node_is_dir(node) && !S_ISREG(node->type))
		return 0;
	r = rvl_real_get(node, &real);
	if (r < 0)
		return r;
	fd = rvl_retry_emfile(
		ov, rvl_real_open(&real, O_RDONLY | (rvl_node_is_dir(node) ? O_DIRECTORY : 0)));
	if (fd < 0)
		return fd;
	return fsync(fd) < 0 ? -errno : 0;
}

int rvl_overlay_fsync(struct rvl_overlay *ov, uint64_t number, bool is_data_only)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	int paid, r = rvl_node_get(ov, number, &node);

	if (r < 0 || ov->config.sync == RVL_SYNC_VOLATILE || !rvl_node_has_upper(node))
		return r;
	/* the entries of new objects first: what is synced has its number for good. Where there is no
	 * room for them, the data are synced all the same. */
	paid = rvl_node_is_dir(node) ? rvl_debts_pay_in(node) : rvl_debt_pay_upwards(node);
	r = sync_object(node, is_data_only);
	return r ?: paid;
}
