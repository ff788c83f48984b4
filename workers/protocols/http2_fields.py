"""Field sections of HTTP/2: what `policy` calls a request, out of a decoded list; and response fields into a block.

Requests: what only HTTP/2 knows (pseudo-header fields, names in lower case, no connection-specific fields, cookie crumbs; RFC
9113 sections 8.2 and 8.3) is checked here; then the request is judged by `policy.admit`, as one of HTTP/1 is, with the same
grammar, limits and words.

Responses are encoded without the dynamic table: a block depends on nothing but its fields, so that lines are encoded once for
all connections, and no client can make us remember anything by its SETTINGS_HEADER_TABLE_SIZE. The price is some hundred bytes
per response on the wire.
"""

from __future__ import annotations

import re
import time
from itertools import chain
from typing import TYPE_CHECKING, Final

from hpack.table import HeaderTable

from arbiter.workers.protocols.grammar import FIELD_OCTET, METHOD, TARGET
from arbiter.workers.protocols.policy import CHUNKED, Refusal, admit, check_trailers
from arbiter.workers.protocols.response import SOFTWARE, Framing, Head, error_text, http_date

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arbiter.workers.protocols.limits import Limits
    from arbiter.workers.protocols.policy import Fields, Request

_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing


class MalformedError(Exception):
    """A field section that is no HTTP/2 message (RFC 9113 section 8.1.1). The text has no word of the client's."""


# Requests -------------------------------------------------------------------------------------------------------------

# Names and values, each with a NUL behind it, which neither may hold. A name is a token in lower case (section 8.2.1); blanks
# around a value are an error here, where HTTP/1 strips them.
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9a-z]++"
_SECTION: Final = re.compile(rb"(?:%b\0(?![\t ])%b*+(?<![\t ])\0)*+" % (_TOKEN, FIELD_OCTET))
_METHOD: Final = re.compile(METHOD)
_TARGET: Final = re.compile(TARGET)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*+")  # RFC 3986 section 3.1
_CONNECTION_SPECIFIC: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"},
)
_LOOKED_AT: Final = _CONNECTION_SPECIFIC | {b"te", b"cookie", b"host"}


def read_request(section: list[tuple[bytes, bytes]], limits: Limits, *, ended: bool, websocket: bool = False) -> Request:
    """The request of a decoded field section.

    Args:
        section: as decoded.
        limits: sizes, counted as HTTP/1 would write the fields.
        ended: the client has sent END_STREAM with it: there is no content.
        websocket: extended CONNECT (RFC 8441) was offered.

    Returns:
        Its `upgrade` is the ``:protocol`` of an extended CONNECT (RFC 8441), whose method is CONNECT.

    Raises:
        MalformedError: it breaks a rule of HTTP/2.
        Refusal: it breaks one of HTTP, or a limit: 400, 413, 414, 417, 431 or 501.
    """
    pseudo: dict[bytes, bytes] = {}
    for name, value in section:
        if name[:1] != b":":
            break
        if name not in _PSEUDO:
            raise MalformedError("A pseudo-header field that no request has.")
        if name in pseudo:
            raise MalformedError("A pseudo-header field is there twice.")
        pseudo[name] = value
    if sum([len(name) + len(value) + 32 for name, value in section]) > limits.head:  # as RFC 9113 section 6.5.2 counts
        raise Refusal(431, "The head is too large.")
    fields = section[len(pseudo) :]
    fields, host = _check_fields(fields, limits)
    method = pseudo.get(b":method")
    if method is None:
        raise MalformedError("A request needs the field :method.")
    authority = pseudo.get(b":authority")
    protocol = pseudo.get(b":protocol")
    if method == b"CONNECT" and protocol is None:
        raise Refusal(501, "This is not a proxy: CONNECT is not implemented.")
    path, scheme = pseudo.get(b":path"), pseudo.get(b":scheme")
    if path is None or scheme is None:
        raise MalformedError("A request needs the fields :scheme and :path.")
    if not _SCHEME.fullmatch(scheme):
        raise MalformedError("The field :scheme is not a URI scheme.")
    if protocol is not None and (method != b"CONNECT" or not protocol or not websocket):
        raise MalformedError("The field :protocol belongs to CONNECT, where it was offered.")
    _check_target(method, path, limits)
    if authority is None:
        authority = host
    elif host is not None and host.lower() != authority.lower():
        raise MalformedError("Host and :authority differ.")
    if authority is None:
        raise Refusal(400, "A request needs an :authority or Host field.")
    fields.insert(0, (b"host", authority))
    # Extended CONNECT has path and content like any other method; what admit says of CONNECT is for proxies.
    request = admit(method if protocol is None else b"GET", path, 1, fields, limits.body, untold=0 if ended else CHUNKED)
    if ended and request.length:
        raise MalformedError("There is no content, and Content-Length says that there is.")
    return request._replace(method=method, version="HTTP/2", upgrade=b"" if protocol is None else protocol.lower())


