// SPDX-License-Identifier: GPL-2.0-or-later
/* What is known of one object, for `reverlayctl resolve`: found as for any request, so from disk
 * alone if need be. */
#include <stdio.h>
#include <stdlib.h>

#include "base/refstr.h"
#include "index/entry.h"
#include "overlay/debt.h"
#include "overlay/lookup.h"
#include "overlay/overlay.h"
#include "overlay/real.h"

static void put_line(FILE *to)
{
	fputc('\0', to);
}

static void put_places(FILE *to, const struct rvl_places *places)
{
	for (unsigned i = 0; i < places->n; i++) {
		const struct rvl_place *place = &places->v[i];

		fprintf(to, "lower=%u:%s%s%s", place->layer->index, place->layer->path,
			*place->path ? "/" : "", place->path);
		put_line(to);
	}
}

static void describe(struct rvl_node *node, FILE *to)
{
	const bool has_upper = rvl_node_has_upper(node);
	const char *name = NULL;
	uint64_t parent;

	fprintf(to, "number=%llu", (unsigned long long)node->id.number);
	put_line(to);
	fprintf(to, "generation=%u", node->id.generation);
	put_line(to);
	fprintf(to, "type=%o", node->type);
	put_line(to);
	rvl_node_get_place(node, &parent, &name);
	if (name) {
		fprintf(to, "parent=%llu", (unsigned long long)parent);
		put_line(to);
		fprintf(to, "name=%s", name);
		put_line(to);
		rvl_refstr_put(name);
	}
	if (has_upper && !rvl_node_is_dir(node) && rvl_debt_pay(node) == 0) {
		char path[RVL_ENTRY_PATH_SIZE];

		rvl_entry_path(node->id.number, path);
		fprintf(to, "entry=%s", path);
		put_line(to);
	}
	fputs(has_upper ? "layer=upper" : "layer=lower", to);
	put_line(to);
	/* Of a file that was copied up this is where it came from, if it is known yet. */
	put_places(to, &node->lower);
}

int rvl_overlay_describe(struct rvl_overlay *ov, uint64_t number, char **ret, size_t *ret_len)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	int r = rvl_node_get(ov, number, &node);
	FILE *to;

	if (r < 0)
		return r;
	to = open_memstream(ret, ret_len);
	if (!to)
		return -ENOMEM;
	describe(node, to);
	if (fclose(to) != 0) {
		free(*ret);
		return -ENOMEM;
	}
	return 0;
}
