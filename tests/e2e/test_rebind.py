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

import pytest

import sysc
from rvl import CTL, run
from snapshots import assert_same, check_tree, numbers, snapshot, xattrs_of
from trees import ino, listing, standard_tree, whiteout, write

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
        self.name = ov.mnt.name
        self.n = 0

    def directory(self, fs, name):
        self.n += 1
        path = self.images.get(fs) / f"{self.name}.{name}{self.n}"
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


def rebind_again(ov):
    """What was bound is bound: nothing is told, and nothing changed but the table on upper's root."""
    def upper():
        return {name: info for name, info in snapshot(ov.upper, private=True).items() if name != "."}

    before = upper()
    report = rebind(ov)
    lower = report["lower"]
    assert (report["told"], lower["gone"], lower["linked"]) == ([], 0, 0), report
    assert lower["kept"] == lower["known"], report
    assert_same(before, upper(), "upper")


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
    """All but times that rsync does not keep: of directories with whiteouts, of what is no file."""
    tree = snapshot(mnt, dir_nlink=False)
    for info in tree.values():
        if not stat.S_ISREG(int(info["mode"], 8)):
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


def test_only_upper_and_workdir_moved(ov, used, move):
    """The lowers stay where they are: their numbers are computed as before, no map is needed."""
    move.upper("xfs", by_rsync)
    report = rebind(ov)
    assert report["moved"] and not report["other_lowers"]
    used.check(ov.mount())
    assert not list((ov.work / "inodes").glob("map.mdb.*"))


def test_a_mount_without_rebind_names_the_command(ov, used, move):
    """It is refused, changes nothing, and the command that it names is the one that helps."""
    ov.may_complain = True
    move.all("ext4", "ext4", by_rsync)
    result = run(*ov.command(flags=()), check=False)
    assert result.returncode != 0
    command = result.stdout[result.stdout.index("reverlayctl rebind"):].strip()
    run("sh", "-c", command.replace("reverlayctl", CTL, 1))
    used.check(ov.mount())


def test_without_a_map_untouched_objects_get_new_numbers(ov, move):
    """It is told; what is in upper keeps all, and no old handle opens another object."""
    with ov.lower() as top:
        fill_lower(top)
    use(ov.mount())
    before = Before(ov.mnt)
    ov.umount()
    for name in ("map.mdb", "map.seal"):
        (ov.work / "inodes" / name).unlink(missing_ok=True)
    upper = {n for n in before.handles if os.path.lexists(ov.upper / n)}
    move.all("xfs", "xfs", by_rsync)
    report = rebind(ov)
    assert not report["had_map"]
    mnt = ov.mount()
    root = os.open(mnt, os.O_RDONLY)
    for name, fh in before.handles.items():
        if name in upper:
            fd = sysc.open_handle(root, fh, os.O_PATH)
            assert os.fstat(fd).st_ino == before.tree[name]["ino"], name
            os.close(fd)
    stale = {n for n in before.handles if n not in upper and "was-renamed.d/" not in n}
    linked = {"triple1", "dir/triple3", "hard2", "dir/hard3"}
    for name in sorted(stale):
        try:
            fd = sysc.open_handle(root, before.handles[name], os.O_PATH)
        except OSError as error:
            assert error.errno == errno.ESTALE, name
        else:  # a name of a file that was copied up under another one
            assert os.fstat(fd).st_ino == before.tree[name]["ino"] and name in linked, name
            os.close(fd)
    os.close(root)
    now = numbers(mnt)
    old = {info["ino"] for info in before.tree.values()}
    for name in stale - linked:
        assert now[name] not in old, name
    check_tree(mnt)


def test_private_attributes_lost(ov, used, move):
    """A copy by plain tar is refused with the command that copies right, and nothing is changed."""
    move.all("ext4", "ext4", by_plain_tar)
    parts = (ov.upper, ov.work / "inodes")
    trees = [snapshot(part, private=True) for part in parts]
    result = rebind(ov, check=False)
    assert result.returncode != 0 and "--xattrs-include='*'" in result.stdout
    for tree, part in zip(trees, parts):
        assert_same(tree, snapshot(part, private=True), "after a refused rebind")


