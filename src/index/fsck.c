// SPDX-License-Identifier: GPL-2.0-or-later
/* Reading the map's file as a whole, and mending of what it, the claims and the counters hold. */
#include "index/fsck.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "index/bind.h"
#include "index/map_private.h"
#include "index/number_private.h"
#include "index/real.h"
#include "layer/copy.h"

#define WRONG_MAX 65536 /* records mended at a time; the rest the next time */

/* The file, also where rows go to memory. */
static struct rvl_store *open_store(struct rvl_index *index)
{
	if (rvl_map_ensure(index, false))
		return NULL;
	return index->map->below ?: index->map->store;
}

/* Calls fn for each record of one table until it returns non-zero. No more than can be in the file:
 * damaged pages may form a loop. */
static int each_record(struct rvl_store *store, MDB_dbi table,
		       int (*fn)(void *arg, const MDB_val *key, const MDB_val *value), void *arg)
{
	uint64_t left;
	MDB_cursor *cursor;
	MDB_envinfo info;
	MDB_val key, value;
	MDB_stat stat;
	MDB_txn *txn;
	int rc, r;

	if (mdb_env_info(store->env, &info) || mdb_env_stat(store->env, &stat))
		return -EUCLEAN;
	left = (info.me_last_pgno + 1) * stat.ms_psize / 8;
	r = rvl_store_read_begin(store, &txn);
	if (r)
		return r;
	rc = mdb_cursor_open(txn, table, &cursor);
	if (!rc) {
		while (!r && !(rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)))
			r = left-- ? fn(arg, &key, &value) : -EUCLEAN;
		mdb_cursor_close(cursor);
	}
	rvl_store_read_end(store, txn);
	return r ?: rc == MDB_NOTFOUND ? 0 : rvl_store_errno(rc);
}

/* ---- rows ---- */

struct row_scan {
	rvl_map_scan_fn *fn;
	void *arg;
};

static int scan_row(void *arg, const MDB_val *key, const MDB_val *value)
{
	const struct row_scan *scan = arg;
	struct rvl_map_row row;
	uint64_t number;
	int r;

	if (key->mv_size != sizeof(number))
		return -EUCLEAN;
	memcpy(&number, key->mv_data, sizeof(number));
	r = rvl_map_row_decode(value->mv_data, value->mv_size, &row);
	if (!r && !rvl_number_is_valid(number))
		r = -EUCLEAN;
	return r ?: scan->fn(scan->arg, number, &row);
}

int rvl_map_scan(struct rvl_index *index, rvl_map_scan_fn *fn, void *arg)
{
	struct rvl_store *store = open_store(index);
	struct row_scan scan = { fn, arg };

	return store ? each_record(store, store->rows, scan_row, &scan) : 0;
}

int rvl_map_forget(struct rvl_index *index)
{
	struct rvl_store *store = open_store(index);
	MDB_val key = { .mv_data = (void *)RVL_STORE_META_COMPLETE,
			.mv_size = strlen(RVL_STORE_META_COMPLETE) };
	MDB_txn *txn;
	int rc, r;

	if (!store)
		return 0;
	r = rvl_store_write_begin(store, &txn);
	if (r)
		return r;
	rc = mdb_drop(txn, store->rows, 0);
	if (!rc) {
		rc = mdb_del(txn, store->meta, &key, NULL);
		rc = rc == MDB_NOTFOUND ? 0 : rc;
	}
	r = rvl_store_errno(rc);
	if (r) {
		rvl_store_write_end(store, txn, false);
		return r;
	}
	index->map->is_complete = false;
	r = rvl_store_write_end(store, txn, true);
	return r ?: rvl_store_sync(store);
}

/* ---- claims and assigned numbers ---- */

struct wrong {
	uint8_t real[RVL_REAL_KEY_SIZE];
	uint64_t number;
	bool is_owner; /* of the table number -> real */
	bool is_missing; /* no contradiction: its other half is not there */
};

struct reals_check {
	struct rvl_index *index;
	struct wrong *wrong; /* owned */
	size_t n;
	uint64_t n_wrong, max;
};

static void real_of_key(const uint8_t key[RVL_REAL_KEY_SIZE], struct rvl_real_id *ret)
{
	uint16_t instance;
	uint64_t ino;

	memcpy(&instance, key, sizeof(instance));
	memcpy(&ino, key + sizeof(instance), sizeof(ino));
	ret->instance = be16toh(instance);
	ret->ino = be64toh(ino);
}

