# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding where names, handles and the index do not agree: names that only lower has left, directories moved offline."""

import errno
import json
import multiprocessing
import os
import resource
import stat
import time

import pytest

import sysc
from rvl import CTL, run
from trees import ino, whiteout, write

pytestmark = pytest.mark.reverlay_only("the handles of the kernel's overlay are others")


def open_by(mnt, taken, flags=os.O_PATH):
    """What a handle opens, as a descriptor."""
    top = os.open(mnt, os.O_RDONLY)
    try:
        return sysc.open_handle(top, taken, flags)
    finally:
        os.close(top)


def is_stale(mnt, taken):
    try:
        os.close(open_by(mnt, taken))
    except OSError as e:
        assert e.errno == errno.ESTALE, e
        return True
    return False


def number_by(mnt, taken):
    fd = open_by(mnt, taken)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def content_by(mnt, taken):
    fd = open_by(mnt, taken, os.O_RDONLY)
    try:
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def counters(ov):
    return json.loads(run(CTL, "stat", "--json", ov.mnt).stdout)["counters"]


def entry_of(ov, number):
    return ov.work / "inodes" / f"{number & 0xff:02x}" / f"#{number}"


def test_handles_of_another_overlay(ov, overlays):
    """The same layer in another overlay has the same numbers, but its handles open nothing here."""
    with ov.lower() as low:
        write(low / "dir/file", "content\n")
    ov.mount()
    other = overlays("ext4", name="other")
    other.lowers = ov.lowers
    other.mount()
    for name in ("dir", "dir/file"):
        fh = sysc.handle(ov.mnt / name)
        assert ino(ov.mnt / name) == ino(other.mnt / name)
        assert number_by(ov.mnt, fh) == ino(ov.mnt / name)
        assert is_stale(other.mnt, fh), name
    write(ov.mnt / "born")
    assert is_stale(other.mnt, sysc.handle(ov.mnt / "born"))


