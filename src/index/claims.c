// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Claims: the walk of a lower layer that was an upper once, to record which numbers its objects
 * had.
 *
 * The layer's real tree is walked, not the merged view: a claim belongs to an inode, wherever it
 * is shown. One getxattr a file; no stat where getdents gives the inode number. Stamps of hostile
 * layers do no harm: a number is taken only once, never the root's, never one of this overlay's own
 * counters, and they leave ids of instances for others.
 */
#include "index/bind.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "index/fsck.h"
#include "index/number_private.h"
#include "index/stamp.h"
#include "index/table.h"
#include "layer/path.h"

#define CLAIMS_DIRECTORIES_MAX (1 << 22) /* found and not yet walked */
#define UNKNOWN_ID 0xffff

struct claims {
	struct rvl_index *index; /* borrowed */
	const struct rvl_layer *layer; /* borrowed */
	const struct rvl_table *table; /* borrowed; NULL: only look */
	uint16_t ids[RVL_INSTANCE_MAX + 1]; /* of the table -> ours */
	char **directories; /* owned; paths still to be walked */
	size_t n, size;
	uint64_t n_claims, n_lost;
	bool is_check; /* only count what is not recorded */
	uint64_t n_missing;
};

static void claims_free(struct claims **p)
{
	struct claims *claims = *p;

	if (!claims)
		return;
	while (claims->n)
		free(claims->directories[--claims->n]);
	free(claims->directories);
	free(claims);
}

static int push(struct claims *claims, const char *dir, const char *name)
{
	int r = rvl_array_reserve(&claims->directories, &claims->size, claims->n,
				  sizeof(*claims->directories), CLAIMS_DIRECTORIES_MAX);
	char *path = r ? NULL : rvl_path_join(dir, name);

	if (!path)
		return r ?: -ENOMEM;
	claims->directories[claims->n++] = path;
	return 0;
}

/* Our instance for an id of the layer's table. -EOVERFLOW: there are too many already. */
static int translate_id(struct claims *claims, uint16_t id, uint16_t *ret)
{
	struct rvl_state *state = claims->index->state;
	struct rvl_state_instance instance = { .id = id, .flags = RVL_INSTANCE_IMPORTED };
	const struct rvl_state_instance *known;
	int r = 0;

	if (claims->ids[id] != UNKNOWN_ID) {
		*ret = claims->ids[id];
		return 0;
	}
	rvl_table_digest(claims->table, id, instance.digest);
	pthread_mutex_lock(&state->lock);
	known = rvl_state_instance_by_digest(state, instance.digest);
	if (known) {
		instance.id = known->id;
	} else if (state->n_instances >= RVL_STATE_IMPORTED_MAX) {
		r = -EOVERFLOW;
	} else {
		r = rvl_state_instance_free_id(state, id ?: 1, &instance.id);
		r = r ?: rvl_state_instance_add(state, &instance);
	}
	pthread_mutex_unlock(&state->lock);
	if (r)
		return r;
	*ret = claims->ids[id] = instance.id;
	return 0;
}

static bool is_own_counter(const struct rvl_index *index, uint16_t instance)
{
	for (int i = 0; i < RVL_COUNTER_N; i++)
		if (index->state->counters[i].instance == instance)
			return true;
	return false;
}

static int record(struct claims *claims, const struct rvl_real_id *real, const struct rvl_id *stamp)
{
	struct rvl_index *index = claims->index;
	struct rvl_id id = { 0 }, other;
	uint16_t instance = 0;
	int r = translate_id(claims, (uint16_t)(stamp->number >> RVL_INSTANCE_SHIFT), &instance);

	if (!r)
		id.number = (uint64_t)instance << RVL_INSTANCE_SHIFT |
			    (stamp->number & RVL_REAL_INO_MASK);
	else if (r != -EOVERFLOW)
		return r;
	claims->n_claims++;
	if (id.number > RVL_NUMBER_ROOT && !is_own_counter(index, instance)) {
		r = rvl_real_record(index, real, &id);
		if (r != -EEXIST)
			return r;
	}
	/* Recorded before, as another name of this object; or the number is another's. */
	r = rvl_real_number(index, real, &other);
	if (r != -ENOENT)
		return r;
	claims->n_lost++;
	return rvl_number_assign(index, real, &other);
}

