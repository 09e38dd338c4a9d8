// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The state file: encode, decode, load, atomic replace.
 *
 * Invariants of what decode accepts: the checksum is right, instance ids are unique and below
 * 0x8000, each lower's and each counter's instance is in the list, paths hold no NUL. Who may use
 * a state on which layers is decided in bind.c.
 */
#include "index/state.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "index/number.h"
#include "layer/identity.h"

#define STATE_MAGIC "RVLSTATE"
#define STATE_NAME "state"
#define STATE_TEMP_NAME "state.new"

struct disk_counter {
	uint64_t next;
	uint16_t instance;
	uint16_t zero[3];
};
static_assert(sizeof(struct disk_counter) == 16, "disk_counter");

struct disk_header {
	uint8_t magic[8];
	uint64_t checksum; /* rvl_hash of all that follows; the same in every version */
	uint32_t version;
	uint32_t size; /* of the file */
	uint64_t compat;
	uint64_t incompat;
	uint8_t uuid[16];
	uint8_t key[32];
	uint8_t boot_id[16];
	uint32_t flags;
	uint16_t volatile_low;
	uint16_t zero;
	struct disk_counter counters[RVL_COUNTER_N];
	uint32_t n_records;
	uint32_t map_serial;
	uint8_t former_uuid[16];
	uint32_t zero2[6];
};
static_assert(sizeof(struct disk_header) == 192, "disk_header");
#define CHECKSUM_START 16

enum record_type {
	RECORD_INSTANCE = 1,
	RECORD_UPPER = 2,
	RECORD_WORK = 3,
	RECORD_LOWER = 4,
};

struct disk_record {
	uint16_t type;
	uint16_t len; /* of the payload that follows */
};
static_assert(sizeof(struct disk_record) == 4, "disk_record");

struct disk_instance {
	uint16_t id;
	uint16_t flags;
	uint32_t zero;
	uint64_t fs_magic;
	uint8_t digest[16];
	uint8_t uuid[16];
	uint8_t visible[16];
};
static_assert(sizeof(struct disk_instance) == 64, "disk_instance");

/* Followed by the encoded handle and the path. */
struct disk_root {
	uint64_t ino;
	uint32_t flags;
	uint16_t instance;
	uint16_t handle_len;
};
static_assert(sizeof(struct disk_root) == 16, "disk_root");

/* Bytes that grow while a state is encoded. */
struct buffer {
	uint8_t *v; /* owned */
	size_t n, size;
};

static int buffer_add(struct buffer *buffer, const void *data, size_t len)
{
	if (buffer->n + len > buffer->size) {
		size_t size = (buffer->n + len) * 2;
		uint8_t *v = realloc(buffer->v, size);

		if (!v)
			return -ENOMEM;
		buffer->v = v;
		buffer->size = size;
	}
	memcpy(buffer->v + buffer->n, data, len);
	buffer->n += len;
	return 0;
}

static int add_record(struct buffer *buffer, enum record_type type, const void *payload, size_t len)
{
	struct disk_record record = { .type = htole16(type), .len = htole16((uint16_t)len) };
	int r = buffer_add(buffer, &record, sizeof(record));

	return r ?: buffer_add(buffer, payload, len);
}

static int add_instance(struct buffer *buffer, const struct rvl_state_instance *instance)
{
	struct disk_instance disk = {
		.id = htole16(instance->id),
		.flags = htole16(instance->flags),
		.fs_magic = htole64(instance->fs_magic),
	};

	memcpy(disk.digest, instance->digest, sizeof(disk.digest));
	memcpy(disk.uuid, instance->uuid, sizeof(disk.uuid));
	memcpy(disk.visible, instance->visible, sizeof(disk.visible));
	return add_record(buffer, RECORD_INSTANCE, &disk, sizeof(disk));
}

