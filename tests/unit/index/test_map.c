// SPDX-License-Identifier: GPL-2.0-or-later
/* The map: rows in memory and in LMDB, several places, damage, full disks, readers beside a
 * writer. */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fixture.h"
#include "index/map_private.h"

struct rows {
	unsigned n;
	struct rvl_map_row last;
	char names[256];
};

static int collect(void *arg, const struct rvl_map_row *row)
{
	struct rows *rows = arg;

	rows->n++;
	rows->last = *row;
	if (strlen(rows->names) + strlen(row->at.name) + 2 < sizeof(rows->names)) {
		strcat(rows->names, row->at.name);
		strcat(rows->names, " ");
	}
	return 0;
}

static struct rows get(uint64_t number)
{
	struct rows rows = { 0 };
	int r = rvl_map_get(idx, number, collect, &rows);

	assert_int_equal(r, rows.n ? 0 : -ENOENT);
	return rows;
}

static void put(uint64_t number, uint64_t parent, const char *name, uint32_t generation)
{
	struct rvl_map_row row = { .generation = generation, .at = { .parent = parent } };

	snprintf(row.at.name, sizeof(row.at.name), "%s", name);
	assert_int_equal(rvl_map_put(idx, number, &row), 0);
}

static void rows_are_found_before_and_after_the_flush(void **unused)
{
	for (int pass = 0; pass < 3; pass++) {
		const char *work = pass == 2 ? NULL : "w";

		assert_int_equal(open_index("l1", pass == 2 ? NULL : "u", work, 0), 0);
		if (pass != 1) {
			put(100, 1, "a", 7);
			put(100, 2, "b", 7);
			put(100, 1, "a", 7);
			put(101, 1, "c", 0);
		}
		for (int flushed = 0; flushed < 2; flushed++) {
			assert_int_equal(get(100).n, 2);
			assert_string_equal(get(101).names, "c ");
			assert_int_equal(get(102).n, 0);
			assert_int_equal(rvl_map_flush(idx), 0);
		}
		close_index();
	}
	assert_int_equal(sh("test -e w/inodes/map.mdb"), 0);
}

static void a_generation_is_never_lost(void **unused)
{
	/* The walk's rows have none (0) and must not replace a known one; a known one replaces 0.
	 * */
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	for (int flushed = 0; flushed < 2; flushed++) {
		uint64_t number = 200 + (uint64_t)flushed;

		put(number, 1, "a", 0);
		if (flushed)
			assert_int_equal(rvl_map_flush(idx), 0);
		put(number, 1, "a", 9);
		assert_int_equal(rvl_map_flush(idx), 0);
		put(number, 1, "a", 0);
		assert_int_equal(rvl_map_flush(idx), 0);
		assert_int_equal(get(number).n, 1);
		assert_int_equal(get(number).last.generation, 9);
	}
}

static void similar_names_are_different_places(void **unused)
{
	/* Names that are a beginning of another one, and long ones. */
	char name[NAME_MAX + 1] = "";

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	for (unsigned i = 0; i < NAME_MAX; i++) {
		name[i] = 'a';
		put(300, 1, name, i + 1);
		if (i % 10 == 0)
			assert_int_equal(rvl_map_flush(idx), 0);
	}
	assert_int_equal(get(300).n, NAME_MAX);
	assert_int_equal(rvl_map_flush(idx), 0);
	assert_int_equal(get(300).n, NAME_MAX);
}

static int put_more(void *arg, const struct rvl_map_row *row)
{
	struct rows rows = { 0 };

	put(401, 1, "more", 1);
	assert_int_equal(rvl_map_flush(idx), 0);
	assert_int_equal(rvl_map_get(idx, 401, collect, &rows), 0);
	return 42;
}

static void callbacks_may_use_the_map(void **unused)
{
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	put(400, 1, "x", 1);
	assert_int_equal(rvl_map_flush(idx), 0);
	assert_int_equal(rvl_map_get(idx, 400, put_more, NULL), 42);
}

static void wrong_rows_are_not_taken(void **unused)
{
	struct rvl_map_row row = { .at = { 1, "x/y" } };

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_map_put(idx, 5, &row), -EINVAL);
	strcpy(row.at.name, "x");
	assert_int_equal(rvl_map_put(idx, 0, &row), -EINVAL);
	row.at.parent = 1ULL << 63;
	assert_int_equal(rvl_map_put(idx, 5, &row), -EINVAL);
}

