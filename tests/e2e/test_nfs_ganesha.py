# SPDX-License-Identifier: GPL-2.0-or-later
"""NFS-Ganesha, stock and set up as docs/nfs.md says, exports a mount; a client uses raw handles.

The handle matrix over the wire: handles are taken, things happen (over the wire, or on the server's
own mount), then Ganesha, reverlay or both are restarted, and each handle must lead to its object by
number and content, or be ESTALE. A restart of reverlay always gives the mount another st_dev.
"""

import itertools
import json
import os
import stat
import sys
import time
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nfs"))

import nfsbox  # noqa: E402  pylint: disable=wrong-import-position
import rvl  # noqa: E402  pylint: disable=wrong-import-position
from trees import write  # noqa: E402  pylint: disable=wrong-import-position
from nfsbox import NfsError  # noqa: E402  pylint: disable=wrong-import-position

pytestmark = pytest.mark.reverlay_only("the kernel's overlay is not what is tested here")

TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFBLK: 3, stat.S_IFCHR: 4, stat.S_IFLNK: 5,
         stat.S_IFSOCK: 6, stat.S_IFIFO: 7}


@pytest.fixture
def box(ov):
    if os.geteuid() != 0:
        pytest.skip("not root: no namespaces and no Ganesha")
    made = nfsbox.Box(ov)
    try:
        yield made
    finally:
        made.close()


# -- who does what --------------------------------------------------------------------------


class Wire:
    """Changes by a client."""

    def __init__(self, client, top):
        self.client = client
        self.top = Path(top)

    def split(self, path):
        parent, name = os.path.split(path)
        return self.client.lookup(parent), name

    def rename(self, old, new):
        self.client.rename(*self.split(old), *self.split(new))

    def unlink(self, path):
        self.client.remove(*self.split(path))

    def rmdir(self, path):
        self.client.rmdir(*self.split(path))

    def link(self, old, new):
        self.client.link(self.client.lookup(old), *self.split(new))

    def mkdir(self, path):
        self.client.mkdir(*self.split(path))

    def chmod(self, path, mode):
        self.client.chmod(self.client.lookup(path), mode)

    def write(self, path, data):
        self.client.write(self.client.lookup(path), data)

    def create(self, path, data):
        if self.client.version == 4:  # our client does not speak OPEN
            (self.top / path).write_bytes(data)
            return
        self.client.write(self.client.create(*self.split(path)), data)


class Local:
    """Changes on the server's own mount."""

    def __init__(self, client, top):
        self.client = client
        self.top = Path(top)

    def rename(self, old, new):
        os.rename(self.top / old, self.top / new)

    def unlink(self, path):
        os.unlink(self.top / path)

    def rmdir(self, path):
        os.rmdir(self.top / path)

    def link(self, old, new):
        os.link(self.top / old, self.top / new, follow_symlinks=False)

    def mkdir(self, path):
        os.mkdir(self.top / path)

    def chmod(self, path, mode):
        os.chmod(self.top / path, mode)

    def write(self, path, data):
        with open(self.top / path, "r+b", buffering=0) as file:
            file.write(data)

    def create(self, path, data):
        (self.top / path).write_bytes(data)


# -- the matrix -----------------------------------------------------------------------------


class Row:
    """One directory r<n>, and what is expected of handles taken below it."""

    def __init__(self, name, client, actor):
        self.name = name
        self.client = client
        self.actor = actor
        self.expected = {}  # path at the time of taking -> [fh, type, number, content or None]
        self.dead = set()

    def at(self, path):
        return f"{self.name}/{path}"

    def take(self, *paths):
        for path in paths:
            fh = self.client.lookup(self.at(path))
            attr = self.client.getattr(fh)
            content = self.content(fh, attr["type"])
            self.expected[path] = [fh, attr["type"], attr["fileid"], content]
        return self.expected[paths[0]][0]

    def content(self, fh, kind):
        if kind == 1:
            return self.client.read(fh)
        return self.client.readlink(fh) if kind == 5 else None

    def write(self, data, *paths):
        """Over the first bytes, through the handle of the first of these names of one object."""
        self.client.write(self.expected[paths[0]][0], data)
        for path in paths:
            self.expected[path][3] = data + self.expected[path][3][len(data):]

    def is_dead(self, *paths):
        self.dead.update(paths)

    def check_dead(self, path, what, may_be_open):
        """By reverlay it is stale when nobody has it open; Ganesha may be about to close a descriptor of its own."""
        end = time.monotonic() + 10
        while True:
            try:
                attr = self.client.getattr(self.expected[path][0])
            except NfsError as error:
                assert error.args[0] == "STALE", what
                return
            assert (attr["nlink"], attr["fileid"]) == (0, self.expected[path][2]), what
            if may_be_open:
                return
            assert time.monotonic() < end, f"{what}: {attr}"

    def check(self, when, may_be_open=False):
        """may_be_open: Ganesha may have a descriptor on what was removed without its knowledge."""
        for path, (fh, kind, number, content) in self.expected.items():
            what = f"{self.name}: {path}, {when}"
            if path in self.dead:
                self.check_dead(path, what, may_be_open)
                continue
            try:
                attr = self.client.getattr(fh)
                assert (attr["type"], attr["fileid"]) == (kind, number), what
                assert self.content(fh, kind) == content, what
            except NfsError as error:
                raise AssertionError(f"{what}: {error}") from error


