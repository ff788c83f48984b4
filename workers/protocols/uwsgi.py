"""The uwsgi protocol, as nginx's ``uwsgi_pass`` speaks it: one request on a connection, its variables in one packet.

A packet is a head of four bytes (modifier1, the size of the rest in little endian, modifier2), then variables: each a length of
two bytes and a name, a length and a value. The body follows, as long as CONTENT_LENGTH says. The answer is that of HTTP/1.0:
its end is that of the connection (nginx does not read chunks here).

What the variables say of the request goes through the same judgement as a head of HTTP/1 (`policy.admit`); what they say of
the connection (REMOTE_ADDR, HTTPS and whatever else the front end is told to pass) becomes part of the environ: whoever may
connect is believed, so a worker lets nobody else.

Source: uwsgi-docs, Protocol.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from arbiter.workers.protocols.body import Sized
from arbiter.workers.protocols.grammar import FIELD_OCTET, METHOD, TARGET, TCHAR
from arbiter.workers.protocols.http1 import Connection
from arbiter.workers.protocols.policy import Refusal, Request, admit, is_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbiter.workers.protocols.http1 import HeadParser
    from arbiter.workers.protocols.limits import Limits

_HEAD: Final = 4
_METHOD: Final = re.compile(METHOD)
_TARGET: Final = re.compile(TARGET)
_FIELD_NAME: Final = re.compile(rb"%b+" % TCHAR)
_VALUE: Final = re.compile(rb"%b*" % FIELD_OCTET)
_NAME: Final = re.compile(r"(?a)[A-Za-z][A-Za-z0-9_]*")
"""Of a variable that becomes part of the environ: nothing with a dot, as ``wsgi.input`` has."""
_OWN: Final = frozenset(
    {"REQUEST_METHOD", "REQUEST_URI", "QUERY_STRING", "PATH_INFO", "CONTENT_LENGTH", "CONTENT_TYPE", "SERVER_PROTOCOL"}
)
"""What the request itself says."""


class UwsgiConnection(Connection):
    """A connection of a front end: as `http1.Connection`, with `variables` beside the request."""

    __slots__ = ("variables",)

    def __init__(self, parse: HeadParser, limits: Limits) -> None:
        super().__init__(parse, limits)
        self.variables: dict[str, str] = {}
        """What the front end says of the connection, as keys of the environ."""

    def next_request(self) -> Request | None:
        """The request, if its whole packet is here; None: feed more.

        Raises:
            Refusal: any of its statuses but 408.
        """
        buffer, start = self._buffer, self._at
        if len(buffer) - start < _HEAD:
            return None
        size = buffer[start + 1] | buffer[start + 2] << 8
        if buffer[start] or buffer[start + 3]:
            raise Refusal(400, "This port speaks the uwsgi protocol, and something else was sent to it.")
        if size > self._limits.head:
            raise Refusal(431, "The packet of variables is too large.")
        end = start + _HEAD + size
        if len(buffer) < end:
            return None
        self._at = end
        request = self._admit(*self._read(buffer[start + _HEAD : end]))
        self._body = Sized(request.length) if request.length else None
        return request

    def _read(self, packet: bytes) -> tuple[dict[str, bytes], list[tuple[str, bytes]]]:
        """The front end's variables, and those that are the client's fields.

        The latter may be there twice, as fields may: nginx before 1.23 does not join them. And it passes an empty HTTP_HOST
        where there was no Host, in HTTP/1.0.
        """
        variables: dict[str, bytes] = {}
        sent: list[tuple[str, bytes]] = []
        at = 0
        while at < len(packet):
            name, at = _take(packet, at)
            value, at = _take(packet, at)
            key = name.decode("latin-1")
            if key.startswith("HTTP_"):
                if value or key != "HTTP_HOST":
                    sent.append((key, value))
            elif key in variables:
                raise Refusal(400, "A variable is there twice.")
            else:
                variables[key] = value
            # What the front end itself adds (uwsgi_params has 15) is not the client's doing.
            if len(variables) + len(sent) > self._limits.fields + _ADDED:
                raise Refusal(431, "The packet has too many variables.")
        return variables, sent

    def _admit(self, variables: dict[str, bytes], sent: list[tuple[str, bytes]]) -> Request:
        method, target = variables.get("REQUEST_METHOD", b""), variables.get("REQUEST_URI", b"")
        if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
            raise Refusal(400, "The packet has no sound REQUEST_METHOD and REQUEST_URI.")
        if len(method) + len(target) > self._limits.request_line:
            raise Refusal(414, "The request line is too long.")
        fields = []
        told = [(key[5:], value) for key, value in sent if key not in _FRAMING]
        told += [(key, variables[key]) for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if variables.get(key)]
        for key, value in told:
            name = key.lower().replace("_", "-").encode("latin-1")
            value = value.strip(b" \t")  # noqa: PLW2901 - as every parser gives it
            if not _FIELD_NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise Refusal(400, "A variable holds what no header field may.")
            if len(name) + len(value) > self._limits.field_size:
                raise Refusal(431, "A variable is too long.")
            fields.append((name, value))
        if len(fields) > self._limits.fields:
            raise Refusal(431, "The head has too many fields.")
        names = {key for key, value in sent if value}
        minor = 1 if "HTTP_HOST" in names else 0  # whether there had to be one, the front end has judged
        request = admit(method, target, minor, fields, self._limits.body)
        if "HTTP_TRANSFER_ENCODING" in names and not variables.get("CONTENT_LENGTH"):
            raise Refusal(400, "The front end has not told the length of a body.")
        if path := variables.get("PATH_INFO"):  # decoded, and perhaps rewritten: it goes before the target's
            escaped = quote(path, safe="/").encode()
            if not path.startswith(b"/") or not is_path(escaped):
                raise Refusal(400, "PATH_INFO is no path, or has a NUL in it, or leads out of the root.")
            request = request._replace(path=escaped)
        self.variables = {
            key: value.decode("latin-1") for key, value in variables.items() if key not in _OWN and _NAME.fullmatch(key)
        }
        return request._replace(version="HTTP/1.0", persistent=False, expects_continue=False, upgrade=b"")


def is_https(variables: Mapping[str, str]) -> bool:
    """Whether a front end says that its client came by HTTPS."""
    return variables.get("HTTPS", "").lower() in ("on", "1") or variables.get("REQUEST_SCHEME") == "https"


_ADDED: Final = 64
_FRAMING: Final = frozenset(
    {
        "HTTP_TRANSFER_ENCODING",
        "HTTP_CONTENT_LENGTH",
        "HTTP_CONTENT_TYPE",
        "HTTP_CONNECTION",
        "HTTP_EXPECT",
        "HTTP_UPGRADE",
        "HTTP_KEEP_ALIVE",
        "HTTP_TE",
    }
)
"""Of the client's connection with the front end, which has read the body and tells its length."""


def _take(packet: bytes, at: int) -> tuple[bytes, int]:
    """A length of two bytes, and so many bytes."""
    begin = at + 2
    end = begin + int.from_bytes(packet[at:begin], "little")
    if end > len(packet) or begin > len(packet):
        raise Refusal(400, "The packet ends in the middle of a variable.")
    return packet[begin:end], end