def test_out_of_descriptors(ov):
    """A handle that cannot be looked for now is to be tried again, not stale."""
    with ov.lower() as low:
        write(low / "dir/file", "content\n")
    mnt = ov.mount()
    fh = sysc.handle(mnt / "dir/file")
    ov.remount()
    limits = resource.prlimit(ov.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(ov.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    with pytest.raises(OSError) as error:
        open_by(mnt, fh)
    assert error.value.errno == errno.ENOMEM
    resource.prlimit(ov.process.pid, resource.RLIMIT_NOFILE, limits)
    assert content_by(mnt, fh) == "content\n"


def test_entries_lost(ov):
    """Where a damaged disk has lost entries, a copied-up file is found where it was copied up; one that was renamed, and a
    directory, when their names are met: with the old numbers, and without a repair."""
    with ov.lower() as low:
        for name in ("stays", "renamed", "dir/deep"):
            write(low / name, f"{name}\n")
    mnt = ov.mount()
    for name in ("stays", "renamed", "dir/deep"):
        os.chmod(mnt / name, 0o600)
    os.rename(mnt / "renamed", mnt / "dir/moved")
    taken = {name: (sysc.handle(mnt / name), ino(mnt / name)) for name in ("stays", "dir", "dir/deep", "dir/moved")}
    ov.umount()
    for _, number in taken.values():
        os.unlink(entry_of(ov, number))
    ov.mount()
    for name in ("stays", "dir/deep", "dir"):
        assert number_by(mnt, taken[name][0]) == taken[name][1], name
    assert is_stale(mnt, taken["dir/moved"][0])
    for name, (fh, number) in taken.items():
        assert ino(mnt / name) == number
        assert number_by(mnt, fh) == number


def test_beneath_lost_and_damaged_entries(ov):
    """What is beneath a directory that cannot be found is asked once for each level, not twice."""
    depth = 12
    tops = {}
    with ov.lower():
        pass
    ov.may_complain = True
    ov.check_remount = ov.check_links = ov.check_clean = False
    mnt = ov.mount()
    for top in ("lost", "damaged"):
        path = mnt / top
        path.mkdir()
        for i in range(depth):
            path /= str(i)
            path.mkdir()
        tops[top] = (ino(mnt / top), sysc.handle(path), sysc.handle(path.parent))
    ov.umount()
    os.unlink(entry_of(ov, tops["lost"][0]))
    os.setxattr(entry_of(ov, tops["damaged"][0]), "trusted.overlay.path", b"short")
    ov.mount()
    for top, (_, *taken) in tops.items():
        for fh in taken:
            before = counters(ov)
            assert is_stale(mnt, fh), top
            after = counters(ov)
            assert after["decodes"] - before["decodes"] <= 8 * depth, top  # the kernel may ask more than once
            assert after["damaged"] - before["damaged"] <= 8, top


def test_kept_beneath_a_lost_entry(ov):
    """A file is not taken for dead because the directory of its last name, which was renamed, has lost its entry."""
    with ov.lower() as low:
        write(low / "a/f1", "old\n")
        (low / "b").mkdir()
        os.link(low / "a/f1", low / "b/f2")
    ov.may_complain = True
    ov.check_remount = ov.check_links = ov.check_clean = False
    mnt = ov.mount()
    os.rename(mnt / "a", mnt / "c")
    write(mnt / "b/f2", "new\n")
    os.unlink(mnt / "b/f2")
    fh, number, directory = sysc.handle(mnt / "c/f1"), ino(mnt / "c/f1"), ino(mnt / "c")
    ov.umount()
    os.unlink(entry_of(ov, directory))
    ov.mount()
    is_stale(mnt, fh)
    assert (mnt / "c/f1").read_text() == "new\n"
    assert ino(mnt / "c/f1") == number
    assert number_by(mnt, fh) == number


def test_other_name_beneath_a_damaged_entry(ov):
    """A file with two names is found by the other one where what is above the first is damaged."""
    with ov.lower() as low:
        for first, second in (("a", "b"), ("c", "d")):
            write(low / first / "f", f"{first}\n")
            (low / second).mkdir()
            os.link(low / first / "f", low / second / "f")
    ov.may_complain = True
    ov.check_remount = ov.check_links = ov.check_clean = False
    mnt = ov.mount()
    for name in "abcd":
        os.chmod(mnt / name, 0o700)
    taken = {name: (sysc.handle(mnt / name / "f"), ino(mnt / name)) for name in "abcd"}
    ov.umount()
    for name in ("a", "d"):  # of one pair the row that is asked first, of the other the last
        os.setxattr(entry_of(ov, taken[name][1]), "trusted.overlay.path", b"short")
    ov.mount()
    assert content_by(mnt, taken["b"][0]) == "a\n"
    assert content_by(mnt, taken["c"][0]) == "c\n"


# ---- names of a file from lower ----


@pytest.fixture
def with_outside_links(ov):
    """Files whose st_nlink counts more than the tree shows."""
    with ov.lower() as low:
        for name in ("unlinked", "replaced", "written", "killed"):
            write(low / name, f"{name}\n")
            os.link(low / name, ov.lower_base / f"outside-{name}")
        write(low / "two", "two\n")
        os.link(low / "two", low / "two-more")
        os.link(low / "two", ov.lower_base / "outside-two")
    ov.check_lower = ov.check_links = False  # the links outside count
    return ov


NAMES = ("unlinked", "replaced", "written", "killed", "two")


def test_last_visible_name(with_outside_links):
    """A lower file with another link outside the layer is dead when its last name in the tree goes."""
    ov = with_outside_links
    mnt = ov.mount()
    taken = {name: sysc.handle(mnt / name) for name in NAMES}
    write(mnt / "written", "changed\n")
    write(mnt / "new")
    os.unlink(mnt / "unlinked")
    os.rename(mnt / "new", mnt / "replaced")
    os.unlink(mnt / "written")
    os.unlink(mnt / "two")
    two = ino(mnt / "two-more")
    ov.remount()
    os.unlink(mnt / "killed")
    ov.kill_remount()
    for name in ("unlinked", "replaced", "written", "killed"):
        assert is_stale(mnt, taken[name]), name
    # one name is left, and shows it also when it was changed
    assert content_by(mnt, taken["two"]) == "two\n"
    assert number_by(mnt, taken["two"]) == two
    write(mnt / "two-more", "changed\n")
    ov.remount()
    assert content_by(mnt, taken["two"]) == "changed\n"
    os.unlink(mnt / "two-more")
    ov.remount()
    assert is_stale(mnt, taken["two"])


def is_tombstone(path):
    st = os.lstat(path)
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def test_unnamed_is_buried(with_outside_links):
    """What was found dead leaves a tombstone and no data, at decode or, with a map, when the kernel forgets it."""
    ov = with_outside_links
    mnt = ov.mount()
    entry = {name: entry_of(ov, ino(mnt / name)) for name in NAMES}
    taken = sysc.handle(mnt / "unlinked")
    os.unlink(mnt / "unlinked")
    ov.remount()
    assert not is_tombstone(entry["unlinked"])
    assert is_stale(mnt, taken)
    assert is_tombstone(entry["unlinked"])
    assert is_stale(mnt, taken)
    # the map is complete: the decode waited for it
    write(mnt / "written", "changed\n")
    os.unlink(mnt / "written")
    end = time.monotonic() + 20
    while not is_tombstone(entry["written"]) and time.monotonic() < end:
        sysc.drop_caches()
        os.stat(mnt / "two")
    assert is_tombstone(entry["written"])


def test_name_hidden_by_a_layer(ov):
    """A link that an upper lower layer hides counts in st_nlink, and is no name."""
    with ov.lower() as low:
        write(low / "shown", "content\n")
        os.link(low / "shown", low / "hidden")
    with ov.layer() as top:
        whiteout(top / "hidden")
    ov.check_links = False
    mnt = ov.mount()
    taken = sysc.handle(mnt / "shown")
    os.unlink(mnt / "shown")
    ov.remount()
    assert is_stale(mnt, taken)


# ---- directories that were moved offline ----


def moved_offline(ov, *options):
    """Directories in upper, renamed while there was no mount: {name now: (handle, number)}."""
    with ov.lower() as low:
        write(low / "merged/low", "low\n")
    mnt = ov.mount(*options)
    for path in ("born/sub/deep", "other", "merged/in"):
        os.makedirs(mnt / path)
    write(mnt / "born/sub/deep/file", "file\n")
    for i in range(20):
        os.makedirs(mnt / f"other/{i}/{i}")
    taken = {now: (sysc.handle(mnt / old), ino(mnt / old)) for old, now in
             (("born", "away"), ("born/sub", "other/7/moved"), ("born/sub/deep", "other/7/moved/deep"),
              ("merged/in", "other/in"), ("other", "other"))}
    ov.umount()
    os.rename(ov.upper / "born/sub", ov.upper / "other/7/moved")
    os.rename(ov.upper / "born", ov.upper / "away")
    os.rename(ov.upper / "merged/in", ov.upper / "other/in")
    return taken


@pytest.mark.parametrize("has_handles", [True, False], ids=["handle", "walk"])
def test_moved_offline(ov, has_handles):
    """A directory that was moved offline is found by its handle, else by its stamp, and its path is mended."""
    taken = moved_offline(ov)
    if not has_handles:
        ov.check_clean = False  # entries stay without a handle
        for _, number in taken.values():
            os.removexattr(entry_of(ov, number), "trusted.overlay.upper")
    before = {number: os.getxattr(entry_of(ov, number), "trusted.overlay.path") for _, number in taken.values()}
    mnt = ov.mount()
    for now, (fh, number) in taken.items():
        assert number_by(mnt, fh) == number, now
        assert ino(mnt / now) == number, now
    assert (mnt / "other/7/moved/deep/file").read_text() == "file\n"
    for now, (fh, number) in taken.items():
        path = os.getxattr(entry_of(ov, number), "trusted.overlay.path")
        assert (path == before[number]) == (now in ("other", "other/7/moved/deep")), now
        assert path[8:].decode() == now.rsplit("/", maxsplit=1)[-1]
    ov.remount()
    for fh, number in taken.values():
        assert number_by(mnt, fh) == number


def test_removed_offline(ov):
    """A directory that is nowhere is stale, and its number is never another one's."""
    taken = moved_offline(ov)
    fh, number = taken["other/in"]
    os.rmdir(ov.upper / "other/in")
    # a copy of another directory with its stamp is not it
    copy = ov.upper / "copy"
    copy.mkdir()
    ov.check_clean = False  # the record of the removed one is left
    os.setxattr(copy, "trusted.overlay.ino", os.getxattr(ov.upper / "other", "trusted.overlay.ino"))
    mnt = ov.mount()
    for _ in range(3):
        assert is_stale(mnt, fh)
    assert number_by(mnt, taken["other"][0]) == taken["other"][1] == ino(mnt / "other")
    assert ino(mnt / "copy") not in [n for _, n in taken.values()]
    # renames after the walk are followed
    os.rename(mnt / "away", mnt / "merged/away")
    ov.kill_remount()
    assert number_by(mnt, taken["away"][0]) == taken["away"][1] == ino(mnt / "merged/away")
    assert is_stale(mnt, fh)


def test_moved_offline_read_only(ov):
    """A mount that cannot mend a path follows the handle each time."""
    taken = moved_offline(ov)
    ov.check_clean = False  # the paths stay out of step
    gone, _ = taken.pop("other/in")
    os.rmdir(ov.upper / "other/in")
    mnt = ov.mount("ro")
    for now, (fh, number) in taken.items():
        assert is_stale(mnt, gone)
        assert number_by(mnt, fh) == number == ino(mnt / now), now


def test_removed_file_stays_stale(ov):
    """A file whose names were removed offline is stale each time it is asked for, not only the first."""
    with ov.lower() as low:
        write(low / "d/lower")
    mnt = ov.mount()
    write(mnt / "born")
    write(mnt / "d/lower", "changed\n")
    taken = [sysc.handle(mnt / "born"), sysc.handle(mnt / "d/lower")]
    ov.umount()
    os.unlink(ov.upper / "born")
    os.unlink(ov.upper / "d/lower")
    ov.check_clean = False
    mnt = ov.mount()
    for _ in range(2):
        assert [is_stale(mnt, fh) for fh in taken] == [True, True]
    assert (mnt / "d/lower").read_text() == "data\n"


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_never_the_other_of_two(ov, order):
    """What lower has where a file or directory was before it was moved offline is not taken for it, nor it for that."""
    with ov.lower() as low:
        write(low / "old", "lower\n")
        write(low / "old.d/f", "lower\n")
    mnt = ov.mount()
    write(mnt / "old", "upper\n")
    write(mnt / "old.d/g", "upper\n")
    ov.umount()
    os.rename(ov.upper / "old", ov.upper / "new")
    os.rename(ov.upper / "old.d", ov.upper / "new.d")
    mnt = ov.mount()
    text = {"old": "lower\n", "new": "upper\n"}
    assert [(mnt / name).read_text() for name in order] == [text[name] for name in order]
    name = {"old": "f", "new": "g"}
    assert [(mnt / f"{place}.d" / name[place]).read_text() for place in order] == \
        [text[place] for place in order]


# ---- moved while it is decoded ----

MOVES = int(os.environ.get("RVL_MOVES", "2000"))


@pytest.mark.slow
@pytest.mark.seconds(120)
@pytest.mark.layouts("tmpfs")
@pytest.mark.parametrize("what", ["file", "directory", "renamed before"])
def test_moved_while_it_is_decoded(ov, what):
    """Two processes in step: one opens a handle of which nothing is in memory, the other moves the object, or its parent.

    Its place is read, and it is moved before it is looked up there: that is no ESTALE. About one in a thousand is in time.
    """
    with ov.lower() as low:
        for i in range(MOVES):
            write(low / f"d{i}/f", f"{i}\n")
    ov.check_links = False  # takes long
    mnt = ov.mount()
    run(CTL, "map", mnt)
    taken = [sysc.handle(mnt / f"d{i}/f") for i in range(MOVES)]
    if what == "renamed before":
        for i in range(MOVES):
            os.rename(mnt / f"d{i}", mnt / f"x{i}")
    ov.remount()
    path = {"file": "d{}/f", "directory": "d{}", "renamed before": "x{}"}[what]
    turn, done = (multiprocessing.Value("i", -1, lock=False) for _ in range(2))

    def move_all():
        for i in range(MOVES):
            while turn.value < i:
                pass
            os.rename(mnt / path.format(i), mnt / f"moved{i}")
            done.value = i
    mover = multiprocessing.Process(target=move_all, daemon=True)
    mover.start()
    stale = []
    for i, fh in enumerate(taken):
        turn.value = i
        for _ in range(i % 400):  # at each moment of the move
            pass
        if is_stale(mnt, fh):
            stale.append(i)
        while done.value < i and mover.is_alive():
            pass
    mover.join()
    assert mover.exitcode == 0 and not stale


@pytest.mark.parametrize("where", ["upper", "lower"])
def test_recovery_far_down(ov, where):
    """A server that died at work nearly as deep as decoding goes: the next mount recovers there."""
    depth = 4080

    def go_down(top, is_new):
        fd = os.open(top, os.O_RDONLY)
        for _ in range(depth):
            if is_new:
                os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        return fd

    # beyond PATH_MAX, which the checks of the fixture cannot walk
    ov.check_lower = ov.check_remount = ov.check_links = ov.check_clean = False
    with ov.lower() as low:
        write(low / "file")
        if where == "lower":
            os.close(go_down(low, True))
    ov.mount()
    if where == "upper":
        os.close(go_down(ov.mnt, True))
    ov.remount()
    fd = go_down(ov.mnt, False)
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    number = os.stat("new", dir_fd=fd).st_ino
    os.close(fd)
    ov.kill()
    ov.mount(prefix=("prlimit", f"--stack={6 << 20}"))
    fd = go_down(ov.mnt, False)
    assert os.stat("new", dir_fd=fd).st_ino == number
    os.close(fd)
    ov.umount()
    for top in (ov.upper, ov.work, *ov.lowers):
        run("rm", "-rf", top)
        top.mkdir()
