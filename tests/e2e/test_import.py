# SPDX-License-Identifier: GPL-2.0-or-later
"""Uppers of the kernel's overlayfs that become ours.

The kernel makes an upper with everything that it can make there; it is imported, and reverlay must
show the same tree, with the numbers and links that the kernel showed for what came from lower.
"""

import os
import shlex
import shutil

import pytest

import sysc
from imports import (EVERY, OPTIONS, change, check_numbers, fill_lower, kill_anywhere, start,
                     to_reverlay, tool, visible)
from rvl import CTL, run
from snapshots import assert_same, check_tree, difference, numbers, snapshot
from trees import ino, listing, standard_tree, write

pytestmark = pytest.mark.reverlay_only("import is of reverlay")


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs")
@pytest.mark.parametrize("how", list(OPTIONS))
def test_kernels_upper(ov, how):
    """Same tree, same numbers and links as the kernel showed; and check has nothing to say."""
    mnt = start(ov, OPTIONS[how])
    change(mnt)
    has_nlink = how != "nfs_export"
    before, by_kernel = visible(mnt, has_nlink), numbers(mnt)
    links = {path: os.lstat(mnt / path).st_ino for path in
             ("links/a", "links/b moved", "links/sub/c", "links/new name")}
    if how != "plain":
        assert len(set(links.values())) == 1
    ov.umount()
    to_reverlay(ov)
    report = tool(ov)
    if how != "plain":
        assert report["links"] >= 2
    assert not os.path.exists(ov.work / "index")
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt, has_nlink), "imported")
    check_numbers(ov, by_kernel)
    if how == "plain":
        ov.check_links = False
    else:
        assert len({ino(mnt / path) for path in links}) == 1
        write(mnt / "links/sub/c", b"through another name\n")
        assert (mnt / "links/a").read_bytes() == b"through another name\n"
        check_tree(mnt)
    again = numbers(mnt)
    ov.remount()
    assert numbers(mnt) == again


@pytest.mark.parametrize("how", ["index", "nfs_export"])
def test_dead_stay_dead(ov, how):
    """The numbers of what the kernel removed lead to nothing."""
    mnt = start(ov, OPTIONS[how])
    low = ov.lowers[0]
    gone = {name: ino(low / name) for name in
            ("lost/1", "tree2", "tree2/file", "tree3/sub", "symlink")}
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    report = tool(ov)
    assert (report["dead"] > 0) == (how == "nfs_export")
    ov.mount(kernel=False)
    alive = ino(mnt / "file")
    ov.umount()
    for number in (alive, *gone.values()):
        done = run(CTL, "resolve", "-o", ov.option_string(), number, check=False)
        assert (done.returncode == 0) == (number == alive), done.stdout
    ov.mount(kernel=False)


@pytest.mark.parametrize("how", ["index", "nfs_export", "plain"])
def test_dry_run(ov, how):
    """It tells what would be, and nothing is changed, not even a time."""
    mnt = start(ov, OPTIONS[how])
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    before = snapshot(ov.base, private=True, ctime=True)
    report = tool(ov, "--dry-run")
    assert not difference(before, snapshot(ov.base, private=True, ctime=True))
    real = tool(ov)
    for key in ("links", "directories", "dead", "objects", "told"):
        assert report[key] == real[key], key
    assert real["numbered"] > 10


