// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Look-up: one name, upper first, then the lower view, then the number, then the node. The rules
 * are the kernel's (fs/overlayfs/namei.c, ovl_lookup); what is ours is the last step: a lower name
 * whose number has an entry is served from the entry, so that all names of a file that was copied
 * up under one of them stay the same file.
 *
 * Nothing is written here, but what strangers are known by (identify.c), and another number for one of two
 * objects that have the same (renumber.c).
 */
#include "overlay/lookup.h"

#include <dirent.h>
#include <string.h>

#include "layer/path.h"
#include "overlay/decode.h"
#include "overlay/given.h"
#include "overlay/identify.h"
#include "overlay/metacopy.h"
#include "overlay/nlink.h"
#include "overlay/remove.h"
#include "overlay/renumber.h"
#include "overlay/special.h"

#define RETRIES 16

/* ---- from what was found to a node ---- */

/* The path of a directory in the merged lower view: what a redirect to it has to say. */
static const char *view_path(struct rvl_node *dir, const char *name, const char *redirect)
{
	if (redirect && redirect[0] == '/')
		return rvl_refstr_new(redirect + 1);
	return rvl_refstr_join(dir->view_path ? dir->view_path : "", redirect ? redirect : name);
}

static int take_lower(struct rvl_node *dir, const char *name, const char *redirect,
		      struct rvl_found *found, struct rvl_node *node)
{
	if (found->places.n == 0)
		return 0;
	node->lower_nlink = found->st.stx_nlink;
	node->lower = found->places;
	found->places = (struct rvl_places){};
	node->data = found->data;
	node->is_data_missing = found->is_metacopy && !found->data.layer;
	found->data = (struct rvl_place){};
	if (!rvl_node_is_dir(node))
		return 0;
	node->view_path = view_path(dir, name, redirect);
	return node->view_path ? 0 : -ENOMEM;
}

/*
 * Put a new node into the cache, or take the one that another thread has put there meanwhile. -EAGAIN: that
 * is of another object, or this one has been copied up since, and the name is to be looked up again.
 */
static int insert(struct rvl_node *node, struct rvl_node **ret)
{
	const bool has_upper = rvl_node_has_upper(node);
	const uint64_t upper_ino = node->upper_ino;
	const mode_t type = node->type;
	struct rvl_node *known = rvl_node_insert(node);

	if (known != node && (known->type != type || rvl_node_has_upper(known) != has_upper ||
			      (has_upper && known->upper_ino != upper_ino))) {
		rvl_node_put(known);
		return -EAGAIN;
	}
	*ret = known;
	return 0;
}

static int settle(struct rvl_node *dir, const char *name, struct rvl_node *node,
		  struct rvl_node **ret)
{
	int r = rvl_node_set_place(node, dir->id.number, name);

	if (r < 0) {
		rvl_node_free(node);
		return r;
	}
	return insert(node, ret);
}

/*
 * Is this the node of what a name leads to? When an upper object was moved offline, what lower has
 * at its old name is seen again, and has the number that was the moved one's: but it is another
 * object. Only the lower names of a file with several are names of upper's object. ino 0: found in
 * lower.
 */
static bool is_same(const struct rvl_node *node, uint64_t ino, const struct statx *st)
{
	if (ino)
		return rvl_node_has_upper(node) && node->upper_ino == ino;
	return !rvl_node_has_upper(node) || (!S_ISDIR(st->stx_mode) && st->stx_nlink > 1);
}

static int two_objects(const char *name, uint64_t number)
{
	rvl_count(damaged);
	rvl_warn_limited("%s: its number %llu is that of another object too; see reverlayctl check",
			 name, (unsigned long long)number);
	return -EUCLEAN;
}

