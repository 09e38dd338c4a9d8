// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One object of upper: which private attributes it has, whether their values mean something, and
 * the facts that follow from them. All of them may be forged or damaged; nothing is believed here
 * that is not looked at again when all facts are together (join.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "check/mend.h"
#include "check/object.h"
#include "index/companion.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "layer/merge.h"
#include "layer/origin.h"
#include "layer/path.h"

static void read_list(struct rvl_check *check, const struct rvl_object *object,
		      struct rvl_xattr_list *ret)
{
	ret->len = rvl_xattrat_list(object->dirfd, object->name, ret->list, sizeof(ret->list));
	/* what lies on a companion is in no list */
	ret->is_complete = ret->len >= 0 && !(check->index && rvl_companions_exist(check->index));
}

bool rvl_object_may_have(const struct rvl_check *check, const struct rvl_xattr_list *attributes,
			 enum rvl_xattr which)
{
	const char *name = check->stack->xattr.name[which];

	if (!attributes->is_complete)
		return true;
	for (ssize_t i = 0; i < attributes->len; i += (ssize_t)strlen(attributes->list + i) + 1)
		if (!strcmp(attributes->list + i, name))
			return true;
	return false;
}

ssize_t rvl_object_get(struct rvl_check *check, const struct rvl_object *object,
		       enum rvl_xattr which, void *buf, size_t size)
{
	if (!check->index)
		return rvl_xattr_get(&check->stack->xattr, object->dirfd, object->name, which, buf,
				     size);
	return rvl_upper_xattr_get(check->index, object->dirfd, object->name, object->st->stx_mode,
				   object->st->stx_ino, which, buf, size);
}

int rvl_object_set(struct rvl_check *check, const struct rvl_object *object, enum rvl_xattr which,
		   const void *value, size_t size)
{
	if (!check->index)
		return rvl_xattr_set(&check->stack->xattr, object->dirfd, object->name, which,
				     value, size);
	return rvl_upper_xattr_set(check->index, object->dirfd, object->name, object->st->stx_mode,
				   object->st->stx_ino, which, value, size);
}

int rvl_object_unset(struct rvl_check *check, const struct rvl_object *object,
		     enum rvl_xattr which)
{
	int r = !check->index ?
			rvl_xattr_remove(&check->stack->xattr, object->dirfd, object->name, which) :
			rvl_upper_xattr_remove(check->index, object->dirfd, object->name,
					       object->st->stx_mode, object->st->stx_ino, which);

	return r == -ENODATA ? 0 : r;
}

/* ---- directories ---- */

/* Does its record say that it hides what lower has at its name? */
static bool is_to_hide(struct rvl_check *check, const struct rvl_object *object)
{
	struct rvl_entry_directory record;
	struct rvl_found found = { 0 };
	bool ret = false;

	if (!check->index || !object->stamp.number ||
	    rvl_entry_get_directory(check->index, object->stamp.number, &record) ||
	    !rvl_entry_hides_lower(&record))
		return false;
	if (!rvl_merge_lookup(check->stack, object->lower, object->name, NULL, NULL, &found))
		ret = found.places.n && S_ISDIR(found.st.stx_mode);
	rvl_found_release(&found);
	return ret;
}

static int check_opaque(struct rvl_check *check, struct rvl_object *object,
			const struct rvl_xattr_list *attributes)
{
	char value[2];
	ssize_t n;

	if (!rvl_object_may_have(check, attributes, RVL_XATTR_OPAQUE))
		return 0;
	n = rvl_object_get(check, object, RVL_XATTR_OPAQUE, value, sizeof(value));
	if (n == -ENODATA || (n < 0 && n != -ERANGE))
		return n == -ENODATA ? 0 : (int)n;
	object->is_opaque = n == 1 && value[0] == 'y';
	if (n == 1 && (value[0] == 'y' || value[0] == 'x'))
		return 0;
	object->is_opaque = !check->config->is_rebind && is_to_hide(check, object);
	if (!rvl_problem_begin(check, RVL_P_OPAQUE_VALUE, object->stamp.number, object->path, NULL))
		return 0;
	return rvl_problem_end(check, object->is_opaque ?
					      rvl_object_set(check, object, RVL_XATTR_OPAQUE, "y", 1) :
					      rvl_object_unset(check, object, RVL_XATTR_OPAQUE));
}

static int check_impure(struct rvl_check *check, struct rvl_object *object,
			const struct rvl_xattr_list *attributes)
{
	char value[2];
	ssize_t n;

	if (!rvl_object_may_have(check, attributes, RVL_XATTR_IMPURE))
		return 0;
	n = rvl_object_get(check, object, RVL_XATTR_IMPURE, value, sizeof(value));
	if (n == -ENODATA || (n == 1 && value[0] == 'y'))
		return 0;
	if (n < 0 && n != -ERANGE)
		return (int)n;
	if (!rvl_problem_begin(check, RVL_P_IMPURE_VALUE, object->stamp.number, object->path, NULL))
		return 0;
	return rvl_problem_end(check, rvl_object_set(check, object, RVL_XATTR_IMPURE, "y", 1));
}

static int check_redirect(struct rvl_check *check, struct rvl_object *object,
			  const struct rvl_xattr_list *attributes)
{
	int r;

	if (object->is_opaque || !rvl_object_may_have(check, attributes, RVL_XATTR_REDIRECT))
		return 0;
	r = rvl_redirect_get(check->stack, object->dirfd, object->name, &object->redirect);
	if (r != -EUCLEAN)
		return r;
	if (!rvl_problem_begin(check, RVL_P_REDIRECT_VALUE, object->stamp.number, object->path,
			       NULL))
		return 0;
	return rvl_problem_end(check, rvl_mend_redirect(check, object));
}

static int check_protattr(struct rvl_check *check, struct rvl_object *object,
			  const struct rvl_xattr_list *attributes)
{
	char value[32];
	ssize_t n;

	if (!rvl_object_may_have(check, attributes, RVL_XATTR_PROTATTR))
		return 0;
	n = rvl_object_get(check, object, RVL_XATTR_PROTATTR, value, sizeof(value));
	if (n == -ENODATA || (n >= 0 && rvl_protattr_is_valid(value, (size_t)n)))
		return 0;
	if (n < 0 && n != -ERANGE)
		return (int)n;
	if (!rvl_problem_begin(check, RVL_P_PROTATTR_VALUE, object->stamp.number, object->path,
			       NULL))
		return 0;
	return rvl_problem_end(check, rvl_object_unset(check, object, RVL_XATTR_PROTATTR));
}

/* ---- what copied-up objects have ---- */

static int check_nlink(struct rvl_check *check, struct rvl_object *object,
		       const struct rvl_xattr_list *attributes)
{
	char value[RVL_NLINK_VALUE_SIZE + 1];
	struct rvl_nlink nlink;
	ssize_t n;

	if (!rvl_object_may_have(check, attributes, RVL_XATTR_NLINK))
		return 0;
	n = rvl_object_get(check, object, RVL_XATTR_NLINK, value, sizeof(value) - 1);
	if (n == -ENODATA)
		return 0;
	if (n < 0 && n != -ERANGE)
		return (int)n;
	value[n < 0 ? 0 : n] = '\0';
	if (!rvl_nlink_parse(value, &nlink))
		return 0;
	if (!rvl_problem_begin(check, RVL_P_NLINK_WRONG, object->stamp.number, object->path,
			       "malformed"))
		return 0;
	/* one that says too much does no harm, and is corrected when the names are counted */
	return rvl_problem_end(check, rvl_object_set(check, object, RVL_XATTR_NLINK, "U+0", 3));
}

/* The place of a copied-up object; whether lower has it there is found out later. */
static int check_place(struct rvl_check *check, struct rvl_object *object,
		       const struct rvl_xattr_list *attributes)
{
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_name_at at;
	struct rvl_fact fact = { .number = object->stamp.number,
				 .kind = RVL_FACT_PLACE,
				 .item = object->item,
				 .type = (uint8_t)(object->st->stx_mode >> 12) };
	ssize_t n;
	int r;

	if (!rvl_object_may_have(check, attributes, RVL_XATTR_PLACE) || !object->stamp.number)
		return 0;
	n = rvl_object_get(check, object, RVL_XATTR_PLACE, value, sizeof(value));
	if (n == -ENODATA)
		return 0;
	if (n < 0 && n != -ERANGE)
		return (int)n;
	r = n < 0 ? -EUCLEAN : rvl_name_at_decode(value, (size_t)n, &at);
	if (!r)
		fact.key = rvl_place_hash(at.parent, at.name);
	else
		fact.what = RVL_WHAT_MALFORMED;
	return rvl_sorter_add(check->sorter, &fact);
}

static int check_origin(struct rvl_check *check, struct rvl_object *object,
			const struct rvl_xattr_list *attributes)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	const struct rvl_layer *layer;
	const char *what = NULL;
	struct rvl_handle origin;
	struct statx st;
	ssize_t n = -ENODATA;
	int r;

	if (!object->stamp.number || rvl_number_is_born(check->index, object->stamp.number))
		return 0;
	if (rvl_object_may_have(check, attributes, RVL_XATTR_ORIGIN))
		n = rvl_object_get(check, object, RVL_XATTR_ORIGIN, value, sizeof(value));
	if (n == 0)
		return 0; /* "copied up, from where is not known" */
	if (n == -ENODATA) {
		if (S_ISDIR(object->st->stx_mode) ||
		    !rvl_number_is_of_lower(check, object->stamp.number))
			return 0;
		what = "missing";
	} else if (n < 0 && n != -ERANGE) {
		return (int)n;
	} else {
		r = n < 0 ? -EUCLEAN : rvl_handle_decode(value, (unsigned)n, &origin);
		if (r == -ESTALE)
			return 0;
		if (r)
			what = "malformed";
	}
	if (!what) {
		_cleanup_close_ int fd = rvl_origin_find(check->stack, check->uuids, &origin,
							 object->st->stx_mode, &layer, &st);

		if (fd >= 0 || fd == -EPERM || fd == -ENOTUNIQ)
			return 0;
		r = S_ISDIR(object->st->stx_mode) ? 1 : rvl_is_in_lower(check, object);
		/* gone from lower: it tells the object from one that gets the inode
		 * (rvl_entry_is_of_other_life) */
		if (r <= 0)
			return r;
		what = "it leads to nothing";
	}
	if (!rvl_problem_begin(check, RVL_P_ORIGIN_STALE, object->stamp.number, object->path, "%s",
			       what))
		return 0;
	return rvl_problem_end(check, rvl_mend_origin(check, object));
}

