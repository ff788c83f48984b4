"""Exit 1 if a test was skipped: where .ci/run has installed every tool, a skip is a proof that was not given.

Reads the JUnit report of pytest, so that no test process is changed by it. An expected failure is not a skip.
"""
# ruff: noqa: INP001  a script beside .ci/run, in no package

from __future__ import annotations

import sys
from xml.etree import ElementTree as ET


def skipped(report: str) -> list[str]:
    """One line per skipped test (or skipped file): its name and the reason it gave."""
    cases = ET.parse(report).iter("testcase")  # noqa: S314  our own pytest wrote it a moment ago
    return [
        f"a test was skipped: {case.get('classname')}.{case.get('name')}: {skip.get('message')}: {skip.text}"
        for case in cases
        for skip in case.iterfind("skipped")
        if skip.get("type") != "pytest.xfail"
    ]


if __name__ == "__main__":
    sys.exit("\n".join(skipped(sys.argv[1])) or None)
