// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Binding layers to the instances of a state, and the check that a state belongs to these layers.
 * How a state comes by its instances: bind_new.c.
 */
#include "index/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/shell.h"
#include "index/number_private.h"
#include "index/stamp.h"
#include "index/table.h"
#include "layer/identity.h"

#define RVL_ROOT_INO_UNKNOWN 1 /* in the state, where none lasts; 0 would be "no root" */

/* Of an overlay: the file identifier lasts, the inode number of a directory may not. */
static void read_overlay_root(int fd, struct rvl_state_root *ret)
{
	uint8_t fid[RVL_FID_BYTES_MAX];
	int n = rvl_identity_fid(fd, "", fid);

	ret->ino = RVL_ROOT_INO_UNKNOWN;
	if (n <= 4)
		return;
	ret->handle.type = fid[0];
	ret->handle.len = (uint8_t)(n - 4);
	memcpy(ret->handle.fid, fid + 4, (size_t)n - 4);
}

static int read_root(const struct rvl_layer *layer, int fd, const char *path,
		     const struct rvl_identity *identity, struct rvl_state_root *ret)
{
	struct statx stx;

	ret->path = strdup(path ? path : "");
	if (!ret->path)
		return -ENOMEM;
	if (identity->inos == RVL_INOS_OVERLAY) {
		read_overlay_root(fd, ret);
		return 0;
	}
	if (identity->inos == RVL_INOS_FLEETING) {
		ret->ino = RVL_ROOT_INO_UNKNOWN;
		return 0;
	}
	if (layer) {
		ret->ino = layer->ino;
	} else {
		if (statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_INO, &stx))
			return -errno;
		ret->ino = stx.stx_ino;
	}
	/* Any failure: the inode number must do. */
	if (rvl_handle_get(fd, "", identity->uuid, &ret->handle))
		ret->handle.len = 0;
	return 0;
}

/*
 * A tmpfs has no identity that outlives it, but one for its life: a uuid of its own, else (older
 * kernels) what its root's handle and the boot make. That is enough: when it is gone, so are its
 * objects.
 */
static void stabilise(struct rvl_identity *identity, const struct rvl_state_root *root)
{
	uint8_t buf[16 + 16 + RVL_HANDLE_ENCODED_MAX];
	int len;

	if (identity->is_stable ||
	    (identity->fs_magic != TMPFS_MAGIC && identity->fs_magic != RAMFS_MAGIC))
		return;
	if (!identity->has_uuid) {
		if (!root->handle.len)
			return;
		memcpy(buf, identity->digest, 16);
		rvl_boot_id_get(buf + 16);
		len = rvl_handle_encode(&root->handle, buf + 32);
		if (len < 0)
			return;
		rvl_digest(buf, 32 + (size_t)len, identity->digest);
	}
	identity->is_stable = true;
}

/* Identity and root of a lower. Layers with one st_dev share an identity. */
static int read_lower(const struct rvl_stack *stack, struct rvl_binding *binding, unsigned i)
{
	const struct rvl_layer *layer = &stack->layers[i + 1];
	struct rvl_identity *identity = &binding->identities[i];
	struct rvl_state_root *root = &binding->lowers[i];
	const unsigned first = rvl_stack_first_of_filesystem(stack, i + 1) - 1;
	int r = 0;

	if (first < i)
		*identity = binding->identities[first];
	else
		r = rvl_identity_get(layer, layer->fd, (uint64_t)layer->dev, identity);
	if (r) {
		rvl_error("lowerdir=%s: the identity of its filesystem cannot be read: %s",
			  layer->path, strerror(-r));
		return r;
	}
	r = read_root(layer, layer->fd, layer->path, identity, root);
	if (r)
		return r;
	if (first == i)
		stabilise(identity, root);
	root->flags = (layer->is_data_only ? RVL_ROOT_DATA_ONLY : 0) |
		      (identity->is_stable ? 0 : RVL_ROOT_UNSTABLE);
	return r;
}

/* ---- filesystems that look like one ---- */

static bool are_twins(const struct rvl_stack *stack, const struct rvl_binding *binding, unsigned i,
		      unsigned j)
{
	return stack->layers[i + 1].dev != stack->layers[j + 1].dev &&
	       memcmp(binding->identities[i].digest, binding->identities[j].digest, 16) == 0;
}