def fill(top):
    """One row's objects, in lower."""
    for path in ("a/b/f", "a/b/g", "a/b/h1", "a/b/d/x", "a/b/d/e/y", "other/z"):
        write(top / path, f"{path}\n")
    os.link(top / "a/b/h1", top / "a/b/h2")
    os.link(top / "a/b/h1", top / "other/h3")
    os.symlink("b/f", top / "a/s")
    os.mkfifo(top / "a/p", 0o640)


EVERYTHING = ("", "a", "a/b", "a/b/f", "a/b/g", "a/b/h1", "a/b/h2", "other/h3", "a/b/d", "a/b/d/x",
              "a/b/d/e", "a/b/d/e/y", "a/s", "a/p", "other", "other/z")


def nothing(row):
    row.take(*EVERYTHING)


def write_lower(row):
    row.take("a/b/f")
    row.write(b"WRITTEN", "a/b/f")


def write_hard_link(row):
    row.take("a/b/h1", "a/b/h2", "other/h3")
    row.write(b"ALL", "a/b/h1", "a/b/h2", "other/h3")


def chmod_all(row):
    row.take(*EVERYTHING)
    for path in ("a", "a/b/f", "a/b/h2", "a/b/d/e"):
        row.actor.chmod(row.at(path), 0o700)


def rename_file(row):
    row.take("a/b/f", "a/b/h1", "a/s", "a/p")
    for path, to in (("a/b/f", "a/b/f2"), ("a/b/h1", "a/b/h9"), ("a/s", "a/s2"), ("a/p", "a/p2")):
        row.actor.rename(row.at(path), row.at(to))


def rename_parent(row):
    row.take(*EVERYTHING)
    row.actor.rename(row.at("a/b"), row.at("a/bb"))


def rename_ancestor(row):
    row.take(*EVERYTHING)
    row.actor.rename(row.at("a"), row.at("aa"))


def rename_all_above(row):
    row.take(*EVERYTHING)
    row.actor.rename(row.at("a/b/d/e"), row.at("a/b/d/E"))
    row.actor.rename(row.at("a/b/d"), row.at("a/b/D"))
    row.actor.rename(row.at("a/b"), row.at("a/B"))
    row.actor.rename(row.at("a"), row.at("A"))
    row.actor.rename(row.at("A/B/D"), row.at("D"))


def move(row):
    row.take(*EVERYTHING)
    row.actor.rename(row.at("a/b/f"), row.at("other/f"))
    row.actor.rename(row.at("a/b/d"), row.at("other/d"))


def rename_then_write(row):
    row.take("a/b/f")
    row.actor.rename(row.at("a"), row.at("aa"))
    row.write(b"LATER", "a/b/f")


def unlink(row):
    row.take("a/b/f", "a/s", "a/p", "a/b/g")
    for path in ("a/b/f", "a/s", "a/p"):
        row.actor.unlink(row.at(path))
        row.is_dead(path)


def unlink_copied_up(row):
    row.take("a/b/f")
    row.write(b"up", "a/b/f")
    row.actor.unlink(row.at("a/b/f"))
    row.is_dead("a/b/f")


def create_again(row):
    row.take("a/b/f")
    row.actor.unlink(row.at("a/b/f"))
    row.is_dead("a/b/f")
    for i in range(3):  # the first number is the likeliest to be used again
        row.actor.create(row.at("a/b/f"), b"new %d\n" % i)
        new = row.client.lookup(row.at("a/b/f"))
        assert row.client.read(new) == b"new %d\n" % i
        row.expected[f"new {i}"] = [new, 1, row.client.getattr(new)["fileid"], b"new %d\n" % i]
        if i < 2:
            row.actor.unlink(row.at("a/b/f"))
            row.is_dead(f"new {i}")


