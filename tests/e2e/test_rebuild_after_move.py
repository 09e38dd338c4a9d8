# SPDX-License-Identifier: GPL-2.0-or-later
"""The index is lost after the layers were moved and bound: repair --rebuild finds by origins what the rebind had recorded.

What was copied up keeps its number, and its other names, which are only in lower. Nothing else is taken for it.
"""

import os
import shutil
import struct

import pytest

import sysc
from imports import EVERY, kill_anywhere
from rvl import CTL, run
from snapshots import assert_same, check_tree, numbers, snapshot
from test_handles_decode import is_stale
from test_rebind import by_rsync, handles, move, rebind, tree_of  # noqa: F401: fixtures
from test_rebind_rebuilt import lose_workdir
from trees import fill_disk, ino, write

pytestmark = pytest.mark.reverlay_only("it refuses copied layers")

# copied up by these names, and renamed in three ways; each has another one in "other"
LINKS = {"dir/here": "dir/here", "dir/renamed": "renamed", "moved.d/in": "dir/moved.d/in"}
UNTOUCHED = ("other", "pair1", "other/pair2", "dir/moved.d/untouched")  # the map alone had their numbers


def other(name):
    return f"other/{os.path.basename(name)}"


def use(ov):
    with ov.lower() as low:
        (low / "other").mkdir()
        for name in LINKS:
            write(low / name, f"lower {name}\n")
            os.link(low / name, low / other(name))
        for name in ("single", "pair1", "moved.d/untouched", "empty.d/gone"):
            write(low / name, f"lower {name}\n")
        os.link(low / "pair1", low / "other/pair2")
    mnt = ov.mount()
    for name in (*LINKS, "single", "born"):
        write(mnt / name, f"changed {name}\n")
    os.rename(mnt / "dir/renamed", mnt / "renamed")
    os.rename(mnt / "moved.d", mnt / "dir/moved.d")
    os.unlink(mnt / "empty.d/gone")
    os.link(mnt / "born", mnt / "dir/born")
    ov.umount()


def move_and_bind(ov, move, fs="ext4"):
    run(CTL, "map", ov.mount())
    ov.umount()
    move.all(fs, fs, by_rsync)
    assert rebind(ov)["told"] == []


class Known:
    """What is shown, and must be so again."""

    def __init__(self, ov):
        mnt = ov.mount()
        self.tree = tree_of(mnt)
        self.handles = handles(mnt)
        ov.umount()

    def check(self, mnt, lost=UNTOUCHED):
        """Handles first, while nothing is in memory."""
        root = os.open(mnt, os.O_RDONLY)
        for name, fh in self.handles.items():
            if name in lost:
                assert is_stale(mnt, fh), name
            else:
                fd = sysc.open_handle(root, fh, os.O_PATH)
                assert os.fstat(fd).st_ino == self.tree[name]["ino"], name
                os.close(fd)
        os.close(root)
        after = tree_of(mnt)
        seen = {info["ino"] for info in self.tree.values()}
        for name in lost:
            assert after[name].pop("ino") not in seen, name
        assert_same({name: {k: v for k, v in info.items() if k != "ino" or name not in lost}
                     for name, info in self.tree.items()}, after, "after the rebuild")
        for name, now in LINKS.items():
            assert (mnt / other(name)).read_text() == (mnt / now).read_text() == f"changed {name}\n"
            assert after[now]["nlink"] == 2
        check_tree(mnt)


@pytest.fixture
def known(ov, move):
    use(ov)
    move_and_bind(ov, move)
    return Known(ov)


def lose_state(ov):
    (ov.work / "inodes/state").unlink()


def damage_state(ov):
    data = bytearray((ov.work / "inodes/state").read_bytes())
    data[200] ^= 1
    (ov.work / "inodes/state").write_bytes(data)


LOSSES = {"workdir": lose_workdir, "state": lose_state, "damaged state": damage_state}


def rebuild(ov):
    """Done, and nothing is left; the next one finds nothing. Returns what was said."""
    code, found = ov.ctl("repair", "--rebuild", "-p")
    assert code == 1, found
    for args in (["check"], ["repair", "--rebuild", "-p"]):
        code, again = ov.ctl(*args)
        assert code == 0, again
    return found["stderr"]