@pytest.mark.parametrize("way", ["without -H", "one after the other"])
def test_hard_links_of_upper_lost(ov, used, move, way):
    """Names of one object are one inode again, and the index's links of it."""
    if way == "without -H":
        move.all("xfs", "ext4", by_rsync_without_links)
    else:
        def copy(source, target):
            for part in ("upper", "work"):
                (target / part).mkdir()
                by_cp(source / part, target / part)
        move.upper("xfs", copy)
        move.lowers("ext4", by_cp)
    report = rebind(ov)
    assert report["upper"]["linked"] > 0
    assert not [t for t in report["told"] if t["what"] in ("unequal", "dead")]
    mnt = ov.mount()
    used.check(mnt)
    assert ino(mnt / "born") == ino(mnt / "born.d/link") == used.tree["born"]["ino"]
    assert os.lstat(mnt / "born").st_nlink == 2


def test_unequal_names_are_both_kept(ov, used, move):
    """Names that were one object and are not equal: told, both are there, one has the number."""
    move.all("ext4", "ext4", by_rsync)
    link = ov.upper / "born.d/link"
    os.unlink(link)
    shutil.copy2(ov.upper / "born", link)
    os.setxattr(link, "trusted.overlay.ino", os.getxattr(ov.upper / "born", "trusted.overlay.ino"))
    write(link, "something else\n")
    report = rebind(ov)
    assert [(t["what"], t["path"]) for t in report["told"]] == [("unequal", "born.d/link")]
    mnt = ov.mount()
    assert (mnt / "born").read_text() == "born\n" and ino(mnt / "born") == used.tree["born"]["ino"]
    assert (mnt / "born.d/link").read_text() == "something else\n"
    assert ino(mnt / "born.d/link") not in {i["ino"] for i in used.tree.values()}
    check_tree(mnt)


def test_index_and_name_unequal(ov, used, move):
    """The name is what people see: it is the object; what the index had is in lost+found."""
    move.all("ext4", "ext4", by_rsync)
    data = (ov.upper / "file").read_bytes() + b"after the copy\n"
    attributes = xattrs_of(ov.upper / "file", private=True)
    os.unlink(ov.upper / "file")
    write(ov.upper / "file", data)
    for name, value in attributes.items():
        os.setxattr(ov.upper / "file", name, value)
    report = rebind(ov)
    assert [(t["what"], t["path"]) for t in report["told"]] == [("unequal", "file")]
    mnt = ov.mount()
    assert (mnt / "file").read_bytes() == data and ino(mnt / "file") == used.tree["file"]["ino"]
    lost, = listing(mnt / "lost+found")
    assert (mnt / "lost+found" / lost).read_text() == "changed\n"
    check_tree(mnt)


@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_lower_becomes_an_image(ov, used, move, kind):
    """The same tree as an image: every number and handle stays."""
    source, = ov.lowers
    image = move.directory("ext4", "image") / "image"
    if kind == "squashfs":
        run("mksquashfs", source, image, "-quiet", "-no-progress", "-comp", "gzip", "-noappend")
    else:
        os.unlink(source / ("n" * 255))  # mkfs.erofs 1.5 cannot
        run("mkfs.erofs", image, source)
    ov.lowers = [ov._mount_image(image, kind)]  # pylint: disable=protected-access
    ov.before = None
    report = rebind(ov)
    gone = {t["path"].lstrip("/") for t in report["told"]}
    assert gone <= {"n" * 255, "blockdev"} and not report["moved"] and report["other_lowers"]
    used.check_handles(ov.mount(), without=gone)
    check_tree(ov.mnt)


