/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a node to its real object: a descriptor and a name relative to it, for the time of one
 * request.
 *
 *   upper non-directory   inodes/, "xx/#n": the entry is the object, whatever its names are; or a
 *                         descriptor that is open for writing, ""; without an entry (a read-only
 *                         overlay makes none) its directory in upper, and its name there
 *   upper directory       its O_PATH descriptor, ""
 *   lower                 an O_PATH descriptor of the topmost object, ""
 */
#ifndef RVL_OVERLAY_REAL_H
#define RVL_OVERLAY_REAL_H

#include "index/entry.h"
#include "overlay/private.h"

struct rvl_real {
	int dirfd; /* borrowed */
	const char *name; /* points into entry, or "" */
	bool is_upper;
	bool is_open; /* dirfd is the file itself, opened, and not O_PATH */
	char entry[RVL_ENTRY_PATH_SIZE];
	/* counted refstr or NULL: what name points to for an object without entry */
	const char *own_name;
	struct rvl_fd pin; /* of dirfd, where the cache has it */
	struct rvl_overlay *ov; /* borrowed */
};

/* No locks held, unless the node is known to have an entry. Errors: -ESTALE the object is gone;
 * others of the layer. ret is to be put also on error. */
int rvl_real_get(struct rvl_node *node, struct rvl_real *ret);
void rvl_real_put(struct rvl_real *real); /* accepts a zeroed one */
#define _cleanup_real_ __attribute__((cleanup(rvl_real_put)))

/* A new descriptor of it. */
int rvl_real_open(const struct rvl_real *real, int flags);

/* A descriptor of the topmost lower object, mostly O_PATH, pinned. -ESTALE: it has none. */
int rvl_lower_pin(struct rvl_node *node, struct rvl_fd *ret);
/* Of a directory, its place in this layer. -ESTALE: it has none there. */
int rvl_lower_pin_in(struct rvl_node *dir, unsigned layer, struct rvl_fd *ret);

/*
 * A new descriptor of a file's data where upper has none, O_RDONLY | flags. -ESTALE: the object has no
 * lower part; -EIO: a metacopy file whose data no layer has; -EUCLEAN: the data have another size
 * than the metacopy file. Without the node's copy-up begun, -EUCLEAN may be wrong: another thread may
 * be truncating it (rvl_file_pin looks again).
 */
int rvl_lower_data_open(struct rvl_node *node, int flags);
/* Logs, at a limited rate, that the data have another size. Returns -EUCLEAN. */
int rvl_lower_data_differ(const struct rvl_node *node);

/* The O_PATH descriptor of an upper directory, pinned. No locks held: its ancestors are opened.
 * -ESTALE: it is not where it should be; -ENOENT: removed, and no longer in the cache. */
int rvl_upper_dir(struct rvl_node *dir, struct rvl_fd *ret);

/* A pinned descriptor; the pin is given back by rvl_pinned_put (_cleanup_pinned_, or whoever holds it
 * on). Zeroed: none. */
struct rvl_pinned {
	struct rvl_fd fd;
	struct rvl_overlay *ov;
};
static inline void rvl_pinned_put(struct rvl_pinned *pinned)
{
	if (pinned->ov)
		rvl_fdcache_unpin(pinned->ov->fds, &pinned->fd);
}
#define _cleanup_pinned_ __attribute__((cleanup(rvl_pinned_put)))
static inline int rvl_pinned_dir(struct rvl_node *dir, struct rvl_pinned *ret)
{
	ret->ov = dir->ov;
	return rvl_upper_dir(dir, &ret->fd);
}

/* The private attribute of an upper object. */
ssize_t rvl_real_xattr_get(struct rvl_node *node, const struct rvl_real *real, enum rvl_xattr which,
			   void *buf, size_t size);
int rvl_real_xattr_set(struct rvl_node *node, const struct rvl_real *real, enum rvl_xattr which,
		       const void *buf, size_t size);

/* chmod(2), chown(2), utimensat(2) of it, whatever it is. chmod takes the lock of rvl_lift_lock. */
int rvl_real_chmod(const struct rvl_real *real, mode_t mode);
int rvl_real_chown(const struct rvl_real *real, uid_t uid, gid_t gid);
int rvl_real_utimens(const struct rvl_real *real, const struct timespec times[2]);

/* Attributes as a reply shows them (number, link count, size of merged directories). */
int rvl_node_stat(struct rvl_node *node, struct rvl_entry *ret);
/* The same from a statx that is at hand, of the upper object, or of the topmost lower. */
void rvl_node_stat_from(const struct rvl_node *node, const struct statx *stx, bool is_upper,
			struct rvl_entry *ret);

/* The handle of an object, for the entry of a directory; len 0 where handles are not to be had. */
void rvl_handle_of(struct rvl_overlay *ov, int dirfd, const char *name, struct rvl_handle *ret);

/* Open, and where descriptors have run out, once more after the cache was emptied. */
#define rvl_retry_emfile(ov, call)                      \
	({                                              \
		int fd_ = (call);                       \
		if (fd_ == -EMFILE || fd_ == -ENFILE) { \
			rvl_fdcache_shrink((ov)->fds);  \
			fd_ = (call);                   \
		}                                       \
		fd_;                                    \
	})

#endif
