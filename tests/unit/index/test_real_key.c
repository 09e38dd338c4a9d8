// SPDX-License-Identifier: GPL-2.0-or-later
/* Lowers whose inode numbers do not last: the same numbers after their remount all the same. */
#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "fixture.h"
#include "index/number_private.h"

/* All of the lower that make_layers makes; the first four are hard links in pairs. */
static const char *const names[] = {
	"a", "d/a2", "b", "d/b2", "f", "g", "d", "d/e", "s", "e2", "d/e/f",
};
#define N (sizeof(names) / sizeof(names[0]))

/* Two filesystems beside the disk, so that no overlay of them has one space of numbers. */
static void make_layers(void)
{
	need_mounts();
	assert_int_equal(
		sh("mkdir -p m o && mount -t tmpfs none m && mkdir m/2 m/3 && mount -t tmpfs none m/2 && "
		   "mount -t tmpfs none m/3 && mkdir -p m/2/l/d m/3/l/d/e m/3/l/e2 l1/d && "
		   "echo a >m/2/l/a && ln m/2/l/a m/2/l/d/a2 && echo b >m/3/l/b && "
		   "ln m/3/l/b m/3/l/d/b2 && touch m/2/l/f m/3/l/g m/3/l/d/e/f l1/d/x && "
		   "ln -s x m/3/l/s"),
		0);
}

/* Mounts made before it shift the st_dev that it gets. */
static void mount_overlay(const char *options, int n_before)
{
	for (int i = 0; i < n_before; i++)
		assert_int_equal(
			sh("mkdir -p m/x%d && mount -t tmpfs none m/x%d && rmdir l1/none 2>/dev/null || :",
			   i, i),
			0);
	assert_int_equal(sh("mount -t overlay overlay -o ro,%s,lowerdir=m/2/l:m/3/l:l1 o", options),
			 0);
	for (int i = 0; i < n_before; i++)
		assert_int_equal(sh("umount m/x%d", i), 0);
}

static void get_numbers(const char *lower, uint64_t numbers[N])
{
	uint64_t dirent;

	assert_int_equal(open_index(lower, "u", "w", 0), 0);
	/* From the end at first: nothing may depend on the order of look-ups. */
	for (size_t i = N; i-- > 0;)
		numbers[i] = lower_number(1, names[i]);
	for (size_t i = 0; i < N; i++) {
		assert_true(numbers[i] == lower_number(1, names[i]));
		assert_true(rvl_number_is_valid(numbers[i]) && numbers[i] != RVL_NUMBER_ROOT);
	}
	assert_true(lower_number(1, "") == RVL_NUMBER_ROOT);
	assert_int_equal(rvl_number_of_dirent(idx, &stack.layers[1], 7, DT_DIR, &dirent), -EAGAIN);
	close_index();
}

static void check_numbers(const uint64_t numbers[N], bool has_links)
{
	assert_int_equal(numbers[0] == numbers[1], has_links);
	assert_int_equal(numbers[2] == numbers[3], has_links);
	for (size_t i = 0; i < N; i++)
		for (size_t j = i + 1; j < N; j++)
			assert_true(numbers[i] != numbers[j] || (has_links && i < 4 && j == i + 1));
}

static void check_overlay(const char *options, const char *again)
{
	uint64_t first[N], second[N];

	mount_overlay(options, 0);
	get_numbers("o", first);
	check_numbers(first, true);
	assert_int_equal(sh("umount o"), 0);
	mount_overlay(again, 3);
	/* other inode numbers of directories */
	assert_int_equal(sh("ls -lR o/d/e o/e2 >/dev/null"), 0);
	get_numbers("o", second);
	assert_memory_equal(first, second, sizeof(first));
	assert_int_equal(sh("umount o && rm -r u w && mkdir u w"), 0);
}

static void overlays_keep_numbers_over_a_remount(void **unused)
{
	make_layers();
	check_overlay("xino=off", "xino=off");
	check_overlay("xino=on", "xino=on");
	check_overlay("xino=auto", "xino=auto");
	check_overlay("xino=off,nfs_export=on,index=on", "xino=off,nfs_export=on,index=on");
	/* other options, the same tree */
	check_overlay("xino=off", "xino=on");
	check_overlay("xino=off", "xino=off,nfs_export=on,index=on");
	sh("umount m/2 m/3 m");
}

static void names_of_a_broken_hard_link_are_two_objects(void **unused)
{
	/* Changed in an overlay without index: one file identifier, two objects. */
	uint64_t a, b;

	make_layers();
	assert_int_equal(sh("mkdir m/u m/w && mount -t overlay overlay -o "
			    "xino=off,index=off,lowerdir=m/2/l:m/3/l,upperdir=m/u,workdir=m/w o && "
			    "echo more >>o/a"),
			 0);
	assert_int_equal(open_index("o", "u", "w", 0), 0);
	a = lower_number(1, "a");
	b = lower_number(1, "d/a2");
	assert_true(a != b);
	close_index();
	sh("umount o m/2 m/3 m");
}

static void paths_and_descriptors_are_one(void **unused)
{
	/* By a descriptor, as a decoded handle or a walk has it, and by path. */
	struct statx stx;
	struct rvl_id id;
	int fd;

	make_layers();
	mount_overlay("xino=off", 0);
	assert_int_equal(open_index("o", "u", "w", 0), 0);
	for (size_t i = 0; i < N; i++) {
		const struct rvl_layer *layer = &stack.layers[1];
		char *place;

		fd = rvl_path_open(layer->fd, names[i], O_PATH, 0);
		assert_true(fd >= 0);
		assert_int_equal(rvl_path_statx(fd, "", STATX_BASIC_STATS | STATX_BTIME, &stx), 0);
		assert_int_equal(rvl_number_of_lower(idx, layer, fd, "", &stx, &id), 0);
		assert_true(id.number == lower_number(1, names[i]));
		assert_int_equal(rvl_layer_place(layer, fd, "", &place), 0);
		assert_string_equal(place, names[i]);
		free(place);
		close(fd);
	}
	close_index();
	sh("umount o m/2 m/3 m");
}

