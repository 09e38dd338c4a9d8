/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The layers of an overlay and the stack that they form.
 *
 * A layer is one real tree, held by one descriptor on its root. Where the process may, the root is
 * opened in a private clone of its mount (open_tree(2)): filesystems mounted inside the layer are
 * then not part of it, exactly as for the kernel's overlayfs, and lower clones are read-only and
 * noatime, so that no read changes a lower. Else RESOLVE_NO_XDEV and O_NOATIME do the same.
 * Upper and workdir are opened in ONE clone (of their common ancestor), since link and rename
 * between two mounts are EXDEV.
 *
 * Everything in a stack is constant from open to close; no locks are needed.
 */
#ifndef RVL_LAYER_LAYER_H
#define RVL_LAYER_LAYER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "layer/xattr.h"

#define RVL_LAYERS_MAX 500 /* lower layers, as in the kernel (OVL_MAX_STACK) */

struct rvl_layer {
	int fd;	    /* owned; O_PATH | O_DIRECTORY on the layer's root */
	char *path; /* owned; absolute, as resolved at open; for messages and tools */
	unsigned index; /* in the stack: 0 upper, then the lowers from the topmost down */
	bool is_upper;
	bool is_data_only; /* A::D: reached by absolute redirects of metacopy files only */
	bool has_xattrs;   /* false: the filesystem answers EOPNOTSUPP */
	/*
	 * names ".wh.…" are AUFS whiteouts; not so in upper, nor where the root has an instance
	 * table: what was an upper of reverlay has such names only as users made them
	 */
	bool has_aufs;
	bool has_ino_in_dirents; /* getdents gives st_ino (not so: btrfs, overlay, fuse, nfs) */
	dev_t dev;		 /* st_dev of the root */
	uint64_t ino;		 /* st_ino of the root */
	uint64_t fs_magic;	 /* statfs f_type */
};

struct rvl_stack {
	struct rvl_layer *layers; /* owned; layers[0] is upper (fd -EBADF where there is none) */
	unsigned n;		  /* of all, upper included */
	unsigned n_data;	  /* data-only ones, at the end */
	bool has_upper;
	int work_fd;   /* owned; the workdir, -EBADF without; in the mount of upper */
	char *work_path; /* owned or NULL */
	uint64_t work_dev; /* st_dev and st_ino of the workdir */
	uint64_t work_ino;
	struct rvl_xattr_names xattr; /* trusted. or user. */
	bool can_redirect_follow;     /* redirect_dir != nofollow */
	/* A look-up takes a file with blocks, or an empty one, in the last layer that the search
	 * reaches to have data, and who needs them asks rvl_merge_check_data: for who looks up many
	 * and reads few. Off until it is set. */
	bool is_data_checked_late;
};

struct rvl_stack_config {
	const char *const *lower; /* borrowed; unescaped paths, topmost first */
	unsigned n_lower;
	unsigned n_data;   /* how many of them, at the end, are data-only */
	const char *upper; /* borrowed; NULL: read-only */
	const char *work;  /* borrowed; may be given without upper */
	uint64_t atime; /* of upper and work: MOUNT_ATTR_* as for rvl_mount_clone */
	bool is_userxattr;
	bool is_redirect_nofollow;
};

/*
 * Open and check the layers. Refuses, with one message on the log that names option and path:
 * missing or non-directory layers; lowers that contain one another or are given twice; lower
 * inside upper or work; work inside upper or upper inside work or the same; a mount point inside
 * upper or work; upper or work on a read-only filesystem; work and upper not on one mount.
 * An upper below a lower is accepted, as by the kernel (the caller hides it: rvl_stack_is_hidden).
 * Errors: -errno, the message is already logged.
 */
int rvl_stack_open(const struct rvl_stack_config *config, struct rvl_stack *ret);
/* Accepts a zeroed or released stack. */
void rvl_stack_release(struct rvl_stack *stack);

/* Is this directory of a lower (st_dev, st_ino) the root of upper or work? Such a directory is
 * hidden when an upper lies below a lower. */
bool rvl_stack_is_hidden(const struct rvl_stack *stack, uint64_t dev, uint64_t ino);

static inline struct rvl_layer *rvl_stack_upper(const struct rvl_stack *stack)
{
	return stack->has_upper ? &stack->layers[0] : NULL;
}

/*
 * Where dirfd/name lies (name "" for the object of the descriptor), as a path from the layer's root,
 * by what the kernel tells of the descriptor; "" is the root. *ret is owned by the caller. -ESTALE:
 * not inside the layer; -ENOMEM; errors of rvl_fd_read_path.
 */
int rvl_layer_place(const struct rvl_layer *layer, int dirfd, const char *name, char **ret);
/*
 * Does the directory of a descriptor lie inside the layer? Handles open anything on the filesystem. False
 * only if it lies outside for certain: deeper than PATH_MAX, or after an error, it may be inside. Not
 * for files: a descriptor of one may be known by a name that is gone, or was never looked up.
 */
bool rvl_layer_may_have_dir(const struct rvl_layer *layer, int fd);

/* Index of the topmost lower on the filesystem of the lower with index i. */
static inline unsigned rvl_stack_first_of_filesystem(const struct rvl_stack *stack, unsigned i)
{
	unsigned first = 1;

	while (stack->layers[first].dev != stack->layers[i].dev)
		first++;
	return first;
}

/* Index of the first data-only layer; lowers with a merged view are 1 … this - 1. */
static inline unsigned rvl_stack_data_start(const struct rvl_stack *stack)
{
	return stack->n - stack->n_data;
}

/*
 * What upper's filesystem can do, found by doing it in work/ (real objects, removed again).
 * Refuses (logged) where upper cannot serve: no xattrs in the chosen namespace, no link or rename
 * from work to upper, no whiteouts.
 */
struct rvl_upper_features {
	bool has_rename_whiteout; /* RENAME_WHITEOUT */
	bool has_rename_exchange; /* RENAME_EXCHANGE */
	bool has_tmpfile;	  /* O_TMPFILE + linkat */
	bool has_handles;	  /* name_to_handle_at */
	bool has_symlink_xattrs;  /* private ones on symlinks and devices (user.: no) */
	bool has_char_whiteouts;  /* mknod of char 0:0; else the xattr form */
	bool has_ordered_data;	  /* layer/sync.h; not tried, but known */
};
/* temp_fd: the directory for temporary objects (workdir/work). */
int rvl_upper_probe(const struct rvl_stack *stack, int temp_fd, struct rvl_upper_features *ret);

/* What can be told of an upper in which nothing may be made; the rest is false. */
struct rvl_upper_features rvl_upper_features_read_only(const struct rvl_stack *stack);

#endif
