// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Opening and closing the index.
 *
 * Order of an open that may write, with what a crash leaves: directories made (nothing is known
 * yet); state read and checked, or a new one bound; work/ emptied; upper tried (a temporary in
 * work/, or a marked name in upper, which the next mount takes away); state saved as not clean,
 * durable (the same overlay, next time recovery); table on upper's root; claims recorded, then
 * marked as done. An error before the state is saved leaves the workdir as it was. Close: rows
 * flushed; state saved with exact counters and the clean mark.
 */
#include "index/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/bind.h"
#include "index/companion.h"
#include "index/log.h"
#include "index/map_private.h"
#include "index/number_private.h"
#include "index/rebind.h"
#include "index/state.h"
#include "index/workdir.h"
#include "layer/path.h"

static struct rvl_index *index_alloc(const struct rvl_index_config *config)
{
	struct rvl_index *index = calloc(1, sizeof(*index));

	if (!index)
		return NULL;
	index->stack = config->stack;
	index->inodes_fd = index->temp_fd = -EBADF;
	index->companions_fd = -EBADF;
	index->is_persistent = config->stack->work_fd >= 0;
	index->is_writable = index->is_persistent && !config->is_read_only && !config->is_offline;
	index->is_volatile = config->is_volatile;
	pthread_mutex_init(&index->companions_lock, NULL);
	pthread_mutex_init(&index->tombstone_lock, NULL);
	return index;
}

static void index_free(struct rvl_index *index)
{
	rvl_map_free(index->map);
	rvl_reals_free(index->reals);
	rvl_log_close(index->log);
	rvl_numbers_free(index->numbers);
	rvl_state_free(index->state);
	rvl_close(index->companions_fd);
	rvl_close(index->temp_fd);
	rvl_close(index->inodes_fd);
	pthread_mutex_destroy(&index->companions_lock);
	pthread_mutex_destroy(&index->tombstone_lock);
	explicit_bzero(&index->secret, sizeof(index->secret));
	free(index);
}

static int open_directories(struct rvl_index *index)
{
	const struct rvl_stack *stack = index->stack;
	int fd;

	if (!index->is_persistent)
		return 0;
	fd = rvl_workdir_open(stack, "inodes", index->is_writable);
	if (fd < 0 && fd != -ENOENT)
		return fd;
	index->inodes_fd = fd;
	if (!stack->has_upper)
		return 0;
	fd = rvl_workdir_open(stack, "work", index->is_writable);
	if (fd < 0 && (fd != -ENOENT || index->is_writable))
		return fd;
	index->temp_fd = fd < 0 ? -EBADF : fd;
	return 0;
}

/* The workdir, before directories were made in it. */
struct workdir_before {
	struct statx st;
	bool had_inodes, had_work;
};

static bool has_directory(const struct rvl_index *index, const char *name)
{
	struct statx stx;

	return rvl_path_statx(index->stack->work_fd, name, STATX_TYPE, &stx) != -ENOENT;
}

static int look_at_workdir(const struct rvl_index *index, struct workdir_before *ret)
{
	if (!index->is_writable)
		return 0;
	ret->had_inodes = has_directory(index, "inodes");
	ret->had_work = has_directory(index, "work");
	return rvl_path_statx(index->stack->work_fd, "", STATX_BASIC_STATS, &ret->st);
}

/* Take away what was made and is empty. */
static void restore_workdir(const struct rvl_index *index, const struct workdir_before *before)
{
	const int fd = index->stack->work_fd;
	bool is_changed = false;

	if (!index->is_writable)
		return;
	if (!before->had_inodes)
		is_changed |= unlinkat(fd, "inodes", AT_REMOVEDIR) == 0;
	if (!before->had_work)
		is_changed |= unlinkat(fd, "work", AT_REMOVEDIR) == 0;
	if (is_changed)
		rvl_fd_restore_times(fd, &before->st);
}

void rvl_index_tell_state(const struct rvl_stack *stack, int r)
{
	_cleanup_free_ char *options = r == -EUCLEAN ? rvl_bind_options(stack) : NULL;
	const char *work = stack->work_path;

	if (r == -EPROTONOSUPPORT)
		rvl_index_tell_newer("workdir", work, "inodes/state");
	else if (r == -EUCLEAN)
		rvl_error("workdir=%s: inodes/state is damaged. Run: reverlayctl repair --rebuild %s", work,
			  options ?: "-o ...");
	else if (r && r != -ENOENT)
		rvl_error("workdir=%s: inodes/state cannot be read: %s", work, strerror(-r));
}

