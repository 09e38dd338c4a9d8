/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Binding: which layers belong to which instances, and whether a stored state is that of these
 * layers. For opening, admitting and rebinding an index, in this order; single-threaded.
 */
#ifndef RVL_INDEX_BIND_H
#define RVL_INDEX_BIND_H

#include "index/index.h"
#include "index/state.h"
#include "layer/identity.h"

/* The layers as they are now. */
struct rvl_binding {
	struct rvl_state_root upper, work; /* ino 0: none */
	struct rvl_state_root *lowers; /* owned; stack->n - 1 of them, instance not set */
	struct rvl_identity
		*identities; /* owned; of lowers; digests made unique among different st_dev */
	unsigned n_lowers;
};
int rvl_binding_read(const struct rvl_stack *stack, struct rvl_binding *ret);
void rvl_binding_release(struct rvl_binding *binding);

/*
 * Is the state that of these layers? 0, or -ESTALE with the message logged (both lists, and the
 * command that helps).
 */
int rvl_bind_check(const struct rvl_index *index, const struct rvl_binding *binding,
		   bool is_silent);
/* Its parts: are upper and workdir those of the state; are the lowers? */
bool rvl_bind_is_same_place(const struct rvl_state *state, const struct rvl_binding *binding);
bool rvl_bind_is_same_lowers(const struct rvl_state *state, const struct rvl_binding *binding);
/* Does the table on upper's root name the overlay of the state? -ESTALE: another one. */
int rvl_bind_check_pair(const struct rvl_stack *stack, const struct rvl_state *state);
/* -ENODATA: the layer has none; -EUCLEAN, -EPROTONOSUPPORT. */
struct rvl_table;
int rvl_bind_read_table(const struct rvl_stack *stack, const struct rvl_layer *layer,
			struct rvl_table *ret);
/* An upper with a table needs its index. 0: it has no table. -ESTALE. */
int rvl_bind_check_new(const struct rvl_index *index, bool is_silent);

/*
 * admit.c: of formats that are known, and of this kind of attributes? Logged: -EPROTONOSUPPORT: the log
 * or upper's table is newer; -EINVAL: upper was made with userxattr, and this is without, or the
 * other way round.
 */
int rvl_admit_formats(const struct rvl_stack *stack, int inodes_fd, bool is_silent);
/* rvl_bind_check, and is it ours to use? Errors as rvl_index_open. */
int rvl_admit_state(const struct rvl_index *index, const struct rvl_binding *binding,
		    const struct rvl_index_config *config);

/* A new state's instances: import the tables of the layers, then layers, then counters. Changes
 * index->state only. */
int rvl_bind_new(struct rvl_index *index, struct rvl_binding *binding);
/*
 * The same state for other layers: their roots. has_new_lowers: no filesystem's instance is used
 * for new numbers any more, those of these lowers are new. Changes index->state only.
 */
int rvl_bind_again(struct rvl_index *index, struct rvl_binding *binding, bool has_new_lowers);
/* A new uuid and new counters; upper's table may still have the old one, which is kept beside it. */
int rvl_bind_clone(const struct rvl_stack *stack, struct rvl_state *state);
/* Instances of the layers of a state that was checked (or just made) into index->numbers. */
int rvl_bind_layers(struct rvl_index *index, const struct rvl_binding *binding);
/* Claims of layers with a table, where they are not recorded yet. */
int rvl_bind_claims(struct rvl_index *index);
/* Write this overlay's table on upper's root. */
int rvl_bind_write_table(struct rvl_index *index);

/* Add an instance for a filesystem to the state: the one with this digest, or a new one (from
 * `from`). */
int rvl_bind_instance(struct rvl_state *state, const struct rvl_identity *identity, uint16_t from,
		      uint16_t *ret);
/* An instance for this mount only: identity.is_stable is false. */
int rvl_bind_volatile_instance(struct rvl_state *state, uint16_t *ret);
/* A new instance for a counter. */
int rvl_bind_counter(struct rvl_state *state, enum rvl_state_counter which);
/* Can this instance have been a counter's of this overlay, whose state is lost? Counters take ids from a start
 * that is a hash of the uuid, filesystems as a rule the lowest: a guess. Counters from before a clone, when the
 * uuid was another, are not recognised. */
bool rvl_bind_may_be_counter(const struct rvl_state *state, uint16_t id);

/* claims.c: walk one layer and record the numbers of its stamps, translated by `table`. */
int rvl_claims_record(struct rvl_index *index, const struct rvl_layer *layer,
		      const struct rvl_table *table);

/* "lowerdir=…,upperdir=…,workdir=…" of a stack, escaped as mount(8) takes it. Owned by the caller;
 * NULL without memory. */
char *rvl_bind_mount_options(const struct rvl_stack *stack);
/* "-o " and these, quoted for a shell: for commands in messages. The same. */
char *rvl_bind_options(const struct rvl_stack *stack);

#endif
