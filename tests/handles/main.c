// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rvl-handles: the handle matrix (matrix.h), for one combination of filesystems.
 *
 *   rvl-handles lower [--pairs] LAYER...   makes the objects in empty directories, which then become lower
 *   rvl-handles run [--pairs] MOUNT        runs all cells on the mount
 *   rvl-handles list                       the kinds and events
 *
 *   --kind NAME, --event NAME   only these; twice --event for one pair
 *   --without NAME              not this kind: its cells are counted as senseless
 *   --lossy UPPER               each remount loses the index and the map: what is not in this layer has new numbers
 *
 * Who starts it mounts: it writes "remount" or "kill" to stdout, and waits for a line "ok" on stdin. At the end come a line
 * "FAIL ..." for each failed cell (at most FAILURES_SHOWN) and one of counts: cells, ok (the object is there), stale (it is
 * gone, and so is the handle), failed, senseless (kind and events that do not go together). Exit code 1 if a cell failed.
 *
 * Cells whose events are of the same scopes go through them together, so that one remount serves hundreds of objects.
 */
#include "matrix.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAILURES_SHOWN 200

struct plan {
	struct cell *cells; /* owned */
	unsigned n, n_na;
	struct world world;
	bool is_pairs;
	const char *kind;		/* only this; NULL: all */
	const char *without;		/* not this; NULL: all */
	const char *events[EVENTS_MAX]; /* only these */
	unsigned n_events;
};

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

/* ---- the plan ---- */

static int happen(struct cell *cell, const struct event *event)
{
	if (event->scope == REMOUNT || event->scope == KILL)
		cell_close(cell);
	return event->happen ? event->happen(cell) : 0;
}

/* Does it make sense? In the model alone. */
static bool makes_sense(struct cell *cell)
{
	struct cell dry = *cell;
	int r;

	dry.is_dry = true;
	r = cell_prepare(&dry);
	for (unsigned i = 0; i < EVENTS_MAX && r == 0; i++)
		r = happen(&dry, dry.events[i]);
	return r == 0;
}

static void add(struct plan *plan, const struct kind *kind, const struct event *first, const struct event *second)
{
	const struct event *when[EVENTS_MAX] = { first, second };
	struct cell *cell = &plan->cells[plan->n];

	if (plan->kind && strcmp(plan->kind, kind->name) != 0)
		return;
	if (plan->n_events && (strcmp(first->name, plan->events[0]) != 0 ||
			       (plan->n_events > 1 && strcmp(second->name, plan->events[1]) != 0)))
		return;
	cell_init(cell, plan->n + plan->n_na, kind, when, &plan->world);
	if ((!plan->without || strcmp(plan->without, kind->name) != 0) && makes_sense(cell))
		plan->n++;
	else
		plan->n_na++;
}

static void make_plan(struct plan *plan)
{
	plan->cells = calloc((size_t)n_kinds * n_events * n_events, sizeof(*plan->cells));
	if (!plan->cells)
		die("no memory");
	for (unsigned k = 0; k < n_kinds; k++)
		for (unsigned i = 0; i < n_events; i++)
			if (!plan->is_pairs)
				add(plan, &kinds[k], &events[i], &events[0]);
			else /* with "nothing" it is no pair */
				for (unsigned j = 1; i > 0 && j < n_events; j++)
					add(plan, &kinds[k], &events[i], &events[j]);
}

/* ---- the mount ---- */

static void open_world(struct plan *plan)
{
	plan->world.fd = open(plan->world.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (plan->world.fd < 0)
		die("%s: %s", plan->world.path, strerror(errno));
}

static void drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "2", 1) != 1)
		die("drop_caches: %s", strerror(errno));
	close(fd);
}

static void ask(struct plan *plan, const char *what)
{
	char line[64];

	close(plan->world.fd);
	printf("%s\n", what);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin) || strcmp(line, "ok\n") != 0)
		die("%s: not done", what);
	open_world(plan);
}

static void happen_to_all(struct plan *plan, enum scope scope)
{
	/* what is held open goes: at once for a remount; a dead mount may keep it, but nothing leads there */
	if (scope == REMOUNT)
		for (unsigned i = 0; i < plan->n; i++)
			cell_close(&plan->cells[i]);
	if (scope == DROP_CACHES)
		drop_caches();
	else if (scope == REMOUNT)
		ask(plan, "remount");
	else if (scope == KILL)
		ask(plan, "kill");
	if (scope == KILL)
		for (unsigned i = 0; i < plan->n; i++)
			cell_close(&plan->cells[i]);
	if (scope == REMOUNT && plan->world.upper)
		for (unsigned i = 0; i < plan->n; i++)
			cell_lose(&plan->cells[i]);
}

/* ---- running ---- */

static void step(struct cell *cell, unsigned i)
{
	int r = happen(cell, cell->events[i]);

	if (r == NA)
		cell_fail(cell, "event %s: makes no sense: %s", cell->events[i]->name, cell->na);
	else if (r < 0)
		cell_fail(cell, "event %s: %s", cell->events[i]->name, strerror(-r));
}

