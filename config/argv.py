"""The command line, read by argparse with a parser made from the table.

It only cuts words into raw values: what a value means is its kind's affair. Nothing here prints or exits.
"""

from __future__ import annotations

import argparse
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from arbiter.config.kinds import Takes
from arbiter.config.names import GUNICORN, UNSUPPORTED, nearest
from arbiter.config.provenance import Origin, Problem, Raw, Source
from arbiter.config.schema import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arbiter.config.schema import Setting


class Action(Enum):
    """What the command line asks for. The first that is given, in this order, is done."""

    HELP = "help"
    VERSION = "version"
    CHECK = "check"
    PRINT = "print"
    RUN = "run"


class Option(NamedTuple):
    """A flag that is no setting."""

    flags: tuple[str, ...]
    metavar: str
    doc: str


# Gunicorn's flags, all of them.
CONFIG_OPTION = Option(("-c", "--config"), "FILE", "Read this file: TOML or Python")
ACTION_OPTIONS = {
    Action.CHECK: Option(("--check-config",), "", "Check the configuration, then exit"),
    Action.PRINT: Option(("--print-config",), "", "Print every setting and where it came from, then exit"),
    Action.VERSION: Option(("-v", "--version"), "", "Print the version, then exit"),
    Action.HELP: Option(("-h", "--help"), "", "Print this, then exit"),
}

_ARGUMENTS: dict[Takes, dict[str, Any]] = {
    Takes.NONE: {"action": "store_const", "const": "true"},
    Takes.ONE: {},
    Takes.MANY: {"action": "append"},
}


class CommandLine(NamedTuple):
    """What a command line says."""

    action: Action
    config: str | None
    raws: list[Raw]
    problems: list[Problem]


class _Misuse(Exception):  # noqa: N818 - it never leaves this module
    """argparse's own complaint."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Misuse(message)


def read(argv: Sequence[str], variable: str = "") -> CommandLine:
    """What a command line, without the program's name, says.

    `variable` names the environment variable that holds it, where it is not the real one.
    """
    source = Source.ENVIRONMENT if variable else Source.COMMAND_LINE
    whole = Origin(source, f"env {variable}" if variable else "command line")
    try:
        found, rest = make_parser(SETTINGS.values()).parse_known_args(argv)
    except _Misuse as misuse:
        problem = Problem("cannot read the options", whole, f"{misuse}. See arbiter --help.")
        return CommandLine(Action.RUN, None, [], [problem])
    given = vars(found)
    raws = []
    for row in SETTINGS.values():
        if row.name in given:
            at = Origin(source, f"{whole} {row.flag}" if variable else row.flag) if row.flags else whole
            raws.append(Raw(row.name, given[row.name], at))
    action = next((action for action in Action if action.name in given), Action.RUN)
    unknown = [word.partition("=")[0] for word in rest if word.startswith("-") and len(word) > 1]
    if unknown:  # the words without a dash are as likely their values as an application: neither is judged
        raws = [raw for raw in raws if raw.name != "wsgi_app"]
        problems = [Problem(f"unknown option '{flag}'", whole, _advice(flag)) for flag in unknown]
    else:
        problems = [Problem(f"unexpected argument '{word}'", whole, "one application is served.") for word in rest]
    return CommandLine(action, given.get("config"), raws, problems)


def _formatter(prog: str) -> argparse.HelpFormatter:
    # argparse asks for one with each option it adds. Without a width it imports shutil, and with it three compression
    # libraries, to measure the terminal.
    return argparse.HelpFormatter(prog, width=80)


def make_parser(rows: Iterable[Setting]) -> argparse.ArgumentParser:
    """A parser for these settings and the options that are none. What is not given does not appear in its result."""
    parser = _Parser(
        prog="arbiter",
        usage="",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_formatter,
    )
    parser.add_argument("wsgi_app", nargs="?")
    parser.add_argument(*CONFIG_OPTION.flags, dest="config")
    for action, option in ACTION_OPTIONS.items():
        parser.add_argument(*option.flags, dest=action.name, action="store_true")
    for row in rows:
        if row.flags:
            parser.add_argument(*row.flags, dest=row.name, **_ARGUMENTS[row.kind.takes])
    return parser


def _advice(flag: str) -> str:
    """What to do about a flag that is not ours."""
    known = [flag for option in (CONFIG_OPTION, *ACTION_OPTIONS.values()) for flag in option.flags]
    known += [flag for row in SETTINGS.values() for flag in row.flags]
    if near := nearest(flag, [word for word in known if word.startswith("--")]):
        return f"did you mean '{near}'?"
    if flag.removeprefix("--").replace("-", "_") in GUNICORN:
        return UNSUPPORTED
    return "see arbiter --help."
