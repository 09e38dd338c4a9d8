// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What of a ring needs no connection: its memory, replies into it, and that it is refused by what
 * is no /dev/fuse. Requests through rings are for the end-to-end tests (test_transport.py).
 */
#include <errno.h>
#include <linux/fuse.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/ring.h"

#define PAYLOAD_SIZE 8192

static struct rvl_ring *ring;
static int fd;

static int set_up(void **state)
{
	fd = memfd_create("none", MFD_CLOEXEC);
	return rvl_ring_new(fd, 0, PAYLOAD_SIZE, &ring);
}

static int tear_down(void **state)
{
	rvl_ring_free(ring);
	return close(fd);
}

/* The kernel's answer to the command comes back, at the registration. */
static void refused(void **state)
{
	assert_true(rvl_ring_register(ring) < 0);
}

/* A reply's data come to the payload, whole, in their order; the room is all that there is. */
static void reply(void **state)
{
	struct fuse_out_header out = { .unique = 5 };
	char first[] = "abc", second[] = "defg";
	const struct iovec iov[] = { { &out, sizeof(out) }, { first, 3 }, { second, 4 } };
	size_t size;
	const char *payload = rvl_ring_payload(ring, &size);

	assert_int_equal(size, PAYLOAD_SIZE);
	assert_int_equal(rvl_ring_reply(ring, iov, 3), sizeof(out) + 7);
	assert_memory_equal(payload, "abcdefg", 7);
}

/* Data that were put into the payload itself stay where they are. */
static void reply_in_place(void **state)
{
	struct fuse_out_header out = {};
	size_t size;
	char *payload = rvl_ring_payload(ring, &size);
	const struct iovec iov[] = { { &out, sizeof(out) }, { payload, PAYLOAD_SIZE } };

	memset(payload, 'x', size);
	assert_int_equal(rvl_ring_reply(ring, iov, 2), sizeof(out) + PAYLOAD_SIZE);
	assert_int_equal(payload[0], 'x');
	assert_int_equal(payload[size - 1], 'x');
}

/* More than the room is refused, also in parts. */
static void reply_too_large(void **state)
{
	static char data[PAYLOAD_SIZE];
	struct fuse_out_header out = {};
	const struct iovec iov[] = { { &out, sizeof(out) },
				     { data, PAYLOAD_SIZE - 1 },
				     { data, 2 } };

	errno = 0;
	assert_int_equal(rvl_ring_reply(ring, iov, 3), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(rvl_ring_reply(ring, iov, 2), sizeof(out) + PAYLOAD_SIZE - 1);
}

/* Before the first request nothing is asked: no number of a request is taken for it, 0 neither. */
static void nothing_asked(void **state)
{
	assert_false(rvl_ring_is_asked(ring, 0));
	assert_false(rvl_ring_is_asked(ring, 5));
}

/* A descriptor that is none, and no ring. */
static void bad(void **state)
{
	struct rvl_ring *other = NULL;

	rvl_ring_free(NULL);
	assert_int_equal(rvl_ring_new(-1, 0, PAYLOAD_SIZE, &other), 0);
	assert_true(rvl_ring_register(other) < 0);
	rvl_ring_free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(reply, set_up, tear_down),
		cmocka_unit_test_setup_teardown(reply_in_place, set_up, tear_down),
		cmocka_unit_test_setup_teardown(reply_too_large, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nothing_asked, set_up, tear_down),
		cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
