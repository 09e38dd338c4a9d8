// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A whole run: oracle, mount, one or more worlds (threads), operations with the periodic checks between them, umount.
 *
 * Lifecycle of a thread: it has its own fs_struct (umask, current directory), generates or takes the next op, writes it to
 * its log before it is run, runs it. A remount needs all threads: they meet, each lets go of the mount, thread 0 remounts
 * and compares the whole tree, they meet again.
 */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct world *worlds; /* owned, cfg.threads of them */
static unsigned int world_count;
static struct rlimit nofile_before;

/* ---- meeting of threads: like a barrier, but a failure lets all go ---- */

static pthread_mutex_t meet_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t meet_cond = PTHREAD_COND_INITIALIZER;
static unsigned int meet_waiting, meet_round;

static int meet(void)
{
	unsigned int round;

	pthread_mutex_lock(&meet_lock);
	round = meet_round;
	if (++meet_waiting == world_count) {
		meet_waiting = 0;
		meet_round++;
		pthread_cond_broadcast(&meet_cond);
	}
	while (round == meet_round && !rnd_failure->failed) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 50000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&meet_cond, &meet_lock, &until);
	}
	pthread_mutex_unlock(&meet_lock);
	return rnd_failure->failed ? -1 : 0;
}

/* ---- mount and umount ---- */

static int run_command(struct world *w, const char *name, const char *cmd)
{
	mode_t mask = umask(022);
	struct rlimit ours;
	int r;

	if (!cmd)
		return 0;
	/* The server inherits from us: not our limit on descriptors, mask or directory. */
	getrlimit(RLIMIT_NOFILE, &ours);
	setrlimit(RLIMIT_NOFILE, &nofile_before);
	r = shell(cmd);
	setrlimit(RLIMIT_NOFILE, &ours);
	umask(mask);
	if (r != 0)
		return rnd_fail(w, name, "%s command failed (exit code %d): %s", name, r, cmd);
	return 0;
}

static void world_let_go(struct world *w)
{
	for (int i = 0; i < RND_SLOTS; i++) {
		side_close_slot(&w->ora, i);
		side_close_slot(&w->mnt, i);
	}
	if (w->ora.root >= 0)
		close(w->ora.root);
	if (w->mnt.root >= 0)
		close(w->mnt.root);
	w->ora.root = w->mnt.root = -1;
	if (chdir("/") < 0)
		abort();
}

static int open_root(const char *top, const char *sub)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", top, sub);
	return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int world_open_roots(struct world *w)
{
	w->ora.root = open_root(cfg.oracle, w->sub);
	w->mnt.root = open_root(cfg.mnt, w->sub);
	if (w->ora.root < 0 || w->mnt.root < 0)
		return rnd_fail(w, "setup", "root of thread %d cannot be opened: %m", w->id);
	return 0;
}

static bool is_open_somewhere(ino_t oracle_ino)
{
	struct stat st;

	for (unsigned int t = 0; t < world_count; t++)
		for (int i = 0; i < RND_SLOTS; i++)
			if (worlds[t].ora.fd[i] >= 0 && fstat(worlds[t].ora.fd[i], &st) == 0 &&
			    st.st_ino == oracle_ino)
				return true;
	return false;
}

/* Everything, while no other thread runs. */
static int check_all(struct world *w)
{
	int o = open_root(cfg.oracle, ""), m = open_root(cfg.mnt, ""), r;
	uint64_t step = w->step;

	if (o < 0 || m < 0) {
		r = rnd_fail(w, "setup", "%s or %s cannot be opened: %m", cfg.oracle, cfg.mnt);
	} else {
		w->step = 0; /* the mount's st_dev is learnt anew */
		w->objects = 0;
		r = compare_fds(w, o, m, ".", CHECK_ALL);
		w->step = step;
		if (r == 0)
			r = tree_check(w, o, m, ".", NULL);
		w->objects /= world_count;
		ident_prune(is_open_somewhere);
	}
	if (o >= 0)
		close(o);
	if (m >= 0)
		close(m);
	return r;
}

/* Own subtree and own names in the shared directory, while other threads run. */
static int check_own(struct world *w)
{
	char own[32];
	int o, m, r;

	if (world_count == 1 && !w->sub[0])
		return check_all(w);
	w->objects = 0;
	r = tree_check(w, w->ora.root, w->mnt.root, ".", NULL);
	if (r < 0)
		return r;
	snprintf(own, sizeof(own), "t%d-", w->id);
	o = openat(w->ora.root, "../shared", O_PATH | O_CLOEXEC);
	m = openat(w->mnt.root, "../shared", O_PATH | O_CLOEXEC);
	r = o < 0 || m < 0 ? rnd_fail(w, "lookup", "../shared: %m") :
			     tree_check(w, o, m, "../shared", own);
	if (o >= 0)
		close(o);
	if (m >= 0)
		close(m);
	return r;
}

