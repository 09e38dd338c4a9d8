// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Copy-up, see copyup.h for the steps. One thread copies an object, others that need it wait;
 * readers go on reading the lower one. No lock is held while data are copied or synced.
 *
 * Not here: what follows from a crash between the steps (recover.c, docs/consistency.md).
 */
#include "overlay/copyup.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "index/log.h"
#include "index/stamp.h"
#include "layer/copy.h"
#include "layer/keep.h"
#include "layer/path.h"
#include "layer/sync.h"
#include "overlay/decode.h"
#include "overlay/given.h"
#include "overlay/lookup.h"
#include "overlay/metacopy.h"
#include "overlay/nlink.h"
#include "overlay/prot.h"
#include "overlay/remove.h"
#include "overlay/renumber.h"
#include "overlay/temp.h"

#define PLACE_RETRIES 16

struct copy_up {
	struct rvl_overlay *ov;
	struct rvl_node *node;
	struct rvl_node *parent; /* counted; NULL: not published */
	const char *name; /* counted refstr */
	struct rvl_real lower;
	struct statx st; /* of the lower object */
	struct rvl_temp temp;
	unsigned flags;
	bool is_metacopy; /* its data stay below */
};

/* ---- the temporary ---- */

static int make_temp(struct copy_up *c)
{
	char target[PATH_MAX];
	ssize_t n;

	rvl_temp_begin(&c->temp, c->ov);
	switch (c->st.stx_mode & S_IFMT) {
	case S_IFREG:
		return rvl_temp_file(&c->temp);
	case S_IFDIR:
		return rvl_temp_dir(&c->temp);
	case S_IFLNK:
		n = readlinkat(c->lower.dirfd, c->lower.name, target, sizeof(target));
		if (n < 0)
			return -errno;
		if (n == sizeof(target))
			return -EUCLEAN;
		target[n] = '\0';
		return rvl_temp_symlink(&c->temp, target);
	default:
		return rvl_temp_node(&c->temp, c->st.stx_mode & S_IFMT,
				     makedev(c->st.stx_rdev_major, c->st.stx_rdev_minor));
	}
}

static bool has_data(const struct copy_up *c)
{
	return S_ISREG(c->st.stx_mode) && c->st.stx_size && !(c->flags & RVL_COPY_UP_NO_DATA);
}

static int copy_data(struct copy_up *c)
{
	_cleanup_close_ int from = -EBADF;
	uint64_t n = 0;
	int r;

	if (!has_data(c))
		return 0;
	if (c->is_metacopy)
		return ftruncate(c->temp.fd, (off_t)c->st.stx_size) < 0 ? -errno : 0;
	from = rvl_lower_data_open(c->node, 0);
	if (from < 0)
		return from == -EUCLEAN ? rvl_lower_data_differ(c->node) : from;
	r = rvl_copy_data(from, c->temp.fd, c->st.stx_size, &n);
	rvl_count_n(copy_up_bytes, n);
	return r;
}

/* overlay.metacopy, and overlay.redirect where the name is about to change. */
static int set_metacopy(struct copy_up *c)
{
	_cleanup_free_ char *redirect = NULL;
	int r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_METACOPY, NULL, 0);

	if (r == 0 && c->flags & RVL_COPY_UP_RENAME)
		r = rvl_metacopy_redirect(c->parent, c->name, NULL, &redirect);
	if (r == 0 && redirect)
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_REDIRECT, redirect, strlen(redirect));
	return r;
}

