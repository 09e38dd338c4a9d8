// SPDX-License-Identifier: GPL-2.0-or-later
/* A lost index: what is recorded before there is a state, and which numbers were born. */
#include "fixture.h"
#include "index/fsck.h"
#include "index/number_private.h"

struct recorded {
	struct rvl_id id; /* of l1/f from now on; number 0: nothing is recorded */
	struct rvl_id born[2], lower; /* of before */
	int result;
};

static int record(void *arg, struct rvl_index *index)
{
	const struct recorded *recorded = arg;
	const struct rvl_layer *layer = &stack.layers[1];
	struct rvl_real_id real;
	struct statx st;

	for (unsigned i = 0; i < 2; i++)
		assert_true(rvl_number_may_be_born(index, &recorded->born[i]));
	assert_false(rvl_number_may_be_born(index, &recorded->lower));
	if (!recorded->id.number)
		return recorded->result;
	assert_int_equal(rvl_path_statx(layer->fd, "f", RVL_STATX_MASK, &st), 0);
	assert_int_equal(rvl_real_of_lower(index, layer, layer->fd, "f", &st, &real), 0);
	assert_int_equal(rvl_real_record(index, &real, &recorded->id), 0);
	return recorded->result;
}

/* Numbers are given, and the workdir is lost. */
static void begin(struct recorded *ret)
{
	*ret = (struct recorded){ 0 };
	assert_int_equal(sh("echo f > l1/f"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(lower_id(1, "f", &ret->lower), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(rvl_number_born(idx, &ret->born[i]), 0);
	close_index();
	assert_int_equal(sh("rm -r w && mkdir w"), 0);
}

static int rebuild(rvl_rebuild_record_fn *fn, struct recorded *recorded)
{
	const uint64_t used[(RVL_INSTANCE_MAX + 1) / 64] = { 0 };
	int r;

	assert_int_equal(open_stack("l1", "u", "w", 0), 0);
	r = rvl_index_rebuild(&stack, used, fn, recorded);
	rvl_stack_release(&stack);
	return r;
}

static uint32_t flags_of_state(void)
{
	struct rvl_state *state;
	uint32_t flags;

	assert_int_equal(open_stack("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_index_load_state(&stack, &state), 0);
	flags = state->flags;
	rvl_state_free(state);
	rvl_stack_release(&stack);
	return flags;
}

static void what_is_recorded_is_there_with_the_state(void **unused)
{
	/* In a map that is no cache; without a record there is none. */
	struct recorded recorded;
	struct rvl_id now;

	begin(&recorded);
	assert_int_equal(rebuild(record, &recorded), 0);
	assert_int_equal(flags_of_state(), 0);
	assert_int_not_equal(access(at("w/inodes/map.mdb"), F_OK), 0);
	assert_int_equal(sh("rm -r w && mkdir w"), 0);
	recorded.id = (struct rvl_id){ (uint64_t)77 << RVL_INSTANCE_SHIFT | 5, 9 };
	recorded.result = 1;
	assert_int_equal(rebuild(record, &recorded), 0);
	assert_int_equal(flags_of_state(), RVL_STATE_HAS_REALS | RVL_STATE_REALS_IN_MAP |
						   RVL_STATE_MAP_IS_TRUTH);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(lower_id(1, "f", &now), 0);
	assert_true(now.number == recorded.id.number && now.generation == recorded.id.generation);
}

static void an_error_leaves_no_state(void **unused)
{
	/* And what was recorded until then is recorded again. */
	struct recorded recorded;
	struct rvl_state *state;
	struct rvl_id now;

	begin(&recorded);
	recorded.result = -ECANCELED;
	assert_int_equal(rebuild(record, &recorded), -ECANCELED);
	assert_int_equal(open_stack("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_index_load_state(&stack, &state), -ENOENT);
	rvl_stack_release(&stack);
	recorded.result = 0;
	assert_int_equal(rebuild(record, &recorded), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(lower_id(1, "f", &now), 0);
	assert_true(now.number == recorded.lower.number);
}

static void what_was_born_is_told_after_several_losses(void **unused)
{
	/* Each opens new counters; the numbers that the old ones gave are known as such. */
	struct recorded recorded;

	begin(&recorded);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(rebuild(record, &recorded), 0);
		assert_int_equal(open_index("l1", "u", "w", 0), 0);
		assert_int_equal(rvl_number_born(idx, &recorded.born[1]), 0);
		assert_true(recorded.born[1].number != recorded.born[0].number);
		close_index();
		assert_int_equal(sh("rm -r w && mkdir w"), 0);
	}
}

static void for_a_rebind_nothing_is_recorded(void **unused)
{
	struct recorded recorded;

	begin(&recorded);
	assert_int_equal(rebuild(NULL, NULL), 0);
	assert_int_equal(flags_of_state(), RVL_STATE_REBUILT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(what_is_recorded_is_there_with_the_state, case_teardown),
		cmocka_unit_test_teardown(an_error_leaves_no_state, case_teardown),
		cmocka_unit_test_teardown(what_was_born_is_told_after_several_losses, case_teardown),
		cmocka_unit_test_teardown(for_a_rebind_nothing_is_recorded, case_teardown),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
