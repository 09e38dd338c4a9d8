# SPDX-License-Identifier: GPL-2.0-or-later
"""Listings: complete, without doubles, d_ino is st_ino, offsets that stay good."""

import json
import os
import random
import stat
import threading

import pytest

import sysc
from rvl import CTL, run
from snapshots import check_tree
from trees import ino, listing, standard_tree, whiteout, write


def offsets(path):
    """[(name, offset to resume after it)] in listing order, and the same without dots."""
    return [(name, off) for name, _, off, _ in sysc.readdir_all(path)]


def rest_from(path, offset, size=32768):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        return [name for name, _, _, _ in sysc.readdir_all(fd, size)]
    finally:
        os.close(fd)


@pytest.mark.kernel_differs("d_ino of merged directories is that of one layer")
@pytest.mark.layouts()
def test_d_ino(ov):
    """d_ino is st_ino and d_type is the type, also for "." and "..", before and after changes."""
    with ov.lower() as low:
        standard_tree(low)
        write(low / "m/low")
    write(ov.upper / "m/up")
    mnt = ov.mount()
    check_tree(mnt)
    os.chmod(mnt / "file", 0o600)
    os.chmod(mnt / "m/low", 0o600)
    write(mnt / "hard2", "x")
    os.rename(mnt / "dir/sub", mnt / "m/sub")
    os.rename(mnt / "m", mnt / "m2")
    write(mnt / "m2/new")
    os.link(mnt / "m2/new", mnt / "dir/new")
    check_tree(mnt)
    ov.kill_remount()
    check_tree(mnt)
    assert listing(mnt / "m2") == ["low", "new", "sub", "up"]


def test_small_buffers(ov):
    """A listing read one entry at a time is the same as one read at once."""
    with ov.layer() as low:
        for i in range(40):
            write(low / f"d/low{i}")
    for i in range(40):
        write(ov.upper / f"d/up{i}")
    mnt = ov.mount()
    whole = sysc.readdir_all(mnt / "d")
    piecewise = sysc.readdir_all(mnt / "d", 64)
    assert [e[0] for e in whole] == [e[0] for e in piecewise]
    assert len(whole) == 82
    assert len({e[2] for e in whole}) == 82, "offsets are not unique"
    assert all(0 < e[2] < 2 ** 63 for e in whole)


