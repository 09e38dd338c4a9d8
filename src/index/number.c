// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Numbers: from a real object to its one number, and the counters.
 *
 *   real object (instance, ino)
 *     no recorded numbers at all          instance << 48 | ino
 *     recorded (a claim, or assigned)     that
 *     the computed one belongs by record to another object, or cannot be computed
 *                                         the next of the assigned counter, recorded, then shown
 *
 * Two numbers would be 0 and the root's: real inos 0 and 1 of instance 0. They have fixed places
 * in the born counter's instance, below its first number, and need no record.
 *
 * A counter gives out below `limit` without a lock. The state on disk holds the limit, so that
 * after a crash it goes on above all that was given out; a clean close writes the exact next.
 */
#include "index/number_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/bind.h"
#include "index/entry.h"
#include "index/fsck.h"
#include "layer/path.h"

static uint32_t generation_hash(const struct rvl_index *index, const void *data, size_t len)
{
	uint8_t buf[16 + 16];
	uint64_t hash;

	memcpy(buf, index->uuid, 16);
	memcpy(buf + 16, data, len);
	hash = rvl_hash(buf, 16 + len);
	return (uint32_t)hash ?: 1; /* 0 is the root's */
}

uint32_t rvl_number_generation(const struct rvl_index *index, const struct statx *stx)
{
	uint8_t time[12];

	if (!(stx->stx_mask & STATX_BTIME))
		return index->numbers->born_generation;
	rvl_put_le64(time, (uint64_t)stx->stx_btime.tv_sec);
	rvl_put_le32(time + 8, stx->stx_btime.tv_nsec);
	return generation_hash(index, time, sizeof(time));
}

static int64_t birth_of(int dirfd)
{
	struct statx stx;

	return dirfd >= 0 && rvl_path_statx(dirfd, "", STATX_BTIME, &stx) == 0 &&
			       stx.stx_mask & STATX_BTIME ?
		       stx.stx_btime.tv_sec :
		       0;
}

bool rvl_number_may_be_given_again(const struct rvl_index *index, const struct rvl_layer *layer,
				   const struct statx *stx)
{
	if (stx->stx_mask & STATX_BTIME)
		return stx->stx_btime.tv_sec >= index->numbers->made_sec;
	return layer->fs_magic != FUSE_SUPER_MAGIC && !rvl_identity_is_image(layer->fs_magic);
}

int rvl_numbers_new(struct rvl_index *index, struct rvl_numbers **ret)
{
	struct rvl_numbers *numbers = calloc(1, sizeof(*numbers));
	const struct rvl_state *state = index->state;

	if (!numbers)
		return -ENOMEM;
	numbers->layers = calloc(index->stack->n + 1, sizeof(*numbers->layers));
	if (!numbers->layers) {
		free(numbers);
		return -ENOMEM;
	}
	pthread_rwlock_init(&numbers->devices_lock, NULL);
	pthread_mutex_init(&numbers->assign_lock, NULL);
	numbers->born_generation = generation_hash(index, "", 0);
	numbers->made_sec = birth_of(index->inodes_fd);
	for (int i = 0; i < RVL_COUNTER_N; i++) {
		struct rvl_counter *counter = &numbers->counters[i];
		uint64_t next = state->counters[i].next;

		counter->instance = state->counters[i].instance;
		if (!index->is_writable) {
			/* For this mount only: a random start, in a half that no durable counter
			 * gets to. */
			if (getrandom(&next, sizeof(next), 0) != (ssize_t)sizeof(next))
				next = (uintptr_t)numbers;
			next = (1ULL << 47) | (next & ((1ULL << 46) - 1));
			counter->limit = RVL_REAL_INO_MASK;
		} else {
			counter->limit = next;
		}
		counter->next = next;
	}
	*ret = numbers;
	return 0;
}

void rvl_numbers_free(struct rvl_numbers *numbers)
{
	if (!numbers)
		return;
	pthread_rwlock_destroy(&numbers->devices_lock);
	pthread_mutex_destroy(&numbers->assign_lock);
	free(numbers->devices);
	free(numbers->layers);
	free(numbers);
}

void rvl_numbers_store(struct rvl_index *index)
{
	for (int i = 0; i < RVL_COUNTER_N; i++)
		index->state->counters[i].next = index->numbers->counters[i].next;
}

