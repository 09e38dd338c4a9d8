// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which number on the mount belongs to which object of the oracle, for the whole run and over remounts: a number is
 * stable for its object's life, is never shown for two objects, and never comes back after its object died.
 *
 * Each oracle object that was seen is pinned by an O_PATH descriptor, so that the oracle's filesystem cannot give its
 * inode number to another object before ident_prune() has noticed the death.
 */
#include "rnd.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct object {
	ino_t oino, mino; /* mino 0: not seen on the mount yet */
	int pin; /* owned, or -1 */
	bool is_loose; /* DIFF_MMAP_MTIME */
	unsigned int bias; /* DIFF_HIDDEN_LINKS */
};

/* Open addressing; the key 0 is free. Objects are removed by building it anew. */
struct ino_map {
	struct {
		ino_t key;
		uint32_t value;
	} * v;
	size_t n, cap;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct object *objects;
static size_t object_count, object_cap;
static struct ino_map by_oracle, by_mount, dead;

static void map_put(struct ino_map *m, ino_t key, uint32_t value);

static size_t map_slot(const struct ino_map *m, ino_t key)
{
	size_t i = (size_t)(key * 0x9e3779b97f4a7c15ULL >> 20) & (m->cap - 1);

	while (m->v[i].key && m->v[i].key != key)
		i = (i + 1) & (m->cap - 1);
	return i;
}

static void map_grow(struct ino_map *m)
{
	struct ino_map old = *m;

	m->cap = old.cap ? old.cap * 2 : 1024;
	m->v = calloc(m->cap, sizeof(*m->v));
	m->n = 0;
	if (!m->v)
		abort();
	for (size_t i = 0; i < old.cap; i++)
		if (old.v[i].key)
			map_put(m, old.v[i].key, old.v[i].value);
	free(old.v);
}

static void map_put(struct ino_map *m, ino_t key, uint32_t value)
{
	size_t i;

	if (m->n * 2 >= m->cap)
		map_grow(m);
	i = map_slot(m, key);
	if (!m->v[i].key)
		m->n++;
	m->v[i].key = key;
	m->v[i].value = value;
}

static bool map_get(const struct ino_map *m, ino_t key, uint32_t *ret_value)
{
	size_t i;

	if (!m->cap)
		return false;
	i = map_slot(m, key);
	if (!m->v[i].key)
		return false;
	if (ret_value)
		*ret_value = m->v[i].value;
	return true;
}

static void map_clear(struct ino_map *m)
{
	if (m->cap)
		memset(m->v, 0, m->cap * sizeof(*m->v));
	m->n = 0;
}

/* Caller holds the lock. */
static struct object *object_get(ino_t oino)
{
	uint32_t i;

	if (map_get(&by_oracle, oino, &i))
		return &objects[i];
	if (object_count == object_cap) {
		object_cap = object_cap ? object_cap * 2 : 1024;
		objects = reallocarray(objects, object_cap, sizeof(*objects));
		if (!objects)
			abort();
	}
	objects[object_count] = (struct object){ .oino = oino, .pin = -1 };
	map_put(&by_oracle, oino, (uint32_t)object_count);
	return &objects[object_count++];
}

void ident_init(void)
{
	for (size_t i = 0; i < object_count; i++)
		if (objects[i].pin >= 0)
			close(objects[i].pin);
	object_count = 0;
	map_clear(&by_oracle);
	map_clear(&by_mount);
	map_clear(&dead);
}

static int pin_open(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_PATH | O_CLOEXEC);
}

static bool pin_is_dead(int pin)
{
	struct stat st;

	return pin >= 0 && fstat(pin, &st) == 0 && st.st_nlink == 0;
}

/*
 * A number met for the first time for @obj: it must be nobody else's, living or dead. 1: it is that of one who may be dead
 * as soon as all operations have been done on both sides. Caller holds the lock.
 */
