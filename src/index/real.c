// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tables real object <-> number: records in memory, their journal, and LMDB behind them.
 *
 * Order of a record: state flag HAS_REALS durable (once in the life of an overlay), journal,
 * memory. Order of a flush: LMDB with fsync, then the journal is cut, then memory is emptied. So
 * after a crash a record is in the journal, in LMDB, or in both, which is the same. A torn end of
 * the journal was never shown: write(2) had not returned. Of two records of one real object the later
 * one counts.
 */
#include "index/real.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/counters.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/map_private.h"
#include "index/number.h"
#include "index/state.h"

#define JOURNAL_MAX_BYTES (64 << 20) /* more than pending records can ever make */

struct disk_record {
	uint32_t checksum; /* of what follows */
	uint16_t instance;
	uint16_t zero;
	uint64_t ino;
	uint64_t number;
	uint32_t generation;
	uint32_t zero2;
};
static_assert(sizeof(struct disk_record) == RVL_REAL_RECORD_SIZE, "disk_record");

struct record {
	struct rvl_real_id real;
	struct rvl_id id;
	uint32_t next_real, next_number; /* index + 1 in the chains */
};

struct rvl_reals {
	pthread_rwlock_t lock; /* guards all below */
	_Atomic bool is_empty; /* only ever true -> false */
	struct record *records; /* owned; not in LMDB yet */
	size_t n, size;
	uint32_t *by_real, *by_number; /* owned; hash chains, n_buckets each */
	size_t n_buckets;
	int journal_fd; /* owned; -EBADF until the first record, and without workdir */
	uint64_t journal_size;
	bool is_memory_only; /* LMDB and journal are not written */
	bool has_warned;
};

void rvl_real_record_encode(const struct rvl_real_id *real, const struct rvl_id *id,
			    uint8_t buf[RVL_REAL_RECORD_SIZE])
{
	struct disk_record disk = {
		.instance = htole16(real->instance),
		.ino = htole64(real->ino),
		.number = htole64(id->number),
		.generation = htole32(id->generation),
	};

	memcpy(buf, &disk, sizeof(disk));
	rvl_put_le32(buf, rvl_checksum(buf + 4, sizeof(disk) - 4));
}

int rvl_real_record_decode(const void *buf, size_t len, struct rvl_real_id *ret,
			   struct rvl_id *ret_id)
{
	struct disk_record disk;

	if (len != sizeof(disk))
		return -EUCLEAN;
	memcpy(&disk, buf, sizeof(disk));
	if (le32toh(disk.checksum) != rvl_checksum((const uint8_t *)buf + 4, sizeof(disk) - 4) ||
	    le16toh(disk.instance) > RVL_INSTANCE_MAX || disk.zero || disk.zero2 ||
	    !rvl_number_is_valid(le64toh(disk.number)) || le64toh(disk.number) == RVL_NUMBER_ROOT)
		return -EUCLEAN;
	ret->instance = le16toh(disk.instance);
	ret->ino = le64toh(disk.ino);
	ret_id->number = le64toh(disk.number);
	ret_id->generation = le32toh(disk.generation);
	return 0;
}

static void real_key(const struct rvl_real_id *real, uint8_t key[RVL_REAL_KEY_SIZE])
{
	uint16_t instance = htobe16(real->instance);
	uint64_t ino = htobe64(real->ino);

	memcpy(key, &instance, sizeof(instance));
	memcpy(key + sizeof(instance), &ino, sizeof(ino));
}

static int real_from_key(const void *key, size_t len, struct rvl_real_id *ret)
{
	uint16_t instance;
	uint64_t ino;

	if (len != RVL_REAL_KEY_SIZE)
		return -EUCLEAN;
	memcpy(&instance, key, sizeof(instance));
	memcpy(&ino, (const uint8_t *)key + sizeof(instance), sizeof(ino));
	ret->instance = be16toh(instance);
	ret->ino = be64toh(ino);
	return ret->instance > RVL_INSTANCE_MAX ? -EUCLEAN : 0;
}

static size_t hash_real(const struct rvl_real_id *real)
{
	uint8_t key[RVL_REAL_KEY_SIZE];

	real_key(real, key);
	return rvl_hash(key, sizeof(key));
}

