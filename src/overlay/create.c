// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Making objects. Where upper has nothing under the name the object is made in place:
 *
 *   1 log CREATE
 *   2 the object at its name (the directory's lock keeps others out), with its owner and mode where
 *     that needs no more steps, else for the server alone
 *   3 default ACL, owner, mode, where they were not right at once
 *   4 stamp: from here on it exists
 *   5 the entry, which is owed: made after the reply (overlay/debt.h)
 *
 * A crash before 4 leaves an object with no stamp: one for the server alone is removed by recovery,
 * one that was right at once is whole but for its number, which it gets when it is met. After 4
 * recovery makes the entry.
 * With userxattr the stamp comes before the mode, which could forbid it, and a stamp without an
 * entry is a half-made object.
 *
 * Where a whiteout has the name, 2 to 4 happen in work/, then 5, then a rename takes the name. So for
 * what cannot be told half made: what inherits an ACL, and a symlink with another owner than the
 * server's new files, or with userxattr.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "index/log.h"
#include "layer/path.h"
#include "overlay/acl.h"
#include "overlay/debt.h"
#include "overlay/prot.h"
#include "overlay/remove.h"
#include "overlay/special.h"
#include "overlay/lookup.h"
#include "overlay/temp.h"

struct creation {
	struct rvl_overlay *ov;
	struct rvl_dir dir;
	const char *name;
	const char *target; /* of a symlink */
	dev_t rdev;
	bool is_user_whiteout;
	bool has_whiteout;
	bool is_hiding; /* lower has something there: a directory must be opaque */
	struct rvl_id id;
	struct rvl_inherited inherited;
	struct rvl_temp temp;
	uint64_t log_id; /* of CREATE */
	bool is_whole; /* CREATE needs no END */
	bool is_owed; /* its entry follows (overlay/debt.h) */
	struct statx st; /* for the reply, of what has its entry owed; stx_mode 0: not read */
};

static void creation_release(struct creation *c)
{
	rvl_inherited_release(&c->inherited);
}
#define _cleanup_creation_ __attribute__((cleanup(creation_release)))

/* The name must be free in the merged view. */
static int check_free(struct creation *c)
{
	struct rvl_upper_name _cleanup_upper_name_ upper = {};
	int r = rvl_upper_look(c->ov, c->dir.fd.fd.fd, c->name, &upper);

	if (r < 0)
		return r;
	c->has_whiteout = upper.is_whiteout;
	return upper.exists || (c->is_hiding && !c->has_whiteout) ? -EEXIST : 0;
}

/* Is its owner the one whom the server's new files get? */
static bool has_servers_owner(const struct creation *c)
{
	return c->inherited.uid == c->ov->uid && c->inherited.gid == c->ov->gid;
}

/*
 * Over a whiteout; and what recovery could not tell half made: where an ACL changes the mode, and a
 * symlink (it has no mode to tell by) that is not whole with its stamp.
 */
static bool is_made_in_work(const struct creation *c)
{
	return c->has_whiteout || c->inherited.access_len ||
	       (S_ISLNK(c->inherited.mode) &&
		(c->ov->stack->xattr.is_user || !has_servers_owner(c)));
}

/*
 * Is its stamp the last step? With userxattr the mode could forbid it; in work/ it is all the same.
 */
static bool is_stamped_last(const struct creation *c)
{
	return !c->ov->stack->xattr.is_user && !is_made_in_work(c);
}

static int make_object(struct creation *c)
{
	switch (c->inherited.mode & S_IFMT) {
	case S_IFREG:
		return rvl_temp_file(&c->temp);
	case S_IFDIR:
		return rvl_temp_dir(&c->temp);
	case S_IFLNK:
		return rvl_temp_symlink(&c->temp, c->target);
	default:
		return rvl_temp_node(&c->temp, c->inherited.mode & S_IFMT, c->rdev);
	}
}

static int set_attributes(struct creation *c)
{
	struct rvl_inherited *in = &c->inherited;
	int r = 0;

	if (c->is_user_whiteout)
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_WHITEOUT, "y", 1);
	if (r == 0 && S_ISDIR(in->mode) && c->is_hiding)
		r = rvl_temp_xattr_set(&c->temp, RVL_XATTR_OPAQUE, "y", 1);
	if (r == 0 && in->access_len)
		r = rvl_xattrat_set(c->temp.dirfd, c->temp.name, "system.posix_acl_access",
				    in->access, in->access_len, 0);
	if (r == 0 && in->def_len)
		r = rvl_xattrat_set(c->temp.dirfd, c->temp.name, "system.posix_acl_default",
				    in->def, in->def_len, 0);
	if (r == 0)
		r = rvl_temp_owner_mode(&c->temp, in->uid, in->gid, in->mode);
	return r;
}

