# SPDX-License-Identifier: GPL-2.0-or-later
"""Lower layers that were changed or replaced between two mounts, and nobody said so: inode numbers are
given again, images look alike, filesystems have one uuid. No name shows another object's data.
"""

import os
import shutil
import struct
import time

import pytest

import sysc
from rvl import CTL, run
from snapshots import snapshot
from test_handles_decode import content_by, entry_of, is_stale, open_by
from trees import ino, write

pytestmark = pytest.mark.reverlay_only("what the kernel's overlayfs does then is undefined")


def give_again(low, gone, make=lambda path: write(path, "of its own\n")):
    """Removes all names of an object of lower, and returns that of a new one that has got its inode."""
    number = os.lstat(low / gone[0]).st_ino
    for name in gone:
        if os.path.isdir(low / name):
            shutil.rmtree(low / name)
        else:
            os.unlink(low / name)
    for i in range(200):
        make(low / f"new{i}")
        if os.lstat(low / f"new{i}").st_ino == number:
            return f"new{i}"
    pytest.skip("the filesystem gives it to nobody")


def forget_births(ov, path):
    """The index becomes younger than this, as if the clock had been set back: birth times do not tell what is new."""
    while int(time.clock_gettime(sysc.CLOCK_REALTIME_COARSE)) <= int(os.lstat(path).st_ctime):
        sysc.next_tick()
    os.rename(ov.work / "inodes", ov.work / "before")
    os.mkdir(ov.work / "inodes", 0o700)
    for name in os.listdir(ov.work / "before"):
        os.rename(ov.work / "before" / name, ov.work / "inodes" / name)
    os.rmdir(ov.work / "before")


def file_given_again(ov, births="known", make=lambda path: write(path, "of its own\n")):
    """The inode of a file that was changed is another one's now: lower, that one's name, a handle of before."""
    with ov.lower() as low:
        write(low / "a", "first\n")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    handle = sysc.handle(mnt / "a")
    ov.umount()
    new = give_again(low, ["a"], make)
    if births == "unknown":
        forget_births(ov, low / new)
    ov.before = None
    return low, new, handle


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("tool", [None, "check", "repair", "rebind"])
def test_inode_given_again_to_links(ov, tool):
    """Hard links of which one was changed are gone, and others have their inode: these are their own object."""
    with ov.lower() as low:
        write(low / "a", "first\n")
        os.link(low / "a", low / "b")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    handle = sysc.handle(mnt / "a")
    ov.umount()
    new = give_again(low, ["a", "b"])
    os.link(low / new, low / "link")
    ov.before = None
    if tool == "rebind":
        ov.ctl("rebind", "--move")
    elif tool:
        _, found = ov.ctl(tool, *(["-y"] if tool == "repair" else []))
        assert not found["problems"], found
    mnt = ov.mount()
    assert (mnt / "link").read_text() == (mnt / new).read_text() == "of its own\n"
    assert ino(mnt / "link") == ino(mnt / new) != ino(mnt / "a")
    assert content_by(mnt, handle) == "changed\n" == (mnt / "a").read_text()
    write(mnt / "link", "more\n")
    assert (mnt / new).read_text() == "more\n"
    ov.check_links = False  # "b" is gone, which its count does not know


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("order", ["new-first", "changed-first", "new-is-changed"])
@pytest.mark.parametrize("births", ["known", "unknown"])
def test_inode_given_again(ov, order, births):
    """A changed file's lower one is gone, and another has its inode: both can be read and changed."""
    _, new, handle = file_given_again(ov, births)
    mnt = ov.mount()
    names = ["a", new] if order == "changed-first" else [new, "a"]
    if order == "new-is-changed":  # before anybody has seen the other one
        write(mnt / new, "changed too\n")
    texts = {"a": "changed\n", new: "changed too\n" if order == "new-is-changed" else "of its own\n"}
    assert {name: (mnt / name).read_text() for name in names} == texts
    assert ino(mnt / "a") != ino(mnt / new)
    assert is_stale(mnt, handle) or content_by(mnt, handle) == "changed\n"
    for name in names:
        write(mnt / name, f"{name} again\n")
    ov.remount()
    assert {name: (mnt / name).read_text() for name in names} == {n: f"{n} again\n" for n in names}