@pytest.mark.layouts("ext4", "btrfs", "squashfs", "stack5")
@pytest.mark.parametrize("loss", LOSSES)
def test_links_stay(ov, known, loss):
    """Names in lower are names of what was copied up by another one: number, count, handle; and data, both ways."""
    LOSSES[loss](ov)
    assert rebuild(ov) == ""
    mnt = ov.mount()
    known.check(mnt)
    for name, now in LINKS.items():
        with open(mnt / other(name), "a", encoding="ascii") as file:
            file.write("by the other name\n")
        assert (mnt / now).read_text() == f"changed {name}\nby the other name\n"


def test_links_stay_over_more_moves(ov, known, move):
    """What was made again is moved and bound as any other, and lost again."""
    lose_workdir(ov)
    rebuild(ov)
    again = Known(ov)
    for _ in range(2):
        move_and_bind(ov, move)
        again.check(ov.mount(), lost=())
        ov.umount()
    lose_workdir(ov)
    rebuild(ov)
    known.check(ov.mount())


@pytest.mark.parametrize("loss", ["state", "damaged state"])
def test_only_in_the_index(ov, move, loss):
    """Changed by a name that was removed then: upper has none, and the data stay those of the name in lower."""
    with ov.lower() as low:
        write(low / "dir/a", "lower\n")
        os.link(low / "dir/a", low / "b")
    mnt = ov.mount()
    write(mnt / "dir/a", "changed\n")
    os.unlink(mnt / "dir/a")
    ov.umount()
    move_and_bind(ov, move)
    mnt = ov.mount()
    number, handle = ino(mnt / "b"), sysc.handle(mnt / "b")
    ov.umount()
    LOSSES[loss](ov)
    assert rebuild(ov) == ""
    for _ in range(2):
        mnt = ov.mount()
        root = os.open(mnt, os.O_RDONLY)
        fd = sysc.open_handle(root, handle, os.O_RDONLY)
        assert (os.read(fd, 100), os.fstat(fd).st_ino) == (b"changed\n", number)
        os.close(fd)
        os.close(root)
        assert ((mnt / "b").read_text(), ino(mnt / "b"), os.lstat(mnt / "b").st_nlink) == ("changed\n", number, 1)
        ov.umount()


@pytest.mark.layouts("ext4", "squashfs")
@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_images(ov, kind):
    """Where handles are inode numbers, and there are no birth times."""
    use(ov)
    run(CTL, "map", ov.mount())
    ov.umount()
    tree = ov.lower_base / "tree"
    run("cp", "-a", ov.lowers[0], tree)
    write(tree / "000/more", "other inode numbers\n")
    for where in ov.mounted_helpers:
        run("umount", where)
        where.rmdir()
    ov.mounted_helpers.clear()
    getattr(ov, f"_make_{kind}")(tree)
    ov.before = None
    assert rebind(ov)["told"] == []
    known = Known(ov)
    lose_workdir(ov)
    assert rebuild(ov) == ""
    known.check(ov.mount())


def test_numbers_that_were_assigned(ov, images):
    """Of a kernel overlay on two filesystems they cannot be computed: lost with the map, as after a rebind."""
    top, below, where = ov.lower_base / "top", images.get("xfs") / ov.mnt.name, ov.lower_base / "overlay"
    for path in (top, below, where):
        path.mkdir()
    for i, path in enumerate((top, below)):
        write(path / f"d{i}/a", "lower\n")
        os.link(path / f"d{i}/a", path / f"b{i}")
    run("mount", "-t", "overlay", "-o", f"lowerdir={top}:{below},xino=off,redirect_dir=nofollow,nfs_export=on", "overlay", where)
    ov.mounted_helpers.append(where)
    ov.lowers = [where]
    mnt = ov.mount()
    for i in range(2):
        write(mnt / f"d{i}/a", "changed\n")
    known = {name: (ino(mnt / name), sysc.handle(mnt / name)) for name in ("d0", "d0/a", "b0", "d1", "d1/a", "b1")}
    assert known["b0"][0] >> 48 and known["b1"][0] >> 48
    ov.umount()
    lose_workdir(ov)
    assert rebuild(ov) == ""
    mnt = ov.mount()
    assert {name: (ino(mnt / name), sysc.handle(mnt / name)) for name in known} == known
    for i in range(2):
        assert (mnt / f"b{i}").read_text() == "changed\n"