static int remount(struct world *w)
{
	if (meet() < 0)
		return -1;
	world_let_go(w);
	if (meet() < 0)
		return -1;
	if (w->id == worlds[0].id) {
		if (run_command(w, "umount", cfg.umount) < 0 ||
		    run_command(w, "mount", cfg.mount) < 0)
			return -1;
		if (check_all(w) < 0)
			return -1;
	}
	if (meet() < 0)
		return -1;
	return world_open_roots(w);
}

/* Machine-wide; 1: pages, 2: dentries and inodes, 3: both. */
static void drop_caches(int what)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	char c = (char)('0' + what);

	if (fd < 0)
		return;
	if (write(fd, &c, 1) < 0)
		fprintf(stderr, "rvl-random: drop_caches: %m\n");
	close(fd);
}

/* ---- the loop ---- */

static int step(struct world *w, struct op *o)
{
	int r;

	w->step++;
	rnd_failure->done++;
	if (w->log)
		op_write(w->log, o);
	if (cfg.verbose) {
		fprintf(stderr, "%d.%llu ", w->id, (unsigned long long)w->step);
		op_print(stderr, o);
		fputc('\n', stderr);
	}
	w->cur = *o; /* borrowed, for rnd_fail() */
	switch (o->kind) {
	case OP_DROP:
		drop_caches(1 + (int)(o->seed % 3));
		return 0;
	case OP_CHECK:
		return check_own(w);
	case OP_REMOUNT:
		return remount(w);
	default:
		r = world_exec(w, o);
		return r;
	}
}

static int step_control(struct world *w, enum op_kind kind)
{
	struct op o;

	op_init(&o);
	o.kind = kind;
	if (kind == OP_DROP)
		o.seed = 1 + rng_below(&w->rng, 3);
	return step(w, &o);
}

static int generate_loop(struct world *w)
{
	for (uint64_t i = 1; i <= cfg.ops; i++) {
		struct op o;
		int r;

		if (rnd_failure->failed)
			return -1;
		world_gen(w, &o);
		r = step(w, &o);
		if (r == 0 && cfg.drop_caches && rng_below(&w->rng, cfg.drop_one_in) == 0)
			r = step_control(w, OP_DROP);
		if (r == 0 && cfg.remount_every && i % cfg.remount_every == 0 && i != cfg.ops)
			r = step_control(w, OP_REMOUNT);
		else if (r == 0 && cfg.check_every && i % cfg.check_every == 0)
			r = step_control(w, OP_CHECK);
		op_release(&o);
		if (r < 0)
			return r;
	}
	if (step_control(w, OP_CHECK) < 0)
		return -1;
	return step_control(w, OP_REMOUNT);
}

static int replay_loop(struct world *w, const struct op_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		if (step(w, &l->v[i]) < 0)
			return -1;
	return 0;
}

static const struct op_list *thread_list; /* borrowed */

static void *thread_main(void *arg)
{
	struct world *w = arg;

	if (unshare(CLONE_FS) < 0)
		rnd_fail(w, "setup", "unshare: %m");
	umask(022);
	if (world_open_roots(w) == 0)
		thread_list ? replay_loop(w, thread_list) : generate_loop(w);
	world_let_go(w);
	return NULL;
}

/* ---- setup ---- */

static int world_init(struct world *w, int id, const char *sub)
{
	*w = (struct world){ .id = id, .rng = { cfg.seed * 1000003 + (uint64_t)id } };
	snprintf(w->sub, sizeof(w->sub), "%s", sub);
	w->mnt.is_mount = true;
	w->ora.root = w->mnt.root = -1;
	for (int i = 0; i < RND_SLOTS; i++)
		w->ora.fd[i] = w->mnt.fd[i] = -1;
	w->buf = malloc(RND_BUF_BYTES);
	w->buf2 = malloc(RND_BUF_BYTES);
	if (!w->buf || !w->buf2)
		return -ENOMEM;
	if (cfg.is_replay)
		return 0;
	snprintf(w->log_path, sizeof(w->log_path), cfg.threads > 1 ? "%s.t%d" : "%s", cfg.log, id);
	w->log = fopen(w->log_path, "we");
	if (!w->log)
		return -errno;
	setvbuf(w->log, NULL, _IOLBF, 1 << 16); /* survives our death */
	if (*sub)
		fprintf(w->log, "# sub %s\n", sub);
	return 0;
}

/* Directories of the threads, on both sides alike, where the layers have none. */
static int make_subs(void)
{
	const char *const tops[] = { cfg.oracle, cfg.mnt };
	char path[PATH_MAX];

	for (int s = 0; s < 2; s++) {
		for (unsigned int i = 0; i < world_count; i++) {
			if (!worlds[i].sub[0])
				continue;
			snprintf(path, sizeof(path), "%s/%s", tops[s], worlds[i].sub);
			if (mkdir(path, 0777) < 0 && errno != EEXIST)
				return -errno;
			snprintf(path, sizeof(path), "%s/shared", tops[s]);
			if (mkdir(path, 0777) < 0 && errno != EEXIST)
				return -errno;
		}
	}
	return 0;
}

