// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The index as it lies on disk: every name in inodes/xx is an entry, at its place, and can be read;
 * and the object that an entry leads to has the entry's number as its stamp. The last is looked at
 * here, and not when the tree is walked, because the entry is who knows: a stamp can be lost or
 * forged with an attribute, the entry is the object itself, or has its handle.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "check/mend.h"
#include "check/private.h"
#include "index/stamp.h"
#include "layer/merge.h"
#include "layer/path.h"

#define RECORD_MODE_USER 01600 /* as index/entry.c */

struct shelf {
	struct rvl_check *check;
	unsigned low; /* of the numbers in it */
	int fd;
};

/* A number as we write it, without signs, blanks and leading zeros; 0: it is none. */
static uint64_t parse_decimal(const char *text)
{
	uint64_t number;
	char *end;

	if (text[0] < '1' || text[0] > '9')
		return 0;
	errno = 0;
	number = strtoull(text, &end, 10);
	return errno || *end ? 0 : number;
}

/* Is it "#<number>"? 0: no. */
static uint64_t parse_name(const char *name)
{
	uint64_t number = name[0] == '#' ? parse_decimal(name + 1) : 0;

	return rvl_number_is_valid(number) ? number : 0;
}

/* ---- what is no entry, or not at its place ---- */

/* Its number, if it carries one: of a stamp, or of its name where it is a record. */
static uint64_t own_number(struct shelf *shelf, const char *name, const struct statx *st)
{
	uint8_t buf[1];
	struct rvl_id id;

	if (!rvl_stamp_get(shelf->check->index, shelf->fd, name, st->stx_mode, st->stx_ino, &id))
		return id.number;
	return rvl_xattr_get(&shelf->check->stack->xattr, shelf->fd, name, RVL_XATTR_PATH, buf,
			     sizeof(buf)) == -ERANGE ?
		       parse_name(name) :
		       0;
}

static int put_in_place(struct shelf *shelf, const char *name, uint64_t number)
{
	char path[RVL_ENTRY_PATH_SIZE];
	char directory[3];
	int inodes_fd = shelf->check->index->inodes_fd;

	rvl_entry_path(number, path);
	snprintf(directory, sizeof(directory), "%.2s", path);
	if (mkdirat(inodes_fd, directory, 0700) && errno != EEXIST)
		return -errno;
	return renameat2(shelf->fd, name, inodes_fd, path, RENAME_NOREPLACE) ? -errno : 0;
}

static int move_away(struct shelf *shelf, const char *name, const struct statx *st)
{
	bool has_data = S_ISREG(st->stx_mode) ? st->stx_size > 0 : !rvl_is_whiteout(st);
	uint64_t number;
	int r;

	if (S_ISDIR(st->stx_mode)) /* nothing of ours, unless it is empty */
		return unlinkat(shelf->fd, name, AT_REMOVEDIR) ? -errno : 0;
	number = own_number(shelf, name, st);
	if (number > RVL_NUMBER_ROOT) {
		r = put_in_place(shelf, name, number);
		if (r != -EEXIST)
			return r;
	}
	/* with another link its data are there; else it gets one */
	if (has_data && st->stx_nlink == 1) {
		r = rvl_mend_lost_at(shelf->check, shelf->fd, name, st);
		if (r)
			return r;
	}
	return unlinkat(shelf->fd, name, 0) ? -errno : 0;
}

static int misplaced(struct shelf *shelf, const char *name)
{
	struct rvl_check *check = shelf->check;
	struct statx st;
	int r = rvl_path_statx(shelf->fd, name, RVL_STATX_MASK, &st);

	if (r)
		return r == -ENOENT ? 0 : r;
	if (!rvl_problem_begin(check, RVL_P_ENTRY_MISPLACED, 0, NULL, "inodes/%02x/%s", shelf->low,
			       name))
		return 0;
	return rvl_problem_end(check, move_away(shelf, name, &st));
}

/* ---- the stamp of what an entry leads to ---- */

static int wrong_stamp(struct rvl_check *check, uint64_t number, int dirfd, const char *name,
		       const struct statx *st, const struct rvl_handle *lower, const char *what)
{
	/* from now on this object is `number`, mended or not */
	int r = rvl_number_set_add(&check->known, st->stx_ino, number, RVL_NUMBER_SET_MAX);

	if (r == -E2BIG) /* then it is found as unstamped, too */
		r = 0;
	if (r || !rvl_problem_begin(check, RVL_P_STAMP_WRONG, number, NULL, "%s", what))
		return r;
	return rvl_problem_end(check, rvl_mend_stamp(check, dirfd, name, st, number, lower));
}

static const char *stamp_fault(int r)
{
	return r == -ENODATA ? "missing" : r == -EUCLEAN ? "malformed" : "another's";
}

