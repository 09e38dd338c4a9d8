// SPDX-License-Identifier: GPL-2.0-or-later
/* Objects in the making, see temp.h. */
#include "overlay/temp.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "index/stamp.h"
#include "layer/lift.h"
#include "layer/merge.h"
#include "layer/path.h"
#include "overlay/real.h"

#define WHITEOUT_NAME "whiteout" /* in work/ */

void rvl_temp_begin_at(struct rvl_temp *temp, struct rvl_overlay *ov, int dirfd, const char *name)
{
	*temp = (struct rvl_temp){ .ov = ov, .dirfd = dirfd, .name = name, .fd = -EBADF };
}

void rvl_temp_begin(struct rvl_temp *temp, struct rvl_overlay *ov)
{
	rvl_temp_begin_at(temp, ov, ov->index->temp_fd, temp->buf);
	rvl_index_temp_name(ov->index, temp->buf);
}

static int finish(struct rvl_temp *temp, mode_t type)
{
	bool has_fd = temp->fd >= 0;
	struct statx stx;
	int r;

	temp->type = type;
	temp->is_named = true;
	if (temp->mode)
		return 0;
	r = rvl_path_statx(has_fd ? temp->fd : temp->dirfd, has_fd ? "" : temp->name, STATX_INO,
			   &stx);
	if (r < 0)
		return r;
	temp->ino = stx.stx_ino;
	temp->uid = stx.stx_uid;
	temp->gid = stx.stx_gid;
	return 0;
}

int rvl_temp_file(struct rvl_temp *temp)
{
	temp->fd = rvl_retry_emfile(temp->ov, rvl_path_open(temp->dirfd, temp->name,
							    O_RDWR | O_CREAT | O_EXCL,
							    temp->mode ?: RVL_TEMP_MODE));
	return temp->fd < 0 ? temp->fd : finish(temp, S_IFREG);
}

int rvl_temp_dir(struct rvl_temp *temp)
{
	if (mkdirat(temp->dirfd, temp->name, temp->mode ?: RVL_TEMP_DIR_MODE) < 0)
		return -errno;
	temp->is_named = true;
	temp->fd = rvl_retry_emfile(temp->ov, rvl_path_open(temp->dirfd, temp->name,
							    O_PATH | O_DIRECTORY, 0));
	return temp->fd < 0 ? temp->fd : finish(temp, S_IFDIR);
}

int rvl_temp_symlink(struct rvl_temp *temp, const char *target)
{
	return symlinkat(target, temp->dirfd, temp->name) < 0 ? -errno : finish(temp, S_IFLNK);
}

int rvl_temp_node(struct rvl_temp *temp, mode_t type, dev_t rdev)
{
	return mknodat(temp->dirfd, temp->name, type | RVL_TEMP_MODE, rdev) < 0 ?
		       -errno :
		       finish(temp, type);
}

/* The whiteout of which all others are links, as in the kernel (ovl_whiteout); a fresh one when it
 * has no link left. */
static int refresh_whiteout(struct rvl_overlay *ov, bool is_full)
{
	int temp_fd = ov->index->temp_fd, r = 0;

	pthread_mutex_lock(&ov->whiteout_lock);
	if (is_full)
		(void)unlinkat(temp_fd, WHITEOUT_NAME, 0);
	if ((is_full || !ov->has_whiteout) &&
	    mknodat(temp_fd, WHITEOUT_NAME, S_IFCHR, makedev(0, 0)) < 0 && errno != EEXIST)
		r = -errno;
	ov->has_whiteout = r == 0;
	pthread_mutex_unlock(&ov->whiteout_lock);
	return r;
}

int rvl_make_whiteout(struct rvl_overlay *ov, int dirfd, const char *name)
{
	int temp_fd = ov->index->temp_fd, r;

	if (linkat(temp_fd, WHITEOUT_NAME, dirfd, name, 0) == 0)
		return 0;
	if (errno != ENOENT && errno != EMLINK)
		return -errno;
	r = refresh_whiteout(ov, errno == EMLINK);
	if (r < 0)
		return r;
	return linkat(temp_fd, WHITEOUT_NAME, dirfd, name, 0) < 0 ? -errno : 0;
}

int rvl_temp_whiteout(struct rvl_temp *temp, struct rvl_overlay *ov)
{
	int r;

	rvl_temp_begin(temp, ov);
	r = rvl_make_whiteout(ov, temp->dirfd, temp->name);
	temp->type = S_IFCHR;
	temp->is_named = r == 0;
	return r;
}

void rvl_temp_keep(struct rvl_temp *temp)
{
	temp->is_named = false;
}

/* The short way; what the inode cannot carry is seen to by the other. */
static bool set_by_fd(struct rvl_temp *temp, enum rvl_xattr which, const void *value, size_t size)
{
	const char *xattr = temp->ov->stack->xattr.name[which];

	return temp->type == S_IFREG && fsetxattr(temp->fd, xattr, value, size, 0) == 0;
}

int rvl_temp_xattr_set(struct rvl_temp *temp, enum rvl_xattr which, const void *value, size_t size)
{
	if (set_by_fd(temp, which, value, size))
		return 0;
	return rvl_upper_xattr_set(temp->ov->index, temp->dirfd, temp->name, temp->type, temp->ino,
				   which, value, size);
}

int rvl_temp_stamp(struct rvl_temp *temp, const struct rvl_id *id)
{
	uint8_t buf[RVL_STAMP_SIZE];

	rvl_stamp_encode(id, buf);
	if (set_by_fd(temp, RVL_XATTR_INO, buf, sizeof(buf)))
		return 0;
	return rvl_stamp_set(temp->ov->index, temp->dirfd, temp->name, temp->type, temp->ino, id);
}

