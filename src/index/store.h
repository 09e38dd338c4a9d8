/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The LMDB file under the map and the tables of real objects: opening, transactions, errors.
 * Private to src/index: the other files there get it with map_private.h.
 *
 * LMDB runs without its lock file (MDB_NOLOCK), so that nothing of it outlives the process and an
 * in-memory store can be a memfd. What the lock file would do is done here: one writer at a time;
 * a write transaction begins when every reader of an older snapshot has ended; a reader takes only
 * a snapshot whose commit has returned. So readers never wait for a commit's fsync. One process at
 * a time: guarded by rvl_stack_lock.
 */
#ifndef RVL_INDEX_STORE_H
#define RVL_INDEX_STORE_H

#include <lmdb.h>
#include <stdbool.h>
#include <stdint.h>

#define RVL_STORE_FORMAT 2

#define RVL_STORE_DATABASES 4
extern const struct rvl_store_database {
	const char *name;
	unsigned flags; /* of mdb_dbi_open */
} rvl_store_databases[RVL_STORE_DATABASES]; /* rows, reals, owners, meta */

struct rvl_store {
	MDB_env *env; /* owned */
	MDB_dbi rows; /* number -> places, many for hard links */
	MDB_dbi reals; /* (instance, real ino) -> number: claims and assigned numbers */
	MDB_dbi owners; /* number -> (instance, real ino) */
	MDB_dbi meta; /* names of RVL_STORE_META_… */
	pthread_rwlock_t barrier; /* read: a reader's transaction */
	pthread_mutex_t write_lock;
	_Atomic uint64_t published; /* id of the last transaction whose commit returned */
	bool is_read_only;
	bool is_durable; /* commits are made with fsync */
};

#define RVL_STORE_META_UUID "uuid" /* 16 bytes: of the overlay */
#define RVL_STORE_META_FORMAT "format" /* 4 bytes, little-endian */
#define RVL_STORE_META_COMPLETE "complete" /* one byte: enum rvl_map_extent (map_private.h) */

/*
 * Open the store in fd (borrowed: the path of LMDB is /proc/self/fd/N). An empty file is made a
 * store of this overlay unless is_read_only. -EUCLEAN: damaged, or of another overlay;
 * -EPROTONOSUPPORT: newer; -ENOENT: empty and is_read_only.
 */
int rvl_store_open(int fd, const uint8_t uuid[16], bool is_read_only, bool is_durable,
		   struct rvl_store **ret);
/* Is what is in the file (borrowed descriptor, not empty) a store whose pages LMDB can be trusted
 * with? -EUCLEAN: no; -ENOMEM; errors of reading. (store_check.c) */
int rvl_store_check(int fd);
/* A store in memory, of this process. */
int rvl_store_open_memory(const uint8_t uuid[16], struct rvl_store **ret);
/* Accepts NULL. */
void rvl_store_close(struct rvl_store *store);

int rvl_store_read_begin(struct rvl_store *store, MDB_txn **ret);
void rvl_store_read_end(struct rvl_store *store, MDB_txn *txn);
int rvl_store_write_begin(struct rvl_store *store, MDB_txn **ret);
/* Ends the transaction in any case. After an error nothing of it is there. */
int rvl_store_write_end(struct rvl_store *store, MDB_txn *txn, bool is_commit);
/* Everything committed is durable when this returns 0. */
int rvl_store_sync(struct rvl_store *store);

/* -errno for a result of LMDB. */
int rvl_store_errno(int rc);

#endif