/* The same inode under two numbers: its stamp tells which. */
static bool is_other_entry(struct rvl_check *check, uint64_t number, uint64_t ino)
{
	enum rvl_entry_kind kind;
	struct statx st;

	return number && !rvl_entry_look(check->index, number, &kind, &st) &&
	       kind == RVL_ENTRY_OBJECT && st.stx_ino == ino;
}

static int check_object_stamp(struct rvl_check *check, uint64_t number, const struct statx *st)
{
	int inodes_fd = check->index->inodes_fd;
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_handle origin = { 0 };
	struct rvl_id id = { 0 };
	ssize_t n;
	int r;

	rvl_entry_path(number, path);
	r = rvl_stamp_get(check->index, inodes_fd, path, st->stx_mode, st->stx_ino, &id);
	if (!r && id.number == number)
		return 0;
	if (r && r != -ENODATA && r != -EUCLEAN)
		return r;
	if (!r && is_other_entry(check, id.number, st->stx_ino)) {
		if (!rvl_problem_begin(check, RVL_P_ENTRY_MISPLACED, number, NULL,
				       "it is the object of number %llu",
				       (unsigned long long)id.number))
			return 0;
		return rvl_problem_end(check, rvl_entry_bury(check->index, number, false)) ?: 1;
	}
	n = rvl_upper_xattr_get(check->index, inodes_fd, path, st->stx_mode, st->stx_ino,
				RVL_XATTR_ORIGIN, value, sizeof(value));
	if (n <= 0 || rvl_handle_decode(value, (unsigned)n, &origin))
		origin.len = 0;
	return wrong_stamp(check, number, inodes_fd, path, st, &origin, stamp_fault(r));
}

/* Does another entry have the same directory? Then this one is stale, and has no object. */
static bool is_other_record(struct rvl_check *check, uint64_t number,
			    const struct rvl_handle *upper)
{
	struct rvl_entry_directory other;

	return number && !rvl_entry_get_directory(check->index, number, &other) &&
	       other.upper.len && rvl_handle_equal(&other.upper, upper);
}

static int check_directory_stamp(struct rvl_check *check, uint64_t number,
				 const struct rvl_entry_directory *record)
{
	const struct rvl_layer *upper = &check->stack->layers[0];
	_cleanup_close_ int fd = -EBADF;
	struct rvl_id id = { 0 };
	struct statx st;
	int r;

	if (!record->upper.len)
		return 0;
	fd = rvl_handle_open(upper->fd, &record->upper);
	if (fd < 0 || rvl_path_statx(fd, "", RVL_STATX_MASK, &st) || !S_ISDIR(st.stx_mode) ||
	    !st.stx_nlink || st.stx_ino == upper->ino || !rvl_layer_may_have_dir(upper, fd))
		return 0;
	r = rvl_stamp_get(check->index, fd, "", S_IFDIR, st.stx_ino, &id);
	if ((!r && (id.number == number || is_other_record(check, id.number, &record->upper))) ||
	    (r && r != -ENODATA && r != -EUCLEAN))
		return 0;
	return wrong_stamp(check, number, fd, "", &st, &record->lower, stamp_fault(r));
}

/* ---- one entry ---- */

/* The record of a directory that has lost its overlay.path looks like an object. */
static bool is_record_remains(struct rvl_check *check, uint64_t number, const struct statx *st)
{
	unsigned mode = st->stx_mode & 07777;
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_id id;

	if (!S_ISREG(st->stx_mode) || st->stx_size || st->stx_nlink != 1 ||
	    (mode && mode != RECORD_MODE_USER))
		return false;
	rvl_entry_path(number, path);
	return rvl_stamp_get(check->index, check->index->inodes_fd, path, st->stx_mode, st->stx_ino,
			     &id) == -ENODATA;
}

static int add_place(struct rvl_check *check, uint64_t number,
		     const struct rvl_entry_directory *record)
{
	struct rvl_fact fact = { .number = number,
				 .kind = RVL_FACT_PLACE,
				 .type = DT_DIR,
				 .key = rvl_place_hash(record->place.parent, record->place.name) };

	/* one that the kernel had renamed may be recorded where it was met, and one whose place is not
	 * known in itself */
	if (record->place.parent == number ||
	    fact.key == rvl_place_hash(record->path.parent, record->path.name))
		return 0;
	return rvl_sorter_add(check->sorter, &fact);
}