class Images:
    """Image files that are lower layers, mounted at places of their own."""

    def __init__(self, ov):
        self.ov = ov
        self.mounted = []

    def mount(self, image, name):
        at = self.ov.base / name
        at.mkdir(exist_ok=True)
        run("mount", "-o", "loop", image, at)
        self.mounted.append(at)
        return at

    def umount(self):
        for at in self.mounted:
            run("umount", at)
        self.mounted = []


@pytest.fixture(name="disks")
def some_images(ov):
    images = Images(ov)
    yield images
    if os.path.ismount(ov.mnt):
        ov.umount()
    ov.before = None
    for at in images.mounted:
        run("umount", "-l", at)


def rebind_as_told(ov):
    """The mount is refused, and the command that it names makes it good."""
    ov.may_complain = True
    refused = run(*ov.command(flags=()), check=False)
    assert refused.returncode != 0 and "reverlayctl rebind" in refused.stdout, refused.stdout
    command = refused.stdout[refused.stdout.index("reverlayctl rebind"):].strip()
    run("sh", "-c", command.replace("reverlayctl", CTL, 1))


@pytest.mark.layouts("ext4")
def test_clones_of_a_disk_change_places(ov, disks):
    """Two filesystems of one uuid are told apart by what is in them: in another order they are refused."""
    lowers = []
    for name in ("a", "b"):
        image = ov.base / f"{name}.img"
        if name == "a":
            with open(image, "wb") as file:
                file.truncate(8 << 20)
            run("mkfs.ext4", "-q", "-O", "^has_journal", image)
        else:
            run("cp", lowers[0][0], image)
        lowers.append((image, name))
    at = [disks.mount(*each) for each in lowers]
    for top in at:
        write(top / f"{top.name}1", f"of {top.name}\n")
        os.link(top / f"{top.name}1", top / f"{top.name}2")
    assert ino(at[0] / "a1") == ino(at[1] / "b1"), "or the test says nothing"
    ov.lowers = at
    mnt = ov.mount()
    write(mnt / "b1", "changed\n")
    ov.remount()
    assert [(mnt / name).read_text() for name in ("a1", "a2", "b1", "b2")] == [
        "of a\n", "of a\n", "changed\n", "changed\n"]
    ov.umount()
    ov.lowers = at[::-1]
    rebind_as_told(ov)
    mnt = ov.mount()
    assert [(mnt / name).read_text() for name in ("a1", "a2", "b1", "b2")] == [
        "of a\n", "of a\n", "changed\n", "changed\n"]


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_image_that_differs_far_down(ov, disks, kind):
    """An image made anew, without times and with the old uuid, whose root is as it was: it is refused."""
    trees = []
    for i, names in enumerate((["f", "g"], ["e", "f"])):
        tree, image = ov.base / f"tree{i}", ov.base / f"image{i}"
        for name in names:
            write(tree / "a/b" / name, f"{name} of {i}\n")
        for top in (tree, tree / "a", tree / "a/b"):
            os.utime(top, (0, 0))
        if kind == "squashfs":
            run("mksquashfs", tree, image, "-quiet", "-no-progress", "-all-time", "0", "-mkfs-time", "0")
        else:
            run("mkfs.erofs", "-T0", "-U", "11111111-2222-3333-4444-555555555555", image, tree)
        trees.append(image)
    ov.lowers = [disks.mount(trees[0], "low")]
    before = os.lstat(ov.lowers[0] / "a")
    os.chmod(ov.mount() / "a/b/f", 0o600)
    ov.umount()
    disks.umount()
    disks.mount(trees[1], "low")
    after = os.lstat(ov.lowers[0] / "a")
    assert (before.st_ino, before.st_size, before.st_mtime) == (
        after.st_ino, after.st_size, after.st_mtime), "or the test says nothing"
    rebind_as_told(ov)
    assert (ov.mount() / "a/b/f").read_text() == "f of 1\n"


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("change", [None, "more-before", "more-after", "renamed", "gone"])
def test_index_lost_and_image_made_anew(ov, disks, change):
    """Handles of an image are inode numbers: --rebuild refuses one that was made anew, also if they lead to something."""
    for i in range(2):
        tree = ov.base / f"tree{i}"
        write(tree / "d/h1", "low\n")
        write(tree / "d/other", "other\n")
        os.mkdir(tree / "e")
        os.link(tree / "d/h1", tree / "e/h2")
        if i and change and change.startswith("more"):
            for n in range(50):
                write(tree / f"{'a' if change == 'more-before' else 'z'}{n}/f", str(n))
        elif i and change == "renamed":
            os.rename(tree / "d/h1", tree / "d/z1")
        elif i and change == "gone":
            os.unlink(tree / "d/h1")
            os.unlink(tree / "e/h2")
        run("mksquashfs", tree, ov.base / f"image{i}", "-quiet", "-no-progress", "-all-time", "0")
    ov.lowers = [disks.mount(ov.base / "image0", "low")]
    mnt = ov.mount()
    write(mnt / "d/h1", "changed\n")
    number = ino(mnt / "d/h1")
    ov.umount()
    disks.umount()
    disks.mount(ov.base / "image1", "low")
    shutil.rmtree(ov.work)
    ov.work.mkdir()
    code, found = ov.ctl("repair", "--rebuild", "-y")
    ov.check_links = False
    if change:
        assert code == 8 and "copied or replaced" in found["stderr"], found
        assert os.listdir(ov.work) == []
        return
    assert code == 1
    mnt = ov.mount()
    assert (mnt / "d/h1").read_text() == (mnt / "e/h2").read_text() == "changed\n"
    assert ino(mnt / "d/h1") == ino(mnt / "e/h2") == number


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("n_links", [1, 2])
@pytest.mark.parametrize("how", ["rebound", "again", "read-only"])
def test_given_again_where_numbers_are_recorded(ov, n_links, how):
    """After a rebind, and the second time, the inode has a record of what it was: it is replaced. A read-only mount
    shows each its own, too."""
    with ov.lower() as low:
        for name in ("a", "b")[:n_links]:
            if name == "a":
                write(low / "a", "first\n")
            else:
                os.link(low / "a", low / "b")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    run(CTL, "map", mnt)
    number = ino(mnt / "a")
    ov.umount()
    if how == "rebound":
        copy = ov.lower_base / "copy"
        run("cp", "-a", low, copy)
        ov.lowers, low = [copy], copy
        rebind_as_told(ov)
    ov.before = None
    ov.check_links = False
    gone = ["a", "b"][:n_links]
    for turn in range(2 if how == "again" else 1):
        new = give_again(low, gone)
        others = [f"link{turn}", new][-n_links:]
        if n_links == 2:
            os.link(low / new, low / others[0])
        mnt = ov.mount("ro") if how == "read-only" else ov.mount()
        assert (mnt / "a").read_text() == "changed\n" and ino(mnt / "a") == number
        for name in others:
            assert (mnt / name).read_text() == "of its own\n"
            assert ino(mnt / name) == ino(mnt / others[0]) != number
        if how != "read-only":
            write(mnt / others[0], "more\n")
            assert {(mnt / name).read_text() for name in others} == {"more\n"}
        ov.umount()
        code, found = ov.ctl("check")
        # the names that the first turn had are gone
        assert not {p["id"] for p in found["problems"]} - {"map-stale", "entry-without-name"}, found
        gone, ov.before = others, None
        for name in others:
            (ov.upper / name).unlink(missing_ok=True)
    ov.check_clean = False  # those names are gone


