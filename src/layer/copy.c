// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Copying data. Three ways, each tried where the one before is not possible: sharing the extents of
 * the whole file (FICLONE), copying within the kernel (copy_file_range, which also reflinks or
 * offloads where the filesystem can), reading and writing. Only what is data is copied, so that
 * holes stay.
 */
#include "layer/copy.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (UINT64_C(1) << 30) /* of one copy_file_range */
#define BUFFER_BYTES (UINT64_C(512) * 1024)

struct copy {
	int from_fd;
	int to_fd;
	bool has_copy_range; /* until it says that it cannot */
	char *buffer; /* owned; made when it is needed */
	uint64_t n_written;
};

static bool is_range_impossible(int error)
{
	/* EPERM, ETXTBSY, EBADF: swap files, and what security modules think of */
	return error == EXDEV || error == EINVAL || error == EOPNOTSUPP || error == ENOSYS ||
	       error == EPERM || error == ETXTBSY || error == EBADF;
}

static int write_all(int fd, const char *buffer, size_t n, off_t at)
{
	while (n > 0) {
		ssize_t done = pwrite(fd, buffer, n, at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		buffer += done;
		n -= (size_t)done;
		at += done;
	}
	return 0;
}

/* One step of reading and writing; the bytes done, 0 at the source's end. */
static ssize_t copy_step_by_buffer(struct copy *c, uint64_t at, uint64_t n)
{
	ssize_t done;
	int r;

	if (!c->buffer) {
		c->buffer = malloc(BUFFER_BYTES);
		if (!c->buffer)
			return -ENOMEM;
	}
	done = pread(c->from_fd, c->buffer, n < BUFFER_BYTES ? n : BUFFER_BYTES, (off_t)at);
	if (done < 0)
		return -errno;
	r = write_all(c->to_fd, c->buffer, (size_t)done, (off_t)at);
	return r < 0 ? r : done;
}

static ssize_t copy_step(struct copy *c, uint64_t at, uint64_t n)
{
	if (c->has_copy_range) {
		off_t from = (off_t)at, to = (off_t)at;
		ssize_t done = copy_file_range(c->from_fd, &from, c->to_fd, &to,
					       n < CHUNK_BYTES ? n : CHUNK_BYTES, 0);

		if (done > 0)
			return done;
		if (done < 0 && !is_range_impossible(errno))
			return -errno;
		/* Also at 0: some filesystems say so of files whose size they do not know. */
		c->has_copy_range = false;
	}
	return copy_step_by_buffer(c, at, n);
}

static int copy_extent(struct copy *c, uint64_t at, uint64_t end)
{
	while (at < end) {
		ssize_t done = copy_step(c, at, end - at);

		if (done == -EINTR)
			continue;
		if (done < 0)
			return (int)done;
		if (done == 0)
			return -EIO; /* the source is shorter than it was */
		at += (uint64_t)done;
		c->n_written += (uint64_t)done;
	}
	return 0;
}

static int copy_extents(struct copy *c, uint64_t size)
{
	uint64_t at = 0;

	while (at < size) {
		off_t data = lseek(c->from_fd, (off_t)at, SEEK_DATA), hole;
		uint64_t end = size;
		int r;

		if (data < 0 && errno == ENXIO)
			return 0; /* a hole up to the end */
		if (data < 0)
			data = (off_t)at; /* the filesystem cannot tell: all is data */
		if ((uint64_t)data >= size)
			return 0;
		hole = lseek(c->from_fd, data, SEEK_HOLE);
		if (hole > data && (uint64_t)hole < size)
			end = (uint64_t)hole;
		r = copy_extent(c, (uint64_t)data, end);
		if (r < 0)
			return r;
		at = end;
	}
	return 0;
}

static int check_length(int fd, uint64_t size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return (uint64_t)st.st_size < size ? -EIO : 0;
}

int rvl_copy_data(int from_fd, int to_fd, uint64_t size, uint64_t *ret_bytes)
{
	struct copy c = { .from_fd = from_fd, .to_fd = to_fd, .has_copy_range = true };
	int r = check_length(from_fd, size);

	if (r < 0)
		return r;
	if (size > 0 && ioctl(to_fd, FICLONE, from_fd) == 0) {
		/* It takes the whole source, which may have changed its size. */
		r = check_length(to_fd, size);
	} else {
		r = copy_extents(&c, size);
		free(c.buffer);
		if (r == 0)
			r = check_length(from_fd, size);
	}
	if (r == 0 && ftruncate(to_fd, (off_t)size) < 0)
		r = -errno;
	if (r == 0 && ret_bytes)
		*ret_bytes = c.n_written;
	return r;
}
