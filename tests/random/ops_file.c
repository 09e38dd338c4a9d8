// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Operations on open files: what each does on one side. The current directory is the world's root (or a held
 * directory) and the user is set already. Anything that is not the same on two correct filesystems is judged
 * here (res.why) instead of being returned.
 */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int slot_fd(const struct side *s, int slot)
{
	return slot >= 0 && slot < RND_SLOTS ? s->fd[slot] : -1;
}

void res_set(struct res *r, long ret)
{
	r->ret = ret;
	r->err = ret < 0 ? errno : 0;
}

void res_data(struct res *r, const void *buf, size_t len)
{
	size_t n = len < 40 ? len : 40;

	r->sum = data_hash(r->sum, buf, len);
	memcpy(r->head, buf, n);
	for (size_t i = 0; i < n; i++)
		if ((uint8_t)r->head[i] < 32 || (uint8_t)r->head[i] > 126)
			r->head[i] = '.';
}

void side_close_slot(struct side *s, int slot)
{
	if (s->map[slot].addr)
		munmap(s->map[slot].addr, s->map[slot].len);
	s->map[slot] = (struct held_map){ 0 };
	if (s->fd[slot] >= 0)
		close(s->fd[slot]);
	s->fd[slot] = -1;
}

static void keep(struct side *s, const struct op *o, struct res *r, int fd)
{
	int err = errno;

	side_close_slot(s, o->slot);
	errno = err;
	s->fd[o->slot] = fd;
	res_set(r, fd < 0 ? -1 : 0);
}

void exec_open(struct side *s, const struct op *o, struct res *r)
{
	keep(s, o, r, open(o->p, (int)o->flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, o->mode));
}

void exec_tmpfile(struct side *s, const struct op *o, struct res *r)
{
	keep(s, o, r, open(o->p, (int)o->flags | O_TMPFILE | O_CLOEXEC, o->mode));
}

void exec_linkfd(struct side *s, const struct op *o, struct res *r)
{
	char from[64];

	snprintf(from, sizeof(from), "/proc/self/fd/%d", slot_fd(s, o->slot));
	res_set(r, linkat(AT_FDCWD, from, AT_FDCWD, o->p, AT_SYMLINK_FOLLOW));
}

void exec_close(struct side *s, const struct op *o, struct res *r)
{
	int fd = slot_fd(s, o->slot);

	if (fd >= 0)
		s->fd[o->slot] = -1;
	res_set(r, close(fd)); /* a held mapping stays behind its descriptor */
}

void exec_put(struct side *s, const struct op *o, struct res *r)
{
	int fd = open(o->p, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_CLOEXEC | O_NOCTTY,
		      o->mode);
	ssize_t n;

	if (fd < 0) {
		res_set(r, -1);
		return;
	}
	data_fill(s->buf, (size_t)o->len, o->seed);
	n = write(fd, s->buf, (size_t)o->len);
	res_set(r, n);
	if (close(fd) < 0 && n >= 0)
		res_set(r, -1);
}

void exec_read(struct side *s, const struct op *o, struct res *r)
{
	int fd = slot_fd(s, o->slot);
	ssize_t n = o->kind == OP_READ ? read(fd, s->buf, (size_t)o->len) :
					 pread(fd, s->buf, (size_t)o->len, o->off);

	res_set(r, n);
	if (n > 0)
		res_data(r, s->buf, (size_t)n);
}

void exec_write(struct side *s, const struct op *o, struct res *r)
{
	int fd = slot_fd(s, o->slot);
	ssize_t n;

	data_fill(s->buf, (size_t)o->len, o->seed);
	n = o->kind == OP_WRITE ? write(fd, s->buf, (size_t)o->len) :
				  pwrite(fd, s->buf, (size_t)o->len, o->off);
	res_set(r, n);
}

static bool is_regular(int fd, struct stat *st)
{
	return fd >= 0 && fstat(fd, st) == 0 && S_ISREG(st->st_mode);
}

void exec_lseek(struct side *s, const struct op *o, struct res *r)
{
	int fd = slot_fd(s, o->slot);
	struct stat st;

	if (is_regular(fd, &st))
		res_set(r,
			lseek(fd, o->off, (int)o->flags)); /* a directory's offsets are its own */
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && !memcmp(p, p + 1, n - 1));
}

