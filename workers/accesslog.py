"""One line per request: in Gunicorn's format language, or as JSON.

A format is compiled once into one function whose body is one f-string, as the standard library makes named tuples: nothing is
looked up, dispatched or created per request that the line does not show. Everything that a client or the application chose
is escaped as JSON escapes it (control characters, quotes, backslash, all that is not ASCII), so that nobody can forge a line
or a field, and a format that looks like JSON gives JSON; what has been escaped is kept for a while, since browsers and
targets come again. Durations are monotonic; the wall clock is read for the time of day only. As in Gunicorn, what is missing
or unknown is ``-``.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import os
import re
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arbiter.config.lists import Skip
    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Writer
    from arbiter.workers.protocols.policy import Request


class Entry(NamedTuple):
    """What is known of a request when it is over. The names are those that the expressions in `_ATOMS` use."""

    remote: str
    """The client's host; empty on a unix socket."""
    request: Request
    status: int
    sent: int
    """Bytes of body."""
    seconds: float
    """From the head's arrival to the response's end."""
    headers: Sequence[tuple[str, str]] | Sequence[tuple[bytes, bytes]]
    """Of the response, as the application gave them."""
    environ: Mapping[str, Any]
    """For ``%({NAME}e)s``; `REQUEST_ID` and `QUEUE` are in it if the `AccessLog` wants them."""
    cpu: int = -1
    """Microseconds of processor time; -1: not known."""


MANY: Final = 16 * 1024
"""Characters after which lines are written even under constant load: about 150 lines, so a tail of the log stays alive."""


class AccessLog:
    """Writes entries in one format to one place."""

    __slots__ = ("_line", "_lines", "_size", "_writer", "wants_cpu", "wants_id", "wants_queue")

    def __init__(self, form: str, writer: Writer, *, as_json: bool = False, skip: Sequence[Skip] = ()) -> None:
        """Made in the worker, whose pid is in its lines.

        Args:
            form: like ``%(h)s "%(r)s" %(s)s``.
            writer: where lines go.
            as_json: an object with typed values on each line, instead of `form`.
            skip: requests that make no line.
        """
        self._writer = writer
        parts = _json_parts() if as_json else _parts(form)
        self._line = _compiled(parts, skip)
        names = " ".join(part.expression for part in parts)
        self.wants_cpu = "cpu" in names
        """Whether a line shows it: then it has to be measured."""
        self.wants_id = REQUEST_ID in names
        """Whether a line shows it: then a request has to have one."""
        self.wants_queue = QUEUE in names
        """Whether a line shows how long a request has waited: then it has to be measured."""
        self._lines: deque[str] = deque()
        self._size = 0

    def add(self, entry: Entry) -> None:
        """Take one line; it is written by the next `flush`, or when there are many. May be called by any thread."""
        line = self._line(*entry)
        if line:
            self._lines.append(line)
            self._size += len(line)
            if self._size >= MANY:
                self.flush()

    def flush(self) -> None:
        """Write what has been taken. A worker calls it whenever it has nothing better to do than to wait."""
        lines = self._lines
        if lines:
            self._size = 0
            taken = []
            try:
                while True:  # one by one: another thread may add, or flush too, and no line may be lost or come twice
                    taken.append(lines.popleft())
            except IndexError:
                self._writer.write("".join(taken).encode())


class HandedOn(AccessLog):
    """Entries that somebody else makes lines of, or anything: a logger of the operator's."""

    __slots__ = ("_note", "_skip")

    def __init__(self, note: Callable[[Entry], None], skip: Sequence[Skip]) -> None:
        """`note` takes an entry, at once and in the thread that has it."""
        self.wants_cpu = self.wants_id = self.wants_queue = False
        self._lines = deque()
        self._note, self._skip = note, skip

    def add(self, entry: Entry) -> None:
        if not any(_covers(skip, entry.status, entry.request.path) for skip in self._skip):
            self._note(entry)


def open_access_log(settings: Settings, writer: Writer) -> AccessLog:
    """The access log that the settings ask for."""
    if note := getattr(writer, "note", None):
        return HandedOn(note, settings.access_log_skip)
    return AccessLog(settings.access_log_format, writer, as_json=settings.access_log_json, skip=settings.access_log_skip)


# What a line is made of -----------------------------------------------------------------------------------------------

REQUEST_ID: Final = "arbiter.request_id"
"""The key in the environ."""
QUEUE: Final = "arbiter.queue_us"
"""The key of the microseconds that a request has waited for the worker; not there if nobody knows."""

_CONSTANTS: Final[Mapping[str, Callable[[], str]]] = {
    "l": lambda: "-",
    "p": lambda: f"<{os.getpid()}>",
}

