/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which layers lie inside one another, and which of that is refused. */
#ifndef RVL_LAYER_OVERLAP_H
#define RVL_LAYER_OVERLAP_H

#include <stdint.h>
#include <sys/stat.h>

struct rvl_object_id {
	uint64_t dev;
	uint64_t ino;
};

enum rvl_root_kind { RVL_ROOT_LOWER, RVL_ROOT_UPPER, RVL_ROOT_WORK };

/* The root of a layer with all directories above it, up to the root of its mount. */
struct rvl_ancestry {
	enum rvl_root_kind kind;
	const char *path; /* borrowed, for messages */
	struct rvl_object_id self;
	uint64_t mnt_id;
	struct rvl_object_id *above; /* owned */
	unsigned n_above;
};

/* fd: the root in the caller's own mount namespace (not in a clone, which has nothing above). */
int rvl_ancestry_read(int fd, enum rvl_root_kind kind, const char *path, struct rvl_ancestry *ret);
void rvl_ancestry_release(struct rvl_ancestry *ancestry);

/* 0, -ENOMEM, or logged: -ELOOP for overlapping lowers and for a lower at or inside upper or work;
 * -EINVAL for upper and work at or inside one another. Upper or work inside a lower is accepted. */
int rvl_overlap_check(const struct rvl_ancestry *roots, unsigned n);

#endif
