"""Kinds of value: how text or a native value becomes a setting, and how a setting is written back.

A kind reads what any source gives it: a string (environment, flag) or a native value (TOML, a Python file).
Three rules hold for each of them:

* what is not understood raises `Refused`, which says what was expected, with an example that works;
* `parse(render(value)) == value`: what `--print-config` shows can be put into a file;
* a kind is pure. It knows no file, no environment and no other setting.

Patterns are kept as text, which `re` compiles and caches when one is first needed: most runs need one or two.
"""

from __future__ import annotations

import os.path
import re
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
Plain = str | int | float | bool | list[str]  # what TOML and JSON can hold of a setting
Schema = dict[str, Any]  # a JSON Schema


class Refused(ValueError):  # noqa: N818 - a fact about a value, not a fault of the program
    """The value is not of its kind. The message says what was expected, with an example."""


class Takes(Enum):
    """How many values a flag of this kind takes on the command line."""

    NONE = "none"
    ONE = "one"
    MANY = "many"  # the flag may be repeated
    MAYBE = "maybe"  # the flag may stand alone


class Kind(ABC, Generic[T]):
    """One kind of value. Subclasses say what they expect, give an example, and convert both ways."""

    expected: str
    example: str
    metavar: str
    takes = Takes.ONE
    is_secret = False  # the value may hold passwords: it is never printed as it was given
    takes_code = False  # a Python file may give a function or a class
    flag_word = "true"  # what a flag without a value says

    @abstractmethod
    def parse(self, raw: object) -> T:
        """The setting's value.

        Raises:
            Refused: `raw` is not of this kind.

        """

    @abstractmethod
    def render(self, value: T) -> Plain:
        """The plainest value that `parse` reads back as `value`."""

    def schema(self) -> Schema:
        """What a TOML file may hold, as JSON Schema (2020-12); it may let pass what `parse` refuses, never the reverse."""
        return {"type": "string"}

    def anchored(self, value: T, directory: str) -> T:
        """The same value with relative paths placed in `directory`."""
        del directory
        return value

    def masked(self, value: T) -> Plain:
        """What may be shown of a value: all of it, unless a kind holds secrets."""
        return self.render(value)

    def refused(self, why: str = "") -> Refused:
        """The error for a value that is not of this kind; `why` says what is wrong with it, if that is known."""
        return Refused(f"{why + '; ' if why else ''}expected {self.expected}, like {self.example}.")


class Boolean(Kind[bool]):
    """Yes or no."""

    expected = "true or false"
    example = "true"
    metavar = ""
    takes = Takes.NONE
    # The words of systemd.syntax(7), which are also YAML's and those people try in the environment.
    WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}  # noqa: RUF012 - read only

    def parse(self, raw: object) -> bool:
        """True or False."""
        if isinstance(raw, bool):
            return raw
        value = self.WORDS.get(raw.strip().lower()) if isinstance(raw, str) else None
        if value is None:
            raise self.refused()
        return value

    def schema(self) -> Schema:
        """A boolean; its words in text are for the environment."""
        return {"type": ["boolean", "string"]}

    def render(self, value: bool) -> Plain:
        """Itself."""
        return value


class Allowed(Boolean):
    """Yes or no, where the flag says no: ``--no-sendfile``."""

    example = "false"
    flag_word = "false"


class Whole(Kind[int]):
    """A whole number between two bounds, both included."""

    metavar = "N"

    def __init__(self, minimum: int = 0, maximum: int | None = None, *, example: int) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.example = str(example)
        bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        self.expected = f"a whole number {bounds}"

    def parse(self, raw: object) -> int:
        """The number. A fraction, even 4.0, is refused: it is nearly always a division that nobody rounded."""
        value = whole(raw)
        if value is None or value < self.minimum or (self.maximum is not None and value > self.maximum):
            raise self.refused()
        return value

    def schema(self) -> Schema:
        """A number within the bounds, or text."""
        bounds = {"minimum": self.minimum} | ({} if self.maximum is None else {"maximum": self.maximum})
        return {"type": ["integer", "string"], **bounds}

    def render(self, value: int) -> Plain:
        """Itself."""
        return value


class Count(Kind[int]):
    """How many of something: at least 1, or "auto", which parses to `Count.AUTO` for `resolve` to replace."""

    AUTO = 0  # no count is 0, so the setting's type stays int
    expected = 'a whole number or "auto"'
    example = "4"
    metavar = "COUNT"

    def parse(self, raw: object) -> int:
        """The count, or AUTO."""
        if isinstance(raw, str) and raw.strip().lower() == "auto":
            return self.AUTO
        value = whole(raw)
        if value is None:
            raise self.refused()
        if value < 1:
            raise self.refused(f"{value} is below 1")
        return value

    def schema(self) -> Schema:
        """A number, or "auto"."""
        return {"type": ["integer", "string"], "minimum": 1, "examples": ["auto", 4]}

    def render(self, value: int) -> Plain:
        """The number, or "auto"."""
        return "auto" if value == self.AUTO else value


