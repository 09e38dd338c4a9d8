# SPDX-License-Identifier: GPL-2.0-or-later
"""A rebind that is killed before the n-th call that may change something, and run again: as if it had not been."""

import os
import shutil

import pytest

import sysc
from imports import EVERY, kill_anywhere
from rvl import CTL, run
from snapshots import check_tree, numbers, xattrs_of
from test_rebind import (by_cp, by_rsync, by_rsync_without_links, move, rebind,
                         rebind_again, used)  # noqa: F401: fixtures
from test_rebind_rebuilt import aliases_without_workdir, check_aliases
from trees import ino, listing, write

pytestmark = pytest.mark.reverlay_only("it refuses copied layers")


@pytest.mark.slow
@pytest.mark.seconds(1200 if EVERY == 1 else 200)
def test_killed_anywhere(ov, used, move, capsys):
    """The copy has lost the hard links of upper and of lower, so every part has something to do."""
    move.upper("tmpfs", by_rsync_without_links)
    move.lowers("tmpfs", by_rsync_without_links)

    def check():
        rebind(ov)
        used.check(ov.mount())
        ov.umount()

    kill_anywhere(ov, capsys, ["rebind"], check, EVERY, least=200)


@pytest.mark.slow
@pytest.mark.seconds(1200 if EVERY == 1 else 200)
def test_killed_without_workdir(ov, move, capsys):
    """The workdir was not copied: what only that rebind knows of directories is not lost with it."""
    before = aliases_without_workdir(ov, move)

    def check():
        code, found = ov.ctl("check")  # a mount is refused as this is
        assert code == 0 or "reverlayctl rebind -o" in found["stderr"] or \
            [p["id"] for p in found["problems"]] == ["index-lost"], found
        rebind(ov)
        check_aliases(ov.mount(), before)
        ov.umount()

    kill_anywhere(ov, capsys, ["rebind"], check, min(EVERY, 17))


@pytest.mark.slow
@pytest.mark.seconds(1200 if EVERY == 1 else 200)
def test_killed_with_unequal_names(ov, move, capsys):
    """What the index has and what the name has are both kept; the name is the object."""
    with ov.lower() as low:
        write(low / "file", "lower\n")
        write(low / "lost+found/lower", "of the lower filesystem\n")
    ov.mount()
    shutil.rmtree(ov.mnt / "lost+found")
    write(ov.mnt / "file", "changed\n")
    number = ino(ov.mnt / "file")
    ov.umount()
    move.all("ext4", "ext4", by_rsync)
    attributes = xattrs_of(ov.upper / "file", private=True)
    os.unlink(ov.upper / "file")
    write(ov.upper / "file", "after the copy\n")
    for name, value in attributes.items():
        os.setxattr(ov.upper / "file", name, value)

    def check():
        rebind(ov)
        mnt = ov.mount()
        assert (mnt / "file").read_text() == "after the copy\n"
        assert ino(mnt / "file") == number
        lost, = listing(mnt / "lost+found.1")
        assert (mnt / "lost+found.1" / lost).read_text() == "changed\n"
        check_tree(mnt)
        ov.umount()

    kill_anywhere(ov, capsys, ["rebind"], check, min(EVERY, 3), least=20)


