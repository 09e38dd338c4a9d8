// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The instances of a state: of a new one, and of one that is bound to other layers than before.
 *
 * A new state takes its instances in this order: first what the tables of stamped lowers say,
 * topmost first, so that their objects keep their numbers; then the filesystems of the lowers (the
 * topmost one's is instance 0 where no table has taken it); then the counters. On disk: the state
 * first, durable, then the table on upper's root. So an upper with a table had a state.
 *
 * Bound again, no instance of a filesystem is used for what is computed from inode numbers any
 * more: these are other ones, and a number that somebody has seen must not mean a new object.
 */
#include "index/bind.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/counters.h"
#include "base/hash.h"
#include "base/log.h"
#include "index/number_private.h"
#include "index/table.h"

int rvl_bind_instance(struct rvl_state *state, const struct rvl_identity *identity, uint16_t from,
		      uint16_t *ret)
{
	struct rvl_state_instance *known = rvl_state_instance_by_identity(state, identity);
	struct rvl_state_instance instance = { .fs_magic = identity->fs_magic };
	int r;

	if (known) {
		*ret = known->id;
		if (known->flags & RVL_INSTANCE_IMPORTED && !known->fs_magic) {
			known->fs_magic = identity->fs_magic;
			memcpy(known->uuid, identity->uuid, sizeof(known->uuid));
		}
		/* of the layers that it is bound to now */
		memcpy(known->visible, identity->visible, sizeof(known->visible));
		return 0;
	}
	r = rvl_state_instance_free_id(state, from, &instance.id);
	if (r)
		return r;
	memcpy(instance.digest, identity->digest, sizeof(instance.digest));
	memcpy(instance.uuid, identity->uuid, sizeof(instance.uuid));
	memcpy(instance.visible, identity->visible, sizeof(instance.visible));
	*ret = instance.id;
	return rvl_state_instance_add(state, &instance);
}

int rvl_bind_volatile_instance(struct rvl_state *state, uint16_t *ret)
{
	unsigned id = state->volatile_low;

	/* From the upper end down, never twice. */
	do {
		if (id <= 1)
			return -EOVERFLOW;
		id--;
	} while (rvl_state_instance_by_id(state, (uint16_t)id));
	state->volatile_low = (uint16_t)id;
	*ret = (uint16_t)id;
	return 0;
}

/* From here up counters look for an id. */
static uint16_t counters_from(const struct rvl_state *state, unsigned which)
{
	return (uint16_t)((rvl_hash(state->uuid, 16) + which) & RVL_INSTANCE_MAX) ?: 1;
}

bool rvl_bind_may_be_counter(const struct rvl_state *state, uint16_t id)
{
	return ((unsigned)(id - counters_from(state, 0)) & RVL_INSTANCE_MAX) <=
	       state->n_instances + RVL_COUNTER_N;
}

int rvl_bind_counter(struct rvl_state *state, enum rvl_state_counter which)
{
	struct rvl_state_instance instance = { .flags = RVL_INSTANCE_COUNTER };
	int r = rvl_state_instance_free_id(state, counters_from(state, which), &instance.id);

	if (r)
		return r;
	rvl_table_own_digest(state->uuid, instance.id, instance.digest);
	state->counters[which].instance = instance.id;
	state->counters[which].next = RVL_COUNTER_START;
	return rvl_state_instance_add(state, &instance);
}

/* What the ids of a layer's table mean here: free ids are taken over, others get a new one. */
static int import_table(struct rvl_state *state, const struct rvl_table *table)
{
	for (unsigned i = 0; i < table->n; i++) {
		struct rvl_state_instance instance = { .id = table->rows[i].id,
						       .flags = RVL_INSTANCE_IMPORTED };
		int r;

		memcpy(instance.digest, table->rows[i].digest, sizeof(instance.digest));
		if (rvl_state_instance_by_digest(state, instance.digest))
			continue;
		if (state->n_instances >= RVL_STATE_IMPORTED_MAX)
			break;
		if (rvl_state_instance_by_id(state, instance.id) ||
		    instance.id >= state->volatile_low) {
			r = rvl_state_instance_free_id(state, instance.id ?: 1, &instance.id);
			if (r)
				return r;
		}
		r = rvl_state_instance_add(state, &instance);
		if (r)
			return r;
	}
	return 0;
}

static int import_tables(struct rvl_index *index, struct rvl_binding *binding)
{
	const struct rvl_stack *stack = index->stack;

	for (unsigned i = 0; i < binding->n_lowers; i++) {
		const struct rvl_layer *layer = &stack->layers[i + 1];
		struct rvl_table table;
		int r = rvl_bind_read_table(stack, layer, &table);

		if (r == -ENODATA)
			continue;
		if (r == -EUCLEAN || r == -EPROTONOSUPPORT) {
			rvl_warn(
				"lowerdir=%s: its table of inode numbers is %s; the numbers its objects had "
				"in their former overlay are not used",
				layer->path, r == -EUCLEAN ? "damaged" : "of a newer version");
			rvl_count(damaged);
			continue;
		}
		r = r ?: import_table(index->state, &table);
		if (r)
			return r;
		binding->lowers[i].flags |= RVL_ROOT_HAS_TABLE;
	}
	return 0;
}

/* Without a place for the state: the same layers give the same uuid, and so the same handles and
 * offsets. */
static void derive_identity(struct rvl_state *state, const struct rvl_binding *binding)
{
	uint8_t buf[32 + RVL_HANDLE_ENCODED_MAX] = { 0 };

	memset(state->uuid, 0, sizeof(state->uuid));
	for (unsigned i = 0; i <= binding->n_lowers; i++) {
		const struct rvl_state_root *root = i < binding->n_lowers ? &binding->lowers[i] :
									    &binding->upper;
		int len = 0;

		memcpy(buf, state->uuid, 16);
		if (i < binding->n_lowers)
			memcpy(buf + 16, binding->identities[i].digest, 16);
		if (root->handle.len)
			len = rvl_handle_encode(&root->handle, buf + 32);
		if (len <= 0) {
			rvl_put_le64(buf + 32, root->ino);
			len = 8;
		}
		rvl_digest(buf, 32 + (size_t)len, state->uuid);
	}
	memcpy(buf, state->uuid, 16);
	for (unsigned i = 0; i < 2; i++) {
		buf[16] = (uint8_t)i;
		rvl_digest(buf, 17, state->key + i * 16);
	}
}

/* Instances of the lowers; topmost_from: where the topmost one's is looked for. */
static int take_lowers(struct rvl_index *index, struct rvl_binding *binding, uint16_t topmost_from)
{
	struct rvl_state *state = index->state;
	int r = import_tables(index, binding);

	for (unsigned i = 0; !r && i < binding->n_lowers; i++) {
		struct rvl_state_root *root = &binding->lowers[i];

		if (!(root->flags & RVL_ROOT_UNSTABLE))
			r = rvl_bind_instance(state, &binding->identities[i], i ? 1 : topmost_from,
					      &root->instance);
	}
	if (r)
		return r;
	for (unsigned i = 0; i < state->n_lowers; i++)
		rvl_state_root_release(&state->lowers[i]);
	free(state->lowers);
	state->lowers = rvl_take_ptr(binding->lowers);
	state->n_lowers = binding->n_lowers;
	return 0;
}

static void take_root(struct rvl_state_root *root, struct rvl_state_root *from)
{
	rvl_state_root_release(root);
	*root = *from;
	*from = (struct rvl_state_root){ 0 };
}

int rvl_bind_new(struct rvl_index *index, struct rvl_binding *binding)
{
	struct rvl_state *state = index->state;
	int r;

	if (!index->is_writable)
		derive_identity(state, binding);
	r = take_lowers(index, binding, 0);
	for (int i = 0; !r && i < RVL_COUNTER_N; i++)
		r = rvl_bind_counter(state, i);
	if (r)
		return r;
	take_root(&state->upper, &binding->upper);
	take_root(&state->work, &binding->work);
	return 0;
}

/* Of what was imported the digest stays: stamps of other layers mean it by that. */
static void retire_filesystems(struct rvl_state *state)
{
	for (unsigned i = 0; i < state->n_instances; i++) {
		struct rvl_state_instance *instance = &state->instances[i];

		if (instance->flags & (RVL_INSTANCE_COUNTER | RVL_INSTANCE_RETIRED))
			continue;
		instance->flags |= RVL_INSTANCE_RETIRED;
		if (instance->flags & RVL_INSTANCE_IMPORTED)
			continue;
		rvl_table_own_digest(state->uuid, instance->id, instance->digest);
		memset(instance->uuid, 0, sizeof(instance->uuid));
		memset(instance->visible, 0, sizeof(instance->visible));
	}
}

int rvl_bind_again(struct rvl_index *index, struct rvl_binding *binding, bool has_new_lowers)
{
	struct rvl_state *state = index->state;
	int r = 0;

	if (has_new_lowers) {
		retire_filesystems(state);
		r = take_lowers(index, binding, 1);
	}
	if (r)
		return r;
	take_root(&state->upper, &binding->upper);
	take_root(&state->work, &binding->work);
	return 0;
}

int rvl_bind_clone(const struct rvl_stack *stack, struct rvl_state *state)
{
	struct rvl_table table;
	int r = 0;

	/* what upper's table says stays one of the two, also after a clone whose end it did not see */
	if (!stack->has_upper || rvl_bind_read_table(stack, &stack->layers[0], &table) ||
	    memcmp(table.uuid, state->former_uuid, sizeof(table.uuid)) != 0)
		memcpy(state->former_uuid, state->uuid, sizeof(state->former_uuid));
	r = rvl_state_new_uuid(state);
	for (int i = 0; !r && i < RVL_COUNTER_N; i++)
		r = rvl_bind_counter(state, i);
	return r;
}
