// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reverlayctl export: what an NFS server must be told, so that the handles which it makes on a live
 * mount are the same after every restart, on this machine or another. docs/nfs.md tells why each
 * setting is there.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "tools/commands.h"
#include "tools/live.h"
#include "tools/nfs_handle.h"
#include "tools/output.h"

#define UUID_HEX 32

enum format { FORMAT_BOTH, FORMAT_KNFSD, FORMAT_GANESHA };

struct export {
	enum format format;
	const char *clients; /* as exports(5) has them, and Ganesha's CLIENT */
	const char *pseudo; /* NULL: the mount point */
	unsigned id; /* 0: of the uuid */
	bool is_read_only;
	bool is_root_kept; /* root of a client is root */
	char *path; /* owned; of the mount point */
	char uuid[UUID_HEX + 1];
};

static void print_help(void)
{
	fputs("Usage: reverlayctl export [OPTION]... MOUNT_POINT\n"
	      "\n"
	      "Prints a line for exports(5) and an EXPORT block for NFS-Ganesha, by which the handles\n"
	      "of clients outlive every restart. docs/nfs.md has the whole recipes.\n"
	      "\n"
	      "  --knfsd            only the line for exports(5)\n"
	      "  --ganesha          only the block for NFS-Ganesha\n"
	      "  --clients CLIENTS  who may mount (default: localhost)\n"
	      "  --ro               read-only\n"
	      "  --no-root-squash   root of a client is root here\n"
	      "  --export-id ID     Ganesha's Export_Id (default: made of the overlay's uuid)\n"
	      "  --pseudo PATH      the path in NFSv4's tree (default: the mount point)\n"
	      "  --json             for programs\n",
	      stdout);
}

static unsigned id_of_uuid(const char *text)
{
	uint8_t uuid[UUID_HEX / 2] = {};

	for (unsigned i = 0; i < sizeof(uuid); i++)
		sscanf(text + 2 * i, "%2hhx", &uuid[i]);
	return rvl_nfs_export_id(uuid);
}

/* ---- exports(5) ---- */

static void add_escaped(FILE *to, const char *path)
{
	for (const unsigned char *p = (const unsigned char *)path; *p; p++) {
		if (*p <= ' ' || *p == '\\' || *p == '"' || *p == '#' || *p == 0x7f)
			fprintf(to, "\\%03o", *p);
		else
			fputc(*p, to);
	}
}

