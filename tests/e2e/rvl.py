# SPDX-License-Identifier: GPL-2.0-or-later
"""Filesystems to test on, overlays on them, and what must be true of every overlay.

A test gets an Overlay (fixture `ov`), fills its lower, mounts it, does things, and leaves. The
fixture then checks for every test: lower is as it was, d_ino is st_ino, link counts are right,
and a remount shows the same tree.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import threading
import time
import zlib
from pathlib import Path

from sysc import readdir_all

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / os.environ.get("RVL_BUILD_DIR", "build")
REVERLAY = os.environ.get("RVL_PROGRAM", str(BUILD / "reverlay"))
CTL = str(BUILD / "reverlayctl")
FS = os.environ.get("RVL_TEST_FS", "reverlay")  # or "overlay": the kernel's
IS_KERNEL = FS == "overlay"
# "uring", "dev", or "both": half of the tests with each, by name (scripts/test)
TRANSPORT = os.environ.get("RVL_TRANSPORT", "")
ENABLE_URING = "/sys/module/fuse/parameters/enable_uring"
KERNEL_OPTIONS = ["index=on", "redirect_dir=on", "xino=on"]

MOUNT_DEADLINE = 20.0
EXIT_DEADLINE = 20.0
PR_SET_PDEATHSIG = 1
PRIVATE = ("trusted.overlay.", "user.overlay.")


def run(*args, check=True, timeout=120, **kwargs):
    """Runs a command with a time limit; its output is in the error if it fails."""
    args = [str(a) for a in args]
    result = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL, timeout=timeout, text=True, check=False,
                            errors="replace", **kwargs)
    if check and result.returncode:
        raise AssertionError(f"{' '.join(args)}: exit code {result.returncode}\n{result.stdout}")
    return result


@contextlib.contextmanager
def uring_enabled():
    """The kernel offers io_uring to mounts made meanwhile."""
    with open(ENABLE_URING, "r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read().strip()
        try:
            Path(ENABLE_URING).write_text("Y", encoding="ascii")
            yield
        finally:
            Path(ENABLE_URING).write_text(before, encoding="ascii")


def escape(path):
    """A path as the kernel's overlay wants it in lowerdir= and friends."""
    text = str(path)
    for char in "\\:,":
        text = text.replace(char, "\\" + char)
    return text


def unescape_mountinfo(text):
    return text.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")


def mount_entry(path):
    """The last line of mountinfo that is mounted at path, as (source, type, options), or None."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, right = line.rstrip("\n").split(" - ", 1)
            fields = left.split(" ")
            if unescape_mountinfo(fields[4]) == str(path):
                kind, source, super_options = right.split(" ", 2)
                found = (unescape_mountinfo(source), kind, fields[5] + "," + super_options)
    return found


def is_mounted(path):
    return mount_entry(path) is not None


def wait_until(condition, what, deadline=MOUNT_DEADLINE, process=None):
    """Waits for a change of the mount table, or the end of process, till condition holds."""
    end = time.monotonic() + deadline
    poll = select.poll()
    pidfd = None
    with open("/proc/self/mountinfo", encoding="utf-8") as mountinfo:
        poll.register(mountinfo, select.POLLPRI | select.POLLERR)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(process.pid)
                poll.register(pidfd, select.POLLIN)
        try:
            while not condition():
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{what}: not within {deadline} s")
                poll.poll(min(left, 0.2) * 1000)
                mountinfo.seek(0)
                mountinfo.read()
        finally:
            if pidfd is not None:
                os.close(pidfd)


def wait_gone(pid, deadline=EXIT_DEADLINE):
    """Waits till a process that may not be our child is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(deadline * 1000):
            raise AssertionError(f"process {pid} still runs after {deadline} s")
    finally:
        os.close(fd)


def servers_of(mnt):
    """Processes whose command line ends with this mount point and begins with our program."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                args = file.read().rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        if os.fsencode(str(mnt)) in args and b"reverlay" in os.path.basename(args[0]):
            found.append(int(entry))
    return found


def memory_of(pid):
    """Anonymous memory of a process, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def content_hash(path, size):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC |
                 (os.O_NOATIME if os.geteuid() == 0 else 0))
    try:
        digest = hashlib.blake2b(digest_size=12)
        total = 0
        while True:
            block = os.read(fd, 1 << 20)
            if not block:
                break
            total += len(block)
            digest.update(block)
        assert total == size, f"{path}: {total} bytes read, st_size is {size}"
        return digest.hexdigest()
    finally:
        os.close(fd)


