# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of the machine's own root as lower: a package, a C project, git, python, sqlite on one overlay.

What the jobs leave is looked at as a whole at the end: the mount is the same tree after a remount
and after kill -9, with the same numbers and links, and lower is what it was.
"""

import os
import shutil
import subprocess
import sysconfig

import pytest

import rvl
from rvl import TOP, run
from trees import write

pytestmark = pytest.mark.slow

# What is not copied: not of the system, or made anew by it.
LEFT_OUT = ["boot", "dev", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp",
            "work", "usr/local", "usr/share/man", "usr/src", "var/cache/apt/archives", "var/log", "var/tmp"]
TREE_LIMIT = 400 << 20  # bytes: larger trees of one product are not needed
FILE_LIMIT = "+64M"
JOB_SECONDS = 600


def usage(path):
    return int(run("du", "-xsB1", path).stdout.split()[0])


def copy_of_root(target):
    """/ without what is left out; a tree that is too large is said."""
    left_out = [path + "/*" for path in LEFT_OUT if not os.path.islink("/" + path)]
    for parent in ("usr/lib", "usr/share"):
        for name in os.listdir("/" + parent):
            path = f"{parent}/{name}"
            if os.path.isdir("/" + path) and not os.path.islink("/" + path) and \
                    "-linux-" not in name and usage("/" + path) > TREE_LIMIT:
                print("not copied:", path)
                left_out.append(path)
    left_out += run("find", "/usr", "-xdev", "-type", "f", "-size", FILE_LIMIT, "-printf",
                    "usr/%P\n").stdout.splitlines()
    exclude = target.with_name("left-out")
    exclude.write_text("".join(f"./{path}\n" for path in left_out))
    flags = "--xattrs --acls --xattrs-include='*' --numeric-owner"
    run("sh", "-ec", f"tar -C / {flags} --one-file-system -X {exclude} -c . |"
        f"tar -C {target} {flags} -xp", timeout=600)


# -- all of a tree ------------------------------------------------------------------------------


def by_path(command, root, split):
    """{path: the rest of its record} of what a command prints, NUL between records."""
    output = subprocess.run(["sh", "-ec", command], cwd=root, stdout=subprocess.PIPE, check=True,
                            timeout=300).stdout
    return dict(split(record) for record in output.split(b"\0") if record)


def attributes(root, extra=""):
    """{path: attributes} of all objects, by find."""
    form = r"%p\t%y %m %U %G %s %n %i %T@ %l" + extra + r"\0"
    return by_path(f"find . -xdev -printf '{form}'", root,
                   lambda record: tuple(record.split(b"\t", 1)))


def contents(root):
    """Digests of all files and extended attributes of all objects, by b2sum and getfattr."""
    content = by_path("find . -xdev -type f -print0 | xargs -0 -r -n 1000 b2sum -z", root,
                      lambda record: (record[130:], record[:128]))
    # one paragraph an object, odd characters of names escaped
    xattrs = by_path("find . -xdev -print0 | xargs -0 -r getfattr -hdm - -e hex 2>/dev/null |"
                     r"sed 's/^$/\x00/' | tr '\n' ' '", root, lambda record: (record, b""))
    assert len(content) > 10000 and xattrs
    return {**content, **xattrs}


def compare(old, new, what):
    lines = [f"- {p!r}" for p in old if p not in new] + [f"+ {p!r}" for p in new if p not in old]
    lines += [f"! {p!r}: {old[p]!r} -> {new[p]!r}" for p in old if p in new and old[p] != new[p]]
    assert not lines, f"{what}:\n" + "\n".join(lines[:20])


class Chroot:
    """Commands run in the mount, with /proc, /dev and a /tmp of its own."""

    def __init__(self, mnt):
        self.mnt = mnt

    def enter(self):
        for kind, where in (("proc", "proc"), ("tmpfs", "tmp")):
            run("mount", "-t", kind, kind, self.mnt / where)
        run("mount", "--rbind", "/dev", self.mnt / "dev")
        if TOP.is_relative_to("/tmp"):  # the sources, and what was built for them, are covered
            where = self.mnt / TOP.relative_to("/")
            where.mkdir(parents=True)
            run("mount", "--bind", TOP, where)

    def leave(self):
        for where in ("dev", "tmp", "proc"):
            run("umount", "-l", self.mnt / where)

    def run(self, script, seconds=300):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
               "DEBIAN_FRONTEND": "noninteractive", "GIT_AUTHOR_NAME": "a",
               "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
        return run("chroot", self.mnt, "sh", "-ec", script, env=env, timeout=seconds).stdout

    def __enter__(self):
        self.enter()
        return self

    def __exit__(self, *_):
        self.leave()


@pytest.fixture(scope="module")
def lower(images):
    """The copy, and what it was before anything was mounted on it."""
    where = images.private(images.scratch / "root", "ext4", size="12G", options="loop,noatime")
    try:
        copy_of_root(where)
        yield where, attributes(where, " %C@"), contents(where)
    finally:
        run("umount", "-l", where)


@pytest.fixture(scope="module")
def overlay(images, lower):
    """The one overlay of all jobs."""
    ov = rvl.Overlay(images, "ext4", "realtree")
    ov.lowers = [lower[0]]
    ov.check_lower = ov.check_remount = ov.check_links = False  # done here, in full
    ov.mount()
    try:
        yield ov
        ov.finish()
    finally:
        ov.destroy()


@pytest.fixture
def root(overlay):
    """The overlay for one job, after a remount: nothing is cached."""
    watchdog = rvl.Watchdog([overlay], JOB_SECONDS)
    overlay.remount()
    try:
        yield overlay
        assert not watchdog.fired, "the job hung; its server was killed"
    finally:
        watchdog.cancel()


def test_install_a_package(root):
    """A Debian package is installed in a chroot on the mount, runs, and is purged."""
    mnt = root.mnt
    with Chroot(mnt) as chroot:
        chroot.run("""install() { apt-get -qq -y --no-install-recommends install hello; }
