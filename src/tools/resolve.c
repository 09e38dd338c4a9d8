// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reverlayctl resolve: from a number, a path or an NFS handle to all that is known of the object: number, handles, all
 * names, layer, real object. A live mount is asked (base/stat_ioctl.h, and its own directories for the names of files
 * with several); of layers that are not mounted, layers and index are read (view.h).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/entry.h"
#include "layer/path.h"
#include "tools/commands.h"
#include "tools/layers.h"
#include "tools/live.h"
#include "tools/nfs_handle.h"
#include "tools/output.h"
#include "tools/view.h"

#define NUMBER_DIGITS_MAX 20
#define DEPTH_MAX 4096

enum kind { KIND_PATH, KIND_NUMBER, KIND_HANDLE };

struct query {
	enum kind kind;
	const char *text;
	uint64_t number;
	struct rvl_nfs_handle handle;
};

/* The answer as it grows. */
struct answer {
	struct rvl_id id;
	mode_t type;
	bool is_upper, is_dead;
	uint8_t uuid[16];
	json_t *paths, *real; /* owned */
	char *entry; /* owned or NULL: the index's own link of an upper object */
	const char *why; /* is_dead */
};

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

static int parse_query(const char *text, struct query *ret)
{
	const size_t len = strlen(text);
	const bool is_hex = !strncmp(text, "0x", 2);
	char *end;

	*ret = (struct query){ .kind = KIND_PATH, .text = text };
	if (*text >= '0' && *text <= '9' && len <= NUMBER_DIGITS_MAX) {
		errno = 0;
		ret->number = strtoull(text, &end, is_hex ? 16 : 10);
		if (!errno && !*end) {
			ret->kind = KIND_NUMBER;
			if (rvl_number_is_valid(ret->number))
				return 0;
			rvl_error("%s: not an inode number", text);
			return -EINVAL;
		}
	}
	if (!strchr(text, '/') && rvl_nfs_handle_parse(text, &ret->handle) == 0) {
		ret->kind = KIND_HANDLE;
		ret->number = ret->handle.id.number;
	}
	return 0;
}

static void die(struct answer *answer, const char *why)
{
	answer->is_dead = true;
	answer->why = why;
}

/* A handle must be of this overlay, and of this generation. */
static void check_handle(const struct query *query, struct answer *answer)
{
	const struct rvl_nfs_handle *handle = &query->handle;

	if (query->kind != KIND_HANDLE || answer->is_dead)
		return;
	if (handle->has_uuid && memcmp(handle->uuid, answer->uuid, sizeof(answer->uuid)) != 0)
		die(answer, "a handle of another overlay");
	else if (handle->id.generation != answer->id.generation)
		die(answer, "a handle of another object that had this number, or of another overlay");
}

/* ---- what is answered ---- */

static const char *type_name(mode_t type)
{
	switch (type & S_IFMT) {
	case S_IFREG:
		return "regular file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	case S_IFCHR:
		return "character device";
	case S_IFBLK:
		return "block device";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	default:
		return "unknown";
	}
}

static int print_answer(struct answer *answer, unsigned export_id, bool is_json)
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
	json_object_set_new(root, "type", json_string(type_name(answer->type)));
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

static void add_path(struct answer *answer, const char *path)
{
	_cleanup_free_ char *absolute = NULL;

	if (asprintf(&absolute, "/%s", path) >= 0)
		json_array_append_new(answer->paths, rvl_output_string(absolute, strlen(absolute)));
	else
		absolute = NULL;
}

static void add_real(struct answer *answer, const char *layer, const char *path)
{
	_cleanup_free_ char *full = NULL;

	if (asprintf(&full, "%s%s%s", layer, *path ? "/" : "", path) >= 0)
		json_array_append_new(answer->real, rvl_output_string(full, strlen(full)));
	else
		full = NULL;
}

static void set_entry(struct answer *answer, const char *work, const char *entry)
{
	if (asprintf(&answer->entry, "%s/inodes/%s", work, entry) < 0)
		answer->entry = NULL;
}

/* ---- not mounted ---- */

struct found {
	const struct rvl_layers *layers;
	struct answer *answer;
	bool is_any;
};

