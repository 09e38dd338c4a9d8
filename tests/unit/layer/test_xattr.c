// SPDX-License-Identifier: GPL-2.0-or-later
/* Raw and private attributes, on every type of object, with the new system calls and without. */
#include "fixture.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "layer/xattr.h"

static void use(int dirfd, const char *name)
{
	char buf[64] = "";

	assert_int_equal(rvl_xattrat_set(dirfd, name, "trusted.t", "value", 5, 0), 0);
	assert_int_equal(rvl_xattrat_set(dirfd, name, "trusted.t", "x", 1, XATTR_CREATE), -EEXIST);
	assert_int_equal(rvl_xattrat_get(dirfd, name, "trusted.t", buf, sizeof(buf)), 5);
	assert_string_equal(buf, "value");
	assert_int_equal(rvl_xattrat_get(dirfd, name, "trusted.t", NULL, 0), 5);
	assert_int_equal(rvl_xattrat_get(dirfd, name, "trusted.t", buf, 2), -ERANGE);
	assert_true(rvl_xattrat_list(dirfd, name, buf, sizeof(buf)) >= 10);
	assert_int_equal(rvl_xattrat_remove(dirfd, name, "trusted.t"), 0);
	assert_int_equal(rvl_xattrat_remove(dirfd, name, "trusted.t"), -ENODATA);
	assert_int_equal(rvl_xattrat_get(dirfd, name, "trusted.t", buf, sizeof(buf)), -ENODATA);
}

/* All types, by name and by descriptor, O_PATH and not. */
static void use_all(void)
{
	_cleanup_close_ int dir = open(fixture_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int readable = open(fixture_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	static const char *const names[] = { "f", "d", "l", "dangling", "p", "c" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		_cleanup_close_ int fd = openat(dir, names[i], O_PATH | O_NOFOLLOW | O_CLOEXEC);

		use(dir, names[i]);
		use(readable, names[i]);
		assert_true(fd >= 0);
		use(fd, "");
	}
	use(dir, "");
	use(readable, "");
	use(dir, "d/../f");
	assert_int_equal(rvl_xattrat_get(dir, "none", "trusted.t", NULL, 0), -ENOENT);
}

static int setup(void **state)
{
	if (fixture_setup(state) < 0)
		return -1;
	make_file(at("f"), "");
	make_dir(at("d"));
	assert_int_equal(symlink("f", at("l")), 0);
	assert_int_equal(symlink("nowhere", at("dangling")), 0);
	assert_int_equal(mkfifo(at("p"), 0600), 0);
	make_whiteout(at("c"));
	return 0;
}

static void every_type_of_object(void **state)
{
	use_all();
}

static void without_the_new_calls(void **state)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 463, 0, 2),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 466, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(filter) / sizeof(filter[0]), filter };
	int status;
	pid_t pid = fork();

	/* In a child, since a filter cannot be taken off, nor can what was found be forgotten. */
	if (pid == 0) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
			_exit(2);
		use_all();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void private_ones(void **state)
{
	_cleanup_close_ int dir = open(fixture_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct rvl_xattr_names names;
	char buf[8] = "";

	rvl_xattr_names_init(&names, true);
	assert_string_equal(names.prefix, "user.overlay.");
	rvl_xattr_names_init(&names, false);
	for (int i = 0; i < RVL_XATTR_N; i++)
		assert_memory_equal(names.name[i], "trusted.overlay.", 16);
	assert_int_equal(rvl_xattr_get(&names, dir, "f", RVL_XATTR_INO, buf, 8), -ENODATA);
	assert_int_equal(rvl_xattr_remove(&names, dir, "f", RVL_XATTR_INO), -ENODATA);
	assert_int_equal(rvl_xattr_set(&names, dir, "f", RVL_XATTR_INO, "7", 1), 0);
	assert_int_equal(getxattr(at("f"), "trusted.overlay.ino", buf, 8), 1);
	assert_int_equal(rvl_xattr_get(&names, dir, "f", RVL_XATTR_INO, buf, 8), 1);
	assert_int_equal(rvl_xattr_remove(&names, dir, "f", RVL_XATTR_INO), 0);
}

static void filesystem_without_xattrs_has_none(void **state)
{
	_cleanup_close_ int dir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct rvl_xattr_names names;

	rvl_xattr_names_init(&names, false);
	assert_int_equal(rvl_xattr_get(&names, dir, "status", RVL_XATTR_INO, NULL, 0), -ENODATA);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_of_object),
		cmocka_unit_test(without_the_new_calls),
		cmocka_unit_test(private_ones),
		cmocka_unit_test(filesystem_without_xattrs_has_none),
	};

	if (!has_trusted()) {
		print_message("1..0 # SKIP: trusted.* attributes need root\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, fixture_teardown);
}
