// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The files of the map: opened when they are first asked, made when there is a first row to write.
 * A read-only mount asks the file and keeps its own rows in memory; so does a mount whose disk is
 * full from then on, since the map is a cache and a full disk must stop no reader.
 *
 * LMDB believes what it reads. So a file is opened only if its seal fits (map_seal.c), or, where
 * there is none after a crash, if its pages and records are sound (store_check.c, map_check.c). A
 * damaged one is thrown away and made anew, unless the state says that it is the truth.
 */
#include "index/map_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "index/bind.h"
#include "index/state.h"

#define MAP_NAME "map.mdb" /* for messages */

void rvl_map_file_name(uint32_t serial, enum rvl_map_file which, char ret[RVL_MAP_FILE_NAME_SIZE])
{
	static const char *const names[RVL_MAP_FILE_N] = {
		[RVL_MAP_FILE_DATA] = "map.mdb",
		[RVL_MAP_FILE_SEAL] = "map.seal",
		[RVL_MAP_FILE_JOURNAL] = "assigned",
	};

	if (serial)
		snprintf(ret, RVL_MAP_FILE_NAME_SIZE, "%s.%u", names[which], serial);
	else
		snprintf(ret, RVL_MAP_FILE_NAME_SIZE, "%s", names[which]);
}

void rvl_map_remove(struct rvl_index *index, uint32_t serial)
{
	for (int which = 0; which < RVL_MAP_FILE_N; which++) {
		char name[RVL_MAP_FILE_NAME_SIZE];

		rvl_map_file_name(serial, which, name);
		(void)unlinkat(index->inodes_fd, name, 0);
	}
}

void rvl_map_remove_others(struct rvl_index *index)
{
	uint32_t serial = index->state->map_serial;

	rvl_map_remove(index, serial + 1);
	if (serial)
		rvl_map_remove(index, serial - 1);
}

void rvl_map_tell_lost(const struct rvl_index *index)
{
	_cleanup_free_ char *options = rvl_bind_options(index->stack);

	rvl_error(
		"workdir=%s: the map, which alone has the inode numbers from before a rebind, is damaged "
		"or lost. Untouched objects of lower layers get new numbers by: reverlayctl rebind %s",
		index->stack->work_path, options ?: "");
}

void rvl_map_tell_damaged(struct rvl_map *map, const char *of, uint64_t key)
{
	atomic_store_explicit(&map->is_damaged, true, memory_order_relaxed);
	rvl_count(damaged);
	rvl_warn_limited("inodes/%s: a damaged record of %s %llu; the next mount checks the map",
			 MAP_NAME, of, (unsigned long long)key);
}

static enum rvl_map_extent read_extent(struct rvl_store *store)
{
	MDB_val key = { .mv_data = (void *)RVL_STORE_META_COMPLETE,
			.mv_size = strlen(RVL_STORE_META_COMPLETE) };
	enum rvl_map_extent extent = RVL_MAP_PART;
	MDB_val value;
	MDB_txn *txn;

	if (rvl_store_read_begin(store, &txn))
		return extent;
	if (!mdb_get(txn, store->meta, &key, &value) && value.mv_size == 1 &&
	    *(const uint8_t *)value.mv_data <= RVL_MAP_COMPLETE_WITH_GAPS)
		extent = *(const uint8_t *)value.mv_data;
	rvl_store_read_end(store, txn);
	return extent;
}

void rvl_map_set_complete(struct rvl_map *map, bool has_gaps)
{
	map->has_gaps = has_gaps;
	map->is_complete = true;
	atomic_store_explicit(&rvl_counters.map_is_complete, 1, memory_order_relaxed);
}

