// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rvl-random: does random operations on a mount and the same on a plain directory, and compares.
 *
 * Exit code: 0 no difference, 1 a difference (seed, step, operation and both results on stdout), 2 usage or setup.
 */
#include "rnd.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct config cfg = {
	.seed = 1,
	.ops = 10000,
	.threads = 1,
	.check_every = 1000,
	.hang_s = 120,
	.shrink_s = 300,
	.drop_one_in = 300,
};
struct failure *rnd_failure;

static const char usage_text[] =
	"Usage: rvl-random --mount CMD --umount CMD --mnt DIR --oracle DIR [--upper DIR --lower DIR ...] [options]\n"
	"       rvl-random --populate DIR [--seed N] [--threads N] [--whiteouts]\n"
	"       rvl-random --list-differences\n"
	"\n"
	"Does random operations on the mount at --mnt and the same in the plain directory --oracle, and compares results at\n"
	"every step and whole trees now and then. If --oracle is empty it is filled with the merged view of --upper and the\n"
	"--lower layers (topmost first), which are also checked to stay as they are.\n"
	"\n"
	"  --mount CMD, --umount CMD  shell commands; both are also used for remounts\n"
	"  --reset CMD                makes fresh layers (for --shrink); nothing is mounted then\n"
	"  --seed N                   seed of the operations, or of --populate (1)\n"
	"  --ops N                    operations of each thread (10000)\n"
	"  --threads N                each in its own subtree t<i>, and in the directory shared (1)\n"
	"  --check-every N            compare the whole tree (1000; 0 never)\n"
	"  --remount-every N          remount and compare (0: only at the end)\n"
	"  --drop-caches              drop the machine's caches at random, one in --drop-one-in N operations (300)\n"
	"  --replay FILE              run this list of operations instead of random ones\n"
	"  --shrink                   make a failing list short; takes at most --shrink-s N seconds (300)\n"
	"  --log FILE                 where the operations are written (./rvl-random-SEED.ops); removed if all is well\n"
	"  --hang-s N                 an operation that takes longer is a failure (120)\n"
	"  --kernel                   accept also the differences that the kernel's overlayfs has\n"
	"  --without KIND,...         do not generate these operations (names as in the log; users: always as root)\n"
	"  --accept NAME,...          accept single ones of these (names as by --list-differences)\n"
	"  --verbose                  print each operation\n"
	"  --populate DIR             fill a layer with a random tree; with --whiteouts one above others\n";

static void fmt_brief(struct failure *f, const char *text)
{
	FILE *out = fmemopen(f->text, sizeof(f->text) - 1, "w");

	if (!out)
		return;
	text_brief(out, text);
	fclose(out);
	f->text[sizeof(f->text) - 1] = 0;
}

int rnd_fail(struct world *w, const char *kind, const char *fmt, ...)
{
	struct failure *f = rnd_failure;
	char *text = NULL;
	size_t len = 0;
	FILE *out;
	va_list ap;
	int none = 0;

	if (!atomic_compare_exchange_strong(&f->failed, &none, 1))
		return -1;
	f->thread = w ? w->id : -1;
	f->step = w ? w->step : 0;
	f->op = w && w->step ? (int)w->cur.kind : -1;
	snprintf(f->kind, sizeof(f->kind), "%s", kind);
	out = open_memstream(&text, &len);
	if (!out)
		return -1;
	if (w && w->step) {
		fprintf(out, "step %llu", (unsigned long long)w->step);
		if (w->sub[0])
			fprintf(out, " of %s", w->sub);
		fprintf(out, ": ");
		op_print(out, &w->cur);
		fputc('\n', out);
	}
	fprintf(out, "%s: ", kind);
	va_start(ap, fmt);
	vfprintf(out, fmt, ap);
	va_end(ap);
	fclose(out);
	fmt_brief(f, text);
	free(text);
	return -1;
}

enum option_id {
	OPT_MOUNT = 256,
	OPT_UMOUNT,
	OPT_RESET,
	OPT_MNT,
	OPT_ORACLE,
	OPT_LAYER,
	OPT_SEED,
	OPT_OPS,
	OPT_THREADS,
	OPT_CHECK_EVERY,
	OPT_REMOUNT_EVERY,
	OPT_DROP_CACHES,
	OPT_DROP_ONE_IN,
	OPT_REPLAY,
	OPT_SHRINK,
	OPT_SHRINK_S,
	OPT_LOG,
	OPT_HANG_S,
	OPT_KERNEL,
	OPT_VERBOSE,
	OPT_WITHOUT,
	OPT_ACCEPT,
	OPT_POPULATE,
	OPT_WHITEOUTS,
	OPT_LIST,
	OPT_HELP,
};

