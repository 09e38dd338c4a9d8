#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules for the tree that a machine can check. One line a finding; exit code 1 if there is one.

Usage: check.py [--list] [NAME...]   (no name: all of them)
"""

import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

# What the files of a directory may include of the project, besides their own directory.
MAY_INCLUDE = {
    "base": set(),
    "layer": {"base"},
    "index": {"layer", "base"},
    "overlay": {"index", "layer", "base"},
    "check": {"index", "layer", "base"},
    "server": {"overlay", "check", "index", "layer", "base"},
    "tools": {"overlay", "check", "index", "layer", "base"},
}
# Of these directories nobody else includes more than one header.
ONLY = {"overlay": "overlay/overlay.h"}
# Libraries that only these directories may see.
HOME = [
    (re.compile(r"^(fuse3/)?(fuse|fuse_\w+|cuse_\w+)\.h$"), {"server"}, "libfuse"),
    (re.compile(r"^lmdb\.h$"), {"index"}, "LMDB"),
    (re.compile(r"^jansson\.h$"), {"server", "tools"}, "jansson"),
    (re.compile(r"^blkid(/blkid)?\.h$"), {"layer"}, "libblkid"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
NO_SPDX = {"COPYING", ".gitignore"}
NO_SPDX_SUFFIX = {".md", ".png", ".svg", ".csv", ".json", ".bin", ".img", ".txt"}
MAX_LINES = 1000  # conventions: about 600; this is where it is certainly too long
MAX_COLUMNS = 130  # .clang-format says 100; this is where it is certainly too wide


def tracked():
    """All files of the project: tracked, and new ones that git does not ignore."""
    out = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=TOP, stdout=subprocess.PIPE, check=False).stdout
    names = [n for n in os.fsdecode(out).split("\0") if n]
    if not names:  # an unpacked archive, no repository
        skip = {"build", ".deps", ".git", "__pycache__"}
        for dirpath, dirs, files in os.walk(TOP):
            dirs[:] = [d for d in dirs if d not in skip and not d.startswith("build-")]
            names += [os.path.relpath(os.path.join(dirpath, f), TOP) for f in files]
    return sorted(n for n in set(names) if (TOP / n).is_file() and not (TOP / n).is_symlink())


def sources(names, *suffixes):
    return [n for n in names if n.endswith(suffixes)]


def text(name):
    return (TOP / name).read_text(encoding="utf-8", errors="replace")


def check_includes(names):
    """Nothing points from a lower directory to a higher one, and libraries stay at home."""
    for name in sources(names, ".c", ".h"):
        parts = name.split("/")
        if parts[0] == "src" and len(parts) > 2:
            area = parts[1]
            allowed = MAY_INCLUDE.get(area)
        elif parts[:2] == ["tests", "unit"] and len(parts) > 3:
            area = parts[2]
            allowed = MAY_INCLUDE.get(area)
        else:
            continue
        if allowed is None:
            yield name, 0, f"unknown directory src/{area}"
            continue
        for number, line in enumerate(text(name).splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quote, what = match.groups()
            if quote == '"':
                first = what.split("/")[0]
                if "/" not in what:
                    if parts[0] == "src":
                        yield name, number, f'include "{what}" without its directory'
                elif first != area and first in MAY_INCLUDE and \
                        (first not in allowed or what != ONLY.get(first, what)):
                    yield name, number, f"{area} must not include {what}"
                elif ".." in what:
                    yield name, number, f'include "{what}" is relative'
                elif parts[0] == "src" and first not in MAY_INCLUDE:
                    yield name, number, f'include "{what}" is not below src/'
            for pattern, home, library in HOME:
                if pattern.match(what) and area not in home:
                    yield name, number, f"{library} is for {', '.join(sorted(home))} only"


def check_spdx(names):
    """Each source and script names its licence in its first two lines."""
    for name in names:
        base = os.path.basename(name)
        if base in NO_SPDX or os.path.splitext(base)[1] in NO_SPDX_SUFFIX:
            continue
        if "/corpus/" in name or "/data/" in name:
            continue
        head = text(name).split("\n")[:3]
        if not any("SPDX-License-Identifier: GPL-2.0-or-later" in line for line in head):
            yield name, 1, "no SPDX-License-Identifier: GPL-2.0-or-later"


def check_form(names):
    """Tabs in C, no trailing blanks, no long lines or files, a newline at the end."""
    for name in sources(names, ".c", ".h"):
        content = text(name)
        lines = content.splitlines()
        if len(lines) > MAX_LINES:
            yield name, 0, f"{len(lines)} lines: more than {MAX_LINES}"
        for number, line in enumerate(lines, 1):
            if len(line.expandtabs(8)) > MAX_COLUMNS:
                yield name, number, f"more than {MAX_COLUMNS} columns"
            if line.startswith("        "):
                yield name, number, "indented with blanks"
    for name in sources(names, ".c", ".h", ".py", "meson.build", "setup", "test", "demo", ".md"):
        content = text(name)
        if content and not content.endswith("\n"):
            yield name, 0, "no newline at the end"
        for number, line in enumerate(content.splitlines(), 1):
            if line != line.rstrip() and not name.endswith(".md"):
                yield name, number, "trailing blanks"


def check_guards(names):
    """A header has an include guard."""
    for name in sources(names, ".h"):
        content = text(name)
        if "#pragma once" not in content and not re.search(r"#ifndef (\w+)\n#define \1\b", content):
            yield name, 1, "no include guard"


def check_listed(names):
    """Each source and unit test is in its directory's meson.build, and nothing else is."""
    for name in sources(names, ".c"):
        if not name.startswith(("src/", "tests/unit/")):
            continue
        build = os.path.join(os.path.dirname(name), "meson.build")
        if not (TOP / build).exists() or f"'{os.path.basename(name)}'" not in text(build):
            yield name, 0, f"not in {build}"


