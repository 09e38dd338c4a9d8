/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log (inodes/log): append-only records of operations begun and not finished
 * (docs/consistency.md). One write(2) a record; the page cache keeps it over the death of the
 * process; a power cut may take it. An operation whose recovery finds nothing to do once all
 * is done, however much later, needs no END record (rvl_log_drop): it is recovered once more after
 * a death, which changes nothing.
 *
 * Thread-safe; an own lock (last in the order) guards the table of what is pending. The file is
 * shortened when nothing is pending, and rewritten with the pending records when it grows over
 * RVL_LOG_MAX_BYTES.
 */
#ifndef RVL_INDEX_LOG_H
#define RVL_INDEX_LOG_H

#include <limits.h>

#include "index/entry.h"

#define RVL_LOG_MAX_BYTES (1 << 20)
#define RVL_LOG_PENDING_MAX_BYTES (64 << 20) /* of records begun and not ended: then begin is -ENOSPC */

/*
 * flags of CREATE: the object is made at its place, and its stamp is the last step: one that has
 * the stamp is whole, and gets the entry that it lacks.
 */
#define RVL_LOG_STAMP_LAST (1U << 8)
/*
 * What is at its place is whole, with a stamp or without one: recovery removes nothing there. Only
 * such a record may be dropped without an end: one without this flag says that an empty object
 * without a stamp is half made, which holds no longer than the operation.
 */
#define RVL_LOG_WHOLE (1U << 9)

enum rvl_log_op {
	RVL_LOG_CREATE = 1, /* number, at: a new object is made in place there */
	RVL_LOG_COPY_UP,    /* number, at: its lower object goes to upper, to be published there */
	RVL_LOG_LINK,	    /* number, at: gets one more name there */
	RVL_LOG_REMOVE,	    /* number, at: the name goes; is the object dead then? */
	RVL_LOG_RENAME,	    /* number, at -> to; number2: what was there (0: nothing) ; flags: renameat2's */
	RVL_LOG_ORPHAN,	    /* number: has no name, but is open */
	RVL_LOG_OWED,	    /* not written: a CREATE with RVL_LOG_STAMP_LAST says it */
	RVL_LOG_OP_N
};

struct rvl_log_record {
	enum rvl_log_op op;
	uint32_t flags;
	uint64_t number, number2;
	struct rvl_name_at at, to; /* in the overlay; parent 0: unused */
};

/*
 * Open (make) the log of an index; called by rvl_index_open. What a former process left is kept for
 * rvl_log_replay; a damaged end is left out with a warning. is_writable false: for rvl_log_replay
 * by a tool that only looks.
 * -EUCLEAN: not a log; -EPROTONOSUPPORT: a newer one.
 */
int rvl_log_open(int inodes_fd, bool is_writable, bool is_volatile, struct rvl_log **ret);
/* Is it of a version that is known, as far as its head can be read? 0; -EPROTONOSUPPORT: a newer one. */
int rvl_log_check_version(int inodes_fd);
/* Accepts NULL. */
void rvl_log_close(struct rvl_log *log);

/*
 * Append; when it returns 0 the record survives the death of the process. *ret_id: for rvl_log_end.
 */
int rvl_log_begin(struct rvl_log *log, const struct rvl_log_record *record, uint64_t *ret_id);
/*
 * The operation's last step is done (or undone). Never fails; a lost end is only a redundant
 * recovery.
 */
void rvl_log_end(struct rvl_log *log, uint64_t id);
/* The same, where recovering it again would do no harm: nothing is written. */
void rvl_log_drop(struct rvl_log *log, uint64_t id);

/*
 * What the former process left: called once for each pending record, in order of begin, before the
 * first rvl_log_begin. The callback recovers it (it may log new operations); 0: it is ended; 1: it
 * is kept; an error keeps it and ends the replay.
 */
typedef int rvl_log_recover_fn(void *arg, const struct rvl_log_record *record);
int rvl_log_replay(struct rvl_log *log, rvl_log_recover_fn *recover, void *arg);

/* Was its end damaged or torn when it was opened? */
bool rvl_log_is_torn(const struct rvl_log *log);

/*
 * Only look at them, as often as is wanted before the replay. An error of the callback ends it, and
 * is returned.
 */
int rvl_log_each(struct rvl_log *log, rvl_log_recover_fn *look, void *arg);

/* Number of records begun and not ended. */
size_t rvl_log_pending(struct rvl_log *log);

/*
 * One encode, one decode function of a record (docs/format.md). decode: length of the record;
 * -EUCLEAN damaged or torn.
 */
#define RVL_LOG_RECORD_MAX (64 + 2 * NAME_MAX)
enum rvl_log_kind { RVL_LOG_BEGIN = 1, RVL_LOG_END };
int rvl_log_record_encode(enum rvl_log_kind kind, uint64_t id, const struct rvl_log_record *record,
			  uint8_t buf[RVL_LOG_RECORD_MAX]);
int rvl_log_record_decode(const void *buf, size_t len, enum rvl_log_kind *ret_kind, uint64_t *ret_id,
			  struct rvl_log_record *ret);

#endif