def test_newer_version_of_lower(ov, used, move):
    """Gone, new, changed, another kind: each is told or bound, and no number means another object."""
    old = ov.lowers[0]
    new = move.directory("ext4", "newer")
    by_cp(old, new)
    os.unlink(new / "empty")
    os.unlink(new / "xattr")
    os.mkdir(new / "xattr")
    write(new / "dir/sub/deep", "newer\n")
    write(new / "added", "added\n")
    os.rename(new / "suid", new / "suid.moved")
    ov.lowers, ov.before = [new], None
    report = rebind(ov)
    told = {(t["what"], t["path"]) for t in report["told"]}
    assert told == {("gone", "/empty"), ("other-kind", "/xattr"), ("gone", "/suid")}
    rebind_again(ov)
    mnt = ov.mount()
    used.check_handles(mnt, without=["empty", "xattr", "suid"])
    root = os.open(mnt, os.O_RDONLY)
    for name in ("empty", "xattr", "suid"):
        sysc.fails(errno.ESTALE, sysc.open_handle, root, used.handles[name], os.O_PATH)
    os.close(root)
    assert (mnt / "dir/sub/deep").read_text() == "newer\n"
    assert ino(mnt / "dir/sub/deep") == used.tree["dir/sub/deep"]["ino"]
    known = {info["ino"] for info in used.tree.values()}
    for name in ("added", "xattr", "suid.moved"):
        assert ino(mnt / name) not in known, name
    check_tree(mnt)


def test_gone_under_what_was_copied_up(ov):
    """It is told once, and what upper has is no copy of anything any more, also where another file has the place."""
    origin = "trusted.overlay.origin"
    with ov.lower() as low:
        for name in ("gone", "other", "kept"):
            write(low / name, "lower\n")
    mnt = ov.mount()
    for name in ("gone", "other", "kept"):
        write(mnt / name, "changed\n")
    run(CTL, "map", mnt)
    before = numbers(mnt)
    ov.umount()
    newer = ov.lower_base / "newer"
    run("cp", "-a", low, newer)
    os.unlink(newer / "gone")
    os.unlink(newer / "other")
    os.mkdir(newer / "other")
    ov.lowers, ov.before = [newer], None
    report = rebind(ov)
    assert {(t["what"], t["path"]) for t in report["told"]} == {("gone", "/gone"), ("other-kind", "/other")}
    assert {name: bool(os.getxattr(ov.upper / name, origin)) for name in listing(ov.upper)} == \
        {"gone": False, "other": False, "kept": True}
    rebind_again(ov)
    assert numbers(ov.mount()) == before


@pytest.mark.parametrize("is_linked", [False, True])
def test_place_of_what_was_gone(ov, is_linked):
    """A file was changed and renamed; a newer lower lacks it, and one after that has another file at its place, which
    upper does not hide any more: that is another object."""
    with ov.lower() as low:
        write(low / "p", "lower\n")
        if is_linked:
            os.link(low / "p", low / "q")
    mnt = ov.mount()
    write(mnt / "p", "changed\n")
    os.rename(mnt / "p", mnt / "z")
    run(CTL, "map", mnt)
    names = ["z", "q"] if is_linked else ["z"]
    before = {name: (ino(mnt / name), (mnt / name).read_text()) for name in names}
    ov.umount()
    second, third = ov.lower_base / "second", ov.lower_base / "third"
    run("cp", "-a", low, second)
    os.unlink(second / "p")
    ov.lowers, ov.before = [second], None
    assert [told["path"] for told in rebind(ov)["told"]] == ["/p"]
    assert ov.ctl("repair", "-p")[0] in (0, 1)  # the whiteout hides nothing
    third.mkdir()
    write(third / "p", "quite another file\n")
    if is_linked:
        write(third / "q", "lower\n")
    ov.lowers, ov.check_links = [third], False
    rebind(ov)
    mnt = ov.mount()
    assert {name: (ino(mnt / name), (mnt / name).read_text()) for name in names} == before
    assert (mnt / "p").read_text() == "quite another file\n"
    assert ino(mnt / "p") != ino(mnt / "z")


def test_another_list_of_lowers(ov, used, move):
    """A layer more on top, which merges, hides and adds; and then without it again."""
    top = move.directory("xfs", "top")
    write(top / "dir/new", "new\n")
    write(top / "added", "added\n")
    whiteout(top / "empty")
    below, ov.before = ov.lowers, None
    ov.lowers = [top, *below]
    report = rebind(ov)
    assert [t["path"] for t in report["told"]] == ["/empty"]
    mnt = ov.mount()
    used.check_handles(mnt, without=["empty"])
    assert ino(mnt / "dir") == used.tree["dir"]["ino"] and (mnt / "dir/new").exists()
    added = ino(mnt / "added"), ino(mnt / "dir/new")
    run(CTL, "map", mnt)
    ov.umount()
    ov.lowers, ov.before = below, None
    rebind(ov)
    used.check_handles(ov.mount(), without=["empty"])
    assert not set(added) & set(numbers(mnt).values())
    check_tree(mnt)