def xattrs_of(path, private=False):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)
            if private or not name.startswith(PRIVATE)}


def snapshot(root, inos=True, ctime=False, private=False, data=True, dir_nlink=True):
    """{relative path: everything that one can see of the object}."""
    result = {}
    root = str(root)

    def add(path, name):
        st = os.lstat(path)
        info = {"mode": oct(st.st_mode), "uid": st.st_uid, "gid": st.st_gid,
                "mtime": st.st_mtime_ns, "xattrs": xattrs_of(path, private)}
        is_dir = stat.S_ISDIR(st.st_mode)
        if inos:
            info["ino"] = st.st_ino
        if not is_dir or dir_nlink:
            info["nlink"] = st.st_nlink
        if ctime:
            info["ctime"] = st.st_ctime_ns
        if stat.S_ISREG(st.st_mode):
            info["size"] = st.st_size
            if data:
                info["content"] = content_hash(path, st.st_size)
        elif stat.S_ISLNK(st.st_mode):
            info["target"] = os.readlink(path)
        elif stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode):
            info["rdev"] = st.st_rdev
        result[name] = info
        if is_dir:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY |
                         (os.O_NOATIME if os.geteuid() == 0 else 0))
            try:
                children = os.listdir(fd)
            finally:
                os.close(fd)
            for child in sorted(children):
                add(os.path.join(path, child), f"{name}/{child}" if name != "." else child)

    add(root, ".")
    return result


def difference(old, new, limit=20):
    """Lines that say how two snapshots differ."""
    lines = []
    for name in sorted(set(old) | set(new)):
        if name not in new:
            lines.append(f"- {name}")
        elif name not in old:
            lines.append(f"+ {name}")
        elif old[name] != new[name]:
            for key in sorted(set(old[name]) | set(new[name])):
                a, b = old[name].get(key), new[name].get(key)
                if a != b:
                    lines.append(f"! {name}: {key}: {a!r} -> {b!r}")
    return lines[:limit] + ([f"... {len(lines) - limit} more"] if len(lines) > limit else [])


def assert_same(old, new, what):
    lines = difference(old, new)
    assert not lines, what + ":\n" + "\n".join(lines)


def numbers(root):
    """{relative path: st_ino} of a whole tree."""
    result = {".": os.lstat(root).st_ino}
    for path, dirs, files in os.walk(root):
        for name in dirs + files:
            full = os.path.join(path, name)
            result[os.path.relpath(full, root)] = os.lstat(full).st_ino
    return result


def check_tree(root):
    """What must be true of every tree that reverlay shows.

    One st_dev; d_ino and d_type agree with stat; ".." leads up; names of one number are as many
    as st_nlink says (all links of all objects lie within the tree in these tests); and two
    directories never share a number.
    """
    root = str(root)
    top = os.lstat(root)
    names = {}
    problems = []

    def walk(path, st, parent_ino):
        seen = set()
        entries = readdir_all(path)
        for name, ino, _, kind in entries:
            if name in seen:
                problems.append(f"{path}/{name}: listed twice")
            seen.add(name)
            if name == ".":
                if ino != st.st_ino:
                    problems.append(f"{path}/.: d_ino {ino} is not {st.st_ino}")
                continue
            if name == "..":
                if path != root and ino != parent_ino:
                    problems.append(f"{path}/..: d_ino {ino} is not {parent_ino}")
                continue
            full = os.path.join(path, name)
            child = os.lstat(full)
            if child.st_dev != top.st_dev:
                problems.append(f"{full}: another st_dev")
            if child.st_ino != ino:
                problems.append(f"{full}: d_ino {ino} is not st_ino {child.st_ino}")
            if kind not in (0, stat.S_IFMT(child.st_mode) >> 12):
                problems.append(f"{full}: d_type {kind} for mode {oct(child.st_mode)}")
            if stat.S_ISDIR(child.st_mode):
                if child.st_ino in names:
                    problems.append(f"{full}: number of {names[child.st_ino]}")
                names[child.st_ino] = [full]
                walk(full, child, st.st_ino)
            else:
                names.setdefault(child.st_ino, []).append(full)
        for needed in (".", ".."):
            if needed not in seen:
                problems.append(f"{path}: no {needed}")

    walk(root, top, None)
    for ino, paths in names.items():
        st = os.lstat(paths[0])
        if not stat.S_ISDIR(st.st_mode) and st.st_nlink != len(paths):
            problems.append(f"{paths}: st_nlink is {st.st_nlink}, names are {len(paths)}")
        for other in paths[1:]:
            if os.lstat(other) != st:
                problems.append(f"{other}: differs from its hard link {paths[0]}")
    assert not problems, "\n".join(problems[:20])


