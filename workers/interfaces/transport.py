"""What an interface needs of a connection: a worker kind brings its own (plain blocking, TLS, buffered by a poller)."""

from __future__ import annotations

from typing import Protocol


class Disconnected(ConnectionError):  # noqa: N818  says what the client did, like ConnectionResetError's kin
    """The client has gone: nothing more can be read or written."""


class HandshakeError(ConnectionError):
    """Client and server did not agree on TLS; the connection can only be closed."""


class PlainHttpError(HandshakeError):
    """The client does not speak TLS but, as it seems, HTTP."""


class TooSlow(TimeoutError):  # noqa: N818  says what the client was
    """The client took too long to send its body or to read the response."""


class Transport(Protocol):
    """A connection, as seen by the thread that serves its request; every call ends, by itself or by a deadline.

    Each method raises `Disconnected` or `TooSlow`, after which the connection can only be closed.
    """

    def receive(self) -> bytes:
        """Some bytes, as soon as there are any; never empty."""

    def send(self, *parts: bytes) -> None:
        """Send all of the parts, in order."""

    def send_soon(self, *parts: bytes) -> None:
        """Send all of the parts, in order, at once or a moment later with those that follow: pieces of a body."""

    def settle(self) -> None:
        """Send what `send_soon` has not sent yet; to be called before any other send."""

    def send_last(self, *parts: bytes) -> None:
        """Send all of the parts, after which nothing else is sent: the connection is to be closed."""

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send `count` bytes of a regular file from `offset` on. Returns how many were sent: fewer if the file ends."""
