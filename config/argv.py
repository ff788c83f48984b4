"""The command line, read by argparse with a parser made from the table.

It only cuts words into raw values: what a value means is its kind's affair. Nothing here prints or exits.
"""

from __future__ import annotations

import argparse
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from arbiter.config.kinds import Takes
from arbiter.config.names import ALIASES, GUNICORN, NOTES, UNSUPPORTED, nearest
from arbiter.config.provenance import Origin, Problem, Raw, Source
from arbiter.config.schema import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arbiter.config.schema import Setting


class Action(Enum):
    """What the command line asks for. The first that is given, in this order, is done."""

    HELP = "help"
    VERSION = "version"
    SCHEMA = "schema"
    COMPLETION = "completion"
    CHECK = "check"
    PRINT = "print"
    RUN = "run"


TALKS_ONLY = (Action.HELP, Action.VERSION, Action.SCHEMA, Action.COMPLETION)
"""Actions that are about Arbiter itself: no configuration is read for them."""


class Option(NamedTuple):
    """A flag that is no setting."""

    flags: tuple[str, ...]
    metavar: str
    doc: str
    arguments: dict[str, Any]
    """Of `argparse.ArgumentParser.add_argument`."""


INIT = "--init"
"""Has a command line of its own: `arbiter.scaffold`."""
FORMATS = ("text", "toml", "json")
SHELLS = ("bash", "zsh", "fish")

CONFIG_OPTION = Option(("-c", "--config"), "FILE", "Read this file: TOML or Python", {})
FORMAT_OPTION = Option(("--format",), "|".join(FORMATS), "The form of --print-config [text]", {"choices": FORMATS})
ACTION_OPTIONS = {
    Action.CHECK: Option(
        ("--check-config",), "", "Check the configuration and load the application, then exit", {"action": "store_true"}
    ),
    Action.PRINT: Option(
        ("--print-config",), "", "Print every setting and where it came from, then exit", {"action": "store_true"}
    ),
    Action.SCHEMA: Option(
        ("--print-schema",), "", "Print the JSON schema of arbiter.toml, for editors, then exit", {"action": "store_true"}
    ),
    Action.COMPLETION: Option(
        ("--completion",), "|".join(SHELLS), "Print what completes this command in a shell, then exit", {"choices": SHELLS}
    ),
    Action.VERSION: Option(("-v", "--version"), "", "Print the version, then exit", {"action": "store_true"}),
    Action.HELP: Option(
        ("-h", "--help"), "[SETTING]", "Print this, or all about one setting, then exit", {"nargs": "?", "const": ""}
    ),
}
INIT_OPTION = Option(
    (INIT,), "", "Write arbiter.toml, and files for deployment: arbiter --init --help", {"action": "store_true"}
)
OPTIONS = (INIT_OPTION, CONFIG_OPTION, FORMAT_OPTION, *ACTION_OPTIONS.values())

_ARGUMENTS: dict[Takes, dict[str, Any]] = {
    Takes.NONE: {"action": "store_const"},
    Takes.ONE: {},
    Takes.MANY: {"action": "append"},
    Takes.MAYBE: {"nargs": "?"},
}


class CommandLine(NamedTuple):
    """What a command line says."""

    action: Action
    about: str
    """What the action is about: the setting of HELP (empty: all), the format of PRINT, the shell of COMPLETION."""
    config: str | None
    raws: list[Raw]
    noted: list[Raw]
    """What Gunicorn has a setting for that means nothing here (`names.NOTES`)."""
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
        return CommandLine(Action.RUN, "", None, [], [], [problem])
    given = vars(found)

    def at(flag: str) -> Origin:
        return Origin(source, f"{whole} {flag}" if variable else flag)

    raws = [Raw(alias.name, alias.value(given[name]), at(alias.flags[-1])) for name, alias in ALIASES.items() if name in given]
    raws += [
        Raw(row.name, given[row.name], at(row.flag) if row.flags else whole) for row in SETTINGS.values() if row.name in given
    ]
    noted = [Raw(name, given[name], at(note.flags[-1])) for name, note in NOTES.items() if note.flags and name in given]
    action = next((action for action in Action if action.name in given), Action.RUN)
    unknown = [word.partition("=")[0] for word in rest if word.startswith("-") and len(word) > 1]
    if unknown:  # the words without a dash are as likely their values as an application: neither is judged
        raws = [raw for raw in raws if raw.name != "wsgi_app"]
        problems = [Problem(f"unknown option '{flag}'", whole, _advice(flag)) for flag in unknown]
    else:
        problems = [Problem(f"unexpected argument '{word}'", whole, "one application is served.") for word in rest]
    if "format" in given and action is not Action.PRINT:
        problems.append(Problem("nothing to be formatted", whole, "--format goes with --print-config."))
    about = str(given.get("format", FORMATS[0]) if action is Action.PRINT else given.get(action.name, ""))
    if action in TALKS_ONLY:
        is_unknown = action is Action.HELP and bool(about) and setting_called(about) is None
        problems = [Problem(f"no setting '{about}'", whole, _advice(about))] if is_unknown else []
    return CommandLine(action, about, given.get("config"), raws, noted, problems)


def setting_called(name: str) -> Setting | None:
    """The setting of that name, or with that flag, with or without its dashes."""
    for row in SETTINGS.values():
        if name == row.name or name in row.flags or f"--{name}" in row.flags:
            return row
    return None


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
    parser.add_argument(*CONFIG_OPTION.flags, dest="config", **CONFIG_OPTION.arguments)
    parser.add_argument(*FORMAT_OPTION.flags, dest="format", **FORMAT_OPTION.arguments)
    for action, option in ACTION_OPTIONS.items():
        parser.add_argument(*option.flags, dest=action.name, **option.arguments)
    taken: set[str] = set()
    for row in rows:
        taken.update(row.flags)
        if row.flags:
            word: dict[str, Any] = {"const": row.kind.flag_word} if row.kind.takes in (Takes.NONE, Takes.MAYBE) else {}
            parser.add_argument(*row.flags, dest=row.name, **_ARGUMENTS[row.kind.takes], **word)
    for name, alias in ALIASES.items():
        parser.add_argument(*alias.flags, dest=name)
    for name, note in NOTES.items():
        if note.flags and taken.isdisjoint(note.flags):
            word = {"const": "true"} if note.takes is Takes.NONE else {}
            parser.add_argument(*note.flags, dest=name, **_ARGUMENTS[note.takes], **word)
    return parser


def _advice(flag: str) -> str:
    """What to do about a flag that is not ours."""
    if near := nearest(flag, SETTINGS) if not flag.startswith("-") else None:
        return f"did you mean '{near}'?"
    known = [flag for option in OPTIONS for flag in option.flags]
    known += [flag for row in SETTINGS.values() for flag in row.flags]
    if near := nearest(flag, [word for word in known if word.startswith("--")]):
        return f"did you mean '{near}'?"
    if flag.removeprefix("--").replace("-", "_") in GUNICORN:
        return UNSUPPORTED
    return "see arbiter --help."