static int add_wrong(struct reals_check *check, const uint8_t real[RVL_REAL_KEY_SIZE], uint64_t number,
		     bool is_owner, bool is_missing)
{
	struct wrong *wrong = &check->wrong[check->n];

	check->n_wrong++;
	if (check->n == WRONG_MAX)
		return 0;
	*wrong = (struct wrong){ .number = number, .is_owner = is_owner, .is_missing = is_missing };
	memcpy(wrong->real, real, RVL_REAL_KEY_SIZE);
	check->n++;
	return 0;
}

static int check_real(void *arg, const MDB_val *key, const MDB_val *value)
{
	struct reals_check *check = arg;
	uint16_t assigned = check->index->state->counters[RVL_COUNTER_ASSIGNED].instance;
	struct rvl_real_id real, owner;
	uint64_t number;
	int r;

	if (key->mv_size != RVL_REAL_KEY_SIZE || value->mv_size < sizeof(number))
		return -EUCLEAN;
	number = rvl_get_le64(value->mv_data);
	real_of_key(key->mv_data, &real);
	if (number >> RVL_INSTANCE_SHIFT == assigned && number > check->max)
		check->max = number;
	r = rvl_real_owner(check->index, number, &owner);
	if (r && r != -ENOENT)
		return r;
	if (!r && owner.ino == real.ino && owner.instance == real.instance)
		return 0;
	return add_wrong(check, key->mv_data, number, false, r == -ENOENT);
}

static int check_owner(void *arg, const MDB_val *key, const MDB_val *value)
{
	struct reals_check *check = arg;
	struct rvl_real_id real;
	struct rvl_id id;
	uint64_t number;
	int r;

	if (key->mv_size != sizeof(number) || value->mv_size != RVL_REAL_KEY_SIZE)
		return -EUCLEAN;
	memcpy(&number, key->mv_data, sizeof(number));
	real_of_key(value->mv_data, &real);
	r = rvl_real_number(check->index, &real, &id);
	if (r && r != -ENOENT)
		return r;
	if (!r && (id.number == number || rvl_real_is_pending(check->index, &real)))
		return 0;
	return add_wrong(check, value->mv_data, number, true, false);
}

static int mend_wrong(struct rvl_store *store, MDB_txn *txn, struct wrong *wrong)
{
	MDB_val real = { .mv_data = wrong->real, .mv_size = RVL_REAL_KEY_SIZE };
	MDB_val number = { .mv_data = &wrong->number, .mv_size = sizeof(wrong->number) };
	int rc;

	if (wrong->is_missing)
		rc = mdb_put(txn, store->owners, &number, &real, 0);
	else if (wrong->is_owner)
		rc = mdb_del(txn, store->owners, &number, NULL);
	else
		rc = mdb_del(txn, store->reals, &real, NULL);
	return rvl_store_errno(rc == MDB_NOTFOUND ? 0 : rc);
}

static int mend_reals(struct reals_check *check, struct rvl_store *store)
{
	MDB_txn *txn;
	int r = rvl_store_write_begin(store, &txn);

	if (r)
		return r;
	for (size_t i = 0; !r && i < check->n; i++)
		r = mend_wrong(store, txn, &check->wrong[i]);
	if (r) {
		rvl_store_write_end(store, txn, false);
		return r;
	}
	r = rvl_store_write_end(store, txn, true);
	return r ?: rvl_store_sync(store);
}

int rvl_reals_check(struct rvl_index *index, bool is_mend, uint64_t *ret_wrong, uint64_t *ret_max)
{
	struct reals_check check = { .index = index };
	struct rvl_store *store;
	int r = 0;

	*ret_wrong = *ret_max = 0;
	if (rvl_reals_is_empty(index->reals))
		return 0;
	if (index->is_writable)
		r = rvl_reals_flush(index);
	store = r ? NULL : open_store(index);
	if (!store)
		return r;
	check.wrong = calloc(WRONG_MAX, sizeof(*check.wrong));
	if (!check.wrong)
		return -ENOMEM;
	r = each_record(store, store->reals, check_real, &check);
	r = r ?: each_record(store, store->owners, check_owner, &check);
	if (!r && check.n && is_mend)
		r = mend_reals(&check, store);
	free(check.wrong);
	*ret_wrong = check.n_wrong;
	*ret_max = check.max;
	return r;
}

