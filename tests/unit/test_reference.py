"""The reference tells of nothing that there is not: what it leaves out, its generator and tests/http find."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_key_that_is_documented_is_given_by_some_worker() -> None:
    page = (ROOT / "docs/reference/environ.md").read_text()
    code = "".join(path.read_text() for path in (ROOT / "workers").rglob("*.py"))
    keys = {
        key
        for line in page.splitlines()
        if line.startswith("| `")
        for key in re.findall("`([^`]+)`", line.split(" | ")[0])
        if key != "HTTP_..."
    }

    assert len(keys) > 50
    assert {key for key in keys if f'"{key}"' not in code} == set()
