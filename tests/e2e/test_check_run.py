# SPDX-License-Identifier: GPL-2.0-or-later
"""check and repair as programs: exit codes, refusals, interruption, a live mount, random damage."""

import ctypes
import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import threading

import pytest

from rvl import CTL, run
from snapshots import assert_same, numbers, snapshot
from sysc import next_tick
from trees import fill_disk, ino, standard_tree, write
from test_check import flip, ids, use

pytestmark = pytest.mark.reverlay_only("check is of reverlay")

ROUNDS = int(os.environ.get("RVL_DAMAGE_ROUNDS", "300"))
ATTRIBUTES = ("ino", "origin", "place", "nlink", "opaque", "redirect", "impure", "metacopy",
              "path", "upper", "fh", "whiteout", "protattr", "instances")


def fsck(*args):
    """reverlayctl by the name that fsck(8) calls; (exit code, output)."""
    done = subprocess.run(["fsck.reverlay", *map(str, args)], executable=CTL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=120,
                          check=False, text=True)
    return done.returncode, done.stdout


# -- clean overlays -------------------------------------------------------------------------


@pytest.mark.layouts()
def test_nothing_to_find(ov):
    """Overlays of every kind, used and unmounted, have not even a note; repair changes nothing."""
    with ov.lower() as low:
        standard_tree(low)
        write(low / "other/a", b"a\n")
    mnt = ov.mount()
    write(mnt / "file", b"changed\n")
    os.chmod(mnt / "hard1", 0o600)
    write(mnt / "other/b", b"b\n")
    os.unlink(mnt / "symlink")
    shutil.rmtree(mnt / "sticky")
    (mnt / "sticky").mkdir()
    os.chown(mnt / "dangling", 5, 6, follow_symlinks=False)
    write(mnt / "d/e/f")
    os.rename(mnt / "d/e", mnt / "e")
    ov.umount()
    assert ov.ctl("check", "-v")[1]["problems"] == []
    before = snapshot(ov.upper, private=True)
    code, found = ov.ctl("repair", "-y", "-v")
    assert (code, found["problems"]) == (0, [])
    # work/whiteout, of which all whiteouts are links, goes with work/
    before["symlink"]["nlink"] -= 1
    assert_same(before, snapshot(ov.upper, private=True), "repair has changed upper")
    ov.mount()


def test_user_namespace_of_attributes(ov):
    """With userxattr stamps of symlinks lie on companions, which are no left-overs."""
    ov.options = ["userxattr"]
    with ov.lower() as low:
        write(low / "a")
        os.symlink("a", low / "link")
    mnt = ov.mount()
    os.symlink("x", mnt / "born")
    os.chown(mnt / "link", 5, 6, follow_symlinks=False)
    os.unlink(mnt / "a")
    ov.umount()
    assert ov.ctl("check", "-v")[1]["problems"] == []
    assert fsck("-n", "-v", ov.work)[0] == 0
    os.unlink(ov.upper / "born")
    os.utime(ov.work / "inodes/state")  # lost, and not removed after the mount
    assert ids(ov.ctl("check", "-v")[1]) == {"entry-without-name"}
    assert ov.ctl("repair", "-y")[0] == 1
    assert ov.ctl("check", "-v")[1]["problems"] == []
    assert os.readlink(ov.mount() / "lost+found" / os.listdir(ov.mnt / "lost+found")[0]) == "x"


def test_last_visible_name(ov):
    """A lower file that was removed under its last visible name, with others that lower hides, is dead: no error, and
    nothing for lost+found."""
    with ov.layer() as low:
        write(low / "d/a")
        os.link(low / "d/a", low / "hidden")
    with ov.layer() as top:
        os.mknod(top / "hidden", 0o600 | stat.S_IFCHR, 0)
    mnt = ov.mount()
    os.unlink(mnt / "d/a")
    ov.umount()
    assert ids(ov.ctl("check", "-v")[1]) == {"entry-dead"}
    assert ov.ctl("repair", "-y")[0] == 0
    assert os.listdir(ov.mount()) == ["d"]


