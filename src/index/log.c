// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The log: an append-only file of BEGIN and END records, and the table of what is pending.
 *
 * A record is whole or it is not there: a write that stopped half way is cut off again, and a
 * reader stops at the first record whose checksum is wrong. The table holds the encoded BEGIN of
 * each pending operation, oldest first, so that the file can be written anew with these alone.
 *
 * Rewriting: log.new with all pending records, fsync, rename. After a crash either file is the
 * log, both say the same.
 */
#include "index/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/counters.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/number.h"
#include "layer/path.h"

#define LOG_NAME "log"
#define LOG_TEMP_NAME "log.new"
#define LOG_MAGIC "RVLLOG\0"
#define LOG_VERSION 1
#define LOG_READ_MAX_BYTES (256 << 20)
#define LOG_SHORTEN_BYTES (64 << 10) /* with nothing pending the file is cut when it is longer */
#define LOG_BUCKETS 1024
#define LOG_ID_MAX (1ULL << 62)

struct disk_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t zero;
};
static_assert(sizeof(struct disk_header) == 16, "disk_header");

/* All records begin so; an END is only this. */
struct disk_record {
	uint32_t len; /* of the whole record */
	uint32_t checksum; /* of all that follows */
	uint8_t kind;
	uint8_t op;
	uint8_t at_name_len, to_name_len;
	uint32_t flags;
	uint64_t id;
};
static_assert(sizeof(struct disk_record) == 24, "disk_record");

/* A BEGIN goes on with this, then the two names. */
struct disk_begin {
	uint64_t number, number2;
	uint64_t at_parent, to_parent;
};
static_assert(sizeof(struct disk_begin) == 32, "disk_begin");
static_assert(sizeof(struct disk_record) + sizeof(struct disk_begin) + 2 * NAME_MAX <=
		      RVL_LOG_RECORD_MAX,
	      "RVL_LOG_RECORD_MAX");

struct pending {
	struct pending *next, *prev; /* list, oldest first */
	struct pending *chain; /* same bucket */
	uint64_t id;
	bool is_former; /* of the former process, to be replayed */
	unsigned len;
	uint8_t bytes[]; /* the encoded BEGIN */
};

struct rvl_log {
	pthread_mutex_t lock; /* guards all below */
	int inodes_fd; /* borrowed from the index */
	int fd; /* owned; -EBADF for a reader of no log */
	bool is_writable, is_volatile;
	bool has_lost_end; /* a record that is done looks pending in the file */
	bool has_dropped; /* so do some that may: they go when the file is closed */
	bool is_torn; /* as it was opened */
	bool is_broken; /* its end could not be cut off: nothing more is written */
	uint64_t size; /* of the file */
	uint64_t rewrite_at;
	uint64_t next_id;
	struct pending *first, *last;
	struct pending *buckets[LOG_BUCKETS];
	size_t n_pending;
	uint64_t pending_bytes;
};

int rvl_log_record_encode(enum rvl_log_kind kind, uint64_t id, const struct rvl_log_record *record,
			  uint8_t buf[RVL_LOG_RECORD_MAX])
{
	struct disk_record head = { .kind = (uint8_t)kind, .id = htole64(id) };
	unsigned len = sizeof(head);

	if (kind == RVL_LOG_BEGIN) {
		size_t at_len = strnlen(record->at.name, sizeof(record->at.name));
		size_t to_len = strnlen(record->to.name, sizeof(record->to.name));
		struct disk_begin begin = {
			.number = htole64(record->number),
			.number2 = htole64(record->number2),
			.at_parent = htole64(record->at.parent),
			.to_parent = htole64(record->to.parent),
		};

		if (at_len > NAME_MAX || to_len > NAME_MAX)
			return -EINVAL;
		head.op = (uint8_t)record->op;
		head.flags = htole32(record->flags);
		head.at_name_len = (uint8_t)at_len;
		head.to_name_len = (uint8_t)to_len;
		memcpy(buf + len, &begin, sizeof(begin));
		len += sizeof(begin);
		memcpy(buf + len, record->at.name, at_len);
		len += at_len;
		memcpy(buf + len, record->to.name, to_len);
		len += to_len;
	}
	head.len = htole32(len);
	memcpy(buf, &head, sizeof(head));
	rvl_put_le32(buf + 4, rvl_checksum(buf + 8, len - 8));
	return (int)len;
}

