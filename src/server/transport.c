// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The transport. The first request, INIT, decides: it says whether the kernel offers io_uring.
 *
 *   io_uring   for each CPU some threads, each with a ring of one entry (ring.h) and bound to that
 *              CPU: a request is served where it was asked, which saves the dearest part of a round
 *              trip, waking another CPU. This thread reads /dev/fuse, where FORGET still comes
 *   /dev/fuse  as few threads as will do (readers.h)
 *
 * libfuse knows requests of /dev/fuse only (its own io_uring has one thread for each CPU, so that
 * one slow request holds up all others of that CPU). So its input and output are ours when the
 * rings serve (fuse_session_custom_io), and its reply to INIT gets one flag more.
 *
 * The threads go step by step: each makes its ring, and tries it; INIT is answered; the first one
 * gives its ring to the kernel; the others do, and serve. Where the first step fails they end, and
 * /dev/fuse serves; after that the mount ends, for the kernel asks nothing before each CPU has a ring.
 */
#include "server/transport.h"

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/awake.h"
#include "server/fuse.h"
#include "server/passthrough.h"
#include "server/readers.h"
#include "server/ring.h"
#include "server/server.h"

/* Most of them are blocked when there are many: in system calls on objects that a user holds locked, or in
 * copies of data. Who comes then is served all the same. */
#define THREADS_MAX 256

/* Threads for each CPU: more than one for the time that one of them waits for a disk. */
#define RING_DEPTH_MAX 4
#define RING_DEPTH_MIN 2
#define RINGS_WANTED 64 /* in all, where there are many CPUs */
#define CPUS_MAX 4096
#define JOIN_RETRY_MS 10
#define AWAKE_CPUS_MAX 2 /* with awake=auto: it concerns all CPUs, and more would poll in vain */
#define OVER_IO_URING (1U << (41 - 32)) /* FUSE_OVER_IO_URING, in flags2 */

struct ring_thread {
	struct rvl_transport *transport; /* borrowed */
	pthread_t thread;
	unsigned cpu;
	int result; /* of its last step */
};

struct rvl_transport {
	struct rvl_server *server; /* borrowed */
	const char *why_not; /* no io_uring; NULL: it serves */
	uint64_t init_unique; /* the request whose reply is to have the flag; 0: none */
	int stop_fd; /* owned; readable: serving is to end */

	struct ring_thread *threads; /* owned */
	unsigned n_threads; /* started */
	/* the steps, one for all */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned n_done; /* threads that have done their step */
	unsigned step; /* that is under way; where why_not is set, the threads end instead */
};

static _Thread_local struct rvl_ring *own_ring; /* of the thread; NULL: it has none */

/* ---- libfuse's input and output while rings serve ---- */

static void answer_init(struct rvl_transport *t, const struct iovec *iov, int count)
{
	const struct fuse_out_header *header = iov[0].iov_base;
	struct fuse_init_out *out = count > 1 ? iov[1].iov_base : NULL;
	const size_t size = offsetof(struct fuse_init_out, flags2) + sizeof(out->flags2);

	t->init_unique = 0;
	if (header->error || !out || iov[1].iov_len < size || !(out->flags & FUSE_INIT_EXT) ||
	    out->max_write > RVL_MAX_WRITE ||
	    out->max_pages * sysconf(_SC_PAGESIZE) > RVL_MAX_WRITE)
		t->why_not = "libfuse and the kernel agreed on other sizes";
	else
		out->flags2 |= OVER_IO_URING;
}

static ssize_t send_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	struct rvl_transport *t = ((struct rvl_server *)userdata)->transport;
	const struct fuse_out_header *out = iov[0].iov_base;

	if (own_ring && rvl_ring_is_asked(own_ring, out->unique))
		return rvl_ring_reply(own_ring, iov, count);
	if (t->init_unique && out->unique == t->init_unique)
		answer_init(t, iov, count);
	return writev(fd, iov, count);
}

static ssize_t receive(int fd, void *buf, size_t size, void *userdata)
{
	return read(fd, buf, size);
}

char *rvl_transport_payload(size_t size)
{
	size_t room;
	char *payload;

	if (!own_ring)
		return NULL;
	payload = rvl_ring_payload(own_ring, &room);
	return size <= room ? payload : NULL;
}