static int add_root(struct buffer *buffer, enum record_type type, const struct rvl_state_root *root)
{
	uint8_t payload[sizeof(struct disk_root) + RVL_HANDLE_ENCODED_MAX + RVL_STATE_PATH_MAX];
	uint8_t handle[RVL_HANDLE_ENCODED_MAX];
	int handle_len = root->handle.len ? rvl_handle_encode(&root->handle, handle) : 0;
	size_t path_len = root->path ? strnlen(root->path, RVL_STATE_PATH_MAX) : 0;
	struct disk_root disk = {
		.ino = htole64(root->ino),
		.flags = htole32(root->flags),
		.instance = htole16(root->instance),
		.handle_len = htole16((uint16_t)handle_len),
	};

	if (handle_len < 0)
		return handle_len;
	memcpy(payload, &disk, sizeof(disk));
	memcpy(payload + sizeof(disk), handle, (size_t)handle_len);
	memcpy(payload + sizeof(disk) + handle_len, root->path ? root->path : "", path_len);
	return add_record(buffer, type, payload, sizeof(disk) + (size_t)handle_len + path_len);
}

static int add_records(struct buffer *buffer, const struct rvl_state *state, uint32_t *ret_n)
{
	uint32_t n = 0;
	int r = 0;

	for (unsigned i = 0; !r && i < state->n_instances; i++, n++)
		r = add_instance(buffer, &state->instances[i]);
	if (!r && state->upper.ino) {
		r = add_root(buffer, RECORD_UPPER, &state->upper);
		n++;
	}
	if (!r && state->work.ino) {
		r = add_root(buffer, RECORD_WORK, &state->work);
		n++;
	}
	for (unsigned i = 0; !r && i < state->n_lowers; i++, n++)
		r = add_root(buffer, RECORD_LOWER, &state->lowers[i]);
	*ret_n = n;
	return r;
}

int rvl_state_encode(const struct rvl_state *state, uint8_t **ret, size_t *ret_len)
{
	struct disk_header header = {
		.version = htole32(RVL_STATE_VERSION),
		.compat = htole64(state->compat),
		.incompat = htole64(state->incompat),
		.flags = htole32(state->flags),
		.volatile_low = htole16(state->volatile_low),
		.map_serial = htole32(state->map_serial),
	};
	struct buffer buffer = { 0 };
	uint32_t n_records;
	int r;

	memcpy(header.magic, STATE_MAGIC, sizeof(header.magic));
	memcpy(header.uuid, state->uuid, sizeof(header.uuid));
	memcpy(header.former_uuid, state->former_uuid, sizeof(header.former_uuid));
	memcpy(header.key, state->key, sizeof(header.key));
	memcpy(header.boot_id, state->boot_id, sizeof(header.boot_id));
	for (int i = 0; i < RVL_COUNTER_N; i++) {
		header.counters[i].next = htole64(state->counters[i].next);
		header.counters[i].instance = htole16(state->counters[i].instance);
	}

	r = buffer_add(&buffer, &header, sizeof(header));
	if (!r)
		r = add_records(&buffer, state, &n_records);
	if (!r && buffer.n > RVL_STATE_MAX_BYTES)
		r = -EFBIG;
	if (r) {
		free(buffer.v);
		return r;
	}
	header.size = htole32((uint32_t)buffer.n);
	header.n_records = htole32(n_records);
	memcpy(buffer.v, &header, sizeof(header));
	header.checksum = htole64(rvl_hash(buffer.v + CHECKSUM_START, buffer.n - CHECKSUM_START));
	memcpy(buffer.v, &header, sizeof(header));
	*ret = buffer.v;
	*ret_len = buffer.n;
	return 0;
}

static int decode_instance(struct rvl_state *state, const uint8_t *payload, size_t len)
{
	struct disk_instance disk;
	struct rvl_state_instance instance = { 0 };
	int r;

	if (len != sizeof(disk))
		return -EUCLEAN;
	memcpy(&disk, payload, sizeof(disk));
	instance.id = le16toh(disk.id);
	instance.flags = le16toh(disk.flags);
	instance.fs_magic = le64toh(disk.fs_magic);
	memcpy(instance.digest, disk.digest, sizeof(disk.digest));
	memcpy(instance.uuid, disk.uuid, sizeof(disk.uuid));
	memcpy(instance.visible, disk.visible, sizeof(disk.visible));
	if (instance.id > RVL_INSTANCE_MAX)
		return -EUCLEAN;
	r = rvl_state_instance_add(state, &instance);
	return r == -ENOMEM ? r : r ? -EUCLEAN : 0;
}

