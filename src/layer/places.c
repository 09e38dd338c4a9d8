// SPDX-License-Identifier: GPL-2.0-or-later
/* Lists of places: which real directories together are one. */
#include "layer/merge.h"

#include <errno.h>
#include <stdlib.h>

#include "base/refstr.h"

void rvl_places_release(struct rvl_places *places)
{
	for (unsigned i = 0; i < places->n; i++)
		rvl_refstr_put(places->v[i].path);
	free(places->v);
	*places = (struct rvl_places){ 0 };
}

int rvl_places_add(struct rvl_places *places, const struct rvl_layer *layer, const char *path)
{
	struct rvl_place *v = reallocarray(places->v, places->n + 1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	places->v = v;
	v[places->n++] = (struct rvl_place){ .layer = layer, .path = rvl_refstr_get(path) };
	return 0;
}

int rvl_places_copy(const struct rvl_places *from, struct rvl_places *ret)
{
	struct rvl_places copy = { 0 };

	if (from->n > 0) {
		copy.v = calloc(from->n, sizeof(*copy.v));
		if (!copy.v)
			return -ENOMEM;
	}
	for (; copy.n < from->n; copy.n++)
		copy.v[copy.n] = (struct rvl_place){
			.layer = from->v[copy.n].layer,
			.path = rvl_refstr_get(from->v[copy.n].path),
		};
	*ret = copy;
	return 0;
}

int rvl_places_of_root(const struct rvl_stack *stack, struct rvl_places *ret)
{
	struct rvl_places places = { 0 };
	const char *path = rvl_refstr_new("");
	int r = path ? 0 : -ENOMEM;

	for (unsigned i = 1; r == 0 && i < rvl_stack_data_start(stack); i++)
		r = rvl_places_add(&places, &stack->layers[i], path);
	rvl_refstr_put(path);
	if (r < 0)
		rvl_places_release(&places);
	else
		*ret = places;
	return r;
}

void rvl_found_release(struct rvl_found *found)
{
	rvl_places_release(&found->places);
	rvl_refstr_put(found->data.path);
	*found = (struct rvl_found){ 0 };
}