def test_after_turns(ov):
    """An upper that both have mounted by turns: after the import nothing of the kernel's is left, and nothing to mend."""
    with ov.lower() as low:
        fill_lower(low)
    ov.options = ["redirect_dir=on", "metacopy=on"]
    mnt = ov.mount()
    write(mnt / "pair/1", b"copied up by reverlay\n")
    write(mnt / "empty", b"no more\n")
    os.unlink(mnt / "xattr")
    write(mnt / "removed by the kernel")
    write(mnt / "caps", b"copied up, and removed by the kernel\n")
    write(mnt / "d/removed by the kernel")
    ours = numbers(mnt)
    ov.remount(kernel=True)
    assert (mnt / "pair/2").read_bytes() == b"pair\n"  # without a way back: see docs/import.md
    change(mnt)
    os.unlink(mnt / "removed by the kernel")
    os.unlink(mnt / "caps")
    shutil.rmtree(mnt / "d")
    before = visible(mnt, False)
    ov.umount()
    ov.options = []
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert not os.path.exists(mnt / "lost+found")
    got = visible(mnt, False)
    assert_same({k: v for k, v in before.items() if k != "pair/2"},
                {k: v for k, v in got.items() if k != "pair/2"}, "imported")
    assert (mnt / "pair/2").read_bytes() == b"copied up by reverlay\n"
    now = numbers(mnt)
    for name in ("empty", "file", "dir/inner", "links/a", "pair/2"):
        assert now[name] == ours[name], name


@pytest.mark.parametrize("turns", [(True, False), (False,)], ids=["imported", "on-sight"])
def test_hard_link_that_the_kernel_broke(ov, turns):
    """An origin with several names in lower, and no entry in the kernel's index: two objects, as the kernel shows them."""
    with ov.lower() as low:
        write(low / "a", b"lower\n")
    ov.options = ["index=off"]
    mnt = ov.mount(kernel=True)
    write(mnt / "a", b"changed\n")
    ov.umount()
    os.link(ov.lowers[0] / "a", ov.lowers[0] / "b")
    ov.before = None
    ov.options = []
    for is_import in turns:
        if is_import:
            tool(ov)
        ov.mount(kernel=False)
        assert (mnt / "a").read_bytes() == b"changed\n"
        assert (mnt / "b").read_bytes() == b"lower\n"
        assert ino(mnt / "a") != ino(mnt / "b")
        ov.umount()
    ov.check_links = False


def test_copied_layers(ov, images):
    """Where the kernel's handles lead nowhere each file with several names is told, and what is in upper is kept."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    before = visible(mnt, False)
    ov.umount()
    to_reverlay(ov)
    new = ov.lower_base / "new"
    run("cp", "-a", ov.lowers[0], new)
    shutil.rmtree(ov.lowers[0])
    ov.lowers = [new]
    ov.before = None
    report = tool(ov)
    assert {t["what"] for t in report["told"]} <= {"parted", "unnamed"}
    assert len(report["told"]) >= 2
    ov.mount(kernel=False)
    # names that are only in lower are lower's again; all others are what they were
    got = visible(mnt, False)
    for info in (before, got):
        for name in ("links/sub/c", "pair/2"):
            info.pop(name, None)
    assert_same(before, got, "imported")
    ov.check_links = ov.check_clean = False


def test_refused(ov):
    """While it is mounted by either; without a workdir; by wrong usage; and nothing is changed by that."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    assert "mounted" in tool(ov, code=8)["stderr"]
    ov.umount()
    to_reverlay(ov)
    done = run(CTL, "import", "-o", f"lowerdir={ov.lowers[0]}", check=False)
    assert done.returncode == 16
    assert run(CTL, "import", check=False).returncode == 16
    assert run(CTL, "import", "-o", ov.option_string(), "more", check=False).returncode == 16
    ov.mount(kernel=False)
    assert "mounted" in tool(ov, code=8)["stderr"]
    write(mnt / "hard2", b"begun\n")
    os.close(os.open(mnt / "begun", os.O_CREAT | os.O_WRONLY))
    fd = os.open(mnt / "begun", os.O_RDONLY)
    os.unlink(mnt / "begun")
    ov.kill()
    os.close(fd)
    assert "did not end" in tool(ov, code=8)["stderr"]
    ov.mount(kernel=False)
    ov.umount()
    tool(ov)


