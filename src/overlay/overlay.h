/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The live filesystem: what the FUSE front (server/) asks, one function a request. Objects are
 * named by number alone, here as in FUSE: nothing that a caller holds points into memory of the
 * overlay, and opening a file leaves nothing with the caller (docs/decisions/0002).
 *
 * Every function is thread-safe, blocks for disk work, returns 0 or -errno ready for the kernel
 * (reads and writes: bytes), fills ret_* only on success. A number that leads to nothing is
 * -ESTALE. asker, changer: the thread from which the request is, 0 if it is not known
 * (overlay/given.h). Names are checked here (-ENAMETOOLONG, -EINVAL); permissions are the kernel's
 * (default_permissions).
 */
#ifndef RVL_OVERLAY_OVERLAY_H
#define RVL_OVERLAY_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "index/index.h"
#include "layer/keep.h"
#include "layer/layer.h"

struct rvl_overlay; /* private: overlay/private.h */
struct rvl_node; /* private: overlay/node.h */

enum rvl_redirect_mode {
	RVL_REDIRECT_ON,
	RVL_REDIRECT_FOLLOW,
	RVL_REDIRECT_NOFOLLOW,
	RVL_REDIRECT_OFF
};
enum rvl_sync_mode { RVL_SYNC_VOLATILE, RVL_SYNC_AUTO, RVL_SYNC_STRICT };

struct rvl_overlay_config {
	const struct rvl_stack *stack; /* borrowed, outlives the overlay */
	struct rvl_index *index; /* borrowed, outlives the overlay */
	enum rvl_redirect_mode redirect;
	enum rvl_sync_mode sync;
	bool is_read_only;
	bool has_acl; /* POSIX ACLs are in use on this mount */
	bool has_metacopy; /* a change of attributes copies up these alone */
	unsigned node_limit; /* nodes kept in memory; 0: default */
	/*
	 * Attributes of an object that no reply is about have changed: those that the kernel keeps
	 * are to go (RVL_NOTICE_ATTRIBUTES). Called before the reply, by the thread of a request, with
	 * no lock of a node, but maybe in a copy-up's turn: must ask nothing of the overlay. NULL:
	 * nobody keeps any.
	 */
	void (*tell_changed)(void *context, uint64_t number);
	void *context; /* borrowed */
};

/* Makes the root node and recovers what the log says is unfinished. Message logged on errors. */
int rvl_overlay_open(const struct rvl_overlay_config *config, struct rvl_overlay **ret);
/* No request is served any more: makes the entries that are owed, buries orphans. Accepts NULL. */
void rvl_overlay_close(struct rvl_overlay *ov);

/*
 * Walk the lower view into the map, unless that is done: for a thread of the caller's that has
 * nothing else to do. Returns when it is done, with an error, or soon after rvl_overlay_stop
 * (-EINTR).
 */
int rvl_overlay_build_map(struct rvl_overlay *ov);
/*
 * Complete the index after an unclean stop of the machine (complete.c): for a thread of the
 * caller's, and its end, as above. Must be called if is_incomplete says so: some requests wait for
 * it.
 */
int rvl_overlay_complete(struct rvl_overlay *ov);
bool rvl_overlay_is_incomplete(const struct rvl_overlay *ov);
struct rvl_map_info;
/* What the map is (index/map.h). */
int rvl_overlay_map_info(struct rvl_overlay *ov, struct rvl_map_info *ret);
/*
 * Makes the index entries of new objects, which are owed when the reply is sent; for a thread of
 * the caller's. Returns after rvl_overlay_stop. Without it who makes objects pays for older ones.
 */
void rvl_overlay_pay_debts(struct rvl_overlay *ov);
/*
 * Long work ends soon, that of a request too: -EINTR. From any thread, and more than once. Requests
 * may be served on.
 */
void rvl_overlay_stop(struct rvl_overlay *ov);

/* Who asks: for the owner of new objects. */
struct rvl_cred {
	uid_t uid;
	gid_t gid;
	mode_t umask; /* to be applied unless a default ACL takes its place */
};

/* An object as a reply shows it. */
struct rvl_entry {
	uint64_t number;
	uint32_t generation;
	struct stat st; /* st_ino == number; st_dev 0 */
	struct timespec btime; /* zero where unknown */
};

/* ---- names and nodes (lookup.c) ----
 * Each successful call that fills an rvl_entry (but getattr, setattr) counts as one look-up of the
 * kernel. */
/* An absent name is -ENOENT. "." and "..": decode of handles. */
int rvl_overlay_lookup(struct rvl_overlay *ov, pid_t asker, uint64_t parent, const char *name,
		       struct rvl_entry *ret);
void rvl_overlay_forget(struct rvl_overlay *ov, uint64_t number, uint64_t n_lookups);