static bool is_of(const struct cell *cell, enum scope first, enum scope second)
{
	return cell->events[0]->scope == first && cell->events[1]->scope == second;
}

static void run_group(struct plan *plan, enum scope first, enum scope second)
{
	const enum scope scopes[EVENTS_MAX] = { first, second };
	struct cell *end = plan->cells + plan->n, *cell;
	bool is_empty = true;

	for (cell = plan->cells; cell < end; cell++) {
		int r;

		if (!is_of(cell, first, second))
			continue;
		is_empty = false;
		r = cell_prepare(cell);
		if (r < 0)
			cell_fail(cell, "preparation: %s", strerror(-r));
		else
			cell_take(cell);
	}
	if (is_empty)
		return;
	for (unsigned i = 0; i < EVENTS_MAX; i++) {
		happen_to_all(plan, scopes[i]);
		for (cell = plan->cells; cell < end; cell++)
			if (is_of(cell, first, second) && !cell->is_failed && !cell->is_lost)
				step(cell, i);
	}
	for (cell = plan->cells; cell < end; cell++)
		if (is_of(cell, first, second))
			cell_check(cell);
}

static int report(const struct plan *plan)
{
	unsigned n_failed = 0, n_stale = 0;

	for (unsigned i = 0; i < plan->n; i++) {
		const struct cell *cell = &plan->cells[i];

		if (!cell->is_failed) {
			n_stale += cell->n_names == 0;
		} else if (++n_failed <= FAILURES_SHOWN) {
			printf("FAIL c%u %s: %s, %s: %s\n", cell->id, cell->kind->name, cell->events[0]->name,
			       cell->events[1]->name, cell->why);
		}
	}
	printf("cells=%u ok=%u stale=%u failed=%u senseless=%u\n", plan->n, plan->n - n_stale - n_failed, n_stale,
	       n_failed, plan->n_na);
	return n_failed ? 1 : 0;
}

static int run(struct plan *plan, const char *mount)
{
	plan->world.path = mount;
	open_world(plan);
	for (unsigned first = 0; first < N_SCOPES; first++)
		for (unsigned second = 0; second < N_SCOPES; second++)
			run_group(plan, first, second);
	/* once more, with nothing in memory: what is dead is dead for ever, and the rest is still there */
	happen_to_all(plan, REMOUNT);
	for (unsigned i = 0; i < plan->n; i++)
		cell_check(&plan->cells[i]);
	close(plan->world.fd);
	return report(plan);
}

static int make_lower(struct plan *plan, char **paths, unsigned n)
{
	int roots[ROOTS_MAX];

	if (n == 0 || n > ROOTS_MAX)
		die("1 to %d layers", ROOTS_MAX);
	for (unsigned i = 0; i < n; i++) {
		roots[i] = open(paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (roots[i] < 0)
			die("%s: %s", paths[i], strerror(errno));
	}
	for (unsigned i = 0; i < plan->n; i++) {
		struct cell *cell = &plan->cells[i];
		int r = cell_make_lower(cell, roots, n);

		if (r < 0)
			die("cell %u, %s: %s", cell->id, cell->kind->name, strerror(-r));
	}
	for (unsigned i = 0; i < n; i++)
		close(roots[i]);
	return 0;
}

static int list(void)
{
	for (unsigned i = 0; i < n_kinds; i++)
		printf("kind %s\n", kinds[i].name);
	for (unsigned i = 0; i < n_events; i++)
		printf("event %s\n", events[i].name);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pairs", no_argument, NULL, 'p' },
		{ "kind", required_argument, NULL, 'k' },
		{ "event", required_argument, NULL, 'e' },
		{ "without", required_argument, NULL, 'w' },
		{ "lossy", required_argument, NULL, 'l' },
		{},
	};
	struct plan plan = { .world.fd = -1 };
	int c, r;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'p')
			plan.is_pairs = true;
		else if (c == 'k')
			plan.kind = optarg;
		else if (c == 'w')
			plan.without = optarg;
		else if (c == 'l')
			plan.world.upper = optarg;
		else if (c == 'e' && plan.n_events < EVENTS_MAX)
			plan.events[plan.n_events++] = optarg;
		else
			die("usage: %s [--pairs] [--kind NAME] [--event NAME] lower LAYER... | run MOUNT | list", argv[0]);
	}
	argv += optind;
	argc -= optind;
	umask(0);
	if (argc == 1 && strcmp(argv[0], "list") == 0)
		return list();
	make_plan(&plan);
	if (argc >= 2 && strcmp(argv[0], "lower") == 0)
		r = make_lower(&plan, argv + 1, argc - 1);
	else if (argc == 2 && strcmp(argv[0], "run") == 0)
		r = run(&plan, argv[1]);
	else
		die("lower LAYER..., run MOUNT or list");
	free(plan.cells);
	return r;
}
