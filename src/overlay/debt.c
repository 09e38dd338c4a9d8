// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Owed entries, see debt.h. The list is in order of creation; a node in it is counted. Whether a
 * file's entry is owed changes under the node's lock, a directory's under its dir_lock.
 *
 * A file is linked by its descriptor, which the cache mostly has still; else by its name, with the
 * directory locked so that the name stays.
 */
#include "overlay/debt.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "index/entry.h"
#include "index/log.h"
#include "layer/path.h"
#include "overlay/dirlock.h"

#define DEBTS_MAX 16384 /* then the next one who makes something pays */
#define DEBTS_HIGH 8192 /* then the thread begins at once */
#define DELAY_S 1 /* else each is left so long, or up to twice: much is removed again soon */
#define HELD_MAX 256 /* descriptors of dead files */
#define PLACE_RETRIES 16

void rvl_debts_init(struct rvl_debts *debts)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&debts->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&debts->lock, NULL);
	for (unsigned i = 0; i < RVL_DEBT_DIR_LOCKS; i++)
		pthread_mutex_init(&debts->dir_locks[i], NULL);
}

void rvl_debts_release(struct rvl_debts *debts)
{
	for (unsigned i = 0; i < RVL_DEBT_DIR_LOCKS; i++)
		pthread_mutex_destroy(&debts->dir_locks[i]);
	pthread_mutex_destroy(&debts->lock);
	pthread_cond_destroy(&debts->changed);
}

void rvl_debt_add(struct rvl_node *node, uint64_t log_id, bool is_whole)
{
	struct rvl_debts *debts = &node->ov->debts;

	rvl_node_ref(node);
	pthread_mutex_lock(&debts->lock);
	node->debt_log_id = log_id;
	node->is_debt_whole = is_whole;
	node->debt_older = debts->newest;
	*(debts->newest ? &debts->newest->debt_newer : &debts->oldest) = node;
	debts->newest = node;
	debts->n++;
	/* last: who finds it set takes the node out of the list */
	atomic_store_explicit(&node->is_owed, true, memory_order_release);
	if (debts->n == 1 || debts->n == DEBTS_HIGH)
		pthread_cond_signal(&debts->changed);
	pthread_mutex_unlock(&debts->lock);
}

/* It is owed no more: paid, or dead. */
static void settle(struct rvl_node *node)
{
	struct rvl_debts *debts = &node->ov->debts;

	/* together: what is in the list is owed, so that paying the first of it comes to an end */
	pthread_mutex_lock(&debts->lock);
	atomic_store_explicit(&node->is_owed, false, memory_order_release);
	*(node->debt_older ? &node->debt_older->debt_newer : &debts->oldest) = node->debt_newer;
	*(node->debt_newer ? &node->debt_newer->debt_older : &debts->newest) = node->debt_older;
	node->debt_older = node->debt_newer = NULL;
	debts->n--;
	pthread_mutex_unlock(&debts->lock);
	if (node->is_debt_whole)
		rvl_log_drop(node->ov->index->log, node->debt_log_id);
	else
		rvl_log_end(node->ov->index->log, node->debt_log_id);
	rvl_node_put(node);
}

static struct timespec ctime_of(const struct statx *stx)
{
	return (struct timespec){ stx->stx_ctime.tv_sec, stx->stx_ctime.tv_nsec };
}

/* Was something changed besides the ctime? */
static bool is_changed(const struct statx *a, const struct statx *b)
{
	return a->stx_mode != b->stx_mode || a->stx_uid != b->stx_uid || a->stx_gid != b->stx_gid ||
	       a->stx_size != b->stx_size || a->stx_mtime.tv_sec != b->stx_mtime.tv_sec ||
	       a->stx_mtime.tv_nsec != b->stx_mtime.tv_nsec;
}

/* Link the entry; the ctime stays what it was for those who look (rvl_node_stat_from). */
static int link_unseen(struct rvl_node *node, int dirfd, const char *name)
{
	struct statx before, after;
	int state = 0, r, seen = rvl_path_statx(dirfd, name, STATX_BASIC_STATS, &before);

	atomic_store(&node->ctime_state, RVL_CTIME_LINKING);
	r = rvl_entry_link(node->ov->index, dirfd, name, node->id.number);
	if (r == 0 && seen == 0 && rvl_path_statx(dirfd, name, STATX_BASIC_STATS, &after) == 0 &&
	    !is_changed(&before, &after)) {
		node->ctime_shown = ctime_of(&before);
		node->ctime_linked = ctime_of(&after);
		state = RVL_CTIME_KEPT;
	}
	atomic_store(&node->ctime_state, state);
	return r;
}