/* A node that is in memory already: does it fit what was found, and is it known under this name? */
static int reuse(struct rvl_node *dir, const char *name, mode_t type, struct rvl_node *node)
{
	const char *old;
	uint64_t parent;
	int r = 0;

	if (node->type != (type & S_IFMT) || (atomic_load(&node->is_dead) && rvl_node_is_dir(node)))
		return -ESTALE;
	rvl_node_get_place(node, &parent, &old);
	if (parent != dir->id.number || !old || strcmp(old, name) != 0)
		r = rvl_node_set_place(node, dir->id.number, name);
	rvl_refstr_put(old);
	return r;
}

static int take_known(struct rvl_dir *dir, const char *name, mode_t type, struct rvl_node *node,
		      struct rvl_node **ret)
{
	int r = reuse(dir->node, name, type, node);

	if (r < 0)
		rvl_node_put(node);
	else
		*ret = node;
	return r;
}

static int node_of_upper(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
			 struct rvl_found *lower, struct rvl_node **ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	struct rvl_node *node;
	struct rvl_id id;
	int r = rvl_identify(dir, name, upper, lower, &id);

	if (r < 0)
		return r;
	node = rvl_node_find(ov, id.number);
	if (node) {
		if (is_same(node, upper->st.stx_ino, &upper->st))
			return take_known(dir, name, upper->st.stx_mode, node, ret);
		/* Upper's object was moved offline, and lower's shows again. It is no copy-up under way: that
		 * has told its node before its directory is unlocked. A lower file with several names may be
		 * shown by one of the others: that is an error. */
		r = !rvl_node_has_upper(node) && (rvl_node_is_dir(node) || node->lower_nlink == 1) ?
			    rvl_renumber_upper(dir, name, upper, lower, &id) :
			    two_objects(name, id.number);
		rvl_node_put(node);
	} else if (rvl_node_was_lower(ov, id.number)) {
		r = rvl_renumber_upper(dir, name, upper, lower, &id);
	}
	if (r < 0)
		return r;
	node = rvl_node_new(ov, &id, upper->st.stx_mode);
	if (!node)
		return -ENOMEM;
	node->upper_ino = upper->st.stx_ino;
	node->is_unindexed = upper->is_unindexed;
	if (node->is_unindexed && !upper->has_other_entry)
		node->nlink_diff = 0;
	node->is_user_whiteout = rvl_is_user_whiteout(ov, dir->fd.fd.fd, name, &upper->st);
	atomic_store(&node->has_upper, true);
	if (rvl_node_is_dir(node))
		r = take_lower(dir->node, name, upper->redirect, lower, node);
	else
		r = rvl_nlink_read(node, dir->fd.fd.fd, name, upper->st.stx_nlink);
	if (r == 0 && upper->is_metacopy) {
		r = rvl_merge_lookup_data(ov->stack, &dir->node->lower, name, upper->redirect, 0,
					  &node->data);
		if (r == -ENOENT)
			r = -EIO; /* the kernel: no data, no access */
		atomic_store(&node->is_metacopy, true);
	}
	if (r < 0) {
		rvl_node_free(node);
		return r;
	}
	return settle(dir->node, name, node, ret);
}

int rvl_node_from_entry(struct rvl_overlay *ov, const struct rvl_id *id, const struct statx *stx,
			struct rvl_place *data, bool has_name, struct rvl_node **ret)
{
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_node *node = rvl_node_new(ov, id, stx->stx_mode);
	int r;

	if (!node)
		return -ENOMEM;
	node->upper_ino = stx->stx_ino;
	atomic_store(&node->has_upper, true);
	if (data) {
		node->data = *data;
		*data = (struct rvl_place){};
		node->is_data_missing = !node->data.layer;
		atomic_store(&node->is_metacopy, true);
	}
	rvl_entry_path(id->number, path);
	node->is_user_whiteout = rvl_is_user_whiteout(ov, ov->index->inodes_fd, path, stx);
	r = rvl_nlink_read(node, ov->index->inodes_fd, path, stx->stx_nlink);
	if (r == 0 && !has_name && (long)stx->stx_nlink + node->nlink_diff <= 0) {
		/* dead, but for an open one, which would be in memory */
		*ret = rvl_node_find(ov, id->number);
		rvl_node_free(node);
		return *ret ? 0 : -ESTALE;
	}
	if (r < 0) {
		rvl_node_free(node);
		return r;
	}
	return insert(node, ret);
}

