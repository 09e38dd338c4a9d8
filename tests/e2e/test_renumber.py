# SPDX-License-Identifier: GPL-2.0-or-later
"""One number, two objects: the inode of what was copied up has been given again, or upper's object was moved offline. Who
is met first, what is dead, what fails and dies on the way: no name and no inode shows another object's data."""

import errno
import os
import shutil
import stat
import threading

import pytest

import sysc
from rvl import BUILD, run, traced
from test_handles_decode import content_by, entry_of, is_stale
from test_lower_changed import (check_directory, directory_given_again, file_given_again, forget_births,
                                give_again, problems, rebind_as_told)
from trees import ino, write

pytestmark = [pytest.mark.layouts("ext4"),
              pytest.mark.reverlay_only("what the kernel's overlayfs does then is undefined")]

DENY = BUILD / "tests/deny/rvl-deny"
NO_XATTRAT = (DENY, "xattrat")  # strace(1) may be too old for its calls


def nameless_given_again(ov, births="known", make=lambda path: write(path, "of its own\n")):
    """The same, where the changed file has no name in upper, and the last one in lower is gone with its inode."""
    with ov.lower() as low:
        write(low / "a", "first\n")
        os.link(low / "a", low / "b")
    mnt = ov.mount()
    os.unlink(mnt / "a")
    write(mnt / "b", "written\n")
    handle = sysc.handle(mnt / "b")
    ov.umount()
    new = give_again(low, ["a", "b"], make)
    if births == "unknown":
        forget_births(ov, low / new)
    ov.before = None
    ov.check_clean = False  # it has no name
    return low, new, handle


def is_kept(ov, text="written\n"):
    return text in [path.read_text() for path in (ov.work / "inodes").glob("??/#*") if path.is_file()]


# ---- the dead ----