def test_only_looked_at(ov, known):
    """-n changes nothing."""
    lose_workdir(ov)
    before = snapshot(ov.base, private=True, ctime=True)
    code, found = ov.ctl("repair", "--rebuild", "-n")
    assert code == 4 and [p["id"] for p in found["problems"]] == ["index-lost"]
    assert_same(before, snapshot(ov.base, private=True, ctime=True), "after a look")
    rebuild(ov)
    known.check(ov.mount())


def test_map_is_no_cache(ov, known):
    """What is recorded is lost with the map, and noticed: what was copied up is found again, by all its names."""
    lose_workdir(ov)
    rebuild(ov)
    known.check(ov.mount())  # which waits for the walk of upper: while entries may be missing no map is given up
    ov.umount()
    (ov.work / "inodes/map.mdb").unlink()
    code, found = ov.ctl("check")
    assert code == 4 and [p["id"] for p in found["problems"]] == ["map-lost"]
    ov.may_complain = True
    known.check(ov.mount())
    assert "alone had the inode numbers" in ov.messages()


def test_nothing_was_moved(ov):
    """All numbers are computed: nothing is recorded, the map stays a cache."""
    use(ov)
    known = Known(ov)
    for loss in LOSSES.values():
        loss(ov)
        rebuild(ov)
        for path in (ov.work / "inodes").glob("map.*"):
            path.unlink()
        assert ov.ctl("check")[0] == 0
        known.check(ov.mount(), lost=())
        ov.umount()


# -- who is not to be believed -----------------------------------------------------------------


def test_copy_of_a_file_in_upper(ov, known):
    """Made offline with all attributes, it got a number of its own when it was met: it has no names in lower."""
    run("cp", "-a", ov.upper / "dir/here", ov.upper / "a copy")
    run("cp", "-a", ov.upper / "renamed", ov.upper / "dir/z copy")
    mnt = ov.mount()
    copies = {name: ino(mnt / name) for name in ("a copy", "dir/z copy")}
    assert not set(copies.values()) & {info["ino"] for info in known.tree.values()}
    for name in copies:
        write(mnt / name, "a copy\n")
    ov.umount()
    lose_workdir(ov)
    assert rebuild(ov) == ""
    mnt = ov.mount()
    for name, number in copies.items():
        assert (ino(mnt / name), (mnt / name).read_text()) == (number, "a copy\n")
        (mnt / name).unlink()
    known.check(mnt)


def forge(path, like, number):
    """A file in upper with the attributes of another one, and a number of the same space."""
    run("cp", "-a", like, path)
    stamp = os.getxattr(like, "trusted.overlay.ino")
    os.setxattr(path, "trusted.overlay.ino", struct.pack("<QI", number, 7) + stamp[12:])
    path.write_text("forged\n")


@pytest.mark.parametrize("forged", ["a first", "z last"])
def test_two_with_one_origin(ov, known, forged):
    """Whose lower's names are cannot be told: they are neither's, which is said, and no number is another's."""
    forge(ov.upper / forged, ov.upper / "dir/here", 12345)
    lose_workdir(ov)
    said = rebuild(ov)
    assert said.count("show what lower has") == 1, said
    mnt = ov.mount()
    assert (mnt / "other/here").read_text() == "lower dir/here\n"
    assert (mnt / "dir/here").read_text() == "changed dir/here\n" and (mnt / forged).read_text() == "forged\n"
    assert (ino(mnt / "dir/here"), ino(mnt / forged)) == (known.tree["dir/here"]["ino"], 12345)
    assert ino(mnt / "other/here") not in {info["ino"] for info in known.tree.values()} | {12345}
    assert (mnt / "other/in").read_text() == "changed moved.d/in\n"
    ov.check_links = False  # it parted


