// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * overlay.redirect, .opaque, .whiteout and .metacopy of objects in lower layers, and what look-up
 * and listing make of them: whatever the values are, no place is found outside its layer, and the
 * two agree on which names there are.
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "layer/layer.h"
#include "layer/listing.h"
#include "layer/merge.h"
#include "layer/path.h"

#include "fuzz.h"

#define LAYERS 3 /* lower ones */

static struct rvl_layer layers[1 + LAYERS];
static struct rvl_stack stack;
static const struct rvl_secret secret = { { 7 } };

/* Names that values can lead to. */
static const char *const dirs[] = { "d", "d/e", "a", "a/b" };
static const char *const files[] = { "f", "d/f", "d/w", "a/f" };
#define N_DIRS (sizeof(dirs) / sizeof(dirs[0]))
#define N_FILES (sizeof(files) / sizeof(files[0]))

static void make_layer(int fs, unsigned i)
{
	const char name[] = { (char)('0' + i), 0 };
	int fd;

	FUZZ_CHECK(mkdirat(fs, name, 0700) == 0);
	fd = openat(fs, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	FUZZ_CHECK(fd >= 0);
	for (unsigned k = 0; k < N_DIRS; k++)
		FUZZ_CHECK(mkdirat(fd, dirs[k], 0700) == 0);
	for (unsigned k = 0; k < N_FILES; k++)
		FUZZ_CHECK(mknodat(fd, files[k], S_IFREG | 0600, 0) == 0);
	layers[i] = (struct rvl_layer){
		.fd = fd, .index = i, .has_xattrs = true, .has_ino_in_dirents = true
	};
}

static void setup(void)
{
	int fs = fuzz_filesystem();

	/* every refused value is a line */
	rvl_log_setup("", RVL_LOG_STDERR, LOG_EMERG);
	layers[0] = (struct rvl_layer){ .fd = -EBADF };
	for (unsigned i = 1; i <= LAYERS; i++)
		make_layer(fs, i);
	stack = (struct rvl_stack){
		.layers = layers, .n = 1 + LAYERS, .work_fd = -EBADF, .can_redirect_follow = true
	};
	rvl_xattr_names_init(&stack.xattr, false);
}

static void set(unsigned layer, const char *name, enum rvl_xattr which, const uint8_t *value,
		size_t len)
{
	if (len)
		FUZZ_CHECK(rvl_xattr_set(&stack.xattr, layers[layer].fd, name, which, value, len) ==
			   0);
	else
		(void)rvl_xattr_remove(&stack.xattr, layers[layer].fd, name, which);
}

static void check_place(const struct rvl_place *place)
{
	struct statx st;

	if (place->path[0])
		FUZZ_CHECK(place->path[0] != '/' && strstr(place->path, "/../") == NULL &&
			   strncmp(place->path, "../", 3) != 0 && strcmp(place->path, "..") != 0);
	FUZZ_CHECK(rvl_path_statx(place->layer->fd, place->path, STATX_TYPE, &st) == 0);
}

static int look(const struct rvl_places *parent, const char *name, struct rvl_found *ret)
{
	int r = rvl_merge_lookup(&stack, parent, name, NULL, NULL, ret);

	for (unsigned i = 0; r == 0 && i < ret->places.n; i++)
		check_place(&ret->places.v[i]);
	if (r == 0 && ret->data.layer)
		check_place(&ret->data);
	return r;
}

/* Each name that is listed is found, and no other. */
static void compare(const struct rvl_places *parent, const char *const *names, unsigned n)
{
	struct rvl_listing *listing = NULL;
	int r = rvl_listing_read(&stack, parent, &secret, 0, &listing);

	for (unsigned i = 0; i < n; i++) {
		struct rvl_found found = {};
		int looked = look(parent, names[i], &found);

		if (r == 0 && looked == 0)
			FUZZ_CHECK(!found.places.n == !rvl_listing_find(listing, names[i]));
		rvl_found_release(&found);
	}
	rvl_listing_put(listing);
}

static void check_redirect(unsigned layer, const char *name, const uint8_t *value, size_t len)
{
	char *redirect = NULL;
	int r = rvl_redirect_get(&stack, layers[layer].fd, name, &redirect);

	FUZZ_CHECK(r == 0 || r == -EUCLEAN);
	if (redirect) {
		FUZZ_CHECK(strlen(redirect) == len && memcmp(redirect, value, len) == 0);
		FUZZ_CHECK(!strstr(redirect, "/../") && strcmp(redirect, "..") != 0);
	}
	free(redirect);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const at_root[] = { "d", "a", "f" }, *const below[] = { "e", "f", "w" };
	struct rvl_places root = {};
	struct rvl_found found = {};
	const uint8_t *value;
	size_t len;

	if (!stack.n)
		setup();
	for (unsigned i = 1; i <= LAYERS; i++) {
		len = fuzz_piece(&data, &size, &value);
		set(i, "d", RVL_XATTR_REDIRECT, value, len);
		check_redirect(i, "d", value, len);
		len = fuzz_piece(&data, &size, &value);
		set(i, "d", RVL_XATTR_OPAQUE, value, len);
		len = fuzz_piece(&data, &size, &value);
		set(i, "d/w", RVL_XATTR_WHITEOUT, value, len);
		len = fuzz_piece(&data, &size, &value);
		set(i, "f", RVL_XATTR_METACOPY, value, len);
		len = fuzz_piece(&data, &size, &value);
		set(i, "f", RVL_XATTR_REDIRECT, value, len);
	}
	FUZZ_CHECK(rvl_places_of_root(&stack, &root) == 0);
	compare(&root, at_root, 3);
	if (look(&root, "d", &found) == 0 && found.places.n && S_ISDIR(found.st.stx_mode))
		compare(&found.places, below, 3);
	rvl_found_release(&found);
	rvl_places_release(&root);
	return 0;
}
