// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs a program that is denied some system calls, as by an older kernel or a filesystem that cannot
 * do it, so that its other way is taken: rvl-deny RULE[,RULE...] PROGRAM ARGUMENT...
 * Without arguments: the names of the rules, one a line.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RULE_CALLS_MAX 4
#define FILTER_MAX 256

/* numbers that are the same on all architectures; libc's headers may be older than the kernel */
#define NR_OPEN_TREE 428
#define NR_MOUNT_SETATTR 442
#define NR_SETXATTRAT 463
#define HANDLE_FID 0x200 /* AT_HANDLE_FID */
#define GETFSUUID 0x80111500 /* FS_IOC_GETFSUUID */
#define BACKING_OPEN 0x4010e501 /* FUSE_DEV_IOC_BACKING_OPEN */

/* Of the lower 32 bits of an argument. */
struct condition {
	unsigned arg;
	__u32 mask; /* 0: no condition */
	__u32 value;
};

struct call {
	int nr;
	int error; /* 0: no call */
	struct condition condition;
};

static const struct rule {
	const char *name;
	struct call calls[RULE_CALLS_MAX];
} rules[] = {
	{ "copy_file_range", { { SYS_copy_file_range, ENOSYS, { 0 } } } },
	{ "sync_file_range", { { SYS_sync_file_range, ENOSYS, { 0 } } } },
	{ "clone", { { SYS_ioctl, EOPNOTSUPP, { 1, ~0U, FICLONE } } } },
	{ "handles", { { SYS_name_to_handle_at, EOPNOTSUPP, { 0 } } } },
	{ "identifiers", { { SYS_name_to_handle_at, EINVAL, { 4, HANDLE_FID, HANDLE_FID } } } },
	{ "open_by_handle_at", { { SYS_open_by_handle_at, EPERM, { 0 } } } },
	{ "open_tree", { { NR_OPEN_TREE, EPERM, { 0 } } } },
	{ "mount_setattr", { { NR_MOUNT_SETATTR, ENOSYS, { 0 } } } },
	{ "xattrat",
	  { { NR_SETXATTRAT, ENOSYS, { 0 } },
	    { NR_SETXATTRAT + 1, ENOSYS, { 0 } },
	    { NR_SETXATTRAT + 2, ENOSYS, { 0 } },
	    { NR_SETXATTRAT + 3, ENOSYS, { 0 } } } },
	{ "rename_whiteout",
	  { { SYS_renameat2, EINVAL, { 4, RENAME_WHITEOUT, RENAME_WHITEOUT } } } },
	{ "passthrough", { { SYS_ioctl, ENOTTY, { 1, ~0U, BACKING_OPEN } } } },
	{ "fsuuid", { { SYS_ioctl, ENOTTY, { 1, ~0U, GETFSUUID } } } },
	{ "empty_path", { { SYS_linkat, ENOENT, { 4, AT_EMPTY_PATH, AT_EMPTY_PATH } } } },
};
#define N_RULES (sizeof(rules) / sizeof(rules[0]))

static struct sock_filter filter[FILTER_MAX];
static unsigned n_filter;

static void add(struct sock_filter insn)
{
	filter[n_filter++] = insn;
}

/* The number, the condition, the error; what does not fit jumps behind it. */
static void add_call(const struct call *call)
{
	const struct condition *c = &call->condition;
	/* the lower half, on a little-endian machine */
	unsigned at = offsetof(struct seccomp_data, args) + 8 * c->arg;

	add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					 offsetof(struct seccomp_data, nr)));
	add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)call->nr, 0,
					 c->mask ? 4 : 1));
	if (c->mask) {
		add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at));
		add((struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, c->mask));
		add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, c->value, 0, 1));
	}
	add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (__u32)call->error));
}

static int add_rule(const char *name, size_t len)
{
	for (unsigned i = 0; i < N_RULES; i++) {
		if (strlen(rules[i].name) != len || memcmp(rules[i].name, name, len) != 0)
			continue;
		for (unsigned j = 0; j < RULE_CALLS_MAX && rules[i].calls[j].error; j++)
			add_call(&rules[i].calls[j]);
		return 0;
	}
	fprintf(stderr, "rvl-deny: %.*s: no such rule\n", (int)len, name);
	return -1;
}

int main(int argc, char **argv)
{
	struct sock_fprog program = { .filter = filter };

	if (argc == 1) {
		for (unsigned i = 0; i < N_RULES; i++)
			puts(rules[i].name);
		return 0;
	}
	if (argc < 3) {
		fprintf(stderr, "usage: rvl-deny RULE[,RULE...] PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	for (const char *name = argv[1]; *name;) {
		size_t len = strcspn(name, ",");

		if (add_rule(name, len) < 0)
			return 2;
		name += len + (name[len] == ',');
	}
	add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
	program.len = (unsigned short)n_filter;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
		perror("rvl-deny: seccomp");
		return 2;
	}
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}