static void hostile_rows_are_refused(void **unused)
{
	uint8_t buf[RVL_MAP_ROW_MAX + 8];
	struct rvl_map_row out;
	const struct rvl_map_row row = { 3, DT_REG, { 7, "name" } };
	unsigned len = rvl_map_row_encode(&row, buf);

	assert_int_equal(rvl_map_row_decode(buf, len, &out), 0);
	assert_memory_equal(&out, &row, sizeof(out.generation) + sizeof(out.type));
	assert_int_equal(out.at.parent, 7);
	assert_string_equal(out.at.name, "name");
	for (unsigned i = 0; i < len; i++)
		assert_int_equal(rvl_map_row_decode(buf, i, &out), -EUCLEAN);
	for (unsigned i = 0; i < len; i++) {
		for (unsigned v = 0; v < 256; v++) {
			uint8_t old = buf[i];
			int r;

			buf[i] = (uint8_t)v;
			r = rvl_map_row_decode(buf, len, &out);
			assert_true(r == -EUCLEAN || (r == 0 && rvl_name_is_valid(out.at.name)));
			buf[i] = old;
		}
	}
}

static void foreign_and_damaged_files_are_made_anew(void **unused)
{
	static const char *const commands[] = {
		"echo nonsense > w/inodes/map.mdb",
		"truncate -s 4096 w/inodes/map.mdb",
		"truncate -s 8192 w/inodes/map.mdb",
		"head -c 16384 /dev/urandom > w/inodes/map.mdb",
		"rm w/inodes/map.mdb && mkfifo w/inodes/map.mdb",
		"rm w/inodes/map.mdb && ln -s /etc/passwd w/inodes/map.mdb",
		": > w/inodes/map.mdb",
	};

	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		assert_int_equal(open_index("l1", "u", "w", 0), 0);
		for (uint64_t n = 500; n < 600; n++)
			put(n, 1, "x", 1);
		assert_int_equal(rvl_map_flush(idx), 0);
		close_index();
		assert_int_equal(sh("%s", commands[i]), 0);
		assert_int_equal(open_index("l1", "u", "w", RO), 0);
		assert_int_equal(get(550).n, 0);
		close_index();
		assert_int_equal(open_index("l1", "u", "w", 0), 0);
		assert_int_equal(get(550).n, 0);
		put(550, 1, "again", 1);
		assert_int_equal(rvl_map_flush(idx), 0);
		assert_string_equal(get(550).names, "again ");
		close_index();
	}
}

