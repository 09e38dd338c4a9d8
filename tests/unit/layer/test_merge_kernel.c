// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kernel's overlayfs as the oracle: random stacks of layers, mounted read-only by it, must show
 * the same names, types, inos and contents as rvl_merge_lookup and rvl_listing_read find. Every
 * difference is looked at again on a fresh mount, by its path alone, since the kernel joins
 * directories that redirects reach twice. RVL_TEST_SEED repeats a run, RVL_TEST_ROUNDS makes it
 * longer.
 */
#include "fixture.h"

#include <dirent.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/refstr.h"
#include "layer/listing.h"
#include "layer/path.h"

#define LAYERS_MAX 5
#define DEPTH_MAX 3

static struct rvl_secret secret;
static unsigned long seed;
static unsigned n_compared, n_merged, n_redirected;

static unsigned rnd(unsigned n)
{
	return (unsigned)random() % n;
}

static const char *const names[] = { "a", "b", "c", "d" };
#define NAMES_N 4

static const char *random_redirect(char buf[64])
{
	int n = 0;

	if (rnd(2))
		return names[rnd(NAMES_N)];
	for (unsigned depth = 1 + rnd(DEPTH_MAX); depth > 0; depth--)
		n += snprintf(buf + n, 64 - (size_t)n, "/%s", names[rnd(NAMES_N)]);
	return buf;
}

static void random_tree(const char *dir, unsigned depth, bool is_bottom, bool has_mark)
{
	char redirect[64];

	for (unsigned i = 0; i < NAMES_N; i++) {
		char path[1024];
		unsigned what = rnd(20);

		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		if (what < 9 && depth < DEPTH_MAX) {
			/* not in the lowest layer, where the kernel does not look at the mark */
			bool is_marked = !is_bottom && rnd(8) == 0;

			assert_int_equal(mkdir(path, 0755), 0);
			if (is_marked)
				set_x(path, "opaque", "x");
			else if (rnd(8) == 0)
				set_x(path, "opaque", rnd(6) ? "y" : "n");
			if (rnd(3) == 0)
				set_x(path, "redirect", random_redirect(redirect));
			random_tree(path, depth + 1, is_bottom, is_marked);
		} else if (what < 11) {
			make_file(path, path + strlen(fixture_dir));
		} else if (what == 11) {
			make_whiteout(path);
		} else if (what == 12) {
			assert_int_equal(symlink("x", path), 0);
		} else if (what == 13) {
			assert_int_equal(mkfifo(path, 0644), 0);
		} else if (what < 16) {
			make_file(path, "");
			assert_int_equal(truncate(path, 5 + (off_t)rnd(90)), 0);
			set_x(path, "metacopy", "");
			if (rnd(2))
				set_x(path, "redirect", random_redirect(redirect));
		} else if (what == 16 && has_mark) {
			make_file(path, "");
			set_x(path, "whiteout", "y");
		}
	}
}

static unsigned n_data;

/* The last n_data of the n layers are data-only. */
static bool mount_kernel(const char *dir, unsigned n)
{
	char options[2048] = "redirect_dir=follow,metacopy=on,index=off,xino=off,lowerdir=";

	for (unsigned i = 1; i <= n; i++)
		sprintf(options + strlen(options), "%s%s/%u",
			i == 1	       ? "" :
			i > n - n_data ? "::" :
					 ":",
			dir, i);
	if (mount("overlay", at("mk"), "overlay", MS_RDONLY, options) == 0)
		return true;
	print_message("# no kernel overlay: %s\n", strerror(errno));
	return false;
}

/* What our side says of a path: an errno, or type, ino and where the content is. */
struct answer {
	int error;
	unsigned mode;
	uint64_t ino;
	char content[128];
};

static void read_content(int fd, char content[128])
{
	ssize_t n = fd < 0 ? 0 : pread(fd, content, 127, 0);

	content[n < 0 ? 0 : n] = '\0';
}

static struct answer kernel_answer(const char *path)
{
	struct answer a = { 0 };
	struct stat st;

	if (lstat(at("mk/%s", path), &st) < 0) {
		a.error = errno;
		return a;
	}
	a.mode = st.st_mode;
	a.ino = st.st_ino;
	if (S_ISREG(st.st_mode)) {
		int fd = open(at("mk/%s", path), O_RDONLY | O_CLOEXEC);

		read_content(fd, a.content);
		close(fd);
	}
	return a;
}

static struct answer our_answer(const struct rvl_found *found, int error)
{
	struct answer a = { .error = -error };
	const struct rvl_place *data = &found->places.v[0];

	if (error == 0 && found->places.n == 0)
		a.error = ENOENT;
	if (a.error)
		return a;
	a.mode = found->st.stx_mode;
	a.ino = found->st.stx_ino;
	if (found->is_metacopy)
		data = &found->data;
	if (S_ISREG(a.mode) && data->layer) {
		int fd = rvl_path_open(data->layer->fd, data->path, O_RDONLY, 0);

		read_content(fd, a.content);
		close(fd);
	}
	return a;
}

static bool is_equal(const struct answer *a, const struct answer *b)
{
	/* the kernel has EIO and EINVAL for damage */
	if (a->error || b->error)
		return (a->error == ENOENT) == (b->error == ENOENT) && !a->error == !b->error;
	return a->mode == b->mode && a->ino == b->ino && strcmp(a->content, b->content) == 0;
}

