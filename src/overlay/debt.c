// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Owed entries, see debt.h. The list is in order of creation; a node in it is counted. Whether a
 * file's entry is owed changes under the node's lock, a directory's under its dir_lock.
 *
 * A file is linked by its descriptor, if the cache has it; else by its name, with the directory locked
 * so that the name stays. Where an entry cannot be made, since nothing more fits on the disk, the
 * object can be used by a descriptor all the same, and removed.
 */
#include "overlay/debt.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "index/entry.h"
#include "index/log.h"
#include "layer/path.h"
#include "overlay/dirlock.h"

#define DEBTS_MAX 16384 /* then the next one who makes something pays */
#define DEBTS_HIGH 8192 /* then the thread begins at once */
#define DELAY_S 1 /* else each is left so long, or up to twice as long: much is removed again soon */
#define HELD_MAX 256 /* descriptors of dead files */
#define PLACE_RETRIES 16
#define PART 256 /* are paid at a time for an fsync of their directory */

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

/* The next two with the lock of the list. */
static void append(struct rvl_debts *debts, struct rvl_node *node)
{
	node->debt_turn = ++debts->turn;
	node->debt_older = debts->newest;
	node->debt_newer = NULL;
	*(debts->newest ? &debts->newest->debt_newer : &debts->oldest) = node;
	debts->newest = node;
	debts->n++;
}

static void take_out(struct rvl_debts *debts, struct rvl_node *node)
{
	*(node->debt_older ? &node->debt_older->debt_newer : &debts->oldest) = node->debt_newer;
	*(node->debt_newer ? &node->debt_newer->debt_older : &debts->newest) = node->debt_older;
	node->debt_older = node->debt_newer = NULL;
	debts->n--;
}

void rvl_debt_add(struct rvl_node *node, uint64_t log_id, bool is_whole)
{
	struct rvl_debts *debts = &node->ov->debts;

	rvl_node_ref(node);
	pthread_mutex_lock(&debts->lock);
	node->debt_log_id = log_id;
	node->is_debt_whole = is_whole;
	append(debts, node);
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
	take_out(debts, node);
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

/* What is to be done with the name of an object that is owed, with its directory locked. */
typedef int at_name_fn(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret);

/* -ESTALE: it is owed, and not where it is said to be. */
static int call_at_name(struct rvl_node *node, at_name_fn *fn, struct rvl_fd *ret)
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
				    fn(node, dir.fd.fd.fd, name, ret) :
				    -ESTALE;
		}
		rvl_refstr_put(again);
		rvl_refstr_put(name);
		if (r == -ENOENT)
			r = -ESTALE;
	}
	return r;
}

/* Of no directory. */
static int open_at(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret)
{
	const bool is_file = S_ISREG(node->type);
	int fd = rvl_retry_emfile(node->ov,
				  rvl_path_open(dirfd, name, is_file ? O_RDWR : O_PATH, 0));

	return fd < 0 ? fd :
			rvl_fdcache_add(node->ov->fds, node->id.number, rvl_node_fd_kind(node),
					fd, ret);
}

/* If it is still owed: a name of what is not may be another's by now. */
static int open_owed_at(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret)
{
	return rvl_is_owed(node) ? open_at(node, dirfd, name, ret) : -ESTALE;
}

int rvl_debt_open(struct rvl_node *node, struct rvl_fd *ret)
{
	*ret = RVL_FD_NONE;
	return call_at_name(node, open_owed_at, ret);
}

static int pay_at(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret)
{
	return rvl_debt_pay_at(node, dirfd, name);
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
		r = rvl_fdcache_get(fds, node->id.number, rvl_node_fd_kind(node), &fd);
	if (r == 0) {
		r = rvl_debt_pay_at(node, fd.fd, "");
		rvl_fdcache_unpin(fds, &fd);
	}
	if (r != 0)
		r = call_at_name(node, pay_at, NULL);
	return rvl_is_owed(node) ? r : 0;
}

/* It could not be paid: others first. */
static void put_off(struct rvl_node *node)
{
	struct rvl_debts *debts = &node->ov->debts;

	pthread_mutex_lock(&debts->lock);
	if (rvl_is_owed(node)) {
		take_out(debts, node);
		append(debts, node);
	}
	pthread_mutex_unlock(&debts->lock);
}

/*
 * Pay from the oldest on, at most n of them, and none that was put into the list after that turn. The
 * first error, after all have been tried.
 */