static int make(struct creation *c)
{
	const bool is_stamp_last = is_stamped_last(c);
	int r = make_object(c);

	if (r == 0 && !is_stamp_last)
		r = rvl_temp_stamp(&c->temp, &c->id);
	if (r == 0)
		r = set_attributes(c);
	if (r == 0 && is_stamp_last)
		r = rvl_temp_stamp(&c->temp, &c->id);
	return r;
}

/* One system call makes it as it should be. */
static bool is_made_at_once(const struct creation *c)
{
	const struct rvl_inherited *in = &c->inherited;

	return (S_ISREG(in->mode) || S_ISDIR(in->mode) || S_ISLNK(in->mode)) &&
	       is_stamped_last(c) && !in->access_len && !in->def_len && has_servers_owner(c);
}

/* Into c->st; symlinks, devices and the like have no descriptor. */
static int stat_made(struct creation *c)
{
	const bool has_fd = c->temp.fd >= 0;

	return rvl_path_statx(has_fd ? c->temp.fd : c->temp.dirfd, has_fd ? "" : c->temp.name,
			      RVL_STATX_MASK, &c->st);
}

static int make_at_once(struct creation *c)
{
	const struct rvl_inherited *in = &c->inherited;
	int r;

	/* a symlink has no mode; its owner and inode number are read */
	if (!S_ISLNK(in->mode))
		c->temp.mode = in->mode & 07777;
	r = make_object(c);
	/* upper is mounted with "grpid": before the stamp, with which recovery takes it as it is */
	if (r == 0 && S_ISLNK(in->mode))
		r = rvl_temp_owner_mode(&c->temp, in->uid, in->gid, in->mode);
	if (r == 0)
		r = rvl_temp_stamp(&c->temp, &c->id);
	if (r == 0)
		r = stat_made(c);
	if (r < 0)
		return r;
	c->temp.ino = c->st.stx_ino;
	c->temp.uid = c->st.stx_uid;
	c->temp.gid = c->st.stx_gid;
	if (c->st.stx_uid == in->uid && c->st.stx_gid == in->gid && c->st.stx_mode == in->mode)
		return 0;
	/* upper is mounted with "grpid", or its directory has a default ACL that is not in use */
	r = rvl_temp_owner_mode(&c->temp, in->uid, in->gid, in->mode);
	return r < 0 ? r : stat_made(c);
}

static int make_entry(struct creation *c, int dirfd, const char *name)
{
	struct rvl_entry_directory entry = {};
	struct rvl_overlay *ov = c->ov;

	if (!S_ISDIR(c->inherited.mode))
		return rvl_entry_link(ov->index, dirfd, name, c->id.number);
	entry.path.parent = c->dir.node->id.number;
	snprintf(entry.path.name, sizeof(entry.path.name), "%s", c->name);
	rvl_handle_of(ov, dirfd, name, &entry.upper);
	return rvl_entry_put_directory(ov->index, c->id.number, &entry, false);
}

static int make_in_place(struct creation *c)
{
	int r;

	rvl_temp_begin_at(&c->temp, c->ov, c->dir.fd.fd.fd, c->name);
	r = is_made_at_once(c) ? make_at_once(c) : make(c);
	c->is_owed = is_stamped_last(c);
	/* for the reply, which must not need the entry that is owed */
	if (r == 0 && c->is_owed && !c->st.stx_mode)
		r = stat_made(c);
	if (r == 0 && !c->is_owed)
		r = make_entry(c, c->temp.dirfd, c->temp.name);
	if (r == 0)
		rvl_temp_keep(&c->temp);
	return r;
}

