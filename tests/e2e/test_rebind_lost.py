# SPDX-License-Identifier: GPL-2.0-or-later
"""The map of a rebind, which alone has the old numbers, is damaged or lost: its instances are retired.

What was in lower alone has new numbers and its old handles are stale; all else is what it was.
"""

import errno
import json
import os
import random
import shutil
import signal

import pytest

import sysc
from imports import CHANGES
from rvl import CTL, run
from snapshots import check_tree
from trees import ino, write
from test_handles_decode import content_by, entry_of, is_stale, number_by
from test_rebind import Move, by_rsync, fill_lower, handles, rebind, use

pytestmark = [pytest.mark.reverlay_only("it refuses copied layers"),
              pytest.mark.layouts("ext4", "stack5")]

UNTOUCHED = 300  # files more that nobody changes, so that the map has several pages


def prepare(ov):
    """An overlay with a past, among it what nothing but a handle leads back to."""
    with ov.lower() as top:
        fill_lower(top)
        for i in range(UNTOUCHED):
            write(top / f"many/{i % 7}/file {i}", f"{i}\n")
        write(top / "old/parent/taken/inner/deep", "deep\n")
        write(top / "old/parent/taken/beside", "beside\n")
        write(top / "old/parent/linked", "linked\n")
        os.link(top / "old/parent/linked", top / "alias")
    mnt = ov.mount()
    use(mnt)
    with open(mnt / "old/parent/linked", "a", encoding="utf-8") as file:
        file.write("changed\n")
    os.rename(mnt / "old/parent/taken", mnt / "taken")
    shutil.rmtree(mnt / "old")
    run(CTL, "map", mnt)
    ov.umount()


class Known:
    """What was shown before the damage."""

    def __init__(self, ov):
        mnt = ov.mnt
        self.handles = handles(mnt)
        self.numbers = {name: ino(mnt / name) for name in self.handles}
        self.content = {name: (mnt / name).read_bytes() for name in self.handles
                        if os.path.isfile(mnt / name) and not os.path.islink(mnt / name)}
        self.kept = {name for name, number in self.numbers.items() if os.path.lexists(entry_of(ov, number))}
        assert {"file", "born", "taken", "alias", "chmodded.d", "triple1", "dir/triple3"} <= self.kept
        assert {"empty", "taken/beside", "taken/inner/deep", "many/3/file 3"} <= set(self.handles) - self.kept

    def check(self, ov):
        """Handles from before first, while nothing is in memory."""
        mnt = ov.mnt
        for name, fh in self.handles.items():
            if name in self.kept:
                assert number_by(mnt, fh) == self.numbers[name], name
                if name in self.content:
                    assert content_by(mnt, fh).encode() == self.content[name][:100], name
            else:
                assert is_stale(mnt, fh), name
        now = handles(mnt)
        assert set(now) == set(self.handles)
        old = set(self.numbers.values())
        for name in now:
            if name in self.kept:
                assert (now[name], ino(mnt / name)) == (self.handles[name], self.numbers[name]), name
            else:
                assert ino(mnt / name) not in old, name
            if name in self.content:
                assert (mnt / name).read_bytes() == self.content[name], name
        check_tree(mnt)
        return now


def map_of(ov):
    path, = (ov.work / "inodes").glob("map.mdb.*")
    return path


def counters(ov):
    return json.loads(run(CTL, "stat", "--json", ov.mnt).stdout)["counters"]


@pytest.fixture
def rebound(ov, images):
    """A moved and rebound overlay, not mounted; its map is sealed."""
    move = Move(ov, images)
    prepare(ov)
    move.all("ext4", "ext4", by_rsync)
    rebind(ov)
    ov.mount()
    known = Known(ov)
    ov.umount()
    return known


def pages(*numbers):
    """Every 64th byte of some pages."""
    def do(path):
        data = bytearray(path.read_bytes())
        for number in numbers:
            for at in range(number * 4096, (number + 1) * 4096, 64):
                data[at] ^= 0x5a
        path.write_bytes(data)
    return do


