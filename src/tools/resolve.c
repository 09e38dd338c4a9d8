// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reverlayctl resolve: from a number, a path or an NFS handle to all that is known of the object:
 * number, handles, all names, layer, real object. A live mount is asked (base/stat_ioctl.h, and its
 * own directories for the names of files with several): resolve_live.c; of layers that are not
 * mounted, layers and index are read: resolve_offline.c.
 */
#include "tools/resolve.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/path.h"
#include "tools/commands.h"
#include "tools/layers.h"
#include "tools/output.h"

#define NUMBER_DIGITS_MAX 20

static void print_help(void)
{
	fputs("Usage: reverlayctl resolve [--json] MOUNT_POINT WHAT\n"
	      "       reverlayctl resolve [--json] -o lowerdir=...,upperdir=...,workdir=... WHAT\n"
	      "\n"
	      "Shows number, NFS handles, all names, layer and real object of WHAT, which is an inode\n"
	      "number, a path, or a handle in hex as an NFS server logs it.\n"
	      "\n"
	      "  -o OPTIONS      of an overlay that is not mounted: its layers, as for the mount\n"
	      "  --export-id ID  Ganesha's Export_Id (default: that of reverlayctl export)\n"
	      "  --json          for programs\n",
	      stdout);
}

/* ---- what is asked ---- */

static int parse_query(const char *text, struct rvl_resolve_query *ret)
{
	const size_t len = strlen(text);
	const bool is_hex = !strncmp(text, "0x", 2);
	char *end;

	*ret = (struct rvl_resolve_query){ .kind = RVL_RESOLVE_PATH, .text = text };
	if (*text >= '0' && *text <= '9' && len <= NUMBER_DIGITS_MAX) {
		errno = 0;
		ret->number = strtoull(text, &end, is_hex ? 16 : 10);
		if (!errno && !*end) {
			ret->kind = RVL_RESOLVE_NUMBER;
			if (rvl_number_is_valid(ret->number))
				return 0;
			rvl_error("%s: not an inode number", text);
			return -EINVAL;
		}
	}
	if (!strchr(text, '/') && rvl_nfs_handle_parse(text, &ret->handle) == 0) {
		ret->kind = RVL_RESOLVE_HANDLE;
		ret->number = ret->handle.id.number;
	}
	return 0;
}

void rvl_resolve_die(struct rvl_resolve_answer *answer, const char *why)
{
	answer->is_dead = true;
	answer->why = why;
}

/* A handle must be of this overlay, and of this generation. */
void rvl_resolve_check_handle(const struct rvl_resolve_query *query,
			      struct rvl_resolve_answer *answer)
{
	const struct rvl_nfs_handle *handle = &query->handle;

	if (query->kind != RVL_RESOLVE_HANDLE || answer->is_dead)
		return;
	if (handle->has_uuid && memcmp(handle->uuid, answer->uuid, sizeof(answer->uuid)) != 0)
		rvl_resolve_die(answer, "a handle of another overlay");
	else if (handle->id.generation != answer->id.generation)
		rvl_resolve_die(
			answer,
			"a handle of another object that had this number, or of another overlay");
}

/* ---- what is answered ---- */

static int print_answer(struct rvl_resolve_answer *answer, unsigned export_id, bool is_json)
{
	char text[RVL_NFS_HANDLE_TEXT_MAX];
	json_t *root = json_object(), *handles = json_object();

	json_object_set_new(root, "number", json_integer(answer->id.number));
	json_object_set_new(root, "alive", json_boolean(!answer->is_dead));
	if (answer->is_dead) {
		json_object_set_new(root, "reason", json_string(answer->why));
		json_decref(handles);
		return rvl_output_print(root, is_json) ?: -ESTALE;
	}
	json_object_set_new(root, "generation", json_integer(answer->id.generation));
	json_object_set_new(root, "type", json_string(rvl_output_type(answer->type)));
	json_object_set(root, "paths", answer->paths);
	json_object_set_new(root, "layer", json_string(answer->is_upper ? "upper" : "lower"));
	json_object_set(root, "real", answer->real);
	if (answer->entry)
		json_object_set_new(root, "entry",
				    rvl_output_string(answer->entry, strlen(answer->entry)));
	rvl_nfs_handle_fuse(&answer->id, text);
	json_object_set_new(handles, "fuse", json_string(text));
	rvl_nfs_handle_knfsd(&answer->id, answer->uuid, text);
	json_object_set_new(handles, "knfsd", json_string(text));
	rvl_nfs_handle_ganesha(&answer->id, export_id, text);
	json_object_set_new(handles, "ganesha", json_string(text));
	json_object_set_new(root, "handles", handles);
	return rvl_output_print(root, is_json);
}

void rvl_resolve_add_path(struct rvl_resolve_answer *answer, const char *path)
{
	_cleanup_free_ char *absolute = NULL;

	if (asprintf(&absolute, "/%s", path) >= 0)
		json_array_append_new(answer->paths, rvl_output_string(absolute, strlen(absolute)));
	else
		absolute = NULL;
}

void rvl_resolve_add_real(struct rvl_resolve_answer *answer, const char *layer, const char *path)
{
	_cleanup_free_ char *full = rvl_path_join(layer, path);

	if (full)
		json_array_append_new(answer->real, rvl_output_string(full, strlen(full)));
}

void rvl_resolve_set_entry(struct rvl_resolve_answer *answer, const char *work, const char *entry)
{
	if (asprintf(&answer->entry, "%s/inodes/%s", work, entry) < 0)
		answer->entry = NULL;
}

/* ---- the command ---- */

int rvl_command_resolve(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "export-id", required_argument, NULL, 'i' },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	const char *options = NULL;
	struct rvl_resolve_answer answer = { .paths = json_array(), .real = json_array() };
	struct rvl_resolve_query query;
	unsigned export_id = 0;
	bool is_json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, "ho:", long_options, NULL)) != -1) {
		switch (c) {
		case 'j':
			is_json = true;
			break;
		case 'o':
			options = rvl_layers_add_options(optarg);
			break;
		case 'i':
			if (rvl_nfs_export_id_parse(optarg, &export_id) < 0)
				return EXIT_FAILURE;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_FAILURE;
		}
	}
	if (argc - optind != (options ? 1 : 2)) {
		rvl_error(
			"resolve: a mount point (or -o) and one object are expected; see reverlayctl resolve --help");
		return EXIT_FAILURE;
	}
	r = parse_query(argv[argc - 1], &query);
	if (r == 0)
		r = options ? rvl_resolve_offline(options, &query, &answer) :
			      rvl_resolve_live(argv[optind], &query, &answer);
	if (r == 0)
		r = print_answer(&answer, export_id ?: rvl_nfs_export_id(answer.uuid), is_json);
	json_decref(answer.paths);
	json_decref(answer.real);
	free(answer.entry);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