/* overlay.origin, overlay.place, overlay.nlink and the stamp. */
static int set_private(struct copy_up *c)
{
	const struct rvl_place *top = &c->node->lower.v[0];
	uint8_t value[RVL_HANDLE_ENCODED_MAX], place[RVL_NAME_AT_ENCODED_MAX];
	char nlink[RVL_NLINK_VALUE_SIZE];
	struct rvl_handle origin;
	struct rvl_name_at at;
	int prot, r = c->is_metacopy ? set_metacopy(c) : 0;

	if (r < 0)
		return r;
	if (rvl_handle_get(c->lower.dirfd, c->lower.name, c->ov->layer_uuids[top->layer->index],
			   &origin) == 0)
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_ORIGIN, value,
				       rvl_handle_encode(&origin, value));
	else /* the kernel's form of "copied up, origin unknown" */
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_ORIGIN, NULL, 0);
	if (r < 0)
		return r;
	if (!rvl_node_is_dir(c->node) && c->name) {
		at.parent = c->parent->id.number;
		snprintf(at.name, sizeof(at.name), "%s", c->name);
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_PLACE, place,
				       rvl_name_at_encode(&at, place));
		if (r < 0)
			return r;
	}
	if (!rvl_node_is_dir(c->node) && c->st.stx_nlink > 1) {
		/* all names are lower ones as yet: visible = index link + (names - 1) */
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_NLINK, nlink,
				       rvl_nlink_format((int)c->st.stx_nlink - 1, nlink));
		if (r < 0)
			return r;
	}
	if (c->node->is_user_whiteout) {
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_WHITEOUT, "y", 1);
		if (r < 0)
			return r;
	}
	prot = rvl_prot_get(c->node);
	if (prot > 0) {
		char text[2];

		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_PROTATTR, text,
				       rvl_prot_format(prot, text));
		if (r < 0)
			return r;
	}
	return rvl_temp_stamp(&c->temp, &c->node->id);
}

