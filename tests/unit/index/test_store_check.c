// SPDX-License-Identifier: GPL-2.0-or-later
/* A store's pages: sound ones pass, whatever was done to the store; and what passes does not crash
 * LMDB, whatever was done to the file. */
#include <time.h>

#include "fixture.h"
#include "index/store.h"

static const uint8_t uuid[16] = { 1, 2, 3 };
static uint8_t whole[8 << 20], bad[8 << 20];

static uint64_t seed;

static unsigned rnd(unsigned n)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(seed >> 33) % n;
}

static struct rvl_store *open_store(int fd)
{
	struct rvl_store *store = NULL;

	assert_int_equal(rvl_store_open(fd, uuid, false, false, &store), 0);
	return store;
}

static int put(MDB_txn *txn, MDB_dbi dbi, uint64_t number, const void *value, size_t len)
{
	MDB_val k = { .mv_data = &number, .mv_size = sizeof(number) };
	MDB_val v = { .mv_data = (void *)value, .mv_size = len };

	return mdb_put(txn, dbi, &k, &v, 0);
}

/* Rows with one, some and many values, all removed at times; in `n` transactions. 0, or what LMDB
 * said. */
static int work(struct rvl_store *store, unsigned n, unsigned size)
{
	int rc = 0;

	for (unsigned t = 0; !rc && t < n; t++) {
		MDB_txn *txn;

		if (rvl_store_write_begin(store, &txn))
			return -1;
		for (unsigned i = 0; !rc && i < size; i++) {
			uint64_t number = rnd(4) ? 1000 + rnd(size) : 1 + rnd(3);
			MDB_val k = { .mv_data = &number, .mv_size = sizeof(number) };
			char value[256];
			size_t len = 14 + rnd(200);

			memset(value, 'a' + (int)rnd(26), sizeof(value));
			memcpy(value, &i, sizeof(i));
			rc = put(txn, store->rows, number, value, len);
			if (!rc)
				rc = put(txn, store->owners, number, value, 10);
			if (!rc && rnd(5) == 0) {
				number = 1000 + rnd(size);
				rc = mdb_del(txn, store->rows, &k, NULL);
				rc = rc == MDB_NOTFOUND ? 0 : rc;
			}
			if (rc == MDB_KEYEXIST)
				rc = 0;
		}
		rvl_store_write_end(store, txn, !rc);
	}
	return rc;
}

