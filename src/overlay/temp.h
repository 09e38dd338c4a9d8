/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Objects in the making: in work/ as temporaries, to be renamed to where they belong (whatever is
 * left there is removed at the next mount), or at their final name in an upper directory whose lock
 * keeps others out.
 */
#ifndef RVL_OVERLAY_TEMP_H
#define RVL_OVERLAY_TEMP_H

#include "overlay/private.h"

struct rvl_real;

struct rvl_temp {
	struct rvl_overlay *ov; /* borrowed; NULL: nothing made */
	int dirfd; /* borrowed; work/ or the upper directory */
	const char *name; /* borrowed, or buf */
	char buf[RVL_TEMP_NAME_SIZE];
	mode_t type;
	mode_t mode; /* it is made with; 0: for the server alone */
	uint64_t ino;
	uid_t uid; /* owner as it was made */
	gid_t gid;
	int fd; /* owned; regular: O_RDWR, directory: O_PATH, else -EBADF */
	bool is_named; /* still there: release removes it */
};

/* Where it is made: in work/ under a fresh name, or at dirfd/name (both borrowed until release). */
void rvl_temp_begin(struct rvl_temp *temp, struct rvl_overlay *ov);
void rvl_temp_begin_at(struct rvl_temp *temp, struct rvl_overlay *ov, int dirfd, const char *name);
/* Make it: its owner is the server, who alone may use it until it gets its mode: RVL_TEMP_MODE, for
 * directories with search; where temp->mode is set it is made with that, and its owner is not read
 * (ino, uid and gid stay 0). -EEXIST, -ENOSPC … */
#define RVL_TEMP_MODE 0600
#define RVL_TEMP_DIR_MODE 0700
int rvl_temp_file(struct rvl_temp *temp);
int rvl_temp_dir(struct rvl_temp *temp);
int rvl_temp_symlink(struct rvl_temp *temp, const char *target);
int rvl_temp_node(struct rvl_temp *temp, mode_t type, dev_t rdev);
/* A whiteout in work/, begun and made: a link of one that is kept there. */
int rvl_temp_whiteout(struct rvl_temp *temp, struct rvl_overlay *ov);
/* A whiteout where nothing is. -EEXIST. */
int rvl_make_whiteout(struct rvl_overlay *ov, int dirfd, const char *name);

int rvl_temp_xattr_set(struct rvl_temp *temp, enum rvl_xattr which, const void *value, size_t size);
int rvl_temp_stamp(struct rvl_temp *temp, const struct rvl_id *id);
/* One user-visible attribute from another object; none there is success. */
int rvl_temp_copy_xattr(struct rvl_temp *temp, int dirfd, const char *name, const char *xattr);
/* The inode flags of a file or directory that the kernel's overlayfs takes along (fs/overlayfs,
 * ovl_copy_fileattr): sync and noatime. Success where either filesystem has none. */
int rvl_temp_copy_flags(struct rvl_temp *temp, const struct rvl_real *from);
/* Owner first, then the mode with its setuid bits. */
int rvl_temp_owner_mode(struct rvl_temp *temp, uid_t uid, gid_t gid, mode_t mode);

/* It is whole where it is (made at its final name): release keeps it. */
void rvl_temp_keep(struct rvl_temp *temp);
/* Rename to dirfd/name; flags of renameat2. With RENAME_EXCHANGE what was there is now the
 * temporary, of the given type. */
int rvl_temp_publish(struct rvl_temp *temp, int dirfd, const char *name, unsigned flags);
/* The name goes now (if it is not kept), the descriptor stays until release. */
void rvl_temp_release_name(struct rvl_temp *temp);
/* Remove what is still in work/ (a directory with its whiteouts too) and close. Accepts a zeroed
 * one. */
void rvl_temp_release(struct rvl_temp *temp);
#define _cleanup_temp_ __attribute__((cleanup(rvl_temp_release)))

#endif