/* A place of a record: parent 0 without a name, or a number with a name that can be served. */
static int decode_place(uint64_t parent, const uint8_t *name, size_t name_len,
			struct rvl_name_at *ret)
{
	*ret = (struct rvl_name_at){ .parent = parent };
	if (!parent)
		return name_len ? -EUCLEAN : 0;
	memcpy(ret->name, name, name_len);
	if (!rvl_number_is_valid(parent) || strlen(ret->name) != name_len ||
	    !rvl_name_is_valid(ret->name))
		return -EUCLEAN;
	return 0;
}

static int decode_begin(const struct disk_record *head, const uint8_t *data, size_t len,
			struct rvl_log_record *ret)
{
	struct disk_begin begin;

	if (len != sizeof(begin) + head->at_name_len + head->to_name_len)
		return -EUCLEAN;
	memcpy(&begin, data, sizeof(begin));
	data += sizeof(begin);
	ret->op = head->op;
	ret->flags = le32toh(head->flags);
	ret->number = le64toh(begin.number);
	ret->number2 = le64toh(begin.number2);
	if (head->op == 0 || head->op >= RVL_LOG_OP_N || !rvl_number_is_valid(ret->number) ||
	    (ret->number2 && !rvl_number_is_valid(ret->number2)))
		return -EUCLEAN;
	if (decode_place(le64toh(begin.at_parent), data, head->at_name_len, &ret->at) ||
	    decode_place(le64toh(begin.to_parent), data + head->at_name_len, head->to_name_len,
			 &ret->to))
		return -EUCLEAN;
	return 0;
}

int rvl_log_record_decode(const void *buf, size_t len, enum rvl_log_kind *ret_kind,
			  uint64_t *ret_id, struct rvl_log_record *ret)
{
	const uint8_t *bytes = buf;
	struct disk_record head;
	unsigned record_len;
	int r;

	if (len < sizeof(head))
		return -EUCLEAN;
	memcpy(&head, bytes, sizeof(head));
	record_len = le32toh(head.len);
	if (record_len < sizeof(head) || record_len > RVL_LOG_RECORD_MAX || record_len > len ||
	    le32toh(head.checksum) != rvl_checksum(bytes + 8, record_len - 8) ||
	    le64toh(head.id) >= LOG_ID_MAX)
		return -EUCLEAN;
	switch (head.kind) {
	case RVL_LOG_BEGIN:
		r = decode_begin(&head, bytes + sizeof(head), record_len - sizeof(head), ret);
		if (r)
			return r;
		break;
	case RVL_LOG_END:
		if (record_len != sizeof(head))
			return -EUCLEAN;
		break;
	default:
		return -EUCLEAN;
	}
	*ret_kind = head.kind;
	*ret_id = le64toh(head.id);
	return (int)record_len;
}

static struct pending **find_pending(struct rvl_log *log, uint64_t id)
{
	struct pending **p = &log->buckets[id % LOG_BUCKETS];

	while (*p && (*p)->id != id)
		p = &(*p)->chain;
	return p;
}

static int add_pending(struct rvl_log *log, uint64_t id, const uint8_t *bytes, unsigned len,
		       bool is_former)
{
	struct pending *pending = malloc(sizeof(*pending) + len);
	struct pending **bucket = &log->buckets[id % LOG_BUCKETS];

	if (!pending)
		return -ENOMEM;
	*pending = (struct pending){
		.prev = log->last, .chain = *bucket, .id = id, .is_former = is_former, .len = len
	};
	memcpy(pending->bytes, bytes, len);
	*bucket = pending;
	if (log->last)
		log->last->next = pending;
	else
		log->first = pending;
	log->last = pending;
	log->n_pending++;
	log->pending_bytes += len;
	return 0;
}

static void drop_pending(struct rvl_log *log, uint64_t id)
{
	struct pending **p = find_pending(log, id), *pending = *p;

	if (!pending)
		return;
	*p = pending->chain;
	if (pending->prev)
		pending->prev->next = pending->next;
	else
		log->first = pending->next;
	if (pending->next)
		pending->next->prev = pending->prev;
	else
		log->last = pending->prev;
	log->n_pending--;
	log->pending_bytes -= pending->len;
	free(pending);
}

