"""Every source of values, weakest first: environment, file, command line. Defaults are the table's own.

Inside the environment the general is weaker than the particular: PORT and WEB_CONCURRENCY, which platforms set, then
GUNICORN_CMD_ARGS, then ARBITER_CMD_ARGS, then ARBITER_<SETTING>. An empty variable counts as not set: that is how compose
files and unit files write "nothing". In Gunicorn, GUNICORN_CMD_ARGS beats the file: where that makes a difference, a warning
says so.

A name that no setting has is never passed over in silence. In a file of our own it is an error. In a Python file and in
the environment, where names may belong to somebody else, it is an error only when it is nearly a setting's name;
otherwise it is a warning.
"""

from __future__ import annotations

import os.path
import re
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Final

from arbiter.config import argv as command_line
from arbiter.config.argv import TALKS_ONLY, Action
from arbiter.config.kinds import Boolean, Choice, Text
from arbiter.config.lists import Addresses
from arbiter.config.names import ALIASES, GUNICORN, NOTES, UNSUPPORTED, nearest
from arbiter.config.provenance import Origin, Problem, Raw, Source
from arbiter.config.schema import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec

PREFIX = "ARBITER_"
CMD_ARGS = "ARBITER_CMD_ARGS"
GUNICORN_CMD_ARGS = "GUNICORN_CMD_ARGS"
CONFIG = "ARBITER_CONFIG"
INHERIT = "ARBITER_INHERIT"
"""What one Arbiter leaves to the next in an upgrade. It is taken out of the environment before anything else looks at it."""
# Looked for in the working directory, in this order; the first that there is, is read.
FILES = ("arbiter.toml", "pyproject.toml", "arbiter.conf.py", "gunicorn.conf.py")
PYPROJECT_TABLE = ("tool", "arbiter")
# Where Gunicorn takes None for "not set": `errorlog = os.environ.get("ERROR_LOG")` must not be an error.
_NONE_IS_DEFAULT = (Text, Choice, Boolean, Addresses)

# A Kubernetes service named "arbiter" gives every pod of its namespace variables such as ARBITER_SERVICE_HOST and
# ARBITER_PORT_8000_TCP ("Environment variables" in its page on services).
_KUBERNETES = rf"{PREFIX}(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"


class Gathered:
    """All that the sources say: raw values, a later one of the same name winning, and what was wrong with them."""

    def __init__(self) -> None:
        self.action = Action.RUN
        self.about = ""
        self.file: str | None = None
        self.raws: list[Raw] = []
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.noted: dict[str, object] = {}
        """What was said of settings that mean nothing here (`names.NOTES`)."""