static void compare(const char *dir, unsigned n, const char *path, const struct rvl_found *found,
		    int error)
{
	struct answer ours = our_answer(found, error), theirs = kernel_answer(path);

	n_compared++;
	if (is_equal(&ours, &theirs))
		return;
	umount2(at("mk"), MNT_DETACH);
	assert_true(mount_kernel(dir, n));
	theirs = kernel_answer(path);
	if (is_equal(&ours, &theirs))
		return;
	fprintf(stderr,
		"RVL_TEST_SEED=%lu: %s in %s: ours error %d mode %o ino %lu \"%s\" (%s), "
		"the kernel's error %d mode %o ino %lu \"%s\"\n",
		seed, path, dir, ours.error, ours.mode, ours.ino, ours.content,
		error ? "" : places_text(&found->places), theirs.error, theirs.mode, theirs.ino,
		theirs.content);
	if (getenv("RVL_TEST_KEEP"))
		abort();
	fail();
}

static bool listing_is_equal(const char *path, const struct rvl_listing *listing)
{
	_cleanup_closedir_ DIR *d = opendir(at("mk/%s", path));
	struct dirent *de;
	struct stat st;
	bool seen[NAMES_N] = { false };
	size_t n = 0;

	assert_in_range(listing->n, 0, NAMES_N);

	if (!d)
		return false;
	while (errno = 0, (de = readdir(d))) {
		const struct rvl_listing_name *e;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		/* Of a directory that is not merged the kernel lists whiteouts, too. */
		if (fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
			continue;
		e = rvl_listing_find(listing, de->d_name);
		if (!e || e->type != de->d_type)
			return false;
		seen[e - listing->v] = true;
		n++;
	}
	/* With a mark for xattr whiteouts the kernel looks the names up: damage in one of them is
	 * an error of all, or leaves it out. */
	if (errno)
		return true;
	for (size_t i = 0; i < listing->n; i++)
		n += !seen[i] &&
		     fstatat(dirfd(d), rvl_listing_text(listing, &listing->v[i]), &st,
			     AT_SYMLINK_NOFOLLOW) < 0 &&
		     errno != ENOENT;
	return n == listing->n;
}

static void compare_dir(const struct rvl_stack *stack, const char *dir, unsigned n,
			const char *path, const struct rvl_places *places, unsigned depth)
{
	struct rvl_listing *listing;

	assert_int_equal(rvl_listing_read(stack, places, &secret, 0, &listing), 0);
	if (!listing_is_equal(path, listing)) {
		umount2(at("mk"), MNT_DETACH);
		assert_true(mount_kernel(dir, n));
		if (!listing_is_equal(path, listing)) {
			fprintf(stderr, "RVL_TEST_SEED=%lu: listing of /%s in %s differs (%s)\n",
				seed, path, dir, places_text(places));
			if (getenv("RVL_TEST_KEEP"))
				abort();
			fail();
		}
	}
	for (unsigned i = 0; i < NAMES_N; i++) {
		struct rvl_found found, hinted;
		char sub[256];
		int r = rvl_merge_lookup(stack, places, names[i], NULL, NULL, &found);

		snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "/" : "", names[i]);
		compare(dir, n, sub, &found, r);
		assert_int_equal(rvl_merge_lookup(stack, places, names[i], NULL, listing, &hinted),
				 r);
		if (r < 0)
			continue;
		assert_string_equal(places_text(&found.places), places_text(&hinted.places));
		if (found.places.n > 1)
			n_merged++;
		for (unsigned j = 0; j < found.places.n; j++)
			n_redirected += strcmp(found.places.v[j].path, sub) != 0;
		/* what redirects lead to can be deeper than what was made */
		if (found.places.n > 0 && S_ISDIR(found.st.stx_mode) && depth < 2 * DEPTH_MAX)
			compare_dir(stack, dir, n, sub, &found.places, depth + 1);
		rvl_found_release(&found);
		rvl_found_release(&hinted);
	}
	rvl_listing_put(listing);
}

static void random_stacks_look_the_same(void **state)
{
	const char *rounds_text = getenv("RVL_TEST_ROUNDS");
	unsigned rounds = rounds_text ? (unsigned)atoi(rounds_text) : 150;

	need_mounts();
	make_dir(at("mk"));
	srandom((unsigned)seed);
	for (unsigned round = 0; round < rounds; round++) {
		unsigned n = 2 + rnd(LAYERS_MAX - 1);
		char dir[512], lowers[512] = "";
		struct rvl_places root;
		struct rvl_stack stack;

		n_data = n > 2 && rnd(3) == 0;
		snprintf(dir, sizeof(dir), "%s", at("k%u", round));
		for (unsigned i = 1; i <= n; i++) {
			make_dir(at("k%u/%u", round, i));
			random_tree(at("k%u/%u", round, i), 0, i >= n - n_data, false);
			sprintf(lowers + strlen(lowers), "%sk%u/%u", i > 1 ? ":" : "", round, i);
		}
		if (!mount_kernel(dir, n))
			skip();
		assert_int_equal(open_lowers(lowers, n_data, false, &stack), 0);
		assert_int_equal(rvl_places_of_root(&stack, &root), 0);
		compare_dir(&stack, dir, n, "", &root, 0);
		rvl_places_release(&root);
		rvl_stack_release(&stack);
		umount2(at("mk"), MNT_DETACH);
		sh("rm -rf %s", dir);
	}
	print_message("# seed %lu: %u names compared, %u merged, %u redirected places\n", seed,
		      n_compared, n_merged, n_redirected);
	assert_true(n_merged > 0 && n_redirected > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_stacks_look_the_same),
	};
	const char *given = getenv("RVL_TEST_SEED");

	if (!has_trusted()) {
		print_message("1..0 # SKIP: mounts need root\n");
		return 0;
	}
	seed = given ? strtoul(given, NULL, 10) : (unsigned long)time(NULL);
	rvl_secret_init(&secret, (const uint8_t *)"0123456789abcdef0123456789abcdef");
	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
