// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Makes operations: kinds by weight, names mostly of what exists (found by a walk of the oracle), partly free ones, partly
 * blind ones. The result holds all it needs; the same seed on the same trees gives the same ops.
 */
#include "rnd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { WALK_DEPTH_MAX = 20, FREE_DEPTH_MAX = 4 };
enum want { WANT_ANY, WANT_DIR, WANT_FILE };

static const char *const xattr_names[] = { "user.a",
					   "user.b",
					   "user.\xc3\xbc",
					   "user.long-name-of-an-attribute",
					   "trusted.rvl",
					   "security.capability",
					   "user.",
					   "trusted.overlay.x",
					   "user.overlay.opaque",
					   "nonsense.x" };

/* ---- names ---- */

static bool name_append(char *path, const char *name)
{
	size_t len = strlen(path);

	if (len + strlen(name) + 2 > PATH_MAX + 200)
		return false;
	sprintf(path + len, "%s%s", len ? "/" : "", name);
	return true;
}

static const char *pool_name(struct world *w)
{
	uint64_t dice = rng_below(&w->rng, 100); /* long and odd ones less often */

	return rnd_names[dice < 72 ? dice % 4 : dice < 80 ? 4 : dice < 88 ? 5 : dice < 95 ? 6 : 7];
}

/* One step down from @fd to a random entry; returns its type, DT_UNKNOWN if there is none. */
static uint8_t walk_step(struct world *w, int fd, char *path, enum want want, const char *own)
{
	struct name_list l = { 0 };
	uint8_t type = DT_UNKNOWN;
	int dir = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0 || name_list_read(&l, dir, 16384) < 0)
		l.n = 0;
	if (dir >= 0)
		close(dir);
	name_list_sort(&l);
	for (int tries = 0; l.n && tries < (own ? 12 : 4); tries++) {
		struct name_entry *e = &l.v[rng_below(&w->rng, l.n)];

		if (own && strncmp(e->name, own, strlen(own)))
			continue;
		if (want == WANT_DIR && e->type != DT_DIR && tries < 3)
			continue;
		if (want == WANT_DIR && e->type != DT_DIR)
			break;
		if (name_append(path, e->name))
			type = e->type;
		break;
	}
	name_list_free(&l);
	return type;
}