static bool has_twin(const struct rvl_stack *stack, const struct rvl_binding *binding, unsigned i)
{
	for (unsigned j = 0; j < binding->n_lowers; j++)
		if (are_twins(stack, binding, i, j))
			return true;
	return false;
}

/* Also what is in them is alike: their order has to do. */
static void part_by_order(const struct rvl_stack *stack, struct rvl_binding *binding, unsigned i)
{
	static const uint8_t no_digest[16];
	struct rvl_identity *identity = &binding->identities[i];

	for (unsigned j = 0; j < i;) {
		uint8_t twin[16 + 4];

		if (!are_twins(stack, binding, i, j)) {
			j++;
			continue;
		}
		rvl_warn(
			"lowerdir=%s: its filesystem cannot be told from that of lowerdir=%s: keep them in "
			"this order%s",
			stack->layers[i + 1].path, stack->layers[j + 1].path,
			identity->has_uuid ?
				", or give one of them a uuid of its own (tune2fs -U random, "
				"xfs_admin -U generate)" :
				"");
		memcpy(twin, identity->digest, 16);
		memcpy(twin + 16, "twin", 4);
		rvl_digest(twin, sizeof(twin), identity->digest);
		if (memcmp(identity->visible, no_digest, 16)) {
			memcpy(twin, identity->visible, 16);
			rvl_digest(twin, sizeof(twin), identity->visible);
		}
		j = 0;
	}
}

/* Different st_dev are different spaces of inode numbers, even if the filesystems look the same. */
static int part_twins(const struct rvl_stack *stack, struct rvl_binding *binding)
{
	_cleanup_free_ bool *are_like = calloc(binding->n_lowers + 1, sizeof(*are_like));
	int r = 0;

	if (!are_like)
		return -ENOMEM;
	for (unsigned i = 0; i < binding->n_lowers; i++)
		/* data-only layers give no numbers */
		are_like[i] = !stack->layers[i + 1].is_data_only && has_twin(stack, binding, i);
	for (unsigned i = 0; r == 0 && i < binding->n_lowers; i++) {
		const unsigned first = rvl_stack_first_of_filesystem(stack, i + 1) - 1;

		if (!are_like[i])
			continue;
		if (first < i) {
			binding->identities[i] = binding->identities[first];
			continue;
		}
		r = rvl_identity_add_names(&stack->layers[i + 1], &binding->identities[i]);
		if (r < 0)
			rvl_error("lowerdir=%s: it cannot be listed, to tell it from another layer: %s",
				  stack->layers[i + 1].path, strerror(-r));
		else
			part_by_order(stack, binding, i);
	}
	return r;
}

int rvl_binding_read(const struct rvl_stack *stack, struct rvl_binding *ret)
{
	static const struct rvl_identity upper; /* no uuid, and its inode numbers last */
	unsigned n = stack->n - 1;
	int r = 0;

	*ret = (struct rvl_binding){ 0 };
	ret->lowers = calloc(n + 1, sizeof(*ret->lowers));
	ret->identities = calloc(n + 1, sizeof(*ret->identities));
	if (!ret->lowers || !ret->identities)
		return -ENOMEM;
	ret->n_lowers = n;
	for (unsigned i = 0; !r && i < n; i++)
		r = read_lower(stack, ret, i);
	r = r ?: part_twins(stack, ret);
	if (!r && stack->has_upper)
		r = read_root(&stack->layers[0], stack->layers[0].fd, stack->layers[0].path, &upper,
			      &ret->upper);
	if (!r && stack->work_fd >= 0)
		r = read_root(NULL, stack->work_fd, stack->work_path, &upper, &ret->work);
	return r;
}

void rvl_binding_release(struct rvl_binding *binding)
{
	for (unsigned i = 0; i < binding->n_lowers && binding->lowers; i++)
		rvl_state_root_release(&binding->lowers[i]);
	rvl_state_root_release(&binding->upper);
	rvl_state_root_release(&binding->work);
	free(binding->lowers);
	free(binding->identities);
	*binding = (struct rvl_binding){ 0 };
}

static bool is_same_root(const struct rvl_state_root *a, const struct rvl_state_root *b)
{
	if (a->handle.len && b->handle.len)
		return rvl_handle_equal(&a->handle, &b->handle);
	return a->ino == b->ino;
}

