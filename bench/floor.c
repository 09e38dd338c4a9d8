// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The floor of the transport: a FUSE server that only answers, from memory, what bench/ops.c asks. It keeps no data and
 * checks nothing; its time for an operation is what FUSE itself costs with libfuse's threads. By /dev/fuse a server with
 * one reader that polls is below it; by io_uring none is.
 *
 * There is the directory ops, in it p0 … p15, in each of these the files f0 … f<FILES-1>. A name is a letter and a number,
 * which make an index into a table, so that an answer costs a few instructions. Each directory has one user: no locks.
 *
 * Usage: floor FILES MOUNT_POINT [FUSE OPTIONS, e.g. -o io_uring]. Stays in the foreground; umount ends it.
 */
#define FUSE_USE_VERSION 317
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INO_OPS 2
#define INO_DIR 16 /* p0 */
#define N_DIRS 16
#define N_LETTERS 26
#define SLOTS (1U << 16) /* names of one letter in one directory */
#define NOBODY_ASKS_AGAIN 86400.0
#define FILE_SIZE 4096

/* An object's number: a flag, then directory, letter and number of its first name. */
#define INO_OBJECT (1ULL << 40)

static uint64_t *slots[N_DIRS][N_LETTERS];
static unsigned n_files;
static char content[1 << 20];

static bool is_dir_ino(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID || ino == INO_OPS || (ino >= INO_DIR && ino < INO_DIR + N_DIRS);
}

static uint64_t *slot_of(fuse_ino_t parent, const char *name)
{
	const unsigned letter = name[0] - 'a';
	const unsigned number = strtoul(name + 1, NULL, 10);

	if (parent < INO_DIR || parent >= INO_DIR + N_DIRS || letter >= N_LETTERS || number >= SLOTS)
		return NULL;
	return &slots[parent - INO_DIR][letter][number];
}

static uint64_t new_ino(fuse_ino_t parent, const char *name)
{
	return INO_OBJECT | (parent - INO_DIR) << 32 | (uint64_t)(name[0] - 'a') << 24 |
	       strtoul(name + 1, NULL, 10);
}

static void fill_attr(fuse_ino_t ino, struct stat *st)
{
	const char letter = 'a' + (ino >> 24 & 31);

	*st = (struct stat){ .st_ino = ino, .st_nlink = 1, .st_blksize = 4096 };
	if (is_dir_ino(ino) || letter == 'd')
		st->st_mode = S_IFDIR | 0755;
	else if (letter == 's')
		st->st_mode = S_IFLNK | 0777;
	else
		st->st_mode = S_IFREG | 0644;
	st->st_size = S_ISREG(st->st_mode) ? FILE_SIZE : 0;
}

static struct fuse_entry_param entry_of(uint64_t ino)
{
	struct fuse_entry_param e = { .ino = ino, .attr_timeout = NOBODY_ASKS_AGAIN,
				      .entry_timeout = NOBODY_ASKS_AGAIN };

	if (ino)
		fill_attr(ino, &e.attr);
	return e;
}

static void reply_entry(fuse_req_t req, uint64_t ino)
{
	const struct fuse_entry_param e = entry_of(ino);

	fuse_reply_entry(req, &e);
}

static void floor_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const uint64_t *slot = slot_of(parent, name);
	uint64_t ino = slot ? *slot : 0;

	if (parent == FUSE_ROOT_ID && strcmp(name, "ops") == 0)
		ino = INO_OPS;
	else if (parent == INO_OPS && name[0] == 'p')
		ino = INO_DIR + strtoul(name + 1, NULL, 10) % N_DIRS;
	reply_entry(req, ino);
}

static void floor_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	fill_attr(ino, &st);
	fuse_reply_attr(req, &st, NOBODY_ASKS_AGAIN);
}

static void floor_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
			  struct fuse_file_info *fi)
{
	floor_getattr(req, ino, fi);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	uint64_t *slot = slot_of(parent, name);

	if (!slot) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	*slot = new_ino(parent, name);
	reply_entry(req, *slot);
}

static void floor_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make(req, parent, name);
}

static void floor_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	make(req, parent, name);
}

static void floor_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
			 struct fuse_file_info *fi)
{
	uint64_t *slot = slot_of(parent, name);
	struct fuse_entry_param e;

	if (!slot) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	*slot = new_ino(parent, name);
	e = entry_of(*slot);
	fi->keep_cache = 1;
	fi->noflush = 1;
	fuse_reply_create(req, &e, fi);
}

static void floor_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	uint64_t *slot = slot_of(parent, name);

	if (slot)
		*slot = ino;
	reply_entry(req, ino);
}

