// SPDX-License-Identifier: GPL-2.0-or-later
/* The log: what survives, what is cut off, what is refused. */
#include "fixture.h"

static struct rvl_log *lg;
static int dir_fd = -1;

static void open_log(void)
{
	if (dir_fd < 0)
		dir_fd = open(at("w"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_log_open(dir_fd, true, false, &lg), 0);
}

static int log_teardown(void **state)
{
	rvl_log_close(lg);
	lg = NULL;
	if (dir_fd >= 0)
		close(dir_fd);
	dir_fd = -1;
	return case_teardown(state);
}

static uint64_t begin(enum rvl_log_op op, uint64_t number, const char *name)
{
	struct rvl_log_record record = { .op = op, .number = number, .at = { .parent = 1 } };
	uint64_t id;

	snprintf(record.at.name, sizeof(record.at.name), "%s", name);
	assert_int_equal(rvl_log_begin(lg, &record, &id), 0);
	return id;
}

struct seen {
	unsigned n;
	uint64_t numbers[64];
	struct rvl_log_record last;
	int result;
};

static int see(void *arg, const struct rvl_log_record *record)
{
	struct seen *seen = arg;

	if (seen->n < 64)
		seen->numbers[seen->n] = record->number;
	seen->n++;
	seen->last = *record;
	return seen->result;
}

static struct seen reopen_and_replay(void)
{
	struct seen seen = { 0 };

	rvl_log_close(lg);
	open_log();
	assert_int_equal(rvl_log_replay(lg, see, &seen), 0);
	return seen;
}

static void pending_records_are_replayed_in_order(void **unused)
{
	struct seen seen;
	uint64_t second;

	open_log();
	begin(RVL_LOG_CREATE, 11, "a");
	second = begin(RVL_LOG_CREATE, 12, "b");
	begin(RVL_LOG_OWED, 13, "c");
	rvl_log_end(lg, second);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 2);
	assert_int_equal(seen.numbers[0], 11);
	assert_int_equal(seen.numbers[1], 13);
	assert_int_equal(seen.last.op, RVL_LOG_OWED);
	assert_string_equal(seen.last.at.name, "c");
	/* Recovered: not there the next time. */
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 0);
}

/* What needs no END is seen again after a death, and gone after a close with nothing pending. */
static void dropped_records_go_with_a_close(void **unused)
{
	struct seen seen;
	uint64_t first, second;

	open_log();
	first = begin(RVL_LOG_CREATE, 11, "a");
	second = begin(RVL_LOG_CREATE, 12, "b");
	rvl_log_drop(lg, first);
	assert_int_equal(rvl_log_pending(lg), 1);
	seen = reopen_and_replay(); /* closed with one pending, as after a death */
	assert_int_equal(seen.n, 2);
	second = begin(RVL_LOG_CREATE, 13, "c");
	rvl_log_drop(lg, second);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 0);
}

static void all_fields_come_back(void **unused)
{
	struct rvl_log_record record = { .op = RVL_LOG_RENAME,
					 .flags = 2,
					 .number = 5,
					 .number2 = 6,
					 .at = { .parent = 7 },
					 .to = { .parent = 8 } };
	struct seen seen;
	uint64_t id;

	memset(record.at.name, 'x', NAME_MAX);
	memset(record.to.name, 'y', NAME_MAX);
	open_log();
	assert_int_equal(rvl_log_begin(lg, &record, &id), 0);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.last.flags, 2);
	assert_int_equal(seen.last.number2, 6);
	assert_int_equal(seen.last.to.parent, 8);
	assert_string_equal(seen.last.at.name, record.at.name);
	assert_string_equal(seen.last.to.name, record.to.name);
}

static void a_failed_recovery_is_kept(void **unused)
{
	struct seen seen = { .result = -EIO };

	open_log();
	begin(RVL_LOG_CREATE, 21, "a");
	begin(RVL_LOG_CREATE, 22, "b");
	rvl_log_close(lg);
	open_log();
	assert_int_equal(rvl_log_replay(lg, see, &seen), -EIO);
	assert_int_equal(seen.n, 1);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 2);
}

static void what_is_kept_does_not_stop_the_rest(void **unused)
{
	struct seen seen = { .result = 1 };

	open_log();
	begin(RVL_LOG_CREATE, 21, "a");
	begin(RVL_LOG_CREATE, 22, "b");
	rvl_log_close(lg);
	open_log();
	assert_int_equal(rvl_log_replay(lg, see, &seen), 0);
	assert_int_equal(seen.n, 2);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 2);
}