static int decode_root(const uint8_t *payload, size_t len, struct rvl_state_root *ret)
{
	struct disk_root disk;
	unsigned handle_len;
	int r;

	if (ret->ino || len < sizeof(disk)) /* given twice, or too short */
		return -EUCLEAN;
	memcpy(&disk, payload, sizeof(disk));
	handle_len = le16toh(disk.handle_len);
	payload += sizeof(disk);
	len -= sizeof(disk);
	if (!disk.ino || handle_len > len || handle_len > RVL_HANDLE_ENCODED_MAX)
		return -EUCLEAN;
	if (handle_len) {
		r = rvl_handle_decode(payload, handle_len, &ret->handle);
		if (r)
			return -EUCLEAN;
	}
	payload += handle_len;
	len -= handle_len;
	if (len > RVL_STATE_PATH_MAX || memchr(payload, 0, len))
		return -EUCLEAN;
	ret->path = strndup((const char *)payload, len);
	if (!ret->path)
		return -ENOMEM;
	ret->ino = le64toh(disk.ino);
	ret->flags = le32toh(disk.flags);
	ret->instance = le16toh(disk.instance);
	return 0;
}

static int decode_lower(struct rvl_state *state, const uint8_t *payload, size_t len)
{
	struct rvl_state_root *lowers;

	if (state->n_lowers >= RVL_LAYERS_MAX)
		return -EUCLEAN;
	lowers = reallocarray(state->lowers, state->n_lowers + 1, sizeof(*lowers));
	if (!lowers)
		return -ENOMEM;
	state->lowers = lowers;
	lowers[state->n_lowers] = (struct rvl_state_root){ 0 };
	return decode_root(payload, len, &lowers[state->n_lowers++]);
}

static int decode_record(struct rvl_state *state, unsigned type, const uint8_t *payload, size_t len)
{
	switch (type) {
	case RECORD_INSTANCE:
		return decode_instance(state, payload, len);
	case RECORD_UPPER:
		return decode_root(payload, len, &state->upper);
	case RECORD_WORK:
		return decode_root(payload, len, &state->work);
	case RECORD_LOWER:
		return decode_lower(state, payload, len);
	default:
		return -EPROTONOSUPPORT;
	}
}

/* What is true of the state as a whole. */
static int check_decoded(const struct rvl_state *state)
{
	for (int i = 0; i < RVL_COUNTER_N; i++) {
		const struct rvl_state_instance *instance =
			rvl_state_instance_by_id(state, state->counters[i].instance);

		if (!instance || !(instance->flags & RVL_INSTANCE_COUNTER) ||
		    state->counters[i].next > RVL_REAL_INO_MASK)
			return -EUCLEAN;
	}
	for (unsigned i = 0; i < state->n_lowers; i++)
		if (!(state->lowers[i].flags & RVL_ROOT_UNSTABLE) &&
		    !rvl_state_instance_by_id(state, state->lowers[i].instance))
			return -EUCLEAN;
	return state->volatile_low > RVL_INSTANCE_MAX + 1 ? -EUCLEAN : 0;
}

static void decode_header(const struct disk_header *header, struct rvl_state *state)
{
	state->compat = le64toh(header->compat);
	state->incompat = le64toh(header->incompat);
	state->flags = le32toh(header->flags);
	state->volatile_low = le16toh(header->volatile_low);
	state->map_serial = le32toh(header->map_serial);
	memcpy(state->former_uuid, header->former_uuid, sizeof(state->former_uuid));
	memcpy(state->uuid, header->uuid, sizeof(state->uuid));
	memcpy(state->key, header->key, sizeof(state->key));
	memcpy(state->boot_id, header->boot_id, sizeof(state->boot_id));
	for (int i = 0; i < RVL_COUNTER_N; i++) {
		state->counters[i].next = le64toh(header->counters[i].next);
		state->counters[i].instance = le16toh(header->counters[i].instance);
	}
}

static struct rvl_state *state_alloc(void)
{
	struct rvl_state *state = calloc(1, sizeof(*state));

	if (state)
		pthread_mutex_init(&state->lock, NULL);
	return state;
}

static int decode_records(const uint8_t *data, size_t len, uint32_t n_records,
			  struct rvl_state *state)
{
	for (uint32_t i = 0; i < n_records; i++) {
		struct disk_record record;
		unsigned record_len;
		int r;

		if (len < sizeof(record))
			return -EUCLEAN;
		memcpy(&record, data, sizeof(record));
		record_len = le16toh(record.len);
		data += sizeof(record);
		len -= sizeof(record);
		if (record_len > len)
			return -EUCLEAN;
		r = decode_record(state, le16toh(record.type), data, record_len);
		if (r)
			return r;
		data += record_len;
		len -= record_len;
	}
	return len ? -EUCLEAN : check_decoded(state);
}

