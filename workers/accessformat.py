"""What a line of the access log says of a request: in Gunicorn's format language, or as JSON.

A format is compiled once into a few functions, as the standard library makes named tuples: nothing is looked up, dispatched or
created per request that the line does not show. When a request is over, what its line needs is put into a tuple, its record;
of many records a loop makes lines later. The work is the same, but between two requests the caches have seen everything else
that a server does, and a line that is made alone costs three times as much as one among others. What the application might
change meanwhile (the environ, its headers) is made text at once. What a line says of the request's head is made once
for a head that comes again, as most do (`http1`), and kept where other interfaces keep what they make of it. The language,
its compiler and the values are here together, since an expression of the first is a name of the last.

Everything that a client or the application chose is escaped as JSON escapes it (control characters, quotes, backslash, all
that is not ASCII), so that nobody can forge a line or a field, and a format that looks like JSON gives JSON. Durations are
monotonic; the wall clock is read for the time of day only. As in Gunicorn, what is missing or unknown is ``-``.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import os
import re
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbiter.config.lists import Skip
    from arbiter.workers.protocols.policy import Request


class Entry(NamedTuple):
    """What is known of a request when it is over. The names are those that the expressions below use."""

    remote: str
    """The client's host; empty on a unix socket."""
    request: Request
    status: int
    sent: int
    """Bytes of body."""
    seconds: float
    """From the head's arrival to the response's end; of no matter unless `Format.wants_seconds`."""
    headers: Sequence[tuple[str, str]] | Sequence[tuple[bytes, bytes]]
    """Of the response, as the application gave them."""
    environ: Mapping[str, Any]
    """For ``%({NAME}e)s``; `REQUEST_ID` and `QUEUE` are in it if the `Format` wants them."""
    cpu: int = -1
    """Microseconds of processor time; -1: not known."""


Record = tuple[Any, ...]
"""What a line needs to know of a request: only its `Format` knows which value is where. Nothing in it changes any more."""
Recorder = Callable[..., None]
"""Takes a request that is over: the first of two the values of its `Entry`, by position; the second, for WSGI, its exchange,
environ, the monotonic moment at which it began, and its thread's nanoseconds then (0: not asked for)."""


REQUEST_ID: Final = "arbiter.request_id"
"""The key in the environ."""
QUEUE: Final = "arbiter.queue_us"
"""The key of the microseconds that a request has waited for the worker; not there if nobody knows."""


class Format:
    """How a line is made, and what has to be known for it."""

    __slots__ = ("lines", "recorders", "wants_cpu", "wants_id", "wants_queue", "wants_seconds")

    def __init__(self, form: str, *, as_json: bool = False, skip: Sequence[Skip] = ()) -> None:
        """Made in the worker, whose pid is in its lines.

        Args:
            form: like ``%(h)s "%(r)s" %(s)s``.
            as_json: an object with typed values on each line, instead of `form`.
            skip: requests that make no line.
        """
        parts = _json_parts() if as_json else _parts(form)
        made = _compiled(parts, skip)
        self.lines: Callable[[Sequence[Record]], str] = made["lines"]
        """The lines of these records, one after another."""
        self.recorders: Callable[[list[Record], int, Callable[[], None], Callable[[], None]], tuple[Recorder, Recorder]]
        self.recorders = made["recorders"]
        """Gives two functions that put a record at the end of a list: see `Recorder`. They take the list, from what length on
        the third, which empties it, is called, and what is called when there can be no record, from its `except` clause."""
        shown = " ".join(part.expression for part in parts)
        self.wants_seconds = "seconds" in shown
        """Whether a line shows it: then it has to be measured, as have the next and the last."""
        self.wants_cpu = "cpu" in shown
        self.wants_id = REQUEST_ID in shown
        """Whether a line shows it: then a request has to have one."""
        self.wants_queue = QUEUE in shown


def covers(skip: Skip, status: int, path: bytes) -> bool:
    """Whether a request is one of those that make no line."""
    if not skip.first <= status <= skip.last:
        return False
    wanted = skip.path.encode()
    return not wanted or path == wanted or (skip.is_prefix and path.startswith(wanted))


