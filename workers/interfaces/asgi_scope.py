"""The ASGI scope of a request: what the requests of a connection share is made once, and copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.protocols.websocket_handshake import Offer

VERSION: Final = "3.0"
HTTP_SPEC: Final = "2.4"
"""A `send` after the client has gone raises an OSError; see the ASGI HTTP specification."""
LIFESPAN_SPEC: Final = "2.0"

WEBSOCKET_SPEC: Final = "2.4"
"""As `HTTP_SPEC`, of the ASGI WebSocket specification."""

HTTP_EXTENSIONS: Final[dict[str, Any]] = {
    "http.response.debug": {},
    "http.response.early_hint": {},
    "http.response.pathsend": {},
    "http.response.trailers": {},
    "http.response.zerocopysend": {},
}
"""What `Exchange.send` understands besides the core messages."""


def address_pair(address: object) -> tuple[str, int | None] | None:
    """ASGI's ``client`` or ``server`` for an address as ``accept()`` and ``getsockname()`` give it.

    A unix socket's is its path and None; None where there is no name (a client's end of a unix socket).
    """
    if isinstance(address, tuple):
        return address[0], address[1]
    if isinstance(address, bytes):  # of the abstract namespace
        address = "@" + address[1:].decode(errors="replace")
    return (str(address), None) if address else None


def connection_scope(*, scheme: str, server: object, client: object, root_path: str) -> dict[str, Any]:
    """What all requests of a connection have in common; never to be given to an application, only copies of it.

    Args:
        scheme: ``http`` or ``https``.
        server: the listener's address.
        client: the peer's address.
        root_path: where the application is mounted, like ``/shop``; empty for the root.
    """
    return {
        "type": "http",
        "scheme": scheme,
        "server": address_pair(server),
        "client": address_pair(client),
        "root_path": root_path,
    }


_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}


def http_scope(template: dict[str, Any], request: Request) -> dict[str, Any]:
    """The scope of a request on the connection that `template` describes, but for ``state`` and ``extensions``."""
    method, _, path, query, version, fields, *_ = request
    root_path = template["root_path"]
    return {
        "type": "http",
        "asgi": {"version": VERSION, "spec_version": HTTP_SPEC},  # a fresh one: applications write into it
        "http_version": "1.1" if version == "HTTP/1.1" else version[5:],
        "method": _METHODS.get(method) or method.decode("ascii"),
        "scheme": template["scheme"],
        "path": path.decode("ascii") if not root_path and b"%" not in path else decoded_path(path, root_path),
        "raw_path": path,
        "query_string": query,
        "root_path": root_path,
        "headers": fields.copy(),  # other requests may share it, and applications change it
        "client": template["client"],
        "server": template["server"],
    }


def websocket_scope(template: dict[str, Any], request: Request, offer: Offer) -> dict[str, Any]:
    """The scope of a WebSocket, but for ``state`` and ``extensions``; the template is that of HTTP."""
    scope = http_scope(template, request)
    del scope["method"]
    scope["type"] = "websocket"
    scope["asgi"] = {"version": VERSION, "spec_version": WEBSOCKET_SPEC}
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = list(offer.subprotocols)
    return scope


def decoded_path(path: bytes, root_path: str) -> str:
    """ASGI's ``path``: decoded, with the root path before it, whether or not a proxy has cut that off."""
    text = unquote_to_bytes(path).decode("utf-8", "replace") if b"%" in path else path.decode("ascii")
    if root_path and not (text.startswith(root_path) and text[len(root_path) : len(root_path) + 1] in ("", "/")):
        return root_path + text
    return text
