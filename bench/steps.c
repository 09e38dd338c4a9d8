// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What an operation costs inside the server: the overlay is opened in this process and asked without FUSE, one request
 * after another, and the same is done with plain system calls beside it. A line for each, "name overlay plain", in
 * microseconds of CPU time of the calling thread (so that others on the machine hardly matter; what waits for a disk
 * does not show). What is done after the reply by others is in the last line, "later".
 *
 * Usage: steps SCRATCH COUNT [OPERATION...]. SCRATCH is a directory on the filesystem to be measured; lower, upper, work
 * and plain are made in it, and left. Under callgrind or perf: name the operation, and those that it builds on.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "index/entry.h"
#include "index/log.h"
#include "index/stamp.h"
#include "inside.h"
#include "overlay/private.h"

#define FAKE_NUMBER (1ULL << 60) /* and what follows: of the index's own steps */

static struct rvl_overlay *ov;
static const struct rvl_cred cred;
static uint64_t dir; /* number of the directory that is worked in */
static unsigned count;
static uint64_t *files, *made, *dirs; /* numbers */
static char buf[4096];

static const char *name(char letter, unsigned i)
{
	static char text[2][16];
	static unsigned which;

	which = !which;
	snprintf(text[which], sizeof(text[which]), "%c%u", letter, i);
	return text[which];
}

static void die(const char *what, int r)
{
	fprintf(stderr, "steps: %s: %s\n", what, strerror(-r));
	exit(1);
}

/* ---- the operations; each as the server does it, and as a system call; 0 or -errno ---- */

static int plain(int r)
{
	return r < 0 ? -errno : 0;
}

static int lookup(char letter, unsigned i, uint64_t *ret)
{
	struct rvl_entry entry;
	int r = rvl_overlay_lookup(ov, 0, dir, name(letter, i), &entry);

	if (r == 0 && ret)
		*ret = entry.number;
	return r;
}

static int lookup_lower(unsigned i)
{
	return lookup('f', i, &files[i]);
}

static int lookup_absent(unsigned i)
{
	int r = lookup('a', i, NULL);

	return r == -ENOENT ? 0 : -EEXIST;
}

static int lookup_upper(unsigned i)
{
	return lookup('c', i, NULL);
}

static int plain_stat(char letter, unsigned i)
{
	struct stat st;

	return plain(lstat(name(letter, i), &st));
}

static int plain_lookup_lower(unsigned i)
{
	return plain_stat('f', i);
}

static int plain_lookup_absent(unsigned i)
{
	return plain_stat('a', i) == -ENOENT ? 0 : -EEXIST;
}

static int plain_lookup_upper(unsigned i)
{
	return plain_stat('c', i);
}

static int getattr_upper(unsigned i)
{
	struct rvl_entry entry;

	return rvl_overlay_getattr(ov, 0, made[i], &entry);
}

static int getattr_dir(unsigned i)
{
	struct rvl_entry entry;

	(void)i;
	return rvl_overlay_getattr(ov, 0, dir, &entry);
}

static int plain_getattr_dir(unsigned i)
{
	struct stat st;

	(void)i;
	return plain(lstat(".", &st));
}

static bool take_all(void *arg, const struct rvl_dirent *dirent)
{
	(void)dirent;
	(*(unsigned *)arg)++;
	return true;
}

/* One for the whole directory. */
static int readdirplus(unsigned i)
{
	unsigned n = 0;

	return i == 0 ? rvl_overlay_readdir(ov, 0, dir, 0, true, take_all, &n) : 0;
}

static int plain_readdirplus(unsigned i)
{
	struct dirent *entry;
	struct stat st;
	DIR *d;

	if (i)
		return 0;
	d = opendir(".");
	while ((entry = readdir(d)))
		if (lstat(entry->d_name, &st) < 0)
			return -errno;
	closedir(d);
	return 0;
}

