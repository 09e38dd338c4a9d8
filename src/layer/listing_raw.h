/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All that is read from the directories of some places, before it is merged into a listing. */
#ifndef RVL_LAYER_LISTING_RAW_H
#define RVL_LAYER_LISTING_RAW_H

#include <stddef.h>
#include <stdint.h>

#include "layer/listing.h"

/* In this order within one layer: a name beside its AUFS whiteout is seen, what is below is not. */
enum rvl_raw_kind { RVL_RAW_NAME, RVL_RAW_WHITEOUT, RVL_RAW_AUFS_WHITEOUT };

struct rvl_raw_name {
	uint64_t offset; /* of the name, that is hidden or seen */
	uint64_t ino;
	uint32_t name; /* start in the text */
	uint16_t layer;
	uint8_t type;
	uint8_t kind;
};

struct rvl_raw {
	struct rvl_raw_name *v; /* owned */
	size_t n;
	size_t room;
	char *text; /* owned */
	size_t text_bytes;
	size_t text_room;
};

void rvl_raw_release(struct rvl_raw *raw);
/* Read one directory to its end. fd: readable, at its start; its position is changed. max_names:
 * -E2BIG if it alone has more (0: no limit but memory). */
int rvl_raw_read(const struct rvl_stack *stack, const struct rvl_layer *layer, int fd,
		 const struct rvl_secret *secret, size_t max_names, struct rvl_raw *raw);
/* By offset, name, layer, kind. */
void rvl_raw_sort(struct rvl_raw *raw);

#endif
