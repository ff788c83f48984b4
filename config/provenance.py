"""Where a value came from, and what is wrong with it: the two things every message about a setting names."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Source(Enum):
    """The places a value can come from, weakest first."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    FILE = "file"
    COMMAND_LINE = "command line"


class Origin(NamedTuple):
    """One place, as an operator would look for it: `arbiter.toml:14`, `env ARBITER_WORKERS`, `--workers`, `default`."""

    source: Source
    label: str

    def __str__(self) -> str:
        return self.label


DEFAULT = Origin(Source.DEFAULT, "default")


class Raw(NamedTuple):
    """A setting as its source gave it, not looked at yet."""

    name: str
    value: object
    origin: Origin


class Problem(NamedTuple):
    """One thing the operator has to mend.

    `subject` says what is wrong, `reason` why and what was expected; `origin` is None for what was given nowhere.
    """

    subject: str
    origin: Origin | None
    reason: str

    def __str__(self) -> str:
        where = f" ({self.origin})" if self.origin else ""
        return f"{self.subject}{where}: {self.reason}"


class ConfigError(Exception):
    """The configuration cannot be used. Holds every problem that was found, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