/* ---- threads with a ring ---- */

/* Where it is not allowed (a cpuset), the scheduler chooses. */
static void bind_to_cpu(unsigned cpu)
{
	cpu_set_t *set = CPU_ALLOC(cpu + 1);

	if (!set)
		return;
	CPU_ZERO_S(CPU_ALLOC_SIZE(cpu + 1), set);
	CPU_SET_S(cpu, CPU_ALLOC_SIZE(cpu + 1), set);
	if (sched_setaffinity(0, CPU_ALLOC_SIZE(cpu + 1), set) < 0)
		rvl_debug("a thread is not bound to CPU %u: %m", cpu);
	CPU_FREE(set);
}

static void serve_ring(struct rvl_transport *t, const struct ring_thread *self)
{
	struct fuse_session *session = t->server->session;
	struct fuse_buf buf = {};
	int r = self == t->threads ? 0 : rvl_ring_register(own_ring);

	while (r >= 0 && !fuse_session_exited(session)) {
		r = rvl_ring_wait(own_ring, &buf.mem, &buf.size);
		if (r == 0) {
			rvl_awake_request(t->server->awake);
			fuse_session_process_buf(session, &buf);
		} else if (r == -EINTR) {
			r = 0;
		}
	}
	rvl_ring_flush(own_ring);
	/* the end of the connection; what is not, ends it */
	if (r < 0 && r != -ENOTCONN && r != -ECONNABORTED && r != -ECANCELED) {
		rvl_error("serving by io_uring: %s", strerror(-r));
		rvl_transport_stop(t);
	}
}

