# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside user-mode Linux: the kernel's NFS server exports a mount, its own client uses it.

The recipes of docs/nfs.md run as they are: layers in /srv/base, /srv/upper, /srv/work, the mount
on /srv/export. Prints "CHECK name ok" or "CHECK name failed" and a traceback for each check, and
"DONE" at the end. tests/e2e/test_nfs_kernel.py reads that.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import signal
import stat
import struct
import subprocess
import threading
import time
import traceback
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BASE, EXPORT = Path("/srv/base"), Path("/srv/export")
CLIENTS = {"3": Path("/run/c3"), "4.2": Path("/run/c4")}
CHECK_SECONDS = 240


def recipe(name):
    text = (TOP / "docs/nfs.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- recipe: " + re.escape(name) + r" -->\n+```[a-z]*\n(.*?)\n```", text,
                      re.S)
    assert found, f"docs/nfs.md has no recipe {name}"
    return found.group(1)


def run(command, timeout=40):
    result = subprocess.run(["sh", "-e", "-c", command], timeout=timeout, check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            stdin=subprocess.DEVNULL)
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}"
    return result.stdout


def start():
    run(recipe("mount"))
    run("rpcbind; rpc.statd --no-notify; rpc.mountd")
    # our client is root; grace periods of a minute and a half would be waited for
    run(recipe("knfsd-export").replace("--clients localhost", "--clients localhost --no-root-squash"))
    run("echo 10 >/proc/fs/nfsd/nfsv4leasetime; echo 10 >/proc/fs/nfsd/nfsv4gracetime")
    run("echo 3 >/proc/sys/fs/nfs/nlm_grace_period || :")
    run(recipe("knfsd-start"))
    end_grace()
    for version, where in CLIENTS.items():
        where.mkdir()
        run(f"mount -t nfs -o vers={version},hard localhost:/srv/export {where}")


def end_grace():
    """Nobody has anything (more) to claim from before: new locks and opens need not wait."""
    Path("/proc/fs/nfsd/v4_end_grace").write_text("Y\n")


def end_grace_after_locks():
    """The same, as soon as the client has claimed its lock."""
    def watch():
        for _ in range(300):
            for states in Path("/proc/fs/nfsd/clients").glob("*/states"):
                with contextlib.suppress(OSError):
                    if "type: lock" in states.read_text():
                        end_grace()
                        return
            time.sleep(0.1)  # the kernel tells nobody
    threading.Thread(target=watch, daemon=True).start()