static int load_state(const struct rvl_stack *stack, int inodes_fd, struct rvl_state **ret)
{
	int r = inodes_fd < 0 ? -ENOENT : rvl_state_load(inodes_fd, ret);

	rvl_index_tell_state(stack, r);
	return r;
}

/* There is none: this is the first mount, or nothing may be written. */
static int new_state(struct rvl_index *index, struct rvl_binding *binding)
{
	int r = rvl_bind_check_new(index, false);

	if (r)
		return r;
	if (!index->is_writable) {
		index->is_persistent = false;
		rvl_close(index->inodes_fd);
		index->inodes_fd = -EBADF;
	}
	r = rvl_state_new(&index->state);
	r = r ?: rvl_bind_new(index, binding);
	if (r)
		rvl_error("a new overlay cannot be set up: %s", strerror(-r));
	return r;
}

static void swap_paths(struct rvl_state_root *a, struct rvl_state_root *b)
{
	char *path = a->path;

	a->path = b->path;
	b->path = path;
}

/* The state is that of these layers. Paths may have changed; and one that served without upper
 * takes this one. */
static void refresh_state(struct rvl_state *state, struct rvl_binding *binding)
{
	if (!state->upper.ino) {
		state->upper = binding->upper;
		binding->upper = (struct rvl_state_root){ 0 };
	} else {
		swap_paths(&state->upper, &binding->upper);
	}
	swap_paths(&state->work, &binding->work);
	for (unsigned i = 0; i < state->n_lowers; i++)
		swap_paths(&state->lowers[i], &binding->lowers[i]);
}

/* In use from now on: not clean, with a block of numbers for what is born. */
static int begin_use(struct rvl_index *index, const struct rvl_index_config *config)
{
	struct rvl_state *state = index->state;
	struct rvl_counter *born = &index->numbers->counters[RVL_COUNTER_BORN];
	int r;

	if (!index->is_writable)
		return 0;
	/* A repair that dies half way leaves it as unclean as it was. */
	if (!config->is_repair || state->flags & RVL_STATE_CLEAN)
		rvl_boot_id_get(state->boot_id);
	state->flags &= ~(uint32_t)RVL_STATE_CLEAN;
	if (index->is_incomplete)
		state->flags |= RVL_STATE_INCOMPLETE;
	if (config->is_import)
		state->flags |= RVL_STATE_KERNEL;
	if (index->stack->has_upper && born->limit <= RVL_REAL_INO_MASK - RVL_COUNTER_BLOCK) {
		born->limit += RVL_COUNTER_BLOCK;
		state->counters[RVL_COUNTER_BORN].next = born->limit;
	}
	rvl_map_remove_others(index);
	r = rvl_index_save_state(index);
	if (r) {
		rvl_error("workdir=%s: inodes/state cannot be written: %s", index->stack->work_path,
			  strerror(-r));
		return r;
	}
	if (!index->stack->has_upper)
		return 0;
	if (index->is_volatile)
		r = rvl_workdir_mark_volatile(index->temp_fd);
	return r ?: rvl_bind_write_table(index);
}

/* Claims and assigned numbers: if the file that has them is damaged, claims are read anew and the
 * assigned are lost. */
static int open_reals(struct rvl_index *index, bool is_live)
{
	struct rvl_state *state = index->state;
	bool is_truth = index->is_persistent && (state->flags & RVL_STATE_MAP_IS_TRUTH);
	int r = 0;

	if (index->is_persistent && (state->flags & RVL_STATE_HAS_REALS))
		r = rvl_map_ensure(index, false);
	if (is_truth && !is_live && !index->map->store && !index->map->below && (!r || r == -EUCLEAN)) {
		index->is_map_lost = true;
		return -EUCLEAN;
	}
	if (r)
		return r;
	if (index->is_writable && (state->flags & RVL_STATE_REALS_IN_MAP) &&
	    (index->map->was_discarded || !index->map->store)) {
		struct rvl_state_instance *old = rvl_state_instance_by_id(
			state, state->counters[RVL_COUNTER_ASSIGNED].instance);

		rvl_warn(
			"workdir=%s: assigned inode numbers were lost with the map: they are given anew",
			index->stack->work_path);
		if (old)
			old->flags |= RVL_INSTANCE_RETIRED;
		for (unsigned i = 0; i < state->n_lowers; i++)
			state->lowers[i].flags &= ~(uint32_t)RVL_ROOT_CLAIMS_DONE;
		r = rvl_bind_counter(state, RVL_COUNTER_ASSIGNED);
		if (r)
			return r;
	}
	return rvl_reals_open(index, &index->reals);
}

