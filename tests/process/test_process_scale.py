"""TTIN and TTOU: one worker more or fewer, never below one, remembered; nobody's request is lost for it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from harness import app
from procfs import pids

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process


def test_one_worker_more_and_one_fewer_by_signal_loses_no_request(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=2)

    with server.client() as client:
        for number, count in ((signal.SIGTTIN, 3), (signal.SIGTTIN, 4), (signal.SIGTTOU, 3), (signal.SIGTTOU, 2)):
            server.send(number)
            workers = server.wait_workers(count)
            client.more(10)

            assert [worker.slot for worker in workers] == list(range(1, count + 1))

    assert client.failures == []


def test_the_last_worker_is_not_taken_away(arbiter: Arbiter) -> None:
    """1. One worker. 2. TTOU twice. 3. TTIN. Result: it stays, the log says so, and TTIN still gives one more."""
    server = arbiter.serve(workers=1)
    before = server.wait_workers(1)

    with server.client() as client:
        for times in (1, 2):
            server.send(signal.SIGTTOU)
            server.wait_log("one worker is the least there can be: TTOU ignored", times=times)
        client.more(10)
        alone = server.wait_workers(1)
        server.send(signal.SIGTTIN)
        server.wait_workers(2)

    assert pids(before) == pids(alone)
    assert client.failures == []


def test_what_was_asked_by_signal_is_remembered_across_a_reload(arbiter: Arbiter) -> None:
    """1. Two workers, TTIN twice. 2. HUP. Result: four of the new generation. 3. TTOU, HUP: three."""
    server = arbiter.serve(workers=2)

    with server.client() as client:
        server.send(signal.SIGTTIN)
        server.wait_workers(3)
        server.send(signal.SIGTTIN)
        server.wait_workers(4)
        arbiter.write("live.py", app("two"))
        server.send(signal.SIGHUP)
        server.wait_workers(4, generation=2)
        server.send(signal.SIGTTOU)
        server.wait_workers(3)
        server.send(signal.SIGHUP)
        server.wait_workers(3, generation=3)

    assert client.failures == []


def test_a_number_that_the_settings_newly_say_takes_the_place_of_what_was_asked_by_signal(arbiter: Arbiter) -> None:
    arbiter.write("arbiter.toml", "workers = 2\n")
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("live").wait_ready()
    server.send(signal.SIGTTIN)
    server.wait_workers(3)
    arbiter.write("arbiter.toml", "workers = 4\n")
    server.send(signal.SIGHUP)
    server.wait_log("reload done: all 4 workers")

    server.wait_workers(4, generation=2)


def test_a_worker_fewer_finishes_its_request(arbiter: Arbiter) -> None:
    """1. Both workers have a request. 2. TTOU. Result: one leaves, after its response."""
    server = arbiter.serve(workers=2)
    held = [server.ask("/held") for _ in range(2)]
    busy = server.wait_held(2)
    server.send(signal.SIGTTOU)
    server.wait_log("retiring: fewer workers are wanted")
    server.release()

    assert {f"one {pid}" for pid in busy} == {request.reply().text for request in held}
    server.wait_workers(1)