def gather(argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> Gathered:
    """What the command line, the environment and the configuration file say; nothing is read for `argv.TALKS_ONLY`."""
    found = Gathered()
    typed = command_line.read(argv)
    found.action = typed.action
    found.about = typed.about
    if typed.action in TALKS_ONLY:
        found.problems += typed.problems
        return found
    in_variable = _environment(environ, found)
    location = typed.config or in_variable or environ.get(CONFIG)
    if location:
        _named_file(location, cwd, found)
    else:
        _discovered_file(cwd, found)
    found.raws += typed.raws
    found.problems += typed.problems
    _note(typed.noted, found)
    _compare_with_gunicorn(found)
    return found


def take(values: Mapping[str, object]) -> Gathered:
    """What a program says that embeds the server."""
    found = Gathered()
    origin = Origin(Source.COMMAND_LINE, "given by the program")
    for name, value in values.items():
        if name in SETTINGS:
            found.raws.append(Raw(name, value, origin))
        elif alias := ALIASES.get(name):
            found.raws.append(Raw(alias.name, alias.value(value), origin))
        elif name in NOTES:
            _note([Raw(name, value, origin)], found)
        else:
            found.problems.append(Problem(f"unknown setting '{name}'", origin, _advice(name)))
    return found


def _environment(environ: Mapping[str, str], found: Gathered) -> str | None:
    """Add what the environment says; give the configuration file that ARBITER_CMD_ARGS names."""
    for row in SETTINGS.values():
        for variable, form in row.environment:
            if value := environ.get(variable):
                found.raws.append(Raw(row.name, form.format(value), Origin(Source.ENVIRONMENT, f"env {variable}")))
    config = None
    for variable in (GUNICORN_CMD_ARGS, CMD_ARGS):
        if words := environ.get(variable):
            config = _words(words, variable, found) or config
    if environ.get(GUNICORN_CMD_ARGS):
        found.warnings.append(f"{GUNICORN_CMD_ARGS} is read, for Gunicorn's sake. Its name here is {CMD_ARGS}.")
    for name, alias in ALIASES.items():
        if value := environ.get(f"{PREFIX}{name.upper()}"):
            origin = Origin(Source.ENVIRONMENT, f"env {PREFIX}{name.upper()}")
            found.raws.append(Raw(alias.name, alias.value(value), origin))
    for row in SETTINGS.values():
        if value := environ.get(row.variable):
            found.raws.append(Raw(row.name, value, Origin(Source.ENVIRONMENT, f"env {row.variable}")))
    for name in NOTES.keys() - {"config"}:  # ARBITER_CONFIG is ours
        if value := environ.get(f"{PREFIX}{name.upper()}"):
            _note([Raw(name, value, Origin(Source.ENVIRONMENT, f"env {PREFIX}{name.upper()}"))], found)
    _unknown_variables(environ, found)
    return config


def _words(words: str, variable: str, found: Gathered) -> str | None:
    """Add what a command line in a variable says; give the configuration file that it names."""
    import shlex

    try:
        said = command_line.read(shlex.split(words), variable)
    except ValueError as error:
        origin = Origin(Source.ENVIRONMENT, f"env {variable}")
        found.problems.append(Problem("cannot read the options", origin, f"{error}. Close every quote."))
        return None
    found.raws += said.raws
    found.problems += said.problems
    _note(said.noted, found)
    if found.action is Action.RUN:
        found.action, found.about = said.action, said.about
    return said.config


def _note(noted: list[Raw], found: Gathered) -> None:
    """Say of settings that Gunicorn has and that mean nothing here why, unless they say no more than the default."""
    for name, value, origin in noted:
        found.noted[name] = value
        if value and value != NOTES[name].default and value not in ("false", "0"):
            found.warnings.append(f"{name} ({origin}) has no effect: {NOTES[name].advice}")


def _compare_with_gunicorn(found: Gathered) -> None:
    """Warn of what GUNICORN_CMD_ARGS says and the file says otherwise: Gunicorn would go by the variable."""
    label = f"env {GUNICORN_CMD_ARGS}"
    for name, strongest in {raw.name: raw for raw in found.raws}.items():
        if strongest.origin.source is not Source.FILE:
            continue
        for raw in found.raws:
            if raw.name == name and raw.origin.label.startswith(label):
                found.warnings.append(
                    f"{name} is taken from {strongest.origin}, not from {raw.origin}: a file is stronger than the environment "
                    "here, and weaker in Gunicorn. Remove one of the two."
                )


def _unknown_variables(environ: Mapping[str, str], found: Gathered) -> None:
    others = (f"{PREFIX}{name.upper()}" for name in (*NOTES, *ALIASES))
    known = {CMD_ARGS, CONFIG, *(row.variable for row in SETTINGS.values()), *others}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known and not re.fullmatch(_KUBERNETES, variable):
            near = nearest(variable.removeprefix(PREFIX), SETTINGS)
            if near:
                origin = Origin(Source.ENVIRONMENT, f"env {variable}")
                advice = f"did you mean {SETTINGS[near].variable}?"
                found.problems.append(Problem(f"unknown variable '{variable}'", origin, advice))
            else:
                found.warnings.append(f"{variable} is set in the environment, but there is no such setting.")


def _named_file(location: str, cwd: str, found: Gathered) -> None:
    """Read the file that -c names: a path, `file:path` or `python:module`, as Gunicorn takes them."""
    if location.startswith("python:"):
        _module(location.removeprefix("python:"), cwd, found)
        return
    shown = location.removeprefix("file:")
    if not _file(shown, cwd, found):
        advice = "there is no table [tool.arbiter] in it."
        found.problems.append(Problem("no settings in the configuration file", _in_file(shown), advice))


def _discovered_file(cwd: str, found: Gathered) -> None:
    """Read the first of the files that are looked for."""
    for shown in FILES:
        if os.path.exists(os.path.join(cwd, shown)) and _file(shown, cwd, found):
            return
    found.file = None


def _file(shown: str, cwd: str, found: Gathered) -> bool:
    """Add what a file says; False when it is a pyproject.toml that says nothing to us."""
    found.file = os.path.join(cwd, shown)
    source = _bytes(found.file, shown, found)
    if source is None:
        return True
    if not shown.endswith(".toml"):
        _python(source, shown, cwd, found)
        return True
    if os.path.basename(shown) != "pyproject.toml":
        return _toml(source, shown, (), found)
    # Most have nothing for us, and need not even be parsed.
    return b"arbiter" in source and _toml(source, shown, PYPROJECT_TABLE, found)


_LARGEST: Final = 1 << 20
"""Most bytes of a configuration file: a hundred times what any has, and no danger to who reads an endless one (/dev/zero)."""


def _bytes(path: str, shown: str, found: Gathered) -> bytes | None:
    """The file's contents; None, and a problem, when it cannot be read."""
    try:
        with open(path, "rb") as file:
            source = file.read(_LARGEST + 1)
        if len(source) <= _LARGEST:
            return source
        reason: str | None = f"it has more than {_LARGEST >> 20} MiB"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
    found.problems.append(
        Problem("cannot read the configuration file", _in_file(shown), f"{reason}. Check its path and its mode.")
    )
    return None


def _toml(source: bytes, shown: str, table: tuple[str, ...], found: Gathered) -> bool:
    """Add what a TOML file says; False when it does not have the table."""
    from arbiter.config import tomlfile

    try:
        entries = tomlfile.read(source.decode("utf-8-sig"), table)
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        found.problems.append(Problem("not valid TOML", _in_file(shown, line), "the file is not UTF-8."))
        return True
    except tomlfile.TomlError as error:
        found.problems.append(Problem("not valid TOML", _in_file(shown, error.line), str(error)))
        return True
    for entry in entries or ():
        origin = _in_file(shown, entry.line)
        if entry.name in SETTINGS:
            found.raws.append(Raw(entry.name, entry.value, origin))
        elif alias := ALIASES.get(entry.name):
            found.raws.append(Raw(alias.name, alias.value(entry.value), origin))
        elif entry.name in NOTES:
            _note([Raw(entry.name, entry.value, origin)], found)
        else:
            found.problems.append(Problem(f"unknown setting '{entry.name}'", origin, _advice(entry.name)))
    return entries is not None


def _advice(name: str) -> str:
    """What to do about a name that no setting has."""
    if name in GUNICORN:
        return UNSUPPORTED
    if near := _meant(name):
        return f"did you mean '{near}'?"
    return "there is no such setting. Remove it, or see docs/settings.md."


def _module(name: str, cwd: str, found: Gathered) -> None:
    from arbiter.config import pyfile

    shown = f"python:{name}"
    spec = pyfile.find_module(name, cwd)
    if spec is None or not spec.has_location or not spec.origin:
        reason = "no Python file of that name can be imported from here."
        found.problems.append(Problem("cannot read the configuration file", _in_file(shown), reason))
        return
    found.file = spec.origin
    source = _bytes(spec.origin, shown, found)
    if source is not None:
        _python(source, shown, cwd, found, spec)


def _python(source: bytes, shown: str, cwd: str, found: Gathered, spec: ModuleSpec | None = None) -> None:
    """Add what the Python file `found.file` says."""
    from arbiter.config import pyfile

    try:
        names = pyfile.run(found.file or shown, source, cwd, spec)
    except pyfile.PythonFileError as error:
        found.problems.append(Problem("cannot run the configuration file", _in_file(shown, error.line), str(error)))
        return
    for name, value, line, is_idle in names:
        origin = _in_file(shown, line)
        is_code = callable(value) or isinstance(value, ModuleType)
        is_ours = name == name.lower() and not name.startswith("_")
        if row := SETTINGS.get(name):
            if value is None and isinstance(row.kind, _NONE_IS_DEFAULT):
                continue
            takes = name in GUNICORN or (row.kind.takes_code and not isinstance(value, ModuleType))
            if takes or not is_code:  # `import http` is no setting of ours
                found.raws.append(Raw(name, value, origin))
        elif alias := ALIASES.get(name):
            found.raws.append(Raw(alias.name, alias.value(value), origin))
        elif name in NOTES:
            _note([Raw(name, value, origin)], found)
        elif name in GUNICORN:
            found.warnings.append(f"{name} ({origin}) has no effect: {UNSUPPORTED}")
        elif is_idle and is_ours and isinstance(value, FunctionType):
            if near := nearest(name, (row.name for row in SETTINGS.values() if row.kind.takes_code)):
                reason = f"did you mean '{near}'? If it is a helper, begin its name with an underscore."
                found.problems.append(Problem(f"unknown hook '{name}'", origin, reason))
        elif is_idle and is_ours and not is_code:
            if near := _meant(name):
                found.problems.append(Problem(f"unknown setting '{name}'", origin, f"did you mean '{near}'?"))
            else:
                found.warnings.append(f"{name} ({origin}) has no effect: no setting has this name, and nothing reads it.")


def _meant(name: str) -> str | None:
    """The setting that a wrong name was probably meant to be: by its spelling, or by its flag."""
    flag = f"--{name.replace('_', '-')}"  # Gunicorn's names and flags differ, as errorlog and --error-logfile do
    by_flag = (row.name for row in SETTINGS.values() if flag in row.flags)
    return nearest(name, SETTINGS) or next(by_flag, None) or nearest(name, GUNICORN)


def _in_file(shown: str, line: int | None = None) -> Origin:
    return Origin(Source.FILE, f"{shown}:{line}" if line else shown)
