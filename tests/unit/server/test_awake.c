// SPDX-License-Identifier: GPL-2.0-or-later
/* CPUs are kept awake from when requests come fast until they do no more, and no longer. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "server/awake.h"

#define DEVICE "/dev/cpu_dma_latency"
#define TRIES 3000 /* of a hundredth of a second: more than the test may take */

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

/* What the kernel was asked for, by all: other servers may run. */
static int32_t latency(void)
{
	int fd = open(DEVICE, O_RDONLY | O_CLOEXEC);
	int32_t value;

	assert_true(fd >= 0);
	assert_int_equal(read(fd, &value, sizeof(value)), sizeof(value));
	close(fd);
	return value;
}

static void wait_for(const struct rvl_awake *awake, bool is_on)
{
	for (unsigned i = 0; i < TRIES && (rvl_awake_is_on(awake) != is_on || (latency() == 0) != is_on);
	     i++)
		sleep_ms(10);
	assert_int_equal(rvl_awake_is_on(awake), is_on);
	assert_int_equal(latency() == 0, is_on);
}

static void ask_until_on(struct rvl_awake *awake)
{
	for (unsigned i = 0; i < TRIES * 1000 && !(rvl_awake_is_on(awake) && latency() == 0); i++)
		for (unsigned j = 0; j < 100; j++)
			rvl_awake_request(awake);
	assert_true(rvl_awake_is_on(awake));
	assert_int_equal(latency(), 0);
}

/* A burst begins it, it ends by itself, and it can begin again. */
static void burst(void **state)
{
	struct rvl_awake *awake;

	assert_int_equal(rvl_awake_new(&awake), 0);
	for (unsigned round = 0; round < 3; round++) {
		wait_for(awake, false);
		ask_until_on(awake);
	}
	wait_for(awake, false);
	rvl_awake_free(awake);
}

/* One caller who waits for each answer, where a wake-up takes long, asks every 300 us. */
static void one_caller(void **state)
{
	struct rvl_awake *awake;
	bool is_on = false;

	assert_int_equal(rvl_awake_new(&awake), 0);
	for (unsigned i = 0; i < TRIES * 10 && !is_on; i++) {
		const uint64_t start = rvl_now_ns(CLOCK_MONOTONIC);

		rvl_awake_request(awake);
		while (rvl_now_ns(CLOCK_MONOTONIC) - start < 300000)
			;
		is_on = rvl_awake_is_on(awake);
	}
	assert_true(is_on);
	rvl_awake_free(awake);
}

/* Few requests, however many in all, begin nothing. */
static void slow_requests(void **state)
{
	struct rvl_awake *awake;

	assert_int_equal(rvl_awake_new(&awake), 0);
	for (unsigned i = 0; i < 100; i++) {
		rvl_awake_request(awake);
		sleep_ms(1);
		assert_false(rvl_awake_is_on(awake));
	}
	rvl_awake_free(awake);
}

/* The end of the server while CPUs are kept awake lets them go. */
static void end_while_on(void **state)
{
	struct rvl_awake *awake;

	assert_int_equal(rvl_awake_new(&awake), 0);
	ask_until_on(awake);
	rvl_awake_free(awake);
	for (unsigned i = 0; i < TRIES && latency() == 0; i++)
		sleep_ms(10);
	assert_int_not_equal(latency(), 0);
}

/* NULL is "not kept awake" to all functions. */
static void none(void **state)
{
	rvl_awake_request(NULL);
	rvl_awake_free(NULL);
	assert_false(rvl_awake_is_on(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(burst),
		cmocka_unit_test(one_caller),
		cmocka_unit_test(slow_requests),
		cmocka_unit_test(end_while_on),
		cmocka_unit_test(none),
	};

	if (access(DEVICE, R_OK | W_OK) < 0) {
		print_message("1..0 # SKIP: %s is not to be had\n", DEVICE);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
