/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whiteouts by name, as AUFS and the OCI image format have them (image-spec, layer.md): ".wh.NAME"
 * hides NAME in the layers below, ".wh..wh..opq" makes its directory opaque, and other names that
 * begin with ".wh..wh." are AUFS's own. None of these names is visible.
 */
#ifndef RVL_LAYER_AUFS_H
#define RVL_LAYER_AUFS_H

#include <stdbool.h>
#include <string.h>

#define RVL_AUFS_PREFIX ".wh."
#define RVL_AUFS_PREFIX_LEN (sizeof(RVL_AUFS_PREFIX) - 1)
#define RVL_AUFS_OWN_PREFIX ".wh..wh."
#define RVL_AUFS_OPAQUE ".wh..wh..opq"

/* Not a name that can be seen in a lower layer. */
static inline bool rvl_aufs_is_reserved(const char *name)
{
	return strncmp(name, RVL_AUFS_PREFIX, RVL_AUFS_PREFIX_LEN) == 0;
}

/* The name that a whiteout hides, or NULL if the name is not one of a whiteout. */
static inline const char *rvl_aufs_hidden_name(const char *name)
{
	if (!rvl_aufs_is_reserved(name) ||
	    strncmp(name, RVL_AUFS_OWN_PREFIX, sizeof(RVL_AUFS_OWN_PREFIX) - 1) == 0 ||
	    name[RVL_AUFS_PREFIX_LEN] == '\0')
		return NULL;
	return name + RVL_AUFS_PREFIX_LEN;
}

/* 1 if there is a ".wh.NAME" beside name in dirfd, 0 if not, -errno. */
int rvl_aufs_is_whited_out(int dirfd, const char *name);
/* 1 if the directory name in dirfd has ".wh..wh..opq", 0 if not, -errno. */
int rvl_aufs_is_opaque(int dirfd, const char *name);

#endif
