# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine whose power can be cut: layers on a disk in a file, and a boot id of its own."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import threading
import uuid

from rvl import REVERLAY, is_mounted, run, wait_until

CUTS = int(os.environ.get("RVL_POWER_CUTS", "10"))
SEED = int(os.environ.get("RVL_POWER_SEED", "1"))
GOING_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32)
NOLOGFLUSH = 2  # what is in memory alone is lost
BOOT_ID = "/proc/sys/kernel/random/boot_id"
MAKE = {"ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard"],
        "xfs": ["mkfs.xfs", "-q", "-f"]}


class Machine:
    """A filesystem in a file with the layers on it, a server, and a boot id of its own."""

    def __init__(self, base, kind):
        self.base = base
        self.image = base / "disk.img"
        self.disk = base / "disk"
        self.mnt = base / "mnt"
        self.boot = base / "boot_id"
        self.log = base / "log"
        self.process = None
        self.is_going = False  # the power goes: what is acknowledged from now on nobody has heard
        for path in (self.disk, self.mnt):
            path.mkdir()
        run("truncate", "-s", "400M", self.image)
        run(*MAKE[kind], self.image)
        self.boot.touch()
        run("mount", "--bind", self.boot, BOOT_ID)
        self.mount_disk()
        for name in ("lower", "upper", "work"):
            (self.disk / name).mkdir()

    def options(self):
        return ",".join(f"{key}={self.disk / name}" for key, name in
                        (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")))

    def start(self, more=""):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [REVERLAY, "-f", "-o", self.options() + more, str(self.mnt)], stderr=log)
        wait_until(lambda: is_mounted(self.mnt), "mount", process=self.process)

    def stop(self):
        run("umount", self.mnt)
        assert self.process.wait(timeout=30) == 0

    def cut(self):
        """The power goes: first the disk, then the process. Then the machine starts again."""
        self.cut_disk()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)
        run("umount", "-l", self.mnt)

    def cut_disk(self):
        fd = os.open(self.disk, os.O_RDONLY)
        self.is_going = True
        fcntl.ioctl(fd, GOING_DOWN, NOLOGFLUSH.to_bytes(4, "little"))
        os.close(fd)

    def check_power(self):
        """After a sync: xfs calls those done that its shutdown overtakes (their inode is not pinned any more)."""
        if self.is_going:
            raise OSError(errno.EIO, "the power is gone")

    def umount_disk(self):
        run("umount", self.disk)
        # files that are passed through hold the filesystem till the last of them is closed
        wait_until(lambda: not run("losetup", "-j", self.image).stdout.strip(), "end of the disk")

    def mount_disk(self):
        run("mount", "-o", "loop", self.image, self.disk)
        self.boot.write_text(f"{uuid.uuid4()}\n")
        self.is_going = False

    def restart(self, more=""):
        self.umount_disk()
        self.mount_disk()
        self.start(more)

    def close(self):
        if self.log.exists():
            print(self.log.read_text(errors="replace")[-3000:])
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)
        for where in (self.mnt, self.disk, BOOT_ID):
            run("umount", "-l", where, check=False)
        self.image.unlink()


@contextlib.contextmanager
def commits(machine):
    """Another file's syncs, which commit the journal again and again."""
    stop = threading.Event()

    def commit():
        fd = os.open(machine.disk / "beside", os.O_CREAT | os.O_WRONLY, 0o600)
        with contextlib.suppress(OSError):
            while not stop.is_set():
                os.pwrite(fd, b"x", 0)
                os.fsync(fd)
        os.close(fd)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