static void a_log_of_zeros_is_empty(void **unused)
{
	/* what ext4 leaves of a log that was cut to its header and never written out */
	struct seen seen;
	int fd;

	open_log();
	begin(RVL_LOG_CREATE, 21, "a");
	fd = open(at("w/log"), O_WRONLY | O_TRUNC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 200), 0);
	close(fd);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 0);
	begin(RVL_LOG_CREATE, 22, "b");
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 1);
}

static int log_more(void *arg, const struct rvl_log_record *record)
{
	unsigned *n = arg;

	(*n)++;
	if (record->number < 1000)
		begin(RVL_LOG_OWED, record->number + 1000, "again");
	return 0;
}

static void a_recovery_may_log(void **unused)
{
	/* What the callback begins is not replayed to it, but is there the next time. */
	struct seen seen;
	unsigned n = 0;

	open_log();
	begin(RVL_LOG_CREATE, 31, "a");
	rvl_log_close(lg);
	open_log();
	assert_int_equal(rvl_log_replay(lg, log_more, &n), 0);
	assert_int_equal(n, 1);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.numbers[0], 1031);
}

static void killed_processes_lose_nothing(void **unused)
{
	struct seen seen;
	int status;
	pid_t pid;

	open_log();
	rvl_log_close(lg);
	pid = fork();
	if (!pid) {
		open_log();
		for (unsigned i = 0; i < 50; i++)
			begin(RVL_LOG_CREATE, 100 + i, "f");
		_exit(0);
	}
	waitpid(pid, &status, 0);
	open_log();
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 50);
}

static void each_damaged_byte_stops_the_reading_there(void **unused)
{
	/* Any flipped bit: the records before it are as they were, it and those behind it are
	 * gone, nothing else. */
	static uint8_t data[4096], copy[4096];
	size_t len;

	open_log();
	for (unsigned i = 0; i < 5; i++)
		begin(RVL_LOG_CREATE, 40 + i, "name");
	rvl_log_close(lg);
	lg = NULL;
	len = read_whole(at("w/log"), data, sizeof(data));
	for (size_t i = 16; i < len; i++) {
		struct seen seen = { 0 };

		memcpy(copy, data, len);
		copy[i] ^= (uint8_t)(1 << (i % 8));
		write_whole(at("w/log"), copy, len);
		open_log();
		assert_int_equal(rvl_log_replay(lg, see, &seen), 0);
		assert_int_equal(seen.n, (i - 16) / ((len - 16) / 5));
		for (unsigned k = 0; k < seen.n; k++)
			assert_int_equal(seen.numbers[k], 40 + k);
		rvl_log_close(lg);
		lg = NULL;
	}
	for (size_t i = 0; i < 16; i++) {
		memcpy(copy, data, len);
		copy[i] ^= 0x40;
		write_whole(at("w/log"), copy, len);
		assert_true(rvl_log_open(dir_fd, true, false, &lg) < 0);
		lg = NULL;
	}
}

static void torn_ends_are_cut_and_appended_to(void **unused)
{
	/* Every length that a torn write can leave: sound records stay, and new ones are found
	 * behind them. */
	static uint8_t data[4096];
	size_t len;

	open_log();
	begin(RVL_LOG_CREATE, 51, "one");
	begin(RVL_LOG_CREATE, 52, "two");
	rvl_log_close(lg);
	lg = NULL;
	len = read_whole(at("w/log"), data, sizeof(data));
	for (size_t cut = 0; cut < len; cut++) {
		struct seen seen = { .result = 0 };

		write_whole(at("w/log"), data, cut);
		open_log();
		begin(RVL_LOG_CREATE, 53, "three");
		rvl_log_close(lg);
		open_log();
		assert_int_equal(rvl_log_replay(lg, see, &seen), 0);
		assert_int_equal(seen.numbers[seen.n - 1], 53);
		assert_int_equal(seen.n, cut < 16 + (len - 16) / 2 ? 1 : 2);
		rvl_log_close(lg);
		lg = NULL;
	}
}

