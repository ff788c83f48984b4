"""The opening handshake of a WebSocket, the server's half: RFC 6455 section 4.2; and section 5 of RFC 8441 for HTTP/2.

The head has been let through by `policy`, which knows no WebSocket; here is judged what only a WebSocket has. What the
application adds to the answer has passed `policy.check_fields`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from wsproto.utilities import generate_accept_token

from arbiter.workers.protocols.policy import BadResponseError, Refusal
from arbiter.workers.protocols.response import error, switch

if TYPE_CHECKING:
    from arbiter.workers.protocols.policy import Fields, Request
    from arbiter.workers.protocols.websocket_deflate import Agreement

VERSION: Final = b"13"
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
"""Sixteen bytes in base64."""
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OWN: Final = (b"sec-websocket-accept:", b"sec-websocket-extensions:", b"sec-websocket-protocol:")


class Offer(NamedTuple):
    """What a client that wants a WebSocket has to say about it."""

    key: bytes
    """Empty over HTTP/2, which has no need of it."""
    subprotocols: list[str]
    """In the client's order of preference."""
    extensions: list[str]
    """Elements of Sec-WebSocket-Extensions, unread."""


def judge(request: Request) -> Offer:
    """What the client offers, if its handshake is sound.

    Raises:
        Refusal: 400, 405 or 426; `refuse` makes the answer.
    """
    if request.method != b"GET":
        raise Refusal(405, "A WebSocket is asked for with GET.")
    if request.length:
        raise Refusal(400, "A WebSocket handshake has no body.")
    offer = read_offer(request.fields)
    if not _KEY.fullmatch(offer.key):
        raise Refusal(400, "A WebSocket handshake needs one Sec-WebSocket-Key, sixteen bytes in base64.")
    return offer


def read_offer(fields: list[tuple[bytes, bytes]]) -> Offer:
    """What the fields of a request say about a WebSocket, whatever the version of HTTP.

    Raises:
        Refusal: 426, not the version that is spoken here; 400, more than one key (which makes it none).
    """
    key = version = b""
    subprotocols: list[str] = []
    extensions: list[str] = []
    for name, value in fields:
        if not name.startswith(b"sec-websocket-"):
            continue
        if name == b"sec-websocket-key":
            if key:
                raise Refusal(400, "More than one Sec-WebSocket-Key.")
            key = value
        elif name == b"sec-websocket-version":
            version = value if not version else version + b"," + value
        elif name == b"sec-websocket-protocol":
            subprotocols += _elements(value)
        elif name == b"sec-websocket-extensions":
            extensions += _elements(value)
    if version != VERSION:
        raise Refusal(426, "The only version of WebSocket spoken here is 13.")
    return Offer(key, subprotocols, extensions)


def _elements(value: bytes) -> list[str]:
    """Those of a comma-separated list (RFC 9110 section 5.6.1), as written. Quoted commas are in none that we know."""
    return [element for element in (part.strip(" \t") for part in value.decode("latin-1").split(",")) if element]


def refuse(refusal: Refusal) -> bytes:
    """The whole answer to a handshake that was refused; the connection closes after it."""
    extra = b""
    if refusal.status == 426:
        # RFC 6455 section 4.4; RFC 9110 section 15.5.22.
        extra = b"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    elif refusal.status == 405:
        extra = b"Allow: GET\r\n"
    elif refusal.retry_after:
        extra = b"Retry-After: %d\r\n" % refusal.retry_after
    return error(refusal.status, refusal.reason, extra=extra)


def lines_of_accept(offer: Offer, subprotocol: str | None, agreement: Agreement | None) -> list[tuple[str, str]]:
    """The fields of the answer that are the server's own: what was chosen of the offer.

    Raises:
        BadResponseError: the client did not offer this subprotocol.
    """
    lines = []
    if subprotocol is not None:
        if subprotocol not in offer.subprotocols:
            offered = ", ".join(offer.subprotocols) or "none"
            raise BadResponseError(f"the WebSocket subprotocol {subprotocol!r} is not one that the client offers ({offered})")
        lines.append(("Sec-WebSocket-Protocol", subprotocol))
    if agreement is not None:
        lines.append(("Sec-WebSocket-Extensions", agreement.answer))
    return lines


def check_own(fields: Fields) -> None:
    """Nothing, if the application's fields of the answer are none of the server's own.

    Raises:
        BadResponseError: one is.
    """
    if b"ec-" in fields.block or b"EC-" in fields.block:  # nearly all have none: one search instead of a split
        for line in fields.block.split(b"\r\n"):
            if line.lower().startswith(_OWN):
                name = line.partition(b":")[0].decode("latin-1")
                raise BadResponseError(
                    f"the field {name!r} of a WebSocket handshake is the server's; choose with 'subprotocol'"
                )


def accept(offer: Offer, subprotocol: str | None, agreement: Agreement | None, fields: Fields) -> bytes:
    """The head that opens a WebSocket over HTTP/1.1.

    Args:
        offer: of the request.
        subprotocol: one of those offered, or None.
        agreement: on compression.
        fields: of the application.

    Raises:
        BadResponseError: as `lines_of_accept` and `check_own`.
    """
    check_own(fields)
    own = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n" % generate_accept_token(offer.key)
    for name, value in lines_of_accept(offer, subprotocol, agreement):
        own += f"{name}: {value}\r\n".encode("latin-1")
    return switch(own, fields)