/* By a thread with a ring: its step is done, waits for the next one. What that is why_not says. */
static void end_step(struct rvl_transport *t)
{
	unsigned step;

	pthread_mutex_lock(&t->lock);
	step = t->step;
	t->n_done++;
	pthread_cond_broadcast(&t->changed);
	while (t->step == step)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static void *ring_thread(void *arg)
{
	struct ring_thread *self = arg;
	struct rvl_transport *t = self->transport;

	bind_to_cpu(self->cpu);
	self->result = rvl_ring_new(fuse_session_fd(t->server->session), self->cpu, RVL_MAX_WRITE,
				    &own_ring);
	end_step(t);
	if (!t->why_not) {
		if (self == t->threads)
			self->result = rvl_ring_register(own_ring);
		end_step(t);
	}
	if (!t->why_not)
		serve_ring(t, self);
	rvl_ring_free(own_ring);
	own_ring = NULL;
	return NULL;
}

/* The number of queues that the kernel wants to see (num_possible_cpus), 0 if it cannot be told. */
static unsigned possible_cpus(void)
{
	FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
	unsigned n = 0, first, last;

	while (file && fscanf(file, "%u", &first) == 1) {
		last = first;
		if (fscanf(file, "-%u", &last) < 0 || last < first || last >= CPUS_MAX) {
			if (last < first || last >= CPUS_MAX)
				n = 0;
			break;
		}
		n += last - first + 1;
		if (fgetc(file) != ',')
			break;
	}
	if (file)
		fclose(file);
	return n;
}

static void wait_for_step(struct rvl_transport *t)
{
	pthread_mutex_lock(&t->lock);
	while (t->n_done < t->n_threads)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static const char *explain(int error)
{
	return error == -EPERM	       ? "io_uring is denied" :
	       error == -ENOSYS	       ? "the kernel has no io_uring" :
	       strerrordesc_np(-error) ?:
					 "no ring";
}

/* NULL: all threads have a ring. */
static const char *check_rings(const struct rvl_transport *t)
{
	for (unsigned i = 0; i < t->n_threads; i++)
		if (t->threads[i].result < 0)
			return explain(t->threads[i].result);
	return NULL;
}

static void go_on(struct rvl_transport *t)
{
	pthread_mutex_lock(&t->lock);
	t->n_done = 0;
	t->step++;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

/*
 * A thread that waits for a request is interrupted; the loop is for the moment between its look at
 * the session and its wait.
 */
static void join_threads(struct rvl_transport *t)
{
	for (unsigned i = 0; i < t->n_threads; i++) {
		struct timespec until;

		do {
			pthread_kill(t->threads[i].thread, SIGUSR1);
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_nsec += JOIN_RETRY_MS * 1000000L;
			until.tv_sec += until.tv_nsec / 1000000000L;
			until.tv_nsec %= 1000000000L;
			/* not pthread_clockjoin_np: gcc 12's TSan does not know that it joins */
		} while (pthread_timedjoin_np(t->threads[i].thread, NULL, &until) == ETIMEDOUT);
	}
	t->n_threads = 0;
}

/* Threads and rings. NULL, or why there are none. */
static const char *set_up_rings(struct rvl_transport *t)
{
	const unsigned n_cpus = possible_cpus();
	unsigned depth = n_cpus ? RINGS_WANTED / n_cpus : 0, n;
	const char *why_not = NULL;
	struct rlimit limit;
	pthread_attr_t attr;

	depth = depth < RING_DEPTH_MIN ? RING_DEPTH_MIN :
		depth > RING_DEPTH_MAX ? RING_DEPTH_MAX :
					 depth;
	n = n_cpus * depth;
	if (n == 0)
		return "the number of CPUs is not known";
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && n > limit.rlim_cur / 4)
		return "too few descriptors are allowed (ulimit -n)";
	t->threads = calloc(n, sizeof(*t->threads));
	if (!t->threads)
		return "no memory";
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, RVL_STACK_SIZE);
	for (; t->n_threads < n && !why_not; t->n_threads++) {
		struct ring_thread *thread = &t->threads[t->n_threads];

		*thread = (struct ring_thread){ .transport = t, .cpu = t->n_threads % n_cpus };
		if (pthread_create(&thread->thread, &attr, ring_thread, thread) != 0) {
			why_not = "no more threads can be had";
			break;
		}
	}
	pthread_attr_destroy(&attr);
	wait_for_step(t);
	return why_not ?: check_rings(t);
}

/* ---- the choice ---- */

static bool is_offered(const struct fuse_buf *init)
{
	const struct fuse_in_header *header = init->mem;
	const struct fuse_init_in *in = (const void *)(header + 1);
	const size_t size =
		sizeof(*header) + offsetof(struct fuse_init_in, flags2) + sizeof(in->flags2);

	return header->opcode == FUSE_INIT && init->size >= size && in->flags & FUSE_INIT_EXT &&
	       in->flags2 & OVER_IO_URING;
}

/* With INIT in hand, not answered yet. NULL: rings are there. */
static const char *choose(struct rvl_transport *t, const struct fuse_buf *init)
{
	static const struct fuse_custom_io io = { .writev = send_reply, .read = receive };
	struct rvl_server *server = t->server;
	const char *why_not;

	if (!server->options.has_io_uring)
		return "io_uring=off";
	if (!is_offered(init))
		return "the kernel does not offer it (/sys/module/fuse/parameters/enable_uring)";
	why_not = set_up_rings(t);
	if (!why_not && fuse_session_custom_io(server->session, &io, sizeof(io),
					       fuse_session_fd(server->session)) != 0)
		why_not = "libfuse is built without custom I/O";
	if (!why_not)
		t->init_unique = ((const struct fuse_in_header *)init->mem)->unique;
	return why_not;
}

/*
 * INIT is answered: gives the rings to the kernel, or lets them go. -EIO: it takes none now, and waits
 * for them with all requests (fs/fuse/dev.c, fuse_block_alloc).
 */
static int set_rings_going(struct rvl_transport *t)
{
	int r = 0;

	if (!t->why_not) {
		go_on(t);
		wait_for_step(t);
		t->why_not = check_rings(t);
		if (t->why_not) {
			rvl_error("serving by io_uring: %s, after it was agreed on. Mount with "
				  "io_uring=off",
				  t->why_not);
			r = -EIO;
		}
	}
	if (t->why_not) {
		go_on(t);
		join_threads(t);
	}
	return r;
}

/* As io_uring: tried as soon as INIT is answered, and told. */
static int enable_passthrough(struct rvl_server *server)
{
	const char *why_not = server->options.has_passthrough ? "opens are not asked for" :
								"passthrough=off";
	int r;

	if (server->options.has_passthrough && server->has_open)
		why_not = rvl_passthrough_enable(server->passthrough);
	r = rvl_server_add_config(server, "data=%s", why_not ? "cached" : "passthrough");
	if (r == 0 && why_not)
		r = rvl_server_add_config(server, "data_reason=%s", why_not);
	return r;
}

/* Why CPUs are not to be kept awake; NULL: they are. */
static const char *why_not_awake(enum rvl_awake_mode mode)
{
	const long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (mode == RVL_AWAKE_OFF)
		return "awake=off";
	if (n_cpus < 2)
		return "there is one CPU";
	if (mode == RVL_AWAKE_AUTO && n_cpus > AWAKE_CPUS_MAX)
		return "there are more than two CPUs, awake=on is for them";
	return NULL;
}

static int keep_awake(struct rvl_server *server)
{
	const char *why_not = why_not_awake(server->options.awake);
	int r = why_not ? 0 : rvl_awake_new(&server->awake);

	if (r < 0)
		why_not = strerror(-r);
	r = rvl_server_add_config(server, "awake=%s", why_not ? "off" : "on");
	if (r == 0 && why_not)
		r = rvl_server_add_config(server, "awake_reason=%s", why_not);
	return r;
}

/* Reads and answers INIT. 0 or -errno; -ENODEV: the mount has ended already. */
static int initialise(struct rvl_transport *t)
{
	struct fuse_buf buf = {};
	int r;

	do
		r = fuse_session_receive_buf(t->server->session, &buf);
	while (r == -EINTR);
	if (r > 0) {
		t->why_not = choose(t, &buf);
		fuse_session_process_buf(t->server->session, &buf);
		r = set_rings_going(t);
		if (r == 0)
			r = rvl_server_add_config(t->server, "transport=%s",
						  t->why_not ? "dev" : "io_uring");
		if (r == 0 && t->why_not)
			r = rvl_server_add_config(t->server, "transport_reason=%s", t->why_not);
		if (r == 0)
			r = enable_passthrough(t->server);
		if (r == 0)
			r = keep_awake(t->server);
		rvl_debug("no io_uring: %s", t->why_not ?: "it is used");
		/* to serve, if there are any left */
		go_on(t);
	} else if (r == 0) {
		r = -ENODEV;
	}
	free(buf.mem);
	return r;
}

/* ---- /dev/fuse ---- */

/* What comes by /dev/fuse while rings serve. */
static int serve_forgets(struct rvl_transport *t)
{
	struct fuse_session *session = t->server->session;
	struct pollfd polls[] = { { .fd = fuse_session_fd(session), .events = POLLIN },
				  { .fd = t->stop_fd, .events = POLLIN } };
	struct fuse_buf buf = {};
	int r = 0;

	while (r >= 0 && !fuse_session_exited(session)) {
		if (poll(polls, 2, -1) < 0 || polls[1].revents)
			continue;
		r = fuse_session_receive_buf(session, &buf);
		if (r > 0)
			fuse_session_process_buf(session, &buf);
		else if (r == -EINTR || r == -EAGAIN)
			r = 0;
	}
	free(buf.mem);
	return r < 0 ? r : 0;
}

/* ---- public ---- */

static void wake(int number)
{
}

int rvl_transport_new(struct rvl_server *server, struct rvl_transport **ret)
{
	struct rvl_transport *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->server = server;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	t->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (t->stop_fd < 0) {
		int r = -errno;

		rvl_transport_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

void rvl_transport_free(struct rvl_transport *t)
{
	if (!t)
		return;
	rvl_close(t->stop_fd);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t->threads);
	free(t);
}

int rvl_transport_serve(struct rvl_transport *t)
{
	/* system calls of the requests go on after it, waits for a request do not */
	const struct sigaction action = { .sa_handler = wake, .sa_flags = SA_RESTART };
	int r;

	sigaction(SIGUSR1, &action, NULL);
	r = initialise(t);
	if (r == 0)
		r = t->why_not ? rvl_readers_run(t->server->session, t->stop_fd, THREADS_MAX,
						 t->server->options.poll_us, t->server->awake) :
				 serve_forgets(t);
	rvl_transport_stop(t);
	join_threads(t);
	return r == -ENODEV ? 0 : r;
}

void rvl_transport_stop(struct rvl_transport *t)
{
	const uint64_t one = 1;

	fuse_session_exit(t->server->session);
	if (write(t->stop_fd, &one, sizeof(one)) < 0)
		rvl_warn("waking the server: %m");
}
