# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's own root as lower: a package, a C project, git, python, sqlite; lower unchanged."""

import os
import shutil
import subprocess
import sysconfig

import pytest

import rvl
from rvl import IS_KERNEL, TOP, assert_same, content_hash, run, snapshot, write

WATCHED = ["etc", "root", "usr", "var/lib/dpkg"]
FORMAT = r"%p\t%y %m %U %G %s %n %T@ %l"


def listed(root, extra):
    """{path: attributes} of the watched directories, by find(1)."""
    where = [d for d in WATCHED if (root / d).is_dir()]
    result = subprocess.run(["find", *where, "-xdev", "-printf", FORMAT + extra + r"\0"], cwd=root,
                            stdout=subprocess.PIPE, check=True, timeout=300).stdout
    return dict(line.split(b"\t", 1) for line in result.split(b"\0") if line)


def compare(old, new, what):
    lines = [f"- {p!r}" for p in old if p not in new] + [f"+ {p!r}" for p in new if p not in old]
    lines += [f"! {p!r}: {old[p]!r} -> {new[p]!r}" for p in old if p in new and old[p] != new[p]]
    assert not lines, f"{what}:\n" + "\n".join(lines[:20])


def hashes(root):
    """Content of a part that is small enough to be read each time."""
    result = {}
    for base in ("etc", "usr/sbin", "var/lib/dpkg/info"):
        for path, dirs, files in os.walk(root / base):
            dirs.sort()
            for name in files:
                full = os.path.join(path, name)
                if os.path.isfile(full) and not os.path.islink(full):
                    result[os.path.relpath(full, root)] = content_hash(full,
                                                                      os.path.getsize(full))
    return result


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


@pytest.fixture
def root(ov):
    """An overlay over /, and the state of / before and after."""
    ov.lowers = [rvl.Path("/")]
    ov.check_lower = ov.check_remount = ov.check_links = False  # done here, by parts
    before, content = listed(rvl.Path("/"), " %i %C@"), hashes(rvl.Path("/"))
    yield ov
    compare(before, listed(rvl.Path("/"), " %i %C@"), "lower has changed")
    assert content == hashes(rvl.Path("/"))


def remounted(ov):
    """A remount shows the same tree, numbers and links."""
    before = listed(ov.mnt, " %i")
    if IS_KERNEL:
        ov.remount()
        return
    ov.remount()
    compare(before, listed(ov.mnt, " %i"), "after a remount")
    ov.kill_remount()
    compare(before, listed(ov.mnt, " %i"), "after kill -9")


@pytest.mark.slow
@pytest.mark.seconds(900)
def test_install_a_package(root):
    """A Debian package is installed in a chroot on the mount, runs, and is purged."""
    mnt = root.mount()
    with Chroot(mnt) as chroot:
        chroot.run("apt-get -qq update && apt-get -qq -y --no-install-recommends install hello")
        assert "Hello" in chroot.run("hello")
        chroot.run("dpkg --verify hello; dpkg-query -L hello >/dev/null")
    remounted(root)
    assert (mnt / "usr/bin/hello").exists()
    with Chroot(mnt) as chroot:
        assert "Hello" in chroot.run("hello")
        chroot.run("dpkg --audit; apt-get -qq -y purge hello")
        if not os.path.exists("/usr/bin/hello"):
            assert not (mnt / "usr/bin/hello").exists()


@pytest.mark.slow
@pytest.mark.seconds(900)
def test_git_and_a_c_project(root):
    """This project is committed, cloned, changed, repacked, and built in the chroot; it runs."""
    mnt = root.mount()
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
    before = snapshot(work, inos=not IS_KERNEL, dir_nlink=not IS_KERNEL)
    remounted(root)
    assert_same(before, snapshot(work, inos=not IS_KERNEL, dir_nlink=not IS_KERNEL),
                "after a remount")
    with Chroot(mnt) as chroot:
        assert "no work to do" in chroot.run("cd /root/rvl-work/src && ninja -C build -n")
        chroot.run("cd /root/rvl-work/clone && git fsck --full && test -z \"$(git status -s)\"")
        chroot.run("rm -r /root/rvl-work")


@pytest.mark.slow
@pytest.mark.seconds(600)
def test_python_and_sqlite(root):
    """Python compiles and runs its own modules; sqlite keeps a database in WAL mode (mmap)."""
    mnt = root.mount()
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
    remounted(root)
    with Chroot(mnt) as chroot:
        chroot.run("""cd /root/rvl-py && /usr/bin/python3 -c '
import sqlite3
db = sqlite3.connect("x.db")
assert db.execute("select count(*) from t").fetchone() == (400,)
assert db.execute("pragma integrity_check").fetchone() == ("ok",)'
/usr/bin/python3 -c 'import json; print(json.dumps([1]))'""")


@pytest.mark.slow
@pytest.mark.seconds(600)
def test_usual_tools(root):
    """tar, rsync, cp -a, sed -i, find -delete and hard links over real files of /usr."""
    mnt = root.mount()
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
    remounted(root)
    assert run("diff", "-r", "--no-dereference", mnt / "usr/share/doc", work / "copy").stdout == ""