static int found_name(void *arg, const char *path, const struct rvl_view_object *object)
{
	struct found *found = arg;
	struct answer *answer = found->answer;
	const struct rvl_stack *stack = &found->layers->stack;

	add_path(answer, path);
	if (object->is_upper)
		add_real(answer, stack->layers[0].path, path);
	if (!found->is_any) {
		answer->id = object->id;
		answer->type = object->mode;
	}
	answer->is_upper |= object->is_upper;
	/* A lower name of a file that is in upper is served from its entry. */
	for (unsigned i = 0; i < object->lower.n && !answer->entry; i++)
		add_real(answer, object->lower.v[i].layer->path, object->lower.v[i].path);
	found->is_any = true;
	return S_ISDIR(object->mode); /* one name is all */
}

static int resolve_number_offline(const struct rvl_layers *layers, uint64_t number,
				  struct answer *answer)
{
	struct found found = { .layers = layers, .answer = answer };
	enum rvl_entry_kind kind = RVL_ENTRY_NONE;
	struct statx stx;
	int r = 0;

	answer->id.number = number;
	if (layers->index->inodes_fd >= 0 && layers->stack.has_upper)
		r = rvl_entry_look(layers->index, number, &kind, &stx);
	if (r < 0) {
		rvl_error("the index entry of %llu: %s; see reverlayctl check",
			  (unsigned long long)number, strerror(-r));
		return r;
	}
	if (kind == RVL_ENTRY_TOMBSTONE) {
		die(answer, "the object was removed");
		return 0;
	}
	if (kind == RVL_ENTRY_OBJECT) {
		char path[RVL_ENTRY_PATH_SIZE];

		rvl_entry_path(number, path);
		set_entry(answer, layers->stack.work_path, path);
		answer->is_upper = true;
	}
	r = rvl_view_find(layers, number, found_name, &found);
	if (r >= 0 && !found.is_any)
		die(answer, "no name leads to it");
	return r < 0 ? r : 0;
}

static int resolve_offline(const char *options, const struct query *query, struct answer *answer)
{
	uint64_t number = query->number;
	struct rvl_layers layers;
	int r = rvl_layers_open(options, &layers);

	if (r < 0)
		return r;
	memcpy(answer->uuid, layers.index->uuid, sizeof(answer->uuid));
	if (!layers.index->is_persistent)
		rvl_warn("without workdir= there is no index: numbers and handles are those of no mount");
	if (query->kind == KIND_PATH) {
		struct rvl_view_object object = { .upper_fd = -EBADF };

		r = rvl_view_path(&layers, query->text, &object);
		number = object.id.number;
		rvl_view_object_release(&object);
		if (r < 0) {
			rvl_error("%s: %s", query->text, strerror(-r));
		} else if (number == 0) {
			rvl_error("%s: has no number yet: it came into upper while the overlay was not mounted",
				  query->text);
			r = -ENODATA;
		}
	}
	if (r == 0)
		r = resolve_number_offline(&layers, number, answer);
	if (r == 0)
		check_handle(query, answer);
	rvl_layers_close(&layers);
	return r;
}

/* ---- mounted ---- */

struct live {
	int fd; /* the root of the mount */
	const char *mount_point;
	json_t *config; /* owned */
};

/* The text of RVL_STAT_OBJECT, "name=value" each ended by NUL. */
static int ask(const struct live *live, uint64_t number, char **ret, size_t *ret_len)
{
	_cleanup_free_ struct rvl_stat_page *page = calloc(1, sizeof(*page));
	_cleanup_free_ char *text = NULL;
	size_t len = 0, total;

	if (!page)
		return -ENOMEM;
	do {
		char *more;

		page->text = RVL_STAT_OBJECT;
		page->offset = len;
		page->total = number;
		if (ioctl(live->fd, RVL_IOC_STAT, page) < 0)
			return -errno;
		total = page->total;
		if (page->len == 0 || page->len > sizeof(page->data))
			return -EPROTO;
		more = realloc(text, len + page->len + 1);
		if (!more)
			return -ENOMEM;
		text = more;
		memcpy(text + len, page->data, page->len);
		len += page->len;
		text[len] = '\0';
	} while (len < total);
	*ret = rvl_take_ptr(text);
	*ret_len = len;
	return 0;
}

static const char *value_of(const char *text, size_t len, const char *key)
{
	const size_t key_len = strlen(key);

	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		if (!strncmp(p, key, key_len) && p[key_len] == '=')
			return p + key_len + 1;
	return NULL;
}

static bool has_line(const char *text, size_t len, const char *line)
{
	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		if (!strcmp(p, line))
			return true;
	return false;
}