def test_dry_run_changes_nothing(ov, used, move):
    """It tells the same as the rebind after it, and changes no byte."""
    move.all("ext4", "ext4", by_rsync_without_links)
    (ov.lowers[0] / "empty").unlink()
    tree = snapshot(ov.base, private=True, ctime=True)
    told = rebind(ov, "--dry-run")
    assert_same(tree, snapshot(ov.base, private=True, ctime=True), "after a dry run")
    done = rebind(ov)
    assert told.pop("dry_run") and not done.pop("dry_run")
    assert told == done


@pytest.mark.parametrize("moves", ["lowers too", "upper only"])
def test_clones_go_ways_of_their_own(ov, used, move, moves):
    """Both have all numbers from before; what is born in one has numbers that the other never gives."""
    original = ov.base, ov.upper, ov.work, ov.lowers, ov.lower_base
    clone = move.directory("xfs", "clone")
    by_rsync(ov.base, clone)
    ov.base, ov.upper, ov.work = clone, clone / "upper", clone / "work"
    if moves == "lowers too":
        ov.lowers, ov.before = [move.directory("xfs", "clone.lower")], None
        by_rsync(original[3][0], ov.lowers[0])
    report = rebind(ov, "--clone")
    assert report["action"] == "clone"
    mnt = ov.mount()
    assert_same(used.tree, tree_of(mnt), "in the clone")
    if moves == "lowers too":
        used.check_handles(mnt)
    born = {ino(write(mnt / f"new{i}")) for i in range(10)}
    check_tree(mnt)
    ov.remount()
    ov.umount()
    shutil.rmtree(clone)
    ov.base, ov.upper, ov.work, ov.lowers, ov.lower_base = original
    ov.before = None
    used.check(ov.mount())
    assert not born & {ino(write(mnt / f"new{i}")) for i in range(10)}


def test_moved_again_and_again(ov, used, move):
    """Numbers of several generations: what was born between the moves, too."""
    for i, fs in enumerate(("xfs", "ext4", "btrfs")):
        move.all(fs, fs, by_rsync)
        rebind(ov)
        used.check_handles(ov.mount())
        write(ov.mnt / f"between{i}", "b\n")
        os.chmod(ov.mnt / "dir/sub/deep", 0o600 + i)
        used.tree["dir/sub/deep"]["mode"] = oct(stat.S_IFREG | 0o600 + i)
        used = Before(ov.mnt)
        assert len(list((ov.work / "inodes").glob("map.mdb*"))) == 1
        ov.umount()