static int make_in_work(struct creation *c)
{
	bool is_dir = S_ISDIR(c->inherited.mode);
	int dirfd = c->dir.fd.fd.fd;
	int r;

	rvl_temp_begin(&c->temp, c->ov);
	r = make(c);
	if (r < 0)
		return r;
	/* The entry first: should the name fail, it is taken back with the temporary. */
	r = make_entry(c, c->temp.dirfd, c->temp.name);
	if (r < 0)
		return r;
	if (!c->has_whiteout)
		r = rvl_temp_publish(&c->temp, dirfd, c->name, RENAME_NOREPLACE);
	else if (!is_dir)
		r = rvl_temp_publish(&c->temp, dirfd, c->name, 0);
	else /* a directory cannot replace the whiteout, which is then the temporary */
		r = rvl_temp_publish(&c->temp, dirfd, c->name, RENAME_EXCHANGE);
	if (r < 0)
		(void)rvl_entry_bury(c->ov->index, c->id.number, false);
	return r;
}

static int make_node(struct creation *c, struct rvl_node **ret)
{
	struct rvl_node *node = rvl_node_new(c->ov, &c->id, c->inherited.mode);
	int r;

	if (!node)
		return -ENOMEM;
	node->upper_ino = c->temp.ino;
	node->is_user_whiteout = c->is_user_whiteout;
	atomic_store(&node->has_upper, true);
	/* nobody can change it before its maker has taken the reply, nor ask for it */
	atomic_store(&node->given_to, 0);
	r = rvl_node_set_place(node, c->dir.node->id.number, c->name);
	if (r < 0) {
		rvl_node_free(node);
		return r;
	}
	rvl_prot_none(node);
	*ret = rvl_node_insert(node);
	/* the descriptor is what the next requests will ask for */
	if (rvl_node_is_dir(node) && c->temp.fd >= 0)
		rvl_fdcache_put(c->ov->fds, c->id.number, RVL_FD_UPPER_DIR,
				rvl_take_fd(&c->temp.fd));
	else if (c->temp.fd >= 0)
		rvl_fdcache_put(c->ov->fds, c->id.number, RVL_FD_WRITE, rvl_take_fd(&c->temp.fd));
	return 0;
}

static void end_log(struct creation *c)
{
	if (c->is_whole)
		rvl_log_drop(c->ov->index->log, c->log_id);
	else
		rvl_log_end(c->ov->index->log, c->log_id);
}

/* All steps on disk. -EEXIST from upper: there is an object, or a whiteout. */
static int create_steps(struct creation *c)
{
	struct rvl_log_record record = { .op = RVL_LOG_CREATE, .number = c->id.number };
	bool is_in_place = !is_made_in_work(c);
	int r;

	c->is_owed = false;
	record.at.parent = c->dir.node->id.number;
	snprintf(record.at.name, sizeof(record.at.name), "%s", c->name);
	if (is_stamped_last(c))
		record.flags |= RVL_LOG_STAMP_LAST;
	if (!is_in_place || is_made_at_once(c))
		record.flags |= RVL_LOG_WHOLE;
	r = rvl_log_begin(c->ov->index->log, &record, &c->log_id);
	if (r < 0)
		return r;
	r = is_in_place ? make_in_place(c) : make_in_work(c);
	rvl_temp_release_name(&c->temp);
	c->is_whole = record.flags & RVL_LOG_WHOLE;
	if (r < 0 || !c->is_owed)
		end_log(c);
	return r;
}

static int create_locked(struct creation *c, const struct rvl_cred *cred, mode_t mode,
			 struct rvl_node **ret)
{
	int r = rvl_lower_has(c->dir.node, c->name);

