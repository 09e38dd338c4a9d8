// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rvl-handle-fuzz: made-up handles on a mount must open nothing but what its tree shows.
 *
 *   rvl-handle-fuzz collect MOUNT >FILE                  the handles of the whole tree, one a line
 *   rvl-handle-fuzz [--seed N] [--count N] attack MOUNT [FILE...]   makes handles up, and uses those of the files
 *
 * A line is: number, generation (both hexadecimal), path. Files are of an earlier state of the tree, when more could be seen;
 * every handle of them is tried as it is, and is the start of others. What opens must be in the tree as walked now, with that
 * number, that generation and that type. The last line says how much was tried. Exit code 1 if something opened that must not.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FUSE_TYPE 0x81
#define FUSE_TYPE_CONNECTABLE 0x82
#define DEPTH_MAX 64
#define FAILURES_SHOWN 40
#define NEAR 64

struct known {
	uint64_t number;
	uint32_t generation;
	mode_t type;
};

struct table {
	struct known *v; /* owned; sorted when it is searched */
	size_t n, size;
};

struct attack {
	int mount_fd;
	struct table tree;  /* what may open */
	struct table seeds; /* what handles are made of: tree, and files */
	uint64_t random;
	unsigned long n_tried, n_opened, n_stale, n_other, n_failed;
};

