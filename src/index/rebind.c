// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rebinding, see rebind.h, and docs/decisions/0011 for why it is so.
 *
 * On disk: map.mdb.<k+1> is written and synced, then the state that names it is renamed into place; then
 * origins of what is gone are emptied, and upper's table is written (docs/consistency.md).
 */
#include "index/rebind_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/bind.h"
#include "index/companion.h"
#include "index/map_private.h"
#include "index/number_private.h"
#include "index/table.h"
#include "index/workdir.h"
#include "layer/identity.h"

/* ---- begin ---- */

static int load(struct rvl_rebind *rebind, struct rvl_state **ret_old, struct rvl_state **ret_next)
{
	const struct rvl_stack *stack = rebind->config.stack;
	_cleanup_free_ uint8_t *data = NULL;
	size_t len;
	int r = rvl_index_load_state(stack, ret_old);

	if (r == -ENOENT)
		rvl_error("workdir=%s: there is no index in it", stack->work_path ?: "");
	r = r ?: rvl_state_encode(*ret_old, &data, &len);
	return r ?: rvl_state_decode(data, len, ret_next);
}

/* What a newer version has begun is not for this one to finish, or to throw away. */
static int check_formats(const struct rvl_stack *stack)
{
	_cleanup_close_ int fd = rvl_workdir_open(stack, "inodes", false);

	return fd < 0 ? fd : rvl_admit_formats(stack, fd, false);
}

/* Are upper and workdir of one overlay? */
static int check_pair(const struct rvl_stack *stack, const struct rvl_state *state)
{
	int r;

	if (!stack->has_upper) {
		if (!state->upper.ino)
			return 0;
		rvl_error("workdir=%s: it belongs to an upper: give that as upperdir",
			  stack->work_path);
		return -ESTALE;
	}
	r = rvl_bind_check_pair(stack, state);
	if (r == -ESTALE)
		rvl_error("upperdir=%s, workdir=%s: they are of two overlays",
			  stack->layers[0].path, stack->work_path);
	return r;
}

/* The index as it was, to be read. A damaged map is done without. */
static int open_old(struct rvl_rebind *rebind, struct rvl_state *state)
{
	int r;

	state->flags &= ~(uint32_t)RVL_STATE_MAP_IS_TRUTH;
	r = rvl_index_prepare(rebind->config.stack, true, state, &rebind->old);
	if (!r && rebind->config.is_retiring)
		rebind->old->map->is_opened = true; /* and has nothing */
	return r ?: rvl_map_ensure(rebind->old, false);
}

/* What cannot be computed again is in the map, or lost. */
static bool has_lost_map(const struct rvl_rebind *rebind, const struct rvl_state *state)
{
	return state->flags & (RVL_STATE_MAP_IS_TRUTH | RVL_STATE_REALS_IN_MAP) &&
	       !rebind->old->map->below;
}

/* state is taken over, also when this fails. */
static int make_next(struct rvl_rebind *rebind, struct rvl_state *state,
		     struct rvl_binding *binding)
{
	const uint32_t reals = RVL_STATE_MAP_IS_TRUTH | RVL_STATE_REALS_IN_MAP |
			       RVL_STATE_HAS_REALS;
	const struct rvl_rebind_config *config = &rebind->config;
	int r = 0;

	rebind->is_moved = !rvl_bind_is_same_place(state, binding);
	rebind->has_other_lowers = !rvl_bind_is_same_lowers(state, binding);
	rebind->has_origins = !rebind->has_other_lowers &&
			      (has_lost_map(rebind, state) || !rvl_map_is_complete(rebind->old));
	/* Asked for with everything at its place: what is in the lowers has changed. */
	rebind->needs_map = rebind->has_other_lowers || has_lost_map(rebind, state) ||
			    (!rebind->is_moved && !config->is_clone) ||
			    (config->is_clone && state->flags & reals);
	if (config->is_retiring && (rebind->is_moved || rebind->has_other_lowers))
		r = -ESTALE; /* the map may be sound, and that of other layers */
	else if (config->is_clone)
		r = rvl_bind_clone(config->stack, state);
	if (config->is_clone || rebind->needs_map)
		state->map_serial++;
	if (rebind->needs_map)
		state->flags &= ~reals;
	if (r) {
		rvl_state_free(state);
		return r;
	}
	r = rvl_index_prepare(config->stack, config->is_dry_run, state, &rebind->next);
	if (r)
		return r;
	if (config->is_dry_run) /* its map is in memory, whatever lies in the workdir */
		rebind->next->is_persistent = false;
	else if (config->is_clone || rebind->needs_map)
		rvl_map_remove(rebind->next, state->map_serial);
	r = rvl_bind_again(rebind->next, binding, rebind->needs_map);
	return r ?: rvl_index_prepare_numbers(rebind->next, binding);
}

