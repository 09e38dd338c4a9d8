# SPDX-License-Identifier: GPL-2.0-or-later
"""Data in upper are read and written by the kernel itself; what that must not change, with it and without."""

import ctypes
import errno
import json
import mmap
import os
import subprocess
import sys
import time

import pytest
from rvl import BUILD, CTL, run
from sysc import FALLOC_KEEP_SIZE, fallocate

pytestmark = pytest.mark.reverlay_only("how its own files are opened")

SIZE = 300000
WAYS = ["passthrough", "cached"]


@pytest.fixture(params=WAYS)
def tree(request, ov):
    with ov.lower() as lower:
        (lower / "low").write_bytes(b"l" * SIZE)
        (lower / "other").write_bytes(b"o" * 1000)
    mnt = ov.mount("passthrough=on" if request.param == "passthrough" else "passthrough=off")
    assert config(mnt)["data"] == request.param
    return mnt


def config(mnt):
    return json.loads(run(CTL, "stat", "--json", mnt).stdout)


def counters(mnt):
    return config(mnt)["counters"]


def test_writes_are_not_asked(ov):
    """A file made, written and read again by passthrough costs no WRITE and no READ; what is in lower is read from us."""
    with ov.lower() as lower:
        (lower / "low").write_bytes(b"l" * SIZE)
    mnt = ov.mount("passthrough=on")
    before = counters(mnt)
    with open(mnt / "new", "wb", buffering=0) as file:
        for _ in range(10):
            file.write(b"n" * 1000)
    assert (mnt / "new").read_bytes() == b"n" * 10000
    after = counters(mnt)
    assert after["req_write"] == before["req_write"] and after["req_read"] == before["req_read"]
    assert after["passed_through"] == before["passed_through"] + 2
    assert (mnt / "low").read_bytes() == b"l" * SIZE
    assert counters(mnt)["req_read"] > after["req_read"]
    assert counters(mnt)["passed_through"] == after["passed_through"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("beneath", ["strictatime", "noatime"])
def test_access_times_of_upper(ov, images, how, beneath):
    """Upper's access times follow the overlay's mount: relatime, or what an option says; not the mount beneath."""
    fs = images.private(ov.base / "fs", "ext4", options="loop," + beneath)
    ov.mounted_helpers.append(fs)
    ov.use_upper_on(fs)
    with ov.lower() as lower:
        (lower / "low").write_bytes(b"l")
    # more than a day old but younger than the data; younger than both
    old, young = 10**18, 4 * 10**18
    for option, reads in (("relatime", {old: True, young: False}), ("noatime", {old: False, young: False}),
                          ("strictatime", {old: True, young: True})):
        mnt = ov.mount(option) if how == "passthrough" else ov.mount(option, "passthrough=off")
        (mnt / "new").write_bytes(b"n" * 5000)
        (mnt / "dir").mkdir(exist_ok=True)
        for atime, is_changed in reads.items():
            for name in ("new", "dir"):
                os.utime(ov.upper / name, ns=(atime, 10**18 + 1))
            ov.remount(*ov.last[0])
            assert (mnt / "new").read_bytes() == b"n" * 5000
            os.listdir(mnt / "dir")
            assert (os.stat(ov.upper / "new").st_atime_ns != atime) == is_changed, (option, atime)
            assert (os.stat(ov.upper / "dir").st_atime_ns != atime) == is_changed, (option, atime)
        ov.umount()


def test_switched_off(ov):
    """passthrough=off; and without an upper, or where opens are not asked for, nothing is passed through. stat says why."""
    with ov.lower() as lower:
        (lower / "low").write_bytes(b"l")
    mnt = ov.mount("passthrough=off")
    assert config(mnt)["data_reason"] == "passthrough=off"
    mnt = ov.remount("copy_up=write", "passthrough=on")
    assert config(mnt)["data"] == "cached" and "open" in config(mnt)["data_reason"]


def test_denied(ov):
    """A kernel without it: data go through the page cache, and stat says why."""
    with ov.lower() as lower:
        (lower / "low").write_bytes(b"l")
    mnt = ov.mount("passthrough=on", prefix=(BUILD / "tests/deny/rvl-deny", "passthrough"))
    assert config(mnt)["data"] == "cached"
    assert config(mnt)["data_reason"] == "the kernel does not have it"
    (mnt / "new").write_bytes(b"n" * SIZE)
    ov.remount("passthrough=on")
    assert config(mnt)["data"] == "passthrough"
    assert (mnt / "new").read_bytes() == b"n" * SIZE


def test_unprivileged(ov):
    """A server without CAP_SYS_ADMIN in the first user namespace serves data through the page cache."""
    with ov.lower() as lower:
        (lower / "low").write_bytes(b"l" * 100)
    (ov.upper.parent / "mnt").mkdir()
    script = ("set -e; mount -t tmpfs t $1; mkdir $1/u $1/w $1/m; "
              f"{ov.command()[0]} -o lowerdir={ov.lowers[0]},upperdir=$1/u,workdir=$1/w,userxattr $1/m; "
              f"{CTL} stat --json $1/m; echo text >$1/m/new; cat $1/m/new $1/m/low; umount $1/m")
    out = run("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", ov.upper.parent / "mnt").stdout
    assert '"data": "cached"' in out and "CAP_SYS_ADMIN" in out and "text\n" + "l" * 100 in out


def test_truncate_append_holes(tree):
    """Sizes: truncate by name and descriptor, O_APPEND, fallocate, holes, O_TRUNC, with the file open meanwhile."""
    path = tree / "new"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"a" * 10000)
    assert os.stat(path).st_size == os.fstat(fd).st_size == 10000
    os.truncate(path, 5000)
    assert os.pread(fd, 10000, 0) == b"a" * 5000
    end = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(end, b"end")
    assert os.pread(fd, 10, 4998) == b"aaend"
    os.ftruncate(fd, 20000)
    os.pwrite(fd, b"z", 30000)
    assert os.lseek(fd, 0, os.SEEK_END) == 30001 and os.fstat(end).st_size == 30001
    fallocate(fd, FALLOC_KEEP_SIZE, 0, 100000)
    assert os.stat(path).st_size == 30001
    fallocate(fd, 0, 0, 50000)
    assert os.stat(path).st_size == 50000
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert os.pread(fd, 10, 0) == b"" and os.fstat(fd).st_size == 0
    os.write(end, b"again")
    assert path.read_bytes() == b"again"
    os.close(fd)
    os.close(end)


