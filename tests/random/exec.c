// SPDX-License-Identifier: GPL-2.0-or-later
/* Runs one operation on both sides, as its user and from its directory, and compares the answers and what it touched. */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The raw calls act on this thread alone; fsuid is what FUSE and the permission checks look at. */
static void become(const struct rnd_user *u)
{
	gid_t group = u->group;

	if (u->uid == 0)
		syscall(SYS_setfsuid, 0); /* first: it gives the capabilities back */
	syscall(SYS_setgroups, 1, &group);
	syscall(SYS_setfsgid, u->gid);
	if (u->uid != 0)
		syscall(SYS_setfsuid, u->uid);
}

static void side_exec(struct side *s, const struct op *o, struct res *r)
{
	if (fchdir(o->base < 0 ? s->root : s->fd[o->base]) < 0) {
		res_set(r, -1);
		return;
	}
	if (o->user)
		become(&rnd_users[o->user]);
	op_classes[o->kind].exec(s, o, r);
	if (o->user)
		become(&rnd_users[0]);
}

/* Operations whose answer through a read-only descriptor is stale in the kernel's overlayfs. */
static bool is_stale_kind(enum op_kind k)
{
	return k == OP_READ || k == OP_PREAD || k == OP_LSEEK || k == OP_SEEKHOLE ||
	       k == OP_MAPREAD || k == OP_MAPHOLD || k == OP_MAPCHECK || k == OP_COPYRANGE;
}

static int compare_results(struct world *w, const struct res *a, const struct res *b)
{
	if (a->ret != b->ret || a->err != b->err)
		return rnd_fail(w, "result", "oracle %ld (%s) %s, mount %ld (%s) %s", a->ret,
				a->err ? strerror(a->err) : "ok", a->head, b->ret,
				b->err ? strerror(b->err) : "ok", b->head);
	if (a->sum != b->sum)
		return rnd_fail(w, "answer", "other data returned: oracle \"%s\", mount \"%s\"",
				a->head, b->head);
	if (b->why[0])
		return rnd_fail(w, "sanity", "mount: %s", b->why);
	if (a->why[0])
		return rnd_fail(w, "oracle", "oracle: %s", a->why);
	return 0;
}

/* The directory of @path, or NULL when it is not to be compared (the shared one changes under us). */
static char *parent_of(const char *path)
{
	size_t len = strlen(path);
	char *p = strdup(path), *slash;

	while (len > 1 && p[len - 1] == '/')
		p[--len] = 0;
	slash = strrchr(p, '/');
	if (!slash)
		strcpy(p, ".");
	else
		*slash = 0;
	if (!*p || !strcmp(p, "../shared")) {
		free(p);
		return NULL;
	}
	return p;
}

static int compare_name(struct world *w, const struct op *o, const char *path)
{
	char *parent;
	int r = compare_path(w, o, path, o->check);

	if (r < 0 || !(o->check & CHECK_PARENT))
		return r;
	parent = parent_of(path);
	if (parent)
		r = compare_path(w, o, parent, o->check & ~(uint32_t)CHECK_DATA);
	free(parent);
	return r;
}

static bool base_is_dir(const struct world *w, const struct op *o)
{
	struct stat st;

	return o->base < 0 || (w->ora.fd[o->base] >= 0 && fstat(w->ora.fd[o->base], &st) == 0 &&
			       S_ISDIR(st.st_mode));
}

static int compare_touched(struct world *w, const struct op *o)
{
	unsigned int touch = op_classes[o->kind].touch;

	if (base_is_dir(w, o)) {
		if ((touch & T_P) && o->p && compare_name(w, o, o->p) < 0)
			return -1;
		if ((touch & T_Q) && o->q && compare_name(w, o, o->q) < 0)
			return -1;
	}
	if ((touch & T_S) && o->slot >= 0 && compare_slot(w, o->slot, o->check) < 0)
		return -1;
	if ((touch & T_S2) && o->slot2 >= 0 && compare_slot(w, o->slot2, o->check) < 0)
		return -1;
	return 0;
}

