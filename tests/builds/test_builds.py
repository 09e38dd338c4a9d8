# SPDX-License-Identifier: GPL-2.0-or-later
"""Other builds: clang with ASan and UBSan, gcc with TSan, with no more than libfuse 3.17 has, and the
unit tests under valgrind.

A server that runs in the background says nothing: with the options below it ends at the first
finding, so that whoever uses the mount fails, and leaves a file that is printed here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / os.environ.get("RVL_BUILD_DIR", "build")
# Units for valgrind: those that need no openat2, which Debian 12's does not know.
UNITS = sorted(path.name for pattern in ("base-*", "server-*", "tools-*", "index-log", "index-state",
                                         "layer-copy", "layer-handle", "layer-places")
               for path in (BUILD / "tests/unit").glob("unit-" + pattern) if path.is_file())
# e2e tests that reach most of the code in little time
E2E = ["copyup", "create", "remove", "xattr"]
# NULL + 0 of an empty array, which C23's successor allows, is not looked for.
ASAN = "-Db_sanitize=address,undefined -Db_lundef=false -Dc_args=-fno-sanitize=pointer-overflow"


def run(args, seconds, cwd=TOP, **env):
    result = subprocess.run(["timeout", "-k", "10", str(seconds), *map(str, args)], cwd=cwd,
                            env={**os.environ, **env}, stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                            errors="replace")
    return result.returncode, result.stdout


class Build:
    """A build directory of its own, and what its programs find."""

    def __init__(self, name, log_dir, **env):
        self.dir = f"build-{name}"
        self.log = log_dir
        options = f"halt_on_error=1:log_path={log_dir}/found"
        self.env = {"RVL_BUILD_DIR": self.dir, "ASAN_OPTIONS": options, "UBSAN_OPTIONS": options,
                    "TSAN_OPTIONS": options, "RVL_JOBS": "1"}
        code, output = run(["scripts/setup", "--tests"], 300, **self.env, **env)
        assert code == 0 and "warning:" not in output, output[-4000:]

    def check(self, args, codes=(0,), cwd=TOP):
        code, output = run(args, 600, cwd, **self.env)
        found = "".join(path.read_text(errors="replace") for path in self.log.glob("found*"))
        assert code in codes and not found, output[-6000:] + found[:6000]

    def e2e(self, *arguments):
        self.check([sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider",
                    *arguments])

    def soak(self, *arguments):
        """What threads do is another thing each time: a difference is the tester's matter, not ours."""
        self.check([TOP / "tests/random/soak.sh", "--program", TOP / self.dir / "reverlay",
                    "--tester", BUILD / "tests/random/rvl-random", "--seed", "1", *arguments],
                   codes=(0, 1), cwd=self.log)


@pytest.fixture(scope="module")
def asan(tmp_path_factory):
    return Build("asan", tmp_path_factory.mktemp("asan"), CC="clang",
                 RVL_MESON_ARGS=f"{ASAN} --werror")


@pytest.fixture(scope="module")
def tsan(tmp_path_factory):
    return Build("tsan", tmp_path_factory.mktemp("tsan"), RVL_MESON_ARGS="-Db_sanitize=thread")


@pytest.mark.xdist_group("asan")
def test_asan_units(asan):
    """clang builds without a warning; the unit tests find nothing with ASan and UBSan."""
    asan.check(["meson", "test", "-C", asan.dir, "--no-rebuild", "--print-errorlogs", "--quiet",
                "--timeout-multiplier", "5"])


@pytest.mark.xdist_group("asan")
def test_asan_mounts(asan):
    """Nor do end-to-end tests, on the layouts that each of them chooses."""
    asan.e2e(*[f"tests/e2e/test_{name}.py" for name in E2E])


@pytest.mark.xdist_group("tsan")
@pytest.mark.parametrize("where", ["tmpfs", "ext4"])
def test_tsan_random(tsan, where):
    """Four threads of random operations: no data race."""
    tsan.soak("--on", where, "--ops", "8000", "--threads", "4")


@pytest.mark.xdist_group("tsan")
def test_tsan_mounts(tsan):
    """Nor in tests that use threads or processes."""
    tsan.e2e("tests/e2e", "-k", "parallel or while_listing or in_the_middle")


def test_old_libfuse(tmp_path):
    """With no more than libfuse 3.17 has there is no difference but one, that FUSE leaves setgid without group-execute."""
    old = Build("oldfuse", tmp_path, RVL_MESON_ARGS="-Dold_fuse=true")
    old.check([TOP / "tests/random/soak.sh", "--program", TOP / old.dir / "reverlay", "--on", "ext4",
               "--tester", BUILD / "tests/random/rvl-random", "--seed", "1", "--runs", "2", "--ops", "6000",
               "--accept", "sgid-no-exec"], cwd=tmp_path)
    old.e2e("tests/e2e/test_create.py", "tests/e2e/test_xattr.py")


@pytest.mark.parametrize("unit", UNITS)
def test_valgrind(unit):
    """valgrind finds nothing in a unit test."""
    code, output = run(["valgrind", "-q", "--error-exitcode=99", "--leak-check=full",
                        "--errors-for-leak-kinds=definite", BUILD / "tests/unit" / unit], 300)
    assert code == 0, output[-6000:]
