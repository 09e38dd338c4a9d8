// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One life of a server: the harness traces it, and must not touch the mount itself, which would
 * wait for a thread that is stopped. So a child uses the mount, and unmounts it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash.h"

static volatile pid_t running[2]; /* killed when time is up */

static void on_alarm(int number)
{
	for (unsigned i = 0; i < 2; i++)
		if (running[i] > 0)
			kill(running[i], SIGKILL);
}

static pid_t start_user(const struct world *world, int (*use)(void *arg), void *arg)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork: %m");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGALRM, SIG_DFL);
	int r = use(arg);

	steps_close();
	if (umount2(world->mnt, 0) < 0 && r == 0) {
		complain("umount: %s", strerror(errno));
		r = 3;
	}
	_exit(r);
}

int run_life(const struct world *world, struct trace *trace, int (*use)(void *arg), void *arg)
{
	static char text[8 * PATH_MAX];
	char *argv[] = { (char *)options.program, (char *)"-f", (char *)"-o", text,
			 (char *)world->mnt,	  NULL };
	struct sigaction action = { .sa_handler = on_alarm };
	pid_t server, user = 0, other;
	int status, code = -1;

	/* an answer by io_uring is no system call of its own */
	snprintf(text, sizeof(text),
		 "lowerdir=%s:%s,upperdir=%s,workdir=%s,nosuid,suid,dev,io_uring=off%s%s",
		 world->lower[0], world->lower[1], world->upper, world->work,
		 *options.mount_options ? "," : "", options.mount_options);
	shared->is_mounted = shared->is_armed = 0;
	shared->message[0] = '\0';
	trace->n_calls = 0;
	trace->is_killed = false;
	sigaction(SIGALRM, &action, NULL);
	server = trace_start(trace, argv, world->log);
	running[0] = server;
	alarm(RUN_SECONDS);
	while (trace_step(trace, server, &other, &status)) {
		if (other && other == user) {
			code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
			running[1] = user = -1;
		}
		if (shared->is_mounted && user == 0 && !trace->is_killed) {
			user = start_user(world, use, arg);
			running[1] = user;
		}
	}
	if (user > 0) {
		while (waitpid(user, &status, 0) < 0 && errno == EINTR)
			;
		code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	}
	if (alarm(0) == 0)
		complain("no end within %d s", RUN_SECONDS);
	running[0] = running[1] = 0;
	(void)umount2(world->mnt, MNT_DETACH);
	if (!trace->is_killed && (!WIFEXITED(trace->status) || WEXITSTATUS(trace->status)))
		complain("the server ended with status %#x", trace->status);
	return code;
}
