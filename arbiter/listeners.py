"""Listening sockets: opened before a generation is proposed, kept while any generation uses them, closed after.

A new address is bound before an old one is closed, and nothing is taken from anybody: a Unix socket's file is removed only
when nobody listens behind it, and at the end only when it is still the file that we made. Supervisor side; children inherit.

Closing a listening socket resets the connections that wait in its queue. So at the end of the service the doors are *shut*
first (nobody new gets in), the workers serve who is inside, and only an empty queue is closed. Sockets that outlive us, of a
.socket unit or in systemd's store, are never shut: who waits there is served by the next start. Neither are those that
another supervisor has too, during an upgrade: who waits there is served by that one.
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
from typing import TYPE_CHECKING, Final, NamedTuple

from arbiter.config.addresses import Address, Scheme, parse_address
from arbiter.errors import StartError, why

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arbiter.systemd import Passed, Store

STORE_PREFIX: Final = "arbiter-"
"""How the names of the sockets begin that we put into systemd's store ourselves."""
SO_ATTACH_FILTER: Final = 26
"""From asm-generic/socket.h; the socket module does not have it. socket(7)."""
DROP_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A classic BPF program of one instruction: return 0, keep no byte of any packet."""


class Heirloom(NamedTuple):
    """A listening socket that one supervisor passes on to the next."""

    address: str
    """As in `bind`."""
    fd: int
    file: tuple[int, int] | None
    """Device and inode of the Unix socket's file, if one of us has made it."""
    activated: bool
    """Whether it is of a .socket unit."""
    kept: str | None
    """Its name in systemd's store, if it is kept there."""


