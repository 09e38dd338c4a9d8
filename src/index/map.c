// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The map: rows number -> places, in LMDB and in memory before they get there. A row of a place
 * that is known replaces the known one if it has a generation.
 */
#include "index/map_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/number.h"
#include "index/state.h"
#include "layer/path.h"

#define MAP_NAME "map.mdb" /* for messages */
#define PENDING_FLUSH 4096 /* rows put one by one are written when there are so many */
#define PENDING_MAX (1 << 20) /* more are refused: the disk is full */
#define BUCKETS_MIN 1024

unsigned rvl_map_row_encode(const struct rvl_map_row *row, uint8_t buf[RVL_MAP_ROW_MAX])
{
	size_t name_len = strnlen(row->at.name, NAME_MAX);

	rvl_put_le64(buf, row->at.parent);
	buf[8] = (uint8_t)name_len;
	memcpy(buf + 9, row->at.name, name_len);
	rvl_put_le32(buf + 9 + name_len, row->generation);
	buf[9 + name_len + 4] = row->type;
	return (unsigned)(9 + name_len + RVL_MAP_ROW_TAIL);
}

int rvl_map_row_decode(const void *buf, size_t len, struct rvl_map_row *ret)
{
	const uint8_t *bytes = buf;
	size_t name_len;

	if (len < 9 + 1 + RVL_MAP_ROW_TAIL)
		return -EUCLEAN;
	name_len = bytes[8];
	if (len != 9 + name_len + RVL_MAP_ROW_TAIL)
		return -EUCLEAN;
	ret->at.parent = rvl_get_le64(bytes);
	memcpy(ret->at.name, bytes + 9, name_len);
	ret->at.name[name_len] = 0;
	ret->generation = rvl_get_le32(bytes + 9 + name_len);
	ret->type = bytes[9 + name_len + 4];
	if (!rvl_number_is_valid(ret->at.parent) || strlen(ret->at.name) != name_len ||
	    !rvl_name_is_valid(ret->at.name))
		return -EUCLEAN;
	return 0;
}

/* Rows in memory. */

static uint32_t *bucket_of(const struct rvl_map_pending *pending, uint64_t number)
{
	return &pending->buckets[rvl_hash(&number, sizeof(number)) & (pending->n_buckets - 1)];
}

