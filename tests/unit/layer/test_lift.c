// SPDX-License-Identifier: GPL-2.0-or-later
/* Write permission for one call: for the owner of what is read-only, and for nobody else. */
#include "fixture.h"

#include <pthread.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "layer/lift.h"

static const struct rvl_lift *objects;
static int calls;
static char x[] = "x", new[] = "new";

static int set_attribute(void *arg)
{
	char path[32];

	calls++;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", objects[0].dirfd);
	return setxattr(path, "user.test", arg, 1, 0) < 0 ? -errno : 0;
}

static int move(void *arg)
{
	calls++;
	return renameat2(objects[1].dirfd, objects[1].name, objects[0].dirfd, arg, 0) < 0 ? -errno : 0;
}

/* As a user without privileges; 0, or -errno of the call, or the exit code 99. */
static int call_as(uid_t uid, const struct rvl_lift *v, unsigned n, int (*fn)(void *), void *arg)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		objects = v;
		if (setresuid(uid, uid, uid) < 0)
			_exit(99);
		calls = 0;
		status = -rvl_lift_call(v, n, fn, arg);
		_exit(status == EACCES && calls ? 98 : status);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static void owner_may_and_the_mode_stays(void **state)
{
	_cleanup_close_ int fd = -EBADF;
	char value;

	make_file(at("mine"), "text");
	assert_int_equal(chown(at("mine"), 1234, 1234), 0);
	assert_int_equal(chmod(at("mine"), 0444), 0);
	fd = open(at("mine"), O_PATH | O_CLOEXEC);
	assert_int_equal(call_as(1234, &(struct rvl_lift){ fd, "" }, 1, set_attribute, x), 0);
	assert_int_equal(getxattr(at("mine"), "user.test", &value, 1), 1);
	assert_int_equal(mode_of(at("mine")), 0444);
}

static void others_may_not(void **state)
{
	_cleanup_close_ int fd = -EBADF;

	make_file(at("his"), "text");
	assert_int_equal(chown(at("his"), 4321, 4321), 0);
	assert_int_equal(chmod(at("his"), 0444), 0);
	fd = open(at("his"), O_PATH | O_CLOEXEC);
	assert_int_equal(call_as(1234, &(struct rvl_lift){ fd, "" }, 1, set_attribute, x), EACCES);
	assert_int_equal(mode_of(at("his")), 0444);
}

/* A read-only directory changes its parent, into one that is read-only too. */
static void moves_directories(void **state)
{
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	struct rvl_lift v[2];

	make_dir(at("from/moved"));
	make_dir(at("to"));
	assert_int_equal(sh("chown -R 1234 %s %s && chmod 555 %s %s", at("from"), at("to"), at("to"),
			    at("from/moved")), 0);
	from = open(at("from"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	to = open(at("to"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	v[0] = (struct rvl_lift){ to, "" };
	v[1] = (struct rvl_lift){ from, "moved" };
	assert_int_equal(call_as(1234, v, 2, move, new), 0);
	assert_int_equal(mode_of(at("to/new")), 0555);
	assert_int_equal(mode_of(at("to")), 0555);
}

static int drop_setuid(void *arg)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", objects[0].dirfd);
	return chmod(path, 0666) < 0 ? -errno : 0;
}

/* What the call took from the mode does not come back. */
static void takes_back_its_own(void **state)
{
	_cleanup_close_ int fd = -EBADF;

	make_file(at("setuid"), "text");
	assert_int_equal(chown(at("setuid"), 1234, 1234), 0);
	assert_int_equal(chmod(at("setuid"), 04466), 0);
	fd = open(at("setuid"), O_PATH | O_CLOEXEC);
	assert_int_equal(call_as(1234, &(struct rvl_lift){ fd, "" }, 1, drop_setuid, NULL), 0);
	assert_int_equal(mode_of(at("setuid")), 0466);
}

/* Of a group that is not the owner's: a chmod would take setgid for good. */
static void leaves_setgid(void **state)
{
	_cleanup_close_ int fd = -EBADF;

	make_file(at("setgid"), "text");
	assert_int_equal(chown(at("setgid"), 1234, 4321), 0);
	assert_int_equal(chmod(at("setgid"), 02454), 0);
	fd = open(at("setgid"), O_PATH | O_CLOEXEC);
	assert_int_equal(call_as(1234, &(struct rvl_lift){ fd, "" }, 1, set_attribute, x), EACCES);
	assert_int_equal(mode_of(at("setgid")), 02454);
	assert_int_equal(chown(at("setgid"), 1234, getegid()), 0);
	assert_int_equal(chmod(at("setgid"), 02454), 0);
	assert_int_equal(call_as(1234, &(struct rvl_lift){ fd, "" }, 1, set_attribute, x), 0);
	assert_int_equal(mode_of(at("setgid")), 02454);
}

static void *read_mode(void *arg)
{
	mode_t *mode = arg;
	unsigned turn;

	do {
		turn = rvl_lift_read_begin();
		*mode = mode_of(at("read"));
	} while (rvl_lift_read_again(turn));
	return NULL;
}

static pthread_t reader;
static mode_t mode_read;

static int start_reader(void *arg)
{
	if (!rvl_lift_read_again(*(unsigned *)arg) || mode_of(at("read")) != 0644)
		return -EINVAL;
	return -pthread_create(&reader, NULL, read_mode, &mode_read);
}

/* A mode that is shown is that from before or after. */
static void readers_wait(void **state)
{
	unsigned turn = rvl_lift_read_begin();
	_cleanup_close_ int fd = -EBADF;

	assert_false(rvl_lift_read_again(turn));
	make_file(at("read"), "text");
	assert_int_equal(chmod(at("read"), 0444), 0);
	fd = open(at("read"), O_PATH | O_CLOEXEC);
	assert_int_equal(rvl_lift_call(&(struct rvl_lift){ fd, "" }, 1, start_reader, &turn), 0);
	assert_int_equal(pthread_join(reader, NULL), 0);
	assert_int_equal(mode_read, 0444);
	assert_true(rvl_lift_read_again(turn));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(owner_may_and_the_mode_stays),
		cmocka_unit_test(others_may_not),
		cmocka_unit_test(moves_directories),
		cmocka_unit_test(takes_back_its_own),
		cmocka_unit_test(leaves_setgid),
		cmocka_unit_test(readers_wait),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
