// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A metacopy file of upper: does it lead to data, are they those of the object that it was copied up
 * from, do they fit it? Where they are to be found instead is known when all names of lower are.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/refstr.h"
#include "check/data.h"
#include "check/group.h"
#include "check/mend.h"
#include "check/object.h"
#include "index/stamp.h"
#include "layer/fetch.h"
#include "layer/merge.h"
#include "layer/path.h"

/* ---- whose data are they? ---- */

/*
 * Has what was found in lower the number of what the file was copied up from? 1 yes, 0 no; -ESTALE: it
 * cannot be told. No is a suspicion: lower may have been changed, and what it has now is what is wanted.
 */
static int is_own(struct rvl_check *check, const struct rvl_object *object,
		  const struct rvl_found *found)
{
	const struct rvl_place *top = &found->places.v[0];
	struct rvl_id id;

	if (!check->index || !rvl_number_is_of_lower(check, object->stamp.number) ||
	    rvl_number_of_lower(check->index, top->layer, top->layer->fd, top->path, &found->st,
				&id))
		return -ESTALE;
	return id.number == object->stamp.number;
}

/* Does the file lead to its own data? As is_own; -ENOENT: it leads to none. *ret_item: of what it leads
 * to where it does not. */
static int leads_to_own(struct rvl_check *check, const struct rvl_object *object,
			uint64_t *ret_item)
{
	struct rvl_place data = { 0 };
	struct rvl_found found;
	int error, r = rvl_merge_lookup(check->stack, object->lower, object->name,
					object->redirect, NULL, &found);

	if (!r && found.places.n) {
		r = S_ISREG(found.st.stx_mode) ? is_own(check, object, &found) : -ENOENT;
		if (r == 0) {
			error = rvl_lower_item_add(check, found.data.layer ?
								  &found.data :
								  &found.places.v[0],
						   ret_item);
			r = error ?: r;
		}
	} else {
		/* a data-only layer has objects of no number */
		r = rvl_merge_lookup_data(check->stack, object->lower, object->name,
					  object->redirect, 0, &data);
		r = r == -EIO || (!r && !data.layer) ? -ENOENT : r ?: -ESTALE;
		rvl_refstr_put(data.path);
	}
	rvl_found_release(&found);
	return r;
}

/* Fills object->stray and leads_to. */
static int check_whose(struct rvl_check *check, struct rvl_object *object,
		       const struct rvl_xattr_list *attributes)
{
	int r = 0;

	if (rvl_object_may_have(check, attributes, RVL_XATTR_REDIRECT))
		r = rvl_redirect_get(check->stack, object->dirfd, object->name, &object->redirect);
	if (r == -EUCLEAN) {
		object->stray = RVL_STRAY_MALFORMED;
		return 0;
	}
	/* of copied layers numbers say nothing yet */
	if (r || check->config->is_rebind)
		return r;
	r = leads_to_own(check, object, &object->leads_to);
	if (r == -ENOENT)
		object->stray = RVL_STRAY_NOWHERE;
	else if (r == 0)
		object->stray = RVL_STRAY_SUSPECT;
	return rvl_merge_is_local_error(r) || r > 0 ? 0 : r;
}

/* ---- do they fit? ---- */

enum data {
	DATA_NONE, /* a hole of its size, as a metacopy file is, or zeros, as some copy it */
	DATA_PART,
	DATA_ALL, /* an empty file has all of its own */
};

/* How much of its data has the file itself? By its bytes and its blocks. */
static int own_data(const struct rvl_object *object, enum data *ret)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	*ret = DATA_ALL;
	if (!object->st->stx_size)
		return 0;
	fd = rvl_path_open_noatime(object->dirfd, object->name, O_RDONLY);
	if (fd < 0)
		return fd;
	r = rvl_is_zeros(fd);
	if (r < 0)
		return r;
	if (r)
		*ret = DATA_NONE;
	else if (object->st->stx_blocks * 512 < object->st->stx_size)
		*ret = DATA_PART;
	return 0;
}

/* 1: it leads to data, of *ret_size bytes; 0: it does not; or -errno. */
static int size_below(struct rvl_check *check, const struct rvl_object *object,
		      uint64_t *ret_size)
{
	struct rvl_place data = { 0 };
	struct statx st;
	int r = 0;

	if ((!object->stray || object->stray == RVL_STRAY_SUSPECT) &&
	    !rvl_merge_lookup_data(check->stack, object->lower, object->name, object->redirect, 0,
				   &data) &&
	    data.layer) {
		r = rvl_path_statx(data.layer->fd, data.path, STATX_SIZE, &st);
		if (!r) {
			*ret_size = st.stx_size;
			r = 1;
		}
	}
	rvl_refstr_put(data.path);
	return r == -EUCLEAN ? 0 : r;
}

