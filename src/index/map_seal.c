// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The seal of the map (inodes/map.seal): size and hash of map.mdb as a clean close left it. LMDB
 * believes its pages, so a page that was damaged on disk could crash the process; a file that does
 * not fit its seal is not opened, one without a seal is checked page by page (store_check.c).
 *
 * On disk: map.mdb synced, then the seal replaced. It goes, durable, before the file is opened for
 * writing: so there is none after a crash, and one that does not fit means damage.
 */
#include "index/map_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "index/state.h"

#define SEAL_TEMP_NAME "map.seal.new"
#define SEAL_MAGIC "RVLSEAL" /* with its NUL */
#define SEAL_SIZE 32
#define PIECE_SIZE ((size_t)1 << 20)
/* Larger maps are not sealed: an umount should not wait for the disk to read them. */
#define SEALED_MAX ((off_t)256 << 20)

static void seal_name(const struct rvl_index *index, char ret[RVL_MAP_FILE_NAME_SIZE])
{
	rvl_map_file_name(index->state->map_serial, RVL_MAP_FILE_SEAL, ret);
}

static int hash_file(int fd, uint64_t size, uint64_t *ret)
{
	_cleanup_free_ uint8_t *buf = malloc(8 + PIECE_SIZE);
	uint64_t hash = size;

	if (!buf)
		return -ENOMEM;
	for (uint64_t done = 0; done < size;) {
		ssize_t n = pread(fd, buf + 8, PIECE_SIZE, (off_t)done);

		if (n < 0)
			return -errno;
		if (n == 0 || (n < (ssize_t)PIECE_SIZE && done + (uint64_t)n < size))
			return -EUCLEAN;
		rvl_put_le64(buf, hash);
		hash = rvl_hash(buf, 8 + (size_t)n);
		done += (uint64_t)n;
	}
	*ret = hash;
	return 0;
}

int rvl_map_seal_check(struct rvl_index *index, int fd)
{
	char name[RVL_MAP_FILE_NAME_SIZE];
	_cleanup_close_ int seal_fd = -EBADF;
	uint8_t seal[SEAL_SIZE];
	struct stat st;
	uint64_t hash;
	ssize_t n;
	int r;

	seal_name(index, name);
	seal_fd = openat(index->inodes_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (seal_fd < 0)
		return errno == ENOENT || errno == ELOOP ? 0 : -errno;
	n = pread(seal_fd, seal, sizeof(seal), 0);
	if (n < 0)
		return errno == EISDIR ? 0 : -errno;
	/* A seal that is damaged itself says nothing. */
	if (n != SEAL_SIZE || memcmp(seal, SEAL_MAGIC, 8) != 0 ||
	    rvl_get_le64(seal + 24) != rvl_hash(seal, 24))
		return 0;
	if (fstat(fd, &st))
		return -errno;
	if ((uint64_t)st.st_size != rvl_get_le64(seal + 8))
		return -EUCLEAN;
	r = hash_file(fd, (uint64_t)st.st_size, &hash);
	if (r)
		return r;
	return hash == rvl_get_le64(seal + 16) ? 1 : -EUCLEAN;
}

int rvl_map_seal_break(struct rvl_index *index)
{
	char name[RVL_MAP_FILE_NAME_SIZE];

	seal_name(index, name);
	if (unlinkat(index->inodes_fd, name, 0))
		return errno == ENOENT ? 0 : -errno;
	return !index->is_volatile && fsync(index->inodes_fd) ? -errno : 0;
}

static int write_seal(struct rvl_index *index, const uint8_t seal[SEAL_SIZE])
{
	_cleanup_close_ int fd = openat(index->inodes_fd, SEAL_TEMP_NAME,
					O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
					0600);
	char name[RVL_MAP_FILE_NAME_SIZE];
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, seal, SEAL_SIZE);
	if (n != SEAL_SIZE)
		return n < 0 ? -errno : -ENOSPC;
	if (!index->is_volatile && fsync(fd))
		return -errno;
	seal_name(index, name);
	return renameat(index->inodes_fd, SEAL_TEMP_NAME, index->inodes_fd, name) ? -errno : 0;
}

int rvl_map_seal(struct rvl_index *index)
{
	uint8_t seal[SEAL_SIZE] = SEAL_MAGIC;
	mdb_filehandle_t fd;
	struct stat st;
	uint64_t hash;
	int r;

	static_assert(sizeof(SEAL_MAGIC) == 8, "the magic");
	if (!index->is_writable || !index->map->store || index->map->is_in_memory ||
	    index->map->is_damaged)
		return 0;
	r = rvl_store_sync(index->map->store);
	r = r ?: rvl_store_errno(mdb_env_get_fd(index->map->store->env, &fd));
	if (r)
		return r;
	if (fstat(fd, &st))
		return -errno;
	if (st.st_size > SEALED_MAX)
		return 0;
	r = hash_file(fd, (uint64_t)st.st_size, &hash);
	if (r)
		return r;
	rvl_put_le64(seal + 8, (uint64_t)st.st_size);
	rvl_put_le64(seal + 16, hash);
	rvl_put_le64(seal + 24, rvl_hash(seal, 24));
	return write_seal(index, seal);
}