@pytest.mark.layouts("ext4")
def test_inode_given_again_to_a_directory(ov):
    """A changed file's lower one is gone, and a directory has its inode: both are there, whichever is met first."""
    with ov.lower() as low:
        write(low / "a", "first\n")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    ov.umount()
    new = give_again(low, ["a"], os.mkdir)
    write(low / new / "in", "inner\n")
    ov.before = None
    mnt = ov.mount()
    assert (mnt / "a").read_text() == "changed\n"
    assert (mnt / new / "in").read_text() == "inner\n"
    assert ino(mnt / "a") != ino(mnt / new)
    write(mnt / new / "new", "new\n")


def problems(ov, *but):
    """What check finds, but for these."""
    return [p for p in ov.ctl("check")[1]["problems"] if p["id"] not in but]


def directory_given_again(ov, births):
    """The inode of a directory that was changed is a file's now: lower, the file's name, and handles of before."""
    with ov.lower() as low:
        for name in ("d/f", "d/sub/g"):
            write(low / name, "first\n")
    mnt = ov.mount()
    for name in ("d/f", "d/sub/g", "d/born/h"):
        write(mnt / name, "changed\n")
    handles = {n: sysc.handle(mnt / n) for n in ("d", "d/f", "d/sub", "d/sub/g", "d/born", "d/born/h")}
    ov.umount()
    new = give_again(low, ["d"])
    if births == "unknown":
        forget_births(ov, low / new)
    ov.before = None
    # lower's directories are gone, which check tells of upper's
    ov.check_clean = False
    return low, new, handles


