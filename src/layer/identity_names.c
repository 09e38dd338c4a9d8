// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A sample of the names in a filesystem, breadth first from the layer's root, for the digests of
 * identity.c: of images always, of others where two look like one. Only directories that everybody
 * may list are gone into, so that all who mount the layer see the same.
 */
#include "layer/identity_private.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "layer/path.h"

#define SAMPLE_MAX 1024 /* names */

struct sample {
	int fd; /* borrowed; of the root */
	bool is_deep, has_inos;
	unsigned n, n_waiting;
	uint64_t sum;
	char *waiting[SAMPLE_MAX]; /* owned; directories to be listed, n_waiting of them */
};

/* An error that says nothing of the layer. */
static bool is_shortage(int r)
{
	return r == -ENOMEM || r == -EMFILE || r == -ENFILE;
}

static void add(struct sample *sample, const char *path, const struct statx *stx)
{
	uint8_t one[5 * 8];

	rvl_put_le64(one, rvl_hash(path, strlen(path)));
	rvl_put_le64(one + 8, sample->has_inos ? stx->stx_ino : 0);
	rvl_put_le64(one + 16, stx->stx_size);
	rvl_put_le64(one + 24, (uint64_t)stx->stx_mtime.tv_sec);
	rvl_put_le64(one + 32, stx->stx_mtime.tv_nsec);
	/* a sum: in any order */
	sample->sum += rvl_hash(one, sizeof(one));
	sample->n++;
}

static int list(struct sample *sample, const char *dir)
{
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_path_open_noatime(sample->fd, dir, O_RDONLY | O_DIRECTORY),
			       &names);

	while (r == 0 && sample->n < SAMPLE_MAX && (r = rvl_dir_next(names, &entry)) > 0) {
		_cleanup_free_ char *path = rvl_path_join(dir, entry->d_name);
		struct statx stx;

		if (!path)
			return -ENOMEM;
		r = rvl_path_statx(dirfd(names), entry->d_name, STATX_BASIC_STATS, &stx);
		/* seen without a clone of the mount: something is mounted here */
		if (r == -EXDEV) {
			r = 0;
			continue;
		}
		if (is_shortage(r))
			return r;
		/* an image that is damaged in places is still that image */
		if (r < 0)
			stx = (struct statx){};
		r = 0;
		add(sample, path, &stx);
		if (sample->is_deep && S_ISDIR(stx.stx_mode) && (stx.stx_mode & 0555) == 0555)
			sample->waiting[sample->n_waiting++] = rvl_take_ptr(path);
	}
	return r;
}

/* What cannot be listed has no names, for all who try. */
static int list_below(struct sample *sample, const char *dir)
{
	int r = list(sample, dir);

	return is_shortage(r) ? r : 0;
}

int rvl_identity_names(int fd, bool is_deep, bool has_inos, uint64_t *ret_n, uint64_t *ret_sum)
{
	struct sample *sample = calloc(1, sizeof(*sample));
	int r;

	if (!sample)
		return -ENOMEM;
	sample->fd = fd;
	sample->is_deep = is_deep;
	sample->has_inos = has_inos;
	/* who serves the layer must be able to list its root */
	r = list(sample, "");
	for (unsigned i = 0; r == 0 && i < sample->n_waiting && sample->n < SAMPLE_MAX; i++)
		r = list_below(sample, sample->waiting[i]);
	if (r == 0) {
		*ret_n = sample->n;
		*ret_sum = sample->sum;
	}
	for (unsigned i = 0; i < sample->n_waiting; i++)
		free(sample->waiting[i]);
	free(sample);
	return r;
}
