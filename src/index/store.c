// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * LMDB: opening a store safely, and transactions without its lock file.
 *
 * Why the barrier is enough. A write transaction T+1 may reuse the pages that transaction T and
 * those before it freed. A reader of snapshot T or later does not use them; a reader of an older
 * one does. At the begin of T+1 the writer takes the barrier exclusively, so all readers have
 * ended; those that come later find snapshot T, or T+1 when its meta page is written. That page is
 * written without a lock: a reader that sees it before the commit has returned (its id is above
 * `published`) tries again, so a meta page is never used half written.
 */
#include "index/store.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "layer/path.h"

#define STORE_READ_TRIES 1000000
#define STORE_FULL_BYTES (1 << 20) /* a filesystem with less left is full */
/* Address space, not memory: what RLIMIT_AS or a small machine refuses is tried again smaller. */
#define STORE_MAP_SIZE_MAX ((size_t)(sizeof(size_t) > 4 ? 1ULL << 40 : 1ULL << 30))
#define STORE_MAP_SIZE_MIN ((size_t)64 << 20)

const struct rvl_store_database rvl_store_databases[RVL_STORE_DATABASES] = {
	{ "rows", MDB_INTEGERKEY | MDB_DUPSORT },
	{ "reals", 0 },
	{ "owners", MDB_INTEGERKEY },
	{ "meta", 0 },
};

int rvl_store_errno(int rc)
{
	switch (rc) {
	case MDB_SUCCESS:
		return 0;
	case MDB_NOTFOUND:
		return -ENOENT;
	case MDB_KEYEXIST:
		return -EEXIST;
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
		return -ENOSPC;
	case MDB_VERSION_MISMATCH:
		return -EPROTONOSUPPORT;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
	case MDB_INCOMPATIBLE:
	case MDB_PANIC:
	case MDB_PAGE_FULL:
	case MDB_CURSOR_FULL:
	case MDB_BAD_VALSIZE:
	case MDB_BAD_DBI:
		return -EUCLEAN;
	default:
		return rc > 0 ? -rc : -EIO;
	}
}

/* The file must hold every page that its newest snapshot counts: else a read of the mapping is
 * SIGBUS. */
static int check_size(MDB_env *env, int fd)
{
	MDB_envinfo info;
	MDB_stat stat;
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (mdb_env_info(env, &info) || mdb_env_stat(env, &stat))
		return -EUCLEAN;
	if (st.st_size == 0)
		return 0;
	if (stat.ms_psize == 0 || info.me_last_pgno >= (uint64_t)st.st_size / stat.ms_psize)
		return -EUCLEAN;
	return 0;
}

static int open_env(int fd, unsigned flags, MDB_env **ret)
{
	char path[RVL_FD_PATH_SIZE];

	rvl_fd_path(fd, path);
	for (size_t size = STORE_MAP_SIZE_MAX; size >= STORE_MAP_SIZE_MIN; size >>= 2) {
		MDB_env *env;
		int rc = mdb_env_create(&env);

		if (rc)
			return rvl_store_errno(rc);
		rc = mdb_env_set_maxdbs(env, RVL_STORE_DATABASES);
		if (!rc)
			rc = mdb_env_set_mapsize(env, size);
		if (!rc)
			rc = mdb_env_open(env, path, flags, 0600);
		if (!rc) {
			*ret = env;
			return 0;
		}
		mdb_env_close(env);
		if (rc != ENOMEM)
			return rvl_store_errno(rc);
	}
	return -ENOMEM;
}

static int open_databases(struct rvl_store *store, MDB_txn *txn, unsigned create)
{
	MDB_dbi *const ret[RVL_STORE_DATABASES] = { &store->rows, &store->reals, &store->owners,
						    &store->meta };
	int rc = 0;

	for (unsigned i = 0; !rc && i < RVL_STORE_DATABASES; i++)
		rc = mdb_dbi_open(txn, rvl_store_databases[i].name,
				  create | rvl_store_databases[i].flags, ret[i]);
	return rvl_store_errno(rc);
}