/* A hole may be reported as data (DIFF_HOLES), but data never as a hole. */
void exec_seekhole(struct side *s, const struct op *o, struct res *r)
{
	int fd = slot_fd(s, o->slot);
	off_t data, hole, end, was;
	struct stat st;
	ssize_t n;

	if (!is_regular(fd, &st)) {
		res_set(r, fd < 0 ? (errno = EBADF, -1) : 0);
		return;
	}
	was = lseek(fd, 0, SEEK_CUR);
	if (was < 0) {
		res_set(r, -1);
		return;
	}
	data = lseek(fd, o->off, SEEK_DATA);
	if (data < 0 && (errno != ENXIO || o->off >= st.st_size)) {
		res_set(r, -1);
		return;
	}
	end = data < 0 ? st.st_size : data;
	if (data >= st.st_size || (data >= 0 && data < o->off))
		snprintf(r->why, sizeof(r->why), "SEEK_DATA %lld gives %lld, size %lld",
			 (long long)o->off, (long long)data, (long long)st.st_size);
	n = end - o->off > 0 ? pread(fd, s->buf, (size_t)(end - o->off), o->off) : 0;
	if (n > 0 && !is_zero(s->buf, (size_t)n))
		snprintf(r->why, sizeof(r->why),
			 "SEEK_DATA %lld gives %lld, but there is data between", (long long)o->off,
			 (long long)data);
	hole = lseek(fd, o->off, SEEK_HOLE);
	if (hole < o->off || hole > st.st_size)
		snprintf(r->why, sizeof(r->why), "SEEK_HOLE %lld gives %lld, size %lld",
			 (long long)o->off, (long long)hole, (long long)st.st_size);
	lseek(fd, was, SEEK_SET);
	res_set(r, 0);
}

void exec_truncate(struct side *s, const struct op *o, struct res *r)
{
	struct stat st;

	if (o->kind == OP_TRUNCATE && o->len == 0 && stat(o->p, &st) == 0 && S_ISREG(st.st_mode) &&
	    st.st_size == 0 && diff_ok(DIFF_EMPTY_TRUNCATE))
		return;
	res_set(r, o->kind == OP_TRUNCATE ? truncate(o->p, o->len) :
					    ftruncate(slot_fd(s, o->slot), o->len));
}

void exec_fallocate(struct side *s, const struct op *o, struct res *r)
{
	res_set(r, fallocate(slot_fd(s, o->slot), (int)o->flags, o->off, o->len));
}

/* Mapped ranges are cut to the file's size: a store beyond it is a signal. */
void exec_map(struct side *s, const struct op *o, struct res *r)
{
	int fd = slot_fd(s, o->slot);
	size_t len = (size_t)o->len;
	struct stat st;
	uint8_t *p;

	if (!is_regular(fd, &st) || o->off >= st.st_size || len == 0)
		return;
	if ((off_t)len > st.st_size - o->off)
		len = (size_t)(st.st_size - o->off);
	p = mmap(NULL, len, o->kind == OP_MAPWRITE ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
		 fd, o->off);
	if (p == MAP_FAILED) {
		res_set(r, -1);
		return;
	}
	res_set(r, (long)len);
	if (o->kind == OP_MAPHOLD) {
		if (s->map[o->slot].addr)
			munmap(s->map[o->slot].addr, s->map[o->slot].len);
		s->map[o->slot] = (struct held_map){ p, len };
		return;
	}
	if (o->kind == OP_MAPWRITE) {
		data_fill(p, len, o->seed);
		if (msync(p, len, MS_SYNC) < 0)
			res_set(r, -1);
	} else {
		res_data(r, p, len);
	}
	munmap(p, len);
}

/* Loads from a mapping that is held since long: it must show what was written by other ways. */
void exec_mapcheck(struct side *s, const struct op *o, struct res *r)
{
	struct held_map m = o->slot >= 0 ? s->map[o->slot] : (struct held_map){ 0 };
	int fd = slot_fd(s, o->slot);
	size_t len = m.len;
	struct stat st;

	if (!m.addr || !is_regular(fd, &st) || st.st_size == 0)
		return;
	if ((off_t)len > st.st_size)
		len = (size_t)st.st_size;
	res_data(r, m.addr, len);
	res_set(r, (long)len);
}

void exec_copyrange(struct side *s, const struct op *o, struct res *r)
{
	int in = slot_fd(s, o->slot), out = slot_fd(s, o->slot2);
	loff_t off_in = o->off, off_out = o->off2;
	struct stat a, b;

	if (!is_regular(in, &a) || !is_regular(out, &b))
		return;
	res_set(r, copy_file_range(in, &off_in, out, &off_out, (size_t)o->len, 0));
	if (r->ret >= 0 && (off_in - o->off != r->ret || off_out - o->off2 != r->ret))
		snprintf(r->why, sizeof(r->why),
			 "copy_file_range copied %ld, offsets moved by %lld and %lld", r->ret,
			 (long long)(off_in - o->off), (long long)(off_out - o->off2));
}

void exec_fsync(struct side *s, const struct op *o, struct res *r)
{
	struct stat st;
	int fd = slot_fd(s, o->slot);

	if (fd >= 0 && (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))))
		return;
	res_set(r, o->flags ? fdatasync(fd) : fsync(fd));
}

void exec_fstat(struct side *s, const struct op *o, struct res *r)
{
	struct stat st;

	res_set(r, fstat(slot_fd(s, o->slot), &st)); /* the fields are compared after it */
}
