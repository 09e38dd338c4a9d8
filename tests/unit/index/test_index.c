// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening and closing the index: first mount, second mount, what is refused, what is left alone. */
#include "fixture.h"

static void first_mount_makes_state_and_table(void **unused)
{
	uint8_t uuid[16];
	struct stat st;

	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	assert_int_equal(stat(at("w/inodes/state"), &st), 0);
	assert_int_equal(stat(at("w/work"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_true(getxattr(at("u"), "trusted.overlay.instances", NULL, 0) > 0);
	assert_int_not_equal(access(at("w/inodes/map.mdb"), F_OK), 0); /* not before it is needed */
	assert_false(idx->is_incomplete);
	memcpy(uuid, idx->uuid, 16);
	close_index();
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	assert_memory_equal(uuid, idx->uuid, 16);
}

static void numbers_of_the_topmost_lower_are_the_real_ones(void **unused)
{
	make_file(at("l1/f"));
	make_file(at("l2/g"));
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	assert_int_equal(lower_number(1, "f"), ino_of(at("l1/f")));
	assert_int_equal(lower_number(2, "g"), ino_of(at("l2/g")));
	assert_int_equal(lower_number(1, ""), RVL_NUMBER_ROOT);
	assert_int_equal(lower_number(2, ""), RVL_NUMBER_ROOT);
}

static void born_numbers_never_repeat(void **unused)
{
	/* Over a clean close they go on exactly; after a kill some are skipped, none comes twice.
	 * */
	struct rvl_id id, next;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_number_born(idx, &id), 0);
	assert_true(rvl_number_is_born(idx, id.number));
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_number_born(idx, &next), 0);
	assert_true(next.number == id.number + 1);
	assert_int_equal(next.generation, id.generation);
	close_index();

	for (int round = 0; round < 3; round++) {
		int fds[2], status;
		pid_t pid;

		assert_int_equal(pipe(fds), 0);
		pid = fork();
		if (!pid) {
			if (open_index("l1", "u", "w", 0))
				_exit(1);
			for (int i = 0; i < 1000; i++)
				if (rvl_number_born(idx, &id))
					_exit(1);
			if (write(fds[1], &id, sizeof(id)) != sizeof(id))
				_exit(1);
			_exit(0);
		}
		waitpid(pid, &status, 0);
		assert_int_equal(status, 0);
		assert_int_equal(read(fds[0], &id, sizeof(id)), sizeof(id));
		close(fds[0]);
		close(fds[1]);
		assert_true(id.number > next.number + 999);
		next = id;
	}
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_number_born(idx, &id), 0);
	assert_true(id.number > next.number);
}

static void copies_are_refused(void **unused)
{
	/* cp -a of upper or workdir: another inode, so not the overlay's own. */
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	close_index();
	assert_int_equal(sh("cp -a u u2 && cp -a w w2"), 0);
	assert_int_equal(open_index("l1", "u2", "w2", 0), -ESTALE);
	assert_int_equal(open_index("l1", "u", "w2", 0), -ESTALE);
	assert_int_equal(open_index("l1", "u2", "w", 0), -ESTALE);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
}

static void moved_directories_are_the_same(void **unused)
{
	/* A rename of the directories keeps handles: no rebind. */
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	close_index();
	assert_int_equal(sh("mv u uu && mv w ww && mv l1 ll"), 0);
	assert_int_equal(open_index("ll", "uu", "ww", 0), 0);
	assert_string_equal(idx->state->lowers[0].path, at("ll"));
}

static void other_lowers_are_refused(void **unused)
{
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), -ESTALE);
	assert_int_equal(open_index("l2:l1", "u", "w", 0), -ESTALE);
	assert_int_equal(sh("cp -a l1 l3"), 0);
	assert_int_equal(open_index("l3:l2", "u", "w", 0), -ESTALE);
	assert_int_equal(open_index("l1:l2", "u", "w", 0), 0);
}

static void upper_without_its_index_is_refused(void **unused)
{
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	close_index();
	assert_int_equal(sh("rm -r w && mkdir w"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), -ESTALE);
	assert_int_equal(open_index("l1", "u", "w", RO), -ESTALE);
}

