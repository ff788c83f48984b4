"""What comes before HTTP on a connection: a PROXY header where one is expected, then a TLS handshake where TLS is on.

Nothing here waits: a worker calls `advance` when the client has sent something, and bounds it all by `handshake_timeout`.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from arbiter.workers.interfaces.transport import Disconnected, PlainHttpError
from arbiter.workers.protocols.policy import Refusal

if TYPE_CHECKING:
    from arbiter.workers.protocols.proxy import Proxied, ProxyReader
    from arbiter.workers.tls import Tls
    from arbiter.workers.tlssocket import TlsSocket

_FIRST: Final = 16 * 1024
"""Bytes to read while a PROXY header is expected; what is too much goes to whoever comes next."""


_HTTPS_ONLY: Final = "This port speaks HTTPS, and plain HTTP was sent to it: its addresses begin with https."


class Opening:
    """One connection, until it is open."""

    __slots__ = ("_proxy", "_socket", "_tls", "proxied", "received", "secured")

    def __init__(self, client: socket.SocketType, proxy: ProxyReader | None, tls: Tls | None) -> None:
        """Of `client`, which stays the caller's until it is `secured`.

        Args:
            client: just accepted.
            proxy: expects a header, of either version.
            tls: expects a handshake, after it.
        """
        self._socket = client
        self._proxy = proxy
        self._tls = tls
        self.proxied: Proxied | None = None
        """What the PROXY header has said."""
        self.received = b""
        """What has been read after the PROXY header, if there is no TLS."""
        self.secured: TlsSocket | None = None
        """To be used in place of the socket, from the moment when it is there."""

    def advance(self) -> bool:
        """Go on with what has come. Whether the connection is open; if not: wait until more comes.

        Raises:
            Refusal: to be sent in the clear; nothing else may be sent.
            Disconnected: the connection is broken, or TLS has failed; its text says how.
        """
        try:
            return self._advance()
        except OSError as error:
            raise Disconnected(*error.args) from error

    def _advance(self) -> bool:
        while self._proxy:
            try:
                data = self._socket.recv(_FIRST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not data:
                raise Disconnected("the client left before its PROXY header was whole")
            self.proxied = self._proxy.feed(data)
            if self.proxied:
                self.received = self._proxy.rest
                self._proxy = None
        if self._tls is None:
            return True
        if self.secured is None:
            self.secured, self.received = self._tls.secure(self._socket, self.received), b""
        try:
            return self.secured.shake()
        except PlainHttpError:
            self.secured = None
            raise Refusal(400, _HTTPS_ONLY) from None