static int claim(struct world *w, struct object *obj, ino_t mino, const char *what, bool is_settled)
{
	uint32_t other;

	if (map_get(&by_mount, mino, &other) && objects[other].mino == mino) {
		bool is_dead = pin_is_dead(objects[other].pin);

		if (!is_dead && !is_settled && diff_ok(DIFF_K_INO_REUSE))
			return 1;
		if (!is_dead || !diff_ok(DIFF_K_INO_REUSE))
			return rnd_fail(w, "ino-shared",
					"%s: number %llu is also that of another %s object", what,
					(unsigned long long)mino, is_dead ? "(dead)" : "living");
		objects[other].mino = 0;
	}
	if (map_get(&dead, mino, NULL) && !diff_ok(DIFF_K_INO_REUSE))
		return rnd_fail(w, "ino-reused", "%s: number %llu was that of an object that died",
				what, (unsigned long long)mino);
	obj->mino = mino;
	map_put(&by_mount, mino, (uint32_t)(obj - objects));
	return 0;
}

static int check(struct world *w, const struct stat *o, const struct stat *m, int ofd,
		 const char *what, bool is_settled)
{
	struct object *obj;
	int r = 0;

	pthread_mutex_lock(&lock);
	obj = object_get(o->st_ino);
	if (obj->pin < 0)
		obj->pin = pin_open(ofd);
	if (!obj->mino)
		r = claim(w, obj, m->st_ino, what, is_settled);
	else if (obj->mino != m->st_ino)
		r = rnd_fail(w, "ino-changed", "%s: its number was %llu and is now %llu", what,
			     (unsigned long long)obj->mino, (unsigned long long)m->st_ino);
	pthread_mutex_unlock(&lock);
	return r;
}

int ident_check(struct world *w, const struct stat *o, const struct stat *m, int ofd,
		const char *what)
{
	int r = check(w, o, m, ofd, what, false);

	if (r <= 0)
		return r;
	world_settle();
	return check(w, o, m, ofd, what, true);
}

bool ident_mtime_is_loose(ino_t oracle_ino)
{
	uint32_t i;
	bool r;

	pthread_mutex_lock(&lock);
	r = map_get(&by_oracle, oracle_ino, &i) && objects[i].is_loose;
	pthread_mutex_unlock(&lock);
	return r;
}

void ident_set_loose(ino_t oracle_ino, bool is_loose)
{
	pthread_mutex_lock(&lock);
	object_get(oracle_ino)->is_loose = is_loose;
	pthread_mutex_unlock(&lock);
}

void ident_set_bias(ino_t oracle_ino, unsigned int hidden_links)
{
	pthread_mutex_lock(&lock);
	object_get(oracle_ino)->bias = hidden_links;
	pthread_mutex_unlock(&lock);
}

unsigned int ident_bias(ino_t oracle_ino)
{
	unsigned int r = 0;
	uint32_t i;

	pthread_mutex_lock(&lock);
	if (map_get(&by_oracle, oracle_ino, &i))
		r = objects[i].bias;
	pthread_mutex_unlock(&lock);
	return r;
}

void ident_prune(bool (*is_open)(ino_t oracle_ino))
{
	size_t kept = 0;

	pthread_mutex_lock(&lock);
	map_clear(&by_oracle);
	map_clear(&by_mount);
	for (size_t i = 0; i < object_count; i++) {
		struct object *obj = &objects[i];

		if (pin_is_dead(obj->pin) && !is_open(obj->oino)) {
			close(obj->pin);
			if (obj->mino)
				map_put(&dead, obj->mino, 0);
			continue;
		}
		objects[kept] = *obj;
		map_put(&by_oracle, obj->oino, (uint32_t)kept);
		if (obj->mino)
			map_put(&by_mount, obj->mino, (uint32_t)kept);
		kept++;
	}
	object_count = kept;
	pthread_mutex_unlock(&lock);
}

size_t ident_count(size_t *ret_dead)
{
	*ret_dead = dead.n;
	return object_count;
}
