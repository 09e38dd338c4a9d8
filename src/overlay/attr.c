// SPDX-License-Identifier: GPL-2.0-or-later
/* Attributes: read from the real object, changed on the upper one. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <linux/fs.h>

#include "layer/path.h"
#include "overlay/copyup.h"
#include "overlay/file.h"
#include "overlay/given.h"
#include "overlay/metacopy.h"
#include "overlay/prot.h"

/* What FS_IOC_SETFLAGS may change on the real object; immutable and append-only are
 * overlay.protattr. */
#define FLAGS_PROTECTED (FS_IMMUTABLE_FL | FS_APPEND_FL)
#define FLAGS_SETTABLE                                                                 \
	(FLAGS_PROTECTED | FS_NOATIME_FL | FS_NODUMP_FL | FS_SYNC_FL | FS_DIRSYNC_FL | \
	 FS_COMPR_FL | FS_NOCOW_FL)

int rvl_overlay_getattr(struct rvl_overlay *ov, pid_t asker, uint64_t number, struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	int r = rvl_node_get(ov, number, &node);

	if (r < 0)
		return r;
	(void)rvl_given_set(node, asker, 0);
	return rvl_node_stat(node, ret);
}

enum rvl_notice rvl_overlay_changed(struct rvl_overlay *ov, pid_t changer, uint64_t number,
				    enum rvl_change change)
{
	struct rvl_node _cleanup_node_ *node = rvl_node_find(ov, number);
	bool is_due;

	/* Nothing is known of what was given. Pages are dropped only where it is certain that they
	 * are a listing: those of a file are its data. */
	if (!node)
		return change == RVL_CHANGE_NAMES ? RVL_NOTICE_LISTING : RVL_NOTICE_ATTRIBUTES;
	is_due = rvl_given_changed(node, changer);
	if (change != RVL_CHANGE_ATTRIBUTES && rvl_node_is_dir(node) &&
	    atomic_exchange(&node->are_names_given, false))
		return RVL_NOTICE_LISTING;
	return is_due ? RVL_NOTICE_ATTRIBUTES : RVL_NOTICE_NONE;
}

/*
 * ftruncate(2) changes the times in any case, truncate(2) to the size that the file has as the
 * filesystem beneath does. To 0 both are alike: that may as well be an open with O_TRUNC, and the
 * kernel does not say which.
 */
static int set_size(struct rvl_node *node, off_t size, bool is_open)
{
	struct rvl_pinned _cleanup_pinned_ file = { .ov = node->ov };
	char path[RVL_FD_PATH_SIZE];
	int r = rvl_file_pin(node, true, &file.fd);

	if (r < 0)
		return r;
	if (is_open || size == 0)
		return ftruncate(file.fd.fd, size) < 0 ? -errno : 0;
	rvl_fd_path(file.fd.fd, path);
	if (truncate(path, size) == 0)
		return 0;
	/* without privileges: the kernel has asked for the permission, and the file may have lost it */
	return errno != EACCES || ftruncate(file.fd.fd, size) < 0 ? -errno : 0;
}

static int set_real(const struct rvl_real *real, const struct stat *attr, unsigned mask)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };
	int r = 0;

	/* chown clears setuid, so a mode that is set with it comes after */
	if (mask & (RVL_SET_UID | RVL_SET_GID))
		r = rvl_real_chown(real, mask & RVL_SET_UID ? attr->st_uid : (uid_t)-1,
				   mask & RVL_SET_GID ? attr->st_gid : (gid_t)-1);
	if (r == 0 && mask & RVL_SET_MODE)
		r = rvl_real_chmod(real, attr->st_mode);
	if (mask & RVL_SET_ATIME)
		times[0] = attr->st_atim;
	if (mask & RVL_SET_MTIME)
		times[1] = attr->st_mtim;
	if (r == 0 && mask & (RVL_SET_ATIME | RVL_SET_MTIME))
		r = rvl_real_utimens(real, times);
	return r;
}

/* Anything but "now" for the times, which an append-only file allows. */
static bool is_explicit(const struct stat *attr, unsigned mask)
{
	return mask & (RVL_SET_MODE | RVL_SET_UID | RVL_SET_GID | RVL_SET_SIZE) ||
	       (mask & RVL_SET_ATIME && attr->st_atim.tv_nsec != UTIME_NOW) ||
	       (mask & RVL_SET_MTIME && attr->st_mtim.tv_nsec != UTIME_NOW);
}

static unsigned copy_up_flags(const struct stat *attr, unsigned mask)
{
	if (!(mask & RVL_SET_SIZE))
		return 0;
	return attr->st_size ? RVL_COPY_UP_DATA : RVL_COPY_UP_NO_DATA;
}