static void deny_handles(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_name_to_handle_at, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };

	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
}

static void without_identifiers_paths_are_used(void **unused)
{
	/* A kernel before 6.6. */
	uint64_t first[N], second[N];
	int status;
	pid_t pid;

	make_layers();
	pid = fork();
	if (pid == 0) {
		deny_handles();
		mount_overlay("xino=off", 0);
		get_numbers("o", first);
		check_numbers(first, true);
		assert_int_equal(sh("umount o"), 0);
		mount_overlay("xino=off", 2);
		assert_int_equal(sh("ls -lR o/d/e o/e2 >/dev/null"), 0);
		get_numbers("o", second);
		assert_memory_equal(first, second, sizeof(first));
		_exit(sh("umount o") ? 1 : 17);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 17);
	sh("umount m/2 m/3 m");
}

static void fuse_servers_are_known_by_paths(void **unused)
{
	/* Whatever their inode numbers are: the same over a remount; and two layers in one FUSE
	 * filesystem have different ones. */
	uint64_t first[N], second[N], x, y;

	make_layers();
	assert_int_equal(sh("mkdir l2/two && touch l2/two/g"), 0);
	if (sh("fuse-overlayfs -o lowerdir=m/2/l:m/3/l:l2 o 2>/dev/null")) {
		sh("umount m/2 m/3 m");
		print_message("# skipped: no fuse-overlayfs\n");
		skip();
	}
	get_numbers("o", first);
	check_numbers(first, true);
	assert_int_equal(sh("umount o && fuse-overlayfs -o lowerdir=m/2/l:m/3/l:l2 o"), 0);
	assert_int_equal(sh("ls -lR o/d/e o/e2 >/dev/null"), 0);
	get_numbers("o", second);
	assert_memory_equal(first, second, sizeof(first));
	assert_int_equal(sh("rm -r u w && mkdir u w"), 0);
	assert_int_equal(open_index("o/d:o/two", "u", "w", 0), 0);
	x = lower_number(1, "b2");
	y = lower_number(2, "g");
	assert_true(x != y);
	close_index();
	assert_int_equal(open_index("o/d:o/two", "u", "w", 0), 0);
	assert_true(y == lower_number(2, "g"));
	close_index();
	sh("umount o m/2 m/3 m");
}

static void numbers_last_also_where_nothing_is_recorded(void **unused)
{
	/* Without a workdir. */
	uint64_t first, second;

	make_layers();
	mount_overlay("xino=off", 0);
	assert_int_equal(open_index("o", NULL, NULL, 0), 0);
	first = lower_number(1, "g");
	assert_true(first != lower_number(1, "f"));
	close_index();
	assert_int_equal(open_index("o", NULL, NULL, 0), 0);
	second = lower_number(1, "g");
	assert_true(first == second);
	close_index();
	sh("umount o m/2 m/3 m");
}

static void btrfs_subvolumes_keep_numbers(void **unused)
{
	/* Met by a file or by a directory first, by a path or a descriptor. */
	static const char *const subs[] = { "s1/f", "s2/f", "s1", "s2", "s2/d/f" };
	uint64_t first[5];
	struct statx stx;
	struct rvl_id id;
	int fd;

	need_mounts();
	if (sh("truncate -s 320M b.img && mkfs.btrfs -q -f b.img >/dev/null 2>&1")) {
		print_message("# skipped: no mkfs.btrfs\n");
		skip();
	}
	assert_int_equal(sh("mkdir m && mount -o loop b.img m && mkdir m/l && "
			    "btrfs -q subvolume create m/l/s1 >/dev/null && touch m/l/s1/f && "
			    "btrfs -q subvolume create m/l/s2 >/dev/null && touch m/l/s2/f && "
			    "mkdir m/l/s2/d && touch m/l/s2/d/f"),
			 0);
	assert_int_equal(open_index("m/l", "u", "w", 0), 0);
	for (int i = 0; i < 5; i++)
		first[i] = lower_number(1, subs[i]);
	assert_true(first[0] != first[1] && first[2] != first[3] && first[1] != first[4]);
	assert_true(first[0] >> 48 == first[2] >> 48 && first[0] >> 48 != first[1] >> 48);
	forget_index(); /* killed: durable before it was shown */
	for (int round = 0; round < 3; round++) {
		assert_int_equal(open_index("m/l", "u", "w", 0), 0);
		if (round == 1) {
			fd = rvl_path_open(stack.layers[1].fd, "s2/d/f", O_PATH, 0);
			assert_int_equal(rvl_path_statx(fd, "", STATX_BASIC_STATS, &stx), 0);
			assert_int_equal(rvl_number_of_lower(idx, &stack.layers[1], fd, "", &stx,
							     &id),
					 0);
			assert_true(id.number == first[4]);
			close(fd);
		}
		for (int i = 4; i >= 0; i--)
			assert_true(lower_number(1, subs[round == 2 ? (i + 1) % 5 : i]) ==
				    first[round == 2 ? (i + 1) % 5 : i]);
		close_index();
	}
	sh("umount -l m");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(overlays_keep_numbers_over_a_remount),
		T(names_of_a_broken_hard_link_are_two_objects),
		T(paths_and_descriptors_are_one),
		T(without_identifiers_paths_are_used),
		T(fuse_servers_are_known_by_paths),
		T(numbers_last_also_where_nothing_is_recorded),
		T(btrfs_subvolumes_keep_numbers),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
