# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tree shows, compared; and what must be true of every tree."""

import hashlib
import os
import stat

from sysc import readdir_all

PRIVATE = ("trusted.overlay.", "user.overlay.")


def content_hash(path, size):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC |
                 (os.O_NOATIME if os.geteuid() == 0 else 0))
    try:
        digest = hashlib.blake2b(digest_size=12)
        total = 0
        while True:
            block = os.read(fd, 1 << 20)
            if not block:
                break
            total += len(block)
            digest.update(block)
        assert total == size, f"{path}: {total} bytes read, st_size is {size}"
        return digest.hexdigest()
    finally:
        os.close(fd)


def xattrs_of(path, private=False):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)
            if private or not name.startswith(PRIVATE)}


def snapshot(root, inos=True, ctime=False, private=False, data=True, dir_nlink=True):
    """{relative path: everything that one can see of the object}."""
    result = {}
    root = str(root)

    def add(path, name):
        st = os.lstat(path)
        info = {"mode": oct(st.st_mode), "uid": st.st_uid, "gid": st.st_gid,
                "mtime": st.st_mtime_ns, "xattrs": xattrs_of(path, private)}
        is_dir = stat.S_ISDIR(st.st_mode)
        if inos:
            info["ino"] = st.st_ino
        if not is_dir or dir_nlink:
            info["nlink"] = st.st_nlink
        if ctime:
            info["ctime"] = st.st_ctime_ns
        if stat.S_ISREG(st.st_mode):
            info["size"] = st.st_size
            if data:
                info["content"] = content_hash(path, st.st_size)
        elif stat.S_ISLNK(st.st_mode):
            info["target"] = os.readlink(path)
        elif stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode):
            info["rdev"] = st.st_rdev
        result[name] = info
        if is_dir:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY |
                         (os.O_NOATIME if os.geteuid() == 0 else 0))
            try:
                children = os.listdir(fd)
            finally:
                os.close(fd)
            for child in sorted(children):
                add(os.path.join(path, child), f"{name}/{child}" if name != "." else child)

    add(root, ".")
    return result


def difference(old, new, limit=20):
    """Lines that say how two snapshots differ."""
    lines = []
    for name in sorted(set(old) | set(new)):
        if name not in new:
            lines.append(f"- {name}")
        elif name not in old:
            lines.append(f"+ {name}")
        elif old[name] != new[name]:
            for key in sorted(set(old[name]) | set(new[name])):
                a, b = old[name].get(key), new[name].get(key)
                if a != b:
                    lines.append(f"! {name}: {key}: {a!r} -> {b!r}")
    return lines[:limit] + ([f"... {len(lines) - limit} more"] if len(lines) > limit else [])


def assert_same(old, new, what):
    lines = difference(old, new)
    assert not lines, what + ":\n" + "\n".join(lines)


def numbers(root):
    """{relative path: st_ino} of a whole tree."""
    result = {".": os.lstat(root).st_ino}
    for path, dirs, files in os.walk(root):
        for name in dirs + files:
            full = os.path.join(path, name)
            result[os.path.relpath(full, root)] = os.lstat(full).st_ino
    return result


def check_tree(root):
    """What must be true of every tree that reverlay shows.

    One st_dev; d_ino and d_type agree with stat; ".." leads up; names of one number are as many
    as st_nlink says (all links of all objects lie within the tree in these tests); and two
    directories never share a number.
    """
    root = str(root)
    top = os.lstat(root)
    names = {}
    problems = []

    def walk(path, st, parent_ino):
        seen = set()
        entries = readdir_all(path)
        for name, ino, _, kind in entries:
            if name in seen:
                problems.append(f"{path}/{name}: listed twice")
            seen.add(name)
            if name == ".":
                if ino != st.st_ino:
                    problems.append(f"{path}/.: d_ino {ino} is not {st.st_ino}")
                continue
            if name == "..":
                if path != root and ino != parent_ino:
                    problems.append(f"{path}/..: d_ino {ino} is not {parent_ino}")
                continue
            full = os.path.join(path, name)
            child = os.lstat(full)
            if child.st_dev != top.st_dev:
                problems.append(f"{full}: another st_dev")
            if child.st_ino != ino:
                problems.append(f"{full}: d_ino {ino} is not st_ino {child.st_ino}")
            if kind not in (0, stat.S_IFMT(child.st_mode) >> 12):
                problems.append(f"{full}: d_type {kind} for mode {oct(child.st_mode)}")
            if stat.S_ISDIR(child.st_mode):
                if child.st_ino in names:
                    problems.append(f"{full}: number of {names[child.st_ino]}")
                names[child.st_ino] = [full]
                walk(full, child, st.st_ino)
            else:
                names.setdefault(child.st_ino, []).append(full)
        for needed in (".", ".."):
            if needed not in seen:
                problems.append(f"{path}: no {needed}")

    walk(root, top, None)
    for ino, paths in names.items():
        st = os.lstat(paths[0])
        if not stat.S_ISDIR(st.st_mode) and st.st_nlink != len(paths):
            problems.append(f"{paths}: st_nlink is {st.st_nlink}, names are {len(paths)}")
        for other in paths[1:]:
            if os.lstat(other) != st:
                problems.append(f"{other}: differs from its hard link {paths[0]}")
    assert not problems, "\n".join(problems[:20])