def unlink_one_of_three(row):
    row.take("a/b/h1", "a/b/h2", "other/h3")
    row.actor.unlink(row.at("a/b/h1"))


def unlink_all_links(row):
    row.take("a/b/h1", "a/b/h2", "other/h3")
    for path in ("a/b/h1", "a/b/h2", "other/h3"):
        row.actor.unlink(row.at(path))
    row.is_dead("a/b/h1", "a/b/h2", "other/h3")


def link(row):
    row.take("a/b/f", "a/b/h1")
    row.actor.link(row.at("a/b/f"), row.at("other/f"))
    row.actor.link(row.at("a/b/h1"), row.at("other/h4"))
    row.actor.unlink(row.at("a/b/f"))


def replace(row):
    row.take("a/b/f", "a/b/g")
    row.actor.rename(row.at("a/b/f"), row.at("a/b/g"))
    row.is_dead("a/b/g")


def remove_directory(row):
    row.take("a/b/d", "a/b/d/x", "a/b/d/e", "a/b/d/e/y")
    for path in ("a/b/d/e/y", "a/b/d/x"):
        row.actor.unlink(row.at(path))
    for path in ("a/b/d/e", "a/b/d"):
        row.actor.rmdir(row.at(path))
    row.is_dead("a/b/d", "a/b/d/x", "a/b/d/e", "a/b/d/e/y")


def born(row):
    row.actor.mkdir(row.at("n"))
    row.actor.mkdir(row.at("n/m"))
    row.actor.create(row.at("n/m/f"), b"born\n")
    row.actor.create(row.at("n/gone"), b"gone\n")
    row.take("n", "n/m", "n/m/f", "n/gone")
    row.actor.rename(row.at("n/m"), row.at("a/b/m"))
    row.actor.unlink(row.at("n/gone"))
    row.is_dead("n/gone")


ROWS = [nothing, write_lower, write_hard_link, chmod_all, rename_file, rename_parent,
        rename_ancestor, rename_all_above, move, rename_then_write, unlink, unlink_copied_up,
        create_again, unlink_one_of_three, unlink_all_links, link, replace, remove_directory, born]


@pytest.mark.layouts("ext4", "squashfs", "other")
@pytest.mark.parametrize("actor", [Wire, Local], ids=["wire", "local"])
@pytest.mark.parametrize("version", [3, 4])
def test_matrix(ov, box, version, actor):
    """Each handle leads to its object, or is ESTALE, after every event and every restart."""
    with ov.lower() as lower:
        for row in ROWS:
            fill(lower / row.__name__)
    ov.mount()
    box.ganesha_start()
    client = box.client(version)
    rows = [Row(row.__name__, client, actor(client, ov.mnt)) for row in ROWS]
    fsid = client.getattr(client.root)["fsid"]
    for row, event in zip(rows, ROWS):
        event(row)
        row.check("at once", may_be_open=actor is Local)
    for what in ("ganesha", "reverlay", "both", "both, killed", "reverlay"):
        box.restart(what.split(",")[0], kill="killed" in what)
        for row in rows:
            row.check(f"after a restart of {what}")
        assert client.getattr(client.root)["fsid"] == fsid, "clients would see another filesystem"


@pytest.mark.parametrize("version", [3, 4])
def test_without_the_recipe(ov, box, version):
    """A plain export has st_dev in its handles, and a restart of both makes them stale.

    Shows that the test above proves something, and why the recipe has fsid_type.
    """
    with ov.lower() as lower:
        write(lower / "f")
    ov.mount()
    box.drop_setting = "fsid_type"
    box.ganesha_start()
    client = box.client(version)
    fh = client.lookup("f")
    box.restart("ganesha")
    assert client.read(fh) == b"data\n"
    box.restart("both")
    with pytest.raises(NfsError, match="STALE"):
        client.getattr(fh)


# -- whole trees ----------------------------------------------------------------------------


