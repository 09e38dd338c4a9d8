# SPDX-License-Identifier: GPL-2.0-or-later
"""The workloads. Each is a group: one mount or more of one side, and the benchmarks taken on it.

A group is a function that gets a Stage and yields (benchmark, value) as it goes. Values are seconds,
seconds a GiB or microseconds an operation: less is better, everywhere.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass

from sides import Failed, Skip, run
from trees import N_LAYERS, git_environment

TIMEOUT = 1800


@dataclass
class Sizes:
    tree: int = 25000
    append: int = 3000
    repo: int = 5000
    ops: int = 1000
    layers: int = 2000
    io_mib: int = 256
    io_seconds: float = 1.5
    python_starts: int = 10
    shell_starts: int = 200


QUICK = Sizes(tree=6000, append=500, repo=1000, ops=400, layers=1000, io_mib=64, io_seconds=0.4, python_starts=4,
              shell_starts=50)


@dataclass
class Group:
    fn: callable
    name: str
    unit: str
    benchmarks: list  # in the order of the tables
    kind: str  # workload: counts for the geometric mean; operation; scale
    has_floor: bool = False
    is_large: bool = False


GROUPS = {}


def group(*benchmarks, unit="s", kind="workload", has_floor=False, is_large=False):
    def register(fn):
        name = fn.__name__.removeprefix("do_")
        GROUPS[name] = Group(fn, name, unit, list(benchmarks), kind, has_floor, is_large)
        return fn
    return register


class Stage:
    """One side's place for one group: a new upper, a mount point, and the clock."""

    def __init__(self, side, scratch, sizes, build):
        self.side = side
        self.scratch = scratch
        self.sizes = sizes
        self.build = build
        self.lower = scratch / "lower"
        self.base = scratch / "stage"
        self.mnt = self.base / "mnt"
        self.plain_root = self.mnt
        self.env = git_environment(scratch)
        self.is_mounted = False
        self.n_requests = None  # since the mount
        self.n_asked = None  # requests of a turn of what was timed last

    def mount(self, lowers=None, cwd="/", writes=None):
        """Mounts with caches empty. writes: what the plain filesystem needs a copy of; None: it may use lower."""
        for name in ("mnt", "upper", "work"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self.side.is_plain:
            self.plain_root = self.mnt
            if writes is None:
                self.plain_root = self.lower
            for name in writes or []:
                if not (self.mnt / name).exists():
                    run(["cp", "-a", self.lower / name, self.mnt / name])
        else:
            self.side.mount(self.mnt, lowers or [str(self.lower)], str(self.base / "upper"),
                            str(self.base / "work"), cwd)
            self.is_mounted = True
            self.side.settle()
            self.n_requests = self.side.requests(self.mnt)
        os.sync()

    @property
    def root(self):
        return self.plain_root if self.side.is_plain else self.mnt

    def unmount(self):
        if self.is_mounted:
            self.is_mounted = False
            self.side.unmount(self.mnt)

    def remount(self, **kwargs):
        self.unmount()
        self.mount(**kwargs)

    def close(self):
        try:
            self.unmount()
        finally:
            run(["rm", "-rf", "--one-file-system", self.base])

    def timed(self, args, env=None, turns=1):
        """Seconds a turn."""
        os.sync()
        begin = time.perf_counter()
        run(args, timeout=TIMEOUT, env=env, cwd="/")
        seconds = time.perf_counter() - begin
        if self.n_requests is not None:
            before, self.n_requests = self.n_requests, self.side.requests(self.mnt)
            self.n_asked = (self.n_requests - before) / turns
        return seconds / turns

    def shell(self, text):
        return self.timed(["sh", "-c", text])


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def warm(scratch):
    """The layers and the programs into the page cache, so that the first side is not the one that reads them."""
    with contextlib.suppress(Failed):
        run(["sh", "-c", f"tar -cf - -C {scratch} lower layers tree.tar | cat >/dev/null; "
             f"find {scratch}/lower {scratch}/large -size +100M 2>/dev/null; :"])
        run(["make", "-s", "-j2", "-C", scratch / "lower" / "proj", f"SYSROOT={scratch / 'lower' / 'tree'}",
             f"OUT={scratch / 'warm'}"], timeout=TIMEOUT)
    shutil.rmtree(scratch / "warm", ignore_errors=True)


# ---- whole workloads ----


@group("git-status-first", "git-status", "git-clone", "git-checkout")
def do_git(stage):
    stage.mount(writes=["repo"])
    repo = stage.root / "repo"

    def git(*args):
        return stage.timed(["git", *args], env=stage.env)

    if stage.side.is_plain:  # a copy has other inode numbers and times than its index says
        git("-C", repo, "status")
    yield "git-status-first", git("-C", repo, "status")
    yield "git-status", min(git("-C", repo, "status") for _ in range(3))
    yield "git-clone", git("clone", "-q", repo, stage.root / "clone")
    yield "git-checkout", (git("-C", repo, "checkout", "-q", "other") +
                           git("-C", repo, "checkout", "-q", "main"))


@group("compile")
def do_compile(stage):
    stage.mount(writes=["proj"])
    sysroot = (stage.lower if stage.side.is_plain else stage.root) / "tree"
    yield "compile", stage.timed(["make", "-s", "-j2", "-C", stage.root / "proj", f"SYSROOT={sysroot}"])


@group("untar", "rm-upper")
def do_untar(stage):
    stage.mount(writes=[])
    (stage.root / "new").mkdir()
    yield "untar", stage.timed(["tar", "-xf", stage.scratch / "tree.tar", "-C", stage.root / "new"])
    yield "rm-upper", stage.timed(["rm", "-rf", stage.root / "new"])


@group("rm-lower")
def do_rm(stage):
    stage.mount(writes=["tree"])
    yield "rm-lower", stage.timed(["rm", "-rf", stage.root / "tree"])


@group("chown")
def do_chown(stage):
    stage.mount(writes=["tree"])
    yield "chown", stage.timed(["chown", "-R", "12345:12345", stage.root / "tree"])


APPEND = """
import os, sys
os.chdir(sys.argv[1])
for name in open(sys.argv[2], errors="surrogateescape").read().split("\\n"):
    fd = os.open(name, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)
"""


@group("append")
def do_append(stage):
    stage.mount(writes=["tree"])
    yield "append", stage.timed(["/usr/bin/python3", "-c", APPEND, stage.root / "tree",
                                 stage.scratch / "append.list"])


@group("python-first", "python-start", "sh-start")
def do_start(stage):
    stage.mount()
    tree = stage.root / "tree"
    python = "/usr/bin/python3 -c 'import json, argparse, subprocess, logging'"

    def loop(n, command):
        text = f"i=0; while [ $i -lt {n} ]; do {command} || exit 1; i=$((i+1)); done"
        return stage.timed(["chroot", tree, "/bin/sh", "-c", text], turns=n)

    yield "python-first", loop(1, python)
    yield "python-start", loop(stage.sizes.python_starts, python)
    yield "sh-start", loop(stage.sizes.shell_starts, "/bin/sh -c :")


# ---- input and output ----


def fio(stage, path, mode, block, engine="psync", is_new=False):
    """Seconds a GiB."""
    if not shutil.which("fio"):
        raise Skip("fio is not installed")
    args = ["fio", "--name=job", f"--filename={path}", f"--rw={mode}", f"--bs={block}", f"--ioengine={engine}",
            f"--size={stage.sizes.io_mib}m", "--invalidate=0", "--fallocate=none", "--randrepeat=1",
            "--norandommap", "--output-format=json", "--thread", "--fadvise_hint=0"]
    if is_new:
        args += ["--create_on_open=1"]
    else:
        args += ["--time_based", f"--runtime={stage.sizes.io_seconds}"]
    text = run(args, timeout=TIMEOUT, cwd=stage.scratch)
    job = json.loads(text[text.index("{"):])["jobs"][0]
    result = job["write" if "write" in mode else "read"]
    if job["error"] or not result["io_bytes"]:
        raise Failed(f"fio {mode}: error {job['error']}")
    # runtime is in whole milliseconds: of short runs take the sum of the latencies
    seconds = result["runtime"] / 1000
    if seconds < 0.5:
        seconds = result["lat_ns"]["mean"] * result["total_ios"] / 1e9
    return seconds * (1 << 30) / result["io_bytes"]


@group("seqread-lower", "seqread-upper", "randread-lower", "randread-upper", "seqwrite-new",
       "seqwrite-upper", "randwrite-upper", "mmapread-lower", "mmapread-upper", "mmapwrite-upper", "copyup-big",
       unit="s/GiB")
def do_io(stage):
    stage.mount(writes=["io"])
    lower = stage.root / "io" / "file"
    upper = stage.root / "io" / "upper"
    yield "seqwrite-new", fio(stage, upper, "write", "128k", is_new=True)
    for _ in range(2):  # what is read warm shall be in the cache of every layer of caches
        run(["sh", "-c", f"cat {lower} {upper} >/dev/null"])
    yield "seqread-lower", fio(stage, lower, "read", "128k")
    yield "seqread-upper", fio(stage, upper, "read", "128k")
    yield "randread-lower", fio(stage, lower, "randread", "4k")
    yield "randread-upper", fio(stage, upper, "randread", "4k")
    yield "mmapread-lower", fio(stage, lower, "randread", "4k", "mmap")
    yield "mmapread-upper", fio(stage, upper, "randread", "4k", "mmap")
    yield "seqwrite-upper", fio(stage, upper, "write", "128k")
    yield "randwrite-upper", fio(stage, upper, "randwrite", "4k")
    yield "mmapwrite-upper", fio(stage, upper, "randwrite", "4k", "mmap")
    stage.remount(writes=["io"])
    seconds = stage.shell(f"printf x >>{lower}")
    yield "copyup-big", seconds * 1024 / stage.sizes.io_mib


# ---- single operations ----

OPERATIONS = ["stat-first", "stat", "absent-first", "absent", "open-read-first", "open-read", "readdir-first",
              "readdir", "create", "write", "open-read-upper", "chmod", "link", "rename", "unlink-link", "unlink",
              "mkdir", "rmdir", "symlink", "copy-up", "unlink-lower"]
# Those that the caches of a mount answer: the goal is the kernel's time, not the floor.
CACHED = {"stat", "absent", "readdir"}


def ops(stage, directory, n_processes, count, operations):
    """Runs bench/ops.c. Gives {operation: microseconds}."""
    out = run([stage.build / "bench" / "ops", directory, n_processes, count, *operations], timeout=TIMEOUT)
    return {name: float(value) for name, value in (line.split() for line in out.splitlines())}


def single(stage, n_processes):
    if stage.side.is_floor:
        stage.side.n_files = stage.sizes.ops
    stage.mount(writes=["ops"])
    values = ops(stage, stage.root / "ops", n_processes, stage.sizes.ops, OPERATIONS)
    for name, value in values.items():
        yield f"{name}-{n_processes}", value


@group(*(f"{name}-1" for name in OPERATIONS), unit="µs", kind="operation", has_floor=True)
def do_ops1(stage):
    yield from single(stage, 1)


@group(*(f"{name}-4" for name in OPERATIONS), unit="µs", kind="operation", has_floor=True)
def do_ops4(stage):
    yield from single(stage, 4)


# ---- how cost grows ----

LAYER_OPERATIONS = ["stat-first", "absent-first", "readdir-first"]


@group(*(f"{op}-{n}-layers" for op in LAYER_OPERATIONS for n in (1, N_LAYERS)), unit="µs", kind="scale")
def do_layers(stage):
    if stage.side.is_plain:
        raise Skip("it has no layers")
    layers = stage.scratch / "layers"
    for n, names in ((1, ["one"]), (N_LAYERS, [f"l{i}" for i in range(N_LAYERS)])):
        # relative: mount(2) takes no more than a page of options
        stage.remount(lowers=names, cwd=layers)
        values = ops(stage, stage.root, 1, stage.sizes.layers, LAYER_OPERATIONS)
        for name, value in values.items():
            yield f"{name}-{n}-layers", value
        stage.unmount()
        shutil.rmtree(stage.base)


LARGE_OPERATIONS = ["stat-first", "absent-first", "create", "unlink", "readdir-first"]


@group(*(f"{op}-{n}" for op in LARGE_OPERATIONS for n in ("thousand", "million")), unit="µs", kind="scale",
       is_large=True)
def do_large(stage):
    if stage.side.is_plain:
        raise Skip("would write into the layer")
    if stage.side.name == "fuse-overlayfs":
        raise Skip("it needs more than three minutes")
    for name, n in (("thousand", 1000), ("million", 1000000)):
        stage.remount(lowers=[str(stage.scratch / "large" / name)])
        values = ops(stage, stage.root, 1, f"1000:{n}", LARGE_OPERATIONS)
        for op, value in values.items():
            yield f"{op}-{name}", value / n if op == "readdir-first" else value
        stage.unmount()
        shutil.rmtree(stage.base)


# ---- caches of the machine: last, since all others are to find the layers in memory ----


@group("find-cold", "find-warm", "tar-cold", "tar-warm")
def do_walk(stage):
    find = ["find", None, "-size", "+100M"]
    for name, command in (("find", lambda: stage.timed([a or stage.root / "tree" for a in find])),
                          ("tar", lambda: stage.shell(f"tar -cf - -C {stage.root} tree | cat >/dev/null"))):
        stage.remount()
        drop_caches()
        yield f"{name}-cold", command()
        yield f"{name}-warm", command()


# ---- one group on one side ----


def run_group(which, side, scratch, sizes, build, on_value):
    """Calls on_value(benchmark, value, requests or None) for each. Skip and Failed are the caller's; all is put away."""
    stage = Stage(side, scratch, sizes, build)
    try:
        for name, value in which.fn(stage):
            on_value(name, value, stage.n_asked)
            stage.n_asked = None
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            stage.close()
