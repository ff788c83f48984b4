"""A socket, plain or under TLS, that one thread serves with blocking calls, each of which ends by a deadline.

The socket stays in the mode it was accepted in; `MSG_DONTWAIT` tries first, and only when the kernel has nothing to give or
no room is a clock read and `poll` called: a client that keeps up costs no more than the send and the receive.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import termios
import time
from typing import TYPE_CHECKING, Final

from arbiter.workers.contract import Doing
from arbiter.workers.interfaces.transport import Disconnected, TooSlow
from arbiter.workers.protocols.http1 import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.tlssocket import TlsSocket

STRIDE: Final = 16 * 1024
"""A client must move this many bytes, or all there is, within its patience, or one byte at a time would hold a worker for
ever. With 30 s that is 550 bytes/s, the least that Apache's mod_reqtimeout asks for (500)."""

SLOW_HEAD: Final = 1.0
SLOW_BODY: Final = 5.0
"""Seconds after which a client that is still at its head, or at a stride of its body, makes room where there is none and nobody
is idle. A head is one packet, or a few; a body this slow moves 3 KiB/s, on a line that was good enough to connect."""

_JOINED: Final = 64 * 1024
"""Parts up to this size together are copied into one; above it, `sendmsg` gathers them (a copy costs 1 us for 16 KiB)."""

_WITH_THE_END: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_MORE", 0)  # Linux has it, and only TCP minds it

_AT_ONCE: Final = 0.001
"""Seconds in which what comes behind a request is still on its way: looked for or not, it is missed."""

UNKNOWN: Final = -1.0
"""Seconds that nobody can tell: less than any that somebody can."""


def queue_wait(client: socket.SocketType) -> float:
    """Seconds since the last bytes of a client came, or since it connected; `UNKNOWN` on a unix socket.

    See `Worker.note_wait`.
    """
    if client.family == socket.AF_UNIX:
        return UNKNOWN
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)
    return int.from_bytes(info[52:56], sys.byteorder) / 1000


def is_silent(request: Request, took: float) -> bool:
    """Whether a client need not be asked if it has sent more than its request, which was answered in so many nanoseconds.

    Who has asked to close has promised to send no more (RFC 9112 section 9.6), and had no time to break it.
    """
    return not request.persistent and took < _AT_ONCE * 1e9


