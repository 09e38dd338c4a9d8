// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The client's commands, one a line on stdin; each answers with lines on stdout of which the last begins with
 * "ok" or "error". Handles, names, verifiers and data are in hex; "-" is empty.
 *
 *   connect VERSION HOST PORT MOUNT_PORT PATH      ok FH
 *   getattr FH                                     ok TYPE MODE NLINK UID GID SIZE FILEID FSID MTIME
 *   lookup FH NAME                                 ok FH
 *   read FH OFFSET LEN                             ok DATA
 *   write FH OFFSET DATA                           ok
 *   readlink FH                                    ok DATA
 *   chmod FH MODE                                  ok
 *   create FH NAME, mkdir FH NAME                  ok FH
 *   remove FH NAME, rmdir FH NAME                  ok
 *   rename FH NAME FH NAME                         ok
 *   link FH FH NAME                                ok
 *   list FH COOKIE VERIFIER COUNT                  "entry COOKIE FILEID NAME"..., ok VERIFIER EOF
 *   walk FH                                        "object PATH FH FILEID_OF_ENTRY attributes CONTENT"..., ok
 */
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nfs.h"

#define ARGS_MAX 6
#define LINE_MAX_BYTES (4 * WRITE_MAX)
#define LIST_COUNT 32768
#define DEPTH_MAX 256
#define PROGRAM_NFS 100003

static const struct version_ops *ops;
static struct rpc_context *rpc;

/* ---- hex ---- */

static void put_hex(const void *data, size_t len)
{
	const uint8_t *p = data;

	putchar(' ');
	if (len == 0)
		putchar('-');
	for (size_t i = 0; i < len; i++)
		printf("%02x", p[i]);
}

/* Length, or -1. */
static int get_hex(const char *text, uint8_t *ret, size_t size)
{
	const size_t len = strlen(text);

	if (!strcmp(text, "-"))
		return 0;
	if (len % 2 || len / 2 > size)
		return -1;
	for (size_t i = 0; i < len / 2; i++) {
		unsigned byte;

		if (sscanf(text + 2 * i, "%2x", &byte) != 1)
			return -1;
		ret[i] = byte;
	}
	return len / 2;
}

static struct fh get_fh(const char *text)
{
	struct fh fh = {};
	const int len = get_hex(text, fh.data, sizeof(fh.data));

	if (len < 0) {
		fprintf(stderr, "not a handle: %s\n", text);
		exit(2);
	}
	fh.len = len;
	return fh;
}

/* A name of a command; the buffers are used in turn, a command has two names at most. */
static const char *get_name(const char *text)
{
	static char buf[2][NAME_BYTES_MAX + 2];
	static unsigned turn;
	char *name = buf[turn++ % 2];
	const int len = get_hex(text, (uint8_t *)name, NAME_BYTES_MAX + 1);

	if (len < 0) {
		fprintf(stderr, "not a name: %s\n", text);
		exit(2);
	}
	name[len] = '\0';
	return name;
}

/* ---- answers ---- */

static int fail(int r)
{
	const char *text = r == NFS_TIMEOUT	 ? "TIMEOUT" :
			   r == NFS_DISCONNECTED ? "DISCONNECTED" :
			   r == NFS_MALFORMED	 ? "MALFORMED" :
			   ops && ops->version == 4 ? nfsstat4_to_str(r) :
						      nfsstat3_to_str(r);

	if (!strncmp(text, "NFS3ERR_", 8) || !strncmp(text, "NFS4ERR_", 8))
		text += 8;
	printf("error %s %d\n", text, r);
	return r;
}

static void put_attr(const struct attr *a)
{
	printf(" %u %o %u %u %u %llu %llu %llx.%llx %llu.%09u", a->type, a->mode, a->nlink, a->uid,
	       a->gid, (unsigned long long)a->size, (unsigned long long)a->fileid,
	       (unsigned long long)a->fsid[0], (unsigned long long)a->fsid[1],
	       (unsigned long long)a->mtime_s, a->mtime_ns);
}

static void answer(int r)
{
	if (r)
		fail(r);
	else
		puts("ok");
}

static void answer_fh(int r, const struct fh *fh)
{
	if (r) {
		fail(r);
		return;
	}
	printf("ok");
	put_hex(fh->data, fh->len);
	putchar('\n');
}

static void answer_data(int r, const struct data *data)
{
	if (r) {
		fail(r);
		return;
	}
	printf("ok");
	put_hex(data->bytes, data->len);
	putchar('\n');
}

/* ---- a walk ---- */

static uint32_t crc_table[256];