static int open_file(struct rvl_index *index, bool is_create, struct rvl_store **ret)
{
	int flags = index->is_writable ? O_RDWR | (is_create ? O_CREAT : 0) : O_RDONLY;
	char name[RVL_MAP_FILE_NAME_SIZE];
	_cleanup_close_ int fd = -EBADF;
	struct rvl_store *store = NULL;
	struct stat st;
	bool is_sealed;
	int r;

	rvl_map_file_name(index->state->map_serial, RVL_MAP_FILE_DATA, name);
	fd = openat(index->inodes_fd, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	if (fd < 0)
		return errno == ELOOP || errno == EISDIR ? -EUCLEAN : -errno;
	if (fstat(fd, &st))
		return -errno;
	if (S_ISREG(st.st_mode) && st.st_size == 0 && !is_create)
		return -ENOENT; /* a crash between its making and its first page */
	is_sealed = !S_ISREG(st.st_mode) || st.st_size == 0;
	if (!is_sealed) {
		r = rvl_map_seal_check(index, fd);
		if (r < 0)
			return r;
		is_sealed = r > 0;
	}
	r = is_sealed ? 0 : rvl_store_check(fd);
	if (!r && index->is_writable)
		r = rvl_map_seal_break(index);
	r = r ?: rvl_store_open(fd, index->uuid, !index->is_writable, !index->is_volatile, &store);
	if (!r && !is_sealed)
		r = rvl_map_check(store);
	if (r) {
		rvl_store_close(store);
		return r;
	}
	*ret = store;
	return 0;
}

/* A mount may ask again with each handle. */
static void tell_newer(struct rvl_index *index)
{
	char name[RVL_MAP_FILE_NAME_SIZE], path[sizeof("inodes/") + RVL_MAP_FILE_NAME_SIZE];

	if (index->map->was_newer)
		return;
	index->map->was_newer = true;
	rvl_map_file_name(index->state->map_serial, RVL_MAP_FILE_DATA, name);
	snprintf(path, sizeof(path), "inodes/%s", name);
	rvl_index_tell_newer("workdir", index->stack->work_path, path);
}

/* -ENOENT: there is none, and is_create is not set. */
static int open_or_discard(struct rvl_index *index, bool is_create, struct rvl_store **ret)
{
	char name[RVL_MAP_FILE_NAME_SIZE];
	int r = open_file(index, is_create, ret);

	/* its tables were not made when it was, and there is no room for them now */
	if ((r == -ENOSPC || r == -EDQUOT) && !is_create)
		return -ENOENT;
	if (r == -EPROTONOSUPPORT)
		tell_newer(index);
	if (r != -EUCLEAN)
		return r;
	rvl_count(damaged);
	if (index->state->flags & RVL_STATE_MAP_IS_TRUTH)
		return r;
	if (!index->is_writable) {
		rvl_warn("inodes/%s is damaged and not used", MAP_NAME);
		return -ENOENT;
	}
	rvl_warn("inodes/%s is damaged or another overlay's: it is made anew", MAP_NAME);
	rvl_map_file_name(index->state->map_serial, RVL_MAP_FILE_DATA, name);
	if (unlinkat(index->inodes_fd, name, 0) &&
	    (errno != EISDIR || unlinkat(index->inodes_fd, name, AT_REMOVEDIR)))
		return -errno;
	r = rvl_map_seal_break(index);
	if (r)
		return r;
	index->map->was_discarded = true;
	return open_file(index, is_create, ret);
}

/* Rows go to memory; what was written to the file is still found. */
static int open_memory(struct rvl_index *index)
{
	struct rvl_map *map = index->map;
	struct rvl_store *store;
	int r = rvl_store_open_memory(index->uuid, &store);

	if (r)
		return r;
	if (map->store)
		map->below = map->store;
	map->is_in_memory = true;
	map->store = store;
	return 0;
}

static int ensure_locked(struct rvl_index *index, bool is_create)
{
	struct rvl_map *map = index->map;
	struct rvl_store *store = NULL;
	enum rvl_map_extent extent;
	int r = 0;

	if (index->is_persistent && index->is_writable && !map->store) {
		r = open_or_discard(index, is_create, &store);
		if (!r)
			map->store = store;
	} else if (index->is_persistent && !index->is_writable && !map->is_opened) {
		r = open_or_discard(index, false, &store);
		if (!r)
			map->below = store;
	}
	if (r && r != -ENOENT)
		return r;
	extent = store ? read_extent(store) : RVL_MAP_PART;
	if (extent)
		rvl_map_set_complete(map, extent == RVL_MAP_COMPLETE_WITH_GAPS);
	if (is_create && !map->store) {
		r = open_memory(index);
		if (r)
			return r;
	}
	atomic_store_explicit(&map->is_opened, true, memory_order_release);
	return 0;
}

int rvl_map_ensure(struct rvl_index *index, bool is_create)
{
	struct rvl_map *map = index->map;
	int r;

	if (atomic_load_explicit(&map->is_opened, memory_order_acquire) &&
	    (!is_create || map->store))
		return 0;
	pthread_mutex_lock(&map->open_lock);
	r = ensure_locked(index, is_create);
	pthread_mutex_unlock(&map->open_lock);
	return r;
}

void rvl_map_take_copy(struct rvl_map *map, struct rvl_store *store)
{
	enum rvl_map_extent extent = read_extent(store);

	map->below = store;
	map->is_opened = true;
	map->is_complete = false;
	if (extent)
		rvl_map_set_complete(map, extent == RVL_MAP_COMPLETE_WITH_GAPS);
}

int rvl_map_to_memory(struct rvl_index *index)
{
	struct rvl_map *map = index->map;
	int r = 0;

	pthread_mutex_lock(&map->open_lock);
	if (!map->is_in_memory)
		r = open_memory(index);
	pthread_mutex_unlock(&map->open_lock);
	if (!r)
		rvl_warn("inodes/%s: no room on the disk; it is kept in memory for this mount",
			 MAP_NAME);
	return r;
}

int rvl_map_open(struct rvl_index *index, struct rvl_map **ret)
{
	struct rvl_map *map = calloc(1, sizeof(*map));

	if (!map)
		return -ENOMEM;
	if (rvl_map_pending_init(&map->pending)) {
		free(map);
		return -ENOMEM;
	}
	pthread_mutex_init(&map->open_lock, NULL);
	pthread_mutex_init(&map->pending_lock, NULL);
	pthread_mutex_init(&map->flush_lock, NULL);
	pthread_mutex_init(&map->build_lock, NULL);
	*ret = map;
	return 0;
}

void rvl_map_free(struct rvl_map *map)
{
	if (!map)
		return;
	rvl_map_walk_free(map->walk);
	rvl_map_pending_release(&map->pending);
	rvl_map_pending_release(&map->flushing);
	rvl_store_close(map->store);
	rvl_store_close(map->below);
	pthread_mutex_destroy(&map->open_lock);
	pthread_mutex_destroy(&map->pending_lock);
	pthread_mutex_destroy(&map->flush_lock);
	pthread_mutex_destroy(&map->build_lock);
	free(map);
}

static int add_info(struct rvl_store *store, struct rvl_map_info *info)
{
	MDB_envinfo env;
	MDB_stat rows;
	MDB_txn *txn;
	int r;

	if (!store)
		return 0;
	r = rvl_store_read_begin(store, &txn);
	if (r)
		return r;
	r = rvl_store_errno(mdb_stat(txn, store->rows, &rows));
	r = r ?: rvl_store_errno(mdb_env_info(store->env, &env));
	rvl_store_read_end(store, txn);
	if (r)
		return r;
	info->n_names += rows.ms_entries;
	info->n_bytes += (env.me_last_pgno + 1) * rows.ms_psize;
	return 0;
}

int rvl_map_get_info(struct rvl_index *index, struct rvl_map_info *ret)
{
	struct rvl_map_info info = {};
	struct rvl_map *map = index->map;
	int r = rvl_map_flush(index);

	if (r == -ENOSPC || r == -EDQUOT)
		r = 0; /* those rows are not counted */
	r = r ?: rvl_map_ensure(index, false);
	r = r ?: add_info(map->below, &info);
	r = r ?: add_info(map->store, &info);
	if (r)
		return r;
	info.is_complete = map->is_complete;
	info.is_in_memory = map->is_in_memory;
	*ret = info;
	return 0;
}

bool rvl_map_is_complete(struct rvl_index *index)
{
	if (rvl_map_ensure(index, false))
		return false;
	return index->map->is_complete;
}

bool rvl_map_has_gaps(struct rvl_index *index)
{
	return rvl_map_is_complete(index) && index->map->has_gaps;
}
