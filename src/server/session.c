// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The FUSE session: mount, what is agreed with the kernel, threads, signals, end.
 *
 *   main thread   rvl_transport_serve, until the end: reads what comes beside the rings, or watches
 *                 over the readers
 *   workers       of the transport (transport.c); each answers one request at a time
 *   signal thread waits for SIGTERM, SIGINT, SIGHUP; then writes dirty pages out and unmounts,
 *                 while the workers still serve; a second signal kills
 *   others        make owed index entries; build the map, and complete the index, where that is
 *                 to be done
 *
 * What is asked of the kernel is in one table.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/path.h"
#include "server/awake.h"
#include "server/passthrough.h"
#include "server/reply.h"
#include "server/requests.h"
#include "server/server.h"
#include "server/transport.h"

#define MAX_BACKGROUND 64 /* read-ahead and direct I/O in flight */

/* ---- INIT ---- */

enum { ALWAYS, WITH_ACL, WITH_KILLPRIV, WITHOUT_OPEN, WITH_PASSTHROUGH, NEVER };

static const struct {
	uint64_t flag;
	int when;
	const char *name;
} capabilities[] = {
	{ FUSE_CAP_EXPORT_SUPPORT, ALWAYS, "handles" },
	{ FUSE_CAP_ASYNC_READ, ALWAYS, "asynchronous reads" },
	{ FUSE_CAP_ASYNC_DIO, ALWAYS, "asynchronous direct I/O" },
	{ FUSE_CAP_NO_OPEN_SUPPORT, WITHOUT_OPEN, "files opened without asking" },
	{ FUSE_CAP_NO_OPENDIR_SUPPORT, ALWAYS, "directories opened without asking" },
	{ FUSE_CAP_PASSTHROUGH, WITH_PASSTHROUGH, "passthrough" },
	/* not together with passthrough (fs/fuse/inode.c, process_init_reply) */
	{ FUSE_CAP_WRITEBACK_CACHE, NEVER, "writeback cache" },
	{ FUSE_CAP_PARALLEL_DIROPS, ALWAYS, "parallel look-ups" },
	{ FUSE_CAP_READDIRPLUS, ALWAYS, "readdirplus" },
	{ FUSE_CAP_READDIRPLUS_AUTO, NEVER, "readdirplus by the kernel's guess" }, /* lister.h */
	{ FUSE_CAP_DONT_MASK, ALWAYS, "umask to us" },
	{ FUSE_CAP_CACHE_SYMLINKS, ALWAYS, "symlink cache" },
	{ FUSE_CAP_IOCTL_DIR, ALWAYS, "ioctl on directories" },
	{ FUSE_CAP_SPLICE_WRITE, ALWAYS, "replies by splice" },
	{ FUSE_CAP_POSIX_ACL, WITH_ACL, "POSIX ACLs" },
#ifdef RVL_HAVE_FUSE_KILL_SUIDGID
	/* Without it each write asks for security.capability first. */
	{ FUSE_CAP_HANDLE_KILLPRIV_V2, ALWAYS, "setuid cleared by us" },
#endif
	/* else the kernel leaves setuid where it is (fs/fuse/dir.c, fuse_do_setattr with ATTR_OPEN) */
	{ FUSE_CAP_ATOMIC_O_TRUNC, WITH_KILLPRIV, "O_TRUNC with open" },
	/* Data changes only through us: no checks of mtime, nothing dropped but by our word. */
	{ FUSE_CAP_EXPLICIT_INVAL_DATA, ALWAYS, "explicit invalidation" },
	{ FUSE_CAP_AUTO_INVAL_DATA, NEVER, "invalidation by mtime" },
	/*
	 * Costs two more system calls for each request, and writes are copied to the layer's page
	 * cache anyway.
	 */
	{ FUSE_CAP_SPLICE_READ, NEVER, "requests by splice" },
	{ FUSE_CAP_SPLICE_MOVE, NEVER, "replies by moved pages" },
	/* Locks are the kernel's own business. */
	{ FUSE_CAP_POSIX_LOCKS, NEVER, "remote POSIX locks" },
	{ FUSE_CAP_FLOCK_LOCKS, NEVER, "remote flock" },
};

/* Once the capability has been asked for. */
static bool has_killpriv(struct fuse_conn_info *conn)
{
#ifdef RVL_HAVE_FUSE_KILL_SUIDGID
	return fuse_get_feature_flag(conn, FUSE_CAP_HANDLE_KILLPRIV_V2);
#else
	return false;
#endif
}

