// SPDX-License-Identifier: GPL-2.0-or-later
/* Numbers of lower objects, assigned ones, counters under threads. */
#include <dirent.h>
#include <pthread.h>

#include "fixture.h"
#include "index/number_private.h"

static struct statx sample(unsigned layer, uint64_t ino)
{
	struct statx stx = { .stx_mask = STATX_BASIC_STATS | STATX_BTIME,
			     .stx_mode = S_IFREG,
			     .stx_ino = ino };

	stx.stx_dev_major = major(stack.layers[layer].dev);
	stx.stx_dev_minor = minor(stack.layers[layer].dev);
	stx.stx_btime.tv_sec = 1234;
	return stx;
}

static uint64_t number_of(uint64_t ino)
{
	struct statx stx = sample(1, ino);
	struct rvl_id id;

	assert_int_equal(
		rvl_number_of_lower(idx, &stack.layers[1], stack.layers[1].fd, "", &stx, &id), 0);
	assert_true(rvl_number_is_valid(id.number));
	assert_int_not_equal(id.generation, 0);
	return id.number;
}

static void small_inos_are_arithmetic(void **unused)
{
	uint64_t dirent;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_true(number_of(77) == 77);
	assert_true(number_of(RVL_REAL_INO_MASK) == RVL_REAL_INO_MASK);
	assert_int_equal(rvl_number_of_dirent(idx, &stack.layers[1], 77, DT_REG, &dirent), 0);
	assert_true(dirent == 77);
	assert_int_not_equal(access(at("w/inodes/map.mdb"), F_OK), 0);
}

static void inos_0_and_1_have_places_of_their_own(void **unused)
{
	/* Their sums would be "none" and the root. No record is needed, and they are not born
	 * ones. */
	uint64_t zero, one;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	zero = number_of(0);
	one = number_of(1);
	assert_true(zero > 1 && one > 1 && zero != one);
	assert_false(rvl_number_is_born(idx, zero));
	assert_int_not_equal(access(at("w/inodes/assigned"), F_OK), 0);
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_true(number_of(0) == zero && number_of(1) == one);
}

static void large_inos_are_assigned_and_kept(void **unused)
{
	/* Real inos of 48 bits and more: the same number over a close, a kill, and a flush to
	 * LMDB. */
	static const uint64_t inos[] = { 1ULL << 48, (1ULL << 63) | 5, UINT64_MAX };
	uint64_t numbers[3], dirent;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_number_of_dirent(idx, &stack.layers[1], inos[0], DT_REG, &dirent),
			 -EAGAIN);
	for (int i = 0; i < 3; i++)
		numbers[i] = number_of(inos[i]);
	assert_true(numbers[0] != numbers[1] && numbers[1] != numbers[2]);
	assert_int_equal(rvl_number_of_dirent(idx, &stack.layers[1], inos[0], DT_REG, &dirent), 0);
	assert_true(dirent == numbers[0]);
	forget_index(); /* killed */
	for (int round = 0; round < 3; round++) {
		assert_int_equal(open_index("l1", "u", "w", 0), 0);
		for (int i = 0; i < 3; i++)
			assert_true(number_of(inos[i]) == numbers[i]);
		if (round)
			assert_int_equal(rvl_reals_flush(idx), 0);
		close_index();
	}
	assert_int_equal(open_index("l1", "u", "w", RO), 0);
	for (int i = 0; i < 3; i++)
		assert_true(number_of(inos[i]) == numbers[i]);
	assert_true(number_of(inos[0] + 9) != numbers[0]);
}

