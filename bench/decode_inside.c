// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a decode takes inside the server: the overlay is opened in this process, as a mount does, and asked for each of
 * the handles from standard input (as `decode save` writes them) what the kernel asks for it, LOOKUP ".". Nothing is in
 * memory before. A line each: the time of the first, the median, 99 % and the longest, in microseconds.
 *
 * Usage: rvl-decode-inside LOWER UPPER WORK
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "inside.h"

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

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* fs/fuse/inode.c, fuse_encode_fh: both halves of the number, then the generation */
static int decode(struct rvl_overlay *ov, const struct record *record)
{
	struct rvl_entry entry;
	uint32_t words[3];
	uint64_t number;
	int r;

	memcpy(words, record->head.f_handle, sizeof(words));
	number = (uint64_t)words[0] << 32 | words[1];
	r = rvl_overlay_lookup(ov, 0, number, ".", &entry);
	return r < 0 ? r : entry.number == number && entry.generation == words[2] ? 0 : -ESTALE;
}

int main(int argc, char *argv[])
{
	double *times = calloc(MAX_HANDLES, sizeof(*times)), first;
	struct inside inside = {};
	struct record record;
	unsigned n = 0;
	int r;

	if (argc != 4 || !times) {
		fprintf(stderr, "usage: rvl-decode-inside LOWER UPPER WORK\n");
		return 2;
	}
	r = inside_open(argv[1], argv[2], argv[3], &inside);
	while (r == 0 && n < MAX_HANDLES && fread(&record, sizeof(record), 1, stdin) == 1) {
		const double begin = now_us();

		r = decode(inside.ov, &record);
		times[n++] = now_us() - begin;
	}
	if (r < 0 || n == 0) {
		fprintf(stderr, "rvl-decode-inside: %s\n", strerror(-r));
		return 1;
	}
	inside_close(&inside);
	first = times[0];
	qsort(times, n, sizeof(*times), compare);
	printf("%.2f\n%.2f\n%.2f\n%.2f\n", first, times[n / 2], times[n * 99 / 100], times[n - 1]);
	return 0;
}