static int grow_rows(struct rvl_map_pending *pending)
{
	size_t size = pending->size ? pending->size * 2 : BUCKETS_MIN;
	struct rvl_map_pending_row *rows;

	if (pending->n < pending->size)
		return 0;
	rows = reallocarray(pending->rows, size, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	pending->rows = rows;
	if (pending->n_buckets) {
		uint32_t *buckets = calloc(size, sizeof(*buckets));

		if (!buckets)
			return -ENOMEM;
		free(pending->buckets);
		pending->buckets = buckets;
		pending->n_buckets = size;
		for (size_t i = 0; i < pending->n; i++) {
			uint32_t *bucket = bucket_of(pending, rows[i].number);

			rows[i].next = *bucket;
			*bucket = (uint32_t)i + 1;
		}
	}
	pending->size = size;
	return 0;
}

int rvl_map_pending_add(struct rvl_map_pending *pending, uint64_t number,
			const struct rvl_map_row *from)
{
	size_t name_len = strnlen(from->at.name, NAME_MAX);
	struct rvl_map_pending_row *row;
	int r = grow_rows(pending);

	if (r)
		return r;
	if (pending->text_len + name_len > pending->text_size) {
		size_t size = pending->text_size ? pending->text_size * 2 : 65536;
		char *text = size > UINT32_MAX ? NULL : realloc(pending->text, size);

		if (!text)
			return -ENOMEM;
		pending->text = text;
		pending->text_size = size;
	}
	row = &pending->rows[pending->n];
	*row = (struct rvl_map_pending_row){ .number = number,
					     .parent = from->at.parent,
					     .generation = from->generation,
					     .type = from->type,
					     .name = (uint32_t)pending->text_len,
					     .name_len = (uint8_t)name_len };
	memcpy(pending->text + pending->text_len, from->at.name, name_len);
	pending->text_len += name_len;
	pending->n++;
	if (pending->n_buckets) {
		uint32_t *bucket = bucket_of(pending, number);

		row->next = *bucket;
		*bucket = (uint32_t)pending->n;
	}
	return 0;
}

void rvl_map_pending_release(struct rvl_map_pending *pending)
{
	free(pending->rows);
	free(pending->buckets);
	free(pending->text);
	*pending = (struct rvl_map_pending){ 0 };
}

int rvl_map_pending_init(struct rvl_map_pending *pending)
{
	*pending = (struct rvl_map_pending){ .n_buckets = BUCKETS_MIN };
	pending->buckets = calloc(BUCKETS_MIN, sizeof(*pending->buckets));
	return pending->buckets ? 0 : -ENOMEM;
}

static void row_of_pending(const struct rvl_map_pending *pending,
			   const struct rvl_map_pending_row *row, struct rvl_map_row *ret)
{
	ret->generation = row->generation;
	ret->type = row->type;
	ret->at.parent = row->parent;
	memcpy(ret->at.name, pending->text + row->name, row->name_len);
	ret->at.name[row->name_len] = '\0';
}

static struct rvl_map_pending_row *pending_find(const struct rvl_map_pending *pending,
						uint64_t number, const struct rvl_name_at *at)
{
	size_t name_len = strlen(at->name);

	if (!pending->n)
		return NULL;
	for (uint32_t i = *bucket_of(pending, number); i; i = pending->rows[i - 1].next) {
		struct rvl_map_pending_row *row = &pending->rows[i - 1];

		if (row->number == number && row->parent == at->parent &&
		    row->name_len == name_len &&
		    !memcmp(pending->text + row->name, at->name, name_len))
			return row;
	}
	return NULL;
}

/* Writing. */

static int put_row(struct rvl_store *store, MDB_cursor *cursor, uint64_t number,
		   const struct rvl_map_row *row)
{
	uint8_t buf[RVL_MAP_ROW_MAX];
	unsigned len = rvl_map_row_encode(row, buf);
	unsigned place_len = len - RVL_MAP_ROW_TAIL;
	MDB_val key = { .mv_data = &number, .mv_size = sizeof(number) };
	MDB_val value = { .mv_data = buf, .mv_size = place_len };
	int rc = mdb_cursor_get(cursor, &key, &value, MDB_GET_BOTH_RANGE);

	if (rc && rc != MDB_NOTFOUND)
		return rvl_store_errno(rc);
	if (!rc && value.mv_size == len && !memcmp(value.mv_data, buf, place_len)) {
		if (!row->generation || !memcmp((const uint8_t *)value.mv_data + place_len,
						buf + place_len, RVL_MAP_ROW_TAIL))
			return 0;
		rc = mdb_cursor_del(cursor, 0);
		if (rc)
			return rvl_store_errno(rc);
	}
	key = (MDB_val){ .mv_data = &number, .mv_size = sizeof(number) };
	value = (MDB_val){ .mv_data = buf, .mv_size = len };
	rc = mdb_cursor_put(cursor, &key, &value, 0);
	return rc == MDB_KEYEXIST ? 0 : rvl_store_errno(rc);
}

static int compare_rows(const void *pa, const void *pb)
{
	const struct rvl_map_pending_row *a = pa, *b = pb;

	return a->number < b->number ? -1 : a->number > b->number;
}

static int put_extent(struct rvl_store *store, MDB_txn *txn, enum rvl_map_extent extent)
{
	uint8_t byte = (uint8_t)extent;
	MDB_val key = { .mv_data = (void *)RVL_STORE_META_COMPLETE,
			.mv_size = strlen(RVL_STORE_META_COMPLETE) };
	MDB_val value = { .mv_data = &byte, .mv_size = 1 };

	return rvl_store_errno(mdb_put(txn, store->meta, &key, &value, 0));
}

/* Sorts the rows: those with buckets cannot be found afterwards by other threads without a lock,
 * so a copy is sorted. */
int rvl_map_pending_write(struct rvl_store *store, struct rvl_map_pending *pending,
			  enum rvl_map_extent extent)
{
	_cleanup_free_ struct rvl_map_pending_row *sorted = NULL;
	const struct rvl_map_pending_row *rows = pending->rows;
	MDB_cursor *cursor;
	MDB_txn *txn;
	int r;

	if (pending->n_buckets) {
		sorted = malloc(pending->n * sizeof(*sorted) + 1);
		if (!sorted)
			return -ENOMEM;
		memcpy(sorted, pending->rows, pending->n * sizeof(*sorted));
		rows = sorted;
	}
	if (pending->n)
		qsort((void *)rows, pending->n, sizeof(*rows), compare_rows);
	r = rvl_store_write_begin(store, &txn);
	if (r)
		return r;
	r = rvl_store_errno(mdb_cursor_open(txn, store->rows, &cursor));
	if (!r) {
		for (size_t i = 0; !r && i < pending->n; i++) {
			struct rvl_map_row row;

			row_of_pending(pending, &rows[i], &row);
			r = put_row(store, cursor, rows[i].number, &row);
		}
		mdb_cursor_close(cursor);
	}
	if (!r && extent)
		r = put_extent(store, txn, extent);
	if (r) {
		rvl_store_write_end(store, txn, false);
		return r;
	}
	return rvl_store_write_end(store, txn, true);
}

/* Rows one by one. */

static int put_pending(struct rvl_map *map, uint64_t number, const struct rvl_map_row *row,
		       size_t *ret_n)
{
	struct rvl_map_pending_row *known;
	int r = 0;

	pthread_mutex_lock(&map->pending_lock);
	known = pending_find(&map->pending, number, &row->at);
	if (known) {
		if (row->generation) {
			known->generation = row->generation;
			known->type = row->type;
		}
	} else if (map->pending.n >= PENDING_MAX) {
		r = -ENOSPC;
	} else {
		r = rvl_map_pending_add(&map->pending, number, row);
	}
	*ret_n = map->pending.n;
	pthread_mutex_unlock(&map->pending_lock);
	return r;
}

int rvl_map_put(struct rvl_index *index, uint64_t number, const struct rvl_map_row *row)
{
	size_t n;
	int r;

	if (!rvl_number_is_valid(number) || !rvl_number_is_valid(row->at.parent) ||
	    !rvl_name_is_valid(row->at.name))
		return -EINVAL;
	r = put_pending(index->map, number, row, &n);
	if (r || n < PENDING_FLUSH || n % PENDING_FLUSH)
		return r;
	r = rvl_map_flush(index);
	if (r)
		rvl_warn_limited("inodes/%s cannot be written: %s", MAP_NAME, strerror(-r));
	return 0; /* it is in memory, and found there */
}

/* Rows that could not be written go back to those that wait. */
static void unflush(struct rvl_map *map)
{
	for (size_t i = 0; i < map->flushing.n; i++) {
		uint64_t number = map->flushing.rows[i].number;
		struct rvl_map_row row;

		row_of_pending(&map->flushing, &map->flushing.rows[i], &row);
		if (!pending_find(&map->pending, number, &row.at) &&
		    rvl_map_pending_add(&map->pending, number, &row))
			break; /* no memory: the map is a cache, a row less */
	}
	rvl_map_pending_release(&map->flushing);
}

static int begin_flush(struct rvl_map *map)
{
	struct rvl_map_pending next;
	int r = rvl_map_pending_init(&next);

	if (r)
		return r;
	pthread_mutex_lock(&map->pending_lock);
	map->flushing = map->pending;
	map->pending = next;
	pthread_mutex_unlock(&map->pending_lock);
	return 0;
}

int rvl_map_flush(struct rvl_index *index)
{
	struct rvl_map *map = index->map;
	bool is_empty;
	int r = 0;

	pthread_mutex_lock(&map->flush_lock);
	pthread_mutex_lock(&map->pending_lock);
	is_empty = !map->pending.n;
	pthread_mutex_unlock(&map->pending_lock);
	if (!is_empty) {
		r = rvl_map_ensure(index, true);
		r = r ?: begin_flush(map);
		if (!r) {
			r = rvl_map_pending_write(map->store, &map->flushing, RVL_MAP_PART);
			pthread_mutex_lock(&map->pending_lock);
			if (r)
				unflush(map);
			rvl_map_pending_release(&map->flushing);
			pthread_mutex_unlock(&map->pending_lock);
		}
	}
	if (!r && map->store)
		r = rvl_store_sync(map->store);
	pthread_mutex_unlock(&map->flush_lock);
	return r;
}

/* Reading: rows are copied out, so that the callback runs without a lock. */

struct found_rows {
	uint8_t *v; /* owned, or small */
	size_t len, size;
	unsigned n;
	uint8_t small[2 * RVL_MAP_ROW_MAX];
	struct rvl_map_row row; /* the one that is given */
};

/* Each row: its length (2 bytes), then its value as in LMDB. */
static int found_add(struct found_rows *found, const void *value, size_t len)
{
	if (len > RVL_MAP_ROW_MAX)
		return -EUCLEAN;
	if (found->len + 2 + len > found->size) {
		size_t size = found->size * 4;
		uint8_t *v = malloc(size);

		if (!v)
			return -ENOMEM;
		memcpy(v, found->v, found->len);
		if (found->v != found->small)
			free(found->v);
		found->v = v;
		found->size = size;
	}
	rvl_put_le16(found->v + found->len, (uint16_t)len);
	memcpy(found->v + found->len + 2, value, len);
	found->len += 2 + len;
	found->n++;
	return 0;
}

static int find_pending(const struct rvl_map_pending *pending, uint64_t number,
			struct found_rows *found)
{
	int r = 0;

	if (!pending->n)
		return 0;
	for (uint32_t i = *bucket_of(pending, number); i && !r; i = pending->rows[i - 1].next) {
		uint8_t buf[RVL_MAP_ROW_MAX];
		struct rvl_map_row row;

		if (pending->rows[i - 1].number != number)
			continue;
		row_of_pending(pending, &pending->rows[i - 1], &row);
		r = found_add(found, buf, rvl_map_row_encode(&row, buf));
	}
	return r;
}

static int find_stored(struct rvl_store *store, uint64_t number, struct found_rows *found)
{
	MDB_val key = { .mv_data = &number, .mv_size = sizeof(number) }, value;
	MDB_cursor *cursor;
	MDB_txn *txn;
	int rc, r;

	if (!store)
		return 0;
	r = rvl_store_read_begin(store, &txn);
	if (r)
		return r;
	rc = mdb_cursor_open(txn, store->rows, &cursor);
	if (!rc) {
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET);
		for (unsigned i = 0; !rc && !r && i < RVL_MAP_ROWS_MAX; i++) {
			r = found_add(found, value.mv_data, value.mv_size);
			rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT_DUP);
		}
		mdb_cursor_close(cursor);
	}
	rvl_store_read_end(store, txn);
	return r ?: rc == MDB_NOTFOUND ? 0 : rvl_store_errno(rc);
}

