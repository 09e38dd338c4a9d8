// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Syncing data. sync_file_range(2) waits till the pages are on the device. Both filesystems record
 * the extents and the size in their journal before they call a page written (ext4_end_io_end,
 * xfs_end_ioend), so that a rename after it is in the same transaction or a later one; and before
 * a transaction counts they flush what the device has in its cache. Others end a page's writing
 * first (btrfs), or are not known.
 */
#include "layer/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

#define DEVICE_PATH_MAX 512
#define EXT4_JOURNAL_INO "8"

/* What /proc has on a filesystem or journal; name of the device, with a slash before it. */
static FILE *open_proc(const char *of, const char *name, const char *file)
{
	_cleanup_free_ char *path = NULL;

	return asprintf(&path, "/proc/fs/%s%s%s", of, name, file) < 0 ? NULL : fopen(path, "re");
}

/*
 * A journal on another device does not flush the device of the data for extents that were recorded
 * after the data were written (t_need_data_flush in fs/jbd2/commit.c).
 */
static bool has_inner_journal(const char *name)
{
	FILE *file = open_proc("jbd2", name, "-" EXT4_JOURNAL_INO "/info");

	if (file)
		fclose(file);
	return file;
}

static bool is_ext4_ordered(int fd)
{
	bool has_data = false, has_barrier = false;
	char path[64], target[DEVICE_PATH_MAX], line[128];
	const char *name;
	struct stat st;
	ssize_t n;
	FILE *file;

	if (fstat(fd, &st) < 0)
		return false;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = '\0';
	name = strrchr(target, '/');
	/* its options as they are in force (fs/ext4/super.c, ext4_seq_options_show); ext2 has none */
	file = name && has_inner_journal(name) ? open_proc("ext4", name, "/options") : NULL;
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file)) {
		has_data |= !strcmp(line, "data=ordered\n");
		has_barrier |= !strcmp(line, "barrier\n");
	}
	fclose(file);
	return has_data && has_barrier;
}

bool rvl_has_ordered_data(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	if (fs.f_type == XFS_SUPER_MAGIC)
		return true;
	return fs.f_type == EXT4_SUPER_MAGIC && is_ext4_ordered(fd);
}

int rvl_sync_data(int fd, bool is_ordered)
{
	const unsigned how = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			     SYNC_FILE_RANGE_WAIT_AFTER;

	if (is_ordered && sync_file_range(fd, 0, 0, how) == 0)
		return 0;
	if (is_ordered && errno != ENOSYS && errno != EPERM && errno != EINVAL)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}