def wait_gone(pid):
    """The server syncs its state before it ends, which takes long on a disk that is busy."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        assert select.select([fd], [], [], CHECK_SECONDS)[0], "the server has not ended"
        os.close(fd)


def restart(kill=False, has_lock=False, meanwhile=None):
    """By the recipe; the clients wait meanwhile, and must not notice."""
    old = os.lstat(EXPORT).st_dev
    stop, go_on = recipe("knfsd-restart").split("umount /srv/export\n")
    run(stop)
    pid = int(json.loads(run("reverlayctl stat --json /srv/export"))["pid"])
    if kill:
        os.kill(pid, signal.SIGKILL)
        run("umount -l /srv/export")
    else:
        run("umount /srv/export")
    wait_gone(pid)
    where = Path(f"/run/device{old}")
    where.mkdir()
    run(f"mount -t tmpfs tmpfs {where}")  # takes the device number that is free now
    if meanwhile:
        meanwhile()
    run(go_on)
    if has_lock:
        end_grace_after_locks()
    else:
        end_grace()
    assert os.lstat(EXPORT).st_dev != old, "the same st_dev again: this proves nothing"


# -- checks ---------------------------------------------------------------------------------


def view(top):
    seen = {}
    for path, dirs, files in os.walk(top):
        if "large" in dirs:
            dirs.remove("large")
        for name in dirs + files:
            full = os.path.join(path, name)
            st = os.lstat(full)
            content = None
            if stat.S_ISREG(st.st_mode):
                content = Path(full).read_bytes()
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(full)
            seen[os.path.relpath(full, top)] = (st.st_ino, st.st_mode, st.st_nlink, st.st_uid,
                                                st.st_gid, st.st_mtime_ns, content)
        for entry in os.scandir(path):
            assert entry.inode() == entry.stat(follow_symlinks=False).st_ino, entry.path
    return seen


def check_linux(_):
    """The kernel that this is a proof for."""
    release = os.uname().release
    print(f"Linux {release}")
    assert release.startswith("6.1"), release


def check_view(top):
    assert view(top) == view(EXPORT)
    assert len(view(top)) > 10


def check_copy_up(top):
    """A write through NFS copies up; number and handle stay."""
    path = top / f"tree/{top.name}/copy"
    before = path.stat().st_ino
    lower = (BASE / f"tree/{top.name}/copy").read_bytes()
    with open(path, "r+b", buffering=0) as file:
        file.write(b"UP")
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_ino == before
    assert path.read_bytes() == b"UP" + lower[2:]
    assert (EXPORT / f"tree/{top.name}/copy").read_bytes() == b"UP" + lower[2:]
    assert (BASE / f"tree/{top.name}/copy").read_bytes() == lower
    assert Path(f"/srv/upper/tree/{top.name}/copy").exists()


def check_hard_links(top):
    where = top / f"tree/{top.name}"
    one, two, three = (where / name for name in ("h1", "h2", "h3"))
    assert one.stat().st_ino == two.stat().st_ino and one.stat().st_nlink == 2
    os.link(one, three)
    assert three.stat().st_nlink == 3
    two.write_bytes(b"all\n")
    assert one.read_bytes() == three.read_bytes() == b"all\n"
    os.unlink(one)
    assert two.stat().st_nlink == 2 and three.read_bytes() == b"all\n"


def check_rename(top):
    """Files held open stay reachable when everything above them is renamed."""
    where = top / f"tree/{top.name}"
    with open(where / "r/s/file", "r+b", buffering=0) as file:
        number = os.fstat(file.fileno()).st_ino
        os.rename(where / "r/s/file", where / "r/s/file2")
        os.rename(where / "r/s", where / "r/t")
        os.rename(where / "r", where / "q")
        file.write(b"RENAMED")
        os.fsync(file.fileno())
        assert (where / "q/t/file2").read_bytes().startswith(b"RENAMED")
        assert (where / "q/t/file2").stat().st_ino == number
    assert not (where / "r").exists()


def check_stale(top):
    """The same name again is another object."""
    path = top / f"tree/{top.name}/again"
    old = path.stat().st_ino
    os.unlink(path)
    path.write_bytes(b"new\n")
    assert path.stat().st_ino != old and path.read_bytes() == b"new\n"


def wire_handle(path):
    """The server's handle of a file on a client's mount: the client's own one has it inside.

    fs/nfs/export.c: number (64 bits), type (32), struct nfs_fh (size 16 bits, data).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buf = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount_id = ctypes.c_int()
    result = libc.name_to_handle_at(-100, os.fsencode(path), buf, ctypes.byref(mount_id), 0)
    assert result == 0, os.strerror(ctypes.get_errno())
    data = buf.raw[8:]
    size, = struct.unpack_from("H", data, 12)
    return data[14:14 + size].hex()


def check_resolve(top):
    """The tool knows the server's handles, in both directions."""
    for name in (f"tree/{top.name}/copy", f"tree/{top.name}/sub/deep", f"tree/{top.name}"):
        wire = wire_handle(top / name)
        answer = json.loads(run(f"reverlayctl resolve --json /srv/export {wire}"))
        assert answer["paths"] == ["/" + name]
        assert answer["number"] == (top / name).stat().st_ino
        by_path = json.loads(run(f"reverlayctl resolve --json /srv/export /{name}"))
        assert by_path["handles"]["knfsd"] == wire