/* ---- attributes (attr.c) ---- */
int rvl_overlay_getattr(struct rvl_overlay *ov, pid_t asker, uint64_t number,
			struct rvl_entry *ret);
enum {
	RVL_SET_MODE = 1 << 0,
	RVL_SET_UID = 1 << 1,
	RVL_SET_GID = 1 << 2,
	RVL_SET_SIZE = 1 << 3,
	RVL_SET_ATIME = 1 << 4, /* tv_nsec may be UTIME_NOW */
	RVL_SET_MTIME = 1 << 5,
	RVL_SET_OPEN = 1 << 6, /* with SIZE: ftruncate(2), which changes the times in any case */
};
/* attr: the fields named by mask (st_mode, st_uid, st_gid, st_size, st_atim, st_mtim). */
int rvl_overlay_setattr(struct rvl_overlay *ov, uint64_t number, const struct stat *attr,
			unsigned mask, struct rvl_entry *ret);
enum rvl_change {
	RVL_CHANGE_ATTRIBUTES, /* of the object */
	RVL_CHANGE_NAMES, /* in this directory */
	RVL_CHANGE_PLACE, /* it was renamed: the ".." of a directory may be another */
};
enum rvl_notice {
	RVL_NOTICE_NONE,
	RVL_NOTICE_ATTRIBUTES, /* those that were read before are too old (overlay/given.h) */
	RVL_NOTICE_LISTING, /* and the kernel's listing of the directory (docs/decisions/0006) */
};
/*
 * Which notice is due before the reply to a change? For all changes whose reply does not have the
 * object's attributes. changer: the thread that asks.
 */
enum rvl_notice rvl_overlay_changed(struct rvl_overlay *ov, pid_t changer, uint64_t number,
				    enum rvl_change change);
/* buf of size bytes is terminated; -ENAMETOOLONG never, targets are at most PATH_MAX. */
int rvl_overlay_readlink(struct rvl_overlay *ov, uint64_t number, char *buf, size_t size);
int rvl_overlay_statfs(struct rvl_overlay *ov, uint64_t number, struct statvfs *ret);
/* What is known of an object, for people: the text of RVL_STAT_OBJECT (base/stat_ioctl.h). *ret is
 * owned by the caller. -ESTALE: the number leads to nothing. (describe.c) */
int rvl_overlay_describe(struct rvl_overlay *ov, uint64_t number, char **ret, size_t *ret_len);
/* inode flags (FS_IOC_GETFLAGS) and the fsxattr form; only what FS_IOC_SETFLAGS of upper takes;
 * immutable and append-only as the kernel's protattr. */
int rvl_overlay_get_flags(struct rvl_overlay *ov, uint64_t number, unsigned *ret);
int rvl_overlay_set_flags(struct rvl_overlay *ov, uint64_t number, unsigned flags);

/* ---- extended attributes (xattr.c) ----
 * size 0 asks for the length, as getxattr(2). */
ssize_t rvl_overlay_getxattr(struct rvl_overlay *ov, uint64_t number, const char *name, void *buf,
			     size_t size);
ssize_t rvl_overlay_listxattr(struct rvl_overlay *ov, uint64_t number, char *buf, size_t size);
int rvl_overlay_setxattr(struct rvl_overlay *ov, uint64_t number, const char *name,
			 const void *value, size_t size, int flags, bool is_acl_kill_sgid);
int rvl_overlay_removexattr(struct rvl_overlay *ov, uint64_t number, const char *name);
/*
 * Around a write of pages that were stored to through a mapping: a local filesystem takes no
 * capability (security.capability) from a file for them (that is done where write(2) begins:
 * file_remove_privs in fs/inode.c), but the server's write does. It is put back at the end; who sets
 * one waits for that. fd: of the pinned data. Between the two nothing else of the overlay may be
 * called for this object but the unpin.
 */
struct rvl_page_write {
	struct rvl_node *node; /* counted */
	int fd; /* borrowed */
	ssize_t len;
	char capability[RVL_CAPABILITY_SIZE];
};
int rvl_overlay_page_write_begin(struct rvl_overlay *ov, uint64_t number, int fd,
				 struct rvl_page_write *ret);
void rvl_overlay_page_write_end(struct rvl_page_write *write);

/* ---- making (create.c, link.c) ----
 * Type, mode, ACL inheritance and setgid directories are handled here. */
/* All types but directories and symlinks. */
int rvl_overlay_mknod(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		      const char *name, mode_t mode, dev_t rdev, struct rvl_entry *ret);
int rvl_overlay_mkdir(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		      const char *name, mode_t mode, struct rvl_entry *ret);
int rvl_overlay_symlink(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
			const char *name, const char *target, struct rvl_entry *ret);