/* One more block, on disk before the first number of it can be given out. */
static int reserve(struct rvl_index *index, enum rvl_state_counter which)
{
	struct rvl_counter *counter = &index->numbers->counters[which];
	uint64_t limit;
	int r = 0;

	pthread_mutex_lock(&index->state->lock);
	limit = counter->limit;
	if (counter->next >= limit) {
		uint64_t old = index->state->counters[which].next;

		if (limit > RVL_REAL_INO_MASK - RVL_COUNTER_BLOCK || !index->is_writable)
			r = -EOVERFLOW;
		if (!r) {
			index->state->counters[which].next = limit + RVL_COUNTER_BLOCK;
			r = rvl_index_save_state(index);
			if (r)
				index->state->counters[which].next = old;
		}
		if (!r) /* release: who sees the limit may rely on the file */
			atomic_store_explicit(&counter->limit, limit + RVL_COUNTER_BLOCK,
					      memory_order_release);
	}
	pthread_mutex_unlock(&index->state->lock);
	if (r)
		rvl_warn_limited("no new inode numbers, inodes/state cannot be written: %s",
				 strerror(-r));
	return r;
}

/* The next number of a counter. */
static int counter_next(struct rvl_index *index, enum rvl_state_counter which, uint64_t *ret)
{
	struct rvl_counter *counter = &index->numbers->counters[which];

	for (;;) {
		uint64_t next = atomic_load_explicit(&counter->next, memory_order_relaxed);

		if (next < atomic_load_explicit(&counter->limit, memory_order_acquire)) {
			if (!atomic_compare_exchange_weak(&counter->next, &next, next + 1))
				continue;
			*ret = (uint64_t)counter->instance << RVL_INSTANCE_SHIFT | next;
			return 0;
		}
		int r = reserve(index, which);

		if (r)
			return r;
	}
}

int rvl_number_born(struct rvl_index *index, struct rvl_id *ret)
{
	uint64_t number;
	int r = counter_next(index, RVL_COUNTER_BORN, &number);

	if (r)
		return r;
	*ret = (struct rvl_id){ .number = number, .generation = index->numbers->born_generation };
	return 0;
}

bool rvl_number_is_born(const struct rvl_index *index, uint64_t number)
{
	return number >> RVL_INSTANCE_SHIFT ==
		       index->numbers->counters[RVL_COUNTER_BORN].instance &&
	       (number & RVL_REAL_INO_MASK) >= RVL_COUNTER_START;
}

bool rvl_number_may_be_born(const struct rvl_index *index, const struct rvl_id *id)
{
	return id->generation == generation_hash(index, "", 0) &&
	       (id->number & RVL_REAL_INO_MASK) >= RVL_COUNTER_START &&
	       rvl_bind_may_be_counter(index->state, (uint16_t)(id->number >> RVL_INSTANCE_SHIFT));
}

int rvl_device_find(struct rvl_numbers *numbers, dev_t dev, uint16_t *ret)
{
	int r = -ENOENT;

	pthread_rwlock_rdlock(&numbers->devices_lock);
	for (unsigned i = 0; i < numbers->n_devices; i++) {
		if (numbers->devices[i].dev == dev) {
			*ret = numbers->devices[i].instance;
			r = 0;
			break;
		}
	}
	pthread_rwlock_unlock(&numbers->devices_lock);
	return r;
}

int rvl_device_add(struct rvl_numbers *numbers, dev_t dev, uint16_t instance)
{
	struct rvl_device *devices;
	int r = 0;

	pthread_rwlock_wrlock(&numbers->devices_lock);
	devices = numbers->n_devices >= RVL_DEVICES_MAX ?
			  NULL :
			  reallocarray(numbers->devices, numbers->n_devices + 1, sizeof(*devices));
	if (devices) {
		devices[numbers->n_devices++] =
			(struct rvl_device){ .dev = dev, .instance = instance };
		numbers->devices = devices;
	} else {
		r = numbers->n_devices >= RVL_DEVICES_MAX ? -EOVERFLOW : -ENOMEM;
	}
	pthread_rwlock_unlock(&numbers->devices_lock);
	return r;
}

static bool is_bound(struct rvl_numbers *numbers, uint16_t instance)
{
	bool is_found = false;

	pthread_rwlock_rdlock(&numbers->devices_lock);
	for (unsigned i = 0; i < numbers->n_devices && !is_found; i++)
		is_found = numbers->devices[i].instance == instance;
	pthread_rwlock_unlock(&numbers->devices_lock);
	return is_found;
}

