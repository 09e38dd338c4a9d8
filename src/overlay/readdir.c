// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Listing directories. One snapshot of the merged names serves a whole pass: who starts at the
 * beginning gets a fresh one, who goes on takes what is there, since it is at least as new as his
 * start; offsets are hashes of names and mean the same in each. So changes during a pass cost no
 * new listing, and no name is lost or given twice.
 *
 * An NFS server opens the directory for each part of a pass. So the snapshot is kept when the last
 * open ends, within a limit, and taken again while no name has changed.
 */
#include <dirent.h>
#include <fcntl.h>

#include "layer/path.h"
#include "overlay/lookup.h"

enum { OFFSET_SELF = 1, OFFSET_PARENT = 2 };

static int read_merged(struct rvl_dir *dir, struct rvl_listing **ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	_cleanup_close_ int fd = -EBADF;
	struct rvl_listing *lower;
	int r = rvl_lower_listing(dir->node, false, &lower);

	if (r < 0)
		return r;
	if (dir->fd.fd.fd < 0) {
		*ret = lower;
		return lower ? 0 : -ESTALE;
	}
	fd = rvl_retry_emfile(ov, rvl_fd_reopen(dir->fd.fd.fd, O_RDONLY | O_DIRECTORY));
	r = fd < 0 ? fd :
		     rvl_listing_read_upper(ov->stack, fd, lower, false, &ov->index->secret, ret);
	rvl_listing_put(lower);
	return r;
}

/* A counted snapshot. is_start: it must be as new as now. */
static int get_listing(struct rvl_dir *dir, bool is_start, struct rvl_listing **ret)
{
	struct rvl_node *node = dir->node;
	const uint64_t version = atomic_load(&node->version);
	int r = 0;

	pthread_mutex_lock(&node->merged_listing.lock);
	if (!node->listing && node->listing_version == version)
		node->listing = rvl_listing_slot_get(&node->merged_listing);
	if (!node->listing || (is_start && node->listing_version != version)) {
		struct rvl_listing *fresh;

		rvl_listing_slot_drop(&node->ov->listings, &node->merged_listing);
		r = read_merged(dir, &fresh);
		if (r == 0) {
			rvl_listing_put(node->listing);
			node->listing = fresh;
			node->listing_version = version;
		}
	}
	if (r == 0)
		*ret = rvl_listing_get(node->listing);
	pthread_mutex_unlock(&node->merged_listing.lock);
	return r;
}

struct pass {
	struct rvl_dir dir;
	struct rvl_listing *listing;
	pid_t asker;
	bool with_attr;
	rvl_dirent_fn *fn;
	void *arg;
};

/* Returns false when the reply is full. */
static bool emit_dots(struct pass *p, uint64_t *offset)
{
	struct rvl_node *node = p->dir.node;
	struct rvl_dirent dirent = {
		.name = ".", .number = node->id.number, .type = DT_DIR, .next_offset = OFFSET_SELF
	};
	uint64_t parent = RVL_NUMBER_ROOT;
	const char *name;

	if (*offset < OFFSET_SELF) {
		if (!p->fn(p->arg, &dirent))
			return false;
		*offset = OFFSET_SELF;
	}
	if (*offset < OFFSET_PARENT) {
		if (node->id.number != RVL_NUMBER_ROOT) {
			rvl_node_get_place(node, &parent, &name);
			rvl_refstr_put(name);
		}
		dirent = (struct rvl_dirent){
			.name = "..", .number = parent, .type = DT_DIR, .next_offset = OFFSET_PARENT
		};
		if (!p->fn(p->arg, &dirent))
			return false;
		*offset = OFFSET_PARENT;
	}
	return true;
}

/* The number of a name, by the cheapest way that is certain. 0 and no node, 0 and a node, or an
 * error. */
static int number_of(struct pass *p, const struct rvl_listing_name *name, struct rvl_dirent *dirent,
		     struct rvl_entry *entry, struct rvl_node **ret)
{
	struct rvl_overlay *ov = p->dir.node->ov;
	int r = -EAGAIN;

