// SPDX-License-Identifier: GPL-2.0-or-later
/* Rebinding: numbers and generations by place, retired instances, death before the commit. */
#include "fixture.h"
#include "base/counters.h"
#include "index/rebind.h"

struct told {
	unsigned n[3];
	char last[256];
};

static void note(void *arg, enum rvl_rebind_note what, uint64_t number, const char *path)
{
	struct told *told = arg;

	told->n[what]++;
	snprintf(told->last, sizeof(told->last), "%s", path ?: "");
}

static int split(void *arg, const struct rvl_rebind_split *split)
{
	return 0;
}

static int origin(void *arg, uint64_t number, const struct rvl_layer *layer, int dirfd,
		  const char *path)
{
	return 0;
}

static int is_seen(void *arg, uint64_t parent, const char *name)
{
	return 0;
}

/* Rebind to this lower; is_committed false: as after a death before the end. */
static void rebind(const char *lower, bool is_committed, struct told *told,
		   struct rvl_rebind_counts *ret)
{
	const struct rvl_rebind_sink sink = { told, note, split, origin, is_seen };
	const struct rvl_rebind_config config = { .stack = &stack };
	struct rvl_rebind *made;

	*told = (struct told){ 0 };
	assert_int_equal(open_stack(lower, "u", "w", 0), 0);
	assert_int_equal(rvl_rebind_begin(&config, &made), 0);
	assert_int_equal(rvl_rebind_lowers(made, &sink, ret), 0);
	if (is_committed)
		assert_int_equal(rvl_rebind_commit(made), 0);
	rvl_rebind_free(made);
	rvl_stack_release(&stack);
}

static void make_l1(struct rvl_id *ret_file, struct rvl_id *ret_deep)
{
	assert_int_equal(
		sh("mkdir l1/d l3 && echo f > l1/f && echo e > l1/d/deep && ln l1/f l1/d/link && "
		   "touch l1/gone l1/kind"),
		0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_map_build(idx, NULL), 0);
	assert_int_equal(lower_id(1, "f", ret_file), 0);
	assert_int_equal(lower_id(1, "d/deep", ret_deep), 0);
	close_index();
	/* other inode numbers and birth times */
	assert_int_equal(
		sh("touch l3/a l3/b l3/c && cp -a l1/. l3 && rm l3/gone l3/kind && mkdir l3/kind"),
		0);
}

static void assert_same_id(const char *path, const struct rvl_id *id)
{
	struct rvl_id now;

	assert_int_equal(lower_id(1, path, &now), 0);
	assert_true(now.number == id->number);
	assert_int_equal(now.generation, id->generation);
}

static void numbers_and_generations_stay(void **unused)
{
	/* By place, hard links too, over two moves; what is gone or another kind is told. */
	struct rvl_rebind_counts counts;
	struct rvl_id file, deep;
	struct told told;

	make_l1(&file, &deep);
	rebind("l3", true, &told, &counts);
	assert_int_equal(told.n[RVL_REBIND_GONE], 1);
	assert_int_equal(told.n[RVL_REBIND_OTHER_KIND], 1);
	assert_true(counts.n_kept == 4 && counts.n_gone == 1);
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
	assert_same_id("f", &file);
	assert_same_id("d/link", &file);
	assert_same_id("d/deep", &deep);
	close_index();
	assert_int_equal(sh("mkdir l4 && cp -a l3/. l4"), 0);
	rebind("l4", true, &told, &counts);
	assert_int_equal(open_index("l4", "u", "w", 0), 0);
	assert_same_id("d/link", &file);
	assert_same_id("d/deep", &deep);
}

static void new_objects_get_no_old_number(void **unused)
{
	/* Whatever their inode numbers are: the instance of these is retired. */
	struct rvl_rebind_counts counts;
	struct rvl_id file, deep, id;
	struct told told;

	make_l1(&file, &deep);
	rebind("l3", true, &told, &counts);
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
	assert_int_equal(lower_id(1, "a", &id), 0);
	assert_true(id.number >> RVL_INSTANCE_SHIFT != file.number >> RVL_INSTANCE_SHIFT);
}

