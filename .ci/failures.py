"""The tests that failed, by the names that pytest takes; exit 1 if there are none, or too many to be chance.

Reads the JUnit report of pytest.
"""
# ruff: noqa: INP001  a script beside .ci/run, in no package

from __future__ import annotations

import os
import sys
from xml.etree import ElementTree as ET

MOST = 10
"""More than so many failures at once are no accidents of a busy machine."""


def failed(report: str) -> list[str]:
    """The failed tests, as `path::name`."""
    cases = ET.parse(report).iter("testcase")  # noqa: S314  our own pytest wrote it a moment ago
    found = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return sorted({f"{_path(case.get('classname', ''))}::{case.get('name')}" for case in found})


def _path(dotted: str) -> str:
    return dotted.replace(".", os.sep) + ".py"


if __name__ == "__main__":
    names = failed(sys.argv[1]) if os.path.exists(sys.argv[1]) else []
    if not 0 < len(names) <= MOST:
        sys.exit(f"{len(names)} tests failed" if names else "no test failed: it was something else")
    print("\n".join(names))  # noqa: T201  its output is what it is for
