# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts while a tool works: what it said is done is done; else it is run again, and nothing is lost."""

import os
import random
import shutil
import subprocess
import threading
import time

import pytest

import test_rebind
from imports import change, fill_lower, visible
from machine import CUTS, SEED, Machine, commits
from rvl import CTL, run
from snapshots import assert_same, numbers
from trees import ino, write

pytestmark = [pytest.mark.reverlay_only("tools of reverlay"), pytest.mark.seconds(3600)]

N_CUTS = CUTS // 3 + 1  # of each tool
N_MORE = 150
KERNEL = "index=on,redirect_dir=on,xino=on,metacopy=on"


class Tool:
    """Layers on the disk, what the tool does to them, and what must be so afterwards."""

    done = (0,)  # exit codes

    def __init__(self, machine):
        self.machine = machine
        self.top = machine.disk

    def fill(self):
        fill_lower(self.top / "lower")
        for i in range(N_MORE):
            write(self.top / f"lower/more{i}", f"more {i}\n" * i)

    def use(self):
        change(self.machine.mnt)
        for i in range(N_MORE):
            write(self.machine.mnt / f"more{i}", f"changed {i}\n")
            write(self.machine.mnt / f"born{i}", f"born {i}\n")

    def command(self):
        return [CTL, *self.arguments, "-o", self.machine.options()]

    def mount_kernel(self):
        run("mount", "-t", "overlay", "-o", f"{self.machine.options()},{KERNEL}", "overlay",
            self.machine.mnt)

    def umount_kernel(self):
        run("umount", self.machine.mnt)


class Import(Tool):
    arguments = ["import"]

    def prepare(self):
        self.fill()
        self.mount_kernel()
        self.use()
        self.tree, by_kernel = visible(self.machine.mnt), numbers(self.machine.mnt)
        of_lower = {ino(os.path.join(path, name))
                    for path, dirs, files in os.walk(self.top / "lower") for name in dirs + files}
        self.numbers = {path: n for path, n in by_kernel.items() if n in of_lower}
        assert len(self.numbers) > N_MORE
        self.umount_kernel()

    def check(self):
        self.machine.start()
        assert_same(self.tree, visible(self.machine.mnt), "imported")
        now = numbers(self.machine.mnt)
        assert {path: now[path] for path in self.numbers} == self.numbers
        self.machine.stop()


class ToKernel(Tool):
    arguments = ["import", "--to-kernel"]

    def prepare(self):
        self.fill()
        self.machine.start()
        self.use()
        self.tree, self.numbers = visible(self.machine.mnt), numbers(self.machine.mnt)
        self.machine.stop()

    def check(self):
        self.mount_kernel()
        assert_same(self.tree, visible(self.machine.mnt), "the kernel's")
        self.umount_kernel()
        run(CTL, "import", "-o", self.machine.options())
        self.machine.start()
        assert_same(self.tree, visible(self.machine.mnt), "ours again")
        assert numbers(self.machine.mnt) == self.numbers
        self.machine.stop()


class Rebuild(ToKernel):
    """The index is lost: all numbers of what upper has come from its stamps and origins."""

    arguments = ["repair", "--rebuild", "-y"]
    done = (0, 1)

    def prepare(self):
        super().prepare()
        self.tree["pair/2"]["nlink"] += 1  # that its other name is hidden was in the index alone
        shutil.rmtree(self.top / "work/inodes")

    def check(self):
        self.machine.start()
        assert_same(self.tree, visible(self.machine.mnt), "rebuilt")
        assert numbers(self.machine.mnt) == self.numbers
        self.machine.stop()


class Rebind(Tool):
    """A copy that has lost the hard links, so that every part of it has something to do."""

    arguments = ["rebind", "--move"]

    def prepare(self):
        test_rebind.fill_lower(self.top / "lower")
        self.machine.start()
        test_rebind.use(self.machine.mnt)
        for i in range(N_MORE):
            write(self.machine.mnt / f"born{i}", f"born {i}\n")
        run(CTL, "map", self.machine.mnt)
        self.before = test_rebind.Before(self.machine.mnt)
        self.machine.stop()
        for name in ("lower", "upper", "work"):
            os.rename(self.top / name, self.top / "old")
            (self.top / name).mkdir()
            run("rsync", "-aAX", f"{self.top}/old/", f"{self.top}/{name}/")
            shutil.rmtree(self.top / "old")

    def check(self):
        self.machine.start()
        self.before.check(self.machine.mnt)
        self.machine.stop()


