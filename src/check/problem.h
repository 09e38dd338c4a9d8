/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything that check can find: one table, with the stable id that people and programs see, how
 * bad it is, what it is and what repair does about it. docs/check.md has the same table; a style
 * test compares them.
 */
#ifndef RVL_CHECK_PROBLEM_H
#define RVL_CHECK_PROBLEM_H

#include <stdbool.h>
#include <stdint.h>

enum rvl_severity {
	RVL_NOTE, /* nothing is wrong with what users see: no exit code */
	RVL_WARNING, /* what is kept is out of step; the mount goes around it */
	RVL_ERROR, /* a number, a name or data is not what it was */
};

/* mend with `preen`: repair -p does it without being asked: it follows from the rest, and nothing
 * that a user can see changes place. */
/*      enum, id, severity, preen, what it is, what repair does */
/* clang-format off */
#define RVL_PROBLEMS(X)											\
	X(INDEX_LOST, "index-lost", RVL_ERROR, false,							\
	  "upper has stamps, but the workdir has no index of them",					\
	  "made again from stamps, origins and names: by repair --rebuild if the layers are where "	\
	  "they were, by rebind if they were copied or moved")						\
	X(STATE_DAMAGED, "state-damaged", RVL_ERROR, false,						\
	  "inodes/state cannot be read",								\
	  "repair --rebuild makes it again; the damaged file is kept as state.damaged")			\
	X(NOT_CLEAN, "not-clean", RVL_NOTE, true,							\
	  "the last mount did not end as it should",							\
	  "after a repair that left nothing the overlay counts as clean")				\
	X(VOLATILE_MARK, "volatile-mark", RVL_ERROR, false,						\
	  "a volatile mount has used upper: data may be missing, and each mount is refused",	\
	  "the mark is removed, so that it can be mounted; data are not mended")			\
	X(TABLE_DAMAGED, "table-damaged", RVL_WARNING, true,						\
	  "the instance table on upper's root is missing, damaged or not that of the state",		\
	  "written anew")										\
	X(LOG_DAMAGED, "log-damaged", RVL_WARNING, true,						\
	  "inodes/log is damaged",									\
	  "a torn end is cut off; what is no log at all is kept as log.damaged")			\
	X(LOG_PENDING, "log-pending", RVL_NOTE, true,							\
	  "operations were begun and not finished; what they touch is not judged",			\
	  "finished or undone, as each mount does")							\
	X(COUNTER_BEHIND, "counter-behind", RVL_ERROR, true,						\
	  "numbers are in use that the counter would give out again",					\
	  "a counter instance of its own is opened")							\
	X(CLAIMS_OUT_OF_STEP, "claims-out-of-step", RVL_ERROR, true,					\
	  "the records of claimed and assigned numbers contradict themselves, or lack "			\
	  "stamps of a lower layer",									\
	  "contradictions go, claims are read from the layers again")					\
	X(MAP_DAMAGED, "map-damaged", RVL_WARNING, true,						\
	  "inodes/map.mdb cannot be read or does not fit its seal",					\
	  "thrown away; it is made again when it is needed")						\
	X(MAP_LOST, "map-lost", RVL_ERROR, true,							\
	  "inodes/map.mdb, which alone has numbers from before a rebind, is damaged or missing",	\
	  "its instances are retired, as by the next mount: untouched objects of lower layers get "	\
	  "new numbers")										\
	X(MAP_STALE, "map-stale", RVL_WARNING, true,							\
	  "the map has places that lower does not have, or lacks some",					\
	  "its places are thrown away; they are found again when needed")				\
	X(LEFTOVER_TEMPORARY, "leftover-temporary", RVL_NOTE, true,					\
	  "something that was in the making was left in the workdir",					\
	  "removed, as each mount does")								\
	X(LEFTOVER_COMPANION, "leftover-companion", RVL_NOTE, true,					\
	  "a companion of an inode that is gone",							\
	  "removed")											\
	X(ENTRY_MISPLACED, "entry-misplaced", RVL_WARNING, false,					\
	  "something in the index that is no entry",							\
	  "moved to where it belongs if it is one after all; else files go to lost+found, "		\
	  "the rest is left")										\
	X(ENTRY_DAMAGED, "entry-damaged", RVL_ERROR, true,						\
	  "the record of a directory cannot be read",							\
	  "made again from the directory; removed if there is none")					\
	X(ENTRY_WITHOUT_OBJECT, "entry-without-object", RVL_WARNING, true,				\
	  "the record of a directory leads to no directory in upper",					\
	  "removed, or made a tombstone")								\
	X(ENTRY_WITHOUT_NAME, "entry-without-name", RVL_ERROR, false,					\
	  "an object is in the index and has no name",							\
	  "it gets a name in lost+found")								\
	X(ENTRY_DEAD, "entry-dead", RVL_NOTE, true,							\
	  "a removed object still has its entry: it had lower names that are not shown",		\
	  "left to the mount, which buries it when its number is asked for")				\
	X(ENTRY_REMOVED, "entry-removed", RVL_NOTE, false,						\
	  "an object lost its last name after the last mount had ended: to the kernel's overlayfs, say", \
	  "the entry, which alone has its data, is removed, or made a tombstone")			\
	X(ENTRY_HIDDEN, "entry-hidden", RVL_ERROR, false,						\
	  "an object was copied up, but its only name leads to the lower one",				\
	  "the same data: the entry goes; else it gets a new number and a name in "			\
	  "lost+found")											\
	X(OBJECT_WITHOUT_ENTRY, "object-without-entry", RVL_ERROR, true,				\
	  "an object has a stamp that no entry knows",							\
	  "the entry is made")										\
	X(TOMBSTONE_ALIVE, "tombstone-alive", RVL_ERROR, true,						\
	  "an object that is there has the tombstone of a dead one",					\
	  "the tombstone is replaced by the object's entry, or removed")				\
	X(STAMP_MISSING, "stamp-missing", RVL_NOTE, true,						\
	  "an object came into upper without reverlay (offline, by the kernel)",			\
	  "it is stamped, as at the first look")							\
	X(STAMP_DAMAGED, "stamp-damaged", RVL_ERROR, true,						\
	  "a stamp is malformed, and no entry tells the number",					\
	  "it gets a number like one without a stamp")							\
	X(STAMP_WRONG, "stamp-wrong", RVL_ERROR, true,							\
	  "the stamp of an indexed object is missing, malformed or another's",				\
	  "the number of its entry is written")								\
	X(STAMP_TWICE, "stamp-twice", RVL_ERROR, true,							\
	  "two objects have one stamp",									\
	  "the one that the entry knows keeps it, the others get new numbers")				\
	X(PATH_STALE, "path-stale", RVL_WARNING, true,							\
	  "overlay.path of an entry is not where the directory is",					\
	  "written anew")										\
	X(UPPER_STALE, "upper-stale", RVL_WARNING, true,						\
	  "overlay.upper of an entry is missing or not the directory's handle",				\
	  "written anew")										\
	X(FH_STALE, "fh-stale", RVL_WARNING, true,							\
	  "overlay.fh of an entry is missing or not the lower directory's handle",			\
	  "written anew")										\
	X(PLACE_STALE, "place-stale", RVL_WARNING, true,						\
	  "overlay.place is malformed, or of a directory and lower has another there",			\
	  "written anew, or removed where lower has no place")						\
	X(PLACE_MISSING, "place-missing", RVL_NOTE, true,						\
	  "a file that was copied up by the kernel has no overlay.place",				\
	  "it gets it, from where lower has it")							\
	X(ORIGIN_STALE, "origin-stale", RVL_WARNING, true,						\
	  "overlay.origin is missing or malformed, or leads to nothing, though lower has the object",	\
	  "written anew, or as \"origin unknown\"")							\
	X(NLINK_WRONG, "nlink-wrong", RVL_ERROR, true,							\
	  "overlay.nlink is malformed or does not fit the names",					\
	  "written anew from the names that are there")							\
	X(DIRECTORY_TWICE, "directory-twice", RVL_ERROR, false,						\
	  "two directories show the same lower directory",						\
	  "the one that has its number keeps it, the other becomes opaque; an uncovered "		\
	  "lower name gets its whiteout")								\
	X(OPAQUE_VALUE, "opaque-value", RVL_WARNING, true,						\
	  "overlay.opaque has a value without a meaning",						\
	  "removed: what is seen stays; made \"y\" where the entry says that lower is hidden")		\
	X(OPAQUE_MISSING, "opaque-missing", RVL_ERROR, false,						\
	  "a directory that was made in place of a removed one has lost its overlay.opaque, and shows "	\
	  "what lower has there",									\
	  "made opaque, as the entry says (is lower's to be seen: remove its stamp, `overlay.ino`, and "	\
	  "it gets another entry)")									\
	X(IMPURE_VALUE, "impure-value", RVL_WARNING, true,						\
	  "overlay.impure has a value without a meaning",						\
	  "set to \"y\"")										\
	X(PROTATTR_VALUE, "protattr-value", RVL_ERROR, true,						\
	  "overlay.protattr has a value without a meaning: the object cannot be changed",		\
	  "removed: the object is neither immutable nor append-only")					\
	X(REDIRECT_VALUE, "redirect-value", RVL_ERROR, true,						\
	  "overlay.redirect is malformed or leads outside",						\
	  "made again from the entry; without one the directory becomes opaque. Of a metacopy file: "	\
	  "as metacopy-data")										\
	X(REDIRECT_DANGLING, "redirect-dangling", RVL_WARNING, true,					\
	  "overlay.redirect of a directory leads to nothing in lower",					\
	  "as redirect-value")										\
	X(REDIRECT_LOOP, "redirect-loop", RVL_ERROR, true,						\
	  "overlay.redirect leads to a directory above",						\
	  "as redirect-value")										\
	X(REDIRECT_MISSING, "redirect-missing", RVL_ERROR, true,					\
	  "a directory that was renamed has lost its overlay.redirect, and shows no lower "		\
	  "content",											\
	  "made again from the entry")									\
	X(METACOPY_VALUE, "metacopy-value", RVL_ERROR, true,						\
	  "overlay.metacopy is malformed; or lower's data have another size; or the file has all data "	\
	  "and lower has none",										\
	  "made valid, with the size of lower's, where only lower has all data; removed where upper "	\
	  "has them; left alone where upper has not all and lower's are not found, or have another "	\
	  "size and upper has a part")									\
	X(METACOPY_DATA, "metacopy-data", RVL_ERROR, true,						\
	  "a metacopy file leads to no data in lower, or to those of another file than it was "	\
	  "copied up from",										\
	  "overlay.redirect is made again, to where lower has that file; left alone where lower has it "	\
	  "no more")											\
	X(METACOPY_FETCH, "metacopy-fetch", RVL_NOTE, true,						\
	  "data were being copied into a metacopy file: its times, setuid and capability may be gone",	\
	  "they are put back, as the mount does at the first look")				\
	X(WHITEOUT_USELESS, "whiteout-useless", RVL_NOTE, true,						\
	  "a whiteout hides nothing",									\
	  "removed")											\
	X(WHITEOUT_IN_OPAQUE, "whiteout-in-opaque", RVL_NOTE, true,					\
	  "a whiteout in a directory that hides all of lower",						\
	  "removed")
/* clang-format on */

enum rvl_problem_id {
#define X(name, id, severity, preen, what, mend) RVL_P_##name,
	RVL_PROBLEMS(X)
#undef X
	RVL_PROBLEM_N
};

struct rvl_problem_kind {
	const char *id;
	enum rvl_severity severity;
	bool is_preened;
	const char *what;
	const char *mend;
};
extern const struct rvl_problem_kind rvl_problem_kinds[RVL_PROBLEM_N];

const char *rvl_severity_name(enum rvl_severity severity);

enum rvl_outcome {
	RVL_FOUND, /* not mended: not asked to, or refused */
	RVL_MENDED,
	RVL_FAILED, /* mending was tried: `error` says why not */
};

struct rvl_problem {
	enum rvl_problem_id id;
	uint64_t number; /* 0: none */
	const char *path; /* in the overlay, no leading slash; NULL: none. Any bytes */
	const char *detail; /* more for people; NULL */
	enum rvl_outcome outcome;
	int error; /* FAILED: -errno */
};

#endif