/* One more name; also the first one of a file of rvl_overlay_tmpfile. -EPERM: a directory, or
 * immutable or append-only. */
int rvl_overlay_link(struct rvl_overlay *ov, uint64_t number, uint64_t parent, const char *name,
		     struct rvl_entry *ret);
/* A regular file, opened (until rvl_overlay_release_file). O_EXCL and O_TRUNC were the kernel's
 * business but -EEXIST is possible. */
int rvl_overlay_create(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		       const char *name, mode_t mode, struct rvl_entry *ret);
/* O_TMPFILE: no name yet; opened. A later rvl_overlay_link names it. */
int rvl_overlay_tmpfile(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
			mode_t mode, struct rvl_entry *ret);

/* ---- removing and renaming (remove.c, rename.c) ---- */
int rvl_overlay_unlink(struct rvl_overlay *ov, uint64_t parent, const char *name);
int rvl_overlay_rmdir(struct rvl_overlay *ov, uint64_t parent, const char *name);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT; others -EINVAL. cred: for the
 * whiteout. ret_moved: what has another name now, and what has its name with EXCHANGE; else 0. */
int rvl_overlay_rename(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		       const char *name, uint64_t to_parent, const char *to_name, unsigned flags,
		       uint64_t ret_moved[2]);

/* ---- files (file.c) ----
 * Descriptors are the node's, found anew at every request: nothing is kept by the caller. */
/* Counts one open; with write flags the file is copied up; O_TRUNC truncates. A front that is not
 * asked for opens need not call it. */
int rvl_overlay_open_file(struct rvl_overlay *ov, uint64_t number, int flags);
/* The end of an open: of that, of rvl_overlay_create or of _tmpfile. */
void rvl_overlay_release_file(struct rvl_overlay *ov, uint64_t number);
/* A descriptor on the data for the time of one request: pinned until rvl_overlay_unpin. */
struct rvl_pin {
	int fd; /* borrowed */
	void *opaque;
};
int rvl_overlay_pin_read(struct rvl_overlay *ov, uint64_t number, struct rvl_pin *ret);
/* For a write at this offset: copies up. -EPERM: immutable, or append-only and not at the end. */
int rvl_overlay_pin_write(struct rvl_overlay *ov, uint64_t number, off_t offset,
			  struct rvl_pin *ret);
/*
 * A descriptor on the data where they stay for as long as the object lives: in upper, and free to
 * be read and written by who has it open. -EOPNOTSUPP: they are in lower, or changes are restricted
 * (immutable, append-only).
 */
int rvl_overlay_pin_backing(struct rvl_overlay *ov, uint64_t number, struct rvl_pin *ret);
void rvl_overlay_unpin(struct rvl_overlay *ov, struct rvl_pin *pin);
int rvl_overlay_fallocate(struct rvl_overlay *ov, uint64_t number, int mode, off_t offset,
			  off_t length);
off_t rvl_overlay_lseek(struct rvl_overlay *ov, uint64_t number, off_t offset, int whence);
ssize_t rvl_overlay_copy_range(struct rvl_overlay *ov, uint64_t from, off_t from_offset,
			       uint64_t to, off_t to_offset, size_t length);
int rvl_overlay_fsync(struct rvl_overlay *ov, uint64_t number, bool is_data_only);

/* ---- directories (readdir.c) ---- */
/* One snapshot for a reply: entries from `offset` on in order; fn returns false when the reply is
 * full (that entry is then not consumed). "." and ".." have the offsets 1 and 2 (RVL_OFFSET_DOTS).
 * offset is the value after the last entry consumed (0: from the start), also of another open,
 * another server's life, or after changes. with_attr: entry is filled and counts as a look-up when
 * fn returns true. Without (entry NULL) are "." and "..", a name whose attributes cannot be had, what
 * the kernel has already (is_kept), and one in RVL_ATTR_GAP: who looks at the names asks for that one.
 */
#define RVL_OFFSET_DOTS 2
#define RVL_ATTR_GAP 64
struct rvl_dirent {
	const char *name;
	uint64_t number;
	unsigned char type; /* DT_* */
	uint64_t next_offset;
	const struct rvl_entry *entry; /* with_attr only, else NULL */
	bool is_kept; /* the kernel has it, with its attributes */
};
typedef bool rvl_dirent_fn(void *arg, const struct rvl_dirent *dirent);
int rvl_overlay_readdir(struct rvl_overlay *ov, pid_t asker, uint64_t number, uint64_t offset,
			bool with_attr, rvl_dirent_fn *fn, void *arg);
/* A pass has come to its end: the server need not hold its snapshot for it any more. May the kernel
 * keep the listing (docs/decisions/0006)? False also where the directory cannot be found. */
bool rvl_overlay_end_pass(struct rvl_overlay *ov, uint64_t number);

#endif
