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


def test_every_file_that_the_documentation_names_is_there() -> None:
    """Decisions and explanations name the tests that hold them, and the modules that they are about."""
    folders = "arbiter|workers|config|tests|benchmarks|docs/adr"
    tests = {path.name for path in (ROOT / "tests").rglob("*.py")}
    missing = []
    pages = [*(ROOT / "docs/adr").glob("*.md"), *(ROOT / "docs/explanation").glob("*.md"), ROOT / "docs/architecture.md"]
    for page in (*pages, ROOT / "docs/performance.md", ROOT / "CONTRIBUTING.md"):
        for name in re.findall(r"`([^`\s]+)`", page.read_text()):
            is_path = re.fullmatch(rf"(?:{folders})/[\w./-]*", name)
            if (is_path and not (ROOT / name).exists()) or (re.fullmatch(r"test_\w+\.py", name) and name not in tests):
                missing.append(f"{page.name}: {name}")

    assert missing == []