class SocketTransport:
    """The `Transport` of an accepted stream socket. Not for two threads at once."""

    __slots__ = ("_budget", "_late", "_mark", "_patience", "_phase", "_socket", "_tls", "last", "received", "sent")

    def __init__(self, client: socket.SocketType, *, patience: float, phase: Callable[[Doing], None]) -> None:
        """Over `client`, which stays the caller's to close.

        Args:
            client: connected.
            patience: seconds to wait, at most, for `STRIDE` bytes.
            phase: told what is waited for, and when it is over.
        """
        self._socket: socket.SocketType | TlsSocket = client
        self._tls: TlsSocket | None = None  # `_socket`, if it is one
        self._late = _NOTHING  # what was put aside, by those who can
        self._patience = self._budget = patience  # only time spent waiting is taken from the budget, not the application's
        self._phase = phase
        self.last = 0.0
        """Monotonic moment at which all waiting in a request ends; 0.0: none."""
        self._mark = 0
        self.received = 0
        """Bytes, all in all."""
        self.sent = 0
        """Bytes, all in all."""

    def secure(self, tls: TlsSocket) -> None:
        """Go on over `tls`, which has taken the place of the socket; it is the caller's to close, as that was."""
        self._socket = self._tls = tls

    def receive(self) -> bytes:
        """Some bytes, as `Transport` has it."""
        while True:
            data = self.receive_now()
            if data is None:
                self._wait(Doing.READING)
            elif data:
                return data
            else:
                raise Disconnected("the client closed the connection in the middle of its request")

    def receive_before(self, deadline: float) -> bytes:
        """Some bytes, or ``b""`` if the client has closed; for a head, whose deadline no trickle moves.

        Raises:
            TooSlow: nothing came until `deadline` (monotonic seconds).
            Disconnected: the connection is broken.
        """
        while (data := self.receive_now()) is None:
            if not self.has_more(deadline):
                raise TooSlow("the client did not send its request's head in time")
        return data

    def has_more(self, deadline: float) -> bool:
        """Wait until something has come, or the connection has ended; False: nothing until `deadline` (monotonic seconds)."""
        left = deadline - time.monotonic()
        return left > 0 and self._poll(select.POLLIN, left)

    def receive_now(self) -> bytes | None:
        """What is here already: None if nothing is, ``b""`` if the client has closed.

        Raises:
            Disconnected: the connection is broken.
        """
        try:
            data = self._socket.recv(READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Disconnected(*error.args) from error
        self.received += len(data)
        return data

    def send(self, *parts: bytes) -> None:
        """Send all of the parts, as `Transport` has it."""
        if self._late and self._add(parts):
            return
        if len(parts) == 1:
            data = parts[0]
        elif sum(map(len, parts)) <= _JOINED:
            data = b"".join(parts)
        else:
            self._send_all([memoryview(part) for part in parts if part])
            return
        if (sent := self._send_now(data, socket.MSG_DONTWAIT)) < len(data):
            self._send_all([memoryview(data)[sent:]])
        elif self._tls is not None:
            self._settle(self._tls)

    send_soon = send  # who has one thread only has nobody to send what the application holds up

    def settle(self) -> None:
        """Nothing is held."""

    def send_last(self, *parts: bytes) -> None:
        """Send all of the parts, as `Transport` has it, and shut down our side if that is the end of them.

        The kernel holds the data back until the end is there too, a moment later: both go in one packet, and the client is
        woken once. Two packets cost 12 us of 50 more.
        """
        if self._tls is not None or self._late or sum(map(len, parts)) > _JOINED:
            self.send(*parts)
            return
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if (sent := self._send_now(data, _WITH_THE_END)) < len(data):
            self._send_all([memoryview(data)[sent:]])  # without the flag: what the client takes is not held back
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client has gone: whoever closes sees that

    def _send_now(self, data: bytes, flags: int) -> int:
        """How many bytes of it the kernel takes at once."""
        try:
            sent = self._socket.send(data, flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Disconnected(*error.args) from error
        self.sent += sent
        return sent

    def _send_all(self, views: list[memoryview]) -> None:
        while views:
            try:
                sent = self._socket.sendmsg(views, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self._put_aside(views):
                    return
                self._wait(Doing.WRITING)
                continue
            except OSError as error:
                raise Disconnected(*error.args) from error
            self.sent += sent
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]
        if self._tls is not None:
            self._settle(self._tls)

    def _settle(self, tls: TlsSocket) -> None:
        """Have the kernel take what is encrypted already."""
        before = tls.unsent
        try:
            while not tls.flush():
                if before - tls.unsent >= STRIDE:  # it counts as sent, but here is a client that does read
                    before = tls.unsent
                    self._budget = self._patience
                self._wait(Doing.WRITING)
        except TooSlow:
            raise
        except OSError as error:
            raise Disconnected(*error.args) from error

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send part of a regular file, as `Transport` has it."""
        if self._tls is not None:
            return self._copy_file(fd, offset, count)
        os.set_blocking(self._socket.fileno(), False)  # sendfile has no MSG_DONTWAIT
        done = 0
        while done < count:
            try:
                sent = os.sendfile(self._socket.fileno(), fd, offset + done, count - done)
            except BlockingIOError:
                if self._put_file_aside(fd, offset + done, count - done):
                    return count
                self._wait(Doing.WRITING)
                continue
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS):  # a file system that can't: sendfile(2)
                    return done + self._copy_file(fd, offset + done, count - done)
                raise Disconnected(*error.args) from error
            if not sent:
                break
            done += sent
            self.sent += sent
        return done

    def _copy_file(self, fd: int, offset: int, count: int) -> int:
        done = 0
        while done < count and (block := os.pread(fd, min(_JOINED, count - done), offset + done)):
            self.send(block)
            done += len(block)
            if self.late and done < count and self._put_file_aside(fd, offset + done, count - done):
                return count
        return done

    def _add(self, parts: tuple[bytes, ...]) -> bool:
        """Have these wait behind `_late`; False: nothing is late any more, and they are still to be sent."""
        raise NotImplementedError(self, parts)

    @property
    def late(self) -> int:
        """Bytes that somebody else is to send, see `_put_aside`; here there is nobody."""
        return 0

    def _put_aside(self, views: list[memoryview]) -> bool:  # noqa: ARG002 - for those who can
        """Whether somebody else sends these when the client reads again; here nobody does."""
        return False

    def _put_file_aside(self, fd: int, offset: int, count: int) -> bool:  # noqa: ARG002 - as above
        """As `_put_aside`, for part of a file."""
        return False

    def _wait(self, doing: Doing) -> None:
        """Wait until the socket is ready, within what is left of the client's time."""
        moved = self.received + self.sent
        if moved - self._mark >= STRIDE:
            self._mark = moved
            self._budget = self._patience
        now = time.monotonic()
        left = min(self._budget, self.last - now) if self.last else self._budget
        reading = doing is Doing.READING
        self._phase(doing)
        if left <= 0 or not self._poll(select.POLLIN if reading else select.POLLOUT, left):
            raise TooSlow(f"the client was too slow to {'send its body' if reading else 'read the response'}")
        self._budget -= time.monotonic() - now
        self._phase(Doing.APP)

    def _poll(self, event: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def half_close(self) -> None:
        """Nothing more will be sent.

        Raises:
            OSError: the connection is broken.
        """
        self._socket.shutdown(socket.SHUT_WR)

    @property
    def unread(self) -> bool:
        """The client has sent something that nobody has read."""
        return fcntl.ioctl(self._socket, termios.FIONREAD, _NONE) != _NONE  # a recv that fails takes three times as long

    def reset(self) -> None:
        """Have the close that follows reset the connection, so that the client can't take what it has for all."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # it is reset already


_NOTHING: Final = bytearray()
_NONE: Final = bytes(4)  # an int, 0

_RESET: Final = struct.pack("ii", 1, 0)  # linger for no time: socket(7)