/* Write bytes at the end: all of them or none. */
static int append(struct rvl_log *log, const uint8_t *bytes, unsigned len)
{
	ssize_t n;

	if (log->is_broken)
		return -EIO;
	n = write(log->fd, bytes, len);
	if (n == (ssize_t)len) {
		log->size += len;
		return 0;
	}
	if (n < 0)
		return -errno;
	if (ftruncate(log->fd, (off_t)log->size)) {
		log->is_broken = true;
		rvl_error("inodes/log: cannot cut off half a record, changes are refused: %m");
		return -EIO;
	}
	return -ENOSPC;
}

static int write_header(int fd)
{
	struct disk_header header = { .magic = LOG_MAGIC, .version = htole32(LOG_VERSION) };
	ssize_t n = write(fd, &header, sizeof(header));

	return n == sizeof(header) ? 0 : n < 0 ? -errno : -ENOSPC;
}

/* All pending records into fd; through a buffer, since they are small and may be many. */
static int write_pending(struct rvl_log *log, int fd)
{
	_cleanup_free_ uint8_t *buf = malloc(log->pending_bytes + 1);
	size_t n = 0, done = 0;

	if (!buf)
		return -ENOMEM;
	for (struct pending *p = log->first; p; p = p->next) {
		memcpy(buf + n, p->bytes, p->len);
		n += p->len;
	}
	while (done < n) {
		ssize_t written = write(fd, buf + done, n - done);

		if (written < 0)
			return -errno;
		done += (size_t)written;
	}
	return 0;
}

/* The file anew, with the pending records alone. An error leaves the old one in use. */
static int rewrite_log(struct rvl_log *log)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (unlinkat(log->inodes_fd, LOG_TEMP_NAME, 0) && errno != ENOENT)
		return -errno;
	fd = openat(log->inodes_fd, LOG_TEMP_NAME,
		    O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = write_header(fd);
	r = r ?: write_pending(log, fd);
	if (!r && !log->is_volatile && fsync(fd))
		r = -errno;
	if (!r && renameat(log->inodes_fd, LOG_TEMP_NAME, log->inodes_fd, LOG_NAME))
		r = -errno;
	if (r) {
		unlinkat(log->inodes_fd, LOG_TEMP_NAME, 0);
		return r;
	}
	rvl_close(log->fd);
	log->fd = rvl_take_fd(&fd);
	log->size = sizeof(struct disk_header) + log->pending_bytes;
	log->is_broken = false;
	/* else a power cut could bring back the old one, without what is synced from here on */
	return !log->is_volatile && fsync(log->inodes_fd) ? -errno : 0;
}

/* After a record was added: keep the file short. No failure here is an operation's failure. */
static void shorten(struct rvl_log *log)
{
	/*
	 * Also what has lost its end (a full disk) must go, before it is recovered over later
	 * changes: it takes no room to make the file shorter.
	 */
	if (!log->n_pending && (log->size > LOG_SHORTEN_BYTES || log->has_lost_end) &&
	    !log->is_broken) {
		if (!ftruncate(log->fd, sizeof(struct disk_header))) {
			log->size = sizeof(struct disk_header);
			log->has_lost_end = false;
		}
		log->rewrite_at = RVL_LOG_MAX_BYTES;
	} else if (log->size > log->rewrite_at || log->has_lost_end) {
		int r = rewrite_log(log);

		log->has_lost_end = r != 0;
		if (r)
			rvl_warn_limited("inodes/log: cannot be shortened: %s", strerror(-r));
		/* Not before it has doubled: so the cost of a record stays constant. */
		log->rewrite_at = log->size * 2 > RVL_LOG_MAX_BYTES ? log->size * 2 :
								      RVL_LOG_MAX_BYTES;
	}
}

