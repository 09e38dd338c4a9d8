// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The table of operations and their two text forms: one for people (op_print), one to be read back (op_write,
 * op_parse): a line "kind key=value …" in which absent keys are zero, and lists of such lines with a head line.
 */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif

const struct op_class op_classes[OP_KINDS] = {
	[OP_OPEN] = { "open", 110, exec_open, T_P | T_S, "fd%s = open(%p, %f, %m)" },
	[OP_TMPFILE] = { "tmpfile", 10, exec_tmpfile, T_P | T_S,
			 "fd%s = open(%p, O_TMPFILE|%f, %m)" },
	[OP_LINKFD] = { "linkfd", 14, exec_linkfd, T_P | T_S,
			"linkat(\"/proc/self/fd/fd%s\", %p, AT_SYMLINK_FOLLOW)" },
	[OP_CLOSE] = { "close", 50, exec_close, T_S, "close(fd%s)" },
	[OP_PUT] = { "put", 60, exec_put, T_P,
		     "write %l bytes (seed %d) to %p, opened with O_CREAT|O_TRUNC, %m" },
	[OP_READ] = { "read", 30, exec_read, T_S, "read(fd%s, %l)" },
	[OP_PREAD] = { "pread", 40, exec_read, T_S, "pread(fd%s, %l, @%o)" },
	[OP_WRITE] = { "write", 40, exec_write, T_S, "write(fd%s, %l, seed %d)" },
	[OP_PWRITE] = { "pwrite", 40, exec_write, T_S, "pwrite(fd%s, %l, @%o, seed %d)" },
	[OP_LSEEK] = { "lseek", 15, exec_lseek, T_S, "lseek(fd%s, %o, whence %f)" },
	[OP_SEEKHOLE] = { "seekhole", 10, exec_seekhole, T_S,
			  "lseek(fd%s, %o, SEEK_DATA and SEEK_HOLE)" },
	[OP_FTRUNCATE] = { "ftruncate", 20, exec_truncate, T_S, "ftruncate(fd%s, %l)" },
	[OP_TRUNCATE] = { "truncate", 20, exec_truncate, T_P, "truncate(%p, %l)" },
	[OP_FALLOCATE] = { "fallocate", 20, exec_fallocate, T_S, "fallocate(fd%s, %f, @%o, %l)" },
	[OP_MAPWRITE] = { "mapwrite", 20, exec_map, T_S,
			  "mmap(fd%s, %l, @%o), store (seed %d), msync, munmap" },
	[OP_MAPREAD] = { "mapread", 15, exec_map, T_S, "mmap(fd%s, %l, @%o), load, munmap" },
	[OP_MAPHOLD] = { "maphold", 8, exec_map, T_S, "map%s = mmap(fd%s, MAP_SHARED)" },
	[OP_MAPCHECK] = { "mapcheck", 20, exec_mapcheck, T_S, "load from map%s" },
	[OP_COPYRANGE] = { "copyrange", 15, exec_copyrange, T_S | T_S2,
			   "copy_file_range(fd%s @%o, fd%t @%O, %l)" },
	[OP_FSYNC] = { "fsync", 6, exec_fsync, T_S, "fsync(fd%s)" },
	[OP_FSTAT] = { "fstat", 20, exec_fstat, T_S, "fstat(fd%s)" },
	[OP_MKDIR] = { "mkdir", 55, exec_names, T_P, "mkdir(%p, %m)" },
	[OP_RMDIR] = { "rmdir", 35, exec_names, T_P, "rmdir(%p)" },
	[OP_UNLINK] = { "unlink", 60, exec_names, T_P, "unlink(%p)" },
	[OP_SYMLINK] = { "symlink", 25, exec_names, T_P, "symlink(%q, %p)" },
	[OP_READLINK] = { "readlink", 15, exec_names, T_P, "readlink(%p)" },
	[OP_LINK] = { "link", 45, exec_names, T_P | T_Q, "linkat(%p, %q, %f)" },
	[OP_RENAME] = { "rename", 130, exec_names, T_P | T_Q, "renameat2(%p, %q, %f)" },
	[OP_MKNOD] = { "mknod", 15, exec_names, T_P, "mknod(%p, %m, dev %f)" },
	[OP_RMTREE] = { "rmtree", 3, exec_rmtree, T_P, "rm -r %p" },
	[OP_READDIR] = { "readdir", 30, exec_readdir, T_P,
			 "readdir(%p) by %l bytes, again from the %oth" },
	[OP_READDIRCHG] = { "readdirchg", 8, exec_readdirchg, T_P,
			    "readdir(%p) by %l bytes, %f names changed on the way" },
	[OP_CHMOD] = { "chmod", 35, exec_mode, T_P, "chmod(%p, %m)" },
	[OP_FCHMOD] = { "fchmod", 12, exec_mode, T_S, "fchmod(fd%s, %m)" },
	[OP_CHOWN] = { "chown", 25, exec_mode, T_P, "fchownat(%p, %o, %l, %f)" },
	[OP_FCHOWN] = { "fchown", 8, exec_mode, T_S, "fchown(fd%s, %o, %l)" },
	[OP_UTIMENS] = { "utimens", 25, exec_utimens, T_P,
			 "utimensat(%p, atime %o, mtime %l, ns %O, %f)" },
	[OP_FUTIMENS] = { "futimens", 10, exec_utimens, T_S,
			  "futimens(fd%s, atime %o, mtime %l, ns %O, %f)" },
	[OP_SETXATTR] = { "setxattr", 25, exec_xattr, T_P,
			  "lsetxattr(%p, %q, %l bytes of seed %d, %f)" },
	[OP_GETXATTR] = { "getxattr", 12, exec_xattr, T_P, "lgetxattr(%p, %q, %l)" },
	[OP_LISTXATTR] = { "listxattr", 8, exec_xattr, T_P, "llistxattr(%p, %l)" },
	[OP_REMOVEXATTR] = { "removexattr", 12, exec_xattr, T_P, "lremovexattr(%p, %q)" },
	[OP_FSETXATTR] = { "fsetxattr", 8, exec_xattr, T_S,
			   "fsetxattr(fd%s, %q, %l bytes of seed %d, %f)" },
	[OP_SETACL] = { "setacl", 15, exec_xattr, T_P,
			"setxattr(%p, %q, ACL variant %m of seed %d)" },
	[OP_GETACL] = { "getacl", 6, exec_xattr, T_P, "getxattr(%p, %q)" },
	[OP_ACCESS] = { "access", 15, exec_look, T_P, "faccessat(%p, %m)" },
	[OP_STAT] = { "stat", 20, exec_look, T_P, "stat(%p)" },
	[OP_STATFS] = { "statfs", 3, exec_look, T_P, "statfs(%p)" },
	[OP_UMASK] = { "umask", 5, exec_mode, 0, "umask(%m)" },
	[OP_DROP] = { "drop", 0, NULL, 0, "drop caches" },
	[OP_CHECK] = { "check", 0, NULL, 0, "compare the whole tree" },
	[OP_REMOUNT] = { "remount", 0, NULL, 0, "close all, remount, compare the whole tree" },
};

