// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A server under ptrace. A seccomp filter, inherited by the program, stops each thread only at
 * system calls that may change something; of those the ones that do are counted: opens without
 * O_CREAT and O_TRUNC are not. The answer to the kernel (write on /dev/fuse) counts as well: before
 * it the work is done and not acknowledged.
 *
 * SIGKILL at a stop before a system call: it is not made (kernel/seccomp.c, __seccomp_filter,
 * "fatal_signal_pending"). After one: the thread runs on to the end of that call, then it dies.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/ptrace.h>

#include "crash.h"

#ifndef SYS_setxattrat
#define SYS_setxattrat 463
#define SYS_removexattrat 466
#endif

/* fd: which argument is the descriptor that tells the target; name: which is the name beside it;
 * -1: none */
static const struct watched {
	long nr;
	const char *name;
	int fd, path;
} watched[] = {
	{ SYS_openat, "openat", 0, 1 },
	{ SYS_openat2, "openat2", 0, 1 },
	{ SYS_mkdirat, "mkdirat", 0, 1 },
	{ SYS_mknodat, "mknodat", 0, 1 },
	{ SYS_unlinkat, "unlinkat", 0, 1 },
	{ SYS_renameat, "renameat", 2, 3 },
	{ SYS_renameat2, "renameat2", 2, 3 },
	{ SYS_linkat, "linkat", 2, 3 },
	{ SYS_symlinkat, "symlinkat", 1, 2 },
	{ SYS_fchmod, "fchmod", 0, -1 },
	{ SYS_fchmodat, "fchmodat", 0, 1 },
	{ 452, "fchmodat2", 0, 1 },
	{ SYS_fchown, "fchown", 0, -1 },
	{ SYS_fchownat, "fchownat", 0, 1 },
	{ SYS_utimensat, "utimensat", 0, 1 },
	{ SYS_setxattr, "setxattr", -1, 0 },
	{ SYS_lsetxattr, "lsetxattr", -1, 0 },
	{ SYS_fsetxattr, "fsetxattr", 0, -1 },
	{ SYS_setxattrat, "setxattrat", 0, 1 },
	{ SYS_removexattr, "removexattr", -1, 0 },
	{ SYS_lremovexattr, "lremovexattr", -1, 0 },
	{ SYS_fremovexattr, "fremovexattr", 0, -1 },
	{ SYS_removexattrat, "removexattrat", 0, 1 },
	{ SYS_write, "write", 0, -1 },
	{ SYS_writev, "writev", 0, -1 },
	{ SYS_pwrite64, "pwrite", 0, -1 },
	{ SYS_pwritev, "pwritev", 0, -1 },
	{ SYS_pwritev2, "pwritev2", 0, -1 },
	{ SYS_ftruncate, "ftruncate", 0, -1 },
	{ SYS_fallocate, "fallocate", 0, -1 },
	{ SYS_copy_file_range, "copy_file_range", 2, -1 },
	{ SYS_sendfile, "sendfile", 0, -1 },
	{ SYS_splice, "splice", 2, -1 },
	{ SYS_ioctl, "ioctl", 0, -1 },
	{ SYS_msync, "msync", -1, -1 },
	{ SYS_mount, "mount", -1, 1 },
};
#define N_WATCHED (sizeof(watched) / sizeof(watched[0]))

static const struct watched *watched_of(uint64_t nr)
{
	for (size_t i = 0; i < N_WATCHED; i++)
		if ((uint64_t)watched[i].nr == nr)
			return &watched[i];
	return NULL;
}

/* ---- the child ---- */

/* Of a life in which nothing is counted: mount(2) alone. */
static void filter(bool is_counted)
{
	struct sock_filter code[N_WATCHED + 3];
	struct sock_fprog program = { .filter = code };
	unsigned n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < N_WATCHED; i++)
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							 (unsigned)watched[i].nr,
							 is_counted || watched[i].nr == SYS_mount ?
								 (unsigned char)(N_WATCHED - i) :
								 0,
							 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
	program.len = (unsigned short)n;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		_exit(126);
}

pid_t trace_start(const struct trace *trace, char *const argv[], const char *log)
{
	int go[2];
	pid_t pid;
	char byte = 0;

	if (pipe2(go, O_CLOEXEC) < 0)
		die("pipe: %m");
	pid = fork();
	if (pid < 0)
		die("fork: %m");
	if (pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (fd >= 0)
			dup2(fd, STDERR_FILENO);
		if (read(go[0], &byte, 1) != 1)
			_exit(126);
		filter(!trace->is_idle);
		execv(argv[0], argv);
		_exit(127);
	}
	close(go[0]);
	if (ptrace(PTRACE_SEIZE, pid, NULL,
		   PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE |
			   PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACESYSGOOD) < 0)
		die("ptrace: %m");
	if (write(go[1], &byte, 1) != 1)
		die("pipe: %m");
	close(go[1]);
	return pid;
}