def test_direct(tree):
    """O_DIRECT and buffered descriptors of one file see each other's writes."""
    block = mmap.mmap(-1, 4096)
    block[:] = b"d" * 4096
    direct = os.open(tree / "new", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    plain = os.open(tree / "new", os.O_RDWR)
    os.writev(direct, [block])
    assert os.pread(plain, 4096, 0) == b"d" * 4096
    os.pwrite(plain, b"p" * 4096, 4096)
    os.preadv(direct, [block], 4096)
    assert block[:] == b"p" * 4096
    os.close(direct)
    os.close(plain)


def test_mapped(tree):
    """Stores through a shared mapping: seen by read, and in mtime, by those who knew the attributes before, while it is
    mapped and when it no longer is."""
    path = tree / "new"
    path.write_bytes(b"m" * 8192)
    os.utime(path, ns=(10**18, 10**18))
    assert os.stat(path).st_mtime_ns == 10**18
    fd = os.open(path, os.O_RDWR)
    assert os.stat(path).st_mtime_ns == 10**18
    area = mmap.mmap(fd, 8192)
    os.close(fd)
    area[100:105] = b"store"
    area.flush()
    first = os.stat(path).st_mtime_ns
    assert first > 10**18
    assert path.read_bytes()[100:105] == b"store"
    os.utime(path, ns=(10**18, 10**18))
    area[5000:5005] = b"store"
    area.flush()
    area.close()
    assert os.stat(path).st_mtime_ns > 10**18
    assert path.read_bytes()[5000:5005] == b"store"


def test_times_of_writes(tree):
    """A write is in mtime at once, whoever asks, also while it is open for writing only."""
    path = tree / "new"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.utime(path, ns=(10**18, 10**18))
    assert os.stat(path).st_mtime_ns == 10**18
    os.write(fd, b"w")
    assert os.stat(path).st_mtime_ns > 10**18 and os.fstat(fd).st_size == 1
    os.utime(fd, ns=(10**18, 10**18))
    os.close(fd)
    assert os.stat(path).st_mtime_ns == 10**18


def test_copy_up_while_open(tree):
    """Descriptor and mapping of a lower file, opened before copy-up, see what is written after; as soon as they are closed
    the file is open like any other in upper."""
    before = os.open(tree / "low", os.O_RDONLY)
    area = mmap.mmap(before, SIZE, prot=mmap.PROT_READ)
    assert area[:3] == b"lll" and os.pread(before, 3, 100000) == b"lll"
    with open(tree / "low", "r+b") as file:
        file.write(b"new")
        file.seek(100000)
        file.write(b"new")
        file.flush()
        assert area[:4] == b"newl" and os.pread(before, 4, 100000) == b"newl"
        os.close(before)
    assert area[100000:100004] == b"newl"
    area.close()
    with open(tree / "low", "r+b") as file:
        file.seek(200000)
        file.write(b"third")
    assert (tree / "low").read_bytes()[199999:200006] == b"lthirdl"


def test_cached_pages_go(tree):
    """Pages read before copy-up are not shown after it, though the writes pass them by."""
    assert (tree / "low").read_bytes() == b"l" * SIZE
    with open(tree / "low", "r+b") as file:
        file.write(b"new")
    assert (tree / "low").read_bytes() == b"new" + b"l" * (SIZE - 3)
    with open(tree / "low", "r+b", buffering=0) as file, open(tree / "low", "rb", buffering=0) as other:
        file.write(b"xyz")
        assert other.read(5) == b"xyzll"


def test_renamed_linked_unlinked(tree):
    """An open file goes on after rename, link and unlink; its space is free when it is closed."""
    fd = os.open(tree / "new", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"1")
    os.rename(tree / "new", tree / "renamed")
    os.link(tree / "renamed", tree / "linked")
    os.write(fd, b"2")
    assert (tree / "linked").read_bytes() == b"12"
    os.unlink(tree / "renamed")
    os.unlink(tree / "linked")
    os.write(fd, b"3" * (8 << 20))
    assert os.pread(fd, 3, 0) == b"123" and os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_setuid(tree):
    """A write by others than root takes setuid away, as it must; one by root leaves it."""
    path = tree / "program"
    path.write_bytes(b"p")
    os.chmod(path, 0o6777)
    with open(path, "ab") as file:
        file.write(b"root")
    assert os.stat(path).st_mode & 0o7777 == 0o6777
    tree.chmod(0o777)
    script = "import os, sys\nos.setgid(1000); os.setuid(1000)\nopen(sys.argv[1], 'ab').write(b'other')\n"
    run(sys.executable, "-c", script, path)
    assert os.stat(path).st_mode & 0o6000 == 0
    assert path.read_bytes() == b"prootother"


def test_setuid_while_open(tree):
    """Setuid that is set while others than root have the file open goes with their next write."""
    path = tree / "program"
    path.write_bytes(b"p")
    os.chmod(path, 0o777)
    tree.chmod(0o777)
    script = ("import os, sys\nos.setgid(1000); os.setuid(1000)\nfile = open(sys.argv[1], 'ab', buffering=0)\n"
              "print('open', flush=True)\nsys.stdin.readline()\nfile.write(b'other')\n")
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        os.chmod(path, 0o6777)
        other.communicate(b"\n")
    assert os.stat(path).st_mode & 0o6000 == 0
    assert path.read_bytes() == b"pother"


def test_append_only(tree):
    """An append-only file takes writes at its end only, also when O_APPEND is taken off its descriptor."""
    path = tree / "log"
    path.write_bytes(b"one")
    run("chattr", "+a", path)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"two")
    with pytest.raises(PermissionError):
        os.open(path, os.O_WRONLY)
    os.close(fd)
    run("chattr", "-a", path)
    assert path.read_bytes() == b"onetwo"