/* With the node's lock. */
static int link_file(struct rvl_node *node, int dirfd, const char *name)
{
	int r;

	if (!rvl_is_owed(node))
		return 0;
	r = link_unseen(node, dirfd, name);
	/* no number is used twice: what is there is a link that was made before a failure */
	if (r == 0 || r == -EEXIST) {
		settle(node);
		r = 0;
	}
	return r;
}

static int link_file_at(struct rvl_node *node, int dirfd, const char *name)
{
	int r;

	pthread_rwlock_wrlock(&node->lock);
	r = link_file(node, dirfd, name);
	pthread_rwlock_unlock(&node->lock);
	return r;
}

/* Held while the entry is made, which others need not wait for. */
static pthread_mutex_t *dir_lock_of(const struct rvl_node *node)
{
	return &node->ov->debts.dir_locks[node->id.number % RVL_DEBT_DIR_LOCKS];
}

static int put_directory(struct rvl_node *node, int dirfd, const char *name)
{
	struct rvl_overlay *ov = node->ov;
	struct rvl_entry_directory entry = {};
	const char *place = NULL;
	int r = 0;

	rvl_handle_of(ov, dirfd, name, &entry.upper);
	pthread_mutex_lock(dir_lock_of(node));
	if (rvl_is_owed(node)) {
		rvl_node_get_place(node, &entry.path.parent, &place);
		snprintf(entry.path.name, sizeof(entry.path.name), "%s", place);
		rvl_refstr_put(place);
		r = rvl_entry_put_directory(ov->index, node->id.number, &entry, false);
		if (r == 0 || r == -EEXIST) {
			settle(node);
			r = 0;
		}
	}
	pthread_mutex_unlock(dir_lock_of(node));
	return r;
}

int rvl_debt_pay_at(struct rvl_node *node, int dirfd, const char *name)
{
	if (!rvl_is_owed(node))
		return 0;
	return rvl_node_is_dir(node) ? put_directory(node, dirfd, name) :
				       link_file_at(node, dirfd, name);
}

static int pay_by_name(struct rvl_node *node)
{
	int r = -ESTALE;

	for (unsigned i = 0; i < PLACE_RETRIES && rvl_is_owed(node) && r == -ESTALE; i++) {
		struct rvl_node _cleanup_node_ *parent = NULL;
		struct rvl_dir _cleanup_dir_ dir = {};
		const char *name, *again = NULL;
		uint64_t number, number_again;

		rvl_node_get_place(node, &number, &name);
		r = rvl_node_get_dir(node->ov, number, &parent);
		if (r == 0)
			r = rvl_dir_lock_read(parent, &dir);
		if (r == 0) {
			rvl_node_get_place(node, &number_again, &again);
			r = number == number_again && strcmp(name, again) == 0 ?
				    rvl_debt_pay_at(node, dir.fd.fd.fd, name) :
				    -ESTALE;
		}
		rvl_refstr_put(again);
		rvl_refstr_put(name);
		if (r == -ENOENT)
			r = -ESTALE;
	}
	return rvl_is_owed(node) ? r : 0;
}

int rvl_debt_pay(struct rvl_node *node)
{
	struct rvl_fdcache *fds = node->ov->fds;
	struct rvl_fd fd;
	int r = -ENOENT;

	if (!rvl_is_owed(node))
		return 0;
	if (rvl_node_is_dir(node))
		r = rvl_upper_dir(node, &fd);
	else
		r = rvl_fdcache_get(fds, node->id.number, RVL_FD_WRITE, &fd);
	if (r == 0) {
		r = rvl_debt_pay_at(node, fd.fd, "");
		rvl_fdcache_unpin(fds, &fd);
	}
	return r == 0 ? 0 : pay_by_name(node);
}

/* Pay from the oldest on, at most n of them, and none with a younger record than log_id. */
static int pay_oldest(struct rvl_overlay *ov, unsigned n, uint64_t log_id)
{
	struct rvl_debts *debts = &ov->debts;
	int r = 0;

	while (r == 0 && n-- > 0) {
		struct rvl_node _cleanup_node_ *node = NULL;

		pthread_mutex_lock(&debts->lock);
		if (debts->oldest && debts->oldest->debt_log_id <= log_id)
			node = debts->oldest;
		if (node)
			rvl_node_ref(node);
		pthread_mutex_unlock(&debts->lock);
		if (!node)
			break;
		r = rvl_debt_pay(node);
	}
	return r;
}