def test_strange_names_in_the_index(ov):
    """What is no entry is told and stays, what was in the making goes."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    index = ov.work / "index"
    write(index / "README", b"not mine\n")
    write(index / "00fb1d00", b"too short\n")
    write(index / ("00fb1d0081" + "00" * 24), b"of nothing\n")
    write(index / "#1a/sub/x", b"left over\n")
    report = tool(ov)
    assert sorted((t["what"], t["name"]) for t in report["told"]) == [
        ("unknown", "00fb1d00"), ("unknown", "README"), ("unnamed", "00fb1d0081" + "00" * 24)]
    assert listing(index) == ["00fb1d00", "00fb1d0081" + "00" * 24, "README"]
    ov.mount(kernel=False)
    check_tree(mnt)


@pytest.mark.slow
@pytest.mark.seconds(3600 if EVERY == 1 else 200)
def test_killed_anywhere(ov, capsys):
    """Killed, and run again: as if it had not been; until then a mount is refused, or shows the same."""
    mnt = start(ov, OPTIONS["nfs_export"])
    change(mnt)
    before, by_kernel = visible(mnt, False), numbers(mnt)
    ov.umount()
    to_reverlay(ov)

    def check():
        tool(ov)
        code, found = ov.ctl("check", "-v")
        assert (code, found["problems"]) == (0, [])
        ov.mount(kernel=False)
        assert_same(before, visible(mnt, False), "imported")
        check_numbers(ov, by_kernel)
        check_tree(mnt)
        ov.umount()

    kill_anywhere(ov, capsys, ["import"], check, EVERY)


def test_mount_of_half_an_import(ov):
    """It is refused, by both the mount and the tools, with the command to run."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    run("strace", "-f", "-o", "/dev/null", "-e", "trace=?renameat2", "-e",
        "inject=?renameat2:signal=SIGKILL:when=4", CTL, "import", "-o", ov.option_string(),
        check=False)
    assert (ov.work / "inodes/state").exists()
    done = run(*ov.command(), check=False)
    assert done.returncode and "reverlayctl import -o lowerdir=" in done.stdout
    code, found = ov.ctl("check")
    assert code == 8 and "reverlayctl import -o lowerdir=" in found["stderr"]
    tool(ov)
    ov.mount(kernel=False)
    check_tree(mnt)


def test_copied_up_by_both(ov):
    """By one name here, by another by the kernel, which did not know: both are kept, the kernel's gets a number of its own."""
    with ov.lower() as low:
        write(low / "pair/1", b"pair\n")
        os.link(low / "pair/1", low / "pair/2")
    mnt = ov.mount(kernel=False)
    write(mnt / "pair/1", b"by reverlay\n")
    ours = ino(mnt / "pair/1")
    ov.remount(kernel=True)
    write(mnt / "pair/2", b"by the kernel\n")
    ov.umount()
    report = tool(ov)
    assert [t["what"] for t in report["told"]] == ["taken"]
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert (mnt / "pair/1").read_bytes() == b"by reverlay\n"
    assert (mnt / "pair/2").read_bytes() == b"by the kernel\n"
    assert ino(mnt / "pair/1") == ours != ino(mnt / "pair/2")
    ov.check_links = False


def test_removed_whiteouts(ov):
    """What the kernel's index calls dead lives, if its whiteout was taken out of upper offline."""
    start(ov, OPTIONS["nfs_export"])
    os.unlink(ov.mnt / "file")
    shutil.rmtree(ov.mnt / "tree2")
    os.unlink(ov.mnt / "pair/1")
    os.unlink(ov.mnt / "pair/2")
    ov.umount()
    os.unlink(ov.upper / "file")
    os.unlink(ov.upper / "tree2")
    to_reverlay(ov)
    assert tool(ov)["left"] == 0
    run(CTL, "check", "-o", ov.option_string())
    mnt = ov.mount()
    paths = ("file", "tree2", "tree2/file", "tree2/sub/deep")
    handles = {path: sysc.handle(mnt / path) for path in paths}
    assert listing(mnt / "pair") == []
    ov.remount()
    root = os.open(mnt, os.O_RDONLY)
    for path, handle in handles.items():
        fd = sysc.open_handle(root, handle, os.O_PATH)
        assert os.fstat(fd).st_ino == ino(mnt / path)
        os.close(fd)
    os.close(root)
    for path in ("file", "tree2/file", "tree2/sub/deep"):
        write(mnt / path, "changed\n")


