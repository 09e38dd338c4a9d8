/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rvl-random: random operations on a mount and on a plain directory.
 *
 * Words: the *mount* is under test, the *oracle* is a plain directory that starts as the same tree.
 * A *world* is what one thread works on: a subtree of both, and a table of open files on both.
 * An *op* is one operation with all its parameters, so that a list of ops can be replayed and shrunk
 * without the generator. Every difference is reported through rnd_fail(); the first one counts.
 */
#ifndef RVL_RANDOM_RND_H
#define RVL_RANDOM_RND_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

enum {
	RND_SLOTS = 64, /* open files kept on each side */
	RND_THREADS_MAX = 16,
	RND_LAYERS_MAX = 64,
	RND_BUF_BYTES = 1 << 20, /* the longest read or write, and the longest listing */
	RND_FILE_BYTES_MAX = 3 << 19, /* no op makes a file longer than this */
	RND_TREE_SOFT_MAX = 900, /* above this many objects the generator prefers to remove */
};

/* A time before this was set explicitly (populate and utimensat use older ones only). */
#define RND_RECENT_S 1577836800LL

/* ---- random numbers, data, text (util.c) ---- */

struct rng {
	uint64_t s;
};

uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n); /* 0 .. n-1; n > 0 */
bool rng_chance(struct rng *r, unsigned int percent);

void data_fill(uint8_t *buf, size_t len, uint64_t seed);
uint64_t data_hash(uint64_t h, const void *buf, size_t len);
/* Writes @s with C escapes; long runs of one byte are shortened when @brief. */
void text_escape(FILE *f, const char *s, bool brief);
/* Prints @s with long runs shortened, but else as it is. */
void text_brief(FILE *f, const char *s);
char *text_unescape(const char *s, const char **ret_end); /* owned by the caller */
int shell(const char *cmd); /* exit code, or -1 */

/* A directory's names, sorted, without "." and "..". */
struct name_entry {
	char *name; /* borrowed from @buf of the list */
	uint64_t ino;
	uint64_t off;
	uint8_t type;
};
struct name_list {
	struct name_entry *v; /* owned */
	size_t n, cap;
	char **chunk; /* owned: raw listings that hold the names */
	size_t chunks;
};
void name_list_free(struct name_list *l);
/* Reads the rest of directory @fd with a buffer of @buf_bytes (at least 300). 0 or -errno. In disk order. */
int name_list_read(struct name_list *l, int fd, size_t buf_bytes);
/* As above, but stops after the first buffer. 1: more may follow, 0: end. */
int name_list_read_some(struct name_list *l, int fd, size_t buf_bytes);
void name_list_sort(struct name_list *l);
/* DIFF_K_GHOSTS: leaves out names of devices in @dirfd that cannot be looked up. */
void name_list_drop_ghosts(struct name_list *l, int dirfd);

extern const char *const rnd_names[];
enum { RND_NAMES = 8 };
/* A POSIX ACL as the raw xattr; @variant picks its kind. Returns its length. */
size_t acl_fill(uint8_t *buf, uint64_t seed, uint32_t variant);
enum { ACL_VARIANTS = 6, ACL_BYTES_MAX = 4 + 8 * 8 };
int set_times(int dirfd, const char *name, int64_t mtime_s);

/* ---- documented differences (diffs.c) ---- */

enum diff {
	DIFF_DIR_SIZE,
	DIFF_DIR_NLINK,
	DIFF_BLOCKS,
	DIFF_CTIME,
	DIFF_ATIME,
	DIFF_DEV,
	DIFF_MMAP_MTIME,
	DIFF_SPECIAL_MTIME,
	DIFF_HIDDEN_LINKS,
	DIFF_HOLES,
	DIFF_WH_NAMES,
	DIFF_WHITEOUT_DEV,
	DIFF_ORDER,
	DIFF_ZERO_RANGE,
	DIFF_SGID_NO_EXEC,
	DIFF_SETID_CAPABILITY,
	DIFF_SETID_CHOWN,
	DIFF_EMPTY_TRUNCATE,
	DIFF_TMPFS_EMPTY_ACL,
	DIFF_DEAD_DIR_MTIME,
	DIFF_XFS_RENAME_MTIME,
	DIFF_BTRFS_PUNCH,
	DIFF_DEAD_DIR_TMPFILE,
	DIFF_NOTEMPTY,
	DIFF_K_STALE_FD,
	DIFF_K_INO_REUSE,
	DIFF_K_GHOSTS,
	DIFF_K_LIST_SIZE,
	DIFF_K_REDIRECT,
	DIFF_K_UNLINKED_NLINK,
	DIFF_K_EMPTY_ACL,
	DIFF_K_UNLINKED_CHANGE,
	DIFF_K_D_INO,
	DIFF_COUNT,
};

/* Whether the difference is accepted in this run: general ones always, the kernel's with --kernel. */
bool diff_ok(enum diff d);
/* A mode without the setgid bit where DIFF_SGID_NO_EXEC makes it meaningless. */
mode_t diff_mode(mode_t mode);
/* Accepts the difference of that name as if with --kernel. 0 or -EINVAL. */
int diff_accept(const char *name);
void diff_print_all(FILE *f);