class Images:
    """Filesystems in files, each made at its first use and mounted till the session ends."""

    SIZES = {"ext4": "4G", "xfs": "4G", "btrfs": "4G", "ext4b": "2G", "xfsb": "2G"}
    MAKE = {
        "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", "-O", "^has_journal"],
        "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
        "btrfs": ["mkfs.btrfs", "-q", "-f"],
    }

    def __init__(self, scratch):
        self.scratch = Path(scratch)
        self.mounted = {}
        if os.environ.get("RVL_ALL_PAIRS") == "1":
            # millions of objects; sparse
            self.SIZES = dict.fromkeys(self.SIZES, "60G")

    def get(self, kind):
        if kind not in self.mounted:
            where = self.scratch / f"fs-{kind}"
            where.mkdir()
            if kind.startswith("tmpfs"):
                run("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", where)
            else:
                image = self.scratch / f"{kind}.img"
                run("truncate", "-s", self.SIZES[kind], image)
                run(*self.MAKE[kind.rstrip("b") if kind != "btrfs" else kind], image)
                run("mount", "-o", "loop", image, where)
            where.chmod(0o755)
            self.mounted[kind] = where
        return self.mounted[kind]

    def private(self, where, kind, size="64M", options="loop"):
        """A small filesystem of its own for one test, mounted at where."""
        where.mkdir(parents=True, exist_ok=True)
        image = where.with_name(where.name + ".img")
        run("truncate", "-s", "320M" if kind == "xfs" else size, image)
        run(*self.MAKE[kind], image)
        run("mount", "-o", options, image, where)
        where.chmod(0o755)
        return where

    def close(self):
        for where in reversed(list(self.mounted.values())):
            run("umount", "-l", where, check=False)
        self.mounted.clear()


# name: (filesystem of upper, filesystem of lower, how lower is made)
LAYOUTS = {
    "ext4": ("ext4", "ext4", "dir"),
    "xfs": ("xfs", "xfs", "dir"),
    "btrfs": ("btrfs", "btrfs", "dir"),
    "tmpfs": ("tmpfs", "tmpfs", "dir"),
    "other": ("ext4", "xfs", "dir"),
    "other2": ("tmpfs", "ext4", "dir"),
    "squashfs": ("ext4", "ext4", "squashfs"),
    "erofs": ("xfs", "ext4", "erofs"),
    "stack5": ("ext4", "ext4", "stack"),
    "stack5-mixed": ("ext4", "xfs", "stack-mixed"),
    "overlay": ("ext4", "ext4", "overlay"),
}