def check_shell(names):
    """The shell scripts parse."""
    for name in names:
        if not name.startswith(("scripts/", ".ci/")):
            continue
        head = text(name).split("\n", 1)[0]
        if re.match(r"#!/bin/(ba|da)?sh", head):
            result = subprocess.run([head[2:].split()[0], "-n", str(TOP / name)],
                                    stderr=subprocess.PIPE, check=False)
            if result.returncode:
                yield name, 0, os.fsdecode(result.stderr).strip()
            if not os.access(TOP / name, os.X_OK):
                yield name, 0, "not executable"


PROBLEM = re.compile(r'X\(\w+, "([\w-]+)", RVL_(\w+), (true|false),')
PROBLEM_ROW = re.compile(r"^\| `([\w-]+)` \| (\w+) \| (yes|no) \|", re.M)


def check_problems(names):
    """docs/check.md has the problems that check finds, as the table in C has them."""
    table, page = "src/check/problem.h", "docs/check.md"
    if table not in names or page not in names:
        return
    in_c = [(i, s.lower(), "yes" if p == "true" else "no")
            for i, s, p in PROBLEM.findall(text(table))]
    in_docs = PROBLEM_ROW.findall(text(page))
    for row in in_c:
        if row not in in_docs:
            yield page, 0, f"no row {' | '.join(row)}"
    for row in in_docs:
        if row not in in_c:
            yield table, 0, f"no problem {' | '.join(row)}"
    for name in {row[0] for row in in_c if in_c.count(row) > 1}:
        yield table, 0, f"{name} twice"


OPTION = re.compile(r'\{ "([\w+]+)", KIND_(\w+),')
QUOTED = re.compile(r'"([\w+]+)"')


def array(content, name):
    """The strings of a C array."""
    found = re.search(rf"\b{name}\[\] = \{{(.*?)\}};", content, re.S)
    return set(QUOTED.findall(found.group(1))) if found else set()


def check_options(names):
    """The tools know each option that a mount takes, and no other."""
    server, tools = "src/server/options.c", "src/tools/layers.c"
    if server not in names or tools not in names:
        return
    mount = {name for name, kind in OPTION.findall(text(server)) if kind not in ("FROM_KERNEL", "REFUSE")}
    mount |= array(text(server), "ignored")
    known = array(text(tools), "other_options") | array(text(tools), "with_value") | {"userxattr"}
    for name in sorted(mount - known):
        yield tools, 0, f"option {name} is unknown"
    for name in sorted(known - mount):
        yield server, 0, f"no option {name}"


CHECKS = {
    "includes": check_includes,
    "spdx": check_spdx,
    "form": check_form,
    "guards": check_guards,
    "listed": check_listed,
    "problems": check_problems,
    "options": check_options,
    "shell": check_shell,
}


def findings(check, names=None):
    for name, line, message in CHECKS[check](tracked() if names is None else names):
        yield f"{name}:{line}: {message}" if line else f"{name}: {message}"


def main(args):
    if "--list" in args:
        print("\n".join(CHECKS))
        return 0
    bad = 0
    for check in args or CHECKS:
        for line in findings(check):
            print(line)
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