static int set_attributes(struct copy_up *c)
{
	struct timespec times[2] = {
		{ c->st.stx_atime.tv_sec, c->st.stx_atime.tv_nsec },
		{ c->st.stx_mtime.tv_sec, c->st.stx_mtime.tv_nsec },
	};
	int r = rvl_xattr_copy(&c->ov->stack->xattr, c->lower.dirfd, c->lower.name,
			       c->ov->index->temp_fd, c->temp.name);

	/* truncated now, and so it must look if it comes to no more than this */
	if (c->flags & RVL_COPY_UP_NO_DATA)
		times[1].tv_nsec = UTIME_NOW;
	if (r == 0)
		r = set_private(c);
	if (r == 0)
		r = rvl_temp_owner_mode(&c->temp, c->st.stx_uid, c->st.stx_gid, c->st.stx_mode);
	/* chown cleared file capabilities: once more, now for good */
	if (r == 0 && S_ISREG(c->st.stx_mode))
		r = rvl_temp_copy_xattr(&c->temp, c->lower.dirfd, c->lower.name,
					RVL_CAPABILITY_NAME);
	if (r == 0)
		r = rvl_temp_copy_flags(&c->temp, &c->lower);
	if (r == 0 &&
	    utimensat(c->ov->index->temp_fd, c->temp.name, times, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	return r;
}

static int sync_temp(struct copy_up *c)
{
	enum rvl_sync_mode mode = c->ov->config.sync;
	_cleanup_close_ int fd = -EBADF;

	if (mode == RVL_SYNC_VOLATILE || c->temp.fd < 0)
		return 0;
	if (mode == RVL_SYNC_AUTO && (c->is_metacopy || !has_data(c)))
		return 0;
	if (mode == RVL_SYNC_AUTO)
		return rvl_sync_data(c->temp.fd, c->ov->index->features.has_ordered_data);
	if (!rvl_node_is_dir(c->node))
		return fsync(c->temp.fd) < 0 ? -errno : 0;
	fd = rvl_retry_emfile(c->ov, rvl_fd_reopen(c->temp.fd, O_RDONLY | O_DIRECTORY));
	return fd < 0 ? fd : fsync(fd) < 0 ? -errno : 0;
}

/* ---- the entry ---- */

static int put_entry(struct copy_up *c)
{
	struct rvl_entry_directory entry = { .is_merged = true };
	struct rvl_overlay *ov = c->ov;
	struct rvl_index *index = ov->index;

	if (!rvl_node_is_dir(c->node))
		return rvl_entry_link(index, index->temp_fd, c->temp.name, c->node->id.number);
	entry.path.parent = c->parent->id.number;
	snprintf(entry.path.name, sizeof(entry.path.name), "%s", c->name);
	entry.place = entry.path;
	rvl_handle_of(ov, index->temp_fd, c->temp.name, &entry.upper);
	rvl_handle_of(ov, c->lower.dirfd, c->lower.name, &entry.lower);
	return rvl_entry_put_directory(index, c->node->id.number, &entry, false);
}

static int make_entry(struct copy_up *c)
{
	int r = put_entry(c);

	if (r != -EEXIST || (!rvl_node_is_dir(c->node) && c->st.stx_nlink > 1))
		return r;
	r = rvl_free_number(c->ov, c->node->id.number);
	return r < 0 ? r : put_entry(c);
}

/* ---- publishing ---- */

int rvl_set_impure(struct rvl_node *dir, int dirfd)
{
	int r;

	if (atomic_load_explicit(&dir->is_impure, memory_order_relaxed) ||
	    dir->id.number == RVL_NUMBER_ROOT)
		return 0;
	r = rvl_xattr_set(&dir->ov->stack->xattr, dirfd, "", RVL_XATTR_IMPURE, "y", 1);
	if (r == 0)
		atomic_store_explicit(&dir->is_impure, true, memory_order_relaxed);
	return r;
}

int rvl_publish_alias(struct rvl_node *node, struct rvl_node *dir, int dirfd, const char *name)
{
	struct rvl_overlay *ov = node->ov;
	struct rvl_log_record record = { .op = RVL_LOG_LINK, .number = node->id.number };
	char path[RVL_ENTRY_PATH_SIZE];
	struct statx st;
	uint64_t id;
	int r;

	record.at.parent = dir->id.number;
	snprintf(record.at.name, sizeof(record.at.name), "%s", name);
	record.flags = (uint32_t)node->nlink_diff;
	r = rvl_path_statx(dirfd, "", RVL_STATX_MASK, &st);
	if (r == 0)
		r = rvl_log_begin(ov->index->log, &record, &id);
	if (r < 0)
		return r;
	/* the upper link is counted by st_nlink from now on, the lower name no more */
	r = rvl_nlink_add(node, -1);
	if (r == 0) {
		rvl_entry_path(node->id.number, path);
		if (linkat(ov->index->inodes_fd, path, dirfd, name, 0) < 0) {
			r = -errno;
			if (rvl_nlink_undo(node, -1) < 0)
				return r; /* the record tells the next mount */
		}
	}
	if (r == 0) {
		(void)rvl_set_impure(dir, dirfd);
		/* no change of the directory that people should see (kernel: ovl_copy_up_one) */
		rvl_fd_restore_times(dirfd, &st);
	}
	rvl_log_end(ov->index->log, id);
	return r;
}

static bool is_named(const struct copy_up *c)
{
	return c->parent && !(c->flags & RVL_COPY_UP_NO_PUBLISH);
}

/* Of a file with several links in lower: the names that are not upper's own. With its lock. */
static int set_nlink(struct copy_up *c, bool has_name)
{
	char value[RVL_NLINK_VALUE_SIZE];

	if (c->st.stx_nlink < 2 || rvl_node_is_dir(c->node))
		return 0;
	c->node->nlink_diff = (int)c->st.stx_nlink - (has_name ? 2 : 1);
	return rvl_temp_xattr_set(&c->temp, RVL_XATTR_NLINK, value,
				  rvl_nlink_format(c->node->nlink_diff, value));
}

/* What was made is the node's object from here on. With the lock of a file. */
static void turn(struct copy_up *c)
{
	c->node->upper_ino = c->temp.ino;
	/* the descriptor is what the next requests will ask for */
	if (c->temp.fd >= 0)
		rvl_fdcache_put(c->ov->fds, c->node->id.number,
				rvl_node_is_dir(c->node) ? RVL_FD_UPPER_DIR : RVL_FD_WRITE,
				rvl_take_fd(&c->temp.fd));
	atomic_store(&c->node->is_metacopy, c->is_metacopy);
	atomic_store(&c->node->has_redirect, c->is_metacopy && c->flags & RVL_COPY_UP_RENAME);
	atomic_store_explicit(&c->node->has_upper, true, memory_order_release);
}

/* A file that was removed meanwhile, or is to be removed: the index alone has it. */
static int publish_nameless(struct copy_up *c)
{
	int r;

	/* living, and with no other name: it has moved, so look where it is now */
	if (is_named(c) && c->st.stx_nlink == 1 && !atomic_load(&c->node->is_dead))
		return -ESTALE;
	pthread_rwlock_wrlock(&c->node->lock);
	r = set_nlink(c, false);
	if (r == 0)
		turn(c);
	pthread_rwlock_unlock(&c->node->lock);
	return r;
}

/* Does the name still lead to this object? The lower part cannot change, so upper must have nothing
 * there. With the directory's lock, and that of a file. */
static int publish_name(struct copy_up *c, int dirfd)
{
	struct statx dir_st;
	int r = rvl_path_statx(dirfd, "", RVL_STATX_MASK, &dir_st);

	if (r == 0)
		r = set_nlink(c, true);
	if (r == 0)
		r = rvl_temp_publish(&c->temp, dirfd, c->name, RENAME_NOREPLACE);
	if (r == 0) {
		rvl_fd_restore_times(dirfd, &dir_st);
	} else if (r == -EEXIST && !rvl_node_is_dir(c->node)) {
		/* a whiteout, or another object: this name is no longer ours */
		r = set_nlink(c, false);
	}
	if (r == 0)
		turn(c);
	return r;
}

static int publish(struct copy_up *c)
{
	struct rvl_dir _cleanup_dir_ dir = {};
	struct rvl_node *node = c->node;
	int r = is_named(c) ? rvl_dir_lock_write(c->parent, &dir) : -ENOENT;

	/* the whiteout of what was removed may be gone, as its directory is about to */
	if (r == 0 && !rvl_node_is_dir(node) && atomic_load(&node->is_dead)) {
		rvl_dir_unlock(&dir);
		r = -ENOENT;
	}
	if (r == -ENOENT && !rvl_node_is_dir(node)) {
		r = publish_nameless(c);
	} else if (r == 0) {
		r = rvl_set_impure(c->parent, dir.fd.fd.fd);
		if (r < 0)
			return r;
		if (!rvl_node_is_dir(node))
			pthread_rwlock_wrlock(&node->lock);
		r = publish_name(c, dir.fd.fd.fd);
		if (!rvl_node_is_dir(node))
			pthread_rwlock_unlock(&node->lock);
	}
	if (r < 0)
		return r;
	/* who reads the lower one reads the upper one from now on */
	rvl_fdcache_drop(c->ov->fds, node->id.number, RVL_FD_LOWER);
	if (!rvl_node_is_dir(node) && !c->is_metacopy)
		rvl_fdcache_drop(c->ov->fds, node->id.number, RVL_FD_LOWER_DATA);
	return 0;
}

/* ---- all of it ---- */

static int run(struct copy_up *c)
{
	struct rvl_log_record record = { .op = RVL_LOG_COPY_UP, .number = c->node->id.number };
	uint64_t id;
	int r = rvl_real_get(c->node, &c->lower);

	if (r == 0)
		r = rvl_path_statx(c->lower.dirfd, c->lower.name, RVL_STATX_MASK, &c->st);
	if (r < 0)
		return r;
	if (c->name) {
		record.at.parent = c->parent->id.number;
		snprintf(record.at.name, sizeof(record.at.name), "%s", c->name);
	}
	r = rvl_log_begin(c->ov->index->log, &record, &id);
	if (r < 0)
		return r;
	/* what has no name has nothing that could lead to its data */
	c->is_metacopy = c->ov->config.has_metacopy && has_data(c) && c->name &&
			 !(c->flags & RVL_COPY_UP_DATA) && rvl_node_data(c->node);
	r = make_temp(c);
	if (r == 0)
		r = copy_data(c);
	if (r == 0)
		r = set_attributes(c);
	if (r == 0)
		r = sync_temp(c);
	if (r == 0)
		r = make_entry(c);
	if (r == 0) {
		r = publish(c);
		/* nothing leads to it but the entry that was just made: take it back */
		if (r < 0)
			(void)rvl_entry_bury(c->ov->index, c->node->id.number, false);
	}
	if (r == 0 && atomic_load(&c->node->is_dead)) {
		/* open, without a name, and now in upper: the record keeps it like any orphan */
		pthread_rwlock_wrlock(&c->node->lock);
		rvl_node_make_orphan(c->node, id);
		pthread_rwlock_unlock(&c->node->lock);
	} else {
		rvl_log_end(c->ov->index->log, id);
	}
	rvl_temp_release(&c->temp);
	if (r == 0)
		rvl_count(copy_ups);
	/* also a directory that is copied up for what comes next, which may fail */
	if (r == 0 && rvl_node_is_dir(c->node))
		rvl_given_tell(c->node);
	/* its ctime, by the name and by overlay.impure */
	if (is_named(c))
		rvl_given_tell(c->parent);
	return r;
}

/* An object that this node has not heard of, left by a former server or copied up under another
 * name: take it as it is. */
static int take_existing(struct rvl_node *node, bool *ret_is_taken)
{
	struct rvl_overlay *ov = node->ov;
	enum rvl_entry_kind kind;
	char path[RVL_ENTRY_PATH_SIZE];
	struct statx stx;
	int r;

	*ret_is_taken = false;
	if (rvl_node_is_dir(node) || node->lower_nlink < 2)
		return 0;
	r = rvl_entry_look(ov->index, node->id.number, &kind, &stx);
	if (r < 0 || kind == RVL_ENTRY_NONE)
		return r;
	if (kind != RVL_ENTRY_OBJECT)
		return -ESTALE;
	rvl_entry_path(node->id.number, path);
	pthread_rwlock_wrlock(&node->lock);
	node->upper_ino = stx.stx_ino;
	r = rvl_nlink_read(node, ov->index->inodes_fd, path, stx.stx_nlink);
	if (r == 0 && S_ISREG(stx.stx_mode)) {
		r = rvl_metacopy_look(ov, ov->index->inodes_fd, path, &stx);
		atomic_store(&node->is_metacopy, r > 0);
		r = r < 0 ? r : 0;
	}
	if (r == 0)
		atomic_store_explicit(&node->has_upper, true, memory_order_release);
	pthread_rwlock_unlock(&node->lock);
	*ret_is_taken = r == 0;
	return r;
}

static int find_parent(struct copy_up *c)
{
	uint64_t number;
	int r = -ESTALE;

	rvl_node_get_place(c->node, &number, &c->name);
	if (c->name)
		r = rvl_node_get_dir(c->ov, number, &c->parent);
	if (r == 0 && !rvl_node_has_upper(c->parent))
		r = -ENOENT; /* copied up before, and removed since */
	if (r == 0)
		return 0;
	/* Only an orphan may be without a place: it goes to the index alone. */
	if (rvl_node_is_dir(c->node) || !atomic_load(&c->node->is_dead) ||
	    (r != -ESTALE && r != -ENOENT))
		return r;
	rvl_node_put(rvl_take_ptr(c->parent));
	rvl_refstr_put(rvl_take_ptr(c->name));
	return 0;
}

bool rvl_copy_up_is_done(const struct rvl_node *node, unsigned flags)
{
	if (!rvl_node_has_upper(node))
		return false;
	if (!atomic_load(&node->is_metacopy))
		return true;
	if (flags & (RVL_COPY_UP_DATA | RVL_COPY_UP_NO_DATA))
		return false;
	return !(flags & RVL_COPY_UP_RENAME) || atomic_load(&node->has_redirect);
}

/* A metacopy file that cannot stay as it is: it gets its data, or a redirect to them. */
static int complete(struct rvl_node *node, unsigned flags)
{
	if (!(flags & (RVL_COPY_UP_DATA | RVL_COPY_UP_NO_DATA)) && node->ov->config.has_metacopy &&
	    rvl_metacopy_anchor(node) == 0)
		return 0;
	return rvl_metacopy_fetch(node, flags & RVL_COPY_UP_NO_DATA);
}

static bool is_removed_dir(const struct rvl_node *node)
{
	return rvl_node_is_dir(node) && atomic_load(&node->is_dead);
}

/*
 * A directory that was removed while it was open, and was never in upper: one without a name, which
 * a descriptor keeps like one that was removed from there.
 */
static int copy_up_removed(struct rvl_node *node)
{
	struct copy_up c = { .ov = node->ov, .node = node, .temp.fd = -EBADF };
	int r = 0;

	rvl_node_copy_begin(node);
	if (rvl_node_has_upper(node))
		goto done;
	r = rvl_real_get(node, &c.lower);
	if (r == 0)
		r = rvl_path_statx(c.lower.dirfd, c.lower.name, RVL_STATX_MASK, &c.st);
	if (r == 0)
		r = make_temp(&c);
	if (r == 0)
		r = set_attributes(&c);
	if (r == 0)
		r = rvl_dir_keep_attributes(node, c.temp.fd);
	rvl_temp_release_name(&c.temp);
	if (r == 0) {
		node->upper_ino = c.temp.ino;
		rvl_fdcache_put(node->ov->fds, node->id.number, RVL_FD_UPPER_DIR,
				rvl_take_fd(&c.temp.fd));
		atomic_store_explicit(&node->has_upper, true, memory_order_release);
		rvl_fdcache_drop(node->ov->fds, node->id.number, RVL_FD_LOWER);
	}
	rvl_temp_release(&c.temp);
	rvl_real_put(&c.lower);
done:
	rvl_node_copy_end(node);
	return r;
}

/* One object whose parent, if it has one, is in upper. */
static int copy_up_one(struct rvl_node *node, unsigned flags)
{
	struct copy_up c = { .ov = node->ov, .node = node, .flags = flags, .temp.fd = -EBADF };
	bool is_taken = false;
	int r = 0;

	if (is_removed_dir(node))
		return copy_up_removed(node);
	if (!rvl_node_has_upper(node))
		r = find_parent(&c);
	if (r == 0) {
		rvl_node_copy_begin(node);
		if (!rvl_node_has_upper(node))
			r = take_existing(node, &is_taken);
		if (r == 0 && !is_taken && !rvl_node_has_upper(node))
			r = run(&c);
		if (r == 0 && !rvl_copy_up_is_done(node, flags))
			r = complete(node, flags);
		rvl_node_copy_end(node);
	}
	rvl_real_put(&c.lower);
	rvl_node_put(c.parent);
	rvl_refstr_put(c.name);
	return r;
}

static bool has_upper(struct rvl_node *node)
{
	return rvl_node_has_upper(node);
}

/* The directories above, from above: not by recursion, since how deep they lie is up to the layers.
 */
static int copy_up_ancestors(struct rvl_node *node)
{
	struct rvl_chain _cleanup_chain_ chain = {};
	struct rvl_node _cleanup_node_ *parent = NULL;
	const char *name;
	uint64_t number;
	int r = 0;

	rvl_node_get_place(node, &number, &name);
	if (name)
		r = rvl_node_get_dir(node->ov, number, &parent);
	rvl_refstr_put(name);
	if (r == 0 && parent)
		r = rvl_chain_read(parent, has_upper, &chain);
	for (size_t i = chain.n; r == 0 && i > 0; i--)
		r = copy_up_one(chain.v[i - 1], 0);
	/* whoever needs the parent finds out that it is gone */
	return r == -ESTALE || r == -ENOENT ? 0 : r;
}

int rvl_copy_up(struct rvl_node *node, unsigned flags)
{
	int r = -ENOENT;

	if (rvl_copy_up_is_done(node, flags))
		return 0;
	/* Another look-up may give a file with several names another place on the way. */
	for (unsigned i = 0; i < PLACE_RETRIES && (r == -ENOENT || r == -ESTALE); i++) {
		r = rvl_check_writable(node->ov);
		if (r == 0 && !rvl_node_has_upper(node) && !is_removed_dir(node))
			r = copy_up_ancestors(node);
		if (r == 0)
			r = copy_up_one(node, flags);
		if (rvl_node_is_dir(node) || atomic_load(&node->is_dead))
			break;
	}
	return r;
}