static const struct {
	uint32_t bit;
	const char *name;
} open_names[] = {
	{ O_CREAT, "O_CREAT" },	    { O_EXCL, "O_EXCL" },	    { O_TRUNC, "O_TRUNC" },
	{ O_APPEND, "O_APPEND" },   { O_DIRECTORY, "O_DIRECTORY" }, { O_NOFOLLOW, "O_NOFOLLOW" },
	{ O_NOATIME, "O_NOATIME" }, { O_PATH, "O_PATH" },	    { O_DSYNC, "O_DSYNC" },
};

void op_init(struct op *o)
{
	*o = (struct op){ .base = -1, .slot = -1, .slot2 = -1, .check = CHECK_ALL };
}

void op_release(struct op *o)
{
	free(o->p);
	free(o->q);
	op_init(o);
}

static void print_bits(FILE *f, uint32_t v, const char *const *names)
{
	bool any = false;

	for (int i = 0; names[i]; i++) {
		if (v & (1u << i)) {
			fprintf(f, "%s%s", any ? "|" : "", names[i]);
			any = true;
		}
	}
	if (!any)
		fputc('0', f);
}

static void print_flags(FILE *f, const struct op *o)
{
	static const char *const acc[] = { "O_RDONLY", "O_WRONLY", "O_RDWR", "3" };

	switch (o->kind) {
	case OP_OPEN:
	case OP_TMPFILE:
		fputs(acc[o->flags & O_ACCMODE], f);
		for (size_t i = 0; i < sizeof(open_names) / sizeof(open_names[0]); i++)
			if (o->flags & open_names[i].bit)
				fprintf(f, "|%s", open_names[i].name);
		break;
	case OP_RENAME:
		print_bits(f, o->flags,
			   (const char *const[]){ "RENAME_NOREPLACE", "RENAME_EXCHANGE", NULL });
		break;
	case OP_FALLOCATE:
		print_bits(f, o->flags,
			   (const char *const[]){ "KEEP_SIZE", "PUNCH_HOLE", "4", "COLLAPSE",
						  "ZERO_RANGE", NULL });
		break;
	case OP_UTIMENS:
	case OP_FUTIMENS:
		print_bits(f, o->flags,
			   (const char *const[]){ "ATIME_NOW", "ATIME_OMIT", "MTIME_NOW",
						  "MTIME_OMIT", "NOFOLLOW", NULL });
		break;
	case OP_SETXATTR:
	case OP_FSETXATTR:
		print_bits(f, o->flags,
			   (const char *const[]){ "XATTR_CREATE", "XATTR_REPLACE", NULL });
		break;
	case OP_MKNOD:
		fprintf(f, "%u:%u", o->flags >> 8, o->flags & 255);
		break;
	default:
		fprintf(f, "%#x", o->flags);
	}
}