	c->is_hiding = r > 0;
	/* where lower has nothing, making it tells whether the name is free */
	if (r >= 0)
		r = c->is_hiding ? check_free(c) : 0;
	if (r == 0)
		r = rvl_inherit(&c->dir, cred, mode, &c->inherited);
	if (r == 0)
		r = rvl_number_born(c->ov->index, &c->id);
	if (r == 0)
		r = create_steps(c);
	if (r == -EEXIST && !c->is_hiding) {
		rvl_temp_release(&c->temp);
		r = check_free(c);
		if (r == 0)
			r = create_steps(c);
	}
	if (r < 0)
		return r;
	r = make_node(c, ret);
	if (r == 0 && c->is_owed)
		rvl_debt_add(*ret, c->log_id, c->is_whole);
	else if (c->is_owed && make_entry(c, c->dir.fd.fd.fd, c->name) == 0)
		end_log(c);
	return r;
}

/* The reply for a new node: attributes, and one look-up. No open is counted: the kernel, once told
 * that there is no OPEN, sends no RELEASE for what it created either (fs/fuse/file.c,
 * fuse_file_put). st: of the object, with stx_mode 0 if it is not known. */
static int reply(struct rvl_node *node, const struct statx *st, struct rvl_entry *ret)
{
	int r = 0;

	if (st->stx_mode)
		rvl_node_stat_from(node, st, true, ret);
	else
		r = rvl_node_stat(node, ret);
	if (r < 0)
		return r;
	rvl_node_count_lookup(node);
	return 0;
}

static int create(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		  const char *name, mode_t mode, dev_t rdev, const char *target,
		  struct rvl_node **ret, struct rvl_entry *ret_entry)
{
	struct creation _cleanup_creation_ c = {
		.ov = ov, .name = name, .rdev = rdev, .target = target, .temp.fd = -EBADF
	};
	struct rvl_node _cleanup_node_ *dir = NULL;
	int r = rvl_check_name(name);

	if (S_ISCHR(mode) && rdev == makedev(0, 0)) {
		c.is_user_whiteout = true;
		c.rdev = RVL_USER_WHITEOUT_RDEV;
	}
	if (r == 0)
		r = rvl_check_writable(ov);
	if (r == 0)
		r = rvl_node_get_dir(ov, parent, &dir);
	if (r == 0)
		r = rvl_prot_check(dir, RVL_PROT_IMMUTABLE);
	if (r == 0)
		r = rvl_debts_make_room(ov);
	if (r == 0)
		r = rvl_dir_lock_write(dir, &c.dir);
	if (r == 0)
		r = create_locked(&c, cred, mode, ret);
	rvl_dir_unlock(&c.dir);
	rvl_temp_release(&c.temp);
	if (r == 0 && ret_entry)
		r = reply(*ret, &c.st, ret_entry);
	return r;
}

int rvl_user_whiteout_make(struct rvl_dir *dir, const struct rvl_cred *cred, const char *name,
			   struct rvl_user_whiteout *ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	struct creation _cleanup_creation_ c = { .ov = ov,
						 .dir = *dir,
						 .name = name,
						 .is_user_whiteout = true,
						 .rdev = RVL_USER_WHITEOUT_RDEV,
						 .temp.fd = -EBADF };
	struct rvl_log_record record = { .op = RVL_LOG_CREATE, .flags = RENAME_WHITEOUT };
	int r = rvl_inherit(dir, cred, S_IFCHR, &c.inherited);

	if (r == 0)
		r = rvl_number_born(ov->index, &c.id);
	if (r < 0)
		return r;
	record.number = c.id.number;
	record.at.parent = dir->node->id.number;
	snprintf(record.at.name, sizeof(record.at.name), "%s", name);
	r = rvl_log_begin(ov->index->log, &record, &ret->log_id);
	if (r < 0)
		return r;
	ret->id = c.id;
	/* in the caller's memory: its name lies inside it */
	rvl_temp_begin(&ret->temp, ov);
	c.temp = ret->temp;
	c.temp.name = c.temp.buf;
	r = make(&c);
	if (r == 0)
		r = make_entry(&c, c.temp.dirfd, c.temp.name);
	ret->temp = c.temp;
	ret->temp.name = ret->temp.buf;
	if (r < 0)
		rvl_user_whiteout_drop(ret);
	return r;
}