/* ---- operations (optext.c: table and text; ops_*.c: what they do; gen.c: how they are made) ---- */

enum op_kind {
	OP_OPEN,
	OP_TMPFILE,
	OP_LINKFD,
	OP_CLOSE,
	OP_PUT,
	OP_READ,
	OP_PREAD,
	OP_WRITE,
	OP_PWRITE,
	OP_LSEEK,
	OP_SEEKHOLE,
	OP_FTRUNCATE,
	OP_TRUNCATE,
	OP_FALLOCATE,
	OP_MAPWRITE,
	OP_MAPREAD,
	OP_MAPHOLD,
	OP_MAPCHECK,
	OP_COPYRANGE,
	OP_FSYNC,
	OP_FSTAT,
	OP_MKDIR,
	OP_RMDIR,
	OP_UNLINK,
	OP_SYMLINK,
	OP_READLINK,
	OP_LINK,
	OP_RENAME,
	OP_MKNOD,
	OP_RMTREE,
	OP_READDIR,
	OP_READDIRCHG,
	OP_CHMOD,
	OP_FCHMOD,
	OP_CHOWN,
	OP_FCHOWN,
	OP_UTIMENS,
	OP_FUTIMENS,
	OP_SETXATTR,
	OP_GETXATTR,
	OP_LISTXATTR,
	OP_REMOVEXATTR,
	OP_FSETXATTR,
	OP_SETACL,
	OP_GETACL,
	OP_ACCESS,
	OP_STAT,
	OP_STATFS,
	OP_UMASK,
	OP_DROP, /* drop the machine's caches */
	OP_CHECK, /* compare the whole tree */
	OP_REMOUNT, /* close all, umount, mount, compare the whole tree */
	OP_KINDS,
};

struct op {
	enum op_kind kind;
	int user; /* index into rnd_users */
	int base; /* slot of the directory that paths start from, or -1 for the root */
	int slot, slot2;
	uint32_t flags, mode;
	int64_t off, len, off2;
	uint64_t seed;
	uint32_t check; /* enum check_bits: how much is compared afterwards */
	char *p, *q; /* owned */
};

enum check_bits { CHECK_XATTR = 1, CHECK_DATA = 2, CHECK_PARENT = 4, CHECK_ALL = 7 };

struct rnd_user {
	uid_t uid;
	gid_t gid;
	gid_t group; /* one supplementary group */
};
extern const struct rnd_user rnd_users[];
enum { RND_USERS = 4 };

enum utime_flags { UT_A_NOW = 1, UT_A_OMIT = 2, UT_M_NOW = 4, UT_M_OMIT = 8, UT_NOFOLLOW = 16 };

/* What one side answered. All but @why is compared. */
struct res {
	long ret;
	int err;
	uint64_t sum; /* hash over returned data */
	char head[400]; /* start of it, to be read by people */
	char why[512]; /* not empty: wrong in itself, whatever the other side says */
};

struct held_map {
	uint8_t *addr; /* owned mapping or NULL */
	size_t len;
};

struct side {
	int root; /* O_PATH descriptor of the world's root */
	bool is_mount;
	int fd[RND_SLOTS]; /* owned, -1 when free */
	struct held_map map[RND_SLOTS];
	uint8_t *buf; /* borrowed from the world, RND_BUF_BYTES */
};

typedef void (*op_exec_fn)(struct side *s, const struct op *o, struct res *r);

/* What an op may have changed, and is compared after it. */
enum touch_bits { T_P = 1, T_Q = 2, T_S = 4, T_S2 = 8 };

struct op_class {
	const char *name;
	unsigned int weight;
	op_exec_fn exec;
	unsigned int touch;
	const char *format; /* readable form; see op_print() */
};
extern const struct op_class op_classes[OP_KINDS];

void op_init(struct op *o);
void op_release(struct op *o);
void op_print(FILE *f, const struct op *o); /* for people */
void op_write(FILE *f, const struct op *o); /* for op_parse() */
int op_parse(const char *line, struct op *ret_op); /* 0 or -EINVAL */

struct op_list {
	struct op *v; /* owned */
	size_t n, cap;
	char sub[64]; /* subtree the ops are relative to */
};
int op_list_read(struct op_list *l, const char *path);
int op_list_write(const struct op_list *l, const char *path);
void op_list_release(struct op_list *l);
void op_list_print(FILE *f, const struct op_list *l);

