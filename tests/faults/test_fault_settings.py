"""What a reload may find in place of its settings: it is refused, quickly, and everything else goes on meanwhile or right after."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from harness import APP
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Arbiter

pytestmark = pytest.mark.process

RAISES = {
    "leaves": ("import sys; sys.exit(3)", r"it calls sys.exit\(3\)"),
    "is interrupted": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises what nobody catches": ("raise BaseException('x')", "BaseException: x"),
    "raises what can't be shown": ("class E(Exception):\n  def __str__(self): raise ValueError('no')\nraise E", "no"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "wants a billion workers": ("workers = 10**9", "too many for one service"),
}


def test_a_python_file_that_raises_anything_at_all_refuses_the_reload(arbiter: Arbiter) -> None:
    """One server, one reload after another. Result: each is refused and says why; the workers stay; the last, good one is done."""
    arbiter.write("live.py", APP)
    arbiter.write("gunicorn.conf.py", "workers = 2\n")
    server = arbiter.launch("-c", "gunicorn.conf.py", "live").wait_ready()
    before = server.wait_workers(2)

    with server.client() as client:
        for times, (text, why) in enumerate(RAISES.values(), 1):
            arbiter.write("gunicorn.conf.py", f"{text}\n")
            server.send(signal.SIGHUP)
            server.wait_log(r"reload refused, nothing has changed", times=times)
            server.wait_log(why)
        after = pids(server.workers())
        arbiter.write("gunicorn.conf.py", "workers = 1\n")
        server.send(signal.SIGHUP)
        server.wait_log("reload done: all 1 workers")
        client.more(10)

    assert after == pids(before)
    assert client.failures == []


def directory(path: Path) -> None:
    path.mkdir()


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("replace", "why"), [(directory, "Is a directory"), (endless, "it has more than 1 MiB")])
def test_a_settings_file_that_is_no_file_any_more_refuses_the_reload(
    arbiter: Arbiter, replace: Callable[[Path], None], why: str
) -> None:
    path = arbiter.write("arbiter.toml", "workers = 2\n")
    arbiter.write("live.py", APP)
    server = arbiter.launch("live").wait_ready()

    with server.client() as client:
        path.unlink()
        replace(path)
        server.send(signal.SIGHUP)
        server.wait_log(rf"reload refused, nothing has changed.*\n.*{why}")
        client.more(10)

    assert client.failures == []


@pytest.mark.parametrize("kind", ["a pipe", "a loop"])
def test_term_wins_over_settings_that_never_come_to_an_end(arbiter: Arbiter, kind: str) -> None:
    """1. HUP, while the settings are a pipe that nobody writes to, or a program that catches everything. 2. TERM. Result: 0."""
    path = arbiter.write("gunicorn.conf.py", "workers = 2\n")
    arbiter.write("live.py", APP)
    server = arbiter.launch("-c", "gunicorn.conf.py", "live").wait_ready()
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        text = "import time\nopen('begun', 'w').close()\nwhile True:\n  try: time.sleep(60)\n  except Exception: pass\n"
        arbiter.write("gunicorn.conf.py", text)
    with server.client() as client:
        server.send(signal.SIGHUP)
        until(lambda: (server.folder / "begun").exists() or kind == "a pipe", "the program")
        client.more(10)
        began = time.monotonic()
        client.give_up()
    status = server.stop()

    assert status == 0
    assert time.monotonic() - began < 5
    assert client.failures == []


@pytest.mark.slow
def test_settings_that_never_come_to_an_end_are_given_up_and_the_service_goes_on(arbiter: Arbiter) -> None:
    """1. HUP, and the settings sleep for ever. 2. A worker dies. Result: after 10 s the reload is refused, with the line; a worker."""
    arbiter.write("live.py", APP)
    arbiter.write("gunicorn.conf.py", "workers = 2\n")
    server = arbiter.launch("-c", "gunicorn.conf.py", "live").wait_ready()
    first, _ = server.wait_workers(2)

    with server.client() as client:
        arbiter.write("gunicorn.conf.py", "import time\n\ntime.sleep(600)\n")
        server.send(signal.SIGHUP)
        os.kill(first.pid, signal.SIGKILL)
        server.wait_log(r"reload refused.*\n.*took longer than 10 s.* given up \(.*gunicorn\.conf\.py:3, in <module>\)")
        server.wait_workers(2)
        client.more(10)

    assert len(client.failures) <= 1
    assert client.longest_gap < 1.5


def test_signals_to_the_whole_group_are_the_supervisors_alone(arbiter: Arbiter) -> None:
    """What `pkill -HUP arbiter` sends, and a closing terminal. Result: a reload, a reopening, more and fewer; no worker dies."""
    server = arbiter.serve("--prove", "1s", workers=2)

    with server.client() as client:
        for number in (signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP):
            os.killpg(server.pid, number)
            client.more(10)
        server.wait_log("reload done")
        for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO):
            server.send(number)
        client.more(10)

    assert client.failures == []
    assert server.count("was killed by|exited with|stuck") == 0
    assert server.wait_workers(2)