def test_claims(overlays):
    """Numbers that a lower layer brought with it, and of which there is no record, are recorded."""
    first = overlays()
    use(first)
    shown = ino(first.mnt / "newdir/x")
    first.umount()
    second = overlays()
    second.lowers = [first.upper, *first.lowers]
    second.check_links = False  # the index of the first has links of its files
    mnt = second.mount()
    assert ino(mnt / "newdir/x") == shown
    before = numbers(mnt)
    # a file of the lower layer gets the stamp that another overlay would have given it
    (first.upper / "later").write_bytes(b"later\n")
    stamp = os.getxattr(first.upper / "newdir/x", "trusted.overlay.ino")
    os.setxattr(first.upper / "later", "trusted.overlay.ino",
                (int.from_bytes(stamp[:6], "little") + 1000).to_bytes(6, "little") + stamp[6:])
    assert online(second) == (4, {"claims-out-of-step"})
    second.umount()
    code, found = second.ctl("check", "-v")
    assert (code, ids(found)) == (4, {"claims-out-of-step"}), found
    code, found = second.ctl("repair", "-y")
    assert (code, ids(found)) == (1, {"claims-out-of-step"}), found
    assert second.ctl("check", "-v")[1]["problems"] == []
    after = numbers(second.mount())
    assert after.pop("later") == int.from_bytes(stamp[:8], "little") + 1000
    assert after == before
    second.before = None  # a lower layer has changed


# -- how it is called -----------------------------------------------------------------------


def test_ways_to_name_it(ov):
    """By options, by workdir, as fsck(8) calls it; and what is none of these."""
    use(ov)
    ov.umount()
    os.removexattr(ov.upper / "file", "trusted.overlay.ino")
    options = ov.option_string()
    for args in (["-n", ov.work], ["-n", "-o", options], ["-n", options], ["-fn", "-C0", options]):
        code, text = fsck(*args)
        assert code == 4 and "stamp-wrong" in text, (args, text)
    assert fsck("-a", ov.work) == (0, "reverlay: clean\n")
    code, text = fsck("-fp", ov.work)
    assert code == 1 and "Mended" in text
    assert fsck("-fy", ov.work)[0] == 0
    assert fsck("-V")[0] == 0
    assert fsck("-n", "/nowhere")[0] == 8
    assert fsck("-n", "/")[0] == 8
    for args in ([], ["--nonsense", ov.work], ["-n", "a", "b"], [ov.work]):
        code, text = fsck(*args)
        assert code == 16 and text, args
    assert subprocess.run([CTL, "check", "-y", ov.work], check=False).returncode == 16


def test_dump_by_options(ov):
    """dump takes the layers as the mount does, and says the same as by the workdir."""
    use(ov)
    number = ino(ov.mnt / "file")
    shown = {run(CTL, "dump", "--json", *args, number).stdout
             for args in (["-o", ov.option_string()], ["--workdir", ov.work])}
    assert len(shown) == 1 and "hard link of the upper object" in shown.pop()
    assert run(CTL, "dump", "-o", f"lowerdir={ov.lowers[0]}", number, check=False).returncode == 1


def test_mounted(ov):
    """A mounted overlay is refused, and nothing of it is touched."""
    use(ov)
    for command in ("check", "repair"):
        code, found = ov.ctl(command, "-n")
        assert code == 8 and "mounted" in found["stderr"], found
    assert fsck("-fy", ov.mnt)[0] == 8
    assert (ov.mnt / "file").read_bytes() == b"changed\n"


def test_other_layers(overlays):
    """Layers that do not belong together are refused with the command that helps."""
    a, b = overlays(), overlays()
    use(a)
    use(b)
    a.umount()
    b.umount()
    state = (a.work / "inodes/state").read_bytes()
    upper, a.upper = a.upper, b.upper
    for command in ("check", "repair"):
        code, found = a.ctl(command, *(["-y"] if command == "repair" else []))
        assert code == 8 and "rebind" in found["stderr"], found
    a.upper = upper
    assert (a.work / "inodes/state").read_bytes() == state
    a.mount()
    b.mount()


def test_read_only_media(ov):
    """Refused with the reason; once it can be written to it is repaired."""
    use(ov)
    ov.umount()
    os.removexattr(ov.upper / "file", "trusted.overlay.ino")
    for path in (ov.upper, ov.work):
        run("mount", "--bind", path, path)
        run("mount", "-o", "remount,bind,ro", path)
    try:
        code, found = ov.ctl("repair", "-y")
        assert code == 8 and "read-only" in found["stderr"], found
        code, found = ov.ctl("check")
        assert code == 8 and "read-only" in found["stderr"], found
    finally:
        run("umount", ov.work)
        run("umount", ov.upper)
    assert ov.ctl("repair", "-y")[0] == 1
    ov.mount()