static void damage_within_is_found_by_the_seal(void **unused)
{
	/* Any changed byte after a clean close: the map is made anew, or, read-only, not used. After a
	 * crash there is no seal, and a damaged seal is none. */
	static uint8_t file[4 << 20], bad[4 << 20];
	size_t len;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	for (uint64_t i = 0; i < 5000; i++)
		put(1000 + i, 1 + i % 7, "some name of a file", 9);
	close_index();
	len = read_whole(at("w/inodes/map.mdb"), file, sizeof(file));
	assert_true(len > 100000 && len < sizeof(file));
	assert_int_equal(sh("cp -a w w.good"), 0);
	for (size_t at_byte = 0; at_byte < len; at_byte += len / 23) {
		for (int flags = RO; flags >= 0; flags -= RO) {
			memcpy(bad, file, len);
			bad[at_byte] ^= 0x40;
			write_whole(at("w/inodes/map.mdb"), bad, len);
			assert_int_equal(sh("cp -a w.good/inodes/map.seal w/inodes/"), 0);
			assert_int_equal(open_index("l1", "u", "w", flags), 0);
			assert_int_equal(get(1000).n, 0);
			if (!flags) {
				put(7, 1, "new", 1);
				assert_true(idx->map->was_discarded);
			}
			close_index();
		}
		assert_int_equal(open_index("l1", "u", "w", 0), 0);
		assert_int_equal(get(7).n, 1);
		assert_int_equal(access(at("w/inodes/map.seal"), F_OK), -1);
		close_index();
	}
	/* a crash, then a sound open without a seal */
	write_whole(at("w/inodes/map.mdb"), file, len);
	assert_int_equal(sh("cp -a w.good/inodes/map.seal w/inodes/"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(get(1000).n, 1);
	forget_index();
	assert_int_equal(access(at("w/inodes/map.seal"), F_OK), -1);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(get(1000).n, 1);
	close_index();
	assert_int_equal(sh("echo x >w/inodes/map.seal"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(get(1000).n, 1);
}

static void maps_of_another_overlay_are_not_used(void **unused)
{
	assert_int_equal(sh("mkdir u2 w2"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	put(600, 1, "x", 1);
	close_index();
	assert_int_equal(open_index("l1", "u2", "w2", 0), 0);
	close_index();
	assert_int_equal(sh("cp w/inodes/map.mdb w2/inodes/"), 0);
	assert_int_equal(open_index("l1", "u2", "w2", 0), 0);
	assert_int_equal(get(600).n, 0);
}

static void read_only_mounts_add_in_memory(void **unused)
{
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	put(700, 1, "stored", 1);
	close_index();
	assert_int_equal(open_index("l1", "u", "w", RO), 0);
	put(700, 1, "mine", 1);
	put(701, 1, "other", 1);
	assert_int_equal(rvl_map_flush(idx), 0);
	assert_int_equal(get(700).n, 2);
	assert_int_equal(get(701).n, 1);
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(get(700).n, 1);
	assert_int_equal(get(701).n, 0);
}

static void full_disk_stops_no_reader(void **unused)
{
	/* Rows that cannot be written stay in memory and are found; with room they are written. */
	char name[32];

	need_mounts();
	assert_int_equal(sh("mkdir m && mount -t tmpfs -o size=1m none m && mkdir m/u m/w"), 0);
	assert_int_equal(open_index("l1", "m/u", "m/w", 0), 0);
	put(800, 1, "first", 1);
	assert_int_equal(rvl_map_flush(idx), 0);
	sh("head -c 2M /dev/zero > m/fill 2>/dev/null");
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), "%u", i);
		put(801 + i, 1, name, 1);
	}
	assert_int_equal(rvl_map_flush(idx), -ENOSPC);
	assert_string_equal(get(800).names, "first ");
	assert_string_equal(get(801 + 19999).names, "19999 ");
	assert_int_equal(sh("rm m/fill && mount -o remount,size=64m m"), 0);
	assert_int_equal(rvl_map_flush(idx), 0);
	assert_string_equal(get(801 + 19999).names, "19999 ");
	close_index();
	assert_int_equal(open_index("l1", "m/u", "m/w", 0), 0);
	assert_string_equal(get(801 + 5).names, "5 ");
}

static void little_address_space_is_enough(void **unused)
{
	/* RLIMIT_AS: the map is made smaller than its usual 1 TiB. */
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (system("true") || open_index("l1", "u", "w", 0))
			_exit(1);
		put(900, 1, "x", 1);
		_exit(rvl_map_flush(idx) || get(900).n != 1);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

static _Atomic bool stop_threads;

static void *read_all(void *arg)
{
	unsigned *n_wrong = arg;

	while (!stop_threads) {
		for (uint64_t n = 1000; n < 1100; n++) {
			struct rows rows = { 0 };

			if (rvl_map_get(idx, n, collect, &rows) || rows.n < 1 ||
			    rows.last.at.parent != n)
				(*n_wrong)++;
		}
	}
	return NULL;
}

static void readers_see_whole_snapshots_beside_a_writer(void **unused)
{
	/* Small transactions one after another reuse pages at once: readers must never see such a
	 * page. */
	unsigned n_wrong[3] = { 0 };
	pthread_t threads[3];
	char name[32];

	assert_int_equal(open_index("l1", "u", "w", VOLATILE), 0);
	for (uint64_t n = 1000; n < 1100; n++)
		put(n, n, "stable", 1);
	assert_int_equal(rvl_map_flush(idx), 0);
	stop_threads = false;
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_all, &n_wrong[i]), 0);
	for (unsigned i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "%u", i);
		put(1000 + i % 100, 1000 + i % 100, i % 2 ? name : "stable", i);
		put(5000 + i, 1, name, 1);
		assert_int_equal(rvl_map_flush(idx), 0);
	}
	stop_threads = true;
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(n_wrong[i], 0);
	}
}

static void killed_writers_leave_a_sound_map(void **unused)
{
	/* Killed between or in transactions: all that was flushed is there. */
	for (int round = 0; round < 5; round++) {
		int fds[2], status;
		unsigned last = 0, n;
		pid_t pid;

		assert_int_equal(pipe(fds), 0);
		pid = fork();
		if (!pid) {
			if (open_index("l1", "u", "w", 0))
				_exit(1);
			for (n = 1;; n++) {
				char name[32];

				snprintf(name, sizeof(name), "%u", n);
				for (unsigned k = 0; k < 50; k++)
					put(10000 + n * 50 + k, 1, name, 1);
				if (rvl_map_flush(idx) || write(fds[1], &n, sizeof(n)) < 0)
					_exit(1);
			}
		}
		close(fds[1]);
		while (last < 20 + (unsigned)round && read(fds[0], &n, sizeof(n)) == sizeof(n))
			last = n;
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		while (read(fds[0], &n, sizeof(n)) == sizeof(n))
			last = n;
		close(fds[0]);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(open_index("l1", "u", "w", 0), 0);
		for (n = 1; n <= last; n++)
			assert_int_equal(get(10000 + n * 50).n, 1);
		close_index();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(rows_are_found_before_and_after_the_flush),
		T(a_generation_is_never_lost),
		T(similar_names_are_different_places),
		T(callbacks_may_use_the_map),
		T(wrong_rows_are_not_taken),
		T(hostile_rows_are_refused),
		T(foreign_and_damaged_files_are_made_anew),
		T(damage_within_is_found_by_the_seal),
		T(maps_of_another_overlay_are_not_used),
		T(read_only_mounts_add_in_memory),
		T(full_disk_stops_no_reader),
		T(little_address_space_is_enough),
		T(readers_see_whole_snapshots_beside_a_writer),
		T(killed_writers_leave_a_sound_map),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
