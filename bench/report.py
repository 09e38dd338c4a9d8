# SPDX-License-Identifier: GPL-2.0-or-later
"""From samples to tables, for people and for docs/performance.md, and to plots."""

import math
import re
import statistics
from xml.sax.saxutils import escape

from sides import NAMES
from trees import N_LAYERS
from workloads import CACHED, GROUPS

BASE = "kernel"
OURS = ["reverlay", "reverlay-uring"]
WORST = 1.5  # the goal for each workload, of the kernel's time
PLAIN_FACTOR = 1.2  # of the plain filesystem's time, on top of the floor
COLORS = {"plain": "#9aa5b1", "kernel": "#4c566a", "reverlay": "#2a9d8f", "reverlay-uring": "#1d6fb8",
          "fuse-overlayfs": "#e07a3f", "floor": "#c9b458", "floor-uring": "#a3914a"}


def median(values):
    return statistics.median(values) if values else None


def noise(values):
    """Half the distance of the quartiles, of the median."""
    if len(values) < 2 or not median(values):
        return None
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(3 * n - 1) // 4] - ordered[n // 4]) / 2 / median(values)


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


class Results:
    def __init__(self, data):
        self.data = data
        self.samples = data["samples"]
        self.requests = data.get("requests", {})

    def median(self, benchmark, side):
        return median(self.samples.get(benchmark, {}).get(side, []))

    def ratio(self, benchmark, side, base=BASE):
        value, by = self.median(benchmark, side), self.median(benchmark, base)
        return value / by if value is not None and by else None

    def noise(self, benchmark):
        found = [noise(v) for s, v in self.samples.get(benchmark, {}).items() if s == BASE or s in OURS]
        found = [n for n in found if n is not None]
        return max(found) if found else None

    def sides(self, benchmarks):
        return [s for s in NAMES if any(self.median(b, s) is not None for b in benchmarks)]

    def benchmarks(self, kind):
        return [(b, g) for g in GROUPS.values() if g.kind == kind for b in g.benchmarks if b in self.samples]


def show_value(value, unit):
    if value is None:
        return "–"
    digits = 3 if value < 1 else 2 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"


def show_ratio(value):
    return "–" if value is None else f"{value:.2f}"


def show_percent(value):
    return "–" if value is None else f"{100 * value:.0f} %"


