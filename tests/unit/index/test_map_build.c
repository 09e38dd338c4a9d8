// SPDX-License-Identifier: GPL-2.0-or-later
/* The walk of the merged lower view. */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/counters.h"
#include "fixture.h"
#include "index/map_private.h"
#include "layer/merge.h"

struct places {
	unsigned n;
	char text[4096]; /* "parent/name " each */
};

static int collect(void *arg, const struct rvl_map_row *row)
{
	struct places *places = arg;
	size_t len = strlen(places->text);

	places->n++;
	snprintf(places->text + len, sizeof(places->text) - len, "%llu/%s ",
		 (unsigned long long)row->at.parent, row->at.name);
	return 0;
}

static struct places get(uint64_t number)
{
	struct places places = { 0 };
	int r = rvl_map_get(idx, number, collect, &places);

	assert_int_equal(r, places.n ? 0 : -ENOENT);
	return places;
}

static void build(void)
{
	assert_int_equal(rvl_map_build(idx, NULL), 0);
	assert_true(rvl_map_is_complete(idx));
}

static void the_merged_view_is_what_is_walked(void **unused)
{
	/* Merged directories, whiteouts, opaque ones and what lies under a file: once, and only if
	 * visible. */
	uint64_t a, hidden, seen, link;
	char expected[128];

	assert_int_equal(
		sh("mkdir l1/a l2/a l1/o l2/o && touch l1/a/x l2/a/y l2/a/gone l2/o/hidden l1/o/seen l2/f && "
		   "ln l2/a/y l2/z && mkdir -p l2/p/q && mknod l1/a/gone c 0 0 && "
		   "setfattr -n trusted.overlay.opaque -v y l1/o && touch l1/p"),
		0);
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	build();
	a = lower_number(1, "a");
	assert_int_equal(get(a).n, 1);
	assert_string_equal(get(a).text, "1/a ");
	assert_int_equal(get(lower_number(2, "a")).n,
			 0); /* the lower part of it has no number of its own */
	hidden = lower_number(2, "o/hidden");
	seen = lower_number(1, "o/seen");
	assert_int_equal(get(hidden).n, 0);
	assert_int_equal(get(seen).n, 1);
	assert_int_equal(get(lower_number(2, "a/gone")).n, 0);
	assert_int_equal(get(lower_number(2, "p/q")).n, 0);
	link = lower_number(2, "z");
	assert_int_equal(get(link).n, 2); /* both names of a hard link */
	snprintf(expected, sizeof(expected), "%llu/y ", (unsigned long long)a);
	assert_non_null(strstr(get(link).text, expected));
	assert_non_null(strstr(get(link).text, "1/z "));
}

static int check_type(void *arg, const struct rvl_map_row *row)
{
	assert_int_equal(row->type, *(const uint8_t *)arg);
	return 0;
}

static int check_generation(void *arg, const struct rvl_map_row *row)
{
	const struct rvl_id *id = arg;

	assert_int_equal(row->generation, id->generation);
	return 0;
}