/* Makes it a metacopy file of size bytes. The size of one with a part of its data is that already. */
static int make_metacopy(struct rvl_check *check, const struct rvl_object *object, uint64_t size)
{
	_cleanup_close_ int fd = rvl_path_open(object->dirfd, object->name, O_WRONLY, 0);
	struct rvl_kept kept;
	int r = fd < 0 ? fd : rvl_kept_get(fd, &kept);

	if (r)
		return r;
	if (kept.st.stx_size != size) {
		r = ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
		r = r ?: rvl_kept_restore(fd, &kept);
	}
	return r ?: rvl_object_set(check, object, RVL_XATTR_METACOPY, NULL, 0);
}

static int left_alone(struct rvl_check *check, const struct rvl_object *object, const char *why)
{
	rvl_problem_note(check, RVL_P_METACOPY_VALUE, object->stamp.number, object->path, why);
	return 0;
}

/*
 * A valid value or a damaged one: does it fit what upper and lower have?
 *
 *   value    own data  lower's data             what is done
 *   valid    any       there, of this size      nothing
 *   damaged  not all   there                    made a metacopy file, of their size
 *   valid    none      of another size          the same, if they are its own for certain
 *   valid    part      of another size          left alone: each has data to lose
 *   any      all       not so                   it is none: the attribute goes
 *   valid    not all   not found                add_stray
 *   damaged  not all   not found                left alone; add_stray
 */
static int check_metacopy_value(struct rvl_check *check, struct rvl_object *object,
				const struct rvl_xattr_list *attributes, bool is_valid)
{
	bool has_below, is_other_size;
	enum data own = DATA_NONE;
	uint64_t size = 0;
	int r;

	r = check_whose(check, object, attributes);
	r = r ?: size_below(check, object, &size);
	if (r < 0)
		return r;
	has_below = r > 0;
	is_other_size = has_below && size != object->st->stx_size;
	if (is_valid && has_below && !is_other_size)
		return 0;
	r = own_data(object, &own);
	if (r)
		return r;
	if (own == DATA_ALL)
		object->stray = RVL_NOT_STRAY; /* it needs none */
	else if (!has_below)
		return is_valid ? 0 : left_alone(check, object, "its data are not found");
	else if (is_other_size && object->stray)
		return left_alone(check, object,
				  "the data in lower have another size, and may be another file's");
	if (own == DATA_PART && is_other_size) {
		/* an interrupted copy of other layers, or a sparse file: each has data to lose */
		return left_alone(check, object,
				  "upper has a part of the data, and those in lower have another "
				  "size: mount the right layers, or remove it to keep upper's");
	}
	if (!rvl_problem_begin(check, RVL_P_METACOPY_VALUE, object->stamp.number, object->path,
			       !is_valid     ? NULL :
			       is_other_size ? "the data in lower have another size" :
					       "the file has all data, and does not lead to its own in lower"))
		return 0;
	if (own != DATA_ALL)
		r = make_metacopy(check, object, size);
	else
		r = rvl_object_unset(check, object, RVL_XATTR_METACOPY);
	return rvl_problem_end(check, r);
}

/* A fetch that was cut short; what it has left is judged when it is mended. */
static int check_fetch(struct rvl_check *check, struct rvl_object *object,
		       const struct rvl_xattr_list *attributes)
{
	const struct statx *before = object->st;
	_cleanup_close_ int fd = -EBADF;
	struct statx st;
	int r;

	/* on a live mount it may be going on */
	if (check->config->is_online ||
	    !rvl_problem_begin(check, RVL_P_METACOPY_FETCH, object->stamp.number, object->path,
			       NULL))
		return 0;
	fd = rvl_path_open(object->dirfd, object->name, O_RDWR, 0);
	r = fd < 0 ? fd : rvl_fetch_recover(&check->stack->xattr, fd);
	r = r ?: rvl_path_statx(fd, "", RVL_STATX_MASK, &st);
	if (r)
		return rvl_problem_end(check, r);
	r = rvl_problem_end(check, 0);
	object->st = &st;
	r = r ?: check_metacopy_value(check, object, attributes, true);
	object->st = before;
	return r;
}

static enum rvl_problem_id problem_of(enum rvl_stray stray)
{
	return stray == RVL_STRAY_MALFORMED ? RVL_P_REDIRECT_VALUE : RVL_P_METACOPY_DATA;
}

