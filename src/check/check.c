// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The order of the passes, and what is done with a problem. A repair is the same passes with
 * mending switched on, then the same once more without, silently, to see what is left.
 *
 * A repair may be killed at any moment: each mend is one step on disk, or its steps are ordered so
 * that what lies between is a problem that the next repair finds. The overlay counts as clean only
 * after a repair that left nothing (docs/check.md).
 */
#include "check/check.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/stop.h"
#include "check/private.h"
#include "check/rebuild.h"
#include "index/log.h"
#include "index/state.h"
#include "layer/identity.h"
#include "layer/path.h"

#define ROUNDS_MAX 6
#define PROGRESS_NAMES 1000 /* between two looks at `stop` and calls of progress */

/* ---- common ---- */

void rvl_check_pass(struct rvl_check *check, const char *title)
{
	check->pass++;
	check->n_names = 0;
	if (!check->is_silent && check->config->sink->pass)
		check->config->sink->pass(check->config->sink->arg, check->pass, title);
}

int rvl_check_tick(struct rvl_check *check)
{
	const struct rvl_check_config *config = check->config;

	if (++check->n_names % PROGRESS_NAMES)
		return 0;
	if (config->sink->progress)
		config->sink->progress(config->sink->arg, check->n_names);
	return rvl_stop_check(config->stop);
}