static int create(unsigned i)
{
	struct rvl_entry entry;
	int r = rvl_overlay_create(ov, &cred, dir, name('c', i), 0644, &entry);

	if (r == 0)
		made[i] = entry.number;
	return r;
}

static int plain_create(unsigned i)
{
	return plain(close(open(name('c', i), O_CREAT | O_EXCL | O_RDWR, 0644)));
}

static int write_data(unsigned i)
{
	struct rvl_pin pin;
	int r = rvl_overlay_pin_write(ov, made[i], 0, &pin);

	if (r < 0)
		return r;
	r = plain((int)pwrite(pin.fd, buf, sizeof(buf), 0));
	rvl_overlay_unpin(ov, &pin);
	return r;
}

static int plain_write(unsigned i)
{
	int fd = open(name('c', i), O_WRONLY), r = plain((int)pwrite(fd, buf, sizeof(buf), 0));

	close(fd);
	return r;
}

static int setattr_times(unsigned i)
{
	struct stat attr = { .st_mtim.tv_sec = 1000 };
	struct rvl_entry entry;

	return rvl_overlay_setattr(ov, made[i], &attr, RVL_SET_MTIME, &entry);
}

static int plain_setattr_times(unsigned i)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1000 } };

	return plain(utimensat(AT_FDCWD, name('c', i), times, AT_SYMLINK_NOFOLLOW));
}

static int chmod_upper(unsigned i)
{
	struct stat attr = { .st_mode = 0600 };
	struct rvl_entry entry;

	return rvl_overlay_setattr(ov, made[i], &attr, RVL_SET_MODE, &entry);
}

static int plain_chmod_upper(unsigned i)
{
	return plain(chmod(name('c', i), 0600));
}

static int link_name(unsigned i)
{
	struct rvl_entry entry;

	return rvl_overlay_link(ov, made[i], dir, name('l', i), &entry);
}

static int plain_link(unsigned i)
{
	return plain(link(name('c', i), name('l', i)));
}

static int rename_name(unsigned i)
{
	uint64_t moved[2];

	return rvl_overlay_rename(ov, &cred, dir, name('l', i), dir, name('r', i), 0, moved);
}

static int plain_rename(unsigned i)
{
	return plain(rename(name('l', i), name('r', i)));
}

static int unlink_link(unsigned i)
{
	return rvl_overlay_unlink(ov, dir, name('r', i));
}

static int plain_unlink_link(unsigned i)
{
	return plain(unlink(name('r', i)));
}

/* with what follows once the kernel forgets it */
static int unlink_last(unsigned i)
{
	int r = rvl_overlay_unlink(ov, dir, name('c', i));

	rvl_overlay_forget(ov, made[i], 1000);
	return r;
}

static int plain_unlink_last(unsigned i)
{
	return plain(unlink(name('c', i)));
}

static int make_dir(unsigned i)
{
	struct rvl_entry entry;
	int r = rvl_overlay_mkdir(ov, &cred, dir, name('d', i), 0755, &entry);

	if (r == 0)
		dirs[i] = entry.number;
	return r;
}

static int plain_make_dir(unsigned i)
{
	return plain(mkdir(name('d', i), 0755));
}

static int rename_dir(unsigned i)
{
	uint64_t moved[2];

	return rvl_overlay_rename(ov, &cred, dir, name('d', i), dir, name('e', i), 0, moved);
}

static int plain_rename_dir(unsigned i)
{
	return plain(rename(name('d', i), name('e', i)));
}

static int remove_dir(unsigned i)
{
	int r = rvl_overlay_rmdir(ov, dir, name('e', i));

	rvl_overlay_forget(ov, dirs[i], 1000);
	return r;
}

static int plain_remove_dir(unsigned i)
{
	return plain(rmdir(name('e', i)));
}

static int make_symlink(unsigned i)
{
	struct rvl_entry entry;

	return rvl_overlay_symlink(ov, &cred, dir, name('s', i), "target", &entry);
}

static int plain_symlink(unsigned i)
{
	return plain(symlink("target", name('s', i)));
}

