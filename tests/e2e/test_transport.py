# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways of a request: io_uring, /dev/fuse, how one is chosen, and that neither is blocked by a slow request."""

import json
import os
import shlex
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rvl import CTL, run, stop, uring_enabled, wait_until
from snapshots import assert_same, snapshot

pytestmark = pytest.mark.reverlay_only("the way of its own requests")

IO_URING_SETUP = 425
IO_URING_ENTER = 426
SCHED_SETAFFINITY = {"x86_64": 203, "aarch64": 122}[os.uname().machine]
DENY = str(Path(__file__).with_name("deny.py"))


@pytest.fixture
def uring():
    with uring_enabled():
        yield


@pytest.fixture
def tree(ov):
    with ov.lower() as lower:
        (lower / "dir").mkdir()
        (lower / "dir" / "big").write_bytes(os.urandom(3 << 20) + b"end")
        for i in range(300):
            (lower / "dir" / f"file{i}").write_text(f"content {i}")
        os.symlink("target " * 500, lower / "link")
    ov.own_options = []
    return ov


def config(mnt):
    return json.loads(run(CTL, "stat", "--json", mnt).stdout)


def use(mnt):
    """Requests of all sizes, both ways."""
    data = os.urandom((2 << 20) + 17)
    (mnt / "new").write_bytes(data)
    assert (mnt / "new").read_bytes() == data
    with open(mnt / "dir" / "big", "r+b") as file:
        file.seek(1 << 20)
        file.write(data)
    os.setxattr(mnt / "new", "user.big", b"x" * 3000)
    assert os.getxattr(mnt / "new", "user.big") == b"x" * 3000
    assert len(os.listdir(mnt / "dir")) == 301
    assert len(os.readlink(mnt / "link")) == 3500
    os.rename(mnt / "dir" / "file1", mnt / "dir" / "renamed")
    os.unlink(mnt / "dir" / "file2")
    name = mnt / ("n" * 255)
    name.mkdir()
    name.rmdir()


def test_by_io_uring(tree, uring):
    """Where the kernel has it, requests go by io_uring; the tree is the same after a remount by /dev/fuse."""
    mnt = tree.mount()
    assert config(mnt)["transport"] == "io_uring"
    assert "transport_reason" not in config(mnt)
    use(mnt)
    before = snapshot(mnt)
    tree.remount("io_uring=off")
    assert_same(before, snapshot(mnt), "by the other transport")


def test_switched_off(tree, uring):
    """io_uring=off is /dev/fuse, and stat says why."""
    mnt = tree.mount("io_uring=off")
    assert config(mnt)["transport"] == "dev"
    assert "io_uring=off" in config(mnt)["transport_reason"]
    use(mnt)


@pytest.mark.parametrize("call", [IO_URING_SETUP, IO_URING_ENTER])
def test_denied(tree, uring, call):
    """A server that may not make a ring, or use it, as in many containers, serves by /dev/fuse."""
    mnt = tree.mount(prefix=(sys.executable, DENY, str(call)))
    assert config(mnt)["transport"] == "dev"
    assert "denied" in config(mnt)["transport_reason"]
    use(mnt)


def test_not_bound(tree, uring):
    """Threads that may not choose their CPU serve all the same."""
    mnt = tree.mount(prefix=(sys.executable, DENY, str(SCHED_SETAFFINITY)))
    assert config(mnt)["transport"] == "io_uring"
    use(mnt)


def test_few_descriptors(tree, uring):
    """Rings take descriptors: where few are allowed they are not made."""
    mnt = tree.mount(prefix=("prlimit", "--nofile=31:31"))
    assert config(mnt)["transport"] == "dev"
    assert "descriptors" in config(mnt)["transport_reason"]


LATENCY = "/dev/cpu_dma_latency"


def latency():
    """How long a CPU may take to wake, in microseconds, as all have asked for."""
    with open(LATENCY, "rb") as file:
        return struct.unpack("i", file.read(4))[0]


def ask(mnt):
    for i in range(200):
        assert not os.path.exists(mnt / f"absent {time.monotonic_ns()} {i}")


@pytest.mark.parametrize("end", ["quiet", "umount", "kill"])
def test_cpus_are_kept_awake(tree, end):
    """While requests come fast no CPU is halted, and it is over when they, or the server, have an end."""
    mnt = tree.mount("awake=on")
    assert config(mnt)["awake"] == "on"
    assert "awake_reason" not in config(mnt)
    wait_until(lambda: ask(mnt) or latency() == 0, "idle CPUs that are awake")
    if end == "kill":
        tree.kill_remount()
    elif end == "umount":
        tree.remount()
    wait_until(lambda: latency() > 0, "idle CPUs that are halted")


def test_cpus_that_are_not_kept_awake(tree):
    """stat says why: it is switched off, or there are many CPUs."""
    mnt = tree.mount("awake=off")
    assert config(mnt)["awake"] == "off"
    assert config(mnt)["awake_reason"] == "awake=off"
    use(mnt)
    tree.remount("awake=auto")
    n_cpus = os.sysconf("SC_NPROCESSORS_ONLN")
    assert config(mnt)["awake"] == ("on" if n_cpus == 2 else "off")
    if n_cpus > 2:
        assert "two CPUs" in config(mnt)["awake_reason"]


