// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * resolve, of a live mount: the server says what it knows of the number, its own directories the
 * other names of a file with several.
 */
#include "tools/resolve.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/path.h"
#include "tools/live.h"

#define DEPTH_MAX 4096

struct live {
	int fd; /* the root of the mount */
	const char *mount_point;
	json_t *config; /* owned */
};

/* The text of RVL_STAT_OBJECT, "name=value" each ended by NUL. */
static int ask(const struct live *live, uint64_t number, char **ret, size_t *ret_len)
{
	return rvl_stat_fetch(live->fd, RVL_STAT_OBJECT, number, ret, ret_len);
}

static const char *value_of(const char *text, size_t len, const char *key)
{
	const size_t key_len = strlen(key);

	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		if (!strncmp(p, key, key_len) && p[key_len] == '=')
			return p + key_len + 1;
	return NULL;
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
		longer = rvl_path_join(name, path);
		if (!longer)
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

/* A name was found. What it is in upper: other names of it may be in lower still. */
static void add_name(const struct live *live, struct rvl_resolve_answer *answer, const char *path)
{
	const char *upper = json_string_value(json_object_get(live->config, "upperdir"));
	_cleanup_free_ char *full = NULL;

	rvl_resolve_add_path(answer, path);
	if (!answer->is_upper || !upper)
		return;
	if (asprintf(&full, "%s/%s", upper, path) < 0)
		full = NULL;
	else if (faccessat(AT_FDCWD, full, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		rvl_resolve_add_real(answer, upper, path);
}

struct search {
	const struct live *live;
	uint64_t number;
	unsigned long n_wanted;
	struct rvl_resolve_answer *answer;
};

/* d_ino is st_ino, so a walk by listings finds all names. */
static int search_dir(struct search *search, int dirfd, const char *path, int depth)
{
	const int fd = rvl_fd_reopen(dirfd, O_RDONLY | O_DIRECTORY);
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(fd, &dir);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	while (r == 0 && json_array_size(search->answer->paths) < search->n_wanted &&
	       rvl_dir_next(dir, &entry) > 0) {
		_cleanup_free_ char *full = rvl_path_join(path, entry->d_name);

		if (!full) {
			r = -ENOMEM;
		} else if (entry->d_ino == search->number) {
			add_name(search->live, search->answer, full);
		} else if (entry->d_type == DT_DIR && depth < DEPTH_MAX) {
			/* what is mounted inside is not ours */
			_cleanup_close_ int below =
				rvl_path_open(fd, entry->d_name, O_PATH | O_DIRECTORY, 0);

			if (below >= 0)
				r = search_dir(search, below, full, depth + 1);
		}
	}
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

static int find_names(const struct live *live, struct rvl_resolve_answer *answer, const char *text,
		      size_t len)
{
	const char *name = value_of(text, len, "name"), *parent = value_of(text, len, "parent");
	struct search search = { .live = live, .number = answer->id.number, .answer = answer };
	_cleanup_free_ char *above = NULL, *path = NULL;
	struct stat st;
	int r;

	if (answer->id.number == RVL_NUMBER_ROOT) {
		add_name(live, answer, "");
		return 0;
	}
	r = open_object(live, &answer->id, &st);
	if (r == -ESTALE) { /* the server has not been told yet that nobody has it open any more */
		rvl_resolve_die(answer, "the object was removed");
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
		path = rvl_path_join(above, name);
		if (!path)
			return -ENOMEM;
		if (fstatat(live->fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    st.st_ino == search.number) {
			add_name(live, answer, path);
			return 0;
		}
	}
	return search_dir(&search, live->fd, "", 0);
}

static void add_real_live(const struct live *live, struct rvl_resolve_answer *answer,
			  const char *text, size_t len)
{
	if (answer->is_upper && !S_ISDIR(answer->type)) {
		const char *work = json_string_value(json_object_get(live->config, "workdir"));
		const char *entry = value_of(text, len, "entry");

		if (work && entry)
			rvl_resolve_set_entry(answer, work, entry);
		return;
	}
	for (const char *p = text; p < text + len; p += strlen(p) + 1) {
		const char *place = !strncmp(p, "lower=", 6) ? strchr(p, ':') : NULL;

		if (place)
			rvl_resolve_add_real(answer, place + 1, "");
	}
}

static int fill_live(const struct live *live, uint64_t number, struct rvl_resolve_answer *answer)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	const char *value;
	int r = ask(live, number, &text, &len);

	answer->id.number = number;
	if (r == -ESTALE) {
		rvl_resolve_die(answer, "the object was removed, or there was none of this number");
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
	answer->is_upper = rvl_stat_has(text, len, "layer=upper");
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

int rvl_resolve_live(const char *mount_point, const struct rvl_resolve_query *query,
		     struct rvl_resolve_answer *answer)
{
	_cleanup_close_ int fd = rvl_live_open(mount_point);
	struct live live = { .fd = fd, .mount_point = mount_point };
	uint64_t number = query->number;
	int r = fd < 0 ? fd : rvl_live_get(fd, mount_point, RVL_STAT_CONFIG, false, &live.config);

	if (r == 0) {
		parse_uuid(json_string_value(json_object_get(live.config, "overlay_uuid")),
			   answer->uuid);
		if (query->kind == RVL_RESOLVE_PATH)
			r = number_of_path(&live, query->text, &number);
	}
	if (r == 0)
		r = fill_live(&live, number, answer);
	if (r == 0)
		rvl_resolve_check_handle(query, answer);
	json_decref(live.config);
	return r;
}
