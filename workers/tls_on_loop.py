"""What comes before HTTP on a `Hub`, a PROXY header or a TLS handshake, and the transport of a connection under TLS.

`TlsSocket` has the methods of a socket that a `HubTransport` uses, and keeps what it has encrypted and the kernel did not take.
So that this is waited for like everything else, an empty piece stands in the transport's queue for it.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.hub import HubTransport
from arbiter.workers.interfaces.transport import Disconnected
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.response import refuse

if TYPE_CHECKING:
    import asyncio
    import socket
    import ssl
    from collections.abc import Callable, Iterable

    from arbiter.workers.hub import Hub
    from arbiter.workers.opening import Opening
    from arbiter.workers.site import Site
    from arbiter.workers.tls import Tls
    from arbiter.workers.tlssocket import TlsSocket

_LAST: Final = 1.0
"""Seconds for a handshake when the worker leaves: three round trips around the world."""
_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class TlsTransport(HubTransport):
    """A connection after its handshake."""

    __slots__ = ()

    def __init__(self, hub: Hub, secured: TlsSocket, peername: object, protocol: asyncio.Protocol) -> None:
        """As its base, over a `TlsSocket`."""
        super().__init__(hub, secured, peername, protocol)  # type: ignore[arg-type]  # what it uses of a socket is there

    send_file = None  # type: ignore[assignment]  # the kernel can't encrypt: nobody is to ask for it

    def write(self, data: Any) -> None:
        """As its base."""
        super().write(data)
        self._wait_for_encrypted()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """As its base."""
        super().writelines(list_of_data)
        self._wait_for_encrypted()

    def _wait_for_encrypted(self) -> None:
        if not self._queue and self._fd >= 0 and self._socket.unsent:  # type: ignore[attr-defined]  # it is a TlsSocket
            self._put(b"", 0)

    def _is_emptied(self) -> bool:
        return not self._socket.unsent  # type: ignore[attr-defined]  # as above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``ssl_object`` too."""
        if name == "ssl_object" and self._fd >= 0:
            return self._socket.tls  # type: ignore[attr-defined]  # as above
        return super().get_extra_info(name, default)


class Handshake:
    """A connection before HTTP, for the hub and for the site."""

    __slots__ = ("_client", "_done", "_fd", "_hub", "_opening", "_site", "booked", "client", "deadline", "idle_since", "notch")

    def __init__(
        self,
        hub: Hub,
        site: Site,
        client: socket.SocketType,
        host: str,
        opening: Opening,
        timeout: float,
        done: Callable[[Opening], None],
    ) -> None:
        """Begins when the client says something.

        Args:
            hub: where the transport will live.
            site: that counts it among its connections meanwhile.
            client: just accepted.
            host: the peer's; empty on a unix socket.
            opening: of it.
            timeout: seconds for all of it.
            done: called when it is open; the socket is not registered anywhere any more.
        """
        self._hub = hub
        self._site = site
        self._client = client
        self.client = host
        self._fd = client.fileno()
        self._opening = opening
        self._done = done
        self.notch = 0
        self.booked = inf
        self.idle_since = monotonic()  # who has shaken no hands yet makes room before those that have
        self.deadline = self.idle_since + timeout
        hub.register(self, self._fd)
        site.add(self)
        site.book(self)

    def ready(self, _events: int) -> None:
        """What epoll says has come true."""
        try:
            if not self._opening.advance():
                return
        except Refusal as refusal:
            self._site.tell_refused(refusal, self.client)
            try:
                self._client.send(refuse(refusal))
            except OSError:
                pass
            self.drop()
        except Disconnected as error:
            if error.strerror:
                self._site.log.debug(f"a connection was not opened: {error.strerror}")
            self.drop()
        else:
            self._leave()
            self._done(self._opening)

    def _leave(self) -> None:
        self.deadline = inf
        self._hub.forget(self._fd)
        self._site.remove(self)

    # The site's side (`LoopConnection`) -------------------------------------------------------------------------------

    is_unread = False  # what it sends is read at once, and means nothing until it is over
    slow_from = inf  # it is idle

    def expire(self) -> None:
        """The client has taken too long."""
        self.drop()

    def retire(self) -> None:
        """It was accepted, and is served if it is quick."""
        self.deadline = min(self.deadline, monotonic() + _LAST)
        self._site.book(self)

    def wind_up(self) -> None:
        """Nothing is under way."""

    def drop(self) -> None:
        """Close it."""
        self._leave()
        (self._opening.secured or self._client).close()

    def abort(self) -> None:
        """The hub is closed."""
        self.drop()


def tls_extension(tls: Tls, connection: ssl.SSLObject) -> dict[str, Any]:
    """ASGI's extension ``tls`` (version 0.2), of a connection after its handshake."""
    facts = tls.facts(connection)
    cipher = connection.cipher()
    codes = {entry["name"]: entry["id"] & 0xFFFF for entry in tls.context.get_ciphers()}
    certificate = facts.get("SSL_CLIENT_CERT")
    return {
        "server_cert": None,  # nobody has a use for it, and a context does not tell
        "client_cert_chain": [certificate] if certificate else [],
        "client_cert_name": facts.get("SSL_CLIENT_S_DN"),
        "client_cert_error": None,  # who has a wrong one has no connection
        "tls_version": _VERSIONS.get(connection.version() or ""),
        "cipher_suite": codes.get(cipher[0]) if cipher else None,
    }