int rvl_log_begin(struct rvl_log *log, const struct rvl_log_record *record, uint64_t *ret_id)
{
	uint8_t buf[RVL_LOG_RECORD_MAX];
	uint64_t id;
	int len, r;

	pthread_mutex_lock(&log->lock);
	id = log->next_id;
	len = rvl_log_record_encode(RVL_LOG_BEGIN, id, record, buf);
	if (len < 0)
		r = len;
	else if (!log->is_writable)
		r = -EROFS;
	else if (log->pending_bytes > RVL_LOG_PENDING_MAX_BYTES)
		r = -ENOSPC;
	else
		r = add_pending(log, id, buf, (unsigned)len, false);
	if (!r) {
		r = append(log, buf, (unsigned)len);
		if (r)
			drop_pending(log, id);
	}
	if (!r) {
		log->next_id++;
		*ret_id = id;
		shorten(log);
	}
	pthread_mutex_unlock(&log->lock);
	return r;
}

static void end_locked(struct rvl_log *log, uint64_t id)
{
	uint8_t buf[RVL_LOG_RECORD_MAX];
	int len = rvl_log_record_encode(RVL_LOG_END, id, NULL, buf);

	drop_pending(log, id);
	if (!log->is_writable)
		return;
	/* Lost, it is only a recovery of what is done. */
	if (append(log, buf, (unsigned)len)) {
		rvl_warn_limited("inodes/log cannot be written: the next mount looks at it anew");
		log->has_lost_end = true;
	}
	shorten(log);
}

void rvl_log_end(struct rvl_log *log, uint64_t id)
{
	pthread_mutex_lock(&log->lock);
	end_locked(log, id);
	pthread_mutex_unlock(&log->lock);
}

void rvl_log_drop(struct rvl_log *log, uint64_t id)
{
	pthread_mutex_lock(&log->lock);
	drop_pending(log, id);
	log->has_dropped = true;
	shorten(log);
	pthread_mutex_unlock(&log->lock);
}

bool rvl_log_is_torn(const struct rvl_log *log)
{
	return log->is_torn;
}

size_t rvl_log_pending(struct rvl_log *log)
{
	size_t n;

	pthread_mutex_lock(&log->lock);
	n = log->n_pending;
	pthread_mutex_unlock(&log->lock);
	return n;
}

/* The oldest record of the former process after `id`; copied out, since the callback may log. */
static bool next_former(struct rvl_log *log, uint64_t after, bool has_after, uint64_t *ret_id,
			struct rvl_log_record *ret)
{
	struct pending *last, *p;
	bool is_found = false;

	pthread_mutex_lock(&log->lock);
	last = has_after ? *find_pending(log, after) : NULL; /* NULL if it was ended */
	for (p = last ? last->next : log->first; p && !is_found; p = p->next) {
		enum rvl_log_kind kind;

		if (!p->is_former || (has_after && p->id <= after))
			continue;
		if (rvl_log_record_decode(p->bytes, p->len, &kind, ret_id, ret) > 0)
			is_found = true;
	}
	pthread_mutex_unlock(&log->lock);
	return is_found;
}

int rvl_log_each(struct rvl_log *log, rvl_log_recover_fn *look, void *arg)
{
	struct rvl_log_record record;
	uint64_t id = 0;
	bool has_id = false;
	int r = 0;

	while (r == 0 && next_former(log, id, has_id, &id, &record)) {
		r = look(arg, &record);
		has_id = true;
	}
	return r;
}

int rvl_log_replay(struct rvl_log *log, rvl_log_recover_fn *recover, void *arg)
{
	struct rvl_log_record record;
	uint64_t id = 0;
	bool has_id = false;

	while (next_former(log, id, has_id, &id, &record)) {
		int r = recover(arg, &record);

		if (r < 0)
			return r;
		if (r == 0 && log->is_writable)
			rvl_log_end(log, id);
		has_id = true;
	}
	return 0;
}