def newer(ov, what):
    """The log, or the table on upper's root, becomes that of a version to come."""
    if what == "log":
        path = ov.work / "inodes/log"
        value = bytearray(path.read_bytes())
        value[8] = 2
        path.write_bytes(value)
        return
    value = bytearray(os.getxattr(ov.upper, "trusted.overlay.instances"))
    value[8] = 2
    xxh32 = ctypes.CDLL("libxxhash.so.0").XXH32
    xxh32.restype = ctypes.c_uint32
    checksum = xxh32(bytes(value[8:]), ctypes.c_size_t(len(value) - 8), 0)
    value[4:8] = checksum.to_bytes(4, "little")
    os.setxattr(ov.upper, "trusted.overlay.instances", bytes(value))


@pytest.mark.parametrize("what", ["log", "table"])
def test_newer_format(ov, what):
    """What a later version has written is refused, with a word about it, and not touched (the state: test_faults.py)."""
    use(ov)
    ov.umount()
    log, table = ov.work / "inodes/log", os.getxattr(ov.upper, "trusted.overlay.instances")
    good = log.read_bytes()
    stamp = os.getxattr(ov.upper / "file", "trusted.overlay.ino")
    newer(ov, what)
    os.removexattr(ov.upper / "file", "trusted.overlay.ino")
    before = [snapshot(path, private=True) for path in (ov.upper, ov.work)]
    for args in (["check"], ["repair", "-p"], ["repair", "-y"]):
        code, found = ov.ctl(*args)
        assert code == 8 and "newer" in found["stderr"], (args, found)
    assert [snapshot(path, private=True) for path in (ov.upper, ov.work)] == before
    log.write_bytes(good)
    os.setxattr(ov.upper, "trusted.overlay.instances", table)
    os.setxattr(ov.upper / "file", "trusted.overlay.ino", stamp)
    ov.mount()


def test_full_disk(ov, images):
    """Stopped with a clear message and exit code 8; with room again it goes on."""
    small = images.private(ov.base / "small", "ext4", "16M")
    try:
        ov.use_upper_on(small)
        ov.lower_base.joinpath("src").mkdir()
        ov.lowers = [ov.lower_base / "src"]
        mnt = ov.mount()
        for i in range(200):
            (mnt / f"d{i}").mkdir()
        before = numbers(mnt)
        ov.umount()
        for i in range(256):
            shutil.rmtree(ov.work / f"inodes/{i:02x}", ignore_errors=True)
        fill_disk(small / "fill")
        code, found = ov.ctl("repair", "-y")
        assert code == 8, found
        os.unlink(small / "fill")
        code, found = ov.ctl("repair", "-y")
        assert code == 1, found
        assert ov.ctl("check")[0] == 0
        assert numbers(ov.mount()) == before
        ov.umount()
        ov.before = None
    finally:
        run("umount", "-l", ov.mnt, check=False)
        run("umount", "-l", small)


def test_no_room_for_temporary_files(ov, monkeypatch):
    """It says what it has no room for, and nothing is the matter with the overlay."""
    with ov.lower() as low:
        for i in range(4000):
            write(low / f"a directory/{i:0100}", b"")
    mnt = ov.mount()
    write(mnt / "file")
    ov.umount()
    small = ov.base / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small)
    monkeypatch.setenv("TMPDIR", str(small))
    try:
        for command in (["check"], ["repair", "-y"]):
            code, found = ov.ctl(*command)
            assert code == 8 and "a temporary file (in TMPDIR" in found["stderr"], found
    finally:
        run("umount", "-l", small)
    monkeypatch.undo()
    assert ov.ctl("repair", "-y")[0] in (0, 1)
    ov.mount()


# -- interruption ---------------------------------------------------------------------------