static void kernel_made_uppers_are_taken(void **unused)
{
	/* What the kernel's overlay left in upper and workdir: its index stays. */
	assert_int_equal(
		sh("mkdir w/index w/work && touch w/index/00fb w/work/left && mkdir -p w/work/a/b/c && "
		   "touch u/file && mknod u/gone c 0 0"),
		0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(access(at("w/index/00fb"), F_OK), 0);
	assert_int_not_equal(access(at("w/work/left"), F_OK), 0);
	assert_int_not_equal(access(at("w/work/a"), F_OK), 0);
}

static void volatile_leftovers_are_refused(void **unused)
{
	assert_int_equal(open_index("l1", "u", "w", VOLATILE), 0);
	close_index();
	assert_int_equal(access(at("w/work/incompat/volatile"), F_OK), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), -EINVAL);
	assert_int_equal(open_index("l1", "u", "w", RO), -EINVAL);
	/* a tool may look */
	assert_int_equal(open_index("l1", "u", "w", RO | OFFLINE), 0);
	close_index();
	assert_int_equal(rmdir(at("w/work/incompat/volatile")), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
}

static void damaged_and_newer_states_are_refused(void **unused)
{
	static uint8_t data[8192];
	uint64_t sum;
	size_t len;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	close_index();
	len = read_whole(at("w/inodes/state"), data, sizeof(data));
	data[100] ^= 1;
	write_whole(at("w/inodes/state"), data, len);
	assert_int_equal(open_index("l1", "u", "w", 0), -EUCLEAN);
	data[100] ^= 1;
	data[16] = 99;
	sum = htole64(rvl_hash(data + 16, len - 16));
	memcpy(data + 8, &sum, 8);
	write_whole(at("w/inodes/state"), data, len);
	assert_int_equal(open_index("l1", "u", "w", 0), -EPROTONOSUPPORT);
}

static unsigned long tree_sum(const char *what)
{
	char command[512], text[64];
	FILE *f;

	snprintf(command, sizeof(command),
		 "cd %s && { find %s -printf '%%p %%i %%m %%s %%T@ %%C@\\n' | sort; } | cksum",
		 fixture_dir, what);
	f = popen(command, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	return strtoul(text, NULL, 10);
}

static void read_only_use_changes_nothing(void **unused)
{
	unsigned long before = tree_sum("u w l1");

	make_file(at("l1/f"));
	before = tree_sum("u w l1");
	assert_int_equal(open_index("l1", "u", "w", RO), 0);
	lower_number(1, "f");
	close_index();
	assert_true(before == tree_sum("u w l1"));

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	close_index();
	before = tree_sum("u w l1");
	for (int flags = RO; flags <= OFFLINE; flags++) {
		struct rvl_map_row row = { .generation = 1, .at = { 1, "f" } };

		assert_int_equal(open_index("l1", "u", "w", flags), 0);
		lower_number(1, "f");
		assert_int_equal(rvl_map_put(idx, 55, &row), 0);
		assert_int_equal(rvl_map_build(idx, NULL), 0);
		assert_int_equal(rvl_entry_bury(idx, 5, true), -EROFS);
		close_index();
		assert_true(before == tree_sum("u w l1"));
	}
}

static void without_workdir_numbers_and_offsets_are_the_same_again(void **unused)
{
	/* Nothing is stored, so identity is derived from the layers: handles and offsets hold over
	 * a remount. */
	struct rvl_secret secret;
	struct rvl_id id, again;

	make_file(at("l1/f"));
	assert_int_equal(open_index("l1:l2", NULL, NULL, 0), 0);
	assert_int_equal(lower_id(1, "f", &id), 0);
	secret = idx->secret;
	close_index();
	assert_int_equal(open_index("l1:l2", NULL, NULL, 0), 0);
	assert_int_equal(lower_id(1, "f", &again), 0);
	assert_true(id.number == again.number && id.generation == again.generation);
	assert_memory_equal(&secret, &idx->secret, sizeof(secret));
	close_index();
	assert_int_equal(open_index("l2:l1", NULL, NULL, 0), 0);
	assert_int_equal(lower_id(2, "f", &again), 0);
	assert_true(id.generation != again.generation);
}

static void workdir_without_upper_keeps_the_state(void **unused)
{
	uint8_t uuid[16];

	assert_int_equal(open_index("l1", NULL, "w", 0), 0);
	memcpy(uuid, idx->uuid, 16);
	close_index();
	assert_int_equal(open_index("l1", NULL, "w", 0), 0);
	assert_memory_equal(uuid, idx->uuid, 16);
	close_index();
	/* An upper may be added to it. */
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_memory_equal(uuid, idx->uuid, 16);
	close_index();
	assert_int_equal(open_index("l1", NULL, "w", 0), -ESTALE);
}

static void unclean_stops_are_told_apart(void **unused)
{
	/* Killed in this boot: not unclean of the machine. Another boot id and no clean mark: it
	 * is. */
	int fd;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	forget_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_false(idx->is_incomplete);
	idx->state->boot_id[0] ^= 1;
	fd = open(at("w/inodes"), O_RDONLY | O_DIRECTORY);
	assert_int_equal(rvl_state_save(idx->state, fd, false), 0);
	close(fd);
	forget_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_true(idx->is_incomplete);
	/* and stays so over clean ends, until somebody says that it is complete again */
	close_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_true(idx->is_incomplete);
	rvl_index_completed(idx);
	forget_index();
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_false(idx->is_incomplete);
	close_index();
}

static void full_disk_at_open_is_an_error(void **unused)
{
	need_mounts();
	assert_int_equal(sh("mkdir m && mount -t tmpfs -o size=256k none m && mkdir m/u m/w"), 0);
	sh("head -c 1M /dev/zero > m/fill 2>/dev/null");
	assert_int_equal(open_index("l1", "m/u", "m/w", 0), -ENOSPC);
	assert_int_equal(sh("rm m/fill"), 0);
	assert_int_equal(open_index("l1", "m/u", "m/w", 0), 0);
}

/* What a user without any privilege can do with userxattr. The child's exit code is the line that
 * failed. */
static int live_without_privileges(void)
{
	struct rvl_entry_directory dir = { .path = { 1, "name" } }, out;
	enum rvl_entry_kind kind;
	struct statx st;
	struct rvl_id id;
	struct stat link;

#define MUST(x)                                    \
	do {                                       \
		if (!(x))                          \
			return __LINE__ % 255 + 1; \
	} while (0)
	MUST(!setresgid(65534, 65534, 65534) && !setresuid(65534, 65534, 65534));
	for (int round = 0; round < 2; round++) {
		MUST(!open_index("l1", "u", "w", USERXATTR));
		MUST(!rvl_number_born(idx, &id));
		MUST(!rvl_entry_put_directory(idx, 5000, &dir, true));
		MUST(!rvl_entry_set_path(idx, 5000, &(struct rvl_name_at){ 1, "other" }));
		MUST(!rvl_entry_get_directory(idx, 5000, &out) && !strcmp(out.path.name, "other"));
		MUST(!rvl_entry_look(idx, 5000, &kind, &st) && kind == RVL_ENTRY_DIRECTORY);
		MUST(round || !symlinkat("x", stack.layers[0].fd, "link"));
		MUST(!fstatat(stack.layers[0].fd, "link", &link, AT_SYMLINK_NOFOLLOW));
		MUST(!rvl_stamp_set(idx, stack.layers[0].fd, "link", S_IFLNK, link.st_ino, &id));
		MUST(!rvl_stamp_get(idx, stack.layers[0].fd, "link", S_IFLNK, link.st_ino, &id));
		MUST(round || !rvl_entry_link(idx, stack.layers[0].fd, "link", id.number));
		MUST(!rvl_entry_bury(idx, 6000, true));
		MUST(!rvl_entry_look(idx, 6000, &kind, &st) && kind == RVL_ENTRY_TOMBSTONE);
		MUST(!rvl_map_build(idx, NULL));
		rvl_index_close(idx);
		rvl_stack_release(&stack);
	}
	return 0;
}

static void it_works_without_privileges(void **unused)
{
	int status;
	pid_t pid;

	if (geteuid()) {
		print_message(
			"# skipped: not started as root, so the privileged half is untested too\n");
		skip();
	}
	assert_int_equal(sh("chown -R 65534:65534 . && chmod 755 ."), 0);
	pid = fork();
	if (!pid)
		_exit(live_without_privileges());
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

static void temp_names_differ(void **unused)
{
	char a[RVL_TEMP_NAME_SIZE], b[RVL_TEMP_NAME_SIZE];

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	rvl_index_temp_name(idx, a);
	rvl_index_temp_name(idx, b);
	assert_string_not_equal(a, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(first_mount_makes_state_and_table),
		T(numbers_of_the_topmost_lower_are_the_real_ones),
		T(born_numbers_never_repeat),
		T(copies_are_refused),
		T(moved_directories_are_the_same),
		T(other_lowers_are_refused),
		T(upper_without_its_index_is_refused),
		T(kernel_made_uppers_are_taken),
		T(volatile_leftovers_are_refused),
		T(damaged_and_newer_states_are_refused),
		T(read_only_use_changes_nothing),
		T(without_workdir_numbers_and_offsets_are_the_same_again),
		T(workdir_without_upper_keeps_the_state),
		T(unclean_stops_are_told_apart),
		T(full_disk_at_open_is_an_error),
		T(it_works_without_privileges),
		T(temp_names_differ),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