class Table:
    def __init__(self, title, head, note=""):
        self.title = title
        self.head = head
        self.note = note
        self.rows = []

    def text(self):
        rows = [self.head] + self.rows
        widths = [max(len(r[i]) for r in rows) for i in range(len(self.head))]
        lines = [self.title, ""]
        for row in rows:
            lines.append("  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                                   for i, (c, w) in enumerate(zip(row, widths))).rstrip())
        return "\n".join(lines + ([""] + [self.note] if self.note else []))

    def markdown(self):
        lines = [f"### {self.title}", "", "| " + " | ".join(self.head) + " |",
                 "|---|" + "---:|" * (len(self.head) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines + (["", self.note] if self.note else []))


def workload_table(results):
    rows = results.benchmarks("workload")
    names = [b for b, _ in rows]
    others = [s for s in results.sides(names) if s != BASE]
    table = Table("Whole workloads: time, kernel overlayfs = 1.00", ["", BASE, *others, "noise"],
                  "Less is better. Mean: geometric. Noise: half the distance of the quartiles, the larger of "
                  "kernel's and reverlay's.")
    for name, group in rows:
        table.rows.append([name, show_value(results.median(name, BASE), group.unit),
                           *(show_ratio(results.ratio(name, s)) for s in others), show_percent(results.noise(name))])
    for title, combine in (("mean", geometric_mean), ("worst", max)):
        cells = []
        for side in others:
            ratios = [r for r in (results.ratio(b, side) for b in names) if r]
            cells.append(show_ratio(combine(ratios) if ratios else None))
        table.rows.append([title, "1.00", *cells, ""])
    return table


def goal(results, benchmark, side):
    """What a single operation may cost: microseconds, or None."""
    floor = results.median(benchmark, "floor-uring" if side.endswith("uring") else "floor")
    plain = results.median(benchmark, "plain")
    if benchmark.rsplit("-", 1)[0] in CACHED:
        return results.median(benchmark, BASE)
    return floor + PLAIN_FACTOR * plain if floor is not None and plain is not None else None


def operation_table(results):
    rows = results.benchmarks("operation")
    names = [b for b, _ in rows]
    sides = results.sides(names)
    ours = [s for s in OURS if s in sides]
    table = Table("Single operations: microseconds", ["", *sides, *(f"{s} / goal" for s in ours), "noise"],
                  f"-1, -4: processes at once. Goal: floor + {PLAIN_FACTOR} × plain; for what the mount's caches "
                  f"answer ({', '.join(sorted(CACHED))}) the kernel's time.")
    for name in names:
        cells = [show_value(results.median(name, s), "").strip() for s in sides]
        for side in ours:
            value, wanted = results.median(name, side), goal(results, name, side)
            cells.append(show_ratio(value / wanted if value is not None and wanted else None))
        table.rows.append([name, *cells, show_percent(results.noise(name))])
    return table


def asked_table(results):
    """Of workloads above the goal: what they would take if a server needed no time."""
    rows = [b for b, _ in results.benchmarks("workload") if max(results.ratio(b, s) or 0 for s in OURS) > WORST]
    floors = [v for b, _ in results.benchmarks("operation") if b.endswith("-1") and b[:-2] not in CACHED
              and (v := results.median(b, "floor-uring"))]
    floor = min(floors, default=None)
    table = Table(f"What is asked, of workloads above {WORST}",
                  ["", *OURS, "requests", "plain", "plain + requests at the floor"],
                  f"Time, kernel overlayfs = 1.00. The floor: a server that only answers, by io_uring, "
                  f"{floor or 0:.1f} µs for the cheapest request, one after the other.")
    for name in rows:
        asked = median(results.requests.get(name, {}).get("reverlay-uring", []))
        plain, base = results.median(name, "plain"), results.median(name, BASE)
        if asked and floor and plain and base:
            table.rows.append([name, *(show_ratio(results.ratio(name, s)) for s in OURS), f"{asked:.0f}",
                               show_ratio(plain / base), show_ratio((plain + asked * floor / 1e6) / base)])
    return table


def parallel_table(results):
    names = [b.removesuffix("-1") for b, _ in results.benchmarks("operation") if b.endswith("-1")]
    sides = results.sides([f"{n}-4" for n in names])
    table = Table("Four processes at once: operations a second, one process = 1.00", ["", *sides])
    for name in names:
        one, four = f"{name}-1", f"{name}-4"
        cells = []
        for side in sides:
            a, b = results.median(one, side), results.median(four, side)
            cells.append(show_ratio(a / b if a and b else None))
        table.rows.append([name, *cells])
    return table


def scale_table(results):
    names = [b for b, _ in results.benchmarks("scale")]
    sides = results.sides(names)
    table = Table("Growth: microseconds an operation (a listing's by entry in a million), and the factor",
                  ["", *sides])
    for small, large in ((f"-{1}-layers", f"-{N_LAYERS}-layers"), ("-thousand", "-million")):
        for name in (n for n in names if n.endswith(small)):
            other = name.removesuffix(small) + large
            cells = []
            for side in sides:
                a, b = results.median(name, side), results.median(other, side)
                cells.append("–" if not a or not b else f"{a:.1f} → {b:.1f}: {b / a:.2f}")
            table.rows.append([name.removesuffix(small) + f" {small[1:]} → {large[1:]}", *cells])
    return table


def tables(results):
    made = [f(results) for f in (workload_table, asked_table, operation_table, parallel_table, scale_table)]
    return [t for t in made if t.rows and len(t.head) > 2 and (t.rows[0][0] != "mean")]


# ---- plots ----


def bars(title, names, sides, value_of, unit):
    """Horizontal bars on a logarithmic axis, one group a benchmark. SVG text."""
    bar, gap, left, width, top = 9, 10, 170, 560, 62
    step = bar * len(sides) + gap
    height = top + step * len(names) + 30
    values = [v for n in names for s in sides if (v := value_of(n, s))]
    low = min(min(values), 0.5)
    high = max(max(values), 2) * 1.05

    def x(value):
        return left + width * (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{height}" '
           f'font-family="sans-serif" font-size="11">',
           f'<rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(title)}</text>']
    place = 10
    for side in sides:
        out.append(f'<rect x="{place}" y="30" width="10" height="10" fill="{COLORS[side]}"/>'
                   f'<text x="{place + 14}" y="39">{escape(side)}</text>')
        place += 30 + 7 * len(side)
    tick = 10.0 ** math.floor(math.log10(low))
    while tick <= high:
        for factor in (1, 2, 5):
            if low <= tick * factor <= high:
                at = x(tick * factor)
                is_one = tick * factor == 1 and unit == "×"
                out.append(f'<line x1="{at:.1f}" y1="{top - 8}" x2="{at:.1f}" y2="{height - 22}" '
                           f'stroke="{"#333" if is_one else "#ddd"}"/>'
                           f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">{tick * factor:g}{unit}</text>')
        tick *= 10
    start = x(1) if unit == "×" else left
    for row, name in enumerate(names):
        y = top + row * step
        out.append(f'<text x="{left - 8}" y="{y + step / 2}" text-anchor="end">{escape(name)}</text>')
        for i, side in enumerate(sides):
            value = value_of(name, side)
            if not value:
                continue
            a, b = sorted((start, x(value)))
            out.append(f'<rect x="{a:.1f}" y="{y + i * bar}" width="{max(b - a, 1):.1f}" height="{bar - 1}" '
                       f'fill="{COLORS[side]}"><title>{escape(side)}: {value:.2f}</title></rect>')
    return "\n".join(out + ["</svg>", ""])


def plots(results):
    """{file name: SVG}"""
    made = {}
    names = [b for b, _ in results.benchmarks("workload") if results.median(b, BASE)]
    sides = [s for s in results.sides(names) if s != BASE]
    if names and sides:
        made["performance-workloads.svg"] = bars("Whole workloads: time, kernel overlayfs = 1 (less is better)",
                                                 names, sides, results.ratio, "×")
    for n in ("1", "4"):
        names = [b for b, _ in results.benchmarks("operation") if b.endswith(f"-{n}")]
        if names:
            made[f"performance-operations-{n}.svg"] = bars(
                f"Single operations, {n} process{'es' if n != '1' else ''}: microseconds (less is better)",
                names, results.sides(names), results.median, "")
    return made


def machine_text(data):
    machine = data["machine"]
    return (f"{machine['date']}, {machine['kernel']}, {machine['cpus']} × {machine['cpu']}, {machine['memory_gib']} GiB, "
            f"layers on {machine['filesystem']}; reverlay {machine['revision']}, {machine['rounds']} rounds"
            f"{', short sizes' if machine['is_quick'] else ''}; load before the run {machine['load']:.2f}.")


def write_document(path, section, data, made, drawn):
    """Replaces what is between the markers of that section; the plots go beside the document."""
    text = path.read_text(encoding="utf-8")
    parts = ["*" + machine_text(data) + "*"]
    parts += [t.markdown() for t in made]
    parts += [f"![{name}]({name})" for name in drawn]
    skipped = sorted({(side, reason) for (side, _, reason) in data["skipped"]})
    if skipped:
        parts.append("Left out:\n\n" + "\n".join(f"- {side}: {reason}" for side, reason in skipped))
    body = f"<!-- {section}:begin, made by scripts/bench --write -->\n\n" + "\n\n".join(parts)
    body += f"\n\n<!-- {section}:end -->"
    text, n = re.subn(f"<!-- {section}:begin.*?<!-- {section}:end -->", lambda _: body, text, flags=re.S)
    if n != 1:
        raise SystemExit(f"bench: {path} has not one pair of markers {section}")
    path.write_text(text, encoding="utf-8")
    for name, svg in drawn.items():
        (path.parent / name).write_text(svg, encoding="utf-8")