@pytest.mark.slow
@pytest.mark.seconds(1200 if EVERY == 1 else 200)
@pytest.mark.parametrize("how", ["one parted", "two and two"])
def test_killed_with_half_of_a_hard_link(ov, move, capsys, how):
    """Some names of a lower file are hard links still, others are copies: all are one object, and each counts once."""
    names = ["a", "b", "c", "dir/d"]
    with ov.lower() as low:
        write(low / "a", "lower\n")
        (low / "dir").mkdir()
        for name in names[1:]:
            os.link(low / "a", low / name)
        write(low / "dir/other", "other\n")
    ov.mount()
    write(ov.mnt / "born", "born\n")
    run(CTL, "map", ov.mnt)
    number, handle = ino(ov.mnt / "a"), sysc.handle(ov.mnt / "dir/d")
    ov.umount()
    move.upper("ext4", by_rsync)
    move.lowers("ext4", by_cp)
    low = ov.lowers[0]
    os.unlink(low / "dir/d")
    shutil.copy2(low / "a", low / "dir/d")
    if how == "two and two":
        os.unlink(low / "c")
        os.link(low / "dir/d", low / "c")

    def check():
        rebind(ov)
        code, found = ov.ctl("check", "-v")
        if code == 4:  # killed between a link and its count
            assert {p["id"] for p in found["problems"]} == {"nlink-wrong"}, found
            code, found = ov.ctl("repair", "-p")
            assert code == 1, found
        else:
            assert (code, found["problems"]) == (0, [])
        mnt = ov.mount()
        root = os.open(mnt, os.O_RDONLY)
        fd = sysc.open_handle(root, handle, os.O_RDWR)
        os.write(fd, b"changed\n")
        os.close(fd)
        os.close(root)
        for left in range(4, 0, -1):
            for name in names[:left]:
                st = os.lstat(mnt / name)
                assert (st.st_ino, st.st_nlink) == (number, left), (name, left)
                assert (mnt / name).read_text() == "changed\n"
            os.unlink(mnt / names[left - 1])
        check_tree(mnt)
        ov.umount()

    kill_anywhere(ov, capsys, ["rebind"], check, min(EVERY, 7), least=40)


@pytest.mark.slow
@pytest.mark.seconds(1200 if EVERY == 1 else 200)
def test_killed_with_joined_names(ov, move, capsys):
    """Two of four hard links have become links of a changed file: they are one object of their own, which a run
    that died may have begun."""
    changed, *kept, joined, joined2 = ("q", *(f"d/p{i}" for i in range(4)))
    with ov.lower() as low:
        write(low / changed, "Q\n")
        write(low / kept[0], "P\n")
        for name in (kept[1], joined, joined2):
            os.link(low / kept[0], low / name)
    mnt = ov.mount()
    write(mnt / changed, "Q changed\n")
    run(CTL, "map", mnt)
    old = ino(mnt / joined)
    ov.umount()
    newer = ov.lower_base / "newer"
    newer.mkdir()
    run("cp", "-a", low / changed, low / "d", newer)
    # the walk of lower goes by inodes: the joined names keep the number if it meets one of them first
    assert ino(newer / changed) < ino(newer / "d")
    for name in (joined, joined2):
        os.unlink(newer / name)
        os.link(newer / changed, newer / name)
    ov.lowers, ov.before, ov.check_links = [newer], None, False

    def check():
        rebind(ov)
        code, found = ov.ctl("check")
        if code == 4:  # killed between a link and its count
            assert {p["id"] for p in found["problems"]} == {"nlink-wrong"}, found
            assert ov.ctl("repair", "-p")[0] == 1
        else:
            assert (code, found["problems"]) == (0, [])
        mnt = ov.mount()
        number = numbers(mnt)
        assert number[joined] == number[joined2] not in (old, number[changed])
        assert number[kept[0]] == number[kept[1]] == old != number[changed]
        assert [(mnt / name).read_text() for name in (joined, joined2, *kept, changed)] == \
            ["Q\n"] * 2 + ["P\n"] * 2 + ["Q changed\n"]
        assert len(list((ov.work / "inodes").glob("*/#*"))) == 3  # the directory, the joined ones, the changed file
        ov.umount()
        rebind_again(ov)

    kill_anywhere(ov, capsys, ["rebind"], check, min(EVERY, 3), least=40)


def test_clone_that_never_ends(ov, move):
    """Upper's table was not written, twice: it still says the first uuid, which the state keeps until it does not."""
    with ov.lower() as low:
        write(low / "lower", "lower\n")
    ov.mount()
    write(ov.mnt / "file", "born\n")
    run(CTL, "map", ov.mnt)
    before = numbers(ov.mnt)
    ov.umount()
    move.all("ext4", "ext4", by_rsync)
    name = "trusted.overlay.instances"
    table = os.getxattr(ov.upper, name)
    for _ in range(3):
        rebind(ov, "--clone")
        assert os.getxattr(ov.upper, name) != table
        os.setxattr(ov.upper, name, table)
    mnt = ov.mount()
    assert numbers(mnt) == before
    assert os.getxattr(ov.upper, name) != table
