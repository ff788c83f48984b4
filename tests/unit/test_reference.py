"""The reference tells of nothing that there is not: what it leaves out, its generator and tests/http find."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

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


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_line_of_the_log_is_found_with_its_words_or_the_page_is_not_made() -> None:
    made = generator()
    code = """
TOLD = "a constant"
def work(self, order, seconds, client):
    self.log.info(f"took {seconds:.1f} s for {client or 'nobody'}")
    order.log.exception(TOLD)
    other.info("nothing that is logged")
"""

    assert made._Logged("m", ast.parse(code)).found == [
        made.Line("info", "m", "took *seconds* s for *client*"),
        made.Line("error", "m", "a constant *traceback*"),
    ]
    with pytest.raises(LookupError, match="add it to GIVEN"):
        made._Logged("m", ast.parse("self.log.error(whatever)"))