# The language ---------------------------------------------------------------------------------------------------------


class _Of(Enum):
    """What a value depends on."""

    FIELDS = 1
    """The request's fields: in its expression they are `fields`, by their lower-case names."""
    HEAD = 2
    """The request's head: `request`."""
    EACH = 3
    """Values of the `Entry` that stay as they are, or the time of day, `now`."""
    OPEN = 4
    """What the application has given and may change: the `environ`, its `headers`."""


class _Part(NamedTuple):
    """A piece of a line: text, and the value after it."""

    text: str
    of: _Of = _Of.EACH
    expression: str = ""
    """What stands between the braces of an f-string; may use the names of `_COMMON` besides. Empty: no value comes after the
    text."""
    argument: object = None
    """What ARGUMENT in the expression stands for."""


_FIELDS, _HEAD, _EACH, _OPEN = _Of

_CONSTANTS: Final[Mapping[str, Callable[[], str]]] = {
    "l": lambda: "-",
    "p": lambda: f"<{os.getpid()}>",
}

_ATOMS: Final[Mapping[str, tuple[_Of, str]]] = {
    "h": (_EACH, "words[str(remote)]"),
    "u": (_FIELDS, "user(fields)"),
    "t": (_EACH, "dates[int(now)]"),
    "r": (_HEAD, "texts[request.method]} {texts[request.target]} {request.version"),
    "m": (_HEAD, "texts[request.method]"),
    "U": (_HEAD, "texts[request.path]"),
    "q": (_HEAD, "texts[request.query]"),
    "H": (_HEAD, "request.version"),
    "s": (_EACH, "status"),
    "B": (_EACH, "sent"),
    "b": (_EACH, "sent or '-'"),
    "f": (_FIELDS, "texts[fields.get(b'referer', b'')]"),
    "a": (_FIELDS, "texts[fields.get(b'user-agent', b'')]"),
    "T": (_EACH, "int(seconds)"),
    "M": (_EACH, "int(seconds * 1e3)"),
    "D": (_EACH, "int(seconds * 1e6)"),
    "L": (_EACH, "seconds:.6f"),
    "cpu": (_EACH, "cpu if cpu >= 0 else '-'"),
    "queue": (_OPEN, f"number(environ.get('{QUEUE}'))"),
    "id": (_OPEN, f"words[environ.get('{REQUEST_ID}', '')]"),
}
"""``%(r)s`` closes and opens braces of its own."""

_NAMED: Final[Mapping[str, tuple[_Of, str]]] = {
    "i": (_FIELDS, "texts[fields.get(ARGUMENT, b'')]"),
    "o": (_OPEN, "header(headers, ARGUMENT)"),
    "e": (_OPEN, "words[str(environ.get(ARGUMENT, ''))]"),
}
"""``%({NAME}i)s`` and its like."""

_JSON: Final[Mapping[str, tuple[_Of, str]]] = {
    "time": (_EACH, "quoted_dates[int(now)]"),
    "remote": (_EACH, "quoted_words[str(remote)]"),
    "user": (_FIELDS, "quoted_user(fields)"),
    "method": (_HEAD, "quoted[request.method]"),
    "path": (_HEAD, "quoted[request.path]"),
    "query": (_HEAD, "quoted[request.query]"),
    "protocol": (_HEAD, "quoted_words[request.version]"),
    "status": (_EACH, "status"),
    "bytes": (_EACH, "sent"),
    "seconds": (_EACH, "seconds:.6f"),
    "cpu_us": (_EACH, "cpu if cpu >= 0 else 'null'"),
    "queue_us": (_OPEN, f"json_number(environ.get('{QUEUE}'))"),
    "host": (_FIELDS, "quoted[fields.get(b'host', b'')]"),
    "referer": (_FIELDS, "quoted[fields.get(b'referer', b'')]"),
    "user_agent": (_FIELDS, "quoted[fields.get(b'user-agent', b'')]"),
    "request_id": (_OPEN, f"quoted_words[environ.get('{REQUEST_ID}', '')]"),
}
"""The members of a JSON line, in this order; ``pid`` comes after them."""

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
            parts.append(_Part(text, *_NAMED[kind], name if kind == "e" else name.lower().encode("latin-1", "replace")))
            text = ""
        elif atom := _ATOMS.get(letter):
            parts.append(_Part(text, *atom))
            text = ""
        else:
            text += "-"
    parts.append(_Part(text + form[at:]))
    return parts


