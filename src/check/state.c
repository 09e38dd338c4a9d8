// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pass 1: what an open of the index depends on, looked at before it is opened: is there an index,
 * can its state be read, is the log sound, what lies about in the workdir. Opening for repair then
 * does what a mount does (empties work/, writes the table, cuts the log), so those problems are
 * deferred (rvl_problem_defer) and told when the open has worked. A mark of a volatile mount that
 * stays makes the whole run a look.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/private.h"
#include "index/bind.h"
#include "index/log.h"
#include "index/state.h"
#include "index/table.h"
#include "index/workdir.h"
#include "layer/path.h"

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY)

static int open_inside(const struct rvl_check *check, const char *name)
{
	return check->stack->work_fd < 0 ? -ENOENT :
					   rvl_path_open(check->stack->work_fd, name, DIR_FLAGS, 0);
}

/* ---- the table on upper's root ---- */

static bool table_has(const struct rvl_table *table, const struct rvl_state_instance *instance)
{
	for (unsigned i = 0; i < table->n; i++)
		if (table->rows[i].id == instance->id)
			return !memcmp(table->rows[i].digest, instance->digest, 16);
	return table->is_truncated;
}

static int check_table(struct rvl_check *check, const struct rvl_state *state)
{
	struct rvl_table table;
	const char *what = NULL;
	int r;

	if (!check->stack->has_upper || !state->upper.ino)
		return 0;
	r = rvl_bind_read_table(check->stack, &check->stack->layers[0], &table);
	if (r == -ENODATA)
		what = "missing";
	else if (r == -EUCLEAN)
		what = "damaged";
	if (r && !what)
		return r;
	for (unsigned i = 0; !what && i < state->n_instances; i++)
		if (!table_has(&table, &state->instances[i]))
			what = "out of step";
	if (what) /* written at the open */
		rvl_problem_defer(check, rvl_problem_begin(check, RVL_P_TABLE_DAMAGED, 0, NULL,
							   "%s", what));
	return 0;
}

/* ---- the log ---- */

static int add_pending(void *arg, const struct rvl_log_record *record)
{
	struct rvl_check *check = arg;
	const uint64_t numbers[] = { record->number, record->number2, record->at.parent,
				     record->to.parent };
	int r = 0;

	/* a second number that is only a flag is no harm */
	for (unsigned i = 0; !r && i < 4; i++)
		if (numbers[i] > RVL_NUMBER_ROOT)
			r = rvl_number_set_add(&check->pending, numbers[i], 1,
					       RVL_NUMBER_SET_MAX);
	return r;
}

int rvl_check_note_pending(struct rvl_check *check, struct rvl_log *log)
{
	rvl_number_set_release(&check->pending);
	return rvl_log_each(log, add_pending, check);
}

static int check_log(struct rvl_check *check, int inodes_fd)
{
	struct rvl_log *log = NULL;
	size_t n;
	int r = rvl_log_open(inodes_fd, false, false, &log);

	if (r == -EUCLEAN) {
		if (!rvl_problem_begin(check, RVL_P_LOG_DAMAGED, 0, NULL, "it is no log"))
			return 0;
		r = renameat(inodes_fd, "log", inodes_fd, "log.damaged") ? -errno : 0;
		return rvl_problem_end(check, r);
	}
	if (r)
		return r;
	n = rvl_log_pending(log);
	r = rvl_check_note_pending(check, log);
	if (!r && rvl_log_is_torn(log) && !check->config->is_online) /* cut at the open */
		rvl_problem_defer(check, rvl_problem_begin(check, RVL_P_LOG_DAMAGED, 0, NULL,
							   "its end is torn"));
	/* a repair finishes them when the index is open */
	if (!r && n && !check->config->is_online &&
	    (check->mode == RVL_CHECK_LOOK || !check->config->recover))
		(void)rvl_problem_begin(check, RVL_P_LOG_PENDING, 0, NULL, "%zu operation%s", n,
					n == 1 ? "" : "s");
	rvl_log_close(log);
	return r;
}

