/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rvl-crash: kill the server before and after every system call that changes something, mount
 * again, and look whether all is as docs/consistency.md says.
 *
 * A case is a list of steps (steps.h says which there are), each one system call that changes the
 * overlay. What the tree is after none, one, two … of them is found out by runs without a death.
 * Then for each change that the server makes on disk while it does the steps: a fresh world, the
 * server is killed there, and after a new mount the tree must be as after the steps that were
 * answered, or as after one more.
 *
 *   trace.c   a server under ptrace, stopped at each system call that changes something
 *   run.c     one life of a server, with a process that uses the mount meanwhile
 *   world.c   the layers, and what is done to them before a case
 *   tree.c    all that can be seen of a mount, as text; handles
 *   index.c   what must be true of upper and workdir when nothing is mounted
 */
#ifndef RVL_TESTS_CRASH_H
#define RVL_TESTS_CRASH_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define STEPS_MAX 4
#define CALLS_MAX 512
#define OBJECTS_MAX 192
#define TEXT_SIZE (256 << 10)
#define RUN_SECONDS 120 /* a life that takes longer hangs; on a busy machine one takes ten */

/* ---- the plan ---- */

struct options {
	const char *program, *ctl; /* ctl NULL: no check */
	const char *base; /* an empty directory, on the filesystem of the layers */
	const char *mount_options; /* added to ours; "" */
	const char *filter; /* part of a case's name; NULL: all */
	bool is_all; /* not only the first point of its kind */
	bool is_nested; /* also kill the recovery, at each of its steps */
	bool is_repaired; /* by reverlayctl, before the next mount */
	bool is_verbose;
	unsigned long only_point; /* 0: all */
	size_t first_case;
	unsigned part, n_parts; /* of the cases */
	unsigned share, n_shares; /* of the operations */
	unsigned n_workers;
};
extern struct options options;

struct test_case {
	char name[96]; /* operation and objects: what is printed, and filtered */
	char operation[24];
	char steps[192]; /* "step word word; step …" */
};
/* All cases; owned by the callee. */
const struct test_case *cases_all(size_t *ret_n);

/* ---- shared between the harness and the processes that use the mount ---- */

struct object { /* that was there before the steps */
	char path[64];
	uint64_t ino;
	mode_t mode;
	bool is_found; /* by its handle, after the death */
	uint64_t found_ino;
	mode_t found_mode;
	int error; /* if not */
	unsigned handle_len;
	int handle_type;
	unsigned char handle[32];
};

struct inos {
	unsigned n;
	uint64_t v[OBJECTS_MAX];
};

struct shared {
	_Atomic int is_mounted;
	_Atomic int is_armed; /* changes count from now on */
	_Atomic int n_done; /* steps answered with success */
	int n_steps; /* to be done in this life */
	char message[512]; /* what went wrong, if anything did */
	unsigned n_objects;
	struct object objects[OBJECTS_MAX];
	struct inos inos; /* numbers in the tree */
	size_t text_len;
	char text[TEXT_SIZE]; /* the tree */
};
extern struct shared *shared;
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...);

/* ---- world.c ---- */

struct world {
	char dir[PATH_MAX], upper[PATH_MAX], work[PATH_MAX], mnt[PATH_MAX], log[PATH_MAX];
	char lower[2][PATH_MAX];
};
/* Fresh layers in base/NAME; what was there goes. */
void world_make(struct world *world, const char *name);
void world_remove(const char *path);
/* Through the mount: what must be there before each case. */
int world_setup(const char *mnt);

/* ---- steps.c ---- */

/* Do one step below dirfd. 0 or -errno. */
int step_do(int dirfd, const char *text);
/* Number of steps in a list; step i of it, cut out. */
unsigned steps_count(const char *list);
void step_get(const char *list, unsigned i, char *ret, size_t size);
/* Close what steps left open. */
void steps_close(void);

/* ---- tree.c ---- */

/* The tree below mnt into shared->text and ->inos; false: complained. */
bool tree_read(const char *mnt);
bool tree_has(uint64_t ino);
/* Handles of all that is in the tree -> shared->objects. */
bool tree_handles(const char *mnt);
/* Open them, before anything else is asked. */
void tree_decode(const char *mnt);
/* Each must be in the tree that was read, or be stale. */
bool tree_check_decoded(void);
/* Is the tree that was read this one? */
bool tree_is(const char *expected);
/* The first lines in which two trees differ. */
void tree_print_difference(const char *a, const char *b);

/* ---- index.c ---- */

/* With nothing mounted after a clean end: all entries lead to what the tree shows, all of upper has
 * its entry, nothing is pending, work/ is empty. */
bool index_check(const struct world *world);
/* Of that: nothing is pending, work/ is empty. */
bool index_is_finished(const struct world *world);

/* ---- trace.c ---- */

struct call {
	char what[64]; /* name of the system call and the kind of its target */
};

struct trace {
	/* in */
	unsigned long kill_at; /* the n-th counted call, from 1; 0: never */
	bool is_after; /* when it is done, not before */
	bool is_recovery; /* what is done before the mount counts, not what is done when armed */
	bool is_idle; /* nothing counts: the server is not stopped at its calls, which takes time */
	/* out */
	unsigned long n_calls;
	struct call calls[CALLS_MAX];
	bool is_killed;
	int status; /* of the server, if it was not killed */
};

/* Starts argv under ptrace with stderr to log; the caller then loops with trace_step until it
 * returns false (the server is gone). *ret_other: another child's pid that ended (its status). */
pid_t trace_start(const struct trace *trace, char *const argv[], const char *log);
bool trace_step(struct trace *trace, pid_t server, pid_t *ret_other, int *ret_status);

/* ---- run.c ---- */

/* One life of a server: mounted, use(arg) in a process of its own, unmounted. Returns the exit code
 * of use, -1 if it was cut short. */
int run_life(const struct world *world, struct trace *trace, int (*use)(void *arg), void *arg);

#endif
