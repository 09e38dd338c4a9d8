// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rvl-crash [options] --program REVERLAY DIR
 *
 *   DIR              an empty directory, on the filesystem that the layers are to be on
 *   --case TEXT      only cases with this in their name; --list names them
 *   --point N        only this point; --after: when the call is done
 *   --all            every point, before and after; else one of each kind
 *   --recovery       kill the recovery of these points too, at each of its own steps
 *   --options O      more mount options
 *   --check CTL      reverlayctl check must find nothing
 *   --repair         and before the next mount a repair must finish all, and leave nothing to find
 *   --from N         go on with the N-th case, where a run was ended (by SIGTERM or SIGINT)
 *   --part I/N       every N-th case, from I on
 *   --share I/N      all cases of every N-th operation: no kind of point is in two shares, but
 *                    those of the end of a mount
 *   --jobs N, --verbose
 *
 * The last line says how many cases and points there were, and how many failed. See crash.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "crash.h"

#define KINDS_MAX (1 << 14)
#define FAILURES_SHOWN 40

struct options options = { .mount_options = "", .n_workers = 1, .n_parts = 1, .n_shares = 1 };
struct shared *shared;

/* Of all workers. */
static struct totals {
	_Atomic size_t next_case;
	_Atomic bool is_ended; /* by a signal: no further case */
	_Atomic unsigned long n_cases, n_points, n_recoveries, n_failed;
	_Atomic uint64_t kinds[KINDS_MAX]; /* points that were tried, by their kind */
} * totals;

static struct world world;
static char *texts[STEPS_MAX + 1]; /* owned; the tree after so many steps */
static char *first_text; /* the same before all cases */

void complain(const char *format, ...)
{
	va_list args;

	/* the first thing that is wrong is what matters */
	if (shared->message[0])
		return;
	va_start(args, format);
	vsnprintf(shared->message, sizeof(shared->message), format, args);
	va_end(args);
}

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap: %m");
	return p;
}

/* ---- what uses the mount ---- */

