# SPDX-License-Identifier: GPL-2.0-or-later
"""Uppers of ours that are handed to the kernel's overlayfs, and come back.

reverlay changes an upper and hands it over; the kernel must show the same tree, changes it, and after
an import reverlay must show what the kernel did, with the numbers and links of before.
"""

import os
import shutil
import stat

import pytest

from imports import EVERY, change, fill_lower, kill_anywhere, to_reverlay, tool, visible
from rvl import run
from snapshots import assert_same, check_tree, numbers
from trees import ino, listing, write

pytestmark = pytest.mark.reverlay_only("import is of reverlay")

# the kernel counts the index link where lower has no other name; and without an index the one that is there
WITHOUT_NLINK = ("nfs_export", "plain")

KERNEL = {"index": ["index=on", "redirect_dir=on", "xino=on"],
          "plain": ["index=off", "redirect_dir=on", "xino=on"],
          "nfs_export": ["index=on", "nfs_export=on", "redirect_dir=on", "xino=on"],
          "uuid_null": ["index=on", "redirect_dir=on", "xino=on", "uuid=null"]}


def to_kernel(ov, how, *arguments, code=0):
    """Hands the upper over; returns the report, and has set the options that the kernel needs."""
    export = ["--nfs-export"] if how == "nfs_export" else []
    report = tool(ov, "--to-kernel", *export, *arguments, code=code)
    ov.options = list(KERNEL[how])
    if report["to_kernel"]["metacopy"]:
        ov.options.append("metacopy=on")
    return report


def change_more(mnt):
    """What the kernel does with it then."""
    write(mnt / "links/sub/c", b"by the kernel\n")
    os.link(mnt / "links/sub/c", mnt / "links/fourth")
    os.unlink(mnt / "links/b moved")
    os.rename(mnt / "moved0", mnt / "moved again")
    os.chmod(mnt / "xattr", 0o600)
    write(mnt / "tree1/file", b"by the kernel\n")
    os.unlink(mnt / "tree3/file")
    os.unlink(mnt / "dir/suid moved")
    os.rename(mnt / "born", mnt / "tree1/born")
    write(mnt / "by the kernel/x", b"x\n")
    shutil.rmtree(mnt / "born.d")


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs", "other", "squashfs", "stack5")
@pytest.mark.parametrize("how", list(KERNEL))
def test_to_kernel(ov, how):
    """Ours, the kernel's, ours again: the same tree and links each time, and in the end the same numbers."""
    with ov.lower() as low:
        fill_lower(low)
    mnt = ov.mount(kernel=False)
    change(mnt)
    before, ours = visible(mnt), numbers(mnt)
    ov.umount()
    report = to_kernel(ov, how)
    assert report["to_kernel"]["linked"] >= 2  # links/sub/c, pair/2
    done = run(*ov.command(), check=False)
    assert done.returncode and "reverlayctl import -o lowerdir=" in done.stdout
    ov.mount(kernel=True)
    has_nlink = how not in WITHOUT_NLINK
    assert_same(visible_of(before, has_nlink), visible(mnt, has_nlink), "the kernel's")
    by_kernel = numbers(mnt)
    if len(ov.lowers) == 1:
        check_same_numbers(ov, dict(ours), by_kernel, how)
    assert len({by_kernel[p] for p in ("links/a", "links/b moved", "links/sub/c",
                                       "links/new name")}) == 1
    change_more(mnt)
    before = visible(mnt, False)
    ov.umount()
    to_reverlay(ov)
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt, False), "ours again")
    now = numbers(mnt)
    moved = {path.replace("moved0", "moved again", 1): n for path, n in ours.items()}
    moved["tree1/born"] = moved.pop("born")
    wrong = {path: (moved[path], n) for path, n in now.items() if path in moved and moved[path] != n}
    assert not wrong, wrong
    fresh = {n for path, n in now.items() if path not in moved} - {now["links/a"]}
    assert not fresh & set(ours.values())
    check_tree(mnt)


def visible_of(tree, nlink):
    return {path: {key: value for key, value in info.items() if nlink or key != "nlink"}
            for path, info in tree.items()}


def check_same_numbers(ov, ours, by_kernel, how):
    """What came from lower has the same number in both, but for the bits in which the kernel keeps the layer."""
    bits = (1 << 32) - 1
    of_lower = {ino(os.path.join(path, name)) for path, dirs, files in os.walk(ov.lowers[0])
                for name in dirs + files}
    del ours["."]
    same = {path for path, n in ours.items() if n in of_lower and by_kernel[path] & bits == n & bits}
    differ = {path for path, n in ours.items() if n in of_lower} - same
    if how == "plain":  # the kernel keeps no number of a hard link then
        differ -= {path for path in differ if path.startswith(("links/", "pair/", "hard", "dir/hard"))}
    assert not differ, {path: (ours[path], by_kernel[path]) for path in differ}
    assert len(same) > 20