_ATOMS: Final[Mapping[str, str]] = {
    "h": "words[remote]",
    "u": "user(fields)",
    "t": "now()",
    "r": "texts[request.method]} {texts[request.target]} {request.version",
    "m": "texts[request.method]",
    "U": "texts[request.path]",
    "q": "texts[request.query]",
    "H": "request.version",
    "s": "status",
    "B": "sent",
    "b": "sent or '-'",
    "f": "texts[fields.get(b'referer', b'')]",
    "a": "texts[fields.get(b'user-agent', b'')]",
    "T": "int(seconds)",
    "M": "int(seconds * 1e3)",
    "D": "int(seconds * 1e6)",
    "L": "seconds:.6f",
    "cpu": "cpu if cpu >= 0 else '-'",
    "queue": f"number(environ.get('{QUEUE}'))",
    "id": f"words[environ.get('{REQUEST_ID}', '')]",
}
"""What stands between the braces of an f-string, where the fields of `Entry` and the names of `_COMMON` are known; ``%(r)s``
closes and opens braces of its own."""

_JSON: Final[Mapping[str, str]] = {
    "time": "quoted_now()",
    "remote": "quoted_words[remote]",
    "user": "quoted_user(fields)",
    "method": "quoted[request.method]",
    "path": "quoted[request.path]",
    "query": "quoted[request.query]",
    "protocol": "quoted_words[request.version]",
    "status": "status",
    "bytes": "sent",
    "seconds": "seconds:.6f",
    "cpu_us": "cpu if cpu >= 0 else 'null'",
    "queue_us": f"json_number(environ.get('{QUEUE}'))",
    "host": "quoted[fields.get(b'host', b'')]",
    "referer": "quoted[fields.get(b'referer', b'')]",
    "user_agent": "quoted[fields.get(b'user-agent', b'')]",
    "request_id": f"quoted_words[environ.get('{REQUEST_ID}', '')]",
}
"""The members of a JSON line, in this order; ``pid`` comes after them."""

_NAMED: Final[Mapping[str, str]] = {
    "i": "texts[fields.get(ARGUMENT, b'')]",
    "o": "header(headers, ARGUMENT)",
    "e": "words[str(environ.get(ARGUMENT, ''))]",
}
"""``%({NAME}i)s`` and its like."""


class _Part(NamedTuple):
    """A piece of a line: text, and the value after it."""

    text: str
    expression: str = ""
    """Empty: no value comes after the text."""
    argument: object = None
    """What ARGUMENT in the expression stands for."""


_ATOM: Final = re.compile(r"%\((?:\{([^}]+)\}([ieo])|([a-zA-Z]+))\)s|%%")


def _parts(form: str) -> list[_Part]:
    parts = []
    text = ""
    at = 0
    for match in _ATOM.finditer(form):
        text += form[at : match.start()]
        at = match.end()
        name, kind, letter = match.groups()
        if match[0] == "%%":
            text += "%"
        elif letter in _CONSTANTS:
            text += _CONSTANTS[letter]()
        elif name:
            parts.append(_Part(text, _NAMED[kind], name if kind == "e" else name.lower().encode("latin-1", "replace")))
            text = ""
        elif expression := _ATOMS.get(letter):
            parts.append(_Part(text, expression))
            text = ""
        else:
            text += "-"
    parts.append(_Part(text + form[at:]))
    return parts


def _json_parts() -> list[_Part]:
    parts = [_Part(f', "{name}": ', expression) for name, expression in _JSON.items()]
    parts[0] = parts[0]._replace(text="{" + parts[0].text.removeprefix(", "))
    return [*parts, _Part(f', "pid": {os.getpid()}}}')]


def _compiled(parts: Sequence[_Part], skip: Sequence[Skip]) -> Callable[..., str]:
    """The function that makes a line of an entry's values; an empty one for a request that makes none."""
    names = dict(_COMMON)
    pieces = []
    for number, (text, expression, argument) in enumerate(parts):
        # What a format holds goes in as a value, and never becomes code.
        names[f"text{number}"], names[f"argument{number}"] = text, argument
        pieces.append(f"{{text{number}}}")
        if expression:
            pieces.append(f"{{{expression.replace('ARGUMENT', f'argument{number}')}}}")
    line = "".join(pieces)
    rows = [f"def line({', '.join(Entry._fields)}):"]
    if skip:
        names["skips"] = skip
        rows.append("    if any(covers(skip, status, request.path) for skip in skips): return ''")
    if "fields" in line:
        rows.append("    fields = dict(request.fields)")  # the last of a name, as in Gunicorn
    rows.append(f'    return f"""{line}{{LINE_END}}"""')
    exec("\n".join(rows), names)  # noqa: S102 - the text is made of this module's own expressions and of numbers
    return cast("Callable[..., str]", names["line"])