def posix_lock(file, kind, start=0, length=0):
    fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))


def check_locks(top):
    """A lock of the client holds against a process on the server, and back."""
    name = f"tree/{top.name}/copy"
    with open(top / name, "r+b") as remote, open(EXPORT / name, "r+b") as local:
        posix_lock(remote, fcntl.F_WRLCK)
        with contextlib.suppress(BlockingIOError, PermissionError):
            posix_lock(local, fcntl.F_WRLCK)
            raise AssertionError("two have the lock")
        posix_lock(remote, fcntl.F_UNLCK)
        posix_lock(local, fcntl.F_WRLCK)
        with contextlib.suppress(BlockingIOError, PermissionError):
            posix_lock(remote, fcntl.F_WRLCK)
            raise AssertionError("two have the lock")


def check_held_open(top):
    """Open files, a working directory and a lock outlive restarts of reverlay beneath."""
    where = top / f"held/{top.name}"
    read = open(where / "read", "rb", buffering=0)
    write = open(where / "write", "r+b", buffering=0)
    born = open(where / "born", "w+b", buffering=0)
    gone = open(where / "gone", "rb", buffering=0)
    directory = os.open(where / "dir", os.O_RDONLY)
    born.write(b"one")
    os.unlink(where / "gone")  # the client renames it, since it is open
    # One kernel is client and server here, with one lockd for both, which never stops: it would
    # keep the file of a v3 lock open. Two machines do not have that.
    has_lock = top.name == "c4"
    if has_lock:
        posix_lock(write, fcntl.F_WRLCK, 0, 10)
    numbers = [os.fstat(f.fileno()).st_ino for f in (read, write, born, gone)]
    for turn, kill in enumerate((False, True)):
        restart(kill, has_lock)
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        write.write(b"turn %d " % turn)
        os.fsync(write.fileno())
        born.write(b"+")
        os.fsync(born.fileno())
        for file, start in ((read, b"held"), (gone, b"held")):
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            assert file.read(4) == start
        assert [os.fstat(f.fileno()).st_ino for f in (read, write, born, gone)] == numbers
        assert sorted(os.listdir(directory)) == ["in1", "in2"]
        if has_lock:
            with open(EXPORT / f"held/{top.name}/write", "r+b") as local:
                with contextlib.suppress(BlockingIOError, PermissionError):
                    posix_lock(local, fcntl.F_WRLCK, 0, 10)
                    raise AssertionError("the lock was lost in the restart")
        os.rename(where / f"dir{turn or ''}", where / f"dir{turn + 1}")
    assert (where / "write").read_bytes().startswith(b"turn 0 turn 1 ")
    assert (where / "born").read_bytes() == b"one++"
    for file in (read, write, born, gone):
        file.close()
    os.close(directory)
    assert (EXPORT / f"held/{top.name}/born").read_bytes() == b"one++"
    assert sorted(os.listdir(EXPORT / f"held/{top.name}")) == ["born", "dir2", "read", "write"]


LAYERS = "lowerdir=/srv/base,upperdir=/srv/upper,workdir=/srv/work"


def move_layers():
    """Copies take the place of all layers, but for the many files of one directory, which stays itself."""
    before = [os.lstat(f"/srv/{name}").st_ino for name in ("base", "upper", "work")]
    run("""
        mkdir /srv/old /srv/new
        rsync -aHAX /srv/upper /srv/work /srv/new
        rsync -aHAX --exclude=/base/large /srv/base /srv/new
        mv /srv/base/large /srv/new/base
        mv /srv/base /srv/upper /srv/work /srv/old
        mv /srv/new/* /srv
    """, CHECK_SECONDS)
    assert not set(before) & {os.lstat(f"/srv/{name}").st_ino for name in ("base", "upper", "work")}
    report = json.loads(run(f"reverlayctl rebind --json -o {LAYERS}", CHECK_SECONDS))
    assert report["told"] == [] and report["had_map"], report
    run("rm -rf /srv/old /srv/new")