def local_view(top):
    """What Client.walk gives, seen through the mount: {path: (number, attributes..., content)}."""
    seen = {}
    for path, dirs, files in os.walk(os.fsencode(top)):
        for name in dirs + files:
            full = os.path.join(path, name)
            st = os.lstat(full)
            content = 0
            if stat.S_ISLNK(st.st_mode):
                content = zlib.crc32(os.readlink(full))
            elif stat.S_ISREG(st.st_mode):
                with open(full, "rb", buffering=0) as file:
                    while block := file.read(1 << 20):
                        content = zlib.crc32(block, content)
            seconds, rest = divmod(st.st_mtime_ns, 10**9)
            seen[os.path.relpath(full, os.fsencode(top))] = (
                str(st.st_ino), str(TYPES[stat.S_IFMT(st.st_mode)]),
                f"{stat.S_IMODE(st.st_mode):o}", str(st.st_nlink), str(st.st_uid), str(st.st_gid),
                str(st.st_size), str(st.st_ino), f"{seconds}.{rest:09}", f"{content:08x}")
    return seen


def compare(client, top, where):
    """A walk by the client against the local view; returns {path: handle}."""
    start = client.lookup(where)
    wire = client.walk(start)
    local = local_view(Path(top) / where)
    assert set(wire) == set(local)
    for path, entry in wire.items():
        handle, number, *attributes, content = entry
        del attributes[7]  # fsid
        got = (number, *attributes, content)
        assert got == local[path], os.fsdecode(path)
    return {path: entry[0] for path, entry in wire.items()}


USR_PARTS = ["sbin", "lib/python3.11", "share/zoneinfo", "share/perl", "lib/git-core", "share/doc/perl"]


@pytest.mark.slow
def test_usr(ov, box):
    """A real tree over the wire is the one that the mount shows, by every attribute and byte."""
    ov.lowers = [Path("/usr")]
    ov.check_lower = False  # too large for it; it is mounted read-only beneath
    ov.check_links = False
    ov.check_remount = False
    ov.mount("nfs_export=on")
    parts = [part for part in USR_PARTS if (ov.mnt / part).is_dir()]
    box.ganesha_start()
    handles = {}
    for part, version in zip(parts, itertools.cycle((3, 4))):
        client = box.client(version)
        handles[part] = client, compare(client, ov.mnt, part)
    assert sum(len(h) for _, h in handles.values()) > 1000
    box.restart("both")
    for part, (client, old) in handles.items():
        for path, handle in list(old.items())[::7]:
            number = os.lstat(os.path.join(os.fsencode(ov.mnt / part), path)).st_ino
            assert client.getattr(handle)["fileid"] == number, os.fsdecode(path)


# -- a large directory under change ---------------------------------------------------------

N_NAMES = 100_000
PAGE = 32768


class Changer:
    """Creates, renames and removes names in the directory, but leaves those of lower alone."""

    def __init__(self, path):
        self.path = Path(path)
        self.n = 0
        self.mine = []

    def step(self):
        for _ in range(10):
            self.n += 1
            name = self.path / f"new-{self.n:06}"
            name.write_bytes(b"")
            self.mine.append(name)
        for _ in range(4):
            old = self.mine.pop(self.n * 7919 % len(self.mine))
            self.n += 1
            new = self.path / f"moved-{self.n:06}"
            os.rename(old, new)
            self.mine.append(new)
        for _ in range(3):
            os.unlink(self.mine.pop(self.n * 104729 % len(self.mine)))
        # one that came from lower goes at each step: it is not among those that stay
        os.unlink(self.path / f"go-{self.n // 14 - 1:06}")


def list_under_change(box, client, changer, directory, before):
    seen = {}
    calls, restarts = 0, {20: "both", 40: "reverlay", 60: "ganesha"}
    cookie, verifier, eof = 0, "-", False
    while not eof:
        entries, verifier, eof = client.list(directory, cookie, verifier, PAGE)
        for cookie, number, name in entries:
            seen.setdefault(os.fsdecode(name), []).append(number)
        changer.step()
        calls += 1
        if calls in restarts:
            box.restart(restarts[calls])
    assert calls > max(restarts), f"{calls} calls only"
    stayed = {name: numbers for name, numbers in seen.items() if name.startswith("stay-")}
    assert set(stayed) == set(before)
    for name, numbers in stayed.items():
        assert numbers == [before[name]], f"NFSv{client.version}: {name}"


