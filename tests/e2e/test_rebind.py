# SPDX-License-Identifier: GPL-2.0-or-later
"""Layers that are copied, moved or replaced: after a rebind numbers, links and handles are the same.

An overlay of every kind of object is used, its layers are copied away in some way, the originals
are removed, and the copy is bound. Handles from before are opened before any name is looked up.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import sysc
from rvl import (CTL, assert_same, check_tree, ino, listing, numbers, run, snapshot, standard_tree,
                 whiteout, write)

pytestmark = pytest.mark.reverlay_only("it refuses copied layers")


# -- ways of copying --------------------------------------------------------------------------


def by_rsync(source, target):
    run("rsync", "-aHAX", f"{source}/", target)


def by_rsync_without_links(source, target):
    run("rsync", "-aAX", f"{source}/", target)


def by_cp(source, target):
    run("cp", "-a", f"{source}/.", target)


def by_tar(source, target):
    xattrs = ["--xattrs", "--xattrs-include=*", "--acls"]
    with subprocess.Popen(["tar", "-C", source, "--format=posix", *xattrs, "-cf", "-", "."],
                          stdout=subprocess.PIPE) as tar:
        subprocess.run(["tar", "-C", target, *xattrs, "-xpf", "-"], stdin=tar.stdout, check=True,
                       timeout=60)
    assert tar.returncode == 0


def by_plain_tar(source, target):
    with subprocess.Popen(["tar", "-C", source, "--format=posix", "--xattrs", "-cf", "-", "."],
                          stdout=subprocess.PIPE) as tar:
        subprocess.run(["tar", "-C", target, "--xattrs", "-xpf", "-"], stdin=tar.stdout, check=True,
                       timeout=60)
    assert tar.returncode == 0


WAYS = {"rsync": by_rsync, "cp": by_cp, "tar": by_tar}


class Move:
    """Copies of an overlay's directories, which become the overlay's."""

    def __init__(self, ov, images):
        self.ov = ov
        self.images = images
        self.n = 0

    def directory(self, fs, name):
        self.n += 1
        path = self.images.get(fs) / f"{self.ov.mnt.name}.{name}{self.n}"
        path.mkdir()
        path.chmod(0o755)
        return path

    def upper(self, fs, copy):
        """Upper and workdir in one go: their hard links lead from one to the other."""
        old, self.ov.base = self.ov.base, self.directory(fs, "base")
        copy(old, self.ov.base)
        self.ov.upper, self.ov.work = self.ov.base / "upper", self.ov.base / "work"
        shutil.rmtree(old)

    def lowers(self, fs, copy):
        old, self.ov.lower_base = self.ov.lower_base, self.directory(fs, "lower")
        new = []
        for i, path in enumerate(self.ov.lowers):
            new.append(self.ov.lower_base / str(i))
            new[-1].mkdir()
            copy(path, new[-1])
        for path in self.ov.lowers:
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        self.ov.lowers = new
        self.ov.before = None

    def all(self, fs, lower_fs, copy):
        self.upper(fs, copy)
        self.lowers(lower_fs, copy)


@pytest.fixture
def move(ov, images):
    return Move(ov, images)


def rebind(ov, *arguments, check=True):
    """Runs the tool; returns its report."""
    result = run(CTL, "rebind", "--json", *arguments, "-o", ov.option_string(), check=check)
    return json.loads(result.stdout) if check else result


# -- the state of things ----------------------------------------------------------------------


def fill_lower(top):
    standard_tree(top)
    os.unlink(top / "socket")  # tar does not take it
    for name in ("renamed.d/in", "removed.d/in", "chmodded.d/in"):
        write(top / name, name)
    for name in ("replaced", "removed", "renamed", "renamed.d/sub/deep"):
        write(top / name, name)
    for name in ("pair1", "triple1"):
        write(top / name, name)
    os.link(top / "pair1", top / "dir/pair2")
    os.link(top / "triple1", top / "triple2")
    os.link(top / "triple1", top / "dir/triple3")


def use(mnt):
    """Every kind of change; what is in dir/sub stays untouched in lower."""
    write(mnt / "file", "changed\n")
    write(mnt / "born", "born\n")
    write(mnt / "born.d/inner", "inner\n")
    os.link(mnt / "born", mnt / "born.d/link")
    os.symlink("born", mnt / "born.link")
    os.mkfifo(mnt / "born.fifo")
    os.rename(mnt / "renamed", mnt / "born.d/was-renamed")
    os.rename(mnt / "renamed.d", mnt / "born.d/was-renamed.d")
    os.unlink(mnt / "removed")
    shutil.rmtree(mnt / "removed.d")
    os.unlink(mnt / "replaced")
    write(mnt / "replaced", "another\n")
    os.chmod(mnt / "chmodded.d", 0o700)
    with open(mnt / "triple2", "a", encoding="utf-8") as file:  # copied up by one of its names
        file.write("more\n")
    os.unlink(mnt / "hard1")


def handles(top):
    """{path: handle} of all objects."""
    result = {}
    for path, dirs, files in os.walk(top):
        for name in dirs + files:
            full = os.path.join(path, name)
            result[os.path.relpath(full, top)] = sysc.handle(full)
    return result


def tree_of(mnt):
    """All but the times of directories: rsync makes links of whiteouts after it has set them."""
    tree = snapshot(mnt, dir_nlink=False)
    for info in tree.values():
        if stat.S_ISDIR(int(info["mode"], 8)):
            del info["mtime"]
    return tree


class Before:
    """What must be the same afterwards."""

    def __init__(self, mnt):
        self.tree = tree_of(mnt)
        self.handles = handles(mnt)

    def check_handles(self, mnt, without=()):
        """Old handles first, while nothing is in memory."""
        root = os.open(mnt, os.O_RDONLY)
        try:
            for name, fh in self.handles.items():
                if name in without:
                    continue
                fd = sysc.open_handle(root, fh, os.O_PATH)
                st = os.fstat(fd)
                os.close(fd)
                assert st.st_ino == self.tree[name]["ino"], name
                assert oct(st.st_mode) == self.tree[name]["mode"], name
        finally:
            os.close(root)

    def check(self, mnt):
        self.check_handles(mnt)
        assert_same(self.tree, tree_of(mnt), "after the move")
        assert handles(mnt) == self.handles
        check_tree(mnt)


@pytest.fixture
def used(ov, move):
    """An overlay with a past, not mounted."""
    with ov.lower() as top:
        fill_lower(top)
    use(ov.mount())
    run(CTL, "map", ov.mnt)
    before = Before(ov.mnt)
    ov.umount()
    return before


# -- tests ------------------------------------------------------------------------------------

TARGETS = [("rsync", "xfs", "xfs"), ("tar", "btrfs", "ext4"), ("cp", "ext4", "ext4"),
           ("rsync", "tmpfs", "btrfs")]


@pytest.mark.layouts("ext4", "stack5")
@pytest.mark.parametrize("way,fs,lower_fs", TARGETS)
def test_moved(ov, used, move, way, fs, lower_fs):
    """All layers copied to other filesystems, and once more back: everything is what it was."""
    for upper_fs, below_fs in ((fs, lower_fs), ("ext4", "ext4")):
        move.all(upper_fs, below_fs, WAYS[way])
        report = rebind(ov)
        assert report["moved"] and report["other_lowers"] and report["had_map"]
        assert report["upper"]["linked"] <= (1 if way == "tar" else 0)  # it loses links of fifos
        assert report["told"] == [] and report["lower"]["gone"] == 0
        used.check(ov.mount())
        ov.umount()
