// SPDX-License-Identifier: GPL-2.0-or-later
/* Operations on attributes, extended attributes and ACLs: what each does on one side. */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static int slot_fd(const struct side *s, int slot)
{
	return slot >= 0 && slot < RND_SLOTS ? s->fd[slot] : -1;
}

/* DIFF_SETID_CAPABILITY: a file gets setuid or setgid, or a capability, never both. */
static mode_t mode_without_setid(const struct side *s, const struct op *o)
{
	bool is_capable = o->kind == OP_CHMOD ?
				  getxattr(o->p, "security.capability", NULL, 0) >= 0 :
				  fgetxattr(slot_fd(s, o->slot), "security.capability", NULL, 0) >= 0;

	return is_capable && diff_ok(DIFF_SETID_CAPABILITY) ? o->mode & 01777 : o->mode;
}

static bool is_capability_on_setid(const struct side *s, const struct op *o)
{
	struct stat st;
	int r;

	if (o->kind == OP_SETACL || strcmp(o->q, "security.capability") != 0)
		return false;
	r = o->kind == OP_SETXATTR ? lstat(o->p, &st) : fstat(slot_fd(s, o->slot), &st);
	return r == 0 && st.st_mode & 06000 && diff_ok(DIFF_SETID_CAPABILITY);
}

/* DIFF_SETID_CHOWN: who owns the file may change in another thread, so no user but root asks for nothing. */
static gid_t chown_group(const struct op *o)
{
	bool is_nothing = o->off == -1 && o->len == -1;

	return is_nothing && rnd_users[o->user].uid && diff_ok(DIFF_SETID_CHOWN) ?
		       rnd_users[o->user].gid :
		       (gid_t)o->len;
}

void exec_mode(struct side *s, const struct op *o, struct res *r)
{
	switch (o->kind) {
	case OP_CHMOD:
		res_set(r, chmod(o->p, mode_without_setid(s, o)));
		break;
	case OP_FCHMOD:
		res_set(r, fchmod(slot_fd(s, o->slot), mode_without_setid(s, o)));
		break;
	case OP_CHOWN:
		res_set(r, fchownat(AT_FDCWD, o->p, (uid_t)o->off, chown_group(o), (int)o->flags));
		break;
	case OP_FCHOWN:
		res_set(r, fchown(slot_fd(s, o->slot), (uid_t)o->off, chown_group(o)));
		break;
	case OP_UMASK:
		umask(o->mode); /* of this thread: it has its own fs_struct */
		break;
	default:
		break;
	}
}

static void res_time(struct res *r, const struct timespec *t)
{
	size_t len = strlen(r->head);

	r->sum = data_hash(r->sum, t, sizeof(*t));
	snprintf(r->head + len, sizeof(r->head) - len, " %lld.%09ld", (long long)t->tv_sec,
		 t->tv_nsec);
}

void exec_utimens(struct side *s, const struct op *o, struct res *r)
{
	struct timespec ts[2] = { { o->off, o->off2 }, { o->len, o->off2 } };

	if (o->flags & (UT_A_NOW | UT_A_OMIT))
		ts[0].tv_nsec = o->flags & UT_A_NOW ? UTIME_NOW : UTIME_OMIT;
	if (o->flags & (UT_M_NOW | UT_M_OMIT))
		ts[1].tv_nsec = o->flags & UT_M_NOW ? UTIME_NOW : UTIME_OMIT;
	int at = o->flags & UT_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0, fd = slot_fd(s, o->slot), got;
	struct stat st;

	if (o->kind == OP_UTIMENS)
		res_set(r, utimensat(AT_FDCWD, o->p, ts, at));
	else
		res_set(r, fd < 0 ? (errno = EBADF, -1) : futimens(fd, ts));
	if (r->ret < 0)
		return;
	/* What was set explicitly must be there at once; atime is compared nowhere else. */
	got = o->kind == OP_UTIMENS ? fstatat(AT_FDCWD, o->p, &st, at) : fstat(fd, &st);
	if (got == 0 && !(o->flags & (UT_A_NOW | UT_A_OMIT)))
		res_time(r, &st.st_atim);
	if (got == 0 && !(o->flags & (UT_M_NOW | UT_M_OMIT)))
		res_time(r, &st.st_mtim);
}