static int open_parts(struct rvl_index *index, const struct rvl_binding *binding,
		      const struct rvl_index_config *config)
{
	int r;

	memcpy(index->uuid, index->state->uuid, sizeof(index->uuid));
	rvl_secret_init(&index->secret, index->state->key);
	r = rvl_map_open(index, &index->map);
	if (!r && config->is_live)
		index->map->is_opened = true;
	r = r ?: open_reals(index, config->is_live);
	r = r ?: rvl_numbers_new(index, &index->numbers);
	r = r ?: rvl_bind_layers(index, binding);
	r = r ?: rvl_companions_open(index);
	if (r) {
		if (!index->is_map_lost)
			rvl_error("the index cannot be opened: %s", strerror(-r));
		return r;
	}
	if (index->stack->has_upper) {
		if (index->is_writable)
			r = rvl_upper_probe(index->stack, index->temp_fd, &index->features);
		else
			index->features = rvl_upper_features_read_only(index->stack);
	}
	r = r ?: begin_use(index, config);
	if (!r && !config->is_offline)
		r = rvl_bind_claims(index);
	if (r || !index->stack->has_upper || index->inodes_fd < 0)
		return r;
	r = rvl_log_open(index->inodes_fd, index->is_writable, index->is_volatile, &index->log);
	if (r == -EUCLEAN && config->is_offline) /* a tool that looks can do without */
		return 0;
	if (r)
		rvl_error("workdir=%s: inodes/log cannot be opened: %s", index->stack->work_path,
			  strerror(-r));
	return r;
}

/*
 * The map that alone has numbers from before a rebind is lost. 1: its instances were retired. Not
 * after an unclean stop of the machine: upper may have objects of which the index does not know
 * yet.
 */
static int settle_lost_map(const struct rvl_index *index)
{
	int r = -ESTALE;

	if (index->is_writable && !index->is_incomplete) {
		rvl_info("workdir=%s: the map is damaged or lost: the lower layers are walked",
			 index->stack->work_path);
		r = rvl_rebind_retire(index->stack);
	}
	if (r == -ESTALE) {
		rvl_map_tell_lost(index);
		return -EUCLEAN;
	}
	return r ?: 1;
}

/* 1: to be done again. */
static int open_all(const struct rvl_index_config *config, struct rvl_index **ret)
{
	struct rvl_index *index = index_alloc(config);
	struct workdir_before before = { 0 };
	struct rvl_binding binding = { 0 };
	uint8_t boot_id[16];
	int r;

	if (!index)
		return -ENOMEM;
	r = look_at_workdir(index, &before);
	if (r) {
		index_free(index);
		return r;
	}
	r = open_directories(index);
	r = r ?: rvl_binding_read(index->stack, &binding);
	if (!r) {
		r = load_state(index->stack, index->inodes_fd, &index->state);
		if (!r) {
			rvl_boot_id_get(boot_id);
			index->is_incomplete =
				index->state->flags & RVL_STATE_INCOMPLETE ||
				(!(index->state->flags & RVL_STATE_CLEAN) &&
				 memcmp(boot_id, index->state->boot_id, sizeof(boot_id)) != 0);
			r = rvl_admit_formats(index->stack, index->inodes_fd, false);
			r = r ?: rvl_admit_state(index, &binding, config);
			if (!r)
				refresh_state(index->state, &binding);
		} else if (r == -ENOENT) {
			r = rvl_admit_formats(index->stack, index->inodes_fd, false);
			r = r ?: new_state(index, &binding);
		}
	}
	if (!r && index->is_writable && index->stack->has_upper)
		r = rvl_workdir_empty(index->stack, index->temp_fd);
	else if (!r && !config->is_offline && index->temp_fd >= 0)
		r = rvl_workdir_check_incompat(index->stack, index->temp_fd);
	r = r ?: open_parts(index, &binding, config);
	rvl_binding_release(&binding);
	if (r && index->is_map_lost)
		r = settle_lost_map(index);
	if (r) {
		restore_workdir(index, &before);
		index_free(index);
		return r;
	}
	*ret = index;
	return 0;
}

