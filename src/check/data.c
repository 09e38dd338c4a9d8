// SPDX-License-Identifier: GPL-2.0-or-later
#include "check/data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define BLOCK (1 << 16) /* bytes that are compared at a time */

int rvl_is_same_data(int a, int b)
{
	_cleanup_free_ char *buf = malloc(2 * BLOCK);

	if (!buf)
		return -ENOMEM;
	for (off_t done = 0;;) {
		ssize_t n = pread(a, buf, BLOCK, done);
		ssize_t m = n < 0 ? -1 : pread(b, buf + BLOCK, BLOCK, done);

		if (n < 0 || m < 0)
			return -errno;
		if (n != m || memcmp(buf, buf + BLOCK, (size_t)n))
			return 0;
		if (n == 0)
			return 1;
		done += n;
	}
}

int rvl_is_zeros(int fd)
{
	_cleanup_free_ char *buf = malloc(BLOCK);
	off_t at = 0, end;
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	for (;; at += n) {
		/* a hole may be large */
		end = lseek(fd, at, SEEK_DATA);
		if (end < 0)
			return errno == ENXIO ? 1 : -errno;
		at = end;
		n = pread(fd, buf, BLOCK, at);
		if (n < 0)
			return -errno;
		for (ssize_t i = 0; i < n; i++)
			if (buf[i])
				return 0;
		if (n == 0)
			return 1;
	}
}