/* Appends a walk to an existing object below @fd (the directory @path); returns the number of steps. */
static int walk(struct world *w, int base, char *path, enum want want, const char *own)
{
	int fd = dup(base), steps = 0;

	while (fd >= 0 && steps < WALK_DEPTH_MAX) {
		size_t before = strlen(path);
		uint8_t type = walk_step(w, fd, path, want, steps ? NULL : own);
		int next;

		if (type == DT_UNKNOWN)
			break;
		steps++;
		if (type != DT_DIR || (want != WANT_FILE && !rng_chance(&w->rng, 65)))
			break;
		next = openat(fd, path + before + (before ? 1 : 0),
			      O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	if (fd >= 0)
		close(fd);
	return steps;
}

static void blind(struct world *w, char *path)
{
	for (uint64_t n = 1 + rng_below(&w->rng, 4); n > 0; n--)
		name_append(path, pool_name(w));
}

/* The shared directory of a run with threads: only names of its own. */
static void shared_path(struct world *w, char *path, enum want want, bool is_free)
{
	char own[32];
	int fd;

	snprintf(own, sizeof(own), "t%d-", w->id);
	strcpy(path, "../shared");
	fd = openat(w->ora.root, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (is_free || fd < 0 || walk(w, fd, path, want, own) == 0)
		sprintf(path + strlen(path), "/t%d-%s", w->id, rnd_names[rng_below(&w->rng, 6)]);
	if (fd >= 0)
		close(fd);
}

static char *path_finish(struct world *w, char *path)
{
	if (!*path)
		strcpy(path, rng_chance(&w->rng, 20) ? "." : pool_name(w));
	if (rng_chance(&w->rng, 1))
		strcat(path, "/");
	return strdup(path);
}

/* @is_free: a name that probably does not exist, in a directory that does. */
static char *gen_path(struct world *w, const struct op *o, enum want want, bool is_free)
{
	int base = o->base < 0 ? w->ora.root : w->ora.fd[o->base];
	uint64_t dice = rng_below(&w->rng, 100);
	char path[PATH_MAX + 512] = "";

	if (w->sub[0] && o->base < 0 && rng_chance(&w->rng, 15)) {
		shared_path(w, path, want, is_free);
		return path_finish(w, path);
	}
	if (dice < 7) {
		blind(w, path);
	} else if (dice < 9) {
		if (rng_chance(&w->rng, 50))
			walk(w, base, path, WANT_DIR, NULL);
		memset(path + strlen(path), 0, 300);
		if (*path)
			strcat(path, "/");
		memset(path + strlen(path), 'y',
		       254 + rng_below(&w->rng, 3)); /* 256 is one too long */
	} else if (is_free != (dice < 20)) {
		if (walk(w, base, path, WANT_DIR, NULL) > FREE_DEPTH_MAX)
			*path = 0;
		name_append(path, pool_name(w));
	} else {
		walk(w, base, path, want, NULL);
	}
	return path_finish(w, path);
}

static char *gen_target(struct world *w)
{
	char buf[PATH_MAX + 512] = "";
	uint64_t dice = rng_below(&w->rng, 100);

	if (dice < 4)
		return strdup("/nonexistent-rvl/x");
	if (dice < 7) {
		memset(buf, 'z', 200 + rng_below(&w->rng, 3894)); /* 4,095 is the longest */
		return strdup(buf);
	}
	if (dice < 8)
		return strdup("");
	name_append(buf, pool_name(w));
	if (dice < 60)
		name_append(buf, pool_name(w));
	return strdup(buf); /* never "..": the target must not leave the tree */
}

/* ---- numbers ---- */

static int64_t gen_len(struct world *w)
{
	uint64_t dice = rng_below(&w->rng, 100);
	uint64_t max = dice < 40 ? 100 : dice < 80 ? 5000 : 70000;

	return dice < 5 ? 0 : 1 + (int64_t)rng_below(&w->rng, max);
}

static int64_t gen_off(struct world *w)
{
	uint64_t dice = rng_below(&w->rng, 100);

	if (dice < 20)
		return 0;
	if (dice < 50)
		return (int64_t)rng_below(&w->rng, 4096);
	if (dice < 75)
		return (int64_t)(4096 * (1 + rng_below(&w->rng, 24)) - 1 + rng_below(&w->rng, 3));
	return (int64_t)rng_below(&w->rng, dice < 98 ? 100000 : 1000000);
}

static uint32_t gen_mode(struct world *w, bool is_dir)
{
	static const uint32_t file[] = {
		0644, 0666, 0600, 0777, 0755, 0444, 0, 04755, 02755, 02644
	};
	static const uint32_t dir[] = { 0755, 0777, 0777, 0777, 01777, 02775, 0700, 0555, 0, 0775 };

	if (rng_chance(&w->rng, 10))
		return (uint32_t)rng_below(&w->rng, 010000);
	return (is_dir ? dir : file)[rng_below(&w->rng, 10)];
}

static int64_t gen_id(struct world *w)
{
	uint64_t dice = rng_below(&w->rng, 5);

	return dice == 0 ? -1 : dice == 1 ? 0 : 1000 + (int64_t)rng_below(&w->rng, 4);
}

/* An open slot, if possible of a regular file that is open for what is wanted. */
static int gen_slot(struct world *w, bool want_read, bool want_write)
{
	int found = (int)rng_below(&w->rng, RND_SLOTS);

	for (int tries = 0; tries < 24; tries++) {
		int slot = (int)rng_below(&w->rng, RND_SLOTS), fd = w->ora.fd[slot], flags;
		struct stat st;

		if (fd < 0)
			continue;
		found = slot;
		flags = fcntl(fd, F_GETFL);
		if (!(flags & O_PATH) && (!want_read || (flags & O_ACCMODE) != O_WRONLY) &&
		    (!want_write || (flags & O_ACCMODE) != O_RDONLY) && fstat(fd, &st) == 0 &&
		    S_ISREG(st.st_mode))
			break;
		if (!want_read && !want_write)
			break;
	}
	return found;
}

static int dir_slot(struct world *w)
{
	for (int tries = 0; tries < 12; tries++) {
		int slot = (int)rng_below(&w->rng, RND_SLOTS);
		struct stat st;

		if (w->ora.fd[slot] >= 0 && fstat(w->ora.fd[slot], &st) == 0 && S_ISDIR(st.st_mode))
			return slot;
	}
	return -1;
}

/* ---- kinds ---- */

static void gen_open(struct world *w, struct op *o)
{
	static const struct {
		uint32_t flag;
		unsigned int percent;
	} bits[] = { { O_CREAT, 45 },  { O_EXCL, 12 },	   { O_TRUNC, 14 },
		     { O_APPEND, 14 }, { O_DIRECTORY, 8 }, { O_NOFOLLOW, 10 },
		     { O_NOATIME, 3 }, { O_PATH, 3 },	   { O_DSYNC, 2 } };

	o->slot = (int)rng_below(&w->rng, RND_SLOTS);
	o->mode = gen_mode(w, false);
	o->flags =
		(uint32_t[]){ O_RDONLY, O_RDONLY, O_RDWR, O_RDWR, O_WRONLY }[rng_below(&w->rng, 5)];
	if (o->kind == OP_TMPFILE) {
		if (rng_chance(&w->rng, 10))
			o->flags |= O_EXCL;
		o->p = gen_path(w, o, WANT_DIR, false);
		return;
	}
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		if (rng_chance(&w->rng, bits[i].percent))
			o->flags |= bits[i].flag;
	if (o->flags & O_DIRECTORY)
		o->flags &=
			~(uint32_t)(rng_chance(&w->rng, 90) ? O_ACCMODE | O_CREAT | O_TRUNC : 0);
	o->p = gen_path(w, o, o->flags & O_DIRECTORY ? WANT_DIR : WANT_FILE,
			(o->flags & O_CREAT) && rng_chance(&w->rng, 60));
}

static void gen_io(struct world *w, struct op *o)
{
	bool is_write = o->kind == OP_WRITE || o->kind == OP_PWRITE || o->kind == OP_FTRUNCATE ||
			o->kind == OP_FALLOCATE || o->kind == OP_MAPWRITE ||
			o->kind == OP_COPYRANGE;
	bool is_free = o->kind == OP_CLOSE || o->kind == OP_FSTAT || o->kind == OP_FCHMOD ||
		       o->kind == OP_FCHOWN;
	struct stat st;

	o->slot = gen_slot(w, !is_free && (!is_write || o->kind == OP_MAPWRITE),
			   is_write && o->kind != OP_COPYRANGE);
	o->seed = rng_next(&w->rng);
	o->off = gen_off(w);
	o->len = gen_len(w);
	switch (o->kind) {
	case OP_WRITE:
		if (w->ora.fd[o->slot] >= 0 && fstat(w->ora.fd[o->slot], &st) == 0 &&
		    st.st_size > 400000)
			o->kind = OP_FTRUNCATE;
		break;
	case OP_FTRUNCATE:
		o->len = gen_off(w);
		break;
	case OP_LSEEK:
		o->flags = (uint32_t)rng_below(&w->rng, 3);
		break;
	case OP_FALLOCATE:
		o->flags = (uint32_t[]){ 0,
					 FALLOC_FL_KEEP_SIZE,
					 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					 FALLOC_FL_ZERO_RANGE,
					 FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
					 FALLOC_FL_PUNCH_HOLE }[rng_below(&w->rng, 6)];
		break;
	case OP_MAPHOLD:
		o->len = RND_FILE_BYTES_MAX;
		o->off = 0;
		break;
	case OP_MAPREAD:
	case OP_MAPWRITE:
		o->off &= ~4095LL;
		break;
	case OP_COPYRANGE:
		o->slot = gen_slot(w, true, false);
		o->slot2 = gen_slot(w, false, true);
		o->off2 = gen_off(w);
		break;
	case OP_FSYNC:
		o->flags = rng_chance(&w->rng, 50);
		break;
	default:
		break;
	}
}

static void gen_times(struct world *w, struct op *o)
{
	for (int i = 0; i < 2; i++) {
		int64_t t = (int64_t)rng_below(&w->rng, 1500000000) -
			    (rng_chance(&w->rng, 3) ? 100000000 : 0);

		*(i ? &o->len : &o->off) = t;
	}
	o->off2 = (int64_t)rng_below(&w->rng, 1000000000);
	o->flags = rng_chance(&w->rng, 60) ? UT_NOFOLLOW : 0;
	if (rng_chance(&w->rng, 40))
		o->flags |= 1u << rng_below(&w->rng, 4);
	if (rng_chance(&w->rng, 10))
		o->flags |= 1u << rng_below(&w->rng, 4);
}

static void gen_xattr(struct world *w, struct op *o)
{
	uint64_t dice = rng_below(&w->rng, 100);

	o->q = strdup(xattr_names[dice < 75 ? dice % 4 :
				  dice < 83 ? 4 :
				  dice < 90 ? 5 :
					      6 + dice % 4]);
	o->seed = rng_next(&w->rng);
	o->len = (int64_t)rng_below(&w->rng, dice % 10 ? 120 : 300);
	if (o->kind == OP_GETXATTR)
		o->len = dice % 3 ? 4096 : (int64_t)rng_below(&w->rng, 100);
	if (o->kind == OP_LISTXATTR)
		o->len = dice % 3 ? 4096 : (int64_t)rng_below(&w->rng, 40);
	if (o->kind == OP_SETXATTR || o->kind == OP_FSETXATTR)
		o->flags = rng_chance(&w->rng, 70) ? 0 : 1 + (uint32_t)rng_below(&w->rng, 3);
	if (o->kind == OP_SETACL || o->kind == OP_GETACL) {
		free(o->q);
		o->q = strdup(rng_chance(&w->rng, 50) ? "system.posix_acl_access" :
							"system.posix_acl_default");
		o->mode = (uint32_t)rng_below(&w->rng, ACL_VARIANTS);
		o->len = 4096;
	}
}

static void gen_names(struct world *w, struct op *o)
{
	static const struct {
		uint32_t mode, dev;
	} nodes[] = { { S_IFIFO, 0 },
		      { S_IFSOCK, 0 },
		      { S_IFCHR, 0x103 },
		      { S_IFCHR, 0x105 },
		      { S_IFBLK, 120 << 8 | 7 },
		      { S_IFREG, 0 },
		      { S_IFCHR, 240 << 8 | 9 },
		      { S_IFDIR, 0 } };
	size_t i = rng_below(&w->rng, 8);
	uint64_t dice = rng_below(&w->rng, 100);

	switch (o->kind) {
	case OP_MKNOD:
		o->mode = nodes[i].mode | (gen_mode(w, false) & 07777);
		o->flags = nodes[i].dev;
		break;
	case OP_SYMLINK:
		o->q = gen_target(w);
		break;
	case OP_READLINK:
		o->len = rng_chance(&w->rng, 80) ? 0 : 1 + (int64_t)rng_below(&w->rng, 8);
		break;
	case OP_LINK:
		o->q = gen_path(w, o, WANT_ANY, true);
		o->flags = rng_chance(&w->rng, 10) ? AT_SYMLINK_FOLLOW : 0;
		break;
	case OP_RENAME:
		o->q = gen_path(w, o, WANT_ANY, dice < 50);
		o->flags = dice % 10 == 0 ? 1 : dice % 10 < 3 ? 2 : dice == 57 ? 3 : 0;
		if (dice == 41) { /* into its own subtree */
			free(o->q);
			if (asprintf(&o->q, "%s/%s", o->p, pool_name(w)) < 0)
				abort();
		}
		break;
	default:
		break;
	}
}

static void gen_paths(struct world *w, struct op *o)
{
	bool is_free = o->kind == OP_MKDIR || o->kind == OP_SYMLINK || o->kind == OP_MKNOD ||
		       o->kind == OP_LINKFD || (o->kind == OP_PUT && rng_chance(&w->rng, 60));
	enum want want = o->kind == OP_RMDIR || o->kind == OP_READDIR || o->kind == OP_READDIRCHG ||
					 o->kind == OP_RMTREE ?
				 WANT_DIR :
			 o->kind == OP_UNLINK || o->kind == OP_TRUNCATE ? WANT_FILE :
									  WANT_ANY;

	o->p = gen_path(w, o, want, is_free);
	o->mode = gen_mode(w, o->kind == OP_MKDIR);
	switch (o->kind) {
	case OP_LINKFD:
		o->slot = gen_slot(w, false, false);
		break;
	case OP_PUT:
		o->len = gen_len(w);
		o->seed = rng_next(&w->rng);
		break;
	case OP_TRUNCATE:
		o->len = gen_off(w);
		break;
	case OP_READDIR:
	case OP_READDIRCHG:
		o->len = rng_chance(&w->rng, 60) ? 320 : 32768;
		o->off = (int64_t)rng_below(&w->rng, 8);
		o->flags = 1 + (uint32_t)rng_below(&w->rng, 4);
		o->seed = rng_below(&w->rng, 5);
		break;
	case OP_CHOWN:
		o->off = gen_id(w);
		o->len = gen_id(w);
		o->flags = rng_chance(&w->rng, 50) ? AT_SYMLINK_NOFOLLOW : 0;
		break;
	case OP_ACCESS:
		o->mode = (uint32_t)rng_below(&w->rng, 8);
		break;
	default:
		gen_names(w, o);
	}
}

static enum op_kind gen_kind(struct world *w)
{
	unsigned int total = 0, boost = w->objects > RND_TREE_SOFT_MAX ? 15 : 0;
	uint64_t dice;

	for (int i = 0; i < OP_KINDS; i++)
		total += cfg.is_without[i] ? 0 : op_classes[i].weight;
	dice = rng_below(&w->rng, total + boost);
	for (int i = 0; i < OP_KINDS; i++) {
		if (cfg.is_without[i])
			continue;
		if (dice < op_classes[i].weight)
			return (enum op_kind)i;
		dice -= op_classes[i].weight;
	}
	return OP_RMTREE;
}

static uint32_t gen_check(struct world *w, enum op_kind kind)
{
	uint32_t check = (rng_chance(&w->rng, 20) ? CHECK_XATTR : 0) |
			 (rng_chance(&w->rng, 40) ? CHECK_DATA : 0) |
			 (rng_chance(&w->rng, 30) ? CHECK_PARENT : 0);

	if (kind >= OP_CHMOD && kind <= OP_GETACL)
		check |= CHECK_XATTR;
	return check;
}

void world_gen(struct world *w, struct op *ret_op)
{
	struct op *o = ret_op;

	op_init(o);
	o->kind = gen_kind(w);
	o->check = gen_check(w, o->kind);
	if (rng_chance(&w->rng, 15) && o->kind != OP_RMTREE && !cfg.is_without_users)
		o->user = 1 + (int)rng_below(&w->rng, RND_USERS - 1);
	if (o->kind != OP_RMTREE && (op_classes[o->kind].touch & T_P) && rng_chance(&w->rng, 8))
		o->base = dir_slot(w);
	switch (o->kind) {
	case OP_OPEN:
	case OP_TMPFILE:
		gen_open(w, o);
		break;
	case OP_UMASK:
		o->mode = (uint32_t[]){ 022, 022, 0, 077, 027, 0777 }[rng_below(&w->rng, 6)];
		break;
	case OP_FCHMOD:
	case OP_FCHOWN:
		gen_io(w, o);
		o->mode = gen_mode(w, false);
		o->off = gen_id(w);
		o->len = gen_id(w);
		break;
	case OP_FUTIMENS:
	case OP_FSETXATTR:
		o->slot = gen_slot(w, false, false);
		if (o->kind == OP_FUTIMENS)
			gen_times(w, o);
		else
			gen_xattr(w, o);
		break;
	default:
		if (op_classes[o->kind].touch & T_S && o->kind != OP_LINKFD)
			gen_io(w, o);
		else
			gen_paths(w, o);
	}
	if (o->kind == OP_UTIMENS)
		gen_times(w, o);
	if (o->kind >= OP_SETXATTR && o->kind <= OP_GETACL && o->kind != OP_FSETXATTR)
		gen_xattr(w, o);
}
