// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Makes a failing list of operations short (delta debugging): first the shortest tail that fails, then smaller and smaller
 * pieces are left out. Each try is a run in a child on fresh layers (cfg.reset) with a new oracle; it counts when it fails
 * in the same kind of way.
 */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char wanted[sizeof(((struct failure *)0)->kind)];
static int wanted_op;
static time_t deadline;
static unsigned int tries;
static char *best_text; /* owned: the report of the shortest list so far */

/* Anew, and not only emptied: operations may have changed its own attributes. */
static void empty_oracle(void)
{
	long count = 0;

	if (remove_tree(AT_FDCWD, cfg.oracle, &count) < 0 || mkdir(cfg.oracle, 0755) < 0)
		fprintf(stderr, "rvl-random: %s cannot be made anew: %m\n", cfg.oracle);
}

/* The same kind of difference after the same kind of operation (the two that compare all count as one). */
static bool is_wanted(void)
{
	int op = rnd_failure->op == OP_REMOUNT ? OP_CHECK : rnd_failure->op;

	return !strcmp(rnd_failure->kind, wanted) && op == wanted_op;
}

/* Whether the list still fails. Cuts it behind the op that fails. */
static bool fails(struct op_list *l)
{
	unsigned int hang_s = cfg.hang_s < 20 ? cfg.hang_s : 20;

	tries++;
	if (cfg.umount)
		shell(cfg.umount); /* may not be mounted */
	if (shell(cfg.reset) != 0) {
		fprintf(stderr, "rvl-random: reset command failed: %s\n", cfg.reset);
		deadline = 0;
		return false;
	}
	empty_oracle();
	if (run_forked(l, hang_s) == 0 || !is_wanted())
		return false;
	if (rnd_failure->step && rnd_failure->step < l->n)
		l->n = rnd_failure->step; /* ops behind it stay owned by the whole list */
	free(best_text);
	best_text = strdup(rnd_failure->text);
	return true;
}

/* A copy without [from, from+count); its ops are borrowed. */
static struct op_list without(const struct op_list *l, size_t from, size_t count)
{
	struct op_list r = { .n = l->n - count };

	memcpy(r.sub, l->sub, sizeof(r.sub));
	r.v = malloc((r.n + 1) * sizeof(*r.v));
	if (!r.v)
		abort();
	memcpy(r.v, l->v, from * sizeof(*r.v));
	memcpy(r.v + from, l->v + from + count, (l->n - from - count) * sizeof(*r.v));
	return r;
}

static bool try_without(struct op_list *l, size_t from, size_t count)
{
	struct op_list c = without(l, from, count);

	if (!fails(&c)) {
		free(c.v);
		return false;
	}
	free(l->v);
	*l = c;
	return true;
}

static void shrink(struct op_list *l)
{
	static const size_t tails[] = { 20, 100, 500, 2000, 10000, 50000 };

	for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]) && time(NULL) < deadline; i++)
		if (tails[i] < l->n && try_without(l, 0, l->n - tails[i]))
			break;
	for (size_t size = (l->n + 1) / 2; size > 0 && time(NULL) < deadline; size /= 2) {
		bool is_better = true;

		while (is_better && time(NULL) < deadline) {
			is_better = false;
			for (size_t end = l->n; end > 0 && time(NULL) < deadline;) {
				size_t count = size < end ? size : end;

				if (end > l->n) {
					end = l->n;
					continue;
				}
				if (try_without(l, end - count, count))
					is_better = true;
				end -= count;
			}
			is_better = is_better && size == 1;
		}
		fprintf(stderr, "rvl-random: %zu operations after %u tries\n", l->n, tries);
	}
}

int shrink_run(const char *ops_path)
{
	char path[PATH_MAX];
	struct op_list all;
	struct op_list l;
	int r = op_list_read(&all, ops_path);

	if (r < 0 || all.n == 0)
		return r < 0 ? r : -EINVAL;
	cfg.is_replay = true;
	memcpy(wanted, rnd_failure->kind, sizeof(wanted));
	wanted_op = rnd_failure->op == OP_REMOUNT ? OP_CHECK : rnd_failure->op;
	deadline = time(NULL) + cfg.shrink_s;
	l = without(&all, 0, 0);
	if (!fails(&l)) {
		printf("The whole list of %zu operations does not fail again with \"%s\": timing matters, or the reset "
		       "command does not restore all.\n",
		       l.n, wanted);
	} else {
		shrink(&l);
		snprintf(path, sizeof(path), "%s.min", ops_path);
		op_list_write(&l, path);
		printf("Shortest failing list, %zu of %zu operations (%u tries), also in %s (--replay):\n",
		       l.n, all.n, tries, path);
		op_list_print(stdout, &l);
		printf("It ends with:\n%s\n", best_text);
	}
	free(l.v);
	op_list_release(&all);
	return 0;
}
