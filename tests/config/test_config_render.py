"""What is made from the table: help, the printed configuration, the documentation, and the cost of it all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from arbiter.config import render
from arbiter.config.resolve import resolve
from arbiter.config.schema import SETTINGS

ROOT = Path(__file__).parents[2]


def test_the_documentation_is_fresh() -> None:
    written = (ROOT / "docs" / "settings.md").read_text()

    assert render.docs_text() == written, "run: python -m arbiter.config.render > docs/settings.md"


def test_every_setting_stands_in_the_documentation_and_every_flag_in_the_help() -> None:
    docs, text = render.docs_text(), render.help_text()
    for row in SETTINGS.values():
        assert f"\n### {row.name}\n" in docs
        assert f"`{row.variable}`" in docs
        for flag in row.flags:
            assert f"`{flag}`" in docs
        if row.flags:
            assert row.flag in text


def test_the_help_is_short() -> None:
    lines = render.help_text().splitlines()

    assert max(map(len, lines)) <= 120
    assert all(not row.summary.endswith(".") and "`" not in row.summary for row in SETTINGS.values() if row.flags)


def test_what_is_printed_is_a_configuration_file_that_means_the_same(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text(
        'bind = ["unix:a.sock", "[::1]:1"]\nraw_env = ["A=1", "B=\\u007f ✓"]\ntimeout = 0.25\naccesslog = "a.log"\n'
    )
    first = resolve(["a:b", "-n", 'quo"te\\'], {"PORT": "1"}, str(tmp_path))
    printed = render.config_text(first)
    (tmp_path / "arbiter.toml").write_text(printed)
    second = resolve([], {}, str(tmp_path))

    assert first.settings == second.settings
    assert set(SETTINGS) == set(tomllib.loads(printed))


def test_what_is_printed_says_where_each_value_came_from(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text("\ntimeout = '1m'")
    printed = render.config_text(resolve(["a:b", "-w", "3"], {"PORT": "80"}, str(tmp_path)))
    lines = [re.sub(r"\s+#", "  #", line) for line in printed.splitlines()]

    assert 'bind = ["0.0.0.0:80"]  # env PORT' in lines
    assert 'timeout = "60s"  # arbiter.toml:2' in lines
    assert "workers = 3  # --workers" in lines
    assert 'wsgi_app = "a:b"  # command line' in lines
    assert "backlog = 2048  # default" in lines


def test_a_secret_is_not_printed(tmp_path: Path) -> None:
    resolved = resolve(["a:b", "-e", "SECRET_KEY=hunter2", "-e", "URL=redis://me:hunter2@h"], {}, str(tmp_path))

    assert "hunter2" not in render.config_text(resolved)
    assert 'raw_env = ["SECRET_KEY=***", "URL=redis://me:***@h"]' in render.config_text(resolved)


def run(code: str, cwd: Path) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ARBITER_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environ, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


@pytest.mark.process
def test_reading_a_configuration_loads_nothing_that_a_supervisor_does_not_need(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text("workers = 2")
    code = """
import sys
from arbiter.config import render, resolve
resolve.resolve(["a:b"], {}, ".")
render.help_text()
print(*sys.modules)
"""
    heavy = {"asyncio", "ssl", "socket", "h11", "httptools", "logging", "difflib", "json", "symtable", "shlex", "shutil"}

    assert set() == heavy & set(run(code, tmp_path).split())


@pytest.mark.process
def test_the_module_writes_the_documentation(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.argv = ['render']; runpy.run_module('arbiter.config.render', run_name='__main__')"

    assert render.docs_text() == run(code, tmp_path)
