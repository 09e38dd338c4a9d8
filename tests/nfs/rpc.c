// SPDX-License-Identifier: GPL-2.0-or-later
/* One RPC at a time on libnfs's asynchronous calls. */
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <poll.h>
#include <time.h>

#include "nfs.h"

#define POLL_MS 100

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

int rpc_wait(struct rpc_context *rpc, int queued, struct call *call)
{
	const int64_t end = now_ms() + CALL_TIMEOUT_MS;

	if (queued != 0)
		return NFS_DISCONNECTED;
	while (!call->is_done) {
		struct pollfd pfd = { .fd = rpc_get_fd(rpc), .events = rpc_which_events(rpc) };

		if (now_ms() > end) {
			rpc_disconnect(rpc, "timeout");
			return NFS_TIMEOUT;
		}
		if (poll(&pfd, 1, POLL_MS) < 0 || pfd.fd < 0)
			return NFS_DISCONNECTED;
		if (rpc_service(rpc, pfd.revents) < 0 && !call->is_done)
			return NFS_DISCONNECTED;
	}
	return call->status;
}

bool rpc_got(struct call *call, int rpc_status, void *reply)
{
	call->is_done = true;
	if (rpc_status == RPC_STATUS_SUCCESS && reply)
		return true;
	call->status = NFS_DISCONNECTED;
	return false;
}

static void on_connect(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;

	(void)rpc;
	(void)reply;
	call->is_done = true;
	call->status = status == RPC_STATUS_SUCCESS ? 0 : NFS_DISCONNECTED;
}

struct rpc_context *rpc_open(const char *host, int port, int program, int version)
{
	struct rpc_context *rpc = rpc_init_context();
	struct call call = {};

	if (!rpc)
		return NULL;
	if (rpc_wait(rpc,
		     rpc_connect_port_async(rpc, host, port, program, version, on_connect, &call),
		     &call) == 0)
		return rpc;
	rpc_destroy_context(rpc);
	return NULL;
}