/* Take in what the file holds; returns the length of its sound part. */
static int load_records(struct rvl_log *log, const uint8_t *data, size_t len, size_t *ret_done)
{
	size_t done = sizeof(struct disk_header);

	while (done < len) {
		struct rvl_log_record record;
		enum rvl_log_kind kind;
		uint64_t id;
		int n = rvl_log_record_decode(data + done, len - done, &kind, &id, &record);
		int r = 0;

		if (n < 0)
			break;
		if (kind == RVL_LOG_END)
			drop_pending(log, id);
		else if (!*find_pending(log, id))
			r = add_pending(log, id, data + done, (unsigned)n, true);
		if (r)
			return r;
		if (id >= log->next_id)
			log->next_id = id + 1;
		done += (size_t)n;
	}
	if (done < len) {
		log->is_torn = true;
		rvl_warn(
			"inodes/log: damaged or torn after %zu of %zu bytes: what follows is left out",
			done, len);
		rvl_count(damaged);
	}
	*ret_done = done;
	return 0;
}

static int check_header(const uint8_t *data, size_t len)
{
	static const struct disk_header nothing;
	struct disk_header header;

	if (len < sizeof(header))
		return -ENODATA; /* torn at its making: an empty log */
	memcpy(&header, data, sizeof(header));
	/* A power cut: its size was on disk, what was written was not (delayed allocation). */
	if (memcmp(&header, &nothing, sizeof(header)) == 0) {
		rvl_warn("inodes/log: its %zu bytes were lost with the power", len);
		return -ENODATA;
	}
	if (memcmp(header.magic, LOG_MAGIC, sizeof(header.magic)) || header.zero || !header.version)
		return -EUCLEAN;
	return le32toh(header.version) > LOG_VERSION ? -EPROTONOSUPPORT : 0;
}

static int load(struct rvl_log *log)
{
	_cleanup_free_ uint8_t *data = NULL;
	size_t n = 0, done = 0;
	struct stat st;
	int r;

	if (fstat(log->fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size > LOG_READ_MAX_BYTES)
		return -EUCLEAN;
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	while (n < (size_t)st.st_size) {
		ssize_t got = pread(log->fd, data + n, (size_t)st.st_size - n, (off_t)n);

		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	r = check_header(data, n);
	if (r == -ENODATA) {
		if (!log->is_writable)
			return 0;
		if (ftruncate(log->fd, 0))
			return -errno;
		log->size = sizeof(struct disk_header);
		return write_header(log->fd);
	}
	if (!r)
		r = load_records(log, data, n, &done);
	if (r)
		return r;
	log->size = done;
	if (done < n && log->is_writable && ftruncate(log->fd, (off_t)done))
		return -errno;
	return 0;
}

int rvl_log_check_version(int inodes_fd)
{
	_cleanup_close_ int fd =
		openat(inodes_fd, LOG_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct disk_header header;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header) ||
	    memcmp(header.magic, LOG_MAGIC, sizeof(header.magic)) || header.zero)
		return 0;
	return le32toh(header.version) > LOG_VERSION ? -EPROTONOSUPPORT : 0;
}

int rvl_log_open(int inodes_fd, bool is_writable, bool is_volatile, struct rvl_log **ret)
{
	struct rvl_log *log = calloc(1, sizeof(*log));
	int r = 0;

	if (!log)
		return -ENOMEM;
	pthread_mutex_init(&log->lock, NULL);
	log->inodes_fd = inodes_fd;
	log->is_writable = is_writable;
	log->is_volatile = is_volatile;
	log->rewrite_at = RVL_LOG_MAX_BYTES;
	log->next_id = 1;
	log->fd = openat(inodes_fd, LOG_NAME,
			 (is_writable ? O_RDWR | O_CREAT : O_RDONLY) | O_APPEND | O_NOFOLLOW |
				 O_CLOEXEC | O_NONBLOCK,
			 0600);
	if (log->fd >= 0)
		r = load(log);
	else if (errno != ENOENT || is_writable)
		r = errno == ELOOP ? -EUCLEAN : -errno;
	if (r) {
		rvl_log_close(log);
		return r;
	}
	*ret = log;
	return 0;
}

void rvl_log_close(struct rvl_log *log)
{
	if (!log)
		return;
	if (log->has_dropped && log->n_pending == 0 && !log->is_broken &&
	    ftruncate(log->fd, sizeof(struct disk_header)) < 0)
		rvl_debug("inodes/log: cannot be cut: %m");
	while (log->first)
		drop_pending(log, log->first->id);
	rvl_close(log->fd);
	pthread_mutex_destroy(&log->lock);
	free(log);
}