static void hostile_records_are_refused(void **unused)
{
	/* Right checksums, wrong content: operations, numbers, names that no server wrote. */
	struct rvl_log_record good = { .op = RVL_LOG_CREATE, .number = 5, .at = { 1, "a" } }, out;
	uint8_t buf[RVL_LOG_RECORD_MAX];
	enum rvl_log_kind kind;
	uint64_t id;
	int len = rvl_log_record_encode(RVL_LOG_BEGIN, 1, &good, buf);

	assert_int_equal(rvl_log_record_decode(buf, (size_t)len, &kind, &id, &out), len);
	for (int i = 8; i < len; i++) {
		for (unsigned v = 0; v < 256; v += 51) {
			uint8_t old = buf[i];
			uint32_t sum;
			int r;

			buf[i] = (uint8_t)v;
			sum = htole32(rvl_checksum(buf + 8, (size_t)len - 8));
			memcpy(buf + 4, &sum, 4);
			r = rvl_log_record_decode(buf, (size_t)len, &kind, &id, &out);
			assert_true(r == len || r == -EUCLEAN);
			if (r == len) {
				assert_true(out.op > 0 && out.op < RVL_LOG_OP_N);
				assert_true(rvl_number_is_valid(out.number));
				assert_true(rvl_name_is_valid(out.at.name));
			}
			buf[i] = old;
		}
	}
	snprintf(good.at.name, sizeof(good.at.name), "../x");
	len = rvl_log_record_encode(RVL_LOG_BEGIN, 1, &good, buf);
	assert_int_equal(rvl_log_record_decode(buf, (size_t)len, &kind, &id, &out), -EUCLEAN);
}

static void the_file_stays_short(void **unused)
{
	/* Many operations one after another; and many with one that stays pending: it survives the
	 * rewriting. */
	struct seen seen;
	struct stat st;

	open_log();
	for (unsigned i = 0; i < 5000; i++)
		rvl_log_end(lg, begin(RVL_LOG_CREATE, 60, "x"));
	assert_int_equal(stat(at("w/log"), &st), 0);
	assert_true(st.st_size <= 65 << 10);
	begin(RVL_LOG_ORPHAN, 61, "kept");
	for (unsigned i = 0; i < 30000; i++)
		rvl_log_end(lg, begin(RVL_LOG_CREATE, 62, "x"));
	assert_int_equal(stat(at("w/log"), &st), 0);
	assert_true(st.st_size <= RVL_LOG_MAX_BYTES + 200);
	assert_int_equal(rvl_log_pending(lg), 1);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.numbers[0], 61);
}

static void full_disk_refuses_whole_records(void **unused)
{
	/* ENOSPC: begin fails, what was logged stays, the file has no half record. */
	struct rvl_log_record record = { .op = RVL_LOG_CREATE, .number = 71, .at = { 1, "x" } };
	unsigned n_ok = 0;
	struct seen seen;
	uint64_t id;
	int r = 0;

	need_mounts();
	assert_int_equal(sh("mkdir m && mount -t tmpfs -o size=64k none m"), 0);
	dir_fd = open(at("m"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	open_log();
	sh("head -c 48k /dev/zero > m/fill");
	while (!r && n_ok < 100000) {
		r = rvl_log_begin(lg, &record, &id);
		n_ok += !r;
	}
	assert_int_equal(r, -ENOSPC);
	sh("rm m/fill");
	assert_int_equal(rvl_log_begin(lg, &record, &id), 0);
	seen = reopen_and_replay();
	assert_int_equal(seen.n, n_ok + 1);
}

static void readers_change_nothing(void **unused)
{
	struct rvl_log_record record = { .op = RVL_LOG_CREATE, .number = 5, .at = { 1, "a" } };
	struct seen seen = { 0 };
	struct stat before, after;
	uint64_t id;

	open_log();
	begin(RVL_LOG_CREATE, 81, "a");
	rvl_log_close(lg);
	assert_int_equal(stat(at("w/log"), &before), 0);
	assert_int_equal(rvl_log_open(dir_fd, false, false, &lg), 0);
	assert_int_equal(rvl_log_begin(lg, &record, &id), -EROFS);
	assert_int_equal(rvl_log_replay(lg, see, &seen), 0);
	assert_int_equal(seen.n, 1);
	assert_int_equal(stat(at("w/log"), &after), 0);
	assert_int_equal(before.st_size, after.st_size);
}

#define L(f) cmocka_unit_test_teardown(f, log_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		L(pending_records_are_replayed_in_order),
		L(dropped_records_go_with_a_close),
		L(all_fields_come_back),
		L(a_failed_recovery_is_kept),
		L(what_is_kept_does_not_stop_the_rest),
		L(a_log_of_zeros_is_empty),
		L(a_recovery_may_log),
		L(killed_processes_lose_nothing),
		L(each_damaged_byte_stops_the_reading_there),
		L(torn_ends_are_cut_and_appended_to),
		L(hostile_records_are_refused),
		L(the_file_stays_short),
		L(full_disk_refuses_whole_records),
		L(readers_change_nothing),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
