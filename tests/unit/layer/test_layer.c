// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening a stack: private mounts, one clone for upper and work, and what is refused. */
#include "fixture.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "layer/path.h"

static struct rvl_stack stack;

static int close_stack(void **state)
{
	rvl_stack_release(&stack);
	rvl_stack_release(&stack); /* a second time does nothing */
	return 0;
}

/* Upper and work with one lower; NULL for none. Paths are below the fixture's. */
static int open_stack(const char *lower, const char *upper, const char *work)
{
	_cleanup_free_ char *l = strdup(at("%s", lower));
	_cleanup_free_ char *u = upper ? strdup(at("%s", upper)) : NULL;
	_cleanup_free_ char *w = work ? strdup(at("%s", work)) : NULL;
	const char *lowers[] = { l };
	struct rvl_stack_config config = { .lower = lowers, .n_lower = 1, .upper = u, .work = w };

	return rvl_stack_open(&config, &stack);
}

static void make_dirs(void)
{
	make_dir(at("l/sub"));
	make_dir(at("o/up/sub"));
	make_dir(at("o/wk/sub"));
}

static void roots_are_open_and_described(void **state)
{
	struct stat st;

	make_dirs();
	assert_int_equal(open_stack("l", "o/up", "o/wk"), 0);
	assert_int_equal(stack.n, 2);
	assert_true(stack.has_upper && stack.can_redirect_follow);
	assert_int_equal(stat(at("l"), &st), 0);
	assert_int_equal(stack.layers[1].ino, st.st_ino);
	assert_int_equal(stack.layers[1].dev, st.st_dev);
	assert_string_equal(stack.layers[1].path, at("l"));
	assert_string_equal(stack.layers[0].path, at("o/up"));
	assert_string_equal(stack.work_path, at("o/wk"));
	assert_int_equal(stat(at("o/wk"), &st), 0);
	assert_int_equal(stack.work_ino, st.st_ino);
	assert_true(stack.layers[1].has_xattrs);
	assert_ptr_equal(rvl_stack_upper(&stack), &stack.layers[0]);
	assert_true(rvl_stack_is_hidden(&stack, st.st_dev, st.st_ino));
	assert_false(rvl_stack_is_hidden(&stack, st.st_dev + 1, st.st_ino));
}

static void symlinks_of_the_user_are_followed(void **state)
{
	make_dirs();
	assert_int_equal(symlink("l", at("link")), 0);
	assert_int_equal(open_stack("link", NULL, NULL), 0);
	assert_string_equal(stack.layers[1].path, at("l"));
	assert_false(stack.has_upper);
	assert_int_equal(stack.layers[0].fd, -EBADF);
	assert_int_equal(stack.work_fd, -EBADF);
}

