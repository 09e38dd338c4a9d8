#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Races reverlay, the kernel's overlayfs, fuse-overlayfs, the plain filesystem and the floor of FUSE.

Started by scripts/bench, in a mount namespace of its own.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import check
import decode
import report
import sides
import trees
import workloads
from sides import Failed, Skip, run
from workloads import GROUPS

TOP = Path(__file__).resolve().parents[1]
IMAGE_GIB = 16


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def parse(argv):
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and 3 rounds: some minutes, more noise")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (default 5)")
    parser.add_argument("--only", metavar="NAME,...", help="groups or benchmarks, with * and ?")
    parser.add_argument("--sides", metavar="NAME,...", help="only these contestants")
    parser.add_argument("--large", action="store_true", help="also directories of a thousand and a million files")
    parser.add_argument("--decode", action="store_true", help="only: handles, the map, and mounts with a large index")
    parser.add_argument("--files", type=int, default=1000000, metavar="N", help="for --decode (default a million)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples")
    parser.add_argument("--from", dest="from_file", metavar="FILE", type=Path, help="report of such a file, no run")
    parser.add_argument("--write", action="store_true", help="tables and plots into docs/")
    parser.add_argument("--check", action="store_true",
                        help="against the previous commit's binary: exit code 1 if something is over 10 %% slower")
    parser.add_argument("--against", metavar="REV|PROGRAM", help="for --check: what to compare with")
    parser.add_argument("--uring", dest="is_uring", action="store_true", help="for --check: with io_uring")
    parser.add_argument("--dir", metavar="DIR", type=Path, default=Path("/var/tmp"), help="where to work (/var/tmp)")
    parser.add_argument("--image", action="store_true",
                        help="work on an ext4 image in DIR (without this option where DIR is an ext4 without a journal)")
    parser.add_argument("--no-image", action="store_true", help="work in DIR even then")
    parser.add_argument("--keep", metavar="DIR", type=Path,
                        help="make the trees here and leave them for the next run with the same sizes")
    parser.add_argument("--options", default="", metavar="OPTS", help="mount options for reverlay")
    parser.add_argument("--uring-options", default="", metavar="OPTS", help="more of them for reverlay-uring")
    parser.add_argument("--list", action="store_true", help="names of groups and benchmarks")
    args = parser.parse_args(argv)
    if args.rounds is None:
        args.rounds = 3 if args.quick else 5
    return args


def wanted_groups(args):
    """{group name: benchmarks to keep}"""
    patterns = args.only.split(",") if args.only else ["*"]
    chosen = {}
    for name, group in GROUPS.items():
        if group.is_large and not (args.large or name in patterns):
            continue
        found = [b for b in group.benchmarks if any(fnmatch.fnmatch(b, p) or fnmatch.fnmatch(name, p)
                                                    for p in patterns)]
        if found:
            chosen[name] = found
    if not chosen:
        raise SystemExit(f"bench: nothing is called {args.only}; see --list")
    return chosen


def machine(args, scratch):
    def first(path, key, default):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text(encoding="utf-8").splitlines():
                if line.startswith(key):
                    return line.split(":", 1)[1].strip()
        return default

    memory = first("/proc/meminfo", "MemTotal", "0 kB").split()[0]
    with contextlib.suppress(Failed):
        where = run(["stat", "-f", "-c", "%T", scratch]).strip()
    revision = subprocess.run(["git", "-c", f"safe.directory={TOP}", "-C", TOP, "describe", "--always", "--dirty"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, text=True).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"), "kernel": f"Linux {platform.release()}", "cpus": os.cpu_count(),
        "cpu": first("/proc/cpuinfo", "model name", platform.machine()), "memory_gib": round(int(memory) / (1 << 20)),
        "filesystem": "an image with ext4" if scratch.name == "fs" else where, "revision": revision or "unknown",
        "rounds": args.rounds, "is_quick": args.quick, "load": os.getloadavg()[0],
    }


class Race:
    def __init__(self, contestants, groups, scratch, sizes, build):
        self.contestants = contestants
        self.groups = groups
        self.scratch = scratch
        self.sizes = sizes
        self.build = build
        self.samples = {}
        self.requests = {}
        self.skipped = {}  # (side, group): reason
        self.failed = {}

    def heat(self, side, name):
        """One side, one group."""
        values = []

        def on_value(benchmark, value, n_asked):
            if benchmark in self.groups[name]:
                self.samples.setdefault(benchmark, {}).setdefault(side.name, []).append(value)
                if n_asked is not None:
                    self.requests.setdefault(benchmark, {}).setdefault(side.name, []).append(n_asked)
                values.append(f"{benchmark} {value:.4g}")

        try:
            side.check()
            workloads.run_group(GROUPS[name], side, self.scratch, self.sizes, self.build, on_value)
        except Skip as reason:
            self.skipped[side.name, name] = str(reason)
            values.append(f"left out: {reason}")
        except Failed as error:
            self.failed[side.name, name] = str(error)
            values.append(f"FAILED: {error}")
        shown = "  ".join(values[:6]) + (f"  … ({len(values)})" if len(values) > 6 else "")
        return f"{side.name}: {shown}"

    def round(self, number, n_rounds, rng):
        workloads.warm(self.scratch)
        for name in self.groups:
            order = [s for s in self.contestants if (s.name, name) not in self.skipped and
                     (not s.is_floor or GROUPS[name].has_floor)]
            rng.shuffle(order)
            for side in order:
                begin = time.monotonic()
                text = self.heat(side, name)
                say(f"round {number}/{n_rounds} {name} {text}  [{time.monotonic() - begin:.0f} s]")