def one_byte(path):
    data = bytearray(path.read_bytes())
    data[random.Random(7).randrange(len(data))] ^= 1
    path.write_bytes(data)


def a_directory(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "first meta page": pages(0),
    "both meta pages": pages(0, 1),
    "a page": pages(3),
    "some pages": pages(4, 6, 7, 9),
    "a byte": one_byte,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2 + 100),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "a directory": a_directory,
    "a symlink": lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(ov, rebound, damage):
    """The mount retires it, with one line and a counter; check names it before, and finds nothing after."""
    DAMAGES[damage](map_of(ov))
    code, found = ov.ctl("check")
    assert code == 4 and {p["id"] for p in found["problems"]} == {"map-lost"}
    ov.may_complain = True
    ov.mount()
    assert counters(ov)["maps_retired"] == 1
    now = rebound.check(ov)
    for _ in range(2):
        ov.remount()
        for name, fh in now.items():
            assert not is_stale(ov.mnt, fh), name
        assert handles(ov.mnt) == now and counters(ov)["maps_retired"] == 0
    assert ov.messages().count("alone had the inode numbers from before a rebind") == 1
    assert run(CTL, "resolve", ov.mnt, "/alias").stdout


def test_damaged_after_a_crash(ov, rebound):
    """Without a seal it is read page by page; what passes shows no object with another one's number."""
    ov.may_complain = True
    seed = int(os.environ.get("RVL_SEED", 0)) or random.randrange(1 << 32)
    print(f"seed {seed}")
    rnd = random.Random(seed)
    ov.mount()
    ov.kill()
    map_path = map_of(ov)
    pristine = ov.base.parent / "pristine"
    retired = 0
    run("cp", "-a", ov.base, pristine)
    for _ in range(12):
        data = bytearray(map_path.read_bytes())
        for _ in range(8):
            at = rnd.randrange(len(data) // 4096) * 4096 + rnd.randrange(64 if rnd.random() < 0.5 else 4000)
            data[at:at + 4] = rnd.randbytes(4)
        map_path.write_bytes(data[:map_path.stat().st_size])
        mnt = ov.mount()
        if counters(ov)["maps_retired"]:
            retired += 1
            rebound.check(ov)
        else:  # nothing that counts was hit, or one row was
            for name, fh in rebound.handles.items():
                if is_stale(mnt, fh):
                    assert name not in rebound.kept, name
                elif name in rebound.content:
                    assert content_by(mnt, fh).encode() == rebound.content[name][:100], name
        ov.kill()
        run("rsync", "-aHAX", "--delete", f"{pristine}/", ov.base)
    shutil.rmtree(pristine)
    assert retired >= 6
    ov.mount()


def test_damaged_while_in_use(ov, rebound):
    """A row that makes no sense is an error of its object, counted; the next mount retires the map."""
    ov.may_complain = True
    mnt = ov.mount()
    name = b"file 11"
    data = map_of(ov).read_bytes()
    assert data.count(name) >= 1
    with open(map_of(ov), "r+b") as file:
        at = data.find(name)
        while at >= 0:
            os.pwrite(file.fileno(), b"file/11", at)
            at = data.find(name, at + 1)
    victim = "many/4/file 11"
    root = os.open(mnt, os.O_RDONLY)
    with pytest.raises(OSError) as error:
        os.close(sysc.open_handle(root, rebound.handles[victim], os.O_PATH))
    assert error.value.errno in (errno.EIO, errno.ESTALE)
    os.close(root)
    assert counters(ov)["damaged"] >= 1 and "a damaged record of number" in ov.messages()
    for other, fh in rebound.handles.items():
        if not os.path.basename(other).startswith(name.decode()):
            assert number_by(mnt, fh) == rebound.numbers[other], other
    ov.remount()
    assert counters(ov)["maps_retired"] == 1
    rebound.check(ov)


def test_read_only_is_refused(ov, rebound):
    """Nothing may be written: it is refused with the command; the command helps."""
    pages(2, 3)(map_of(ov))
    ov.may_complain = True
    result = run(*ov.command(["ro"], flags=()), check=False)
    assert result.returncode != 0
    command = result.stdout[result.stdout.index("reverlayctl rebind"):].strip()
    run("sh", "-c", command.replace("reverlayctl", CTL, 1))
    ov.mount()
    rebound.check(ov)


@pytest.mark.layouts("ext4")
@pytest.mark.parametrize("how", ["removed", "moved out"])
def test_what_is_not_found_again(ov, rebound, how):
    """Where the lower object of what was copied up is not found, nothing is retired: its other names would part."""
    pages(2, 3)(map_of(ov))
    ov.may_complain = True
    if how == "removed":
        shutil.rmtree(ov.lowers[0] / "old/parent")
    else:  # its handles still open it
        os.rename(ov.lowers[0] / "chmodded.d", ov.lowers[0].parent / "beside")
    ov.before = None
    state = (ov.work / "inodes/state").read_bytes()
    result = run(*ov.command(flags=()), check=False)
    assert result.returncode != 0 and "reverlayctl rebind" in result.stdout
    assert (ov.work / "inodes/state").read_bytes() == state
    run(CTL, "rebind", "-o", ov.option_string())
    ov.mount()
    ov.check_clean = False
    ov.check_links = how != "removed"  # alias is no hard link any more, and parts from the copy


def test_repair(ov, rebound):
    """fsck does the same as the mount."""
    pages(1, 2, 3)(map_of(ov))
    code, found = ov.ctl("repair", "-p")
    assert code == 1 and [(p["id"], p["outcome"]) for p in found["problems"]] == [("map-lost", "mended")]
    code, found = ov.ctl("check")
    assert code == 0, found
    ov.mount()
    assert counters(ov)["maps_retired"] == 0
    rebound.check(ov)


EVERY = 1 if os.environ.get("RVL_ALL_MOVES") else 89


@pytest.mark.slow
@pytest.mark.seconds(7200 if EVERY == 1 else 200)
@pytest.mark.layouts("ext4")
def test_killed_anywhere(ov, rebound, capsys):
    """A repair that is killed before the n-th call that changes something: the next mount ends it."""
    ov.may_complain = True
    pages(3, 4)(map_of(ov))
    pristine = ov.base.parent / "pristine"
    run("cp", "-a", ov.base, pristine)
    command = [CTL, "repair", "-p", "-o", ov.option_string()]
    n, is_killed = 1, True
    while is_killed:
        result = run("strace", "-f", "-o", "/dev/null", "-e", f"trace={CHANGES}",
                     "-e", f"inject={CHANGES}:signal=SIGKILL:when={n}", *command, check=False)
        is_killed = result.returncode in (-signal.SIGKILL, 137)
        assert is_killed or result.returncode == 1, result.stdout
        ov.mount()
        assert is_killed or counters(ov)["maps_retired"] == 0
        rebound.check(ov)
        ov.umount()
        code, found = ov.ctl("check")
        assert code == 0, found
        run("rsync", "-aHAX", "--delete", f"{pristine}/", ov.base)
        n += EVERY
    shutil.rmtree(pristine)
    with capsys.disabled():
        print(f"\nretiring: killed at {n // EVERY} of {n} points")
    assert n > 500
    pages(3)(map_of(ov))
    ov.mount()


@pytest.mark.layouts("ext4")
def test_no_complete_map(ov):
    """With all at its place, and no map of it all, a rebind knows what was copied up by its handles."""
    with ov.lower() as low:
        write(low / "a/f", "lower\n")
        (low / "b").mkdir()
        os.link(low / "a/f", low / "b/f")
    mnt = ov.mount()
    write(mnt / "a/f", "changed\n")
    number = ino(mnt / "b/f")
    shutil.rmtree(mnt / "a")
    ov.umount()
    for path in (ov.work / "inodes").glob("map*"):
        path.unlink()
    run(CTL, "rebind", "-o", ov.option_string())
    assert (ov.mount() / "b/f").read_text() == "changed\n" and ino(ov.mnt / "b/f") == number


@pytest.mark.layouts("ext4")
def test_image_made_anew_with_the_old_uuid(ov):
    """It is not the image that the index knows: refused, with the command."""
    uuid = "11223344-5566-7788-99aa-bbccddeeff00"

    def make(*names):
        tree = ov.base / f"tree{names[0]}"
        write(tree / names[0], "lower\n")
        os.link(tree / names[0], tree / names[1])
        (ov.base / "image").unlink(missing_ok=True)
        run("mkfs.erofs", "-U", uuid, ov.base / "image", tree)
        run("mount", "-o", "loop", ov.base / "image", at)

    at = ov.base / "at"
    at.mkdir()
    ov.lowers = [at]
    try:
        make("h1", "h2")
        write(ov.mount() / "h1", "changed\n")
        ov.umount()
        run("umount", at)
        make("k1", "k2")
        result = run(*ov.command(flags=()), check=False)
        assert result.returncode != 0 and "reverlayctl rebind" in result.stdout
        ov.may_complain = True
    finally:
        run("umount", "-l", at)
        ov.before = None


def test_hard_link_without_the_kernels_index(ov):
    """What the kernel copied up has an origin, and is an object of its own since its index is lost: the other name
    does not become its name."""
    with ov.lower() as low:
        write(low / "a", "lower\n")
        os.link(low / "a", low / "b")
    ov.options = ["index=on"]
    write(ov.mount(kernel=True) / "a", "changed\n")
    ov.umount()
    shutil.rmtree(ov.work / "index")
    ov.options, ov.check_links = [], False
    mnt = ov.mount(kernel=False)
    run(CTL, "map", mnt)
    before = ino(mnt / "a")
    assert ino(mnt / "b") != before
    ov.umount()
    rebind(ov)
    map_of(ov).unlink()
    ov.may_complain = True
    mnt = ov.mount()
    assert counters(ov)["maps_retired"] == 1
    assert ((mnt / "a").read_text(), (mnt / "b").read_text()) == ("changed\n", "lower\n")
    assert ino(mnt / "a") == before != ino(mnt / "b")


@pytest.mark.parametrize("is_a_first", [False, True])
def test_after_names_were_joined(ov, is_a_first):
    """Names of two objects are links of one file in lower: the mount does not guess whose that is, and a rebind does
    not either."""
    with ov.lower() as low:
        write(low / "d/b", "B\n")
        for name in ("d/c", "e"):
            os.link(low / "d/b", low / name)
        write(low / "a", "A\n")
    mnt = ov.mount()
    write(mnt / "d/b", "B changed\n")
    run(CTL, "map", mnt)
    ov.umount()
    newer = ov.lower_base / "newer"
    newer.mkdir()
    if is_a_first:  # of the walk, which goes by inodes
        write(newer / "a", "newer\n")
    (newer / "d").mkdir()
    if not is_a_first:
        write(newer / "a", "newer\n")
    for name in ("d/b", "d/c", "e"):
        os.link(newer / "a", newer / name)
    ov.lowers, ov.before, ov.check_links = [newer], None, False
    rebind(ov)
    mnt = ov.mount()
    content = {name: (mnt / name).read_text() for name in ("d/b", "d/c", "e", "a")}
    assert content == {"d/b": "B changed\n", "d/c": "B changed\n", "e": "B changed\n", "a": "newer\n"}
    ov.umount()
    map_of(ov).unlink()
    ov.may_complain = True
    refused = run(*ov.command(flags=()), check=False)
    assert refused.returncode == 1 and "reverlayctl rebind" in refused.stdout
    rebind(ov)
    mnt = ov.mount()
    assert {name: (mnt / name).read_text() for name in content} == content