TOOLS = {"import": Import, "to-kernel": ToKernel, "rebuild": Rebuild, "rebind": Rebind}


def check_clean(machine):
    result = run(CTL, "check", "-o", machine.options(), check=False)
    assert result.returncode == 0, result.stdout


def run_and_cut(machine, tool, seconds):
    """The power goes after so many seconds, while others' syncs commit the journal. Was the tool done by then?"""
    with commits(machine), subprocess.Popen(
            tool.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True) as process:
        threading.Event().wait(seconds)  # the random moment, no event to wait for
        is_done = process.poll() is not None
        machine.cut_disk()
        text, _ = process.communicate(timeout=120)
    assert not is_done or process.returncode in tool.done, text
    return is_done


def run_to_end(tool):
    """How long it took."""
    begin = time.monotonic()
    done = run(*tool.command(), check=False)
    assert done.returncode in tool.done, done.stdout
    return time.monotonic() - begin


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("what", list(TOOLS))
def test_power_cuts_of_tools(images, scratch, what, kind):
    """First right after the end, with no sync but the tool's own; then at a random moment of each part of its run."""
    assert images
    base = scratch / f"power-{what}-{kind}"
    base.mkdir()
    machine = Machine(base, kind)
    rng = random.Random(SEED)
    pristine = base / "pristine.img"
    try:
        tool = TOOLS[what](machine)
        tool.prepare()
        machine.umount_disk()
        run("cp", "--sparse=always", machine.image, pristine)
        n_again = 0
        for cut in range(N_CUTS + 1):
            print(f"seed {SEED}, cut {cut}")
            run("cp", "--sparse=always", pristine, machine.image)
            machine.mount_disk()
            if cut == 0:
                longest = run_to_end(tool)
                machine.cut_disk()
                is_done = True
            else:
                is_done = run_and_cut(machine, tool, longest * (cut - 1 + rng.random()) / N_CUTS)
            machine.umount_disk()
            machine.mount_disk()
            if not is_done:
                n_again += 1
                run_to_end(tool)
            if what != "to-kernel":
                check_clean(machine)
            tool.check()
            machine.umount_disk()
        machine.mount_disk()
    finally:
        machine.close()
        pristine.unlink(missing_ok=True)
    assert n_again or N_CUTS < 3


def leave_record(machine):
    """A server dies with a file that is open and has no name; the next one ends what its log says of it."""
    machine.start()
    fd = os.open(machine.mnt / "orphan", os.O_CREAT | os.O_WRONLY, 0o600)
    os.unlink(machine.mnt / "orphan")
    run("sync", "-f", machine.disk)
    machine.process.kill()
    machine.process.wait(timeout=30)
    os.close(fd)
    run("umount", "-l", machine.mnt)
    machine.start()
    machine.stop()


def test_import_right_after_a_recovery(images, scratch):
    """The mark of the import and a log without its last record, which the cut took, would keep each other for ever."""
    assert images
    base = scratch / "power-recovery"
    base.mkdir()
    machine = Machine(base, "ext4")
    try:
        write(machine.disk / "lower/file", "lower\n")
        for n in range(1, 6):  # the first saves the state with the mark
            leave_record(machine)
            run("strace", "-f", "-o", "/dev/null", "-e", "trace=fsync",
                "-e", f"inject=fsync:signal=SIGKILL:when={n}", CTL, "import", "-o",
                machine.options(), check=False)
            machine.cut_disk()
            machine.umount_disk()
            machine.mount_disk()
            again = run(CTL, "import", "-o", machine.options(), check=False)
            if "mount and umount it first" in again.stdout:  # which can be done: it has no mark
                machine.start()
                machine.stop()
                again = run(CTL, "import", "-o", machine.options(), check=False)
            assert again.returncode == 0, again.stdout
            check_clean(machine)
    finally:
        machine.close()