def test_hard_links_of_lower_lost(ov, used, move):
    """Equal ones are links of one object in upper, unequal ones are told and are objects of their own.

    pair1, pair2: untouched; triple1 to 3: copied up by one of its names; hard2, dir/hard3: hard1 was
    removed. A directory on the way that is only in lower is copied up.
    """
    write(ov.lowers[0] / "odd/other/x", "odd\n")
    os.link(ov.lowers[0] / "odd/other/x", ov.lowers[0] / "odd/y")
    rebind(ov)  # a newer version of lower
    ov.mount()
    old_odd = ino(ov.mnt / "odd/y")
    run(CTL, "map", ov.mnt)
    before = Before(ov.mnt)
    ov.umount()
    move.upper("xfs", by_rsync)
    move.lowers("ext4", by_rsync_without_links)
    write(ov.lowers[0] / "odd/y", "not equal\n")
    report = rebind(ov)
    told = {t["path"] for t in report["told"]}
    assert len(told) == 1 and told < {"odd/other/x", "odd/y"}
    assert {t["what"] for t in report["told"]} == {"split"}
    mnt = ov.mount()
    before.check_handles(mnt, without=["odd/y", "odd/other/x"])
    inos = [ino(mnt / name) for name in ("odd/y", "odd/other/x")]
    assert old_odd in inos and inos[0] != inos[1]
    for names in (("pair1", "dir/pair2"), ("triple1", "triple2", "dir/triple3"),
                  ("hard2", "dir/hard3")):
        assert {ino(mnt / name) for name in names} == {before.tree[names[0]]["ino"]}, names
        assert os.lstat(mnt / names[0]).st_nlink == len(names)
        with open(mnt / names[0], "a", encoding="utf-8") as file:
            file.write("by one name\n")
        for name in names:
            assert (mnt / name).read_text().endswith("by one name\n"), name
    check_tree(mnt)


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_files_of_lower_are_joined(ov, move, fs):
    """A newer lower has made hard links of equal files, of which one was changed: nobody else shows the change."""
    groups = range(12)  # with other names in each, so that the walk meets each of them first somewhere
    with ov.lower() as top:
        for i in groups:
            for name in ("changed", "same1", "same2"):
                write(top / f"{i}/{name}{i}", f"{i} of lower\n")
            os.link(top / f"{i}/changed{i}", top / f"{i}/alias{i}")
            os.link(top / f"{i}/same2{i}", top / f"{i}/same3{i}")
    mnt = ov.mount()
    for i in groups:
        write(mnt / f"{i}/changed{i}", "changed\n")
    run(CTL, "map", mnt)
    before, old = numbers(mnt), handles(mnt)
    ov.umount()
    move.lowers(fs, by_rsync)
    for i in groups:
        top = ov.lowers[0] / str(i)
        for name in ("alias", "same1", "same2", "same3"):
            os.unlink(top / f"{name}{i}")
            os.link(top / f"changed{i}", top / f"{name}{i}")
        write(top / f"changed{i}", "newer\n")
    assert rebind(ov)["lower"]["gone"] == 0
    rebind_again(ov)
    ov.before = None
    ov.check_links = False  # lower's st_nlink counts names that are upper's now
    mnt = ov.mount()
    after = numbers(mnt)
    for i in groups:
        text = {name: (mnt / f"{i}/{name}{i}").read_text()
                for name in ("changed", "alias", "same1", "same2", "same3")}
        assert text == {"changed": "changed\n", "alias": "changed\n", "same1": "newer\n",
                        "same2": "newer\n", "same3": "newer\n"}, i
        changed, alias, *same = (f"{i}/{name}{i}" for name in text)
        assert after[changed] == after[alias] == before[changed]
        assert sysc.handle(mnt / changed) == old[changed]
        assert after[same[1]] == after[same[2]]
        assert {after[name] for name in same} <= {before[name] for name in same}
        write(mnt / alias, "changed later\n")
        assert (mnt / changed).read_text() == "changed later\n"
        assert (mnt / same[2]).read_text() == "newer\n"


def test_one_of_two_links_is_joined(ov):
    """A newer lower has made one of two hard links one of another file, which was changed: three objects, each its own."""
    groups = range(10)  # with other names in each: what the walk meets first is another one
    with ov.lower() as low:
        for i in groups:
            write(low / f"{i}/p{i}", "P\n")
            os.link(low / f"{i}/p{i}", low / f"{i}/other{i}")
            write(low / f"{i}/q{i}", "Q\n")
    mnt = ov.mount()
    for i in groups:
        write(mnt / f"{i}/q{i}", "Q changed\n")
    run(CTL, "map", mnt)
    before = numbers(mnt)
    ov.umount()
    newer = ov.lower_base / "newer"
    run("cp", "-a", low, newer)
    for i in groups:
        os.unlink(newer / f"{i}/p{i}")
        os.link(newer / f"{i}/q{i}", newer / f"{i}/p{i}")
    ov.lowers, ov.before = [newer], None
    rebind(ov)
    rebind_again(ov)
    ov.check_links = False  # lower's st_nlink counts names that are upper's now
    mnt = ov.mount()
    after = numbers(mnt)
    for i in groups:
        names = [f"{i}/p{i}", f"{i}/other{i}", f"{i}/q{i}"]
        assert [(mnt / name).read_text() for name in names] == ["Q\n", "P\n", "Q changed\n"]
        assert len({after[name] for name in names}) == 3
        assert after[names[2]] == before[names[2]]
        assert before[names[0]] in (after[names[0]], after[names[1]])  # one of the two has kept it