@pytest.mark.slow
@pytest.mark.seconds(3600 if EVERY == 1 else 200)
@pytest.mark.parametrize("how", ["index", "nfs_export"])
def test_to_kernel_killed_anywhere(ov, capsys, how):
    """Killed, and run again, or imported: as if it had not been."""
    with ov.lower() as low:
        fill_lower(low)
    mnt = ov.mount(kernel=False)
    change(mnt)
    before, ours = visible(mnt), numbers(mnt)
    ov.umount()
    arguments = ["--to-kernel"] + (["--nfs-export"] if how == "nfs_export" else [])
    turns = []

    def check():
        turns.append(None)
        if len(turns) % 2:
            report = tool(ov, *arguments)
            options, ov.options = ov.options, KERNEL[how] + (
                ["metacopy=on"] if report["to_kernel"]["metacopy"] else [])
            ov.mount(kernel=True)
            has_nlink = how not in WITHOUT_NLINK
            assert_same(visible_of(before, has_nlink), visible(mnt, has_nlink), "the kernel's")
            ov.umount()
            ov.options = options
        tool(ov)
        code, found = ov.ctl("check", "-v")
        assert (code, found["problems"]) == (0, [])
        ov.mount(kernel=False)
        assert_same(visible_of(before, False), visible(mnt, False), "ours again")
        assert numbers(mnt) == ours
        ov.umount()

    kill_anywhere(ov, capsys, ["import", *arguments], check, EVERY if EVERY == 1 else 97)


def test_what_the_kernel_shows_otherwise(ov):
    """Devices 0:0, AUFS whiteouts, objects without a name: told by their paths, exit code 4."""
    with ov.lower() as low:
        fill_lower(low)
        write(low / "container/.wh.old", b"")
        write(low / "container/new", b"new\n")
    mnt = ov.mount(kernel=False)
    change(mnt)
    os.mkdir(mnt / "devices")
    os.mknod(mnt / "devices/null", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    ov.umount()
    report = to_kernel(ov, "index", "--dry-run", code=4)
    found = {(t["what"], t.get("path")) for t in report["told"]}
    assert found == {("device", "devices/null"),
                     ("aufs", f"{ov.lowers[0]}/container/.wh.old")}
    to_reverlay(ov)
    again = to_kernel(ov, "index", code=4)
    assert again["told"] == report["told"]
    assert again["to_kernel"] == report["to_kernel"]
    ov.mount(kernel=True)
    assert os.stat(mnt / "devices/null").st_rdev == os.makedev(0, 1)
    assert listing(mnt / "container") == [".wh.old", "new"]
    ov.umount()
    to_reverlay(ov)
    tool(ov)
    ov.mount(kernel=False)
    assert os.stat(mnt / "devices/null").st_rdev == os.makedev(0, 0)


def test_renamed_with_userxattr(ov):
    """The kernel follows no redirects there: told, and nothing is lost on the way back."""
    ov.options = ["userxattr", "redirect_dir=on"]
    with ov.lower() as low:
        fill_lower(low)
    mnt = ov.mount(kernel=False)
    os.rename(mnt / "tree0", mnt / "moved0")
    (mnt / "born.d").mkdir()
    os.rename(mnt / "born.d", mnt / "born moved")
    before = visible(mnt)
    ov.umount()
    report = tool(ov, "--to-kernel", code=4)
    told = {(t["what"], t.get("path")) for t in report["told"]}
    assert ("redirect", "moved0") in told
    assert [path for what, path in told if what == "redirect"] == ["moved0"]
    ov.options = ["userxattr", "index=on", "xino=on"]
    run("mount", "-t", "overlay", "-o", ov.option_string(), "overlay", mnt)
    with pytest.raises(PermissionError):
        os.stat(mnt / "moved0")
    assert listing(mnt / "born moved") == []
    run("umount", mnt)
    ov.options = ["userxattr", "redirect_dir=on"]
    tool(ov)
    ov.mount(kernel=False)
    assert_same(before, visible(mnt), "ours again")


def test_to_kernel_needs_a_sound_overlay(ov):
    """What repair would have to ask for is to be mended first."""
    with ov.lower() as low:
        fill_lower(low)
    mnt = ov.mount(kernel=False)
    os.rename(mnt / "tree0", mnt / "moved0")
    ov.umount()
    run("cp", "-a", ov.upper / "moved0", ov.upper / "twice")
    report = tool(ov, "--to-kernel", code=8)
    assert "repair" in report["stderr"]
    assert ov.ctl("repair", "-y")[0] == 1
    tool(ov, "--to-kernel")
    tool(ov)
    ov.mount(kernel=False)
