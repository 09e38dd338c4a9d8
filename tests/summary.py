#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Adds up the results of all parts: summary.py DIRECTORY PART=EXIT_CODE...

Prints the skipped cases with their reasons, and the last line: N passed, N failed, N skipped.
A part without a result, or that failed with no failed case, counts as one failure.
"""

import os
import sys
import xml.etree.ElementTree


def main(directory, *parts):
    passed = failed = skipped = 0
    for part, status in (p.split("=") for p in parts):
        before = failed
        try:
            root = xml.etree.ElementTree.parse(os.path.join(directory, part + ".xml")).getroot()
        except (OSError, xml.etree.ElementTree.ParseError):
            print(f"failed: {part}: no result")
            failed += 1
            continue
        for suite in root.iter("testsuite"):
            # meson: a program that died has errors beyond its cases
            cases = list(suite.iter("testcase"))
            bad = 0
            for case in cases:
                name = f"{case.get('classname') or suite.get('name')}: {case.get('name')}"
                skip = case.find("skipped")
                if case.find("failure") is not None or case.find("error") is not None:
                    print(f"failed: {name}")
                    bad += 1
                elif skip is not None:
                    print(f"skipped: {name}: {skip.get('message') or ''}".rstrip(": "))
                    skipped += 1
                else:
                    passed += 1
            more = int(suite.get("failures") or 0) + int(suite.get("errors") or 0) - bad
            if more > 0:
                print(f"failed: {suite.get('name')}: {more} more")
                bad += more
            failed += bad
        if failed == before and status not in ("0", "5"):
            print(f"failed: {part}: exit code {status}")
            failed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
