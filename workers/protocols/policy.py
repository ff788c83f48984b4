"""The one judgement of requests and responses, for every parser and every protocol version.

A parser says what the words are; this module says whether they are let through. Its rules are RFC 9110 and 9112 read in
the strictest way that real clients bear, since what two readers of one message understand differently is how requests
are smuggled. It never sees a socket and keeps no state but bounded caches of pure results.

Rule: nothing a client sent may appear in a reason; reasons go back to the client and into logs.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING, Any, AnyStr, Final, Generic, NamedTuple
from urllib.parse import unquote_to_bytes

from arbiter.workers.protocols.grammar import ABSOLUTE, AUTHORITY

if TYPE_CHECKING:
    from collections.abc import Iterable

CHUNKED: Final = -1
"""`Request.length` of a body whose end the chunked framing tells."""


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault of ours
    """A request that is not let through; the connection ends after the answer.

    `status` is 400, 405, 408, 413, 414, 417, 426, 431, 501 or 505; `reason` is one sentence without a word of the client's.
    """

    def __init__(self, status: int, reason: str, *, retry_after: int = 0) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        """Seconds, for the field of that name; 0: none."""


class BadResponseError(ValueError):
    """The application asked for a response that must not be sent; nothing of it was."""


class Request(NamedTuple):
    """A request head that has been let through."""

    method: bytes
    target: bytes
    """As received."""
    path: bytes
    """Still percent-encoded; ``*`` only for OPTIONS."""
    query: bytes
    version: str
    """``HTTP/1.1``."""
    fields: list[tuple[bytes, bytes]]
    """Names in lower case, values without blanks around them, in the order received. With an absolute-form target,
    ``host`` is the target's (RFC 9112 section 3.2.2)."""
    length: int
    """Of the body, in bytes; 0 for none, `CHUNKED` for one of unknown length."""
    persistent: bool
    """The client lets the connection stay open."""
    expects_continue: bool
    """The client waits for a 100 before it sends the body."""
    upgrade: bytes
    """The Upgrade field, if Connection names it; in lower case."""
    of_fields: dict[str, Any]
    """What interfaces have made of the fields alone, each under its own name; shared by requests that have the same fields,
    as `fields` may be: neither is an application's to change."""
    of_head: dict[str, Any]
    """What they have made of all the above; shared by requests that have the same head."""


# Requests -------------------------------------------------------------------------------------------------------------