install 2>/dev/null || { apt-get -qq update; install; }""")
        assert "Hello" in chroot.run("hello")
        chroot.run("dpkg --verify hello; dpkg-query -L hello >/dev/null")
    root.remount()
    assert (mnt / "usr/bin/hello").exists()
    with Chroot(mnt) as chroot:
        assert "Hello" in chroot.run("hello")
        chroot.run("dpkg --audit; apt-get -qq -y purge hello")
        if not os.path.exists("/usr/bin/hello"):
            assert not (mnt / "usr/bin/hello").exists()


def test_git_and_a_c_project(root):
    """This project is committed, cloned, changed, repacked, and built in the chroot; it runs."""
    mnt = root.mnt
    names = subprocess.run(["git", "-c", f"safe.directory={TOP}", "ls-files", "-z", "-co",
                            "--exclude-standard"], cwd=TOP, stdout=subprocess.PIPE,
                           check=True).stdout.split(b"\0")
    work = mnt / "root/rvl-work"
    work.mkdir()
    for name in map(os.fsdecode, filter(None, names)):
        if (TOP / name).is_file():
            (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, work / "src" / name)
    private = TOP / ".deps/fuse3"
    option = ""
    if (private / "stamp").exists():
        if not (mnt / str(private)[1:]).exists():
            shutil.copytree(private, mnt / str(private)[1:])
        option = f"-Dpkg_config_path={private}/lib/pkgconfig"
    with Chroot(mnt) as chroot:
        chroot.run("""cd /root/rvl-work/src
git init -q; git add -A; git commit -qm first
cd ..; git clone -q file:///root/rvl-work/src clone; git clone -q src clone2; cd clone
for i in $(seq 15); do
    echo $i >> README.test; git mv -f README.test README.$i 2>/dev/null || :
    cp -r tests tests$i; git add -A; git commit -qm "step $i"
    git rm -rq tests$i; git commit -qm "undo $i"
done
git checkout -q -b side HEAD~5; echo side > side; git add side; git commit -qm side
git checkout -q -; git merge -q -m merge side
git repack -qad; git gc -q --prune=now; git fsck --full --strict
git stash list; test -z "$(git status --porcelain)"
git push -q ../clone2 HEAD:refs/heads/pushed; cd ../clone2; git fsck --full; git reset -q --hard
""")
        chroot.run(f"cd /root/rvl-work/src && meson setup build {option} -Dtests=false "
                   "--buildtype=debug && ninja -C build", seconds=600)
        first = chroot.run("cd /root/rvl-work/src && ninja -C build -n")
        assert "no work to do" in first, "ninja would build again: times are wrong"
        if (work / "src/build/reverlay").exists():
            assert "reverlay" in chroot.run("/root/rvl-work/src/build/reverlay -V")
    root.remount()
    with Chroot(mnt) as chroot:
        assert "no work to do" in chroot.run("cd /root/rvl-work/src && ninja -C build -n")
        chroot.run("cd /root/rvl-work/clone && git fsck --full && test -z \"$(git status -s)\"")
        chroot.run("rm -r /root/rvl-work")


def test_python_and_sqlite(root):
    """Python compiles and runs its own modules; sqlite keeps a database in WAL mode (mmap)."""
    mnt = root.mnt
    version = sysconfig.get_config_var("py_version_short")
    with Chroot(mnt) as chroot:
        chroot.run(f"""cd /usr/lib/python{version}