class Overlay:
    """One overlay: its directories, its server, its checks."""

    def __init__(self, images, layout, name):
        self.images = images
        self.layout = layout
        upper_fs, lower_fs, self.how = LAYOUTS[layout]
        self.base = images.get(upper_fs) / name
        self.lower_base = images.get(lower_fs) / (name + ".lower")
        for path in (self.base, self.lower_base):
            if path.exists():
                shutil.rmtree(path)
            path.mkdir()
        self.upper = self.base / "upper"
        self.work = self.base / "work"
        self.mnt = images.scratch / "mnt" / name
        self.log = images.scratch / "log" / name
        for path in (self.upper, self.work, self.mnt):
            path.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(exist_ok=True)
        self.log.write_bytes(b"")
        self.lowers = []  # topmost first
        self.data_lowers = []
        self.options = []
        self.own_options = []  # not for the kernel's overlay
        if TRANSPORT == "dev" or (TRANSPORT == "both" and zlib.crc32(name.encode()) % 2):
            self.own_options = ["io_uring=off"]
        self.process = None
        self.mounted_helpers = []
        self.before = None
        self.last = ((), True, None)
        # what the fixture does at the end; a test may say no, with its reason
        self.check_lower = True
        self.check_remount = True
        self.check_links = True
        self.check_clean = True
        self.may_complain = False

    # -- making layers ----------------------------------------------------------------------

    def use_upper_on(self, directory):
        """Upper and workdir are to lie there, on a filesystem of the test's own, say."""
        self.upper, self.work = directory / "upper", directory / "work"
        self.upper.mkdir()
        self.work.mkdir()

    @contextlib.contextmanager
    def lower(self):
        """A directory to be filled; afterwards it is made lower, in the way of the layout."""
        source = self.lower_base / "src"
        source.mkdir()
        yield source
        getattr(self, "_make_" + self.how.replace("-", "_"))(source)

    @contextlib.contextmanager
    def layer(self, fs=None):
        """A directory to be filled that becomes the topmost lower, whatever the layout says."""
        base = self.lower_base if fs is None else self.images.get(fs)
        path = base / f"{self.base.name}.layer{len(self.lowers)}"
        if path.exists():
            shutil.rmtree(path)
        path.mkdir()
        yield path
        self.lowers.insert(0, path)

    def _make_dir(self, source):
        self.lowers = [source]

    def _mount_image(self, image, kind):
        where = self.lower_base / kind
        where.mkdir()
        run("mount", "-t", kind, "-o", "loop,ro", image, where)
        self.mounted_helpers.append(where)
        return where

    def _make_squashfs(self, source):
        image = self.lower_base / "image.squashfs"
        run("mksquashfs", source, image, "-quiet", "-no-progress", "-comp", "gzip", "-noappend")
        self.lowers = [self._mount_image(image, "squashfs")]

    def _make_erofs(self, source):
        image = self.lower_base / "image.erofs"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(source / LONG)  # mkfs.erofs 1.5 cannot
        run("mkfs.erofs", image, source)
        self.lowers = [self._mount_image(image, "erofs")]

    def _make_stack(self, source, others=None):
        """Spreads the objects over five layers; each has all directories."""
        layers = []
        for i in range(5):
            base = others[i % len(others)] if others else self.lower_base
            layer = base / f"{self.base.name}.stack{i}"
            if layer.exists():
                shutil.rmtree(layer)
            layer.mkdir()
            layers.append(layer)
        where = {}
        for path, dirs, files in os.walk(source):
            relative = os.path.relpath(path, source)
            for layer in layers:
                target = os.path.normpath(layer / relative)
                os.makedirs(target, exist_ok=True)
            for name in files + [d for d in dirs if os.path.islink(os.path.join(path, d))]:
                full = os.path.join(path, name)
                relative_file = os.path.relpath(full, source)
                st = os.lstat(full)
                if st.st_ino not in where:
                    index = zlib.crc32(relative_file.encode()) % 5
                    target = layers[index] / relative_file
                    run("cp", "-a", "--sparse=always", full, target)
                    where[st.st_ino] = (index, target)
                else:
                    index, first = where[st.st_ino]
                    os.link(first, layers[index] / relative_file, follow_symlinks=False)
        for path, dirs, _ in os.walk(source, topdown=False):
            relative = os.path.relpath(path, source)
            for layer in layers:
                target = os.path.normpath(layer / relative)
                copy_attributes(path, target)
        self.lowers = layers

    def _make_stack_mixed(self, source):
        self._make_stack(source, [self.lower_base, self.base, self.images.get("btrfs")])

    def _make_overlay(self, source):
        self._make_stack(source)
        where = self.lower_base / "overlay"
        where.mkdir()
        run("mount", "-t", "overlay", "-o", "lowerdir=" + ":".join(map(str, self.lowers)),
            "overlay", where)
        self.mounted_helpers.append(where)
        self.lowers = [where]

    def expected(self):
        """What the mount must show of lower."""
        source = self.lowers[0] if len(self.lowers) == 1 else self.lower_base / "src"
        return snapshot(source, inos=False, dir_nlink=False)

    # -- mounting ---------------------------------------------------------------------------

    def option_string(self, extra=(), upper=True, lowers=None):
        lowers = self.lowers if lowers is None else lowers
        lower = ":".join(escape(p) for p in lowers)
        for data in self.data_lowers:
            lower += "::" + escape(data)
        options = [f"lowerdir={lower}"]
        if upper:
            options += [f"upperdir={escape(self.upper)}", f"workdir={escape(self.work)}"]
        return ",".join(options + self.options + list(extra))

    def command(self, extra=(), upper=True, lowers=None, mnt=None, flags=("-f",)):
        extra = [*self.own_options, *extra]
        return [REVERLAY, *flags, "-o", self.option_string(extra, upper, lowers),
                str(mnt or self.mnt)]

    def mount(self, *extra, upper=True, kernel=None, prefix=()):
        """Mounts, and returns the mount point when the tree can be seen."""
        assert not is_mounted(self.mnt)
        kernel = IS_KERNEL if kernel is None else kernel
        self.last = (extra, upper, kernel)
        if self.before is None and self.check_lower:
            self.before = self.lower_snapshot()
        if kernel:
            more = KERNEL_OPTIONS if upper else ["xino=on"]
            given = {o.split("=")[0] for o in list(extra) + self.options}
            more = [o for o in more if o.split("=")[0] not in given]
            # "volatile" leaves a mark that forbids the next mount
            run("mount", "-t", "overlay", "-o",
                self.option_string([*extra, *more], upper), "overlay", self.mnt)
            return self.mnt
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command(extra, upper)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent)
        wait_until(lambda: self.process.poll() is not None or is_mounted(self.mnt),
                   "mount", process=self.process)
        assert self.process.poll() is None, \
            f"the server ended with {self.process.returncode}:\n{self.messages()}"
        os.stat(self.mnt)
        return self.mnt

    def messages(self):
        return self.log.read_text(errors="replace")[-6000:]

    def umount(self):
        run("umount", self.mnt, timeout=60)
        self.wait_exit()

    def wait_exit(self, code=0):
        if self.process is None:
            return
        try:
            got = self.process.wait(EXIT_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise AssertionError("the server still runs after umount") from None
        self.process = None
        assert got == code, f"the server ended with {got}:\n{self.messages()}"

    def remount(self, *extra, **kwargs):
        self.umount()
        return self.mount(*extra, **kwargs)

    def kill(self):
        """The server dies as by a crash; the dead mount goes away."""
        assert self.process is not None, "nothing to kill"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(EXIT_DEADLINE)
        self.process = None
        run("umount", "-l", self.mnt)

    def kill_remount(self, *extra):
        if IS_KERNEL:
            return self.remount(*extra)
        self.kill()
        return self.mount(*extra)

    # -- checks and the end -----------------------------------------------------------------

    def lower_snapshot(self):
        return {f"{path}:{name}": info for path in self.lowers + self.data_lowers
                for name, info in snapshot(path, ctime=True, private=True).items()}

    def finish(self):
        """The checks that each test ends with."""
        if is_mounted(self.mnt):
            if not IS_KERNEL and self.check_links:
                check_tree(self.mnt)
            if self.check_remount:
                old = snapshot(self.mnt)
                extra, upper, kernel = self.last
                self.remount(*extra, upper=upper, kernel=kernel)
                assert_same(old, snapshot(self.mnt), "after a remount")
            self.umount()
            self.check_index()
        if self.before is not None and self.check_lower:
            assert_same(self.before, self.lower_snapshot(), "lower has changed")
        text = self.messages()
        for word in ("AddressSanitizer", "runtime error:", "LeakSanitizer", "ThreadSanitizer",
                     "Assertion", "assertion"):
            assert word not in text, f"{word} in the server's messages:\n{text}"
        if not self.may_complain and not IS_KERNEL:
            bad = [line for line in text.splitlines()
                   if "error" in line.lower() or "bug" in line.lower()]
            assert not bad, "the server complains:\n" + "\n".join(bad)

    def ctl(self, command, *args, extra=()):
        """reverlayctl check or repair of these layers: (exit code, what it found)."""
        done = subprocess.run(
            [CTL, command, "--json", *args, "-o", self.option_string(extra)],
            capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
        assert done.returncode >= 0, f"{command} died of signal {-done.returncode}"
        for word in (b"AddressSanitizer", b"runtime error:", b"LeakSanitizer"):
            assert word not in done.stderr, done.stderr.decode()
        found = json.loads(done.stdout) if done.stdout else {"problems": []}
        found["stderr"] = done.stderr.decode()
        return done.returncode, found

    def check_index(self):
        """An overlay that was used and unmounted has nothing that reverlayctl check finds."""
        extra, upper, kernel = self.last
        if kernel or not upper or not self.check_clean:
            return
        code, found = self.ctl("check", extra=extra)
        assert code == 0, f"reverlayctl check: exit code {code}: {found}"

    def destroy(self):
        """Nothing of it stays, whatever happened."""
        for _ in range(5):
            if not is_mounted(self.mnt):
                break
            run("umount", "-l", self.mnt, check=False)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)
            if self.process.returncode is None:
                self.process.kill()
                self.process.wait()
            self.process = None
        for pid in servers_of(self.mnt):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for where in reversed(self.mounted_helpers):
            run("umount", "-l", where, check=False)
        for path in (self.base, self.lower_base):
            shutil.rmtree(path, ignore_errors=True)


def copy_attributes(source, target):
    """Owner, mode, xattrs and times of a directory."""
    st = os.lstat(source)
    os.chown(target, st.st_uid, st.st_gid)
    os.chmod(target, stat.S_IMODE(st.st_mode))
    for name, value in xattrs_of(source).items():
        with contextlib.suppress(OSError):
            os.setxattr(target, name, value)
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))


