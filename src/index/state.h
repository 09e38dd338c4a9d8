/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state (inodes/state): who this overlay is. One small file, replaced whole and atomically;
 * docs/format.md has its layout. What is here must be right after any crash: it is saved, durable,
 * before anything that depends on it is shown.
 */
#ifndef RVL_INDEX_STATE_H
#define RVL_INDEX_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layer/handle.h"
#include "layer/identity.h"

#define RVL_STATE_VERSION 1
#define RVL_STATE_MAX_BYTES (16 << 20)
#define RVL_STATE_PATH_MAX 4096
#define RVL_STATE_INSTANCES_MAX 32768
/* with so many instances the stamps and tables of layers add none */
#define RVL_STATE_IMPORTED_MAX 16384

/* Feature bits that this version knows. An unknown incompat bit is a refusal, an unknown compat
 * bit is kept. */
#define RVL_STATE_INCOMPAT_KNOWN 0ULL

enum rvl_state_flag {
	RVL_STATE_CLEAN = 1 << 0, /* the last mount was closed as it should be */
	RVL_STATE_HAS_REALS = 1 << 1, /* claims or assigned numbers exist: see real.h */
	RVL_STATE_MAP_IS_TRUTH = 1 << 2, /* after a rebind, or a rebuild after one: the map must not be made anew */
	RVL_STATE_REALS_IN_MAP = 1 << 3, /* some of them are in map.mdb: it must be there */
	RVL_STATE_INCOMPLETE = 1 << 4, /* entries may be missing since the machine stopped */
	RVL_STATE_KERNEL = 1 << 5, /* upper is the kernel's overlayfs's, until it is imported */
	RVL_STATE_REBUILT = 1 << 6, /* made again by a rebind, which has not ended */
};

enum rvl_instance_flag {
	RVL_INSTANCE_IMPORTED = 1 << 0, /* known from the table of a layer that was an upper */
	RVL_INSTANCE_COUNTER = 1 << 1, /* numbers of a counter, not of a filesystem */
	RVL_INSTANCE_RETIRED = 1 << 2, /* nothing new gets a number of it */
};

/* A space of numbers. */
struct rvl_state_instance {
	uint16_t id;
	uint16_t flags; /* rvl_instance_flag */
	uint64_t fs_magic; /* 0 for counters */
	uint8_t digest[16]; /* of the identity; what is compared */
	uint8_t uuid[16]; /* of the filesystem, zeros where there is none */
	uint8_t visible[16]; /* second digest, see layer/identity.h; or zeros */
};

enum rvl_state_root_flag {
	RVL_ROOT_DATA_ONLY = 1 << 0,
	RVL_ROOT_HAS_TABLE = 1 << 1, /* the layer was an upper once */
	RVL_ROOT_CLAIMS_DONE = 1 << 2, /* its claims are recorded */
	RVL_ROOT_UNSTABLE = 1 << 3, /* the identity of its filesystem holds for one mount only */
};

/* The root of a layer, or the workdir. */
struct rvl_state_root {
	uint16_t instance; /* lowers only */
	uint32_t flags; /* rvl_state_root_flag */
	uint64_t ino;
	struct rvl_handle handle; /* len 0: the filesystem has none */
	char *path; /* owned; for messages only */
};

enum rvl_state_counter { RVL_COUNTER_BORN, RVL_COUNTER_ASSIGNED, RVL_COUNTER_N };

struct rvl_state {
	pthread_mutex_t lock; /* guards all below but uuid and key, and the file */
	uint64_t compat, incompat;
	uint8_t uuid[16];
	uint8_t key[32]; /* of directory offsets */
	uint8_t boot_id[16]; /* of the last mount */
	uint32_t flags; /* rvl_state_flag */
	uint16_t volatile_low; /* from here up: instances of one mount each; 0x8000: none */
	uint32_t map_serial; /* of the map, its seal and its journal: one more with each rebind */
	uint8_t former_uuid[16]; /* upper's table may have it still, after a clone; else zeros */
	struct {
		uint16_t instance;
		uint64_t next; /* at and above nothing was ever given out */
	} counters[RVL_COUNTER_N];
	struct rvl_state_instance *instances; /* owned */
	unsigned n_instances;
	uint64_t used_ids[512]; /* bitmap of the instances' ids */
	struct rvl_state_root upper, work; /* ino 0: none */
	struct rvl_state_root *lowers; /* owned; topmost first */
	unsigned n_lowers;
};

/* A new state: uuid and key random (getrandom(2)), all else empty. */
int rvl_state_new(struct rvl_state **ret);
/* Draw the uuid anew. -EIO: no random numbers. */
int rvl_state_new_uuid(struct rvl_state *state);
/* Accepts NULL. */
void rvl_state_free(struct rvl_state *state);
void rvl_state_root_release(struct rvl_state_root *root);

/* One encode, one decode function. decode: -EUCLEAN damaged, -EPROTONOSUPPORT a newer format (the
 * checksum is right). */
int rvl_state_encode(const struct rvl_state *state, uint8_t **ret, size_t *ret_len);
int rvl_state_decode(const void *data, size_t len, struct rvl_state **ret);

/* -ENOENT: there is none; -EUCLEAN, -EPROTONOSUPPORT as decode. Logs nothing. */
int rvl_state_load(int inodes_fd, struct rvl_state **ret);
/* Replace the file: state.new, fsync, exchange, fsync of the directory (no fsync if is_volatile).
 * After an error the old file is in place (or the new one, whole). The caller holds state->lock
 * where there are threads. */
int rvl_state_save(const struct rvl_state *state, int inodes_fd, bool is_volatile);

struct rvl_state_instance *rvl_state_instance_by_id(const struct rvl_state *state, uint16_t id);
struct rvl_state_instance *rvl_state_instance_by_digest(const struct rvl_state *state,
							const uint8_t digest[16]);
/* The instance of a filesystem, by rvl_identity_is, if it is not retired; NULL. */
struct rvl_state_instance *rvl_state_instance_by_identity(const struct rvl_state *state,
							  const struct rvl_identity *identity);
static inline struct rvl_identity_record
rvl_state_instance_record(const struct rvl_state_instance *instance)
{
	return (struct rvl_identity_record){ .digest = instance->digest,
					     .visible = instance->visible,
					     .uuid = instance->uuid };
}

/* First unused id at or after `from`, round the end, never 0 but for from == 0. -EOVERFLOW. */
int rvl_state_instance_free_id(const struct rvl_state *state, uint16_t from, uint16_t *ret);
/* Copies *instance in. -EOVERFLOW, -ENOMEM, -EEXIST: the id is used. */
int rvl_state_instance_add(struct rvl_state *state, const struct rvl_state_instance *instance);

/* Id of the running system; zeros where it is not known. */
void rvl_boot_id_get(uint8_t ret[16]);

#endif
