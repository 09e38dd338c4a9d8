// SPDX-License-Identifier: GPL-2.0-or-later
/* Binding: tables of former uppers, their claims, and who wins. */
#include "fixture.h"
#include "index/bind.h"
#include "index/number_private.h"
#include "index/table.h"

static void stamp(const char *path, uint64_t number)
{
	struct rvl_id id = { .number = number, .generation = 1 };
	uint8_t buf[RVL_STAMP_SIZE];

	rvl_stamp_encode(&id, buf);
	assert_int_equal(lsetxattr(at("%s", path), "trusted.overlay.ino", buf, sizeof(buf), 0), 0);
}

/* An overlay of `lowers` with upper and work, with some born and copied-up files in upper. Returns
 * the born number. */
static uint64_t use_as_upper(const char *lowers, const char *upper, const char *work)
{
	char path[64];
	struct rvl_id id;

	assert_int_equal(open_index(lowers, upper, work, 0), 0);
	assert_int_equal(rvl_number_born(idx, &id), 0);
	snprintf(path, sizeof(path), "%s/born", upper);
	make_file(at("%s", path));
	stamp(path, id.number);
	close_index();
	return id.number;
}

static void stamped_objects_keep_their_numbers(void **unused)
{
	/* An upper becomes the topmost lower: born and copied-up objects keep theirs, over
	 * remounts too. */
	uint64_t born, base;

	make_file(at("l1/f"));
	base = ino_of(at("l1/f"));
	born = use_as_upper("l1", "u", "w");
	make_file(at("u/f"));
	stamp("u/f", base);
	assert_int_equal(sh("mkdir u2 w2"), 0);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(open_index("u:l1", "u2", "w2", 0), 0);
		assert_true(lower_number(1, "born") == born);
		assert_true(lower_number(1, "f") == base);
		/* What is hidden behind it cannot have the same number. */
		assert_true(lower_number(2, "f") != base);
		assert_false(rvl_number_is_born(idx, born));
		if (round == 1)
			forget_index();
		else
			close_index();
	}
	/* Without a workdir: the same, from a walk at each mount. */
	assert_int_equal(open_index("u:l1", NULL, NULL, 0), 0);
	assert_true(lower_number(1, "born") == born);
	assert_true(lower_number(1, "f") == base);
}

static void rotated_layers_keep_them_through_many_turns(void **unused)
{
	/* As unionmount-testsuite rotates: each upper becomes a lower, ten times. */
	char lowers[256] = "l1", upper[16], work[16], next[300];
	uint64_t born[10];

	for (unsigned i = 0; i < 10; i++) {
		snprintf(upper, sizeof(upper), "up%u", i);
		snprintf(work, sizeof(work), "wk%u", i);
		assert_int_equal(sh("mkdir %s %s", upper, work), 0);
		born[i] = use_as_upper(lowers, upper, work);
		snprintf(next, sizeof(next), "%s:%s", upper, lowers);
		assert_true(strlen(next) < sizeof(lowers));
		memcpy(lowers, next, strlen(next) + 1);
	}
	assert_int_equal(open_index(lowers, "u", "w", 0), 0);
	for (unsigned i = 0; i < 10; i++) {
		assert_true(lower_number(10 - i, "born") == born[i]);
		for (unsigned k = 0; k < i; k++)
			assert_true(born[k] != born[i]);
	}
}

static void the_topmost_claim_wins(void **unused)
{
	/* A copy of a former upper: both claim the same numbers. */
	uint64_t born = use_as_upper("l1", "u", "w"), loser;

	assert_int_equal(sh("cp -a u u3 && mkdir u2 w2"), 0);
	assert_int_equal(open_index("u:u3:l1", "u2", "w2", 0), 0);
	assert_true(lower_number(1, "born") == born);
	loser = lower_number(2, "born");
	assert_true(loser != born && rvl_number_is_valid(loser));
	close_index();
	assert_int_equal(open_index("u:u3:l1", "u2", "w2", 0), 0);
	assert_true(lower_number(2, "born") == loser);
}

static void names_of_one_inode_claim_once(void **unused)
{
	uint64_t born = use_as_upper("l1", "u", "w");

	assert_int_equal(sh("ln u/born u/again && mkdir u/d && ln u/born u/d/third && mkdir u2 w2"),
			 0);
	assert_int_equal(open_index("u:l1", "u2", "w2", 0), 0);
	assert_true(lower_number(1, "again") == born);
	assert_true(lower_number(1, "d/third") == born);
}