@pytest.mark.kernel_differs("its offsets hold for one open only")
@pytest.mark.parametrize("kind", ["lower", "merged", "upper", "stack"])
def test_offsets_stay(ov, kind):
    """An offset resumes at the same place after reopen, remount, kill -9, and changes around it."""
    if kind == "stack":
        for layer in range(3):
            with ov.layer() as low:
                for i in range(layer, 60, 3):
                    write(low / f"d/n{i}")
    else:
        with ov.layer() as low:
            (low / "d").mkdir()
            if kind != "upper":
                for i in range(60):
                    write(low / f"d/n{i}")
    if kind in ("merged", "upper"):
        for i in range(30 if kind == "merged" else 0, 90):
            write(ov.upper / f"d/n{i}")
    mnt = ov.mount()
    first = offsets(mnt / "d")
    names = [name for name, _ in first]
    middle = names.index(sorted(names)[len(names) // 2])
    for index in (0, 1, 2, middle, len(first) - 2, len(first) - 1):
        assert rest_from(mnt / "d", first[index][1]) == names[index + 1:], index
    assert rest_from(mnt / "d", 0) == names
    ov.remount()
    assert offsets(mnt / "d") == first
    ov.kill_remount()
    for index in (0, middle):
        assert rest_from(mnt / "d", first[index][1]) == names[index + 1:], index
    # names come and go on both sides of the place
    index = middle
    victims = [n for n in names[2:index - 2] + names[index + 3:] if n not in (".", "..")][::4]
    for name in victims:
        os.unlink(mnt / "d" / name)
    for i in range(20):
        write(mnt / f"d/fresh{i}")
    left = [n for n in names[index + 1:] if n not in victims]
    got = rest_from(mnt / "d", first[index][1])
    assert [n for n in got if not n.startswith("fresh")] == left
    ov.kill_remount()
    got = rest_from(mnt / "d", first[index][1], 128)
    assert [n for n in got if not n.startswith("fresh")] == left
    # the name at the place itself goes away
    if names[index] not in (".", ".."):
        os.unlink(mnt / "d" / names[index])
        assert [n for n in rest_from(mnt / "d", first[index][1])
                if not n.startswith("fresh")] == left


def test_seek_within_one_open(ov):
    """rewinddir shows what is new; seeking back shows the same names again."""
    with ov.layer() as low:
        for i in range(10):
            write(low / f"d/n{i}")
    write(ov.upper / "d/up")
    mnt = ov.mount()
    fd = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    first = sysc.readdir_all(fd)
    assert sysc.getdents(fd) == []
    os.lseek(fd, first[4][2], os.SEEK_SET)
    again = sysc.readdir_all(fd)
    assert [e[0] for e in again] == [e[0] for e in first[5:]]
    write(mnt / "d/later")
    os.unlink(mnt / "d/n3")
    os.lseek(fd, 0, os.SEEK_SET)
    names = {e[0] for e in sysc.readdir_all(fd)}
    assert "later" in names and "n3" not in names and len(names) == 13
    os.close(fd)


@pytest.mark.slow
@pytest.mark.seconds(240)
def test_100000_names(ov):
    """100,000 names of which others come and go meanwhile: each that stays is listed just once."""
    count = 100000
    with ov.layer() as low:
        (low / "d").mkdir()
        fd = os.open(low / "d", os.O_RDONLY)
        for i in range(count // 2):
            os.mknod(f"stay{i}", stat.S_IFREG | 0o644, dir_fd=fd)
        for i in range(2000):
            os.mknod(f"go{i}", stat.S_IFREG | 0o644, dir_fd=fd)
        os.close(fd)
    (ov.upper / "d").mkdir()
    fd = os.open(ov.upper / "d", os.O_RDONLY)
    for i in range(count // 2, count):
        os.mknod(f"stay{i}", stat.S_IFREG | 0o644, dir_fd=fd)
    os.close(fd)
    ov.check_lower = ov.check_remount = ov.check_links = False  # it would take minutes
    mnt = ov.mount()
    stop = threading.Event()
    errors = []

    def change():
        rng = random.Random(7)
        made = []
        gone = list(range(2000))
        rng.shuffle(gone)
        i = 0
        try:
            while not stop.is_set():
                write(mnt / f"d/come{i}")
                made.append(i)
                if gone:
                    os.unlink(mnt / f"d/go{gone.pop()}")
                if rng.random() < 0.5:
                    os.unlink(mnt / f"d/come{made.pop(rng.randrange(len(made)))}")
                i += 1
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(3):
            names = [e[0] for e in sysc.readdir_all(mnt / "d", 4096)]
            stay = [n for n in names if n.startswith("stay")]
            assert len(stay) == count
            assert len(set(stay)) == count
    finally:
        stop.set()
        thread.join()
    assert not errors, errors
    names = [e[0] for e in sysc.readdir_all(mnt / "d")]
    assert len(names) == len(set(names))
    assert sum(n.startswith("stay") for n in names) == count
    for name in random.Random(11).sample(names, 200):
        os.lstat(mnt / "d" / name)


def test_removal_while_listing(ov):
    """rm -r's way: names are removed while they are listed; all are seen and nothing is left."""
    with ov.layer() as low:
        for i in range(3000):
            write(low / f"d/n{i}", b"")
    for i in range(3000, 4000):
        write(ov.upper / f"d/n{i}", b"")
    mnt = ov.mount()
    fd = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    seen = set()
    while True:
        some = sysc.getdents(fd, 1024)
        if not some:
            break
        for name, _, _, _ in some:
            if name not in (".", ".."):
                assert name not in seen
                seen.add(name)
                os.unlink(mnt / "d" / name)
    os.close(fd)
    assert len(seen) == 4000
    assert listing(mnt / "d") == []
    os.rmdir(mnt / "d")


def counters_of(mnt):
    return json.loads(run(CTL, "stat", "--json", mnt).stdout)["counters"]


def n_readdirs(mnt):
    return counters_of(mnt)["req_readdirplus"]


def asks(mnt, path):
    """How many requests for names a pass costs."""
    before = n_readdirs(mnt)
    sysc.readdir_all(path)
    return n_readdirs(mnt) - before


@pytest.mark.kernel_differs("it has no counters")
@pytest.mark.parametrize("how", ["find", "ls"])
def test_attributes_for_who_looks(ov, how):
    """Who looks at what he lists has the attributes of large directories with nearly all their names: from
    the second directory on if he reads it to its end first, from the second part on if he does not."""
    n = 600
    with ov.layer() as low:
        for d in "abcd":
            for i in range(n):
                write(low / d / f"n{i}", b"x" * i)
        for i in range(70):
            write(low / f"small{i}/one", b"")
    write(ov.upper / "d/upper", b"upper")
    mnt = ov.mount()

    def look(d, names):
        for name, _, _, _ in names:
            st = os.lstat(mnt / d / name)
            if name.startswith("n"):
                assert st.st_size == int(name[1:])

    def looked_up(d):
        before = counters_of(mnt)["req_lookup"]
        if how == "find":
            look(d, sysc.readdir_all(mnt / d))
        else:
            fd = os.open(mnt / d, os.O_RDONLY | os.O_DIRECTORY)
            while some := sysc.getdents(fd, 32768):
                look(d, some)
            os.close(fd)
        return counters_of(mnt)["req_lookup"] - before

    few = n / 8  # one in 64, and a part for who reads page by page (before Linux 6.16)
    first = looked_up("a")
    assert first > n / 2 if how == "find" else first < few
    assert looked_up("b") < few
    for i in range(70):
        looked_up(f"small{i}")
    assert looked_up("c") < few
    assert looked_up("d") < few


@pytest.mark.kernel_differs("it has no counters")
def test_kept_listing(ov):
    """The kernel keeps a listing until a name changes, and then the new one."""
    with ov.layer() as low:
        for i in range(500):
            write(low / f"d/n{i}", b"")
    mnt = ov.mount()
    first = sysc.readdir_all(mnt / "d")
    assert asks(mnt, mnt / "d") == 0
    os.unlink(mnt / "d/n7")
    now = [entry for entry in first if entry[0] != "n7"]
    assert asks(mnt, mnt / "d") > 0
    assert asks(mnt, mnt / "d") == 0
    assert sysc.readdir_all(mnt / "d") == now
    ov.remount()
    assert asks(mnt, mnt / "d") > 0
    assert asks(mnt, mnt / "d") == 0
    assert sysc.readdir_all(mnt / "d") == now
    assert counters_of(mnt)["req_opendir"] == 1


@pytest.mark.kernel_differs("it has no counters")
def test_kept_listing_of_a_moved_directory(ov):
    """In another directory ".." is another one, also in a listing that the kernel keeps."""
    with ov.layer() as low:
        write(low / "a/d/f")
        write(low / "b/e/f")
    mnt = ov.mount()
    os.rename(mnt / "b", mnt / "c")
    for _ in range(2):
        sysc.readdir_all(mnt / "a/d")
        sysc.readdir_all(mnt / "c/e")
    assert asks(mnt, mnt / "a/d") == asks(mnt, mnt / "c/e") == 0
    os.rename(mnt / "a/d", mnt / "d")
    sysc.renameat2(mnt / "c/e", mnt / "a", sysc.RENAME_EXCHANGE)
    check_tree(mnt)


@pytest.mark.kernel_differs("it has no counters")
@pytest.mark.parametrize("n,is_kept", [(126, False), (125, True), (127, True)])
def test_kept_listing_that_fills_its_page(ov, n, is_kept):
    """
    One that fills the last page of the kernel's cache is not kept, since a place that is not found
    there is taken for the end: who goes on after an entry that is gone gets the rest in any case.
    """
    with ov.layer():
        pass
    mnt = ov.mount()
    (mnt / "d").mkdir()
    for i in range(n + 20):
        write(mnt / f"d/name{i:04}", b"")
    for _ in range(2):
        sysc.readdir_all(mnt / "d")
    fd = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    seen = [entry[0] for entry in sysc.getdents(fd, 32 * 32)]
    for name in seen[-20:]:
        os.unlink(mnt / "d" / name)
    for _ in range(2):
        sysc.readdir_all(mnt / "d")
    assert (asks(mnt, mnt / "d") == 0) == is_kept
    assert len(sysc.readdir_all(fd)) == n + 2 + 20 - len(seen)
    os.close(fd)


@pytest.mark.kernel_differs("its offsets hold for one open only")
def test_new_names_in_the_middle(ov):
    """
    Who opens a large directory, and goes on from an offset that he has, as an NFS server does, sees
    what was made before his open; also while somebody else is in the middle of a pass.
    """
    with ov.layer() as low:
        for i in range(5000):
            write(low / f"d/n{i}", b"")
    mnt = ov.mount()
    write(mnt / "d/up")
    fd = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    first = []
    # by another thread: the one that began a pass keeps its snapshot
    reader = threading.Thread(target=lambda: first.extend(sysc.getdents(fd, 4096)))
    reader.start()
    reader.join()
    for i in range(50):
        write(mnt / f"d/new{i}", b"")
    other = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    os.lseek(other, first[-1][2], os.SEEK_SET)
    got = [entry[0] for entry in sysc.readdir_all(other)]
    names = [entry[0] for entry in sysc.readdir_all(mnt / "d")]
    assert got == names[len(names) - len(got):]
    assert any(name.startswith("new") for name in got)
    os.close(other)
    os.close(fd)


@pytest.mark.kernel_differs("it has no counters")
def test_pages_of_a_file_stay(ov):
    """A file whose node was dropped keeps its pages in the kernel when its attributes change."""
    with ov.layer() as low:
        write(low / "file", os.urandom(1 << 20))
        for i in range(4000):
            write(low / f"others/{i}", b"")
    ov.options = ["node_limit=1024", "passthrough=off", "copy_up=write"]
    mnt = ov.mount()
    os.setxattr(mnt / "file", "user.a", b"1")
    data = (mnt / "file").read_bytes()
    for i in range(4000):
        os.stat(mnt / f"others/{i}")
    before = counters_of(mnt)["req_read"]
    os.setxattr(mnt / "file", "user.a", b"2")
    assert (mnt / "file").read_bytes() == data
    assert counters_of(mnt)["req_read"] == before


def test_kept_listing_old_opens(ov):
    """
    A pass goes on after its place where the entry is gone, though another open of before the change
    has read a new listing meanwhile. Names of 8 bytes: what is left fills a page of the kernel's
    cache exactly, where it takes a place that it does not find for the end.
    """
    with ov.layer() as low:
        for i in range(254):
            write(low / f"d/name{i:04}", b"")
    mnt = ov.mount()
    assert len(sysc.readdir_all(mnt / "d")) == 256
    fd = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    other = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    removed = {entry[0] for entry in sysc.getdents(fd, 130 * 32)} - {".", ".."}
    assert len(removed) == 128
    for name in removed:
        os.unlink(mnt / "d" / name)
    assert len(sysc.readdir_all(other)) == 128
    assert len(sysc.readdir_all(fd)) == 126
    os.close(other)
    os.close(fd)


def in_parts(path):
    """A pass as an NFS server makes it: the directory is opened for each part, and closed."""
    entries, offset = [], 0
    while True:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        os.lseek(fd, offset, os.SEEK_SET)
        part = sysc.getdents(fd, 512)
        os.close(fd)
        if not part:
            return entries
        entries += part
        offset = part[-1][2]


@pytest.mark.kernel_differs("its offsets hold for one open only")
@pytest.mark.parametrize("kind", ["merged", "upper"])
def test_parts_of_a_pass(ov, kind):
    """A directory in which no name has changed is not read again when it is opened again."""
    with ov.layer() as low:
        for i in range(400 if kind == "merged" else 0):
            write(low / f"d/low{i}", b"")
    for i in range(100):
        write(ov.upper / f"d/up{i}", b"")
    mnt = ov.mount()
    whole = sysc.readdir_all(mnt / "d")
    before = counters_of(mnt)["listings"]
    for _ in range(3):
        assert in_parts(mnt / "d") == whole
    assert counters_of(mnt)["listings"] == before
    os.unlink(mnt / "d/up7")
    os.rename(mnt / "d/up8", mnt / "d/other")
    os.mkdir(mnt / "new")
    os.link(mnt / "d/up9", mnt / "d/linked")
    names = {entry[0] for entry in whole} - {"up7", "up8"} | {"other", "linked"}
    now = in_parts(mnt / "d")
    assert {entry[0] for entry in now} == names and len(now) == len(names)
    os.rename(mnt / "d/other", mnt / "new/other")
    now = in_parts(mnt / "d")
    assert {entry[0] for entry in now} == names - {"other"}
    assert [entry[0] for entry in in_parts(mnt / "new") if entry[0][0] != "."] == ["other"]


@pytest.mark.kernel_differs("it has no counters")
def test_listings_are_counted(ov):
    """A listing that is built is counted once."""
    with ov.layer() as low:
        write(low / "other")
    write(ov.upper / "d/x")
    mnt = ov.mount()
    before = counters_of(mnt)["listings"]
    assert os.listdir(mnt / "d") == ["x"]
    assert counters_of(mnt)["listings"] == before + 1


def test_whiteouts_are_not_listed(ov):
    """Whiteouts of all layers, and names that they hide, are in no listing; ls -la agrees."""
    with ov.layer() as low:
        for name in "abc":
            write(low / "d" / name)
    with ov.layer() as top:
        (top / "d").mkdir()
        whiteout(top / "d/a")
        whiteout(top / "d/never")
    (ov.upper / "d").mkdir()
    whiteout(ov.upper / "d/b")
    mnt = ov.mount()
    assert listing(mnt / "d") == ["c"]
    assert run("ls", "-A", mnt / "d").stdout == "c\n"
    os.unlink(mnt / "d/c")
    assert listing(mnt / "d") == []


def test_mount_point_parent(ov):
    """".." of the mount's root leads out of it by path, and the root's own entries are consistent."""
    with ov.lower() as low:
        write(low / "d/x")
    mnt = ov.mount()
    entries = {name: number for name, number, _, _ in sysc.readdir_all(mnt)}
    assert entries["."] == ino(mnt)
    assert os.stat(mnt / "..").st_ino == os.stat(mnt.parent).st_ino
    entries = {name: number for name, number, _, _ in sysc.readdir_all(mnt / "d")}
    assert entries[".."] == ino(mnt)
    assert entries["."] == ino(mnt / "d")


@pytest.mark.reverlay_only("what is looked at are its counters")
def test_attributes_that_the_kernel_has(ov):
    """A listing leaves out what was looked up, unless the kernel will ask for it again, having read it."""
    names = [f"f{i}" for i in range(40)] + ["d", "link"]
    with ov.lower() as low:
        for name in names[:40]:
            write(low / "top" / name, name)
        write(low / "top/d/inner")
        os.symlink("f1", low / "top/link")
        write(low / "top/two names")
        os.link(low / "top/two names", low / "top/another name")
    mnt = ov.mount()
    looked_up = [name for name in names if name not in ("f0", "f1")]
    for name in looked_up + ["two names"]:
        os.lstat(mnt / "top" / name)
    (mnt / "top/f5").read_bytes()
    os.readlink(mnt / "top/link")
    os.listdir(mnt / "top/d")
    asked = counters_of(mnt)
    listed = os.listdir(mnt / "top")
    given = counters_of(mnt)["listed_attributes"] - asked["listed_attributes"]
    assert len(listed) == 44
    assert given == len(["f0", "f1", "f5", "d", "link", "two names", "another name"])
    for name in listed:
        os.lstat(mnt / "top" / name)
    now = counters_of(mnt)
    for kind in ("req_lookup", "req_getattr"):
        assert now[kind] == asked[kind], kind
