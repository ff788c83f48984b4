"""``arbiterctl``: what signals say, by name, to whoever holds the pid file, and never to a stranger."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import app

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

COMMAND = Path(sys.executable).with_name("arbiterctl")


def ctl(folder: Path, *words: str) -> tuple[int, str]:
    """Exit status and words of the command."""
    done = subprocess.run([COMMAND, *words], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_verb_does_what_its_signal_does(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve("--pid", "pid")
    arbiter.write("live.py", app("two"))

    assert ctl(tmp_path, "-p", "pid", "more") == (0, "")
    server.wait_workers(3)
    assert ctl(tmp_path, "-p", "pid", "reload") == (0, "")
    server.wait_workers(3, generation=2)
    assert ctl(tmp_path, "-p", "pid", "fewer") == (0, "")
    server.wait_workers(2)
    assert ctl(tmp_path, "-p", "pid", "reopen-logs") == (0, "")
    server.wait_log("log files reopened")
    assert ctl(tmp_path, "-p", "pid", "stop") == (0, "")
    assert server.ended() == 0
    assert server.count("stopping:") == 1


def test_quit_by_name_is_quick(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve("--pid", "pid")
    server.ask("/held")
    server.wait_held()

    assert ctl(tmp_path, "-p", "pid", "quit") == (0, "")
    assert server.ended() == 0
    assert server.count("quitting:") == 1


def test_a_stale_pid_file_gets_no_signal_sent_to_whoever_has_the_number_now(tmp_path: Path) -> None:
    """The file names this very test: a signal would end it."""
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")

    status, said = ctl(tmp_path, "-p", "pid", "quit")

    assert status == 1
    assert said == "arbiterctl: pid: no running server holds this file. Is the server running, with --pid pid?\n"


def test_a_pid_file_that_is_not_there_is_one_message_and_status_1(tmp_path: Path) -> None:
    status, said = ctl(tmp_path, "-p", "pid", "reload")

    assert status == 1
    assert said == "arbiterctl: pid: No such file or directory. Is the server running, with --pid pid?\n"


def test_an_unknown_verb_is_status_2_and_names_the_verbs_that_there_are(tmp_path: Path) -> None:
    status, said = ctl(tmp_path, "-p", "pid", "relaod")

    assert status == 2
    assert "reload" in said
