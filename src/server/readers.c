// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who reads when. A thread is
 *
 *   READY     it reads, or will in a moment
 *   SERVING   it has a request
 *   LEFT      it has one that takes, or will take, long: another thread reads in its place
 *   PARKED    it waits for its turn to read
 *
 * READY and SERVING threads are the readers. At first one is wanted (n_wanted). A reader serves
 * what it reads itself, and nobody reads meanwhile. So another one is appointed
 *
 *   - when a request is of a kind that waits for a disk, before it is served;
 *   - when one is not answered within two ticks of the watch (the thread of rvl_readers_run);
 *   - when the reader has found the next request waiting for some time: one more is wanted then,
 *     up to half of the CPUs, since the other half is the callers'; or up to all threads while
 *     requests are blocked and not busy.
 *
 * A reader too many finds nothing to read, and parks itself. The watch sleeps while nothing is
 * served; the first request after that wakes it.
 */
#include "server/readers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/awake.h"
#include "server/fuse.h"
#include "server/server.h"

#define TICK_MS 1
#define IDLE_TICKS 50 /* without a request: then the watch sleeps */
#define LUCK_MAX 8 /* polling that finds a request adds one, up to this; */
#define LUCK_VAIN 2 /* such that finds none takes so much; */
#define LUCK_MIN 4 /* with less than that there is no polling */
#define STREAK_REQUESTS 16 /* that were all waiting, and at least */
#define STREAK_NS 300000 /* for that long: one more reader */
#define BLOCKED_SHARE 4 /* of so many requests one was blocked: they are not busy */

enum state { READY, SERVING, LEFT, PARKED };

struct reader {
	struct readers *all; /* borrowed */
	pthread_t thread;
	_Atomic int state;
	_Atomic uint64_t n_served; /* requests begun */
	uint64_t n_seen; /* the watch's: n_served at its last look */
	/* the reader's own: */
	unsigned luck; /* in polling */
	unsigned n_streak; /* requests in a row that were waiting */
	uint64_t streak_ns; /* when the first of them came */
	long streak_switches; /* n_switches() then */
};

struct readers {
	struct fuse_session *session; /* borrowed */
	int stop_fd; /* borrowed */
	int kick_fd; /* owned; wakes the watch */
	struct rvl_awake *awake; /* borrowed; NULL: none */
	uint64_t poll_ns;
	unsigned half_of_cpus; /* at least one */
	_Atomic bool is_watch_asleep;
	_Atomic int error; /* of reading, but for the end of the connection */

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t turn;
	struct reader *threads; /* owned; room for max */
	unsigned n, max; /* n started */
	unsigned n_parked;
	unsigned n_turns; /* given to parked threads and not taken yet */
	unsigned n_wanted; /* readers */
	_Atomic unsigned n_readers; /* READY or SERVING; read without the lock for a guess */
};

static void *reader_thread(void *arg);

/* How often this thread has waited for something. */
static long n_switches(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
}

static void wake(int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		rvl_warn("waking a thread: %m");
}

/* ---- who reads ---- */

/* Until there are as many readers as are wanted, or no more threads. With the lock. */
static void appoint(struct readers *all)
{
	pthread_attr_t attr;

	if (fuse_session_exited(all->session))
		return;
	while (all->n_readers < all->n_wanted && all->n_parked > all->n_turns) {
		all->n_turns++;
		all->n_readers++;
		pthread_cond_signal(&all->turn);
	}
	if (all->n_readers >= all->n_wanted || all->n == all->max)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, RVL_STACK_SIZE);
	while (all->n_readers < all->n_wanted && all->n < all->max) {
		struct reader *reader = &all->threads[all->n];

		*reader = (struct reader){ .all = all, .luck = LUCK_MIN };
		if (pthread_create(&reader->thread, &attr, reader_thread, reader) != 0)
			break; /* the watch tries again */
		all->n++;
		all->n_readers++;
	}
	pthread_attr_destroy(&attr);
}

/* Another one is to read in its place, unless it has done with its request meanwhile. */
static void replace(struct readers *all, struct reader *reader)
{
	int state = SERVING;

	pthread_mutex_lock(&all->lock);
	if (atomic_compare_exchange_strong(&reader->state, &state, LEFT)) {
		all->n_readers--;
		appoint(all);
	}
	pthread_mutex_unlock(&all->lock);
}