static void floor_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	uint64_t *slot = slot_of(parent, name);

	if (slot)
		*slot = 0;
	fuse_reply_err(req, slot ? 0 : ENOENT);
}

static void floor_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to_parent,
			 const char *to_name, unsigned flags)
{
	uint64_t *from = slot_of(parent, name), *to = slot_of(to_parent, to_name);

	if (from && to) {
		*to = *from;
		*from = 0;
	}
	fuse_reply_err(req, from && to ? 0 : EINVAL);
}

static void floor_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->keep_cache = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

static void floor_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->keep_cache = 1;
	fi->cache_readdir = 1;
	fuse_reply_open(req, fi);
}

static void floor_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

static void floor_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	const size_t left = offset < FILE_SIZE ? FILE_SIZE - offset : 0;

	fuse_reply_buf(req, content, size < left ? size : left);
}

static void floor_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
			struct fuse_file_info *fi)
{
	fuse_reply_write(req, size);
}

static void floor_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			  struct fuse_file_info *fi)
{
	char *buf = malloc(size), name[16];
	struct stat st;
	size_t len = 0;

	for (unsigned i = offset; buf && ino >= INO_DIR && i < n_files; i++) {
		size_t n;

		snprintf(name, sizeof(name), "f%u", i);
		fill_attr(new_ino(ino, name), &st);
		n = fuse_add_direntry(req, buf + len, size - len, name, &st, i + 1);
		if (n > size - len)
			break;
		len += n;
	}
	fuse_reply_buf(req, buf, len);
	free(buf);
}

static void floor_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n_lookups)
{
	fuse_reply_none(req);
}

static void floor_init(void *userdata, struct fuse_conn_info *conn)
{
	fuse_set_feature_flag(conn, FUSE_CAP_PARALLEL_DIROPS);
	fuse_unset_feature_flag(conn, FUSE_CAP_AUTO_INVAL_DATA);
	fuse_unset_feature_flag(conn, FUSE_CAP_SPLICE_READ);
	fuse_unset_feature_flag(conn, FUSE_CAP_READDIRPLUS);
	conn->max_write = sizeof(content);
}

/* What is missing here (xattrs, access, flush) the kernel asks once, and then never again. */
static const struct fuse_lowlevel_ops operations = {
	.init = floor_init,
	.lookup = floor_lookup,
	.forget = floor_forget,
	.getattr = floor_getattr,
	.setattr = floor_setattr,
	.mkdir = floor_mkdir,
	.symlink = floor_symlink,
	.unlink = floor_unlink,
	.rmdir = floor_unlink,
	.rename = floor_rename,
	.link = floor_link,
	.create = floor_create,
	.open = floor_open,
	.read = floor_read,
	.write = floor_write,
	.release = floor_release,
	.opendir = floor_opendir,
	.readdir = floor_readdir,
	.releasedir = floor_release,
};

static int fill_table(void)
{
	char name[16];

	for (unsigned dir = 0; dir < N_DIRS; dir++) {
		for (unsigned letter = 0; letter < N_LETTERS; letter++) {
			slots[dir][letter] = calloc(SLOTS, sizeof(uint64_t)); /* pages come when used */
			if (!slots[dir][letter])
				return -1;
		}
		for (unsigned i = 0; i < n_files; i++) {
			snprintf(name, sizeof(name), "f%u", i);
			slots[dir]['f' - 'a'][i] = new_ino(INO_DIR + dir, name);
		}
	}
	return 0;
}

int main(int argc, char *argv[])
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	struct fuse_session *session;
	int r = 1;

	if (argc < 3 || !config || (n_files = strtoul(argv[1], NULL, 10)) > SLOTS || fill_table() < 0) {
		fprintf(stderr, "usage: floor FILES MOUNT_POINT [FUSE OPTION...]\n");
		return 2;
	}
	fuse_opt_add_arg(&args, argv[0]);
	for (int i = 3; i < argc; i++)
		fuse_opt_add_arg(&args, argv[i]);
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (session && fuse_session_mount(session, argv[2]) == 0) {
		fuse_loop_cfg_set_clone_fd(config, 1);
		fuse_loop_cfg_set_max_threads(config, 8);
		fuse_loop_cfg_set_idle_threads(config, 8);
		r = fuse_session_loop_mt(session, config) < 0;
		fuse_session_unmount(session);
	}
	if (session)
		fuse_session_destroy(session);
	fuse_loop_cfg_destroy(config);
	fuse_opt_free_args(&args);
	return r;
}