class Watchdog:
    """Ends a test that hangs: kills its server, so that whoever waits for it gets an error."""

    def __init__(self, overlays, seconds):
        self.overlays = overlays
        self.fired = False
        self.timer = threading.Timer(seconds, self.fire)
        self.timer.daemon = True
        self.timer.start()

    def fire(self):
        self.fired = True
        for ov in self.overlays:
            process = ov.process
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            for pid in servers_of(ov.mnt):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def cancel(self):
        self.timer.cancel()


# -- small things that tests use ------------------------------------------------------------


def write(path, data=b"data\n", mode=None, owner=None, mtime=None):
    """Makes a file with this content; returns its path."""
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if owner is not None:
        os.chown(path, *owner)
    if mode is not None:
        path.chmod(mode)
    if mtime is not None:
        os.utime(path, ns=(mtime, mtime))
    return path


def whiteout(path):
    os.mknod(path, stat.S_IFCHR | 0o000, os.makedev(0, 0))


def opaque(path, prefix="trusted."):
    os.setxattr(path, prefix + "overlay.opaque", b"y")


def ino(path):
    return os.lstat(path).st_ino


def listing(path):
    return sorted(os.listdir(path))


CAPS = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
ACL = bytes.fromhex("02000000"  # user::rw- user:1234:r-- group::r-- mask::r-- other::---
                    "01000600ffffffff" "02000400d2040000" "04000400ffffffff"
                    "10000400ffffffff" "20000000ffffffff")
