# SPDX-License-Identifier: GPL-2.0-or-later
"""Rename: files and directories of every origin, all flags, numbers and content stay."""

import errno
import itertools
import os
import stat
import threading

import pytest

import sysc
from rvl import run, slowed, wait_until
from snapshots import assert_same, numbers, snapshot
from trees import ino, listing, standard_tree, write

ORIGINS = ("lower", "upper", "merged", "copied")


def make_origins(ov, low):
    """Directories and files of every origin: of lower, of upper, of both."""
    for origin in ("lower", "merged", "copied"):
        write(low / f"d-{origin}/file", f"{origin} lower\n")
        write(low / f"d-{origin}/sub/deep", f"{origin} deep\n")
        write(low / f"f-{origin}", f"{origin} lower\n")
    write(low / "target/inside")
    write(ov.upper / "d-merged/own", "merged upper\n")
    write(ov.upper / "d-upper/file", "upper\n")
    write(ov.upper / "d-upper/sub/deep", "upper\n")
    write(ov.upper / "f-upper", "upper\n")
    write(ov.upper / "f-merged", "merged upper\n")


def copy_up_some(mnt):
    os.chmod(mnt / "d-copied", 0o711)
    os.chmod(mnt / "d-copied/file", 0o604)
    os.chmod(mnt / "f-copied", 0o604)


def content(root):
    """A tree without what a rename may change."""
    result = {}
    for name, info in snapshot(root, dir_nlink=False).items():
        info = dict(info)
        if name == ".":
            info = {"ino": info["ino"]}
        result[name] = info
    return result


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs", "other", "squashfs", "stack5", "overlay")
def test_directories(ov):
    """Directories of every origin move, within and across directories, with all that is in them."""
    with ov.lower() as low:
        make_origins(ov, low)
    mnt = ov.mount()
    copy_up_some(mnt)
    for origin in ORIGINS:
        old = mnt / f"d-{origin}"
        before = content(old)
        os.rename(old, mnt / f"new-{origin}")
        sysc.fails(errno.ENOENT, os.lstat, old)
        assert_same(before, content(mnt / f"new-{origin}"), origin)
        os.rename(mnt / f"new-{origin}", mnt / "target" / origin)
        assert_same(before, content(mnt / "target" / origin), origin)
        ov.remount()
        sysc.fails(errno.ENOENT, os.lstat, old)
        sysc.fails(errno.ENOENT, os.lstat, mnt / f"new-{origin}")
        assert_same(before, content(mnt / "target" / origin), origin)
        # what is inside can be changed, and its parent is found
        write(mnt / "target" / origin / "sub/deep", "changed\n")
        write(mnt / "target" / origin / "sub/new", "new\n")
        assert os.path.realpath(mnt / "target" / origin / "sub/..") == \
            str(mnt / "target" / origin)
    ov.remount()
    for origin in ORIGINS:
        assert (mnt / "target" / origin / "sub/deep").read_text() == "changed\n"
        assert listing(mnt / "target" / origin / "sub") == ["deep", "new"]
    # and the old names can be used again: nothing of the old shines through
    for origin in ORIGINS:
        os.mkdir(mnt / f"d-{origin}")
        assert listing(mnt / f"d-{origin}") == []
    ov.remount()
    for origin in ORIGINS:
        assert listing(mnt / f"d-{origin}") == []


@pytest.mark.layouts("ext4", "btrfs", "other", "squashfs", "stack5")
def test_files(ov):
    """Files of every origin move, over nothing, over each other, and keep number and content."""
    with ov.lower() as low:
        make_origins(ov, low)
    mnt = ov.mount()
    copy_up_some(mnt)
    for origin in ORIGINS:
        old = mnt / f"f-{origin}"
        number, text, mode = ino(old), old.read_text(), os.stat(old).st_mode
        for new in (mnt / f"moved-{origin}", mnt / "target" / f"f-{origin}", mnt / "d-lower/file"):
            os.rename(old, new)
            sysc.fails(errno.ENOENT, os.lstat, old)
            assert (ino(new), new.read_text(), os.stat(new).st_mode) == (number, text, mode)
            old = new
        ov.remount()
        assert (ino(old), old.read_text(), os.stat(old).st_mode) == (number, text, mode)
        for gone in (f"f-{origin}", f"moved-{origin}", f"target/f-{origin}"):
            sysc.fails(errno.ENOENT, os.lstat, mnt / gone)


