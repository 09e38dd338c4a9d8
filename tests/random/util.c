// SPDX-License-Identifier: GPL-2.0-or-later
/* Random numbers, test data, escaping, directory listings: what all other files of rvl-random use. */
#include "rnd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define X15 "xxxxxxxxxxxxxxx"
#define X60 X15 X15 X15 X15

/* Few, so that operations collide. None starts with ".wh." (DIFF_WH_NAMES). */
const char *const rnd_names[RND_NAMES] = {
	"a", "b", "c", "d", "\xc3\x9c\xe6\x97\xa5", "n\nl", "co:lo,m\\a", X60 X60 X60 X60 X15,
};

const struct rnd_user rnd_users[RND_USERS] = {
	{ 0, 0, 0 },
	{ 1001, 1001, 1003 },
	{ 1002, 1001, 1002 },
	{ 1003, 1003, 1001 },
};

struct dirent64_raw {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
	return rng_next(r) % n;
}

bool rng_chance(struct rng *r, unsigned int percent)
{
	return rng_next(r) % 100 < percent;
}

void data_fill(uint8_t *buf, size_t len, uint64_t seed)
{
	struct rng r = { seed };
	size_t i = 0;

	for (; i + 8 <= len; i += 8) {
		uint64_t v = rng_next(&r);

		memcpy(buf + i, &v, 8);
	}
	for (; i < len; i++)
		buf[i] = (uint8_t)rng_next(&r);
}

uint64_t data_hash(uint64_t h, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	h ^= len * 0x9e3779b97f4a7c15ULL;
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t v;

		memcpy(&v, p, 8);
		h = (h ^ v) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	for (; len > 0; p++, len--)
		h = (h ^ *p) * 0x100000001b3ULL;
	return h ^ (h >> 29);
}

void text_escape(FILE *f, const char *s, bool brief)
{
	fputc('"', f);
	while (*s) {
		unsigned char c = (unsigned char)*s;
		size_t run = strspn(s, (char[]){ *s, 0 });

		if (brief && run > 12) {
			fprintf(f, "%c…(%zu)", c, run);
			s += run;
			continue;
		}
		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c == '\n')
			fputs("\\n", f);
		else if (c < 32 || c == 127)
			fprintf(f, "\\x%02x", c);
		else
			fputc(c, f);
		s++;
	}
	fputc('"', f);
}

void text_brief(FILE *f, const char *s)
{
	while (*s) {
		size_t run = strspn(s, (char[]){ *s, 0 });

		if (run > 12) {
			fprintf(f, "%c…(%zu)", *s, run);
			s += run;
		} else {
			fputc(*s++, f);
		}
	}
}

char *text_unescape(const char *s, const char **ret_end)
{
	char *out = malloc(strlen(s) + 1), *o = out;

	if (!out || *s++ != '"') {
		free(out);
		return NULL;
	}
	while (*s && *s != '"') {
		if (*s != '\\') {
			*o++ = *s++;
		} else if (s[1] == 'n') {
			*o++ = '\n';
			s += 2;
		} else if (s[1] == 'x' && s[2] && s[3]) {
			*o++ = (char)strtoul((char[]){ s[2], s[3], 0 }, NULL, 16);
			s += 4;
		} else if (s[1]) {
			*o++ = s[1];
			s += 2;
		} else {
			break;
		}
	}
	*o = 0;
	if (*s == '"')
		s++;
	if (ret_end)
		*ret_end = s;
	return out;
}

int shell(const char *cmd)
{
	int status = system(cmd); /* the caller's own command line */

	return status != -1 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void name_list_free(struct name_list *l)
{
	for (size_t i = 0; i < l->chunks; i++)
		free(l->chunk[i]);
	free(l->chunk);
	free(l->v);
	*l = (struct name_list){ 0 };
}

static int name_list_add(struct name_list *l, struct dirent64_raw *d)
{
	if (!strcmp(d->name, ".") || !strcmp(d->name, ".."))
		return 0;
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 32;
		struct name_entry *v = reallocarray(l->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = (struct name_entry){ d->name, d->ino, (uint64_t)d->off, d->type };
	return 0;
}

int name_list_read_some(struct name_list *l, int fd, size_t buf_bytes)
{
	char *buf = malloc(buf_bytes);
	char **chunk = buf ? reallocarray(l->chunk, l->chunks + 1, sizeof(*chunk)) : NULL;
	long n;

	if (!chunk) {
		free(buf);
		return -ENOMEM;
	}
	l->chunk = chunk;
	l->chunk[l->chunks++] = buf;
	n = syscall(SYS_getdents64, fd, buf, buf_bytes);
	if (n < 0)
		return -errno;
	for (long at = 0; at < n;) {
		struct dirent64_raw *d = (struct dirent64_raw *)(buf + at);
		int r = name_list_add(l, d);

		if (r < 0)
			return r;
		at += d->reclen;
	}
	return n > 0;
}

int name_list_read(struct name_list *l, int fd, size_t buf_bytes)
{
	int r;

	while ((r = name_list_read_some(l, fd, buf_bytes)) > 0)
		;
	return r;
}

void name_list_drop_ghosts(struct name_list *l, int dirfd)
{
	size_t kept = 0;
	struct stat st;

	if (!diff_ok(DIFF_K_GHOSTS))
		return;
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].type != DT_CHR ||
		    fstatat(dirfd, l->v[i].name, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT)
			l->v[kept++] = l->v[i];
	l->n = kept;
}

static int name_entry_compare(const void *a, const void *b)
{
	return strcmp(((const struct name_entry *)a)->name, ((const struct name_entry *)b)->name);
}

void name_list_sort(struct name_list *l)
{
	if (l->n > 1)
		qsort(l->v, l->n, sizeof(*l->v), name_entry_compare);
}

static uint8_t *acl_entry(uint8_t *p, uint16_t tag, uint16_t perm, uint32_t id)
{
	memcpy(p, &tag, 2); /* little-endian; the tester runs on such machines only */
	memcpy(p + 2, &perm, 2);
	memcpy(p + 4, &id, 4);
	return p + 8;
}

size_t acl_fill(uint8_t *buf, uint64_t seed, uint32_t variant)
{
	enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };
	struct rng r = { seed };
	const uint32_t version = 2;
	uint8_t *p = buf + 4;

	memcpy(buf, &version, 4);
	if (variant == 5) /* empty: EINVAL or removal */
		return 4;
	p = acl_entry(p, USER_OBJ, (uint16_t)rng_below(&r, 8) | (variant == 4 ? 0 : 4), UINT32_MAX);
	if (variant == 1 || variant == 3)
		p = acl_entry(p, USER, (uint16_t)rng_below(&r, 8),
			      1001 + (uint32_t)rng_below(&r, 2));
	p = acl_entry(p, GROUP_OBJ, (uint16_t)rng_below(&r, 8), UINT32_MAX);
	if (variant == 2 || variant == 3)
		p = acl_entry(p, GROUP, (uint16_t)rng_below(&r, 8), 1003);
	if (variant >= 1 && variant <= 3)
		p = acl_entry(p, MASK, (uint16_t)rng_below(&r, 8), UINT32_MAX);
	if (variant != 4) /* 4: no OTHER entry, which is EINVAL */
		p = acl_entry(p, OTHER, (uint16_t)rng_below(&r, 8), UINT32_MAX);
	return (size_t)(p - buf);
}

int set_times(int dirfd, const char *name, int64_t mtime_s)
{
	struct timespec ts[2] = { { mtime_s + 7, 123456789 }, { mtime_s, 987654321 } };

	return utimensat(dirfd, name, ts, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}