static size_t hash_number(uint64_t number)
{
	return rvl_hash(&number, sizeof(number));
}

static void chain(struct rvl_reals *reals, size_t i)
{
	struct record *record = &reals->records[i];
	uint32_t *real_bucket = &reals->by_real[hash_real(&record->real) & (reals->n_buckets - 1)];
	uint32_t *number_bucket =
		&reals->by_number[hash_number(record->id.number) & (reals->n_buckets - 1)];

	record->next_real = *real_bucket;
	record->next_number = *number_bucket;
	*real_bucket = *number_bucket = (uint32_t)i + 1;
}

static int grow(struct rvl_reals *reals)
{
	size_t size = reals->size ? reals->size * 2 : 256;
	struct record *records;
	uint32_t *buckets;

	if (reals->n < reals->size)
		return 0;
	if (size > UINT32_MAX / 2)
		return -ENOMEM;
	records = reallocarray(reals->records, size, sizeof(*records));
	if (!records)
		return -ENOMEM;
	reals->records = records;
	buckets = calloc(size * 2, sizeof(*buckets));
	if (!buckets)
		return -ENOMEM;
	free(reals->by_real);
	reals->by_real = buckets;
	reals->by_number = buckets + size;
	reals->n_buckets = reals->size = size;
	for (size_t i = 0; i < reals->n; i++)
		chain(reals, i);
	return 0;
}

/* The latest one. */
static const struct record *find_real(const struct rvl_reals *reals, const struct rvl_real_id *real)
{
	if (!reals->n)
		return NULL;
	for (uint32_t i = reals->by_real[hash_real(real) & (reals->n_buckets - 1)]; i;
	     i = reals->records[i - 1].next_real) {
		const struct record *record = &reals->records[i - 1];

		if (record->real.ino == real->ino && record->real.instance == real->instance)
			return record;
	}
	return NULL;
}

static const struct record *find_number(const struct rvl_reals *reals, uint64_t number)
{
	if (!reals->n)
		return NULL;
	for (uint32_t i = reals->by_number[hash_number(number) & (reals->n_buckets - 1)]; i;
	     i = reals->records[i - 1].next_number)
		if (reals->records[i - 1].id.number == number)
			return &reals->records[i - 1];
	return NULL;
}

static int add(struct rvl_reals *reals, const struct rvl_real_id *real, const struct rvl_id *id)
{
	int r = grow(reals);

	if (r)
		return r;
	reals->records[reals->n] = (struct record){ .real = *real, .id = *id };
	chain(reals, reals->n++);
	return 0;
}

/* One value of a table of LMDB, from the store or the one below it. Copies at most `size` bytes;
 * returns the length. */
static ssize_t store_get(struct rvl_index *index, bool is_by_real, const void *key, size_t key_len,
			 void *buf, size_t size)
{
	struct rvl_store *stores[2];
	int r = rvl_map_ensure(index, false);

	if (r)
		return r;
	stores[0] = index->map->store;
	stores[1] = index->map->below;
	for (int i = 0; i < 2; i++) {
		MDB_val k = { .mv_data = (void *)key, .mv_size = key_len }, value;
		MDB_txn *txn;

		if (!stores[i])
			continue;
		r = rvl_store_read_begin(stores[i], &txn);
		if (r)
			return r;
		r = rvl_store_errno(mdb_get(txn, is_by_real ? stores[i]->reals : stores[i]->owners,
					    &k, &value));
		if (!r && value.mv_size <= size)
			memcpy(buf, value.mv_data, value.mv_size);
		rvl_store_read_end(stores[i], txn);
		if (!r)
			return value.mv_size <= size ? (ssize_t)value.mv_size : -EUCLEAN;
		if (r != -ENOENT)
			return r;
	}
	return -ENOENT;
}

static bool is_in_store(const struct rvl_index *index)
{
	return index->is_persistent;
}

static int number_locked(struct rvl_index *index, const struct rvl_real_id *real,
			 struct rvl_id *ret)
{
	const struct record *record = find_real(index->reals, real);
	uint8_t key[RVL_REAL_KEY_SIZE], value[RVL_REAL_VALUE_SIZE];
	ssize_t n;