static int use_steps(void *arg)
{
	const struct test_case *c = arg;
	char step[192];
	int dirfd, r = 0;

	if (world_setup(world.mnt) < 0 || !tree_read(world.mnt) || !tree_handles(world.mnt))
		return 1;
	dirfd = open(world.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	shared->is_armed = 1;
	for (int i = 0; r == 0 && i < shared->n_steps; i++) {
		step_get(c->steps, (unsigned)i, step, sizeof(step));
		r = step_do(dirfd, step);
		if (r < 0)
			complain("step \"%s\": %s", step, strerror(-r));
		else
			shared->n_done++;
	}
	close(dirfd);
	return r < 0;
}

static int use_verify(void *arg)
{
	tree_decode(world.mnt);
	return !tree_read(world.mnt) || !tree_check_decoded();
}

/* ---- one point ---- */

/* reverlayctl by a name that it knows, with one argument and the layers: its exit code. */
static int run_ctl(const char *name, const char *argument)
{
	char text[8 * PATH_MAX];
	int status;
	pid_t pid;

	snprintf(text, sizeof(text), "lowerdir=%s:%s,upperdir=%s,workdir=%s%s%s", world.lower[0],
		 world.lower[1], world.upper, world.work, *options.mount_options ? "," : "",
		 options.mount_options);
	pid = fork();
	if (pid == 0) {
		if (!freopen(world.log, "a", stdout) || !freopen(world.log, "a", stderr))
			_exit(126);
		execl(options.ctl, name, argument, "-o", text, NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

/* All of it: reverlayctl check, where it is there. */
static bool run_check(void)
{
	if (!options.ctl || run_ctl("reverlayctl", "check") == 0)
		return true;
	complain("reverlayctl check finds something");
	return false;
}

/* What the next mount would finish is finished without it. */
static bool run_repair(void)
{
	int code = run_ctl("fsck.reverlay", "-y");

	if (code == 0 || code == 1)
		return index_is_finished(&world) && run_check();
	complain("fsck.reverlay -y: exit code %d", code);
	return false;
}

/* Mount again, look, unmount, look at what is on disk. */
static bool verify_life(void)
{
	struct trace trace = { .is_idle = true };

	return run_life(&world, &trace, use_verify, NULL) == 0 && !shared->message[0] &&
	       index_check(&world) && run_check();
}

static bool verify(const struct test_case *c)
{
	unsigned n_done = (unsigned)shared->n_done;
	char *before;
	bool is_good;

	if ((options.is_repaired && !run_repair()) || !verify_life())
		return false;
	if (!tree_is(texts[n_done]) &&
	    !(n_done < steps_count(c->steps) && tree_is(texts[n_done + 1]))) {
		complain("the tree is neither as after %u steps nor as after the next", n_done);
		return false;
	}
	if (!options.is_all)
		return true;
	/* and once more: recovery has left nothing that the next mount changes */
	before = strdup(shared->text);
	is_good = verify_life() && tree_is(before);
	if (!is_good)
		complain("the second mount shows another tree than the first");
	free(before);
	return is_good;
}

static void print_log(void)
{
	char line[512];
	FILE *file = fopen(world.log, "r");

	while (file && fgets(line, sizeof(line), file))
		printf("    log: %s", line);
	if (file)
		fclose(file);
}

static void report(const struct test_case *c, const struct trace *trace, const char *call)
{
	if (++totals->n_failed > FAILURES_SHOWN)
		return;
	printf("FAIL %s: killed %s point %lu (%s), %d steps done: %s\n", c->name,
	       trace->is_after ? "after" : "before", trace->kill_at, call, shared->n_done,
	       shared->message);
	for (unsigned i = (unsigned)shared->n_done;
	     strstr(shared->message, "neither") && i <= (unsigned)shared->n_done + 1; i++) {
		if (i > STEPS_MAX || !texts[i])
			break;
		printf("    against the tree after %u steps:\n", i);
		tree_print_difference(texts[i], shared->text);
	}
	print_log();
	fflush(stdout);
}

/* The life in which the steps are done. Returns false if it was not cut short. */
static bool first_life(const struct test_case *c, struct trace *trace, int n_steps)
{
	world_make(&world, "world");
	shared->n_done = 0;
	shared->n_steps = n_steps;
	run_life(&world, trace, use_steps, (void *)c);
	return trace->is_killed;
}

/* Kill the recovery at its j-th step, for all j. */
static void try_recoveries(const struct test_case *c, struct trace *point, const char *call)
{
	struct trace trace = { .is_recovery = true };

	for (trace.kill_at = 1;; trace.kill_at++) {
		if (!first_life(c, point, (int)steps_count(c->steps)))
			return;
		run_life(&world, &trace, use_verify, NULL);
		if (!trace.is_killed)
			return;
		totals->n_recoveries++;
		shared->message[0] = '\0';
		if (!verify(c)) {
			char text[160];

			snprintf(text, sizeof(text), "%s, then recovery at %lu, %s", call,
				 trace.kill_at, trace.calls[trace.n_calls - 1].what);
			report(c, point, text);
		}
	}
}

static void try_point(const struct test_case *c, unsigned long n, bool is_after, const char *call)
{
	struct trace trace = { .kill_at = n, .is_after = is_after };

	totals->n_points++;
	if (options.is_verbose)
		printf("%s: %s %lu, %s\n", c->name, is_after ? "after" : "before", n, call);
	if (!first_life(c, &trace, (int)steps_count(c->steps)))
		return; /* a call that was not made this time */
	if (!verify(c))
		report(c, &trace, call);
	else if (options.is_nested)
		try_recoveries(c, &trace, call);
}

/* ---- one case ---- */

static uint64_t hash_text(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 0x100000001b3;
	return hash;
}

/* The first point of its kind: this call in this operation. */
static bool is_first(const struct test_case *c, const struct trace *trace, unsigned long i)
{
	uint64_t hash = 0xcbf29ce484222325;
	bool is_end = strncmp(trace->calls[i].what, "end:", 4) == 0;

	if (!is_end)
		hash = hash_text(hash, c->operation);
	hash = hash_text(hash, trace->calls[i].what) | 1;
	for (unsigned k = 0; k < KINDS_MAX; k++) {
		uint64_t expected = 0;

		if (atomic_compare_exchange_strong(&totals->kinds[(hash + k) % KINDS_MAX],
						   &expected, hash))
			return true;
		if (expected == hash)
			return false;
	}
	return true;
}

/* The tree after so many steps, which have been done without a death. */
static bool take_reference(const struct test_case *c, int n_steps, struct trace *trace)
{
	if (shared->message[0] || shared->n_done != n_steps || !verify_life()) {
		report(c, trace, "none: without a death");
		return false;
	}
	texts[n_steps] = strdup(shared->text);
	return true;
}

/* Do so many steps, and take the tree after them. */
static bool read_reference(const struct test_case *c, int n_steps, struct trace *trace)
{
	if (n_steps == 0 && first_text) {
		texts[0] = strdup(first_text);
		return true;
	}
	first_life(c, trace, n_steps);
	if (!take_reference(c, n_steps, trace))
		return false;
	if (n_steps == 0)
		first_text = strdup(texts[0]);
	return true;
}

static void try_case(const struct test_case *c)
{
	int n_steps = (int)steps_count(c->steps);
	struct trace trace = {}, other = {};
	static bool is_wanted[CALLS_MAX];
	bool is_any = false, is_good;

	totals->n_cases++;
	first_life(c, &trace, n_steps);
	if (trace.n_calls > CALLS_MAX)
		die("%s: more than %d calls", c->name, CALLS_MAX);
	for (unsigned long i = 0; i < trace.n_calls; i++) {
		is_wanted[i] = options.only_point ? options.only_point == i + 1 :
						    options.is_all || is_first(c, &trace, i);
		is_any = is_any || is_wanted[i];
	}
	if (shared->message[0]) {
		report(c, &trace, "none: without a death");
		return;
	}
	/* the world is still that after all steps, then those after fewer */
	is_good = is_any && take_reference(c, n_steps, &trace);
	for (int i = 0; is_good && i < n_steps; i++)
		is_good = read_reference(c, i, &other);
	for (unsigned long i = 0; is_good && i < trace.n_calls; i++) {
		if (is_wanted[i])
			try_point(c, i + 1, false, trace.calls[i].what);
		if (is_wanted[i] && (options.is_all || i + 1 == trace.n_calls))
			try_point(c, i + 1, true, trace.calls[i].what);
	}
	for (unsigned i = 0; i <= STEPS_MAX; i++) {
		free(texts[i]);
		texts[i] = NULL;
	}
}

/* The how-manieth operation that of case i is. */
static unsigned operation_index(const struct test_case *cases, size_t i)
{
	unsigned n = 0;

	for (size_t k = 0; strcmp(cases[k].operation, cases[i].operation) != 0; k++) {
		size_t before = 0;

		while (strcmp(cases[before].operation, cases[k].operation) != 0)
			before++;
		n += before == k;
	}
	return n;
}

static int work(unsigned number)
{
	size_t n, i;
	const struct test_case *cases = cases_all(&n);
	static char base[PATH_MAX];

	snprintf(base, sizeof(base), "%.3000s/%u", options.base, number);
	if (mkdir(base, 0755) < 0)
		die("%s: %m", base);
	options.base = base;
	shared = map(sizeof(*shared));
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	while (!totals->is_ended && (i = totals->next_case++) < n)
		if (i % options.n_parts == options.part &&
		    operation_index(cases, i) % options.n_shares == options.share &&
		    (!options.filter || strstr(cases[i].name, options.filter)))
			try_case(&cases[i]);
	world_remove(base);
	return 0;
}

static void list_cases(void)
{
	size_t n;
	const struct test_case *cases = cases_all(&n);

	for (size_t i = 0; i < n; i++)
		printf("%s\t%s\n", cases[i].operation, cases[i].name);
}

static void end(int signal)
{
	totals->is_ended = true;
}

static void parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "program", required_argument, NULL, 'p' },
		{ "case", required_argument, NULL, 'c' },
		{ "point", required_argument, NULL, 'n' },
		{ "all", no_argument, NULL, 'a' },
		{ "recovery", no_argument, NULL, 'r' },
		{ "options", required_argument, NULL, 'o' },
		{ "check", required_argument, NULL, 'k' },
		{ "repair", no_argument, NULL, 'f' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "from", required_argument, NULL, 'm' },
		{ "part", required_argument, NULL, 'i' },
		{ "share", required_argument, NULL, 's' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "list", no_argument, NULL, 'l' },
		{},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'p':
			options.program = optarg;
			break;
		case 'c':
			options.filter = optarg;
			break;
		case 'n':
			options.only_point = strtoul(optarg, NULL, 10);
			break;
		case 'a':
			options.is_all = true;
			break;
		case 'r':
			options.is_nested = true;
			break;
		case 'o':
			options.mount_options = optarg;
			break;
		case 'k':
			options.ctl = optarg;
			break;
		case 'f':
			options.is_repaired = true;
			break;
		case 'j':
			options.n_workers = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'm':
			options.first_case = strtoul(optarg, NULL, 10);
			break;
		case 'i':
			if (sscanf(optarg, "%u/%u", &options.part, &options.n_parts) != 2 ||
			    options.part >= options.n_parts)
				die("--part I/N, I from 0 to N - 1");
			break;
		case 's':
			if (sscanf(optarg, "%u/%u", &options.share, &options.n_shares) != 2 ||
			    options.share >= options.n_shares)
				die("--share I/N, I from 0 to N - 1");
			break;
		case 'v':
			options.is_verbose = true;
			break;
		case 'l':
			list_cases();
			exit(0);
		default:
			exit(2);
		}
	}
	if (!options.program || argc - optind != 1 || (options.is_repaired && !options.ctl))
		die("usage: rvl-crash [options] --program REVERLAY DIR");
	options.base = realpath(argv[optind], NULL);
	if (!options.base)
		die("%s: %m", argv[optind]);
}

int main(int argc, char **argv)
{
	bool is_failed = false;
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(argc, argv);
	totals = map(sizeof(*totals));
	totals->next_case = options.first_case;
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("no mount namespace: %m");
	umask(0);
	sigaction(SIGINT, &(struct sigaction){ .sa_handler = end, .sa_flags = SA_RESTART }, NULL);
	sigaction(SIGTERM, &(struct sigaction){ .sa_handler = end, .sa_flags = SA_RESTART }, NULL);
	for (unsigned i = 0; i < options.n_workers; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork: %m");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			setpgid(0, 0); /* a terminal's SIGINT is for the parent alone */
			exit(work(i));
		}
	}
	while (wait(&status) > 0)
		is_failed = is_failed || status != 0;
	if (totals->is_ended)
		printf("rvl-crash: ended; go on with --from %zu\n", totals->next_case);
	printf("rvl-crash: %lu cases, %lu points, %lu of recovery, %lu failed%s\n", totals->n_cases,
	       totals->n_points, totals->n_recoveries, totals->n_failed,
	       is_failed ? ", and a worker ended early" : "");
	return is_failed || totals->n_failed || totals->is_ended;
}
