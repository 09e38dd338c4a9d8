/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reverlayctl resolve: what is asked, and the answer as it grows. Shared by its three files only.
 */
#ifndef RVL_TOOLS_RESOLVE_H
#define RVL_TOOLS_RESOLVE_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "index/number.h"
#include "tools/nfs_handle.h"

enum rvl_resolve_kind { RVL_RESOLVE_PATH, RVL_RESOLVE_NUMBER, RVL_RESOLVE_HANDLE };

struct rvl_resolve_query {
	enum rvl_resolve_kind kind;
	const char *text;
	uint64_t number;
	struct rvl_nfs_handle handle;
};

struct rvl_resolve_answer {
	struct rvl_id id;
	mode_t type;
	bool is_upper, is_dead;
	uint8_t uuid[16];
	json_t *paths, *real; /* owned */
	char *entry; /* owned or NULL: the index's own link of an upper object */
	const char *why; /* is_dead */
};

/* There is no such object any more; why: for people, a constant. */
void rvl_resolve_die(struct rvl_resolve_answer *answer, const char *why);
/*
 * A handle must be of this overlay, and of this generation: else the object that it means is dead.
 */
void rvl_resolve_check_handle(const struct rvl_resolve_query *query,
			      struct rvl_resolve_answer *answer);
/* One of its names, from the root of the overlay and without a leading slash. */
void rvl_resolve_add_path(struct rvl_resolve_answer *answer, const char *path);
/* A real object: path below a layer. */
void rvl_resolve_add_real(struct rvl_resolve_answer *answer, const char *layer, const char *path);
/* Its entry: below work/inodes. */
void rvl_resolve_set_entry(struct rvl_resolve_answer *answer, const char *work, const char *entry);

/*
 * Answers by a live mount, or by layers that are not mounted (options as for the mount). 0 also for
 * a dead object; -errno is logged.
 */
int rvl_resolve_live(const char *mount_point, const struct rvl_resolve_query *query,
		     struct rvl_resolve_answer *answer);
int rvl_resolve_offline(const char *options, const struct rvl_resolve_query *query,
			struct rvl_resolve_answer *answer);

#endif