@pytest.mark.parametrize("source,target", list(itertools.product(ORIGINS, ORIGINS)))
def test_replace(ov, source, target):
    """Each origin replaces each other: files over files, directories over empty directories."""
    with ov.lower() as low:
        for origin in ("lower", "merged", "copied"):
            for side in ("s", "t"):
                write(low / f"{side}f-{origin}", f"{side} {origin}\n")
                write(low / f"{side}d-{origin}/low", f"{side} {origin}\n")
    for side in ("s", "t"):
        write(ov.upper / f"{side}f-merged", f"{side} merged\n")
        write(ov.upper / f"{side}d-merged/up", f"{side} merged\n")
        write(ov.upper / f"{side}f-upper", f"{side} upper\n")
        write(ov.upper / f"{side}d-upper/up", f"{side} upper\n")
    mnt = ov.mount()
    for side in ("s", "t"):
        os.chmod(mnt / f"{side}f-copied", 0o600)
        os.chmod(mnt / f"{side}d-copied", 0o700)
    sf, tf = mnt / f"sf-{source}", mnt / f"tf-{target}"
    sd, td = mnt / f"sd-{source}", mnt / f"td-{target}"
    number, text = ino(sf), sf.read_text()
    os.rename(sf, tf)
    assert (ino(tf), tf.read_text()) == (number, text)
    assert not sf.exists()
    tree = content(sd)
    for flags in (0, sysc.RENAME_NOREPLACE):
        sysc.fails((errno.ENOTEMPTY, errno.EEXIST), sysc.renameat2, sd, td, flags)
    sysc.fails(errno.ENOTDIR, os.rename, sd, tf)
    sysc.fails(errno.EISDIR, os.rename, tf, sd)
    for name in listing(td):
        os.unlink(td / name)
    os.rename(sd, td)
    assert_same(tree, content(td), "moved")
    assert not sd.exists()
    ov.remount()
    assert_same(tree, content(td), "moved")
    assert (ino(tf), tf.read_text()) == (number, text)
    assert not sd.exists() and not sf.exists()


@pytest.mark.parametrize("one,two", list(itertools.combinations_with_replacement(ORIGINS, 2)))
def test_exchange(ov, one, two):
    """RENAME_EXCHANGE swaps files with files, directories with directories, and both."""
    with ov.lower() as low:
        make_origins(ov, low)
        (low / "other").mkdir()
        for origin in ("lower", "merged", "copied"):
            write(low / f"other/d-{origin}/x", f"x {origin}\n")
            write(low / f"other/f-{origin}", f"other {origin}\n")
    write(ov.upper / "other/d-upper/x", "x upper\n")
    write(ov.upper / "other/f-upper", "other upper\n")
    write(ov.upper / "other/d-merged/y", "y merged\n")
    mnt = ov.mount()
    copy_up_some(mnt)
    os.chmod(mnt / "other/d-copied", 0o711)
    for a, b in ((f"d-{one}", f"other/d-{two}"), (f"f-{one}", f"other/f-{two}"),
                 (f"d-{two}", f"other/f-{one}")):
        a, b = mnt / a, mnt / b
        before = content(a), content(b)
        sysc.renameat2(a, b, sysc.RENAME_EXCHANGE)
        assert_same(before[0], content(b), "the first, moved")
        assert_same(before[1], content(a), "the second, moved")
        ov.remount()
        assert_same(before[0], content(b), "the first, moved")
        assert_same(before[1], content(a), "the second, moved")
    sysc.fails(errno.ENOENT, sysc.renameat2, mnt / "none", mnt / "target", sysc.RENAME_EXCHANGE)
    sysc.fails(errno.ENOENT, sysc.renameat2, mnt / "target", mnt / "none", sysc.RENAME_EXCHANGE)


def test_noreplace(ov):
    """RENAME_NOREPLACE refuses an existing name and takes a free or removed one."""
    with ov.lower() as low:
        write(low / "a", "a")
        write(low / "b", "b")
        write(low / "c", "c")
    mnt = ov.mount()
    sysc.fails(errno.EEXIST, sysc.renameat2, mnt / "a", mnt / "b", sysc.RENAME_NOREPLACE)
    assert ((mnt / "a").read_text(), (mnt / "b").read_text()) == ("a", "b")
    os.unlink(mnt / "c")
    sysc.renameat2(mnt / "a", mnt / "c", sysc.RENAME_NOREPLACE)
    assert (mnt / "c").read_text() == "a"
    assert listing(mnt) == ["b", "c"]


