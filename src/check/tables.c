// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The map, the claims and assigned numbers, and the counters. The file of the map is read to its
 * end by a process of its own first: LMDB believes its pages, and damaged ones can crash whoever
 * reads them.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "check/private.h"
#include "index/fsck.h"
#include "index/map.h"
#include "index/rebind.h"
#include "index/workdir.h"

#define PROBE_SECONDS 3600 /* whoever takes longer goes round in circles */
#define COPIES_MAX 8 /* of a map that is written to meanwhile */

/* Exit codes of the process that reads the file. Any other end means that damaged pages led it astray;
 * but SIGKILL, which is want of memory, tells nothing of the file. */
enum probe { PROBE_SOUND, PROBE_NONE = 64, PROBE_DAMAGED, PROBE_ERROR /* and above: the errno */ };

static int probe(const struct rvl_check *check)
{
	int r;

	rvl_log_setup("", RVL_LOG_STDERR, LOG_EMERG);
	alarm(PROBE_SECONDS);
	r = rvl_map_verify(check->stack);
	return !r	     ? PROBE_SOUND :
	       r == -ENOENT  ? PROBE_NONE :
	       r == -EUCLEAN ? PROBE_DAMAGED :
			       PROBE_ERROR - r;
}

/* What the file is: enum probe. -errno: that cannot be told. */
static int run_probe(struct rvl_check *check, int inodes_fd, const char *name)
{
	pid_t pid;
	int status;

	if (faccessat(inodes_fd, name, F_OK, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? PROBE_NONE : -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		_exit(probe(check));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) /* for want of memory */
		return -ENOMEM;
	if (!WIFEXITED(status))
		return PROBE_DAMAGED;
	switch (WEXITSTATUS(status)) {
	case PROBE_SOUND:
	case PROBE_NONE:
		return WEXITSTATUS(status);
	default:
		return WEXITSTATUS(status) > PROBE_ERROR ? PROBE_ERROR - WEXITSTATUS(status) :
							   PROBE_DAMAGED;
	}
}

static int tell_unreadable(const struct rvl_check *check, const char *data, int r)
{
	char what[48];

	snprintf(what, sizeof(what), "inodes/%s", data);
	if (r == -EPROTONOSUPPORT)
		rvl_index_tell_newer("workdir", check->stack->work_path, what);
	else
		rvl_error("workdir=%s: %s cannot be read: %s", check->stack->work_path, what,
			  strerror(-r));
	return r;
}

int rvl_check_map_probe(struct rvl_check *check, const struct rvl_state *state, int inodes_fd)
{
	char name[RVL_MAP_FILE_NAME_SIZE];
	int r;

	rvl_map_file_name(state->map_serial, RVL_MAP_FILE_DATA, name);
	r = run_probe(check, inodes_fd, name);
	if (r < 0)
		return tell_unreadable(check, name, r);
	check->has_map = r == PROBE_SOUND;
	check->is_map_unusable = r == PROBE_DAMAGED ||
				 (state->flags & RVL_STATE_MAP_IS_TRUTH && r == PROBE_NONE);
	return 0;
}

int rvl_check_map_file(struct rvl_check *check, const struct rvl_state *state, int inodes_fd)
{
	char data[RVL_MAP_FILE_NAME_SIZE], seal[RVL_MAP_FILE_NAME_SIZE];
	bool is_truth = state->flags & RVL_STATE_MAP_IS_TRUTH;
	int r;

	rvl_map_file_name(state->map_serial, RVL_MAP_FILE_DATA, data);
	rvl_map_file_name(state->map_serial, RVL_MAP_FILE_SEAL, seal);
	if (!check->is_map_unusable ||
	    !rvl_problem_begin(check, is_truth ? RVL_P_MAP_LOST : RVL_P_MAP_DAMAGED, 0, NULL,
			       "inodes/%s", data))
		return 0;
	if (is_truth) {
		r = rvl_rebind_retire(check->stack);
		check->is_map_unusable = r;
		return rvl_problem_end(check, r);
	}
	r = rvl_workdir_remove(inodes_fd, data);
	if (!r && unlinkat(inodes_fd, seal, 0) && errno != ENOENT)
		r = -errno;
	check->is_map_unusable = r;
	return rvl_problem_end(check, r);
}

static int add_row(void *arg, uint64_t number, const struct rvl_map_row *row)
{
	struct rvl_check *check = arg;
	struct rvl_fact fact = { .number = number,
				 .kind = RVL_FACT_ROW,
				 .key = rvl_place_hash(row->at.parent, row->at.name) };
	int r;

	/* below a directory of upper there is no lower view to compare with */
	if (rvl_number_is_born(check->index, row->at.parent))
		return 0;
	r = rvl_sorter_add(check->sorter, &fact);
	return r ?: rvl_check_tick(check);
}

int rvl_check_map(struct rvl_check *check)
{
	if (!check->has_map || check->index->state->flags & RVL_STATE_MAP_IS_TRUTH)
		return 0;
	rvl_check_pass(check, "the map");
	return rvl_map_scan(check->index, add_row, check);
}

int rvl_check_map_rows(struct rvl_check *check)
{
	if (!check->is_map_stale || !rvl_problem_begin(check, RVL_P_MAP_STALE, 0, NULL, NULL))
		return 0;
	return rvl_problem_end(check, rvl_map_forget(check->index));
}

/* A server writes to the map: what is looked at is a copy, of each look its own. */
static int open_copy(struct rvl_check *check)
{
	int r = -EAGAIN;

	check->has_map = check->is_map_unusable = false;
	for (unsigned i = 0; r == -EAGAIN && i < COPIES_MAX; i++) {
		int fd = rvl_temp_file_open();

		if (fd < 0)
			return fd;
		r = rvl_map_open_copy(check->index, fd);
		close(fd);
	}
	check->has_map = !r;
	check->is_map_unusable = r == -EAGAIN;
	if (check->is_map_unusable && check->index->state->flags & RVL_STATE_MAP_IS_TRUTH)
		return r; /* it has the numbers */
	if (check->is_map_unusable)
		rvl_warn("the map is written to all the time: it and the claims are left out");
	return r == -ENOENT || r == -EAGAIN ? 0 : r;
}

int rvl_check_claims(struct rvl_check *check)
{
	struct rvl_index *index = check->index;
	uint64_t wrong, missing = 0, max;
	int r;

	r = check->config->is_online ? open_copy(check) : 0;
	if (r || check->is_map_unusable)
		return r;
	rvl_check_pass(check, "claims and assigned numbers");
	r = rvl_reals_check(index, false, &wrong, &max);
	r = r ?: rvl_claims_check(index, &missing);
	if (r)
		return r;
	if ((wrong || missing) &&
	    rvl_problem_begin(check, RVL_P_CLAIMS_OUT_OF_STEP, 0, NULL,
			      "%llu records contradict others, %llu stamps have none",
			      (unsigned long long)wrong, (unsigned long long)missing)) {
		r = wrong ? rvl_reals_check(index, true, &wrong, &max) : 0;
		r = rvl_problem_end(check, r ?: rvl_claims_mend(index));
	}
	if (r || !max || !rvl_counter_is_behind(index, RVL_COUNTER_ASSIGNED, max) ||
	    !rvl_problem_begin(check, RVL_P_COUNTER_BEHIND, max, NULL, "of assigned numbers"))
		return r;
	return rvl_problem_end(check, rvl_counter_renew(index, RVL_COUNTER_ASSIGNED));
}

int rvl_check_counters(struct rvl_check *check)
{
	if (!check->born_max ||
	    !rvl_counter_is_behind(check->index, RVL_COUNTER_BORN, check->born_max) ||
	    !rvl_problem_begin(check, RVL_P_COUNTER_BEHIND, check->born_max, NULL,
			       "of what is born here"))
		return 0;
	return rvl_problem_end(check, rvl_counter_renew(check->index, RVL_COUNTER_BORN));
}