/* A path as an option's value: what mount(8) and the kernel take for separators gets a backslash.
 * */
static void print_escaped(FILE *f, const char *path)
{
	for (; path && *path; path++) {
		if (strchr(":,\\", *path))
			fputc('\\', f);
		fputc(*path, f);
	}
}

char *rvl_bind_mount_options(const struct rvl_stack *stack)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fputs(stack->xattr.is_user ? "userxattr,lowerdir=" : "lowerdir=", f);
	for (unsigned i = 1; i < stack->n; i++) {
		if (i > 1)
			fputs(stack->layers[i].is_data_only ? "::" : ":", f);
		print_escaped(f, stack->layers[i].path);
	}
	if (stack->has_upper) {
		fputs(",upperdir=", f);
		print_escaped(f, stack->layers[0].path);
	}
	if (stack->work_path) {
		fputs(",workdir=", f);
		print_escaped(f, stack->work_path);
	}
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

char *rvl_bind_options(const struct rvl_stack *stack)
{
	_cleanup_free_ char *options = rvl_bind_mount_options(stack);
	char *text = NULL;
	size_t len;
	FILE *f = options ? open_memstream(&text, &len) : NULL;

	if (!f)
		return NULL;
	fputs("-o ", f);
	rvl_shell_quote(f, options);
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

static char *lowers_text(const struct rvl_state_root *lowers, unsigned n)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		if (i)
			fputs(lowers[i].flags & RVL_ROOT_DATA_ONLY ? "::" : ":", f);
		print_escaped(f, lowers[i].path);
	}
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

bool rvl_bind_is_same_lowers(const struct rvl_state *state, const struct rvl_binding *binding)
{
	if (state->n_lowers != binding->n_lowers)
		return false;
	for (unsigned i = 0; i < state->n_lowers; i++) {
		const struct rvl_state_root *then = &state->lowers[i], *now = &binding->lowers[i];
		const struct rvl_state_instance *instance =
			rvl_state_instance_by_id(state, then->instance);
		bool is_unstable = (then->flags | now->flags) & RVL_ROOT_UNSTABLE;
		struct rvl_identity_record record;

		if ((then->flags ^ now->flags) & RVL_ROOT_DATA_ONLY || !is_same_root(then, now))
			return false;
		if (is_unstable)
			continue;
		if (!instance)
			return false;
		record = rvl_state_instance_record(instance);
		/* What the instance is known by is the topmost layer of its filesystem. */
		if (!rvl_identity_is(&binding->identities[i], &record, true))
			return false;
	}
	return true;
}

int rvl_bind_read_table(const struct rvl_stack *stack, const struct rvl_layer *layer,
			struct rvl_table *ret)
{
	uint8_t buf[RVL_TABLE_MAX_BYTES];
	ssize_t n;

	if (!layer->has_xattrs)
		return -ENODATA;
	n = rvl_xattr_get(&stack->xattr, layer->fd, "", RVL_XATTR_INSTANCES, buf, sizeof(buf));
	if (n == -ERANGE)
		return -EUCLEAN;
	return n < 0 ? (int)n : rvl_table_decode(buf, (size_t)n, ret);
}

bool rvl_bind_is_same_place(const struct rvl_state *state, const struct rvl_binding *binding)
{
	bool is_same_upper = !state->upper.ino == !binding->upper.ino &&
			     (!state->upper.ino || is_same_root(&state->upper, &binding->upper));

	return is_same_upper && is_same_root(&state->work, &binding->work);
}

int rvl_bind_check_pair(const struct rvl_stack *stack, const struct rvl_state *state)
{
	struct rvl_table table;
	int r = rvl_bind_read_table(stack, &stack->layers[0], &table);

	if (r == -ENODATA || r == -EUCLEAN) /* it is written anew */
		return 0;
	if (r)
		return r;
	return memcmp(table.uuid, state->uuid, 16) && memcmp(table.uuid, state->former_uuid, 16) ?
		       -ESTALE :
		       0;
}