void op_print(FILE *f, const struct op *o)
{
	if (o->user)
		fprintf(f, "[uid %u] ", rnd_users[o->user].uid);
	if (o->base >= 0)
		fprintf(f, "[in fd%d] ", o->base);
	for (const char *c = op_classes[o->kind].format; *c; c++) {
		if (*c != '%') {
			fputc(*c, f);
			continue;
		}
		switch (*++c) {
		case 'p':
			text_escape(f, o->p ? o->p : "", true);
			break;
		case 'q':
			text_escape(f, o->q ? o->q : "", true);
			break;
		case 's':
			fprintf(f, "%d", o->slot);
			break;
		case 't':
			fprintf(f, "%d", o->slot2);
			break;
		case 'f':
			print_flags(f, o);
			break;
		case 'm':
			fprintf(f, "%#o", o->mode);
			break;
		case 'o':
			fprintf(f, "%lld", (long long)o->off);
			break;
		case 'l':
			fprintf(f, "%lld", (long long)o->len);
			break;
		case 'O':
			fprintf(f, "%lld", (long long)o->off2);
			break;
		case 'd':
			fprintf(f, "%llx", (unsigned long long)o->seed);
			break;
		}
	}
}

static void write_num(FILE *f, char key, int64_t v, int64_t absent)
{
	if (v != absent)
		fprintf(f, " %c=%lld", key, (long long)v);
}

void op_write(FILE *f, const struct op *o)
{
	fputs(op_classes[o->kind].name, f);
	write_num(f, 'u', o->user, 0);
	write_num(f, 'b', o->base, -1);
	write_num(f, 's', o->slot, -1);
	write_num(f, 't', o->slot2, -1);
	write_num(f, 'f', o->flags, 0);
	write_num(f, 'm', o->mode, 0);
	write_num(f, 'o', o->off, 0);
	write_num(f, 'l', o->len, 0);
	write_num(f, 'O', o->off2, 0);
	write_num(f, 'd', (int64_t)o->seed, 0);
	write_num(f, 'c', o->check, CHECK_ALL);
	if (o->p) {
		fputs(" p=", f);
		text_escape(f, o->p, false);
	}
	if (o->q) {
		fputs(" q=", f);
		text_escape(f, o->q, false);
	}
	fputc('\n', f);
}