	if (record) {
		*ret = record->id;
		return 0;
	}
	if (!is_in_store(index))
		return -ENOENT;
	real_key(real, key);
	n = store_get(index, true, key, sizeof(key), value, sizeof(value));
	if (n < 0)
		return (int)n;
	if (n != sizeof(value) || !rvl_number_is_valid(rvl_get_le64(value)))
		return -EUCLEAN;
	ret->number = rvl_get_le64(value);
	ret->generation = rvl_get_le32(value + 8);
	return 0;
}

static int owner_locked(struct rvl_index *index, uint64_t number, struct rvl_real_id *ret)
{
	const struct record *record = find_number(index->reals, number);
	uint8_t value[RVL_REAL_KEY_SIZE];
	ssize_t n;

	if (record) {
		*ret = record->real;
		return 0;
	}
	if (!is_in_store(index))
		return -ENOENT;
	n = store_get(index, false, &number, sizeof(number), value, sizeof(value));
	return n < 0 ? (int)n : real_from_key(value, (size_t)n, ret);
}

bool rvl_reals_is_empty(const struct rvl_reals *reals)
{
	return atomic_load_explicit(&reals->is_empty, memory_order_acquire);
}

int rvl_real_number(struct rvl_index *index, const struct rvl_real_id *real, struct rvl_id *ret)
{
	int r;

	if (rvl_reals_is_empty(index->reals))
		return -ENOENT;
	pthread_rwlock_rdlock(&index->reals->lock);
	r = number_locked(index, real, ret);
	pthread_rwlock_unlock(&index->reals->lock);
	if (r == -EUCLEAN)
		rvl_map_tell_damaged(index->map, "real inode", real->ino);
	return r;
}

int rvl_real_owner(struct rvl_index *index, uint64_t number, struct rvl_real_id *ret)
{
	int r;

	if (rvl_reals_is_empty(index->reals))
		return -ENOENT;
	pthread_rwlock_rdlock(&index->reals->lock);
	r = owner_locked(index, number, ret);
	pthread_rwlock_unlock(&index->reals->lock);
	if (r == -EUCLEAN)
		rvl_map_tell_damaged(index->map, "number", number);
	return r;
}

bool rvl_real_is_pending(struct rvl_index *index, const struct rvl_real_id *real)
{
	bool is_pending;

	pthread_rwlock_rdlock(&index->reals->lock);
	is_pending = find_real(index->reals, real) != NULL;
	pthread_rwlock_unlock(&index->reals->lock);
	return is_pending;
}

static int open_journal(struct rvl_index *index, int flags)
{
	char name[RVL_MAP_FILE_NAME_SIZE];
	int fd;

	rvl_map_file_name(index->state->map_serial, RVL_MAP_FILE_JOURNAL, name);
	fd = openat(index->inodes_fd, name, flags | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK,
		    0600);

	return fd < 0 ? -errno : fd;
}

/* With the first record of an overlay, or in its map: every mount looks at them from now on. */
static int mark_state(struct rvl_index *index, uint32_t flags)
{
	int r = 0;

	pthread_mutex_lock(&index->state->lock);
	if ((index->state->flags & flags) != flags) {
		uint32_t old = index->state->flags;

		index->state->flags |= flags;
		r = rvl_index_save_state(index);
		if (r)
			index->state->flags = old;
	}
	pthread_mutex_unlock(&index->state->lock);
	return r;
}

static int append_journal(struct rvl_index *index, const struct rvl_real_id *real,
			  const struct rvl_id *id)
{
	struct rvl_reals *reals = index->reals;
	uint8_t buf[RVL_REAL_RECORD_SIZE];
	ssize_t n;

	if (reals->journal_fd < 0) {
		int fd, r = mark_state(index, RVL_STATE_HAS_REALS);

		if (r)
			return r;
		fd = open_journal(index, O_WRONLY | O_CREAT);
		if (fd < 0)
			return fd;
		reals->journal_fd = fd;
	}
	rvl_real_record_encode(real, id, buf);
	n = write(reals->journal_fd, buf, sizeof(buf));
	if (n == sizeof(buf)) {
		reals->journal_size += sizeof(buf);
		return 0;
	}
	if (n < 0)
		return -errno;
	/* Half a record would hide those after it. */
	if (ftruncate(reals->journal_fd, (off_t)reals->journal_size))
		return -errno;
	return -ENOSPC;
}

