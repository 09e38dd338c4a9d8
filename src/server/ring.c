// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One io_uring with one entry for FUSE. By system calls: it takes two of them and three mappings,
 * which is less than a library.
 *
 * A request comes in three parts, header, operation's header and payload. libfuse wants them in one
 * piece, so the first two are copied into the room before the payload.
 */
#include "server/ring.h"

#include <assert.h>
#include <errno.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define N_ENTRIES 1
#define HEADER_SIZE \
	128 /* of either header (FUSE_URING_IN_OUT_HEADER_SZ, FUSE_URING_OP_IN_OUT_SZ) */
#define ROOM 4096 /* before the payload */

/* ---- the kernel's interface, which older <linux/fuse.h> do not have ---- */

enum { CMD_REGISTER = 1, CMD_COMMIT_AND_FETCH = 2 };

struct ring_header {
	char in_out[HEADER_SIZE]; /* fuse_in_header, then fuse_out_header */
	char op_in[HEADER_SIZE];
	uint64_t flags;
	uint64_t commit_id;
	uint32_t payload_size;
	uint32_t padding;
	uint64_t reserved;
};
static_assert(sizeof(struct ring_header) == 288, "struct fuse_uring_req_header");

struct ring_command {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t queue;
	uint8_t padding[6];
};
static_assert(sizeof(struct ring_command) == 24, "struct fuse_uring_cmd_req");

struct rvl_ring {
	int fd; /* owned */
	int fuse_fd; /* borrowed */
	unsigned queue;
	bool is_unsubmitted; /* an entry of the submission queue waits for the next call */

	void *rings; /* mapped: both queues */
	size_t rings_size;
	struct io_uring_sqe *sqe; /* mapped: the only one, with the 64 bytes that follow it */
	size_t sqe_size;
	_Atomic uint32_t *sq_tail;
	_Atomic uint32_t *cq_head, *cq_tail;
	uint32_t cq_mask;
	const struct io_uring_cqe *cqes;

	struct ring_header *header; /* mapped, with room and payload after it */
	size_t header_size;
	char *payload;
	size_t payload_size;
	struct iovec iov[2];
	uint64_t unique; /* of the request given out */
};

/* What is in the entry is to be submitted with the next call. */
static void push(struct rvl_ring *ring)
{
	atomic_fetch_add_explicit(ring->sq_tail, 1, memory_order_release);
	ring->is_unsubmitted = true;
}

/* Submits what is prepared, and waits for n_wait results. */
static int enter(struct rvl_ring *ring, unsigned n_wait)
{
	const unsigned n_submit = ring->is_unsubmitted ? 1 : 0;

	if (syscall(SYS_io_uring_enter, ring->fd, n_submit, n_wait, IORING_ENTER_GETEVENTS, NULL,
		    0) < 0)
		return -errno;
	ring->is_unsubmitted = false;
	return 0;
}

/* The result of a command, if there is one: 1 with *ret, else 0. */
static int take_result(struct rvl_ring *ring, int *ret)
{
	const uint32_t head = atomic_load_explicit(ring->cq_head, memory_order_relaxed);

	if (head == atomic_load_explicit(ring->cq_tail, memory_order_acquire))
		return 0;
	*ret = ring->cqes[head & ring->cq_mask].res;
	atomic_store_explicit(ring->cq_head, head + 1, memory_order_release);
	return 1;
}

static int map_queues(struct rvl_ring *ring, const struct io_uring_params *p)
{
	const size_t sq_size = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
	const size_t cq_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	char *rings;
	void *sqe;

	if (!(p->features & IORING_FEAT_SINGLE_MMAP))
		return -EINVAL;
	ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
	rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		     ring->fd, IORING_OFF_SQ_RING);
	if (rings == MAP_FAILED)
		return -errno;
	ring->rings = rings;
	ring->sqe_size = p->sq_entries * 2 * sizeof(struct io_uring_sqe);
	sqe = mmap(NULL, ring->sqe_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		   ring->fd, IORING_OFF_SQES);
	if (sqe == MAP_FAILED)
		return -errno;
	ring->sqe = sqe;
	ring->sq_tail = (_Atomic uint32_t *)(rings + p->sq_off.tail);
	/* slot 0 is entry 0, and the only one */
	*(uint32_t *)(rings + p->sq_off.array) = 0;
	ring->cq_head = (_Atomic uint32_t *)(rings + p->cq_off.head);
	ring->cq_tail = (_Atomic uint32_t *)(rings + p->cq_off.tail);
	ring->cq_mask = *(uint32_t *)(rings + p->cq_off.ring_mask);
	ring->cqes = (struct io_uring_cqe *)(rings + p->cq_off.cqes);
	return 0;
}