union handle {
	struct file_handle head;
	unsigned char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "rvl-handle-fuzz: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* ---- the tree ---- */

static void table_add(struct table *table, uint64_t number, uint32_t generation, mode_t type)
{
	if (table->n == table->size) {
		table->size = table->size ? table->size * 2 : 1024;
		table->v = reallocarray(table->v, table->size, sizeof(*table->v));
		if (!table->v)
			die("table");
	}
	table->v[table->n++] = (struct known){ number, generation, type };
}

static int compare(const void *a, const void *b)
{
	const struct known *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static const struct known *table_find(const struct table *table, uint64_t number)
{
	struct known key = { .number = number };

	return bsearch(&key, table->v, table->n, sizeof(key), compare);
}

/* fs/fuse/inode.c, fuse_encode_fh */
static void fill(union handle *handle, uint64_t number, uint32_t generation)
{
	uint32_t words[3] = { (uint32_t)(number >> 32), (uint32_t)number, generation };

	memset(handle, 0, sizeof(*handle));
	handle->head.handle_bytes = sizeof(words);
	handle->head.handle_type = FUSE_TYPE;
	memcpy(handle->head.f_handle, words, sizeof(words));
}

static void visit(int dirfd, const char *name, const char *path, struct table *table, FILE *out)
{
	union handle handle = { .head.handle_bytes = MAX_HANDLE_SZ };
	uint32_t words[3];
	uint64_t number;
	struct stat st;
	int id;

	if (name_to_handle_at(dirfd, name, &handle.head, &id, *name ? 0 : AT_EMPTY_PATH) < 0 ||
	    fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
		die(path);
	memcpy(words, handle.head.f_handle, sizeof(words));
	number = (uint64_t)words[0] << 32 | words[1];
	if (number != st.st_ino) {
		fprintf(stderr, "%s: handle of %" PRIx64 ", st_ino %lx\n", path, number, (unsigned long)st.st_ino);
		exit(2);
	}
	table_add(table, number, words[2], st.st_mode & S_IFMT);
	if (out)
		fprintf(out, "%" PRIx64 " %x %s\n", number, words[2], path);
}

static void walk(int dirfd, const char *path, unsigned depth, struct table *table, FILE *out)
{
	struct dirent *entry;
	DIR *d = fdopendir(dirfd);

	if (!d || depth > DEPTH_MAX)
		die(path);
	while ((entry = readdir(d))) {
		char inner[4096];
		int fd;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name) >= (int)sizeof(inner))
			die(path);
		visit(dirfd, entry->d_name, inner, table, out);
		if (entry->d_type != DT_DIR)
			continue;
		fd = openat(dirfd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			die(inner);
		walk(fd, inner, depth + 1, table, out);
	}
	closedir(d);
}

static void walk_mount(int mount_fd, struct table *table, FILE *out)
{
	visit(mount_fd, "", ".", table, out);
	walk(openat(mount_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ".", 0, table, out);
	qsort(table->v, table->n, sizeof(*table->v), compare);
}

/* ---- the attack ---- */

/* xorshift64*, Vigna 2014 */
static uint64_t draw(struct attack *attack)
{
	attack->random ^= attack->random >> 12;
	attack->random ^= attack->random << 25;
	attack->random ^= attack->random >> 27;
	return attack->random * 0x2545f4914f6cdd1dULL;
}

static void fail(struct attack *attack, uint64_t number, uint32_t generation, const char *why)
{
	if (++attack->n_failed <= FAILURES_SHOWN)
		printf("FAIL %" PRIx64 " %x: %s\n", number, generation, why);
}

static void look_at(struct attack *attack, int fd, uint64_t number, uint32_t generation)
{
	const struct known *known = table_find(&attack->tree, number);
	struct stat st;

	if (!known)
		fail(attack, number, generation, "opens, but is not in the tree");
	else if (known->generation != generation)
		fail(attack, number, generation, "opens with a generation that it never had");
	else if (fstat(fd, &st) < 0)
		fail(attack, number, generation, "opens, but cannot be looked at");
	else if (st.st_ino != number || (st.st_mode & S_IFMT) != known->type)
		fail(attack, number, generation, "opens another object");
}

static void try_handle(struct attack *attack, union handle *handle, uint64_t number, uint32_t generation)
{
	int fd = open_by_handle_at(attack->mount_fd, &handle->head, O_PATH | O_CLOEXEC);

	attack->n_tried++;
	if (fd < 0) {
		if (errno == ESTALE)
			attack->n_stale++;
		else
			attack->n_other++;
		/* a number that makes no request fail is no reason for anything but ESTALE */
		if (errno != ESTALE && errno != EINVAL)
			fail(attack, number, generation, strerrorname_np(errno) ?: "?");
		return;
	}
	attack->n_opened++;
	look_at(attack, fd, number, generation);
	close(fd);
}

static void try_number(struct attack *attack, uint64_t number, uint32_t generation)
{
	union handle handle;

	fill(&handle, number, generation);
	if (draw(attack) % 16 == 0) { /* with a parent that is made up, too */
		uint32_t parent[3] = { (uint32_t)draw(attack) & 0xffff, (uint32_t)draw(attack), generation };

		memcpy(handle.head.f_handle + 12, parent, sizeof(parent));
		handle.head.handle_bytes = 24;
		handle.head.handle_type = FUSE_TYPE_CONNECTABLE;
	}
	try_handle(attack, &handle, number, generation);
}

static const struct known *any_seed(struct attack *attack)
{
	return &attack->seeds.v[draw(attack) % attack->seeds.n];
}

static uint32_t any_generation(struct attack *attack, const struct known *seed)
{
	switch (draw(attack) % 4) {
	case 0:
		return 0;
	case 1:
		return (uint32_t)draw(attack);
	default: /* of one that exists: born objects share theirs */
		return seed->generation;
	}
}

static uint64_t any_number(struct attack *attack, const struct known *seed)
{
	static const uint64_t odd[] = { 0,	    1,	       2,	     UINT64_MAX,     1ULL << 63,
					INT64_MAX, 1ULL << 48, (1ULL << 48) - 1, 0xffffffffULL, 1ULL << 32 };

	switch (draw(attack) % 8) {
	case 0:
		return draw(attack);
	case 1: /* one bit */
		return seed->number ^ 1ULL << (draw(attack) % 64);
	case 2: /* two bits */
		return seed->number ^ 1ULL << (draw(attack) % 64) ^ 1ULL << (draw(attack) % 64);
	case 3: /* inos of the filesystem beneath, as they are */
		return draw(attack) % 70000;
	case 4: /* the same in another instance */
		return (draw(attack) & 0x7fff) << 48 | (seed->number & ((1ULL << 48) - 1));
	case 5: /* this instance, another ino */
		return (seed->number & ~((1ULL << 48) - 1)) | draw(attack) % 70000;
	case 6:
		return odd[draw(attack) % (sizeof(odd) / sizeof(odd[0]))];
	default:
		return seed->number + draw(attack) % (2 * NEAR) - NEAR;
	}
}

static void garbage(struct attack *attack)
{
	union handle handle;
	uint64_t number;
	uint32_t words[3];

	for (size_t i = 0; i < sizeof(handle); i += 8) {
		number = draw(attack);
		memcpy(handle.room + i, &number, sizeof(handle) - i < 8 ? sizeof(handle) - i : 8);
	}
	handle.head.handle_bytes = draw(attack) % 33;
	handle.head.handle_type = draw(attack) % 2 ? FUSE_TYPE : (int)(draw(attack) & 0xff);
	memcpy(words, handle.head.f_handle, sizeof(words));
	try_handle(attack, &handle, (uint64_t)words[0] << 32 | words[1], words[2]);
}

static void read_seeds(struct attack *attack, const char *path)
{
	FILE *file = fopen(path, "re");
	uint64_t number;
	uint32_t generation;

	if (!file)
		die(path);
	while (fscanf(file, "%" SCNx64 " %x %*[^\n]", &number, &generation) == 2)
		table_add(&attack->seeds, number, generation, 0);
	fclose(file);
}

static void run(struct attack *attack, unsigned long count)
{
	/* every one as it is: the number and the generation that it had */
	for (size_t i = 0; i < attack->seeds.n; i++)
		try_number(attack, attack->seeds.v[i].number, attack->seeds.v[i].generation);
	if (attack->n_opened < attack->tree.n)
		fail(attack, 0, 0, "objects of the tree do not open");
	while (attack->n_tried < count) {
		const struct known *seed = any_seed(attack);

		if (draw(attack) % 64 == 0)
			garbage(attack);
		else
			try_number(attack, any_number(attack, seed), any_generation(attack, seed));
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "count", required_argument, NULL, 'c' },
		{},
	};
	struct attack attack = { .random = 1 };
	unsigned long count = 100000;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's')
			attack.random = strtoull(optarg, NULL, 0) ?: 1;
		else if (c == 'c')
			count = strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	argv += optind;
	argc -= optind;
	errno = EINVAL;
	if (argc < 2)
		die("usage: collect MOUNT | attack MOUNT [FILE...]");
	attack.mount_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (attack.mount_fd < 0)
		die(argv[1]);
	if (strcmp(argv[0], "collect") == 0) {
		walk_mount(attack.mount_fd, &attack.tree, stdout);
		return 0;
	}
	for (int i = 2; i < argc; i++)
		read_seeds(&attack, argv[i]);
	walk_mount(attack.mount_fd, &attack.tree, NULL);
	for (size_t i = 0; i < attack.tree.n; i++)
		table_add(&attack.seeds, attack.tree.v[i].number, attack.tree.v[i].generation, attack.tree.v[i].type);
	run(&attack, count);
	printf("tried=%lu opened=%lu stale=%lu other=%lu tree=%zu seeds=%zu failed=%lu\n", attack.n_tried,
	       attack.n_opened, attack.n_stale, attack.n_other, attack.tree.n, attack.seeds.n, attack.n_failed);
	return attack.n_failed ? 1 : 0;
}
