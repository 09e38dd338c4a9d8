# SPDX-License-Identifier: GPL-2.0-or-later
"""Filesystems to test on, overlays on them, and what must be true of every overlay.

A test gets an Overlay (fixture `ov`), fills its lower, mounts it, does things, and leaves. The
fixture then checks for every test: lower is as it was, d_ino is st_ino, link counts are right,
and a remount shows the same tree.
"""

import contextlib
import ctypes
import fcntl
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

from snapshots import assert_same, check_tree, snapshot, xattrs_of
from sysc import next_tick
from trees import LONG

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / os.environ.get("RVL_BUILD_DIR", "build")
REVERLAY = os.environ.get("RVL_PROGRAM", str(BUILD / "reverlay"))
CTL = str(BUILD / "reverlayctl")
FS = os.environ.get("RVL_TEST_FS", "reverlay")  # or "overlay": the kernel's
IS_KERNEL = FS == "overlay"
# "uring", "dev", or "both": half of the tests with each, by name (scripts/test)
TRANSPORT = os.environ.get("RVL_TRANSPORT", "")
OPTIONS = [option for option in os.environ.get("RVL_OPTIONS", "").split(",") if option]
ENABLE_URING = "/sys/module/fuse/parameters/enable_uring"
KERNEL_OPTIONS = ["index=on", "redirect_dir=on", "xino=on"]

MOUNT_DEADLINE = 20.0
EXIT_DEADLINE = 20.0
PR_SET_PDEATHSIG = 1


def run(*args, check=True, timeout=120, **kwargs):
    """Runs a command with a time limit; its output is in the error if it fails."""
    args = [str(a) for a in args]
    result = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL, timeout=timeout, text=True, check=False,
                            errors="replace", **kwargs)
    if check and result.returncode:
        raise AssertionError(f"{' '.join(args)}: exit code {result.returncode}\n{result.stdout}")
    return result


def stop(process):
    """SIGSTOP, and no thread of it runs any more."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    wait_until(lambda: all("State:\tT" in (task / "status").read_text() for task in tasks.iterdir()), "a stopped server")


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


@contextlib.contextmanager
def traced(mnt, *options):
    """strace(1) with these options is attached to the server."""
    (server,) = servers_of(mnt)
    with subprocess.Popen(["strace", "-f", "-q", *options, "-p", str(server)],
                          stderr=subprocess.PIPE) as strace:
        try:
            wait_until(lambda: "TracerPid:\t0" not in
                       Path(f"/proc/{server}/status").read_text(encoding="ascii"), "strace")
            yield
        finally:
            strace.terminate()
            try:
                strace.wait(1)
            except subprocess.TimeoutExpired:  # what it traced was killed, and it does not see that
                strace.kill()


def slowed(mnt, call, *, delay_s):
    """Each such system call of the server takes so many seconds more, when its work is done."""
    return traced(mnt, "-o", "/dev/null", "-e", f"trace={call}", "-e",
                  f"inject={call}:delay_exit={int(delay_s * 1e6)}")


def memory_of(pid):
    """Anonymous memory of a process, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
        self.own_options = list(OPTIONS)  # not for the kernel's overlay
        if TRANSPORT == "dev" or (TRANSPORT == "both" and zlib.crc32(name.encode()) % 2):
            self.own_options.append("io_uring=off")
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
        given = {o.split("=")[0] for o in [*self.options, *extra]}
        extra = [*(o for o in self.own_options if o.split("=")[0] not in given), *extra]
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
        next_tick()  # check tells what is removed from here on from what was before

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