def _covers(skip: Skip, status: int, path: bytes) -> bool:
    """Whether a request is one of those that make no line."""
    if not skip.first <= status <= skip.last:
        return False
    wanted = skip.path.encode()
    return not wanted or path == wanted or (skip.is_prefix and path.startswith(wanted))


# A request's id -------------------------------------------------------------------------------------------------------

_SOUND_ID: Final = re.compile(rb"[A-Za-z0-9._:+/=\-]{1,128}")


class Ids:
    """Names of requests, each given once by any process."""

    __slots__ = ("_count", "_start")

    def __init__(self) -> None:
        """Made in the worker, after the fork."""
        self._start = os.urandom(8).hex()
        self._count = itertools.count(1)

    def of(self, request: Request) -> str:
        """What the client, or the proxy before us, calls the request in X-Request-ID, if that is sound; else a new id."""
        for name, value in request.fields:
            if name == b"x-request-id":
                if _SOUND_ID.fullmatch(value):
                    return value.decode()
                break
        return f"{self._start}-{next(self._count):x}"


# The values -----------------------------------------------------------------------------------------------------------

_KEPT: Final = 1024
_LONGEST: Final = 512
"""Texts that are kept escaped, and the longest that is: half a MiB at most, whatever clients send. A site's targets and its
visitors' browsers of a second or two are fewer."""


Value = TypeVar("Value", bytes, str)


class _Texts(dict[Value, str]):
    """Values as they stand in a line. One for bytes and one for str: the two must not be compared (``python -bb``)."""

    def __init__(self, decode: Callable[[Value], str], missing: str, quote: str) -> None:
        """Empty.

        Args:
            decode: gives a value's text.
            missing: what stands for an empty value.
            quote: what stands around another one.
        """
        super().__init__()
        self._decode: Callable[[Value], str] = decode
        self._missing = missing
        self._quote = quote

    def __missing__(self, value: Value) -> str:
        text = self._decode(value)
        if not text:
            shown = self._missing
        else:
            if not (text.isascii() and text.isprintable() and '"' not in text and "\\" not in text):
                text = json.dumps(text)[1:-1].replace("\x7f", "\\u007f")
            shown = f"{self._quote}{text}{self._quote}"
        if len(value) <= _LONGEST:
            if len(self) >= _KEPT:
                self.clear()
            self[value] = shown
        return shown


def _latin(value: bytes) -> str:
    return value.decode("latin-1")


_texts: Final = _Texts[bytes](_latin, "-", "")
_words: Final = _Texts[str](str, "-", "")
_quoted: Final = _Texts[bytes](_latin, "null", '"')
_quoted_words: Final = _Texts[str](str, "null", '"')


def _name(fields: Mapping[bytes, bytes]) -> str:
    """The name in HTTP Basic credentials (RFC 7617), never the password; empty if there is none."""
    scheme, _, credentials = fields.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[0].decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _user(fields: Mapping[bytes, bytes]) -> str:
    return _words[_name(fields)] if b"authorization" in fields else "-"


def _quoted_user(fields: Mapping[bytes, bytes]) -> str:
    return _quoted_words[_name(fields)] if b"authorization" in fields else "null"


def _number(value: object) -> int | str:
    return value if type(value) is int else "-"  # the environ is the application's too, which may put anything there


def _json_number(value: object) -> int | str:
    return value if type(value) is int else "null"


def _header(headers: Sequence[tuple[str | bytes, str | bytes]], wanted: bytes) -> str:
    """All values of a field of the response."""
    name = _latin(wanted)
    texts = ([x if isinstance(x, str) else _latin(x) for x in pair] for pair in headers)
    return _words[",".join(value for key, value in texts if key.lower() == name)]


class _Now:
    """The time of day in one form, made once a second."""

    __slots__ = ("_make", "_second", "_text")

    def __init__(self, make: Callable[[time.struct_time], str]) -> None:
        self._make = make
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._text = self._make(time.localtime(second))
            self._second = second
        return self._text


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _apache(now: time.struct_time) -> str:
    """As Apache writes it. Not %b: a log's months must not follow the locale."""
    return time.strftime(f"[%d/{_MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S %z]", now)


def _rfc3339(now: time.struct_time) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", now)
    return f'"{text[:-2]}:{text[-2:]}"'


_COMMON: Final[Mapping[str, object]] = {
    "LINE_END": "\n",
    "covers": _covers,
    "texts": _texts,
    "words": _words,
    "quoted": _quoted,
    "quoted_words": _quoted_words,
    "user": _user,
    "quoted_user": _quoted_user,
    "header": _header,
    "number": _number,
    "json_number": _json_number,
    "now": _Now(_apache),
    "quoted_now": _Now(_rfc3339),
}
"""What expressions may use besides an entry's values and `fields`, the request's by their lower-case names."""