static char *format_knfsd(const struct export *export)
{
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return NULL;
	add_escaped(to, export->path);
	fprintf(to, " %s(%s,no_subtree_check%s,fsid=%.8s-%.4s-%.4s-%.4s-%.12s)", export->clients,
		export->is_read_only ? "ro" : "rw", export->is_root_kept ? ",no_root_squash" : "",
		export->uuid, export->uuid + 8,
		export->uuid + 12, export->uuid + 16, export->uuid + 20);
	if (fclose(to) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

/* ---- Ganesha ---- */

static void add_quoted(FILE *to, const char *key, const char *value)
{
	fprintf(to, "\t%s = \"%s\";\n", key, value);
}

/* 60 bits: some clients take the number as signed. */
static unsigned long long part_of_uuid(const char *uuid)
{
	char digits[UUID_HEX / 2];

	memcpy(digits, uuid + 1, sizeof(digits) - 1);
	digits[sizeof(digits) - 1] = '\0';
	return strtoull(digits, NULL, 16);
}

static char *format_ganesha(const struct export *export)
{
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return NULL;
	fputs("EXPORT {\n", to);
	fprintf(to, "\tExport_Id = %u;\n", export->id);
	add_quoted(to, "Path", export->path);
	add_quoted(to, "Pseudo", export->pseudo ?: export->path);
	fputs("\tProtocols = 3, 4;\n\tTransports = TCP;\n\tSecType = sys;\n", to);
	/*
	 * Else the attribute fsid is made of the device number, and clients see another filesystem.
	 */
	fprintf(to, "\tFilesystem_Id = %llu.%llu;\n", part_of_uuid(export->uuid),
		part_of_uuid(export->uuid + UUID_HEX / 2));
	fputs("\t# the mount may also be used on the server itself\n\tAttr_Expiration_Time = 0;\n", to);
	fputs("\t# handles with nothing of the device number in them: one such export to a Ganesha\n"
	      "\tFSAL {\n\t\tName = VFS;\n\t\tfsid_type = Major64;\n\t}\n",
	      to);
	fprintf(to, "\tSquash = %s;\n", export->is_root_kept ? "No_Root_Squash" : "Root_Squash");
	fputs("\tAccess_Type = None;\n\tCLIENT {\n", to);
	fprintf(to, "\t\tClients = %s;\n\t\tAccess_Type = %s;\n\t}\n}", export->clients,
		export->is_read_only ? "RO" : "RW");
	if (fclose(to) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

/* ---- the command ---- */

static int read_mount(struct export *export, const char *mount_point)
{
	_cleanup_close_ int fd = rvl_live_open(mount_point);
	json_t *config = NULL;
	const char *uuid;
	int r = fd < 0 ? fd : rvl_live_get(fd, mount_point, RVL_STAT_CONFIG, false, &config);

	if (r < 0)
		return r;
	uuid = json_string_value(json_object_get(config, "overlay_uuid"));
	if (!uuid || strlen(uuid) != UUID_HEX) {
		rvl_error("%s: its server is of another version", mount_point);
		r = -EPROTO;
	} else {
		memcpy(export->uuid, uuid, sizeof(export->uuid));
		if (!json_is_true(json_object_get(config, "persistent")))
			rvl_warn("%s has no workdir: its handles hold for this mount only; give it workdir=",
				 mount_point);
		if (json_is_true(json_object_get(config, "read_only")))
			export->is_read_only = true;
		export->path = realpath(mount_point, NULL);
		if (!export->path)
			r = -errno;
	}
	json_decref(config);
	if (r == 0 && export->format != FORMAT_KNFSD && strpbrk(export->path, "\"\\\n")) {
		rvl_error("%s: a path that Ganesha's configuration cannot hold", export->path);
		r = -EINVAL;
	}
	return r;
}

static int print(const struct export *export, bool is_json)
{
	_cleanup_free_ char *knfsd = format_knfsd(export);
	_cleanup_free_ char *ganesha = format_ganesha(export);

	if (!knfsd || !ganesha)
		return -ENOMEM;
	if (is_json) {
		json_t *root = json_object();

		json_object_set_new(root, "uuid", json_string(export->uuid));
		json_object_set_new(root, "export_id", json_integer(export->id));
		json_object_set_new(root, "knfsd", json_string(knfsd));
		json_object_set_new(root, "ganesha", json_string(ganesha));
		return rvl_output_print(root, true);
	}
	if (export->format == FORMAT_BOTH)
		puts("# for the kernel's NFS server: a file in /etc/exports.d");
	if (export->format != FORMAT_GANESHA)
		puts(knfsd);
	if (export->format == FORMAT_BOTH)
		puts("\n# for NFS-Ganesha: a part of ganesha.conf");
	if (export->format != FORMAT_KNFSD)
		puts(ganesha);
	return fflush(stdout) == 0 ? 0 : -errno;
}

int rvl_command_export(int argc, char **argv)
{
	static const struct option options[] = {
		{ "knfsd", no_argument, NULL, 'k' },
		{ "ganesha", no_argument, NULL, 'g' },
		{ "clients", required_argument, NULL, 'c' },
		{ "ro", no_argument, NULL, 'r' },
		{ "no-root-squash", no_argument, NULL, 's' },
		{ "export-id", required_argument, NULL, 'i' },
		{ "pseudo", required_argument, NULL, 'p' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	struct export export = { .clients = "localhost" };
	bool is_json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'k':
			export.format = FORMAT_KNFSD;
			break;
		case 'g':
			export.format = FORMAT_GANESHA;
			break;
		case 'c':
			export.clients = optarg;
			break;
		case 'r':
			export.is_read_only = true;
			break;
		case 's':
			export.is_root_kept = true;
			break;
		case 'i':
			if (rvl_nfs_export_id_parse(optarg, &export.id) < 0)
				return EXIT_FAILURE;
			break;
		case 'p':
			export.pseudo = optarg;
			break;
		case 'j':
			is_json = true;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_FAILURE;
		}
	}
	if (argc - optind != 1) {
		rvl_error("export: one mount point is expected; see reverlayctl export --help");
		return EXIT_FAILURE;
	}
	r = read_mount(&export, argv[optind]);
	if (export.id == 0)
		export.id = id_of_uuid(export.uuid);
	if (r == 0)
		r = print(&export, is_json);
	free(export.path);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
