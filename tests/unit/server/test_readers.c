// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The threads that read requests, with a socket in place of /dev/fuse: a request that takes long
 * holds up no other, many are all answered, and the end is met in every state.
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/fuse.h"
#include "server/readers.h"

#define THREADS 4
#define SLOW 7 /* nodeid of an object whose requests wait */
#define MANY 3000
#define IN_FLIGHT 16

static struct fuse_session *session;
static int kernel_fd, stop_fd, result;
static unsigned poll_us;
static pthread_t thread;
static sem_t may_go;
static _Atomic bool is_out_of_threads;

/* In place of the C library's, for the readers. */
int pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
	int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	return is_out_of_threads ? EAGAIN : real(ret, attr, start, arg);
}

static void getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
	if (number == SLOW)
		sem_wait(&may_go);
	fuse_reply_err(req, EPERM);
}

static void *run(void *arg)
{
	result = rvl_readers_run(session, stop_fd, THREADS, poll_us, NULL);
	return NULL;
}

static void ask(uint32_t opcode, uint64_t unique, uint64_t number, const void *arg, size_t size)
{
	uint8_t buf[512];
	const struct fuse_in_header in = { .len = sizeof(in) + size,
					   .opcode = opcode,
					   .unique = unique,
					   .nodeid = number };

	memcpy(buf, &in, sizeof(in));
	memcpy(buf + sizeof(in), arg, size);
	assert_int_equal(send(kernel_fd, buf, in.len, 0), in.len);
}

static void ask_attributes(uint64_t unique, uint64_t number)
{
	const struct fuse_getattr_in in = {};

	ask(FUSE_GETATTR, unique, number, &in, sizeof(in));
}

/* The next reply's request. */
static uint64_t answer(void)
{
	uint8_t buf[512];
	struct fuse_out_header out;
	ssize_t n = recv(kernel_fd, buf, sizeof(buf), 0);

	assert_true(n >= (ssize_t)sizeof(out));
	memcpy(&out, buf, sizeof(out));
	return out.unique;
}

static void stop(void)
{
	const uint64_t one = 1;

	fuse_session_exit(session);
	assert_int_equal(write(stop_fd, &one, sizeof(one)), sizeof(one));
}

static int set_up(void **state)
{
	static const struct fuse_lowlevel_ops operations = { .getattr = getattr };
	const struct fuse_init_in in = { .major = FUSE_KERNEL_VERSION, .minor = 31 };
	char name[] = "test", path[32];
	char *argv[] = { name, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_buf buf = {};
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	kernel_fd = fds[0];
	snprintf(path, sizeof(path), "/dev/fd/%d", fds[1]);
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	fuse_opt_free_args(&args);
	if (!session || fuse_session_mount(session, path) != 0)
		return -1;
	stop_fd = eventfd(0, EFD_CLOEXEC);
	sem_init(&may_go, 0, 0);
	poll_us = 50;
	ask(FUSE_INIT, 1, 0, &in, sizeof(in));
	assert_true(fuse_session_receive_buf(session, &buf) > 0);
	fuse_session_process_buf(session, &buf);
	free(buf.mem);
	assert_int_equal(answer(), 1);
	return 0;
}

static int tear_down(void **state)
{
	fuse_session_destroy(session); /* closes its end, too */
	sem_destroy(&may_go);
	close(stop_fd);
	return close(kernel_fd);
}

/* A signal that comes before the first thread is no error. */
static void ended_before(void **state)
{
	stop();
	run(NULL);
	assert_int_equal(result, 0);
}

/* All threads but one wait in a request: the last one serves. */
static void slow_requests(void **state)
{
	pthread_create(&thread, NULL, run, NULL);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < THREADS - 1; i++)
			ask_attributes(10 + i, SLOW);
		for (unsigned i = 0; i < 20; i++) {
			ask_attributes(100 + i, 5);
			assert_int_equal(answer(), 100 + i);
		}
		for (unsigned i = 0; i < THREADS - 1; i++)
			sem_post(&may_go);
		for (unsigned i = 0; i < THREADS - 1; i++)
			assert_true(answer() < 10 + THREADS - 1);
	}
	stop();
	pthread_join(thread, NULL);
	assert_int_equal(result, 0);
}

static void slow_without_polling(void **state)
{
	poll_us = 0;
	slow_requests(state);
}

/* The only reader has a slow request, and no thread can be started for some time. */
static void out_of_threads(void **state)
{
	pthread_create(&thread, NULL, run, NULL);
	ask_attributes(9, 5);
	assert_int_equal(answer(), 9);
	is_out_of_threads = true;
	ask_attributes(10, SLOW);
	ask_attributes(11, 5);
	usleep(100000);
	is_out_of_threads = false;
	assert_int_equal(answer(), 11);
	sem_post(&may_go);
	assert_int_equal(answer(), 10);
	stop();
	pthread_join(thread, NULL);
	assert_int_equal(result, 0);
}

/* With all threads in requests the others wait, and are served when the first is done. */
static void more_than_threads(void **state)
{
	pthread_create(&thread, NULL, run, NULL);
	for (unsigned i = 0; i < 3 * THREADS; i++)
		ask_attributes(10 + i, SLOW);
	ask_attributes(100, 5);
	for (unsigned i = 0; i < 3 * THREADS; i++)
		sem_post(&may_go);
	for (unsigned i = 0; i < 3 * THREADS + 1; i++)
		assert_true(answer() >= 10);
	stop();
	pthread_join(thread, NULL);
}

/* Many at a time, so that more readers are wanted, and park themselves at the end. */
static void many(void **state)
{
	unsigned n_asked = 0;

	pthread_create(&thread, NULL, run, NULL);
	for (unsigned n = 0; n < MANY; n++) {
		for (; n_asked < MANY && n_asked < n + IN_FLIGHT; n_asked++)
			ask_attributes(10 + n_asked, 5);
		assert_true(answer() < 10 + MANY);
	}
	stop();
	pthread_join(thread, NULL);
	assert_int_equal(result, 0);
}

/* The end comes while a request waits: it is answered all the same. */
static void ended_meanwhile(void **state)
{
	pthread_create(&thread, NULL, run, NULL);
	ask_attributes(10, SLOW);
	ask_attributes(11, 5);
	assert_int_equal(answer(), 11);
	stop();
	sem_post(&may_go);
	assert_int_equal(answer(), 10);
	pthread_join(thread, NULL);
	assert_int_equal(result, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ended_before, set_up, tear_down),
		cmocka_unit_test_setup_teardown(slow_requests, set_up, tear_down),
		cmocka_unit_test_setup_teardown(slow_without_polling, set_up, tear_down),
		cmocka_unit_test_setup_teardown(out_of_threads, set_up, tear_down),
		cmocka_unit_test_setup_teardown(more_than_threads, set_up, tear_down),
		cmocka_unit_test_setup_teardown(many, set_up, tear_down),
		cmocka_unit_test_setup_teardown(ended_meanwhile, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
