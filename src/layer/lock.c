// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One writer: flock(2) on upper and workdir, and a look for kernel overlays that use them.
 *
 * flock belongs to the inode, so the descriptors may be of another mount of the directory. The
 * kernel's overlayfs takes no lock that could be seen; its mounts in this mount namespace are
 * found in mountinfo. One in another namespace is not.
 */
#include "layer/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#define POLL_MS 20
#define LINES_MAX 100000 /* of a file in /proc that are looked at */
#define HOLDER_SIZE 96

/* Opened on its own, since a duplicate would share the lock with the stack's descriptor. */
static int open_directory(int fd)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return copy < 0 ? -errno : copy;
}

/* "pid 1234 (reverlay)", from /proc/locks; "" where it cannot be told. */
static void find_holder(int fd, char ret[HOLDER_SIZE])
{
	char line[256], comm[32] = "", path[64];
	unsigned major, minor;
	unsigned long long ino;
	struct stat st;
	int pid = 0;
	FILE *f = fopen("/proc/locks", "re");

	ret[0] = 0;
	if (!f)
		return;
	if (fstat(fd, &st))
		st.st_ino = 0;
	for (unsigned i = 0; !pid && i < LINES_MAX && fgets(line, sizeof(line), f); i++) {
		int holder;

		if (sscanf(line, "%*s FLOCK %*s %*s %d %x:%x:%llu", &holder, &major, &minor,
			   &ino) == 4 &&
		    ino == st.st_ino && makedev(major, minor) == st.st_dev)
			pid = holder;
	}
	fclose(f);
	if (pid <= 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (f) {
		if (!fgets(comm, sizeof(comm), f))
			comm[0] = 0;
		comm[strcspn(comm, "\n")] = 0;
		fclose(f);
	}
	snprintf(ret, HOLDER_SIZE, " by process %d (%s)", pid, comm);
}

static int64_t now_ms(void)
{
	return (int64_t)(rvl_now_ns(CLOCK_MONOTONIC) / 1000000);
}

static int lock_until(int fd, const char *option, const char *path, int64_t deadline_ms)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000 };
	bool has_waited = false;
	char holder[HOLDER_SIZE];

	while (flock(fd, LOCK_EX | LOCK_NB)) {
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK) {
			int r = -errno;

			rvl_error("%s=%s: cannot be locked: %s", option, path, strerror(-r));
			return r;
		}
		if (now_ms() >= deadline_ms) {
			find_holder(fd, holder);
			rvl_error("%s=%s: in use%s", option, path, holder);
			return -EBUSY;
		}
		if (!has_waited) {
			find_holder(fd, holder);
			rvl_info("%s=%s: in use%s, waiting", option, path, holder);
		}
		has_waited = true;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* mountinfo writes \040 and its like for some characters (proc(5)). In place. */
static void unescape_octal(char *text)
{
	char *out = text;

	for (const char *in = text; *in; in++) {
		if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' &&
		    in[3] >= '0' && in[3] <= '7') {
			*out++ = (char)((in[1] - '0') << 6 | (in[2] - '0') << 3 | (in[3] - '0'));
			in += 3;
		} else {
			*out++ = *in;
		}
	}
	*out = 0;
}

/* overlayfs's own escapes of , and : inside a path. In place. */
static void unescape_option(char *text)
{
	char *out = text;

	for (const char *in = text; *in; in++) {
		if (in[0] == '\\' && in[1])
			in++;
		*out++ = *in;
	}
	*out = 0;
}

/* Does option (",upperdir=") of a mount's options name the directory fd? */
static bool names_directory(const char *options, const char *option, int fd)
{
	_cleanup_free_ char *path = NULL;
	const char *start = strstr(options, option);
	struct stat a, b;
	size_t len = 0;

	if (!start)
		return false;
	start += strlen(option);
	while (start[len] && start[len] != ',' && start[len] != '\n')
		len += start[len] == '\\' && start[len + 1] ? 2 : 1;
	path = strndup(start, len);
	if (!path)
		return false;
	unescape_option(path);
	/* A relative one was relative to somebody else's directory. */
	return path[0] == '/' && !stat(path, &a) && !fstat(fd, &b) && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/* Kernel overlays of this mount namespace that have the directory as upper or workdir. */
static int check_kernel_mounts(int fd, const char *option, const char *path)
{
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int r = 0;
	FILE *f = fopen("/proc/self/mountinfo", "re");

	if (!f) /* without /proc only the locks tell */
		return 0;
	for (unsigned i = 0; !r && i < LINES_MAX && getline(&line, &size, f) > 0; i++) {
		char *options = strstr(line, " - overlay ");
		char mountpoint[256] = "";

		if (!options)
			continue;
		*options++ = 0;
		unescape_octal(options);
		if (!names_directory(options, ",upperdir=", fd) &&
		    !names_directory(options, ",workdir=", fd))
			continue;
		if (sscanf(line, "%*s %*s %*s %*s %255s", mountpoint) == 1)
			unescape_octal(mountpoint);
		rvl_error("%s=%s: in use by the kernel's overlay on %s", option, path, mountpoint);
		r = -EBUSY;
	}
	fclose(f);
	return r;
}

static int lock_directory(int fd, const char *option, const char *path, int64_t deadline_ms,
			  int *ret)
{
	_cleanup_close_ int copy = open_directory(fd);
	int r;

	if (copy < 0) {
		rvl_error("%s=%s: cannot be opened for its lock: %s", option, path,
			  strerror(-copy));
		return copy;
	}
	r = lock_until(copy, option, path, deadline_ms);
	if (!r)
		r = check_kernel_mounts(copy, option, path);
	if (!r)
		*ret = rvl_take_fd(&copy);
	return r;
}

int rvl_stack_lock(const struct rvl_stack *stack, int timeout_ms, int ret_fds[2])
{
	int64_t deadline_ms = now_ms() + timeout_ms;
	_cleanup_close_ int upper_fd = -EBADF, work_fd = -EBADF;
	int r = 0;

	if (stack->has_upper)
		r = lock_directory(stack->layers[0].fd, "upperdir", stack->layers[0].path,
				   deadline_ms, &upper_fd);
	if (!r && stack->work_fd >= 0)
		r = lock_directory(stack->work_fd, "workdir", stack->work_path, deadline_ms,
				   &work_fd);
	if (r)
		return r;
	ret_fds[0] = rvl_take_fd(&upper_fd);
	ret_fds[1] = rvl_take_fd(&work_fd);
	return 0;
}