def test_links_are_parted_and_joined(ov):
    """Of three hard links two are copies of each other in the newer lower, and the third is a link of a changed file."""
    groups = range(8)  # with other names in each: what the walk meets first is another one
    with ov.lower() as low:
        for i in groups:
            write(low / f"{i}/a{i}", "same\n")
            for name in ("b", "e"):
                os.link(low / f"{i}/a{i}", low / f"{i}/{name}{i}")
            write(low / f"{i}/d{i}", "D\n")
    mnt = ov.mount()
    for i in groups:
        write(mnt / f"{i}/d{i}", "D changed\n")
    run(CTL, "map", mnt)
    ov.umount()
    newer = ov.lower_base / "newer"
    run("cp", "-a", low, newer)
    for i in groups:
        for name in ("e", "b"):
            os.unlink(newer / f"{i}/{name}{i}")
        shutil.copy2(newer / f"{i}/a{i}", newer / f"{i}/e{i}")
        os.link(newer / f"{i}/d{i}", newer / f"{i}/b{i}")
    ov.lowers, ov.before = [newer], None
    rebind(ov)
    rebind_again(ov)
    ov.check_links = False  # lower's st_nlink counts names that are upper's now
    mnt = ov.mount()
    for i in groups:
        text = [(mnt / f"{i}/{name}{i}").read_text() for name in "aebd"]
        assert text == ["same\n", "same\n", "D\n", "D changed\n"]
        assert ino(mnt / f"{i}/a{i}") == ino(mnt / f"{i}/e{i}")
        assert len({ino(mnt / f"{i}/{name}{i}") for name in "abd"}) == 3


def test_links_are_joined_with_two_others(ov):
    """Of two hard links each is a link of another file in the newer lower, both of which were changed."""
    groups = range(8)  # with other names in each: what the walk meets first is another one
    with ov.lower() as low:
        for i in groups:
            write(low / f"{i}/o{i}", "o\n")
            write(low / f"{i}/x{i}", "x\n")
            write(low / f"{i}/p{i}", "P\n")
            os.link(low / f"{i}/p{i}", low / f"{i}/q{i}")
    mnt = ov.mount()
    for i in groups:
        for name in "ox":
            write(mnt / f"{i}/{name}{i}", "changed\n")
    run(CTL, "map", mnt)
    ov.umount()
    newer = ov.lower_base / "newer"
    for i in groups:
        for name, link in ("op", "xq"):
            write(newer / f"{i}/{name}{i}", f"newer {name}\n")
            os.link(newer / f"{i}/{name}{i}", newer / f"{i}/{link}{i}")
    ov.lowers, ov.before, ov.check_links = [newer], None, False
    rebind(ov)
    rebind_again(ov)
    mnt = ov.mount()
    for i in groups:
        assert [(mnt / f"{i}/{name}{i}").read_text() for name in "opxq"] == \
            ["changed\n", "newer o\n", "changed\n", "newer x\n"], i
        assert len({ino(mnt / f"{i}/{name}{i}") for name in "opxq"}) == 4


@pytest.mark.parametrize("is_first", [False, True])
def test_map_is_behind(ov, is_first):
    """A file was replaced by a link of another one while nothing was mounted, after the map was made, and changed: what
    was copied up knows its origin."""
    with ov.lower() as low:
        for name in ("n", "a") if is_first else ("a", "n"):
            write(low / "d" / name, f"{name}\n")
    if is_first:
        os.rename(low / "d/n", low.parent / "n")
    else:
        os.unlink(low / "d/n")
    run(CTL, "map", ov.mount())
    ov.umount()
    if is_first:
        os.rename(low.parent / "n", low / "d/n")
    else:
        write(low / "d/n", "n\n")
    os.unlink(low / "d/a")
    os.link(low / "d/n", low / "d/a")
    ov.before = None
    mnt = ov.mount()
    write(mnt / "d/a", "changed\n")
    before = numbers(mnt)
    assert before["d/a"] == before["d/n"]
    ov.umount()
    rebind(ov)
    mnt = ov.mount()
    assert numbers(mnt) == before
    assert (mnt / "d/n").read_text() == "changed\n"