static int map_buffers(struct rvl_ring *ring, size_t payload_size)
{
	const size_t header_size = ROOM; /* a page of its own */
	char *memory = mmap(NULL, header_size + ROOM + payload_size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	ring->header = (struct ring_header *)memory;
	ring->payload = memory + header_size + ROOM;
	ring->payload_size = payload_size;
	ring->iov[0] = (struct iovec){ .iov_base = ring->header, .iov_len = sizeof(*ring->header) };
	ring->iov[1] = (struct iovec){ .iov_base = ring->payload, .iov_len = payload_size };
	return 0;
}

/* The result of a command, waited for: 0 with *ret; or -errno of io_uring_enter(2). */
static int wait_result(struct rvl_ring *ring, int *ret)
{
	int r = 0;

	while (r == 0 && !take_result(ring, ret))
		r = enter(ring, 1);
	return r;
}

/*
 * A ring may be made and yet not be used (seccomp denies io_uring_enter). That must be found before the
 * reply to INIT promises it: a command that does nothing goes round.
 */
static int try_out(struct rvl_ring *ring)
{
	int r, result = 0;

	memset(ring->sqe, 0, 2 * sizeof(*ring->sqe));
	ring->sqe->opcode = IORING_OP_NOP;
	push(ring);
	do
		r = wait_result(ring, &result);
	while (r == -EINTR);
	return r < 0 ? r : result;
}

int rvl_ring_new(int fuse_fd, unsigned queue, size_t payload_size, struct rvl_ring **ret)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
			 IORING_SETUP_DEFER_TASKRUN,
	};
	struct rvl_ring *ring = calloc(1, sizeof(*ring));
	int r = 0;

	if (!ring)
		return -ENOMEM;
	ring->fuse_fd = fuse_fd;
	ring->queue = queue;
	ring->fd = syscall(SYS_io_uring_setup, N_ENTRIES, &params);
	if (ring->fd < 0)
		r = -errno;
	if (r == 0)
		r = map_queues(ring, &params);
	if (r == 0)
		r = map_buffers(ring, payload_size);
	if (r == 0)
		r = try_out(ring);
	if (r < 0) {
		rvl_ring_free(ring);
		return r;
	}
	*ret = ring;
	return 0;
}

void rvl_ring_free(struct rvl_ring *ring)
{
	if (!ring)
		return;
	rvl_close(ring->fd);
	if (ring->sqe)
		munmap(ring->sqe, ring->sqe_size);
	if (ring->rings)
		munmap(ring->rings, ring->rings_size);
	if (ring->header)
		munmap(ring->header, 2 * ROOM + ring->payload_size);
	free(ring);
}

/* ---- commands ---- */

/* The command is read by the kernel at the next enter(). */
static void prepare(struct rvl_ring *ring, uint32_t op)
{
	const struct ring_command command = { .commit_id = ring->header->commit_id,
					      .queue = ring->queue };
	struct io_uring_sqe *sqe = ring->sqe;

	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = ring->fuse_fd;
	sqe->cmd_op = op;
	if (op == CMD_REGISTER) {
		sqe->addr = (uintptr_t)ring->iov;
		sqe->len = 2;
	}
	memcpy(sqe->cmd, &command, sizeof(command));
	push(ring);
}

/* What has come, in one piece. */
static int assemble(struct rvl_ring *ring, void **ret, size_t *ret_size)
{
	struct fuse_in_header in;
	size_t op_size;
	char *at;

	memcpy(&in, ring->header->in_out, sizeof(in));
	if (in.len < sizeof(in) + ring->header->payload_size ||
	    ring->header->payload_size > ring->payload_size)
		return -EPROTO;
	op_size = in.len - sizeof(in) - ring->header->payload_size;
	if (op_size > HEADER_SIZE)
		return -EPROTO;
	at = ring->payload - op_size;
	memcpy(at, ring->header->op_in, op_size);
	at -= sizeof(in);
	memcpy(at, &in, sizeof(in));
	ring->unique = in.unique;
	*ret = at;
	*ret_size = in.len;
	return 0;
}

/* Give the kernel what was prepared, and wait for nothing. */
static int submit(struct rvl_ring *ring)
{
	int r;

	do
		r = enter(ring, 0);
	while (r == -EINTR);
	return r;
}

int rvl_ring_register(struct rvl_ring *ring)
{
	const int32_t *result;
	uint32_t head;
	int r;

	prepare(ring, CMD_REGISTER);
	r = submit(ring);
	head = atomic_load_explicit(ring->cq_head, memory_order_relaxed);
	if (r < 0 || head == atomic_load_explicit(ring->cq_tail, memory_order_acquire))
		return r;
	/* refused; or the first request is there already, which is left to be waited for */
	result = &ring->cqes[head & ring->cq_mask].res;
	return *result < 0 ? *result : 0;
}

int rvl_ring_wait(struct rvl_ring *ring, void **ret, size_t *ret_size)
{
	int result, r = wait_result(ring, &result);

	if (r < 0)
		return r;
	return result < 0 ? result : assemble(ring, ret, ret_size);
}

void rvl_ring_flush(struct rvl_ring *ring)
{
	if (ring->is_unsubmitted)
		(void)submit(ring);
}

/* ---- replies ---- */

bool rvl_ring_is_asked(const struct rvl_ring *ring, uint64_t unique)
{
	return ring->unique && ring->unique == unique;
}

ssize_t rvl_ring_reply(struct rvl_ring *ring, const struct iovec *iov, int count)
{
	size_t size = 0;

	for (int i = 1; i < count; i++) {
		if (iov[i].iov_len > ring->payload_size - size) {
			errno = EINVAL;
			return -1;
		}
		if (iov[i].iov_base != ring->payload + size)
			memmove(ring->payload + size, iov[i].iov_base, iov[i].iov_len);
		size += iov[i].iov_len;
	}
	memcpy(ring->header->in_out, iov[0].iov_base, sizeof(struct fuse_out_header));
	ring->header->payload_size = size;
	ring->unique = 0;
	prepare(ring, CMD_COMMIT_AND_FETCH);
	return sizeof(struct fuse_out_header) + size;
}

char *rvl_ring_payload(struct rvl_ring *ring, size_t *ret_size)
{
	*ret_size = ring->payload_size;
	return ring->payload;
}
