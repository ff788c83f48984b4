"""All connections of an async worker over one epoll of our own, which the event loop watches as a single descriptor.

Why not the loop's own transports: accepting through asyncio costs a task, a future and three callbacks (25 us), asyncio's
transports in Python cost more than the request, and no loop tells how to accept a little, exclusively, and only while there
is room. Here a connection is a socket and an entry in a dict; asyncio and uvloop serve it equally fast; and what the kernel
can do (EPOLLEXCLUSIVE, sendfile, gathering writes) can be had on both. Towards protocols a `HubTransport` is an ordinary
`asyncio.Transport`: any `asyncio.Protocol` may live on it, and may be exchanged (`set_protocol`).

A write goes to the kernel at once; what it does not take waits in a queue, of which the protocol is told by `pause_writing`
and `resume_writing`. Everything is level-triggered and happens on the loop's thread.

Listeners are registered with EPOLLEXCLUSIVE: the kernel wakes one worker for a connection, and none that has no room.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from arbiter.workers.protocols.http1 import READ_SIZE
from arbiter.workers.transport import queue_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_MANY: Final = 64
"""Events to take at once; the others stay in the kernel and wake the loop again, which has looked after its tasks by then."""
_ACCEPTS: Final = 8
"""Connections to accept at once from one listener. More would gather in one worker what several could share."""
_HIGH: Final = 64 * 1024
"""Bytes that wait to be sent from which on a protocol is asked to pause: asyncio's own measure."""
_LOW: Final = _HIGH // 4
_LEAST: Final = 4 * 1024
"""Bytes to read at once of a client whose bytes take long: no fewer are worth a system call."""
_LONG: Final = 0.002
"""Seconds that the bytes of one read may take before the next read brings fewer. What HTTP/2 packs into 80 KiB, 8,000 frames,
takes 30 ms, during which all others wait; a body of that size takes some microseconds."""
_DONTWAIT: Final = socket.MSG_DONTWAIT
_PIECES: Final = 64
"""Pieces to hand to the kernel at once; IOV_MAX is 1024 on Linux."""
_NONE: Final = bytes(4)  # an int, 0
_RESET: Final = struct.pack("ii", 1, 0)  # linger for no time: socket(7)


class _File(NamedTuple):
    """Part of a file that is still to be sent."""

    fd: int
    offset: int
    size: int


class Watched(Protocol):
    """What the hub asks of a connection: a `HubTransport`, or what comes before it."""

    def ready(self, events: int) -> None:
        """What epoll says has come true."""

    def abort(self) -> None:
        """Close it, whatever is under way."""


