/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mount options: one table says what there is (options.c), the manual reverlay(8) says what they
 * mean; options_fuse.c tells libfuse of them. The names of the kernel's overlayfs mean what they
 * mean there. Given twice, the last one wins, as in the kernel; lowerdir= starts the list of layers
 * anew, lowerdir+= and datadir+= add to it.
 *
 * Messages are logged here, each with the option's name.
 */
#ifndef RVL_SERVER_OPTIONS_H
#define RVL_SERVER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>

#include "overlay/overlay.h"

#ifndef MS_NOSYMFOLLOW /* Linux 5.10 */
#define MS_NOSYMFOLLOW 256
#endif

struct rvl_strings {
	char **items; /* owned, and each of them */
	unsigned n;
};

enum rvl_awake_mode { RVL_AWAKE_OFF, RVL_AWAKE_AUTO, RVL_AWAKE_ON };

struct rvl_options {
	/* layers */
	struct rvl_strings lower; /* topmost first, the data-only ones at the end */
	unsigned n_data;
	char *upper; /* owned or NULL */
	char *work; /* owned or NULL */

	/* of the overlay */
	enum rvl_redirect_mode redirect;
	enum rvl_sync_mode sync;
	bool is_volatile;
	bool is_userxattr;
	bool has_index; /* accepted for the kernel's sake, as the next three: all on */
	int xino;
	int uuid;
	bool has_default_permissions;
	bool has_nfs_export; /* builds the map early */
	bool has_metacopy; /* a change of attributes copies up these alone */
	unsigned node_limit; /* 0: default */
	bool is_rebind_auto; /* rebind=auto: layers that are not the index's are bound again */
	bool is_copy_up_late; /* copy_up=write: at the first write, not at the open for writing */

	/* of the transport */
	bool has_io_uring; /* where the kernel has it */
	unsigned poll_us; /* how long a reader of /dev/fuse asks before it sleeps */
	enum rvl_awake_mode awake; /* whether idle CPUs are kept awake while requests come */
	bool has_passthrough; /* where the kernel has it */

	/* of the mount */
	unsigned long flags; /* MS_*; nosuid and nodev by default unless root mounts */
	unsigned long flags_set; /* which of them an option named */
	bool is_allow_other;
	bool is_allow_root;
	char *fsname; /* owned or NULL: what /proc/mounts shows as source */
	char *subtype; /* owned or NULL: reverlay */
	struct rvl_strings
		contexts; /* "context=…" and its like, as given, for the security modules */
	bool is_remount;
	bool is_debug;

	bool is_sloppy; /* unknown options are let pass (mount -s); set before the parsing */
	uint64_t given; /* bits by the table: options that were named */
};

/* Defaults: those of a mount by root or by another user. */
void rvl_options_init(struct rvl_options *options, bool is_root);
void rvl_options_release(struct rvl_options *options);

/* One -o argument, a list separated by commas. Adds to what was parsed before. -EINVAL (logged),
 * -ENOMEM. */
int rvl_options_parse(struct rvl_options *options, const char *text);

/*
 * All arguments are read: contradictions and what is missing. -EINVAL (logged). Not for a remount.
 */
int rvl_options_check(struct rvl_options *options);

/*
 * The options in effect, as "name=value" or "name", each ended by NUL; paths absolute, escaped as
 * on the command line. is_given_only: those that were named, for a remount to compare. Flags of the
 * mount are not part of it. *ret (owned by the caller) has *ret_len bytes.
 */
int rvl_options_format(const struct rvl_options *options, bool is_given_only, char **ret,
		       size_t *ret_len);

/* What libfuse is given with "-o": a list, escaped. *ret is owned by the caller. -ENOMEM. */
int rvl_options_for_fuse(const struct rvl_options *options, char **ret);

#endif