@pytest.mark.parametrize("loss", ["workdir", "state"])
def test_two_origins_of_one_number(ov, known, loss):
    """Of which lower object it is cannot be told: of neither; but where there is its entry."""
    forge(ov.upper / "forged", ov.upper / "renamed", known.tree["dir/here"]["ino"])
    LOSSES[loss](ov)
    said = rebuild(ov)
    mnt = ov.mount()
    if loss == "state":
        (mnt / "forged").unlink()
        known.check(mnt)
        return
    assert "show what lower has" in said, said
    assert (mnt / "other/here").read_text() == "lower dir/here\n"
    assert (mnt / "other/renamed").read_text() == "lower dir/renamed\n"
    assert (mnt / "dir/here").read_text() == "changed dir/here\n"
    now = [ino(mnt / name) for name in ("dir/here", "forged")]
    assert len(set(now)) == 2 and known.tree["dir/here"]["ino"] in now
    ov.check_links = False  # they parted


def test_wrong_origins(ov, known):
    """Of what is to be seen in lower as an object of its own."""
    def origin_like(path):  # the handle is its end
        value, (_, data) = os.getxattr(ov.upper / "renamed", "trusted.overlay.origin"), sysc.handle(path)
        return value[:-len(data)] + data

    low, = ov.lowers
    os.rename(ov.upper / "single", ov.upper / "moved offline")  # what it covered is uncovered
    write(low / "late", "late\n")
    write(ov.mount() / "late", "changed\n")  # its number is one of now
    ov.umount()
    ov.before = None
    known.tree["moved offline"] = known.tree["single"]
    for name, path in (("moved offline", low / "pair1"), ("dir/moved.d", low / "other"), ("late", low / "pair1")):
        os.setxattr(ov.upper / name, "trusted.overlay.origin", origin_like(path))
    os.setxattr(ov.upper / "late", "trusted.overlay.nlink", b"U+1")
    seen = {info["ino"] for info in known.tree.values()} | {ino(ov.upper / "late")}
    lose_workdir(ov)
    ov.ctl("repair", "--rebuild", "-p")
    mnt = ov.mount()
    for name in ("pair1", "other/pair2", "single"):
        assert (mnt / name).read_text() == f"lower {'single' if name == 'single' else 'pair1'}\n"
        assert ino(mnt / name) not in seen and os.lstat(mnt / name).st_nlink == (1 if name == "single" else 2)
    assert (mnt / "moved offline").read_text() == "changed single\n"
    assert ino(mnt / "moved offline") == known.tree["single"]["ino"]
    assert ino(mnt / "dir/moved.d") == known.tree["dir/moved.d"]["ino"] != ino(mnt / "other")
    ov.check_clean = ov.check_links = False  # of what was forged


@pytest.mark.parametrize("moved", [False, True])
def test_links_that_the_kernel_broke(ov, move, moved):
    """Without its index the kernel breaks hard links: what it copied up is an object of its own, and stays so."""
    with ov.lower() as low:
        for name in ("a", "c"):
            write(low / name, "lower\n")
            os.link(low / name, low / (name + "2"))
    mnt = ov.mount(kernel=True)
    write(mnt / "a", "changed\n")
    ov.umount()
    shutil.rmtree(ov.work / "index")  # or it was mounted without
    mnt = ov.mount()
    assert (mnt / "a").read_text() == "changed\n" and (mnt / "a2").read_text() == "lower\n"
    write(mnt / "c", "changed\n")
    ov.umount()
    if moved:
        move_and_bind(ov, move)
    seen = numbers(ov.mount())
    ov.umount()
    lose_workdir(ov)
    rebuild(ov)
    mnt = ov.mount()
    assert (mnt / "a").read_text() == "changed\n" and (mnt / "a2").read_text() == "lower\n"
    assert ino(mnt / "a") == seen["a"] and (ino(mnt / "a2") == seen["a2"]) == (not moved)
    assert (mnt / "c2").read_text() == "changed\n" and ino(mnt / "c2") == ino(mnt / "c") == seen["c"]
    ov.check_links = False  # of a2


def test_links_that_the_kernel_broke_in_a_clone(ov):
    """There its number does not tell that it was born. Without a count it has no names of lower, also at its place."""
    with ov.lower() as low:
        write(low / "a", "lower\n")
        os.link(low / "a", low / "a2")
    write(ov.mount(kernel=True) / "a", "changed\n")
    ov.umount()
    shutil.rmtree(ov.work / "index")
    os.removexattr(ov.upper / "a", "trusted.overlay.nlink")  # with it the other name would be taken for its own
    seen = numbers(ov.mount())
    ov.umount()
    rebind(ov, "--clone")
    lose_workdir(ov)
    rebuild(ov)
    mnt = ov.mount()
    assert (mnt / "a").read_text() == "changed\n" and (mnt / "a2").read_text() == "lower\n"
    assert numbers(mnt) == seen
    ov.check_links = False  # of a2