static int put_meta(struct rvl_store *store, MDB_txn *txn, const uint8_t uuid[16])
{
	uint8_t format[4];
	MDB_val key = { .mv_data = (void *)RVL_STORE_META_UUID,
			.mv_size = strlen(RVL_STORE_META_UUID) };
	MDB_val value = { .mv_data = (void *)uuid, .mv_size = 16 };
	int rc = mdb_put(txn, store->meta, &key, &value, 0);

	if (rc)
		return rvl_store_errno(rc);
	rvl_put_le32(format, RVL_STORE_FORMAT);
	key.mv_data = (void *)RVL_STORE_META_FORMAT;
	key.mv_size = strlen(RVL_STORE_META_FORMAT);
	value.mv_data = format;
	value.mv_size = sizeof(format);
	return rvl_store_errno(mdb_put(txn, store->meta, &key, &value, 0));
}

static int check_meta(struct rvl_store *store, MDB_txn *txn, const uint8_t uuid[16])
{
	MDB_val key = { .mv_data = (void *)RVL_STORE_META_FORMAT,
			.mv_size = strlen(RVL_STORE_META_FORMAT) };
	MDB_val value;
	int rc = mdb_get(txn, store->meta, &key, &value);

	if (rc)
		return -EUCLEAN;
	if (value.mv_size != 4)
		return -EUCLEAN;
	if (rvl_get_le32(value.mv_data) != RVL_STORE_FORMAT)
		return rvl_get_le32(value.mv_data) > RVL_STORE_FORMAT ? -EPROTONOSUPPORT : -EUCLEAN;
	key.mv_data = (void *)RVL_STORE_META_UUID;
	key.mv_size = strlen(RVL_STORE_META_UUID);
	rc = mdb_get(txn, store->meta, &key, &value);
	if (rc || value.mv_size != 16 || memcmp(value.mv_data, uuid, 16))
		return -EUCLEAN;
	return 0;
}

/* Tell readers of the newest snapshot. Its id is asked for: a commit without changes has made
 * none. */
static int publish(struct rvl_store *store)
{
	MDB_txn *txn;
	int r = rvl_store_errno(mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn));

	if (r)
		return r;
	/* release: pairs with rvl_store_read_begin */
	atomic_store_explicit(&store->published, mdb_txn_id(txn), memory_order_release);
	mdb_txn_abort(txn);
	return 0;
}

/* LMDB calls a short write EIO: on a full filesystem it is ENOSPC. */
static int commit_errno(struct rvl_store *store, int r)
{
	struct statvfs vfs;
	mdb_filehandle_t fd;

	if (r != -EIO || mdb_env_get_fd(store->env, &fd) || fstatvfs(fd, &vfs))
		return r;
	return vfs.f_bavail * vfs.f_frsize < STORE_FULL_BYTES ? -ENOSPC : r;
}

/* Open the databases of a store, or make them in a new one; in one transaction. */
static int prepare(struct rvl_store *store, const uint8_t uuid[16])
{
	MDB_txn *txn;
	int r = rvl_store_errno(
		mdb_txn_begin(store->env, NULL, store->is_read_only ? MDB_RDONLY : 0, &txn));

	if (r)
		return r;
	r = open_databases(store, txn, 0);
	if (!r) {
		r = check_meta(store, txn, uuid);
	} else if (r == -ENOENT && !store->is_read_only) {
		r = open_databases(store, txn, MDB_CREATE);
		r = r ?: put_meta(store, txn, uuid);
	}
	if (r) {
		mdb_txn_abort(txn);
		return r;
	}
	r = commit_errno(store, rvl_store_errno(mdb_txn_commit(txn)));
	if (r)
		return r;
	return publish(store);
}

