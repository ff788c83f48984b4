"""Listening sockets: opened before a generation is proposed, kept while any generation uses them, closed after.

A new address is bound before an old one is closed, and nothing is taken from anybody: a Unix socket's file is removed only
when nobody listens behind it, and at the end only when it is still the file that we made. Supervisor side; children inherit.

Closing a listening socket resets the connections that wait in its queue. So at the end of the service the doors are *shut*
first (nobody new gets in), the workers serve who is inside, and only an empty queue is closed. Sockets that outlive us, of a
.socket unit or in systemd's store, have no doors of ours: who waits there is served by the next start.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import stat
import struct
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from arbiter.config.addresses import Address, Scheme
from arbiter.errors import StartError, why

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arbiter.systemd import Passed

STORE_PREFIX: Final = "arbiter-"
"""How the names of the sockets begin that we put into systemd's store ourselves."""
SO_ATTACH_FILTER: Final = 26
"""From asm-generic/socket.h; the socket module does not have it. socket(7)."""
DROP_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A classic BPF program of one instruction: return 0, keep no byte of any packet."""


class Listeners:
    """The sockets by their addresses."""

    def __init__(self, passed: Iterable[Passed] = ()) -> None:
        """With the descriptors that systemd passed: those of a .socket unit replace `bind`, stored ones fill it."""
        self._open: dict[Address, socket.socket] = {}
        self._files: dict[Address, os.stat_result] = {}
        self._activated: dict[Address, socket.socket] = {}
        self._stored: list[socket.socket] = []
        self._outliving: set[Address] = set()
        for fd, name in passed:
            os.set_inheritable(fd, False)
            listener = socket.socket(fileno=fd)
            if name.startswith(STORE_PREFIX):
                self._stored.append(listener)
            else:
                self._activated[Address(Scheme.FD, fd=fd)] = listener

    @property
    def activated(self) -> tuple[Address, ...]:
        """The sockets of a .socket unit; where there are any, they are what is listened on, whatever `bind` says."""
        return tuple(self._activated)

    def get(self, addresses: Iterable[Address], backlog: int, umask: int) -> tuple[socket.socket, ...]:
        """A listening, non-blocking socket for each address: the one that is open already, or a new one.

        Raises:
            StartError: an address can't be had; what this call had opened is closed again.
        """
        wanted = self.activated or tuple(dict.fromkeys(addresses))
        fresh = []
        try:
            for address in wanted:
                if address not in self._open:
                    self._open[address] = self._bind(address, backlog, umask)
                    fresh.append(address)
        except BaseException:
            for address in fresh:
                self._close(address)
            raise
        return tuple(self._open[address] for address in wanted)

    def keep_only(self, sockets: Iterable[socket.socket]) -> None:
        """Close what no generation uses any more."""
        used = set(sockets)
        for address in [address for address, listener in self._open.items() if listener not in used]:
            self._close(address)

    def leave_only(self, sockets: Iterable[socket.socket]) -> None:
        """In a child: close the copies of all but these. A copy that stays open keeps a port answering that nobody serves."""
        kept = set(sockets)
        for listener in {*self._open.values(), *self._activated.values(), *self._stored} - kept:
            listener.close()

    def outlives(self, address: Address) -> bool:
        """Whether somebody else keeps the socket when we are gone."""
        return address in self._outliving

    def forget_stored(self) -> list[str]:
        """Close the stored sockets that no address wanted; their names, for systemd to drop them."""
        names = [store_name(_where(listener)) for listener in self._stored]
        for listener in self._stored:
            listener.close()
        self._stored.clear()
        return names

    def to_store(self) -> list[tuple[str, int]]:
        """Name and descriptor of each socket that is ours, for systemd to keep over a restart; they outlive us from now on."""
        ours = [(address, listener) for address, listener in self._open.items() if address not in self._activated]
        self._outliving.update(address for address, _ in ours)
        return [(store_name(_where(listener)), listener.fileno()) for _, listener in ours]

    def shut(self) -> None:
        """Let nobody new in; who is in the queue stays there.

        TCP: a socket filter drops what comes for the listening socket itself (accepted connections have their own), so a
        client's SYN goes unanswered and it tries again a second later, when the socket is closed and refuses at once.
        Unix: the file is removed, so there is nothing to connect to.
        """
        for address, listener in self._open.items():
            if self.outlives(address):
                continue
            if listener.family == socket.AF_UNIX:
                self._remove_file(address)
            else:
                program = array.array("B", DROP_ALL)
                with suppress(OSError):  # no such thing outside Linux: then the last moment before the close is a race
                    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, program.buffer_info()[0]))

    def end_if_empty(self) -> bool:
        """Once the doors are shut: stop listening, for all processes at once, if nobody is in any queue. Whether it did."""
        ours = [listener for address, listener in self._open.items() if not self.outlives(address)]
        waiting = select.poll()
        for listener in ours:
            waiting.register(listener, select.POLLIN)
        if ours and any(event & select.POLLIN for _, event in waiting.poll(0)):
            return False
        for listener in ours:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        return True

    def names(self) -> list[str]:
        """Where the sockets really are, as URLs or as given: the kernel has chosen what was port 0."""
        return [_name(address, listener) for address, listener in self._open.items()]

    def _bind(self, address: Address, backlog: int, umask: int) -> socket.socket:
        try:
            if address in self._activated:
                listener = self._activated[address]
                self._outliving.add(address)
            elif stored := self._take_stored(address):
                listener = stored
                self._outliving.add(address)
            elif address.scheme is Scheme.UNIX:
                listener = self._bind_unix(address, umask)
            elif address.scheme is Scheme.FD:
                listener = socket.socket(fileno=os.dup(address.fd))
                self._outliving.add(address)
            else:
                listener = _bind_tcp(address)
            if self.outlives(address) and not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                listener.close()
                raise StartError(f"{address} is not a listening socket. Was the right descriptor passed on?")
        except OSError as error:
            raise StartError(f"can't listen on {address}: {why(error)}.{_advice(error)}") from error
        listener.setblocking(False)
        listener.listen(backlog)  # for an inherited socket too: listen(2) on one that listens only sets the backlog
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            # Accepted sockets inherit it (tcp(7)): one system call per listener instead of one per connection.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    def _take_stored(self, address: Address) -> socket.socket | None:
        found = next((listener for listener in self._stored if _is_at(listener, address)), None)
        if found:
            self._stored.remove(found)
        return found

    def _bind_unix(self, address: Address, umask: int) -> socket.socket:
        path = f"\0{address.path[1:]}" if address.is_abstract else address.path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if not address.is_abstract:
                _remove_if_stale(path)
            before = os.umask(umask)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            if not address.is_abstract:
                self._files[address] = os.stat(path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _close(self, address: Address) -> None:
        if not self.outlives(address):
            self._remove_file(address)
        self._outliving.discard(address)
        self._open.pop(address).close()

    def _remove_file(self, address: Address) -> None:
        if made := self._files.pop(address, None):
            with suppress(OSError):
                if os.path.samestat(os.stat(address.path), made):
                    os.unlink(address.path)


def store_name(where: str) -> str:
    """A descriptor's name in systemd's store: at most 255 characters, no colon (sd_pid_notify_with_fds(3))."""
    return f"{STORE_PREFIX}{zlib.crc32(where.encode()):08x}"


def _where(listener: socket.socket) -> str:
    return repr(listener.getsockname())


def _is_at(listener: socket.socket, address: Address) -> bool:
    name = listener.getsockname()
    if address.scheme is Scheme.UNIX:
        path = f"\0{address.path[1:]}".encode() if address.is_abstract else address.path
        return listener.family == socket.AF_UNIX and name == path
    if address.scheme is Scheme.TCP and listener.family != socket.AF_UNIX:
        return tuple(name[:2]) == tuple(_resolve(address)[1][:2])
    return False


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # `localhost` has both families, and clients that know one only know IPv4.
    family, _, _, _, where = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, where


def _bind_tcp(address: Address) -> socket.socket:
    family, where = _resolve(address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except BaseException:
        listener.close()
        raise
    return listener


def _name(address: Address, listener: socket.socket) -> str:
    if listener.family == socket.AF_INET:
        return "http://{}:{}".format(*listener.getsockname())
    if listener.family == socket.AF_INET6:
        return "http://[{}]:{}".format(*listener.getsockname()[:2])
    return str(address)


def _remove_if_stale(path: str) -> None:
    """Remove a socket file behind which nobody listens; raise EADDRINUSE when somebody does, EEXIST when it's no socket."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file of that name exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody listens, and the queue is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return " Another process listens there: stop it, or choose another address with --bind."
    if error.errno == errno.EACCES:
        return " Ports below 1024 need CAP_NET_BIND_SERVICE; a socket's directory must be writable."
    if isinstance(error, socket.gaierror):
        return " The host name in --bind is not known here."
    return ""