def check_moved(top):
    """Open files and a directory outlive a move of all layers: other inodes, the same numbers."""
    where = top / f"moved/{top.name}"
    files = {name: open(where / name, "r+b", buffering=0) for name in ("plain", "copied", "h1", "renamed")}
    born = open(where / "born", "w+b", buffering=0)
    directory = os.open(where / "dir", os.O_RDONLY)
    files["copied"].write(b"UP")
    files["h1"].write(b"ONE")
    os.rename(where / "renamed", where / "other")
    for file in (*files.values(), born):
        os.fsync(file.fileno())
    numbers = [os.fstat(f.fileno()).st_ino for f in (*files.values(), born)]
    tree = view(where)
    run("reverlayctl map /srv/export", CHECK_SECONDS)
    restart(meanwhile=move_layers)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
    assert [os.fstat(f.fileno()).st_ino for f in (*files.values(), born)] == numbers
    assert sorted(os.listdir(directory)) == ["in1", "in2"]
    assert view(where) == tree
    for file in (*files.values(), born):
        os.pwrite(file.fileno(), b"MOVED", 2)
        os.fsync(file.fileno())
    for name in ("plain", "copied", "h1", "h2", "other", "born"):
        assert (EXPORT / f"moved/{top.name}/{name}").read_bytes()[2:7] == b"MOVED", name
    assert (where / "h1").stat().st_nlink == 2
    for file in (*files.values(), born):
        file.close()
    os.close(directory)


def check_large_directory(top):
    """What was there all the time is listed exactly once, with changes and a restart meanwhile."""
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
    where = EXPORT / "large"
    seen = {}
    n = restarts = 0
    with os.scandir(top / "large") as entries:
        for entry in entries:
            seen[entry.name] = seen.get(entry.name, 0) + 1
            n += 1
            if n % 1000 == 0:
                name = where / f"new-{top.name}-{n}"
                name.touch()
                (where / f"new-{top.name}-{n}-b").touch()
                os.rename(name, where / f"moved-{top.name}-{n}")
                os.unlink(where / f"go-{top.name}-{n // 1000:06}")
            if n in (30000, 70000):
                restart()
                restarts += 1
    stay = {name: count for name, count in seen.items() if name.startswith("stay-")}
    wanted = sum(1 for name in os.listdir(BASE / "large") if name.startswith("stay-"))
    print(f"{len(stay)} of {wanted} names, {n} in all")
    assert wanted >= 100_000 and restarts == 2
    assert len(stay) == wanted
    twice = [name for name, count in stay.items() if count != 1]
    assert not twice, f"{len(twice)} names came more than once: {twice[:5]}"


CHECKS = [check_linux, check_view, check_copy_up, check_hard_links, check_rename, check_stale,
          check_resolve, check_locks, check_view, check_held_open, check_moved,
          check_large_directory]


def alarm(*_):
    raise TimeoutError("too long")


def main():
    signal.signal(signal.SIGALRM, alarm)
    start()
    done = set()
    for check in CHECKS:
        for version, top in CLIENTS.items():
            name = f"{check.__name__[6:]}-{version}"
            if name in done:
                name += "-again"
            done.add(name)
            begin = time.monotonic()
            signal.alarm(CHECK_SECONDS)
            try:
                check(top)
                result = "ok"
            except Exception:  # pylint: disable=broad-except
                result = "failed"
                traceback.print_exc()
            signal.alarm(0)
            print(f"CHECK {name} {result} {time.monotonic() - begin:.1f}", flush=True)
    for where in CLIENTS.values():
        run(f"umount {where}")
    stop = recipe("knfsd-restart").split("umount /srv/export\n")[0]
    run(stop + "\numount /srv/export")
    print("DONE", flush=True)


main()