def test_full_disk(ov, images):
    """A full disk is told by the write."""
    where = images.private(ov.base / "small", "ext4", size="16M")
    ov.mounted_helpers.append(where)
    ov.use_upper_on(where)
    with ov.lower():
        pass
    mnt = ov.mount()
    with open(mnt / "new", "wb", buffering=0) as file, pytest.raises(OSError) as error:
        for _ in range(32):
            file.write(b"f" * (1 << 20))
    assert error.value.errno == errno.ENOSPC


def test_many_open(ov):
    """Thousands of files open at once: the server's descriptors stay bounded, all is served."""
    with ov.lower():
        pass
    mnt = ov.mount(prefix=("prlimit", "--nofile=256:256"))
    script = ("import os, resource, sys\n"
              "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
              "fds = [os.open(f'{sys.argv[1]}/f{i}', os.O_CREAT | os.O_RDWR) for i in range(3000)]\n"
              "for i, fd in enumerate(fds): os.write(fd, b'%d' % i)\n"
              "for i, fd in enumerate(fds): assert os.pread(fd, 10, 0) == b'%d' % i\n")
    run(sys.executable, "-c", script, mnt)
    assert (mnt / "f2999").read_bytes() == b"2999"


def test_open_and_close_at_once(tree):
    """Processes that open the same files for reading and writing all the time never get an error."""
    script = ("import os, sys, random\nr = random.Random(int(sys.argv[2]))\n"
              "for i in range(1500):\n"
              "    path = f'{sys.argv[1]}/f{r.randrange(3)}'\n"
              "    fd = os.open(path, r.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]) | os.O_CREAT)\n"
              "    if r.random() < .5: os.fstat(fd)\n"
              "    os.close(fd)\n"
              "    if r.random() < .1:\n"
              "        try: os.unlink(path)\n"
              "        except FileNotFoundError: pass\n")
    clients = [subprocess.Popen([sys.executable, "-c", script, tree, str(n)]) for n in range(4)]
    assert [client.wait(60) for client in clients] == [0] * 4


def test_mapping_that_outlives_the_close(ov):
    """Stores through it change the time with no word to the server; it is seen a moment after all the same."""
    with ov.lower():
        pass
    mnt = ov.mount()
    (mnt / "f").write_bytes(bytes(8192))
    fd = os.open(mnt / "f", os.O_RDWR)
    # that of python's module would keep a descriptor of its own
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    at = libc.mmap(None, ctypes.c_size_t(8192), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd,
                   ctypes.c_long(0))
    os.close(fd)
    time.sleep(0.2)  # the server hears of it
    before = os.stat(mnt / "f").st_mtime_ns
    ctypes.memset(at, 1, 1)
    assert libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(8192)) == 0
    time.sleep(1.1)  # for which attributes are kept
    assert os.stat(mnt / "f").st_mtime_ns == os.stat(ov.upper / "f").st_mtime_ns > before