class Hub:
    """The connections, and the listeners they come from."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Iterable[socket.socket],
        welcome: Callable[[socket.socket], bool],
        foreign: frozenset[socket.socket] = frozenset(),
    ) -> None:
        """Does not listen yet.

        Args:
            loop: the one that will run.
            listeners: non-blocking.
            welcome: called with a listener that may have a connection; takes one, and says whether another may be taken.
            foreign: listeners that have workers of their own, who come first.
        """
        self.loop = loop
        self.transports: dict[int, Watched] = {}
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._welcome = welcome
        self._foreign = foreign
        self._listening = False
        self._is_turning = False
        self._new: dict[int, HubTransport] = {}  # not registered yet
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._turn)

    def listen(self) -> None:
        """Wait for connections too."""
        if not self._listening:
            self._listening = True
            for fd in self._listeners:
                try:
                    self._epoll.register(fd, _IN | select.EPOLLEXCLUSIVE)
                except OSError:
                    pass  # closed: the supervisor is gone

    def stop_listening(self) -> None:
        """Don't wait for connections any more, until `listen`."""
        if self._listening:
            self._listening = False
            for fd in self._listeners:
                try:
                    self._epoll.unregister(fd)
                except OSError:
                    pass

    def close(self) -> None:
        """The end of all of it. Connections that are left are reset."""
        self.stop_listening()
        self.loop.remove_reader(self._epoll.fileno())
        for transport in list(self.transports.values()):
            transport.abort()
        self._epoll.close()

    def _turn(self) -> None:
        self._is_turning = True
        try:
            self._take_events()
        finally:
            self._is_turning = False
            if self._new:
                self.loop.call_soon(self._enrol)  # behind the first steps of the requests that have just begun

    def _take_events(self) -> None:
        transports = self.transports
        for fd, events in self._epoll.poll(0, _MANY):
            transport = transports.get(fd)
            if transport is not None:
                try:
                    transport.ready(events)
                except Exception as failure:  # noqa: BLE001 - a protocol's mistake ends its connection only
                    self._tell_failed(transport, failure)
            elif fd in self._listeners:
                listener = self._listeners[fd]
                if listener in self._foreign:
                    self._step_behind([listener])
                for _ in range(_ACCEPTS):
                    if not self._welcome(listener):
                        break
            else:
                try:
                    self._epoll.unregister(fd)  # closed here, and still open in a child of the application's
                except OSError:
                    pass

    def _tell_failed(self, transport: Watched, failure: Exception) -> None:
        context = {"message": "a connection failed inside Arbiter, which goes on", "exception": failure}
        self.loop.call_exception_handler(context)
        transport.abort()

    def register(self, transport: Watched, fd: int) -> None:
        """A new connection, whose reading is waited for."""
        self.transports[fd] = transport
        self._epoll.register(fd, _IN)
        if not self._foreign:
            self._step_behind(self._listeners.values())

    def add(self, transport: HubTransport, fd: int) -> None:
        """A new connection that may be over in a moment: its events are waited for from the end of this turn on.

        A client that has sent its request before it was accepted, wants one response, and gets it at once is read from, written
        to and closed in one turn: epoll never hears of it, which saves two system calls and a round through `_turn`.
        """
        self.transports[fd] = transport
        if not self._new and not self._is_turning:
            self.loop.call_soon(self._enrol)
        self._new[fd] = transport

    def begin(self, transport: HubTransport) -> None:
        """Read what the client of a new connection has already sent, as most have whose connections had to wait."""
        try:
            transport.ready(_IN)
        except Exception as failure:  # noqa: BLE001 - see `_take_events`
            self._tell_failed(transport, failure)

    def _step_behind(self, listeners: Iterable[socket.socket]) -> None:
        """Have other workers woken before this one from now on, as `Poller` does: each has its share of those that stay."""
        if self._listening:
            for listener in listeners:
                try:
                    self._epoll.unregister(listener)
                    self._epoll.register(listener, _IN | select.EPOLLEXCLUSIVE)
                except (OSError, ValueError):
                    pass  # closed: the supervisor is gone

    def _enrol(self) -> None:
        new, self._new = self._new, {}
        if new and not self._foreign:
            self._step_behind(self._listeners.values())
        for fd, transport in new.items():
            try:
                self._epoll.register(fd, transport.events)
            except OSError as failure:  # fs.epoll.max_user_watches
                self._new[fd] = transport  # there is nothing to unregister
                self._tell_failed(transport, failure)

    def modify(self, fd: int, events: int) -> None:
        """Wait for these events of a connection."""
        if fd not in self._new:
            self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """The connection is about to be closed."""
        if self.transports.pop(fd, None) is not None and self._new.pop(fd, None) is None:
            self._epoll.unregister(fd)


