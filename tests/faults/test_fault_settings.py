"""What a reload may find in place of its settings: it is refused, quickly, and everything else goes on meanwhile or right after."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

import pytest
from clients import LONGEST_GAP
from harness import APP
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Arbiter

pytestmark = pytest.mark.process

REFUSED = {
    "leaves": ("import sys; sys.exit(3)", r"it calls sys.exit\(3\)"),
    "is interrupted": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises what nobody catches": ("raise BaseException('x')", "BaseException: x"),
    "raises what can't be shown": ("class E(Exception):\n  def __str__(self): raise ValueError('no')\nraise E", "no"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "wants a billion workers": ("workers = 10**9", "too many for one service"),
    "ends the process": ("import os; os._exit(3)", "ends the process that tries it, with status 3"),
    "ends it as if all were well": ("import os; os._exit(0)", r"ends the process that tries it, by os\._exit\(0\)"),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", "the process that tried the settings was killed by SIGKILL"),
    "kills its group": ("import os; os.killpg(0, 9)", "the process that tried the settings was killed by SIGKILL"),
    "crashes in C": (
        "import ctypes; ctypes.string_at(0)",
        r"SIGSEGV: Segmentation fault \(.*ctypes/__init__\.py:\d+, in string_at\)",
    ),
    "closes descriptors": ("import os; os.closerange(3, 4096)", "closes descriptors that are not its own"),
}
"""What a file does, and what is said of it."""
STAYS_OUT: Final = """
import asyncio, os, signal, subprocess, sys, threading

workers = 1
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
signal.set_wakeup_fd(-1)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
threading.Thread(target=threading.Event().wait, daemon=True).start()
asyncio.run(asyncio.sleep(0))
os.chdir("/")
if os.fork() == 0:
    pass  # and the copy of the supervisor runs on
if "tried" in open("/proc/self/cmdline").read():
    subprocess.Popen(["sleep", "60"])
"""
"""What a file may do to the process that executes it, and the service is none the worse."""


def test_a_python_file_that_does_anything_at_all_refuses_the_reload(arbiter: Arbiter) -> None:
    """One server, one reload after another. Result: each is refused and says why; the workers stay; the last, good one is done.

    The good one does to signals, directory and processes what the supervisor can't do without, and it is stopped all the same.
    """
    arbiter.write("live.py", APP)
    arbiter.write("gunicorn.conf.py", "workers = 2\n")
    server = arbiter.launch("-c", "gunicorn.conf.py", "live").wait_ready()
    before = server.wait_workers(2)

    with server.client() as client:
        for times, (text, why) in enumerate(REFUSED.values(), 1):
            arbiter.write("gunicorn.conf.py", f"{text}\n")
            server.send(signal.SIGHUP)
            server.wait_log(r"reload refused, nothing has changed", times=times)
            server.wait_log(why)
        after = pids(server.workers())
        for times in (1, 2):
            arbiter.write("gunicorn.conf.py", STAYS_OUT)
            server.send(signal.SIGHUP)
            server.wait_log("reload done: all 1 workers", times=times)
            client.more(10)
        server.wait_workers(1)
        directory = os.readlink(f"/proc/{server.pid}/cwd")

    assert after == pids(before)
    assert directory == str(server.folder)
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
@pytest.mark.parametrize(
    ("hangs", "where"),
    [
        ("ctypes.PyDLL(None).sleep(600)", r"gunicorn\.conf\.py:3, in <module>"),
        ("os.kill(os.getpid(), 19)", "could not be interrupted"),
    ],
    ids=["sleeps in C with the interpreter's lock", "is stopped"],
)
def test_settings_that_never_come_to_an_end_are_given_up_and_the_service_goes_on(
    arbiter: Arbiter, hangs: str, where: str
) -> None:
    """1. HUP, and the settings hang. 2. A worker dies. Result: it is replaced at once; after 10 s the reload is refused, and why."""
    arbiter.write("live.py", APP)
    arbiter.write("gunicorn.conf.py", "workers = 2\n")
    server = arbiter.launch("-c", "gunicorn.conf.py", "live").wait_ready()
    first, _ = server.wait_workers(2)

    with server.client() as client:
        arbiter.write("gunicorn.conf.py", f"import ctypes, os, time\n\n{hangs}\n")
        server.send(signal.SIGHUP)
        os.kill(first.pid, signal.SIGKILL)
        server.wait_log(r"worker=1 .* ready after", times=2)
        assert not server.count("reload refused")
        server.wait_log(rf"reload refused.*\n.*took longer than 10 s.*{where}")
        server.wait_workers(2)
        client.more(10)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP


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
