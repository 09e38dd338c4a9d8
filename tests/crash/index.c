// SPDX-License-Identifier: GPL-2.0-or-later
/* What is left on disk after a clean end. The log is read with the index's own code, the rest by
 * hand, so that it is not the same code that is wrong twice. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "index/log.h"

#include "crash.h"

static bool is_user(void)
{
	return strstr(options.mount_options, "userxattr");
}

static ssize_t get_private(const char *path, const char *name, void *buf, size_t size)
{
	char full[64];

	snprintf(full, sizeof(full), "%s.overlay.%s", is_user() ? "user" : "trusted", name);
	return lgetxattr(path, full, buf, size);
}

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

/* Calls fn for each name in dir; stops at the first false. */
static bool each(const char *dir, bool (*fn)(const char *path, const char *name, void *arg),
		 void *arg)
{
	struct dirent **names;
	int n = scandir(dir, &names, NULL, alphasort);
	bool is_good = n >= 0 || errno == ENOENT;

	if (!is_good)
		complain("%s: %m", dir);
	for (int i = 0; i < n; i++) {
		char path[PATH_MAX];

		snprintf(path, sizeof(path), "%.3500s/%s", dir, names[i]->d_name);
		if (strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0)
			is_good = is_good && fn(path, names[i]->d_name, arg);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	return is_good;
}

/* An entry that is no tombstone leads to something that the tree shows; a tombstone to nothing. */
static bool check_entry(const char *path, const char *name, void *arg)
{
	uint64_t number = strtoull(name + 1, NULL, 10);
	char value[8];
	struct stat st;
	bool is_dead;

	if (lstat(path, &st) < 0) {
		complain("%s: %m", path);
		return false;
	}
	is_dead = is_whiteout(&st) || get_private(path, "whiteout", value, sizeof(value)) > 0;
	/* a user's device 0:0 has the mark of a whiteout, but another number */
	if (S_ISCHR(st.st_mode) && st.st_rdev)
		is_dead = false;
	if (is_dead == tree_has(number)) {
		complain("entry %s: %s, but the tree %s it", name, is_dead ? "dead" : "alive",
			 is_dead ? "has" : "does not have");
		return false;
	}
	return true;
}

static bool check_entries(const char *path, const char *name, void *arg)
{
	bool is_hex = strlen(name) == 2 && strspn(name, "0123456789abcdef") == 2;

	return is_hex ? each(path, check_entry, arg) : true;
}

/* Each object of upper has a stamp, which the tree shows, and an entry. */
static bool check_upper(const char *path, const char *name, void *arg)
{
	const struct world *world = arg;
	unsigned char stamp[16];
	char entry[PATH_MAX];
	uint64_t number = 0;
	struct stat st, entry_st;

	if (lstat(path, &st) < 0) {
		complain("%s: %m", path);
		return false;
	}
	if (is_whiteout(&st))
		return true;
	if (get_private(path, "ino", stamp, sizeof(stamp)) == 12)
		memcpy(&number, stamp, sizeof(number));
	else if (!is_user() || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
		complain("upper %s: no stamp", name);
		return false;
	}
	snprintf(entry, sizeof(entry), "%.3000s/inodes/%02x/#%llu", world->work,
		 (unsigned)(number & 0xff), (unsigned long long)number);
	if (number && (lstat(entry, &entry_st) < 0 ||
		       (!S_ISDIR(st.st_mode) && entry_st.st_ino != st.st_ino))) {
		complain("upper %s: stamp %llu has no entry", name, (unsigned long long)number);
		return false;
	}
	return S_ISDIR(st.st_mode) ? each(path, check_upper, arg) : true;
}

static bool check_work(const char *path, const char *name, void *arg)
{
	if (strcmp(name, "whiteout") == 0 || strcmp(name, "incompat") == 0)
		return true;
	complain("left in work/: %s", name);
	return false;
}

static int complain_pending(void *arg, const struct rvl_log_record *record)
{
	complain("pending in the log: operation %d on %llu (%s)", record->op,
		 (unsigned long long)record->number, record->at.name);
	return -ECANCELED;
}

static bool check_log(const char *dir)
{
	struct rvl_log *log = NULL;
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : rvl_log_open(fd, false, false, &log);

	if (r < 0)
		complain("log: %s", strerror(-r));
	else
		r = rvl_log_replay(log, complain_pending, NULL);
	rvl_log_close(log);
	if (fd >= 0)
		close(fd);
	return r == 0;
}

bool index_is_finished(const struct world *world)
{
	char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "%.3000s/work", world->work);
	if (!each(dir, check_work, NULL))
		return false;
	snprintf(dir, sizeof(dir), "%.3000s/inodes", world->work);
	return check_log(dir);
}

bool index_check(const struct world *world)
{
	char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "%.3000s/inodes", world->work);
	return index_is_finished(world) && each(dir, check_entries, NULL) &&
	       each(world->upper, check_upper, (void *)world);
}