def _json_parts() -> list[_Part]:
    parts = [_Part(f', "{name}": ', *atom) for name, atom in _JSON.items()]
    parts[0] = parts[0]._replace(text="{" + parts[0].text.removeprefix(", "))
    return [*parts, _Part(f', "pid": {os.getpid()}}}')]


# Compiling it ---------------------------------------------------------------------------------------------------------

_KEPT_OF_HEAD: Final = 2 * 1024
"""Characters, at most, to keep of a head that may come again: as many as such a head may have bytes (`http1`)."""
_numbers = itertools.count()

_RECORDED: Final[Mapping[str, str]] = {
    "remote": "environ.get('REMOTE_ADDR', '')",  # what middleware like Werkzeug's ProxyFix put there, as in Gunicorn
    "request": "exchange.request",
    "status": "exchange.status",
    "sent": "exchange.sent",
    "seconds": "monotonic() - started",
    "cpu": "(thread_time_ns() - cpu) // 1000 if cpu else -1",
    "now": "time()",
}
"""What a record may have, and how the second `Recorder` gets it. The first one has it by this name, but for the time."""


def _compiled(parts: Sequence[_Part], skip: Sequence[Skip]) -> dict[str, Any]:
    """The functions `lines` and `recorders` of a `Format`.

    For the default format they and what they are helped by are::

        def of_fields(request):
            fields = dict(request.fields)
            return keep(request.of_fields, (f"{user(fields)}", f"{texts[...]}", f"{texts[...]}"))

        def of_head(request):
            fields = request.of_fields.get(name) or of_fields(request)
            return keep(request.of_head, (f"{text1}{fields[0]}{text2}", f"{text3}{texts[request.method]} ...", ...))

        def lines(records):
            made = []
            for remote, request, status, sent, now in records:
                head = request.of_head.get(name) or of_head(request)
                made.append(f"{words[str(remote)]}{head[0]}{dates[int(now)]}{head[1]}{status}{text5}{sent or '-'}{head[2]}")
            return "".join(made)

        def recorders(records, many, full, failed):
            append = records.append
            def add(remote, request, status, sent, seconds, headers, environ, cpu=-1):
                try:
                    append((remote, request, status, sent, time()))
                except Exception:
                    failed()
                if len(records) >= many:
                    full()
            def note(exchange, environ, started, cpu):
                ...
                    append((environ.get('REMOTE_ADDR', ''), exchange.request, exchange.status, exchange.sent, time()))
                ...
            return add, note
    """
    name = f"access {next(_numbers)}"
    known = {**_COMMON, "name": name}
    of_fields: list[str] = []
    of_head: list[str] = []
    line: list[str] = []
    at_once: dict[str, str] = {}
    run: list[str] = []  # pieces, one after another, that the head and the format know
    is_made_of_head = False

    def close() -> None:
        nonlocal is_made_of_head
        if is_made_of_head:
            line.append(f"{{head[{len(of_head)}]}}")
            of_head.append("".join(run))
        else:
            line.extend(run)
        run.clear()
        is_made_of_head = False

    for number, part in enumerate(parts):
        # What a format holds goes in as a value, and never becomes code.
        known[f"text{number}"], known[f"argument{number}"] = part.text, part.argument
        if part.text:
            run.append(f"{{text{number}}}")
        expression = part.expression.replace("ARGUMENT", f"argument{number}")
        if not expression:
            continue
        if part.of is _OPEN:
            at_once[f"value{number}"] = expression
            expression = f"value{number}"
        piece = f"{{{expression}}}"
        if part.of is _EACH or part.of is _OPEN:
            close()
            line.append(piece)
            continue
        is_made_of_head = True
        if part.of is _FIELDS:
            of_fields.append(piece)
            piece = f"{{fields[{len(of_fields) - 1}]}}"
        run.append(piece)
    known["line_end"] = "\n"
    run.append("{line_end}")
    close()
    rows = []
    if skip:
        known["skips"] = skip
        rows.append("if any(covers(skip, status, request.path) for skip in skips): continue")
    if of_head:
        rows.append("head = request.of_head.get(name) or of_head(request)")
    rows.append(f'made.append(f"""{"".join(line)}""")')
    used = set(re.findall(r"\w+", " ".join(rows)))
    recorded = [name for name in _RECORDED if name in used]
    rows = [
        "def lines(records):",
        "    made = []",
        f"    for {_items([*recorded, *at_once])} in records:",
        *(f"        {row}" for row in rows),
        "    return ''.join(made)",
        "def recorders(records, many, full, failed):",
        "    append = records.append",
        f"    def add({', '.join(Entry._fields)}=-1):",
        *_recording([*(_RECORDED[name] if name == "now" else name for name in recorded), *at_once.values()]),
        "    def note(exchange, environ, started, cpu):",
        *_recording(
            [
                *(_RECORDED[name] for name in recorded),
                *(text.replace("headers", "exchange.headers") for text in at_once.values()),
            ]
        ),
        "    return add, note",
        "def of_head(request):",
    ]
    if of_fields:
        rows.append("    fields = request.of_fields.get(name) or of_fields(request)")
    rows.append(f"    return keep(request.of_head, name, ({_texts_of(of_head)}))")
    rows.append("def of_fields(request):")
    rows.append("    fields = dict(request.fields)")  # the last of a name, as in Gunicorn
    rows.append(f"    return keep(request.of_fields, name, ({_texts_of(of_fields)}))")
    exec("\n".join(rows), known)  # noqa: S102 - the text is made of this module's own expressions and of numbers
    return known


