"""The ASGI scope of a request: what the requests of a connection share is made once, and copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from arbiter.workers.protocols.forwarded import shown
from arbiter.workers.protocols.uwsgi import is_https

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbiter.workers.protocols.forwarded import Told
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
FILE_EXTENSIONS: Final = ("http.response.pathsend", "http.response.zerocopysend")
"""Those that send a file behind the back of all that stands between application and server."""


def address_pair(address: object) -> tuple[str, int | None] | None:
    """ASGI's ``client`` or ``server`` for an address as ``accept()`` and ``getsockname()`` give it.

    A unix socket's is its path and None; None where there is no name (a client's end of a unix socket).
    """
    if isinstance(address, tuple):
        return address[0], address[1]
    if isinstance(address, bytes):  # of the abstract namespace
        address = "@" + address[1:].decode(errors="replace")
    return (str(address), None) if address else None


def connection_scope(*, scheme: str, server: object, client: object, root_path: str, trusted: bool = False) -> dict[str, Any]:
    """What all requests of a connection have in common; never to be given to an application, only copies of it.

    Args:
        scheme: ``http`` or ``https``.
        server: the listener's address.
        client: the peer's address.
        root_path: where the application is mounted, like ``/shop``; empty for the root.
        trusted: what the peer says of its clients is believed.
    """
    return {
        "type": "http",
        "scheme": scheme,
        "server": address_pair(server),
        "client": address_pair(client),
        "root_path": root_path,
        "host": client[0] if isinstance(client, tuple) else "",
        "trusted": trusted,
    }


def told_scope(template: dict[str, Any], told: Told) -> dict[str, Any]:
    """The template of one request of which proxies say this; see `connection_scope`."""
    changed = template.copy()
    if told.client:
        changed["client"] = (told.client.host, told.client.port)
    if told.scheme:
        changed["scheme"] = told.scheme
    if told.port:
        server = template["server"]
        changed["server"] = (server[0] if server and server[1] is not None else "localhost", int(told.port))
    # SCRIPT_NAME is how a proxy says the same to WSGI, if `forwarder_headers` lets it.
    prefix = told.variables.get("HTTP_SCRIPT_NAME", told.prefix) if template["trusted"] else ""
    if prefix:
        changed["root_path"] = prefix.rstrip("/")
    return changed


def variables_scope(template: dict[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """The template of one request of which a front end says this in variables of CGI's names; see `connection_scope`."""
    changed = template.copy()
    if "REMOTE_ADDR" in variables:
        changed["client"] = (variables["REMOTE_ADDR"], _port(variables.get("REMOTE_PORT")) or 0)
    if is_https(variables):
        changed["scheme"] = "https"
    if port := _port(variables.get("SERVER_PORT")):
        changed["server"] = (variables.get("SERVER_NAME", "localhost"), port)
    if "SCRIPT_NAME" in variables:
        changed["root_path"] = variables["SCRIPT_NAME"].rstrip("/")
    return changed


def _port(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 6 else None


_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


def http_scope(template: dict[str, Any], request: Request) -> dict[str, Any]:
    """The scope of a request on the connection that `template` describes, but for ``state`` and ``extensions``."""
    known = request.of_head
    root_path = template["root_path"]
    if root_path:
        scope = _of_head(request)
        scope["path"] = decoded_path(request.path, root_path)
    elif _HEAD in known:
        scope = known[_HEAD].copy()  # half of the time that it takes to make it: 0.8 us of a request's 20
    else:
        scope = known[_HEAD] = _of_head(request)
        scope = scope.copy()
    scope["asgi"] = {"version": VERSION, "spec_version": HTTP_SPEC}  # a fresh one: applications write into it
    scope["scheme"] = template["scheme"]
    scope["root_path"] = root_path
    scope["headers"] = scope["headers"].copy()  # other requests may share it, and applications change it
    scope["client"] = template["client"]
    scope["server"] = template["server"]
    return scope


_HEAD: Final = "asgi"


def _of_head(request: Request) -> dict[str, Any]:
    """What a scope has of the request's head alone, without a root path."""
    method, _, path, query, version, *_ = request
    return {
        "type": "http",
        "http_version": "1.1" if version == "HTTP/1.1" else version[5:],
        "method": _METHODS.get(method) or method.decode("ascii"),
        "path": path.decode("ascii") if b"%" not in path else decoded_path(path, ""),
        "raw_path": path,
        "query_string": query,
        "headers": shown(request),
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