/* created and removed at once, as many temporary files are */
static int create_unlink(unsigned i)
{
	int r = create(i);

	return r ?: unlink_last(i);
}

static int plain_create_unlink(unsigned i)
{
	int r = plain_create(i);

	return r ?: plain_unlink_last(i);
}

static int chown_lower(unsigned i)
{
	struct stat attr = { .st_uid = 7 };
	struct rvl_entry entry;

	return i % 2 ? 0 : rvl_overlay_setattr(ov, files[i], &attr, RVL_SET_UID, &entry);
}

static int plain_chown_lower(unsigned i)
{
	return i % 2 ? 0 : plain(chown(name('f', i), 7, (gid_t)-1));
}

static int append_lower(unsigned i)
{
	struct rvl_pin pin;
	int r;

	if (i % 4 != 1)
		return 0;
	r = rvl_overlay_pin_write(ov, files[i], 4096, &pin);
	if (r < 0)
		return r;
	r = plain((int)pwrite(pin.fd, buf, 1, 4096));
	rvl_overlay_unpin(ov, &pin);
	return r;
}

static int plain_append_lower(unsigned i)
{
	int fd = i % 4 == 1 ? open(name('f', i), O_WRONLY) : -1;
	int r = fd < 0 ? 0 : plain((int)pwrite(fd, buf, 1, 4096));

	if (fd >= 0)
		close(fd);
	return r;
}

static int unlink_lower(unsigned i)
{
	return i % 4 == 3 ? rvl_overlay_unlink(ov, dir, name('f', i)) : 0;
}

static int plain_unlink_lower(unsigned i)
{
	return i % 4 == 3 ? plain(unlink(name('f', i))) : 0;
}

/* What of a create is for the index, on copied-up files that are left; and what comes after the reply. */
static const char *left(unsigned i)
{
	static char path[24];

	snprintf(path, sizeof(path), "d/%s", name('f', i % 4 == 3 ? i - 1 : i));
	return path;
}

static int index_stamp(unsigned i)
{
	const struct rvl_id id = { .number = FAKE_NUMBER + i, .generation = 1 };

	return rvl_stamp_set(ov->index, ov->stack->layers[0].fd, left(i), S_IFREG, 0, &id);
}

static int index_log(unsigned i)
{
	struct rvl_log_record record = { .op = RVL_LOG_CREATE, .number = FAKE_NUMBER + i };
	uint64_t id;
	int r;

	record.at.parent = dir;
	snprintf(record.at.name, sizeof(record.at.name), "%s", name('c', i));
	r = rvl_log_begin(ov->index->log, &record, &id);
	if (r == 0)
		rvl_log_drop(ov->index->log, id);
	return r;
}

static int index_entry(unsigned i)
{
	return rvl_entry_link(ov->index, ov->stack->layers[0].fd, left(i), FAKE_NUMBER + i);
}

static int nothing(unsigned i)
{
	(void)i;
	return 0;
}

static const struct operation {
	const char *name;
	int (*overlay)(unsigned i), (*plain)(unsigned i);
	unsigned one_in; /* only each so manieth is done */
} operations[] = {
	{ "lookup-lower", lookup_lower, plain_lookup_lower, 1 },
	{ "lookup-lower-again", lookup_lower, plain_lookup_lower, 1 },
	{ "lookup-absent", lookup_absent, plain_lookup_absent, 1 },
	{ "create", create, plain_create, 1 },
	{ "write", write_data, plain_write, 1 },
	{ "lookup-upper", lookup_upper, plain_lookup_upper, 1 },
	{ "readdirplus", readdirplus, plain_readdirplus, 1 },
	{ "getattr-dir", getattr_dir, plain_getattr_dir, 1 },
	{ "getattr-upper", getattr_upper, plain_lookup_upper, 1 },
	{ "utimens", setattr_times, plain_setattr_times, 1 },
	{ "chmod", chmod_upper, plain_chmod_upper, 1 },
	{ "link", link_name, plain_link, 1 },
	{ "rename", rename_name, plain_rename, 1 },
	{ "unlink-link", unlink_link, plain_unlink_link, 1 },
	{ "unlink", unlink_last, plain_unlink_last, 1 },
	{ "create-unlink", create_unlink, plain_create_unlink, 1 },
	{ "mkdir", make_dir, plain_make_dir, 1 },
	{ "rename-dir", rename_dir, plain_rename_dir, 1 },
	{ "rmdir", remove_dir, plain_remove_dir, 1 },
	{ "symlink", make_symlink, plain_symlink, 1 },
	{ "chown-lower", chown_lower, plain_chown_lower, 2 },
	{ "append-lower", append_lower, plain_append_lower, 4 },
	{ "unlink-lower", unlink_lower, plain_unlink_lower, 4 },
	{ "index-stamp", index_stamp, nothing, 1 },
	{ "index-log", index_log, nothing, 1 },
	{ "index-entry-later", index_entry, nothing, 1 },
};
#define N_OPERATIONS (sizeof(operations) / sizeof(operations[0]))