uint64_t rvl_place_hash(uint64_t parent, const char *name)
{
	uint8_t buf[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_name_at at = { .parent = parent };

	snprintf(at.name, sizeof(at.name), "%s", name);
	return rvl_hash(buf, rvl_name_at_encode(&at, buf));
}

bool rvl_check_is_pending(const struct rvl_check *check, uint64_t number)
{
	return rvl_number_set_get(&check->pending, number);
}

void rvl_check_note_number(struct rvl_check *check, uint64_t number)
{
	if (number > check->born_max && rvl_number_is_born(check->index, number))
		check->born_max = number;
}

/* ---- a problem ---- */

/* On a live mount what is found once may be a change half made: it counts at a second look. */
static bool is_passing(struct rvl_check *check)
{
	const struct rvl_problem *problem = &check->problem;
	const char *path = problem->path ?: "";
	uint64_t key[3] = { problem->id, problem->number, rvl_hash(path, strlen(path)) };
	uint64_t hash = rvl_hash(key, sizeof(key)) ?: 1;

	if (!check->config->is_online)
		return false;
	if (check->is_second_look)
		return !rvl_number_set_get(&check->suspects, hash);
	(void)rvl_number_set_add(&check->suspects, hash, 1, RVL_NUMBER_SET_MAX);
	return true;
}

static void report(struct rvl_check *check, enum rvl_outcome outcome, int error)
{
	enum rvl_severity severity = rvl_problem_kinds[check->problem.id].severity;

	if (is_passing(check))
		return;
	check->problem.outcome = outcome;
	check->problem.error = error;
	check->n_mended_in_round += outcome == RVL_MENDED;
	if (!check->is_silent) {
		check->result->n_found[severity]++;
		if (outcome == RVL_MENDED)
			check->result->n_mended++;
		check->config->sink->problem(check->config->sink->arg, &check->problem);
	}
	if (outcome != RVL_MENDED && severity != RVL_NOTE)
		check->result->n_left++;
}

static bool wants(struct rvl_check *check)
{
	switch (check->mode) {
	case RVL_CHECK_ALL:
		return true;
	case RVL_CHECK_PREEN:
		return rvl_problem_kinds[check->problem.id].is_preened ||
		       (check->config->is_import && check->problem.id == RVL_P_ENTRY_REMOVED);
	case RVL_CHECK_ASK:
		return check->config->sink->ask(check->config->sink->arg, &check->problem);
	default:
		return false;
	}
}

/*
 * A rebind that makes a lost index again needs none of these mends, and has not yet seen whether the
 * lower layers are those of this upper: what is seen of them is not changed by it. A check after it
 * tells them again.
 */
static bool is_left_by_rebind(enum rvl_problem_id id)
{
	switch (id) {
	case RVL_P_MAP_STALE:
	case RVL_P_ENTRY_WITHOUT_NAME:
	case RVL_P_ENTRY_REMOVED:
	case RVL_P_ENTRY_HIDDEN:
	case RVL_P_PLACE_MISSING:
	case RVL_P_NLINK_WRONG:
	case RVL_P_DIRECTORY_TWICE:
	case RVL_P_REDIRECT_VALUE:
	case RVL_P_REDIRECT_DANGLING:
	case RVL_P_REDIRECT_LOOP:
	case RVL_P_REDIRECT_MISSING:
	case RVL_P_OPAQUE_VALUE:
	case RVL_P_OPAQUE_MISSING:
	case RVL_P_METACOPY_VALUE:
	case RVL_P_WHITEOUT_USELESS:
	case RVL_P_WHITEOUT_IN_OPAQUE:
		return true;
	default:
		return false;
	}
}

bool rvl_problem_begin(struct rvl_check *check, enum rvl_problem_id id, uint64_t number,
		       const char *path, const char *format, ...)
{
	va_list args;

	free(check->problem_path);
	free(check->problem_detail);
	check->problem_path = path ? strdup(path) : NULL;
	check->problem_detail = NULL;
	if (format) {
		va_start(args, format);
		if (vasprintf(&check->problem_detail, format, args) < 0)
			check->problem_detail = NULL;
		va_end(args);
	}
	check->problem = (struct rvl_problem){ .id = id,
					       .number = number,
					       .path = check->problem_path,
					       .detail = check->problem_detail };
	check->is_tree_unsure |= id == RVL_P_DIRECTORY_TWICE || id == RVL_P_REDIRECT_LOOP ||
				 id == RVL_P_REDIRECT_MISSING || id == RVL_P_REDIRECT_VALUE ||
				 id == RVL_P_REDIRECT_DANGLING;
	if (!(check->config->is_rebind && is_left_by_rebind(id)) && wants(check))
		return true;
	report(check, RVL_FOUND, 0);
	return false;
}

void rvl_problem_note(struct rvl_check *check, enum rvl_problem_id id, uint64_t number,
		      const char *path, const char *detail)
{
	const enum rvl_check_mode mode = check->mode;

	check->mode = RVL_CHECK_LOOK;
	(void)rvl_problem_begin(check, id, number, path, detail ? "%s" : NULL, detail);
	check->mode = mode;
}

/* The medium, not the object: the rest would fail as well. */
static bool is_fatal(int r)
{
	return r == -ENOSPC || r == -EDQUOT || r == -EROFS || r == -EIO || r == -ENOMEM ||
	       r == -EMFILE || r == -ENFILE || r == -ECANCELED;
}

int rvl_problem_end(struct rvl_check *check, int r)
{
	report(check, r ? RVL_FAILED : RVL_MENDED, r);
	return is_fatal(r) ? r : 0;
}

void rvl_problem_defer(struct rvl_check *check, bool is_to_be_mended)
{
	struct rvl_deferred *deferred = &check->deferred[check->n_deferred];

	if (!is_to_be_mended) {
		if (!check->index)
			check->mode = RVL_CHECK_LOOK;
		return;
	}
	if (check->index || check->n_deferred == RVL_DEFERRED_MAX) { /* an open has not mended it */
		report(check, RVL_FOUND, 0);
		return;
	}
	deferred->id = check->problem.id;
	deferred->detail = rvl_take_ptr(check->problem_detail);
	check->n_deferred++;
}

static void report_deferred(struct rvl_check *check, const struct rvl_deferred *deferred,
			    enum rvl_outcome outcome, int error)
{
	check->problem = (struct rvl_problem){ .id = deferred->id, .detail = deferred->detail };
	report(check, outcome, error);
}

/* What the open of the index was to mend. */
static void tell_deferred(struct rvl_check *check, enum rvl_outcome outcome, int error)
{
	for (unsigned i = 0; i < check->n_deferred; i++) {
		report_deferred(check, &check->deferred[i], outcome, error);
		free(check->deferred[i].detail);
	}
	check->n_deferred = 0;
}

/* ---- the passes ---- */

/* check->mode, not the config's: what is to stay and an open would mend has made a repair a look. */
static int open_index(struct rvl_check *check)
{
	bool is_look = check->mode == RVL_CHECK_LOOK;
	int r = rvl_stop_check(check->config->stop);

	if (r)
		return r;
	const struct rvl_index_config config = {
		.stack = check->stack,
		.is_read_only = is_look,
		.is_offline = is_look,
		.is_repair = !is_look,
		.is_import = check->config->is_import,
		.is_rebuilding = check->config->is_rebind,
		.is_live = check->config->is_online || check->is_map_unusable,
	};

	r = rvl_index_open(&config, &check->index);
	tell_deferred(check, r ? RVL_FAILED : RVL_MENDED, r);
	return r;
}

/*
 * What was begun and not finished, before anything is judged: as a mount does. What of it has to
 * wait is then left alone by all passes.
 */
static int recover(struct rvl_check *check)
{
	struct rvl_log *log = check->index->log;
	size_t n = log ? rvl_log_pending(log) : 0;
	int r;

	if (!n || check->mode == RVL_CHECK_LOOK || !check->config->recover ||
	    !rvl_problem_begin(check, RVL_P_LOG_PENDING, 0, NULL, "%zu operation%s", n,
			       n == 1 ? "" : "s"))
		return 0;
	r = check->config->recover(check->stack, check->index);
	r = r ?: rvl_check_note_pending(check, log);
	if (!r && rvl_log_pending(log))
		r = -EAGAIN; /* said in the log, with the reason */
	return rvl_problem_end(check, r);
}

static int run_passes(struct rvl_check *check)
{
	bool has_index = check->index;
	int r;

	check->pass = 0;
	if (clock_gettime(CLOCK_REALTIME_COARSE, &check->begin))
		return -errno;
	check->born_max = 0;
	check->is_map_stale = check->is_tree_unsure = check->is_merged_incomplete = false;
	check->n_late = 0;
	rvl_number_set_release(&check->pending);
	rvl_number_set_release(&check->known);
	rvl_number_set_release(&check->companions);
	rvl_number_set_release(&check->merged);
	rvl_spool_free(rvl_take_ptr(check->spool));
	rvl_sorter_free(rvl_take_ptr(check->sorter));
	r = rvl_spool_new(&check->spool);
	r = r ?: rvl_sorter_new(0, &check->sorter);
	r = r ?: rvl_check_state(check, &has_index);
	if (!r && has_index && !check->index)
		r = open_index(check) ?: recover(check);
	tell_deferred(check, RVL_FOUND, 0); /* there was no open */
	if (!r && check->index) {
		r = rvl_check_claims(check);
		r = r ?: rvl_check_entries(check);
	}
	r = r ?: rvl_check_tree(check);
	if (!r && check->index)
		r = rvl_check_counters(check);
	if (r || !check->index)
		return r;
	r = rvl_check_view(check) ?: rvl_check_map(check);
	r = r ?: rvl_check_companions(check);
	r = r ?: rvl_check_numbers(check);
	r = r ?: rvl_check_link_counts(check);
	return r ?: rvl_check_map_rows(check);
}

/*
 * Mending may show more: a directory that got a number changes the paths of those in it. So the
 * passes run, silently, until one of them mends nothing; what it finds is what is left. Who answers
 * questions is not asked again.
 */
static int run_rounds(struct rvl_check *check)
{
	int r = run_passes(check);

	if (!r && check->config->is_online) {
		check->is_second_look = true;
		check->result->n_objects = 0;
		return run_passes(check);
	}
	for (unsigned i = 1; !r && check->index && check->n_mended_in_round && i < ROUNDS_MAX;
	     i++) {
		check->is_silent = true;
		if (check->mode == RVL_CHECK_ASK || i == ROUNDS_MAX - 1)
			check->mode = RVL_CHECK_LOOK;
		check->result->n_left = check->n_mended_in_round = 0;
		r = run_passes(check);
	}
	return r;
}

static int sync_upper(struct rvl_check *check)
{
	_cleanup_close_ int fd =
		rvl_path_open(check->stack->work_fd, "", O_RDONLY | O_DIRECTORY, 0);

	return fd < 0 ? fd : syncfs(fd) ? -errno : 0;
}

/*
 * Before anything is mended, or even judged: an index of other layers, or of a newer version, would
 * seem damaged. One that is lost or damaged is what the passes are for.
 */
static int admit(const struct rvl_check_config *config)
{
	const struct rvl_index_config index = { .stack = config->stack,
						.is_read_only = true,
						.is_offline = true,
						.is_import = config->is_import,
						.is_rebuilding = config->is_rebind,
						.is_rebind = config->is_rebind };
	int r = rvl_index_admit(&index);

	/* a rebind makes the index again whatever it was bound to */
	return r == -ENOENT || r == -EUCLEAN || (r == -ESTALE && config->is_rebind) ? 0 : r;
}

/* The close has marked it clean, if it could. */
static void tell_not_clean(struct rvl_check *check)
{
	const struct rvl_deferred deferred = { .id = RVL_P_NOT_CLEAN };
	struct rvl_state *state = NULL;
	bool is_clean;

	if (!check->is_to_be_clean)
		return;
	is_clean = !rvl_index_load_state(check->stack, &state) && state->flags & RVL_STATE_CLEAN;
	rvl_state_free(state);
	check->is_silent = false;
	report_deferred(check, &deferred, is_clean ? RVL_MENDED : RVL_FOUND, 0);
}

int rvl_check_run(const struct rvl_check_config *config, struct rvl_check_result *ret)
{
	struct rvl_check check = { .config = config,
				   .stack = config->stack,
				   .mode = config->mode,
				   .result = ret,
				   .lost_fd = -EBADF };
	int r = admit(config);

	*ret = (struct rvl_check_result){ 0 };
	/* where the mark of a volatile mount stays nothing is mended */
	if (!r && (config->is_rebuild || config->is_rebind) && config->mode != RVL_CHECK_LOOK &&
	    (config->mode == RVL_CHECK_ALL || !rvl_check_has_mark(config->stack)))
		r = rvl_rebuild(config);
	r = r ?: rvl_identity_uuids(config->stack, &check.uuids);
	r = r ?: run_rounds(&check);
	if (!r && check.index && check.index->is_writable)
		r = sync_upper(&check);
	if (check.index && (r || ret->n_left))
		check.index->stays_unclean = true;
	rvl_index_close(check.index);
	tell_not_clean(&check);
	rvl_spool_free(check.spool);
	rvl_sorter_free(check.sorter);
	rvl_number_set_release(&check.pending);
	rvl_number_set_release(&check.known);
	rvl_number_set_release(&check.companions);
	rvl_number_set_release(&check.merged);
	rvl_number_set_release(&check.suspects);
	rvl_close(check.lost_fd);
	free(check.late);
	free(check.uuids);
	free(check.problem_path);
	free(check.problem_detail);
	return r;
}
