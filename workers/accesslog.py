"""One line per request, in Gunicorn's format language.

The format is taken apart once; a line is then one ``%`` over a tuple and one write. Everything that a client or the
application chose is escaped as JSON escapes it (control characters, quotes, backslash, all that is not ASCII), so that
nobody can forge a line or a field, and a format that looks like JSON gives JSON. Durations are monotonic; the wall clock
is read for ``%(t)s`` only. As in Gunicorn, what is missing or unknown is ``-``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arbiter.workers.contract import Writer
    from arbiter.workers.protocols.policy import Request


class Entry(NamedTuple):
    """What is known of a request when it is over."""

    remote: str
    """The client's host; empty on a unix socket."""
    request: Request
    status: int
    sent: int
    """Bytes of body."""
    seconds: float
    """From the head's arrival to the response's end."""
    headers: Sequence[tuple[str, str]]
    """Of the response, as the application gave them."""
    environ: Mapping[str, Any]
    """For ``%({NAME}e)s``."""


MANY: Final = 16 * 1024
"""Characters after which lines are written even under constant load: about 150 lines, so a tail of the log stays alive."""


class AccessLog:
    """Writes entries in one format to one place."""

    __slots__ = ("_getters", "_lines", "_size", "_template", "_writer")

    def __init__(self, form: str, writer: Writer) -> None:
        """`form`: like ``%(h)s "%(r)s" %(s)s``. Made in the worker: ``%(p)s`` is the process that made it."""
        self._writer = writer
        self._template, self._getters = _compile(form)
        self._lines: list[str] = []
        self._size = 0

    def add(self, entry: Entry) -> None:
        """Take one line; it is written by the next `flush`, or when there are many. May be called by any thread."""
        line = self._template % tuple([get(entry) for get in self._getters])
        self._lines.append(line)
        self._size += len(line)
        if self._size >= MANY:
            self.flush()

    def flush(self) -> None:
        """Write what has been taken. A worker calls it whenever it has nothing better to do than to wait."""
        if self._lines:
            lines, self._lines, self._size = self._lines, [], 0
            self._writer.write("".join(lines).encode())


_ATOM: Final = re.compile(r"%\((?:\{([^}]+)\}([ieo])|([a-zA-Z]))\)s|%%")


def _compile(form: str) -> tuple[str, tuple[Callable[[Entry], object], ...]]:
    """A template with a ``%s`` for each atom, and what gives the atoms' values."""
    template = ""
    getters = []
    at = 0
    for match in _ATOM.finditer(form):
        template += form[at : match.start()].replace("%", "%%")
        at = match.end()
        name, kind, letter = match.groups()
        if match[0] == "%%" or letter in _CONSTANTS:
            template += "%%" if match[0] == "%%" else _CONSTANTS[letter]()
            continue
        template += "%s"
        getters.append(_named(name, kind) if name else _LETTERS.get(letter, lambda _: "-"))
    template += form[at:].replace("%", "%%") + "\n"
    return template, tuple(getters)


def _named(name: str, kind: str) -> Callable[[Entry], object]:
    """The getter of ``%({name}kind)s``."""
    if kind == "i":
        field = name.lower().encode("latin-1", "replace")
        return lambda entry: _field(entry, field)
    if kind == "o":
        wanted = name.lower()
        return lambda entry: _text(",".join(value for key, value in entry.headers if key.lower() == wanted))
    return lambda entry: _text(str(entry.environ.get(name, "")))


def _text(value: str) -> str:
    """`value`, safe between JSON's quotes; ``-`` if there is none."""
    if not value:
        return "-"
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return value
    return json.dumps(value)[1:-1].replace("\x7f", "\\u007f")


def _field(entry: Entry, name: bytes) -> str:
    for key, value in entry.request.fields:
        if key == name:
            return _text(value.decode("latin-1"))
    return "-"


def _request_line(entry: Entry) -> str:
    request = entry.request
    return _text(f"{request.method.decode()} {request.target.decode()} {request.version}")


def _user(entry: Entry) -> str:
    """The name in HTTP Basic credentials (RFC 7617), never the password."""
    for key, value in entry.request.fields:
        if key == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() != b"basic":
                return "-"
            try:
                return _text(base64.b64decode(credentials.strip(), validate=True).partition(b":")[0].decode())
            except (binascii.Error, UnicodeDecodeError):
                return "-"
    return "-"


class _Now:
    """Local time as Apache writes it, made once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, _: Entry) -> str:
        second = int(time.time())
        if second != self._second:
            now = time.localtime(second)
            # Not %b: a log's months must not follow the locale.
            self._text = time.strftime(f"[%d/{_MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S %z]", now)
            self._second = second
        return self._text


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_CONSTANTS: Final[Mapping[str, Callable[[], str]]] = {
    "l": lambda: "-",
    "p": lambda: f"<{os.getpid()}>",
}

_LETTERS: Final[Mapping[str, Callable[[Entry], object]]] = {
    "h": lambda entry: _text(entry.remote),
    "u": _user,
    "t": _Now(),
    "r": _request_line,
    "m": lambda entry: entry.request.method.decode(),
    "U": lambda entry: _text(entry.request.path.decode()),
    "q": lambda entry: _text(entry.request.query.decode()),
    "H": lambda entry: entry.request.version,
    "s": lambda entry: entry.status,
    "B": lambda entry: entry.sent,
    "b": lambda entry: entry.sent or "-",
    "f": lambda entry: _field(entry, b"referer"),
    "a": lambda entry: _field(entry, b"user-agent"),
    "T": lambda entry: int(entry.seconds),
    "M": lambda entry: int(entry.seconds * 1e3),
    "D": lambda entry: int(entry.seconds * 1e6),
    "L": lambda entry: f"{entry.seconds:.6f}",
}
