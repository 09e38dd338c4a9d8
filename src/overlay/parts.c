// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The parts of a directory, see parts.h. In the lower one a name is asked for layer by layer, or by
 * its listing, once as many looks were in vain as reading that costs.
 *
 * No node is made here, and nothing is written but where a fetch of data was cut short (metacopy.c).
 */
#include "overlay/parts.h"

#include "index/stamp.h"
#include "layer/lift.h"
#include "layer/path.h"
#include "overlay/metacopy.h"
#include "overlay/real.h"

/*
 * What a listing spares a look-up are the looks into layers that do not have the name. Reading one
 * costs as much as many of them, so it may have so many names for each look that was in vain; the
 * next try is after four times as many. Larger directories are looked up layer by layer.
 */
#define NAMES_PER_IDLE_LOOK 64
#define LOOKUP_LISTING_MAX (1U << 18) /* names */

/* ---- upper ---- */

void rvl_upper_name_release(struct rvl_upper_name *upper)
{
	free(upper->redirect);
	upper->redirect = NULL;
}

int rvl_upper_stat(struct rvl_overlay *ov, int dirfd, const char *name, struct rvl_upper_name *ret)
{
	unsigned turn;
	int r;

	*ret = (struct rvl_upper_name){};
	if (dirfd < 0)
		return 0;
	do {
		turn = rvl_lift_read_begin();
		r = rvl_path_statx(dirfd, name, RVL_STATX_MASK, &ret->st);
	} while (rvl_lift_read_again(turn));
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = rvl_whiteout_check(ov->stack, dirfd, name, &ret->st, false);
	if (r != 0) {
		ret->is_whiteout = r > 0;
		return r < 0 ? r : 0;
	}
	ret->exists = true;
	r = rvl_stamp_get(ov->index, dirfd, name, ret->st.stx_mode, ret->st.stx_ino, &ret->stamp);
	ret->stamp_error = r;
	return r == -ENODATA || r == -EUCLEAN ? 0 : r;
}

int rvl_upper_details(struct rvl_overlay *ov, int dirfd, const char *name,
		      struct rvl_upper_name *ret)
{
	enum rvl_opaque opaque;
	int r;

	if (S_ISREG(ret->st.stx_mode)) {
		r = rvl_metacopy_look(ov, dirfd, name, &ret->st);
		if (r < 0)
			return r;
		ret->is_metacopy = r > 0;
	}
	if (S_ISDIR(ret->st.stx_mode)) {
		r = rvl_opaque_get(ov->stack, dirfd, name, &opaque);
		if (r < 0)
			return r;
		ret->is_opaque = opaque == RVL_OPAQUE_YES;
	}
	if ((S_ISDIR(ret->st.stx_mode) && !ret->is_opaque) || ret->is_metacopy)
		return rvl_redirect_get(ov->stack, dirfd, name, &ret->redirect);
	return 0;
}

int rvl_upper_look(struct rvl_overlay *ov, int dirfd, const char *name, struct rvl_upper_name *ret)
{
	int r = rvl_upper_stat(ov, dirfd, name, ret);

	return r == 0 && ret->exists ? rvl_upper_details(ov, dirfd, name, ret) : r;
}

/* ---- lower ---- */

/* With the slot's lock, for a look-up: is it time to read it? *ret_max_names: if not larger. */
static bool is_listing_due(struct rvl_listing_slot *slot, size_t *ret_max_names)
{
	*ret_max_names = (size_t)slot->n_looks_due * NAMES_PER_IDLE_LOOK;
	return slot->n_idle_looks >= slot->n_looks_due && *ret_max_names <= LOOKUP_LISTING_MAX;
}

int rvl_lower_listing(struct rvl_node *dir, bool is_for_lookup, struct rvl_listing **ret)
{
	struct rvl_listing_slot *slot = &dir->lower_listing;
	struct rvl_overlay *ov = dir->ov;
	size_t max_names = 0;
	int r = 0;

	*ret = NULL;
	if (dir->lower.n == 0)
		return 0;
	pthread_mutex_lock(&slot->lock);
	*ret = rvl_listing_slot_get(slot);
	if (!*ret && (!is_for_lookup || is_listing_due(slot, &max_names))) {
		r = rvl_retry_emfile(ov, rvl_listing_read(ov->stack, &dir->lower,
							  &ov->index->secret, max_names, ret));
		if (r == 0)
			rvl_listing_slot_keep(&ov->listings, slot, *ret);
		else if (r == -E2BIG)
			slot->n_looks_due *= 4;
	}
	pthread_mutex_unlock(&slot->lock);
	return is_for_lookup ? 0 : r; /* without one a look-up asks the layers */
}

/* Of a look-up without a listing: how many layers were looked into that do not have the name. */
static unsigned idle_looks(const struct rvl_node *dir, const struct rvl_found *found)
{
	const struct rvl_layer *top = found->places.n ? found->places.v[0].layer : NULL;
	unsigned n = 0;

	/* a directory is looked for in all of them; other than that, the first one ends it */
	if (top && S_ISDIR(found->st.stx_mode))
		return dir->lower.n > found->places.n ? dir->lower.n - found->places.n : 0;
	while (n < dir->lower.n && dir->lower.v[n].layer != top)
		n++;
	return n;
}

static void count_idle_looks(struct rvl_node *dir, const struct rvl_found *found)
{
	const unsigned n = idle_looks(dir, found);

	if (n == 0)
		return;
	pthread_mutex_lock(&dir->lower_listing.lock);
	dir->lower_listing.n_idle_looks += n;
	pthread_mutex_unlock(&dir->lower_listing.lock);
}

int rvl_lower_look(struct rvl_node *dir, const char *name, const char *redirect,
		   struct rvl_found *ret)
{
	struct rvl_overlay *ov = dir->ov;
	const struct rvl_listing_name *listed = NULL;
	struct rvl_listing *hint = NULL;
	struct rvl_fd fd = RVL_FD_NONE;
	unsigned layer;
	int r = 0;

	*ret = (struct rvl_found){};
	if (dir->lower.n == 0 && !(redirect && redirect[0] == '/'))
		return 0;
	if (!redirect)
		(void)rvl_lower_listing(dir, true, &hint);
	/* what is not listed needs no descriptor to be absent */
	if (hint) {
		listed = rvl_listing_find(hint, name);
		if (!listed)
			goto done;
	}
	/* where it is found, or the search begins */
	layer = listed ? listed->layer : dir->lower.n ? dir->lower.v[0].layer->index : 0;
	if (rvl_lower_pin_in(dir, layer, &fd) < 0)
		fd = RVL_FD_NONE;
	r = rvl_merge_lookup_at(ov->stack, &dir->lower, layer, fd.fd, name, redirect, listed,
				ret);
	rvl_fdcache_unpin(ov->fds, &fd);
	if (r == 0 && !hint && !redirect)
		count_idle_looks(dir, ret);
done:
	rvl_listing_put(hint);
	return r;
}

int rvl_lower_has(struct rvl_node *dir, const char *name)
{
	struct rvl_found _cleanup_found_ lower = {};
	struct rvl_listing *listing;
	int r;

	if (dir->lower.n == 0)
		return 0;
	(void)rvl_lower_listing(dir, true, &listing);
	if (listing) {
		r = rvl_listing_find(listing, name) != NULL;
		rvl_listing_put(listing);
		return r;
	}
	r = rvl_lower_look(dir, name, NULL, &lower);
	return r < 0 ? r : lower.places.n != 0;
}