@pytest.mark.slow
def test_large_directory(ov, box):
    """Names that were there all the time are listed exactly once, whatever happens meanwhile."""
    with ov.lower() as lower:
        (lower / "d").mkdir()
        fd = os.open(lower / "d", os.O_RDONLY)
        for i in range(N_NAMES):
            os.mknod(f"stay-{i:06}-{i * 2654435761 % 2**32:08x}", dir_fd=fd)
        for i in range(2000):
            os.mknod(f"go-{i:06}", dir_fd=fd)
        os.close(fd)
    ov.check_links = ov.check_lower = ov.check_remount = False  # they would take minutes
    ov.mount()
    box.ganesha_start()
    before = {e.name: e.inode() for e in os.scandir(ov.mnt / "d") if e.name.startswith("stay-")}
    assert len(before) == N_NAMES
    changer = Changer(ov.mnt / "d")
    for version in (3, 4):
        client = box.client(version)
        list_under_change(box, client, changer, client.lookup("d"), before)


# -- what the tools say ---------------------------------------------------------------------


def resolve(*args, code=0):
    result = rvl.run(rvl.CTL, "resolve", "--json", *args, check=False)
    assert result.returncode == code, result.stdout
    return json.loads(result.stdout)


def test_resolve(ov, box):
    """From number, path and the server's handle to the same answer, mounted or not."""
    with ov.lower() as lower:
        fill(lower)
        write(lower / "gone")
    ov.mount()
    box.ganesha_start()
    clients = [box.client(3), box.client(4)]
    gone = clients[0].lookup("gone")
    os.unlink(ov.mnt / "gone")
    os.rename(ov.mnt / "a/b", ov.mnt / "B")
    clients[0].write(clients[0].lookup("B/h1"), b"up")
    write(ov.mnt / "born")
    wanted = {
        "/B/f": ["/B/f"], "/B/h1": ["/B/h1", "/B/h2", "/other/h3"], "/B/d/e": ["/B/d/e"],
        "/B": ["/B"], "/born": ["/born"], "/": ["/"], "/a/p": ["/a/p"], "/a/s": ["/a/s"],
    }
    handles = {}
    for path, names in wanted.items():
        st = os.lstat(ov.mnt / path[1:])
        answer = resolve(ov.mnt, path)
        assert answer["number"] == st.st_ino
        assert sorted(answer["paths"]) == names
        assert resolve(ov.mnt, st.st_ino) == answer
        for client in clients:
            wire = client.lookup(path)
            handles[wire] = answer
            if client.version == 4:  # v3 pads
                assert wire == answer["handles"]["ganesha"]
            assert resolve(ov.mnt, wire) == answer
        for handle in answer["handles"].values():
            assert resolve(ov.mnt, handle) == answer
        for real in answer["real"]:
            assert stat.S_IFMT(os.lstat(real).st_mode) == stat.S_IFMT(st.st_mode)
    assert resolve(ov.mnt, str(ov.mnt / "B/f"))["layer"] == "lower"
    assert resolve(ov.mnt, "/B/h1")["layer"] == "upper"
    assert resolve(ov.mnt, gone, code=1)["alive"] is False
    assert resolve(ov.mnt, str(2**40), code=1)["alive"] is False
    answers = {path: resolve(ov.mnt, path) for path in wanted}
    box.ganesha_stop()
    ov.umount()
    options = ("-o", ov.option_string())
    for path in wanted:
        # the order of names and of real objects is that of two different walks
        offline = resolve(*options, path)
        for answer in (offline, answers[path]):
            answer["paths"].sort()
            answer["real"].sort()
        assert offline == answers[path]
        assert resolve(*options, answers[path]["number"])["handles"] == offline["handles"]
    for wire, answer in handles.items():
        assert resolve(*options, wire)["number"] == answer["number"]
    assert resolve(*options, gone, code=1)["alive"] is False
    ov.mount()


def test_export(ov):
    """The configuration is the same after a restart, and says what the mount is."""
    with ov.lower() as lower:
        write(lower / "f")
    ov.mount()
    first = rvl.run(rvl.CTL, "export", ov.mnt).stdout
    ov.remount()
    assert rvl.run(rvl.CTL, "export", ov.mnt).stdout == first
    data = json.loads(rvl.run(rvl.CTL, "export", "--json", "--ro", ov.mnt).stdout)
    assert "(ro,no_subtree_check,fsid=" in data["knfsd"]
    assert data["uuid"] in data["knfsd"].replace("-", "")
    assert "Access_Type = RO" in data["ganesha"] and "Root_Squash" in data["ganesha"]
    assert str(data["export_id"]) in first
    assert rvl.run(rvl.CTL, "export", "/proc", check=False).returncode == 1