static unsigned count(struct rvl_debts *debts)
{
	unsigned n;

	pthread_mutex_lock(&debts->lock);
	n = debts->n;
	pthread_mutex_unlock(&debts->lock);
	return n;
}

int rvl_debts_make_room(struct rvl_overlay *ov)
{
	return count(&ov->debts) < DEBTS_MAX ? 0 : pay_oldest(ov, 16, UINT64_MAX);
}

int rvl_debts_pay_all(struct rvl_overlay *ov)
{
	return pay_oldest(ov, count(&ov->debts), UINT64_MAX);
}

/* The first n owed whose place is in the directory, counted; returns how many. */
static unsigned find_in(struct rvl_node *dir, struct rvl_node **v, unsigned n)
{
	struct rvl_debts *debts = &dir->ov->debts;
	unsigned found = 0;

	pthread_mutex_lock(&debts->lock);
	for (struct rvl_node *node = debts->oldest; node && found < n; node = node->debt_newer) {
		if (rvl_node_is_in(node, dir->id.number)) {
			rvl_node_ref(node);
			v[found++] = node;
		}
	}
	pthread_mutex_unlock(&debts->lock);
	return found;
}

int rvl_debts_pay_in(struct rvl_node *dir)
{
	struct rvl_node *v[256];
	unsigned n;
	int r = rvl_debt_pay(dir);

	do {
		n = find_in(dir, v, 256);
		for (unsigned i = 0; i < n; i++) {
			if (r == 0)
				r = rvl_debt_pay(v[i]);
			rvl_node_put(v[i]);
		}
	} while (r == 0 && n == 256);
	return r;
}

int rvl_debt_hold(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret_fd)
{
	struct rvl_overlay *ov = node->ov;

	*ret_fd = RVL_FD_NONE;
	if (!rvl_is_owed(node))
		return 0;
	if (atomic_load(&ov->debts.n_held) < HELD_MAX &&
	    rvl_fdcache_get(ov->fds, node->id.number, RVL_FD_WRITE, ret_fd) == 0)
		return 1;
	return link_file(node, dirfd, name);
}

void rvl_debt_cancel(struct rvl_node *node, struct rvl_fd *fd)
{
	atomic_fetch_add(&node->ov->debts.n_held, 1);
	node->held = *fd;
	*fd = RVL_FD_NONE;
	atomic_store(&node->is_dead, true);
	settle(node);
}

bool rvl_debt_cancel_dir(struct rvl_node *node)
{
	bool was_owed;

	pthread_mutex_lock(dir_lock_of(node));
	was_owed = rvl_is_owed(node);
	if (was_owed)
		settle(node);
	pthread_mutex_unlock(dir_lock_of(node));
	return was_owed;
}

/* ---- the thread ---- */

/* Wait until something is to be paid: that which is owed for DELAY_S, or what is too much. */
static void wait_for_work(struct rvl_overlay *ov, unsigned *ret_n, uint64_t *ret_log_id)
{
	struct rvl_debts *debts = &ov->debts;
	struct timespec until;
	int r = 0;

	pthread_mutex_lock(&debts->lock);
	while (debts->n == 0 && !atomic_load(&ov->is_stopping))
		pthread_cond_wait(&debts->changed, &debts->lock);
	*ret_log_id = debts->n ? debts->newest->debt_log_id : 0;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += DELAY_S;
	while (r == 0 && debts->n < DEBTS_HIGH && !atomic_load(&ov->is_stopping))
		r = pthread_cond_timedwait(&debts->changed, &debts->lock, &until);
	*ret_n = debts->n;
	if (debts->n >= DEBTS_HIGH) {
		*ret_n -= DEBTS_HIGH / 2;
		*ret_log_id = UINT64_MAX;
	}
	pthread_mutex_unlock(&debts->lock);
}

void rvl_overlay_pay_debts(struct rvl_overlay *ov)
{
	uint64_t log_id;
	unsigned n;
	int r;

	for (;;) {
		wait_for_work(ov, &n, &log_id);
		if (atomic_load(&ov->is_stopping))
			break;
		r = pay_oldest(ov, n, log_id);
		/* again after the delay; who cannot wait gets the error */
		if (r < 0)
			rvl_warn_limited("the index entries of new objects cannot be made: %s",
					 strerror(-r));
	}
}