class Duration(Kind[float]):
    """A length of time in seconds."""

    metavar = "TIME"
    UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}  # noqa: RUF012 - read only
    # A year. Longer than any deadline; far below what overflows when it is added to a clock.
    MAXIMUM = 365 * 24 * 3600.0
    _FORM = r"(?ai)(\d+(?:\.\d*)?|\.\d+)(e[+-]?\d+)?\s*(ms|s|m|h|)"

    def __init__(self, minimum: float = 0.0, *, example: str = "30s") -> None:
        self.minimum = minimum
        self.example = example
        least = f" of at least {minimum:g}s" if minimum else ""
        self.expected = f"a time{least}, in seconds or with ms, s, m or h"

    def parse(self, raw: object) -> float:
        """Seconds: from a number, or from text with a unit."""
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            seconds: float = raw  # not converted yet: a huge int has no float
        elif isinstance(raw, str) and (match := re.fullmatch(self._FORM, raw.strip())):
            seconds = float(match[1] + (match[2] or "")) * self.UNITS[match[3].lower() or "s"]
        else:
            raise self.refused()
        if seconds > self.MAXIMUM:
            raise self.refused("more than a year")
        if not seconds >= self.minimum:  # so that NaN is refused too
            raise self.refused()
        return float(seconds)

    def schema(self) -> Schema:
        """A number of seconds, or text with a unit."""
        return {"type": ["number", "string"], "minimum": self.minimum, "maximum": self.MAXIMUM, "examples": [self.example]}

    def render(self, value: float) -> Plain:
        """Seconds with their unit, without a fraction where there is none: "30s", "0.5s"."""
        return f"{int(value) if value.is_integer() else value}s"


class Size(Kind[int]):
    """A number of bytes."""

    expected = "a size in bytes or with KiB, MiB or GiB"
    metavar = "SIZE"
    # As dd(1) reads them: K and KiB are 1024, KB is 1000.
    UNITS = {"": 1, "b": 1} | {
        letter + suffix: base**power
        for power, letter in enumerate("kmg", 1)
        for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
    }
    MAXIMUM = 2**63 - 1  # what lseek(2) and sendfile(2) count in
    _FORM = r"(?ai)(\d{1,19})\s*([a-z]*)"

    def __init__(self, *, example: str = "64KiB") -> None:
        self.example = example

    def parse(self, raw: object) -> int:
        """Bytes: from a number, or from text with a unit."""
        value: int | None = None
        if isinstance(raw, str) and (match := re.fullmatch(self._FORM, raw.strip())):
            unit = self.UNITS.get(match[2].lower())
            value = None if unit is None else int(match[1]) * unit
        elif not isinstance(raw, str):
            value = whole(raw)
        if value is None or not 0 <= value <= self.MAXIMUM:
            raise self.refused()
        return value

    def schema(self) -> Schema:
        """A number of bytes, or text with a unit."""
        return {"type": ["integer", "string"], "minimum": 0, "maximum": self.MAXIMUM, "examples": [self.example]}

    def render(self, value: int) -> Plain:
        """Bytes."""
        return value


class Mode(Kind[int]):
    """Permission bits, written in octal as chmod(1) does."""

    expected = "permission bits in octal"
    example = "0o022"
    metavar = "MODE"
    MAXIMUM = 0o777
    _FORM = r"(?ai)(?:0o)?([0-7]{1,4})"

    def parse(self, raw: object) -> int:
        """The bits. Text is always octal ("22", "022", "0o22"); a native number is taken as it is."""
        if isinstance(raw, str):
            match = re.fullmatch(self._FORM, raw.strip())
            value = int(match[1], 8) if match else None
        else:
            value = whole(raw)
        if value is None or not 0 <= value <= self.MAXIMUM:
            raise self.refused()
        return value

    def schema(self) -> Schema:
        """Octal text, or a number."""
        return {"type": ["string", "integer"], "minimum": 0, "maximum": self.MAXIMUM, "examples": [self.example]}

    def render(self, value: int) -> Plain:
        """Octal text, such as "0o022"."""
        return f"0o{value:03o}"


class Choice(Kind[str]):
    """One of a few words."""

    def __init__(self, *words: str, others: Mapping[str, str] | None = None, metavar: str = "") -> None:
        """`others`: what is taken for one of the words; `metavar`: what stands for them, where they are many."""
        self.words = words
        self.others = others or {}
        self.expected = f"{', '.join(words[:-1])} or {words[-1]}"
        self.example = words[0]
        self.metavar = metavar or "|".join(words)

    def parse(self, raw: object) -> str:
        """The word in lower case."""
        word = raw.strip().lower() if isinstance(raw, str) else ""
        word = self.others.get(word, word)
        if word not in self.words:
            raise self.refused()
        return word

    def schema(self) -> Schema:
        """The words."""
        return {"enum": list(self.words)}

    def render(self, value: str) -> Plain:
        """Itself."""
        return value


