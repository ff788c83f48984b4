"""The WSGI environ (PEP 3333) of a request: what all requests share is made once, and copied."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from arbiter.workers.interfaces.wsgi_file import FileWrapper
from arbiter.workers.protocols.response import SOFTWARE
from arbiter.workers.protocols.uwsgi import is_https

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from arbiter.workers.contract import Log
    from arbiter.workers.protocols.forwarded import Told
    from arbiter.workers.protocols.policy import Request

_keys: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_KEYS_KEPT: Final = 512  # clients choose names: past this many they are worked out each time
_DROPPED: Final = ""


def _key(name: bytes) -> str:
    """The environ key of a field; empty for one that must not be there.

    ``X_Foo`` and ``X-Foo`` would be one key, and a proxy that sets or strips the second does not look at the first:
    names with an underscore are dropped, as Gunicorn and nginx do. ``Proxy`` would become HTTP_PROXY, which programs
    started from the application obey (CVE-2016-5385).
    """
    key = _DROPPED if b"_" in name or name == b"proxy" else "HTTP_" + name.decode("ascii").upper().replace("-", "_")
    if len(_keys) < _KEYS_KEPT:
        _keys[name] = key
    return key


class ErrorStream:
    """``wsgi.errors``: what is written goes to the worker's log, without line ends at its end."""

    __slots__ = ("_log",)

    def __init__(self, log: Log) -> None:
        self._log = log

    def write(self, text: str) -> int:
        """Log `text`; blank lines, which ``print(..., file=)`` writes apart, are not worth a line."""
        if line := text.rstrip("\n"):
            self._log.error(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Log each of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing: the log keeps nothing back."""


def worker_environ(*, errors: object, multithread: bool, multiprocess: bool, script_name: str) -> dict[str, Any]:
    """What is the same for all requests of a worker.

    Args:
        errors: a text stream (write, writelines, flush) for ``wsgi.errors``.
        multithread: other threads of this process may call the application meanwhile.
        multiprocess: other processes may.
        script_name: where the application is mounted, like ``/shop``; empty for the root.
    """
    return {
        "SERVER_SOFTWARE": SOFTWARE,
        "SCRIPT_NAME": script_name,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": errors,
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        # Reading stops at the body's end by itself: an application need not count, chunked or not.
        "wsgi.input_terminated": True,
    }


class ListenerEnviron(dict[str, Any]):
    """What is the same for all requests that come by a listener."""

    __slots__ = ("_name",)

    def __init__(self, worker: dict[str, Any]) -> None:
        super().__init__(worker)
        self._name = f"wsgi {next(_numbers)}"

    def of(self, request: Request) -> dict[str, Any]:
        """A request's own environ, whole but for the peer and ``wsgi.input``: `add_request` knows it for such a one.

        The same head by the same listener makes the same environ: a copy of the whole takes a third of joining its parts.
        """
        made: dict[str, Any] | None = request.of_head.get(self._name)
        if made is None:
            made = {**self, **_of_head(request, self["SCRIPT_NAME"]), "wsgi.input": WHOLE}
            request.of_head[self._name] = made
        return made.copy()


_numbers = itertools.count()
WHOLE: Final = object()
"""In the place of ``wsgi.input`` until that is known."""


def listener_environ(worker: dict[str, Any], address: object) -> ListenerEnviron:
    """`worker` with what a listener adds; `address` as ``getsockname()`` gives it."""
    environ = ListenerEnviron(worker)
    if isinstance(address, tuple):
        environ["SERVER_NAME"], environ["SERVER_PORT"] = address[0], str(address[1])
    else:  # a unix socket has neither, and PEP 3333 wants both
        environ["SERVER_NAME"], environ["SERVER_PORT"] = "localhost", "80"
    return environ


def add_peer(environ: dict[str, Any], address: object) -> None:
    """Add the client's `address`, as ``accept()`` gives it; a unix socket's has no host."""
    if isinstance(address, tuple):
        environ["REMOTE_ADDR"] = address[0]
        environ["REMOTE_PORT"] = str(address[1])
    else:
        environ["REMOTE_ADDR"] = ""


def add_told(environ: dict[str, Any], told: Told) -> None:
    """Add what proxies say of a request, before the request itself."""
    if told.client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = told.client.host, str(told.client.port)
    if told.scheme:
        environ["wsgi.url_scheme"] = told.scheme
        if told.scheme == "https":
            environ["HTTPS"] = "on"
        else:
            environ.pop("HTTPS", None)
    if told.port:
        environ["SERVER_PORT"] = told.port
    if told.prefix:
        environ["SCRIPT_NAME"] = told.prefix
    if told.variables:
        environ.update(told.variables)
        environ["SCRIPT_NAME"] = environ.pop("HTTP_SCRIPT_NAME", environ["SCRIPT_NAME"])


def add_variables(environ: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Add what a front end says of the connection, before the request itself."""
    environ.update(variables)
    if is_https(variables):
        environ["wsgi.url_scheme"] = "https"
        environ["HTTPS"] = "on"


def add_request(environ: dict[str, Any], request: Request, body: object) -> None:
    """Add `request` to a copy that nobody else has, or to what `ListenerEnviron.of` gave; `body` becomes ``wsgi.input``."""
    if environ.get("wsgi.input") is not WHOLE:
        prefix: str = environ["SCRIPT_NAME"]
        made = request.of_head.get(_WSGI + prefix)
        if made is None:
            made = request.of_head[_WSGI + prefix] = _of_head(request, prefix)
        environ.update(made)
    environ["wsgi.input"] = body


_WSGI: Final = "wsgi:"
"""Whose the entries in `Request.of_head` and `of_fields` are."""


def _of_head(request: Request, prefix: str) -> dict[str, str]:
    """The part of an environ that the head and the mount point make."""
    target = request.target.decode("ascii")
    path = request.path
    decoded = (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1")
    if prefix and decoded.startswith(prefix) and decoded[len(prefix) : len(prefix) + 1] in ("", "/"):
        decoded = decoded[len(prefix) :]  # if it does not, a proxy has cut it off already
    fields: dict[str, str] | None = request.of_fields.get(_WSGI)
    if fields is None:
        fields = request.of_fields[_WSGI] = _of_fields(request.fields)
    return {
        "REQUEST_METHOD": request.method.decode("ascii"),
        "RAW_URI": target,
        "REQUEST_URI": target,
        "PATH_INFO": decoded,
        "QUERY_STRING": request.query.decode("ascii"),
        "SERVER_PROTOCOL": request.version,
        **fields,
    }


def _of_fields(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The part of an environ that the fields alone make."""
    environ: dict[str, str] = {}
    for name, value in fields:
        key = _keys.get(name)
        if key is None:
            key = _key(name)
        if key in environ:
            # Joined as RFC 9110 section 5.3 says; cookie pairs have a separator of their own (RFC 6265 section 4.2.1).
            separator = "; " if key == "HTTP_COOKIE" else ","
            environ[key] = environ[key] + separator + value.decode("latin-1")
        elif key:
            environ[key] = value.decode("latin-1")
    return environ
