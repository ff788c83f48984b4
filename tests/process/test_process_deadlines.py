"""Deadlines: what takes too long is named in the log and shown with the stacks of the living process, then it is ended.

The last lines of a process come before its death: whatever it does, its function is in the log. Where only a report is
wanted, nobody is harmed.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from clients import Reply
from harness import app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

STUCK = """
import ctypes, os, re, time
_plain = application

def search_for_ever():
    re.match("(a+)+$", "a" * 64 + "b")  # about 2**64 steps of the regular expression engine, which is in C

def deadlock_in_c():
    lock = ctypes.create_string_buffer(64)  # zeros: PTHREAD_MUTEX_INITIALIZER
    python = ctypes.PyDLL(None)  # keeps the interpreter's lock while it calls
    python.pthread_mutex_lock(lock)
    python.pthread_mutex_lock(lock)

def wait_for_nobody():
    while True:
        time.sleep(0.05)

def read_slowly():
    time.sleep(1.5)

def application(environ, start_response):
    if environ["PATH_INFO"].startswith("/stuck/"):
        open(f"held-{os.getpid()}", "x").close()
        globals()[environ["PATH_INFO"].rpartition("/")[2]]()
    if environ["PATH_INFO"] == "/tardy":
        read_slowly()
    return _plain(environ, start_response)
"""
"""To be added to `harness.APP`: a path ends with the name of the function that it never returns from; ``/tardy`` does."""


def stacks(pid: int, function: str) -> str:
    """A pattern: the log shows a process inside this function of the application."""
    return rf'pid={pid} what it was at:\n(?:.*\n)*?  File ".*live\.py", line \d+ in {function}\n'


def assert_gone_and_replaced(server: Server, pid: int, count: int) -> None:
    until(lambda: pid not in pids(server.children()), f"the end of worker {pid}")
    server.wait_workers(count)


@pytest.mark.parametrize("function", ["wait_for_nobody", "search_for_ever", "deadlock_in_c"])
def test_a_stuck_worker_is_named_and_its_live_stack_shown_before_it_is_killed(arbiter: Arbiter, function: str) -> None:
    """1. A request is stuck: in Python, in C, in C that holds the interpreter's lock. 2. `timeout` passes.

    Result: worker, method, path, age, phase, then the application's function, then the end; others notice nothing.
    """
    arbiter.write("live.py", app("one", at_import=STUCK))
    server = arbiter.serve("--timeout", "1", workers=2)

    with server.client() as client:
        lost = server.ask(f"/stuck/{function}?a=1")
        (stuck,) = server.wait_held()
        told = server.wait_log(
            rf"worker=\d gen=1 pid={stuck} stuck: GET /stuck/{function}\?a=1 from 127\.0\.0\.1:\d+ for (\d+\.\d) s \(in the application\)\. It is killed"
        )
        shown = server.wait_log(stacks(stuck, function))
        assert_gone_and_replaced(server, stuck, 2)
        client.more(10)

    assert 0.9 <= float(told[1]) < 6
    assert told.end() < shown.start()
    assert isinstance(lost.outcome(), Exception)
    assert client.failures == []
    assert server.count("what it was at:") == 1
    assert server.count("out of memory") == 0


def test_a_slow_request_is_shown_with_its_stack_harms_nobody_and_is_not_told_again_and_again(arbiter: Arbiter) -> None:
    """1. Four slow requests at once, then another. Result: all are answered, by the same workers; one report in the log."""
    arbiter.write("live.py", app("one", at_import=STUCK))
    server = arbiter.serve("--slow-request-time", "0.3s", workers=4)
    before = server.wait_workers(4)

    replies = [request.reply() for request in [server.ask("/tardy") for _ in range(4)]]
    told = server.wait_log(
        r"pid=(\d+) slow request: GET /tardy from 127\.0\.0\.1:\d+ for \d\.\d s \(in the application\)\. It goes on; this is what it is at:"
    )
    server.wait_log(stacks(int(told[1]), "read_slowly"))
    replies.append(server.ask("/tardy").reply())

    assert [reply.status for reply in replies] == [200] * 5
    assert server.count("slow request: ") == server.count("what it was at:") == 1
    assert pids(server.workers()) == pids(before)


def test_requests_that_are_quicker_than_slow_request_time_are_not_told(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import=STUCK))
    server = arbiter.serve("--slow-request-time", "30s", workers=1)
    replied = server.ask("/tardy").reply()
    server.stop()

    assert replied.status == 200
    assert server.count("slow request") == 0


HANGS = """
import time

def connect_to_a_database_that_is_down():
    while True:
        time.sleep(0.05)

connect_to_a_database_that_is_down()
"""


def test_an_import_that_hangs_is_shown_at_boot_timeout_when_the_service_starts(arbiter: Arbiter) -> None:
    arbiter.write("live.py", HANGS)
    status, log = arbiter.fail("-w", "2", "--boot-timeout", "2", "live")

    assert status == 3
    assert "cannot start: worker=1 was not ready within boot_timeout (2 s)" in log
    assert "in connect_to_a_database_that_is_down\n" in log


def test_an_import_that_hangs_is_shown_at_boot_timeout_and_refuses_a_reload(arbiter: Arbiter) -> None:
    server = arbiter.serve("--boot-timeout", "2", workers=2)
    before = server.wait_workers(2)

    with server.client() as client:
        arbiter.write("live.py", HANGS)
        server.send(signal.SIGHUP)
        server.wait_log(r"reload refused: worker=1 gen=2 was not ready within boot_timeout \(2 s\)")
        server.wait_log(
            r'worker=1 gen=2 pid=\d+ what it was at:\n(?:.*\n)*?  File ".*live\.py", line \d+ in connect_to_a_database_that_is_down\n'
        )
        after = server.wait_workers(2, generation=1)
        client.more(10)

    assert client.failures == []
    assert pids(before) == pids(after)


def test_a_request_that_outlasts_graceful_timeout_is_shown_before_its_worker_is_killed(arbiter: Arbiter) -> None:
    """1. A request never ends. 2. Reload: its worker is to leave. Result: its function is in the log, then it is killed."""
    arbiter.write("live.py", app("one", at_import=STUCK))
    server = arbiter.serve("--graceful-timeout", "1.5s", workers=2)

    with server.client() as client:
        lost = server.ask("/stuck/wait_for_nobody")
        (stuck,) = server.wait_held()
        began = time.monotonic()
        server.send(signal.SIGHUP)
        shown = server.wait_log(stacks(stuck, "wait_for_nobody"))
        killed = server.wait_log(rf"pid={stuck} did not leave within 1\.\d s \(its successor is ready\)\. It is killed\.")
        took = time.monotonic() - began
        assert_gone_and_replaced(server, stuck, 2)
        client.more(10)

    assert shown.start() < killed.start()
    assert took >= 1.5
    assert not isinstance(lost.outcome(), Reply)
    assert client.failures == []
    assert server.count("out of memory") == 0


def test_a_worker_that_leaves_in_time_is_not_asked_for_its_stacks(arbiter: Arbiter) -> None:
    server = arbiter.serve("--graceful-timeout", "5s", workers=2)
    held = server.ask("/held")
    server.wait_held()
    server.send(signal.SIGHUP)
    server.wait_log("reload done: all 2 workers")
    server.release()

    assert held.reply().status == 200
    server.wait_workers(2, generation=2)
    assert server.count("what it was at:") == 0