void exec_open(struct side *s, const struct op *o, struct res *r);
void exec_tmpfile(struct side *s, const struct op *o, struct res *r);
void exec_linkfd(struct side *s, const struct op *o, struct res *r);
void exec_close(struct side *s, const struct op *o, struct res *r);
void exec_put(struct side *s, const struct op *o, struct res *r);
void exec_read(struct side *s, const struct op *o, struct res *r);
void exec_write(struct side *s, const struct op *o, struct res *r);
void exec_lseek(struct side *s, const struct op *o, struct res *r);
void exec_seekhole(struct side *s, const struct op *o, struct res *r);
void exec_truncate(struct side *s, const struct op *o, struct res *r);
void exec_fallocate(struct side *s, const struct op *o, struct res *r);
void exec_map(struct side *s, const struct op *o, struct res *r);
void exec_mapcheck(struct side *s, const struct op *o, struct res *r);
void exec_copyrange(struct side *s, const struct op *o, struct res *r);
void exec_fsync(struct side *s, const struct op *o, struct res *r);
void exec_fstat(struct side *s, const struct op *o, struct res *r);
void exec_names(struct side *s, const struct op *o, struct res *r);
void exec_rmtree(struct side *s, const struct op *o, struct res *r);
void exec_readdir(struct side *s, const struct op *o, struct res *r);
void exec_readdirchg(struct side *s, const struct op *o, struct res *r);
void exec_mode(struct side *s, const struct op *o, struct res *r);
void exec_utimens(struct side *s, const struct op *o, struct res *r);
void exec_xattr(struct side *s, const struct op *o, struct res *r);
void exec_look(struct side *s, const struct op *o, struct res *r);

void side_close_slot(struct side *s, int slot);
void res_set(struct res *r, long ret);
void res_data(struct res *r, const void *buf, size_t len);

/* ---- worlds and runs (run.c) ---- */

struct world {
	int id;
	char sub[64]; /* "" or "t<id>" */
	struct rng rng;
	struct side ora, mnt;
	uint64_t step;
	size_t objects; /* seen by the last whole check */
	bool slot_rdonly[RND_SLOTS];
	uint8_t *buf, *buf2; /* owned */
	FILE *log; /* owned */
	char log_path[PATH_MAX];
	struct op cur;
};

void world_gen(struct world *w, struct op *ret_op); /* gen.c */
/* Runs one op on both sides and compares. 0, or -1 when rnd_fail() was called. */
int world_exec(struct world *w, const struct op *o);
/* Waits till no other thread has done an op on one side only. Not to be called while one is being done. */
void world_settle(void);

/* One whole run in this process: mount, ops, umount. 0 = no difference. @list NULL: generate. */
int run_all(const struct op_list *list);
int shrink_run(const char *ops_path); /* shrink.c */
/* run_all() in a child; 0, 1 difference, 2 it died or hung. The answer is in rnd_failure. */
int run_forked(const struct op_list *list, unsigned int timeout_s);

/* ---- comparing (compare.c, tree.c, ident.c) ---- */

/* Compares two objects by O_PATH (or any) descriptors. @what names them in a report. */
int compare_fds(struct world *w, int ofd, int mfd, const char *what, uint32_t check);
int compare_path(struct world *w, const struct op *o, const char *path, uint32_t check);
int compare_slot(struct world *w, int slot, uint32_t check);
/* Whole tree below two directory descriptors. @own: only names with this prefix, or NULL. */
int tree_check(struct world *w, int ofd, int mfd, const char *where, const char *own);
/* Hash over all that a layer holds, to see that it never changes. */
int tree_fingerprint(int dirfd, uint64_t *ret_hash);

void ident_init(void);
int ident_check(struct world *w, const struct stat *o, const struct stat *m, int ofd,
		const char *what);
bool ident_mtime_is_loose(ino_t oracle_ino);
void ident_set_loose(ino_t oracle_ino, bool is_loose);
void ident_set_bias(ino_t oracle_ino, unsigned int hidden_links);
unsigned int ident_bias(ino_t oracle_ino);
/* Retires objects that died; @is_open says whether some slot still holds it. */
void ident_prune(bool (*is_open)(ino_t oracle_ino));
size_t ident_count(size_t *ret_dead);

/* ---- trees (populate.c, merge.c) ---- */

int populate(const char *dir, uint64_t seed, bool with_whiteouts, unsigned int threads);
/* Builds the merged view of @layers (topmost first) in @dst, which must be empty. 0 or -errno. */
int merge_layers(const char *const *layers, size_t n, const char *dst);
int remove_tree(int dirfd, const char *name, long *count);

/* ---- configuration and failure (main.c) ---- */

struct config {
	const char *mount, *umount, *reset, *mnt, *oracle, *replay, *log;
	const char *layers[RND_LAYERS_MAX];
	size_t layer_count;
	uint64_t seed, ops, check_every, remount_every;
	unsigned int threads, hang_s, shrink_s, drop_one_in;
	bool drop_caches, shrink, kernel, verbose, is_replay;
	bool is_without[OP_KINDS], is_without_users; /* not generated */
};
extern struct config cfg;

struct failure {
	atomic_int failed;
	int thread;
	uint64_t step;
	atomic_uint_least64_t done; /* operations so far: also the sign of life */
	char kind[32];
	int op; /* enum op_kind of the step */
	char text[6000];
};
extern struct failure *rnd_failure; /* shared with the children */

/* Records the first failure. Always returns -1. */
__attribute__((format(printf, 3, 4))) int rnd_fail(struct world *w, const char *kind,
						   const char *fmt, ...);

#endif