/* Waits for a turn, or the end. With the lock. */
static void park(struct readers *all, struct reader *self)
{
	self->state = PARKED;
	all->n_parked++;
	while (all->n_turns == 0 && !fuse_session_exited(all->session))
		pthread_cond_wait(&all->turn, &all->lock);
	all->n_parked--;
	if (all->n_turns > 0)
		all->n_turns--;
	self->state = READY;
	self->n_streak = 0;
}

/* Was replaced, and has done with its request. */
static void come_back(struct readers *all, struct reader *self)
{
	pthread_mutex_lock(&all->lock);
	if (all->n_readers < all->n_wanted) {
		all->n_readers++;
		self->state = READY;
		self->n_streak = 0;
	} else {
		park(all, self);
	}
	pthread_mutex_unlock(&all->lock);
}

/* There is nothing to read. A reader too many parks: true after it has got a turn again. */
static bool park_if_too_many(struct readers *all, struct reader *self)
{
	bool is_too_many;

	if (all->n_readers <= 1)
		return false;
	pthread_mutex_lock(&all->lock);
	is_too_many = all->n_readers > 1;
	if (is_too_many) {
		all->n_wanted = --all->n_readers;
		park(all, self);
	}
	pthread_mutex_unlock(&all->lock);
	return is_too_many;
}

/* The request was waiting when the one before was answered. */
static void go_on_streak(struct readers *all, struct reader *self)
{
	unsigned limit;
	long switches;

	if (self->n_streak++ == 0) {
		self->streak_ns = rvl_now_ns(CLOCK_MONOTONIC);
		self->streak_switches = n_switches();
		return;
	}
	if (self->n_streak < STREAK_REQUESTS || rvl_now_ns(CLOCK_MONOTONIC) - self->streak_ns < STREAK_NS)
		return;
	switches = n_switches() - self->streak_switches;
	limit = (unsigned long)switches * BLOCKED_SHARE >= self->n_streak ? all->max :
									    all->half_of_cpus;
	self->n_streak = 0;
	pthread_mutex_lock(&all->lock);
	if (all->n_readers >= all->n_wanted && all->n_wanted < limit) {
		all->n_wanted++;
		appoint(all);
	}
	pthread_mutex_unlock(&all->lock);
}

/* ---- one reader ---- */

/* As fuse_session_receive_buf, but waits. */
static int receive(struct readers *all, struct reader *self, struct fuse_buf *buf)
{
	struct pollfd polls[] = { { .fd = fuse_session_fd(all->session), .events = POLLIN },
				  { .fd = all->stop_fd, .events = POLLIN } };
	bool is_polling = self->luck >= LUCK_MIN && all->poll_ns > 0;
	uint64_t start = 0;
	int r;

	while (!fuse_session_exited(all->session)) {
		r = fuse_session_receive_buf(all->session, buf);
		if (r == -EINTR)
			continue;
		if (r != -EAGAIN) {
			if (start == 0)
				go_on_streak(all, self);
			else if (is_polling && self->luck < LUCK_MAX)
				self->luck++;
			return r;
		}
		self->n_streak = 0;
		if (start == 0)
			start = rvl_now_ns(CLOCK_MONOTONIC);
		if (is_polling && rvl_now_ns(CLOCK_MONOTONIC) - start < all->poll_ns)
			continue;
		if (is_polling) {
			self->luck -= LUCK_VAIN;
			is_polling = false;
		}
		if (park_if_too_many(all, self)) {
			start = 0;
			continue;
		}
		poll(polls, 2, -1);
		/* with the time of a wake-up: it came soon after all */
		if (self->luck < LUCK_MIN && rvl_now_ns(CLOCK_MONOTONIC) - start < 3 * all->poll_ns)
			self->luck++;
	}
	return 0;
}

/* They wait for a disk, as a rule. */
static bool is_slow(uint32_t opcode)
{
	return opcode == FUSE_FSYNC || opcode == FUSE_FSYNCDIR || opcode == FUSE_FALLOCATE ||
	       opcode == FUSE_COPY_FILE_RANGE;
}

static void serve(struct readers *all, struct reader *self, const struct fuse_buf *buf)
{
	int state = SERVING;

	atomic_fetch_add_explicit(&self->n_served, 1, memory_order_relaxed);
	/* in this order, as watch() has it the other way round */
	atomic_store(&self->state, SERVING);
	if (atomic_load(&all->is_watch_asleep) && atomic_exchange(&all->is_watch_asleep, false))
		wake(all->kick_fd);
	rvl_awake_request(all->awake);
	if (is_slow(((const struct fuse_in_header *)buf->mem)->opcode))
		replace(all, self);
	fuse_session_process_buf(all->session, buf);
	if (!atomic_compare_exchange_strong(&self->state, &state, READY))
		come_back(all, self);
}

