// SPDX-License-Identifier: GPL-2.0-or-later
/* The file of names: items are appended through a buffer, and read where they lie. */
#include "check/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/path.h"

#define BUFFER_SIZE (1 << 18)
#define START 1 /* of the first item, since 0 is the root */

struct item {
	uint64_t parent;
	uint16_t len; /* of the name, which follows */
} __attribute__((packed));

struct rvl_spool {
	int fd; /* owned */
	uint64_t written; /* bytes in the file */
	size_t n; /* bytes in the buffer */
	char buffer[BUFFER_SIZE];
};

static int open_in(const char *directory)
{
	_cleanup_free_ char *path = NULL;
	int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd < 0 ? -errno : fd;
	if (asprintf(&path, "%s/reverlay.XXXXXX", directory) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

int rvl_temp_file_open(void)
{
	const char *const directories[] = { getenv("TMPDIR"), "/var/tmp", "/tmp" };
	int fd = -ENOENT;

	for (unsigned i = 0; fd < 0 && i < 3; i++)
		if (directories[i])
			fd = open_in(directories[i]);
	if (fd < 0)
		rvl_error("no place for temporary files: TMPDIR, /var/tmp, /tmp: %s",
			  strerror(-fd));
	return fd;
}

int rvl_temp_file_write(int fd, const void *data, size_t len, uint64_t at)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(fd, (const char *)data + done, len - done, (off_t)(at + done));

		if (n < 0) {
			n = -errno;
			rvl_error("a temporary file (in TMPDIR, /var/tmp or /tmp): %s",
				  strerror((int)-n));
			return (int)n;
		}
		done += (size_t)n;
	}
	return 0;
}

int rvl_spool_new(struct rvl_spool **ret)
{
	struct rvl_spool *spool = calloc(1, sizeof(*spool));

	if (!spool)
		return -ENOMEM;
	spool->fd = rvl_temp_file_open();
	if (spool->fd < 0) {
		int r = spool->fd;

		free(spool);
		return r;
	}
	*ret = spool;
	return 0;
}

void rvl_spool_free(struct rvl_spool *spool)
{
	if (!spool)
		return;
	rvl_close(spool->fd);
	free(spool);
}

static int flush(struct rvl_spool *spool)
{
	int r = rvl_temp_file_write(spool->fd, spool->buffer, spool->n, spool->written);

	if (r < 0)
		return r;
	spool->written += spool->n;
	spool->n = 0;
	return 0;
}

int rvl_spool_add(struct rvl_spool *spool, uint64_t parent, const char *name, uint64_t *ret)
{
	size_t len = strlen(name);
	struct item item = { .parent = parent, .len = (uint16_t)len };

	if (len > UINT16_MAX)
		return -ENAMETOOLONG;
	if (spool->n + sizeof(item) + len > sizeof(spool->buffer)) {
		int r = flush(spool);

		if (r)
			return r;
	}
	*ret = START + spool->written + spool->n;
	memcpy(spool->buffer + spool->n, &item, sizeof(item));
	memcpy(spool->buffer + spool->n + sizeof(item), name, len);
	spool->n += sizeof(item) + len;
	return 0;
}

static int read_at(struct rvl_spool *spool, uint64_t at, void *buf, size_t len)
{
	if (at >= spool->written) {
		at -= spool->written;
		if (at > spool->n || len > spool->n - at)
			return -EIO;
		memcpy(buf, spool->buffer + at, len);
		return 0;
	}
	/* an item never lies half in the buffer */
	ssize_t n = pread(spool->fd, buf, len, (off_t)at);

	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

int rvl_spool_name(struct rvl_spool *spool, uint64_t at, char **ret, uint64_t *ret_parent)
{
	struct item item = { .parent = RVL_SPOOL_ROOT };
	char *name;
	int r = at == RVL_SPOOL_ROOT ? 0 : read_at(spool, at - START, &item, sizeof(item));

	if (r)
		return r;
	name = calloc(1, (size_t)item.len + 1);
	if (!name)
		return -ENOMEM;
	r = item.len ? read_at(spool, at - START + sizeof(item), name, item.len) : 0;
	if (r) {
		free(name);
		return r;
	}
	*ret = name;
	if (ret_parent)
		*ret_parent = item.parent;
	return 0;
}

int rvl_spool_path(struct rvl_spool *spool, uint64_t at, char **ret)
{
	_cleanup_free_ char *path = strdup("");

	for (unsigned depth = 0; path && at != RVL_SPOOL_ROOT; depth++) {
		_cleanup_free_ char *name = NULL;
		char *longer;
		int r = depth < RVL_SPOOL_DEPTH_MAX ? rvl_spool_name(spool, at, &name, &at) :
						      -ELOOP;

		if (r)
			return r;
		longer = rvl_path_join(name, path);
		if (!longer)
			return -ENOMEM;
		free(path);
		path = longer;
	}
	if (!path)
		return -ENOMEM;
	*ret = rvl_take_ptr(path);
	return 0;
}
