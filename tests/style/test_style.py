# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree keeps its own rules, and the checks find what breaks them."""

import importlib.util
import os
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("check", Path(__file__).with_name("check.py"))
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


@pytest.mark.parametrize("name", list(check.CHECKS))
def test_tree(name):
    """The tree has no finding of this check."""
    found = list(check.findings(name))
    assert not found, "\n" + "\n".join(found)


BREAKS = [
    ("includes", "src/base/a.c", '#include "layer/path.h"\n', "base must not include"),
    ("includes", "src/layer/a.c", '#include "index/entry.h"\n', "layer must not include"),
    ("includes", "src/index/a.c", '#include "overlay/node.h"\n', "index must not include"),
    ("includes", "src/overlay/a.c", '#include "check/fsck.h"\n', "overlay must not include"),
    ("includes", "src/check/a.c", '#include "overlay/node.h"\n', "check must not include"),
    ("includes", "src/tools/a.c", '#include "overlay/node.h"\n', "tools must not include"),
    ("includes", "src/overlay/a.c", '#include "server/session.h"\n', "overlay must not include"),
    ("includes", "src/overlay/a.c", "#include <fuse_lowlevel.h>\n", "libfuse"),
    ("includes", "src/overlay/a.c", "#include <lmdb.h>\n", "LMDB"),
    ("includes", "src/base/a.c", '#include "../layer/path.h"\n', "is relative"),
    ("includes", "tests/unit/base/test_a.c", '#include "index/entry.h"\n', "must not include"),
    ("spdx", "src/base/a.c", "int x;\n", "SPDX"),
    ("spdx", "scripts/a", "#!/bin/sh\n", "SPDX"),
    ("form", "src/base/a.c", "        int x;\n", "blanks"),
    ("form", "src/base/a.c", "int x; \n", "trailing"),
    ("form", "src/base/a.c", "int x;", "newline"),
    ("guards", "src/base/a.h", "int x;\n", "guard"),
    ("listed", "src/base/a.c", "int x;\n", "meson.build"),
    ("shell", "scripts/a", "#!/bin/sh\nif\n", "yntax error"),
]


@pytest.mark.parametrize("name,path,content,message", BREAKS)
def test_check_finds(name, path, content, message, tmp_path, monkeypatch):
    """Each check finds the thing that it is there for."""
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(content)
    os.chmod(file, 0o755)
    monkeypatch.setattr(check, "TOP", tmp_path)
    found = list(check.findings(name, [path]))
    assert any(message in line for line in found), found


def test_problems_differ(tmp_path, monkeypatch):
    """A problem that the documentation lacks, has otherwise, or alone has, is found."""
    (tmp_path / "src/check").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    names = ["src/check/problem.h", "docs/check.md"]
    (tmp_path / names[0]).write_text('X(A, "a-b", RVL_ERROR, true, "", "")\n'
                                     'X(C, "c", RVL_NOTE, false, "", "")\n')
    (tmp_path / names[1]).write_text("| `a-b` | warning | yes | |\n| `d` | note | no | |\n")
    monkeypatch.setattr(check, "TOP", tmp_path)
    found = "\n".join(check.findings("problems", names))
    for message in ("no row a-b | error", "no row c | note", "no problem a-b | warning",
                    "no problem d | note"):
        assert message in found
    (tmp_path / names[1]).write_text("| `a-b` | error | yes | |\n| `c` | note | no | |\n")
    assert not list(check.findings("problems", names))


def test_options_differ(tmp_path, monkeypatch):
    """An option that the tools do not know, or no mount takes, is found."""
    names = ["src/server/options.c", "src/tools/layers.c"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / names[0]).write_text('{ "userxattr", KIND_TRUE, 0 },\n{ "a+", KIND_WORD, 0 },\n'
                                     '{ "no", KIND_REFUSE, 0 },\nignored[] = {\n"b",\n};\n')
    (tmp_path / names[1]).write_text('other_options[] = { "b", "c" };\nwith_value[] = { "d" };\n')
    monkeypatch.setattr(check, "TOP", tmp_path)
    found = "\n".join(check.findings("options", names))
    assert found == ("src/tools/layers.c: option a+ is unknown\nsrc/server/options.c: no option c\n"
                     "src/server/options.c: no option d")
    (tmp_path / names[1]).write_text('other_options[] = { "b" };\nwith_value[] = { "a+" };\n')
    assert not list(check.findings("options", names))


def test_check_accepts(tmp_path, monkeypatch):
    """A file that keeps the rules has no finding."""
    file = tmp_path / "src/overlay/a.c"
    file.parent.mkdir(parents=True)
    file.write_text("// SPDX-License-Identifier: GPL-2.0-or-later\n#include <stdio.h>\n\n"
                    '#include "overlay/a.h"\n#include "index/entry.h"\n#include "layer/path.h"\n'
                    '#include "base/log.h"\n\nint x;\n')
    (file.parent / "meson.build").write_text("files('a.c')")
    monkeypatch.setattr(check, "TOP", tmp_path)
    for name in check.CHECKS:
        assert not list(check.findings(name, ["src/overlay/a.c"]))