def test_killed_with_wrong_lowers(ov, used):
    """A rebind to the wrong lowers that does not end takes nothing from the overlay: with the right ones it goes on."""
    def attributes():
        return {name: info["xattrs"] for name, info in snapshot(ov.upper, private=True).items()}

    right, wrong = ov.lowers, ov.lower_base / "wrong"
    wrong.mkdir()
    before = attributes()
    ov.lowers = [wrong]
    killed = run("strace", "-f", "-o", "/dev/null", "-e", "trace=syncfs", "-e",
                 "inject=syncfs:signal=KILL:when=1", CTL, "rebind", "-o", ov.option_string(), check=False)
    assert killed.returncode != 0
    ov.lowers = right
    assert attributes() == before
    assert ov.ctl("check")[0] == 0
    used.check(ov.mount())


def test_the_mount_does_it(ov, used, move):
    """rebind=auto: the mount of copied layers binds them; the next one has nothing to do."""
    move.all("xfs", "btrfs", by_rsync)
    used.check(ov.mount("rebind=auto"))
    assert "rebind=auto: bound" in ov.messages()
    said = ov.messages().count("rebind=auto")
    used.check(ov.remount("rebind=auto"))
    assert ov.messages().count("rebind=auto") == said


@pytest.mark.parametrize("target", ["xfs", "tmpfs"])
def test_attributes_beside_the_inode(ov, move, target):
    """With userxattr symlinks and the like have their stamps beside them: these go to the inodes of the copy."""
    names = ["symlink", "dangling", "fifo", "born link", "born fifo", "file"]
    with ov.lower() as low:
        standard_tree(low)
        os.unlink(low / "socket")
        os.symlink("x", low / "pair1")
        os.link(low / "pair1", low / "pair2", follow_symlinks=False)
    ov.options = ["userxattr"]
    mnt = ov.mount()
    for name in ("symlink", "dangling", "fifo", "pair1"):
        os.chown(mnt / name, 5, 6, follow_symlinks=False)
    os.symlink("file", mnt / "born link")
    os.mkfifo(mnt / "born fifo")
    os.symlink("removed", mnt / "removed")
    os.unlink(mnt / "removed")
    write(mnt / "file", b"changed\n")
    before = snapshot(mnt)
    ov.umount()
    count = len(listing(ov.work / "inodes/c"))
    assert count >= 6
    move.all(target, target, by_rsync)
    rebind(ov)
    assert len(listing(ov.work / "inodes/c")) == count
    assert not (ov.work / "inodes/c.old").exists()
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount()
    after = snapshot(mnt)
    for name in (*names, "pair1", "pair2"):
        for tree in (before, after):  # rsync has no times for links of symlinks
            tree[name].pop("mtime")
        assert after[name] == before[name], name
    check_tree(mnt)


@pytest.mark.parametrize("first", ["moved", "uncovered"])
def test_moved_offline_after_a_rebind(ov, first):
    """What was moved in upper is never shown for the lower object that it uncovers.

    After a rebind the number of that is recorded, and is upper's as well.
    """
    with ov.layer() as low:
        write(low / "file", "lower\n")
    ov.check_lower = False
    mnt = ov.mount()
    write(mnt / "file", "upper\n")
    ov.umount()
    rebind(ov)
    os.rename(ov.upper / "file", ov.upper / "moved")
    mnt = ov.mount()
    seen = {}
    for name in ("moved", "file") if first == "moved" else ("file", "moved"):
        with contextlib.suppress(OSError):
            seen[name] = (mnt / name).read_text()
    assert seen.get("moved", "upper\n") == "upper\n"
    assert seen.get("file", "lower\n") == "lower\n"
    assert seen
    ov.umount()
    os.rename(ov.upper / "moved", ov.upper / "file")
    ov.mount()
    assert (mnt / "file").read_text() == "upper\n"