def check_directory(mnt, new, handles, text):
    for name in ("d/f", "d/sub/g", "d/born/h"):
        assert content_by(mnt, handles[name]) == (mnt / name).read_text() == "changed\n"
    for name in ("d/sub", "d/born"):
        fd = open_by(mnt, handles[name])
        assert os.fstat(fd).st_ino == ino(mnt / name) and os.listdir(f"/proc/self/fd/{fd}")
        os.close(fd)
    assert (mnt / new).read_text() == text
    assert ino(mnt / new) != ino(mnt / "d")


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("first", ["change", "look", "open-unlinked", "directory", "child-by-handle"])
@pytest.mark.parametrize("births", ["known", "unknown"])
@pytest.mark.parametrize("tool", [None, "repair"])
def test_inode_of_a_directory_given_again(ov, births, first, tool):
    """A changed directory's lower one is gone, and a file has its inode, which can be changed before the directory is
    met; what is in that is there by name and by number."""
    low, new, handles = directory_given_again(ov, births)
    if tool:
        ov.ctl(tool, "-y")
    mnt = ov.mount()
    text = "of its own\n"
    if first == "look":
        assert (mnt / new).read_text() == text
    elif first == "directory":
        assert sorted(os.listdir(mnt / "d")) == ["born", "f", "sub"]
    elif first == "child-by-handle":
        assert content_by(mnt, handles["d/f"]) == "changed\n"
        os.close(open_by(mnt, handles["d/sub"]))
    if first == "open-unlinked":
        with open(mnt / new, encoding="ascii") as file:
            os.unlink(mnt / new)
            os.fchmod(file.fileno(), 0o640)
            assert os.listdir(mnt / "d/sub") == ["g"]
        write(mnt / new, text)
    else:
        text = "changed too\n"
        write(mnt / new, text)
    for _ in range(2):
        assert is_stale(mnt, handles["d"]) == (births == "unknown" and first in ("change", "look", "open-unlinked"))
        check_directory(mnt, new, handles, text)
        ov.umount()
        assert not problems(ov, "origin-stale")
        mnt = ov.mount()
    os.rename(mnt / "d", mnt / "e")
    assert content_by(mnt, handles["d/sub/g"]) == "changed\n" == (mnt / "e/sub/g").read_text()
    os.rename(mnt / "e", mnt / "d")
    check_directory(mnt, new, handles, text)


