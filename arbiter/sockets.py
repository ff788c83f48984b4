"""One listening socket, or several that share a port: how it is bound, recognised, named, and shut.

What is kept of them, for whom and for how long, is in `listeners`. Nothing here remembers anything.
"""

from __future__ import annotations

import array
import errno
import grp
import os
import pwd
import socket
import stat
import struct
import sys
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from arbiter.config.addresses import Address, Scheme

if TYPE_CHECKING:
    from arbiter.config.schema import Settings

STORE_PREFIX: Final = "arbiter-"
"""How the names of the sockets begin that we put into systemd's store ourselves."""

_SO_ATTACH_FILTER: Final = 26
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
"""From asm-generic/socket.h; the socket module does not have them. socket(7)."""


def _instruction(code: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, operand)  # struct sock_filter of linux/filter.h


_DROP_ALL: Final = _instruction(0x06, 0)
"""A classic BPF program: return 0, keep no byte of any packet."""
_LOAD_RANDOM: Final = _instruction(0x20, 0xFFFFF000 + 56)  # SKF_AD_OFF + SKF_AD_RANDOM
_MODULO: Final = 0x94
_RETURN_IT: Final = _instruction(0x16, 0)


def shut(listener: socket.socket) -> None:
    """Drop what comes for the listening socket itself; accepted connections have their own, and its queue stays as it is."""
    with suppress(OSError):  # no such thing outside Linux: then the last moment before the close is a race
        _attach(listener, _SO_ATTACH_FILTER, _DROP_ALL)


def steer(listener: socket.socket, count: int) -> None:
    """Have new connections of a shared port go to its first `count` sockets only, evenly; in the order they began to listen.

    Raises:
        OSError: not on this system.
    """
    _attach(listener, _SO_ATTACH_REUSEPORT_CBPF, _LOAD_RANDOM + _instruction(_MODULO, count) + _RETURN_IT)


def _attach(listener: socket.socket, option: int, program: bytes) -> None:
    memory = array.array("B", program)
    listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("HL", len(program) // 8, memory.buffer_info()[0]))


class Form(NamedTuple):
    """How sockets are to be that are made anew."""

    umask: int
    mode: int | None
    """Of Unix sockets' files; None: by `umask`."""
    owner: str | None
    """Of the same: ``user:group``, either of which may be missing."""
    ipv6_only: bool
    ipv4_ports: frozenset[int]
    """A socket for all of IPv6 leaves IPv4 alone on these, which have sockets of their own."""

    @classmethod
    def of(cls, settings: Settings) -> Form:
        """As the settings say."""
        ports = frozenset(address.port for address in settings.bind if address.scheme is Scheme.TCP and ":" not in address.host)
        return cls(settings.umask, settings.unix_socket_mode, settings.unix_socket_owner, settings.ipv6_only, ports)


def give(path: str, owner: str | None) -> None:
    """Make somebody the owner of a file.

    Raises:
        OSError: there is no such user or group, or the kernel refuses.
    """
    if owner is None:
        return
    user, _, group = owner.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no user or group {owner!r} (unix_socket_owner)") from None
    os.chown(path, uid, gid)


def bind_tcp(address: Address, *, shared: bool, ipv6_only: bool = False) -> socket.socket:
    """A bound socket; `shared`: more may be bound beside it (SO_REUSEPORT), by us."""
    family, where = _resolve(address)
    if shared and address.port:
        # The kernel would let us in beside another service of the same user, and give us half of its connections.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
            probe.bind(where)
    return _bind(family, where, shared=shared, ipv6_only=ipv6_only)


def bind_beside(listener: socket.socket) -> socket.socket:
    """One more socket at the port of a shared one."""
    only = listener.family == socket.AF_INET6 and bool(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    return _bind(listener.family, listener.getsockname(), shared=True, ipv6_only=only)


def is_shared(listener: socket.socket) -> bool:
    """Whether more sockets may be bound beside it."""
    return listener.family != socket.AF_UNIX and bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def _bind(family: socket.AddressFamily | int, where: object, *, shared: bool, ipv6_only: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # whatever net.ipv6.bindv6only says
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        listener.bind(where)  # type: ignore[arg-type]  # as getaddrinfo or getsockname gave it
    except BaseException:
        listener.close()
        raise
    return listener


def remove_if_stale(path: str) -> None:
    """Remove a socket file behind which nobody listens.

    Raises:
        OSError: EADDRINUSE, somebody listens; EEXIST, it is no socket; or it can't be looked at.
    """
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


def identity(path: str) -> tuple[int, int]:
    """Device and inode of a file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def store_name(listener: socket.socket, index: int = 0) -> str:
    """A socket's name in systemd's store: at most 255 characters, no colon (sd_pid_notify_with_fds(3)).

    It changes when the file of a Unix socket is another one, or is gone (RuntimeDirectory= is emptied between two starts):
    then nobody can reach the socket any more. `index` tells apart those that share a port.
    """
    where = listener.getsockname()
    what = repr(where)
    if listener.family == socket.AF_UNIX and isinstance(where, str) and where:
        try:
            found = os.stat(where)
            what += f" {found.st_dev} {found.st_ino}"
        except FileNotFoundError:
            pass
    return f"{STORE_PREFIX}{zlib.crc32(what.encode()):08x}" + (f"-{index}" if index else "")


def is_at(listener: socket.socket, address: Address) -> bool:
    """Whether the socket is bound to this address."""
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


def display(address: Address, listener: socket.socket) -> str:
    """Where the socket really is, as a URL or as given: the kernel has chosen what was port 0."""
    if listener.family == socket.AF_INET:
        return "http://{}:{}".format(*listener.getsockname())
    if listener.family == socket.AF_INET6:
        return "http://[{}]:{}".format(*listener.getsockname()[:2])
    return str(address)


def advice(error: OSError) -> str:
    """What to do about an address that can't be had, as another sentence; empty if nobody knows."""
    if error.errno == errno.EADDRINUSE:
        return " Another process listens there: stop it, or choose another address with --bind."
    if error.errno == errno.EACCES:
        return " Ports below 1024 need CAP_NET_BIND_SERVICE; a socket's directory must be writable."
    if isinstance(error, socket.gaierror):
        return " The host name in --bind is not known here."
    return ""


def queue_length(listener: socket.socket) -> int:
    """How many connections wait to be accepted: tcp_info's tcpi_unacked, which is that of a listening socket (tcp(7)).

    0 on a Unix socket, of which the kernel does not tell.
    """
    if listener.family == socket.AF_UNIX:
        return 0
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int.from_bytes(info[24:28], sys.byteorder)
