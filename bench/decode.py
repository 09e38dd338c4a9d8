# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse mapping: how fast a handle becomes a file right after a mount, and what the map costs."""

import os
import subprocess
import time

import report
from sides import Failed, Skip, run

N_HANDLES = 2000
MOUNTS = 3
SIDES = ["kernel", "reverlay", "reverlay-uring"]


class Place:
    """One side with its upper, mounted again and again."""

    def __init__(self, side, scratch, build):
        self.side = side
        self.program = str(build / "bench" / "decode")
        self.inside = None if side.name == "kernel" else str(build / "bench" / "rvl-decode-inside")
        self.lower = scratch / "decode"
        self.base = scratch / "stage"
        self.mnt = self.base / "mnt"
        for name in ("mnt", "upper", "work"):
            (self.base / name).mkdir(parents=True, exist_ok=True)

    def mount(self):
        """Seconds till the root answers."""
        begin = time.perf_counter()
        self.side.mount(self.mnt, [str(self.lower)], str(self.base / "upper"), str(self.base / "work"), "/")
        os.stat(self.mnt)
        return time.perf_counter() - begin

    def unmount(self):
        self.side.unmount(self.mnt)

    def save(self, below, n):
        result = subprocess.run([self.program, "save", self.mnt / below, str(n), str(N_HANDLES)],
                                stdout=subprocess.PIPE, check=False, timeout=600)
        if result.returncode:
            raise Failed("handles cannot be had")
        return result.stdout

    def open(self, handles):
        """first, median, 99 %, longest"""
        result = subprocess.run([self.program, "open", self.mnt], input=handles, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, check=False, timeout=600)
        if result.returncode:
            raise Failed(result.stderr.decode().strip())
        return [float(x) for x in result.stdout.split()]

    def open_inside(self, handles):
        """The same without FUSE, in a process of its own; the mount goes for it, and is there again afterwards."""
        self.unmount()
        result = subprocess.run([self.inside, self.lower, self.base / "upper", self.base / "work"], input=handles,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=600)
        if result.returncode:
            raise Failed(result.stderr.decode().strip())
        self.mount()
        return [float(x) for x in result.stdout.split()]

    def map_bytes(self):
        """What files whose name begins with "map." take below upper and work."""
        total = 0
        for top in ("upper", "work"):
            for base, _, files in os.walk(self.base / top):
                total += sum(os.lstat(os.path.join(base, f)).st_blocks * 512 for f in files if f.startswith("map."))
        return total

    def close(self):
        self.unmount()
        run(["rm", "-rf", self.base])


def mounts(place):
    """The quickest of some mounts: what a mount costs besides what the machine is busy with."""
    times = []
    for _ in range(MOUNTS):
        place.unmount()
        times.append(place.mount())
    return min(times)


def decode(place, handles, what, values):
    """Adds the rows of one kind of handle."""
    ways = [("", place.open)]
    if place.inside:
        ways.append((" in the server", place.open_inside))
    for where, way in ways:
        for name, value in zip(("first", "median", "99 %", "longest"), way(handles)):
            values[f"decode of {what}{where}, {name} (µs)"] = value


def measure(place, n_files, say):
    """{row: value}"""
    values = {"mount, first (s)": place.mount()}
    if place.side.name != "kernel":
        seconds = place.side.settle()
        values["map, names a second"] = n_files / seconds if seconds else None
        values["map, bytes a name"] = place.map_bytes() / n_files
    handles = place.save(".", n_files)
    values["mount again (s)"] = mounts(place)
    decode(place, handles, "lower", values)
    say(f"{place.side.name}: {n_files} files in upper")
    (place.mnt / "new").mkdir()
    seconds = float(run([place.program, "make", place.mnt / "new", str(n_files)], timeout=3600))
    values["files created a second"] = n_files / seconds
    handles = place.save("new", n_files)
    values[f"mount with {n_files} index entries (s)"] = mounts(place)
    decode(place, handles, "upper", values)
    return values


def main(args, everyone, wanted, scratch, build, say):
    """The results: {side: {row: value}}."""
    program = str(build / "bench" / "decode")
    lower = scratch / "decode"
    if not lower.exists():
        say(f"making {args.files} files")
        lower.mkdir()
        run([program, "make", lower, str(args.files)], timeout=3600)
        os.sync()
    results = {}
    for name in [s for s in SIDES if s in wanted]:
        side = everyone[name]
        place = Place(side, scratch, build)
        try:
            side.check()
            results[name] = measure(place, args.files, say)
        except (Skip, Failed) as reason:
            say(f"{name}: {reason}")
        finally:
            place.close()
    return results


def table(data):
    results = data["decode"]
    made = report.Table(f"Handles and the map: {data['decode_files']} files", ["", *results])
    for row in results.get("reverlay") or next(iter(results.values()), {}):
        made.rows.append([row, *(show(results[s].get(row)) for s in results)])
    return made


def show(value):
    return "–" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.2f}"
