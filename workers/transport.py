"""A socket, plain or under TLS, that one thread serves with calls each of which ends by a deadline.

The socket stays in the mode it was accepted in; `MSG_DONTWAIT` tries first: a client that keeps up costs no more than the send
and the receive. What a client does not take at once of a response is put aside, as far as there is `Slack` (of a file: all of
it, since it needs no room), for whoever calls `flush` when the client reads. Only where there is no more of it, and for the
rest of a body, is a clock read and the client waited for.

It is long for the two directions of one socket, plain and under TLS, bytes and files, and what of it has to wait.
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
from typing import TYPE_CHECKING, Final, NamedTuple

from arbiter.workers.contract import Doing
from arbiter.workers.interfaces.transport import Disconnected, TooSlow
from arbiter.workers.protocols.http1 import READ_SIZE
from arbiter.workers.slack import BLOCK, Overflow

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.slack import Slack
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

_MOMENT: Final = 0.001
"""Seconds until a client that took nothing is asked again, as long as there is room for what the application gives: each
attempt in vain costs as much as 10 KiB of response."""

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


class _File(NamedTuple):
    """Part of a file that is still to be sent."""

    fd: int
    """Our own."""
    offset: int
    size: int


class SocketTransport:
    """The `Transport` of an accepted stream socket. Not for two threads at once."""

    __slots__ = (
        "_again",
        "_budget",
        "_file",
        "_late",
        "_mark",
        "_overflow",
        "_patience",
        "_phase",
        "_slack",
        "_socket",
        "_tls",
        "last",
        "received",
        "sent",
    )

    def __init__(self, client: socket.SocketType, patience: float, phase: Callable[[Doing], None], slack: Slack) -> None:
        """Over `client`, which stays the caller's to close.

        Args:
            client: connected.
            patience: seconds to wait, at most, for `STRIDE` bytes.
            phase: told what is waited for, and when it is over.
            slack: where to put aside what the client does not take.
        """
        self._socket: socket.SocketType | TlsSocket = client
        self._tls: TlsSocket | None = None  # `_socket`, if it is one
        self._slack = slack
        self._late = bytearray()  # what was put aside, from its beginning on
        self._overflow: Overflow | None = None  # what comes behind `_late`, which is never empty then
        self._file: _File | None = None  # what comes behind that
        self._again = 0.0  # monotonic seconds: when it may be worth while to try to send more
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

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send or put aside part of a regular file, as `Transport` has it."""
        if self._late and not self.flush():
            self._put_file_aside(fd, offset, count)
            return count
        if self._tls is not None:
            return self._copy_file(fd, offset, count)
        os.set_blocking(self._socket.fileno(), False)  # sendfile has no MSG_DONTWAIT
        done = 0
        while done < count:
            try:
                sent = os.sendfile(self._socket.fileno(), fd, offset + done, count - done)
            except BlockingIOError:
                self._put_file_aside(fd, offset + done, count - done)
                return count
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
            if self.late and done < count:
                self._put_file_aside(fd, offset + done, count - done)
                return count
        return done

    @property
    def late(self) -> int:
        """Bytes of the response that have been put aside."""
        encrypted = self._tls.unsent if self._tls is not None else 0
        spilled = len(self._overflow) if self._overflow else 0
        return encrypted + len(self._late) + spilled + (self._file.size if self._file else 0)

    @property
    def takes_disk(self) -> bool:
        """Part of what was put aside is on disk."""
        return self._overflow is not None

    def _add(self, parts: tuple[bytes, ...]) -> bool:
        """Put these aside too, or wait until there is nothing before them."""
        if self._flush_again():
            return False
        views = [memoryview(part) for part in parts]
        while not self._put_aside(views):
            self._wait(Doing.WRITING)
            if self.flush():
                return False
        return True

    def _flush_again(self) -> bool:
        """`flush`, unless that was in vain a moment ago: an application gives pieces quicker than a client reads."""
        now = time.monotonic()
        if now < self._again:
            return False
        if self.flush():
            return True
        self._again = now + _MOMENT
        return False

    def flush(self) -> bool:
        """Send what the client takes now of what was put aside; whether that was the last of it.

        Raises:
            Disconnected: the connection is broken, or the file has become shorter than was promised.
        """
        try:
            if self._tls is not None and not self._tls.flush():
                return False
            if self._late:
                sent = self._socket.send(self._late, socket.MSG_DONTWAIT)
                self.sent += sent
                del self._late[:sent]
                if self._overflow and not self._late:
                    self._late += self._overflow.take()
                    if not self._overflow:
                        self._overflow = None
            if self._file and not self._late:
                self._flush_file(self._file)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Disconnected(*error.args) from error
        return not self.late

    def _flush_file(self, file: _File) -> None:
        try:
            sent = (
                self._read_file(file)
                if self._tls is not None
                else os.sendfile(self._socket.fileno(), file.fd, file.offset, file.size)
            )
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            sent = self._read_file(file)  # a file system that can't: sendfile(2)
        else:
            if self._tls is None:
                self.sent += sent
        if not sent:
            raise ConnectionAbortedError(errno.ECONNABORTED, "a file became shorter while it was sent")
        if sent == file.size:
            self._close_file()
        else:
            self._file = _File(file.fd, file.offset + sent, file.size - sent)

    def _read_file(self, file: _File) -> int:
        """Put a block of the file before what is left of it."""
        block = os.pread(file.fd, min(file.size, READ_SIZE), file.offset)
        self._late += block
        return len(block)

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
        self._close_file()
        if self._overflow is not None:
            self._overflow.close()
            self._overflow = None
        self._socket.close()

    def _close_file(self) -> None:
        if self._file:
            os.close(self._file.fd)
            self._file = None

    def _put_aside(self, views: list[memoryview]) -> bool:
        """Have these wait behind what waits already; False: there is no room."""
        space = 0 if self._overflow else self._slack.room - len(self._late)
        if sum(map(len, views)) <= space:
            for view in views:
                self._late += view
            return True
        overflow = self._overflow or Overflow(self._slack)
        first, rest = _split(views, min(space, BLOCK))
        if not overflow.append(rest):
            return False
        for view in first:
            self._late += view
        self._overflow = overflow
        return True

    def _put_file_aside(self, fd: int, offset: int, count: int) -> None:
        """As `_put_aside`, for part of a file: it needs no room."""
        self._file = _File(os.dup(fd), offset, count)

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


_NONE: Final = bytes(4)  # an int, 0

_RESET: Final = struct.pack("ii", 1, 0)  # linger for no time: socket(7)


def _split(views: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `size` bytes (not all there are), and the rest."""
    first: list[memoryview] = []
    for number, view in enumerate(views):
        if size < len(view):
            return [*first, view[:size]], [view[size:], *views[number + 1 :]]
        first.append(view)
        size -= len(view)
    return first, []