	if (!p->with_attr && name->layer != 0)
		r = rvl_number_of_dirent(ov->index, &ov->stack->layers[name->layer], name->ino,
					 name->type, &dirent->number);
	if (r != -EAGAIN)
		return r;
	r = rvl_lookup_entry_locked(&p->dir, p->asker, dirent->name, ret,
				    p->with_attr ? entry : NULL);
	if (r < 0)
		return r;
	dirent->number = (*ret)->id.number;
	dirent->type = IFTODT((*ret)->type);
	if (p->with_attr)
		dirent->entry = entry;
	return 0;
}

/* Returns false when the reply is full. */
static bool emit(struct pass *p, size_t i)
{
	const struct rvl_listing_name *name = &p->listing->v[i];
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_dirent dirent = {
		.name = rvl_listing_text(p->listing, name),
		.type = name->type,
		.next_offset = name->offset,
	};
	struct rvl_entry entry;
	int r;

	/* names with one hash are gone through again from the first of them, so that none is lost
	 */
	if (i + 1 < p->listing->n && p->listing->v[i + 1].offset == name->offset)
		dirent.next_offset = name->offset - 1;
	r = number_of(p, name, &dirent, &entry, &node);
	if (r == -ENOENT)
		return true; /* removed since the snapshot */
	if (r < 0) {
		/* it has a name all the same; a look-up will say what is wrong */
		struct rvl_id id = { .number = name->ino & RVL_REAL_INO_MASK };

		dirent.number = id.number > RVL_NUMBER_ROOT ? id.number : RVL_REAL_INO_MASK;
	}
	if (!p->fn(p->arg, &dirent))
		return false;
	if (dirent.entry)
		rvl_node_count_lookup(node);
	return true;
}

int rvl_overlay_readdir(struct rvl_overlay *ov, pid_t asker, uint64_t number, uint64_t offset,
			bool with_attr, rvl_dirent_fn *fn, void *arg)
{
	struct pass p = { .asker = asker, .with_attr = with_attr, .fn = fn, .arg = arg };
	struct rvl_node _cleanup_node_ *node = NULL;
	int r = rvl_node_get_dir(ov, number, &node);

	if (r < 0)
		return r;
	r = rvl_dir_lock_read(node, &p.dir);
	if (r == -ENOENT)
		return 0; /* removed: empty */
	if (r == 0)
		r = get_listing(&p.dir, offset <= OFFSET_PARENT, &p.listing);
	if (r == 0 && emit_dots(&p, &offset)) {
		size_t i = rvl_listing_seek(p.listing, offset + 1);

		while (i < p.listing->n && emit(&p, i))
			i++;
	}
	rvl_dir_unlock(&p.dir);
	rvl_listing_put(p.listing);
	return r;
}

int rvl_overlay_open_dir(struct rvl_overlay *ov, uint64_t number, bool *ret_is_unchanged)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	int r = rvl_node_get_dir(ov, number, &node);

	if (r < 0)
		return r;
	rvl_node_count_open(node);
	*ret_is_unchanged = !rvl_node_has_upper(node);
	return 0;
}

bool rvl_overlay_is_unchanged(struct rvl_overlay *ov, uint64_t number)
{
	struct rvl_node _cleanup_node_ *node = NULL;

	return rvl_node_get_dir(ov, number, &node) == 0 && !rvl_node_has_upper(node);
}

/* With the slot's lock. One of lower alone is kept as that (rvl_lower_listing()). */
static void keep_listing(struct rvl_node *node, struct rvl_listing *listing)
{
	if (rvl_node_has_upper(node) && !node->merged_listing.listing &&
	    node->listing_version == atomic_load(&node->version))
		rvl_listing_slot_keep(&node->ov->listings, &node->merged_listing, listing);
}

void rvl_overlay_release_dir(struct rvl_overlay *ov, uint64_t number)
{
	struct rvl_node _cleanup_node_ *node = rvl_node_find(ov, number);
	struct rvl_listing *listing = NULL;

	if (!node || !rvl_node_release(node))
		return;
	pthread_mutex_lock(&node->merged_listing.lock);
	listing = rvl_take_ptr(node->listing);
	if (listing)
		keep_listing(node, listing);
	pthread_mutex_unlock(&node->merged_listing.lock);
	rvl_listing_put(listing);
}