static bool is_wanted(const struct rvl_server *server, struct fuse_conn_info *conn, int when)
{
	switch (when) {
	case ALWAYS:
		return true;
	case WITH_ACL:
		return server->has_acl;
	case WITH_KILLPRIV:
		return server->has_open && has_killpriv(conn);
	case WITH_PASSTHROUGH:
		return server->has_open && server->options.has_passthrough;
	case WITHOUT_OPEN:
		return !server->has_open;
	default:
		return false;
	}
}

static void init(void *userdata, struct fuse_conn_info *conn)
{
	struct rvl_server *server = userdata;

	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++) {
		if (!is_wanted(server, conn, capabilities[i].when))
			fuse_unset_feature_flag(conn, capabilities[i].flag);
		else if (!fuse_set_feature_flag(conn, capabilities[i].flag))
			rvl_debug("the kernel does not have: %s", capabilities[i].name);
	}
	conn->max_write = RVL_MAX_WRITE;
	conn->max_background = MAX_BACKGROUND;
	conn->time_gran = 1;
	/* Who looks at the mount now waits for the reply that follows. */
	rvl_daemon_ready(&server->daemon);
}

static const struct fuse_lowlevel_ops operations = {
	.init = init,
	.lookup = rvl_req_lookup,
	.forget = rvl_req_forget,
	.forget_multi = rvl_req_forget_multi,
	.getattr = rvl_req_getattr,
	.setattr = rvl_req_setattr,
	.readlink = rvl_req_readlink,
	.mknod = rvl_req_mknod,
	.mkdir = rvl_req_mkdir,
	.unlink = rvl_req_unlink,
	.rmdir = rvl_req_rmdir,
	.symlink = rvl_req_symlink,
	.rename = rvl_req_rename,
	.link = rvl_req_link,
	.open = rvl_req_open,
	.read = rvl_req_read,
	.write_buf = rvl_req_write_buf,
	.release = rvl_req_release,
	.fsync = rvl_req_fsync,
	.opendir = rvl_req_opendir,
	.readdirplus = rvl_req_readdirplus,
	.fsyncdir = rvl_req_fsync,
	.statfs = rvl_req_statfs,
	.setxattr = rvl_req_setxattr,
	.getxattr = rvl_req_getxattr,
	.listxattr = rvl_req_listxattr,
	.removexattr = rvl_req_removexattr,
	.create = rvl_req_create,
	.tmpfile = rvl_req_tmpfile,
	.ioctl = rvl_req_ioctl,
	.fallocate = rvl_req_fallocate,
	.copy_file_range = rvl_req_copy_file_range,
	.lseek = rvl_req_lseek,
#ifdef RVL_HAVE_FUSE_STATX
	.statx = rvl_req_statx,
#endif
};

/* ---- libfuse's messages ---- */

__attribute__((format(printf, 2, 0))) static void log_fuse(enum fuse_log_level level,
							   const char *format, va_list args)
{
	char line[1024];
	size_t len;

	if (!rvl_log_is_shown((int)level))
		return;
	vsnprintf(line, sizeof(line), format, args);
	len = strlen(line);
	while (len > 0 && line[len - 1] == '\n')
		line[--len] = '\0';
	if (len > 0)
		rvl_log((int)level, "%s", line);
}

/* ---- signals ---- */

static void end_signals(sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, SIGTERM);
	sigaddset(ret, SIGINT);
	sigaddset(ret, SIGHUP);
}

/*
 * The device number of what is mounted at our mount point, 0 where that cannot be told. Asks the
 * kernel only, not ourselves: it may be called before anything is served.
 */
static dev_t mounted_device(const struct rvl_server *server)
{
	struct statx stx;

	if (statx(AT_FDCWD, server->mount_point, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &stx) < 0)
		return 0;
	return rvl_statx_dev(&stx);
}