/* Where it is to lead is known when all names of lower are, by its number. */
static int add_stray(struct rvl_check *check, const struct rvl_object *object)
{
	struct rvl_fact fact = { .number = object->stamp.number,
				 .kind = RVL_FACT_STRAY,
				 .key = object->st->stx_ino,
				 .parent = object->leads_to,
				 .item = object->item,
				 .what = (uint8_t)object->stray };

	if (!object->stray || rvl_check_is_pending(check, fact.number))
		return 0;
	if (check->index && fact.number)
		return rvl_sorter_add(check->sorter, &fact);
	rvl_problem_note(check, problem_of(object->stray), 0, object->path,
			 "it has no number by which they could be found");
	return 0;
}

int rvl_check_metacopy(struct rvl_check *check, struct rvl_object *object,
		       const struct rvl_xattr_list *attributes)
{
	int r;

	if (!rvl_object_may_have(check, attributes, RVL_XATTR_METACOPY))
		return 0;
	r = rvl_metacopy_get(check->stack, object->dirfd, object->name);
	if (!r || (r < 0 && r != -EUCLEAN))
		return r;
	if (r == RVL_METACOPY_FETCH && !check->stack->xattr.is_user)
		r = check_fetch(check, object, attributes);
	else
		r = check_metacopy_value(check, object, attributes, r > 0);
	return r ?: add_stray(check, object);
}

/* ---- when all names of lower are known ---- */

/* Do the data of this file in lower differ from those that the stray one leads to now? A copy of lower may
 * have split a hard link: then all its names lead to the same. */
static bool has_other_data(struct rvl_check *check, const struct rvl_fact *stray,
			   const struct rvl_found *own)
{
	const struct rvl_place *data = own->data.layer ? &own->data : &own->places.v[0];
	_cleanup_close_ int a = rvl_path_open_noatime(data->layer->fd, data->path, O_RDONLY);
	const struct rvl_layer *layer;
	_cleanup_close_ int b = rvl_lower_item_open(check, stray->parent, O_RDONLY, &layer);

	return a >= 0 && b >= 0 && rvl_is_same_data(a, b) == 0;
}

/*
 * Is a stray file a copy of what lower has at the group's first name: a regular file with data of its
 * size, and with the generation of its stamp, which tells birth times apart? Numbers alone are given again,
 * with real inodes.
 */
static bool is_copy(struct rvl_check *check, const struct rvl_group *group,
		    const struct rvl_fact *stray)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	struct rvl_found found = { 0 };
	struct rvl_id stamp, id;
	bool ret = false;

	if (!group->n_views || rvl_upper_at_open(check, stray->item, &at) ||
	    rvl_stamp_get(check->index, at.dirfd, at.name, at.st.stx_mode, at.st.stx_ino, &stamp) ||
	    stamp.number != group->number || !stamp.generation ||
	    rvl_look_in_view(check, group->view.item, &found))
		return false;
	if (S_ISREG(found.st.stx_mode) && found.st.stx_size == at.st.stx_size &&
	    found.st.stx_mask & STATX_BTIME &&
	    (!found.is_metacopy || found.data.layer) &&
	    !rvl_number_of_lower(check->index, found.places.v[0].layer,
				 found.places.v[0].layer->fd, found.places.v[0].path, &found.st,
				 &id))
		ret = id.number == stamp.number && id.generation == stamp.generation &&
		      (stray->what != RVL_STRAY_SUSPECT || has_other_data(check, stray, &found));
	rvl_found_release(&found);
	return ret;
}

int rvl_judge_strays(struct rvl_check *check, const struct rvl_group *group)
{
	int r = 0;

	for (unsigned i = 0; !r && i < group->n_strays; i++) {
		const struct rvl_fact *fact = &group->strays[i];
		const enum rvl_problem_id id = problem_of(fact->what);
		_cleanup_free_ char *path = rvl_item_path(check, fact->item), *view = NULL;

		if (is_copy(check, group, fact))
			view = rvl_item_path(check, group->view.item);
		if (view) {
			if (rvl_problem_begin(check, id, group->number, path,
					      "it is a copy of /%s", view))
				r = rvl_problem_end(
					check, rvl_mend_data_redirect(check, fact->item, view));
		} else if (fact->what != RVL_STRAY_SUSPECT) {
			rvl_problem_note(check, id, group->number, path,
					 "no name of lower leads to what it was copied up from");
		}
	}
	return r;
}
