// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * External merge sort: full buffers are sorted and written as runs, which are merged while they are
 * read. A run is read through a buffer of its own, so a sort of n records holds
 * n / RVL_SORTER_RECORDS buffers.
 */
#include "check/sorter.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "check/spool.h"

#define RUN_BUFFER_RECORDS 1024
static_assert(sizeof(struct rvl_fact) == 40, "documented size");

struct run {
	uint64_t at, end; /* in the file, of what is not in the buffer */
	struct rvl_fact *buffer; /* owned */
	size_t n, next; /* in the buffer */
};

struct rvl_sorter {
	struct rvl_fact *records; /* owned */
	size_t n, max, next;
	uint64_t n_all;
	int fd; /* owned; -EBADF: all fits into memory */
	uint64_t file_size;
	struct run *runs; /* owned; a heap by the next record once reading has begun */
	size_t n_runs;
	bool is_reading;
};

static unsigned rank(const struct rvl_fact *fact)
{
	return fact->kind >= RVL_FACT_VIEW ? RVL_FACT_VIEW : fact->kind;
}

#define COMPARE(x, y)                              \
	do {                                       \
		if ((x) != (y))                    \
			return (x) < (y) ? -1 : 1; \
	} while (0)

static int compare(const void *pa, const void *pb)
{
	const struct rvl_fact *a = pa, *b = pb;

	COMPARE(a->number, b->number);
	COMPARE(rank(a), rank(b));
	COMPARE(a->key, b->key);
	COMPARE(a->kind, b->kind);
	COMPARE(a->item, b->item);
	return 0;
}

int rvl_sorter_new(size_t max_records, struct rvl_sorter **ret)
{
	struct rvl_sorter *sorter = calloc(1, sizeof(*sorter));

	if (!sorter)
		return -ENOMEM;
	sorter->max = max_records ?: RVL_SORTER_RECORDS;
	sorter->fd = -EBADF;
	sorter->records = calloc(sorter->max, sizeof(*sorter->records));
	if (!sorter->records) {
		free(sorter);
		return -ENOMEM;
	}
	*ret = sorter;
	return 0;
}

void rvl_sorter_free(struct rvl_sorter *sorter)
{
	if (!sorter)
		return;
	for (size_t i = 0; i < sorter->n_runs; i++)
		free(sorter->runs[i].buffer);
	free(sorter->runs);
	rvl_close(sorter->fd);
	free(sorter->records);
	free(sorter);
}

static int write_all(struct rvl_sorter *sorter, const void *data, size_t len)
{
	int r = rvl_temp_file_write(sorter->fd, data, len, sorter->file_size);

	if (r < 0)
		return r;
	sorter->file_size += len;
	return 0;
}

static int write_run(struct rvl_sorter *sorter)
{
	struct run *runs = reallocarray(sorter->runs, sorter->n_runs + 1, sizeof(*runs));
	struct run run = { .at = sorter->file_size };
	int r;

	if (!runs)
		return -ENOMEM;
	sorter->runs = runs;
	if (sorter->fd < 0)
		sorter->fd = rvl_temp_file_open();
	if (sorter->fd < 0)
		return sorter->fd;
	qsort(sorter->records, sorter->n, sizeof(*sorter->records), compare);
	r = write_all(sorter, sorter->records, sorter->n * sizeof(*sorter->records));
	if (r)
		return r;
	run.end = sorter->file_size;
	runs[sorter->n_runs++] = run;
	sorter->n = 0;
	return 0;
}

int rvl_sorter_add(struct rvl_sorter *sorter, const struct rvl_fact *fact)
{
	int r = sorter->n == sorter->max ? write_run(sorter) : 0;

	if (r)
		return r;
	sorter->records[sorter->n++] = *fact;
	sorter->n_all++;
	return 0;
}

uint64_t rvl_sorter_count(const struct rvl_sorter *sorter)
{
	return sorter->n_all;
}

/* ---- merging ---- */

static int fill(struct rvl_sorter *sorter, struct run *run)
{
	size_t len = RUN_BUFFER_RECORDS * sizeof(*run->buffer);
	ssize_t n;

	if (len > run->end - run->at)
		len = run->end - run->at;
	if (!run->buffer)
		run->buffer = calloc(RUN_BUFFER_RECORDS, sizeof(*run->buffer));
	if (!run->buffer)
		return -ENOMEM;
	n = len ? pread(sorter->fd, run->buffer, len, (off_t)run->at) : 0;
	if (n != (ssize_t)len)
		return n < 0 ? -errno : -EIO;
	run->at += len;
	run->n = len / sizeof(*run->buffer);
	run->next = 0;
	return 0;
}

static bool is_less(const struct run *a, const struct run *b)
{
	return compare(&a->buffer[a->next], &b->buffer[b->next]) < 0;
}

static void sift_down(struct rvl_sorter *sorter, size_t i)
{
	for (;;) {
		size_t least = i, child = 2 * i + 1;
		struct run run;

		for (size_t c = child; c < child + 2 && c < sorter->n_runs; c++)
			if (is_less(&sorter->runs[c], &sorter->runs[least]))
				least = c;
		if (least == i)
			return;
		run = sorter->runs[i];
		sorter->runs[i] = sorter->runs[least];
		sorter->runs[least] = run;
		i = least;
	}
}

static int begin_reading(struct rvl_sorter *sorter)
{
	sorter->is_reading = true;
	if (!sorter->n_runs) {
		qsort(sorter->records, sorter->n, sizeof(*sorter->records), compare);
		return 0;
	}
	if (sorter->n) {
		int r = write_run(sorter);

		if (r)
			return r;
	}
	free(sorter->records);
	sorter->records = NULL;
	for (size_t i = 0; i < sorter->n_runs; i++) {
		int r = fill(sorter, &sorter->runs[i]);

		if (r)
			return r;
	}
	for (size_t i = sorter->n_runs / 2 + 1; i-- > 0;)
		sift_down(sorter, i);
	return 0;
}

int rvl_sorter_next(struct rvl_sorter *sorter, struct rvl_fact *ret)
{
	struct run *top;
	int r = sorter->is_reading ? 0 : begin_reading(sorter);

	if (r)
		return r;
	if (sorter->records) {
		if (sorter->next == sorter->n)
			return 0;
		*ret = sorter->records[sorter->next++];
		return 1;
	}
	if (!sorter->n_runs)
		return 0;
	top = &sorter->runs[0];
	*ret = top->buffer[top->next++];
	if (top->next == top->n) {
		r = fill(sorter, top);
		if (r)
			return r;
	}
	if (!top->n) {
		free(top->buffer);
		*top = sorter->runs[--sorter->n_runs];
	}
	sift_down(sorter, 0);
	return 1;
}