int rvl_overlay_setattr(struct rvl_overlay *ov, uint64_t number, const struct stat *attr,
			unsigned mask, struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_real _cleanup_real_ real = {};
	int r = rvl_node_get(ov, number, &node);

	if (r == 0)
		r = rvl_check_writable(ov);
	/* a symlink has no mode; kernels before 6.6 ask all the same, and chmod would follow it */
	if (r == 0 && mask & RVL_SET_MODE && S_ISLNK(node->type))
		r = -EOPNOTSUPP;
	if (r == 0)
		r = rvl_prot_check(node,
				   is_explicit(attr, mask) ? RVL_PROT_ANY : RVL_PROT_IMMUTABLE);
	if (r == 0)
		r = rvl_copy_up(node, copy_up_flags(attr, mask));
	if (r == 0)
		r = rvl_real_get(node, &real);
	if (r == 0 && mask & RVL_SET_SIZE)
		r = set_size(node, attr->st_size, mask & RVL_SET_OPEN);
	if (r == 0) {
		const bool is_turn = rvl_metacopy_turn_begin(node);

		r = set_real(&real, attr, mask);
		rvl_metacopy_turn_end(node, is_turn);
	}
	return r < 0 ? (r == -ENOENT ? -ESTALE : r) : rvl_node_stat(node, ret);
}

int rvl_overlay_readlink(struct rvl_overlay *ov, uint64_t number, char *buf, size_t size)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_real _cleanup_real_ real = {};
	ssize_t n;
	int r = rvl_node_get(ov, number, &node);

	if (r == 0 && !S_ISLNK(node->type))
		r = -EINVAL;
	if (r == 0)
		r = rvl_real_get(node, &real);
	if (r < 0)
		return r;
	rvl_given_note_read(node);
	n = readlinkat(real.dirfd, real.name, buf, size);
	if (n < 0)
		return errno == ENOENT ? -ESTALE : -errno;
	if ((size_t)n >= size)
		return -ENAMETOOLONG;
	buf[n] = '\0';
	return 0;
}

int rvl_overlay_statfs(struct rvl_overlay *ov, uint64_t number, struct statvfs *ret)
{
	const struct rvl_layer *layer = &ov->stack->layers[ov->stack->has_upper ? 0 : 1];

	(void)number;
	if (fstatvfs(layer->fd, ret) < 0)
		return -errno;
	ret->f_namemax = NAME_MAX;
	return 0;
}

/* ---- inode flags ---- */

static int open_for_flags(struct rvl_node *node)
{
	struct rvl_real _cleanup_real_ real = {};
	int r;

	if (!S_ISREG(node->type) && !rvl_node_is_dir(node))
		return -ENOTTY;
	r = rvl_real_get(node, &real);
	if (r < 0)
		return r;
	return rvl_retry_emfile(node->ov, rvl_real_open(&real, O_RDONLY | O_NONBLOCK));
}

int rvl_overlay_get_flags(struct rvl_overlay *ov, uint64_t number, unsigned *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	_cleanup_close_ int fd = -EBADF;
	int flags, r = rvl_node_get(ov, number, &node);

	if (r < 0)
		return r;
	fd = open_for_flags(node);
	if (fd < 0)
		return fd;
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return -errno;
	r = rvl_prot_get(node);
	if (r < 0)
		return r;
	*ret = (unsigned)flags & ~(unsigned)FLAGS_PROTECTED;
	*ret |= (r & RVL_PROT_IMMUTABLE ? FS_IMMUTABLE_FL : 0) |
		(r & RVL_PROT_APPEND ? FS_APPEND_FL : 0);
	return 0;
}

int rvl_overlay_set_flags(struct rvl_overlay *ov, uint64_t number, unsigned flags)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	_cleanup_close_ int fd = -EBADF;
	int old, new, r = rvl_node_get(ov, number, &node);

	if (r == 0)
		r = rvl_check_writable(ov);
	if (r == 0)
		r = rvl_copy_up(node, 0);
	if (r < 0)
		return r;
	fd = open_for_flags(node);
	if (fd < 0)
		return fd;
	if (ioctl(fd, FS_IOC_GETFLAGS, &old) < 0)
		return -errno;
	/* a lower's real flags stayed behind at copy-up */
	old &= ~FLAGS_PROTECTED;
	if ((flags ^ (unsigned)old) & ~(unsigned)FLAGS_SETTABLE)
		return -EOPNOTSUPP;
	new = (int)(flags & ~(unsigned)FLAGS_PROTECTED);
	if (new != old && ioctl(fd, FS_IOC_SETFLAGS, &new) < 0)
		return -errno;
	return rvl_prot_set(node, (flags & FS_IMMUTABLE_FL ? RVL_PROT_IMMUTABLE : 0) |
					  (flags & FS_APPEND_FL ? RVL_PROT_APPEND : 0));
}
