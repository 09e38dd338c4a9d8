# SPDX-License-Identifier: GPL-2.0-or-later
"""What the workloads work on: made once in the scratch directory, and only read from then on.

lower/tree    a real tree of this machine: python with its library, a shell, /usr/include and then /usr/share
              up to the wanted number of objects; a program can be started in it by chroot(8)
lower/repo    a git repository of some of these files, branches main and other
lower/proj    a C project with a Makefile: reverlay's own sources but the server's, which need libfuse
lower/io      a file of random data for input and output
lower/ops     directories p0 … p3 with files for single operations
layers        p0 spread over 100 layers, and the same in one
tree.tar      the tree
"""

import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

from sides import run

TOP = Path(__file__).resolve().parents[1]
N_LAYERS = 100
OPS_PROCESSES = 4
FILE_MAX = 1 << 20  # larger ones are left out of /usr/share and /usr/include
PROGRAMS = ["/usr/bin/python3", "/bin/sh", "/bin/ls", "/bin/cat"]
MAKEFILE = """\
CFLAGS = -std=gnu17 -O1 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DRVL_VERSION='"bench"' \\
\t--sysroot=$(SYSROOT) -Isrc -w
SOURCES := $(filter-out src/server/%,$(wildcard src/*/*.c))
OUT = out
all: $(OUT)/all.a
$(OUT)/all.a: $(patsubst src/%.c,$(OUT)/%.o,$(SOURCES))
\tar rcs $@ $^
$(OUT)/%.o: src/%.c
\t@mkdir -p $(@D)
\t$(CC) $(CFLAGS) -MMD -c -o $@ $<
"""


