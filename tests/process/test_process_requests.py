"""`request_timeout`: a request that takes too long is cancelled, and one that can't be costs its worker, after a replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from clients import LONGEST_GAP, Reply
from harness import app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

TARDY = """
import ctypes, os, time
_plain = application

def work_for_ever():
    try:
        while True:
            time.sleep(0.02)
    finally:
        open("cleaned-up", "a").write("x")

def sleep_for_ever():
    time.sleep(600)

def lock_twice_in_c():
    open(f"hung-{os.getpid()}", "x").close()
    lock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)  # gives the interpreter's lock away
    c.pthread_mutex_lock(lock)
    c.pthread_mutex_lock(lock)

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/patient":
        environ["arbiter.extend_deadline"](30)
        for _ in range(40):
            time.sleep(0.05)
    elif path == "/begun":
        start_response("200 OK", [("Content-Length", "10")])(b"12345")
        work_for_ever()
    elif path[1:] in globals():
        globals()[path[1:]]()
    return _plain(environ, start_response)
"""
"""To be added to `harness.APP`: a path is the name of a function that does not return."""

KINDS = pytest.mark.parametrize("kind", ["sync", "threaded"])


@KINDS
def test_a_request_that_takes_too_long_is_cancelled_and_its_worker_lives(arbiter: Arbiter, kind: str) -> None:
    """Among requests that are in time: 1. One that works for ever. 2. One that has begun its response. 3. One that asked for time.

    Result: 504, a response that is cut short, and 200; all by the same workers; the log names each, with its stack.
    """
    arbiter.write("live.py", app("one", at_import=TARDY))
    server = arbiter.serve("-k", kind, "--request-timeout", "1s", workers=2)
    before = server.wait_workers(2)

    with server.client() as client:
        patient = server.ask("/patient")
        late = server.ask("/work_for_ever").reply()
        begun = server.ask("/begun").outcome()
        told = server.wait_log(
            r"(GET \S+) from 127\.0\.0\.1:\d+ for \d\.\d s \(in the application(?:, thread \d)?\) takes longer than "
            r'request_timeout \(1 s\): cancelled\. It was at:\n(?:.*\n)*?  File ".*live\.py", line \d+, in work_for_ever\n'
        )
        server.wait_log(r"GET /begun from .* takes longer than request_timeout")
        client.more(20)
        in_time = patient.reply()

    assert (late.status, in_time.status) == (504, 200)
    assert isinstance(begun, Exception)
    assert told[1] == "GET /work_for_ever"
    assert client.failures == []
    assert (server.folder / "cleaned-up").read_text() == "xx"
    assert server.count("takes longer than request_timeout") == 2
    assert pids(server.workers()) == pids(before)


def test_a_sync_worker_is_woken_from_a_system_call(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import=TARDY))
    server = arbiter.serve("--request-timeout", "0.5s", workers=1)
    (worker,) = server.wait_workers(1)
    late = [server.get("/sleep_for_ever").status for _ in range(3)]

    assert late == [504] * 3
    assert server.get().text == f"one {worker.pid}"


@pytest.mark.parametrize(("kind", "workers"), [("sync", 2), ("threaded", 1)])
def test_a_worker_with_a_request_that_nothing_ends_is_replaced_and_its_other_requests_finish(
    arbiter: Arbiter, kind: str, workers: int
) -> None:
    """1. A request is in C for ever; it is cancelled in vain. 2. A successor boots; then the worker leaves, or is killed.

    Result: nobody else notices, and nobody is killed before the successor serves.
    """
    arbiter.write("live.py", app("one", at_import=TARDY))
    threads = ["--threads", "3"] if kind == "threaded" else []
    server = arbiter.serve("-k", kind, *threads, "--request-timeout", "0.5s", "--graceful-timeout", "2s", workers=workers)

    with server.client() as client:
        lost = server.ask("/lock_twice_in_c")
        (hung,) = until(lambda: list(server.folder.glob("hung-*")), "the request")
        wedged = int(hung.name.partition("-")[2])
        other = server.ask("/patient") if kind == "threaded" else None
        said = server.wait_log(rf"pid={wedged} GET /lock_twice_in_c from 127\.0\.0\.1:\d+ for .* can't be cancelled")
        ready = server.wait_log(r"ready after", times=workers + 1)
        retiring = server.wait_log(rf"pid={wedged} retiring: a thread of it hangs in a request that could not be cancelled")
        until(lambda: wedged not in pids(server.children()), f"the end of worker {wedged}")
        server.wait_workers(workers)
        client.more(20)

    assert said.start() < ready.start() < retiring.start()
    assert not isinstance(lost.outcome(), Reply)
    assert client.failures == []
    assert client.longest_gap < LONGEST_GAP
    assert other is None or other.reply() == Reply(200, f"one {wedged}")
    assert server.count("to be replaced: a thread of it hangs") == 1


@KINDS
def test_without_a_limit_a_request_may_ask_for_time_all_the_same(arbiter: Arbiter, kind: str) -> None:
    """In a sync worker `timeout` is the time for a request: who asks for more than that gets it."""
    arbiter.write("live.py", app("one", at_import=TARDY))
    server = arbiter.serve("-k", kind, "--timeout", "1s", workers=1)

    assert server.ask("/patient").reply().status == 200
    assert server.count("stuck") == 0