@pytest.mark.parametrize("n_links", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_other_one_was_removed(ov, n_links, when):
    """The changed file was removed in the mount, before lower gave its inode again or after: the new one is seen, can be
    changed, and keeps its handle."""
    with ov.lower() as low:
        write(low / "a", "first\n")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    entry = entry_of(ov, ino(mnt / "a"))
    if when == "before":
        os.unlink(mnt / "a")
    ov.umount()
    new = give_again(low, ["a"])
    if n_links == 2:
        os.link(low / new, low / "link")
    ov.before = None
    mnt = ov.mount()
    if when == "after":
        os.unlink(mnt / "a")
        while not stat.S_ISCHR(entry.lstat().st_mode):  # when the kernel has forgotten it
            sysc.next_tick()
    for name in [new, "link"][:n_links]:
        assert (mnt / name).read_text() == "of its own\n"
    handle = sysc.handle(mnt / new)
    ov.remount()
    assert content_by(mnt, handle) == "of its own\n"
    write(mnt / new, "changed too\n")
    ov.remount()
    assert content_by(mnt, handle) == "changed too\n"
    if n_links == 2:
        assert (mnt / "link").read_text() == "changed too\n"


# ---- what the kernel was shown ----

@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("births", ["known", "unknown"])
def test_node_dropped(ov, kind, births):
    """A file's node is dropped while the kernel knows it: by its number alone it is read, not what upper has of it."""
    low, new, _ = (file_given_again if kind == "file" else directory_given_again)(ov, births)
    for i in range(4000):
        write(low / f"many/f{i}", "")
    ov.options.append("node_limit=1024")
    mnt = ov.mount()
    fd = os.open(mnt / new, os.O_PATH)
    for i in range(4000):
        os.stat(mnt / f"many/f{i}")
    assert (mnt / new).read_text() == "of its own\n"
    os.close(fd)
    assert (mnt / ("a" if kind == "file" else "d/f")).read_text() == "changed\n"


@pytest.mark.parametrize("options", [[], ["ro"]])
@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("first", ["a", "b"])
def test_first_node_dropped(ov, first, kind, options):
    """Upper's object was moved offline. The node of the one that is met first is dropped while the kernel knows it:
    the one that is met second is another one all the same."""
    inner = "/f" if kind == "directory" else ""
    with ov.lower() as low:
        write(low / f"a{inner}", "first\n")
        for i in range(4000):
            write(low / f"many/f{i}", "")
    write(ov.mount() / f"a{inner}", "changed\n")
    ov.umount()
    os.rename(ov.upper / "a", ov.upper / "b")
    mnt = ov.mount("node_limit=1024", *options)
    fd = os.open(mnt / first, os.O_PATH)
    for i in range(4000):
        os.stat(mnt / f"many/f{i}")
    second = "b" if first == "a" else "a"
    text = {"a": "first\n", "b": "changed\n"}
    for name in (second, first):
        assert (mnt / f"{name}{inner}").read_text() == text[name], name
    with open(f"/proc/self/fd/{fd}{inner}", encoding="ascii") as file:
        assert file.read() == text[first]
    os.close(fd)
    assert ino(mnt / "a") != ino(mnt / "b")
    # nothing is kept: the other one may be the first then, and check tells what was moved
    ov.check_remount = ov.check_clean = not options


@pytest.mark.layouts("btrfs")
def test_given_again_on_btrfs(ov, images):
    """It gives the highest inode number again when it is mounted anew; its handles have the subvolume's number, too."""
    where = ov.lower_base / "disk"
    image = where.with_suffix(".img")
    where.mkdir()
    run("truncate", "-s", "300M", image)
    run("mkfs.btrfs", "-q", image)
    run("mount", "-o", "loop", image, where)
    ov.mounted_helpers.append(where)
    low = where / "low"
    write(low / "a", "first\n")
    ov.lowers = [low]
    write(ov.mount() / "a", "changed\n")
    number = ino(low / "a")
    ov.umount()
    os.unlink(low / "a")
    run("umount", where)
    run("mount", "-o", "loop", image, where)
    write(low / "new", "own\n")
    os.link(low / "new", low / "new2")
    assert ino(low / "new") == number
    ov.before = None
    mnt = ov.mount()
    assert [(mnt / name).read_text() for name in ("new", "new2", "a")] == ["own\n", "own\n", "changed\n"]
    assert ino(mnt / "new") == ino(mnt / "new2") != ino(mnt / "a")
    ov.check_clean = False  # lower's file is gone


# ---- who is met first ----

@pytest.mark.parametrize("births", ["known", "unknown"])
@pytest.mark.parametrize("first", ["new", "changed"])
def test_read_only(ov, births, first):
    """A read-only mount shows both, whichever is met first."""
    _, new, _ = file_given_again(ov, births)
    mnt = ov.mount("ro")
    names = [new, "a"] if first == "new" else ["a", new]
    assert {(mnt / name).read_text() for name in names} == {"changed\n", "of its own\n"}
    assert ino(mnt / "a") != ino(mnt / new)
    assert os.stat(mnt / "a").st_nlink == 1
    ov.check_remount = False  # nothing is kept: the other one may be the first then


@pytest.mark.parametrize("first", ["uncovered", "moved"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_uncovered_read_only(ov, first, kind):
    """Moved in upper without a whiteout while nothing was mounted: both are shown by a read-only mount."""
    inner = "" if kind == "file" else "/f"
    with ov.lower() as low:
        write(f"{low}/a{inner}", "first\n")
    write(f"{ov.mount()}/a{inner}", "changed\n")
    ov.umount()
    os.rename(ov.upper / "a", ov.upper / "b")
    mnt = ov.mount("ro")
    texts = {name: open(f"{mnt}/{name}{inner}", encoding="ascii").read()
             for name in ("ab" if first == "uncovered" else "ba")}
    assert texts == {"a": "first\n", "b": "changed\n"}
    assert ino(mnt / "a") != ino(mnt / "b")
    ov.check_remount = ov.check_clean = False  # nothing is kept


@pytest.mark.parametrize("first", ["new", "changed"])
def test_directory_given_to_a_directory_that_has_a_record(ov, first):
    """After a rebind each number is recorded; a directory with another's inode gets one of its own all the same."""
    with ov.lower() as low:
        write(low / "d/f", "first\n")
    write(ov.mount() / "d/f", "changed\n")
    ov.umount()
    image, copy = ov.lower_base / "copy.img", ov.lower_base / "copy"
    run("truncate", "-s", "32M", image)
    run("mkfs.ext4", "-q", image)  # one group, with a journal: what is free is given again at once
    copy.mkdir()
    run("mount", "-o", "loop", image, copy)
    ov.mounted_helpers.append(copy)
    run("cp", "-a", f"{low}/.", copy)
    ov.lowers, ov.before = [copy], None
    rebind_as_told(ov)
    new = give_again(copy, ["d"], os.mkdir)
    ov.before = None
    mnt = ov.mount()
    names = ["d", new] if first == "changed" else [new, "d"]
    assert {name: os.listdir(mnt / name) for name in names} == {"d": ["f"], new: []}
    assert ino(mnt / "d") != ino(mnt / new)
    write(mnt / new / "g", "changed too\n")
    ov.remount()
    assert (mnt / "d/f").read_text() == "changed\n" and os.listdir(mnt / new) == ["g"]
    ov.check_clean = False  # lower's directory is gone, which check tells of upper's


@pytest.mark.parametrize("births", ["known", "unknown"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_over_what_the_index_alone_has(ov, births, kind):
    """Lower gave the inode of a file without a name in upper again: copying up the new one throws nothing away."""
    if kind == "file":
        _, name, _ = nameless_given_again(ov, births)
    else:
        name = nameless_given_again(ov, births, os.mkdir)[1] + "/in"
    write(ov.mount() / name, "changed too\n")
    ov.remount()
    assert (ov.mnt / name).read_text() == "changed too\n"
    assert is_kept(ov)


def test_directories_meet(ov):
    """Two directories of one number, since the first was moved in upper: copying up the one that shows again leaves the
    other all that it has."""
    with ov.lower() as low:
        write(low / "d/sub/f", "first\n")
    mnt = ov.mount()
    write(mnt / "d/sub/f", "changed\n")
    handle, number = sysc.handle(mnt / "d/sub"), ino(mnt / "d")
    ov.umount()
    os.rename(ov.upper / "d", ov.upper / "e")
    mnt = ov.mount()
    write(mnt / "d/new", "new\n")
    assert ino(mnt / "d") == number
    ov.umount()
    assert entry_of(ov, number).exists()
    mnt = ov.mount()
    assert not is_stale(mnt, handle)
    assert (mnt / "e/sub/f").read_text() == "changed\n" and (mnt / "d/sub/f").read_text() == "first\n"
    assert len({ino(mnt / name) for name in ("d", "e", "d/sub", "e/sub")}) == 4


def test_child_of_lower_stays_where_it_is(ov):
    """A directory was moved in upper, and lower's children show again, of which one is in memory: when the moved one gets
    another number, that one is not taken for its child."""
    with ov.lower() as low:
        for name in ("d/f", "d/sub/g"):
            write(low / name, "first\n")
    mnt = ov.mount()
    for name in ("d/f", "d/sub/g"):
        write(mnt / name, "changed\n")
    ov.umount()
    os.rename(ov.upper / "d", ov.upper / "e")
    mnt = ov.mount()
    assert (mnt / "d/sub/g").read_text() == "first\n"
    assert (mnt / "e/f").read_text() == "changed\n"
    write(mnt / "d/sub/new", "new\n")
    write(mnt / "d/new", "new\n")
    for _ in range(2):
        assert sorted(os.listdir(mnt / "d")) == ["f", "new", "sub"] and sorted(os.listdir(mnt / "d/sub")) == ["g", "new"]
        assert sorted(os.listdir(mnt / "e")) == ["f", "sub"] and os.listdir(mnt / "e/sub") == ["g"]
        assert (mnt / "d/sub/g").read_text() == "first\n" and (mnt / "e/sub/g").read_text() == "changed\n"
        ov.remount()


def test_symlinks_whose_attributes_are_elsewhere(ov):
    """Where symlinks can carry no attributes their origin lies beside them, and tells lives as well."""
    ov.options.append("userxattr")
    with ov.lower() as low:
        os.symlink("first", low / "a")
        os.link(low / "a", low / "b", follow_symlinks=False)
    mnt = ov.mount()
    os.lchown(mnt / "a", 5, 5)
    ov.umount()
    new = give_again(low, ["a", "b"], lambda path: os.symlink("own", path))
    os.link(low / new, low / "link", follow_symlinks=False)
    ov.before = None
    mnt = ov.mount()
    assert os.readlink(mnt / "link") == os.readlink(mnt / new) == "own"
    assert os.readlink(mnt / "a") == "first" and os.lstat(mnt / "a").st_uid == 5
    ov.check_links = False  # "b" is gone, which its count does not know


# ---- at the same time ----

def test_both_are_met_at_once(ov):
    """While a name of upper is looked up, one of lower comes with its number: each name shows its own."""
    _, new, _ = file_given_again(ov, "unknown")
    mnt = ov.mount("io_uring=off", prefix=NO_XATTRAT)
    seen = {}
    thread = threading.Thread(target=lambda: seen.update(a=(mnt / "a").read_text()))
    trace = ov.base / "trace"
    # the third: when no node was found that has the number
    with traced(mnt, "-o", trace, "-e", "trace=lgetxattr", "-e",
                "inject=lgetxattr:delay_exit=1000000:when=3"):
        thread.start()
        while "overlay.metacopy" not in trace.read_text():
            sysc.next_tick()
        seen[new] = (mnt / new).read_text()
        thread.join()
    assert "DELAYED" in trace.read_text()
    assert seen == {"a": "changed\n", new: "of its own\n"}
    assert ino(mnt / "a") != ino(mnt / new)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_copied_up_while_the_other_is_met(ov, kind):
    """Copy-ups of the new one and look-ups of the changed one at the same time: one of them is renumbered, once."""
    _, new, _ = (file_given_again if kind == "file" else directory_given_again)(ov, "unknown")
    mnt = ov.mount()
    os.stat(mnt / new)
    name = mnt / ("a" if kind == "file" else "d/f")
    start = threading.Barrier(4)
    seen = []

    def look():
        start.wait()
        seen.append(name.read_text())

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    start.wait()
    write(mnt / new, "changed too\n")
    for thread in threads:
        thread.join()
    assert seen == ["changed\n"] * 3 and (mnt / new).read_text() == "changed too\n"
    ov.umount()
    assert not problems(ov, "origin-stale")


# ---- errors and deaths ----

@pytest.mark.parametrize("kind", ["file", "directory"])
def test_no_room_to_renumber(ov, kind):
    """Where the stamp cannot be written the object stays what it was, however often it is tried, and nothing is left."""
    _, new, _ = (file_given_again if kind == "file" else directory_given_again)(ov, "unknown")
    name = "a" if kind == "file" else "d"
    mnt = ov.mount(prefix=NO_XATTRAT)
    os.stat(mnt / new)

    def entries():
        return sorted(p.name for p in (ov.work / "inodes").glob("??/#*"))

    before = entries(), os.stat(ov.upper / name).st_nlink
    with traced(mnt, "-o", "/dev/null", "-e", "trace=lsetxattr", "-e",
                "inject=lsetxattr:error=ENOSPC"):
        for _ in range(3):
            sysc.fails(errno.ENOSPC, os.stat, mnt / name)
    assert (entries(), os.stat(ov.upper / name).st_nlink) == before
    os.stat(mnt / name)
    assert len(entries()) == len(before[0])


# strace(1) counts each call for itself
CALLS = "linkat renameat2 unlinkat lsetxattr mkdirat openat write".split()


GIVEN_AGAIN = {"file": file_given_again, "directory": directory_given_again, "nameless": nameless_given_again}


@pytest.mark.parametrize("kind", GIVEN_AGAIN)
def test_killed_while_it_renumbers(ov, capsys, kind):
    """The server is killed before the n-th call of a kind that changes something while a file is changed whose number
    another has: the next one shows both, and goes on."""
    _, new, handles = GIVEN_AGAIN[kind](ov, "unknown")
    ov.may_complain = True
    pristine = ov.lower_base / "pristine"
    run("cp", "-a", ov.base, pristine)
    killed = 0
    for call in CALLS:
        n, is_killed = 0, True
        while is_killed:
            n += 1
            run("rsync", "-aHAX", "--delete", f"{pristine}/", ov.base)
            is_killed = change_and_kill(ov, new, call, n)
            killed += is_killed
            check_renumbered(ov, kind, new, handles, f"killed at {n}th {call}")
    shutil.rmtree(pristine)
    with capsys.disabled():
        print(f"\nrenumbered, of a {kind}: killed at {killed} points")
    assert killed > 10
    ov.mount()


def check_renumbered(ov, kind, new, handles, what):
    """Both are there, the new one can be changed, and check finds no more than docs/consistency.md says."""
    if kind == "file":
        assert (ov.mnt / "a").read_text() == "changed\n" and ino(ov.mnt / "a") != ino(ov.mnt / new), what
    elif kind == "directory":
        check_directory(ov.mnt, new, handles, (ov.mnt / new).read_text())
    write(ov.mnt / new, "changed again\n")
    assert (ov.mnt / new).read_text() == "changed again\n", what
    ov.umount()
    assert is_kept(ov, "written\n" if kind == "nameless" else "changed\n"), what
    # a new entry of what has the old stamp; the place in lower of what is in a directory
    left = problems(ov, "origin-stale", "entry-misplaced", "entry-without-name", "entry-without-object",
                    "place-stale")
    assert not left, f"{what}: {left}"
    assert ov.ctl("repair", "-y")[0] in (0, 1) and not problems(ov), what


def change_and_kill(ov, name, call, n):
    """Whether there are n such calls."""
    mnt = ov.mount(prefix=NO_XATTRAT)
    with traced(mnt, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={n}"):
        try:
            write(mnt / name, "changed too\n")
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), error
            ov.kill()
            ov.mount()
            return True
    return False


def test_stamp_of_another_on_what_the_index_alone_has(ov):
    """A forged stamp does not make what was written to an object without a name be thrown away."""
    low, new, _ = nameless_given_again(ov, "unknown")
    entry = entry_of(ov, ino(low / new))
    stamp = bytearray(os.getxattr(entry, "trusted.overlay.ino"))
    stamp[0] ^= 1
    os.setxattr(entry, "trusted.overlay.ino", bytes(stamp))
    write(ov.mount() / new, "changed too\n")
    assert is_kept(ov)
