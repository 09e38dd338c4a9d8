// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reading real directories: every entry with its type, its whiteouts recognised. One buffer for
 * getdents64, one text for all names; a system call per entry only where the entry itself does not
 * tell enough.
 */
#include "layer/listing_raw.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/aufs.h"
#include "layer/path.h"

#define BUFFER_BYTES (128 * 1024)
#define ENTRY_BYTES_MAX 64 /* of a name of usual length */
#define SMALL_BYTES (64 * 1024) /* a directory that is read in any case */
#define TEXT_BYTES_MAX UINT32_MAX /* positions in the text have 32 bits */

struct reader {
	const struct rvl_stack *stack;
	const struct rvl_layer *layer;
	const struct rvl_secret *secret;
	int fd;
	bool is_xwhiteouts;
	struct rvl_raw *raw; /* borrowed from the caller */
};

void rvl_raw_release(struct rvl_raw *raw)
{
	free(raw->v);
	free(raw->text);
	*raw = (struct rvl_raw){ 0 };
}

static int raw_add(struct rvl_raw *raw, const struct rvl_raw_name *entry, const char *name)
{
	size_t bytes = strlen(name) + 1;

	if (raw->n == raw->room) {
		size_t room = raw->room ? raw->room * 2 : 64;
		void *v = reallocarray(raw->v, room, sizeof(*raw->v));

		if (!v)
			return -ENOMEM;
		raw->v = v;
		raw->room = room;
	}
	if (bytes > TEXT_BYTES_MAX - raw->text_bytes)
		return -E2BIG;
	if (bytes > raw->text_room - raw->text_bytes) {
		size_t room = (raw->text_room ? raw->text_room * 2 : 1024) + bytes;
		char *text = realloc(raw->text, room);

		if (!text)
			return -ENOMEM;
		raw->text = text;
		raw->text_room = room;
	}
	raw->v[raw->n] = *entry;
	raw->v[raw->n].name = (uint32_t)raw->text_bytes;
	memcpy(raw->text + raw->text_bytes, name, bytes);
	raw->text_bytes += bytes;
	raw->n++;
	return 0;
}

static uint8_t type_of_mode(unsigned mode)
{
	return (uint8_t)IFTODT(mode);
}

/* Is there something to be known of it that the entry by itself does not tell? */
static bool needs_statx(const struct reader *rd, const struct dirent64 *de)
{
	if (de->d_type == DT_UNKNOWN || de->d_type == DT_CHR || !rd->layer->has_ino_in_dirents)
		return true;
	if (de->d_type == DT_REG)
		return rd->is_xwhiteouts;
	/* Upper or work may lie below a lower: compare dev only if the ino is theirs. */
	return de->d_type == DT_DIR && !rd->layer->is_upper &&
	       ((rd->stack->has_upper && rd->stack->layers[0].ino == de->d_ino) ||
		(rd->stack->work_fd >= 0 && rd->stack->work_ino == de->d_ino));
}

/* 1: *entry is complete; 0: not to be listed. */
static int resolve(const struct reader *rd, const char *name, struct rvl_raw_name *entry)
{
	struct statx stx;
	int r = rvl_path_statx(rd->fd, name, STATX_BASIC_STATS, &stx);

	/* Gone meanwhile, or a mount point, which is not part of the layer. */
	if (r == -ENOENT || r == -EXDEV)
		return 0;
	if (r < 0)
		return r;
	entry->type = type_of_mode(stx.stx_mode);
	entry->ino = stx.stx_ino;
	if (entry->type == DT_DIR && !rd->layer->is_upper &&
	    rvl_stack_is_hidden(rd->stack, rvl_statx_dev(&stx), stx.stx_ino))
		return 0;
	r = rvl_whiteout_check(rd->stack, rd->fd, name, &stx, rd->is_xwhiteouts);
	if (r < 0)
		return r;
	if (r > 0)
		entry->kind = RVL_RAW_WHITEOUT;
	return 1;
}

static int read_entry(const struct reader *rd, const struct dirent64 *de)
{
	const char *name = de->d_name;
	struct rvl_raw_name entry = {
		.ino = de->d_ino,
		.type = de->d_type,
		.layer = (uint16_t)rd->layer->index,
		.kind = RVL_RAW_NAME,
	};
	int r;

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	if (!rvl_name_is_valid(name)) {
		rvl_warn_limited("%s: a name that cannot be one in a directory: %s",
				 rd->layer->path, name);
		return 0;
	}
	if (rd->layer->has_aufs && rvl_aufs_is_reserved(name)) {
		name = rvl_aufs_hidden_name(name);
		if (!name)
			return 0;
		entry.kind = RVL_RAW_AUFS_WHITEOUT;
	} else if (needs_statx(rd, de)) {
		r = resolve(rd, name, &entry);
		if (r <= 0)
			return r;
	}
	entry.offset = rvl_listing_offset(rd->secret, name);
	return raw_add(rd->raw, &entry, name);
}

/* By its size alone, which most filesystems give in bytes of entries: a directory that is not read saves
 * a look-up the time of reading max_names of it. */
static bool is_too_large(int fd, size_t max_names)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_size > SMALL_BYTES &&
	       (uint64_t)st.st_size / ENTRY_BYTES_MAX > max_names;
}

int rvl_raw_read(const struct rvl_stack *stack, const struct rvl_layer *layer, int fd,
		 const struct rvl_secret *secret, size_t max_names, struct rvl_raw *raw)
{
	struct reader rd = {
		.stack = stack,
		.layer = layer,
		.secret = secret,
		.fd = fd,
		.raw = raw,
	};
	_cleanup_free_ char *buffer = malloc(BUFFER_BYTES);
	size_t n_before = raw->n;
	int r;

	if (!buffer)
		return -ENOMEM;
	if (max_names && is_too_large(fd, max_names))
		return -E2BIG;
	if (layer->has_xattrs) {
		enum rvl_opaque opaque;

		r = rvl_opaque_get(stack, fd, "", &opaque);
		if (r < 0)
			return r;
		rd.is_xwhiteouts = opaque == RVL_OPAQUE_XWHITEOUTS;
	}
	for (;;) {
		ssize_t bytes = getdents64(fd, buffer, BUFFER_BYTES);

		if (bytes <= 0)
			return bytes < 0 ? -errno : 0;
		for (ssize_t at = 0; at < bytes;) {
			const struct dirent64 *de = (const void *)(buffer + at);

			r = read_entry(&rd, de);
			if (r < 0)
				return r;
			at += de->d_reclen;
		}
		if (max_names && raw->n - n_before > max_names)
			return -E2BIG;
	}
}

static int compare(const void *pa, const void *pb, void *text)
{
	const struct rvl_raw_name *a = pa, *b = pb;
	int r;

	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	r = strcmp((const char *)text + a->name, (const char *)text + b->name);
	if (r != 0)
		return r;
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return (int)a->kind - (int)b->kind;
}

void rvl_raw_sort(struct rvl_raw *raw)
{
	if (raw->n > 1)
		qsort_r(raw->v, raw->n, sizeof(*raw->v), compare, raw->text);
}
