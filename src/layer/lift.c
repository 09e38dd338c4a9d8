// SPDX-License-Identifier: GPL-2.0-or-later
/* Write permission for one call, see lift.h. */
#include "layer/lift.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "layer/path.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic unsigned turns; /* written under lock; odd: a mode is lifted */

void rvl_lift_lock(void)
{
	pthread_mutex_lock(&lock);
}

void rvl_lift_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

unsigned rvl_lift_read_begin(void)
{
	unsigned turn = atomic_load(&turns);

	if (turn % 2) {
		rvl_lift_lock();
		turn = atomic_load(&turns);
		rvl_lift_unlock();
	}
	return turn;
}

bool rvl_lift_read_again(unsigned turn)
{
	return atomic_load(&turns) != turn;
}

static int set_mode(int fd, mode_t mode)
{
	char path[RVL_FD_PATH_SIZE];

	rvl_fd_path(fd, path);
	return chmod(path, mode & 07777) < 0 ? -errno : 0;
}

/* A chmod by somebody outside the group clears setgid, for good. */
static bool keeps_setgid(const struct statx *stx)
{
	_cleanup_free_ gid_t *groups = NULL;
	int n;

	if (!(stx->stx_mode & S_ISGID) || stx->stx_gid == getegid())
		return true;
	groups = malloc(NGROUPS_MAX * sizeof(*groups));
	n = groups ? getgroups(NGROUPS_MAX, groups) : 0;
	while (n > 0)
		if (groups[--n] == stx->stx_gid)
			return true;
	return false;
}

struct lifted {
	int fd; /* fn may move the object */
	mode_t added; /* bits of its mode; 0: it can be written as it is */
};

static int lift(const struct rvl_lift *object, struct lifted *ret)
{
	struct statx stx;
	mode_t needed;
	int r;

	ret->added = 0;
	ret->fd = *object->name ? rvl_path_open(object->dirfd, object->name, O_PATH, 0) :
				  fcntl(object->dirfd, F_DUPFD_CLOEXEC, 0);
	if (ret->fd < 0)
		return *object->name ? ret->fd : -errno;
	r = rvl_path_statx(ret->fd, "", STATX_BASIC_STATS, &stx);
	if (r < 0)
		return r;
	needed = S_ISDIR(stx.stx_mode) ? S_IRWXU : S_IRUSR | S_IWUSR;
	if (stx.stx_uid != geteuid() || S_ISLNK(stx.stx_mode))
		return -EACCES;
	if ((stx.stx_mode & needed) == needed)
		return 0;
	if (!keeps_setgid(&stx))
		return -EACCES;
	r = set_mode(ret->fd, stx.stx_mode | needed);
	if (r == 0)
		ret->added = needed & ~stx.stx_mode;
	return r;
}

/* Of what else the mode has lost meanwhile (setuid by a write) nothing comes back. */
static void put_back(struct lifted *lifted)
{
	struct statx stx;

	if (lifted->added && rvl_path_statx(lifted->fd, "", STATX_MODE, &stx) == 0)
		(void)set_mode(lifted->fd, stx.stx_mode & ~lifted->added);
	rvl_close(lifted->fd);
}

int rvl_lift_call(const struct rvl_lift *objects, unsigned n, int (*fn)(void *arg), void *arg)
{
	struct lifted lifted[RVL_LIFTS_MAX];
	unsigned n_lifted = 0;
	int r = 0;

	if (n > RVL_LIFTS_MAX)
		return -EINVAL;
	rvl_lift_lock();
	atomic_fetch_add(&turns, 1);
	while (r == 0 && n_lifted < n) {
		r = lift(&objects[n_lifted], &lifted[n_lifted]);
		n_lifted++;
	}
	if (r == 0)
		r = fn(arg);
	while (n_lifted > 0)
		put_back(&lifted[--n_lifted]);
	atomic_fetch_add(&turns, 1);
	rvl_lift_unlock();
	return r;
}