int rvl_state_decode(const void *data, size_t len, struct rvl_state **ret)
{
	const uint8_t *bytes = data;
	struct disk_header header;
	struct rvl_state *state;
	int r;

	if (len < sizeof(header) || len > RVL_STATE_MAX_BYTES)
		return -EUCLEAN;
	memcpy(&header, bytes, sizeof(header));
	if (memcmp(header.magic, STATE_MAGIC, sizeof(header.magic)) ||
	    le64toh(header.checksum) != rvl_hash(bytes + CHECKSUM_START, len - CHECKSUM_START))
		return -EUCLEAN;
	if (le32toh(header.version) > RVL_STATE_VERSION ||
	    (le64toh(header.incompat) & ~RVL_STATE_INCOMPAT_KNOWN))
		return -EPROTONOSUPPORT;
	if (le32toh(header.version) == 0 || le32toh(header.size) != len)
		return -EUCLEAN;

	state = state_alloc();
	if (!state)
		return -ENOMEM;
	decode_header(&header, state);
	r = decode_records(bytes + sizeof(header), len - sizeof(header), le32toh(header.n_records),
			   state);
	if (r) {
		rvl_state_free(state);
		return r;
	}
	*ret = state;
	return 0;
}

int rvl_state_new_uuid(struct rvl_state *state)
{
	if (getrandom(state->uuid, sizeof(state->uuid), 0) != (ssize_t)sizeof(state->uuid))
		return -EIO;
	state->uuid[6] = (state->uuid[6] & 0x0f) | 0x40; /* RFC 9562 section 5.4: version 4 */
	state->uuid[8] = (state->uuid[8] & 0x3f) | 0x80;
	return 0;
}

int rvl_state_new(struct rvl_state **ret)
{
	struct rvl_state *state = state_alloc();

	if (!state)
		return -ENOMEM;
	state->volatile_low = RVL_INSTANCE_MAX + 1;
	if (rvl_state_new_uuid(state) ||
	    getrandom(state->key, sizeof(state->key), 0) != (ssize_t)sizeof(state->key)) {
		rvl_state_free(state);
		return -EIO;
	}
	*ret = state;
	return 0;
}

void rvl_state_root_release(struct rvl_state_root *root)
{
	free(root->path);
	*root = (struct rvl_state_root){ 0 };
}

void rvl_state_free(struct rvl_state *state)
{
	if (!state)
		return;
	for (unsigned i = 0; i < state->n_lowers; i++)
		rvl_state_root_release(&state->lowers[i]);
	rvl_state_root_release(&state->upper);
	rvl_state_root_release(&state->work);
	free(state->lowers);
	free(state->instances);
	pthread_mutex_destroy(&state->lock);
	explicit_bzero(state->key, sizeof(state->key));
	free(state);
}

