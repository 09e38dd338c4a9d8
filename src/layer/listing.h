/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listings of merged directories: every visible name once, at an offset that is a keyed hash of
 * the name, so that it means the same after reopen, restart and concurrent changes.
 */
#ifndef RVL_LAYER_LISTING_H
#define RVL_LAYER_LISTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "layer/merge.h"

struct rvl_listing_name {
	uint64_t offset; /* the directory offset: keyed hash of the name, 3 … 2^63-2 */
	uint64_t ino;	 /* real d_ino in the topmost layer that has it */
	uint32_t name;	 /* start of the name in the listing's text; use rvl_listing_text() */
	uint16_t layer;	 /* index of the topmost layer that has it */
	uint8_t type;	 /* DT_*; never DT_UNKNOWN */
	bool is_merged : 1; /* a directory of which layers below may have more (else: none) */
	bool is_named_below : 1; /* and one has a directory of the same name (else: by redirect) */
};

/* All visible names of some places, each once, ordered by (offset, name). Immutable, counted. */
struct rvl_listing {
	struct rvl_listing_name *v; /* owned */
	size_t n;
	char *text; /* owned */
	size_t text_bytes;
	size_t size_bytes; /* of memory, all in all */
	const struct rvl_secret *secret; /* borrowed from the caller: outlives all listings */
	_Atomic unsigned refs;
};

/* offset of a name; key from the overlay's state. */
uint64_t rvl_listing_offset(const struct rvl_secret *secret, const char *name);

/*
 * Read the directories of `places` into one listing ("." and ".." left out, whiteouts and what they
 * hide too, AUFS names interpreted). max_names: -E2BIG when there are more, in all or read from one
 * place, or must be by the size of a large directory (0: no limit but memory). Places that were
 * removed offline are skipped. With layer has_ino_in_dirents false, ino is from a statx of each entry.
 */
int rvl_listing_read(const struct rvl_stack *stack, const struct rvl_places *places,
		     const struct rvl_secret *secret, size_t max_names, struct rvl_listing **ret);

/*
 * The listing of a directory with an upper part: upper's names (whiteouts hide) over lower's.
 * upper_fd: readable descriptor of the upper directory (its position is changed); lower may be
 * NULL. Names with layer == 0 are upper's; for those also is_merged says whether lower has a
 * visible directory of the name (upper's must be a directory, too). AUFS names have no meaning in
 * upper.
 */
int rvl_listing_read_upper(const struct rvl_stack *stack, int upper_fd,
			   const struct rvl_listing *lower, bool is_opaque,
			   const struct rvl_secret *secret, struct rvl_listing **ret);

struct rvl_listing *rvl_listing_get(struct rvl_listing *listing);
void rvl_listing_put(struct rvl_listing *listing);
static inline const char *rvl_listing_text(const struct rvl_listing *listing,
					   const struct rvl_listing_name *name)
{
	return listing->text + name->name;
}
/* Index of the first entry with offset >= the given one. */
size_t rvl_listing_seek(const struct rvl_listing *listing, uint64_t offset);
/* The entry of a name, or NULL. */
const struct rvl_listing_name *rvl_listing_find(const struct rvl_listing *listing,
						const char *name);

#endif