static int copy_map(struct rvl_index *index, int copy_fd)
{
	char name[RVL_MAP_FILE_NAME_SIZE];
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	int r;

	rvl_map_file_name(index->state->map_serial, RVL_MAP_FILE_DATA, name);
	fd = openat(index->inodes_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return -ENOENT;
	r = rvl_copy_data(fd, copy_fd, (uint64_t)st.st_size, NULL);
	/* LMDB never makes the file shorter, but a server may make it anew */
	return r == -EIO ? -EAGAIN : r ?: rvl_store_check(copy_fd) ? -EAGAIN : 0;
}

int rvl_map_open_copy(struct rvl_index *index, int copy_fd)
{
	struct rvl_store *store = NULL;
	int r = copy_map(index, copy_fd);

	r = r ?: rvl_store_open(copy_fd, index->uuid, true, false, &store);
	if (!r)
		r = rvl_map_check(store);
	if (r) {
		rvl_store_close(store);
		return r == -EUCLEAN ? -EAGAIN : r;
	}
	rvl_store_close(index->map->below);
	rvl_map_take_copy(index->map, store);
	return 0;
}

static int nothing(void *arg, uint64_t number, const struct rvl_map_row *row)
{
	return 0;
}

static int verify(struct rvl_index *index)
{
	char name[RVL_MAP_FILE_NAME_SIZE];
	uint64_t wrong, max;
	int r;

	rvl_map_file_name(index->state->map_serial, RVL_MAP_FILE_DATA, name);
	if (faccessat(index->inodes_fd, name, F_OK, AT_SYMLINK_NOFOLLOW))
		return -errno;
	r = rvl_map_ensure(index, false);
	if (r)
		return r;
	if (!open_store(index)) {
		struct statx stx;

		/* a crash between its making and its first page */
		return statx(index->inodes_fd, name, AT_SYMLINK_NOFOLLOW, STATX_SIZE | STATX_TYPE,
			     &stx) == 0 &&
				       S_ISREG(stx.stx_mode) && !stx.stx_size ?
			       -ENOENT :
			       -EUCLEAN;
	}
	r = rvl_map_scan(index, nothing, NULL);
	r = r ?: rvl_reals_open(index, &index->reals);
	return r ?: rvl_reals_check(index, false, &wrong, &max);
}

int rvl_map_verify(const struct rvl_stack *stack)
{
	struct rvl_index *index = NULL;
	struct rvl_state *state = NULL;
	int r = rvl_index_load_state(stack, &state);

	/* Whether the layers are its own is no matter of the file, and has been asked before. */
	r = r ?: rvl_index_prepare(stack, true, state, &index);
	r = r ?: verify(index);
	rvl_index_close(index);
	return r;
}

int rvl_claims_mend(struct rvl_index *index)
{
	struct rvl_state *state = index->state;

	for (unsigned i = 0; i < state->n_lowers; i++)
		state->lowers[i].flags &= ~(uint32_t)RVL_ROOT_CLAIMS_DONE;
	return rvl_bind_claims(index);
}

/* ---- counters ---- */

bool rvl_counter_is_behind(const struct rvl_index *index, enum rvl_state_counter which,
			   uint64_t number)
{
	const struct rvl_counter *counter = &index->numbers->counters[which];
	uint64_t next = index->is_writable ? counter->next : index->state->counters[which].next;

	return number >> RVL_INSTANCE_SHIFT == counter->instance &&
	       (number & RVL_REAL_INO_MASK) >= next;
}

int rvl_counter_renew(struct rvl_index *index, enum rvl_state_counter which)
{
	struct rvl_counter *counter = &index->numbers->counters[which];
	struct rvl_state *state = index->state;
	struct rvl_state_instance *old =
		rvl_state_instance_by_id(state, state->counters[which].instance);
	int r;

	if (old)
		old->flags |= RVL_INSTANCE_RETIRED;
	r = rvl_bind_counter(state, which);
	r = r ?: rvl_index_save_state(index);
	if (r)
		return r;
	counter->instance = state->counters[which].instance;
	counter->next = counter->limit = state->counters[which].next;
	return index->stack->has_upper ? rvl_bind_write_table(index) : 0;
}