int rvl_state_load(int inodes_fd, struct rvl_state **ret)
{
	_cleanup_close_ int fd =
		openat(inodes_fd, STATE_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	_cleanup_free_ uint8_t *data = NULL;
	struct stat st;
	size_t n = 0;

	if (fd < 0)
		return errno == ELOOP ? -EUCLEAN : -errno;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size > RVL_STATE_MAX_BYTES)
		return -EUCLEAN;
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	while (n < (size_t)st.st_size) {
		ssize_t got = pread(fd, data + n, (size_t)st.st_size - n, (off_t)n);

		if (got < 0)
			return -errno;
		if (got == 0)
			return -EUCLEAN;
		n += (size_t)got;
	}
	return rvl_state_decode(data, n, ret);
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* state.new as it was left, if it is a file of its own, else a new one. */
static int open_temp(int inodes_fd)
{
	int fd = openat(inodes_fd, STATE_TEMP_NAME, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_nlink == 1)
		return fd;
	rvl_close(fd);
	if (unlinkat(inodes_fd, STATE_TEMP_NAME, 0) && errno != ENOENT)
		return -errno;
	fd = openat(inodes_fd, STATE_TEMP_NAME,
		    O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* The old state stays as state.new: on a full disk its room is there for the next one. */
static int take_place(int inodes_fd)
{
	if (!renameat2(inodes_fd, STATE_TEMP_NAME, inodes_fd, STATE_NAME, RENAME_EXCHANGE))
		return 0;
	if (errno != ENOENT && errno != EINVAL) /* there is none yet; not on this filesystem */
		return -errno;
	return renameat(inodes_fd, STATE_TEMP_NAME, inodes_fd, STATE_NAME) ? -errno : 0;
}

int rvl_state_save(const struct rvl_state *state, int inodes_fd, bool is_volatile)
{
	_cleanup_free_ uint8_t *data = NULL;
	_cleanup_close_ int fd = -EBADF;
	size_t len;
	int r = rvl_state_encode(state, &data, &len);

	if (r)
		return r;
	fd = open_temp(inodes_fd);
	if (fd < 0)
		return fd;
	r = write_all(fd, data, len);
	if (!r && ftruncate(fd, (off_t)len))
		r = -errno;
	if (!r && !is_volatile && fsync(fd))
		r = -errno;
	r = r ?: take_place(inodes_fd);
	if (r)
		return r;
	if (!is_volatile && fsync(inodes_fd))
		return -errno;
	return 0;
}

struct rvl_state_instance *rvl_state_instance_by_id(const struct rvl_state *state, uint16_t id)
{
	for (unsigned i = 0; i < state->n_instances; i++)
		if (state->instances[i].id == id)
			return &state->instances[i];
	return NULL;
}

struct rvl_state_instance *rvl_state_instance_by_digest(const struct rvl_state *state,
							const uint8_t digest[16])
{
	for (unsigned i = 0; i < state->n_instances; i++)
		if (!memcmp(state->instances[i].digest, digest, 16))
			return &state->instances[i];
	return NULL;
}

struct rvl_state_instance *rvl_state_instance_by_identity(const struct rvl_state *state,
							  const struct rvl_identity *identity)
{
	struct rvl_state_instance *found = NULL;

	for (unsigned i = 0; i < state->n_instances; i++) {
		struct rvl_state_instance *instance = &state->instances[i];
		struct rvl_identity_record record = rvl_state_instance_record(instance);

		if (instance->flags & RVL_INSTANCE_RETIRED ||
		    !rvl_identity_is(identity, &record, false))
			continue;
		if (!memcmp(instance->digest, identity->digest, 16))
			return instance;
		found = found ?: instance;
	}
	return found;
}

static bool id_is_used(const struct rvl_state *state, unsigned id)
{
	return state->used_ids[id / 64] >> (id % 64) & 1;
}

int rvl_state_instance_free_id(const struct rvl_state *state, uint16_t from, uint16_t *ret)
{
	unsigned limit = state->volatile_low;
	unsigned id = from < limit ? from : 1;

	for (unsigned tries = 0; tries <= limit; tries++) {
		if (!id_is_used(state, id)) {
			*ret = (uint16_t)id;
			return 0;
		}
		if (++id >= limit)
			id = 1;
	}
	return -EOVERFLOW;
}

int rvl_state_instance_add(struct rvl_state *state, const struct rvl_state_instance *instance)
{
	unsigned n = state->n_instances;

	if (n >= RVL_STATE_INSTANCES_MAX)
		return -EOVERFLOW;
	if (id_is_used(state, instance->id))
		return -EEXIST;
	if ((n & (n - 1)) == 0) { /* full: it doubles */
		struct rvl_state_instance *instances =
			reallocarray(state->instances, n ? 2 * n : 1, sizeof(*instances));

		if (!instances)
			return -ENOMEM;
		state->instances = instances;
	}
	state->instances[state->n_instances++] = *instance;
	state->used_ids[instance->id / 64] |= 1ULL << (instance->id % 64);
	return 0;
}

void rvl_boot_id_get(uint8_t ret[16])
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char text[64] = "";
	unsigned n = 0;

	memset(ret, 0, 16);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return;
	for (const char *p = text; *p && n < 32; p++) {
		unsigned digit;

		if (*p >= '0' && *p <= '9')
			digit = (unsigned)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			digit = (unsigned)(*p - 'a') + 10;
		else
			continue;
		ret[n / 2] = (uint8_t)(ret[n / 2] << 4 | digit);
		n++;
	}
}
