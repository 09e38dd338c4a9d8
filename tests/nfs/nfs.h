/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client that speaks NFSv3 and NFSv4.0 by raw file handles, one call at a time, and caches nothing. It is what a
 * kernel's client does on the wire, but here the test decides which handle is used when.
 */
#ifndef RVL_TEST_NFS_H
#define RVL_TEST_NFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rpc_context;

#define FH_MAX 128
#define NAME_BYTES_MAX 255
#define READ_MAX (256 * 1024) /* a call */
#define WRITE_MAX 32768 /* a call; libnfs 4.0 fails at v4 writes of 64 KiB */
#define CALL_TIMEOUT_MS 30000

/* Errors of our own; those of the protocol are positive (nfsstat3 and nfsstat4 agree in what tests look at). */
enum { NFS_TIMEOUT = -1, NFS_DISCONNECTED = -2, NFS_MALFORMED = -3 };

struct fh {
	unsigned len;
	uint8_t data[FH_MAX];
};

/* Type as in ftype3 and nfs_ftype4 (1 file, 2 directory, 3 block, 4 character, 5 symlink, 6 socket, 7 fifo). */
struct attr {
	unsigned type, mode, nlink, uid, gid;
	uint64_t size, fileid, fsid[2], mtime_s;
	uint32_t mtime_ns;
};

struct entry {
	uint64_t cookie, fileid;
	unsigned name_len;
	const char *name; /* valid while the callback runs */
};
typedef void entry_fn(void *arg, const struct entry *entry);

struct data {
	unsigned len;
	bool is_eof;
	uint8_t bytes[READ_MAX];
};

/* All return 0 or an error as above. Names are NUL-terminated. */
struct version_ops {
	int version;
	int (*root)(struct rpc_context *rpc, const char *host, int mount_port, const char *path,
		    struct fh *ret);
	int (*getattr)(struct rpc_context *rpc, const struct fh *fh, struct attr *ret);
	int (*lookup)(struct rpc_context *rpc, const struct fh *dir, const char *name,
		      struct fh *ret, struct attr *ret_attr);
	int (*read)(struct rpc_context *rpc, const struct fh *fh, uint64_t offset, unsigned len,
		    struct data *ret);
	int (*write)(struct rpc_context *rpc, const struct fh *fh, uint64_t offset,
		     const struct data *data);
	int (*readlink)(struct rpc_context *rpc, const struct fh *fh, struct data *ret);
	int (*chmod)(struct rpc_context *rpc, const struct fh *fh, unsigned mode);
	int (*create)(struct rpc_context *rpc, const struct fh *dir, const char *name,
		      struct fh *ret); /* NULL: not in this client */
	int (*mkdir)(struct rpc_context *rpc, const struct fh *dir, const char *name,
		     struct fh *ret);
	int (*remove)(struct rpc_context *rpc, const struct fh *dir, const char *name);
	int (*rmdir)(struct rpc_context *rpc, const struct fh *dir, const char *name);
	int (*rename)(struct rpc_context *rpc, const struct fh *from, const char *name,
		      const struct fh *to, const char *to_name);
	int (*link)(struct rpc_context *rpc, const struct fh *fh, const struct fh *dir,
		    const char *name);
	/* One call from a cookie on. verf: 8 bytes, in and out. */
	int (*list)(struct rpc_context *rpc, const struct fh *dir, uint64_t cookie,
		    uint8_t verf[8], unsigned count, entry_fn *fn, void *arg, bool *ret_eof);
};
extern const struct version_ops nfs_v3, nfs_v4;

/* ---- rpc.c ---- */

/* A call in flight: its callback fills what it needs, sets status and is_done. */
struct call {
	bool is_done;
	int status;
	void *out[3]; /* of the callback's own use */
	void *arg;
	entry_fn *fn;
};
/* NULL: no connection in time. */
struct rpc_context *rpc_open(const char *host, int port, int program, int version);
/* queued: what rpc_*_async returned. Runs till the callback came. */
int rpc_wait(struct rpc_context *rpc, int queued, struct call *call);
/* First line of every callback: false when there is no reply. */
bool rpc_got(struct call *call, int rpc_status, void *reply);

#endif