static void a_claim_beats_arithmetic(void **unused)
{
	/* A stamp with the number that another lower object would have by its inode: that one is
	 * renumbered. */
	uint64_t victim;

	make_file(at("l1/victim"));
	victim = ino_of(at("l1/victim"));
	use_as_upper("l1", "u", "w");
	make_file(at("u/thief"));
	stamp("u/thief", victim);
	assert_int_equal(sh("mkdir u2 w2"), 0);
	for (int round = 0; round < 2; round++) {
		static uint64_t assigned;
		uint64_t dirent;

		assert_int_equal(open_index("u:l1", "u2", "w2", 0), 0);
		assert_true(lower_number(1, "thief") == victim);
		if (!round)
			assert_int_equal(rvl_number_of_dirent(idx, &stack.layers[2], victim, 8,
							      &dirent),
					 -EAGAIN);
		assert_true(lower_number(2, "victim") != victim);
		if (round)
			assert_true(lower_number(2, "victim") == assigned);
		assigned = lower_number(2, "victim");
		assert_int_equal(rvl_number_of_dirent(idx, &stack.layers[2], victim, 8, &dirent),
				 0);
		assert_true(dirent == assigned);
		close_index();
	}
}

static void forged_stamps_do_no_harm(void **unused)
{
	/* The root's number, none, bit 63, our own counter, wrong lengths. */
	static const char *const names[] = { "a", "b", "c", "d", "e" };
	uint64_t numbers[5];
	struct rvl_id id;

	use_as_upper("l1", "u", "w");
	for (unsigned i = 0; i < 5; i++)
		make_file(at("u/%s", names[i]));
	stamp("u/a", RVL_NUMBER_ROOT);
	stamp("u/b", 0x7fffffffffffffffULL);
	assert_int_equal(
		setxattr(at("u/c"), "trusted.overlay.ino", "\0\0\0\0\0\0\0\0\0\0\0\0", 12, 0), 0);
	assert_int_equal(setxattr(at("u/d"), "trusted.overlay.ino",
				  "\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 12, 0),
			 0);
	assert_int_equal(
		setxattr(at("u/e"), "trusted.overlay.ino", "much too long for a stamp", 25, 0), 0);
	assert_int_equal(sh("mkdir u2 w2"), 0);
	assert_int_equal(open_index("u:l1", "u2", "w2", 0), 0);
	for (unsigned i = 0; i < 5; i++) {
		numbers[i] = lower_number(1, names[i]);
		assert_true(numbers[i] > 1 && rvl_number_is_valid(numbers[i]));
		for (unsigned k = 0; k < i; k++)
			assert_true(numbers[k] != numbers[i]);
	}
	assert_int_equal(rvl_number_born(idx, &id), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_true(id.number != numbers[i]);
}

static void ids_that_are_taken_are_translated(void **unused)
{
	/* A table says that instance 0 is some filesystem we do not have: it is taken over; two
	 * such: one is translated. */
	struct rvl_table table = { .n = 1 };
	uint8_t buf[RVL_TABLE_MAX_BYTES];

	for (unsigned i = 1; i <= 2; i++) {
		char path[16];

		memset(table.uuid, (int)i, 16);
		table.rows[0].id = 0;
		memset(table.rows[0].digest, (int)(0x10 + i), 16);
		snprintf(path, sizeof(path), "l%u", i);
		assert_int_equal(setxattr(at("%s", path), "trusted.overlay.instances", buf,
					  rvl_table_encode(&table, buf), 0),
				 0);
		assert_int_equal(sh("touch l%u/f", i), 0);
		snprintf(path, sizeof(path), "l%u/f", i);
		stamp(path, 999);
	}
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	assert_true(lower_number(1, "f") == 999);
	assert_true((lower_number(2, "f") & RVL_REAL_INO_MASK) == 999);
	assert_true(lower_number(2, "f") >> 48 != 0);
}

static void damaged_tables_are_left_out(void **unused)
{
	static const char *const values[] = { "", "x", "RVLI", "RVLIRVLIRVLIRVLIRVLIRVLIRVLIRVLI" };

	make_file(at("l1/f"));
	stamp("l1/f", 4242);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(setxattr(at("l1"), "trusted.overlay.instances", values[i],
					  strlen(values[i]), 0),
				 0);
		assert_int_equal(open_index("l1", "u", "w", 0), 0);
		assert_true(lower_number(1, "f") == ino_of(at("l1/f")));
		close_index();
		assert_int_equal(sh("rm -r u w && mkdir u w"), 0);
	}
}

static void interrupted_claims_are_read_again(void **unused)
{
	/* Killed before the claims were marked as done: the next mount comes to the same numbers.
	 * */
	uint64_t born = use_as_upper("l1", "u", "w");
	int fd;

	assert_int_equal(sh("cp -a u u3 && mkdir u2 w2"), 0);
	assert_int_equal(open_index("u:u3:l1", "u2", "w2", 0), 0);
	for (unsigned i = 0; i < 2; i++)
		idx->state->lowers[i].flags &= ~(uint32_t)RVL_ROOT_CLAIMS_DONE;
	uint64_t loser = lower_number(2, "born");

	fd = open(at("w2/inodes"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_state_save(idx->state, fd, false), 0);
	close(fd);
	forget_index();
	assert_int_equal(open_index("u:u3:l1", "u2", "w2", 0), 0);
	assert_true(lower_number(1, "born") == born);
	assert_true(lower_number(2, "born") == loser);
}

static void options_are_escaped_for_the_user(void **unused)
{
	_Bool is_found;
	char *text;

	assert_int_equal(sh("mkdir 'l3,a:b' && mkdir 'u,2'"), 0);
	assert_int_equal(open_index("l1", "u,2", "w", 0), 0);
	text = rvl_bind_options(&stack);
	is_found = strstr(text, "/u\\,2,workdir=") != NULL;
	free(text);
	assert_true(is_found);
}

static void tables_come_back_and_damage_is_found(void **unused)
{
	struct rvl_table table = { .n = RVL_TABLE_ROWS_MAX }, out;
	uint8_t buf[RVL_TABLE_MAX_BYTES], digest[16];
	unsigned len;

	memset(table.uuid, 5, 16);
	for (unsigned i = 0; i < table.n; i++) {
		table.rows[i].id = (uint16_t)(i * 7);
		table.rows[i].digest[0] = (uint8_t)i;
	}
	len = rvl_table_encode(&table, buf);
	assert_true(len <= RVL_TABLE_MAX_BYTES);
	assert_int_equal(rvl_table_decode(buf, len, &out), 0);
	assert_int_equal(out.n, table.n);
	rvl_table_digest(&out, 7, digest);
	assert_int_equal(digest[0], 1);
	rvl_table_digest(&out, 8, digest); /* unknown: made of uuid and id */
	assert_memory_not_equal(digest, out.rows[1].digest, 16);
	for (unsigned i = 0; i < len * 8; i++) {
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(rvl_table_decode(buf, len, &out), -EUCLEAN);
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (unsigned i = 0; i < len; i++)
		assert_int_equal(rvl_table_decode(buf, i, &out), -EUCLEAN);
}

static void journal_records_come_back_and_damage_is_found(void **unused)
{
	struct rvl_real_id real = { .ino = UINT64_MAX - 3, .instance = 77 }, out;
	const struct rvl_id id = { 12345, 99 };
	uint8_t buf[RVL_REAL_RECORD_SIZE];
	struct rvl_id out_id;

	rvl_real_record_encode(&real, &id, buf);
	assert_int_equal(rvl_real_record_decode(buf, sizeof(buf), &out, &out_id), 0);
	assert_true(out.ino == real.ino && out.instance == 77);
	assert_true(out_id.number == 12345 && out_id.generation == 99);
	for (unsigned i = 0; i < sizeof(buf) * 8; i++) {
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(rvl_real_record_decode(buf, sizeof(buf), &out, &out_id), -EUCLEAN);
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(stamped_objects_keep_their_numbers),
		T(rotated_layers_keep_them_through_many_turns),
		T(the_topmost_claim_wins),
		T(names_of_one_inode_claim_once),
		T(a_claim_beats_arithmetic),
		T(forged_stamps_do_no_harm),
		T(ids_that_are_taken_are_translated),
		T(damaged_tables_are_left_out),
		T(interrupted_claims_are_read_again),
		T(options_are_escaped_for_the_user),
		T(tables_come_back_and_damage_is_found),
		T(journal_records_come_back_and_damage_is_found),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
