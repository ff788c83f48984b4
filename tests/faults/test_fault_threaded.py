"""Faults of the threaded worker: what holds one of its threads, or all, costs nobody else anything."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from clients import LONGEST_GAP, Reply
from limits import limited
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def connect(server: Server, sockets: list[socket.socket], count: int, begin: bytes = b"") -> list[socket.socket]:
    fresh = [socket.create_connection(server.tcp, timeout=20) for _ in range(count)]
    sockets += fresh
    for one in fresh:
        one.sendall(begin)
    return fresh


def test_half_sent_requests_hold_no_thread_and_are_answered_when_they_are_whole_also_across_a_reload(
    arbiter: Arbiter, sockets: list[socket.socket]
) -> None:
    """1. Six heads are sent in half to a worker with two threads. 2. Others ask. 3. HUP. 4. The six go on. Result: all served."""
    server = arbiter.serve("-k", "threaded", "--threads", "2", workers=1)
    halves = connect(server, sockets, 6, b"POST /digest HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n")

    with server.client(threads=3) as client:
        client.more(60)
        server.send(signal.SIGHUP)
        server.wait_log("reload done")
        client.more(20)
        for half in halves:
            half.sendall(b"\r\n" + b"x" * 100)
        answers = [half.recv(4096)[:15] for half in halves]

    assert client.failures == []
    assert client.longest_gap < LONGEST_GAP
    assert answers == [b"HTTP/1.1 200 OK"] * 6


def test_idle_kept_connections_do_not_hold_up_a_stop(arbiter: Arbiter) -> None:
    server = arbiter.serve("-k", "threaded", "--threads", "2", workers=2)
    kept = [http.client.HTTPConnection(*server.tcp, timeout=20) for _ in range(6)]
    for connection in kept:
        connection.request("GET", "/")
        connection.getresponse().read()

    began = time.monotonic()
    status = server.stop()
    took = time.monotonic() - began
    ends = [connection.sock.recv(1) for connection in kept if connection.sock]
    for connection in kept:
        connection.close()

    assert status == 0
    assert took < 4
    assert ends == [b""] * 6  # closed, not reset


def test_a_slow_request_holds_up_nobody_beside_an_idle_sibling(arbiter: Arbiter) -> None:
    """The row in which gunicorn's gthread lets 10 of 20 requests wait: a worker whose thread is busy does not accept."""
    server = arbiter.serve("-k", "threaded", "--threads", "1", workers=2)
    held = server.ask("/held")
    server.wait_held()
    with server.client(threads=3) as client:
        client.more(60)
    server.release()

    assert client.failures == []
    assert client.longest_gap < LONGEST_GAP
    assert held.reply().status == 200


def test_a_worker_without_descriptors_neither_dies_nor_spins_and_accepts_again(
    arbiter: Arbiter, sockets: list[socket.socket]
) -> None:
    server = arbiter.serve("-k", "threaded", "--threads", "2", workers=1)
    (worker,) = server.wait_workers(1)
    with limited(worker.pid, "nofile", len(os.listdir(f"/proc/{worker.pid}/fd")) + 2):
        waiting = connect(server, sockets, 8)
        server.wait_log("accept failed: Too many open files. Connections wait")
        before = _processor_time(worker.pid)
        time.sleep(1)  # not for luck: the time in which it must not spin
        spent = _processor_time(worker.pid) - before
        for one in waiting:
            one.close()
    replies = [server.get().status for _ in range(5)]

    assert spent < 0.5
    assert replies == [200] * 5
    assert pids(server.workers()) == [worker.pid]


def _processor_time(pid: int) -> float:
    """Seconds that the process has used so far."""
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def test_a_stopped_worker_and_one_that_dies_are_replaced_and_named(arbiter: Arbiter) -> None:
    """1. SIGSTOP to one of three workers. 2. A request ends another. Result: both are replaced, at the cost of one request."""
    server = arbiter.serve("-k", "threaded", "--threads", "3", "--timeout", "1s", workers=3)
    first, *_ = server.wait_workers(3)

    with server.client(threads=3) as client:
        os.kill(first.pid, signal.SIGSTOP)
        server.wait_log("worker=1 gen=1 .* stuck: (idle, and not heard of|GET / from)")
        until(lambda: first.pid not in pids(server.children()), "its end")
        server.wait_workers(3)
        assert not isinstance(server.ask("/exit").outcome(), Reply)
        server.wait_log(
            r"exited with status 3 .* It was in: (.*; )*GET /exit from 127\.0\.0\.1:\d+ for \d\.\d s \(in the application, thread \d\)"
        )
        server.wait_workers(3)
        client.more(20)

    assert len(client.failures) <= 3  # those that were in the worker that ended
    assert client.longest_gap < LONGEST_GAP


def test_all_requests_of_a_worker_that_is_killed_at_the_end_of_its_drain_are_named_with_their_stacks(arbiter: Arbiter) -> None:
    server = arbiter.serve("-k", "threaded", "--threads", "3", "--graceful-timeout", "1.5s", workers=1)
    held = server.ask("/held?report=7")
    (busy,) = server.wait_held()

    with server.client() as client:
        server.send(signal.SIGHUP)
        shown = server.wait_log(
            rf"pid={busy} what it was at:\n  GET /held\?report=7 from 127\.0\.0\.1:\d+ for [\d.]+ s \(in the application, thread \d\)\n"
            r'(?:.*\n)*?  File ".*live\.py", line \d+ in application\n'
        )
        killed = server.wait_log(rf"pid={busy} did not leave within 1\.\d s \(its successor is ready\)\. It is killed\.")
        client.more(20)
    server.release()

    assert shown.start() < killed.start()
    assert not isinstance(held.outcome(), Reply)
    assert client.failures == []
