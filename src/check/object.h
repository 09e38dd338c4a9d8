/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The private attributes of one upper object, for who judges them. Private to src/check. */
#ifndef RVL_CHECK_OBJECT_H
#define RVL_CHECK_OBJECT_H

#include "check/private.h"

#define RVL_XATTR_LIST_SIZE 4096 /* of names; with more, every attribute is asked for */

/* Their names, as they were when the object was met. */
struct rvl_xattr_list {
	char list[RVL_XATTR_LIST_SIZE];
	ssize_t len; /* negative: not known */
	bool is_complete;
};
/* false: it has not. */
bool rvl_object_may_have(const struct rvl_check *check, const struct rvl_xattr_list *attributes,
			 enum rvl_xattr which);

/* As rvl_upper_xattr_get and the like, also where there is no index and so no companion. To unset
 * what is not there is no error. */
ssize_t rvl_object_get(struct rvl_check *check, const struct rvl_object *object,
		       enum rvl_xattr which, void *buf, size_t size);
int rvl_object_set(struct rvl_check *check, const struct rvl_object *object, enum rvl_xattr which,
		   const void *value, size_t size);
int rvl_object_unset(struct rvl_check *check, const struct rvl_object *object,
		     enum rvl_xattr which);

/* metacopy.c: of a file. */
int rvl_check_metacopy(struct rvl_check *check, struct rvl_object *object,
		       const struct rvl_xattr_list *attributes);

#endif