static const struct option options[] = {
	{ "mount", 1, NULL, OPT_MOUNT },
	{ "umount", 1, NULL, OPT_UMOUNT },
	{ "reset", 1, NULL, OPT_RESET },
	{ "mnt", 1, NULL, OPT_MNT },
	{ "oracle", 1, NULL, OPT_ORACLE },
	{ "upper", 1, NULL, OPT_LAYER },
	{ "lower", 1, NULL, OPT_LAYER },
	{ "seed", 1, NULL, OPT_SEED },
	{ "ops", 1, NULL, OPT_OPS },
	{ "threads", 1, NULL, OPT_THREADS },
	{ "check-every", 1, NULL, OPT_CHECK_EVERY },
	{ "remount-every", 1, NULL, OPT_REMOUNT_EVERY },
	{ "drop-caches", 0, NULL, OPT_DROP_CACHES },
	{ "drop-one-in", 1, NULL, OPT_DROP_ONE_IN },
	{ "replay", 1, NULL, OPT_REPLAY },
	{ "shrink", 0, NULL, OPT_SHRINK },
	{ "shrink-s", 1, NULL, OPT_SHRINK_S },
	{ "log", 1, NULL, OPT_LOG },
	{ "hang-s", 1, NULL, OPT_HANG_S },
	{ "kernel", 0, NULL, OPT_KERNEL },
	{ "verbose", 0, NULL, OPT_VERBOSE },
	{ "without", 1, NULL, OPT_WITHOUT },
	{ "accept", 1, NULL, OPT_ACCEPT },
	{ "populate", 1, NULL, OPT_POPULATE },
	{ "whiteouts", 0, NULL, OPT_WHITEOUTS },
	{ "list-differences", 0, NULL, OPT_LIST },
	{ "help", 0, NULL, OPT_HELP },
	{ 0 },
};

/* What is not part of struct config. */
struct action {
	const char *populate;
	bool with_whiteouts, list, help;
};

static uint64_t number(const char *s, const char *name, uint64_t min)
{
	char *end;
	unsigned long long v = strtoull(s, &end, 0);

	if (*end || end == s || v < min) {
		fprintf(stderr, "rvl-random: --%s: not a number from %llu on: %s\n", name,
			(unsigned long long)min, s);
		exit(2);
	}
	return v;
}

static void parse_text(int id, const char *name)
{
	switch (id) {
	case OPT_MOUNT:
		cfg.mount = optarg;
		break;
	case OPT_UMOUNT:
		cfg.umount = optarg;
		break;
	case OPT_RESET:
		cfg.reset = optarg;
		break;
	case OPT_MNT:
		cfg.mnt = optarg;
		break;
	case OPT_ORACLE:
		cfg.oracle = optarg;
		break;
	case OPT_LAYER:
		if (cfg.layer_count == RND_LAYERS_MAX) {
			fprintf(stderr, "rvl-random: --%s: more than %d layers\n", name,
				RND_LAYERS_MAX);
			exit(2);
		}
		cfg.layers[cfg.layer_count++] = optarg;
		break;
	case OPT_REPLAY:
		cfg.replay = optarg;
		break;
	case OPT_LOG:
		cfg.log = optarg;
		break;
	}
}

static void parse_number(int id, const char *name)
{
	switch (id) {
	case OPT_SEED:
		cfg.seed = number(optarg, name, 0);
		break;
	case OPT_OPS:
		cfg.ops = number(optarg, name, 0);
		break;
	case OPT_THREADS:
		cfg.threads = (unsigned int)number(optarg, name, 1);
		if (cfg.threads > RND_THREADS_MAX)
			cfg.threads = RND_THREADS_MAX;
		break;
	case OPT_CHECK_EVERY:
		cfg.check_every = number(optarg, name, 0);
		break;
	case OPT_REMOUNT_EVERY:
		cfg.remount_every = number(optarg, name, 0);
		break;
	case OPT_DROP_ONE_IN:
		cfg.drop_one_in = (unsigned int)number(optarg, name, 1);
		break;
	case OPT_SHRINK_S:
		cfg.shrink_s = (unsigned int)number(optarg, name, 1);
		break;
	case OPT_HANG_S:
		cfg.hang_s = (unsigned int)number(optarg, name, 1);
		break;
	}
}

