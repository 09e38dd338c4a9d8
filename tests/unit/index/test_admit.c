// SPDX-License-Identifier: GPL-2.0-or-later
/* What may be used with which layers, asked without a change: the same answers as an open gives. */
#include "fixture.h"
#include "index/bind.h"

static uint8_t data[8192];

static int ask(const char *lowers, const char *upper, const char *work, bool is_import)
{
	const struct rvl_index_config config = {
		.stack = &stack, .is_read_only = true, .is_offline = true, .is_import = is_import
	};
	int r;

	assert_int_equal(open_stack(lowers, upper, work, 0), 0);
	r = rvl_index_admit(&config);
	rvl_stack_release(&stack);
	return r;
}

static void use(const char *upper, const char *work)
{
	assert_int_equal(open_index("l1:l2", upper, work, 0), 0);
	close_index();
}

static void its_own_layers_are_taken(void **unused)
{
	/* Before the first mount there is none, and asking makes nothing. */
	assert_int_equal(ask("l1:l2", "u", "w", false), -ENOENT);
	assert_int_equal(sh("rmdir w && mkdir w"), 0);
	use("u", "w");
	assert_int_equal(ask("l1:l2", "u", "w", false), 0);
	assert_int_equal(ask("l1:l2", NULL, NULL, false), -ENOENT);
}

static void others_are_refused(void **unused)
{
	use("u", "w");
	assert_int_equal(ask("l1", "u", "w", false), -ESTALE);
	assert_int_equal(ask("l2:l1", "u", "w", false), -ESTALE);
	assert_int_equal(sh("cp -a u u2 && cp -a w w2 && mkdir u3 w3"), 0);
	assert_int_equal(ask("l1:l2", "u2", "w2", false), -ESTALE);
	assert_int_equal(ask("l1:l2", "u2", "w", false), -ESTALE);
	use("u3", "w3");
	assert_int_equal(ask("l1:l2", "u", "w3", false), -ESTALE);
	assert_int_equal(ask("l1:l2", "u3", "w", false), -ESTALE);
}

static void change_flags(uint32_t flags)
{
	struct rvl_state *state;
	int fd = open(at("w/inodes"), O_RDONLY | O_DIRECTORY);

	assert_int_equal(rvl_state_load(fd, &state), 0);
	state->flags |= flags;
	assert_int_equal(rvl_state_save(state, fd, false), 0);
	rvl_state_free(state);
	close(fd);
}

static void what_others_have_is_refused(void **unused)
{
	use("u", "w");
	change_flags(RVL_STATE_KERNEL);
	assert_int_equal(ask("l1:l2", "u", "w", false), -EBUSY);
	assert_int_equal(ask("l1:l2", "u", "w", true), 0);
	change_flags(RVL_STATE_REBUILT);
	assert_int_equal(ask("l1:l2", "u", "w", true), -ESTALE);
}

static void newer_formats_are_refused(void **unused)
{
	uint64_t sum;
	size_t len;

	use("u", "w");
	len = read_whole(at("w/inodes/log"), data, sizeof(data));
	data[8] = 2;
	write_whole(at("w/inodes/log"), data, len);
	/* whoever asks, and before it is asked whose the layers are */
	assert_int_equal(ask("l1:l2", "u", "w", false), -EPROTONOSUPPORT);
	assert_int_equal(ask("l1", "u", "w", true), -EPROTONOSUPPORT);
	assert_int_equal(open_index("l1:l2", "u", "w", 0), -EPROTONOSUPPORT);
	data[8] = 1;
	write_whole(at("w/inodes/log"), data, len);
	assert_int_equal(ask("l1:l2", "u", "w", false), 0);

	len = read_whole(at("w/inodes/state"), data, sizeof(data));
	data[16] = 99;
	sum = htole64(rvl_hash(data + 16, len - 16));
	memcpy(data + 8, &sum, 8);
	write_whole(at("w/inodes/state"), data, len);
	assert_int_equal(ask("l1:l2", "u", "w", false), -EPROTONOSUPPORT);
}

static void a_damaged_state_is_told_apart(void **unused)
{
	size_t len;

	use("u", "w");
	len = read_whole(at("w/inodes/state"), data, sizeof(data));
	data[100] ^= 1;
	write_whole(at("w/inodes/state"), data, len);
	assert_int_equal(ask("l1:l2", "u", "w", false), -EUCLEAN);
	assert_int_equal(unlink(at("w/inodes/state")), 0);
	assert_int_equal(ask("l1:l2", "u", "w", false), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(its_own_layers_are_taken),	 T(others_are_refused),
		T(what_others_have_is_refused),	 T(newer_formats_are_refused),
		T(a_damaged_state_is_told_apart),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