def _check_target(method: bytes, path: bytes, limits: Limits) -> None:
    if not path:
        raise MalformedError("The field :path is empty.")
    if len(method) + len(path) + 10 > limits.request_line:  # as the line of HTTP/1, with two blanks and the version
        raise Refusal(414, "The request line is too long.")
    if not _METHOD.fullmatch(method):
        raise Refusal(400, "The method is not 3 to 20 characters of A-Z, '-' and '_'.")
    if not _TARGET.fullmatch(path):
        raise Refusal(400, "The request target holds a character that no URI has.")
    if not path.startswith(b"/") and not (path == b"*" and method == b"OPTIONS"):
        raise Refusal(400, "The field :path does not begin with a slash.")


def _check_fields(fields: list[tuple[bytes, bytes]], limits: Limits) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """A copy of the fields without Host, crumbs of cookies joined (section 8.2.3), and the value of Host."""
    _check_sound(fields, "head", limits)
    host: bytes | None = None
    crumbs: list[bytes] = []
    place = 0
    kept: list[tuple[bytes, bytes]] = []
    for field in fields:
        name, value = field
        if name in _LOOKED_AT:
            if name == b"cookie":
                if not crumbs:
                    place = len(kept)
                    kept.append(field)
                crumbs.append(value)
                continue
            if name == b"host":
                if host is not None:
                    raise Refusal(400, "More than one Host field.")
                host = value
                continue
            if name != b"te":
                raise MalformedError("A field that is about the connection, which HTTP/2 has not.")
            if value.lower() != b"trailers":
                raise MalformedError("The field TE may say trailers only.")
        kept.append(field)
    if len(crumbs) > 1:
        kept[place] = (b"cookie", b"; ".join(crumbs))
    return kept, host


def _check_sound(fields: list[tuple[bytes, bytes]], what: str, limits: Limits) -> None:
    if len(fields) > limits.fields:
        raise Refusal(431, f"The {what} has too many fields.")
    if not fields:
        return
    # One pattern over all of it; a field that is wrong is looked for only then.
    if not _SECTION.fullmatch(b"\0".join(chain.from_iterable(fields)) + b"\0"):
        if any(name.startswith(b":") for name, _ in fields):
            raise MalformedError(f"A pseudo-header field of the {what} is not at its beginning, or not allowed.")
        raise MalformedError(f"A field of the {what} is not a name in lower case and a value without blanks around it.")
    if max([len(name) + len(value) for name, value in fields]) + 2 > limits.field_size:
        raise Refusal(431, f"A field line of the {what} is too long.")


def read_trailers(section: list[tuple[bytes, bytes]], limits: Limits) -> list[tuple[bytes, bytes]]:
    """The trailers of a decoded field section; raises as `read_request`."""
    _check_sound(section, "trailer section", limits)
    if sum([len(name) + len(value) + 4 for name, value in section]) > limits.trailers:
        raise Refusal(431, "The trailer section is too large.")
    if any(name in _CONNECTION_SPECIFIC for name, _ in section):
        raise MalformedError("A field that is about the connection, which HTTP/2 has not.")
    check_trailers(section)
    return section


# Responses ------------------------------------------------------------------------------------------------------------

_NEVER: Final = frozenset({b"set-cookie", b"authorization", b"proxy-authorization", b"www-authenticate"})
"""Fields that no intermediary may put into its table (RFC 7541 section 7.1.3)."""
_STATIC: Final = HeaderTable.STATIC_TABLE_MAPPING
_lines: dict[bytes, bytes] = {}
_LINES_KEPT: Final = 1024
_LINE_KEPT: Final = 256  # bytes: an application's lines that are the same each time are short