static size_t make(unsigned n, unsigned size)
{
	int fd = open(at("store"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct rvl_store *store = open_store(fd);
	ssize_t len;

	assert_int_equal(work(store, n, size), 0);
	rvl_store_close(store);
	assert_int_equal(rvl_store_check(fd), 0);
	len = pread(fd, whole, sizeof(whole), 0);
	assert_true(len > 0 && len < (ssize_t)sizeof(whole));
	close(fd);
	return (size_t)len;
}

static void sound_stores_pass(void **unused)
{
	/* Growing, shrinking, with lists of free pages that take pages of their own. */
	seed = 1;
	for (unsigned size = 1; size < 3000; size = size * 3 + 1)
		for (unsigned n = 1; n < 10; n += 3)
			make(n, size);
	for (unsigned round = 0; round < 5; round++) {
		int fd = open(at("store"), O_RDWR | O_CLOEXEC);
		struct rvl_store *store = open_store(fd);
		MDB_txn *txn;

		assert_int_equal(rvl_store_write_begin(store, &txn), 0);
		assert_int_equal(mdb_drop(txn, round % 2 ? store->owners : store->rows, 0), 0);
		assert_int_equal(rvl_store_write_end(store, txn, true), 0);
		assert_int_equal(rvl_store_check(fd), 0);
		assert_int_equal(work(store, 2, 500), 0);
		rvl_store_close(store);
		assert_int_equal(rvl_store_check(fd), 0);
		close(fd);
	}
}

/* Reads all and writes, in a process of its own: it must end by itself. */
static void use(int fd)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
		struct rvl_store *store;
		MDB_txn *txn;

		for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
			signal(signals[i], SIG_DFL); /* cmocka would go on with the tests in here */
		alarm(20);
		if (rvl_store_open(fd, uuid, false, false, &store))
			_exit(0);
		for (int table = 0; table < 2 && !rvl_store_read_begin(store, &txn); table++) {
			MDB_val k, v;
			MDB_cursor *cursor;

			if (!mdb_cursor_open(txn, table ? store->owners : store->rows, &cursor)) {
				while (!mdb_cursor_get(cursor, &k, &v, MDB_NEXT))
					for (size_t i = 0; i < v.mv_size; i++)
						(void)((const volatile uint8_t *)
							       v.mv_data)[i]; /* reads it */
				mdb_cursor_close(cursor);
			}
			rvl_store_read_end(store, txn);
		}
		(void)work(store, 4, 300);
		rvl_store_close(store);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
}

static void damage(size_t len)
{
	const size_t page = 4096;
	size_t where = rnd(4) ? rnd((unsigned)(len / page)) * page + rnd(rnd(2) ? 48 : page) :
				rnd((unsigned)len);
	unsigned value = rnd(3) ? rnd(256) : rnd(2) * 255;

	switch (rnd(8)) {
	case 0:
		memset(bad + where, (int)value, rnd((unsigned)(len - where)) % page);
		break;
	case 1:
		memcpy(bad + rnd((unsigned)(len / page)) * page, whole + where / page * page, page);
		break;
	case 2:
		bad[where] ^= (uint8_t)(1 << rnd(8));
		break;
	default:
		for (unsigned n = 1 + rnd(3); n && where < len; n--)
			bad[where++] = (uint8_t)value;
	}
}

static void what_passes_does_not_crash(void **unused)
{
	const char *count = getenv("RVL_FUZZ_COUNT");
	unsigned n = count ? (unsigned)atoi(count) : 400, n_passed = 0;
	size_t len = 0;

	seed = getenv("RVL_SEED") ? strtoull(getenv("RVL_SEED"), NULL, 10) : (uint64_t)time(NULL);
	print_message("seed %llu\n", (unsigned long long)seed);
	for (unsigned i = 0; i < n; i++) {
		int fd = open(at("bad"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		int r;

		if (i % 100 == 0)
			len = make(1 + rnd(4), 1 + rnd(600));
		memcpy(bad, whole, len);
		for (unsigned k = 1 + rnd(3); k; k--)
			damage(len);
		assert_int_equal(write(fd, bad, len), len);
		r = rvl_store_check(fd);
		assert_true(r == 0 || r == -EUCLEAN);
		if (r == 0) {
			n_passed++;
			use(fd);
		}
		close(fd);
	}
	print_message("%u of %u damaged files passed\n", n_passed, n);
	assert_true(n_passed > 0 && n_passed < n);
}

static void every_cut_is_found(void **unused)
{
	size_t len;
	int fd;

	seed = 3;
	len = make(3, 300);
	fd = open(at("store"), O_RDWR | O_CLOEXEC);
	for (size_t size = 0; size < len; size += 511) {
		assert_int_equal(ftruncate(fd, (off_t)size), 0);
		assert_int_equal(rvl_store_check(fd), -EUCLEAN);
		assert_int_equal(pwrite(fd, whole, len, 0), len);
	}
	close(fd);
}

static void flags_of_free_pages_are_checked(void **unused)
{
	/* Of the tree of free pages, which has no name: several values a key would stop LMDB. */
	const off_t flags = 16 + 24 + 4; /* head of the page, MDB_meta up to its first MDB_db, md_pad */
	int fd;

	seed = 4;
	make(2, 100);
	fd = open(at("store"), O_RDWR | O_CLOEXEC);
	for (off_t page = 0; page < 2 * 4096; page += 4096) {
		uint8_t byte;

		assert_int_equal(pread(fd, &byte, 1, page + flags), 1);
		byte |= MDB_DUPSORT;
		assert_int_equal(pwrite(fd, &byte, 1, page + flags), 1);
	}
	assert_int_equal(rvl_store_check(fd), -EUCLEAN);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(sound_stores_pass),
		T(what_passes_does_not_crash),
		T(every_cut_is_found),
		T(flags_of_free_pages_are_checked),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
