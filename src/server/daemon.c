// SPDX-License-Identifier: GPL-2.0-or-later
/* Process matters: limits, standard streams, going into the background. */
#include "server/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

void rvl_process_prepare(void)
{
	struct rlimit limit;
	int fd;

	/* Else a layer could become descriptor 2, and a message its content. */
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	rvl_close(fd);

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	umask(0); /* modes come ready from the kernel */
	/* whoever mounts: how large a file of upper may grow is not his shell's business */
	limit = (struct rlimit){ RLIM_INFINITY, RLIM_INFINITY };
	if (setrlimit(RLIMIT_FSIZE, &limit) < 0 && getrlimit(RLIMIT_FSIZE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_FSIZE, &limit);
	}
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* The parent: ends when the server is ready or gone. */
static _Noreturn void wait_for_server(pid_t pid, int fd)
{
	char code = 1;
	ssize_t n;

	do
		n = read(fd, &code, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1)
		_exit(code);

	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		rvl_error("the server was ended by signal %d (%s) before the mount was live",
			  WTERMSIG(status), strsignal(WTERMSIG(status)));
	_exit(EXIT_FAILURE);
}

int rvl_daemon_start(struct rvl_daemon *daemon, bool is_foreground)
{
	int fds[2];
	pid_t pid;

	*daemon = (struct rvl_daemon){ .is_foreground = is_foreground, .ready_fd = -EBADF };
	if (is_foreground)
		return 0;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		rvl_error("cannot start the server: %m");
		return -errno;
	}
	pid = fork();
	if (pid < 0) {
		int r = -errno;

		rvl_error("cannot start the server: %m");
		close(fds[0]);
		close(fds[1]);
		return r;
	}
	if (pid > 0) {
		close(fds[1]);
		wait_for_server(pid, fds[0]);
	}
	close(fds[0]);
	daemon->ready_fd = fds[1];
	return 0;
}

void rvl_daemon_ready(struct rvl_daemon *daemon)
{
	const char code = EXIT_SUCCESS;
	int null;

	if (daemon->ready_fd < 0)
		return;
	setsid();
	if (chdir("/") < 0)
		rvl_warn("cannot leave the working directory: %m");
	rvl_log_setup("reverlay", RVL_LOG_SYSLOG, LOG_INFO);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	rvl_close(null);
	/* The parent may be gone: nobody to tell then. */
	if (write(daemon->ready_fd, &code, 1) < 0)
		rvl_debug("nobody waits for the mount: %m");
	close(rvl_take_fd(&daemon->ready_fd));
}