def test_cpus_that_cannot_be_kept_awake(tree, scratch):
    """Where the device is not to be had, as in most containers, stat says so."""
    command = " ".join(shlex.quote(str(word)) for word in tree.command(["awake=on"], flags=()))
    script = ("set -e; touch $1; mount --bind $1 /dev/cpu_dma_latency; mount -o remount,bind,ro /dev/cpu_dma_latency; "
              f"{command}; {CTL} stat --json {tree.mnt}; ls {tree.mnt}/dir >/dev/null; umount {tree.mnt}")
    shown = run("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", scratch / "latency").stdout
    assert '"awake": "off"' in shown and "Read-only file system" in shown, shown


def one_cpu():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def is_waiting(process):
    return "request_wait_answer" in Path(f"/proc/{process.pid}/wchan").read_text(encoding="ascii")


@pytest.mark.parametrize("options", ["io_uring=on", "io_uring=off", "io_uring=off,poll=0"])
def test_slow_request(tree, overlays, options):
    """Requests that wait for a layer (here one whose own server is stopped) do not hold up others, not even those that
    come from the same CPU."""
    slow = overlays()
    with slow.lower() as lower:
        (lower / "slow").mkdir()
        for i in range(3):
            (lower / "slow" / f"file{i}").write_text("at last")
    tree.lowers.append(slow.mount(upper=False))
    with uring_enabled():
        mnt = tree.mount(options)
    os.stat(mnt / "slow")
    # from here on only the fast layer is asked for it, though others drop the machine's caches
    pinned = os.open(mnt / "dir", os.O_PATH)
    stop(slow.process)
    try:
        waiting = [subprocess.Popen(["cat", mnt / "slow" / f"file{i}"], preexec_fn=one_cpu, stdout=subprocess.PIPE)
                   for i in range(3)]
        while not all(is_waiting(process) for process in waiting):
            os.sched_yield()
        result = run("ls", "-l", mnt / "dir", preexec_fn=one_cpu, timeout=30)
        assert len(result.stdout.splitlines()) == 302
    finally:
        slow.process.send_signal(signal.SIGCONT)
        os.close(pinned)
    assert [process.communicate(timeout=30)[0] for process in waiting] == [b"at last"] * 3


def test_busy_unmount(tree, uring):
    """A signal ends the server while a file of the mount is still open, and the layers are let go."""
    mnt = tree.mount()
    use(mnt)
    before = snapshot(mnt)
    with open(mnt / "new", "rb"):
        tree.process.send_signal(signal.SIGTERM)
        tree.wait_exit()
    tree.mount()
    assert_same(before, snapshot(mnt), "after the signal")


def test_killed(tree, uring):
    """After kill -9 there is an error for everyone, no hang, and all that was done is there."""
    mnt = tree.mount()
    use(mnt)
    before = snapshot(mnt)
    with open(mnt / "new", "rb"):
        tree.process.send_signal(signal.SIGKILL)
        tree.process.wait()
        with pytest.raises(OSError):
            os.stat(mnt / "dir" / "never-asked-for")
    tree.process = None
    run("umount", "-l", mnt)
    tree.mount()
    assert_same(before, snapshot(mnt), "after kill -9")


@pytest.mark.parametrize("options", ["io_uring=on", "io_uring=off"])
def test_aborted(tree, uring, scratch, options):
    """Who aborts the connection (fusectl) ends the server as an umount does, and all that was done is there."""
    mnt = tree.mount(options)
    use(mnt)
    before = snapshot(mnt)
    control = scratch / "fusectl"
    control.mkdir()
    run("mount", "-t", "fusectl", "none", control)
    try:
        (control / str(os.minor(os.lstat(mnt).st_dev)) / "abort").write_text("1")
    finally:
        run("umount", control)
        control.rmdir()
    tree.wait_exit()
    run("umount", "-l", mnt, check=False)
    tree.mount()
    assert_same(before, snapshot(mnt), "after the abort")


def test_many_clients(tree, uring):
    """Sixteen processes at once, on more CPUs than one, all find what they wrote."""
    mnt = tree.mount()
    script = ("import os, sys\nd = sys.argv[1]\nos.mkdir(d)\n"
              "for i in range(60):\n"
              "    p = f'{d}/{i}'\n"
              "    open(p, 'w').write(p * 50)\n"
              "    os.rename(p, p + 'r')\n"
              "    assert open(p + 'r').read() == p * 50\n"
              "    if i % 3: os.unlink(p + 'r')\n"
              "assert len(os.listdir(d)) == 20\n")
    clients = [subprocess.Popen([sys.executable, "-c", script, mnt / f"c{n}"]) for n in range(16)]
    assert [client.wait(60) for client in clients] == [0] * 16
