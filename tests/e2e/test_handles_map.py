# SPDX-License-Identifier: GPL-2.0-or-later
"""The map of the lower layers: made by reverlayctl, damaged, on a full disk; and damaged entries."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import time
from concurrent import futures

import pytest

import rvl
import sysc
from rvl import run
from trees import ino, write
from test_handles_decode import content_by, counters, entry_of, is_stale, number_by

pytestmark = pytest.mark.reverlay_only("the kernel's overlay has no map")

FILES = 3000


def ctl(*args, code=0):
    """What it says: on standard output, or if it fails on standard error."""
    result = subprocess.run([rvl.CTL, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, check=False, timeout=60)
    assert result.returncode == code, result.stderr
    return result.stderr if code else result.stdout


def fill_lower(ov, n=FILES):
    with ov.lower() as low:
        for i in range(n):
            write(low / f"d{i % 30}/s/f{i}", f"{i}\n")
        os.link(low / "d0/s/f0", low / "d1/s/link")
        os.symlink("nowhere", low / "d2/symlink")


def take(ov, n=200):
    """Handles, numbers and contents of some files and directories."""
    names = [f"d{i % 30}/s/f{i}" for i in range(0, FILES, FILES // n)]
    files = [(sysc.handle(ov.mnt / name), ino(ov.mnt / name), (ov.mnt / name).read_text()) for name in names]
    return files, [(sysc.handle(ov.mnt / f"d{i}/s"), ino(ov.mnt / f"d{i}/s")) for i in range(30)]


def check(ov, taken):
    files, dirs = taken
    for fh, number, content in files:
        assert number_by(ov.mnt, fh) == number
        assert content_by(ov.mnt, fh) == content
    for fh, number in dirs:
        assert number_by(ov.mnt, fh) == number


# ---- reverlayctl map ----


def test_map_command(ov):
    """It makes the map of a live mount and of one that is not mounted, shows it, and the next mount uses it."""
    fill_lower(ov)
    options = ov.option_string()
    assert "not mounted yet" in ctl("map", "-o", options, code=1)
    mnt = ov.mount()
    taken = take(ov, 20)
    assert json.loads(ctl("map", "--show", "--json", mnt)) == {"complete": False, "names": 0, "bytes": 0}
    made = json.loads(ctl("map", "--json", mnt))
    names = FILES + 60 + 2
    assert made["complete"] is True and made["names"] == names and made["bytes"] > 20 * names
    now = counters(ov)
    assert now["map_names"] == names and now["map_is_complete"] == 1
    assert json.loads(ctl("map", "--json", mnt)) == made
    assert "complete" in ctl("map", "--show", mnt) and "names" in ctl("map", mnt)
    ov.umount()
    assert json.loads(ctl("map", "--json", "-o", options)) == made

    # not mounted: made, shown, used by the next mount
    (ov.work / "inodes/map.mdb").unlink()
    assert json.loads(ctl("map", "--show", "--json", "-o", options))["complete"] is False
    assert not (ov.work / "inodes/map.mdb").exists()
    assert json.loads(ctl("map", "--json", "-o", options)) == made
    ov.mount()
    check(ov, taken)
    now = counters(ov)
    assert now["map_is_complete"] == 1 and now["map_names"] == 0
    assert "is mounted" in ctl("map", "-o", options, code=1)

    # after a crash it is the mount that goes first
    ov.kill()
    assert "did not end cleanly" in ctl("map", "-o", options, code=1)
    assert json.loads(ctl("map", "--show", "--json", "-o", options))["names"] == names
    ov.mount()
    check(ov, taken)


def test_map_in_the_background(ov):
    """With nfs_export=on it is begun at once; the counters and the log tell of it; umount keeps what is done."""
    fill_lower(ov)
    ov.mount("nfs_export=on")
    end = time.monotonic() + 20
    while not counters(ov)["map_is_complete"] and time.monotonic() < end:
        pass
    assert counters(ov)["map_names"] == FILES + 62
    assert f"complete: {FILES + 62} names, 0 left out" in ov.messages()
    ov.remount("nfs_export=on")
    while not counters(ov)["map_is_complete"] and time.monotonic() < end:
        pass
    assert counters(ov)["map_names"] == 0


@pytest.mark.parametrize("transport", ["on", "off"])
@pytest.mark.parametrize("is_stopped", [False, True], ids=["answered", "stopped"])
def test_decode_waits_for_the_map(ov, overlays, is_stopped, transport):
    """Handles that are used while the layers are walked wait for it; if the server is stopped meanwhile they are to
    be tried again, which the next mount answers."""
    slow = overlays()
    with slow.lower() as low:
        write(low / "slow/file")
    fill_lower(ov, FILES // 10)
    ov.lowers.append(slow.mount(upper=False))
    mnt = ov.mount()
    taken = [(sysc.handle(mnt / name), ino(mnt / name)) for name in ("d0/s/f0", "d7/s/f7", "d9/s")]
    with rvl.uring_enabled():
        ov.remount(f"io_uring={transport}")
    assert not (ov.work / "inodes/map.mdb").exists()
    rvl.stop(slow.process)
    with futures.ThreadPoolExecutor() as threads:
        try:
            waiting = [threads.submit(number_by, mnt, fh) for fh, _ in taken]
            while counters(ov)["decodes"] < len(taken):
                pass
            done = [one.exception() or one.result() for one in waiting if one.done()]
            assert not done
            if is_stopped:
                ov.process.send_signal(signal.SIGTERM)
                rvl.wait_until(lambda: not rvl.is_mounted(mnt), "the umount")
        finally:
            slow.process.send_signal(signal.SIGCONT)
        if is_stopped:
            assert [one.exception(timeout=30).errno for one in waiting] == [errno.ENOMEM] * len(taken)
            ov.wait_exit()
            ov.mount()
        else:
            assert [one.result(timeout=30) for one in waiting] == [number for _, number in taken]
            assert counters(ov)["map_is_complete"] == 1
    assert [number_by(mnt, fh) for fh, _ in taken] == [number for _, number in taken]


def test_resolve_by_the_map(ov):
    """resolve of layers that are not mounted gives the same with a map and without."""
    fill_lower(ov)
    mnt = ov.mount()
    ctl("map", mnt)
    os.rename(mnt / "d0", mnt / "renamed")
    os.rename(mnt / "d1/s", mnt / "d3/moved")
    write(mnt / "d2/s/f2", "copied up\n")
    os.unlink(mnt / "d4/s/f4")
    options = ("-o", ov.option_string())
    asked = [ino(mnt / name) for name in ("renamed/s/f0", "renamed/s/f30", "d3/moved/f31", "d2/s/f2", "d2/symlink",
                                          "d3/moved", "renamed")]
    ov.umount()
    answers = [json.loads(ctl("resolve", "--json", *options, str(number))) for number in asked]
    assert sorted(answers[0]["paths"]) == ["/d3/moved/link", "/renamed/s/f0"]
    assert [a["paths"] for a in answers[1:]] == [["/renamed/s/f30"], ["/d3/moved/f31"], ["/d2/s/f2"], ["/d2/symlink"],
                                                  ["/d3/moved"], ["/renamed"]]
    (ov.work / "inodes/map.mdb").unlink()
    for number, answer in zip(asked, answers):
        other = json.loads(ctl("resolve", "--json", *options, str(number)))
        for what in ("paths", "real"):
            other[what].sort()
            answer[what].sort()
        assert other == answer


def test_resolve_odd_names(ov):
    """The real object is shown also where the name is not as it is printed; live as of layers that are not mounted."""
    with ov.lower() as low:
        write(low / "d/file")
    mnt = ov.mount()
    names = [b"back\\slash", b"new\nline", b"not utf-8 \xff", "\u00fcml\u00e4ut".encode()]
    for name in names:
        with open(os.path.join(os.fsencode(mnt / "d"), name), "wb"):
            pass
    numbers = [os.stat(os.path.join(os.fsencode(mnt / "d"), name)).st_ino for name in names] + [ino(mnt / "d"), 1]
    live = [json.loads(ctl("resolve", "--json", mnt, str(number))) for number in numbers]
    ov.umount()
    for number, answer in zip(numbers, live):
        other = json.loads(ctl("resolve", "--json", "-o", ov.option_string(), str(number)))
        assert answer["real"] and answer["real"] == other["real"]
        assert answer["paths"] == other["paths"]


# ---- damage ----


@pytest.mark.parametrize("end", ["clean", "killed"])
def test_map_damaged(ov, end):
    """A map that was damaged on disk, also after a crash, is made anew: one line, one counter, the same answers."""
    fill_lower(ov)
    ov.may_complain = True
    ov.mount()
    taken = take(ov, 40)
    ctl("map", ov.mnt)
    seed = int(os.environ.get("RVL_SEED", time.time_ns() & 0xffffffff))
    print(f"seed {seed}")
    rnd = random.Random(seed)
    path = ov.work / "inodes/map.mdb"
    n_damaged = 0
    for _ in range(12):
        getattr(ov, "kill" if end == "killed" else "umount")()
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            for _ in range(8):
                # the heads of pages more often than the rest
                at = rnd.randrange(size // 4096) * 4096
                file.seek(at + rnd.randrange(64 if rnd.random() < 0.7 else 4000))
                file.write(rnd.randbytes(rnd.choice([1, 2, 8, 96])))
        before = ov.messages().count("is damaged")
        ov.mount()
        check(ov, taken)
        ctl("map", ov.mnt)
        now = counters(ov)
        assert now["map_is_complete"] == 1
        assert now["damaged"] <= 1
        n_damaged += now["damaged"]
        assert ov.messages().count("is damaged") <= before + 1
    assert n_damaged >= (12 if end == "clean" else 6)


def remove_path(ov, number):
    os.removexattr(entry_of(ov, number), "trusted.overlay.path")


def spoil(name, value):
    def do(ov, number):
        os.setxattr(entry_of(ov, number), f"trusted.overlay.{name}", value)
    return do


def directory_instead(ov, number):
    entry_of(ov, number).unlink()
    entry_of(ov, number).mkdir()


def other_instead(ov, number):
    entry_of(ov, number).unlink()
    write(entry_of(ov, number), "not it\n")


DAMAGES = {  # name: (of a directory, what is done)
    "no path": (True, remove_path),
    "path": (True, spoil("path", b"short")),
    "path with a slash": (True, spoil("path", bytes(8) + b"a/b")),
    "path in a loop": (True, None),
    "handle": (True, spoil("upper", b"\xff" * 30)),
    "directory": (False, directory_instead),
    "other file": (False, other_instead),
    "no stamp": (False, lambda ov, number: os.removexattr(entry_of(ov, number), "trusted.overlay.ino")),
    "stamp": (False, spoil("ino", b"x" * 12)),
    "stamp of another": (False, spoil("ino", bytes([77, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]))),
    "links": (False, spoil("nlink", b"U+many")),
}


def test_entries_damaged(ov):
    """A damaged entry is EIO or ESTALE for that object alone, with one line and the counter."""
    with ov.lower() as low:
        for i in range(40):
            write(low / f"f{i}", f"{i}\n")
    ov.may_complain = True
    ov.check_remount = ov.check_links = ov.check_clean = False
    mnt = ov.mount()
    taken = {}
    for i in range(20):
        os.mkdir(mnt / f"dir{i}")
        write(mnt / f"dir{i}/in", f"dir{i}\n")
        write(mnt / f"f{i}", f"changed {i}\n")
        taken[f"dir{i}"] = (sysc.handle(mnt / f"dir{i}"), ino(mnt / f"dir{i}"))
        taken[f"f{i}"] = (sysc.handle(mnt / f"f{i}"), ino(mnt / f"f{i}"))
    ov.umount()
    spoiled = []
    for i, (name, (is_dir, damage)) in enumerate(DAMAGES.items()):
        victim = f"dir{i}" if is_dir else f"f{i}"
        fh, number = taken.pop(victim)
        if name == "path in a loop":
            damage = spoil("path", number.to_bytes(8, "little") + b"self")
        damage(ov, number)
        spoiled.append((name, victim, fh, number))
    ov.mount()
    for name, victim, fh, number in spoiled:
        before = counters(ov)
        if name == "path in a loop":
            assert number_by(mnt, fh) == number  # its handle is sound
        else:
            assert is_stale(mnt, fh), name
        after = counters(ov)
        grown = after["damaged"] - before["damaged"]
        assert grown == 1 or (grown == 2 and name == "path in a loop"), (name, victim, grown)
    assert "is damaged; see reverlayctl check" in ov.messages()
    for name, (fh, number) in taken.items():
        assert number_by(mnt, fh) == number, name
        assert ino(mnt / name) == number, name


def test_state_damaged(ov):
    """A damaged state is told at the mount, which is refused; nothing is changed."""
    fill_lower(ov, 60)
    ov.mount()
    write(ov.mnt / "born")
    ov.umount()
    state = ov.work / "inodes/state"
    good = state.read_bytes()
    for at in (3, 9, 60, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 0x10
        state.write_bytes(bad)
        result = rvl.run(*ov.command(), check=False, timeout=30)
        assert result.returncode != 0 and "state" in result.stdout, result.stdout
        assert state.read_bytes() == bad
    state.write_bytes(good)
    ov.mount()


# ---- a full disk ----


def fill(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 4096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(fd, bytes(size))
    os.close(fd)


def test_full_disk_stops_no_reader(ov, scratch):
    """With no room beneath, handles of lower and upper decode, directories that were moved too; the map is in memory."""
    fill_lower(ov)
    base = ov.images.private(scratch / "full", "ext4", "24M")
    ov.mounted_helpers.append(base)
    ov.use_upper_on(base)
    ov.may_complain = True
    mnt = ov.mount()
    files, dirs = take(ov, 100)
    os.makedirs(mnt / "born/inner")
    write(mnt / "born/inner/file", "born\n")
    born = [(sysc.handle(mnt / name), ino(mnt / name)) for name in ("born/inner/file", "born/inner", "born")]
    os.rename(mnt / "d7", mnt / "born/seven")
    ov.umount()
    assert not (ov.work / "inodes/map.mdb").exists()
    os.rename(ov.upper / "born", ov.upper / "moved")
    ov.mount()
    fill(base / "fill")
    for is_first in (True, False):
        check(ov, (files, dirs))
        for fh, number in born:
            assert number_by(mnt, fh) == number
        assert (mnt / "moved/inner/file").read_text() == "born\n"
        assert len(os.listdir(mnt / "moved/seven/s")) == FILES // 30
        assert counters(ov)["map_is_complete"] == 1
        # the second mount may find room where the first one gave some back
        assert not is_first or json.loads(ctl("map", "--json", mnt))["in_memory"] is True
        ov.kill_remount()
    assert "no room on the disk" in ov.messages()
    (base / "fill").unlink()
    ov.remount()
    check(ov, (files, dirs))
    assert "in_memory" not in json.loads(ctl("map", "--json", mnt))


def test_room_for_a_part_of_the_map(ov, scratch):
    """Where the first pages of a new map fit onto the disk and the next do not, handles decode, also at the next mount."""
    with ov.lower() as low:
        write(low / "dir/file", "content\n")
    base = scratch / "nearly-full"
    base.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", base)
    ov.mounted_helpers.append(base)
    ov.use_upper_on(base)
    ov.may_complain = True
    mnt = ov.mount()
    fh = sysc.handle(mnt / "dir/file")
    ov.umount()
    for n_pages in range(8):
        (base / "room").write_bytes(bytes(4096 * n_pages))
        fill(base / "fill")
        (base / "room").unlink()
        for _ in range(2):
            ov.mount()
            assert content_by(mnt, fh) == "content\n", n_pages
            ov.umount()
        for name in ("fill", "work/inodes/map.mdb"):
            (base / name).unlink(missing_ok=True)
        for seal in (ov.work / "inodes").glob("map.seal*"):
            seal.unlink()
    ov.mount()
