// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The inodes that the kernel has open, each with how: a table of what is open, gone with the last
 * close. It is a step behind the kernel, which counts down before it sends RELEASE: so what is here
 * taken for open may be closed already, and any way is right for the next open; what is here taken
 * for closed is so.
 *
 * Lock: one of a shard, leaf; held across the two ioctls, which do not come back to us.
 */
#include "server/passthrough.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/number_set.h"
#include "server/server.h"

#define N_SHARDS 64
#define N_BUCKETS 64 /* a shard */
#define WERE_MAPPED_MAX 4096 /* a shard */
#define IDS_MAX 16384 /* each holds a file in the kernel, which no limit of ours counts */

/* The kernel's interface, which older <linux/fuse.h> do not have. */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

struct open_inode {
	uint64_t number;
	struct open_inode *next;
	int backing_id; /* 0: through the page cache */
	unsigned n_open;
	unsigned n_mapped; /* of them O_RDWR, and passed through */
};

struct shard {
	pthread_mutex_t lock;
	struct open_inode *buckets[N_BUCKETS];
	struct rvl_number_set were_mapped; /* owned; closed, and not forgotten by the kernel */
};

struct rvl_passthrough {
	struct rvl_server *server; /* borrowed */
	bool is_enabled; /* constant once requests are served */
	_Atomic unsigned n_ids;
	_Atomic unsigned
		n_mapped; /* of all, so that there is nothing to look up most of the time */
	_Atomic unsigned n_were_mapped; /* the same */
	struct shard shards[N_SHARDS];
};

static struct shard *shard_of(struct rvl_passthrough *p, uint64_t number)
{
	return &p->shards[number % N_SHARDS];
}

static struct open_inode **find(struct shard *shard, uint64_t number)
{
	struct open_inode **at = &shard->buckets[number / N_SHARDS % N_BUCKETS];

	while (*at && (*at)->number != number)
		at = &(*at)->next;
	return at;
}

static int open_backing(struct rvl_passthrough *p, int fd)
{
	const struct backing_map map = { .fd = fd };
	int id = ioctl(fuse_session_fd(p->server->session), BACKING_OPEN, &map);

	return id < 0 ? -errno : id;
}

static void close_backing(struct rvl_passthrough *p, int id)
{
	const uint32_t arg = id;

	if (ioctl(fuse_session_fd(p->server->session), BACKING_CLOSE, &arg) < 0)
		rvl_warn_limited("closing a backing file: %m");
}

int rvl_passthrough_new(struct rvl_server *server, struct rvl_passthrough **ret)
{
	struct rvl_passthrough *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->server = server;
	for (unsigned i = 0; i < N_SHARDS; i++)
		pthread_mutex_init(&p->shards[i].lock, NULL);
	*ret = p;
	return 0;
}

void rvl_passthrough_free(struct rvl_passthrough *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < N_SHARDS; i++) {
		for (unsigned b = 0; b < N_BUCKETS; b++) {
			struct open_inode *o, *next;

			for (o = p->shards[i].buckets[b]; o; o = next) {
				next = o->next;
				free(o);
			}
		}
		rvl_number_set_release(&p->shards[i].were_mapped);
		pthread_mutex_destroy(&p->shards[i].lock);
	}
	free(p);
}