static void before_the_commit_all_is_as_it_was(void **unused)
{
	/* A death then leaves the old state: the old layers can be mounted, the new ones not. */
	struct rvl_rebind_counts counts;
	struct rvl_id file, deep;
	struct told told;

	make_l1(&file, &deep);
	rebind("l3", false, &told, &counts);
	assert_int_equal(open_index("l3", "u", "w", 0), -ESTALE);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_same_id("f", &file);
	close_index();
	assert_int_not_equal(sh("test -e w/inodes/map.mdb.1"), 0);
	rebind("l3", true, &told, &counts);
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
	assert_same_id("d/deep", &deep);
}

static void lose_map(void)
{
	assert_int_equal(sh("rm -f w/inodes/map.mdb.1 w/inodes/map.seal.1"), 0);
}

static void a_lost_map_is_given_up(void **unused)
{
	/* A mount that may write retires its instances, once. */
	struct rvl_rebind_counts counts;
	struct rvl_id file, deep, id;
	struct told told;

	make_l1(&file, &deep);
	rebind("l3", true, &told, &counts);
	lose_map();
	assert_int_equal(open_index("l3", "u", "w", RO), -EUCLEAN);
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
	assert_int_equal(rvl_counters.maps_retired, 1);
	assert_int_equal(lower_id(1, "f", &id), 0);
	assert_true(id.number >> RVL_INSTANCE_SHIFT != file.number >> RVL_INSTANCE_SHIFT);
	close_index();
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
	assert_int_equal(rvl_counters.maps_retired, 1);
	assert_same_id("f", &id);
}

static void a_lost_map_after_an_unclean_stop(void **unused)
{
	/* Of the machine: upper may have more than the index knows of, so a rebind must be asked for. */
	struct rvl_rebind_counts counts;
	struct rvl_id file, deep, id;
	struct told told;

	make_l1(&file, &deep);
	rebind("l3", true, &told, &counts);
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
	idx->state->boot_id[0] ^= 1;
	assert_int_equal(rvl_index_save_state(idx), 0);
	forget_index();
	lose_map();
	assert_int_equal(open_index("l3", "u", "w", 0), -EUCLEAN);
	rebind("l3", true, &told, &counts);
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
	assert_int_equal(lower_id(1, "f", &id), 0);
	assert_true(id.number != file.number);
}

static void a_lost_map_is_not_given_up_for_other_layers(void **unused)
{
	static uint8_t before[8192], after[8192];
	static const struct {
		const char *lower, *upper, *work;
	} others[] = { { "l1", "u", "w" }, { "l3:l2", "u", "w" }, { "l3", "u4", "w4" } };
	struct rvl_rebind_counts counts;
	struct rvl_id file, deep;
	struct told told;
	size_t len;

	make_l1(&file, &deep);
	rebind("l3", true, &told, &counts);
	lose_map();
	assert_int_equal(sh("cp -a u u4 && cp -a w w4"), 0);
	len = read_whole(at("w/inodes/state"), before, sizeof(before));
	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		assert_int_equal(
			open_stack(others[i].lower, others[i].upper, others[i].work, 0), 0);
		assert_int_equal(rvl_rebind_retire(&stack), -ESTALE);
		rvl_stack_release(&stack);
	}
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(read_whole(at(i ? "w4/inodes/state" : "w/inodes/state"), after,
					    sizeof(after)),
				 len);
		assert_memory_equal(before, after, len);
	}
	assert_int_equal(open_stack("l3", "u", "w", 0), 0);
	assert_int_equal(rvl_rebind_retire(&stack), 0);
	rvl_stack_release(&stack);
	assert_int_equal(open_index("l3", "u", "w", 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(numbers_and_generations_stay),
		T(new_objects_get_no_old_number),
		T(before_the_commit_all_is_as_it_was),
		T(a_lost_map_is_given_up),
		T(a_lost_map_after_an_unclean_stop),
		T(a_lost_map_is_not_given_up_for_other_layers),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