@pytest.mark.layouts("ext4")
def test_directory_is_renumbered_where_it_was_not_met(ov):
    """Between the change of the file that has its inode and the first look at the directory there is a remount; before
    it, it was moved offline: it is found by its handle."""
    _, new, handles = directory_given_again(ov, "unknown")
    os.mkdir(ov.upper / "above")
    os.rename(ov.upper / "d", ov.upper / "above/moved")
    mnt = ov.mount()
    os.stat(mnt / "above")  # it gets a number
    write(mnt / new, "changed too\n")
    ov.umount()
    assert not problems(ov, "origin-stale")
    mnt = ov.mount()
    assert not is_stale(mnt, handles["d/sub"])
    assert content_by(mnt, handles["d/born/h"]) == "changed\n" == (mnt / "above/moved/born/h").read_text()
    assert ino(mnt / "above/moved") != ino(mnt / new)


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("record", ["gone", "damaged", "of-another", "of-the-root", "outside", "loop"])
def test_record_that_leads_nowhere(ov, record):
    """A file has the number of a directory whose record leads to nothing, or to what it is not of: it can be changed,
    and nothing else is."""
    low, new, _ = directory_given_again(ov, "unknown")
    number = ino(low / new)
    entry = entry_of(ov, number)
    assert entry.exists()
    outside = ov.base / "outside"
    os.makedirs(outside / "in")
    stamp = os.getxattr(ov.upper / "d", "trusted.overlay.ino")
    if record == "damaged":
        os.setxattr(entry, "trusted.overlay.path", b"x")
    elif record == "loop":
        os.setxattr(entry, "trusted.overlay.path", struct.pack("<Q", number) + b"d")
    elif record != "gone":
        target = {"of-another": ov.upper / "d/sub", "of-the-root": ov.upper, "outside": outside / "in"}[record]
        upper = bytearray(os.getxattr(entry, "trusted.overlay.upper"))
        kind, fid = sysc.handle(target)
        upper[4], upper[21:] = kind, fid
        os.setxattr(entry, "trusted.overlay.upper", bytes(upper))
        os.setxattr(entry, "trusted.overlay.path", struct.pack("<Q", 1) + (b"no" if record == "outside" else b"."))
    if record == "outside":  # as if it belonged there
        os.setxattr(outside / "in", "trusted.overlay.ino", stamp)
        os.setxattr(outside, "trusted.overlay.ino", os.getxattr(ov.upper / "d/sub", "trusted.overlay.ino"))
    if record in ("gone", "outside"):
        shutil.rmtree(ov.upper / "d")
    before = snapshot(outside, private=True)
    mnt = ov.mount()
    write(mnt / new, "changed too\n")
    ov.remount()
    assert (mnt / new).read_text() == "changed too\n" and ino(mnt / new) == number
    assert os.path.isfile(entry) and entry.stat().st_nlink == 2
    if record not in ("gone", "outside"):
        assert (mnt / "d/sub/g").read_text() == (mnt / "d/born/h").read_text() == "changed\n"
    assert snapshot(outside, private=True) == before


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("names", [("b", "c"), ("p", "q")])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_rebind_after_an_inode_was_given_again(ov, names, is_mapped):
    """What was parted by the mount stays parted: a rebind goes by places, of which the map may have two numbers."""
    with ov.lower() as low:
        write(low / "a", "first\n")
        os.link(low / "a", low / "b")
        os.link(low / "a", low / "c")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    run(CTL, "map", mnt)
    number = ino(mnt / "a")
    ov.umount()
    new = give_again(low, ["a", "b", "c"])
    os.rename(low / new, low / names[0])
    os.link(low / names[0], low / names[1])
    ov.before = None
    if is_mapped:
        ov.ctl("repair", "-y")  # throws the places away
    mnt = ov.mount()
    if is_mapped:
        run(CTL, "map", mnt)
    assert (mnt / names[0]).read_text() == "of its own\n"  # met by one of its names only
    ov.umount()
    copy = ov.lower_base / "copy"
    run("cp", "-a", low, copy)
    ov.lowers, ov.before, ov.check_links = [copy], None, False
    rebind_as_told(ov)
    mnt = ov.mount()
    assert (mnt / "a").read_text() == "changed\n" and ino(mnt / "a") == number
    assert {(mnt / name).read_text() for name in names} == {"of its own\n"}
    assert ino(mnt / names[0]) == ino(mnt / names[1]) != number


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("name", ["a", "z"])
def test_newer_hard_links_in_place(ov, name):
    """A newer version in place has the same inode, and not the name that was copied up: after a rebind the names that are
    there are that file still."""
    with ov.lower() as low:
        write(low / "a", "first\n")
        os.link(low / "a", low / "b")
        os.link(low / "a", low / "c")
    mnt = ov.mount()
    os.rename(mnt / "a", mnt / "z")
    if name == "a":
        os.rename(mnt / "z", mnt / "a")
    write(mnt / name, "changed\n")
    run(CTL, "map", mnt)
    number = ino(mnt / name)
    ov.umount()
    old = os.lstat(low / "b").st_ino
    for gone in ("a", "b", "c"):
        os.unlink(low / gone)
    write(low / "b", "newer\n")
    os.link(low / "b", low / "c")
    assert os.lstat(low / "b").st_ino == old, "or the test says nothing"
    ov.before = None
    ov.ctl("rebind", "--move")
    mnt = ov.mount()
    assert {(mnt / n).read_text() for n in (name, "b", "c")} == {"changed\n"}
    assert {ino(mnt / n) for n in (name, "b", "c")} == {number}


