// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Handles of many files, for bench/decode.py.
 *
 *   decode make DIR FILES         makes DIR/d<i / 1000>/f<i>; the time in seconds
 *   decode save DIR FILES COUNT   handles of COUNT of them, drawn evenly, to standard output
 *   decode open DIR               opens the handles from standard input in the filesystem of DIR. A line each: the time of the
 *                                 first, the median, 99 % and the longest, in microseconds
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PER_DIRECTORY 1000
#define MAX_HANDLES 1000000

struct record {
	struct file_handle head;
	unsigned char bytes[MAX_HANDLE_SZ];
};

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static int fail(const char *what)
{
	fprintf(stderr, "decode: %s: %s\n", what, strerror(errno));
	return 1;
}

static int make(const char *dir, unsigned n)
{
	const double begin = now_us();
	char path[32];
	int fd;

	if (chdir(dir) < 0)
		return fail(dir);
	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "d%u", i / PER_DIRECTORY);
		if (i % PER_DIRECTORY == 0 && mkdir(path, 0755) < 0)
			return fail(path);
		snprintf(path, sizeof(path), "d%u/f%u", i / PER_DIRECTORY, i);
		fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0)
			return fail(path);
		close(fd);
	}
	printf("%.3f\n", (now_us() - begin) / 1e6);
	return 0;
}

static int save(const char *dir, unsigned n, unsigned count)
{
	struct record record;
	char path[32];
	int mount_id;

	if (chdir(dir) < 0)
		return fail(dir);
	for (unsigned k = 0; k < count; k++) {
		/* a step without a common divisor: neighbours in the list are far from each other */
		const unsigned i = (uint64_t)k * 7919 * (n / count ?: 1) % n;

		memset(&record, 0, sizeof(record));
		record.head.handle_bytes = MAX_HANDLE_SZ;
		snprintf(path, sizeof(path), "d%u/f%u", i / PER_DIRECTORY, i);
		if (name_to_handle_at(AT_FDCWD, path, &record.head, &mount_id, 0) < 0)
			return fail(path);
		if (fwrite(&record, sizeof(record), 1, stdout) != 1)
			return fail("write");
	}
	return fflush(stdout) ? fail("write") : 0;
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int open_all(const char *dir)
{
	double *times = calloc(MAX_HANDLES, sizeof(*times)), first;
	const int mount_fd = open(dir, O_RDONLY | O_DIRECTORY);
	struct record record;
	unsigned n = 0;

	if (mount_fd < 0 || !times)
		return fail(dir);
	while (n < MAX_HANDLES && fread(&record, sizeof(record), 1, stdin) == 1) {
		const double begin = now_us();
		const int fd = open_by_handle_at(mount_fd, &record.head, O_PATH);

		if (fd < 0)
			return fail("open_by_handle_at");
		times[n++] = now_us() - begin;
		close(fd);
	}
	if (n == 0)
		return fail("no handles");
	first = times[0];
	qsort(times, n, sizeof(*times), compare);
	printf("%.2f\n%.2f\n%.2f\n%.2f\n", first, times[n / 2], times[n * 99 / 100], times[n - 1]);
	return 0;
}

int main(int argc, char *argv[])
{
	const unsigned n = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
	const unsigned count = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;

	if (argc == 4 && n && strcmp(argv[1], "make") == 0)
		return make(argv[2], n);
	if (argc == 5 && n && count && strcmp(argv[1], "save") == 0)
		return save(argv[2], n, count);
	if (argc == 3 && strcmp(argv[1], "open") == 0)
		return open_all(argv[2]);
	fprintf(stderr, "usage: decode make DIR FILES | save DIR FILES COUNT | open DIR\n");
	return 2;
}