/*
 * A lower name of an object that is in upper; its data, if upper has the attributes alone, are the
 * lower object's.
 */
static int node_of_alias(struct rvl_overlay *ov, struct rvl_found *lower, const struct rvl_id *id,
			 struct statx *stx, struct rvl_node **ret)
{
	struct rvl_place *data = lower->is_metacopy ? &lower->data : &lower->places.v[0];
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_place moved;
	int r = 0;

	rvl_entry_path(id->number, path);
	if (S_ISREG(stx->stx_mode))
		r = rvl_metacopy_look(ov, ov->index->inodes_fd, path, stx);
	if (r <= 0)
		return r < 0 ? r : rvl_node_from_entry(ov, id, stx, NULL, true, ret);
	moved = (struct rvl_place){ .layer = data->layer };
	if (data->path)
		moved.path = rvl_refstr_get(data->path);
	r = rvl_node_from_entry(ov, id, stx, &moved, true, ret);
	rvl_refstr_put(moved.path);
	return r;
}

/* What was found in lower has a number that is another object's: it gets one of its own. */
static int part(struct rvl_dir *dir, const char *name, struct rvl_found *lower, bool is_other_life,
		struct rvl_id *id)
{
	int r = rvl_renumber_lower(dir, name, lower, is_other_life, id);

	return r == -EEXIST ? two_objects(name, id->number) : r;
}

/* May the inode of a lower object have been another one's, which has an entry? */
static bool may_be_given_again(struct rvl_overlay *ov, const struct rvl_found *lower)
{
	return rvl_number_may_be_given_again(ov->index, lower->places.v[0].layer, &lower->st);
}

/*
 * A lower object has the number of a node in upper, which may be known by upper or the index alone: is it its
 * lower object, or another life of the inode? 1: another; 0; -errno.
 */
static int is_of_other_life(struct rvl_node *node, const struct rvl_found *lower)
{
	struct rvl_overlay *ov = node->ov;

	if (!rvl_node_has_upper(node))
		return 0;
	if (node->type != (lower->st.stx_mode & S_IFMT) ||
	    (atomic_load(&node->is_dead) && may_be_given_again(ov, lower)))
		return 1;
	if (node->lower.n && !rvl_node_is_dir(node))
		return 0;
	return rvl_entry_is_of_other_life(ov->index, node->id.number, lower, ov->layer_uuids);
}

/* Its number is that of a node: 1: it is this one; 0: it was parted from it, *id is another. */
static int meet(struct rvl_dir *dir, const char *name, struct rvl_found *lower,
		struct rvl_node *node, struct rvl_id *id)
{
	int r = is_of_other_life(node, lower);

	if (r == 0 && is_same(node, 0, &lower->st))
		return 1;
	return r < 0 ? r : part(dir, name, lower, r > 0, id);
}

static bool has_links(const struct rvl_found *lower)
{
	return !S_ISDIR(lower->st.stx_mode) && lower->st.stx_nlink > 1;
}

/* No node has its number, but an entry may. 1: it is a further name of the entry's object, and *ret its node. 0: a
 * node of lower is to be made, with *id, which may be another number now; also where the entry's object may be
 * met later, which then gets another number (renumber.h). -ESTALE: removed under all its names. */
static int meet_entry(struct rvl_dir *dir, const char *name, struct rvl_found *lower,
		      struct rvl_id *id, struct rvl_node **ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	enum rvl_entry_kind kind;
	struct statx stx;
	int r = rvl_entry_look(ov->index, id->number, &kind, &stx);

	if (r == 0 && kind == RVL_ENTRY_NONE && has_links(lower)) {
		r = rvl_identify_kernel_index(ov, lower, id);
		if (r > 0)
			r = rvl_entry_look(ov->index, id->number, &kind, &stx);
	}
	if (r < 0 || kind == RVL_ENTRY_NONE)
		return r;
	if (kind == RVL_ENTRY_TOMBSTONE)
		r = may_be_given_again(ov, lower) ? 1 : -ESTALE;
	else
		r = rvl_entry_is_of_other_life(ov->index, id->number, lower, ov->layer_uuids);
	if (r != 0)
		return r < 0 ? r : part(dir, name, lower, true, id);
	if (kind != RVL_ENTRY_OBJECT || !has_links(lower))
		return 0;
	r = node_of_alias(ov, lower, id, &stx, ret);
	return r < 0 ? r : 1;
}

