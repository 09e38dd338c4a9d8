# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures. See rvl.py for what they give."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import rvl  # noqa: E402  pylint: disable=wrong-import-position
from filesystems import Images  # noqa: E402  pylint: disable=wrong-import-position

# Skips that CI accepts: a part of the reason. Whatever else is skipped there is a failure.
ALLOWED_SKIPS = []

TEST_SECONDS = 120

# Modules with something that is dear to make and that all their tests use: one worker has them.
TOGETHER = ("test_realtree", "test_handles", "test_nfs_kernel")


def pytest_addoption(parser):
    parser.addoption("--layouts", default="", help="run every test on these layouts (a,b or all)")
    parser.addoption("--quick", action="store_true", help="leave out what is marked slow")


def pytest_configure(config):
    for line in (
            "layouts(*names): the layouts to run on; all without a name",
            "kernel_differs(reason): the kernel's overlay is known to do otherwise",
            "reverlay_only(reason): makes no sense on the kernel's overlay",
            "seconds(n): time limit",
            "slow: takes more than some seconds"):
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc):
    if "ov" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--layouts")
    marker = metafunc.definition.get_closest_marker("layouts")
    if wanted == "all":
        layouts = list(rvl.LAYOUTS)
    elif wanted:
        layouts = wanted.split(",")
    elif marker:
        layouts = marker.args or list(rvl.LAYOUTS)
    else:
        layouts = ["ext4"]
    metafunc.parametrize("layout", layouts, indirect=False)


@pytest.hookimpl(tryfirst=True)  # the plugin of the workers looks at the groups in its own
def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.module.__name__ in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
        differs = item.get_closest_marker("kernel_differs")
        params = getattr(getattr(item, "callspec", None), "params", {})
        if rvl.IS_KERNEL and params.get("layout") == "overlay":
            item.add_marker(pytest.mark.xfail(reason="numbers over an overlay", strict=False))
        if differs and rvl.IS_KERNEL:
            item.add_marker(pytest.mark.xfail(reason=differs.args[0], strict=False))
        only = item.get_closest_marker("reverlay_only")
        if only and rvl.IS_KERNEL:
            item.add_marker(pytest.mark.skip(reason="on the kernel's overlay: " + only.args[0]))
    if config.getoption("--quick"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    # with several workers what takes long goes first, so that none has it alone at the end
    items.sort(key=lambda item: not item.get_closest_marker("xdist_group"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if call.when == "call":
        item.failed_in_call = report.failed
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "?"
        if not any(part in reason for part in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"


def isolate():
    """A mount namespace of our own: whatever happens, no mount of ours is seen or left behind."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 0x40000
    if libc.unshare(clone_newns) or libc.mount(b"none", b"/", None, ms_rec | ms_private, None):
        pytest.exit(f"no mount namespace: {os.strerror(ctypes.get_errno())}", 1)


@pytest.fixture(scope="session")
def scratch():
    if os.geteuid() == 0:
        isolate()
    given = os.environ.get("RVL_SCRATCH")
    path = Path(tempfile.mkdtemp(prefix="reverlay-test.", dir=given or "/tmp"))
    path.chmod(0o755)
    yield path
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        where = rvl.unescape_mountinfo(line.split(" ")[4])
        if where.startswith(str(path) + "/"):
            subprocess.run(["umount", "-l", where], check=False, timeout=30)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def images(scratch):
    if os.geteuid() != 0:
        pytest.skip("not root: nothing can be mounted")
    if not rvl.IS_KERNEL and not os.path.exists(rvl.REVERLAY):
        pytest.fail(f"{rvl.REVERLAY} is not built")
    result = Images(scratch)
    yield result
    result.close()


@pytest.fixture
def overlays(request, images):
    """Makes overlays: overlays(layout). All of them are checked and destroyed at the end."""
    made = []
    marker = request.node.get_closest_marker("seconds")
    watchdog = rvl.Watchdog(made, marker.args[0] if marker else TEST_SECONDS)

    def make(layout="ext4", name=None):
        base = re.sub(r"[^\w.-]", "_", name or request.node.name)[:60]
        ov = rvl.Overlay(images, layout, f"{base}.{len(made)}")
        made.append(ov)
        return ov

    yield make
    try:
        if not getattr(request.node, "failed_in_call", True):
            for ov in made:
                ov.finish()
        else:
            for ov in made:
                text = ov.messages()
                if text:
                    print(f"--- messages of the server at {ov.mnt}:\n{text}")
        assert not watchdog.fired, "the test hung; its server was killed"
    finally:
        watchdog.cancel()
        for ov in reversed(made):
            ov.destroy()


@pytest.fixture
def ov(overlays, layout):
    return overlays(layout)
