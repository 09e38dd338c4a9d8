// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reverlayctl dump: shows what is on disk, decoded and unchanged: an index entry by number, or the
 * private attributes of an object in a layer by path. Reads only, also under a live mount.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/entry.h"
#include "index/number.h"
#include "layer/path.h"
#include "tools/commands.h"
#include "tools/decode.h"
#include "tools/layers.h"
#include "tools/output.h"

static void print_help(void)
{
	fputs("Usage: reverlayctl dump [--json] PATH\n"
	      "       reverlayctl dump [--json] -o OPTIONS NUMBER\n"
	      "       reverlayctl dump [--json] --workdir=DIR NUMBER\n"
	      "\n"
	      "Shows the private attributes of an object in a layer (a path below lowerdir or upperdir,\n"
	      "not below the mount point), or the index entry of an inode number.\n"
	      "\n"
	      "  -o, --options OPTIONS  of the mount: they name the workdir, where the index is\n"
	      "  -w, --workdir DIR      the overlay's workdir, where the index is\n"
	      "      --json             for programs\n",
	      stdout);
}

static bool has_member(json_t *attributes, const char *suffix)
{
	const char *key;
	json_t *value;

	json_object_foreach(attributes, key, value)
	{
		const char *found = strstr(key, ".overlay.");

		if (found && !strcmp(found + strlen(".overlay."), suffix))
			return true;
	}
	return false;
}

static const char *entry_kind(const struct statx *stx, json_t *attributes)
{
	if (S_ISCHR(stx->stx_mode) && stx->stx_rdev_major == 0 && stx->stx_rdev_minor == 0)
		return "tombstone: the object is dead";
	if (has_member(attributes, "whiteout"))
		return "tombstone: the object is dead";
	if (S_ISREG(stx->stx_mode) && has_member(attributes, "path"))
		return "record of an upper directory";
	return "hard link of the upper object";
}

static json_t *describe(const struct statx *stx)
{
	json_t *object = json_object();

	json_object_set_new(object, "type", json_string(rvl_output_type(stx->stx_mode)));
	json_object_set_new(object, "mode", rvl_output_format("%04o", stx->stx_mode & 07777));
	json_object_set_new(object, "real_ino", json_integer(stx->stx_ino));
	json_object_set_new(object, "links", json_integer(stx->stx_nlink));
	return object;
}

/* *ret: type, mode, …, and the attributes. is_entry: with the kind of the entry. */
static int dump_object(int dirfd, const char *name, bool is_entry, json_t **ret)
{
	json_t *attributes, *object;
	struct statx stx;
	int r = rvl_path_statx(dirfd, name, STATX_BASIC_STATS, &stx);

	if (r < 0)
		return r;
	r = rvl_decode_xattrs(dirfd, name, &attributes);
	if (r < 0)
		return r;
	object = describe(&stx);
	if (is_entry)
		json_object_set_new(object, "entry", json_string(entry_kind(&stx, attributes)));
	json_object_set_new(object, "attributes", attributes);
	*ret = object;
	return 0;
}

static int dump_entry(const char *workdir, const char *text, json_t **ret)
{
	char path[RVL_ENTRY_PATH_SIZE];
	char *end;
	uint64_t number;
	int r;

	errno = 0;
	number = strtoull(text, &end, 0);
	if (errno || *text < '0' || *text > '9' || *end || !rvl_number_is_valid(number)) {
		rvl_error("%s: not an inode number", text);
		return -EINVAL;
	}

	_cleanup_close_ int work = open(workdir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int inodes =
		work < 0 ? -errno : rvl_path_open(work, "inodes", O_PATH | O_DIRECTORY, 0);

	if (inodes < 0) {
		rvl_error("%s: not the workdir of a reverlay overlay: inodes: %s", workdir,
			  strerror(-inodes));
		return inodes;
	}
	rvl_entry_path(number, path);
	r = dump_object(inodes, path, true, ret);
	if (r == -ENOENT)
		rvl_error("%s: no entry: an untouched object of a lower layer, or one that is gone",
			  text);
	else if (r < 0)
		rvl_error("%s/inodes/%s: %s", workdir, path, strerror(-r));
	return r;
}

/* The same, by the options of the mount, which may be live. */
static int dump_entry_of_layers(const char *options, const char *text, json_t **ret)
{
	struct rvl_layers layers;
	int r = rvl_layers_open_unlocked(options, &layers);

	if (r < 0)
		return r;
	if (layers.stack.work_path) {
		r = dump_entry(layers.stack.work_path, text, ret);
	} else {
		rvl_error("-o: without workdir= there is no index");
		r = -EINVAL;
	}
	rvl_layers_close(&layers);
	return r;
}

static int dump_path(const char *path, json_t **ret)
{
	/* Not followed, and not opened for reading: any object will do. */
	_cleanup_close_ int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : dump_object(fd, "", false, ret);

	if (r < 0)
		rvl_error("%s: %s", path, strerror(-r));
	return r;
}

int rvl_command_dump(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ "options", required_argument, NULL, 'o' },
		{ "workdir", required_argument, NULL, 'w' },
		{},
	};
	const char *workdir = NULL, *layers = NULL;
	bool is_json = false;
	json_t *root = NULL;
	int c, r;

	while ((c = getopt_long(argc, argv, "ho:w:", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			is_json = true;
			break;
		case 'o':
			layers = rvl_layers_add_options(optarg);
			break;
		case 'w':
			workdir = optarg;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_FAILURE;
		}
	}
	if (argc - optind != 1) {
		rvl_error("dump: one path or number is expected; see reverlayctl dump --help");
		return EXIT_FAILURE;
	}
	if (layers)
		r = dump_entry_of_layers(layers, argv[optind], &root);
	else if (workdir)
		r = dump_entry(workdir, argv[optind], &root);
	else
		r = dump_path(argv[optind], &root);
	if (r == 0)
		r = rvl_output_print(root, is_json);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