static void parse_without(char *list)
{
	for (char *s = strtok(list, ","); s; s = strtok(NULL, ",")) {
		int i = 0;

		while (i < OP_KINDS && strcmp(op_classes[i].name, s))
			i++;
		if (!strcmp(s, "users")) {
			cfg.is_without_users = true;
		} else if (i < OP_KINDS) {
			cfg.is_without[i] = true;
		} else {
			fprintf(stderr, "rvl-random: --without: no such operation: %s\n", s);
			exit(2);
		}
	}
}

static void parse_flag(int id, struct action *a)
{
	switch (id) {
	case OPT_DROP_CACHES:
		cfg.drop_caches = true;
		break;
	case OPT_SHRINK:
		cfg.shrink = true;
		break;
	case OPT_KERNEL:
		cfg.kernel = true;
		break;
	case OPT_VERBOSE:
		cfg.verbose = true;
		break;
	case OPT_WITHOUT:
		parse_without(optarg);
		break;
	case OPT_ACCEPT:
		for (char *s = strtok(optarg, ","); s; s = strtok(NULL, ",")) {
			if (diff_accept(s) < 0) {
				fprintf(stderr, "rvl-random: --accept: no such difference: %s\n",
					s);
				exit(2);
			}
		}
		break;
	case OPT_POPULATE:
		a->populate = optarg;
		break;
	case OPT_WHITEOUTS:
		a->with_whiteouts = true;
		break;
	case OPT_LIST:
		a->list = true;
		break;
	case OPT_HELP:
		a->help = true;
		break;
	}
}

static void parse_args(int argc, char **argv, struct action *a)
{
	int id, index = 0;

	while ((id = getopt_long(argc, argv, "", options, &index)) != -1) {
		if (id == '?')
			exit(2);
		parse_text(id, options[index].name);
		parse_number(id, options[index].name);
		parse_flag(id, a);
	}
	if (optind < argc) {
		fprintf(stderr, "rvl-random: unexpected argument: %s\n", argv[optind]);
		exit(2);
	}
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int test(void)
{
	struct op_list list = { 0 };
	char log[PATH_MAX], thread_log[PATH_MAX + 32];
	double start = now_s();
	int r;

	if (!cfg.mnt || !cfg.oracle || (cfg.shrink && !cfg.reset)) {
		fprintf(stderr,
			"rvl-random: --mnt and --oracle are needed, and --reset for --shrink\n");
		return 2;
	}
	snprintf(log, sizeof(log), "rvl-random-%llu.ops", (unsigned long long)cfg.seed);
	if (!cfg.log)
		cfg.log = log;
	if (cfg.replay) {
		cfg.is_replay = true;
		if (op_list_read(&list, cfg.replay) < 0) {
			fprintf(stderr, "rvl-random: --replay: %s cannot be read\n", cfg.replay);
			return 2;
		}
	}
	r = run_forked(cfg.replay ? &list : NULL, cfg.hang_s);
	if (r == 0) {
		uint64_t n = rnd_failure->done;
		double t = now_s() - start;

		printf("seed %llu: %llu operations in %.1f s (%.0f a second), no difference\n",
		       (unsigned long long)cfg.seed, (unsigned long long)n, t, (double)n / t);
		return 0;
	}
	printf("DIFFERENCE, seed %llu, %s\n", (unsigned long long)cfg.seed, rnd_failure->text);
	snprintf(thread_log, sizeof(thread_log), cfg.threads > 1 && !cfg.replay ? "%s.t%d" : "%s",
		 cfg.replay ? cfg.replay : cfg.log,
		 rnd_failure->thread < 0 ? 0 : rnd_failure->thread);
	printf("operations: %s\n", thread_log);
	fflush(stdout);
	if (cfg.shrink)
		shrink_run(thread_log);
	return 1;
}

int main(int argc, char **argv)
{
	struct action a = { 0 };
	int r;

	signal(SIGPIPE, SIG_IGN); /* fifos lose their readers */
	parse_args(argc, argv, &a);
	if (a.help || a.list || argc == 1) {
		if (a.list)
			diff_print_all(stdout);
		else
			fputs(usage_text, argc == 1 ? stderr : stdout);
		return argc == 1 ? 2 : 0;
	}
	if (a.populate) {
		r = populate(a.populate, cfg.seed, a.with_whiteouts, cfg.threads);
		if (r < 0)
			fprintf(stderr, "rvl-random: --populate %s: %s\n", a.populate,
				strerror(-r));
		return r < 0 ? 2 : 0;
	}
	rnd_failure = mmap(NULL, sizeof(*rnd_failure), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rnd_failure == MAP_FAILED)
		return 2;
	return test();
}