static void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
		crc_table[i] = c;
	}
}

static uint32_t crc_add(uint32_t crc, const uint8_t *p, size_t len)
{
	crc = ~crc;
	while (len--)
		crc = crc_table[(crc ^ *p++) & 255] ^ crc >> 8;
	return ~crc;
}

struct name {
	struct name *next;
	uint64_t fileid;
	unsigned len;
	char text[NAME_BYTES_MAX + 1];
};

struct names {
	struct name *first, **end;
	uint64_t cookie;
};

static void keep_name(void *arg, const struct entry *entry)
{
	struct names *names = arg;
	struct name *name = calloc(1, sizeof(*name));

	names->cookie = entry->cookie;
	if (!name || entry->name_len > NAME_BYTES_MAX)
		exit(3);
	name->fileid = entry->fileid;
	name->len = entry->name_len;
	memcpy(name->text, entry->name, entry->name_len);
	*names->end = name;
	names->end = &name->next;
}

/* The content as a number: CRC-32 of a file's data or a symlink's target. */
static int content_of(const struct fh *fh, const struct attr *attr, uint32_t *ret)
{
	static struct data data;
	uint64_t offset = 0;
	int r = 0;

	*ret = 0;
	if (attr->type == 5) {
		r = ops->readlink(rpc, fh, &data);
		if (r == 0)
			*ret = crc_add(0, data.bytes, data.len);
		return r;
	}
	if (attr->type != 1)
		return 0;
	do {
		r = ops->read(rpc, fh, offset, READ_MAX, &data);
		if (r)
			return r;
		*ret = crc_add(*ret, data.bytes, data.len);
		offset += data.len;
	} while (!data.is_eof && data.len > 0);
	return 0;
}

static int walk(const struct fh *dir, const char *path, int depth);

static int walk_one(const struct fh *dir, const char *path, const struct name *name, int depth)
{
	struct fh fh;
	struct attr attr;
	char *full = NULL;
	uint32_t content;
	int r = ops->lookup(rpc, dir, name->text, &fh, &attr);

	if (r == 0)
		r = content_of(&fh, &attr, &content);
	if (r || asprintf(&full, "%s%s%s", path, *path ? "/" : "", name->text) < 0)
		return r ? r : NFS_MALFORMED;
	printf("object");
	put_hex(full, strlen(full));
	put_hex(fh.data, fh.len);
	printf(" %llu", (unsigned long long)name->fileid);
	put_attr(&attr);
	printf(" %08x\n", content);
	if (attr.type == 2 && depth < DEPTH_MAX)
		r = walk(&fh, full, depth + 1);
	free(full);
	return r;
}

static int walk(const struct fh *dir, const char *path, int depth)
{
	struct names names = { .end = &names.first };
	uint8_t verf[8] = {};
	bool is_eof = false;
	int r = 0;

	while (r == 0 && !is_eof)
		r = ops->list(rpc, dir, names.cookie, verf, LIST_COUNT, keep_name, &names,
			      &is_eof);
	while (names.first) {
		struct name *name = names.first;

		if (r == 0 && strcmp(name->text, ".") && strcmp(name->text, ".."))
			r = walk_one(dir, path, name, depth);
		names.first = name->next;
		free(name);
	}
	return r;
}

/* ---- commands ---- */

static void cmd_connect(char **a)
{
	struct fh fh;
	int r = NFS_DISCONNECTED;

	if (rpc)
		rpc_destroy_context(rpc);
	ops = atoi(a[0]) == 4 ? &nfs_v4 : &nfs_v3;
	rpc = rpc_open(a[1], atoi(a[2]), PROGRAM_NFS, ops->version);
	if (rpc)
		r = ops->root(rpc, a[1], atoi(a[3]), a[4], &fh);
	answer_fh(r, &fh);
}

static void cmd_getattr(char **a)
{
	const struct fh fh = get_fh(a[0]);
	struct attr attr;
	const int r = ops->getattr(rpc, &fh, &attr);

	if (r) {
		fail(r);
		return;
	}
	printf("ok");
	put_attr(&attr);
	putchar('\n');
}

static void cmd_lookup(char **a)
{
	const struct fh dir = get_fh(a[0]);
	struct fh fh;
	struct attr attr;

	answer_fh(ops->lookup(rpc, &dir, get_name(a[1]), &fh, &attr), &fh);
}

static void cmd_read(char **a)
{
	static struct data data;
	const struct fh fh = get_fh(a[0]);

	answer_data(ops->read(rpc, &fh, strtoull(a[1], NULL, 10), atoi(a[2]), &data), &data);
}