def git_environment(scratch):
    config = scratch / "gitconfig"
    config.write_text("[safe]\n\tdirectory = *\n[user]\n\tname = bench\n\temail = bench@localhost\n"
                      "[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n", encoding="ascii")
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return env | {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


def copy_object(source, target):
    """One object, no content of a directory. False if it is none of file, directory, symlink."""
    st = os.lstat(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(st.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(st.st_mode):
        shutil.copy2(source, target)
    elif stat.S_ISDIR(st.st_mode):
        target.mkdir(exist_ok=True)
    else:
        return False
    return True


def libraries(program):
    out = subprocess.run(["ldd", program], stdout=subprocess.PIPE, check=False, text=True).stdout
    return re.findall(r"(/\S+)", out)


def copy_programs(tree):
    n = 0
    for top in ("bin", "lib", "lib64"):
        if os.path.islink(f"/{top}"):
            os.symlink(f"usr/{top}", tree / top)
            (tree / "usr" / top).mkdir(parents=True, exist_ok=True)
            n += 2
    paths = set(PROGRAMS)
    real = {os.path.realpath(p) for p in paths}
    wanted = paths | real
    for program in real:
        for library in libraries(program):
            wanted |= {library, os.path.realpath(library)}
    for path in sorted(wanted):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        target = tree / path.lstrip("/")
        if not os.path.lexists(target):
            n += copy_object(path, target)
    return n


def copy_below(tree, top, n, limit):
    """Copies what is below top in the order of its names until the tree has limit objects."""
    for base, dirs, files in os.walk(top):
        dirs.sort()
        if n >= limit:
            break
        for name in sorted(files) + [d for d in dirs if os.path.islink(os.path.join(base, d))]:
            source = os.path.join(base, name)
            target = tree / source.lstrip("/")
            try:
                if n >= limit or os.path.lexists(target) or os.lstat(source).st_size > FILE_MAX:
                    continue
                n += (not target.parent.exists()) + copy_object(source, target)
            except OSError:
                continue
    return n


def make_tree(tree, limit):
    tree.mkdir(parents=True)
    n = copy_programs(tree)
    version = os.path.basename(os.path.realpath("/usr/bin/python3"))
    headers = [f"/usr/include/{d}" for d in (os.uname().machine + "-linux-gnu", "linux", "asm-generic", "blkid")]
    for top, part in [(f"/usr/lib/{version}", 0.4)] + [(h, 0.7) for h in headers] + [
            ("/usr/include", 0.8), ("/usr/share", 1), ("/usr/lib", 1)]:
        n = copy_below(tree, top, n, int(limit * part))
    return n


def regular_files(tree, limit):
    found = []
    for base, dirs, files in os.walk(tree):
        dirs.sort()
        for name in sorted(files):
            path = os.path.join(base, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode) and st.st_nlink == 1:
                found.append(os.path.relpath(path, tree))
                if len(found) == limit:
                    return found
    return found


def make_repo(tree, repo, n_files, env):
    repo.mkdir()
    names = regular_files(tree / "usr" / "include", n_files)
    for name in names:
        target = repo / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / "usr" / "include" / name, target)

    def git(*args):
        run(["git", "-C", repo, *args], env=env)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    git("checkout", "-q", "-b", "other")
    for i, name in enumerate(names):
        if i % 5 == 0:
            with open(repo / name, "ab") as file:
                file.write(b"/* changed */\n")
        elif i % 25 == 1:
            os.unlink(repo / name)
            (repo / f"{name}.new").write_text("new\n", encoding="ascii")
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    git("checkout", "-q", "main")
    git("repack", "-adq")
    time.sleep(1.1)  # entries as young as the index are read again each time
    git("status")


def make_proj(proj):
    proj.mkdir()
    command = f"git -c safe.directory={TOP} -C {TOP} archive HEAD src | tar -x -C {proj}"
    subprocess.run(command, shell=True, stderr=subprocess.DEVNULL, check=False)
    if not (proj / "src").is_dir():  # no repository: an unpacked archive
        shutil.copytree(TOP / "src", proj / "src")
    (proj / "Makefile").write_text(MAKEFILE, encoding="ascii")


def make_ops(ops, n_files, n_processes=OPS_PROCESSES, size=4096):
    data = os.urandom(size)
    for process in range(n_processes):
        directory = ops / f"p{process}"
        directory.mkdir(parents=True)
        for i in range(n_files):
            fd = os.open(directory / f"f{i}", os.O_CREAT | os.O_WRONLY, 0o644)
            if size:
                os.write(fd, data)
            os.close(fd)


def make_layers(layers, n_files):
    for layer in range(N_LAYERS):
        (layers / f"l{layer}" / "p0").mkdir(parents=True)
    (layers / "one" / "p0").mkdir(parents=True)
    for i in range(n_files):
        for layer in (f"l{i % N_LAYERS}", "one"):
            (layers / layer / "p0" / f"f{i}").write_bytes(b"")


def make_all(scratch, sizes, say):
    lower = scratch / "lower"
    lower.mkdir()
    say(f"making a tree of {sizes.tree} objects of this machine's /usr")
    n = make_tree(lower / "tree", sizes.tree)
    (scratch / "append.list").write_text("\n".join(regular_files(lower / "tree", sizes.append)),
                                         encoding="utf-8", errors="surrogateescape")
    make_repo(lower / "tree", lower / "repo", sizes.repo, git_environment(scratch))
    make_proj(lower / "proj")
    make_ops(lower / "ops", sizes.ops)
    make_layers(scratch / "layers", sizes.layers)
    (lower / "io").mkdir()
    with open(lower / "io" / "file", "wb") as file:
        for _ in range(sizes.io_mib):
            file.write(os.urandom(1 << 20))
    run(["tar", "-cf", scratch / "tree.tar", "-C", lower, "tree"])
    os.sync()
    return n


def make_large(scratch, say):
    for name, n in (("thousand", 1000), ("million", 1000000)):
        if not (scratch / "large" / name).exists():
            say(f"making a directory of {n} files")
            make_ops(scratch / "large" / name, n, 1, 0)
    os.sync()
