"""Addresses to listen on: the forms people write, and the one canonical form of each.

An address is a value. Nothing here opens a socket, looks up a name or looks at a file.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass, replace
from enum import Enum

DEFAULT_PORT = 8000  # Gunicorn's, and Django's runserver's
LOCALHOST = "127.0.0.1"  # a bare port never opens a service to the network
ANY_HOST = "0.0.0.0"  # noqa: S104 - what `:8000` has always meant, for Gunicorn too
MAX_PORT = 65535  # 16 bits, RFC 9293 section 3.1
# sun_path is 108 bytes on Linux with its final NUL, 104 on the BSDs and macOS (unix(7)); the kernel checks the rest.
MAX_UNIX_PATH = 107

_HOST = r"\w[\w.-]*"


class Scheme(Enum):
    """How an address is reached."""

    TCP = "tcp"
    UNIX = "unix"
    FD = "fd"


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen.

    TCP uses `host` (a name, an IPv4 address, or an IPv6 address without brackets) and `port`; UNIX uses `path` (with
    `@` in front: the abstract namespace, unix(7)); FD uses `fd`, a listening socket that was inherited.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1

    @property
    def is_abstract(self) -> bool:
        """Whether this is a Unix socket with no file."""
        return self.scheme is Scheme.UNIX and self.path.startswith("@")

    def anchored(self, directory: str) -> Address:
        """The same address with a relative socket file placed in `directory`."""
        if self.scheme is not Scheme.UNIX or self.is_abstract:
            return self
        return replace(self, path=os.path.normpath(os.path.join(directory, self.path)))

    def __str__(self) -> str:
        if self.scheme is Scheme.UNIX:
            return f"unix:{self.path}"
        if self.scheme is Scheme.FD:
            return f"fd://{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address that `text` names.

    Forms: `host:port`, `[v6]:port`, `host`, `:port`, `port`, `unix:/path`, `unix:@abstract`, `fd://N`, and `tcp://`
    before any TCP form.

    Raises:
        ValueError: `text` names none; the message is a short reason.

    """
    text = text.strip()
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    if text.startswith("fd://"):
        return Address(Scheme.FD, fd=_number(text.removeprefix("fd://"), "file descriptor"))
    return _tcp(text.removeprefix("tcp://"))


def _unix(path: str) -> Address:
    path = path.removeprefix("//")  # unix:///run/app.sock, as Gunicorn accepts it
    if path in ("", "@"):
        raise ValueError("the socket's path is missing")
    if "\0" in path:
        raise ValueError("a path holds no NUL")
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise ValueError(f"the kernel takes at most {MAX_UNIX_PATH} bytes for the path of a socket")
    return Address(Scheme.UNIX, path=path)


def _tcp(text: str) -> Address:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address is written [::1]:8000")
        if not _is_ipv6(host):
            raise ValueError(f'"{host}" is not an IPv6 address')
        return Address(Scheme.TCP, host=host.lower(), port=_port(rest[1:]) if rest else DEFAULT_PORT)
    if text.count(":") > 1:
        raise ValueError("an IPv6 address needs brackets, like [::1]:8000")
    if text.isdecimal():
        return Address(Scheme.TCP, host=LOCALHOST, port=_port(text))
    host, colon, port = text.partition(":")
    if not host and colon:
        host = ANY_HOST
    elif not re.fullmatch(_HOST, host):
        raise ValueError("the host is missing" if not host else f'"{host}" is not a host name')
    return Address(Scheme.TCP, host=host.lower(), port=_port(port) if colon else DEFAULT_PORT)


def _is_ipv6(host: str) -> bool:
    import socket

    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])  # a zone may follow %, RFC 4007 section 11
    except OSError:
        return False
    return True


def _port(text: str) -> int:
    port = _number(text, "port")
    if port > MAX_PORT:
        raise ValueError(f"the port is above {MAX_PORT}")
    return port


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f'"{text}" is not a {what} number' if text else f"the {what} number is missing")
    return int(text)