static int node_of_lower(struct rvl_dir *dir, const char *name, struct rvl_found *lower,
			 struct rvl_node **ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	const struct rvl_place *top = &lower->places.v[0];
	struct rvl_node *node;
	struct rvl_id id;
	int r = rvl_number_of_lower(ov->index, top->layer, top->layer->fd, top->path, &lower->st,
				    &id);

	if (r < 0)
		return r;
	node = rvl_node_find(ov, id.number);
	if (node) {
		r = meet(dir, name, lower, node, &id);
		if (r > 0)
			return take_known(dir, name, lower->st.stx_mode, node, ret);
		rvl_node_put(node);
	} else if (!has_links(lower) && rvl_node_was_upper(ov, id.number)) {
		r = part(dir, name, lower, false, &id);
	}
	if (r < 0)
		return r;
	/* a file with several names may have been copied up under another one */
	if (ov->stack->has_upper && (has_links(lower) || may_be_given_again(ov, lower))) {
		r = meet_entry(dir, name, lower, &id, ret);
		if (r != 0)
			return r < 0 ? r : 0;
	}
	node = rvl_node_new(ov, &id, lower->st.stx_mode);
	if (!node)
		return -ENOMEM;
	node->is_user_whiteout = rvl_is_user_whiteout(ov, top->layer->fd, top->path, &lower->st);
	r = take_lower(dir->node, name, NULL, lower, node);
	if (r < 0) {
		rvl_node_free(node);
		return r;
	}
	return settle(dir->node, name, node, ret);
}

/* ---- objects that are in memory: their nodes say what else would have to be read ---- */

/* An upper object with a stamp, and the node of that number is this inode. *ret NULL: not so. */
static int known_upper(struct rvl_dir *dir, const char *name, const struct rvl_upper_name *upper,
		       struct rvl_node **ret)
{
	struct rvl_node *node;

	if (upper->stamp_error)
		return 0;
	node = rvl_node_find(dir->node->ov, upper->stamp.number);
	if (!node)
		return 0;
	if (!rvl_node_has_upper(node) || node->upper_ino != upper->st.stx_ino ||
	    node->id.number == RVL_NUMBER_ROOT || atomic_load(&node->is_dead)) {
		rvl_node_put(node);
		return 0;
	}
	return take_known(dir, name, upper->st.stx_mode, node, ret);
}

/* A name of the lower part whose number is computed from its listing alone, and the layer that it is
 * found in. *ret NULL: not so. */
static int known_lower(struct rvl_dir *dir, const char *name, unsigned *ret_layer,
		       struct rvl_node **ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	struct rvl_listing *listing = NULL;
	const struct rvl_listing_name *listed = NULL;
	struct rvl_node *node = NULL;
	uint64_t number;
	mode_t type = 0;

	(void)rvl_lower_listing(dir->node, true, &listing);
	if (listing)
		listed = rvl_listing_find(listing, name);
	if (listed && rvl_number_of_dirent(ov->index, &ov->stack->layers[listed->layer],
					   listed->ino, listed->type, &number) == 0) {
		type = DTTOIF(listed->type);
		node = rvl_node_find(ov, number);
		*ret_layer = listed->layer;
	}
	rvl_listing_put(listing);
	if (!node)
		return 0;
	/* of upper's objects the listing does not tell enough: is_same() */
	if (atomic_load(&node->is_dead) || node->type != type || rvl_node_has_upper(node)) {
		rvl_node_put(node);
		return 0;
	}
	return take_known(dir, name, type, node, ret);
}