static int begin(struct rvl_rebind *rebind)
{
	struct rvl_state *old = NULL, *next = NULL;
	struct rvl_binding binding = { 0 };
	int r = load(rebind, &old, &next);

	r = r ?: check_formats(rebind->config.stack);
	r = r ?: check_pair(rebind->config.stack, old);
	r = r ?: rvl_binding_read(rebind->config.stack, &binding);
	r = r ?: rvl_identity_uuids(rebind->config.stack, &rebind->uuids);
	if (!r) {
		r = open_old(rebind, rvl_take_ptr(old));
		r = r ?: make_next(rebind, rvl_take_ptr(next), &binding);
	}
	rvl_state_free(old);
	rvl_state_free(next);
	rvl_binding_release(&binding);
	return r;
}

int rvl_rebind_begin(const struct rvl_rebind_config *config, struct rvl_rebind **ret)
{
	struct rvl_rebind *rebind = calloc(1, sizeof(*rebind));
	int r;

	if (!rebind)
		return -ENOMEM;
	rebind->config = *config;
	r = begin(rebind);
	if (r) {
		rvl_rebind_free(rebind);
		return r;
	}
	rebind->has_map = rvl_map_is_complete(rebind->old);
	*ret = rebind;
	return 0;
}

void rvl_rebind_free(struct rvl_rebind *rebind)
{
	if (!rebind)
		return;
	rvl_old_places_free(rebind->places);
	rvl_rebind_walk_release(rebind);
	free(rebind->uuids);
	rvl_index_close(rebind->next);
	rvl_index_close(rebind->old);
	free(rebind);
}

struct rvl_index *rvl_rebind_index(struct rvl_rebind *rebind)
{
	return rebind->next;
}

bool rvl_rebind_is_moved(const struct rvl_rebind *rebind)
{
	return rebind->is_moved;
}

bool rvl_rebind_walks_lowers(const struct rvl_rebind *rebind)
{
	return rebind->needs_map;
}

bool rvl_rebind_has_map(const struct rvl_rebind *rebind)
{
	return rebind->has_map;
}

int rvl_rebind_companions(struct rvl_rebind *rebind)
{
	int r;

	if (!rebind->is_moved)
		return 0;
	r = rvl_companions_move(rebind->next);
	/* the old index reads the same entries */
	rvl_close(rebind->old->companions_fd);
	rebind->old->companions_fd = -EBADF;
	return r ?: rvl_companions_open(rebind->old);
}

/* ---- commit ---- */

/* All instances of the next state that this one does not know. What a digest says stays true. */
static int reserve_instances(struct rvl_state *state, const struct rvl_state *next)
{
	int r = 0;

	for (unsigned i = 0; !r && i < next->n_instances; i++) {
		const struct rvl_state_instance *from = &next->instances[i];
		const uint16_t kind = from->flags & (RVL_INSTANCE_IMPORTED | RVL_INSTANCE_COUNTER);
		struct rvl_state_instance instance = {
			.id = from->id,
			.flags = (kind ?: RVL_INSTANCE_COUNTER) | RVL_INSTANCE_RETIRED,
		};

		if (rvl_state_instance_by_id(state, instance.id))
			continue;
		if (kind)
			memcpy(instance.digest, from->digest, sizeof(instance.digest));
		else
			rvl_table_own_digest(state->uuid, instance.id, instance.digest);
		r = rvl_state_instance_add(state, &instance);
	}
	if (next->volatile_low < state->volatile_low)
		state->volatile_low = next->volatile_low;
	return r;
}

int rvl_rebind_reserve(struct rvl_rebind *rebind)
{
	struct rvl_state *next = rebind->next->state, *state = NULL;
	int r = rvl_index_load_state(rebind->config.stack, &state);

	rvl_numbers_store(rebind->next);
	r = r ?: reserve_instances(state, next);
	for (unsigned i = 0; !r && i < RVL_COUNTER_N; i++)
		if (state->counters[i].instance == next->counters[i].instance &&
		    state->counters[i].next < next->counters[i].next)
			state->counters[i].next = next->counters[i].next;
	r = r ?: rvl_state_save(state, rebind->next->inodes_fd, false);
	rvl_state_free(state);
	return r;
}

int rvl_rebind_commit(struct rvl_rebind *rebind)
{
	struct rvl_index *next = rebind->next;
	int r = 0;

	if (rebind->needs_map) {
		if (next->state->flags & RVL_STATE_REALS_IN_MAP)
			next->state->flags |= RVL_STATE_MAP_IS_TRUTH;
		r = rvl_map_seal(next);
	}
	/* what was changed in upper is there before anything relies on it */
	if (!r && syncfs(next->inodes_fd))
		r = -errno;
	if (!r) {
		rvl_numbers_store(next);
		next->state->flags &= ~(uint32_t)RVL_STATE_REBUILT;
		r = rvl_state_save(next->state, next->inodes_fd, false);
	}
	if (r) {
		rvl_error("workdir=%s: the new state cannot be written: %s",
			  rebind->config.stack->work_path, strerror(-r));
		return r;
	}
	rvl_map_remove_others(next);
	r = rvl_rebind_forget_lost(rebind);
	if (r)
		return r;
	if (!rebind->config.stack->has_upper)
		return 0;
	/* after a death before this the next mount does it: upper's table has what it had */
	r = rvl_bind_write_table(next);
	return r ?: syncfs(next->inodes_fd) ? -errno : 0;
}
