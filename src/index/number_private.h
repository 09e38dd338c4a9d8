/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counters, devices, and how numbers are computed and assigned. Private to src/index. */
#ifndef RVL_INDEX_NUMBER_PRIVATE_H
#define RVL_INDEX_NUMBER_PRIVATE_H

#include <pthread.h>

#include "index/number.h"
#include "index/real.h"
#include "index/state.h"
#include "layer/identity.h"

/* A counter of numbers; given out without a lock up to limit, which is reserved on disk. */
struct rvl_counter {
	_Atomic uint64_t next;
	_Atomic uint64_t limit;
	uint16_t instance;
};

/* Numbers of the born counter's instance below this are for real objects whose computed number
 * would be 0 or the root's (rvl_number_compute in number.c). */
#define RVL_COUNTER_START 16
#define RVL_COUNTER_BLOCK (1ULL << 20)

struct rvl_device {
	dev_t dev;
	uint16_t instance;
};
#define RVL_DEVICES_MAX 65536 /* st_dev met inside layers in one mount */

struct rvl_layer_numbers {
	uint16_t instance; /* this and the next two are constant after binding */
	uint16_t salt; /* how many layers above it have the same st_dev */
	enum rvl_inos inos;
	_Atomic bool has_inner_devices; /* more than the layer's own st_dev was met in it */
};

struct rvl_numbers {
	uint32_t born_generation;
	int64_t made_sec; /* when inodes/ was made; 0: not known */
	struct rvl_counter counters[RVL_COUNTER_N];
	struct rvl_layer_numbers *layers; /* owned; by layer index */
	pthread_rwlock_t devices_lock; /* guards devices: what st_dev have what instance */
	struct rvl_device *devices; /* owned */
	unsigned n_devices;
	pthread_mutex_t assign_lock; /* one assigning or making of instances at a time */
};

int rvl_numbers_new(struct rvl_index *index, struct rvl_numbers **ret);
/* Accepts NULL. */
void rvl_numbers_free(struct rvl_numbers *numbers);

/* Exact values into the state, for a clean close. */
void rvl_numbers_store(struct rvl_index *index);

/* Instance of an st_dev in a layer. -ENOENT: not met yet. */
int rvl_device_find(struct rvl_numbers *numbers, dev_t dev, uint16_t *ret);
int rvl_device_add(struct rvl_numbers *numbers, dev_t dev, uint16_t instance);
/* Instance for the filesystem with st_dev dev at (dirfd, name) of a layer; makes and records one
 * on first sight. */
int rvl_device_instance(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
			const char *name, mode_t type, dev_t dev, uint16_t *ret);

/*
 * What an object of a lower is known by in this and every later mount, before any number:
 *
 *   its inode number lasts             (instance of its st_dev, ino)
 *   in a kernel overlay                directories, and what has a made-up st_dev or a
 *                                      number too large: (instance, hash of its file identifier)
 *   in a FUSE filesystem or the like   (instance, hash of its path in the layer), hard links of
 *                                      what and when they are
 *
 * Hashes have the top bit set, so they are no computable numbers. dirfd, name: as for
 * rvl_number_of_lower.
 */
int rvl_real_of_lower(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
		      const char *name, const struct statx *stx, struct rvl_real_id *ret);

/* Record a number of the assigned counter for a real object. ret->generation as for
 * rvl_real_number. */
int rvl_number_assign(struct rvl_index *index, const struct rvl_real_id *real, struct rvl_id *ret);

#endif
