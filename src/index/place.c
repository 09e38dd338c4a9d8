// SPDX-License-Identifier: GPL-2.0-or-later
#include "index/place.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "index/number.h"
#include "layer/merge.h"

/* The number of a directory of the merged lower view; path of len bytes begins with a slash. */
static int number_of_view(struct rvl_index *index, const char *path, size_t len, uint64_t *ret)
{
	struct rvl_id id = { .number = RVL_NUMBER_ROOT };
	struct rvl_found found = { 0 };
	char name[NAME_MAX + 1];
	int r = rvl_places_of_root(index->stack, &found.places);

	for (size_t at = 1, n; r == 0 && at < len; at += n + 1) {
		struct rvl_found parent = found;

		found = (struct rvl_found){ 0 };
		n = strcspn(path + at, "/");
		if (n > NAME_MAX)
			r = -ENOENT;
		snprintf(name, sizeof(name), "%.*s", (int)n, path + at);
		r = r ?: rvl_merge_lookup(index->stack, &parent.places, name, NULL, NULL, &found);
		if (r == 0 && (!found.places.n || !S_ISDIR(found.st.stx_mode)))
			r = -ENOENT;
		rvl_found_release(&parent);
	}
	if (r == 0 && len > 1)
		r = rvl_number_of_lower(index, found.places.v[0].layer,
					found.places.v[0].layer->fd, found.places.v[0].path,
					&found.st, &id);
	rvl_found_release(&found);
	*ret = id.number;
	return r;
}

int rvl_place_of_redirect(struct rvl_index *index, const char *redirect, struct rvl_name_at *place)
{
	const char *name = strrchr(redirect, '/');
	uint64_t parent = place->parent;
	int r = name ? number_of_view(index, redirect, (size_t)(name - redirect), &parent) : 0;

	if (r)
		return r;
	place->parent = parent;
	snprintf(place->name, sizeof(place->name), "%s", name ? name + 1 : redirect);
	return 0;
}