static int check_entry(struct shelf *shelf, const char *name)
{
	struct rvl_check *check = shelf->check;
	uint64_t number = parse_name(name);
	struct rvl_fact fact = { .number = number, .kind = RVL_FACT_ENTRY };
	struct rvl_entry_directory record;
	enum rvl_entry_kind kind;
	struct statx st;
	int r;

	if (!number || (number & 0xff) != shelf->low || number == RVL_NUMBER_ROOT)
		return misplaced(shelf, name);
	r = rvl_entry_look(check->index, number, &kind, &st);
	if (r == -EUCLEAN)
		return misplaced(shelf, name);
	if (r || kind == RVL_ENTRY_NONE)
		return r;
	if (kind == RVL_ENTRY_OBJECT && is_record_remains(check, number, &st)) {
		kind = RVL_ENTRY_DIRECTORY;
		fact.is_damaged = true;
	}
	rvl_check_note_number(check, number);
	if (kind == RVL_ENTRY_DIRECTORY && !fact.is_damaged) {
		r = rvl_entry_get_directory(check->index, number, &record);
		fact.is_damaged = r == -EUCLEAN;
		if (r && r != -EUCLEAN)
			return r == -ENOENT ? 0 : r;
		r = 0;
		if (!fact.is_damaged && record.is_merged)
			r = add_place(check, number, &record);
		if (!r && !fact.is_damaged && !rvl_check_is_pending(check, number))
			r = check_directory_stamp(check, number, &record);
	} else if (kind == RVL_ENTRY_OBJECT) {
		fact.key = st.stx_ino;
		fact.nlink = st.stx_nlink;
		fact.type = (uint8_t)(st.stx_mode >> 12);
		rvl_check_met(check, st.stx_ino);
		if (!rvl_check_is_pending(check, number))
			r = check_object_stamp(check, number, &st);
	}
	fact.what = (uint8_t)kind;
	if (r) /* 1: it is gone */
		return r > 0 ? 0 : r;
	return rvl_sorter_add(check->sorter, &fact);
}

static int each_name(struct shelf *shelf, int (*fn)(struct shelf *shelf, const char *name))
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(shelf->fd, O_RDONLY | O_DIRECTORY), &dir);

	while (!r && (r = rvl_dir_next(dir, &entry)) > 0) {
		r = fn(shelf, entry->d_name);
		r = r ?: rvl_check_tick(shelf->check);
	}
	return r;
}

static int check_shelf(struct rvl_check *check, unsigned low)
{
	struct shelf shelf = { .check = check, .low = low, .fd = -EBADF };
	char name[3];
	int r;

	snprintf(name, sizeof(name), "%02x", low);
	shelf.fd = rvl_path_open(check->index->inodes_fd, name, O_PATH | O_DIRECTORY, 0);
	if (shelf.fd == -ENOENT)
		return 0;
	if (shelf.fd == -ENOTDIR || shelf.fd == -ELOOP) {
		shelf.fd = check->index->inodes_fd;
		return misplaced(&shelf, name);
	}
	if (shelf.fd < 0)
		return shelf.fd;
	r = each_name(&shelf, check_entry);
	rvl_close(shelf.fd);
	return r;
}

/* ---- companions ---- */

void rvl_check_met(struct rvl_check *check, uint64_t ino)
{
	if (rvl_number_set_get(&check->companions, ino))
		(void)rvl_number_set_add(&check->companions, ino, RVL_COMPANION_MET,
					 RVL_NUMBER_SET_MAX);
}

static int note_companion(struct shelf *shelf, const char *name)
{
	uint64_t ino = parse_decimal(name);
	int r = ino ? rvl_number_set_add(&shelf->check->companions, ino, RVL_COMPANION_THERE,
					 RVL_NUMBER_SET_MAX) :
		      0;

	return r == -E2BIG ? 0 : r; /* more than that are not checked */
}

static int note_companions(struct rvl_check *check)
{
	struct shelf shelf = { .check = check, .fd = check->index->companions_fd };

	return shelf.fd < 0 ? 0 : each_name(&shelf, note_companion);
}

int rvl_check_companions(struct rvl_check *check)
{
	const struct rvl_number_set *set = &check->companions;
	int r = 0;

	for (size_t i = 0; !r && i < set->size; i++) {
		if (!set->v[i].key || set->v[i].value == RVL_COMPANION_MET)
			continue;
		if (!rvl_problem_begin(check, RVL_P_LEFTOVER_COMPANION, 0, NULL, "inodes/c/%llu",
				       (unsigned long long)set->v[i].key))
			continue;
		rvl_companion_remove(check->index, S_IFLNK, set->v[i].key);
		r = rvl_problem_end(check, 0);
	}
	return r;
}

int rvl_check_entries(struct rvl_check *check)
{
	int r;

	rvl_check_pass(check, "entries");
	r = check->config->is_online ? 0 : note_companions(check);
	for (unsigned low = 0; !r && low < 256; low++)
		r = check_shelf(check, low);
	return r;
}