/* The path of a directory, by the places of its ancestors. */
static int path_of_dir(const struct live *live, uint64_t number, char **ret)
{
	_cleanup_free_ char *path = strdup("");

	for (int depth = 0; path && number != RVL_NUMBER_ROOT; depth++) {
		_cleanup_free_ char *text = NULL;
		const char *parent, *name;
		char *longer;
		size_t len;
		int r = depth < DEPTH_MAX ? ask(live, number, &text, &len) : -ELOOP;

		if (r < 0)
			return r;
		parent = value_of(text, len, "parent");
		name = value_of(text, len, "name");
		if (!parent || !name)
			return -ENOENT;
		if (asprintf(&longer, "%s%s%s", name, *path ? "/" : "", path) < 0)
			return -ENOMEM;
		free(path);
		path = longer;
		number = strtoull(parent, NULL, 10);
	}
	if (!path)
		return -ENOMEM;
	*ret = rvl_take_ptr(path);
	return 0;
}

struct search {
	uint64_t number;
	unsigned long n_wanted;
	struct answer *answer;
};

/* d_ino is st_ino, so a walk by listings finds all names. */
static int search_dir(struct search *search, int dirfd, const char *path, int depth)
{
	const int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	int r = 0;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r == -ENOENT ? 0 : r;
	}
	while (r == 0 && json_array_size(search->answer->paths) < search->n_wanted &&
	       (entry = readdir(dir))) {
		_cleanup_free_ char *full = NULL;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (asprintf(&full, "%s%s%s", path, *path ? "/" : "", entry->d_name) < 0) {
			full = NULL;
			r = -ENOMEM;
		} else if (entry->d_ino == search->number) {
			add_path(search->answer, full);
		} else if (entry->d_type == DT_DIR && depth < DEPTH_MAX) {
			/* what is mounted inside is not ours */
			_cleanup_close_ int below = rvl_path_open(fd, entry->d_name,
								  O_PATH | O_DIRECTORY, 0);

			if (below >= 0)
				r = search_dir(search, below, full, depth + 1);
		}
	}
	closedir(dir);
	return r;
}

/* The kernel's own word on the object: the handle opens, and how many names it has. */
static int open_object(const struct live *live, const struct rvl_id *id, struct stat *ret)
{
	const uint32_t word[3] = { id->number >> 32, id->number, id->generation };
	union {
		struct file_handle handle;
		char space[sizeof(struct file_handle) + sizeof(word)];
	} u = { .handle = { .handle_bytes = sizeof(word), .handle_type = 0x81 } };

	memcpy(u.handle.f_handle, word, sizeof(word));
	_cleanup_close_ int fd =
		open_by_handle_at(live->fd, &u.handle, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fstat(fd, ret) < 0)
		return -errno;
	return 0;
}

