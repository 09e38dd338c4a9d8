// SPDX-License-Identifier: GPL-2.0-or-later
/* The one table of differences between a mount and a plain directory that are not errors, with reasons. */
#include "rnd.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	bool is_kernel_only;
	const char *reason;
} diffs[DIFF_COUNT] = {
	[DIFF_DIR_SIZE] = { "dir-size", false,
			    "st_size of a directory belongs to the filesystem beneath, not to POSIX" },
	[DIFF_DIR_NLINK] = { "dir-nlink", false,
			     "a merged directory's subdirectories are not counted (1, as in the kernel)" },
	[DIFF_BLOCKS] = { "blocks", false, "st_blocks depends on delayed allocation and holes" },
	[DIFF_CTIME] = { "ctime", false, "cannot be set: copy-up changes it" },
	[DIFF_ATIME] = { "atime", false,
			 "reads do not change it in lower; compared only right after utimensat" },
	[DIFF_DEV] = { "dev", false,
		       "the mount has a st_dev of its own: one for all objects (checked)" },
	[DIFF_MMAP_MTIME] = { "mmap-mtime", false,
			      "when a store to a mapping changes mtime is up to the filesystem (tmpfs: never)" },
	[DIFF_SPECIAL_MTIME] = { "special-mtime", false,
				 "reads and writes of fifos and devices need not reach the inode's times" },
	[DIFF_HIDDEN_LINKS] = { "hidden-links", false,
				"st_nlink of a lower file may count names that upper layers hide" },
	[DIFF_HOLES] = { "holes", false,
			 "where SEEK_DATA finds holes is up to the filesystem; no data may be taken for a hole" },
	[DIFF_WH_NAMES] = { "wh-names", false,
			    "names that begin with .wh. are AUFS whiteouts in a layer; never generated" },
	[DIFF_WHITEOUT_DEV] = { "whiteout-dev", false,
				"a character device 0:0 is a whiteout in a layer; never generated" },
	[DIFF_NOTEMPTY] = { "not-empty", false,
			    "POSIX allows EEXIST and ENOTEMPTY for a directory in the way (xfs: EEXIST)" },
	[DIFF_ZERO_RANGE] = { "zero-range", false,
			      "tmpfs has no FALLOC_FL_ZERO_RANGE, and overlay or FUSE take the setuid bit or the capability away "
			      "before it says so; left out there" },
	[DIFF_BTRFS_PUNCH] = { "btrfs-punch", false,
			       "btrfs does not take the setuid bit or the capability away when it punches a hole; "
			       "left out there" },
	[DIFF_DEAD_DIR_MTIME] = { "dead-dir-mtime", false,
				  "the mtime of a removed directory, seen through a descriptor: taking whiteouts "
				  "out of it may change it" },
	[DIFF_XFS_RENAME_MTIME] = { "xfs-rename-mtime", false,
				    "xfs changes a directory's own mtime when it is exchanged with something "
				    "in another directory, such as a whiteout" },
	[DIFF_DEAD_DIR_TMPFILE] = { "dead-dir-tmpfile", false,
				    "O_TMPFILE in a directory that was removed may be ENOENT; left out" },
	[DIFF_ORDER] = { "order", false, "order of names in a directory" },
	[DIFF_K_STALE_FD] = { "kernel-stale-fd", true,
			      "a descriptor or mapping from before copy-up does not see later writes" },
	[DIFF_K_INO_REUSE] = { "kernel-ino-reuse", true,
			       "the number of a dead upper object comes back for another one" },
	[DIFF_K_GHOSTS] = { "kernel-ghosts", true,
			    "whiteouts in a directory that merges with nothing are listed, but not found" },
	[DIFF_K_LIST_SIZE] = { "kernel-list-size", true,
			       "llistxattr counts private names in the size it asks for" },
	[DIFF_K_REDIRECT] = { "kernel-redirect", true,
			      "rename of a directory is EXDEV when its redirect gets too long" },
	[DIFF_K_UNLINKED_NLINK] = { "kernel-unlinked-nlink", true,
				    "fstat of a lower file that was unlinked while open still shows its links" },
	[DIFF_K_EMPTY_ACL] = { "kernel-empty-acl", true,
			       "setting an empty ACL where there is none is ENODATA" },
	[DIFF_K_UNLINKED_CHANGE] = { "kernel-unlinked-change", true,
				     "a change through a descriptor to a lower file that was unlinked is EEXIST or ESTALE, "
				     "or brings its name back" },
	[DIFF_K_D_INO] = { "kernel-d-ino", true,
			   "d_ino is not st_ino for a lower file linked or renamed into a directory whose list is cached" },
};

static bool is_accepted[DIFF_COUNT];

bool diff_ok(enum diff d)
{
	return !diffs[d].is_kernel_only || cfg.kernel || is_accepted[d];
}

int diff_accept(const char *name)
{
	for (int i = 0; i < DIFF_COUNT; i++) {
		if (!strcmp(diffs[i].name, name)) {
			is_accepted[i] = true;
			return 0;
		}
	}
	return -EINVAL;
}

void diff_print_all(FILE *f)
{
	for (int i = 0; i < DIFF_COUNT; i++)
		fprintf(f, "%-18s %-14s %s\n", diffs[i].name,
			diffs[i].is_kernel_only ? "--kernel only" : "", diffs[i].reason);
}