@pytest.mark.layouts("ext4")
def test_written_where_the_index_alone_has_it(ov):
    """Lower loses a name that the overlay had removed: what was written under the other one is not thrown away."""
    with ov.lower() as low:
        write(low / "a", "first\n")
        os.link(low / "a", low / "b")
    mnt = ov.mount()
    os.unlink(mnt / "a")
    write(mnt / "b", "written\n")
    ov.umount()
    os.unlink(low / "a")
    ov.before = None
    mnt = ov.mount()
    with open(mnt / "b", "a", encoding="ascii") as file:
        file.write("more\n")
    ov.umount()
    entries = [path.read_text() for path in (ov.work / "inodes").glob("??/#*") if path.is_file()]
    assert "written\n" in entries


@pytest.mark.layouts("ext4")
def test_image_that_is_damaged_in_places(ov, disks):
    """An inode in an image that cannot be read is an error of that object, and not of the mount."""
    for i in range(3):
        write(ov.base / f"tree/d/sub/f{i}", f"text {i}\n")
    run("mkfs.erofs", "-T0", "-x-1", ov.base / "image", ov.base / "tree")
    at = disks.mount(ov.base / "image", "low")
    nid = os.lstat(at / "d/sub/f1").st_ino
    disks.umount()
    image = bytearray((ov.base / "image").read_bytes())
    features, = struct.unpack_from("<I", image, 1024 + 8)
    blocks, = struct.unpack_from("<I", image, 1024 + 40)
    struct.pack_into("<I", image, 1024 + 8, features & ~1)  # no checksum of the superblock
    struct.pack_into("<H", image, (blocks << image[1024 + 12]) + nid * 32, 0x7f3f)  # no such format
    (ov.base / "image").write_bytes(image)
    disks.mount(ov.base / "image", "low")
    with pytest.raises(OSError):
        os.lstat(at / "d/sub/f1")
    ov.lowers = [at]
    ov.may_complain = True
    ov.check_lower = ov.check_remount = ov.check_links = ov.check_clean = False  # it cannot be walked
    assert (ov.mount() / "d/sub/f2").read_text() == "text 2\n"


@pytest.mark.layouts("ext4")
def test_index_lost_after_a_rebind_to_an_image_that_lacks_a_file(ov, disks):
    """What the rebind told to be gone is no sign of another image later."""
    for i in range(2):
        for name in ("a", "b", "c")[i:]:
            write(ov.base / f"tree{i}/d/{name}", f"{name}\n")
        run("mksquashfs", ov.base / f"tree{i}", ov.base / f"image{i}", "-quiet", "-no-progress")
    ov.lowers = [disks.mount(ov.base / "image0", "low0")]
    write(ov.mount() / "d/a", "changed\n")
    ov.umount()
    ov.lowers = [disks.mount(ov.base / "image1", "low1")]
    ov.before = None
    rebind_as_told(ov)
    shutil.rmtree(ov.work)
    ov.work.mkdir()
    code, found = ov.ctl("repair", "--rebuild", "-y")
    assert code == 1, found
    assert (ov.mount() / "d/a").read_text() == "changed\n"