static void lost_tables_retire_their_instance(void **unused)
{
	/* map.mdb with assigned numbers is deleted: new numbers are of another instance, never the
	 * old ones. */
	uint64_t before, after;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	before = number_of(1ULL << 50);
	assert_int_equal(rvl_reals_flush(idx), 0);
	close_index();
	assert_int_equal(unlink(at("w/inodes/map.mdb")), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	after = number_of(1ULL << 51);
	assert_true(after >> 48 != before >> 48);
	assert_true(number_of(1ULL << 50) >> 48 == after >> 48);
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_true(number_of(1ULL << 51) == after);
}

static void the_root_is_one(void **unused)
{
	struct rvl_id id;

	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	assert_int_equal(lower_id(1, "", &id), 0);
	assert_true(id.number == RVL_NUMBER_ROOT && id.generation == 0);
	assert_int_equal(lower_id(2, "", &id), 0);
	assert_true(id.number == RVL_NUMBER_ROOT && id.generation == 0);
}

static void generations_come_from_birth_times(void **unused)
{
	struct statx a, b;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	a = b = sample(1, 5);
	assert_int_equal(rvl_number_generation(idx, &a), rvl_number_generation(idx, &b));
	b.stx_btime.tv_nsec = 1;
	assert_int_not_equal(rvl_number_generation(idx, &a), rvl_number_generation(idx, &b));
	b.stx_mask &= ~STATX_BTIME;
	assert_int_not_equal(rvl_number_generation(idx, &b), 0);
}

static void other_filesystems_are_other_instances(void **unused)
{
	/* Two tmpfs beside the disk: equal inos there, different numbers here, and the same ones
	 * at the next mount. */
	uint64_t first[3], second[3];

	need_mounts();
	assert_int_equal(
		sh("mkdir m && mount -t tmpfs none m && mkdir m/2 m/3 && mount -t tmpfs none m/2 && "
		   "mount -t tmpfs none m/3 && mkdir m/2/l m/3/l && touch m/2/l/f m/3/l/f l1/f"),
		0);
	for (int round = 0; round < 2; round++) {
		uint64_t *numbers = round ? second : first;

		assert_int_equal(open_index("l1:m/2/l:m/3/l", "u", "w", 0), 0);
		for (unsigned i = 0; i < 3; i++)
			numbers[i] = lower_number(i + 1, "f");
		close_index();
	}
	assert_true(first[0] >> 48 == 0);
	assert_true(first[1] >> 48 != 0 && first[2] >> 48 != 0 && first[1] >> 48 != first[2] >> 48);
	for (unsigned i = 0; i < 3; i++)
		assert_true(first[i] == second[i]);
	sh("umount m/2 m/3");
}

static void inner_filesystems_are_seen(void **unused)
{
	/* An object with another st_dev inside a layer: an instance of its own, and directory
	 * entries become uncertain. */
	struct rvl_id id, again;
	struct statx stx;
	uint64_t dirent;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	stx = sample(1, 42);
	stx.stx_dev_minor += 77;
	assert_int_equal(
		rvl_number_of_lower(idx, &stack.layers[1], stack.layers[1].fd, "", &stx, &id), 0);
	assert_true(id.number != 42);
	assert_int_equal(rvl_number_of_lower(idx, &stack.layers[1], stack.layers[1].fd, "", &stx,
					     &again),
			 0);
	assert_true(id.number == again.number);
	assert_int_equal(rvl_number_of_dirent(idx, &stack.layers[1], 42, DT_REG, &dirent), -EAGAIN);
}

struct births {
	uint64_t numbers[20000];
};

static void *give_birth(void *arg)
{
	struct births *births = arg;
	struct rvl_id id;

	for (unsigned i = 0; i < 20000; i++) {
		if (rvl_number_born(idx, &id))
			return NULL;
		births->numbers[i] = id.number;
	}
	return births;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void threads_and_blocks_give_no_number_twice(void **unused)
{
	/* Over the end of a reserved block, with the state saved in between. */
	struct births *births = calloc(4, sizeof(*births));
	uint64_t *all = (uint64_t *)births;
	pthread_t threads[4];
	void *result;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	idx->numbers->counters[RVL_COUNTER_BORN].next =
		idx->numbers->counters[RVL_COUNTER_BORN].limit - 30000;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, give_birth, &births[i]), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &result);
		assert_non_null(result);
	}
	qsort(all, 80000, sizeof(*all), compare);
	for (unsigned i = 1; i < 80000; i++)
		assert_true(all[i - 1] < all[i]);
	assert_true(idx->state->counters[RVL_COUNTER_BORN].next > (all[79999] & RVL_REAL_INO_MASK));
	free(births);
}

static void a_full_disk_stops_births_at_the_block(void **unused)
{
	/* No block can be reserved: ENOSPC, and numbers again when there is room. */
	struct rvl_id id;
	int r = 0;

	need_mounts();
	assert_int_equal(sh("mkdir m && mount -t tmpfs -o size=256k none m && mkdir m/u m/w"), 0);
	assert_int_equal(open_index("l1", "m/u", "m/w", 0), 0);
	sh("head -c 1M /dev/zero > m/fill 2>/dev/null");
	idx->numbers->counters[RVL_COUNTER_BORN].next =
		idx->numbers->counters[RVL_COUNTER_BORN].limit - 1;
	assert_int_equal(rvl_number_born(idx, &id), 0);
	r = rvl_number_born(idx, &id);
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(sh("rm m/fill"), 0);
	assert_int_equal(rvl_number_born(idx, &id), 0);
}

static void unstamped_objects_get_their_lowers_number_if_it_is_free(void **unused)
{
	struct rvl_id origin = { .number = 4711, .generation = 5 }, id;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_number_for_unstamped(idx, &origin, &id), 0);
	assert_true(id.number == 4711 && id.generation == 5);
	assert_int_equal(rvl_entry_bury(idx, 4711, true), 0);
	assert_int_equal(rvl_number_for_unstamped(idx, &origin, &id), 0);
	assert_true(rvl_number_is_born(idx, id.number));
	assert_int_equal(rvl_number_for_unstamped(idx, NULL, &id), 0);
	assert_true(rvl_number_is_born(idx, id.number));
}

static void births_tell_what_may_have_been_given_again(void **unused)
{
	struct rvl_layer *layer;
	struct statx stx, made;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	layer = &stack.layers[1];
	if (rvl_path_statx(idx->inodes_fd, "", STATX_BTIME, &made) || !(made.stx_mask & STATX_BTIME)) {
		print_message("# skipped: no birth times here\n");
		skip();
	}
	stx = sample(1, 77);
	assert_false(rvl_number_may_be_given_again(idx, layer, &stx));
	stx.stx_btime.tv_sec = made.stx_btime.tv_sec;
	assert_true(rvl_number_may_be_given_again(idx, layer, &stx));
	/* without birth times: by what kind of filesystem it is */
	stx.stx_mask = STATX_BASIC_STATS;
	assert_true(rvl_number_may_be_given_again(idx, layer, &stx));
	layer->fs_magic = 0xe0f5e1e2; /* erofs */
	assert_false(rvl_number_may_be_given_again(idx, layer, &stx));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(small_inos_are_arithmetic),
		T(inos_0_and_1_have_places_of_their_own),
		T(large_inos_are_assigned_and_kept),
		T(lost_tables_retire_their_instance),
		T(the_root_is_one),
		T(generations_come_from_birth_times),
		T(other_filesystems_are_other_instances),
		T(inner_filesystems_are_seen),
		T(threads_and_blocks_give_no_number_twice),
		T(a_full_disk_stops_births_at_the_block),
		T(unstamped_objects_get_their_lowers_number_if_it_is_free),
		T(births_tell_what_may_have_been_given_again),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