static void upper_and_work_are_on_one_mount(void **state)
{
	_cleanup_close_ int fd = -EBADF;
	struct statx u, w;

	make_dirs();
	assert_int_equal(open_stack("l", "o/up", "o/wk"), 0);
	assert_int_equal(rvl_path_statx(stack.layers[0].fd, "", STATX_MNT_ID, &u), 0);
	assert_int_equal(rvl_path_statx(stack.work_fd, "", STATX_MNT_ID, &w), 0);
	assert_int_equal(u.stx_mnt_id, w.stx_mnt_id);
	fd = openat(stack.work_fd, "f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(linkat(stack.work_fd, "f", stack.layers[0].fd, "g", 0), 0);
	assert_int_equal(renameat(stack.work_fd, "f", stack.layers[0].fd, "h"), 0);
}

static void lowers_are_read_only_and_without_mounts(void **state)
{
	struct statx stx;

	need_mounts();
	make_dirs();
	make_dir(at("l/mnt"));
	assert_int_equal(mount("none", at("l/mnt"), "tmpfs", 0, NULL), 0);
	make_file(at("l/mnt/inside"), "");
	assert_int_equal(open_stack("l", NULL, NULL), 0);
	assert_true(openat(stack.layers[1].fd, "new", O_CREAT | O_WRONLY, 0600) < 0);
	assert_int_equal(errno, EROFS);
	/* what is covered is seen, and not what covers it */
	assert_int_equal(rvl_path_statx(stack.layers[1].fd, "mnt", STATX_BASIC_STATS, &stx), 0);
	assert_int_equal(rvl_path_statx(stack.layers[1].fd, "mnt/inside", STATX_TYPE, &stx),
			 -ENOENT);
	umount2(at("l/mnt"), MNT_DETACH);
}

static void later_mounts_do_not_appear(void **state)
{
	struct statx stx;

	/* in a shared mount, as systemd makes them all */
	need_mounts();
	make_dir(at("ms"));
	assert_int_equal(mount("none", at("ms"), "tmpfs", 0, NULL), 0);
	assert_int_equal(mount("none", at("ms"), "none", MS_SHARED, NULL), 0);
	make_dir(at("ms/l/in"));
	make_dir(at("ms/o/up/in"));
	make_dir(at("ms/o/wk"));
	assert_int_equal(open_stack("ms/l", "ms/o/up", "ms/o/wk"), 0);
	assert_int_equal(mount("none", at("ms/l/in"), "tmpfs", 0, NULL), 0);
	assert_int_equal(mount("none", at("ms/o/up/in"), "tmpfs", 0, NULL), 0);
	assert_int_equal(rvl_path_statx(stack.layers[1].fd, "in", STATX_TYPE, &stx), 0);
	assert_int_equal(rvl_path_statx(stack.layers[0].fd, "in", STATX_TYPE, &stx), 0);
	rvl_stack_release(&stack);
	assert_int_equal(umount2(at("ms/l/in"), 0), 0);
	assert_int_equal(umount2(at("ms/o/up/in"), 0), 0);
	assert_int_equal(umount2(at("ms"), 0), 0);
}

static void mount_point_is_not_kept_busy(void **state)
{
	need_mounts();
	make_dir(at("mt"));
	assert_int_equal(mount("none", at("mt"), "tmpfs", 0, NULL), 0);
	make_dir(at("mt/l"));
	make_dir(at("mt/o/up"));
	make_dir(at("mt/o/wk"));
	assert_int_equal(open_stack("mt/l", "mt/o/up", "mt/o/wk"), 0);
	assert_int_equal(umount2(at("mt"), 0), 0);
	assert_true(faccessat(stack.layers[1].fd, ".", F_OK, 0) == 0);
}

static void missing_and_wrong_are_refused(void **state)
{
	make_dirs();
	make_file(at("file"), "");
	assert_int_equal(open_stack("none", NULL, NULL), -ENOENT);
	assert_int_equal(open_stack("file", NULL, NULL), -ENOTDIR);
	assert_int_equal(open_stack("l", "none", "o/wk"), -ENOENT);
	assert_int_equal(open_stack("l", "o/up", "file"), -ENOTDIR);
	assert_int_equal(open_stack("l", "o/up", NULL), -EINVAL);
	assert_int_equal(rvl_stack_open(&(struct rvl_stack_config){ .n_lower = 0 }, &stack),
			 -EINVAL);
	assert_int_equal(open_lowers("l:o", 2, false, &stack), -EINVAL);
}

static void overlaps_are_refused(void **state)
{
	make_dirs();
	assert_int_equal(open_lowers("l:l", 0, false, &stack), -ELOOP);
	assert_int_equal(open_lowers("l:l/sub", 0, false, &stack), -ELOOP);
	assert_int_equal(open_lowers("l/sub:o:l", 0, false, &stack), -ELOOP);
	assert_int_equal(open_stack("o/up", "o/up", "o/wk"), -ELOOP);
	assert_int_equal(open_stack("o/up/sub", "o/up", "o/wk"), -ELOOP);
	assert_int_equal(open_stack("o/wk/sub", "o/up", "o/wk"), -ELOOP);
	assert_int_equal(open_stack("l", "o/up", "o/up"), -EINVAL);
	assert_int_equal(open_stack("l", "o/up/sub", "o/up"), -EINVAL);
	assert_int_equal(open_stack("l", "o/wk", "o/wk/sub"), -EINVAL);
}

static void upper_inside_a_lower_is_accepted(void **state)
{
	make_dirs();
	assert_int_equal(open_stack("o", "o/up", "o/wk"), 0);
}

static void bind_mount_of_a_layer_is_the_same_layer(void **state)
{
	need_mounts();
	make_dirs();
	make_dir(at("mbind"));
	assert_int_equal(mount(at("l"), at("mbind"), "none", MS_BIND, NULL), 0);
	assert_int_equal(open_lowers("l:mbind", 0, false, &stack), -ELOOP);
	umount2(at("mbind"), MNT_DETACH);
}

static void places_that_cannot_be_written_are_refused(void **state)
{
	need_mounts();
	make_dirs();
	make_dir(at("mro"));
	assert_int_equal(mount("none", at("mro"), "tmpfs", 0, NULL), 0);
	make_dir(at("mro/up"));
	make_dir(at("mro/wk"));
	assert_int_equal(open_stack("l", "mro/up", "o/wk"), -EINVAL);
	make_dir(at("mro/up/deep"));
	assert_int_equal(mount("none", at("mro/up/deep"), "tmpfs", 0, NULL), 0);
	assert_int_equal(open_stack("l", "mro/up", "mro/wk"), -EBUSY);
	umount2(at("mro/up/deep"), MNT_DETACH);
	assert_int_equal(open_stack("l", "mro/up", "mro/wk"), 0);
	rvl_stack_release(&stack);
	assert_int_equal(mount("none", at("mro"), "none", MS_REMOUNT | MS_RDONLY, NULL), 0);
	assert_int_equal(open_stack("l", "mro/up", "mro/wk"), -EROFS);
	umount2(at("mro"), MNT_DETACH);
}

static void workdir_without_upper(void **state)
{
	make_dirs();
	assert_int_equal(open_stack("l", NULL, "o/wk"), 0);
	assert_false(stack.has_upper);
	assert_true(stack.work_fd >= 0);
	assert_null(rvl_stack_upper(&stack));
}

static void five_hundred_layers(void **state)
{
	char *lowers[RVL_LAYERS_MAX + 1];
	struct rvl_stack_config config = { .lower = (const char *const *)lowers,
					   .n_lower = RVL_LAYERS_MAX };

	for (int i = 0; i <= RVL_LAYERS_MAX; i++) {
		make_dir(at("many/%d", i));
		lowers[i] = strdup(at("many/%d", i));
	}
	assert_int_equal(rvl_stack_open(&config, &stack), 0);
	assert_int_equal(stack.n, RVL_LAYERS_MAX + 1);
	rvl_stack_release(&stack);
	config.n_lower++;
	assert_int_equal(rvl_stack_open(&config, &stack), -EINVAL);
	for (int i = 0; i <= RVL_LAYERS_MAX; i++)
		free(lowers[i]);
}

/* In a child: a process that may not clone mounts (open_tree denied) serves all the same. */
static void without_private_mounts(void **state)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 428, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(filter) / sizeof(filter[0]), filter };
	int status;
	pid_t pid;

	need_mounts();
	make_dirs();
	make_dir(at("l/mnt"));
	assert_int_equal(mount("none", at("l/mnt"), "tmpfs", 0, NULL), 0);
	make_file(at("l/mnt/inside"), "");
	pid = fork();
	if (pid == 0) {
		struct statx stx;

		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
			_exit(2);
		if (open_stack("l", "o/up", "o/wk") < 0)
			_exit(3);
		if (rvl_path_statx(stack.layers[1].fd, "mnt", STATX_TYPE, &stx) != -EXDEV ||
		    rvl_path_statx(stack.layers[1].fd, "mnt/inside", STATX_TYPE, &stx) != -EXDEV ||
		    rvl_path_statx(stack.layers[1].fd, "sub", STATX_TYPE, &stx) != 0)
			_exit(4);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	umount2(at("l/mnt"), MNT_DETACH);
	assert_int_equal(status, 0);
}

