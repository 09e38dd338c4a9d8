# SPDX-License-Identifier: GPL-2.0-or-later
"""The contestants: how each is mounted, unmounted, and why it may have to be left out."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

URING = Path("/sys/module/fuse/parameters/enable_uring")
MOUNT_DEADLINE = 60.0
EXIT_DEADLINE = 120.0
SETTLE_DEADLINE = 600.0
QUIET = 0.1
KERNEL_OPTIONS = "index=on,nfs_export=on,redirect_dir=on"


class Skip(Exception):
    """This cannot run here; the text says why."""


class Failed(Exception):
    """This should have run and did not."""


def run(args, timeout=900, **kwargs):
    """Runs a command; an error or too long a time is Failed."""
    try:
        result = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                                check=False, **kwargs)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{args[0]}: not done after {timeout} s") from error
    if result.returncode:
        text = (result.stderr or result.stdout).decode(errors="replace").strip()
        raise Failed(f"{' '.join(map(str, args))[:120]}: exit code {result.returncode}: {text[-300:]}")
    return result.stdout.decode(errors="replace")


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.split(" ")[4] == str(path) for line in file)


class Transport:
    """fuse.enable_uring, as it was found when the run ends."""

    def __init__(self):
        self.before = None
        with contextlib.suppress(OSError):
            self.before = URING.read_text(encoding="ascii").strip()

    def set(self, is_uring):
        if self.before is None:
            if is_uring:
                raise Skip("the kernel has no fuse.enable_uring")
            return
        try:
            URING.write_text("1" if is_uring else "0", encoding="ascii")
        except OSError as error:
            if is_uring or self.before != "N":
                raise Skip(f"fuse.enable_uring cannot be set: {error.strerror}") from error

    def restore(self):
        if self.before is not None:
            with contextlib.suppress(OSError):
                URING.write_text(self.before, encoding="ascii")


def has_ring(pid):
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if "io_uring" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                    return True
    return False


def busy_ns(pid):
    """What the threads of a process have run for, and how many there are."""
    total = n = 0
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text(encoding="ascii").split()[0])
                n += 1
    return total, n


class Side:
    """One contestant. A mount is of lower layers (topmost first) with a new upper."""

    is_plain = False
    is_floor = False
    is_overlay = True

    def __init__(self, name):
        self.name = name
        self.process = None

    def check(self):
        """Raises Skip if it cannot run on this machine."""

    def mount(self, mnt, lowers, upper, work, cwd):
        raise NotImplementedError

    def settle(self):
        """Waits till a server has nothing of its own to do any more, such as to build a map. Seconds."""
        if not self.process:
            return 0.0
        begin = last = time.monotonic()
        before = None
        while time.monotonic() - last < QUIET and last - begin < SETTLE_DEADLINE:
            now = busy_ns(self.process.pid)
            if now != before:
                before, last = now, time.monotonic()
            time.sleep(0.01)
        return last - begin

    def requests(self, mnt):  # pylint: disable=unused-argument
        """How many somebody has waited for; None: it does not say."""
        return None

    def unmount(self, mnt):
        for _ in range(20):
            if not is_mounted(mnt):
                break
            result = subprocess.run(["umount", str(mnt)], stderr=subprocess.PIPE, check=False,
                                    timeout=EXIT_DEADLINE)
            if result.returncode == 0:
                break
            time.sleep(0.1)
        else:
            subprocess.run(["umount", "-l", str(mnt)], check=False, timeout=EXIT_DEADLINE)
        if self.process:
            try:
                self.process.wait(EXIT_DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


class Plain(Side):
    """The filesystem itself: nothing is mounted, the workload gets the lower or a copy of it."""

    is_plain = True
    is_overlay = False

    def mount(self, mnt, lowers, upper, work, cwd):
        pass

    def unmount(self, mnt):
        pass


class Kernel(Side):
    def check(self):
        with open("/proc/filesystems", encoding="ascii") as file:
            if "\toverlay\n" not in file.read():
                raise Skip("the kernel has no overlayfs")

    def mount(self, mnt, lowers, upper, work, cwd):
        options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},{KERNEL_OPTIONS}"
        run(["mount", "-t", "overlay", "-o", options, "overlay", mnt], cwd=cwd)


class Server(Side):
    """One that has a process, kept in the foreground so that it is ours to end."""

    def __init__(self, name, program, log, transport=None, is_uring=False):
        super().__init__(name)
        self.program = str(program) if program else None
        self.log = log
        self.transport = transport
        self.is_uring = is_uring

    def check(self):
        if not self.program or not os.access(self.program, os.X_OK):
            raise Skip("not installed" if not self.program else f"no program {self.program}")

    def command(self, mnt, lowers, upper, work):
        raise NotImplementedError

    def mount(self, mnt, lowers, upper, work, cwd):
        if self.transport:
            self.transport.set(self.is_uring)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(mnt, lowers, upper, work), cwd=cwd,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + MOUNT_DEADLINE
        while not is_mounted(mnt):
            if self.process.poll() is not None:
                self.process = None
                raise Failed(f"{self.name}: ended without a mount, see {self.log}")
            if time.monotonic() > end:
                self.process.kill()
                raise Failed(f"{self.name}: not mounted after {MOUNT_DEADLINE} s")
            time.sleep(0.005)
        run(["stat", "-f", mnt], timeout=MOUNT_DEADLINE)
        if self.is_uring and not has_ring(self.process.pid):
            self.unmount(mnt)
            raise Skip("the server makes no ring although fuse.enable_uring=1")


class Reverlay(Server):
    def __init__(self, name, program, log, transport, is_uring, options=""):
        super().__init__(name, program, log, transport, is_uring)
        self.options = options

    def command(self, mnt, lowers, upper, work):
        options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},index=on,nfs_export=on"
        if self.options:
            options += "," + self.options
        return [self.program, "-f", "-o", options, str(mnt)]

    def requests(self, mnt):
        program = Path(self.program).with_name("reverlayctl")
        if not program.exists():
            return None
        counters = json.loads(run([program, "stat", "--json", mnt]))["counters"]
        return counters["requests"] - counters["req_forget"] - counters.get("req_forget_multi", 0)


class FuseOverlayfs(Server):
    def command(self, mnt, lowers, upper, work):
        options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},allow_other"
        return [self.program, "-f", "-o", options, str(mnt)]


class Floor(Server):
    is_floor = True
    is_overlay = False
    n_files = 0

    def command(self, mnt, lowers, upper, work):
        options = "default_permissions,allow_other" + (",io_uring" if self.is_uring else "")
        return [self.program, str(self.n_files), str(mnt), "-o", options]


# In the order of the tables.
NAMES = ["plain", "kernel", "reverlay", "reverlay-uring", "fuse-overlayfs", "floor", "floor-uring"]


def make_all(build, log, transport, options="", uring_options=""):
    program = os.environ.get("RVL_PROGRAM") or build / "reverlay"
    floor = build / "bench" / "floor"
    return {
        "plain": Plain("plain"),
        "kernel": Kernel("kernel"),
        "reverlay": Reverlay("reverlay", program, log, transport, False, options),
        "reverlay-uring": Reverlay("reverlay-uring", program, log, transport, True,
                                   ",".join(filter(None, [options, uring_options]))),
        "fuse-overlayfs": FuseOverlayfs("fuse-overlayfs", shutil.which("fuse-overlayfs"), log),
        "floor": Floor("floor", floor, log, transport, False),
        "floor-uring": Floor("floor-uring", floor, log, transport, True),
    }