static double now_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static double measure(const struct operation *op, int (*fn)(unsigned i))
{
	const double begin = now_us(CLOCK_THREAD_CPUTIME_ID);

	for (unsigned i = 0; i < count; i++) {
		int r = fn(i);

		if (r < 0)
			die(op->name, r);
	}
	return (now_us(CLOCK_THREAD_CPUTIME_ID) - begin) / (count / op->one_in);
}

/* ---- set-up ---- */

static void fill(const char *path)
{
	char file[64];

	if (mkdir(path, 0755) < 0)
		die(path, -errno);
	for (unsigned i = 0; i < count; i++) {
		int fd;

		snprintf(file, sizeof(file), "%s/%s", path, name('f', i));
		fd = open(file, O_CREAT | O_EXCL | O_WRONLY, 0644);
		if (fd < 0 || write(fd, buf, sizeof(buf)) != sizeof(buf))
			die(file, -errno);
		close(fd);
	}
}

static void open_overlay(struct inside *inside)
{
	struct rvl_entry entry;
	int r = inside_open("lower", "upper", "work", inside);

	ov = inside->ov;
	if (r == 0)
		r = rvl_overlay_lookup(ov, 0, 1, "d", &entry);
	if (r < 0)
		die("the overlay", r);
	dir = entry.number;
}

static bool is_wanted(const char *text, int argc, char *argv[])
{
	for (int i = 3; i < argc; i++)
		if (strcmp(argv[i], text) == 0)
			return true;
	return argc == 3;
}

int main(int argc, char *argv[])
{
	struct inside inside = {};
	double begin;

	count = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	if (count < 4) {
		fprintf(stderr, "usage: steps SCRATCH COUNT [OPERATION...]\n");
		return 2;
	}
	umask(0);
	files = calloc(count, sizeof(*files));
	made = calloc(count, sizeof(*made));
	dirs = calloc(count, sizeof(*dirs));
	if (chdir(argv[1]) < 0 || mkdir("lower", 0755) < 0 || mkdir("upper", 0755) < 0 ||
	    mkdir("work", 0755) < 0)
		die(argv[1], -errno);
	fill("lower/d");
	fill("plain");
	open_overlay(&inside);
	if (chdir("plain") < 0)
		die("plain", -errno);
	for (size_t i = 0; i < N_OPERATIONS; i++) {
		double overlay;

		if (!is_wanted(operations[i].name, argc, argv))
			continue;
		overlay = measure(&operations[i], operations[i].overlay);
		printf("%-20s %8.2f %8.2f\n", operations[i].name, overlay,
		       measure(&operations[i], operations[i].plain));
	}
	begin = now_us(CLOCK_PROCESS_CPUTIME_ID);
	inside_close(&inside);
	printf("%-20s %8.2f %8.2f\n", "later", (now_us(CLOCK_PROCESS_CPUTIME_ID) - begin) / count,
	       0.0);
	return 0;
}