/* A file capability, valid or cut short. */
static size_t cap_fill(uint8_t *buf, int64_t len)
{
	static const uint32_t cap[5] = { 0x02000001, 0x2400, 0, 0, 0 };

	memcpy(buf, cap, sizeof(cap));
	return len % 5 ? sizeof(cap) : 12;
}

static size_t value_fill(uint8_t *buf, const struct op *o)
{
	if (o->kind == OP_SETACL)
		return acl_fill(buf, o->seed, o->mode);
	if (!strcmp(o->q, "security.capability"))
		return cap_fill(buf, o->len);
	data_fill(buf, (size_t)o->len, o->seed);
	return (size_t)o->len;
}

static void exec_get(struct side *s, const struct op *o, struct res *r)
{
	ssize_t n = o->kind == OP_GETACL ? getxattr(o->p, o->q, s->buf, 4096) :
					   lgetxattr(o->p, o->q, s->buf, (size_t)o->len);

	res_set(r, n);
	if (n > 0 && o->len > 0)
		res_data(r, s->buf, (size_t)n);
}

void exec_xattr(struct side *s, const struct op *o, struct res *r)
{
	size_t n;

	switch (o->kind) {
	case OP_SETXATTR:
	case OP_SETACL:
	case OP_FSETXATTR:
		if (is_capability_on_setid(s, o))
			break;
		n = value_fill(s->buf, o);
		if (o->kind == OP_SETXATTR)
			res_set(r, lsetxattr(o->p, o->q, s->buf, n, (int)o->flags));
		else if (o->kind == OP_SETACL)
			res_set(r, setxattr(o->p, o->q, s->buf, n, 0));
		else
			res_set(r, fsetxattr(slot_fd(s, o->slot), o->q, s->buf, n, (int)o->flags));
		break;
	case OP_GETXATTR:
	case OP_GETACL:
		exec_get(s, o, r);
		break;
	case OP_LISTXATTR: /* the order of names is free; the sizes and errors are compared, names by compare.c */
		res_set(r, llistxattr(o->p, (char *)s->buf, (size_t)o->len));
		break;
	case OP_REMOVEXATTR:
		res_set(r, lremovexattr(o->p, o->q));
		break;
	default:
		break;
	}
}

static void exec_statfs(const struct op *o, struct res *r)
{
	struct statfs fs;

	res_set(r, statfs(o->p, &fs));
	if (r->ret < 0)
		return;
	if (fs.f_bsize <= 0 || fs.f_namelen < 255 || fs.f_bfree > fs.f_blocks ||
	    fs.f_bavail > fs.f_bfree || fs.f_blocks == 0 || fs.f_ffree > fs.f_files)
		snprintf(r->why, sizeof(r->why),
			 "statfs makes no sense: bsize %ld namelen %ld blocks %llu free %llu",
			 (long)fs.f_bsize, (long)fs.f_namelen, (unsigned long long)fs.f_blocks,
			 (unsigned long long)fs.f_bfree);
}

void exec_look(struct side *s, const struct op *o, struct res *r)
{
	struct stat st;

	(void)s;
	switch (o->kind) {
	case OP_ACCESS: /* with the effective user: setfsuid() sets the one that counts for opens only */
		res_set(r, faccessat(AT_FDCWD, o->p, (int)o->mode, AT_EACCESS));
		break;
	case OP_STAT:
		res_set(r, stat(o->p, &st));
		if (r->ret == 0) {
			const uint64_t v[] = { diff_mode(st.st_mode), st.st_uid, st.st_gid,
					       S_ISDIR(st.st_mode) ? 0 : (uint64_t)st.st_size };

			r->sum = data_hash(0, v, sizeof(v));
			snprintf(r->head, sizeof(r->head), "%o %u:%u %lld", st.st_mode, st.st_uid,
				 st.st_gid, (long long)st.st_size);
		}
		break;
	case OP_STATFS:
		exec_statfs(o, r);
		break;
	default:
		break;
	}
}
