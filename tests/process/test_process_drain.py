"""A stop that a load balancer notices first: `health_path` says no, and for `drain_delay` everything else goes on."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from clients import Connection, Reply
from harness import app
from procfs import pids
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

LONG = ("--drain-delay", "600", "--health-path", "/healthz")
"""A delay that no test waits for."""
OK, DRAINING = Reply(200, "ok\n"), Reply(503, "draining\n")


def asked(server: Server, method: str, path: str) -> Reply:
    connection = Connection(server.address, PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Reply(response.status, response.read().decode())
    finally:
        connection.close()


def test_the_worker_answers_health_checks_of_exactly_one_path_in_the_applications_place(arbiter: Arbiter) -> None:
    server = arbiter.serve("--health-path", "/healthz", workers=1)
    (worker,) = server.workers()
    application = Reply(200, f"one {worker.pid}")

    assert asked(server, "GET", "/healthz") == OK
    assert asked(server, "GET", "/healthz?full=1") == OK
    assert asked(server, "HEAD", "/healthz") == Reply(200, "")
    assert asked(server, "POST", "/healthz") == application
    assert asked(server, "GET", "/healthz/") == application
    assert asked(server, "GET", "/") == application


def test_a_stop_says_no_to_health_checks_and_serves_all_else_until_the_delay_is_over(arbiter: Arbiter) -> None:
    """1. A client asks. 2. TERM. 3. Health checks of all workers say no; the client turns away. 4. The delay is over.

    Result: nothing failed, and the service stopped by itself, not before its time.
    """
    server = arbiter.serve("--drain-delay", "2", "--health-path", "/healthz", workers=3)

    assert server.get("/healthz") == OK
    with server.client() as client:
        client.more(10)
        began = time.monotonic()
        server.send(signal.SIGTERM)
        server.wait_log("draining: health checks say no")
        until(lambda: server.get("/healthz") == DRAINING, "a health check that says no")
        client.more(20)
    answers = {server.get("/healthz") for _ in range(20)}
    status = server.ended()

    assert client.failures == []
    assert answers == {DRAINING}
    assert status == 0
    assert time.monotonic() - began >= 2
    assert server.count("stopping: workers finish their requests") == 1


def test_a_worker_that_dies_while_the_service_drains_is_replaced_by_one_that_says_no_as_well(arbiter: Arbiter) -> None:
    """1. TERM. 2. Each worker in turn is killed. Result: there are two again, and no health check ever says yes."""
    server = arbiter.serve(*LONG, workers=2)
    before = pids(server.workers())
    server.send(signal.SIGTERM)
    until(lambda: {server.get("/healthz") for _ in range(10)} == {DRAINING}, "health checks that say no")

    answers = set()
    with server.client() as client:
        for lost, pid in enumerate(before, 1):
            os.kill(pid, signal.SIGKILL)
            server.wait_log("was killed by SIGKILL", times=lost)
            answers |= {server.get("/healthz") for _ in range(20)}
            server.wait_log("ready after", times=2 + lost)
            answers |= {server.get("/healthz") for _ in range(20)}
        client.more(10)

    assert answers == {DRAINING}
    assert not {*before} & {*pids(server.wait_workers(2))}
    server.send(signal.SIGTERM)
    assert server.ended() == 0


def test_a_second_term_ends_the_delay_and_a_request_in_flight_still_finishes(arbiter: Arbiter) -> None:
    server = arbiter.serve(*LONG, workers=2)
    held = server.ask("/held")
    (busy,) = server.wait_held()
    server.send(signal.SIGTERM)
    server.wait_log("draining:")
    server.send(signal.SIGTERM)
    server.wait_log("stopping:")
    server.release()

    assert held.reply() == Reply(200, f"one {busy}")
    assert server.ended() == 0
    assert server.count("quitting:") == 0


def test_int_during_the_delay_is_a_quick_stop(arbiter: Arbiter) -> None:
    server = arbiter.serve(*LONG, workers=2)
    held = server.ask("/held")
    server.wait_held()
    server.send(signal.SIGTERM)
    server.wait_log("draining:")
    server.send(signal.SIGINT)

    assert server.ended() == 0
    assert not isinstance(held.outcome(), Reply)
    assert server.count("quitting:") == 1
    assert server.count("stopping:") == 0


def test_a_reload_during_the_delay_is_refused(arbiter: Arbiter) -> None:
    server = arbiter.serve(*LONG, workers=2)
    before = pids(server.workers())
    server.send(signal.SIGTERM)
    server.wait_log("draining:")
    arbiter.write("live.py", app("two"))
    server.send(signal.SIGHUP)
    server.wait_log("reload ignored: the service is ending")

    assert server.get().text.startswith("one ")
    assert pids(server.workers()) == before
    server.send(signal.SIGTERM)
    assert server.ended() == 0


def test_a_stop_before_anything_serves_waits_for_nobody(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import="\nopen('hanging', 'x').close()\ntime.sleep(600)\n"))
    server = arbiter.launch(*LONG, "live")
    until((server.folder / "hanging").exists, "a worker in its import")
    server.send(signal.SIGTERM)

    assert server.ended() == 0
    assert server.count("draining:") == 0