def test_killed(ov):
    """Killed at any moment, a repair is gone on with by the next; nothing is worse."""
    use(ov)
    for i in range(150):
        write(ov.mnt / f"many/{i}", b"%d\n" % i)
    before = snapshot(ov.mnt)
    ov.umount()
    rng = random.Random(1)
    for i in range(256):
        shutil.rmtree(ov.work / f"inodes/{i:02x}", ignore_errors=True)
    os.removexattr(ov.upper / "moved", "trusted.overlay.ino")
    command = [CTL, "repair", "-y", "-o", ov.option_string()]
    n_killed = 0
    for _ in range(25):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(rng.uniform(0.001, 0.08))
            except subprocess.TimeoutExpired:
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
                n_killed += 1
            process.wait()
            # asked to end it says so, once it has begun
            assert process.returncode in (0, 1, 32, -signal.SIGKILL, -signal.SIGTERM)
    print(f"killed {n_killed} times")
    assert ov.ctl("repair", "-y")[0] in (0, 1)
    assert ov.ctl("check", "-v")[1]["problems"] == []
    mnt = ov.mount()
    after = snapshot(mnt)
    for path, info in before.items():
        if not info["mode"].startswith("0o4"):
            assert after[path] == info, path
        elif path != "moved":
            assert after[path]["ino"] == info["ino"], path


# -- a live mount ---------------------------------------------------------------------------


def online(ov):
    """check --online of a live mount: exit code, ids."""
    done = subprocess.run([CTL, "check", "--online", "--json", str(ov.mnt)], capture_output=True,
                          text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, {problem["id"] for problem in json.loads(done.stdout)["problems"]}


def test_online(ov):
    """Under load check finds nothing; damage that stays is found; nothing is mended."""
    use(ov)
    mnt = ov.mnt
    run(CTL, "map", mnt)
    stop = threading.Event()

    def load():
        i = 0
        while not stop.is_set():
            i += 1
            write(mnt / f"load/{i % 20}/a", b"%d\n" % i)
            os.rename(mnt / f"load/{i % 20}", mnt / f"load/r{i % 20}")
            os.link(mnt / f"load/r{i % 20}/a", mnt / f"load/l{i}")
            os.unlink(mnt / f"load/l{i}")
            os.link(mnt / "hard1", mnt / f"load/h{i}")
            os.unlink(mnt / f"load/h{i}")
            shutil.rmtree(mnt / f"load/r{i % 20}")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(5):
            assert online(ov) == (0, set())
    finally:
        stop.set()
        thread.join()
    os.setxattr(ov.upper / "newdir", "trusted.overlay.opaque", b"zz")
    assert online(ov) == (4, {"opaque-value"})
    os.removexattr(ov.upper / "newdir", "trusted.overlay.opaque")


@pytest.mark.parametrize("problem", ["nlink-wrong", "place-stale", "map-stale"])
def test_online_damage(ov, problem):
    """What was left to check without a mount once: link counts, places, the map."""
    use(ov)
    run(CTL, "map", ov.mnt)
    entry = ov.work / "inodes" / f"{ino(ov.mnt / 'moved') & 0xff:02x}" / f"#{ino(ov.mnt / 'moved')}"
    target, name, value = {
        "nlink-wrong": (ov.upper / "hard1", "nlink", b"U-2"),
        "place-stale": (entry, "place", (1).to_bytes(8, "little") + b"nowhere"),
        "map-stale": (None, "", b""),
    }[problem]
    assert online(ov) == (0, set())
    if target:
        old = os.getxattr(target, f"trusted.overlay.{name}")
        os.setxattr(target, f"trusted.overlay.{name}", value)
        next_tick()  # what changed in the tick in which the check begins may have changed since
    else:
        write(ov.lowers[0] / "later")
    assert online(ov) == (4, {problem})
    if target:
        os.setxattr(target, f"trusted.overlay.{name}", old)
    else:
        ov.before, ov.check_remount, ov.check_clean = None, False, False


# -- random damage --------------------------------------------------------------------------


def damage(rng, ov, paths, entries):
    """One random change of an attribute or of a byte below inodes; a line that tells of it."""
    kind = rng.randrange(4)
    if kind == 0:  # a byte of a file of the index
        files = [p for p in sorted((ov.work / "inodes").iterdir()) if p.is_file() and
                 p.name in ("state", "log", "assigned", "map.mdb", "map.seal", "state.new")]
        path = rng.choice(files)
        size = path.stat().st_size
        if not size:
            return f"{path.name} is empty"
        at = rng.randrange(size)
        flip(path, at)
        return f"byte {at} of {path.name}"
    target = rng.choice(paths if kind < 3 else entries)
    name = "trusted.overlay." + rng.choice(ATTRIBUTES)
    value = rng.choice([None, b"", b"y", rng.randbytes(12), rng.randbytes(rng.randrange(60)),
                        "flip"])
    try:
        if value is None:
            os.removexattr(target, name, follow_symlinks=False)
        elif value == "flip":
            old = bytearray(os.getxattr(target, name, follow_symlinks=False))
            old[rng.randrange(len(old))] ^= 1 << rng.randrange(8)
            os.setxattr(target, name, bytes(old), follow_symlinks=False)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)
    except (OSError, IndexError, ValueError):
        pass
    return f"{target}: {name} = {value!r}"