def _integer(first: int, bits: int, value: int) -> bytes:
    """RFC 7541 section 5.1: `value` in the low `bits` of an octet whose other bits are `first`'s, and in more if need be."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    octets = [first | most]
    value -= most
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def encode_field(name: bytes, value: bytes) -> bytes:
    """One field of a block (RFC 7541 section 6), name in lower case."""
    index, values = _STATIC.get(name, (0, {}))
    whole = values.get(value)
    if whole is not None:
        return _integer(0x80, 7, whole)
    start = _integer(0x10 if name in _NEVER else 0, 4, index)
    if not index:
        start += _integer(0, 7, len(name)) + name
    return start + _integer(0, 7, len(value)) + value


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of fields that have been checked; names in any case."""
    return b"".join([encode_field(name.lower(), value) for name, value in fields])


def encode_lines(block: bytes) -> bytes:
    """A block out of the field lines of `policy.Fields`."""
    encoded = []
    for line in block.split(b"\r\n"):
        known = _lines.get(line)
        if known is None:
            name, _, value = line.partition(b": ")
            known = encode_field(name.lower(), value.strip(b" \t")) if name else b""
            if len(line) <= _LINE_KEPT:
                if len(_lines) >= _LINES_KEPT:
                    _lines.clear()  # lines that differ each time fill it: those that do not are soon there again
                _lines[line] = known
        encoded.append(known)
    return b"".join(encoded)


class _Stamp:
    """Date and Server, encoded anew when the second has changed; as `response` has it for HTTP/1."""

    __slots__ = ("_both", "_date", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._date = self._both = b""

    def fields(self, *, dated: bool, named: bool) -> bytes:
        now = time.time()
        if not 0 <= now - self._second < 1:
            second = int(now)
            self._date = encode_field(b"date", http_date(second).encode())
            self._both = self._date + _SERVER
            self._second = second  # last, so that another thread never takes old ones for new
        if not dated and not named:
            return self._both
        return (b"" if dated else self._date) + (b"" if named else _SERVER)


_SERVER: Final = encode_field(b"server", SOFTWARE.encode())
_stamp: Final = _Stamp()
_statuses: Final = {code: encode_field(b":status", b"%d" % code) for code in range(100, 1000)}


def encode_response(request: Request, code: int, fields: Fields, *, known: int = -1) -> Head:
    """The field block of the final response to `request`, by the rules of `response.build`.

    Args:
        request: what is answered.
        code: 200 to 999.
        fields: of `policy.check_fields`.
        known: bytes of body, if known before it is sent; -1 if not. The application's own Content-Length goes first.

    Returns:
        `Framing.CHUNKED` stands for a body whose end END_STREAM tells.
    """
    length = fields.length
    block = fields.block
    framing = _LENGTH
    end = b""
    if request.method == b"HEAD" or code in (204, 304):
        framing = _NONE
        if length >= 0 and code == 204:  # it may not have one: RFC 9110 section 8.6
            block = b"\r\n".join(line for line in block.split(b"\r\n") if not line.lower().startswith(b"content-length:"))
        elif length < 0 and known > 0 and code not in (204, 304):
            end = encode_field(b"content-length", b"%d" % known)
        length = 0
    elif length >= 0:
        pass
    elif known >= 0:
        length = known
        end = encode_field(b"content-length", b"%d" % known)
    else:
        framing = _CHUNKED
        length = 0
    data = _statuses[code] + _stamp.fields(dated=fields.dated, named=fields.named) + encode_lines(block) + end
    return Head(data, framing, length, True)


def encode_informational(code: int, fields: Fields | None = None) -> bytes:
    """The field block of a 1xx response."""
    return _statuses[code] + (b"" if fields is None else encode_lines(fields.block))


def encode_refusal(refusal: Refusal, *, head: bool = False) -> tuple[bytes, bytes]:
    """The field block and the content of the answer to a request that was not let through; as `response.refuse`."""
    _, body = error_text(refusal.status, refusal.reason)
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    if refusal.retry_after:
        fields.append((b"retry-after", b"%d" % refusal.retry_after))
    if refusal.status == 426:  # a WebSocket's: RFC 6455 section 4.4, whatever the version of HTTP (RFC 8441 section 5)
        fields.append((b"sec-websocket-version", b"13"))
    block = _statuses[refusal.status] + _stamp.fields(dated=False, named=False) + encode_fields(fields)
    return block, b"" if head else body


def encode_switch(fields: Fields, own: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The field block that accepts an extended CONNECT (RFC 8441 section 5): the application's fields, and `own`."""
    stamp = _stamp.fields(dated=fields.dated, named=fields.named)
    return _statuses[200] + stamp + encode_lines(fields.block) + encode_fields(own)
