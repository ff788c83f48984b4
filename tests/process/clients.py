"""Clients of a server under test: one request, one request that goes on in the background, and one that never stops asking."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from waiting import PATIENCE, until

if TYPE_CHECKING:
    from types import TracebackType

LONGEST_GAP = 3.0
"""Seconds without a reply that a client may see on a busy machine, where nobody is to see any."""

Address = tuple[str, int] | str
"""Of a TCP socket, or the path of a Unix socket."""


class Reply(NamedTuple):
    """A whole response."""

    status: int
    text: str


class Connection(http.client.HTTPConnection):
    """A connection to a TCP or a Unix socket."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        host, port = ("localhost", 80) if isinstance(address, str) else address
        super().__init__(host, port, timeout=timeout)

    def connect(self) -> None:
        if isinstance(self.address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self.address)
        else:
            super().connect()


def ask(address: Address, path: str = "/", body: bytes | None = None, timeout: float = PATIENCE) -> Reply:
    """The response to one request on a connection of its own: GET, or POST when there is a body.

    Raises:
        OSError, HTTPException: there is no whole response.
    """
    with contextlib.closing(Connection(address, timeout)) as connection:
        connection.request("GET" if body is None else "POST", path, body)
        with contextlib.closing(connection.getresponse()) as response:  # has the socket to itself, if the server will close it
            data = response.read()  # IncompleteRead when it ends before its Content-Length
            return Reply(response.status, data.decode())


class Failure(NamedTuple):
    """A request that got no whole response, or not the right one."""

    at: float
    """Monotonic seconds."""
    what: str


class Client:
    """Threads that ask without ever stopping, each request on a new connection, while the `with` block runs.

    Args:
        address: where.
        threads: how many requests there are at any time.
        path: what is asked for.
        pause: seconds between a response and the next request of a thread: the machine has to do something else as well.
        timeout: seconds after which a request has failed.

    """

    def __init__(
        self, address: Address, *, threads: int = 2, path: str = "/", pause: float = 0.003, timeout: float = 15.0
    ) -> None:
        self.address, self.path, self.pause, self.timeout = address, path, pause, timeout
        self.failures: list[Failure] = []
        self.replies: list[tuple[float, str]] = []
        """When each came, and what it said."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"client-{number}") for number in range(threads)]
        self._began = self._ended = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        self.more(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and not self._stop.is_set():
                self.more(1)  # it is served to the end, not only until the last fault
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
            self._ended = time.monotonic()

    def _run(self) -> None:
        while not self._stop.wait(self.pause):
            try:
                reply = ask(self.address, self.path, timeout=self.timeout)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(Failure(time.monotonic(), f"{type(error).__name__}: {error}"))
                self._stop.wait(0.05)  # a dead server is not to be asked a million times
            else:
                now = time.monotonic()
                if reply.status == 200:
                    self.replies.append((now, reply.text))
                else:
                    self.failures.append(Failure(now, f"{reply.status}: {reply.text[:200]}"))

    def more(self, count: int) -> None:
        """Wait for `count` replies more, from now on, of requests that were begun after now."""
        target = len(self.replies) + count + len(self._threads)
        until(lambda: len(self.replies) >= target, lambda: f"{count} more replies; failures: {self.failures[-3:]}")

    def give_up(self) -> None:
        """Stop asking: the server is gone, and was meant to be."""
        self._stop.set()

    def heard(self, name: str) -> bool:
        """Whether the last reply came from the application of this name."""
        return bool(self.replies) and self.replies[-1][1].startswith(f"{name} ")

    @property
    def names(self) -> set[str]:
        """The applications that have replied."""
        return {text.partition(" ")[0] for _, text in self.replies}

    @property
    def longest_gap(self) -> float:
        """The longest time without a reply, in seconds; of a client that has ended."""
        times = [self._began, *sorted(at for at, _ in self.replies), self._ended]
        return max(after - before for before, after in itertools.pairwise(times))


class Asking(threading.Thread):
    """One request in the background; `reply` waits for what came of it."""

    def __init__(self, address: Address, path: str, timeout: float = PATIENCE) -> None:
        super().__init__()
        self._address, self._path, self._timeout = address, path, timeout
        self._result: Reply | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = ask(self._address, self._path, timeout=self._timeout)
        except (OSError, http.client.HTTPException) as error:
            self._result = error

    def outcome(self) -> Reply | Exception:
        """The reply, or why there was none."""
        self.join(self._timeout + PATIENCE)
        assert self._result is not None, "the request has not ended"
        return self._result

    def reply(self) -> Reply:
        """The reply; fails when there was none."""
        outcome = self.outcome()
        assert isinstance(outcome, Reply), f"{self._path} failed: {outcome!r}"
        return outcome