/* Find or make the instance of an identity met inside a layer. The caller holds assign_lock. */
static int instance_of_identity(struct rvl_index *index, const struct rvl_identity *identity,
				uint16_t *ret)
{
	struct rvl_state *state = index->state;
	const struct rvl_state_instance *known;
	bool is_new = false;
	int r;

	pthread_mutex_lock(&state->lock);
	known = rvl_state_instance_by_identity(state, identity);
	/* Two filesystems that cannot be told apart must not share inos. */
	if (!identity->is_stable || (known && is_bound(index->numbers, known->id))) {
		r = rvl_bind_volatile_instance(state, ret);
	} else {
		is_new = !known;
		r = rvl_bind_instance(state, identity, 1, ret);
	}
	if (!r && index->is_writable)
		r = rvl_index_save_state(index);
	pthread_mutex_unlock(&state->lock);
	if (!r && is_new && index->is_writable && index->stack->has_upper && !index->is_prepared)
		r = rvl_bind_write_table(index);
	return r;
}

/* A directory of the filesystem that (dirfd, name) is on: itself, or its parent. */
static int open_directory(const struct rvl_layer *layer, int dirfd, const char *name, mode_t type)
{
	_cleanup_free_ char *place = NULL;
	char *slash;
	int r;

	if (S_ISDIR(type))
		return rvl_path_open(dirfd, name, O_PATH | O_DIRECTORY, 0);
	r = rvl_layer_place(layer, dirfd, name, &place);
	if (r)
		return r;
	slash = strrchr(place, '/');
	*(slash ?: place) = '\0';
	return rvl_path_open(layer->fd, place, O_PATH | O_DIRECTORY, 0);
}

int rvl_device_instance(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
			const char *name, mode_t type, dev_t dev, uint16_t *ret)
{
	struct rvl_numbers *numbers = index->numbers;
	_cleanup_close_ int fd = -EBADF;
	struct rvl_identity identity;
	int r;

	atomic_store_explicit(&numbers->layers[layer->index].has_inner_devices, true,
			      memory_order_relaxed);
	r = rvl_device_find(numbers, dev, ret);
	if (r != -ENOENT)
		return r;
	pthread_mutex_lock(&numbers->assign_lock);
	r = rvl_device_find(numbers, dev, ret);
	if (r == -ENOENT) {
		fd = open_directory(layer, dirfd, name, type);
		r = fd < 0 ? fd : rvl_identity_get(layer, fd, dev, &identity);
		r = r ?: instance_of_identity(index, &identity, ret);
		r = r ?: rvl_device_add(numbers, dev, *ret);
	}
	pthread_mutex_unlock(&numbers->assign_lock);
	return r;
}

bool rvl_number_compute(const struct rvl_index *index, const struct rvl_real_id *real, uint64_t *ret)
{
	uint64_t born = index->numbers->counters[RVL_COUNTER_BORN].instance;

	if (real->ino > RVL_REAL_INO_MASK)
		return false;
	*ret = (uint64_t)real->instance << RVL_INSTANCE_SHIFT | real->ino;
	if (*ret <= RVL_NUMBER_ROOT)
		*ret = born << RVL_INSTANCE_SHIFT | (*ret + 1);
	return true;
}

/* Where nothing can be recorded: the same number at the next mount if no other object has it. Of a
 * quarter that no counter gets to. */
static uint64_t memory_number(const struct rvl_index *index, const struct rvl_real_id *real)
{
	uint8_t key[10];
	uint64_t instance = index->numbers->counters[RVL_COUNTER_ASSIGNED].instance;

	rvl_put_le16(key, real->instance);
	rvl_put_le64(key + 2, real->ino);
	return instance << RVL_INSTANCE_SHIFT | 3ULL << 46 |
	       (rvl_hash(key, sizeof(key)) & ((1ULL << 46) - 1));
}

int rvl_number_assign(struct rvl_index *index, const struct rvl_real_id *real, struct rvl_id *ret)
{
	int r = -EEXIST;

	ret->generation = 0;
	if (!index->is_writable) {
		ret->number = memory_number(index, real);
		r = rvl_real_record(index, real, ret);
		if (r == -EEXIST && !rvl_real_number(index, real, ret))
			return 0;
	}
	if (r == -EEXIST) {
		r = counter_next(index, RVL_COUNTER_ASSIGNED, &ret->number);
		r = r ?: rvl_real_record(index, real, ret);
	}
	/* Another thread was first: its number is the object's. */
	return r == -EEXIST ? rvl_real_number(index, real, ret) : r;
}

