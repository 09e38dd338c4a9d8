# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts: the filesystem of the layers is shut down under load, and nothing synced is lost.

RVL_POWER_CUTS says how many cuts there are on each filesystem, RVL_POWER_SEED which.
"""

import contextlib
import errno
import mmap
import os
import random
import shutil
import stat
import threading
import uuid

import pytest

import sysc
from machine import CUTS, SEED, Machine, commits
from rvl import CTL, run
from snapshots import check_tree

pytestmark = [pytest.mark.reverlay_only("stamps and their walk"), pytest.mark.seconds(3600)]

CUTS_A_MACHINE = 50  # what was synced is kept, and looked at after each cut
LOWER_FILES = 40
N_COPIED = 1500


class Thing:
    """What is known of an object: the names and contents that it may have after a cut."""

    def __init__(self, path, content, st, handle):
        self.names = {path}
        self.contents = {content}
        self.ino = st.st_ino
        self.handle = handle
        self.is_durable = False  # it is there, whatever happens
        self.is_dead = False  # it may be gone


class Load:
    """Threads that change the mount until the disk goes down, and remember what was synced."""

    def __init__(self, machine, seed, things):
        self.machine = machine
        self.mnt = machine.mnt
        self.seed = seed
        self.things = things
        # the last is what sync(2) does, for this disk alone
        self.syncs = (os.fsync, os.fdatasync, lambda fd: sysc.syncfs(machine.disk))
        self.problems = []
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(3)]

    def run(self, seconds):
        for thread in self.threads:
            thread.start()
        threading.Event().wait(seconds)  # the random moment, no event to wait for
        self.machine.cut()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "a thread hangs on the dead mount"
        assert not self.problems, self.problems

    def work(self, number):
        rng = random.Random(self.seed * 10 + number)
        mine = [t for i, t in enumerate(self.things) if i % 3 == number and not t.is_dead]
        serial = 0
        directory = self.mnt / f"dir{number}"
        try:
            directory.mkdir(exist_ok=True)
            while True:
                serial += 1
                self.step(rng, directory, mine, f"{self.seed}.{serial}")
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED,
                                   errno.ECANCELED, errno.ENOENT,
                                   errno.EROFS, errno.ENODEV, errno.ESHUTDOWN, errno.EUCLEAN):
                self.problems.append(repr(error))

    def step(self, rng, directory, mine, name):
        what = rng.random()
        if what < 0.5 or not mine:
            self.create(rng, directory / name, mine)
            return
        thing = rng.choice(mine)
        path = next(iter(thing.names))
        if len(thing.names) > 1:
            return  # its name is not certain any more
        if what < 0.7:
            self.rewrite(rng, thing, path, name)
        elif what < 0.85:
            new = directory / ("moved." + name)
            thing.names.add(new)
            os.rename(path, new)
        elif what < 0.95:
            thing.is_dead = True
            mine.remove(thing)
            os.unlink(path)
        else:
            thing.names.add(path)
            link = directory / ("link." + name)
            os.link(path, link)
            thing.names.add(link)

    def create(self, rng, path, mine):
        content = (path.name * rng.randint(1, 300)).encode()
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            os.write(fd, content)
            if rng.random() < 0.3:
                rng.choice(self.syncs)(fd)
                sync_dir(path.parent)
                self.machine.check_power()
                thing = Thing(path, content, os.fstat(fd), sysc.handle(path))
                thing.is_durable = True
                mine.append(thing)
                self.things.append(thing)
        finally:
            os.close(fd)

    def rewrite(self, rng, thing, path, name):
        """In place of the old content, in one write: of that any part may be there."""
        content = (name * 10).encode()
        fd = os.open(path, os.O_WRONLY)
        try:
            thing.contents.add(None)
            os.write(fd, content)
            if rng.random() < 0.5:
                rng.choice(self.syncs)(fd)
                self.machine.check_power()
                old = [c for c in thing.contents if c is not None]
                thing.contents = {content + c[len(content):] for c in old}
        finally:
            os.close(fd)


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def verify(machine, things):
    """Handles first, with nothing cached; then the tree."""
    root = os.open(machine.mnt, os.O_RDONLY | os.O_DIRECTORY)
    decoded = {}
    for thing in things:
        try:
            fd = sysc.open_handle(root, thing.handle)
        except OSError as error:
            assert error.errno == errno.ESTALE, (thing.names, error)
            decoded[thing] = None
            continue
        with os.fdopen(fd, "rb") as file:
            assert os.fstat(fd).st_ino == thing.ino
            decoded[thing] = file.read()
    os.close(root)
    check_links(machine)
    seen = {}
    for where, _, files in os.walk(machine.mnt):
        for name in files:
            path = os.path.join(where, name)
            seen.setdefault(os.lstat(path).st_ino, set()).add(path)
    for thing in list(things):
        there = {str(n) for n in thing.names} & seen.get(thing.ino, set())
        assert bool(decoded[thing] is not None) == (thing.ino in seen), (
            f"{thing.names}: by handle {decoded[thing] is not None}, by name {thing.ino in seen}")
        if thing.is_durable and not thing.is_dead:
            assert there, f"{thing.names}: synced, and gone"
        if not there:
            things.remove(thing)
            continue
        content = decoded[thing]
        if None not in thing.contents:
            assert content in thing.contents, f"{there}: {content[:60]}, not {thing.contents}"
        # from here on this is what there is
        thing.names = {machine.mnt / os.path.relpath(n, machine.mnt) for n in there}
        thing.contents = {content}
        thing.is_dead = False
        thing.is_durable = True


def check_links(machine):
    """Everything can be looked at; a count may be out of step after a cut, until a repair."""
    try:
        check_tree(machine.mnt)
    except AssertionError as error:
        assert all("st_nlink" in line for line in str(error).splitlines()), str(error)


def repair(machine):
    """What the cut left is mended, and nothing is lost by it."""
    before = tree(machine.mnt)
    machine.stop()
    result = run(CTL, "repair", "-y", "-o", machine.options(), check=False)
    assert result.returncode in (0, 1), result.stdout
    result = run(CTL, "check", "-o", machine.options(), check=False)
    assert result.returncode == 0, result.stdout
    machine.start()
    after = tree(machine.mnt)
    assert {n: v for n, v in after.items() if not n.startswith("lost+found")} == \
        {n: v for n, v in before.items() if not n.startswith("lost+found")}
    assert after.keys() >= before.keys()


def tree(root):
    result = {}
    for where, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(where, name)
            st = os.lstat(path)
            data = b""
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    data = file.read()
            result[os.path.relpath(path, root)] = (st.st_ino, st.st_mode, data)
    return result


def cut_one_machine(machine, cuts, rng):
    for i in range(LOWER_FILES):
        (machine.disk / "lower" / f"file{i}").write_bytes(b"lower %d " % i * 500)
    os.sync()
    machine.start()
    things = []
    for i in range(LOWER_FILES):
        path = machine.mnt / f"file{i}"
        thing = Thing(path, path.read_bytes(), os.lstat(path), sysc.handle(path))
        thing.is_durable = True
        things.append(thing)
    for cut in cuts:
        print(f"seed {SEED}, cut {cut}", flush=True)
        Load(machine, SEED * 1000 + cut, things).run(rng.uniform(0.02, 0.4))
        machine.restart("" if cut % 3 else ",fsync=strict")
        verify(machine, things)
        if cut % 5 == 4:
            repair(machine)
    machine.stop()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cuts(images, scratch, kind):
    """Synced files keep name, number and content; each handle opens its object or is ESTALE.

    The boot id is another one after each cut, so that the server knows; it walks upper in the
    background, and a handle whose entry was lost waits for that. Then check finds what repair
    mends, and nothing is lost.
    """
    assert images
    rng = random.Random(SEED)
    for first in range(0, CUTS, CUTS_A_MACHINE):
        base = scratch / f"power-{kind}"
        base.mkdir()
        machine = Machine(base, kind)
        try:
            cut_one_machine(machine, range(first, min(CUTS, first + CUTS_A_MACHINE)), rng)
        finally:
            machine.close()
        shutil.rmtree(base)


def copy_up_under_load(machine, rng):
    """Copies up, without a sync, while another file's syncs commit the journal; then the cut."""
    def copy_up():
        with contextlib.suppress(OSError):
            done = set(os.listdir(machine.disk / "upper"))
            for name in sorted(set(os.listdir(machine.disk / "lower")) - done):
                os.close(os.open(machine.mnt / name, os.O_WRONLY))

    thread = threading.Thread(target=copy_up)
    with commits(machine):
        thread.start()
        threading.Event().wait(rng.uniform(0.05, 0.3))  # the random moment, no event to wait for
        machine.cut()
    thread.join(30)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_copied_up_data(images, scratch, kind):
    """A name in upper that a power cut leaves has all the data that were copied up for it.

    They are ordered before the name by the filesystem's journal, and not synced one by one.
    """
    assert images
    base = scratch / f"copied-{kind}"
    base.mkdir()
    machine = Machine(base, kind)
    rng = random.Random(SEED)
    n_found = 0
    try:
        for i in range(N_COPIED):
            (machine.disk / "lower" / f"file{i}").write_bytes(b"lower %d " % i * rng.randint(1, 9000))
        os.sync()
        machine.start()
        assert "copy_up_sync   ordered" in run(CTL, "stat", machine.mnt).stdout
        for cut in range(CUTS):
            print(f"seed {SEED}, cut {cut}")
            copy_up_under_load(machine, rng)
            machine.restart()
            names = os.listdir(machine.disk / "upper")
            for name in names:
                upper = (machine.disk / "upper" / name).read_bytes()
                assert upper == (machine.disk / "lower" / name).read_bytes(), name
            assert len(names) > n_found or n_found == N_COPIED
            n_found = len(names)
        machine.stop()
    finally:
        machine.close()