int rvl_bind_check(const struct rvl_index *index, const struct rvl_binding *binding, bool is_silent)
{
	const struct rvl_state *state = index->state;
	_cleanup_free_ char *options = rvl_bind_options(index->stack);
	bool is_adopted = !state->upper.ino &&
			  binding->upper.ino; /* a workdir that served without upper */
	int r = 0;

	if (is_adopted ? !is_same_root(&state->work, &binding->work) :
			 !rvl_bind_is_same_place(state, binding))
		r = -ESTALE;
	if (!r && is_adopted) {
		r = rvl_bind_check_new(index, is_silent);
		if (r)
			return r;
	} else if (!r && binding->upper.ino) {
		r = rvl_bind_check_pair(index->stack, state);
	}
	if (r == -ESTALE && is_silent)
		return r;
	if (r == -ESTALE) {
		rvl_error(
			"upperdir=%s, workdir=%s: not the directories that this overlay was made with "
			"(upperdir=%s, workdir=%s), but a copy, or of two overlays. After a move or a "
			"copy run: reverlayctl rebind %s",
			binding->upper.path ?: "", binding->work.path, state->upper.path ?: "",
			state->work.path ?: "", options ?: "");
		return r;
	}
	if (!r && !rvl_bind_is_same_lowers(state, binding)) {
		if (is_silent)
			return -ESTALE;
		_cleanup_free_ char *then = lowers_text(state->lowers, state->n_lowers);
		_cleanup_free_ char *now = lowers_text(binding->lowers, binding->n_lowers);

		rvl_error(
			"lowerdir=%s: not the layers that this upper was used with (lowerdir=%s). "
			"If they were copied, moved or changed run: reverlayctl rebind %s",
			now ?: "", then ?: "", options ?: "");
		return -ESTALE;
	}
	return r;
}

int rvl_bind_check_new(const struct rvl_index *index, bool is_silent)
{
	_cleanup_free_ char *options = NULL;
	struct rvl_table table;
	int r;

	if (!index->stack->has_upper)
		return 0;
	r = rvl_bind_read_table(index->stack, &index->stack->layers[0], &table);
	if (r == -ENODATA)
		return 0;
	if (r && r != -EUCLEAN && r != -EPROTONOSUPPORT)
		return r;
	if (is_silent)
		return -ESTALE;
	options = rvl_bind_options(index->stack);
	rvl_error(
		"upperdir=%s: it has inode numbers of a former use, but workdir=%s has no index of them. "
		"Give the workdir that belongs to it",
		index->stack->layers[0].path, index->stack->work_path ?: "");
	rvl_error(
		"workdir=%s: if it is lost, and the layers were copied or moved, run: reverlayctl rebind %s",
		index->stack->work_path ?: "", options ?: "");
	rvl_error("workdir=%s: if it is lost, and the layers are where they were, run: "
		  "reverlayctl repair --rebuild %s",
		  index->stack->work_path ?: "", options ?: "");
	return -ESTALE;
}

/* How the objects of a layer are told apart; and what to know of it is said once. */
static int bind_inos(struct rvl_index *index, const struct rvl_binding *binding, unsigned i)
{
	const struct rvl_layer *layer = &index->stack->layers[i + 1];
	struct rvl_layer_numbers *numbers = &index->numbers->layers[i + 1];
	uint8_t fid[RVL_FID_BYTES_MAX];
	int r = 0;

	numbers->inos = binding->identities[i].inos;
	for (unsigned j = 0; j < i; j++)
		numbers->salt += index->stack->layers[j + 1].dev == layer->dev;
	if (numbers->inos == RVL_INOS_OVERLAY)
		r = rvl_identity_fid(layer->fd, "", fid);
	if (r < 0 && r != -EOPNOTSUPP)
		return r;
	if (numbers->inos == RVL_INOS_FLEETING || r == -EOPNOTSUPP)
		rvl_info(
			"lowerdir=%s: its filesystem gives no lasting inode numbers or file identifiers; "
			"its objects are known by their paths",
			layer->path);
	return 0;
}

/*
 * What upper has without a stamp is numbered by its inode number where none can be given to it. They
 * are another space than those of lowers on other filesystems.
 */
static int bind_upper(struct rvl_index *index)
{
	const struct rvl_layer *upper = &index->stack->layers[0];
	uint16_t *instance = &index->numbers->layers[0].instance;
	int r;

	if (!index->stack->has_upper || index->is_writable)
		return 0;
	r = rvl_device_find(index->numbers, upper->dev, instance);
	if (r != -ENOENT)
		return r;
	r = rvl_bind_volatile_instance(index->state, instance);
	return r ?: rvl_device_add(index->numbers, upper->dev, *instance);
}