/* ---- one stop ---- */

static bool read_memory(pid_t pid, uint64_t address, void *buf, size_t size)
{
	struct iovec local = { buf, size }, remote = { (void *)address, size };

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) > 0;
}

/* Does this call change anything? */
static bool changes(pid_t pid, const struct watched *call, const uint64_t *args)
{
	struct open_how how = {};

	switch (call->nr) {
	case SYS_openat:
		return args[2] & (O_CREAT | O_TRUNC);
	case SYS_openat2:
		return read_memory(pid, args[2], &how, sizeof(how)) &&
		       (how.flags & (O_CREAT | O_TRUNC) || (how.flags & O_TMPFILE) == O_TMPFILE);
	case SYS_ioctl:
		/* FICLONE, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR */
		return args[1] == 0x40049409 || args[1] == 0x40086602 || args[1] == 0x401c5820;
	case SYS_mount:
		return false;
	default:
		return true;
	}
}

/* "mkdirat work/": what kind of place, without the numbers in it. */
static void describe(pid_t pid, const struct watched *call, const uint64_t *args, char *ret,
		     size_t size)
{
	char link[64], target[PATH_MAX] = "", name[64] = "";
	const char *kind = "upper";
	ssize_t n = 0;

	if (call->fd >= 0) {
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, (int)args[call->fd]);
		n = readlink(link, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
	}
	if (call->path >= 0 && read_memory(pid, args[call->path], name, sizeof(name) - 1))
		name[strcspn(name, "0123456789#")] = '\0';
	if (strstr(target, "/inodes/log"))
		kind = "log";
	else if (strstr(target, "/inodes"))
		kind = "index";
	else if (strstr(target, "/work/work"))
		kind = "work";
	else if (strstr(target, "/dev/fuse"))
		kind = "reply";
	else if (strstr(target, "pipe:") || strstr(target, "/dev/"))
		kind = "pipe";
	else
		name[0] = '\0';
	snprintf(ret, size, "%s%s %s%s%.24s", shared->n_done == shared->n_steps ? "end: " : "",
		 call->name, kind, *name ? "/" : "", name);
}

static void kill_server(struct trace *trace, pid_t server)
{
	trace->is_killed = true;
	kill(server, SIGKILL);
}

static void at_call(struct trace *trace, pid_t server, pid_t pid)
{
	struct ptrace_syscall_info info = {};
	const struct watched *call;
	uint64_t args[6];
	long next = PTRACE_CONT;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) <= 0)
		return; /* it is dying */
	call = watched_of(info.seccomp.nr);
	memcpy(args, info.seccomp.args, sizeof(args));
	if (call && call->nr == SYS_mount) {
		next = PTRACE_SYSCALL;
	} else if (call && (trace->is_recovery ? !shared->is_mounted : shared->is_armed) &&
		   changes(pid, call, args)) {
		if (trace->n_calls < CALLS_MAX)
			describe(pid, call, args, trace->calls[trace->n_calls].what,
				 sizeof(trace->calls[0].what));
		trace->n_calls++;
		if (trace->n_calls == trace->kill_at) {
			if (!trace->is_after) {
				kill_server(trace, server);
				return;
			}
			next = PTRACE_SYSCALL;
		}
	}
	ptrace((enum __ptrace_request)next, pid, NULL, NULL);
}

/* The end of a call that was waited for: mount(2), or the one after which the server dies. */
static void at_exit_of_call(struct trace *trace, pid_t server, pid_t pid)
{
	if (!shared->is_mounted) {
		shared->is_mounted = 1;
	} else if (trace->is_after && trace->n_calls >= trace->kill_at) {
		kill_server(trace, server);
		return;
	}
	ptrace(PTRACE_CONT, pid, NULL, NULL);
}

bool trace_step(struct trace *trace, pid_t server, pid_t *ret_other, int *ret_status)
{
	int status;
	pid_t pid = waitpid(-1, &status, __WALL);

	*ret_other = 0;
	if (pid < 0 && errno == EINTR)
		return true;
	if (pid < 0)
		die("waitpid: %m");
	if (!WIFSTOPPED(status)) {
		if (pid != server) {
			*ret_other = pid;
			*ret_status = status;
			return true;
		}
		trace->status = status;
		return false;
	}
	if (status >> 16 == PTRACE_EVENT_SECCOMP)
		at_call(trace, server, pid);
	else if (status >> 16)
		ptrace(PTRACE_CONT, pid, NULL, NULL);
	else if (WSTOPSIG(status) == (SIGTRAP | 0x80))
		at_exit_of_call(trace, server, pid);
	else
		ptrace(PTRACE_CONT, pid, NULL, (void *)(long)WSTOPSIG(status));
	return true;
}