/* ---- all ---- */

static int read_stamp(struct rvl_check *check, struct rvl_object *object)
{
	const struct statx *st = object->st;
	uint64_t known = rvl_number_set_get(&check->known, st->stx_ino);
	int r;

	if (!check->index)
		return 0;
	rvl_check_met(check, st->stx_ino);
	r = rvl_stamp_get(check->index, object->dirfd, object->name, st->stx_mode, st->stx_ino,
			  &object->stamp);
	if (r == -ENODATA || r == -EUCLEAN)
		object->stamp.number = 0;
	else if (r)
		return r;
	object->is_stamp_damaged = r == -EUCLEAN || object->stamp.number == RVL_NUMBER_ROOT;
	if (object->stamp.number == RVL_NUMBER_ROOT)
		object->stamp.number = 0;
	if (object->stamp.number)
		rvl_check_note_number(check, object->stamp.number);
	if (known) { /* its entry says so */
		object->stamp.number = known;
		object->is_stamp_damaged = false;
	}
	return 0;
}

int rvl_check_object(struct rvl_check *check, struct rvl_object *object)
{
	mode_t mode = object->st->stx_mode;
	struct rvl_fact fact = { .kind = RVL_FACT_OBJECT,
				 .key = object->st->stx_ino,
				 .parent = object->parent,
				 .item = object->item,
				 .nlink = object->st->stx_nlink,
				 .type = (uint8_t)(mode >> 12) };
	struct rvl_xattr_list attributes;
	int r = read_stamp(check, object);

	if (r)
		return r;
	read_list(check, object, &attributes);
	fact.number = object->stamp.number;
	if (object->is_stamp_damaged)
		fact.what |= RVL_WHAT_MALFORMED;
	if (S_ISDIR(mode)) {
		r = check_opaque(check, object, &attributes);
		r = r ?: check_impure(check, object, &attributes);
		r = r ?: check_redirect(check, object, &attributes);
		if (object->is_opaque)
			fact.what |= RVL_WHAT_OPAQUE;
	} else if (S_ISREG(mode)) {
		r = rvl_check_metacopy(check, object, &attributes);
	}
	if (S_ISDIR(mode) || S_ISREG(mode))
		r = r ?: check_protattr(check, object, &attributes);
	if (r || !check->index || rvl_check_is_pending(check, fact.number))
		return r ?: check->index ? rvl_sorter_add(check->sorter, &fact) : 0;
	if (!S_ISDIR(mode)) {
		r = check_nlink(check, object, &attributes);
		r = r ?: check_place(check, object, &attributes);
	}
	r = r ?: check_origin(check, object, &attributes);
	return r ?: rvl_sorter_add(check->sorter, &fact);
}

void rvl_object_release(struct rvl_object *object)
{
	free(object->redirect);
	object->redirect = NULL;
}
