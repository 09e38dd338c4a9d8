// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Are the records of a store sound? Of a map that no seal vouches for, after its pages were found
 * to be (store_check.c): every row decodes, and the two tables of real objects say the same, so
 * that no object is shown with the number of another one. A row needs no more: what is found at its
 * place must have the number that was asked for.
 */
#include "index/map_private.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "index/number.h"
#include "index/real.h"

typedef int record_fn(struct rvl_store *store, MDB_txn *txn, const MDB_val *key,
		      const MDB_val *value);

static int check_row(struct rvl_store *store, MDB_txn *txn, const MDB_val *key,
		     const MDB_val *value)
{
	struct rvl_map_row row;
	uint64_t number;

	memcpy(&number, key->mv_data, sizeof(number));
	return rvl_number_is_valid(number) ?
		       rvl_map_row_decode(value->mv_data, value->mv_size, &row) :
		       -EUCLEAN;
}

/* The number's owner has this number. */
static int check_owner(struct rvl_store *store, MDB_txn *txn, const MDB_val *key,
		       const MDB_val *value)
{
	MDB_val real = *value, found;
	uint64_t number;
	int rc = mdb_get(txn, store->reals, &real, &found);

	if (rc)
		return rc == MDB_NOTFOUND ? -EUCLEAN : rvl_store_errno(rc);
	memcpy(&number, key->mv_data, sizeof(number));
	return value->mv_size == RVL_REAL_KEY_SIZE && found.mv_size == RVL_REAL_VALUE_SIZE &&
			       rvl_number_is_valid(number) &&
			       rvl_get_le64(found.mv_data) == number ?
		       0 :
		       -EUCLEAN;
}

static int check_all(struct rvl_store *store, MDB_txn *txn, MDB_dbi table, record_fn *fn)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int r = 0, rc = mdb_cursor_open(txn, table, &cursor);

	if (rc)
		return rvl_store_errno(rc);
	rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	while (!rc && !r) {
		r = fn(store, txn, &key, &value);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return r ?: rc == MDB_NOTFOUND ? 0 : rvl_store_errno(rc);
}

int rvl_map_check(struct rvl_store *store)
{
	MDB_stat reals, owners;
	MDB_txn *txn;
	int r = rvl_store_read_begin(store, &txn);

	if (r)
		return r;
	r = rvl_store_errno(mdb_stat(txn, store->reals, &reals));
	r = r ?: rvl_store_errno(mdb_stat(txn, store->owners, &owners));
	if (!r && reals.ms_entries != owners.ms_entries)
		r = -EUCLEAN;
	r = r ?: check_all(store, txn, store->rows, check_row);
	r = r ?: check_all(store, txn, store->owners, check_owner);
	rvl_store_read_end(store, txn);
	return r;
}