static int pay_oldest(struct rvl_overlay *ov, unsigned n, uint64_t turn)
{
	struct rvl_debts *debts = &ov->debts;
	int ret = 0;

	while (n-- > 0) {
		struct rvl_node _cleanup_node_ *node = NULL;
		int r;

		pthread_mutex_lock(&debts->lock);
		if (debts->oldest && debts->oldest->debt_turn <= turn)
			node = debts->oldest;
		if (node)
			rvl_node_ref(node);
		pthread_mutex_unlock(&debts->lock);
		if (!node)
			break;
		r = rvl_debt_pay(node);
		if (r < 0)
			put_off(node);
		ret = ret ?: r;
	}
	return ret;
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
	int r;

	if (count(&ov->debts) < DEBTS_MAX)
		return 0;
	r = pay_oldest(ov, 16, UINT64_MAX);
	return count(&ov->debts) < DEBTS_MAX ? 0 : r;
}

int rvl_debts_pay_all(struct rvl_overlay *ov)
{
	return pay_oldest(ov, count(&ov->debts), UINT64_MAX);
}

/* Up to n nodes that are owed and in the directory, each counted; returns how many. */
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

int rvl_debt_pay_upwards(struct rvl_node *node)
{
	int r = rvl_debt_pay(node);

	rvl_node_ref(node);
	while (r == 0 && node && node->id.number != RVL_NUMBER_ROOT) {
		struct rvl_node *below = node;
		const char *name;
		uint64_t number;

		node = NULL;
		rvl_node_get_place(below, &number, &name);
		/* one that is gone, or moves just now, is synced by who moves it */
		if (name && rvl_node_get_dir(below->ov, number, &node) == 0)
			r = rvl_debt_pay(node);
		rvl_refstr_put(name);
		rvl_node_put(below);
	}
	rvl_node_put(node);
	return r;
}

int rvl_debts_pay_in(struct rvl_node *dir)
{
	struct rvl_node *v[PART];
	unsigned n, left;
	int r = rvl_debt_pay_upwards(dir);

	/* no more than there are now: others may go on making some */
	for (left = count(&dir->ov->debts); r == 0 && left > 0; left = n < left ? left - n : 0) {
		n = find_in(dir, v, PART);
		if (n == 0)
			break;
		for (unsigned i = 0; i < n; i++) {
			if (r == 0)
				r = rvl_debt_pay(v[i]);
			rvl_node_put(v[i]);
		}
	}
	return r;
}

static int hold(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret)
{
	int r = rvl_fdcache_get(node->ov->fds, node->id.number, rvl_node_fd_kind(node), ret);

	return r < 0 ? open_at(node, dirfd, name, ret) : 0;
}

int rvl_debt_hold(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret_fd)
{
	int r;

	*ret_fd = RVL_FD_NONE;
	if (!rvl_is_owed(node))
		return 0;
	if (atomic_load(&node->ov->debts.n_held) < HELD_MAX && hold(node, dirfd, name, ret_fd) == 0)
		return 1;
	r = link_file(node, dirfd, name);
	/* on a full disk what is removed gives room */
	if (r < 0 && hold(node, dirfd, name, ret_fd) == 0)
		return 1;
	return r;
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

/*
 * Wait until something is to be paid. *ret_n: how many at most; *ret_turn: none that came into the list
 * later. What is owed at the begin, after DELAY_S; with DEBTS_HIGH or more at once, whatever their age,
 * but not after a failure. At the end (is_stopping) both mean nothing.
 */
static void wait_for_work(struct rvl_overlay *ov, bool has_failed, unsigned *ret_n, uint64_t *ret_turn)
{
	struct rvl_debts *debts = &ov->debts;
	struct timespec until;
	int r = 0;

	pthread_mutex_lock(&debts->lock);
	while (debts->n == 0 && !atomic_load(&ov->is_stopping))
		pthread_cond_wait(&debts->changed, &debts->lock);
	*ret_turn = debts->turn;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += DELAY_S;
	while (r == 0 && (has_failed || debts->n < DEBTS_HIGH) && !atomic_load(&ov->is_stopping))
		r = pthread_cond_timedwait(&debts->changed, &debts->lock, &until);
	*ret_n = debts->n;
	if (debts->n >= DEBTS_HIGH) {
		*ret_n -= DEBTS_HIGH / 2;
		*ret_turn = debts->turn;
	}
	pthread_mutex_unlock(&debts->lock);
}

void rvl_overlay_pay_debts(struct rvl_overlay *ov)
{
	uint64_t turn;
	unsigned n;
	int r = 0;

	for (;;) {
		wait_for_work(ov, r < 0, &n, &turn);
		if (atomic_load(&ov->is_stopping))
			break;
		/* a full disk: not all of them, each second */
		if (r < 0 && n > PART)
			n = PART;
		r = pay_oldest(ov, n, turn);
		/* again after the delay; who cannot wait gets the error */
		if (r < 0)
			rvl_warn_limited("the index entries of new objects cannot be made: %s",
					 strerror(-r));
	}
}