static int look_up_once(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
			struct rvl_found *lower, unsigned *ret_layer, struct rvl_node **ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	int dirfd = dir->fd.fd.fd;
	int r = rvl_upper_stat(ov, dirfd, name, upper);

	if (r < 0 || upper->is_whiteout)
		return r;
	r = upper->exists ? known_upper(dir, name, upper, ret) :
			    known_lower(dir, name, ret_layer, ret);
	if (r < 0 || *ret)
		return r;
	if (upper->exists)
		r = rvl_upper_details(ov, dirfd, name, upper);
	/* Below an upper non-directory only its own origin matters, and only for a stranger:
	 * identify asks. */
	if (r == 0 && (!upper->exists || (S_ISDIR(upper->st.stx_mode) && !upper->is_opaque))) {
		r = rvl_lower_look(dir->node, name, upper->redirect, lower);
		if (r == 0 && upper->exists && lower->places.n && !S_ISDIR(lower->st.stx_mode))
			rvl_found_release(lower);
	}
	if (r < 0)
		return r;
	if (upper->exists)
		return node_of_upper(dir, name, upper, lower, ret);
	return lower->places.n ? node_of_lower(dir, name, lower, ret) : 0;
}

/* The look-up itself. upper and lower are filled as far as they were needed; lower is emptied into
 * a new node, and of a node that its name alone has led to *ret_layer is where that lies. *ret is
 * NULL when the name is absent. */
static int look_up(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
		   struct rvl_found *lower, unsigned *ret_layer, struct rvl_node **ret)
{
	int r = -EAGAIN;

	rvl_count(lookups);
	for (unsigned i = 0; r == -EAGAIN && i < RETRIES; i++) {
		rvl_upper_name_release(upper);
		rvl_found_release(lower);
		*ret = NULL;
		r = look_up_once(dir, name, upper, lower, ret_layer, ret);
	}
	return r == -EAGAIN ? -ESTALE : r;
}

/* Of a name in the lower part of a directory, which lies in this layer. */
static int stat_lower_name(struct rvl_node *dir, unsigned layer, const char *name,
			   struct statx *ret)
{
	struct rvl_fd fd;
	int r = rvl_lower_pin_in(dir, layer, &fd);

	if (r == 0)
		r = rvl_path_statx(fd.fd, name, RVL_STATX_MASK, ret);
	rvl_fdcache_unpin(dir->ov->fds, &fd);
	return r;
}

/* Attributes for the reply, from what was read anyway, or with one system call where the object
 * lies beside its name. known_layer: look_up's. */
static int stat_found(struct rvl_dir *dir, const char *name, struct rvl_node *node,
		      const struct rvl_upper_name *upper, const struct rvl_found *lower,
		      unsigned known_layer, struct rvl_entry *ret)
{
	const struct statx *stx = upper->exists ? &upper->st : &lower->st;
	struct statx fresh;

	if (node->data.layer || node->is_data_missing || atomic_load(&node->is_metacopy) ||
	    upper->exists != rvl_node_has_upper(node))
		return rvl_node_stat(node, ret);
	if (stx->stx_mask == 0) {
		if (stat_lower_name(dir->node, known_layer, name, &fresh) < 0)
			return rvl_node_stat(node, ret);
		stx = &fresh;
	}
	rvl_node_stat_from(node, stx, upper->exists, ret);
	return 0;
}

int rvl_lookup_listed_locked(struct rvl_dir *dir, pid_t asker, const char *name, bool *ret_is_kept,
			     struct rvl_node **ret, struct rvl_entry *ret_entry)
{
	struct rvl_upper_name _cleanup_upper_name_ upper = {};
	struct rvl_found _cleanup_found_ lower = {};
	struct rvl_node _cleanup_node_ *node = NULL;
	const uint64_t begun = rvl_given_begin(dir->node->ov);
	unsigned layer = 0;
	int r = look_up(dir, name, &upper, &lower, &layer, &node);