int rvl_bind_layers(struct rvl_index *index, const struct rvl_binding *binding)
{
	struct rvl_state *state = index->state;

	for (unsigned i = 0; i < state->n_lowers; i++) {
		const struct rvl_layer *layer = &index->stack->layers[i + 1];
		struct rvl_state_root *root = &state->lowers[i];
		uint16_t *instance = &index->numbers->layers[i + 1].instance;
		int r = bind_inos(index, binding, i);

		if (r)
			return r;
		/* Its identity was found to last since (a newer kernel). */
		if (root->flags & RVL_ROOT_UNSTABLE && binding->identities[i].is_stable) {
			r = rvl_bind_instance(state, &binding->identities[i], 1, &root->instance);
			if (r)
				return r;
			root->flags &= ~(uint32_t)RVL_ROOT_UNSTABLE;
		}
		r = rvl_device_find(index->numbers, layer->dev, instance);
		if (r != -ENOENT) {
			if (r)
				return r;
			continue;
		}
		*instance = root->instance;
		r = 0;
		if (!binding->identities[i].is_stable) {
			r = rvl_bind_volatile_instance(state, instance);
			rvl_info(
				"lowerdir=%s: its filesystem has no lasting identity; inode numbers and file "
				"handles of its objects hold for this mount only",
				layer->path);
		}
		r = r ?: rvl_device_add(index->numbers, layer->dev, *instance);
		if (r)
			return r;
	}
	return bind_upper(index);
}

int rvl_bind_claims(struct rvl_index *index)
{
	struct rvl_state *state = index->state;
	int r = 0;

	for (unsigned i = 0; !r && i < state->n_lowers; i++) {
		const struct rvl_layer *layer = &index->stack->layers[i + 1];
		struct rvl_state_root *root = &state->lowers[i];
		struct rvl_table table;

		if (!(root->flags & RVL_ROOT_HAS_TABLE) || (root->flags & RVL_ROOT_CLAIMS_DONE))
			continue;
		r = rvl_bind_read_table(index->stack, layer, &table);
		if (r == -ENODATA || r == -EUCLEAN || r == -EPROTONOSUPPORT) {
			r = 0;
			continue;
		}
		r = r ?: rvl_claims_record(index, layer, &table);
		if (r) {
			rvl_error(
				"lowerdir=%s: its recorded inode numbers cannot be taken over: %s",
				layer->path, strerror(-r));
			return r;
		}
		root->flags |= RVL_ROOT_CLAIMS_DONE;
		if (index->is_writable) {
			r = rvl_reals_flush(index);
			r = r ?: rvl_index_save_state(index);
		}
	}
	return r;
}

int rvl_bind_write_table(struct rvl_index *index)
{
	const struct rvl_layer *upper = &index->stack->layers[0];
	struct rvl_state *state = index->state;
	uint8_t buf[RVL_TABLE_MAX_BYTES], old[RVL_TABLE_MAX_BYTES];
	struct rvl_table table = { 0 };
	unsigned len;
	int r;

	pthread_mutex_lock(&state->lock);
	memcpy(table.uuid, state->uuid, sizeof(table.uuid));
	for (unsigned i = 0; i < state->n_instances; i++) {
		if (table.n == RVL_TABLE_ROWS_MAX) {
			table.is_truncated = true;
			break;
		}
		table.rows[table.n].id = state->instances[i].id;
		memcpy(table.rows[table.n++].digest, state->instances[i].digest, 16);
	}
	pthread_mutex_unlock(&state->lock);
	len = rvl_table_encode(&table, buf);
	if (rvl_upper_xattr_get(index, upper->fd, "", S_IFDIR, upper->ino, RVL_XATTR_INSTANCES, old,
				sizeof(old)) == (ssize_t)len &&
	    !memcmp(old, buf, len))
		return 0;
	r = rvl_upper_xattr_set(index, upper->fd, "", S_IFDIR, upper->ino, RVL_XATTR_INSTANCES, buf,
				len);
	if (r)
		rvl_error("upperdir=%s: the table of its inode numbers cannot be written: %s",
			  upper->path, strerror(-r));
	return r;
}
