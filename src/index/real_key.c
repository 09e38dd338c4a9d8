// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What an object of a lower is known by: number_private.h has the table.
 *
 * A kernel overlay whose layers are on several filesystems shows st_dev that are made up at each
 * mount (xino=off), st_ino of directories that are made up each time they come into its cache, or
 * numbers with high bits set (xino=on, auto). The file identifier is that of the lower object also
 * after a copy-up in there, so two names of what was a hard link have the same one: st_ino, which
 * lasts for non-directories, tells them apart. Of it 32 bits are what no xino changes.
 */
#include "index/fsck.h"
#include "index/number_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "layer/origin.h"
#include "layer/path.h"

#define KEY_BIT (1ULL << 63)

static int place_key(const struct rvl_layer_numbers *numbers, const struct rvl_layer *layer,
		     int dirfd, const char *name, uint64_t *ret)
{
	_cleanup_free_ char *place = NULL;
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len;
	int r = rvl_layer_place(layer, dirfd, name, &place);

	if (r)
		return r;
	len = strlen(place);
	buf = malloc(3 + len);
	if (!buf)
		return -ENOMEM;
	buf[0] = 'P';
	rvl_put_le16(buf + 1, numbers->salt);
	memcpy(buf + 3, place, len);
	*ret = rvl_hash(buf, 3 + len) | KEY_BIT;
	return 0;
}

/* A hard link: all names must give the same. What it is, and since when. */
static uint64_t link_key(const struct statx *stx)
{
	uint8_t buf[64] = { 'L' };
	bool has_btime = stx->stx_mask & STATX_BTIME;

	rvl_put_le16(buf + 2, stx->stx_mode & S_IFMT);
	rvl_put_le64(buf + 4, stx->stx_ino & UINT32_MAX);
	rvl_put_le64(buf + 12, stx->stx_size);
	rvl_put_le64(buf + 20, (uint64_t)stx->stx_mtime.tv_sec);
	rvl_put_le32(buf + 28, stx->stx_mtime.tv_nsec);
	rvl_put_le64(buf + 32, has_btime ? (uint64_t)stx->stx_btime.tv_sec : 0);
	rvl_put_le32(buf + 40, has_btime ? stx->stx_btime.tv_nsec : 0);
	return rvl_hash(buf, 44) | KEY_BIT;
}

/* Without inode number or identifier. */
static int weak_key(const struct rvl_layer_numbers *numbers, const struct rvl_layer *layer,
		    int dirfd, const char *name, const struct statx *stx, uint64_t *ret)
{
	const unsigned mask = STATX_BASIC_STATS;
	struct statx full;
	int r;

	if (S_ISDIR(stx->stx_mode))
		return place_key(numbers, layer, dirfd, name, ret);
	if ((stx->stx_mask & mask) != mask) {
		r = rvl_path_statx(dirfd, name, mask | STATX_BTIME, &full);
		if (r)
			return r;
		stx = &full;
	}
	if (stx->stx_nlink < 2)
		return place_key(numbers, layer, dirfd, name, ret);
	if (numbers->inos == RVL_INOS_FLEETING) {
		/* Then its names are objects of their own already in that filesystem. */
		r = rvl_identity_is_nodeid(dirfd, name, stx->stx_ino);
		if (r)
			return r < 0 ? r : place_key(numbers, layer, dirfd, name, ret);
	}
	*ret = link_key(stx);
	return 0;
}

static int overlay_key(const struct rvl_layer_numbers *numbers, const struct rvl_layer *layer,
		       int dirfd, const char *name, const struct statx *stx, uint64_t *ret)
{
	dev_t dev = rvl_statx_dev(stx);
	uint8_t buf[RVL_FID_BYTES_MAX + 4];
	int len;

	if (!S_ISDIR(stx->stx_mode) && dev == layer->dev && stx->stx_ino <= RVL_REAL_INO_MASK) {
		*ret = stx->stx_ino;
		return 0;
	}
	len = rvl_identity_fid(dirfd, name, buf);
	if (len == -EOPNOTSUPP)
		return weak_key(numbers, layer, dirfd, name, stx, ret);
	if (len < 0)
		return len;
	rvl_put_le32(buf + len, S_ISDIR(stx->stx_mode) ? 0 : (uint32_t)stx->stx_ino);
	*ret = rvl_hash(buf, (size_t)len + 4) | KEY_BIT;
	return 0;
}

int rvl_real_of_lower(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
		      const char *name, const struct statx *stx, struct rvl_real_id *ret)
{
	const struct rvl_layer_numbers *numbers = &index->numbers->layers[layer->index];
	dev_t dev = rvl_statx_dev(stx);

	ret->ino = stx->stx_ino;
	ret->instance = numbers->instance;
	switch (numbers->inos) {
	case RVL_INOS_OVERLAY:
		return overlay_key(numbers, layer, dirfd, name, stx, &ret->ino);
	case RVL_INOS_FLEETING:
		return weak_key(numbers, layer, dirfd, name, stx, &ret->ino);
	case RVL_INOS_LASTING:
		break;
	}
	if (dev == layer->dev)
		return 0;
	return rvl_device_instance(index, layer, dirfd, name, stx->stx_mode & S_IFMT, dev,
				   &ret->instance);
}

int rvl_real_of_origin(struct rvl_index *index, uint8_t (*uuids)[16],
		       const struct rvl_handle *origin, mode_t type, struct rvl_real_id *ret,
		       struct statx *ret_st)
{
	const struct rvl_state *state = index->state;
	const struct rvl_layer *layer;
	_cleanup_close_ int fd = -EBADF;

	for (unsigned i = 0; i < state->n_lowers; i++)
		if (state->lowers[i].flags & RVL_ROOT_UNSTABLE)
			return -ENODATA;
	fd = rvl_origin_find(index->stack, uuids, origin, type, &layer, ret_st);
	return fd < 0 ? -ENOENT : rvl_real_of_lower(index, layer, fd, "", ret_st, ret);
}
