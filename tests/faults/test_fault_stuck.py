"""When all threads of a worker are in slow requests, those who wait on connections of its are served by its siblings."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from heirs import leave, stop, upgrade
from procfs import pids
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import os, threading, time

def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/held":
        open(f"{query}-{os.getpid()}-{threading.get_ident()}", "x").close()
        while not os.path.exists(f"open-{query}"):
            time.sleep(0.01)
    elif path == "/slow":
        time.sleep(0.1)
    server = environ["SERVER_NAME"], environ["SERVER_PORT"]
    ended = repr(time.monotonic())
    data = " ".join([str(os.getpid()), path, ended, environ["REMOTE_ADDR"], environ["REMOTE_PORT"], *server]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]
"""


QUIET = 0.3
"""Seconds after its response for which no worker closes a connection, if it retires (`threaded._QUIET`)."""


class Kept:
    """A connection that stays."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.ended = self.sent = time.monotonic()
        """Monotonic seconds: when the application had ended the last response, by its own clock; and when the last was asked for."""
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.replies = self.socket.makefile("rb")
        self.worker = 0
        """The pid of who has answered last."""
        self.closes = False
        self.facts = ["127.0.0.1", str(self.socket.getsockname()[1]), address[0], str(address[1])]

    def send(self, *paths: str) -> None:
        try:
            self.socket.sendall("".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths).encode())
        finally:
            self.sent = time.monotonic()

    def reply(self) -> str:
        """The path that the next response is for.

        Raises:
            OSError: there is none.
        """
        line, length = self.replies.readline(), 0
        if not line:
            raise ConnectionError("closed without a response")
        assert line == b"HTTP/1.1 200 OK\r\n", line
        while (field := self.replies.readline().lower()) != b"\r\n":
            length = int(field.partition(b":")[2]) if field.startswith(b"content-length:") else length
            self.closes |= field == b"connection: close\r\n"
        worker, path, ended, *facts = self.replies.read(length).decode().split(" ")
        assert facts == self.facts
        self.ended = float(ended)
        self.worker = int(worker)
        return path

    def ask(self, path: str = "/") -> int:
        """The pid of who has answered."""
        self.send(path)
        assert self.reply() == path.partition("?")[0]
        return self.worker

    def close(self) -> None:
        self.replies.close()
        self.socket.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Server, int], list[Kept]]]:
    """Opens so many connections, each of which has had one response."""
    with contextlib.ExitStack() as opened:

        def open_some(server: Server, count: int) -> list[Kept]:
            fresh = [opened.enter_context(contextlib.closing(Kept(server.tcp))) for _ in range(count)]
            for one in fresh:
                one.ask()
            return fresh

        yield open_some


class Hold:
    """Requests that hold all threads of these workers until `let_go`, on connections of theirs."""

    def __init__(self, server: Server, everybody: list[Kept], *workers: int) -> None:
        self.folder = server.folder
        for number in itertools.count(len(list(self.folder.glob("open-*")))):
            self.name = f"hold{number}"
            self.connections = [one for pid in workers for one in [one for one in everybody if one.worker == pid][:2]]
            for one in self.connections:
                one.send(f"/held?{self.name}")
            until(lambda: len(self.holders()) == len(self.connections), "that the threads are held")
            if collections.Counter(self.holders()) == dict.fromkeys(workers, 2):
                break
            self.let_go()  # on a busy machine a thread may have seemed stuck, and one of them was handed over: once more

    def holders(self) -> list[int]:
        """The worker of each thread that is held."""
        return [int(path.name.split("-")[1]) for path in self.folder.glob(f"{self.name}-*")]

    def let_go(self) -> list[int]:
        """The workers that have answered."""
        (self.folder / f"open-{self.name}").touch()
        assert [one.reply() for one in self.connections] == ["/held"] * len(self.connections)
        return [one.worker for one in self.connections]


def descriptors(server: Server) -> int:
    """How many the service has in all its processes."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in [server.pid, *pids(server.workers())])


def test_requests_on_connections_of_a_worker_without_a_free_thread_are_answered_by_another(
    arbiter: Arbiter, connect: Callable[[Server, int], list[Kept]]
) -> None:
    """1. Both threads of a worker are held. 2. Others ask on connections that it has kept, one of them in half before that.

    Result: all but that one are answered at once by the other worker, with the facts of their connections, and in order. 3. The
    same the other way round, over and over: whatever goes to and fro, no descriptor stays behind.
    """
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", workers=2)
    everybody = connect(server, 16)
    stuck, _ = collections.Counter(one.worker for one in everybody).most_common(1)[0]
    half = next(one for one in everybody if one.worker == stuck)
    everybody.remove(half)
    half.socket.sendall(b"GET /half HTTP/1.1\r\nHost: a\r\n")
    next(one for one in everybody if one.worker == stuck).ask()

    hold = Hold(server, everybody, stuck)
    others = [one for one in everybody if one.worker == stuck and one not in hold.connections]
    helpers = {one.ask() for one in others}
    half.socket.sendall(b"\r\n")
    others[0].send("/1", "/2", "/3")
    order = [others[0].reply() for _ in range(3)]
    has_answered, _, _ = select.select([half.socket, *(one.socket for one in hold.connections)], [], [], 0)
    answered = hold.let_go()

    assert stuck not in helpers
    assert len(helpers) == 1
    assert order == ["/1", "/2", "/3"]
    assert has_answered == []
    assert answered == [stuck, stuck]
    assert (half.reply(), half.worker) == ("/half", stuck)

    before = descriptors(server)
    for number in range(8):
        stuck = everybody[number].ask()
        hold = Hold(server, everybody, stuck)
        assert stuck not in {one.ask() for one in everybody if one.worker == stuck and one not in hold.connections}
        hold.let_go()
    until(lambda: descriptors(server) == before, lambda: f"{before} descriptors in place of {descriptors(server)}")


