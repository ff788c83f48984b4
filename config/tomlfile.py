"""Settings from TOML: arbiter.toml, or the table [tool.arbiter] of a pyproject.toml.

tomllib gives values without their lines, so the lines are found by a second, much simpler reading. It knows tables,
dotted keys and strings over several lines, which is all that is needed to tell where a setting stands; where it finds
nothing, the message names the file alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# key = value, or [table]; keys may be dotted and quoted (TOML 1.0, "Keys").
_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_LINE = re.compile(rf"\s*(?:\[\s*(?P<table>{_DOTTED})\s*\]|(?P<key>{_DOTTED})\s*=)")
_PART = re.compile(_KEY)
_TRIPLE = re.compile(r'"""|' + "'''")
_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")  # how tomllib ends its messages


class TomlError(Exception):
    """The text is not TOML, or not the table that was asked for."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.line = line


class Entry(NamedTuple):
    """One key of the table."""

    name: str
    value: object
    line: int | None


def read(text: str, table: tuple[str, ...] = ()) -> list[Entry] | None:
    """The entries of a table, in order, or None when there is no such table.

    Raises:
        TomlError: `text` is not TOML, or `table` is not a table in it.

    """
    import tomllib

    try:
        node: object = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        position = _POSITION.search(str(error))
        reason = _POSITION.sub("", str(error))
        raise TomlError(f"{reason}.", int(position[1]) if position else None) from None
    for part in table:
        if not isinstance(node, dict):
            raise TomlError(f"[{'.'.join(table)}] is not a table.", None)
        if part not in node:
            return None
        node = node[part]
    if not isinstance(node, dict):
        raise TomlError(f"[{'.'.join(table)}] is not a table.", None)
    lines = _lines(text)
    return [Entry(name, value, lines.get((*table, name)) or lines.get(table)) for name, value in node.items()]


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line on which each key and table first appears."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    inside = ""  # the quotes of the string that is still open
    for number, line in enumerate(text.splitlines(), 1):
        if not inside and (match := _LINE.match(line)):
            if match["table"]:
                path = table = _parts(match["table"])
            else:
                path = table + _parts(match["key"])
            for depth in range(1, len(path) + 1):
                found.setdefault(path[:depth], number)
        for quotes in _TRIPLE.findall(line):
            if not inside:
                inside = quotes
            elif inside == quotes:
                inside = ""
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