/* ret->generation is 0 if the birth time gives it. -EAGAIN: it would have to be assigned. */
static int find_number(struct rvl_index *index, const struct rvl_real_id *real, struct rvl_id *ret)
{
	struct rvl_real_id owner;
	int r;

	ret->generation = 0;
	if (rvl_reals_is_empty(index->reals))
		return rvl_number_compute(index, real, &ret->number) ? 0 : -EAGAIN;
	r = rvl_real_number(index, real, ret);
	if (r != -ENOENT)
		return r;
	if (!rvl_number_compute(index, real, &ret->number))
		return -EAGAIN;
	r = rvl_real_owner(index, ret->number, &owner);
	if (r == -ENOENT || (!r && owner.ino == real->ino && owner.instance == real->instance))
		return 0;
	return r ?: -EAGAIN;
}

int rvl_number_of_lower(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
			const char *name, const struct statx *stx, struct rvl_id *ret)
{
	dev_t dev = rvl_statx_dev(stx);
	const struct rvl_layer_numbers *numbers = &index->numbers->layers[layer->index];
	struct rvl_real_id real;
	int r;

	if (dev == layer->dev && stx->stx_ino == layer->ino &&
	    (numbers->inos == RVL_INOS_LASTING || S_ISDIR(stx->stx_mode))) {
		*ret = (struct rvl_id){ .number = RVL_NUMBER_ROOT };
		return 0;
	}
	r = rvl_real_of_lower(index, layer, dirfd, name, stx, &real);
	if (r)
		return r;
	r = find_number(index, &real, ret);
	if (r == -EAGAIN)
		r = rvl_number_assign(index, &real, ret);
	if (!r && !ret->generation)
		ret->generation = rvl_number_generation(index, stx);
	return r;
}

int rvl_number_is_recorded(struct rvl_index *index, uint64_t number)
{
	struct rvl_real_id owner;
	int r = rvl_real_owner(index, number, &owner);

	return r ? (r == -ENOENT ? 0 : r) : 1;
}

/* Of an inode that has a record, and has been given to another object since. */
static int assign_again(struct rvl_index *index, const struct rvl_real_id *real, struct rvl_id *ret)
{
	int r = 0;

	ret->generation = 0;
	if (index->is_writable)
		r = counter_next(index, RVL_COUNTER_ASSIGNED, &ret->number);
	else
		ret->number = memory_number(index, real);
	return r ?: rvl_real_replace(index, real, ret);
}

int rvl_number_of_lower_anew(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
			     const char *name, const struct statx *stx, bool is_other_life,
			     struct rvl_id *ret)
{
	struct rvl_real_id real;
	struct rvl_id old;
	int r = rvl_real_of_lower(index, layer, dirfd, name, stx, &real);

	if (!r && is_other_life && !rvl_real_number(index, &real, &old))
		r = assign_again(index, &real, ret);
	else if (!r)
		r = rvl_number_assign(index, &real, ret);
	if (!r && !ret->generation)
		ret->generation = rvl_number_generation(index, stx);
	return r;
}

int rvl_number_of_dirent(struct rvl_index *index, const struct rvl_layer *layer, uint64_t ino,
			 uint8_t type, uint64_t *ret)
{
	const struct rvl_layer_numbers *numbers = &index->numbers->layers[layer->index];
	struct rvl_real_id real = { .ino = ino, .instance = numbers->instance };
	struct rvl_id id;
	int r;

	/* relaxed: whoever lists an inner directory has looked it up before */
	if (atomic_load_explicit(&numbers->has_inner_devices, memory_order_relaxed))
		return -EAGAIN;
	if (layer->fs_magic == BTRFS_SUPER_MAGIC && type == DT_DIR) /* the root of a subvolume? */
		return -EAGAIN;
	if (numbers->inos != RVL_INOS_LASTING)
		return -EAGAIN;
	r = find_number(index, &real, &id);
	if (!r)
		*ret = id.number;
	return r;
}

int rvl_number_for_unstamped(struct rvl_index *index, const struct rvl_id *origin,
			     struct rvl_id *ret)
{
	enum rvl_entry_kind kind;
	struct statx st;
	int r;

	if (!origin || origin->number == RVL_NUMBER_ROOT)
		return rvl_number_born(index, ret);
	r = rvl_entry_look(index, origin->number, &kind, &st);
	if (r)
		return r == -EUCLEAN ? rvl_number_born(index, ret) : r;
	if (kind != RVL_ENTRY_NONE)
		return rvl_number_born(index, ret);
	*ret = *origin;
	return 0;
}