/* Tried with a file of upper, so that what the kernel demands of its filesystem is tried too. */
const char *rvl_passthrough_enable(struct rvl_passthrough *p)
{
	const int temp_fd = p->server->index->temp_fd;
	_cleanup_close_ int fd = -EBADF;
	char name[RVL_TEMP_NAME_SIZE];
	int id;

	rvl_index_temp_name(p->server->index, name);
	fd = openat(temp_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	id = fd < 0 ? -errno : open_backing(p, fd);
	if (fd >= 0)
		unlinkat(temp_fd, name, 0);
	if (id > 0) {
		close_backing(p, id);
		p->is_enabled = true;
		return NULL;
	}
	switch (id) {
	case -EPERM:
		return "the server is not privileged (CAP_SYS_ADMIN)";
	case -ENOTTY:
	case -EOPNOTSUPP:
		return "the kernel does not have it";
	case -ELOOP:
		return "upper lies on a stacked filesystem";
	default:
		return strerrordesc_np(-id) ?: "no backing file";
	}
}

/*
 * Setuid and setgid must go when others than root write, which the kernel does not tell us of then:
 * such files go through the page cache.
 */
static bool is_suid_at_stake(struct rvl_passthrough *p, uint64_t number, uid_t uid, int flags)
{
	struct rvl_entry entry;

	if (uid == 0 || (flags & O_ACCMODE) == O_RDONLY)
		return false;
	return rvl_overlay_getattr(p->server->overlay, 0, number, &entry) < 0 ||
	       entry.st.st_mode & (S_ISUID | S_ISGID);
}

/* With the shard's lock: one open more. */
static void count(struct rvl_passthrough *p, struct open_inode *o, struct fuse_file_info *fi)
{
	o->n_open++;
	fi->backing_id = o->backing_id;
	if (o->backing_id && (fi->flags & O_ACCMODE) == O_RDWR) {
		o->n_mapped++;
		atomic_fetch_add_explicit(&p->n_mapped, 1, memory_order_relaxed);
	}
}

/* As the others have it, if it is open already. */
static bool join(struct rvl_passthrough *p, uint64_t number, struct fuse_file_info *fi)
{
	struct shard *shard = shard_of(p, number);
	struct open_inode *o;

	pthread_mutex_lock(&shard->lock);
	o = *find(shard, number);
	if (o)
		count(p, o, fi);
	pthread_mutex_unlock(&shard->lock);
	return o;
}

static int open_inode(struct rvl_passthrough *p, uint64_t number, uid_t uid,
		      struct fuse_file_info *fi)
{
	struct shard *shard = shard_of(p, number);
	struct rvl_overlay *overlay = p->server->overlay;
	struct rvl_pin pin = { .fd = -EBADF };
	struct open_inode *o, **at;

	if (join(p, number, fi))
		return 0;
	o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->number = number;
	if (!is_suid_at_stake(p, number, uid, fi->flags))
		(void)rvl_overlay_pin_backing(overlay, number, &pin);
	pthread_mutex_lock(&shard->lock);
	at = find(shard, number);
	if (*at) { /* another one was faster */
		free(o);
		o = *at;
	} else {
		if (pin.fd >= 0 && atomic_load_explicit(&p->n_ids, memory_order_relaxed) < IDS_MAX)
			o->backing_id = open_backing(p, pin.fd);
		if (o->backing_id < 0)
			o->backing_id = 0;
		if (o->backing_id)
			atomic_fetch_add_explicit(&p->n_ids, 1, memory_order_relaxed);
		*at = o;
	}
	count(p, o, fi);
	pthread_mutex_unlock(&shard->lock);
	if (pin.fd >= 0)
		rvl_overlay_unpin(overlay, &pin);
	return 0;
}

int rvl_passthrough_open(struct rvl_passthrough *p, uint64_t number, uid_t uid, bool is_new,
			 struct fuse_file_info *fi)
{
	int r;

	fi->backing_id = 0;
	if (!p->is_enabled)
		return 0;
	r = open_inode(p, number, uid, fi);
	if (r < 0 || !fi->backing_id)
		return r;
	rvl_count(passed_through);
	/* what it was told before it may not keep any more */
	if (!is_new && (fi->flags & O_ACCMODE) == O_RDWR)
		fuse_lowlevel_notify_inval_inode(p->server->session, number, -1, 0);
	return 0;
}

/* With the shard's lock, before it counts as closed. If there is no memory the times may be old. */
static void note_mapped(struct rvl_passthrough *p, struct shard *shard, uint64_t number)
{
	const size_t n = shard->were_mapped.n;

	(void)rvl_number_set_add(&shard->were_mapped, number, 1, WERE_MAPPED_MAX);
	atomic_fetch_add_explicit(&p->n_were_mapped, (unsigned)(shard->were_mapped.n - n),
				  memory_order_relaxed);
}

void rvl_passthrough_forget(struct rvl_passthrough *p, uint64_t number)
{
	struct shard *shard = shard_of(p, number);

	if (atomic_load_explicit(&p->n_were_mapped, memory_order_relaxed) == 0)
		return;
	pthread_mutex_lock(&shard->lock);
	if (rvl_number_set_take(&shard->were_mapped, number))
		atomic_fetch_sub_explicit(&p->n_were_mapped, 1, memory_order_relaxed);
	pthread_mutex_unlock(&shard->lock);
}

void rvl_passthrough_release(struct rvl_passthrough *p, uint64_t number, int flags)
{
	struct shard *shard = shard_of(p, number);
	struct open_inode *o, **at;

	if (!p->is_enabled)
		return;
	pthread_mutex_lock(&shard->lock);
	at = find(shard, number);
	o = *at;
	if (o && o->backing_id && o->n_mapped && (flags & O_ACCMODE) == O_RDWR) {
		note_mapped(p, shard, number);
		o->n_mapped--;
		atomic_fetch_sub_explicit(&p->n_mapped, 1, memory_order_relaxed);
	}
	if (o && --o->n_open > 0)
		o = NULL;
	if (o)
		*at = o->next;
	pthread_mutex_unlock(&shard->lock);
	if (o && o->backing_id) {
		close_backing(p, o->backing_id);
		atomic_fetch_sub_explicit(&p->n_ids, 1, memory_order_relaxed);
	}
	free(o);
}

enum rvl_mapped rvl_passthrough_is_mapped(struct rvl_passthrough *p, uint64_t number)
{
	struct shard *shard = shard_of(p, number);
	enum rvl_mapped ret = RVL_NOT_MAPPED;
	const struct open_inode *o;

	if (atomic_load_explicit(&p->n_mapped, memory_order_relaxed) == 0 &&
	    atomic_load_explicit(&p->n_were_mapped, memory_order_relaxed) == 0)
		return ret;
	pthread_mutex_lock(&shard->lock);
	o = *find(shard, number);
	if (o && o->n_mapped)
		ret = RVL_MAY_BE_MAPPED;
	else if (rvl_number_set_get(&shard->were_mapped, number))
		ret = RVL_WAS_MAPPED;
	pthread_mutex_unlock(&shard->lock);
	return ret;
}