def _items(names: Sequence[str]) -> str:
    """A tuple's display."""
    return f"({''.join(f'{name}, ' for name in names)})"


def _recording(values: Sequence[str]) -> list[str]:
    """The body of a function that takes a record of these."""
    return [
        "        try:",
        f"            append({_items(values)})",
        "        except Exception:",  # an object of the application's, in its environ, that has no text
        "            failed()",
        "        if len(records) >= many:",
        "            full()",
    ]


def _texts_of(pieces: Sequence[str]) -> str:
    return "".join(f'f"""{piece}""",' for piece in pieces)


def _keep(made: dict[str, Any], name: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    if sum(map(len, texts)) <= _KEPT_OF_HEAD:
        made[name] = texts
    return texts


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


class _Dates(dict[int, str]):
    """Seconds since the epoch in one form: the last one, so that it is made once a second."""

    def __init__(self, make: Callable[[time.struct_time], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, second: int) -> str:
        text = self._make(time.localtime(second))
        self.clear()
        self[second] = text
        return text


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _apache(now: time.struct_time) -> str:
    """As Apache writes it. Not %b: a log's months must not follow the locale."""
    return time.strftime(f"[%d/{_MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S %z]", now)


def _rfc3339(now: time.struct_time) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", now)
    return f'"{text[:-2]}:{text[-2:]}"'


_COMMON: Final[Mapping[str, Any]] = {
    "covers": covers,
    "keep": _keep,
    "time": time.time,
    "monotonic": time.monotonic,
    "thread_time_ns": time.thread_time_ns,
    "texts": _texts,
    "words": _words,
    "quoted": _quoted,
    "quoted_words": _quoted_words,
    "user": _user,
    "quoted_user": _quoted_user,
    "header": _header,
    "number": _number,
    "json_number": _json_number,
    "dates": _Dates(_apache),
    "quoted_dates": _Dates(_rfc3339),
}
"""What expressions may use besides the values that they are of."""