int rvl_index_open(const struct rvl_index_config *config, struct rvl_index **ret)
{
	int r = open_all(config, ret);

	if (r > 0)
		r = open_all(config, ret);
	return r > 0 ? -EUCLEAN : r;
}

int rvl_index_load_state(const struct rvl_stack *stack, struct rvl_state **ret)
{
	_cleanup_close_ int fd = stack->work_fd < 0 ? -ENOENT :
						      rvl_workdir_open(stack, "inodes", false);

	return fd < 0 && fd != -ENOENT ? fd : load_state(stack, fd, ret);
}

int rvl_index_prepare(const struct rvl_stack *stack, bool is_read_only, struct rvl_state *state,
		      struct rvl_index **ret)
{
	const struct rvl_index_config config = { .stack = stack, .is_read_only = is_read_only };
	struct rvl_index *index = index_alloc(&config);
	int r = 0;

	if (!index) {
		rvl_state_free(state);
		return -ENOMEM;
	}
	index->is_prepared = true;
	index->state = state;
	memcpy(index->uuid, state->uuid, sizeof(index->uuid));
	rvl_secret_init(&index->secret, state->key);
	r = open_directories(index);
	if (!r && index->is_writable && stack->has_upper)
		r = rvl_workdir_empty(stack, index->temp_fd);
	r = r ?: rvl_map_open(index, &index->map);
	r = r ?: rvl_companions_open(index);
	if (r) {
		index_free(index);
		return r;
	}
	*ret = index;
	return 0;
}

int rvl_index_prepare_numbers(struct rvl_index *index, const struct rvl_binding *binding)
{
	int r = rvl_reals_open(index, &index->reals);

	r = r ?: rvl_numbers_new(index, &index->numbers);
	return r ?: rvl_bind_layers(index, binding);
}

void rvl_index_completed(struct rvl_index *index)
{
	int r;

	pthread_mutex_lock(&index->state->lock);
	index->state->flags &= ~(uint32_t)RVL_STATE_INCOMPLETE;
	r = rvl_state_save(index->state, index->inodes_fd, index->is_volatile);
	pthread_mutex_unlock(&index->state->lock);
	if (r)
		rvl_warn("workdir=%s: inodes/state cannot be written: %s", index->stack->work_path,
			 strerror(-r));
	atomic_store(&index->is_incomplete, false);
}

void rvl_index_close(struct rvl_index *index)
{
	int r;

	if (!index)
		return;
	if (index->is_writable && !index->is_prepared) {
		r = rvl_map_flush(index);
		if (r)
			rvl_warn("inodes/map.mdb: what was added to it is lost: %s", strerror(-r));
		r = rvl_map_seal(index);
		if (r)
			rvl_debug("inodes/map.mdb: not sealed: %s", strerror(-r));
		/* The journal keeps assigned numbers; LMDB gets them when they are many. */
		rvl_numbers_store(index);
		if (!index->stays_unclean)
			index->state->flags |= RVL_STATE_CLEAN;
		r = rvl_index_save_state(index);
		if (r)
			rvl_warn("workdir=%s: inodes/state cannot be written at close: %s",
				 index->stack->work_path, strerror(-r));
	}
	index_free(index);
}

int rvl_index_save_state(struct rvl_index *index)
{
	if (index->is_prepared)
		return 0;
	return rvl_state_save(index->state, index->inodes_fd, index->is_volatile);
}

void rvl_index_temp_name(struct rvl_index *index, char ret[RVL_TEMP_NAME_SIZE])
{
	uint64_t serial = atomic_fetch_add_explicit(&index->temp_serial, 1, memory_order_relaxed);

	snprintf(ret, RVL_TEMP_NAME_SIZE, "#%llx", (unsigned long long)serial + 1);
}
