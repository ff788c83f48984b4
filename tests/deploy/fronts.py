"""Real proxies in front of Arbiter, and a client that keeps its connections to them and never stops asking."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from clients import Client, Failure
from waiting import PATIENCE, until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from certificates import Authority

CLIENT = "127.0.0.9"
"""Where clients come from: not an address that a proxy or Arbiter has, nor one that Arbiter believes by default."""


class Front(NamedTuple):
    """Where clients reach a proxy."""

    port: int
    authority: Authority | None = None
    """With TLS: whose certificate the proxy has."""
    plain: int = 0
    """With TLS: the port that is without it."""

    @property
    def scheme(self) -> str:
        return "https" if self.authority else "http"


HOST = "shop.example"
"""The name of the site that all clients ask."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(words: list[str], folder: Path, port: int, errors: str, end: signal.Signals) -> Iterator[None]:
    """A proxy that listens on this port of 127.0.0.1 while the block runs."""
    program = shutil.which(words[0], path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, f"{words[0]} is needed: .ci/run installs it"
    with (folder / f"{words[0]}.out").open("wb") as out:
        process = subprocess.Popen([program, *words[1:]], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / errors).read_text()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
                return True
            return False

        until(listens, words[0])
        yield
        assert process.poll() is None, (folder / errors).read_text()
    finally:
        process.send_signal(end)
        process.wait(PATIENCE)


def nginx(folder: Path, text: str, port: int) -> contextlib.AbstractContextManager[None]:
    """Run nginx with this configuration, which has it listen on this port; its files are in the folder."""
    (folder / "nginx.conf").write_text(text)
    return _running(["nginx", "-p", str(folder), "-c", "nginx.conf"], folder, port, "nginx.err", signal.SIGTERM)


def haproxy(folder: Path, text: str, port: int) -> contextlib.AbstractContextManager[None]:
    """Run HAProxy with this configuration, which has it listen on this port."""
    (folder / "haproxy.cfg").write_text(text)
    # USR1, its end that waits for clients, would wait for those that keep their connections.
    return _running(["haproxy", "-db", "-f", "haproxy.cfg"], folder, port, "haproxy.out", signal.SIGTERM)


class _Secure(http.client.HTTPSConnection):
    """As `HTTPConnection`: it connects to an address, and has the name of the site shown to it."""

    context: ssl.SSLContext

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self.context.wrap_socket(self.sock, server_hostname=HOST)


def connect(front: Front) -> http.client.HTTPConnection:
    """A client's connection to a proxy."""
    if front.authority is None:
        return http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE, source_address=(CLIENT, 0))
    made = _Secure("127.0.0.1", front.port, timeout=PATIENCE, source_address=(CLIENT, 0))
    made.context = front.authority.client()
    return made


class Keeping(Client):
    """As `Client`, but each thread keeps its connection as long as it may: GET and POST by turns.

    A POST is what shows a connection that is closed under a request: a proxy must not send it twice (RFC 9110 section 9.2.2).
    """

    def __init__(self, front: Front, *, threads: int = 3, pause: float = 0.003) -> None:
        super().__init__(("127.0.0.1", front.port), threads=threads, pause=pause)
        self.connections = 0
        self._front = front

    def _run(self) -> None:
        body = os.urandom(3000)
        digest, empty = (hashlib.sha256(data).hexdigest() for data in (body, b""))
        number = 0
        connection = connect(self._front)
        try:
            while not self._stop.wait(self.pause):
                number += 1
                self.connections += connection.sock is None
                posts = number % 2 == 1
                try:
                    connection.request("POST" if posts else "GET", "/digest", body if posts else None)
                    response = connection.getresponse()
                    text = response.read().decode()
                except (OSError, http.client.HTTPException) as error:
                    self._fail(f"{type(error).__name__}: {error}")
                    connection.close()
                    continue
                if response.status == 200 and text.endswith(f" {digest if posts else empty}"):
                    self.replies.append((time.monotonic(), text))
                else:
                    self._fail(f"{response.status}: {text[:200]}")
        finally:
            connection.close()

    def _fail(self, what: str) -> None:
        self.failures.append(Failure(time.monotonic(), what))
        self._stop.wait(0.05)