DEFAULT_ACL = bytes.fromhex("02000000"  # user::rwx user:1234:rwx group::r-x mask::rwx other::---
                            "01000700ffffffff" "02000700d2040000" "04000500ffffffff"
                            "10000700ffffffff" "20000000ffffffff")
LONG = "n" * 255
OLD = 1234567890123456789  # ns


def standard_tree(top):
    """One of everything."""
    top = Path(top)
    write(top / "file", b"lower\n", mode=0o640, owner=(1000, 1001), mtime=OLD)
    write(top / "empty", b"")
    write(top / "big", bytes(range(256)) * 12289, mtime=OLD)
    write(top / "hard1", b"hard\n")
    write(top / "dir/inner", b"inner\n", mtime=OLD + 1)
    os.link(top / "hard1", top / "hard2")
    os.link(top / "hard1", top / "dir/hard3")
    write(top / "dir/sub/deep", b"deep\n")
    os.symlink("dir/inner", top / "symlink")
    os.symlink("/nowhere", top / "dangling")
    os.symlink("dir", top / "dirlink")
    os.mkfifo(top / "fifo", 0o600)
    os.mknod(top / "chardev", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "blockdev", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.mknod(top / "socket", stat.S_IFSOCK | 0o755)
    write(top / "xattr", b"x\n")
    os.setxattr(top / "xattr", "user.colour", b"blue")
    os.setxattr(top / "xattr", "trusted.secret", b"\0\1\2")
    write(top / "suid", b"s\n", mode=0o6755)
    write(top / "caps", b"c\n", mode=0o755)
    os.setxattr(top / "caps", "security.capability", CAPS)
    with open(top / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 65536)
    (top / "emptydir").mkdir(mode=0o711)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    os.setxattr(top / "sticky", "user.where", b"lower")
    write(top / LONG, b"long\n")
    write(top / "na\u00efve \n,:\\x", b"odd\n")
    for name in ("dir", "dir/sub", "emptydir", "sticky"):
        os.utime(top / name, ns=(OLD, OLD + 2))
    return top