def test_userxattr(ov):
    """With userxattr, where symlinks and devices can carry no attributes: there and back."""
    with ov.lower() as low:
        standard_tree(low)
    ov.options = ["userxattr"]
    mnt = ov.mnt
    run("mount", "-t", "overlay", "-o", ov.option_string(), "overlay", mnt)
    write(mnt / "file", b"changed\n")
    os.chown(mnt / "symlink", 5, 6, follow_symlinks=False)
    write(mnt / "born", b"born\n")
    os.unlink(mnt / "big")
    before = visible(mnt)
    run("umount", mnt)
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt), "imported")
    assert ino(mnt / "file") == ino(ov.lowers[0] / "file")
    os.chown(mnt / "dangling", 5, 6, follow_symlinks=False)
    os.chmod(mnt / "xattr", 0o600)
    before, ours = visible(mnt), numbers(mnt)
    ov.umount()
    report = tool(ov, "--to-kernel", code=4)
    assert [(t["what"], t["path"]) for t in report["told"]] == [("beside", "dangling")]
    text = run(CTL, "import", "--to-kernel", "-o", ov.option_string(), check=False).stdout
    (command,) = [line for line in text.splitlines() if line.startswith("mount -t overlay -o ")]
    run(*shlex.split(command), "overlay", mnt)
    assert_same(before, visible(mnt), "the kernel's")
    run("umount", mnt)
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt), "ours again")
    assert numbers(mnt) == ours
    check_tree(mnt)


KEPT = ["rebind", "map", "assigned"]


def with_a_map(ov, how):
    """An overlay whose map has what nothing else tells; the numbers it shows."""
    with ov.lower() as low:
        fill_lower(low)
        write(low / "untouched/f")
    if how == "assigned":  # with a real inode number of 64 bits
        where = ov.lower_base / "kernels"
        where.mkdir()
        (ov.lower_base / "more").mkdir()
        run("mount", "-t", "overlay", "-o",
            f"lowerdir={ov.lowers[0]}:{ov.lower_base / 'more'},xino=on", "none", where)
        ov.mounted_helpers.append(where)
        ov.lowers = [where]
    mnt = ov.mount()
    write(mnt / "file", b"changed\n")
    write(mnt / "links/a", b"links, changed\n")
    os.rename(mnt / "tree0", mnt / "moved0")
    os.unlink(mnt / "symlink")
    write(mnt / "born")
    numbers(mnt)
    run(CTL, "map", mnt)
    ov.umount()
    if how == "rebind":
        run(CTL, "rebind", "-o", ov.option_string())
    before = numbers(ov.mount())
    if how == "assigned":
        assert before["untouched"] >= 1 << 48 and not (ov.work / "inodes/assigned").stat().st_size
    ov.umount()
    return before


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("command", [[[]], [[], []], [["--dry-run"], []], [["--to-kernel"], []],
                                     [["--to-kernel", "--nfs-export"], ["--to-kernel"], []]],
                         ids=["once", "twice", "dry", "to-kernel", "nfs-export"])
def test_the_map_is_kept(ov, how, command):
    """Untouched objects of lower keep their numbers also where only the map has them, however often it is handed over."""
    before = with_a_map(ov, how)
    path, = (ov.work / "inodes").glob("map.mdb*")
    for arguments in command:
        # objects of an overlay have no handles for the kernel, which is told
        code = 4 if how == "assigned" and "--to-kernel" in arguments else 0
        report = tool(ov, *arguments, code=code)
        assert not report["stderr"] and not report["problems"], report
    assert list((ov.work / "inodes").glob("map.mdb*")) == [path]
    assert numbers(ov.mount(kernel=False)) == before
