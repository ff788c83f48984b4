"""`--reuse-port`: a queue for each slot, which outlasts its workers, and in which nobody waits for one worker or is lost."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import Reply
from harness import app
from heirs import TAKEN_OVER, begin, stop
from procfs import descriptors, pids
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

WAITS = "\nwhile not os.path.exists('release'):\n    time.sleep(0.01)\nraise RuntimeError('boom')\n"
"""What fails an import when the test says so."""
KINDS = pytest.mark.parametrize("kind", ["sync", "threaded"])


def queues(server: Server) -> int:
    """How many sockets listen at its port."""
    port = f":{server.tcp[1]:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(port) and state == "0A" for _, local, _, state, *_ in lines)


def lower(arbiter: Arbiter, workers: int) -> None:
    arbiter.write("arbiter.toml", f"workers = {workers}\nreuse_port = true\n")


@KINDS
def test_each_slot_has_a_queue_and_no_second_service_gets_in(arbiter: Arbiter, kind: str) -> None:
    """1. Four workers, nobody else asks. 2. 200 requests. 3. A second service at the port. Result: all four serve; refused."""
    server = arbiter.serve("--reuse-port", "-k", kind, workers=4)
    served = Counter(server.get().text for _ in range(200))
    second, log = arbiter.fail("--reuse-port", "live", bind="{}:{}".format(*server.tcp))

    assert queues(server) == 4
    assert len(served) == 4
    assert min(served.values()) >= 15, "shared evenly, but for chance: 50 each, one in a thousand has fewer than 31"
    assert second == 1
    assert "Another process listens there" in log
    assert server.get().status == 200


@KINDS
def test_nothing_is_lost_whatever_becomes_of_the_slots(arbiter: Arbiter, kind: str) -> None:
    """A client asks while slots come, go, are renewed, die, multiply, and are taken over. Result: only a death costs requests."""
    lower(arbiter, 3)
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("-k", kind, "live").wait_ready()

    with server.client(threads=4) as client:
        for number, count in (
            (signal.SIGTTOU, 2),
            (signal.SIGTTOU, 1),
            (signal.SIGTTIN, 2),
            (signal.SIGTTIN, 3),
            (signal.SIGTTIN, 4),
        ):
            server.send(number)
            server.wait_workers(count)
            client.more(20)
        server.send(signal.SIGHUP)
        server.wait_workers(4, generation=2)
        client.more(20)
        before = descriptors(server.pid)
        for workers, generation in ((5, 3), (2, 4)):
            lower(arbiter, workers)
            server.send(signal.SIGHUP)
            server.wait_workers(workers, generation=generation)
            client.more(20)
            assert queues(server) == 5
        without_loss = list(client.failures)
        os.kill(server.workers()[0].pid, signal.SIGKILL)
        server.wait_workers(2)
        client.more(20)
        grown = descriptors(server.pid)

    assert without_loss == []
    assert len(client.failures) <= 4  # what was in the worker that was killed
    assert len(grown) - len(before) <= 2  # two queues more, two workers (of two descriptors) fewer


def test_a_reload_that_is_refused_takes_its_queues_with_it_and_nobody_who_waits(arbiter: Arbiter) -> None:
    """1. Two workers. 2. HUP with five, and code that does not boot. Result: no connection ever went to the new queues."""
    lower(arbiter, 2)
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("live").wait_ready()
    server.expect("RuntimeError: boom")

    with server.client(threads=4) as client:
        for times in range(1, 4):
            lower(arbiter, 5)
            (server.folder / "release").unlink(missing_ok=True)
            arbiter.write("live.py", app("two", at_import=WAITS))
            server.send(signal.SIGHUP)
            until(lambda: queues(server) == 5, "the new queues")
            client.more(20)
            server.release()
            server.wait_log("reload refused", times=times)
            client.more(20)
            until(lambda: queues(server) == 2, "the end of the new queues")

    assert client.failures == []
    assert client.longest_gap < 5.0  # a queue that nobody serves would last longer than the test


def queued(server: Server, count: int) -> list[socket.socket]:
    """Connections with a request each that wait to be accepted."""
    clients = []
    for _ in range(count):
        clients.append(client := socket.create_connection(server.tcp, timeout=30))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    return clients


@pytest.mark.parametrize("fate", ["killed", "renewed", "fewer", "upgraded", "stopped"])
def test_who_waits_in_any_queue_is_served(arbiter: Arbiter, fate: str) -> None:
    """1. All three workers are in a request. 2. 30 connections wait, in all queues. 3. The workers meet their fate.

    Result: all 30 are answered.
    """
    server = arbiter.serve("--reuse-port", *(["--preload"] if fate == "renewed" else []), workers=3)
    held = [server.ask("/held") for _ in range(3)]
    busy = server.wait_held(3)
    clients = queued(server, 30)
    successor = 0
    match fate:
        case "killed":
            for pid in busy:
                os.kill(pid, signal.SIGKILL)
        case "renewed":
            server.send(signal.SIGHUP)
        case "fewer":
            for times in (1, 2):
                server.send(signal.SIGTTOU)
                server.wait_log("retiring: fewer workers are wanted", times=times)
        case "upgraded":
            successor = begin(server)
        case "stopped":
            server.send(signal.SIGTERM)
            server.wait_log("stopping: workers finish")
    if fate in {"fewer", "stopped"}:
        server.release()
    answers = [client.makefile("rb").read() for client in clients]
    server.release()
    outcomes = [asking.outcome() for asking in held]
    for client in clients:
        client.close()
    if successor:
        server.wait_log(TAKEN_OVER)
        stop(server, successor)

    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 30
    assert fate == "killed" or [isinstance(outcome, Reply) for outcome in outcomes] == [True] * 3


def test_one_slow_request_holds_up_nobody_beside_an_idle_sibling(arbiter: Arbiter) -> None:
    server = arbiter.serve("--reuse-port", workers=2)
    held = server.ask("/held")
    (busy,) = server.wait_held()
    replies = [server.get() for _ in range(40)]
    server.release()

    assert {reply.text for reply in replies} == {f"one {pid}" for pid in pids(server.workers()) if pid != busy}
    assert held.reply().status == 200
