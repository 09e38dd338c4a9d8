/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handle matrix. A cell is one object of one kind, with a directory tree of its own below the mount's root, to which one
 * or two events happen between the taking of its handle and its use. It is also the model of what must be there: every
 * change goes through a function of events.c that does it and notes what it means.
 *
 * The same functions run "dry" to find out which cells make sense at all, before anything is on disk.
 *
 *   bM/cN/                        the cell's directory
 *   bM/cN/<ancestor>[/x/x/...]/<parent>/obj   the object; further links go round parent, other, cN
 *   bM/cN/other/                  where it is moved to
 *   bM/cN/other/peerf, peerd      what it is exchanged with
 */
#ifndef RVL_TEST_MATRIX_H
#define RVL_TEST_MATRIX_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define NAMES_MAX 10
#define CONTENT_SIZE 160
#define PATH_SIZE 512
#define WHY_SIZE 320
#define EVENTS_MAX 2
#define ROOTS_MAX 8
#define FUSE_HANDLE_TYPE 0x81

enum place { IN_ROOT, IN_CELL, IN_PARENT, IN_OTHER };

struct name {
	enum place place;
	char leaf[24];
};

union handle {
	struct file_handle head;
	unsigned char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

/* The mount as the cells see it: replaced at every remount. */
struct world {
	const char *path; /* borrowed; absolute, no symlinks */
	int fd;		  /* of its root */
	const char *upper; /* a remount loses what index and map alone know, and here is what is left; NULL: it loses nothing */
};

struct cell;

struct kind {
	const char *name;
	mode_t type;
	unsigned n_names;
	bool is_root;
	bool is_root_child;
	bool is_deep;
	bool is_born;	  /* the object is made on the mount */
	bool is_all_born; /* its directories, too */
	bool is_tmpfile;  /* made by O_TMPFILE and a link */
	/* done on the mount before the handle is taken; NULL: nothing */
	int (*prepare)(struct cell *cell);
};

enum scope { LOCAL, DROP_CACHES, REMOUNT, KILL, N_SCOPES };

struct event {
	const char *name;
	enum scope scope; /* others than LOCAL happen once for all cells of a group */
	int (*happen)(struct cell *cell); /* LOCAL: 0, -errno, or NA */
};

enum { NA = 1 }; /* makes no sense for this cell: cell->na says why */

struct cell {
	unsigned id;
	const struct kind *kind;
	const struct event *events[EVENTS_MAX];
	struct world *world; /* borrowed */
	bool is_dry;
	const char *na;

	/* the model */
	char ancestor[12], parent[12];
	struct name names[NAMES_MAX]; /* the present ones; [0] is where the object was seen */
	unsigned n_names;
	bool is_open; /* held open, by fd */
	int fd;
	char content[CONTENT_SIZE]; /* data, or target */
	bool has_child;
	mode_t mode;
	uid_t uid;
	bool is_reborn; /* another object has its name now */
	struct name reborn;
	unsigned n_made; /* for names of things made in it */

	bool is_taken;
	uint64_t ino;
	union handle handle;

	bool is_lost; /* its names, and what was written, were in the index alone */
	bool is_failed;
	char why[WHY_SIZE];
};

extern const struct kind kinds[];
extern const unsigned n_kinds;
extern const struct event events[];
extern const unsigned n_events;

/* ---- cell.c ---- */
void cell_init(struct cell *cell, unsigned id, const struct kind *kind, const struct event *const when[EVENTS_MAX],
	       struct world *world);
/* Relative to the root of the mount or layer; buf has PATH_SIZE bytes. */
char *place_path(const struct cell *cell, enum place place, char *buf);
char *name_path(const struct cell *cell, const struct name *name, char *buf);
bool cell_exists(const struct cell *cell);
/* Notes the first failure; returns -1. */
int __attribute__((format(printf, 2, 3))) cell_fail(struct cell *cell, const char *format, ...);
/* Closes what it holds open: without a name it is dead then. */
void cell_close(struct cell *cell);

/* ---- tree.c: making objects, in layers or on the mount ---- */
int tree_make(struct cell *cell, const int *roots, unsigned n_roots);
int object_make(struct cell *cell, const int *roots, unsigned n_roots);
/* What a layer needs of this cell. */
int cell_make_lower(struct cell *cell, const int *roots, unsigned n_roots);
/* What is to be done on the mount before the handle is taken. */
int cell_prepare(struct cell *cell);
int file_make(int dirfd, const char *path, const char *content);

/* ---- events.c ---- */
int event_write(struct cell *cell);
int event_rename(struct cell *cell);
const struct event *event_find(const char *name);

/* ---- check.c ---- */
int cell_take(struct cell *cell);
/* After a remount that loses the index: a handle of what is in lower alone is stale, and is taken anew. What
 * has lost a name before is a lower object again. */
void cell_lose(struct cell *cell);
/* Everything that must be true of the cell now. Closes what it holds open. */
void cell_check(struct cell *cell);

#endif