static void cmd_write(char **a)
{
	static struct data data;
	const struct fh fh = get_fh(a[0]);
	const int len = get_hex(a[2], data.bytes, WRITE_MAX);

	data.len = len < 0 ? 0 : len;
	answer(ops->write(rpc, &fh, strtoull(a[1], NULL, 10), &data));
}

static void cmd_readlink(char **a)
{
	static struct data data;
	const struct fh fh = get_fh(a[0]);

	answer_data(ops->readlink(rpc, &fh, &data), &data);
}

static void cmd_chmod(char **a)
{
	const struct fh fh = get_fh(a[0]);

	answer(ops->chmod(rpc, &fh, strtoul(a[1], NULL, 8)));
}

static void cmd_create(char **a)
{
	const struct fh dir = get_fh(a[0]);
	struct fh fh;

	if (!ops->create)
		puts("error NOTSUPP 0");
	else
		answer_fh(ops->create(rpc, &dir, get_name(a[1]), &fh), &fh);
}

static void cmd_mkdir(char **a)
{
	const struct fh dir = get_fh(a[0]);
	struct fh fh;

	answer_fh(ops->mkdir(rpc, &dir, get_name(a[1]), &fh), &fh);
}

static void cmd_remove(char **a)
{
	const struct fh dir = get_fh(a[0]);

	answer(ops->remove(rpc, &dir, get_name(a[1])));
}

static void cmd_rmdir(char **a)
{
	const struct fh dir = get_fh(a[0]);

	answer(ops->rmdir(rpc, &dir, get_name(a[1])));
}

static void cmd_rename(char **a)
{
	const struct fh from = get_fh(a[0]), to = get_fh(a[2]);

	answer(ops->rename(rpc, &from, get_name(a[1]), &to, get_name(a[3])));
}

static void cmd_link(char **a)
{
	const struct fh fh = get_fh(a[0]), dir = get_fh(a[1]);

	answer(ops->link(rpc, &fh, &dir, get_name(a[2])));
}

static void print_entry(void *arg, const struct entry *entry)
{
	(void)arg;
	printf("entry %llu %llu", (unsigned long long)entry->cookie,
	       (unsigned long long)entry->fileid);
	put_hex(entry->name, entry->name_len);
	putchar('\n');
}

static void cmd_list(char **a)
{
	const struct fh dir = get_fh(a[0]);
	uint8_t verf[8] = {};
	bool is_eof = false;
	int r;

	get_hex(a[2], verf, sizeof(verf));
	r = ops->list(rpc, &dir, strtoull(a[1], NULL, 10), verf, atoi(a[3]), print_entry, NULL,
		      &is_eof);
	if (r) {
		fail(r);
		return;
	}
	printf("ok");
	put_hex(verf, sizeof(verf));
	printf(" %d\n", is_eof);
}

static void cmd_walk(char **a)
{
	const struct fh fh = get_fh(a[0]);

	answer(walk(&fh, "", 0));
}

static const struct {
	const char *name;
	int n_args;
	void (*run)(char **args);
} commands[] = {
	{ "connect", 5, cmd_connect }, { "getattr", 1, cmd_getattr },
	{ "lookup", 2, cmd_lookup },   { "read", 3, cmd_read },
	{ "write", 3, cmd_write },     { "readlink", 1, cmd_readlink },
	{ "chmod", 2, cmd_chmod },     { "create", 2, cmd_create },
	{ "mkdir", 2, cmd_mkdir },     { "remove", 2, cmd_remove },
	{ "rmdir", 2, cmd_rmdir },     { "rename", 4, cmd_rename },
	{ "link", 3, cmd_link },       { "list", 4, cmd_list },
	{ "walk", 1, cmd_walk },
};

static void run_line(char *line)
{
	char *args[ARGS_MAX + 1] = {};
	char *save = NULL;
	const char *name = strtok_r(line, " \n", &save);
	int n = 0;

	while (n < ARGS_MAX && (args[n] = strtok_r(NULL, " \n", &save)))
		n++;
	for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, name) != 0 || commands[i].n_args != n)
			continue;
		if (rpc || commands[i].run == cmd_connect)
			commands[i].run(args);
		else
			fail(NFS_DISCONNECTED);
		fflush(stdout);
		return;
	}
	fprintf(stderr, "unknown command, or wrong number of arguments: %s\n", name ? name : "");
	exit(2);
}

int main(void)
{
	static char line[LINE_MAX_BYTES];

	crc_init();
	while (fgets(line, sizeof(line), stdin))
		run_line(line);
	return 0;
}