static int claim(struct claims *claims, const struct rvl_real_id *real, int dirfd, const char *name)
{
	uint8_t buf[RVL_STAMP_SIZE];
	struct rvl_id stamp;
	ssize_t n = rvl_xattr_get(&claims->index->stack->xattr, dirfd, name, RVL_XATTR_INO, buf,
				  sizeof(buf));

	if (n == -ENODATA || n == -ENOENT)
		return 0;
	if (n == -ERANGE || (n >= 0 && rvl_stamp_decode(buf, (size_t)n, &stamp))) {
		rvl_warn_limited("lowerdir=%s: a damaged stamp (inode %llu) is not used",
				 claims->layer->path, (unsigned long long)real->ino);
		rvl_count(damaged);
		return 0;
	}
	if (n >= 0 && claims->is_check) {
		struct rvl_id id;
		int r = rvl_real_number(claims->index, real, &id);

		claims->n_missing += r == -ENOENT;
		return r == -ENOENT ? 0 : r;
	}
	return n < 0 ? (int)n : record(claims, real, &stamp);
}

static int real_of(struct claims *claims, const struct statx *stx, int dirfd, const char *name,
		   struct rvl_real_id *ret)
{
	return rvl_real_of_lower(claims->index, claims->layer, dirfd, name, stx, ret);
}

static int claim_entry(struct claims *claims, const char *dir, int fd, const struct dirent *entry,
		       uint16_t instance)
{
	struct rvl_real_id real = { .ino = entry->d_ino, .instance = instance };
	unsigned type = entry->d_type;
	struct statx stx;
	int r;

	if (type == DT_UNKNOWN || (type != DT_DIR && !claims->layer->has_ino_in_dirents)) {
		r = rvl_path_statx(fd, entry->d_name, STATX_TYPE | STATX_INO, &stx);
		if (r)
			return r == -ENOENT ? 0 : r;
		type = IFTODT(stx.stx_mode);
		r = type == DT_DIR ? 0 : real_of(claims, &stx, fd, entry->d_name, &real);
		if (r)
			return r;
	}
	return type == DT_DIR ? push(claims, dir, entry->d_name) :
				claim(claims, &real, fd, entry->d_name);
}

static int walk_directory(struct claims *claims, const char *path)
{
	const struct rvl_stack *stack = claims->index->stack;
	_cleanup_closedir_ DIR *dir = NULL;
	_cleanup_close_ int fd = -EBADF;
	const struct dirent *entry;
	struct rvl_real_id real;
	struct statx stx;
	int r;

	fd = rvl_path_open_noatime(claims->layer->fd, path, O_RDONLY | O_DIRECTORY);
	if (fd == -EACCES || fd == -ENOENT) {
		rvl_warn_limited("lowerdir=%s: %s cannot be read for its inode numbers: %s",
				 claims->layer->path, path, strerror(-fd));
		return 0;
	}
	if (fd < 0)
		return fd;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_INO, &stx))
		return -errno;
	if (rvl_stack_is_hidden(stack, rvl_statx_dev(&stx), stx.stx_ino))
		return 0;
	r = real_of(claims, &stx, fd, "", &real);
	if (!r && *path)
		r = claim(claims, &real, fd, "");
	r = r ?: rvl_dir_stream(rvl_take_fd(&fd), &dir);
	while (!r && (r = rvl_dir_next(dir, &entry)) > 0)
		r = claim_entry(claims, path, dirfd(dir), entry, real.instance);
	return r;
}

static int walk_layer(struct rvl_index *index, const struct rvl_layer *layer,
		      const struct rvl_table *table, uint64_t *ret_missing)
{
	__attribute__((cleanup(claims_free))) struct claims *claims = calloc(1, sizeof(*claims));
	int r;

	if (!claims)
		return -ENOMEM;
	claims->index = index;
	claims->layer = layer;
	claims->table = table;
	claims->is_check = !table;
	memset(claims->ids, 0xff, sizeof(claims->ids));
	r = push(claims, "", "");
	while (!r && claims->n) {
		_cleanup_free_ char *path = claims->directories[--claims->n];

		r = walk_directory(claims, path);
	}
	if (!r && table)
		rvl_debug("lowerdir=%s: %llu numbers taken over, %llu of them were another's",
			  layer->path, (unsigned long long)claims->n_claims,
			  (unsigned long long)claims->n_lost);
	if (!r && ret_missing)
		*ret_missing += claims->n_missing;
	return r;
}

int rvl_claims_record(struct rvl_index *index, const struct rvl_layer *layer,
		      const struct rvl_table *table)
{
	return walk_layer(index, layer, table, NULL);
}

int rvl_claims_check(struct rvl_index *index, uint64_t *ret_missing)
{
	const struct rvl_state *state = index->state;
	int r = 0;

	*ret_missing = 0;
	for (unsigned i = 0; !r && i < state->n_lowers; i++)
		if (state->lowers[i].flags & RVL_ROOT_CLAIMS_DONE)
			r = walk_layer(index, &index->stack->layers[i + 1], NULL, ret_missing);
	return r;
}