static void inner_subvolumes_belong_to_the_layer(void **state)
{
	struct statx root, sub;

	need_mounts();
	make_dir(at("mb"));
	if (sh("truncate -s 320M %s/b.img && mkfs.btrfs -q -f %s/b.img >/dev/null 2>&1 && "
	       "mount -o loop %s/b.img %s/mb && btrfs -q subvolume create %s/mb/sv >/dev/null && "
	       "touch %s/mb/sv/f",
	       fixture_dir, fixture_dir, fixture_dir, fixture_dir, fixture_dir, fixture_dir) != 0) {
		print_message("# skipped: no btrfs here\n");
		skip();
	}
	assert_int_equal(open_stack("mb", NULL, NULL), 0);
	assert_false(stack.layers[1].has_ino_in_dirents);
	assert_int_equal(rvl_path_statx(stack.layers[1].fd, "", STATX_INO, &root), 0);
	assert_int_equal(rvl_path_statx(stack.layers[1].fd, "sv/f", STATX_INO, &sub), 0);
	assert_int_not_equal(rvl_statx_dev(&root), rvl_statx_dev(&sub));
	rvl_stack_release(&stack);
	umount2(at("mb"), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, close_stack)
	const struct CMUnitTest tests[] = {
		T(roots_are_open_and_described),
		T(symlinks_of_the_user_are_followed),
		T(upper_and_work_are_on_one_mount),
		T(lowers_are_read_only_and_without_mounts),
		T(later_mounts_do_not_appear),
		T(mount_point_is_not_kept_busy),
		T(missing_and_wrong_are_refused),
		T(overlaps_are_refused),
		T(upper_inside_a_lower_is_accepted),
		T(bind_mount_of_a_layer_is_the_same_layer),
		T(places_that_cannot_be_written_are_refused),
		T(workdir_without_upper),
		T(five_hundred_layers),
		T(without_private_mounts),
		T(inner_subvolumes_belong_to_the_layer),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