int rvl_user_whiteout_publish(struct rvl_user_whiteout *whiteout, struct rvl_dir *dir,
			      const char *name)
{
	int r = rvl_temp_publish(&whiteout->temp, dir->fd.fd.fd, name, 0);

	if (r == 0)
		rvl_log_end(dir->node->ov->index->log, whiteout->log_id);
	else
		rvl_temp_release(&whiteout->temp);
	return r;
}

void rvl_user_whiteout_drop(struct rvl_user_whiteout *whiteout)
{
	struct rvl_overlay *ov = whiteout->temp.ov;

	if (!ov)
		return;
	(void)rvl_entry_bury(ov->index, whiteout->id.number, false);
	rvl_temp_release(&whiteout->temp);
	rvl_log_end(ov->index->log, whiteout->log_id);
}

int rvl_overlay_mknod(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		      const char *name, mode_t mode, dev_t rdev, struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;

	if (S_ISDIR(mode) || S_ISLNK(mode))
		return -EINVAL;
	if (!(mode & S_IFMT))
		mode |= S_IFREG;
	return create(ov, cred, parent, name, mode, rdev, NULL, &node, ret);
}

int rvl_overlay_mkdir(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		      const char *name, mode_t mode, struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;

	return create(ov, cred, parent, name, (mode & 07777) | S_IFDIR, 0, NULL, &node, ret);
}

int rvl_overlay_symlink(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
			const char *name, const char *target, struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;

	return create(ov, cred, parent, name, 0777 | S_IFLNK, 0, target, &node, ret);
}

int rvl_overlay_create(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		       const char *name, mode_t mode, struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	int r;

	r = create(ov, cred, parent, name, (mode & 07777) | S_IFREG, 0, NULL, &node, ret);
	if (r == 0)
		rvl_node_count_open(node);
	return r;
}

/* An object with an entry and no name: what an orphan is. The log record keeps it until it is named
 * or closed. */
int rvl_overlay_tmpfile(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
			mode_t mode, struct rvl_entry *ret)
{
	struct creation _cleanup_creation_ c = { .ov = ov, .name = "", .temp.fd = -EBADF };
	struct rvl_node _cleanup_node_ *dir = NULL, _cleanup_node_ *node = NULL;
	struct rvl_log_record record = { .op = RVL_LOG_ORPHAN };
	uint64_t log_id = 0;
	int r = rvl_check_writable(ov);

	if (r == 0)
		r = rvl_node_get_dir(ov, parent, &dir);
	if (r == 0)
		r = rvl_prot_check(dir, RVL_PROT_IMMUTABLE);
	if (r == 0)
		r = rvl_dir_lock_write(dir, &c.dir);
	if (r == 0)
		r = rvl_inherit(&c.dir, cred, (mode & 07777) | S_IFREG, &c.inherited);
	rvl_dir_unlock(&c.dir);
	if (r == 0)
		r = rvl_number_born(ov->index, &c.id);
	if (r < 0)
		return r;
	record.number = c.id.number;
	r = rvl_log_begin(ov->index->log, &record, &log_id);
	if (r < 0)
		return r;
	rvl_temp_begin(&c.temp, ov);
	r = make(&c);
	if (r == 0)
		r = rvl_entry_link(ov->index, c.temp.dirfd, c.temp.name, c.id.number);
	rvl_temp_release_name(&c.temp);
	c.dir.node = dir;
	if (r == 0)
		r = make_node(&c, &node);
	rvl_temp_release(&c.temp);
	if (r < 0) {
		(void)rvl_entry_bury(ov->index, c.id.number, false);
		rvl_log_end(ov->index->log, log_id);
		return r;
	}
	(void)rvl_node_set_place(node, 0, NULL);
	rvl_node_make_orphan(node, log_id);
	r = reply(node, &c.st, ret);
	if (r == 0)
		rvl_node_count_open(node);
	return r;
}