static int parse_key(struct op *o, char key, const char *s, const char **ret_end)
{
	long long v;

	if (key == 'p' || key == 'q') {
		char **p = key == 'p' ? &o->p : &o->q;

		free(*p);
		*p = text_unescape(s, ret_end);
		return *p ? 0 : -EINVAL;
	}
	v = strtoll(s, (char **)ret_end, 0);
	if (*ret_end == s)
		return -EINVAL;
	switch (key) {
	case 'u':
		o->user = v >= 0 && v < RND_USERS ? (int)v : 0;
		break;
	case 'b':
		o->base = v < RND_SLOTS ? (int)v : -1;
		break;
	case 's':
		o->slot = v < RND_SLOTS ? (int)v : -1;
		break;
	case 't':
		o->slot2 = v < RND_SLOTS ? (int)v : -1;
		break;
	case 'f':
		o->flags = (uint32_t)v;
		break;
	case 'm':
		o->mode = (uint32_t)v;
		break;
	case 'o':
		o->off = v;
		break;
	case 'l':
		o->len = v;
		break;
	case 'O':
		o->off2 = v;
		break;
	case 'd':
		o->seed = (uint64_t)v;
		break;
	case 'c':
		o->check = (uint32_t)v;
		break;
	default:
		return -EINVAL;
	}
	return 0;
}

int op_parse(const char *line, struct op *ret_op)
{
	size_t len = strcspn(line, " \n");
	struct op o;

	op_init(&o);
	for (o.kind = 0; o.kind < OP_KINDS; o.kind++)
		if (strlen(op_classes[o.kind].name) == len &&
		    !memcmp(op_classes[o.kind].name, line, len))
			break;
	if (o.kind == OP_KINDS)
		return -EINVAL;
	for (const char *s = line + len; *s == ' ';) {
		if (!s[1] || s[2] != '=' || parse_key(&o, s[1], s + 3, &s) < 0) {
			op_release(&o);
			return -EINVAL;
		}
	}
	*ret_op = o;
	return 0;
}

int op_list_read(struct op_list *l, const char *path)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t cap = 0;
	int r = 0;

	*l = (struct op_list){ 0 };
	if (!f)
		return -errno;
	while (getline(&line, &cap, f) > 0) {
		if (sscanf(line, "# sub %63s", l->sub) == 1 || line[0] == '#' || line[0] == '\n')
			continue;
		if (l->n == l->cap) {
			struct op *v = reallocarray(l->v, l->cap * 2 + 64, sizeof(*v));

			if (!v) {
				r = -ENOMEM;
				break;
			}
			l->v = v;
			l->cap = l->cap * 2 + 64;
		}
		r = op_parse(line, &l->v[l->n]);
		if (r < 0) {
			fprintf(stderr, "%s: line not understood: %s", path, line);
			break;
		}
		l->n++;
	}
	free(line);
	fclose(f);
	return r;
}

int op_list_write(const struct op_list *l, const char *path)
{
	FILE *f = fopen(path, "we");

	if (!f)
		return -errno;
	if (l->sub[0])
		fprintf(f, "# sub %s\n", l->sub);
	for (size_t i = 0; i < l->n; i++)
		op_write(f, &l->v[i]);
	return fclose(f) ? -errno : 0;
}

void op_list_print(FILE *f, const struct op_list *l)
{
	if (l->sub[0])
		fprintf(f, "  (in %s)\n", l->sub);
	for (size_t i = 0; i < l->n; i++) {
		fprintf(f, "  %3zu  ", i + 1);
		op_print(f, &l->v[i]);
		fputc('\n', f);
	}
}

void op_list_release(struct op_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		op_release(&l->v[i]);
	free(l->v);
	*l = (struct op_list){ 0 };
}