def test_who_waits_between_two_workers_is_lost_neither_by_the_end_of_one_nor_by_an_upgrade(
    arbiter: Arbiter, connect: Callable[[Server, int], list[Kept]]
) -> None:
    """1. One worker is stopped, the threads of the other are held. Others ask on its connections. 2. The stopped one is killed.

    Result: its successor answers them. 3. The threads of both are held, others ask, so that some are between workers and nobody
    takes them. 4. USR2; the new supervisor serves. 5. The threads are let go. Result: the old workers answer all.
    """
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", "--log-level", "debug", workers=2)
    everybody = connect(server, 16)
    stuck, _ = collections.Counter(one.worker for one in everybody).most_common(1)[0]
    (stopped,) = {worker.pid for worker in server.workers()} - {stuck}
    everybody = [one for one in everybody if one.worker == stuck]

    os.kill(stopped, signal.SIGSTOP)
    hold = Hold(server, everybody, stuck)
    others = [one for one in everybody if one not in hold.connections]
    for one in others:
        one.send("/between")
    server.wait_log("connections were handed")
    os.kill(stopped, signal.SIGKILL)
    assert {one.reply() for one in others} == {"/between"}
    (helper,) = {one.worker for one in others}
    assert helper not in {stuck, stopped}
    assert hold.let_go() == [stuck, stuck]

    hold = Hold(server, everybody, stuck, helper)
    handed = server.count("connections were handed")
    others = [one for one in everybody if one not in hold.connections]
    for one in others:
        one.send("/between")
    server.wait_log("connections were handed", handed + 1)
    fresh = upgrade(server)
    server.wait_log("retiring: the new supervisor serves", 2)
    hold.let_go()
    assert {one.reply() for one in others} == {"/between"}
    assert {one.worker for one in others} <= {stuck, helper}
    leave(server)
    stop(server, fresh)


class Asker(threading.Thread):
    """Asks on one connection for as long as it is let, and on another when the server says that it closes it."""

    def __init__(self, server: Server, path: str, enough: threading.Event) -> None:
        super().__init__()
        self.address, self.path, self.enough = server.tcp, path, enough
        self.replies = 0
        self.failures: list[str] = []
        self.start()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                connection = Kept(self.address)
            except OSError:
                self.enough.wait(0.1)  # the service has ended; if it has not, there will be too few replies
                continue
            with contextlib.closing(connection):
                self._ask_on(connection)

    def _ask_on(self, connection: Kept) -> None:
        while not self.enough.is_set() and not connection.closes:
            try:
                connection.ask(self.path)
            except (OSError, AssertionError) as error:
                if connection.sent < connection.ended + QUIET:  # else this thread was late: it is a loaded machine
                    self.failures.append(f"{type(error).__name__}: {error}")
                return
            self.replies += 1
            self.enough.wait(0.005)


def test_whatever_happens_to_workers_no_request_on_a_kept_connection_is_lost(arbiter: Arbiter) -> None:
    """1. More slow requests than a worker has threads, and quick ones beside them, all over kept connections.

    2. HUP, TTIN, TTOU to one worker and back. 3. A worker is killed. 4. USR2, and TERM for the new one. Result: only the killed
    one has taken anybody along.
    """
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", "--log-level", "debug", workers=2)
    enough = threading.Event()
    askers = [Asker(server, path, enough) for path in ["/slow"] * 4 + ["/"] * 4]

    def failures() -> list[str]:
        return [failure for asker in askers for failure in asker.failures]

    def more() -> None:
        wanted = [asker.replies + 2 for asker in askers]
        until(
            lambda: all(asker.replies >= least for asker, least in zip(askers, wanted, strict=True)),
            lambda: f"more replies; failures: {failures()}",
        )

    try:
        more()
        server.send(signal.SIGHUP)
        server.wait_log("reload done")
        server.wait_workers(2, 2)
        more()
        server.send(signal.SIGTTIN)
        server.wait_workers(3)
        more()
        for count in (2, 1):
            server.send(signal.SIGTTOU)
            server.wait_workers(count)
        more()
        server.send(signal.SIGTTIN)
        server.wait_workers(2)
        more()
        assert failures() == []
        killed = server.workers()[0].pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in pids(server.children()), "its end")
        server.wait_workers(2)
        more()
        lost = failures()
        fresh = upgrade(server)
        leave(server)
        more()
        stop(server, fresh)
    finally:
        enough.set()
        for asker in askers:
            asker.join()

    assert len(lost) <= len(askers)
    assert failures() == lost
    assert server.count("connections were handed") > 0