def lacks_journal(path):
    """Is this an ext4 without a journal? There a create is a hundred times slower for some minutes after many files
    were removed, since the inodes just freed are looked at one by one (ext4's recently_deleted), and every measurement
    would show only what the one before it has removed."""
    with contextlib.suppress(Failed):
        source, kind = run(["findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", path]).split()[-2:]  # of what is on top
        name = os.path.basename(os.path.realpath(source))
        return kind == "ext4" and not any(d.startswith(f"{name}-") for d in os.listdir("/proc/fs/jbd2"))
    return False


class Scratch:
    """A new directory with the trees; gone at the end, unless it is to be kept."""

    def __init__(self, args, sizes):
        self.args = args
        self.sizes = sizes
        self.top = None
        self.image = None

    def __enter__(self):
        if self.args.keep:
            self.top = self.args.keep.resolve()
            self.top.mkdir(parents=True, exist_ok=True)
        else:
            self.top = Path(tempfile.mkdtemp(prefix="reverlay-bench.", dir=self.args.dir))
        os.chmod(self.top, 0o755)
        try:
            if self.args.image or (lacks_journal(self.top) and not self.args.no_image):
                self.make_image()
            self.fill()
        except BaseException:
            self.__exit__()
            raise
        return self.top

    def make_image(self):
        """All is written out beforehand, so that nothing is made in the background later."""
        self.image = self.top / "image"
        fs = self.top / "fs"
        run(["fallocate", "-l", f"{IMAGE_GIB}G", self.image])
        run(["mkfs.ext4", "-q", "-F", "-i", "4096" if self.args.large or self.args.decode else "16384",
             "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", self.image])
        fs.mkdir(exist_ok=True)
        run(["mount", "-o", "loop", self.image, fs])
        self.top = fs
        device = run(["findmnt", "-n", "-o", "SOURCE", fs]).strip()
        with contextlib.suppress(Failed):  # else each page is in memory twice
            run(["losetup", "--direct-io=on", device])

    def fill(self):
        if self.args.decode:
            return
        stamp = self.top / "made"
        if stamp.exists() and stamp.read_text(encoding="ascii") == repr(self.sizes):
            return
        for name in ("lower", "layers", "large"):
            shutil.rmtree(self.top / name, ignore_errors=True)
        trees.make_all(self.top, self.sizes, say)
        stamp.write_text(repr(self.sizes), encoding="ascii")

    def __exit__(self, *_):
        if self.image:
            subprocess.run(["umount", str(self.top)], check=False)
            self.top = self.top.parent
            self.image.unlink()
            self.image = None
        shutil.rmtree(self.top / "stage", ignore_errors=True)
        if not self.args.keep or self.image:
            shutil.rmtree(self.top, ignore_errors=True)


def race(args, build):
    sizes = workloads.QUICK if args.quick else workloads.Sizes()
    groups = wanted_groups(args)
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"warning: others are busy here (load {load:.1f}): the numbers will be noisy")
    transport = sides.Transport()
    with Scratch(args, sizes) as scratch:
        try:
            if "large" in groups:
                trees.make_large(scratch, say)
            everyone = sides.make_all(build, scratch / "servers.log", transport, args.options, args.uring_options)
            wanted = args.sides.split(",") if args.sides else sides.NAMES
            unknown = set(wanted) - set(everyone)
            if unknown:
                raise SystemExit(f"bench: no such side: {', '.join(unknown)}")
            if args.check:
                return check.main(args, groups, scratch, sizes, build, transport, say)
            about = machine(args, scratch)
            if args.decode:
                results = decode.main(args, everyone, wanted, scratch, build, say)
                return {"machine": about, "decode": results, "decode_files": args.files, "skipped": [], "failed": []}
            run_ = Race([everyone[n] for n in wanted], groups, scratch, sizes, build)
            rng = random.Random(1)
            for number in range(1, args.rounds + 1):
                run_.round(number, args.rounds, rng)
        finally:
            transport.restore()
            log = scratch / "servers.log"
            if log.exists() and log.stat().st_size:
                lines = [l for l in log.read_text(errors="replace").splitlines() if "lazytime" not in l]
                if lines:
                    say("the servers said: " + "\n".join(lines[-20:]))
                log.unlink()
    data = {"machine": about, "samples": run_.samples, "requests": run_.requests,
            "skipped": [[*k, v] for k, v in run_.skipped.items()],
            "failed": [[*k, v] for k, v in run_.failed.items()]}
    return data


def show(args, data):
    print(report.machine_text(data))
    if "decode" in data:
        tables = [decode.table(data)]
        drawn = {}
        section = "bench-decode"
    else:
        results = report.Results(data)
        tables = report.tables(results)
        drawn = report.plots(results)
        section = "bench"
    for table in tables:
        print("\n" + table.text())
    for title, entries in (("Left out", data["skipped"]), ("FAILED", data["failed"])):
        for side, group, reason in entries:
            print(f"{title}: {side}, {group}: {reason}")
    if args.json and not args.from_file:
        args.json.write_text(json.dumps(data, indent=1), encoding="utf-8")
    if args.write:
        report.write_document(TOP / "docs" / "performance.md", section, data, tables, drawn)
        say("docs/performance.md is written")
    return 1 if data["failed"] else 0


def main(argv):
    args = parse(argv)
    if args.list:
        for name, group in GROUPS.items():
            print(f"{name}: {' '.join(group.benchmarks)}")
        return 0
    if args.from_file:
        return show(args, json.loads(args.from_file.read_text(encoding="utf-8")))
    if os.geteuid() != 0:
        raise SystemExit("bench: must be root, to mount the kernel's overlayfs and to drop caches")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    result = race(args, Path(os.environ["RVL_BENCH_BUILD"]).resolve())
    return result if isinstance(result, int) else show(args, result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