@pytest.mark.kernel_differs("it refuses the flag")
@pytest.mark.parametrize("origin", ["lower", "upper"])
def test_whiteout_flag(ov, origin):
    """RENAME_WHITEOUT moves, and lower's object of the old name does not come back."""
    with ov.lower() as low:
        make_origins(ov, low)
    mnt = ov.mount()
    old, new = mnt / f"f-{origin}", mnt / "moved"
    number, text = ino(old), old.read_text()
    sysc.renameat2(old, new, sysc.RENAME_WHITEOUT)
    for _ in range(2):
        assert (ino(new), new.read_text()) == (number, text)
        try:
            st = os.lstat(old)
            assert stat.S_ISCHR(st.st_mode) and st.st_rdev == 0
        except FileNotFoundError:
            assert f"f-{origin}" not in listing(mnt)
        ov.remount()
    sysc.fails(errno.EINVAL, sysc.renameat2, new, old, 128)


def test_errors(ov):
    """What must be refused is refused, and changes nothing."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    before = snapshot(mnt, dir_nlink=False)  # some directories may be copied up for it
    sysc.fails(errno.EINVAL, os.rename, mnt / "dir", mnt / "dir/sub/x")
    sysc.fails(errno.EINVAL, os.rename, mnt / "dir", mnt / "dir/x")
    sysc.fails((errno.ENOTEMPTY, errno.EEXIST), os.rename, mnt / "emptydir", mnt / "dir")
    sysc.fails((errno.ENOTEMPTY, errno.EEXIST), os.rename, mnt / "dir/sub", mnt / "dir")
    sysc.fails(errno.ENOENT, os.rename, mnt / "none", mnt / "x")
    sysc.fails(errno.ENOENT, os.rename, mnt / "file", mnt / "none/x")
    sysc.fails(errno.ENOTDIR, os.rename, mnt / "dir", mnt / "file")
    sysc.fails(errno.EISDIR, os.rename, mnt / "file", mnt / "dir")
    sysc.fails(errno.EXDEV, os.rename, mnt / "file", ov.base / "x")
    sysc.fails((errno.EBUSY, errno.EXDEV), os.rename, mnt, ov.base / "y")
    sysc.fails(errno.EINVAL, sysc.renameat2, mnt / "dir", mnt / "dir/sub", sysc.RENAME_EXCHANGE)
    os.rename(mnt / "hard1", mnt / "dir/hard3")  # the same object: nothing happens
    assert_same(before, snapshot(mnt, dir_nlink=False), "after refused renames")


def test_redirect_dir_off(ov):
    """redirect_dir=off: directories with something in lower give EXDEV, others and files move."""
    with ov.lower() as low:
        make_origins(ov, low)
    mnt = ov.mount("redirect_dir=off")
    before = numbers(mnt)
    for origin in ("lower", "merged"):
        sysc.fails(errno.EXDEV, os.rename, mnt / f"d-{origin}", mnt / "x")
        sysc.fails(errno.EXDEV, os.rename, mnt / f"d-{origin}", mnt / "target/x")
        sysc.fails(errno.EXDEV, sysc.renameat2, mnt / f"d-{origin}", mnt / "d-upper",
                   sysc.RENAME_EXCHANGE)
    assert numbers(mnt) == before
    os.rename(mnt / "d-upper", mnt / "x")
    os.rename(mnt / "f-lower", mnt / "y")
    assert (mnt / "x/file").read_text() == "upper\n"
    # mv(1) copies then, and that works
    run("mv", mnt / "d-lower", mnt / "target/moved")
    assert (mnt / "target/moved/sub/deep").read_text() == "lower deep\n"


def test_redirects_are_the_kernels(ov):
    """A renamed lower directory carries trusted.overlay.redirect: a name, or a path from the top."""
    with ov.lower() as low:
        write(low / "a/one/x")
        write(low / "a/two/x")
        (low / "b").mkdir()
    mnt = ov.mount()
    os.rename(mnt / "a/one", mnt / "a/uno")
    os.rename(mnt / "a/two", mnt / "b/due")
    same = os.getxattr(ov.upper / "a/uno", "trusted.overlay.redirect")
    assert same in (b"one", b"/a/one")
    assert os.getxattr(ov.upper / "b/due", "trusted.overlay.redirect") == b"/a/two"
    # of a renamed parent too
    os.rename(mnt / "b", mnt / "c")
    os.rename(mnt / "a", mnt / "c/a")
    assert listing(mnt / "c/due") == ["x"]
    assert listing(mnt / "c/a/uno") == ["x"]
    ov.remount()
    assert listing(mnt / "c/due") == ["x"]
    assert listing(mnt / "c/a/uno") == ["x"]


def test_chain_of_renames(ov):
    """A directory moved many times, with renamed parents and children, stays what it was."""
    with ov.lower() as low:
        for i in range(5):
            write(low / f"p{i}/d/file", str(i))
    mnt = ov.mount()
    number = ino(mnt / "p0/d")
    inner = ino(mnt / "p0/d/file")
    here = mnt / "p0/d"
    for step in range(25):
        target = mnt / f"p{(step + 1) % 5}" / f"moved{step}"
        if step % 6 == 5:
            old_parent = here.parent
            os.rename(old_parent, mnt / "swap")
            os.rename(mnt / "swap", old_parent)
        os.rename(here, target)
        here = target
        if step % 8 == 7:
            ov.kill_remount()
        assert (ino(here), ino(here / "file")) == (number, inner)
        assert (here / "file").read_text() == "0"
    for i in range(1, 5):
        assert (mnt / f"p{i}/d/file").read_text() == str(i)


def test_open_descriptors_follow(ov):
    """Descriptors opened before a rename, of files and directories, go on working after it."""
    with ov.lower() as low:
        write(low / "d/sub/f", "text")
    mnt = ov.mount()
    dfd = os.open(mnt / "d/sub", os.O_RDONLY)
    fd = os.open(mnt / "d/sub/f", os.O_RDONLY)
    os.rename(mnt / "d", mnt / "e")
    assert os.read(fd, 10) == b"text"
    assert os.listdir(dfd) == ["f"]
    new = os.open("made", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=dfd)
    os.close(new)
    assert listing(mnt / "e/sub") == ["f", "made"]
    os.rename("made", "renamed", src_dir_fd=dfd, dst_dir_fd=dfd)
    assert listing(mnt / "e/sub") == ["f", "renamed"]
    assert os.readlink(f"/proc/self/fd/{dfd}") == str(mnt / "e/sub")
    os.close(fd)
    os.close(dfd)


@pytest.mark.kernel_differs("fstat shows the link count of lower")
def test_replaced_open_file_lives(ov):
    """A file that a rename replaces while it is open is read till its close, with nlink 0."""
    with ov.lower() as low:
        write(low / "old", "old text")
        write(low / "new", "new text")
    mnt = ov.mount()
    fd = os.open(mnt / "old", os.O_RDONLY)
    os.rename(mnt / "new", mnt / "old")
    assert os.read(fd, 20) == b"old text"
    assert os.fstat(fd).st_nlink == 0
    assert (mnt / "old").read_text() == "new text"
    os.close(fd)


def test_hard_link_names_move(ov):
    """Names of one lower object move before and after its copy-up; all stay one object."""
    with ov.lower() as low:
        write(low / "a", "x")
        (low / "d").mkdir()
        for name in "bcd":
            os.link(low / "a", low / f"l{name}")
    mnt = ov.mount()
    number = ino(mnt / "a")
    os.rename(mnt / "lb", mnt / "d/lb")
    assert os.stat(mnt / "a").st_nlink == 4
    with open(mnt / "lc", "a", encoding="ascii") as file:
        file.write("y")
    os.rename(mnt / "ld", mnt / "d/ld")
    for path in ("a", "lc", "d/lb", "d/ld"):
        assert (mnt / path).read_text() == "xy"
        assert (ino(mnt / path), os.stat(mnt / path).st_nlink) == (number, 4)
    os.rename(mnt / "a", mnt / "lc")  # the same object: a no-op by POSIX
    assert listing(mnt) == ["a", "d", "lc"]


@pytest.mark.reverlay_only("its server is slowed down")
@pytest.mark.parametrize("how", ["rename", "rmdir"])
def test_removed_file_is_changed_while_its_directory_goes(ov, how):
    """Its whiteout is gone by then, which is no reason to give it its name back."""
    with ov.lower() as low:
        write(low / "target/f", "removed\n")
    mnt = ov.mount()
    os.mkdir(mnt / "e")
    number = ino(mnt / "e")
    fd = os.open(mnt / "target/f", os.O_RDONLY)
    os.unlink(mnt / "target/f")
    failed = []

    def go():
        try:
            if how == "rename":
                os.rename(mnt / "e", mnt / "target")
            else:
                os.rmdir(mnt / "target")
        except OSError as error:
            failed.append(error)

    def is_whiteout_gone():
        return not os.path.lexists(ov.upper / "target/f") and not list(ov.work.glob("work/*/f"))

    with slowed(mnt, "unlinkat", delay_s=1):
        thread = threading.Thread(target=go)
        thread.start()
        wait_until(is_whiteout_gone, "end of the whiteout")
        assert thread.is_alive()  # it is held
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_nlink == 0
        thread.join(30)
    assert not failed and os.read(fd, 10) == b"removed\n"
    os.close(fd)
    for _ in range(2):
        if how == "rename":
            assert listing(mnt / "target") == [] and ino(mnt / "target") == number
        else:
            assert listing(mnt) == ["e"]
        ov.remount()
