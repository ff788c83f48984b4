"""Kinds whose values are several: addresses, paths, environment variables.

A list comes as a native list, or as text cut at a separator, or one item at a time from a flag that is repeated.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from arbiter.config.addresses import Address, parse_address
from arbiter.config.kinds import Kind, Path, Plain, Refused, Schema, Takes


class Addresses(Kind[tuple[Address, ...]]):
    """One or more addresses to listen on."""

    expected = "host:port, [v6]:port, unix:/path or fd://N"
    example = "127.0.0.1:8000"
    metavar = "ADDRESS"
    takes = Takes.MANY

    def parse(self, raw: object) -> tuple[Address, ...]:
        """The addresses, from a list, or from text with commas; a bare number is a port on this machine."""
        addresses = []
        for item in split_items(raw, separator=","):
            if not isinstance(item, str | int) or isinstance(item, bool):
                raise self.refused()
            try:
                addresses.append(parse_address(str(item)))
            except ValueError as error:
                raise self.refused(str(error)) from None
        if not addresses:
            raise self.refused()
        return tuple(addresses)

    def render(self, value: tuple[Address, ...]) -> Plain:
        """Their canonical forms."""
        return [str(address) for address in value]

    def schema(self) -> Schema:
        """One, or a list."""
        return _one_or_many({"type": ["string", "integer"]})

    def anchored(self, value: tuple[Address, ...], directory: str) -> tuple[Address, ...]:
        """The addresses, their socket files absolute."""
        return tuple(address.anchored(directory) for address in value)


class Paths(Kind[tuple[str, ...]]):
    """Directories or files, in order; there may be none."""

    expected = "paths, in a list or with commas"
    metavar = "PATHS"

    def __init__(self, *, example: str) -> None:
        self.example = example
        self._path = Path(example=example)

    def parse(self, raw: object) -> tuple[str, ...]:
        """The paths as written."""
        if raw is None:
            return ()
        try:
            return tuple(self._path.parse(item) for item in split_items(raw, separator=","))
        except Refused:
            raise self.refused() from None

    def schema(self) -> Schema:
        """One, or a list."""
        return _one_or_many({"type": "string"})

    def render(self, value: tuple[str, ...]) -> Plain:
        """A list."""
        return list(value)

    def anchored(self, value: tuple[str, ...], directory: str) -> tuple[str, ...]:
        """Absolute paths."""
        return tuple(self._path.anchored(item, directory) for item in value)


def _is_target(text: str) -> bool:
    return text.startswith("/") and text.isascii() and text.isprintable() and " " not in text


class Target(Kind[str]):
    """The path of a request."""

    expected = "a path that begins with /"
    metavar = "PATH"

    def __init__(self, *, example: str) -> None:
        self.example = example

    def parse(self, raw: object) -> str:
        """The path as written; without a query."""
        if not isinstance(raw, str) or not _is_target(raw) or "?" in raw:
            raise self.refused()
        return raw

    def render(self, value: str) -> Plain:
        """Itself."""
        return value


class Targets(Kind[tuple[str, ...]]):
    """Paths of requests, in order; there may be none."""

    expected = "paths that begin with /, in a list or with commas"
    metavar = "PATHS"
    example = "/,/login"

    def parse(self, raw: object) -> tuple[str, ...]:
        """The paths as written."""
        if raw is None:
            return ()
        items = tuple(str(item) for item in split_items(raw, separator=","))
        if not all(map(_is_target, items)):
            raise self.refused()
        return items

    def schema(self) -> Schema:
        """One, or a list."""
        return _one_or_many({"type": "string"})

    def render(self, value: tuple[str, ...]) -> Plain:
        """A list."""
        return list(value)


class Patterns(Kind[tuple[str, ...]]):
    """Patterns of file names, as in a shell; there may be none."""

    expected = "patterns of file names, in a list or with commas"
    metavar = "PATTERNS"
    takes = Takes.MANY

    def __init__(self, *, example: str) -> None:
        self.example = example

    def parse(self, raw: object) -> tuple[str, ...]:
        """The patterns as written."""
        if raw is None:
            return ()
        items = split_items(raw, separator=",")
        if not all(isinstance(item, str) and "\0" not in item for item in items):
            raise self.refused()
        return tuple(map(str, items))

    def schema(self) -> Schema:
        """One, or a list."""
        return _one_or_many({"type": "string"})

    def render(self, value: tuple[str, ...]) -> Plain:
        """A list."""
        return list(value)


class Skip(NamedTuple):
    """Requests that are meant by one item of `Skips`."""

    first: int
    last: int
    """The lowest and the highest of their statuses."""
    path: str
    """Their path; empty for any."""
    is_prefix: bool
    """Or all paths that begin with it."""


class Skips(Kind[tuple[Skip, ...]]):
    """Requests by status, path, or both; there may be none."""

    expected = "statuses and paths, like 304, 3xx, /healthz, /static/* or 2xx /healthz, in a list or with commas"
    metavar = "WHAT"
    example = "2xx /healthz,/static/*"
    takes = Takes.MANY
    _ITEM = re.compile(r"(?:(?P<status>[1-5](?:[0-9]{2}|xx))(?: +(?=/)|$))?(?:(?P<path>/[!-)+-~]*)(?P<star>\*?))?")

    def parse(self, raw: object) -> tuple[Skip, ...]:
        """What the items mean."""
        if raw is None:
            return ()
        return tuple(self._skip(str(item)) for item in split_items(raw, separator=","))

    def _skip(self, text: str) -> Skip:
        match = self._ITEM.fullmatch(text)
        if not text or not match:
            raise self.refused()
        status = match["status"] or ""
        first, last = (int(status.replace("x", digit)) for digit in "09") if status else (100, 599)
        return Skip(first, last, match["path"] or "", bool(match["star"]))

    def schema(self) -> Schema:
        """One, or a list."""
        return _one_or_many({"type": "string"})

    def render(self, value: tuple[Skip, ...]) -> Plain:
        """The items, in one way of writing them."""
        return [self._text(skip) for skip in value]

    @staticmethod
    def _text(skip: Skip) -> str:
        status = str(skip.first) if skip.first == skip.last else f"{skip.first // 100}xx"
        path = skip.path + "*" * skip.is_prefix
        return f"{'' if (skip.first, skip.last) == (100, 599) else status} {path}".strip()


class EnvPairs(Kind[tuple[tuple[str, str], ...]]):
    """Environment variables, in order, the last of a name winning."""

    expected = "NAME=value"
    example = "DJANGO_SETTINGS_MODULE=project.settings"
    metavar = "NAME=VALUE"
    takes = Takes.MANY
    is_secret = True
    MASK = "***"
    # Words in the names of variables that hold secrets, and URLs that carry a password.
    _WITHIN_NAME = r"(?i)SECRET|PASS|PWD|TOKEN|KEY|CREDENTIAL|PRIVATE|AUTH|DSN|SALT|COOKIE"
    _URL_LOGIN = r"(://[^/@\s:]*):[^/@\s]*@"

    def parse(self, raw: object) -> tuple[tuple[str, str], ...]:
        """The pairs, from a list of "NAME=value", from text with one pair on each line, or from a table."""
        if raw is None:
            return ()
        if isinstance(raw, dict):
            return self._once([self._pair(name, value) for name, value in raw.items()])
        pairs = []
        # No comma cuts here, and nothing cuts inside a list: a value may hold both.
        for item in raw if isinstance(raw, list | tuple) else split_items(raw, separator="\n"):
            name, equals, value = item.partition("=") if isinstance(item, str) else ("", "", "")
            if not equals:
                raise self.refused()
            pairs.append(self._pair(name, value))
        return self._once(pairs)

    def _pair(self, name: object, value: object) -> tuple[str, str]:
        # A name is not empty and holds neither "=" nor NUL: environ(7), and what putenv(3) takes.
        name = name.strip() if isinstance(name, str) else ""
        if not name or "=" in name or not isinstance(value, str) or "\0" in name + value:
            raise self.refused()
        return name, value

    @staticmethod
    def _once(pairs: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple(dict(pairs).items())

    def schema(self) -> Schema:
        """A list of pairs, or a table."""
        return {"anyOf": [_one_or_many({"type": "string"}), {"type": "object", "additionalProperties": {"type": "string"}}]}

    def render(self, value: tuple[tuple[str, str], ...]) -> Plain:
        """A list of "NAME=value"."""
        return [f"{name}={text}" for name, text in value]

    def masked(self, value: tuple[tuple[str, str], ...]) -> Plain:
        """The same list with every value hidden whose name or form says that it is a secret."""
        return [f"{name}={self._mask(name, text)}" for name, text in value]

    def _mask(self, name: str, text: str) -> str:
        return self.MASK if re.search(self._WITHIN_NAME, name) else re.sub(self._URL_LOGIN, rf"\1:{self.MASK}@", text)


def _one_or_many(item: Schema) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item}]}


def split_items(raw: object, separator: str) -> list[object]:
    """The items of a list and of text, all cut at `separator`, or the value alone."""
    if isinstance(raw, str):
        return [part.strip() for part in raw.split(separator) if part.strip()]
    if isinstance(raw, list | tuple):
        return [piece for item in raw for piece in split_items(item, separator)]
    return [raw]