	if (r < 0)
		return r;
	if (!node)
		return -ENOENT;
	if (ret_is_kept)
		*ret_is_kept = rvl_given_has(node);
	if (ret_is_kept && *ret_is_kept)
		ret_entry = NULL;
	if (ret_entry && rvl_given_set(node, asker, begun))
		r = rvl_node_stat(node, ret_entry);
	else if (ret_entry)
		r = stat_found(dir, name, node, &upper, &lower, layer, ret_entry);
	if (r == 0)
		*ret = rvl_take_ptr(node);
	return r;
}

int rvl_lookup_entry_locked(struct rvl_dir *dir, pid_t asker, const char *name,
			    struct rvl_node **ret, struct rvl_entry *ret_entry)
{
	return rvl_lookup_listed_locked(dir, asker, name, NULL, ret, ret_entry);
}

int rvl_lookup_name(struct rvl_dir *dir, const char *name, struct rvl_name *ret)
{
	struct rvl_found _cleanup_found_ lower = {};
	unsigned layer;
	int r = look_up(dir, name, &ret->upper, &lower, &layer, &ret->node);

	if (r == 0)
		r = rvl_lower_has(dir->node, name);
	ret->has_lower = r > 0;
	return r < 0 ? r : 0;
}

void rvl_name_release(struct rvl_name *name)
{
	rvl_node_put(rvl_take_ptr(name->node));
	rvl_upper_name_release(&name->upper);
	*name = (struct rvl_name){};
}

int rvl_lookup(struct rvl_node *node, const char *name, struct rvl_node **ret)
{
	struct rvl_dir _cleanup_dir_ dir = {};
	int r = rvl_dir_lock_read(node, &dir);

	return r < 0 ? r : rvl_lookup_entry_locked(&dir, 0, name, ret, NULL);
}

/* ---- the requests ---- */

static int lookup_dots(struct rvl_overlay *ov, uint64_t number, const char *name,
		       struct rvl_node **ret)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	const char *place;
	uint64_t parent;
	int r = rvl_node_get(ov, number, &node);

	if (r < 0)
		return r;
	if (name[1] == '\0') {
		*ret = rvl_take_ptr(node);
		return 0;
	}
	if (!rvl_node_is_dir(node))
		return -ENOTDIR;
	if (number == RVL_NUMBER_ROOT)
		return rvl_node_get(ov, number, ret);
	rvl_node_get_place(node, &parent, &place);
	if (!place)
		return -ESTALE;
	rvl_refstr_put(place);
	return rvl_node_get_dir(ov, parent, ret);
}

int rvl_overlay_lookup(struct rvl_overlay *ov, pid_t asker, uint64_t parent, const char *name,
		       struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *dir = NULL, _cleanup_node_ *node = NULL;
	struct rvl_dir _cleanup_dir_ locked = {};
	int r;

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		r = lookup_dots(ov, parent, name, &node);
		if (r == 0) {
			(void)rvl_given_set(node, asker, 0);
			r = rvl_node_stat(node, ret);
		}
		if (r < 0)
			return r == -ENOENT ? -ESTALE : r;
		return rvl_node_count_living(node) ? 0 : -ESTALE;
	}
	r = rvl_check_name(name);
	if (r == 0)
		r = rvl_node_get_dir(ov, parent, &dir);
	if (r == 0)
		r = rvl_dir_lock_read(dir, &locked);
	if (r == 0)
		r = rvl_lookup_entry_locked(&locked, asker, name, &node, ret);
	if (r == 0)
		rvl_node_count_lookup(node);
	return r;
}

void rvl_overlay_forget(struct rvl_overlay *ov, uint64_t number, uint64_t n_lookups)
{
	struct rvl_node _cleanup_node_ *node = rvl_node_forget(ov, number, n_lookups);

	if (!node)
		return;
	if (atomic_load(&node->is_dead))
		rvl_node_bury(node);
	else
		(void)rvl_bury_if_unnamed(node, false);
}