/* ---- left over in the workdir ---- */

static int check_work(struct rvl_check *check)
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	unsigned n = 0;
	int r = rvl_dir_stream(open_inside(check, "work"), &dir);

	if (r)
		return r == -ENOENT ? 0 : r;
	/* the whiteout that all others are links of stays there */
	while ((r = rvl_dir_next(dir, &entry)) > 0)
		n += strcmp(entry->d_name, "incompat") && strcmp(entry->d_name, "whiteout");
	if (r)
		return r;
	if (n) /* emptied at the open */
		rvl_problem_defer(check, rvl_problem_begin(check, RVL_P_LEFTOVER_TEMPORARY, 0, NULL,
							   "work/: %u object%s", n,
							   n == 1 ? "" : "s"));
	return 0;
}

static int check_new_files(struct rvl_check *check, int inodes_fd)
{
	static const char *const names[] = { "log.new", "map.seal.new" };
	int r = 0;

	for (unsigned i = 0; !r && i < 2; i++) {
		if (faccessat(inodes_fd, names[i], F_OK, AT_SYMLINK_NOFOLLOW))
			continue;
		if (rvl_problem_begin(check, RVL_P_LEFTOVER_TEMPORARY, 0, NULL, "inodes/%s",
				      names[i]))
			r = rvl_problem_end(check, unlinkat(inodes_fd, names[i], 0) ? -errno : 0);
	}
	return r;
}

/* ---- work/incompat ---- */

/*
 * A mark that stays forbids to open the index for more than a look: the rest is looked at then. The
 * kernel's overlayfs has a file in the directory that is its mark.
 */
static int check_volatile(struct rvl_check *check)
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	bool stays = false;
	int r = rvl_dir_stream(open_inside(check, "work/incompat"), &dir);

	if (r)
		return r == -ENOENT ? 0 : r;
	while (!r && (r = rvl_dir_next(dir, &entry)) > 0) {
		r = 0;
		if (!rvl_problem_begin(check, RVL_P_VOLATILE_MARK, 0, NULL, "work/incompat/%s",
				       entry->d_name)) {
			stays = true;
			continue;
		}
		r = rvl_workdir_remove(dirfd(dir), entry->d_name);
		stays |= r != 0;
		r = rvl_problem_end(check, r);
	}
	if (stays)
		check->mode = RVL_CHECK_LOOK;
	return r;
}

bool rvl_check_has_mark(const struct rvl_stack *stack)
{
	int fd = stack->work_fd < 0 ? -ENOENT :
				      rvl_path_open(stack->work_fd, "work/incompat", DIR_FLAGS, 0);
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(fd, &dir);

	return r ? r != -ENOENT : rvl_dir_next(dir, &entry) != 0;
}

/* ---- the state ---- */

static void check_clean(struct rvl_check *check, const struct rvl_state *state)
{
	if (state->flags & RVL_STATE_CLEAN || check->config->is_online || check->is_silent)
		return;
	/* marked when all is done */
	check->is_to_be_clean = rvl_problem_begin(check, RVL_P_NOT_CLEAN, 0, NULL, NULL);
}

/* The state was written last: what has a later time was changed by somebody else. */
static void note_clean_end(struct rvl_check *check, const struct rvl_state *state, int inodes_fd)
{
	struct statx st;

	if (check->index || !(state->flags & RVL_STATE_CLEAN) ||
	    rvl_path_statx(inodes_fd, "state", STATX_MTIME, &st))
		return;
	check->clean_end = st.stx_mtime;
}