class Listeners:
    """The sockets by their addresses."""

    def __init__(self, passed: Iterable[Passed], store: Store, inherited: Iterable[Heirloom] = ()) -> None:
        """With the descriptors that systemd passed: those of a .socket unit replace `bind`, those of its store fill it.

        What was `inherited` from the supervisor that has started this one is not ours to shut or to remove until `own`.

        Raises:
            StartError: one of them is no socket.
        """
        self._store = store
        self._open: dict[Address, socket.socket] = {}
        self._files: dict[Address, tuple[int, int]] = {}
        """Device and inode of the files that were made for Unix sockets."""
        self._activated: dict[Address, socket.socket] = {}
        self._returned: list[tuple[str, socket.socket]] = []
        """What the store had for us, and no address has wanted yet."""
        self._lent: set[Address] = set()
        """Whose sockets are somebody else's: of a .socket unit, or inherited."""
        self._kept: dict[Address, str] = {}
        """Names in the store of the sockets that are ours."""
        self._inherited: dict[Address, socket.socket] = {}
        """What no address has wanted yet."""
        self._shared: set[Address] = set()
        """Whose sockets, files and names in the store another supervisor has too, and answers for."""
        for heirloom in inherited:
            self._inherit(heirloom)
        for fd, name in passed:
            try:
                os.set_inheritable(fd, False)
                listener = socket.socket(fileno=fd)
            except OSError as error:
                raise StartError(f"systemd passed descriptor {fd} ({name}), which is no socket: {why(error)}.") from error
            if name.startswith(STORE_PREFIX):
                self._returned.append((name, listener))
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
        for listener in {*self._open.values(), *self._activated.values()} - kept:
            listener.close()

    def outlives(self, address: Address) -> bool:
        """Whether somebody else keeps the socket when we are gone."""
        return address in self._lent or address in self._kept or address in self._shared

    @property
    def has_doors(self) -> bool:
        """Whether there is a socket that ends with us: who waits in its queue is served by us or by nobody."""
        return any(not self.outlives(address) for address in self._open)

    def forget_returned(self) -> None:
        """Close what the store had for us and no address wanted."""
        for name, listener in self._returned:
            listener.close()
            self._store.remove(name)
        self._returned.clear()

    def bequeath(self) -> tuple[Heirloom, ...]:
        """All of them, for another supervisor to inherit."""
        return tuple(
            Heirloom(
                address=str(address),
                fd=listener.fileno(),
                file=self._files.get(address),
                activated=address in self._activated,
                kept=self._kept.get(address),
            )
            for address, listener in self._open.items()
        )

    def share(self) -> None:
        """Another supervisor has them too, and answers for them from now on."""
        self._shared.update(self._open)

    def own(self) -> None:
        """There is no other supervisor any more: what it had is ours, and what is not wanted of it goes."""
        self._shared.clear()
        for address in {*self._files, *self._kept} - self._open.keys():
            self._give_up(address)

    def forget_inherited(self) -> None:
        """Close what was inherited and no address wanted. Its file and its name in the store stay until `own`."""
        for listener in self._inherited.values():
            listener.close()
        self._inherited.clear()

    def _inherit(self, heirloom: Heirloom) -> None:
        address = parse_address(heirloom.address)
        listener = socket.socket(fileno=heirloom.fd)
        if heirloom.activated:
            self._activated[address] = listener
            return
        self._inherited[address] = listener
        self._shared.add(address)
        if heirloom.file:
            self._files[address] = heirloom.file
        if heirloom.kept:
            self._kept[address] = heirloom.kept

    def keep_over_restart(self) -> None:
        """Have systemd keep the sockets that are ours, as far as its store has room; those outlive us from now on."""
        for address, listener in self._open.items():
            if address not in self._lent:
                name = self._kept.get(address) or _store_name(listener)
                if self._store.put(name, listener.fileno()):
                    self._kept[address] = name

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

    def close(self) -> None:
        """Let go of all: of a socket that outlives us, its file and its place in the store stay."""
        for address in list(self._open):
            if self.outlives(address):
                self._open.pop(address).close()
            else:
                self._close(address)

    def names(self) -> list[str]:
        """Where the sockets really are, as URLs or as given: the kernel has chosen what was port 0."""
        return [_name(address, listener) for address, listener in self._open.items()]

    def _bind(self, address: Address, backlog: int, umask: int) -> socket.socket:
        try:
            if address in self._activated:
                listener = self._activated[address]
                self._lent.add(address)
            elif inherited := self._inherited.pop(address, None):
                listener = inherited
                if address.scheme is Scheme.FD:
                    self._lent.add(address)
            elif returned := self._take_returned(address):
                listener = returned
            elif address.scheme is Scheme.UNIX:
                listener = self._bind_unix(address, umask)
            elif address.scheme is Scheme.FD:
                listener = socket.socket(fileno=os.dup(address.fd))
                self._lent.add(address)
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

    def _take_returned(self, address: Address) -> socket.socket | None:
        """The socket of this address out of systemd's store, where it stays; None if it has none that can be reached."""
        for index, (name, listener) in enumerate(self._returned):
            if _is_at(listener, address) and name == _store_name(listener):
                self._kept[address] = name
                if address.scheme is Scheme.UNIX and not address.is_abstract:
                    self._files[address] = _identity(address.path)
                del self._returned[index]
                return listener
        return None

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
                self._files[address] = _identity(path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _close(self, address: Address) -> None:
        if address not in self._shared:
            self._give_up(address)
        self._lent.discard(address)
        self._open.pop(address).close()

    def _give_up(self, address: Address) -> None:
        if name := self._kept.pop(address, ""):
            self._store.remove(name)
        self._remove_file(address)

    def _remove_file(self, address: Address) -> None:
        if made := self._files.pop(address, None):
            with suppress(OSError):
                if _identity(address.path) == made:
                    os.unlink(address.path)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _store_name(listener: socket.socket) -> str:
    """A socket's name in systemd's store: at most 255 characters, no colon (sd_pid_notify_with_fds(3)).

    It changes when the file of a Unix socket is another one, or is gone (RuntimeDirectory= is emptied between two starts):
    then nobody can reach the socket any more.
    """
    where = listener.getsockname()
    what = repr(where)
    if listener.family == socket.AF_UNIX and isinstance(where, str) and where:
        try:
            found = os.stat(where)
            what += f" {found.st_dev} {found.st_ino}"
        except FileNotFoundError:
            pass
    return f"{STORE_PREFIX}{zlib.crc32(what.encode()):08x}"


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
