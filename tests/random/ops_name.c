// SPDX-License-Identifier: GPL-2.0-or-later
/* Operations on names and directories: what each does on one side. */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void exec_readlink(const struct op *o, struct res *r)
{
	char buf[PATH_MAX];
	size_t len = o->len > 0 && o->len < PATH_MAX ? (size_t)o->len : sizeof(buf);
	ssize_t n = readlink(o->p, buf, len);

	res_set(r, n);
	if (n > 0)
		res_data(r, buf, (size_t)n);
}

void exec_names(struct side *s, const struct op *o, struct res *r)
{
	(void)s;
	switch (o->kind) {
	case OP_MKDIR:
		res_set(r, mkdir(o->p, o->mode));
		break;
	case OP_RMDIR:
		res_set(r, rmdir(o->p));
		break;
	case OP_UNLINK:
		res_set(r, unlink(o->p));
		break;
	case OP_SYMLINK:
		res_set(r, symlink(o->q, o->p));
		break;
	case OP_READLINK:
		exec_readlink(o, r);
		break;
	case OP_LINK:
		res_set(r, linkat(AT_FDCWD, o->p, AT_FDCWD, o->q, (int)o->flags));
		break;
	case OP_RENAME:
		res_set(r, renameat2(AT_FDCWD, o->p, AT_FDCWD, o->q, o->flags));
		break;
	case OP_MKNOD:
		res_set(r, mknod(o->p, o->mode, makedev(o->flags >> 8, o->flags & 255)));
		break;
	default:
		break;
	}
}

/* Removes what is below @name and itself, in the order of names so that both sides end alike. 0 or -errno. */
int remove_tree(int dirfd, const char *name, long *count)
{
	struct name_list l = { 0 };
	int fd, r;

	if (unlinkat(dirfd, name, 0) == 0) {
		++*count;
		return 0;
	}
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = name_list_read(&l, fd, 32768);
	name_list_drop_ghosts(&l, fd);
	name_list_sort(&l);
	for (size_t i = 0; r >= 0 && i < l.n; i++)
		r = remove_tree(fd, l.v[i].name, count);
	name_list_free(&l);
	close(fd);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
		return -errno;
	++*count;
	return 0;
}

void exec_rmtree(struct side *s, const struct op *o, struct res *r)
{
	long count = 0;
	int err;

	(void)s;
	err = remove_tree(AT_FDCWD, o->p, &count);
	r->ret = count;
	r->err = -err;
}

/*
 * tmpfs (Linux 6.18) gives names twice when names were exchanged by RENAME_EXCHANGE and the directory changes while it is
 * read: seen by this tester. An oracle is forgiven, a mount never.
 */
static void drop_twins(struct name_list *l)
{
	size_t kept = 0;

	for (size_t i = 0; i < l->n; i++)
		if (i == 0 || strcmp(l->v[i].name, l->v[kept - 1].name))
			l->v[kept++] = l->v[i];
	l->n = kept;
}

static void hash_names(const struct side *s, struct res *r, struct name_list *l)
{
	FILE *head = fmemopen(r->head, sizeof(r->head) - 1, "w");

	name_list_sort(l);
	if (!s->is_mount)
		drop_twins(l);
	for (size_t i = 0; i < l->n; i++) {
		r->sum = data_hash(r->sum, l->v[i].name, strlen(l->v[i].name));
		if (head) {
			fputc(' ', head);
			text_brief(head, l->v[i].name);
		}
		r->sum = data_hash(r->sum, &l->v[i].type, 1);
		if (i && !strcmp(l->v[i].name, l->v[i - 1].name))
			snprintf(r->why, sizeof(r->why), "readdir gives \"%.300s\" twice",
				 l->v[i].name);
	}
	r->ret = (long)l->n;
	if (head)
		fclose(head);
}

/* Goes back to the place after the @k-th name: the rest must come again, the same and in the same order. */
static void seek_again(struct res *r, int fd, const struct name_list *l, size_t k, size_t buf_bytes)
{
	struct name_list again = { 0 };

	if (lseek(fd, (off_t)l->v[k].off, SEEK_SET) < 0 ||
	    name_list_read(&again, fd, buf_bytes) < 0) {
		snprintf(r->why, sizeof(r->why), "seekdir to %llu: %s",
			 (unsigned long long)l->v[k].off, strerror(errno));
	} else if (again.n != l->n - k - 1) {
		snprintf(r->why, sizeof(r->why), "seekdir after name %zu of %zu: %zu names follow",
			 k + 1, l->n, again.n);
	} else {
		for (size_t i = 0; i < again.n; i++)
			if (strcmp(again.v[i].name, l->v[k + 1 + i].name) ||
			    again.v[i].off != l->v[k + 1 + i].off)
				snprintf(r->why, sizeof(r->why),
					 "seekdir after name %zu: other names or offsets follow",
					 k + 1);
	}
	name_list_free(&again);
}

void exec_readdir(struct side *s, const struct op *o, struct res *r)
{
	int fd = open(o->p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct name_list l = { 0 };
	int err;

	if (fd < 0) {
		res_set(r, -1);
		return;
	}
	err = name_list_read(&l, fd, (size_t)o->len);
	if (err < 0) {
		r->ret = -1;
		r->err = -err;
	} else {
		if (l.n && s->is_mount)
			seek_again(r, fd, &l, (size_t)o->off % l.n, (size_t)o->len);
		if (s->is_mount)
			name_list_drop_ghosts(&l, fd);
		hash_names(s, r, &l);
	}
	name_list_free(&l);
	close(fd);
}

static bool is_changed_name(const char *name)
{
	return !strncmp(name, "chg-", 4);
}

/*
 * Reads a part of a directory, creates and removes some names in it, and reads on. Names that were not touched must
 * come exactly once (POSIX leaves only the touched ones open).
 */
void exec_readdirchg(struct side *s, const struct op *o, struct res *r)
{
	int fd = open(o->p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct name_list l = { 0 };
	size_t kept = 0;
	int err;

	(void)s;
	if (fd < 0) {
		res_set(r, -1);
		return;
	}
	err = name_list_read_some(&l, fd, (size_t)o->len);
	for (uint32_t i = 0; i < o->flags; i++) {
		char name[32];
		int c;

		snprintf(name, sizeof(name), "chg-%u", (unsigned int)((o->seed + i) % 5));
		if (unlinkat(fd, name, 0) == 0)
			continue;
		c = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (c >= 0)
			close(c);
		r->sum = data_hash(r->sum, &(int){ c < 0 ? errno : 0 }, sizeof(int));
	}
	if (err > 0)
		err = name_list_read(&l, fd, (size_t)o->len);
	for (size_t i = 0; i < l.n; i++)
		if (!is_changed_name(l.v[i].name))
			l.v[kept++] = l.v[i];
	l.n = kept;
	if (s->is_mount)
		name_list_drop_ghosts(&l, fd);
	hash_names(s, r, &l);
	if (err < 0) {
		r->ret = -1;
		r->err = -err;
	}
	name_list_free(&l);
	close(fd);
}