def test_numbers_that_came_with_a_layer(ov):
    """The lower layer has been an upper: its stamps tell the numbers, and the map is a cache of them."""
    with ov.lower() as low:
        write(low / "file", "lower\n")
    mnt = ov.mount()
    write(mnt / "a", "born\n")
    os.link(mnt / "a", mnt / "b")
    seen = numbers(mnt)
    ov.umount()
    shutil.rmtree(ov.work)  # whose entries would be links of what is in lower
    ov.lowers, ov.before = [ov.upper, *ov.lowers], None
    (ov.base / "next").mkdir()
    ov.use_upper_on(ov.base / "next")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    ov.umount()
    lose_workdir(ov)
    rebuild(ov)
    for path in (ov.work / "inodes").glob("map.*"):
        path.unlink()
    assert "map-lost" not in {p["id"] for p in ov.ctl("check")[1]["problems"]}
    mnt = ov.mount()
    assert numbers(mnt) == seen
    assert (mnt / "b").read_text() == "changed\n"


@pytest.mark.parametrize("ways", [["xfs"], ["ext4"], ["xfs", "ext4"]], ids="-".join)
def test_base_below_a_stamped_layer(ov, move, ways):
    """Its stamps do not tell the base's numbers, though its table knows their instance, which is used once only."""
    with ov.lower() as low:
        for name in "ac":
            write(low / name, "lower\n")
        os.link(low / "a", low / "b")
    write(ov.mount() / "born", "born\n")
    ov.umount()
    shutil.rmtree(ov.work)  # as above
    former = ov.lower_base / "former"
    os.rename(ov.upper, former)
    ov.lowers, ov.before = [former, *ov.lowers], None
    ov.base = ov.lower_base.parent / (ov.mnt.name + ".next")
    ov.base.mkdir()
    ov.use_upper_on(ov.base)
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    number, spaces = ino(mnt / "b"), {ino(mnt / name) >> 48 for name in "abc"}
    ov.umount()
    for fs in ways:
        move_and_bind(ov, move, fs)
    for loss in LOSSES.values():
        loss(ov)
        assert rebuild(ov) == ""
        mnt = ov.mount()
        assert ((mnt / "b").read_text(), ino(mnt / "b")) == ("changed\n", number)
        assert ino(mnt / "c") >> 48 not in spaces  # of numbers that meant other objects
        ov.umount()


# -- the end of it -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.seconds(1200 if EVERY == 1 else 200)
def test_killed_anywhere(ov, known, capsys):
    """As long as there is no state nothing is bound; when there is, all is recorded."""
    lose_workdir(ov)

    def check():
        has_state = (ov.work / "inodes/state").exists()
        code, found = ov.ctl("repair", *([] if has_state else ["--rebuild"]), "-p")
        assert code in (0, 1), found
        known.check(ov.mount())
        ov.umount()

    kill_anywhere(ov, capsys, ["repair", "--rebuild", "-p"], check, min(EVERY, 7), done=1)


def test_full_disk(ov, images, move):
    """Without room for the records there is no state; with room again all is there."""
    use(ov)
    small = images.private(ov.base.with_name("small"), "ext4", "24M")
    try:
        run(CTL, "map", ov.mount())
        ov.umount()
        old, ov.base = ov.base, small / "base"
        ov.base.mkdir()
        by_rsync(old, ov.base)
        ov.upper, ov.work = ov.base / "upper", ov.base / "work"
        shutil.rmtree(old)
        move.lowers("ext4", by_rsync)
        assert rebind(ov)["told"] == []
        known = Known(ov)
        lose_workdir(ov)
        fill_disk(small / "fill")
        code, found = ov.ctl("repair", "--rebuild", "-p")
        assert code == 8 and "No space left" in found["stderr"], found
        assert not (ov.work / "inodes/state").exists()
        os.unlink(small / "fill")
        rebuild(ov)
        known.check(ov.mount())
        ov.umount()
        ov.before = None
    finally:
        run("umount", "-l", ov.mnt, check=False)
        run("umount", "-l", small)
