// SPDX-License-Identifier: GPL-2.0-or-later
/* The one table of differences between a mount and a plain directory that are not errors, with reasons. */
#include "rnd.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	enum { ALWAYS, KERNEL, ASKED } when;
	const char *reason;
} diffs[DIFF_COUNT] = {
	[DIFF_DIR_SIZE] = { "dir-size", ALWAYS,
			    "st_size of a directory belongs to the filesystem beneath, not to POSIX" },
	[DIFF_DIR_NLINK] = { "dir-nlink", ALWAYS,
			     "a merged directory's subdirectories are not counted (1, as in the kernel)" },
	[DIFF_BLOCKS] = { "blocks", ALWAYS, "st_blocks depends on delayed allocation and holes" },
	[DIFF_CTIME] = { "ctime", ALWAYS, "cannot be set: copy-up changes it" },
	[DIFF_ATIME] = { "atime", ALWAYS,
			 "reads do not change it in lower; compared only right after utimensat" },
	[DIFF_DEV] = { "dev", ALWAYS,
		       "the mount has a st_dev of its own: one for all objects (checked)" },
	[DIFF_MMAP_MTIME] = { "mmap-mtime", ALWAYS,
			      "when a store to a mapping changes mtime is up to the filesystem (tmpfs: never)" },
	[DIFF_SPECIAL_MTIME] = { "special-mtime", ALWAYS,
				 "reads and writes of fifos and devices need not reach the inode's times" },
	[DIFF_HIDDEN_LINKS] = { "hidden-links", ALWAYS,
				"st_nlink of a lower file may count names that upper layers hide; so it can be linked by "
				"descriptor when its last visible name is gone (left out)" },
	[DIFF_HOLES] = { "holes", ALWAYS,
			 "where SEEK_DATA finds holes is up to the filesystem; no data may be taken for a hole" },
	[DIFF_WH_NAMES] = { "wh-names", ALWAYS,
			    "names that begin with .wh. are AUFS whiteouts in a layer; never generated" },
	[DIFF_WHITEOUT_DEV] = { "whiteout-dev", ALWAYS,
				"a character device 0:0 is a whiteout in a layer; never generated" },
	[DIFF_NOTEMPTY] = { "not-empty", ALWAYS,
			    "POSIX allows EEXIST and ENOTEMPTY for a directory in the way (xfs: EEXIST)" },
	[DIFF_ZERO_RANGE] = { "zero-range", ALWAYS,
			      "tmpfs has no FALLOC_FL_ZERO_RANGE, and overlay or FUSE take the setuid bit or the capability away "
			      "before it says so; left out there" },
	[DIFF_BTRFS_PUNCH] = { "btrfs-punch", ALWAYS,
			       "btrfs does not take the setuid bit or the capability away when it punches a hole; "
			       "left out there" },
	[DIFF_DEAD_DIR_MTIME] = { "dead-dir-mtime", ALWAYS,
				  "the mtime of a removed directory, seen through a descriptor: taking whiteouts "
				  "out of it may change it" },
	[DIFF_XFS_RENAME_MTIME] = { "xfs-rename-mtime", ALWAYS,
				    "xfs changes a directory's own mtime when it is exchanged with something "
				    "in another directory, such as a whiteout" },
	[DIFF_DEAD_DIR_TMPFILE] = { "dead-dir-tmpfile", ALWAYS,
				    "O_TMPFILE in a directory that was removed may be ENOENT; left out" },
	[DIFF_SGID_NO_EXEC] = { "sgid-no-exec", ASKED,
				"a write by one who is not in the group takes setgid away also without "
				"group-execute (Linux 6.0 on); FUSE's rule asks for group-execute" },
	[DIFF_SETID_CAPABILITY] = { "setid-capability", ALWAYS,
				    "the kernel's FUSE client asks for the same thing when root writes to a file with a "
				    "capability as when it does chown(-1, -1): setuid goes in both cases; left out" },
	[DIFF_SETID_CHOWN] = { "setid-chown", ALWAYS,
			       "chown(-1, -1) of a setuid file by a stranger is EPERM, but the kernel's FUSE client asks for "
			       "the same as when one who may writes to it; left out" },
	[DIFF_EMPTY_TRUNCATE] = { "empty-truncate", ALWAYS,
				  "truncate(path, 0) of an empty file changes its times: the kernel's FUSE client asks for "
				  "the same at open with O_TRUNC, which has to; left out" },
	[DIFF_TMPFS_EMPTY_ACL] = { "tmpfs-empty-acl", ALWAYS,
				   "tmpfs takes setgid away when a stranger removes an ACL, others do not; left out there" },
	[DIFF_ORDER] = { "order", ALWAYS, "order of names in a directory" },
	[DIFF_K_STALE_FD] = { "kernel-stale-fd", KERNEL,
			      "a descriptor or mapping from before copy-up does not see later writes" },
	[DIFF_K_INO_REUSE] = { "kernel-ino-reuse", KERNEL,
			       "the number of a dead upper object comes back for another one" },
	[DIFF_K_GHOSTS] = { "kernel-ghosts", KERNEL,
			    "whiteouts in a directory that merges with nothing are listed, but not found" },
	[DIFF_K_LIST_SIZE] = { "kernel-list-size", KERNEL,
			       "llistxattr counts private names in the size it asks for" },
	[DIFF_K_REDIRECT] = { "kernel-redirect", KERNEL,
			      "rename of a directory is EXDEV when its redirect gets too long" },
	[DIFF_K_UNLINKED_NLINK] = { "kernel-unlinked-nlink", KERNEL,
				    "fstat of a lower file that was unlinked while open still shows its links" },
	[DIFF_K_EMPTY_ACL] = { "kernel-empty-acl", KERNEL,
			       "setting an empty ACL where there is none is ENODATA" },
	[DIFF_K_UNLINKED_CHANGE] = { "kernel-unlinked-change", KERNEL,
				     "a change through a descriptor to a lower file that was unlinked is EEXIST or ESTALE, "
				     "or brings its name back" },
	[DIFF_K_D_INO] = { "kernel-d-ino", KERNEL,
			   "d_ino is not st_ino for a lower file linked or renamed into a directory whose list is cached" },
};

static bool is_accepted[DIFF_COUNT];

bool diff_ok(enum diff d)
{
	return diffs[d].when == ALWAYS || (diffs[d].when == KERNEL && cfg.kernel) || is_accepted[d];
}

mode_t diff_mode(mode_t mode)
{
	bool is_meaningless = S_ISREG(mode) && !(mode & S_IXGRP) && diff_ok(DIFF_SGID_NO_EXEC);

	return is_meaningless ? mode & ~(mode_t)S_ISGID : mode;
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
	static const char *const whens[] = { "", "--kernel", "--accept" };

	for (int i = 0; i < DIFF_COUNT; i++)
		fprintf(f, "%-23s %-9s %s\n", diffs[i].name, whens[diffs[i].when], diffs[i].reason);
}