def files_of(root):
    """{path: content} of the tree's files; what answers EIO is left out: damaged, but not wrong."""
    found = {}
    for path, _, names in os.walk(root):
        for name in names:
            full = os.path.join(path, name)
            try:
                if stat.S_ISREG(os.lstat(full).st_mode):
                    with open(full, "rb") as file:
                        found[os.path.relpath(full, root)] = file.read()
            except OSError as error:
                assert error.errno == errno.EIO, (full, error)
    return found


@pytest.mark.seconds(600)
@pytest.mark.layouts("tmpfs")
def test_random_damage(ov):
    """Damage at random: never a crash, never another file's data under a name; then repaired."""
    use(ov)
    run(CTL, "stat", ov.mnt)
    before = files_of(ov.mnt)
    ov.umount()
    run(CTL, "map", "-o", ov.option_string())
    seed = int(os.environ.get("RVL_DAMAGE_SEED", random.randrange(1 << 32)))
    print(f"RVL_DAMAGE_SEED={seed} RVL_DAMAGE_ROUNDS={ROUNDS}")
    rng = random.Random(seed)
    saved = ov.base / "saved"
    saved.mkdir()
    for path in (ov.upper, ov.work):
        run("cp", "-a", path, saved)
    codes, done = {}, []
    for i in range(ROUNDS):
        paths = sorted(p for p in ov.upper.rglob("*"))
        entries = sorted((ov.work / "inodes").glob("[0-9a-f][0-9a-f]/#*"))
        done += [damage(rng, ov, paths + [ov.upper], entries) for _ in range(rng.randrange(1, 6))]
        where = f"round {i}: {done}"
        code, _ = ov.ctl("check")
        assert code in (0, 4, 8), where
        code, found = ov.ctl("repair", "-y")
        assert code in (0, 1, 4, 8), where
        if code in (4, 8):
            code, found = ov.ctl("repair", "--rebuild")
            # the version in the head of the log has no checksum
            assert code in (0, 1, 4) or "newer version" in found["stderr"], (where, found)
        codes[code] = codes.get(code, 0) + 1
        assert ov.ctl("check")[0] in (0, 4) or code == 8, where
        if code == 8:
            restore(ov, saved)
            done.clear()
        if i % 10 == 9:
            ov.may_complain = True
            if code == 4 and any(problem["id"] == "map-lost" for problem in found["problems"]):
                # the mount would be refused, with this command
                assert "reverlayctl rebind" in found["problems"][0]["error"], where
                run(CTL, "rebind", "-o", ov.option_string())
            mnt = ov.mount()
            compare(before, files_of(mnt), where)
            ov.umount()
            restore(ov, saved)
            done.clear()
    print(f"exit codes of repair: {codes}")
    ov.before = None
    ov.check_clean = False


def compare(before, after, where):
    """Each file that is shown where it was has its data."""
    for path, data in before.items():
        if path in after:
            others = [p for p, d in before.items() if d == after[path]]
            assert after[path] in [data, *HIDDEN.get(path, [])], \
                f"{where}: {path} has {after[path][:40]!r}, was {data[:40]!r} (of {others})"


# What upper hid may come to light: the lower file of that name. And what lost overlay.metacopy is a hole.
HIDDEN = {"file": [b"lower\n"], **dict.fromkeys(["hard1", "hard2", "moved/hard3"], [b"hard\n"]),
          "moved/inner": [b"inner\n"], "other/a": [b"a\n"], "meta": [bytes(5)], "victim": [bytes(2), b"v\n"]}


def restore(ov, saved):
    """Upper and work as they were, in place: their handles are what the state knows them by."""
    for path in (ov.upper, ov.work):
        for child in path.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
        run("rsync", "-aHAX", f"{saved}/{path.name}/", f"{path}/")