_SINGLE: Final = frozenset(
    {
        b"content-type",  # a filter may judge the content by the first, the application by the second
        b"authorization",
        b"expect",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"content-range",
    }
)
"""Fields of one value, of which two are read differently by different readers: nginx refuses them, or Gunicorn does."""
_JUDGED: Final = _SINGLE | {b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"}
"""The fields that `admit` looks at."""
_UNSERVED: Final = {
    b"CONNECT": "This is not a proxy: CONNECT is not implemented.",
    # It would send back fields that scripts must not see, and those that proxies add (RFC 9110 section 9.3.8). nginx and most
    # configurations of Apache refuse it; an application that wants it is not known.
    b"TRACE": "TRACE is not implemented: it shows what proxies and browsers keep secret.",
}
"""Methods that no application gets to see."""
_NO_TRAILERS: Final = _JUDGED | {b"te", b"trailer", b"authorization"}
"""Fields that frame, route or authenticate a message: RFC 9110 section 6.5.1."""
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")  # 18 digits: below 2**63, where other readers' integers end
_hosts: set[bytes] = set()
_HOSTS_KEPT: Final = 256  # a site has a few names; a client that invents them must not make us grow


def is_host(value: bytes) -> bool:
    """Whether it is a host and perhaps a port, as Host has them."""
    authority = AUTHORITY.fullmatch(value)
    if not authority:
        return False
    if authority[1]:
        try:
            IPv6Address(authority[1].decode("ascii"))
        except AddressValueError:
            return False
    if len(_hosts) < _HOSTS_KEPT:
        _hosts.add(value)
    return True


def admit(
    method: bytes, target: bytes, minor: int, fields: list[tuple[bytes, bytes]], body_limit: int, *, untold: int = 0
) -> Request:
    """The request that a head asks for.

    Args:
        method: syntactically sound, as are all the others (`grammar.HEAD`).
        target: as received.
        minor: 0 or 1.
        fields: names in lower case.
        body_limit: largest content in bytes.
        untold: the length of content that no field tells: 0 in HTTP/1; in HTTP/2 it may be `CHUNKED`.

    Raises:
        Refusal: 400, 413, 417 or 501.
    """
    authority = None
    if target.startswith(b"/") and method not in _UNSERVED:
        path, query = _split_origin_form(target)
    else:
        path, query, authority = _split_other_form(method, target)
    host = encoding = connection = upgrade = None
    length = untold
    sized = expects = False
    single: tuple[bytes, ...] = ()
    for name, value in fields:
        if name not in _JUDGED:
            continue
        if name == b"host":
            if host is not None:
                raise Refusal(400, "More than one Host field.")
            if value not in _hosts and not is_host(value):
                raise Refusal(400, "The Host field is not a host and port.")
            host = value
        elif name == b"content-length":
            if sized:
                raise Refusal(400, "More than one Content-Length field.")
            if not _LENGTH.fullmatch(value):
                raise Refusal(400, "The Content-Length field is not one number of at most 18 digits.")
            sized = True
            length = int(value)
        elif name == b"transfer-encoding":
            encoding = value if encoding is None else encoding + b"," + value
        elif name == b"connection":
            connection = value if connection is None else connection + b"," + value
        elif name == b"upgrade":
            upgrade = value if upgrade is None else upgrade + b"," + value
        elif name in single:
            raise Refusal(400, "More than one of a field that can be there only once.")
        else:
            single += (name,)
            if name != b"expect":
                continue
            if value.lower() != b"100-continue":
                raise Refusal(417, "The only expectation known here is 100-continue.")
            expects = minor == 1  # HTTP/1.0 cannot ask: RFC 9110 section 10.1.1

    if host is None and minor:
        raise Refusal(400, "An HTTP/1.1 request needs a Host field.")
    if encoding is not None:
        if not minor:
            raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.")
        if sized:
            raise Refusal(400, "Transfer-Encoding and Content-Length in one request.")
        _check_encoding(encoding)
        length = CHUNKED
    elif length > body_limit:
        raise Refusal(413, "The body is larger than this server takes.")

    persistent = minor == 1
    if connection is not None:
        options = [option.strip(b" \t").lower() for option in connection.split(b",")]
        persistent = b"close" not in options and (persistent or b"keep-alive" in options)
        if not minor or b"upgrade" not in options:
            upgrade = None
    else:
        upgrade = None
    if authority is not None:
        fields = [(b"host", authority), *(field for field in fields if field[0] != b"host")]
    return Request(
        method,
        target,
        path,
        query,
        "HTTP/1.1" if minor else "HTTP/1.0",
        fields,
        length,
        persistent,
        expects and length != 0,
        b"" if upgrade is None else upgrade.lower(),
        {},
        {},
    )


def readmit(method: bytes, target: bytes, before: Request) -> Request:
    """What `admit` would say of this method and target with the version and the fields that `before` was admitted with.

    Args:
        method: neither CONNECT nor TRACE.
        target: in origin-form, as that of `before`: then neither says anything about the other, or about the fields.
        before: stays as it is.

    Raises:
        Refusal: 400.
    """
    path, query = _split_origin_form(target)
    # tuple.__new__ is what Request() comes down to, without the call in between (0.3 us).
    return tuple.__new__(Request, (method, target, path, query, *before[4:-1], {}))


def _split_origin_form(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a target that begins with a slash."""
    if b"#" in target:
        # No sender may put a fragment here; like Gunicorn, nginx and llhttp, let it pass, and let nobody route by it.
        target = target[: target.index(b"#")]
    path, _, query = target.partition(b"?")
    if (b"%" in path or b"/.." in path) and not is_path(path):
        raise Refusal(400, "The path has a wrong percent-encoding or a NUL in it, or leads out of the root.")
    return path, query


def _split_other_form(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query and authority of a target that does not begin with a slash, or is none: RFC 9112 section 3.2."""
    if method in _UNSERVED:
        raise Refusal(501, _UNSERVED[method])
    if target == b"*" and method == b"OPTIONS":
        return target, b"", None
    absolute = ABSOLUTE.fullmatch(target)
    if not absolute or not is_host(absolute[1]):
        raise Refusal(400, "The request target is neither a path nor an http URI.")
    path, query = _split_origin_form(absolute[2])
    return path or b"/", query, absolute[1]


_ESCAPED: Final = re.compile(rb"(?:[^%]++|%(?!00)[0-9A-Fa-f]{2})*+")


def is_path(path: bytes) -> bool:
    """Whether a path means the same to everyone: what nginx refuses, an application behind it has never had to bear.

    That is an escape that is none, a NUL, and dot segments that lead above the root (RFC 3986 section 5.2.4 drops those;
    no client that resolves its links sends one).
    """
    if not _ESCAPED.fullmatch(path):
        return False
    decoded = unquote_to_bytes(path)
    if b"/.." in decoded:
        depth = 0
        for segment in decoded.split(b"/")[1:]:
            if segment == b"..":
                depth -= 1
                if depth < 0:
                    return False
            elif segment not in (b"", b"."):
                depth += 1
    return True


def _check_encoding(value: bytes) -> None:
    """Nothing, if the transfer codings are exactly ``chunked``: RFC 9112 sections 6.1 and 6.3."""
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if codings == [b"chunked"]:
        return
    if codings[-1] != b"chunked" or b"chunked" in codings[:-1] or b"" in codings:
        raise Refusal(400, "Transfer-Encoding does not end in one chunked.")
    raise Refusal(501, "The only transfer coding known here is chunked.")


def check_trailers(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Nothing, if no trailer field is one that only a head may have.

    They are kept apart from the head's fields anyway, but whoever sends one is up to something.
    """
    if any(name in _NO_TRAILERS for name, _ in fields):
        raise Refusal(400, "A trailer field that only a head may have.")


# Responses ------------------------------------------------------------------------------------------------------------


class Fields(NamedTuple):
    """Checked response fields, ready to be sent."""

    block: bytes
    """Field lines with their line ends, without those that are the server's business."""
    length: int
    """The declared Content-Length; -1 if there is none."""
    close: bool
    """The application asks that the connection be closed."""
    dated: bool
    """It brought its own Date."""
    named: bool
    """It brought its own Server."""
    is_known: bool = False
    """The same were there before, or will be."""


# What a response field is to us. All but the first are looked at; hop-by-hop ones never leave (PEP 3333, "Other HTTP
# features": they are the server's), and are dropped as Gunicorn drops them, since many applications set them.
_PLAIN, _LENGTH_FIELD, _ENCODING, _CONNECTION, _HOP, _DATE, _SERVER, _FLEETING = range(8)
_SPECIAL: Final = {
    "content-length": _LENGTH_FIELD,
    "transfer-encoding": _ENCODING,
    "connection": _CONNECTION,
    "keep-alive": _HOP,
    "proxy-connection": _HOP,
    "te": _HOP,
    "trailer": _HOP,
    "upgrade": _HOP,
    "date": _DATE,
    "server": _SERVER,
    # Seldom the same in two responses, or nothing to keep in memory: no field section with one of these is remembered.
    "set-cookie": _FLEETING,
    "etag": _FLEETING,
    "expires": _FLEETING,
    "last-modified": _FLEETING,
    "location": _FLEETING,
}
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NAMES_KEPT: Final = 512  # an application has a few dozen; one that makes up names must not make us grow
_SOUND: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
_BLANKS_BEFORE: Final = re.compile(rb"^([^:]++:)[ \t]++", re.MULTILINE)
"""A value that begins with blanks, as Django gives cookies to WSGI: a single one is preferred there (RFC 9112 section 5.1)."""


class _Words(NamedTuple, Generic[AnyStr]):
    """What differs between the fields of WSGI and those of ASGI: their strings."""

    type: type[AnyStr]
    names: dict[AnyStr, int]
    """What is known of names."""
    colon: AnyStr
    close: AnyStr
    line_end: AnyStr


_TEXT: Final = _Words(str, {}, ": ", "close", "\r\n")
_OCTETS: Final = _Words(bytes, {}, b": ", b"close", b"\r\n")


def _octets(text: Any) -> bytes:
    encoded: bytes = text.encode("latin-1") if isinstance(text, str) else text
    return encoded


def _wrong_type(name: object, value: object, wanted: type) -> TypeError:
    if isinstance(name, wanted):
        return TypeError(f"the value of the response field {name!r} is not {wanted.__name__}: {value!r}")
    return TypeError(f"the response field name {name!r} is not {wanted.__name__}")


def _kind_of(name: AnyStr, words: _Words[AnyStr]) -> int:
    given: Any = name
    text: str = given if isinstance(given, str) else given.decode("latin-1")
    if not _NAME.fullmatch(text):
        raise BadResponseError(f"the response field name {name!r} is not a token (RFC 9110 section 5.1)")
    kind = _SPECIAL.get(text.lower(), _PLAIN)
    if len(words.names) < _NAMES_KEPT:
        words.names[name] = kind
    return kind


_sections: dict[tuple[object, ...], Fields] = {}
"""Field sections that were checked, and what came of it: most responses of an application have the same few."""
_SECTIONS_KEPT: Final = 256
_SECTION_FIELDS: Final = 16
_SECTION_SIZE: Final = 1024


def check_fields(headers: Iterable[tuple[str, str]]) -> Fields:
    """The response fields of a WSGI application, checked.

    Raises:
        BadResponseError: a name that is no token, a value with CR, LF, NUL or another control character, or outside of
            Latin-1; a Content-Length that is no number, or is there twice, or beside Transfer-Encoding.
        TypeError: a name or value that is not a str, or an entry that is not a pair.
    """
    key = tuple(headers)
    try:
        known = _sections.get(key)
    except TypeError:  # pairs that are lists: allowed as far as they go
        return _check(key, _TEXT, kept=False)
    return known or _check(key, _TEXT, kept=len(key) <= _SECTION_FIELDS)


def check_response(status: str, headers: Iterable[tuple[str, str]]) -> tuple[int, bytes, Fields]:
    """`check_status` and `check_fields` in one, for there is one of them in each response.

    Raises:
        BadResponseError, TypeError: see there.
    """
    key = tuple(headers)
    try:
        fields = _sections.get(key)
    except TypeError:  # pairs that are lists
        fields = None
    if fields is None:
        fields = check_fields(key)
    known = _statuses.get(status)
    code, line = known or check_status(status)
    return code, line, fields


def check_byte_fields(headers: Iterable[Iterable[bytes]]) -> Fields:
    """The response fields of an ASGI application, checked: `check_fields` for names and values that are bytes.

    Raises:
        BadResponseError: see there.
        TypeError: a name or value that is not bytes.
        ValueError: an entry that is not a pair.
    """
    key = tuple(headers)
    try:
        known = _sections.get(key)
    except TypeError:  # pairs that are lists, as some applications make them
        return _check(key, _OCTETS, kept=False)
    return known or _check(key, _OCTETS, kept=len(key) <= _SECTION_FIELDS)


def _check(key: tuple[Any, ...], words: _Words[AnyStr], *, kept: bool) -> Fields:
    """The rules; `kept`: remember what comes of it, if it may be."""
    lines: list[AnyStr] = []
    length = -1
    coded = close = dated = named = False
    _, names, colon, closing, line_end = words
    name: AnyStr
    value: AnyStr
    for name, value in key:
        try:
            kind = names.get(name)
            line = name + colon + value
        except TypeError:
            raise _wrong_type(name, value, words.type) from None
        if kind is None:
            kind = _kind_of(name, words)
        if kind:
            if kind == _LENGTH_FIELD:
                if length >= 0:
                    raise BadResponseError("the response has more than one Content-Length")
                length = _declared(value)
            elif kind == _ENCODING:
                coded = True
                continue
            elif kind == _CONNECTION:
                close = close or closing in value.lower()
                continue
            elif kind == _HOP:
                continue
            elif kind == _FLEETING:
                kept = False
            elif kind == _DATE:
                dated, kept = True, False
            else:
                named = True
        lines.append(line)
    if coded and length >= 0:
        raise BadResponseError("the response has both Transfer-Encoding and Content-Length")
    if not lines:
        return Fields(b"", length, close, dated, named)
    lines.append(colon[:0])
    try:
        block = _octets(line_end.join(lines))
    except UnicodeEncodeError as error:
        raise BadResponseError(f"a response field holds {error.object[error.start]!r}, which is not in Latin-1") from None
    # Only the line ends may remain: one scan for CR, LF, NUL and all other control characters.
    if block.translate(None, _SOUND) != b"\r\n" * (len(lines) - 1):
        culprit = next(line for line in lines if _octets(line).translate(None, _SOUND))
        raise BadResponseError(f"a control character in the response field {culprit!r}")
    if b":  " in block:
        block = _BLANKS_BEFORE.sub(rb"\1 ", block)
    kept = kept and len(block) <= _SECTION_SIZE
    fields = Fields(block, length, close, dated, named, kept)
    if kept:
        if len(_sections) >= _SECTIONS_KEPT:
            _sections.clear()
        _sections[key] = fields
    return fields


def check_response_trailers(headers: Iterable[Iterable[bytes]]) -> bytes:
    """The trailer fields of a response as lines, checked as its fields are.

    Raises:
        BadResponseError: see `check_byte_fields`; or one that frames, routes or describes the message, which only a head may
            have (RFC 9110 section 6.5.1).
        TypeError, ValueError: see there.
    """
    pairs = [(name, value) for name, value in headers]
    checked = check_byte_fields(pairs)
    for name, _ in pairs:
        if _kind_of(name, _OCTETS) not in (_PLAIN, _FLEETING):
            raise BadResponseError(f"the trailer field {name!r} may stand in a head only (RFC 9110 section 6.5.1)")
    return checked.block


def _declared(value: str | bytes) -> int:
    digits = value.strip()  # blanks are no part of it: RFC 9110 section 5.5; what is no blank is found with the whole block
    if not (value.isascii() and digits.isdigit()) or len(digits) > 18:
        raise BadResponseError(f"the response's Content-Length {value!r} is not a number")
    return int(digits)


_STATUS: Final = re.compile(r"([2-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_statuses: dict[str, tuple[int, bytes]] = {}
_STATUSES_KEPT: Final = 256


def check_status(status: str) -> tuple[int, bytes]:
    """Code and status line (with its line end) of a WSGI status, ``200 OK``.

    Raises:
        BadResponseError: not three digits and a reason, or 1xx, which is never the final answer.
    """
    known = _statuses.get(status)
    if known is not None:
        return known
    try:
        match = _STATUS.fullmatch(status)
    except TypeError:  # bytes, a number
        match = None
    if not match:
        raise BadResponseError(f"the status {status!r} is not a final code and a reason, like '200 OK'")
    line = status if " " in status else status + " "  # the blank is part of status-line: RFC 9112 section 4
    checked = int(match[1]), b"HTTP/1.1 %b\r\n" % line.encode("latin-1")
    if len(_statuses) < _STATUSES_KEPT:
        _statuses[status] = checked
    return checked


_codes: dict[int, bytes] = {}
_phrases: Final = {status.value: status.phrase for status in HTTPStatus}


def status_line(code: int) -> bytes:
    """The status line (with its line end) of a final status code, with the phrase that Python knows for it.

    Raises:
        BadResponseError: not a whole number from 200 to 999.
    """
    known = _codes.get(code)
    if known is not None:
        return known
    if not isinstance(code, int):  # an HTTPStatus is one
        raise BadResponseError(f"the status {code!r} is not a whole number")
    number = int(code)
    phrase = _phrases.get(number, "")
    _, line = check_status(f"{number} {phrase}")
    _codes[number] = line  # there are eight hundred at most
    return line