int rvl_temp_copy_xattr(struct rvl_temp *temp, int dirfd, const char *name, const char *xattr)
{
	char value[1024]; /* a capability has 24 bytes */
	ssize_t n = rvl_xattrat_get(dirfd, name, xattr, value, sizeof(value));

	if (n == -ENODATA || n == -EOPNOTSUPP)
		return 0;
	if (n < 0)
		return (int)n;
	return rvl_xattrat_set(temp->dirfd, temp->name, xattr, value, (size_t)n, 0);
}

/* No such flags there, or they are not for us to see. */
static bool has_no_flags(int error)
{
	return error == ENOTTY || error == EINVAL || error == EOPNOTSUPP || error == EACCES;
}

/* Of an open file or directory; 0 where there are none. fd may be an error. */
static int get_flags(int fd, int *ret)
{
	*ret = 0;
	if (fd < 0)
		return has_no_flags(-fd) ? 0 : fd;
	return ioctl(fd, FS_IOC_GETFLAGS, ret) == 0 || has_no_flags(errno) ? 0 : -errno;
}

int rvl_temp_copy_flags(struct rvl_temp *temp, const struct rvl_real *from)
{
	_cleanup_close_ int from_fd = -EBADF, dir_fd = -EBADF;
	int flags, own, fd = temp->fd, r;

	if (temp->type != S_IFREG && temp->type != S_IFDIR)
		return 0;
	from_fd = rvl_retry_emfile(temp->ov, rvl_real_open(from, O_RDONLY | O_NONBLOCK));
	r = get_flags(from_fd, &flags);
	flags &= FS_SYNC_FL | FS_NOATIME_FL;
	if (r < 0 || !flags)
		return r;
	if (temp->type == S_IFDIR)
		fd = dir_fd =
			rvl_retry_emfile(temp->ov, rvl_fd_reopen(temp->fd, O_RDONLY | O_DIRECTORY));
	r = get_flags(fd, &own);
	own |= flags;
	if (r < 0 || fd < 0)
		return r;
	return ioctl(fd, FS_IOC_SETFLAGS, &own) == 0 || has_no_flags(errno) ? 0 : -errno;
}

int rvl_temp_owner_mode(struct rvl_temp *temp, uid_t uid, gid_t gid, mode_t mode)
{
	const bool is_file = temp->type == S_IFREG;
	int r = 0;

	if (uid != temp->uid || gid != temp->gid)
		r = is_file ? fchown(temp->fd, uid, gid) :
			      fchownat(temp->dirfd, temp->name, uid, gid, AT_SYMLINK_NOFOLLOW);
	if (r == 0 && !S_ISLNK(temp->type))
		r = is_file ? fchmod(temp->fd, mode & 07777) :
			      fchmodat(temp->dirfd, temp->name, mode & 07777, 0);
	return r < 0 ? -errno : 0;
}

struct publication {
	const struct rvl_temp *temp;
	int dirfd;
	const char *name;
	unsigned flags;
};

static int do_publish(void *arg)
{
	const struct publication *p = arg;

	return renameat2(p->temp->dirfd, p->temp->name, p->dirfd, p->name, p->flags) < 0 ? -errno :
											   0;
}

/* A copy-up changes a read-only directory; one that is read-only itself changes its parent. */
static int publish_read_only(struct publication *p)
{
	const struct rvl_lift objects[] = { { p->dirfd, "" },
					    { p->temp->dirfd, p->temp->name },
					    { p->dirfd, p->name } };

	return rvl_lift_call(objects,
			     p->flags & RENAME_EXCHANGE ? 3 :
			     S_ISDIR(p->temp->type)	? 2 :
							  1,
			     do_publish, p);
}

int rvl_temp_publish(struct rvl_temp *temp, int dirfd, const char *name, unsigned flags)
{
	struct publication p = { temp, dirfd, name, flags };
	int r = do_publish(&p);

	if (r == -EACCES)
		r = publish_read_only(&p);
	if (r < 0)
		return r;
	temp->is_named = flags & RENAME_EXCHANGE;
	return 0;
}

/* Remove a directory that is out of sight in work/. -ENOTEMPTY: it holds more than whiteouts. */
static int remove_dir(struct rvl_overlay *ov, int dirfd, const char *name)
{
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	int fd, r;

	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return -errno;
	fd = rvl_path_open(dirfd, name, O_RDONLY | O_DIRECTORY, 0);
	r = rvl_dir_stream(fd, &names);
	if (r < 0)
		return r;
	while (rvl_dir_next(names, &entry) > 0) {
		struct statx stx;

		/* only whiteouts: anything else came in from outside and is kept for the next mount
		 * to report */
		if (rvl_path_statx(fd, entry->d_name, STATX_BASIC_STATS, &stx) == 0 &&
		    rvl_whiteout_check(ov->stack, fd, entry->d_name, &stx, true) > 0)
			(void)unlinkat(fd, entry->d_name, 0);
	}
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

void rvl_temp_release_name(struct rvl_temp *temp)
{
	if (!temp->ov || !temp->is_named)
		return;
	if (unlinkat(temp->dirfd, temp->name, 0) < 0 && errno == EISDIR)
		(void)remove_dir(temp->ov, temp->dirfd, temp->name);
	temp->is_named = false;
}

void rvl_temp_release(struct rvl_temp *temp)
{
	rvl_temp_release_name(temp);
	if (temp->ov)
		rvl_close(rvl_take_fd(&temp->fd));
}