int rvl_store_open(int fd, const uint8_t uuid[16], bool is_read_only, bool is_durable,
		   struct rvl_store **ret)
{
	unsigned flags = MDB_NOSUBDIR | MDB_NOTLS | MDB_NOLOCK | MDB_NORDAHEAD;
	pthread_rwlockattr_t attr;
	struct rvl_store *store;
	struct stat st;
	int r;

	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EUCLEAN;
	if (st.st_size == 0 && is_read_only)
		return -ENOENT;
	store = calloc(1, sizeof(*store));
	if (!store)
		return -ENOMEM;
	store->is_read_only = is_read_only;
	store->is_durable = is_durable;
	/* Without fsync of the meta page the newest transaction may be lost, but none is ever half
	 * there. */
	flags |= is_read_only ? MDB_RDONLY :
		 is_durable   ? MDB_NOMETASYNC :
				MDB_NOSYNC | MDB_NOMETASYNC;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&store->barrier, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&store->write_lock, NULL);

	r = open_env(fd, flags, &store->env);
	if (!r)
		r = check_size(store->env, fd);
	if (!r)
		r = prepare(store, uuid);
	if (r) {
		rvl_store_close(store);
		return r;
	}
	*ret = store;
	return 0;
}

int rvl_store_open_memory(const uint8_t uuid[16], struct rvl_store **ret)
{
	_cleanup_close_ int fd = memfd_create("reverlay-map", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	return rvl_store_open(fd, uuid, false, false, ret);
}

void rvl_store_close(struct rvl_store *store)
{
	if (!store)
		return;
	if (store->env)
		mdb_env_close(store->env);
	pthread_rwlock_destroy(&store->barrier);
	pthread_mutex_destroy(&store->write_lock);
	free(store);
}

int rvl_store_read_begin(struct rvl_store *store, MDB_txn **ret)
{
	MDB_txn *txn;
	int rc;

	pthread_rwlock_rdlock(&store->barrier);
	for (unsigned tries = 0;; tries++) {
		rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn);
		if (rc) {
			pthread_rwlock_unlock(&store->barrier);
			return rvl_store_errno(rc);
		}
		/* acquire: pairs with the release after the commit that wrote this meta page */
		if (mdb_txn_id(txn) <=
		    atomic_load_explicit(&store->published, memory_order_acquire))
			break;
		mdb_txn_abort(txn);
		/* A commit failed so that LMDB could not undo it. */
		if (tries >= STORE_READ_TRIES) {
			pthread_rwlock_unlock(&store->barrier);
			return -EIO;
		}
		sched_yield();
	}
	*ret = txn;
	return 0;
}

void rvl_store_read_end(struct rvl_store *store, MDB_txn *txn)
{
	mdb_txn_abort(txn);
	pthread_rwlock_unlock(&store->barrier);
}

int rvl_store_write_begin(struct rvl_store *store, MDB_txn **ret)
{
	int r;

	if (store->is_read_only)
		return -EROFS;
	pthread_mutex_lock(&store->write_lock);
	pthread_rwlock_wrlock(&store->barrier);
	r = rvl_store_errno(mdb_txn_begin(store->env, NULL, 0, ret));
	pthread_rwlock_unlock(&store->barrier);
	if (r)
		pthread_mutex_unlock(&store->write_lock);
	return r;
}

int rvl_store_write_end(struct rvl_store *store, MDB_txn *txn, bool is_commit)
{
	int r = 0;

	if (is_commit)
		r = commit_errno(store, rvl_store_errno(mdb_txn_commit(txn)));
	else
		mdb_txn_abort(txn);
	if (is_commit && !r)
		r = publish(store);
	pthread_mutex_unlock(&store->write_lock);
	return r;
}

int rvl_store_sync(struct rvl_store *store)
{
	if (store->is_read_only || !store->is_durable)
		return 0;
	return rvl_store_errno(mdb_env_sync(store->env, 1));
}
