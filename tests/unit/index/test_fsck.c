// SPDX-License-Identifier: GPL-2.0-or-later
/* Claims and assigned numbers that contradict themselves, and the counter behind them. */
#include <endian.h>

#include "fixture.h"
#include "index/fsck.h"
#include "index/map_private.h"
#include "index/number_private.h"

static const struct rvl_real_id reals[] = {
	{ 1ULL << 50, 9 }, { 2ULL << 50, 9 }, { 3ULL << 50, 9 }, { 4ULL << 50, 9 }
};
static uint64_t numbers[4];

static void key_of(const struct rvl_real_id *real, uint8_t ret[RVL_REAL_KEY_SIZE])
{
	uint16_t instance = htobe16(real->instance);
	uint64_t ino = htobe64(real->ino);

	memcpy(ret, &instance, sizeof(instance));
	memcpy(ret + sizeof(instance), &ino, sizeof(ino));
}

static void begin(void)
{
	const uint64_t first = (uint64_t)99 << RVL_INSTANCE_SHIFT;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	for (unsigned i = 0; i < 4; i++) {
		struct rvl_id id = { numbers[i] = first + i, 7 };

		assert_int_equal(rvl_real_record(idx, &reals[i], &id), 0);
	}
	assert_int_equal(rvl_reals_flush(idx), 0);
}

/* real: or NULL, to remove it. */
static void write_owner(uint64_t number, const struct rvl_real_id *real)
{
	uint8_t key[RVL_REAL_KEY_SIZE];
	MDB_val at = { .mv_data = &number, .mv_size = sizeof(number) };
	MDB_val value = { .mv_data = key, .mv_size = sizeof(key) };
	struct rvl_store *store = idx->map->store;
	MDB_txn *txn;

	assert_int_equal(rvl_store_write_begin(store, &txn), 0);
	if (real)
		key_of(real, key);
	assert_int_equal(real ? mdb_put(txn, store->owners, &at, &value, 0) :
				mdb_del(txn, store->owners, &at, NULL),
			 0);
	assert_int_equal(rvl_store_write_end(store, txn, true), 0);
}

static void expect_wrong(bool is_mend, uint64_t expected)
{
	uint64_t wrong, max;

	assert_int_equal(rvl_reals_check(idx, is_mend, &wrong, &max), 0);
	assert_int_equal(wrong, expected);
}

static void expect_number(unsigned i, bool is_there)
{
	struct rvl_real_id owner;
	struct rvl_id id;

	assert_int_equal(rvl_real_number(idx, &reals[i], &id), is_there ? 0 : -ENOENT);
	assert_int_equal(rvl_real_owner(idx, numbers[i], &owner), is_there ? 0 : -ENOENT);
	if (is_there) {
		assert_true(id.number == numbers[i]);
		assert_true(owner.ino == reals[i].ino && owner.instance == reals[i].instance);
	}
}

static void what_is_sound_stays(void **unused)
{
	begin();
	expect_wrong(true, 0);
	for (unsigned i = 0; i < 4; i++)
		expect_number(i, true);
}

static void a_half_that_is_missing_is_added(void **unused)
{
	begin();
	write_owner(numbers[1], NULL);
	expect_wrong(false, 1);
	expect_wrong(true, 1);
	expect_wrong(false, 0);
	for (unsigned i = 0; i < 4; i++)
		expect_number(i, true);
}

static void contradictions_go(void **unused)
{
	/* The number of the third is said to be the first's, which has one of its own: the records
	 * of both directions are wrong. */
	begin();
	write_owner(numbers[2], &reals[0]);
	expect_wrong(false, 2);
	expect_wrong(true, 2);
	expect_wrong(false, 0);
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	expect_number(0, true);
	expect_number(1, true);
	expect_number(2, false);
	expect_number(3, true);
}

/* The later record counts: in memory, in the journal and in LMDB, where the former number has no owner. */
static void a_record_is_replaced(void **unused)
{
	const struct rvl_id other = { ((uint64_t)99 << RVL_INSTANCE_SHIFT) + 9, 8 };
	struct rvl_real_id owner;
	struct rvl_id id;

	begin();
	assert_int_equal(rvl_real_record(idx, &reals[1], &other), -EEXIST);
	assert_int_equal(rvl_real_replace(idx, &reals[1], &(struct rvl_id){ numbers[2], 8 }), -EEXIST);
	assert_int_equal(rvl_real_replace(idx, &reals[1], &other), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(rvl_real_number(idx, &reals[1], &id), 0);
		assert_true(id.number == other.number && id.generation == other.generation);
		assert_int_equal(rvl_real_owner(idx, other.number, &owner), 0);
		assert_true(owner.ino == reals[1].ino);
		expect_wrong(false, 0);
		if (i == 0) {
			close_index();
			assert_int_equal(open_index("l1", "u", "w", 0), 0);
		} else if (i == 1) {
			assert_int_equal(rvl_reals_flush(idx), 0);
		}
	}
	assert_int_equal(rvl_real_owner(idx, numbers[1], &owner), -ENOENT);
	expect_number(0, true);
	expect_number(2, true);
}

static void a_counter_behind_is_renewed(void **unused)
{
	uint64_t max, wrong, instance;
	struct rvl_real_id real = { 5ULL << 50, 9 };
	struct rvl_id id = { 0, 7 };

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	instance = idx->state->counters[RVL_COUNTER_ASSIGNED].instance;
	id.number = (instance << RVL_INSTANCE_SHIFT) + (1ULL << 40);
	assert_int_equal(rvl_real_record(idx, &real, &id), 0);
	assert_int_equal(rvl_reals_check(idx, false, &wrong, &max), 0);
	assert_true(max == id.number);
	assert_true(rvl_counter_is_behind(idx, RVL_COUNTER_ASSIGNED, max));
	assert_int_equal(rvl_counter_renew(idx, RVL_COUNTER_ASSIGNED), 0);
	assert_false(rvl_counter_is_behind(idx, RVL_COUNTER_ASSIGNED, max));
	assert_true(idx->state->counters[RVL_COUNTER_ASSIGNED].instance != instance);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_is_sound_stays),
		T(a_half_that_is_missing_is_added),
		T(contradictions_go),
		T(a_record_is_replaced),
		T(a_counter_behind_is_renewed),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