class Text(Kind[str]):
    """Text that is not empty."""

    expected = "text"
    metavar = "TEXT"

    def __init__(self, *, example: str) -> None:
        self.example = example

    def parse(self, raw: object) -> str:
        """The text without white space around it, as Gunicorn reads it."""
        text = raw.strip() if isinstance(raw, str) else ""
        if not text or "\0" in text:
            raise self.refused()
        return text

    def render(self, value: str) -> Plain:
        """Itself."""
        return value


class Account(Text):
    """A user or a group: a name or a number."""

    expected = "a name or a number"

    def parse(self, raw: object) -> str:
        """Text, also of a number, as Python files and TOML may give it."""
        return super().parse(str(raw) if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 0 else raw)


class Path(Text):
    """A file or a directory. With `dash`, "-" is a standard stream and no file."""

    metavar = "PATH"

    def __init__(self, *, example: str, dash: str = "") -> None:
        super().__init__(example=example)
        self.dash = bool(dash)
        self.expected = f'a path, or "-" for {dash}' if dash else "a path"

    def parse(self, raw: object) -> str:
        """The path as written; `pathlib` objects, which Python files give, become text."""
        return super().parse(os.fspath(raw) if isinstance(raw, os.PathLike) else raw)

    def anchored(self, value: str, directory: str) -> str:
        """An absolute path, or "-"."""
        if self.dash and value == "-":
            return value
        return os.path.normpath(os.path.join(directory, value))


class Import(Kind[str]):
    """A Python object to import: `module`, `module:attribute` or `module:factory(...)`."""

    expected = "module:attribute"
    example = "project.wsgi:application"
    metavar = "MODULE:ATTR"
    _CALL = r"(?s)([^()]+)(\(.*\))?"

    def parse(self, raw: object) -> str:
        """The reference as written. Whether the module exists is known only to the worker that imports it."""
        text = raw.strip() if isinstance(raw, str) else ""
        if "/" in text or text.endswith(".py"):
            raise self.refused("this is a file")
        module, colon, attribute = text.partition(":")
        if not _is_dotted(module):
            raise self.refused()
        if colon and not ((match := re.fullmatch(self._CALL, attribute)) and _is_dotted(match[1])):
            raise self.refused()
        return text

    def render(self, value: str) -> Plain:
        """Itself."""
        return value


class ChoiceOrImport(Choice):
    """One of a few words, or a Python object to import."""

    def __init__(self, *words: str) -> None:
        super().__init__(*words)
        self.expected = f"{', '.join(words)} or {Import.expected}"
        self.metavar = f"{'|'.join(words)}|{Import.metavar}"

    def parse(self, raw: object) -> str:
        """The word in lower case, or the reference as written."""
        if isinstance(raw, str) and ":" in raw:
            return Import().parse(raw)
        return super().parse(raw)

    def schema(self) -> Schema:
        """Any text; the words are examples."""
        return {"type": "string", "examples": list(self.words)}


class Nullable(Kind[T | None]):
    """A kind that may also be absent: None in Python, and "" where there is no None."""

    def __init__(self, kind: Kind[T]) -> None:
        self._kind = kind
        self.expected = kind.expected
        self.example = kind.example
        self.metavar = kind.metavar
        self.takes = kind.takes
        self.is_secret = kind.is_secret
        self.takes_code = kind.takes_code

    def parse(self, raw: object) -> T | None:
        """The value, or None."""
        return None if raw is None or raw == "" else self._kind.parse(raw)

    def render(self, value: T | None) -> Plain:
        """The value, or ""."""
        return "" if value is None else self._kind.render(value)

    def schema(self) -> Schema:
        """The kind's own, or empty text."""
        return {"anyOf": [self._kind.schema(), {"const": ""}]}

    def anchored(self, value: T | None, directory: str) -> T | None:
        """The value with its paths absolute, or None."""
        return None if value is None else self._kind.anchored(value, directory)

    def masked(self, value: T | None) -> Plain:
        """What may be shown of the value, or ""."""
        return "" if value is None else self._kind.masked(value)


def whole(raw: object) -> int | None:
    """A whole number from a number or decimal text; None for anything else. True is no number."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    # 20 digits are more than any setting holds; Python itself refuses to convert above 4300.
    if isinstance(raw, str) and re.fullmatch(r"\s*[+-]?\d{1,20}\s*", raw, re.ASCII):
        return int(raw)
    return None


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
