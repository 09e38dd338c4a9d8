// SPDX-License-Identifier: GPL-2.0-or-later
/* Metacopy files in upper, see metacopy.h. */
#include "overlay/metacopy.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "layer/copy.h"
#include "layer/fetch.h"
#include "layer/merge.h"
#include "layer/path.h"
#include "layer/sync.h"
#include "overlay/real.h"

/* A fetch that goes on now, in ov->fetches. */
struct rvl_fetching {
	uint64_t ino; /* of the object in upper */
	struct rvl_fetching *next;
};

static void begin(struct rvl_overlay *ov, struct rvl_fetching *fetching)
{
	pthread_mutex_lock(&ov->fetch_lock);
	fetching->next = ov->fetches;
	ov->fetches = fetching;
	pthread_mutex_unlock(&ov->fetch_lock);
}

static void end(struct rvl_overlay *ov, const struct rvl_fetching *fetching)
{
	struct rvl_fetching **p = &ov->fetches;

	pthread_mutex_lock(&ov->fetch_lock);
	while (*p != fetching)
		p = &(*p)->next;
	*p = fetching->next;
	pthread_mutex_unlock(&ov->fetch_lock);
}

static bool is_fetching(const struct rvl_overlay *ov, uint64_t ino)
{
	const struct rvl_fetching *fetching = ov->fetches;

	while (fetching && fetching->ino != ino)
		fetching = fetching->next;
	return fetching;
}

/* With the lock. By what is opened: the name may lead to another object by now. */
static int recover(struct rvl_overlay *ov, int dirfd, const char *name, struct statx *st)
{
	_cleanup_close_ int fd = rvl_retry_emfile(ov, rvl_path_open(dirfd, name, O_RDWR, 0));
	int error, r = fd < 0 ? fd : 0;
	struct statx now;

	r = r ?: rvl_path_statx(fd, "", RVL_STATX_MASK, &now);
	if (r < 0)
		return r;
	if (!is_fetching(ov, now.stx_ino))
		r = rvl_fetch_recover(&ov->stack->xattr, fd);
	error = rvl_path_statx(fd, "", RVL_STATX_MASK, &now);
	if (error == 0 && now.stx_ino == st->stx_ino)
		*st = now;
	return r ?: error;
}

int rvl_metacopy_look(struct rvl_overlay *ov, int dirfd, const char *name, struct statx *st)
{
	int error, r = rvl_metacopy_get(ov->stack, dirfd, name);

	if (r != RVL_METACOPY_FETCH || ov->config.is_read_only)
		return r;
	pthread_mutex_lock(&ov->fetch_lock);
	error = recover(ov, dirfd, name, st);
	r = rvl_metacopy_get(ov->stack, dirfd, name);
	pthread_mutex_unlock(&ov->fetch_lock);
	if (error)
		rvl_warn_limited("upperdir=%s: %s: a copy of its data was cut short, and what that took "
				 "from it (time, setuid, capability) could not be put back: %s",
				 ov->stack->layers[0].path, name, strerror(-error));
	return r;
}

bool rvl_metacopy_turn_begin(struct rvl_node *node)
{
	if (!atomic_load(&node->is_metacopy))
		return false;
	rvl_node_copy_begin(node);
	return true;
}

void rvl_metacopy_turn_end(struct rvl_node *node, bool is_turn)
{
	if (is_turn)
		rvl_node_copy_end(node);
}

static int copy(struct rvl_node *node, int from, int to, uint64_t size)
{
	uint64_t n = 0;
	int r = rvl_copy_data(from, to, size, &n);

	rvl_count_n(copy_up_bytes, n);
	if (r == 0 && node->ov->config.sync != RVL_SYNC_VOLATILE)
		r = rvl_sync_data(to, node->ov->config.sync == RVL_SYNC_AUTO &&
					      node->ov->index->features.has_ordered_data);
	return r;
}

static int fetch(struct rvl_node *node, int to, bool is_empty)
{
	const struct rvl_xattr_names *names = &node->ov->stack->xattr;
	_cleanup_close_ int from = -EBADF;
	struct rvl_kept kept, end;
	struct statx st;
	int r;

	/* before anything is changed: what upper has may be data of its own, of another lower */
	if (!is_empty)
		from = rvl_lower_data_open(node, 0);
	if (!is_empty && from < 0)
		return from == -EUCLEAN ? rvl_lower_data_differ(node) : from;
	r = rvl_fetch_begin(names, to, &kept);
	if (r < 0)
		return r;
	end = kept;
	if (is_empty) {
		/* what is seen from here on has been truncated, and has the time of that */
		r = ftruncate(to, 0) < 0 ? -errno : rvl_path_statx(to, "", STATX_MTIME, &st);
		if (r == 0)
			end.st.stx_mtime = st.stx_mtime;
	} else {
		r = copy(node, from, to, kept.st.stx_size);
	}
	r = r ?: rvl_fetch_end(names, to, &end);
	if (r < 0)
		(void)rvl_fetch_undo(names, to, &kept);
	return r;
}

int rvl_metacopy_fetch(struct rvl_node *node, bool is_empty)
{
	struct rvl_fetching fetching = { .ino = node->upper_ino };
	struct rvl_overlay *ov = node->ov;
	char path[RVL_ENTRY_PATH_SIZE];
	_cleanup_close_ int to = -EBADF;
	int r;

	rvl_entry_path(node->id.number, path);
	to = rvl_retry_emfile(ov, rvl_path_open(ov->index->inodes_fd, path, O_RDWR, 0));
	if (to < 0)
		return to;
	begin(ov, &fetching);
	r = fetch(node, to, is_empty);
	end(ov, &fetching);
	if (r < 0)
		return r;
	atomic_store(&node->is_name_synced, false);
	atomic_store(&node->is_metacopy, false);
	rvl_fdcache_drop(ov->fds, node->id.number, RVL_FD_LOWER_DATA);
	return 0;
}

int rvl_metacopy_redirect(struct rvl_node *dir, const char *name, const char *own, char **ret)
{
	*ret = NULL;
	if (own && own[0] == '/')
		return 0;
	if (!dir->view_path)
		return -ENOENT;
	return asprintf(ret, "/%s%s%s", dir->view_path, dir->view_path[0] ? "/" : "",
			own ? own : name) < 0 ?
		       -ENOMEM :
		       0;
}

int rvl_metacopy_anchor(struct rvl_node *node)
{
	struct rvl_overlay *ov = node->ov;
	_cleanup_free_ char *own = NULL, *redirect = NULL;
	struct rvl_real _cleanup_real_ real = {};
	struct rvl_node _cleanup_node_ *dir = NULL;
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_name_at at;
	ssize_t n;
	int r = rvl_real_get(node, &real);

	if (r == 0)
		r = rvl_redirect_get(ov->stack, real.dirfd, real.name, &own);
	if (r < 0)
		return r;
	if (own && own[0] == '/')
		goto done;
	n = rvl_real_xattr_get(node, &real, RVL_XATTR_PLACE, value, sizeof(value));
	r = n < 0 ? (int)n : rvl_name_at_decode(value, (size_t)n, &at);
	if (r == 0)
		r = rvl_node_get_dir(ov, at.parent, &dir);
	if (r == 0)
		r = rvl_metacopy_redirect(dir, at.name, own, &redirect);
	if (r == 0)
		r = rvl_xattr_set(&ov->stack->xattr, real.dirfd, real.name, RVL_XATTR_REDIRECT,
				  redirect, strlen(redirect));
	if (r < 0)
		return r;
done:
	atomic_store(&node->has_redirect, true);
	return 0;
}
