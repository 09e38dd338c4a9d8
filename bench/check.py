# SPDX-License-Identifier: GPL-2.0-or-later
"""Is the present program slower than that of the previous commit?

Both run each group one after the other, in turns first, so that what the machine does besides hits both. The
measure is the ratio of such a pair. A benchmark has regressed when the median of its ratios is above the limit and
the ratios leave no doubt (the interval of 99 % for the median is above 1, and not by a hair: there are many benchmarks);
has not when the interval ends below the limit or the median is well below it. What is undecided gets more rounds.
"""

import math
import os
import random
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import sides
import workloads
from sides import Failed, Skip, run
from workloads import GROUPS

TOP = Path(__file__).resolve().parents[1]
LIMIT = 1.10
SURELY = 1.03
MAX_ROUNDS = 21
MIN_ROUNDS = 8  # below that there is no such interval
DOUBT = 0.01


def git(*args):
    return subprocess.run(["git", "-c", f"safe.directory={TOP}", "-C", str(TOP), *args], stdout=subprocess.PIPE,
                          check=True, text=True).stdout.strip()


def previous_revision():
    """HEAD where the tree differs from it in what is built, else the commit before."""
    return "HEAD" if git("status", "--porcelain", "--", "src", "meson.build") else "HEAD~1"


def build_revision(revision, target, say):
    """Builds that commit in a directory of its own, with the libfuse that is here. Gives the program."""
    name = git("rev-parse", "--short", revision)
    say(f"building {name} ({revision}) to compare with")
    run(["sh", "-c", f"git -c safe.directory={TOP} -C {TOP} archive {name} | tar -x -C {target}"])
    if (TOP / ".deps").is_dir():
        os.symlink(TOP / ".deps", target / ".deps")
    run(["meson", "setup", "--buildtype=release", "-Dtests=false", *static_fuse(), target / "build", target])
    run(["ninja", "-C", target / "build", "reverlay"])
    return target / "build" / "reverlay"


def static_fuse():
    private = TOP / ".deps" / "fuse3" / "lib" / "pkgconfig"
    return [f"-Dpkg_config_path={private}", "-Dstatic_fuse=true"] if private.is_dir() else []


def interval(ratios):
    """Holds the median of what the ratios are drawn from, but for the doubt (binomial distribution)."""
    n = len(ratios)
    ordered = sorted(ratios)
    outside, k = 0.0, -1
    while True:
        outside += 2 * math.comb(n, k + 1) / 2**n
        if outside > DOUBT:
            break
        k += 1
    return (None, None) if k < 0 else (ordered[k], ordered[-1 - k])


def verdict(ratios):
    """bad, good, or None: not known yet."""
    low, high = interval(ratios)
    if low is None:
        return None
    middle = statistics.median(ratios)
    if middle > LIMIT and low > SURELY:
        return "bad"
    if high < LIMIT or middle < (1 + LIMIT) / 2:
        return "good"
    return None


class Duel:
    def __init__(self, old, new, groups, place, say):
        self.pair = (old, new)
        self.groups = groups
        self.place = place  # arguments of run_group
        self.say = say
        self.ratios = {}
        self.failed = []

    def heat(self, side, name):
        values = {}

        def on_value(benchmark, value, _):
            values[benchmark] = value

        workloads.run_group(GROUPS[name], side, *self.place, on_value)
        return values

    def round(self, name, rng):
        order = list(self.pair)
        rng.shuffle(order)
        try:
            values = {side.name: self.heat(side, name) for side in order}
        except Failed as error:
            self.failed.append(f"{name}: {error}")
            return
        old, new = (values[side.name] for side in self.pair)
        for benchmark in self.groups[name]:
            if old.get(benchmark) and new.get(benchmark):
                self.ratios.setdefault(benchmark, []).append(new[benchmark] / old[benchmark])

    def undecided(self, name):
        found = [b for b in self.groups[name] if b in self.ratios]
        return not found or any(verdict(self.ratios[b]) is None for b in found)

    def run(self, n_rounds):
        rng = random.Random(2)
        for number in range(1, MAX_ROUNDS + 1):
            names = [n for n in self.groups if self.undecided(n)] if number > n_rounds else list(self.groups)
            if not names or self.failed:
                break
            workloads.warm(self.place[0])
            for name in names:
                self.round(name, rng)
                shown = [f"{b} {statistics.median(self.ratios[b]):.2f}" for b in self.groups[name] if b in self.ratios]
                self.say(f"round {number} {name}: {'  '.join(shown)}")


def main(args, groups, scratch, sizes, build, transport, say):
    """0 or 1, the exit code."""
    against = args.against or previous_revision()
    with tempfile.TemporaryDirectory(prefix="reverlay-bench-old.", dir=args.dir) as made:
        if os.access(against, os.X_OK) and Path(against).is_file():
            program = Path(against)
        else:
            program = build_revision(against, Path(made), say)
        copies = []
        for name, source in (("old", program), ("new", os.environ.get("RVL_PROGRAM") or build / "reverlay")):
            target = Path(made) / f"reverlay-{name}"
            shutil.copy2(source, target)  # a build meanwhile changes nothing
            copies.append(sides.Reverlay(name, target, scratch / "servers.log", transport, args.is_uring, args.options))
        duel = Duel(*copies, groups, (scratch, sizes, build), say)
        try:
            duel.run(max(args.rounds, MIN_ROUNDS))
        except Skip as reason:
            say(f"left out: {reason}")
            return 1
    return result(duel)


def result(duel):
    slower = []
    print(f"{'':24}  new/old   interval of 99 %  rounds")
    for name, benchmarks in duel.groups.items():
        for benchmark in (b for b in benchmarks if b in duel.ratios):
            ratios = duel.ratios[benchmark]
            low, high = interval(ratios)
            word = verdict(ratios)
            text = {"bad": "SLOWER", "good": "", None: "not decided: too noisy"}[word]
            shown = f"{low:.2f} … {high:.2f}" if low else "–"
            print(f"{benchmark:24}  {statistics.median(ratios):7.2f}  {shown:>17}  {len(ratios):6}  {text}")
            if word == "bad":
                slower.append(benchmark)
    for text in duel.failed:
        print(f"FAILED: {text}")
    print(f"{len(slower)} slower by more than {100 * (LIMIT - 1):.0f} %" + (f": {', '.join(slower)}" if slower else ""))
    return 1 if slower or duel.failed else 0