static int find_names(const struct live *live, struct answer *answer, const char *text, size_t len)
{
	const char *name = value_of(text, len, "name"), *parent = value_of(text, len, "parent");
	struct search search = { .number = answer->id.number, .answer = answer };
	_cleanup_free_ char *above = NULL, *path = NULL;
	struct stat st;
	int r;

	if (answer->id.number == RVL_NUMBER_ROOT) {
		add_path(answer, "");
		return 0;
	}
	r = open_object(live, &answer->id, &st);
	if (r == -ESTALE) { /* the server has not been told yet that nobody has it open any more */
		die(answer, "the object was removed");
		return 0;
	}
	if (r < 0) {
		rvl_error("the mount does not open the handle of %llu: %s",
			  (unsigned long long)answer->id.number, strerror(-r));
		return r;
	}
	search.n_wanted = S_ISDIR(st.st_mode) ? 1 : st.st_nlink;
	if (search.n_wanted == 0)
		return 0; /* open, without a name */
	if (search.n_wanted == 1 && name && parent &&
	    path_of_dir(live, strtoull(parent, NULL, 10), &above) == 0) {
		if (asprintf(&path, "%s%s%s", above, *above ? "/" : "", name) < 0) {
			path = NULL;
			return -ENOMEM;
		}
		if (fstatat(live->fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    st.st_ino == search.number) {
			add_path(answer, path);
			return 0;
		}
	}
	return search_dir(&search, live->fd, "", 0);
}

static void add_real_live(const struct live *live, struct answer *answer, const char *text,
			  size_t len)
{
	const char *upper = json_string_value(json_object_get(live->config, "upperdir"));
	const char *path;
	json_t *value;
	size_t i;

	if (answer->is_upper && upper) {
		json_array_foreach(answer->paths, i, value)
		{
			_cleanup_free_ char *full = NULL;

			path = json_string_value(value);
			if (asprintf(&full, "%s%s", upper, strcmp(path, "/") ? path : "") < 0)
				full = NULL;
			/* other names of it may be in lower still */
			else if (faccessat(AT_FDCWD, full, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
				json_array_append_new(answer->real, json_string(full));
		}
	}
	if (answer->is_upper && !S_ISDIR(answer->type)) {
		const char *work = json_string_value(json_object_get(live->config, "workdir"));
		const char *entry = value_of(text, len, "entry");

		if (work && entry)
			set_entry(answer, work, entry);
		return;
	}
	for (const char *p = text; p < text + len; p += strlen(p) + 1) {
		const char *place = !strncmp(p, "lower=", 6) ? strchr(p, ':') : NULL;

		if (place)
			add_real(answer, place + 1, "");
	}
}

static int fill_live(const struct live *live, uint64_t number, struct answer *answer)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	const char *value;
	int r = ask(live, number, &text, &len);

	answer->id.number = number;
	if (r == -ESTALE) {
		die(answer, "the object was removed, or there was none of this number");
		return 0;
	}
	if (r == -EPERM)
		rvl_error("%s: only root and the owner of the mount may ask", live->mount_point);
	else if (r < 0)
		rvl_error("%s: %s", live->mount_point, strerror(-r));
	if (r < 0)
		return r;
	value = value_of(text, len, "generation");
	answer->id.generation = value ? strtoul(value, NULL, 10) : 0;
	value = value_of(text, len, "type");
	answer->type = value ? strtoul(value, NULL, 8) : 0;
	answer->is_upper = has_line(text, len, "layer=upper");
	r = find_names(live, answer, text, len);
	if (r == 0)
		add_real_live(live, answer, text, len);
	return r;
}

static int number_of_path(const struct live *live, const char *path, uint64_t *ret)
{
	_cleanup_free_ char *root = realpath(live->mount_point, NULL);
	const size_t len = root ? strlen(root) : 0;
	struct stat st;

	if (root && !strncmp(path, root, len) && (path[len] == '/' || !path[len]))
		path += len;
	while (*path == '/')
		path++;
	if (fstatat(live->fd, path, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0) {
		rvl_error("%s: %m", path);
		return -errno;
	}
	*ret = st.st_ino;
	return 0;
}

static void parse_uuid(const char *text, uint8_t ret[16])
{
	for (unsigned i = 0; text && strlen(text) == 32 && i < 16; i++)
		sscanf(text + 2 * i, "%2hhx", &ret[i]);
}

static int resolve_live(const char *mount_point, const struct query *query, struct answer *answer)
{
	_cleanup_close_ int fd = rvl_live_open(mount_point);
	struct live live = { .fd = fd, .mount_point = mount_point };
	uint64_t number = query->number;
	int r = fd < 0 ? fd :
			 rvl_live_get(fd, mount_point, RVL_STAT_CONFIG, false, &live.config);

	if (r == 0) {
		parse_uuid(json_string_value(json_object_get(live.config, "overlay_uuid")),
			   answer->uuid);
		if (query->kind == KIND_PATH)
			r = number_of_path(&live, query->text, &number);
	}
	if (r == 0)
		r = fill_live(&live, number, answer);
	if (r == 0)
		check_handle(query, answer);
	json_decref(live.config);
	return r;
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
	struct answer answer = { .paths = json_array(), .real = json_array() };
	struct query query;
	unsigned export_id = 0;
	bool is_json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, "ho:", long_options, NULL)) != -1) {
		switch (c) {
		case 'j':
			is_json = true;
			break;
		case 'o':
			options = optarg;
			break;
		case 'i':
			export_id = strtoul(optarg, NULL, 10);
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_FAILURE;
		}
	}
	if (argc - optind != (options ? 1 : 2)) {
		rvl_error("resolve: a mount point (or -o) and one object are expected; see reverlayctl resolve --help");
		return EXIT_FAILURE;
	}
	r = parse_query(argv[argc - 1], &query);
	if (r == 0)
		r = options ? resolve_offline(options, &query, &answer) :
			      resolve_live(argv[optind], &query, &answer);
	if (r == 0)
		r = print_answer(&answer, export_id ?: rvl_nfs_export_id(answer.uuid), is_json);
	json_decref(answer.paths);
	json_decref(answer.real);
	free(answer.entry);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