OPTIONS = ["", "fsync=strict", "fsync=strict,copy_up=write", "fsync=strict,passthrough=off"]


@pytest.mark.parametrize("how", ["fdatasync", "O_DSYNC", "msync"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_data_alone_are_synced(images, scratch, kind, options, how):
    """The copy-up had synced the data, or the attributes: the name, or that upper has data, it had not."""
    assert images
    base = scratch / f"data-{kind}-{OPTIONS.index(options)}-{how}"
    base.mkdir()
    machine = Machine(base, kind)
    names = ("data", "attributes")
    try:
        for name in names:
            (machine.disk / "lower" / name).write_bytes(b"lower" * 2000)
        machine.start(options and f",{options}")
        os.chmod(machine.mnt / "attributes", 0o600)
        run("sync", "-f", machine.disk)
        files = [os.open(machine.mnt / name, os.O_RDWR | (os.O_DSYNC if how == "O_DSYNC" else 0))
                 for name in names]
        for fd in files:
            change(fd, how)
        machine.cut()
        for fd in files:
            with contextlib.suppress(OSError):
                os.close(fd)
        machine.restart()
        for name in names:
            assert (machine.mnt / name).read_bytes()[4096:4100] == b"mine", name
        machine.stop()
    finally:
        machine.close()


def change(fd, how):
    """Overwrites four bytes in place, and syncs them."""
    if how == "msync":
        with mmap.mmap(fd, 8192) as mapped:
            mapped[4096:4100] = b"mine"
            mapped.flush()
        return
    os.pwrite(fd, b"mine", 4096)
    if how == "fdatasync":
        os.fdatasync(fd)


def lose_entries(machine):
    """What a power cut may take: the entries of all that was born, with the log."""
    inodes = machine.disk / "work" / "inodes"
    gone = 0
    for path in inodes.glob("??/#*"):
        if path.lstat().st_nlink > 1 or path.lstat().st_mode & 0o777 == 0:
            path.unlink()
            gone += 1
    (inodes / "log").unlink()
    return gone


@pytest.mark.parametrize("is_new_boot", [True, False])
def test_walk_completes_the_index(images, scratch, is_new_boot):
    """Entries lost with an unclean stop of the machine are made again, and a handle waits for that.

    Without such a stop they are not: what has a stamp without an entry may be a copy.
    """
    assert images
    base = scratch / f"walk-{is_new_boot}"
    base.mkdir()
    machine = Machine(base, "ext4")
    try:
        (machine.disk / "lower" / "low").mkdir()
        (machine.disk / "lower" / "low" / "file").write_text("lower")
        machine.start()
        (machine.mnt / "a" / "b").mkdir(parents=True)
        for i in range(300):
            (machine.mnt / "a" / "b" / f"f{i}").write_text(str(i))
        (machine.mnt / "low" / "file").write_text("changed")
        machine.stop()  # so that no entry is owed
        machine.start()
        names = ["a", "a/b", "low", "low/file", *(f"a/b/f{i}" for i in range(300))]
        handles = {n: (sysc.handle(machine.mnt / n), os.lstat(machine.mnt / n).st_ino)
                   for n in names}
        before = tree(machine.mnt)
        run("sync", "-f", machine.disk)
        machine.process.kill()
        machine.process.wait(timeout=30)
        run("umount", "-l", machine.mnt)
        assert lose_entries(machine) == len(names)
        if is_new_boot:
            machine.boot.write_text(f"{uuid.uuid4()}\n")
        machine.start()
        root = os.open(machine.mnt, os.O_RDONLY | os.O_DIRECTORY)
        found = 0
        for name in reversed(names):
            handle, number = handles[name]
            try:
                fd = sysc.open_handle(root, handle, os.O_PATH)
            except OSError as error:
                assert error.errno == errno.ESTALE and not is_new_boot, (name, error)
                continue
            assert os.fstat(fd).st_ino == number
            os.close(fd)
            found += 1
        os.close(root)
        if is_new_boot:
            assert tree(machine.mnt) == before
        machine.stop()
        text = machine.log.read_text()
        assert ("upper was walked" in text) == is_new_boot, text
        assert (found == len(names)) == is_new_boot
    finally:
        machine.close()


def test_link_count_of_what_gets_its_entry_again(images, scratch):
    """The look-up of a file that has lost its entry makes it, and shows the names that there are and no less."""
    assert images
    base = scratch / "count"
    base.mkdir()
    machine = Machine(base, "ext4")
    try:
        machine.start()
        tops = [machine.mnt / f"d{i}" for i in range(4)]
        for top in tops:
            top.mkdir()
            (top / "a").touch()
            os.link(top / "a", top / "b")
            for i in range(500):
                (top / f"f{i}").touch()
        machine.stop()  # so that no entry is owed
        machine.start()
        run("sync", "-f", machine.disk)
        machine.process.kill()
        machine.process.wait(timeout=30)
        run("umount", "-l", machine.mnt)
        lose_entries(machine)
        machine.boot.write_text(f"{uuid.uuid4()}\n")
        machine.start()
        # of some of them before the walk comes there
        assert [os.lstat(top / "a").st_nlink for top in tops] == [2] * len(tops)
        machine.stop()
    finally:
        machine.close()
