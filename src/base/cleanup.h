/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cleanup attributes for descriptors and memory: the variable is released when it goes out of
 * scope, unless it was taken with rvl_take_fd() or rvl_take_ptr().
 */
#ifndef RVL_BASE_CLEANUP_H
#define RVL_BASE_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static inline void rvl_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
}

static inline void rvl_cleanup_close(int *fd)
{
	rvl_close(*fd);
}

static inline void rvl_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void rvl_cleanup_closedir(DIR **d)
{
	if (*d)
		closedir(*d);
}

#define _cleanup_close_ __attribute__((cleanup(rvl_cleanup_close)))
#define _cleanup_free_ __attribute__((cleanup(rvl_cleanup_free)))
#define _cleanup_closedir_ __attribute__((cleanup(rvl_cleanup_closedir)))

static inline int rvl_take_fd(int *fd)
{
	int taken = *fd;

	*fd = -EBADF;
	return taken;
}

#define rvl_take_ptr(p)                  \
	({                               \
		__typeof__(p) taken_ = (p); \
		(p) = NULL;              \
		taken_;                  \
	})

#endif
