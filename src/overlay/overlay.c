// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The life of an overlay: the root, recovery, the walk for the map, the word to stop, and at the end
 * the burial of orphans.
 */
#include "overlay/overlay.h"

#include <dirent.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "index/map.h"
#include "layer/identity.h"
#include "layer/path.h"
#include "overlay/complete.h"
#include "overlay/debt.h"
#include "overlay/recover.h"
#include "overlay/remove.h"

#define FDS_MIN 32
#define FDS_MAX 4096 /* descriptors in the cache; fewer where the limit of the process is low */

int rvl_check_name(const char *name)
{
	if (!rvl_name_is_valid(name))
		return -EINVAL;
	return strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

int rvl_check_writable(const struct rvl_overlay *ov)
{
	return ov->config.is_read_only || !ov->stack->has_upper ? -EROFS : 0;
}

/* A third of what is left when the layers are open: the rest is for the requests of all threads. */
static unsigned fd_limit(void)
{
	_cleanup_closedir_ DIR *d = opendir("/proc/self/fd");
	struct rlimit limit;
	rlim_t n = 0;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return FDS_MIN;
	while (d && readdir(d))
		n++;
	n = limit.rlim_cur > n ? (limit.rlim_cur - n) / 3 : 0;
	return n > FDS_MAX ? FDS_MAX : n < FDS_MIN ? FDS_MIN : (unsigned)n;
}

static int make_root(struct rvl_overlay *ov)
{
	const struct rvl_id id = { .number = RVL_NUMBER_ROOT };
	struct rvl_node *root = rvl_node_new(ov, &id, S_IFDIR);
	int r;

	if (!root)
		return -ENOMEM;
	r = rvl_places_of_root(ov->stack, &root->lower);
	if (r == 0 && root->lower.n) {
		root->view_path = rvl_refstr_new("");
		r = root->view_path ? 0 : -ENOMEM;
	}
	if (r < 0) {
		rvl_node_free(root);
		return r;
	}
	if (ov->stack->has_upper) {
		root->upper_ino = ov->stack->layers[0].ino;
		atomic_store(&root->has_upper, true);
	}
	ov->root = rvl_node_insert(root);
	return 0;
}

int rvl_overlay_open(const struct rvl_overlay_config *config, struct rvl_overlay **ret)
{
	struct rvl_overlay *ov = calloc(1, sizeof(*ov));
	int r;

	if (!ov)
		return -ENOMEM;
	ov->config = *config;
	ov->stack = config->stack;
	ov->uid = geteuid();
	ov->gid = getegid();
	ov->index = config->index;
	ov->kernel_index_fd = -EBADF;
	if (ov->stack->has_upper)
		ov->kernel_index_fd =
			rvl_path_open(ov->stack->work_fd, "index", O_PATH | O_DIRECTORY, 0);
	pthread_mutex_init(&ov->identify_lock, NULL);
	pthread_mutex_init(&ov->fetch_lock, NULL);
	pthread_mutex_init(&ov->whiteout_lock, NULL);
	pthread_mutex_init(&ov->walk_lock, NULL);
	pthread_mutex_init(&ov->map_lock, NULL);
	rvl_listings_init(&ov->listings, RVL_LISTINGS_BYTES_MAX);
	rvl_debts_init(&ov->debts);
	r = rvl_node_cache_new(ov, config->node_limit, &ov->nodes);
	if (r == 0)
		r = rvl_fdcache_new(fd_limit(), &ov->fds);
	/* without upper nothing has an origin */
	if (r == 0 && ov->stack->has_upper)
		r = rvl_identity_uuids(ov->stack, &ov->layer_uuids);
	if (r == 0)
		r = make_root(ov);
	ov->is_recovering = true;
	if (r == 0 && ov->stack->has_upper && !config->is_read_only)
		r = rvl_recover(ov);
	ov->is_recovering = false;
	if (r == 0)
		r = rvl_complete_new(ov, &ov->completion);
	if (r < 0) {
		rvl_error("cannot set up the overlay: %s", strerror(-r));
		rvl_overlay_close(ov);
		return r;
	}
	*ret = ov;
	return 0;
}

void rvl_overlay_close(struct rvl_overlay *ov)
{
	if (!ov)
		return;
	if (ov->nodes) {
		int r = rvl_debts_pay_all(ov);

		if (r < 0)
			rvl_warn("index entries of new objects are left to the next mount: %s",
				 strerror(-r));
		rvl_node_each_orphan(ov, rvl_node_bury);
	}
	rvl_node_put(ov->root);
	rvl_complete_free(ov->completion);
	rvl_fdcache_free(ov->fds);
	rvl_node_cache_free(ov->nodes);
	rvl_listings_destroy(&ov->listings);
	free(ov->layer_uuids);
	rvl_close(ov->kernel_index_fd);
	rvl_debts_release(&ov->debts);
	rvl_number_set_release(&ov->unmade);
	pthread_mutex_destroy(&ov->map_lock);
	pthread_mutex_destroy(&ov->walk_lock);
	pthread_mutex_destroy(&ov->fetch_lock);
	pthread_mutex_destroy(&ov->whiteout_lock);
	pthread_mutex_destroy(&ov->identify_lock);
	free(ov);
}

int rvl_overlay_build_map(struct rvl_overlay *ov)
{
	int r = 0;

	pthread_mutex_lock(&ov->map_lock);
	if (!rvl_map_is_complete(ov->index))
		r = rvl_map_build(ov->index, &ov->is_stopping);
	/* stopped: nobody may take a name that is not there for one that does not exist */
	if (r == 0 && !rvl_map_is_complete(ov->index))
		r = -EINTR;
	pthread_mutex_unlock(&ov->map_lock);
	return r;
}

int rvl_overlay_map_info(struct rvl_overlay *ov, struct rvl_map_info *ret)
{
	return rvl_map_get_info(ov->index, ret);
}

void rvl_overlay_stop(struct rvl_overlay *ov)
{
	/* under the lock: the thread that pays debts asks with it, and then waits for the signal */
	pthread_mutex_lock(&ov->debts.lock);
	atomic_store(&ov->is_stopping, true);
	pthread_cond_signal(&ov->debts.changed);
	pthread_mutex_unlock(&ov->debts.lock);
}
