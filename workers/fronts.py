"""Who is in front of a worker, and what becomes of a request for their sake: the same rules in every kind of worker.

Proxies that are believed, peers that begin with a PROXY header or speak the uwsgi protocol, and the limits that shed load. How
long a request has waited, and who has how many connections, is each kind's own knowledge; what follows from it is told here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.protocols.forwarded import OTHERS, TRUSTED, Forwarding
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.proxy import ProxyReader
from arbiter.workers.protocols.trust import Trust, plain_host

if TYPE_CHECKING:
    from arbiter.config.schema import Settings
    from arbiter.workers.protocols.forwarded import Told
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.protocols.proxy import Proxied

TOO_MANY: Final = Refusal(503, "This address has too many connections.")


class Crowd:
    """How many connections each address has. Not for two threads at once, but for `has_room`."""

    __slots__ = ("_counts", "most")

    def __init__(self, most: int) -> None:
        """Nobody yet."""
        self.most = most
        """Connections that an address may have; 0: any number, and nobody is counted."""
        self._counts: dict[str, int] = {}

    def enter(self, host: str) -> None:
        """A connection of `host` has come; a unix socket's, ``""``, is not counted."""
        if self.most and host:
            self._counts[host] = self._counts.get(host, 0) + 1

    def leave(self, host: str) -> None:
        """One that has entered has gone."""
        if self.most and host:
            left = self._counts[host] - 1
            if left:
                self._counts[host] = left
            else:
                del self._counts[host]

    def count(self, host: str) -> int:
        """Connections of `host`; 0 if nobody is counted."""
        return self._counts.get(host, 0)

    def has_room(self, host: str, elsewhere: int = 0) -> bool:
        """Whether `host` has no more than it may, with so many connections that are counted elsewhere."""
        return not self.most or self._counts.get(host, 0) + elsewhere <= self.most


class Fronts:
    """The rules of one worker."""

    __slots__ = (
        "_header_senders",
        "_header_version",
        "_uwsgi_peers",
        "forwarding",
        "looks",
        "per_address",
        "queue_timeout",
        "trusts",
        "varies",
    )

    def __init__(self, settings: Settings) -> None:
        self._header_senders = Trust(settings.proxy_allow_ips) if settings.proxy_protocol != "off" else None
        self._header_version = settings.proxy_protocol
        self._uwsgi_peers = Trust(settings.uwsgi_allow_ips) if settings.protocol == "uwsgi" else None
        self.forwarding = Forwarding(
            Trust(settings.forwarded_allow_ips),
            facts=settings.forwarded_facts,
            scheme_headers=settings.secure_scheme_headers,
            forwarder_headers=settings.forwarder_headers,
            header_map=settings.header_map,
        )
        self.trusts = self.forwarding.trusts
        """Whether what a peer says of its clients is believed; to be asked once for a connection. ``""`` is a unix socket's."""
        self.queue_timeout = settings.queue_timeout
        """Seconds; 0.0: any wait is fine, and need not be known."""
        self.per_address = settings.limit_connections_per_address
        """Connections; 0: any number is fine."""
        self.looks = bool(self._uwsgi_peers or self.queue_timeout or settings.header_map != "drop")
        """`judge` has something to say also of peers that are not trusted."""
        self.varies = bool(self._uwsgi_peers or self.queue_timeout)
        """What `judge` says is another thing for each request, whatever its fields."""

    def header_reader(self, host: str) -> ProxyReader | None:
        """What reads the PROXY header that this peer has to begin with; None: it has not to."""
        if self._header_senders and self._header_senders.covers(host):
            return ProxyReader(self._header_version)
        return None

    def judge(self, request: Request, host: str, waited: float, trusted: bool) -> Told | None:
        """What proxies say of a request that the application is about to get; None: nothing.

        Args:
            request: as it came.
            host: the peer's; empty on a unix socket.
            waited: seconds that it lay in the kernel; `transport.UNKNOWN`.
            trusted: `trusts` of the peer.

        Raises:
            Refusal: the application does not get it.
        """
        if self._uwsgi_peers:  # what the front end says is in its variables, and the fields are its client's
            if not self._uwsgi_peers.covers(host):
                raise Refusal(403, "This peer may not speak the uwsgi protocol.")
            trusted = False
        known = request.of_fields.get(TRUSTED if trusted else OTHERS, request)
        told: Told | None = self.forwarding.read(request, trusted=trusted) if known is request else known
        if self.queue_timeout:
            self.check_wait(longest_wait(waited, told))
        return told

    def check_wait(self, waited: float) -> None:
        """Nothing, if a request may have waited for so many seconds.

        Raises:
            Refusal: 503; whoever sent it has given up, or asks again.
        """
        if 0 < self.queue_timeout < waited:
            raise Refusal(503, "The server is overloaded.", retry_after=max(1, round(self.queue_timeout)))


def longest_wait(waited: float, told: Told | None) -> float:
    """Seconds that a request has waited: in the kernel, which are `waited`, or since the first proxy got it."""
    if told is not None and told.began:
        return max(waited, time.time() - told.began, 0.0)  # a proxy's clock may be ahead of ours
    return waited


def host_of(address: Any) -> str:
    """The host of an address as ``accept()`` gives it; empty on a unix socket, also where the peer's end has a name."""
    host: str = address[0] if isinstance(address, tuple) else ""
    return host


def accepted_address(address: Any) -> Any:
    """An address as ``accept()`` gives it, without the form that an IPv4 client has on a socket for both families."""
    if isinstance(address, tuple) and len(address) > 2:  # IPv6's has four parts
        return (plain_host(address[0]), *address[1:])
    return address


def proxied_address(proxied: Proxied, address: Any) -> Any:
    """The client's address by a PROXY header; `address`, the peer's own, if the header names none."""
    return (plain_host(proxied.source.host), proxied.source.port) if proxied.source else address


def proxied_environ(proxied: Proxied) -> dict[str, str]:
    """What a PROXY header adds to the environ."""
    environ = {"PROXY_PROTOCOL": proxied.protocol}
    if proxied.destination:
        environ["PROXY_ADDR"], environ["PROXY_PORT"] = proxied.destination.host, str(proxied.destination.port)
    return environ
