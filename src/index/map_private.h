/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What lies under map.h: the map's files and their seal, rows on their way to LMDB, the walk. For the
 * files map*.c, for real.c, whose tables lie in the same LMDB file, and for those that make, check
 * or retire a map as a whole. Private to src/index.
 */
#ifndef RVL_INDEX_MAP_PRIVATE_H
#define RVL_INDEX_MAP_PRIVATE_H

#include <pthread.h>

#include "index/fsck.h"
#include "index/map.h"
#include "index/store.h"

struct rvl_map_walk;

/* Remove those of one serial. Best effort. */
void rvl_map_remove(struct rvl_index *index, uint32_t serial);
/* Remove what a rebind replaced, or began and did not end. Best effort. */
void rvl_map_remove_others(struct rvl_index *index);

struct rvl_map_pending_row {
	uint64_t number, parent;
	uint32_t generation;
	uint32_t next; /* index + 1 of the next row in the bucket */
	uint32_t name; /* start in text */
	uint8_t name_len, type;
};

/* Rows that are not in LMDB yet. */
struct rvl_map_pending {
	struct rvl_map_pending_row *rows; /* owned */
	uint32_t *buckets; /* owned; index + 1 of the first row */
	size_t n, size;
	size_t n_buckets; /* 0: rows are only gathered, not to be found */
	char *text; /* owned; the names */
	size_t text_len, text_size;
};

struct rvl_map {
	pthread_mutex_t open_lock; /* the opening of the stores */
	_Atomic bool is_opened;
	_Atomic bool is_complete, has_gaps;
	bool was_discarded; /* the file was damaged and made anew */
	bool was_newer; /* it is of a newer version, which was said */
	_Atomic bool is_damaged; /* found while it is in use: it gets no seal, so the next open checks it */
	struct rvl_store
		*_Atomic store; /* owned; where rows go: file or memory. NULL until it is needed */
	struct rvl_store
		*_Atomic below; /* owned or NULL; the file, asked too where rows go to memory */

	_Atomic bool is_in_memory; /* store is */

	pthread_mutex_t pending_lock; /* guards the next two */
	struct rvl_map_pending pending;
	struct rvl_map_pending flushing; /* on their way to LMDB, still to be found */
	pthread_mutex_t flush_lock; /* one flush at a time */

	pthread_mutex_t build_lock; /* one walk at a time; guards walk */
	struct rvl_map_walk *walk; /* owned; a walk that was stopped */
};

int rvl_map_open(struct rvl_index *index, struct rvl_map **ret);
/* Does not flush. Accepts NULL. */
void rvl_map_free(struct rvl_map *map);

/* Log that the map of a rebind is not there, and the command that helps. */
void rvl_map_tell_lost(const struct rvl_index *index);

/* A store to be read instead of the file (for a tool, beside a server); taken over. */
void rvl_map_take_copy(struct rvl_map *map, struct rvl_store *store);
/* Open what there is; is_create: make it where there is none. After 0 map->store may still be NULL
 * without is_create. */
int rvl_map_ensure(struct rvl_index *index, bool is_create);

/* A record makes no sense: count it, say so, and have the file checked. of: what the key is. */
void rvl_map_tell_damaged(struct rvl_map *map, const char *of, uint64_t key);

void rvl_map_set_complete(struct rvl_map *map, bool has_gaps);
/* The disk is full: rows go to memory for the rest of the mount. */
int rvl_map_to_memory(struct rvl_index *index);

/* One encode, one decode function of a row's value: parent (8), length of the name (1), name,
 * then what is known of the object: generation (4), type (1). */
#define RVL_MAP_ROW_TAIL 5
#define RVL_MAP_ROW_MAX (8 + 1 + NAME_MAX + RVL_MAP_ROW_TAIL)
unsigned rvl_map_row_encode(const struct rvl_map_row *row, uint8_t buf[RVL_MAP_ROW_MAX]);
int rvl_map_row_decode(const void *buf, size_t len, struct rvl_map_row *ret); /* -EUCLEAN */

/* With rows that can be found; zeroed, they are only gathered. -ENOMEM. */
int rvl_map_pending_init(struct rvl_map_pending *pending);
/* Add a row at the end; and forget all rows. */
int rvl_map_pending_add(struct rvl_map_pending *pending, uint64_t number,
			const struct rvl_map_row *row);
void rvl_map_pending_release(struct rvl_map_pending *pending);
/* What `complete` in the file says. */
enum rvl_map_extent {
	RVL_MAP_PART = 0,
	RVL_MAP_COMPLETE = 1,
	RVL_MAP_COMPLETE_WITH_GAPS = 2,
};
/*
 * All rows to LMDB in one transaction, in the order of their numbers; what the map is then is
 * marked in the same one, if it is more than a part.
 */
int rvl_map_pending_write(struct rvl_store *store, struct rvl_map_pending *pending,
			  enum rvl_map_extent extent);

/* After the last write of a mount: sync map.mdb and seal it. */
int rvl_map_seal(struct rvl_index *index);
/* Does the file fit its seal? 1; 0: there is none that is sound; -EUCLEAN: it does not. */
int rvl_map_seal_check(struct rvl_index *index, int fd);
/* Before it is written to, or thrown away; durable. */
int rvl_map_seal_break(struct rvl_index *index);

/* Are the records of a store sound that has no seal? Reads all. -EUCLEAN if not. */
int rvl_map_check(struct rvl_store *store);

void rvl_map_walk_free(struct rvl_map_walk *walk);

/* A name that the walk has come to. */
struct rvl_map_visit {
	struct rvl_index *index; /* borrowed, as all in here */
	uint64_t parent;
	const char *name;
	uint8_t type; /* DT_* */
	const struct rvl_layer *layer; /* of the topmost object */
	const char *dir_path; /* of the directory that it is in there */
	int dirfd; /* the object is beneath it at path */
	const char *path;
	const struct statx *stx; /* TYPE, INO, BTIME, NLINK */
};
/* The number that the name has. 1: it has none; a directory is then not entered. */
typedef int rvl_map_visit_fn(void *arg, const struct rvl_map_visit *visit, struct rvl_id *ret);
/* Walk the merged lower view as rvl_map_build does, for visit alone: no row is written. */
int rvl_map_walk(struct rvl_index *index, rvl_map_visit_fn *visit, void *arg);

#endif
