// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Completing the index: every directory of upper is listed; each object whose stamp has no entry
 * that agrees is looked up by its name, which gives it one (identify.c), or mends its path.
 * Directories wait by number, not by path: so one that is renamed meanwhile is found where it is.
 * It is the state that says that a walk is owed (RVL_STATE_INCOMPLETE), until one has ended: a
 * mount that ends before leaves it to the next.
 *
 * Not here: entries that no name leads to. They do no harm (decode.c takes them for dead).
 */
#include "overlay/complete.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "layer/path.h"
#include "overlay/lookup.h"

#define WAITING_MAX (1 << 24) /* directories */

struct rvl_completion {
	pthread_mutex_t lock; /* guards all below; leaf */
	pthread_cond_t ended;
	uint64_t *waiting; /* owned; numbers of directories to be listed */
	size_t n, room;
	bool is_ended;
};

static _Thread_local bool is_walker;

int rvl_complete_new(struct rvl_overlay *ov, struct rvl_completion **ret)
{
	struct rvl_completion *completion;

	*ret = NULL;
	if (!ov->stack->has_upper || ov->config.is_read_only || !ov->index->is_incomplete)
		return 0;
	completion = calloc(1, sizeof(*completion));
	if (!completion)
		return -ENOMEM;
	pthread_mutex_init(&completion->lock, NULL);
	pthread_cond_init(&completion->ended, NULL);
	*ret = completion;
	return 0;
}

void rvl_complete_free(struct rvl_completion *completion)
{
	if (!completion)
		return;
	free(completion->waiting);
	pthread_cond_destroy(&completion->ended);
	pthread_mutex_destroy(&completion->lock);
	free(completion);
}

static int push(struct rvl_completion *completion, uint64_t number)
{
	int r;

	pthread_mutex_lock(&completion->lock);
	r = rvl_array_reserve(&completion->waiting, &completion->room, completion->n,
			      sizeof(*completion->waiting), WAITING_MAX);
	if (r == 0)
		completion->waiting[completion->n++] = number;
	pthread_mutex_unlock(&completion->lock);
	return r < 0 ? -ENOMEM : 0;
}

static bool pop(struct rvl_completion *completion, uint64_t *ret)
{
	bool is_any;

	pthread_mutex_lock(&completion->lock);
	is_any = completion->n > 0;
	if (is_any)
		*ret = completion->waiting[--completion->n];
	pthread_mutex_unlock(&completion->lock);
	return is_any;
}

static void end(struct rvl_completion *completion)
{
	pthread_mutex_lock(&completion->lock);
	completion->is_ended = true;
	pthread_cond_broadcast(&completion->ended);
	pthread_mutex_unlock(&completion->lock);
}

/* Does the entry of the stamp lead here? Anything else is for the look-up to settle. */
static bool has_entry(struct rvl_node *dir, const char *name, const struct rvl_upper_name *upper)
{
	struct rvl_index *index = dir->ov->index;
	struct rvl_entry_directory entry;
	enum rvl_entry_kind kind;
	struct statx stx;

	if (upper->stamp_error)
		return false;
	if (S_ISDIR(upper->st.stx_mode))
		return rvl_entry_get_directory(index, upper->stamp.number, &entry) == 0 &&
		       entry.path.parent == dir->id.number && strcmp(entry.path.name, name) == 0;
	return rvl_entry_look(index, upper->stamp.number, &kind, &stx) == 0 &&
	       kind == RVL_ENTRY_OBJECT && stx.stx_ino == upper->st.stx_ino;
}

static int complete_name(struct rvl_node *dir, int dirfd, const char *name)
{
	struct rvl_upper_name _cleanup_upper_name_ upper = {};
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_overlay *ov = dir->ov;
	int r = rvl_upper_look(ov, dirfd, name, &upper);
	uint64_t number = upper.stamp.number;

	if (r < 0 || !upper.exists)
		return r;
	rvl_count(walked);
	if (!has_entry(dir, name, &upper)) {
		r = rvl_lookup(dir, name, &node);
		if (r < 0)
			return r;
		number = node->id.number;
		rvl_count(completed);
	}
	return S_ISDIR(upper.st.stx_mode) ? push(ov->completion, number) : 0;
}

/* What cannot be looked at stays as it is; one that is gone meanwhile has nothing to complete. */
static int complete_directory(struct rvl_overlay *ov, uint64_t number)
{
	struct rvl_node _cleanup_node_ *dir = NULL;
	struct rvl_pinned _cleanup_pinned_ pin = {};
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	int r = rvl_node_get_dir(ov, number, &dir);

	if (r == 0)
		r = rvl_pinned_dir(dir, &pin);
	if (r < 0)
		return r == -ENOENT || r == -ESTALE ? 0 : r;
	r = rvl_dir_stream(rvl_fd_reopen(pin.fd.fd, O_RDONLY | O_DIRECTORY), &names);
	while (r == 0 && rvl_dir_next(names, &entry) > 0) {
		r = complete_name(dir, pin.fd.fd, entry->d_name);
		if (r < 0 && r != -ENOENT && r != -ENOMEM)
			rvl_warn_limited("%s: could not be looked at: %s", entry->d_name,
					 strerror(-r));
		r = r == -ENOMEM || r == -ENOSPC || r == -EDQUOT ? r : 0;
		if (atomic_load(&ov->is_stopping))
			r = -EINTR;
	}
	return r;
}

bool rvl_overlay_is_incomplete(const struct rvl_overlay *ov)
{
	return ov->completion;
}

int rvl_overlay_complete(struct rvl_overlay *ov)
{
	struct rvl_completion *completion = ov->completion;
	uint64_t number;
	int r;

	if (!completion)
		return 0;
	is_walker = true;
	rvl_info("the machine stopped without an end of the last mount: upper is walked");
	r = push(completion, RVL_NUMBER_ROOT);
	while (r == 0 && pop(completion, &number))
		r = complete_directory(ov, number);
	if (r == 0)
		rvl_index_completed(ov->index);
	end(completion);
	is_walker = false;
	if (r == 0)
		rvl_info("upper was walked: %llu objects, %llu entries were made or mended",
			 (unsigned long long)atomic_load(&rvl_counters.walked),
			 (unsigned long long)atomic_load(&rvl_counters.completed));
	else
		rvl_warn("the walk of upper did not end (%s): the next mount goes on with it",
			 strerror(-r));
	return r;
}

bool rvl_complete_is_going(struct rvl_overlay *ov)
{
	struct rvl_completion *completion = ov->completion;
	bool is_going;

	if (!completion || is_walker || ov->is_recovering)
		return false;
	pthread_mutex_lock(&completion->lock);
	is_going = !completion->is_ended;
	pthread_mutex_unlock(&completion->lock);
	return is_going;
}

void rvl_complete_wait(struct rvl_overlay *ov)
{
	struct rvl_completion *completion = ov->completion;

	pthread_mutex_lock(&completion->lock);
	while (!completion->is_ended)
		pthread_cond_wait(&completion->ended, &completion->lock);
	pthread_mutex_unlock(&completion->lock);
}

void rvl_complete_moved(struct rvl_node *dir)
{
	if (rvl_complete_is_going(dir->ov))
		(void)push(dir->ov->completion, dir->id.number);
}