class HubTransport(asyncio.Transport):
    """An accepted stream socket, as an `asyncio.Transport`."""

    __slots__ = (
        "_closing",
        "_fd",
        "_hub",
        "_is_paused",
        "_most",
        "_protocol",
        "_queue",
        "_queued",
        "_reading",
        "_shut",
        "_socket",
        "events",
        "peername",
    )

    def __init__(self, hub: Hub, client: socket.SocketType, peername: object, protocol: asyncio.Protocol) -> None:
        """Calls `connection_made` at once, and reads from the next turn on.

        Args:
            hub: where it lives.
            client: the socket, which is the transport's from now on.
            peername: as ``accept()`` gives it.
            protocol: whose it is.
        """
        self._hub = hub
        self._socket = client
        self._fd = fd = client.fileno()
        self.peername = peername
        self._protocol = protocol
        self._queue: deque[bytes | memoryview | _File] = deque()
        self._queued = 0
        self._is_paused = False  # the protocol has been asked to pause writing
        self._reading = True
        self._most = READ_SIZE  # bytes to read at once
        self._closing = False
        self._shut = False  # half-close when all has been sent
        self.events = _IN
        """What epoll is, or will be, asked to wait for."""
        hub.add(self, fd)
        protocol.connection_made(self)

    # Reading ----------------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """What epoll says has come true."""
        if events != _IN:
            if events & _OUT:
                self._flush()
            if not events & ~_OUT or self._fd < 0:
                return
            if not self._reading:
                # Nobody asked: it is broken, or both sides have closed.
                self._lose(ConnectionResetError(errno.ECONNRESET, "the client has closed the connection"))
                return
        try:
            data = self._socket.recv(self._most, _DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            if len(data) < _LEAST:
                self._protocol.data_received(data)
            else:
                self._receive_much(data)
            return
        self._reading = False
        self._watch()
        if not self._protocol.eof_received():
            self.close()

    def _receive_much(self, data: bytes) -> None:
        """Hand on what was read, and read less the next time if it takes long: others have their turn in between."""
        began = monotonic()
        self._protocol.data_received(data)
        took = monotonic() - began
        if took > _LONG:
            self._most = max(_LEAST, self._most // 4)
        elif self._most < READ_SIZE and took < _LONG / 4:
            self._most = min(READ_SIZE, self._most * 2)

    def pause_reading(self) -> None:
        """As `asyncio.ReadTransport` has it."""
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        """As `asyncio.ReadTransport` has it. Not after the end of what the client sends."""
        if not self._reading and not self._closing:
            self._reading = True
            self._watch()

    def is_reading(self) -> bool:
        """Whether `data_received` may be called."""
        return self._reading and not self._closing

    def _watch(self) -> None:
        events = (_IN if self._reading else 0) | (_OUT if self._queue else 0)
        if events != self.events and self._fd >= 0:
            self.events = events
            self._hub.modify(self._fd, events)

    @property
    def is_unread(self) -> bool:
        """The client has sent something that nobody has read."""
        return self._fd >= 0 and fcntl.ioctl(self._fd, termios.FIONREAD, _NONE) != _NONE

    def wait(self) -> float:
        """Seconds since the last bytes of the client came; right after they were read, how long they lay in the kernel."""
        return queue_wait(self._socket)

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Send, or queue what the client does not take now."""
        if self._closing or self._fd < 0 or not data:
            return
        if not self._queue:
            try:
                sent = self._socket.send(data, _DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self._put(data, len(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Send several pieces in one system call, or queue what the client does not take now."""
        pieces = [piece for piece in list_of_data if piece]
        if self._queue or self._closing or self._fd < 0 or not pieces:
            for piece in pieces:
                self.write(piece)
            return
        try:
            sent = self._socket.sendmsg(pieces, (), _DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        for piece in pieces:
            size = len(piece)
            if sent >= size:
                sent -= size
            else:
                self._put(memoryview(piece)[sent:] if sent else piece, size - sent)
                sent = 0

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send part of a regular file; `fd` is the transport's from now on. No more than `count` wait of it in memory."""
        if self._closing or self._fd < 0 or not count:
            os.close(fd)
            return
        os.set_blocking(self._fd, False)  # sendfile has no MSG_DONTWAIT, and would block the loop for who does not read
        self._put(_File(fd, offset, count), count)
        self._flush()

    def _put(self, piece: bytes | memoryview | _File, size: int) -> None:
        self._queue.append(piece)
        self._queued += size
        self._watch()
        if self._queued > _HIGH and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def _flush(self) -> None:
        """Send of the queue what the client takes now."""
        queue = self._queue
        try:
            while queue:
                first = queue[0]
                if isinstance(first, _File):
                    if not self._flush_file(first):
                        return
                    continue
                pieces: list[bytes | memoryview] = []
                for piece in queue:
                    if isinstance(piece, _File) or len(pieces) == _PIECES:
                        break
                    pieces.append(piece)
                sent = self._socket.sendmsg(pieces, (), _DONTWAIT) if len(pieces) > 1 else self._socket.send(first, _DONTWAIT)
                self._queued -= sent
                for piece in pieces:
                    size = len(piece)
                    if sent < size:
                        if sent:
                            queue[0] = memoryview(piece)[sent:]
                        break
                    sent -= size
                    queue.popleft()
                else:
                    continue
                break
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(error)
            return
        if not queue and not self._is_emptied():
            queue.append(b"")
        if not queue:
            self._queued = 0
            self._watch()
        if self._is_paused and self._queued <= _LOW:
            self._is_paused = False
            self._protocol.resume_writing()
        if not self._queue:
            if self._closing:
                self._end(None)
            elif self._shut:
                self._shut_down()

    def _is_emptied(self) -> bool:
        """The socket holds nothing back either."""
        return True

    def _flush_file(self, file: _File) -> bool:
        """Send of a file what the client takes now; False: the connection is lost."""
        try:
            sent = os.sendfile(self._fd, file.fd, file.offset, file.size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            block = os.pread(file.fd, min(file.size, READ_SIZE), file.offset)  # a file system that can't: sendfile(2)
            sent = self._socket.send(block, _DONTWAIT) if block else 0
        if not sent:
            self._lose(ConnectionAbortedError(errno.ECONNABORTED, "a file became shorter while it was sent"))
            return False
        self._queued -= sent
        if sent == file.size:
            os.close(file.fd)
            self._queue.popleft()
        else:
            self._queue[0] = _File(file.fd, file.offset + sent, file.size - sent)
        return True

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._queued

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """When the protocol is asked to go on, and when to pause."""
        return _LOW, _HIGH

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The measures are the same for all connections: what one may hold back is a question of all the memory there is."""

    def can_write_eof(self) -> bool:
        """Yes."""
        return True

    def write_eof(self) -> None:
        """Half-close, when all has been sent."""
        self._shut = True
        if not self._queue:
            self._shut_down()

    def _shut_down(self) -> None:
        if self._fd >= 0:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._lose(error)

    # Ending -----------------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when all has been sent."""
        return self._closing

    def close(self) -> None:
        """Read no more, and close when all has been sent."""
        if self._closing:
            return
        self._closing = True
        self._reading = False
        if self._queue:
            self._watch()
        else:
            self._end(None)

    def abort(self) -> None:
        """Reset the connection, so that the client can't take what it has for all."""
        if self._fd >= 0:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass  # it is reset already
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        """The connection is broken."""
        if not self._is_paused:
            # Who sends without end has to wait before `connection_lost` can be called.
            self._is_paused = True
            self._protocol.pause_writing()
        self._closing = True
        self._reading = False
        self._end(error)

    def _end(self, error: OSError | None) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._hub.forget(fd)
        for piece in self._queue:
            if isinstance(piece, _File):
                os.close(piece.fd)
        self._queue.clear()
        self._queued = 0
        self._socket.close()
        self._hub.loop.call_soon(self._protocol.connection_lost, error)

    # What asyncio asks for besides ------------------------------------------------------------------------------------

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose it is."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Whose it is from now on; `connection_made` is not called."""
        self._protocol = protocol  # type: ignore[assignment]  # the base class knows protocols without data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername``, ``sockname`` or ``socket``."""
        if name == "peername":
            return self.peername
        if name == "socket":
            return self._socket
        if name == "sockname" and self._fd >= 0:
            return self._socket.getsockname()
        return default