/usr/bin/python3 -m compileall -q -f json email asyncio unittest importlib
/usr/bin/python3 -c 'import json.tool, email.mime.text, asyncio, unittest'
echo '{{"a": [1, 2]}}' | /usr/bin/python3 -m json.tool >/dev/null
mkdir /root/rvl-py; cd /root/rvl-py
/usr/bin/python3 -m zipfile -c a.zip /usr/lib/python{version}/json
/usr/bin/python3 -m zipfile -t a.zip
mv /usr/lib/python{version}/json /usr/lib/python{version}/json.moved
ln -s json.moved /usr/lib/python{version}/json
/usr/bin/python3 -c 'import json; print(json.dumps([1]))'
""")
        chroot.run("""cd /root/rvl-py; cat > t.py <<'X'
import sqlite3, multiprocessing
def work(n):
    db = sqlite3.connect("x.db", timeout=60)
    for i in range(100):
        with db:
            db.execute("insert into t values (?, ?)", (n, i))
if __name__ == "__main__":
    db = sqlite3.connect("x.db")
    assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    db.execute("create table t (a, b)")
    db.commit()
    ps = [multiprocessing.Process(target=work, args=(n,)) for n in range(4)]
    [p.start() for p in ps]; [p.join() for p in ps]
    assert all(p.exitcode == 0 for p in ps)
    assert db.execute("select count(*) from t").fetchone() == (400,)
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
X
/usr/bin/python3 t.py
""")
    root.remount()
    with Chroot(mnt) as chroot:
        chroot.run("""cd /root/rvl-py && /usr/bin/python3 -c '
import sqlite3
db = sqlite3.connect("x.db")
assert db.execute("select count(*) from t").fetchone() == (400,)
assert db.execute("pragma integrity_check").fetchone() == ("ok",)'
/usr/bin/python3 -c 'import json; print(json.dumps([1]))'""")


def test_usual_tools(root):
    """tar, rsync, cp -a, sed -i, find -delete and hard links over real files of /usr."""
    mnt = root.mnt
    work = mnt / "root/rvl-tools"
    write(work / "x")
    source = "/usr/share/doc"
    with Chroot(mnt) as chroot:
        chroot.run(f"""cd /root/rvl-tools
cp -a {source} copy; diff -r --no-dereference {source} copy
cp -al {source} links; diff -r --no-dereference {source} links
tar cf t.tar -C /usr/share doc; mkdir untar; tar xf t.tar -C untar; diff -r --no-dereference copy untar/doc
rsync -aH {source}/ synced/; test -z "$(rsync -aHni --delete {source}/ synced/)"
find synced -type f -name 'c*' -delete
find {source} -name copyright -type f -size -20k | head -n 200 | xargs sed -i 's/the/THE/'
rm -r /usr/share/doc; test ! -e /usr/share/doc; cp -a copy /usr/share/doc
find /usr/sbin -type f -exec touch {{}} +
""", seconds=500)
        chroot.run("rm -r /root/rvl-tools/synced /root/rvl-tools/untar")
    root.remount()
    assert run("diff", "-r", "--no-dereference", mnt / "usr/share/doc", work / "copy").stdout == ""


def test_same_tree_after_remounts(root):
    """All objects, their numbers, links, attributes and content are the same after a remount and kill -9."""
    before, content = attributes(root.mnt), contents(root.mnt)
    root.remount()
    compare(before, attributes(root.mnt), "after a remount")
    compare(content, contents(root.mnt), "after a remount")
    root.kill_remount()
    compare(before, attributes(root.mnt), "after kill -9")


def test_lower_is_unchanged(lower, root):
    """After all of it each object of lower is what it was, byte for byte and attribute for attribute."""
    root.umount()
    where, before, content = lower
    compare(before, attributes(where, " %C@"), "lower has changed")
    compare(content, contents(where), "lower has changed")
    root.mount()
