// SPDX-License-Identifier: GPL-2.0-or-later
/* The walk of a real tree: every name once, what is not to be entered is not, errors end it. */
#include "fixture.h"

#include "base/cleanup.h"
#include "layer/tree.h"

struct seen {
	unsigned n, n_directories;
	uint64_t inos;
	const char *not_entered;
	int error;
};

static int visit(void *arg, const struct rvl_tree_name *name)
{
	struct seen *seen = arg;
	_cleanup_free_ char *path = rvl_tree_path(name);
	struct stat st;

	assert_int_equal(fstatat(name->dirfd, name->name, &st, AT_SYMLINK_NOFOLLOW), 0);
	seen->n++;
	seen->n_directories += S_ISDIR(st.st_mode);
	seen->inos ^= st.st_ino;
	/* the path leads to the same */
	assert_int_equal(stat(at("t/%s", path), &st), 0);
	if (seen->not_entered && !strcmp(path, seen->not_entered))
		return 1;
	return !strcmp(path, "a/b/c") ? seen->error : 0;
}

static int walk(struct seen *seen, char **ret_path)
{
	_cleanup_close_ int fd = open(at("t"), O_PATH | O_DIRECTORY | O_CLOEXEC);

	return rvl_tree_walk(fd, visit, seen, ret_path);
}

static void every_name_once(void **state)
{
	struct seen seen = { 0 };

	make_dir(at("t"));
	assert_int_equal(sh("cd %s/t && mkdir -p a/b/c d e/f && touch a/x a/b/y d/z e/f/w", fixture_dir),
			 0);
	assert_int_equal(walk(&seen, NULL), 0);
	assert_int_equal(seen.n, 10);
	assert_int_equal(seen.n_directories, 6);
	seen = (struct seen){ .not_entered = "a/b" };
	assert_int_equal(walk(&seen, NULL), 0);
	assert_int_equal(seen.n, 8);
}

static void an_error_ends_it(void **state)
{
	struct seen seen = { .error = -EXDEV };
	_cleanup_free_ char *path = NULL;

	assert_int_equal(walk(&seen, &path), -EXDEV);
	assert_string_equal(path, "a/b");
	seen = (struct seen){ 0 };
	assert_int_equal(rvl_tree_walk(-EBADF, visit, &seen, NULL), -EBADF);
	assert_int_equal(seen.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_name_once),
		cmocka_unit_test(an_error_ends_it),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