static int fingerprint(struct world *w, uint64_t *ret_hash)
{
	/* The first layer is the upper one, which changes. */
	for (size_t i = 1; i < cfg.layer_count; i++) {
		int fd = open(cfg.layers[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		int r = fd < 0 ? -errno : tree_fingerprint(fd, &ret_hash[i]);

		if (fd >= 0)
			close(fd);
		if (r < 0)
			return rnd_fail(w, "setup", "layer %s: %s", cfg.layers[i], strerror(-r));
	}
	return 0;
}

static bool oracle_is_empty(void)
{
	struct name_list l = { 0 };
	int fd = open(cfg.oracle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool r = fd >= 0 && name_list_read(&l, fd, 4096) == 0 && l.n == 0;

	name_list_free(&l);
	if (fd >= 0)
		close(fd);
	return r;
}

static int setup(struct world *w, uint64_t *hashes)
{
	int r;

	if (fingerprint(w, hashes) < 0)
		return -1;
	if (cfg.layer_count && oracle_is_empty()) {
		r = merge_layers(cfg.layers, cfg.layer_count, cfg.oracle);
		if (r < 0)
			return rnd_fail(w, "setup", "merge of the layers: %s", strerror(-r));
	}
	if (run_command(w, "mount", cfg.mount) < 0)
		return -1;
	if (check_all(w) < 0) /* the first view, before anything is changed */
		return -1;
	r = make_subs();
	return r < 0 ? rnd_fail(w, "setup", "subtrees: %s", strerror(-r)) : 0;
}

static int run_threads(const struct op_list *list)
{
	pthread_t threads[RND_THREADS_MAX];

	thread_list = list;
	for (unsigned int i = 0; i < world_count; i++)
		if (pthread_create(&threads[i], NULL, thread_main, &worlds[i]))
			abort();
	for (unsigned int i = 0; i < world_count; i++)
		pthread_join(threads[i], NULL);
	return rnd_failure->failed ? -1 : 0;
}

int run_all(const struct op_list *list)
{
	uint64_t before[RND_LAYERS_MAX] = { 0 }, after[RND_LAYERS_MAX] = { 0 };
	struct rlimit lim;
	int r;

	getrlimit(RLIMIT_NOFILE, &nofile_before);
	lim = nofile_before;
	lim.rlim_cur = lim.rlim_max = 1 << 20;
	if (setrlimit(RLIMIT_NOFILE, &lim) < 0) {
		lim.rlim_cur = lim.rlim_max = nofile_before.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
	world_count = list ? 1 : cfg.threads;
	worlds = calloc(world_count, sizeof(*worlds));
	for (unsigned int i = 0; worlds && i < world_count; i++) {
		char sub[64] = "";
		int id = (int)i;

		if (list && sscanf(list->sub, "t%d", &id) == 1)
			snprintf(sub, sizeof(sub), "%s", list->sub);
		else if (world_count > 1)
			snprintf(sub, sizeof(sub), "t%u", i);
		if (world_init(&worlds[i], id, sub) < 0)
			return rnd_fail(NULL, "setup", "log or memory: %m");
	}
	ident_init();
	r = setup(&worlds[0], before);
	if (r == 0)
		r = run_threads(list);
	for (unsigned int i = 0; i < world_count; i++)
		if (worlds[i].log)
			fclose(worlds[i].log);
	if (r == 0 && run_command(&worlds[0], "umount", cfg.umount) == 0 &&
	    fingerprint(&worlds[0], after) == 0)
		for (size_t i = 1; i < cfg.layer_count; i++)
			if (before[i] != after[i])
				r = rnd_fail(&worlds[0], "layer-changed",
					     "lower layer %s is not as it was", cfg.layers[i]);
	if (r == 0 && !rnd_failure->failed && !cfg.is_replay)
		for (unsigned int i = 0; i < world_count; i++)
			unlink(worlds[i].log_path);
	return rnd_failure->failed ? -1 : r;
}

static bool world_is_single(const struct op_list *list)
{
	return list || cfg.threads == 1;
}

int run_forked(const struct op_list *list, unsigned int timeout_s)
{
	uint64_t seen = 0;
	time_t since = time(NULL);
	pid_t pid;
	int status;

	rnd_failure->failed = 0;
	rnd_failure->done = 0;
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(run_all(list) == 0 ? 0 : 1);
	for (;;) {
		pid_t r = waitpid(pid, &status, WNOHANG);

		if (r == pid)
			break;
		if (rnd_failure->done != seen) {
			seen = rnd_failure->done;
			since = time(NULL);
		} else if (time(NULL) - since > (time_t)timeout_s) {
			rnd_fail(NULL, "hang",
				 "no operation finished for %u s; the last line of the log is it",
				 timeout_s);
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			if (world_is_single(list))
				rnd_failure->step = seen;
			rnd_failure->op = OP_KINDS;
			return 2;
		}
		usleep(list && list->n < 2000 ? 200 : 20000);
	}
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	rnd_fail(NULL, "died",
		 "the tester died of signal %d; the last line of the log is the operation",
		 WTERMSIG(status));
	if (world_is_single(list))
		rnd_failure->step = rnd_failure->done;
	rnd_failure->op = OP_KINDS;
	return 2;
}