static int find_all(struct rvl_index *index, uint64_t number, struct found_rows *found)
{
	struct rvl_map *map = index->map;
	int r = rvl_map_ensure(index, false);

	if (r)
		return r;
	pthread_mutex_lock(&map->pending_lock);
	r = find_pending(&map->pending, number, found);
	r = r ?: find_pending(&map->flushing, number, found);
	pthread_mutex_unlock(&map->pending_lock);
	/* in this order: the file goes from store to below when the disk is full */
	r = r ?: find_stored(map->store, number, found);
	return r ?: find_stored(map->below, number, found);
}

/* Has a row before this one, of the same place, been given already? Only rows still in memory make
 * such. */
static bool is_repeated(const struct found_rows *found, size_t start)
{
	const uint8_t *row = found->v + start;
	size_t len = rvl_get_le16(row);

	for (size_t at = 0; at < start; at += 2 + rvl_get_le16(found->v + at))
		if (rvl_get_le16(found->v + at) == len &&
		    !memcmp(found->v + at + 2, row + 2, len - RVL_MAP_ROW_TAIL))
			return true;
	return false;
}

#define REPEATS_CHECKED_MAX 64

int rvl_map_get(struct rvl_index *index, uint64_t number, rvl_map_row_fn *fn, void *arg)
{
	/* not on the stack: fn may ask for other numbers, many levels deep */
	_cleanup_free_ struct found_rows *found = calloc(1, sizeof(*found));
	int r;

	if (!found)
		return -ENOMEM;
	found->v = found->small;
	found->size = sizeof(found->small);
	r = find_all(index, number, found);
	if (!r && !found->n)
		r = -ENOENT;
	for (size_t at = 0; !r && at < found->len; at += 2 + rvl_get_le16(found->v + at)) {
		r = rvl_map_row_decode(found->v + at + 2, rvl_get_le16(found->v + at), &found->row);
		if (r)
			rvl_map_tell_damaged(index->map, "number", number);
		else if (found->n > REPEATS_CHECKED_MAX || !is_repeated(found, at))
			r = fn(arg, &found->row);
	}
	if (found->v != found->small)
		free(found->v);
	return r;
}