static void rows_tell_generation_and_type(void **unused)
{
	/* What a copy of the layers loses: the row has it, of files as of directories. */
	static const char *const names[] = { "f", "d", "s" };
	static uint8_t types[] = { DT_REG, DT_DIR, DT_LNK };

	assert_int_equal(sh("touch l1/f && mkdir l1/d && ln -s f l1/s"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	build();
	for (unsigned i = 0; i < 3; i++) {
		struct rvl_id id;

		assert_int_equal(lower_id(1, names[i], &id), 0);
		assert_int_not_equal(id.generation, 0);
		assert_int_equal(rvl_map_get(idx, id.number, check_generation, &id), 0);
		assert_int_equal(rvl_map_get(idx, id.number, check_type, &types[i]), 0);
	}
}

static void redirects_are_settled(void **unused)
{
	uint64_t moved;

	assert_int_equal(
		sh("mkdir -p l2/old/sub && touch l2/old/sub/f && mkdir l1/new && "
		   "setfattr -n trusted.overlay.redirect -v /old l1/new && mknod l1/old c 0 0"),
		0);
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	build();
	moved = lower_number(1, "new");
	assert_string_equal(get(moved).text, "1/new ");
	assert_int_equal(get(lower_number(2, "old/sub")).n, 1);
	assert_int_equal(get(lower_number(2, "old/sub/f")).n, 1);
	assert_int_equal(get(lower_number(2, "old")).n, 0);
}

static void it_is_kept_and_not_built_again(void **unused)
{
	struct stat before, after;

	assert_int_equal(sh("touch l1/a l1/b"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_false(rvl_map_is_complete(idx));
	build();
	close_index();
	assert_int_equal(stat(at("w/inodes/map.mdb"), &before), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_true(rvl_map_is_complete(idx));
	build();
	assert_int_equal(get(ino_of(at("l1/a"))).n, 1);
	close_index();
	assert_int_equal(stat(at("w/inodes/map.mdb"), &after), 0);
	assert_true(before.st_mtim.tv_nsec == after.st_mtim.tv_nsec &&
		    before.st_size == after.st_size);
	assert_int_equal(open_index("l1", "u", "w", RO), 0);
	assert_true(rvl_map_is_complete(idx));
	assert_int_equal(get(ino_of(at("l1/b"))).n, 1);
}

static void a_stopped_walk_goes_on(void **unused)
{
	_Atomic bool stop = true;

	assert_int_equal(sh("for d in 1 2 3; do mkdir l1/$d; touch l1/$d/a l1/$d/b; done"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_map_build(idx, &stop), 0);
	assert_false(rvl_map_is_complete(idx));
	stop = false;
	assert_int_equal(rvl_map_build(idx, &stop), 0);
	assert_true(rvl_map_is_complete(idx));
	assert_false(rvl_map_has_gaps(idx));
	assert_int_equal(rvl_counters.map_names, 9);
	assert_int_equal(rvl_counters.map_is_complete, 1);
	assert_int_equal(get(ino_of(at("l1/3/b"))).n, 1);
}

static void what_a_stopped_walk_did_is_kept(void **unused)
{
	/* One step at a time: some files are in before all directories are. */
	_Atomic bool stop = true;
	unsigned n = 0;

	assert_int_equal(sh("for d in 1 2 3; do mkdir l1/$d; touch l1/$d/a l1/$d/b; done"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	while (n == 0 && !rvl_map_is_complete(idx)) {
		assert_int_equal(rvl_map_build(idx, &stop), 0);
		for (int d = 1; d <= 3; d++)
			n += get(ino_of(at("l1/%d/a", d))).n;
	}
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_false(rvl_map_is_complete(idx));
	for (int d = 1; d <= 3; d++)
		n -= get(ino_of(at("l1/%d/b", d))).n;
	assert_int_equal(n, 0);
}

static void without_a_workdir_it_is_in_memory(void **unused)
{
	assert_int_equal(sh("mkdir l1/d && touch l1/d/f"), 0);
	assert_int_equal(open_index("l1:l2", NULL, NULL, 0), 0);
	build();
	assert_int_equal(get(lower_number(1, "d/f")).n, 1);
}

static void no_lowers_are_complete_at_once(void **unused)
{
	assert_int_equal(sh("mkdir empty"), 0);
	assert_int_equal(open_index("empty", "u", "w", 0), 0);
	build();
}

static void damaged_directories_are_left_out(void **unused)
{
	assert_int_equal(
		sh("mkdir l1/bad l1/good && touch l1/good/f l1/bad/f && "
		   "setfattr -n trusted.overlay.redirect -v '/../x' l1/bad && mkdir l2/bad"),
		0);
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	build();
	assert_int_equal(get(ino_of(at("l1/good/f"))).n, 1);
	assert_int_equal(get(ino_of(at("l1/bad/f"))).n, 0);
	assert_true(rvl_map_has_gaps(idx));
	close_index();
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	assert_true(rvl_map_is_complete(idx));
	assert_true(rvl_map_has_gaps(idx));
}

static void deep_trees_are_walked(void **unused)
{
	/* Deeper than PATH_MAX. */
	int fd = open(at("l1"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[200];
	uint64_t ino;
	struct stat st;

	memset(name, 'd', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	for (int i = 0; i < 40; i++) {
		int child;

		assert_int_equal(mkdirat(fd, name, 0755), 0);
		child = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = child;
	}
	assert_int_equal(fstat(fd, &st), 0);
	ino = st.st_ino;
	close(fd);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	build();
	assert_int_equal(get(ino).n, 1);
}

static void on_a_full_disk_it_is_in_memory(void **unused)
{
	/* All is found; the next mount goes on with what there is room for. */
	need_mounts();
	assert_int_equal(sh("mkdir m && mount -t tmpfs -o size=1m none m && mkdir m/u m/w && "
			    "cd l1 && seq 30000 | xargs touch"),
			 0);
	for (int pass = 0; pass < 2; pass++) {
		assert_int_equal(open_index("l1", "m/u", "m/w", 0), 0);
		assert_false(rvl_map_is_complete(idx));
		build();
		assert_true(idx->map->is_in_memory == (pass == 0));
		assert_int_equal(get(ino_of(at("l1/777"))).n, 1);
		assert_int_equal(get(ino_of(at("l1/29999"))).n, 1);
		if (pass == 0)
			assert_int_equal(sh("mount -o remount,size=64m m"), 0);
		close_index();
	}
	assert_int_equal(open_index("l1", "m/u", "m/w", 0), 0);
	assert_true(rvl_map_is_complete(idx));
}

static void a_row_takes_no_more_than_64_bytes_and_its_name(void **unused)
{
	struct timespec t0, t1;
	unsigned n = 50 * 1000;
	struct stat st;
	double s;

	assert_int_equal(
		sh("for d in $(seq 50); do mkdir l1/$d; (cd l1/$d && seq 10000 10999 | xargs touch); done"),
		0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	build();
	clock_gettime(CLOCK_MONOTONIC, &t1);
	s = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
	assert_int_equal(stat(at("w/inodes/map.mdb"), &st), 0);
	print_message("# %u files: %.0f files/s, %.1f bytes a file\n", n, n / s,
		      (double)st.st_blocks * 512 / n);
	assert_true(st.st_blocks * 512 <= n * (64 + 5));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_merged_view_is_what_is_walked),
		T(rows_tell_generation_and_type),
		T(redirects_are_settled),
		T(it_is_kept_and_not_built_again),
		T(a_stopped_walk_goes_on),
		T(what_a_stopped_walk_did_is_kept),
		T(without_a_workdir_it_is_in_memory),
		T(no_lowers_are_complete_at_once),
		T(damaged_directories_are_left_out),
		T(deep_trees_are_walked),
		T(on_a_full_disk_it_is_in_memory),
		T(a_row_takes_no_more_than_64_bytes_and_its_name),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
