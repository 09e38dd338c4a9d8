// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Times single operations, with one or several processes at once, each in a directory of its own.
 *
 * Usage: ops DIR PROCESSES COUNT[:FILES] OPERATION...
 *
 * Process n works in DIR/p<n>, where the files f0 … f<FILES-1> lie already; COUNT of them are used, evenly spread. The
 * operations are done in the order given, by all processes together: none begins an operation before all have ended the
 * one before. A line for each, "name number": the time from the first begin to the last end divided by all operations done,
 * in microseconds. Operations whose name ends in -first are to be the first of their kind after a mount; what they ask
 * for is in no cache of the mount.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_PROCESSES 16
#define MAX_OPERATIONS 64
#define IO_SIZE 4096

struct shared {
	pthread_barrier_t barrier;
	uint64_t begin_ns[MAX_OPERATIONS][MAX_PROCESSES];
	uint64_t end_ns[MAX_OPERATIONS][MAX_PROCESSES];
};

static char (*names[26])[12]; /* by letter */
static char buf[IO_SIZE];
static unsigned count, n_files;

static const char *name(char letter, unsigned i)
{
	return names[letter - 'a'][i];
}

static void make_names(void)
{
	for (const char *letter = "acdflrs"; *letter; letter++) {
		names[*letter - 'a'] = calloc(count, sizeof(*names[0]));
		for (unsigned i = 0; i < count; i++)
			snprintf(names[*letter - 'a'][i], sizeof(*names[0]), "%c%u", *letter,
				 *letter == 'f' ? (unsigned)((uint64_t)i * n_files / count) : i);
	}
}

/* ---- the operations: 0, or -1 with errno ---- */

static int stat_name(char letter, unsigned i)
{
	struct stat st;

	return fstatat(AT_FDCWD, name(letter, i), &st, AT_SYMLINK_NOFOLLOW);
}

static int op_stat(unsigned i)
{
	return stat_name('f', i);
}

static int op_absent(unsigned i)
{
	if (stat_name('a', i) == 0)
		errno = EEXIST;
	return errno == ENOENT ? 0 : -1;
}

static int open_read(char letter, unsigned i)
{
	const int fd = open(name(letter, i), O_RDONLY);
	const ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));

	return fd < 0 || n != sizeof(buf) ? -1 : close(fd);
}

static int op_open_read(unsigned i)
{
	return open_read('f', i);
}

static int op_open_read_upper(unsigned i)
{
	return open_read('c', i);
}

static int op_readdir(unsigned i)
{
	DIR *dir = opendir(".");
	unsigned n = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		n++;
	closedir(dir);
	errno = EIO;
	return n < n_files ? -1 : 0;
}

static int op_create(unsigned i)
{
	const int fd = open(name('c', i), O_CREAT | O_EXCL | O_WRONLY, 0644);

	return fd < 0 ? -1 : close(fd);
}

static int open_write(char letter, unsigned i, size_t size, int flags)
{
	const int fd = open(name(letter, i), O_WRONLY | flags);
	const ssize_t n = fd < 0 ? -1 : write(fd, buf, size);

	return fd < 0 || n != (ssize_t)size ? -1 : close(fd);
}

static int op_write(unsigned i)
{
	return open_write('c', i, sizeof(buf), 0);
}

static int op_copy_up(unsigned i)
{
	return open_write('f', i, 1, O_APPEND);
}

static int op_chmod(unsigned i)
{
	return chmod(name('c', i), 0600);
}

static int op_link(unsigned i)
{
	return link(name('c', i), name('l', i));
}

static int op_rename(unsigned i)
{
	return rename(name('l', i), name('r', i));
}

static int op_unlink_link(unsigned i)
{
	return unlink(name('r', i));
}

static int op_unlink(unsigned i)
{
	return unlink(name('c', i));
}

static int op_unlink_lower(unsigned i)
{
	return unlink(name('f', i));
}

static int op_mkdir(unsigned i)
{
	return mkdir(name('d', i), 0755);
}

static int op_rmdir(unsigned i)
{
	return rmdir(name('d', i));
}

static int op_symlink(unsigned i)
{
	return symlink("target", name('s', i));
}