/* Unmounts while the workers serve, unless it was done already, or another mount covers ours. */
static void unmount(struct rvl_server *server)
{
	int fd;

	if (server->device == 0 || mounted_device(server) != server->device)
		return;
	/* What was stored through a shared mapping is still the kernel's. */
	fd = open(server->mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		syncfs(fd);
		close(fd);
	}
	/* Where that is not allowed, fuse_session_unmount asks fusermount3. */
	server->is_unmounted = umount2(server->mount_point, MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
}

static void *wait_for_signal(void *arg)
{
	struct rvl_server *server = arg;
	sigset_t set;
	int number;

	end_signals(&set);
	if (sigwait(&set, &number) != 0)
		return NULL;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	rvl_info("signal %d: unmounting %s", number, server->mount_point);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	/* requests that wait for a walk end */
	rvl_overlay_stop(server->overlay);
	unmount(server);
	rvl_transport_stop(server->transport);
	return NULL;
}

/* ---- the map, built early for nfs_export=on ---- */

static void *build_map(void *arg)
{
	struct rvl_server *server = arg;
	int r = rvl_overlay_build_map(server->overlay);

	if (r < 0 && r != -EINTR)
		rvl_warn(
			"the map of the lower layers is not complete (%s): handles are decoded later",
			strerror(-r));
	return NULL;
}

/* ---- the index, completed after an unclean stop of the machine ---- */

static void *complete(void *arg)
{
	struct rvl_server *server = arg;

	(void)rvl_overlay_complete(server->overlay); /* it has said what there is to say */
	return NULL;
}

/* ---- entries of new objects, which are owed ---- */

static void *pay_debts(void *arg)
{
	struct rvl_server *server = arg;

	rvl_overlay_pay_debts(server->overlay);
	return NULL;
}

/* ---- the session's life ---- */

static int serve(struct rvl_server *server)
{
	const bool is_incomplete = rvl_overlay_is_incomplete(server->overlay);
	pthread_t thread, map_thread, complete_thread, debt_thread;
	bool has_map_thread, has_debt_thread;
	int r = -pthread_create(&thread, NULL, wait_for_signal, server);

	if (r == 0 && is_incomplete) {
		r = -pthread_create(&complete_thread, NULL, complete, server);
		if (r < 0)
			pthread_cancel(thread);
	}
	if (r == 0) {
		has_map_thread = server->options.has_nfs_export &&
				 pthread_create(&map_thread, NULL, build_map, server) == 0;
		has_debt_thread = pthread_create(&debt_thread, NULL, pay_debts, server) == 0;
		r = rvl_transport_serve(server->transport);
		pthread_cancel(thread);
		pthread_join(thread, NULL);
		rvl_overlay_stop(server->overlay);
		if (is_incomplete)
			pthread_join(complete_thread, NULL);
		if (has_map_thread)
			pthread_join(map_thread, NULL);
		if (has_debt_thread)
			pthread_join(debt_thread, NULL);
	}
	if (r < 0)
		rvl_error("serving %s: %s", server->mount_point, strerror(-r));
	return r < 0 ? r : 0;
}

static struct fuse_session *new_session(struct rvl_server *server)
{
	_cleanup_free_ char *text = NULL;
	char program[] = "reverlay", dash_o[] = "-o";
	char *argv[] = { program, dash_o, NULL, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	struct fuse_session *session;

	if (rvl_options_for_fuse(&server->options, &text) < 0)
		return NULL;
	argv[2] = text;
	/* of libfuse's own io_uring; the transport is chosen in transport.c */
	unsetenv("FUSE_URING_ENABLE");
	session = fuse_session_new(&args, &operations, sizeof(operations), server);
	fuse_opt_free_args(&args);
	return session;
}

int rvl_session_run(struct rvl_server *server)
{
	sigset_t set;
	int r;

	fuse_set_log_func(log_fuse);
	server->session = new_session(server);
	if (!server->session) {
		rvl_error("libfuse does not take the options of the mount");
		return -EINVAL;
	}
	/* From here on a signal must unmount. */
	end_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (fuse_session_mount(server->session, server->mount_point) != 0) {
		rvl_error("cannot mount on %s", server->mount_point);
		fuse_session_destroy(server->session);
		return -EIO;
	}
	server->device = mounted_device(server);
	r = rvl_passthrough_new(server, &server->passthrough);
	if (r == 0)
		r = rvl_transport_new(server, &server->transport);
	if (r == 0)
		r = serve(server);
	rvl_transport_free(server->transport);
	rvl_passthrough_free(server->passthrough);
	rvl_awake_free(server->awake);
	/* another mount that covers ours is not ours to end; without its descriptor ours is dead */
	if (!server->is_unmounted &&
	    (server->device == 0 || mounted_device(server) == server->device))
		fuse_session_unmount(server->session);
	fuse_session_destroy(server->session);
	server->session = NULL;
	return r;
}