static void note_rename(struct world *w, const struct op *o)
{
	int base = o->base < 0 ? w->ora.root : w->ora.fd[o->base];
	struct statfs fs;
	struct stat st;

	if (fstatfs(w->ora.root, &fs) < 0 || fs.f_type != XFS_SUPER_MAGIC)
		return;
	if (fstatat(base, o->q, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
		ident_set_loose(st.st_ino, true);
	if (fstatat(base, o->p, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
		ident_set_loose(st.st_ino, true);
}

/* Keeps up what is known about the oracle's objects and the slots. */
static void note(struct world *w, const struct op *o, const struct res *r)
{
	struct stat st;

	if (o->kind == OP_OPEN || o->kind == OP_TMPFILE)
		w->slot_rdonly[o->slot] = (o->flags & O_ACCMODE) == O_RDONLY;
	if (r->ret < 0)
		return;
	if (o->kind == OP_RENAME)
		note_rename(w, o);
	if (o->kind == OP_MAPWRITE && r->ret > 0 && fstat(w->ora.fd[o->slot], &st) == 0)
		ident_set_loose(st.st_ino, true);
	if ((o->kind != OP_UTIMENS && o->kind != OP_FUTIMENS) || (o->flags & (UT_M_OMIT)))
		return;
	if (o->kind == OP_FUTIMENS ?
		    fstat(w->ora.fd[o->slot], &st) == 0 :
		    fstatat(o->base < 0 ? w->ora.root : w->ora.fd[o->base], o->p, &st,
			    o->flags & UT_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0) == 0)
		ident_set_loose(st.st_ino, false);
}

static bool is_fd_change(enum op_kind k)
{
	return k == OP_FCHMOD || k == OP_FCHOWN || k == OP_FUTIMENS || k == OP_FSETXATTR ||
	       k == OP_LINKFD;
}

/* With --kernel: ops after which the sides could not be compared any more. */
static bool is_left_out(const struct world *w, const struct op *o, bool is_stale)
{
	struct stat st;

	if (diff_ok(DIFF_K_UNLINKED_CHANGE) && is_fd_change(o->kind) && o->slot >= 0 &&
	    fstat(w->ora.fd[o->slot], &st) == 0 && st.st_nlink == 0)
		return true;
	switch (o->kind) {
	case OP_COPYRANGE: /* would carry the stale content on */
	case OP_MAPREAD: /* a signal beyond the stale end */
	case OP_MAPHOLD:
		return is_stale;
	case OP_READDIR: /* cannot tell ghosts in a directory that may be read but not searched */
	case OP_READDIRCHG:
		return o->user && diff_ok(DIFF_K_GHOSTS);
	default:
		return false;
	}
}

/* Different answers that one of the documented differences explains, and after which nothing else differs. */
static bool is_excused(const struct op *o, const struct res *a, const struct res *b)
{
	if ((o->kind == OP_RENAME || o->kind == OP_RMDIR) && a->err == EEXIST &&
	    b->err == ENOTEMPTY)
		return diff_ok(DIFF_NOTEMPTY);
	if (o->kind == OP_LISTXATTR && (b->err == ERANGE || o->len == 0))
		return diff_ok(DIFF_K_LIST_SIZE);
	if (o->kind == OP_SETACL && o->mode == 5 && a->err == 0 && b->err == ENODATA)
		return diff_ok(DIFF_K_EMPTY_ACL);
	return false;
}

/* Is it a name in the directory that the threads share? */
static bool is_shared_name(const struct world *w, const struct op *o, const char *path)
{
	char *parent = w->sub[0] && o->base < 0 && path ? parent_of(path) : NULL;
	bool is_shared = w->sub[0] && o->base < 0 && path && !parent;

	free(parent);
	return is_shared;
}

static bool is_symlink(const struct world *w, const struct op *o, const char *path)
{
	struct stat st;

	return fstatat(o->base < 0 ? w->ora.root : w->ora.fd[o->base], path, &st,
		       AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISLNK(st.st_mode);
}

/*
 * Would there be a symlink in the shared directory? What is made through it has a name of its target, which is in that
 * directory too, and not this thread's.
 */
static bool is_shared_symlink(const struct world *w, const struct op *o)
{
	struct stat st;

	switch (o->kind) {
	case OP_SYMLINK:
		return is_shared_name(w, o, o->p);
	case OP_LINK:
		return is_shared_name(w, o, o->q) && is_symlink(w, o, o->p);
	case OP_RENAME:
		return (is_shared_name(w, o, o->q) && is_symlink(w, o, o->p)) ||
		       (is_shared_name(w, o, o->p) && is_symlink(w, o, o->q));
	case OP_LINKFD:
		return is_shared_name(w, o, o->p) && o->slot >= 0 &&
		       fstat(w->ora.fd[o->slot], &st) == 0 && S_ISLNK(st.st_mode);
	default:
		return false;
	}
}

/* Has it no name on the oracle, but one on the mount that a layer hides? */
static bool is_hidden_link(const struct world *w, const struct op *o)
{
	struct stat st;

	return o->kind == OP_LINKFD && o->slot >= 0 && fstat(w->ora.fd[o->slot], &st) == 0 && st.st_nlink == 0 &&
	       ident_bias(st.st_ino) && diff_ok(DIFF_HIDDEN_LINKS);
}

/* Where the oracle's own filesystem is known to answer in another way. */
static bool is_left_out_on_fs(const struct world *w, const struct op *o)
{
	struct statfs fs;
	int fd = o->slot < 0 ? -1 : w->ora.fd[o->slot];

	if (o->kind == OP_SETACL && o->mode == 5 && o->user && fstatfs(w->ora.root, &fs) == 0 &&
	    fs.f_type == TMPFS_MAGIC)
		return diff_ok(DIFF_TMPFS_EMPTY_ACL);
	if (o->kind != OP_FALLOCATE || fd < 0 || fstatfs(w->ora.root, &fs) < 0)
		return false;
	if ((o->flags & FALLOC_FL_ZERO_RANGE) && fs.f_type == TMPFS_MAGIC)
		return diff_ok(DIFF_ZERO_RANGE);
	return fs.f_type == BTRFS_SUPER_MAGIC &&
	       (o->user || fgetxattr(fd, "security.capability", NULL, 0) >= 0) &&
	       diff_ok(DIFF_BTRFS_PUNCH);
}

/* Held for reading while an op is done on one side and not yet on the other; who waits goes first. */
static pthread_rwlock_t half_done = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

void world_settle(void)
{
	pthread_rwlock_wrlock(&half_done);
	pthread_rwlock_unlock(&half_done);
}

/* The mount first: only it may refuse by a documented difference (1), and the oracle is left as it was. */
static int exec_both(struct world *w, const struct op *o, struct res *ret_ora, struct res *ret_mnt)
{
	bool is_refused;

	w->ora.buf = w->mnt.buf = w->buf;
	pthread_rwlock_rdlock(&half_done);
	side_exec(&w->mnt, o, ret_mnt);
	is_refused = o->kind == OP_RENAME && ret_mnt->err == EXDEV && diff_ok(DIFF_K_REDIRECT);
	if (!is_refused)
		side_exec(&w->ora, o, ret_ora);
	pthread_rwlock_unlock(&half_done);
	return is_refused;
}

int world_exec(struct world *w, const struct op *o)
{
	struct res a = { 0 }, b = { 0 };
	struct stat st;
	bool is_stale = o->slot >= 0 && w->slot_rdonly[o->slot] && is_stale_kind(o->kind) &&
			diff_ok(DIFF_K_STALE_FD);

	if (is_left_out_on_fs(w, o) || is_hidden_link(w, o) || is_shared_symlink(w, o))
		return 0;
	if (o->kind == OP_TMPFILE && o->base >= 0 && fstat(w->ora.fd[o->base], &st) == 0 &&
	    st.st_nlink == 0 && diff_ok(DIFF_DEAD_DIR_TMPFILE))
		return 0;
	if (is_left_out(w, o, is_stale))
		return 0;
	if (exec_both(w, o, &a, &b))
		return 0;
	note(w, o, &a);
	if (!is_stale && !is_excused(o, &a, &b) && compare_results(w, &a, &b) < 0)
		return -1;
	return compare_touched(w, o);
}