static void *reader_thread(void *arg)
{
	struct reader *self = arg;
	struct readers *all = self->all;
	struct fuse_buf buf = {};
	int r;

	while ((r = receive(all, self, &buf)) > 0)
		serve(all, self, &buf);
	free(buf.mem);
	/* the other end of a connection, beside that by umount: somebody has written to its "abort" */
	if (r < 0 && r != -ECONNABORTED)
		all->error = r;
	fuse_session_exit(all->session);
	wake(all->stop_fd);
	return NULL;
}

/* ---- the watch ---- */

/* Replaces who has the same request as at the last look. Has there been anything to do? */
static bool look(struct readers *all)
{
	bool is_active;
	unsigned n;

	pthread_mutex_lock(&all->lock);
	appoint(all); /* once more, if a thread could not be started */
	n = all->n;
	is_active = all->n_readers < all->n_wanted && n < all->max;
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < n; i++) {
		struct reader *reader = &all->threads[i];
		const uint64_t n_served = atomic_load(&reader->n_served);
		const bool is_same = n_served == reader->n_seen;

		reader->n_seen = n_served;
		if (atomic_load(&reader->state) == SERVING) {
			is_active = true;
			if (is_same)
				replace(all, reader);
		}
		is_active = is_active || !is_same;
	}
	return is_active;
}

static void watch(struct readers *all)
{
	struct pollfd polls[] = { { .fd = all->stop_fd, .events = POLLIN },
				  { .fd = all->kick_fd, .events = POLLIN } };
	unsigned n_idle = 0;
	uint64_t count;

	while (!fuse_session_exited(all->session)) {
		n_idle = look(all) ? 0 : n_idle + 1;
		if (n_idle <= IDLE_TICKS) {
			poll(polls, 1, TICK_MS);
			continue;
		}
		atomic_store(&all->is_watch_asleep, true);
		if (!look(all))
			poll(polls, 2, -1);
		atomic_store(&all->is_watch_asleep, false);
		if (polls[1].revents && read(all->kick_fd, &count, sizeof(count)) < 0)
			rvl_warn("waking a thread: %m");
		polls[1].revents = 0;
		n_idle = 0;
	}
}

/* ---- public ---- */

int rvl_readers_run(struct fuse_session *session, int stop_fd, unsigned max_threads,
		    unsigned poll_us, struct rvl_awake *awake)
{
	const int fd = fuse_session_fd(session), flags = fcntl(fd, F_GETFL);
	struct readers all = { .session = session,
			       .stop_fd = stop_fd,
			       .awake = awake,
			       .poll_ns = poll_us * 1000ULL,
			       .max = max_threads,
			       .n_wanted = 1 };
	cpu_set_t cpus;
	int n_cpus, r = 0;

	n_cpus = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 2;
	all.half_of_cpus = n_cpus > 3 ? n_cpus / 2 : 1;
	if (n_cpus < 2)
		all.poll_ns = 0; /* it would keep the CPU from the caller */
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	all.threads = calloc(max_threads, sizeof(*all.threads));
	if (!all.threads)
		return -ENOMEM;
	all.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (all.kick_fd < 0) {
		r = -errno;
		free(all.threads);
		return r;
	}
	pthread_mutex_init(&all.lock, NULL);
	pthread_cond_init(&all.turn, NULL);
	pthread_mutex_lock(&all.lock);
	appoint(&all);
	pthread_mutex_unlock(&all.lock);
	if (all.n > 0)
		watch(&all);
	else if (!fuse_session_exited(session)) /* else a signal was faster */
		r = -EAGAIN;
	pthread_mutex_lock(&all.lock);
	pthread_cond_broadcast(&all.turn);
	pthread_mutex_unlock(&all.lock);
	/* none is started any more: the session has ended */
	for (unsigned i = 0; i < all.n; i++)
		pthread_join(all.threads[i].thread, NULL);
	pthread_cond_destroy(&all.turn);
	pthread_mutex_destroy(&all.lock);
	rvl_close(all.kick_fd);
	free(all.threads);
	return r ?: all.error;
}
