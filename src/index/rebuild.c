// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A state for layers whose state is lost. The table on upper's root says which overlay it is and
 * what its instances mean, so stamps and handles keep their meaning. Where the counters stood
 * nobody knows: they open new instances, and the old ones are retired. What a rebind had recorded, as
 * far as upper tells it, is recorded again: such a map is no cache, and its loss is to be noticed.
 *
 * On disk: the map, synced and sealed; then the state. A death before that leaves a map that the next
 * run takes up.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/bind.h"
#include "index/fsck.h"
#include "index/map_private.h"
#include "index/table.h"
#include "index/workdir.h"

static int add_instance(struct rvl_state *state, uint16_t id, const uint8_t digest[16],
			bool is_former)
{
	struct rvl_state_instance instance = { .id = id };
	uint8_t own[16];

	rvl_table_own_digest(state->uuid, id, own);
	memcpy(instance.digest, digest, 16);
	instance.flags = memcmp(digest, own, 16) ? RVL_INSTANCE_IMPORTED :
						   RVL_INSTANCE_COUNTER | RVL_INSTANCE_RETIRED;
	if (is_former)
		instance.flags |= RVL_INSTANCE_RETIRED;
	return rvl_state_instance_add(state, &instance);
}

/* Rows are in the order in which instances were made. A rebind retires a filesystem's instance and makes another.
 * The digest of the former is changed then, unless it came from a layer's table (RVL_INSTANCE_IMPORTED): such
 * two rows have one digest, and the last is the one in use. */
static bool is_former_row(const struct rvl_table *table, unsigned row)
{
	for (unsigned i = row + 1; i < table->n; i++)
		if (!memcmp(table->rows[i].digest, table->rows[row].digest, 16))
			return true;
	return false;
}

/* Who it was, as upper's root tells. */
static int take_table(struct rvl_index *index)
{
	struct rvl_state *state = index->state;
	uint8_t buf[RVL_TABLE_MAX_BYTES];
	struct rvl_table table;
	ssize_t n = rvl_xattr_get(&index->stack->xattr, index->stack->layers[0].fd, "",
				  RVL_XATTR_INSTANCES, buf, sizeof(buf));
	int r = n < 0 ? (int)n : rvl_table_decode(buf, (size_t)n, &table);

	if (r == -ENODATA || r == -EUCLEAN || r == -ERANGE) {
		rvl_warn(
			"upperdir=%s: its table of inode numbers is %s: old file handles will not be known",
			index->stack->layers[0].path, r == -ENODATA ? "lost" : "damaged");
		return 0;
	}
	if (r)
		return r;
	memcpy(state->uuid, table.uuid, sizeof(state->uuid));
	for (unsigned i = 0; !r && i < table.n; i++)
		r = add_instance(state, table.rows[i].id, table.rows[i].digest,
				 is_former_row(&table, i));
	return r == -EEXIST ? 0 : r;
}

/* Instances that stamps name and the table does not. */
static int reserve(struct rvl_state *state, const uint64_t used_ids[])
{
	int r = 0;

	for (unsigned id = 0; !r && id <= RVL_INSTANCE_MAX; id++) {
		uint8_t digest[16];

		if (!(used_ids[id / 64] >> (id % 64) & 1) ||
		    rvl_state_instance_by_id(state, (uint16_t)id))
			continue;
		rvl_table_own_digest(state->uuid, (uint16_t)id, digest);
		r = add_instance(state, (uint16_t)id, digest, false);
	}
	return r;
}

static void bind_lowers(struct rvl_state *state)
{
	for (unsigned i = 0; i < state->n_lowers; i++) {
		struct rvl_state_instance *instance =
			rvl_state_instance_by_id(state, state->lowers[i].instance);

		if (instance)
			instance->flags &= (uint16_t)~RVL_INSTANCE_IMPORTED;
	}
}

/* What is left of the claims is used; what is not is read from the layers at the next open. */
static void find_reals(struct rvl_index *index)
{
	static const enum rvl_map_file files[] = { RVL_MAP_FILE_DATA, RVL_MAP_FILE_JOURNAL };
	static const uint32_t flags[] = { RVL_STATE_HAS_REALS | RVL_STATE_REALS_IN_MAP,
					  RVL_STATE_HAS_REALS };
	char name[RVL_MAP_FILE_NAME_SIZE];

	for (unsigned i = 0; i < 2; i++) {
		rvl_map_file_name(0, files[i], name);
		if (!faccessat(index->inodes_fd, name, F_OK, AT_SYMLINK_NOFOLLOW))
			index->state->flags |= flags[i];
	}
}

static int make_state(struct rvl_index *index, const uint64_t used_ids[],
		      struct rvl_binding *binding)
{
	int r = rvl_state_new(&index->state);

	r = r ?: take_table(index);
	r = r ?: reserve(index->state, used_ids);
	r = r ?: rvl_bind_new(index, binding);
	if (r)
		return r;
	bind_lowers(index->state);
	find_reals(index);
	/* no boot id, and not clean: stamps without an entry are believed at once */
	memset(index->state->boot_id, 0, sizeof(index->state->boot_id));
	index->state->flags &= ~(uint32_t)RVL_STATE_CLEAN;
	return 0;
}

static int record_all(struct rvl_index *index, const struct rvl_binding *binding,
		      rvl_rebuild_record_fn *record, void *arg)
{
	int r = rvl_index_prepare_numbers(index, binding);

	r = r ?: record(arg, index);
	if (r <= 0)
		return r;
	r = rvl_reals_flush(index);
	index->state->flags |= RVL_STATE_MAP_IS_TRUTH;
	return r ?: rvl_map_seal(index);
}

/* state is taken over, also when this fails. */
static int finish(const struct rvl_stack *stack, struct rvl_state *state,
		  const struct rvl_binding *binding, rvl_rebuild_record_fn *record, void *arg)
{
	struct rvl_index *index;
	/* read-only: what lies in work/ is for the passes to tell */
	int r = rvl_index_prepare(stack, true, state, &index);

	if (r)
		return r;
	index->is_writable = true;
	if (record)
		r = record_all(index, binding, record, arg);
	else
		index->state->flags |= RVL_STATE_REBUILT;
	if (!r && record &&
	    renameat(index->inodes_fd, "state", index->inodes_fd, "state.damaged") && errno != ENOENT)
		r = -errno;
	r = r ?: rvl_state_save(index->state, index->inodes_fd, false);
	rvl_index_close(index);
	return r;
}

int rvl_index_rebuild(const struct rvl_stack *stack,
		      const uint64_t used_ids[(RVL_INSTANCE_MAX + 1) / 64],
		      rvl_rebuild_record_fn *record, void *arg)
{
	struct rvl_index index = {
		.stack = stack, .is_persistent = true, .is_writable = true, .temp_fd = -EBADF
	};
	_cleanup_close_ int inodes_fd = rvl_workdir_open(stack, "inodes", true);
	struct rvl_binding binding = { 0 };
	int r = inodes_fd < 0 ? inodes_fd : 0;

	if (r)
		return r;
	index.inodes_fd = inodes_fd;
	r = rvl_binding_read(stack, &binding);
	r = r ?: make_state(&index, used_ids, &binding);
	r = r ?: finish(stack, rvl_take_ptr(index.state), &binding, record, arg);
	if (r && r != -ECANCELED)
		rvl_error("workdir=%s: the index cannot be made again: %s", stack->work_path,
			  strerror(-r));
	rvl_state_free(index.state);
	rvl_binding_release(&binding);
	return r;
}