/* What has no cost of its own to the server is repeated, to be measurable. part: which of COUNT, in tenths. */
static const struct operation {
	const char *name;
	int (*fn)(unsigned i);
	unsigned repeats, from, to;
} operations[] = {
	{ "stat-first", op_stat, 1, 0, 10 },
	{ "stat", op_stat, 10, 0, 10 },
	{ "absent-first", op_absent, 1, 0, 10 },
	{ "absent", op_absent, 10, 0, 10 },
	{ "open-read-first", op_open_read, 1, 0, 10 },
	{ "open-read", op_open_read, 2, 0, 10 },
	{ "readdir-first", op_readdir, 1, 0, 0 },
	{ "readdir", op_readdir, 20, 0, 0 },
	{ "create", op_create, 1, 0, 10 },
	{ "write", op_write, 1, 0, 10 },
	{ "open-read-upper", op_open_read_upper, 2, 0, 10 },
	{ "chmod", op_chmod, 1, 0, 10 },
	{ "link", op_link, 1, 0, 10 },
	{ "rename", op_rename, 1, 0, 10 },
	{ "unlink-link", op_unlink_link, 1, 0, 10 },
	{ "unlink", op_unlink, 1, 0, 10 },
	{ "mkdir", op_mkdir, 1, 0, 10 },
	{ "rmdir", op_rmdir, 1, 0, 10 },
	{ "symlink", op_symlink, 1, 0, 10 },
	{ "copy-up", op_copy_up, 1, 0, 5 },
	{ "unlink-lower", op_unlink_lower, 1, 5, 10 },
};
#define N_OPERATIONS (sizeof(operations) / sizeof(operations[0]))

static const struct operation *find(const char *text)
{
	for (size_t i = 0; i < N_OPERATIONS; i++)
		if (strcmp(operations[i].name, text) == 0)
			return &operations[i];
	fprintf(stderr, "ops: no such operation: %s\n", text);
	exit(2);
}

/* Of an operation on the directory itself (to == 0) there is one a repeat. */
static unsigned times(const struct operation *op)
{
	return op->to ? count * op->to / 10 - count * op->from / 10 : 1;
}

static int run(const struct operation *op)
{
	const unsigned from = count * op->from / 10;
	const unsigned to = from + times(op);

	for (unsigned repeat = 0; repeat < op->repeats; repeat++) {
		for (unsigned i = from; i < to; i++) {
			if (op->fn(i) < 0) {
				fprintf(stderr, "ops: %s %u: %s\n", op->name, i, strerror(errno));
				return -1;
			}
		}
	}
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Goes on after an error, so that the others do not wait for ever. */
static int child(struct shared *shared, const char *dir, unsigned n, int argc, char *argv[])
{
	char sub[16];
	int r = 0;

	snprintf(sub, sizeof(sub), "p%u", n);
	if (chdir(dir) < 0 || chdir(sub) < 0) {
		perror(sub);
		r = 1;
	}
	for (int i = 0; i < argc; i++) {
		pthread_barrier_wait(&shared->barrier);
		shared->begin_ns[i][n] = now_ns();
		if (r == 0 && run(find(argv[i])) < 0)
			r = 1;
		shared->end_ns[i][n] = now_ns();
	}
	return r;
}

static void report(const struct shared *shared, unsigned n_processes, int argc, char *argv[])
{
	for (int i = 0; i < argc; i++) {
		const struct operation *op = find(argv[i]);
		uint64_t begin = UINT64_MAX, end = 0;

		for (unsigned n = 0; n < n_processes; n++) {
			if (shared->begin_ns[i][n] < begin)
				begin = shared->begin_ns[i][n];
			if (shared->end_ns[i][n] > end)
				end = shared->end_ns[i][n];
		}
		printf("%s %.4f\n", op->name,
		       (end - begin) / 1e3 / ((double)times(op) * op->repeats * n_processes));
	}
}

int main(int argc, char *argv[])
{
	const unsigned n_processes = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	pthread_barrierattr_t attr;
	struct shared *shared;
	char *rest = NULL;
	int status, failed = 0;

	count = argc > 3 ? strtoul(argv[3], &rest, 10) : 0;
	n_files = rest && *rest == ':' ? strtoul(rest + 1, NULL, 10) : count;
	if (argc < 5 || argc - 4 > MAX_OPERATIONS || !n_processes || n_processes > MAX_PROCESSES || !count) {
		fprintf(stderr, "usage: ops DIR PROCESSES COUNT[:FILES] OPERATION...\n");
		return 2;
	}
	for (int i = 4; i < argc; i++)
		find(argv[i]);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	pthread_barrierattr_init(&attr);
	pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&shared->barrier, &attr, n_processes);
	make_names();
	for (unsigned n = 0; n < n_processes; n++)
		if (fork() == 0)
			_exit(child(shared, argv[1], n, argc - 4, argv + 4));
	while (wait(&status) > 0)
		failed |= status != 0;
	if (!failed)
		report(shared, n_processes, argc - 4, argv + 4);
	return failed;
}