/* There is no state. Has there been one? */
static int check_lost(struct rvl_check *check)
{
	struct rvl_table table;
	int r = !check->stack->has_upper ?
			-ENODATA :
			rvl_bind_read_table(check->stack, &check->stack->layers[0], &table);

	if (r == -ENODATA)
		return 0; /* never mounted by us */
	if (r && r != -EUCLEAN)
		return r;
	if (rvl_problem_begin(check, RVL_P_INDEX_LOST, 0, NULL,
			      "workdir=%s; it takes reverlayctl rebind if the layers were copied or "
			      "moved, repair --rebuild if they are where they were",
			      check->stack->work_path ?: ""))
		return rvl_problem_end(check, -EOPNOTSUPP);
	return 0;
}

static int check_present(struct rvl_check *check, const struct rvl_state *state, int inodes_fd,
			 bool *ret_has_index)
{
	int r;

	*ret_has_index = true;
	note_clean_end(check, state, inodes_fd);
	check_clean(check, state);
	r = check_table(check, state);
	if (!r && !check->config->is_online && !check->index)
		r = rvl_check_map_file(check, state, inodes_fd);
	/* no number of a lower object can be told */
	if (check->is_map_unusable && state->flags & RVL_STATE_MAP_IS_TRUTH)
		*ret_has_index = false;
	return r;
}

static int check_state(struct rvl_check *check, const struct rvl_state *state, int error,
		       int inodes_fd, bool *ret_has_index)
{
	switch (error) {
	case 0:
		return check_present(check, state, inodes_fd, ret_has_index);
	case -ENOENT:
		return check_lost(check);
	default:
		if (rvl_problem_begin(check, RVL_P_STATE_DAMAGED, 0, NULL,
				      "workdir=%s; it takes reverlayctl repair --rebuild",
				      check->stack->work_path ?: ""))
			return rvl_problem_end(check, -EOPNOTSUPP);
		return 0;
	}
}

static int check_workdir(struct rvl_check *check, int inodes_fd)
{
	int r = 0;

	if (!check->config->is_online) {
		r = check_work(check);
		r = r ?: check_new_files(check, inodes_fd);
	}
	return r ?: check_log(check, inodes_fd);
}

int rvl_check_state(struct rvl_check *check, bool *ret_has_index)
{
	_cleanup_close_ int inodes_fd = open_inside(check, "inodes");
	const bool is_offline = !check->config->is_online;
	struct rvl_state *state = NULL;
	int error, r = 0;

	rvl_check_pass(check, "state, log and workdir");
	*ret_has_index = false;
	if (inodes_fd < 0 && inodes_fd != -ENOENT)
		return inodes_fd;
	error = inodes_fd < 0 ? inodes_fd : rvl_state_load(inodes_fd, &state);
	if (error && error != -ENOENT && error != -EUCLEAN) {
		rvl_index_tell_state(check->stack, error);
		return error;
	}
	/* What may end the run comes before what is mended, and what forbids to mend before the rest. */
	if (!error && is_offline && !check->index)
		r = rvl_check_map_probe(check, state, inodes_fd);
	if (!r && is_offline)
		r = check_volatile(check);
	r = r ?: check_state(check, state, error, inodes_fd, ret_has_index);
	if (!r && inodes_fd >= 0)
		r = check_workdir(check, inodes_fd);
	rvl_state_free(state);
	return r;
}

bool rvl_check_is_clean(const struct rvl_stack *stack)
{
	const struct rvl_index_config config = {
		.stack = stack, .is_read_only = true, .is_offline = true, .is_silent = true
	};
	_cleanup_close_ int fd = stack->work_fd < 0 ?
					 -ENOENT :
					 rvl_path_open(stack->work_fd, "inodes", DIR_FLAGS, 0);
	struct rvl_state *state = NULL;
	struct rvl_log *log = NULL;
	bool is_clean = fd >= 0 && !rvl_state_load(fd, &state) && state->flags & RVL_STATE_CLEAN &&
			!rvl_index_admit(&config) && !rvl_check_has_mark(stack) &&
			!rvl_log_open(fd, false, false, &log) && !rvl_log_pending(log) &&
			!rvl_log_is_torn(log);

	rvl_log_close(log);
	rvl_state_free(state);
	return is_clean;
}
