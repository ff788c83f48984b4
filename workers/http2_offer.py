"""Whether HTTP/2 is offered on a site's connections: by ALPN, by prior knowledge, and by ``Upgrade: h2c``.

What speaks it takes 4 MB and some tenths of a second to load (hpack's tables). A worker without TLS may never see a client
that speaks HTTP/2, so with ``auto`` it is loaded for the first of them; behind TLS every browser does.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.site import Site


class Http2MissingError(Exception):
    """HTTP/2 is demanded and can't be had; the message says why, and what to do."""


def offer_http2(site: Site, choice: str, *, at_once: bool) -> bool:
    """Have the site's connections become HTTP/2 where their clients speak it; whether they will.

    Args:
        site: whose `upgrades` are added to.
        choice: the setting ``http2``.
        at_once: load it now: clients that speak it will come.

    Raises:
        Http2MissingError: the setting is ``on``, and h2 is not installed.
    """
    if not can_offer_http2(choice):
        return False
    if at_once or choice == "on":
        from arbiter.workers import http2_connection  # noqa: F401  so that it is there
    site.upgrades[b"h2"] = site.upgrades[b"h2c"] = _takes_over
    return True


def can_offer_http2(choice: str) -> bool:
    """Whether HTTP/2 is wanted, and can be had.

    Raises:
        Http2MissingError: as `offer_http2`.
    """
    if choice == "off":
        return False
    if importlib.util.find_spec("h2") is None or importlib.util.find_spec("hpack") is None:
        if choice == "on":
            raise Http2MissingError(
                "http2 = on: h2 is not installed. pip install 'arbiter-server[http2]', or set http2 to auto"
            )
        return False
    return True


def _takes_over(connection: Any, request: Request | None, rest: bytes) -> bool:
    """`site.Successor`."""
    from arbiter.workers.http2_connection import takes_over

    connection.site.upgrades[b"h2"] = connection.site.upgrades[b"h2c"] = takes_over
    return takes_over(connection, request, rest)
