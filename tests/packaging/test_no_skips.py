"""Where every tool is installed, a skipped test fails the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NO_SKIPS = Path(__file__).parents[2] / ".ci/no_skips.py"
PASSES = "def test_passes(): pass\n"
FAILS_AS_EXPECTED = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_known(): assert False\n"
SKIPS = "import pytest\ndef test_skips(): pytest.skip('no such tool')\n"
SKIPS_WHOLE = "import pytest\npytest.importorskip('no_such_module')\n"


@pytest.mark.parametrize(
    ("tests", "status", "told"),
    [
        (PASSES, 0, ""),
        (FAILS_AS_EXPECTED, 0, ""),
        (PASSES + SKIPS, 1, "no such tool"),
        (SKIPS_WHOLE, 1, "no_such_module"),
    ],
)
def test_a_skip_and_nothing_else_fails_the_run(tests: str, status: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(tests)
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml", "test_it.py"]
    subprocess.run(pytest_run, cwd=tmp_path, capture_output=True, check=False)

    done = subprocess.run([sys.executable, NO_SKIPS, "report.xml"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == status
    assert told in done.stderr
