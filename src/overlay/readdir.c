// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Listing directories. One snapshot of the merged names serves many requests, and many passes while
 * no name changes. Offsets are hashes of names and mean the same in each snapshot: so no name is lost
 * or given twice where another one is taken in the middle of a pass.
 *
 * After a change a new one is read, but not for the thread that began a pass of a large directory
 * with the old one and goes on: what is changed during a pass it need not see, and "rm -r", which
 * removes what it has read before it goes on, would have all that is left read again for each part.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "layer/path.h"
#include "overlay/given.h"
#include "overlay/lookup.h"

/* From so many names on, who goes on keeps his snapshot though names have changed. With fewer a new one
 * costs little: a pass has a few requests only. */
#define LARGE 2000

enum { OFFSET_SELF = 1, OFFSET_PARENT = RVL_OFFSET_DOTS };

static int read_merged(struct rvl_dir *dir, struct rvl_listing **ret)
{
	struct rvl_overlay *ov = dir->node->ov;
	_cleanup_close_ int fd = -EBADF;
	struct rvl_listing *lower;
	int r = rvl_lower_listing(dir->node, false, &lower);

	if (r < 0)
		return r;
	fd = rvl_retry_emfile(ov, rvl_fd_reopen(dir->fd.fd.fd, O_RDONLY | O_DIRECTORY));
	r = fd < 0 ? fd :
		     rvl_listing_read_upper(ov->stack, fd, lower, false, &ov->index->secret, ret);
	rvl_listing_put(lower);
	return r;
}

/* With the slot's lock. is_start: of a pass. */
static bool is_too_old(const struct rvl_node *node, uint64_t version, pid_t asker, bool is_start)
{
	const struct rvl_listing *listing = node->merged_listing.listing;

	return listing && node->listing_version != version &&
	       (is_start || listing->n < LARGE || asker <= 0 || node->listed_by != asker);
}

/* A counted snapshot. */
static int merged_listing(struct rvl_dir *dir, pid_t asker, bool is_start,
			  struct rvl_listing **ret)
{
	struct rvl_node *node = dir->node;
	struct rvl_listing_slot *slot = &node->merged_listing;
	struct rvl_listings *cache = &node->ov->listings;
	const uint64_t version = atomic_load(&node->version);
	int r = 0;

	pthread_mutex_lock(&slot->lock);
	if (is_too_old(node, version, asker, is_start))
		rvl_listing_slot_drop(cache, slot);
	rvl_listing_slot_busy(slot);
	*ret = rvl_listing_slot_get(slot);
	if (!*ret) {
		r = read_merged(dir, ret);
		if (r == 0) {
			node->listing_version = version;
			rvl_listing_slot_keep(cache, slot, *ret);
		}
		is_start = true;
	}
	if (is_start)
		node->listed_by = asker;
	pthread_mutex_unlock(&slot->lock);
	return r;
}

static int lower_listing(struct rvl_node *node, struct rvl_listing **ret)
{
	int r;

	pthread_mutex_lock(&node->lower_listing.lock);
	rvl_listing_slot_busy(&node->lower_listing);
	pthread_mutex_unlock(&node->lower_listing.lock);
	r = rvl_lower_listing(node, false, ret);
	return r == 0 && !*ret ? -ESTALE : r;
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
static int number_of(struct pass *p, size_t i, struct rvl_dirent *dirent, struct rvl_entry *entry,
		     struct rvl_node **ret)
{
	const struct rvl_listing_name *name = &p->listing->v[i];
	struct rvl_overlay *ov = p->dir.node->ov;
	const bool with_attr = p->with_attr && (i + 1) % RVL_ATTR_GAP != 0;
	int r = -EAGAIN;

	if (!with_attr && name->layer != 0)
		r = rvl_number_of_dirent(ov->index, &ov->stack->layers[name->layer], name->ino,
					 name->type, &dirent->number);
	if (r != -EAGAIN)
		return r;
	r = with_attr ? rvl_lookup_listed_locked(&p->dir, p->asker, dirent->name, &dirent->is_kept, ret,
					  entry) :
			rvl_lookup_entry_locked(&p->dir, p->asker, dirent->name, ret, NULL);
	if (r < 0)
		return r;
	dirent->number = (*ret)->id.number;
	dirent->type = IFTODT((*ret)->type);
	if (with_attr && !dirent->is_kept)
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
	r = number_of(p, i, &dirent, &entry, &node);
	if (r == -ENOENT)
		return true; /* removed since the snapshot */
	if (r < 0) {
		/* it has a name all the same; a look-up will say what is wrong */
		struct rvl_id id = { .number = name->ino & RVL_REAL_INO_MASK };

		dirent.number = id.number > RVL_NUMBER_ROOT ? id.number : RVL_REAL_INO_MASK;
		atomic_store(&p->dir.node->is_number_invented, true);
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
	/* under the directory's lock, and before names are read: who changes one afterwards finds it
	 * set */
	if (r == 0 && !atomic_load(&node->are_names_given))
		atomic_store(&node->are_names_given, true);
	if (r == 0)
		rvl_given_note_read(node);
	if (r == 0)
		r = p.dir.fd.fd.fd < 0 ? lower_listing(node, &p.listing) :
					 merged_listing(&p.dir, asker, offset <= OFFSET_PARENT,
							&p.listing);
	if (r == 0 && emit_dots(&p, &offset)) {
		size_t i = rvl_listing_seek(p.listing, offset + 1);

		while (i < p.listing->n && emit(&p, i))
			i++;
	}
	rvl_dir_unlock(&p.dir);
	rvl_listing_put(p.listing);
	return r;
}

/*
 * The kernel packs what it keeps into pages, an entry with 24 bytes before its name, aligned to 8,
 * and takes a place that it does not find for the end where the last page is full exactly
 * (fs/fuse/readdir.c, fuse_add_dirent_to_cache and fuse_readdir_cached).
 */
static bool fills_last_page(const struct rvl_listing *listing)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t used = 2 * 32; /* "." and ".." */

	for (size_t i = 0; i < listing->n; i++) {
		size_t size = 24 + strlen(rvl_listing_text(listing, &listing->v[i]));

		size = (size + 7) & ~(size_t)7;
		used = used + size > page ? size : used + size;
	}
	return used == page;
}

bool rvl_overlay_end_pass(struct rvl_overlay *ov, uint64_t number)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_listing_slot *slot;
	bool is_merged, ret;

	if (rvl_node_get_dir(ov, number, &node) < 0)
		return false;
	is_merged = rvl_node_has_upper(node);
	slot = is_merged ? &node->merged_listing : &node->lower_listing;
	/* a number that was made up is not to stay in the kernel */
	ret = !atomic_exchange(&node->is_number_invented, false);
	pthread_mutex_lock(&slot->lock);
	/* in a directory without an upper part no name was ever changed */
	if (is_merged)
		ret = ret && slot->listing &&
		      node->listing_version == atomic_load(&node->version) &&
		      !fills_last_page(slot->listing);
	rvl_listing_slot_idle(&ov->listings, slot);
	pthread_mutex_unlock(&slot->lock);
	return ret;
}
