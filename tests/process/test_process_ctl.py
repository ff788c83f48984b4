"""``arbiterctl``: what signals say, by name, to whoever holds the pid file, and never to a stranger."""

from __future__ import annotations

import json
import os
import re
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


def test_a_reload_that_is_waited_for_ends_with_what_came_of_it(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve("--pid", "pid")

    arbiter.write("live.py", app("two"))
    assert ctl(tmp_path, "-p", "pid", "--wait", "reload") == (0, "2/2 ready, gen 2\n")
    assert {server.get().text.split()[0] for _ in range(8)} == {"two"}
    arbiter.write("live.py", "raise RuntimeError('not today')")
    status, said = ctl(tmp_path, "-p", "pid", "--wait", "reload")
    assert status == 1
    assert "RuntimeError: not today" in said
    server.expect("RuntimeError")
    arbiter.write("live.py", app("three"))
    assert ctl(tmp_path, "-p", "pid", "--wait", "reload") == (0, "2/2 ready, gen 4\n")
    arbiter.write("live.py", app("four", at_import="time.sleep(1)\n"))
    status, said = ctl(tmp_path, "-p", "pid", "--wait", "--timeout", "0.3", "reload")
    assert status == 1
    assert "the reload is not decided yet, and goes on: 2/2 ready, gen 4" in said
    server.wait_workers(2, generation=5)


def test_the_supervisor_is_found_by_its_number_or_a_childs_and_a_stranger_is_not_signalled(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    server = arbiter.serve()

    for number in (server.workers()[0].pid, server.pid):
        assert ctl(tmp_path, "--main-pid", str(number), "reload", "--wait")[0] == 0
    assert ctl(tmp_path, "--main-pid", str(os.getpid()), "stop") == (
        1,
        f"arbiterctl: process {os.getpid()}: it is no supervisor of this version. Is it the main process of the service?\n",
    )
    assert server.count("stopping:") == 0


def test_a_stop_that_is_waited_for_has_happened(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve("--pid", "pid")

    assert ctl(tmp_path, "-p", "pid", "--wait", "stop") == (0, "")

    assert not (tmp_path / "pid").exists()
    assert server.ended() == 0


def test_what_has_no_end_is_not_waited_for(tmp_path: Path) -> None:
    status, said = ctl(tmp_path, "-p", "pid", "--wait", "more")

    assert status == 2
    assert "--wait is for stop, quit, reload: nothing tells when more is over" in said


def test_the_status_shows_each_worker_and_the_request_that_it_is_in(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve("--pid", "pid")
    server.get()
    server.ask("/held")
    server.wait_held()

    status, said = ctl(tmp_path, "-p", "pid", "status")
    head, titles, *lines = said.splitlines()
    assert status == 0
    assert re.fullmatch(rf"arbiter \S+, pid {server.pid}, up 0:00:\d\d: 2/2 ready, gen 1", head)
    assert titles.split() == ["worker", "gen", "pid", "phase", "up", "requests", "doing"]
    assert [line.split()[:4] for line in lines] == [[str(w.slot), "1", str(w.pid), "ready"] for w in server.workers()]
    assert sorted(line.split()[6] for line in lines) == ["GET", "idle"]

    told = json.loads(ctl(tmp_path, "-p", "pid", "--json", "status")[1])
    assert told["is_serving"]
    assert sum(worker["requests"] for worker in told["workers"]) == 1
    assert any("GET /held from 127.0.0.1" in doing for worker in told["workers"] for doing in worker["doing"])
    server.release()


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