/* The number that a record had before, if it is another one, has no owner any more. */
static int drop_former(struct rvl_store *store, MDB_txn *txn, MDB_val *key, uint64_t number)
{
	MDB_val value;
	uint64_t former;
	int rc = mdb_get(txn, store->reals, key, &value);

	if (rc || value.mv_size != RVL_REAL_VALUE_SIZE)
		return rc == MDB_NOTFOUND ? 0 : rc;
	former = rvl_get_le64(value.mv_data);
	if (former == number)
		return 0;
	value = (MDB_val){ .mv_data = &former, .mv_size = sizeof(former) };
	rc = mdb_del(txn, store->owners, &value, NULL);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int put_all(struct rvl_reals *reals, struct rvl_store *store, MDB_txn *txn)
{
	for (size_t i = 0; i < reals->n; i++) {
		const struct record *record = &reals->records[i];
		uint8_t key[RVL_REAL_KEY_SIZE], id[RVL_REAL_VALUE_SIZE];
		uint64_t native = record->id.number;
		MDB_val k = { .mv_data = key, .mv_size = sizeof(key) };
		MDB_val v = { .mv_data = id, .mv_size = sizeof(id) };
		int rc;

		real_key(&record->real, key);
		rvl_put_le64(id, record->id.number);
		rvl_put_le32(id + 8, record->id.generation);
		rc = drop_former(store, txn, &k, record->id.number);
		rc = rc ?: mdb_put(txn, store->reals, &k, &v, 0);
		if (!rc) {
			k = (MDB_val){ .mv_data = &native, .mv_size = sizeof(native) };
			v = (MDB_val){ .mv_data = key, .mv_size = sizeof(key) };
			rc = mdb_put(txn, store->owners, &k, &v, 0);
		}
		if (rc)
			return rvl_store_errno(rc);
	}
	return 0;
}

static int flush_locked(struct rvl_index *index)
{
	struct rvl_reals *reals = index->reals;
	MDB_txn *txn;
	int r;

	if (!reals->n || reals->is_memory_only)
		return 0;
	r = rvl_map_ensure(index, true);
	if (!r && index->map->is_in_memory)
		return 0; /* the map is in memory: the journal keeps them */
	r = r ?: mark_state(index, RVL_STATE_HAS_REALS | RVL_STATE_REALS_IN_MAP);
	r = r ?: rvl_store_write_begin(index->map->store, &txn);
	if (r)
		return r;
	r = put_all(reals, index->map->store, txn);
	if (r) {
		rvl_store_write_end(index->map->store, txn, false);
		return r;
	}
	r = rvl_store_write_end(index->map->store, txn, true);
	r = r ?: rvl_store_sync(index->map->store);
	if (r)
		return r;
	if (reals->journal_fd >= 0 && ftruncate(reals->journal_fd, 0))
		return -errno;
	reals->journal_size = 0;
	reals->n = 0;
	memset(reals->by_real, 0, reals->n_buckets * 2 * sizeof(*reals->by_real));
	return 0;
}

int rvl_reals_flush(struct rvl_index *index)
{
	int r;

	if (rvl_reals_is_empty(index->reals))
		return 0;
	pthread_rwlock_wrlock(&index->reals->lock);
	r = flush_locked(index);
	pthread_rwlock_unlock(&index->reals->lock);
	return r;
}

/* A disk that is full must not stop readers: the number stays unique, but is not kept beyond this
 * mount. */
static void warn_not_kept(struct rvl_reals *reals, int r)
{
	if (!reals->has_warned)
		rvl_warn(
			"assigned inode numbers cannot be recorded and hold for this mount only: %s",
			strerror(-r));
	reals->has_warned = true;
}

static int record_locked(struct rvl_index *index, const struct rvl_real_id *real,
			 const struct rvl_id *id, bool is_replace)
{
	bool has_journal = !index->reals->is_memory_only && !index->is_prepared;
	struct rvl_reals *reals = index->reals;
	struct rvl_real_id owner;
	struct rvl_id other;
	int r;

	if (!rvl_reals_is_empty(reals)) {
		r = is_replace ? -ENOENT : number_locked(index, real, &other);
		if (r == -ENOENT)
			r = owner_locked(index, id->number, &owner);
		if (r != -ENOENT)
			return r ?: -EEXIST;
	}
	if (has_journal) {
		r = append_journal(index, real, id);
		if (r)
			warn_not_kept(reals, r);
	}
	r = add(reals, real, id);
	if (r)
		return r;
	atomic_store_explicit(&reals->is_empty, false, memory_order_release);
	if (reals->n >= RVL_REALS_PENDING_MAX && !reals->is_memory_only &&
	    reals->n % RVL_REALS_PENDING_MAX == 0) {
		r = flush_locked(index);
		if (r && !has_journal)
			return r;
		if (r)
			warn_not_kept(reals, r);
	}
	return 0;
}

int rvl_real_record(struct rvl_index *index, const struct rvl_real_id *real,
		    const struct rvl_id *id)
{
	int r;

	pthread_rwlock_wrlock(&index->reals->lock);
	r = record_locked(index, real, id, false);
	pthread_rwlock_unlock(&index->reals->lock);
	return r;
}

int rvl_real_replace(struct rvl_index *index, const struct rvl_real_id *real,
		     const struct rvl_id *id)
{
	int r;

	pthread_rwlock_wrlock(&index->reals->lock);
	r = record_locked(index, real, id, true);
	pthread_rwlock_unlock(&index->reals->lock);
	return r;
}

static int load_records(struct rvl_reals *reals, const uint8_t *data, size_t len)
{
	size_t done = 0;

	while (len - done >= RVL_REAL_RECORD_SIZE) {
		struct rvl_real_id real;
		struct rvl_id id;
		int r = rvl_real_record_decode(data + done, RVL_REAL_RECORD_SIZE, &real, &id);

		if (r)
			break;
		if (!find_number(reals, id.number)) {
			r = add(reals, &real, &id);
			if (r)
				return r;
		}
		done += RVL_REAL_RECORD_SIZE;
	}
	if (done < len) {
		rvl_warn("inodes/assigned: damaged after %zu bytes, the rest is left out", done);
		rvl_count(damaged);
	}
	reals->journal_size = done;
	return 0;
}

static int load_journal(struct rvl_index *index, struct rvl_reals *reals)
{
	_cleanup_close_ int fd = open_journal(index, index->is_writable ? O_RDWR : O_RDONLY);
	_cleanup_free_ uint8_t *data = NULL;
	struct stat st;
	ssize_t n;
	int r;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size > JOURNAL_MAX_BYTES)
		return -EUCLEAN;
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	n = pread(fd, data, (size_t)st.st_size, 0);
	if (n < 0)
		return -errno;
	r = load_records(reals, data, (size_t)n);
	if (r || !index->is_writable)
		return r;
	if (reals->journal_size != (uint64_t)st.st_size &&
	    ftruncate(fd, (off_t)reals->journal_size))
		return -errno;
	reals->journal_fd = rvl_take_fd(&fd);
	return 0;
}

int rvl_reals_open(struct rvl_index *index, struct rvl_reals **ret)
{
	struct rvl_reals *reals = calloc(1, sizeof(*reals));
	int r;

	if (!reals)
		return -ENOMEM;
	pthread_rwlock_init(&reals->lock, NULL);
	reals->journal_fd = -EBADF;
	reals->is_empty = true;
	reals->is_memory_only = !index->is_writable;
	if (index->is_persistent && (index->state->flags & RVL_STATE_HAS_REALS)) {
		reals->is_empty = false;
		r = load_journal(index, reals);
		if (r) {
			rvl_reals_free(reals);
			return r;
		}
	}
	*ret = reals;
	return 0;
}

void rvl_reals_free(struct rvl_reals *reals)
{
	if (!reals)
		return;
	rvl_close(reals->journal_fd);
	free(reals->records);
	free(reals->by_real);
	pthread_rwlock_destroy(&reals->lock);
	free(reals);
}
