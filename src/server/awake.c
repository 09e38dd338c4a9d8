// SPDX-License-Identifier: GPL-2.0-or-later
/* Keeping idle CPUs awake, see awake.h. */
#include "server/awake.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#define DEVICE "/dev/cpu_dma_latency"
#define LATENCY_NONE 0 /* microseconds: no CPU is halted */
#define LATENCY_ANY (-1) /* PM_QOS_DEFAULT_VALUE: nothing is asked for */

/* Begins when BURST_REQUESTS come within BURST_NS; ends with the first TICK_NS that has less than
 * TICK_REQUESTS. Of all threads together. */
#define BURST_REQUESTS 16
#define BURST_NS 6000000
#define TICK_REQUESTS 4
#define TICK_NS 2000000

struct rvl_awake {
	int fd; /* owned */
	pthread_t thread;
	_Atomic uint32_t n_requests; /* each thread counts, without a lock */
	_Atomic uint64_t burst_ns; /* when the last BURST_REQUESTS were complete */
	_Atomic bool is_on; /* written under lock; read without it by each request */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* is_on, or is_ending */
	bool is_ending;
};

/* Documentation/power/pm_qos_interface.rst: a binary 32-bit number. */
static void ask_for_latency(struct rvl_awake *awake, int32_t latency_us)
{
	if (write(awake->fd, &latency_us, sizeof(latency_us)) != sizeof(latency_us))
		rvl_warn_limited("%s: %m", DEVICE);
}

/* Until few requests come. With the lock. */
static void wait_for_end(struct rvl_awake *awake)
{
	uint32_t seen = atomic_load(&awake->n_requests), n = TICK_REQUESTS;

	while (!awake->is_ending && n >= TICK_REQUESTS) {
		const uint64_t until_ns = rvl_now_ns(CLOCK_MONOTONIC) + TICK_NS;
		const struct timespec until = { .tv_sec = until_ns / RVL_NS_PER_S,
						.tv_nsec = until_ns % RVL_NS_PER_S };

		while (!awake->is_ending && pthread_cond_clockwait(&awake->changed, &awake->lock,
								   CLOCK_MONOTONIC, &until) == 0)
			;
		n = atomic_load(&awake->n_requests) - seen;
		seen += n;
	}
}

static void *awake_thread(void *arg)
{
	struct rvl_awake *awake = arg;

	pthread_mutex_lock(&awake->lock);
	while (!awake->is_ending) {
		if (!atomic_load(&awake->is_on)) {
			pthread_cond_wait(&awake->changed, &awake->lock);
			continue;
		}
		ask_for_latency(awake, LATENCY_NONE);
		wait_for_end(awake);
		ask_for_latency(awake, LATENCY_ANY);
		atomic_store(&awake->is_on, false);
	}
	pthread_mutex_unlock(&awake->lock);
	return NULL;
}

static void release(struct rvl_awake *awake)
{
	pthread_cond_destroy(&awake->changed);
	pthread_mutex_destroy(&awake->lock);
	rvl_close(awake->fd);
	free(awake);
}

int rvl_awake_new(struct rvl_awake **ret)
{
	struct rvl_awake *awake = calloc(1, sizeof(*awake));
	int r = 0;

	if (!awake)
		return -ENOMEM;
	awake->fd = open(DEVICE, O_WRONLY | O_CLOEXEC);
	if (awake->fd < 0) {
		r = -errno;
		free(awake);
		return r;
	}
	pthread_mutex_init(&awake->lock, NULL);
	pthread_cond_init(&awake->changed, NULL);
	r = -pthread_create(&awake->thread, NULL, awake_thread, awake);
	if (r < 0) {
		release(awake);
		return r;
	}
	*ret = awake;
	return 0;
}

void rvl_awake_free(struct rvl_awake *awake)
{
	if (!awake)
		return;
	pthread_mutex_lock(&awake->lock);
	awake->is_ending = true;
	pthread_cond_signal(&awake->changed);
	pthread_mutex_unlock(&awake->lock);
	pthread_join(awake->thread, NULL);
	release(awake);
}

void rvl_awake_request(struct rvl_awake *awake)
{
	uint64_t now, before;

	if (!awake)
		return;
	if ((atomic_fetch_add_explicit(&awake->n_requests, 1, memory_order_relaxed) + 1) %
	    BURST_REQUESTS)
		return;
	if (atomic_load_explicit(&awake->is_on, memory_order_relaxed))
		return;
	now = rvl_now_ns(CLOCK_MONOTONIC);
	before = atomic_exchange(&awake->burst_ns, now);
	if (now - before > BURST_NS)
		return;
	pthread_mutex_lock(&awake->lock);
	atomic_store(&awake->is_on, true);
	pthread_cond_signal(&awake->changed);
	pthread_mutex_unlock(&awake->lock);
}

bool rvl_awake_is_on(const struct rvl_awake *awake)
{
	return awake && atomic_load(&awake->is_on);
}
