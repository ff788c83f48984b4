"""From sources to settings: the strongest value of each, checked, with where it came from.

Theory: sources give raw values, kinds read them, rules that span settings look at the result. Each step goes on after a
fault, so that the operator sees every problem at once. Rules:

* it is the same function at start and on SIGHUP, and it changes nothing: not the process, not what it was given;
* a value that a stronger source replaces is not looked at, so that a flag can always get round a broken file entry;
* a secret is never quoted.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass, replace
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any

from arbiter.config.argv import TALKS_ONLY, Action
from arbiter.config.cores import usable_cores_here
from arbiter.config.kinds import Count, Refused
from arbiter.config.provenance import DEFAULT, ConfigError, Origin, Problem
from arbiter.config.schema import SETTINGS, Settings
from arbiter.config.sources import gather, take

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arbiter.config.cores import Cores
    from arbiter.config.provenance import Raw
    from arbiter.config.sources import Gathered

NO_APPLICATION = "give one, like arbiter project.wsgi:application, or set wsgi_app in the configuration file."
MAX_SHOWN = 80  # characters of a wrong value in a message: enough to find it again, and still one line


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings, where each came from, and what was asked for.

    `about` is what the action is about (`argv.CommandLine`). `file` is the absolute path of the configuration file, None
    when there is none. `warnings` are lines for the log. `argv`, `environ` and `cwd` are what was given, for `again`.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    action: Action
    about: str
    warnings: tuple[str, ...]
    file: str | None
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str
    noted: Mapping[str, object]
    """What was said of Gunicorn's settings that mean nothing here, by name: for who looks them up (`names.NOTES`)."""
    given: Callable[[], Mapping[str, object]] | None = None
    """For a program that embeds the server: gives the settings, and nothing else is read."""
    loader: Callable[[], Any] | None = None
    """For such a program: gives the application, in the worker."""

    def again(self) -> Resolved:
        """What the same command line and environment mean now: for a reload.

        Settings that need a restart keep their values, and a warning names each that would have changed.

        Raises:
            ConfigError: as `resolve`, and when the configuration file is gone: silence would mean the defaults.

        """
        if self.given:
            found = resolve_values(self.given, self.loader, self.cwd)
        else:
            found = _resolve(self.argv, self.environ, self.cwd, self.file)
        kept = [
            name
            for name, row in SETTINGS.items()
            if row.applies == "restart" and getattr(found.settings, name) != getattr(self.settings, name)
        ]
        return replace(
            found,
            settings=replace(found.settings, **{name: getattr(self.settings, name) for name in kept}),
            origins=MappingProxyType({**found.origins, **{name: self.origins[name] for name in kept}}),
            warnings=(
                *found.warnings,
                *(f"{name} ({found.origins[name]}) has changed: restart to apply it." for name in kept),
            ),
        )


def resolve(argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> Resolved:
    """The settings that a command line, an environment and the files in a directory mean together.

    Args:
        argv: the words after the program's name.
        environ: the environment variables.
        cwd: an absolute path: configuration files and relative paths are looked for here.

    Returns:
        For the actions of `argv.TALKS_ONLY` the defaults, with nothing read.

    Raises:
        ConfigError: with every problem that was found.

    """
    return _resolve(tuple(argv), MappingProxyType(dict(environ)), cwd, None)


def resolve_values(given: Callable[[], Mapping[str, object]], loader: Callable[[], Any] | None, cwd: str) -> Resolved:
    """The settings that a program gives, laid over the defaults.

    Raises:
        ConfigError: with every problem that was found.
    """
    resolved = _settle(take(given()), (), MappingProxyType({}), cwd, None)
    return replace(resolved, given=given, loader=loader)


def _resolve(argv: tuple[str, ...], environ: Mapping[str, str], cwd: str, expected_file: str | None) -> Resolved:
    return _settle(gather(argv, environ, cwd), argv, environ, cwd, expected_file)


def _settle(
    found: Gathered, argv: tuple[str, ...], environ: Mapping[str, str], cwd: str, expected_file: str | None
) -> Resolved:
    problems = list(found.problems)
    if expected_file and found.file != expected_file:
        told = f"the running settings came from {expected_file}, and "
        told += f"{found.file} would be read now." if found.file else "there is no such file any more."
        problems.append(Problem("the configuration file has changed its place", None, told))

    values: dict[str, Any] = {name: row.default for name, row in SETTINGS.items()}
    origins = dict.fromkeys(SETTINGS, DEFAULT)
    for name, raw in {raw.name: raw for raw in found.raws}.items():  # the last of a name is the strongest
        origins[name] = raw.origin
        try:
            values[name] = SETTINGS[name].kind.parse(raw.value)
        except Refused as refused:
            problems.append(Problem(_shown(raw), raw.origin, str(refused)))

    if found.action not in TALKS_ONLY:
        _anchor(values, cwd)
        if values["workers"] == Count.AUTO:
            values["workers"], origins["workers"] = _automatic(origins["workers"], usable_cores_here())
        problems += _crossed(values, origins)
        # After other problems this one could mislead: the application may stand in what could not be read.
        if values["wsgi_app"] is None and found.action is not Action.PRINT and not problems:
            problems.append(Problem("no application", None, NO_APPLICATION))
    if problems:
        raise ConfigError(tuple(problems))
    return Resolved(
        settings=Settings(**values),
        origins=MappingProxyType(origins),
        action=found.action,
        about=found.about,
        warnings=tuple(found.warnings),
        file=found.file,
        argv=argv,
        environ=environ,
        cwd=cwd,
        noted=MappingProxyType(found.noted),
    )


def _anchor(values: dict[str, Any], cwd: str) -> None:
    """Make every path absolute: `chdir` starts at the working directory, all others at `chdir`."""
    base = values["chdir"] = SETTINGS["chdir"].kind.anchored(values["chdir"], cwd)
    for name, row in SETTINGS.items():
        values[name] = row.kind.anchored(values[name], base)


def _automatic(origin: Origin, cores: Cores) -> tuple[int, Origin]:
    """The number of workers for a machine, and the origin with its reason.

    2 x cores + 1 is Gunicorn's recommendation: while one worker of a pair waits for a disk or a socket, the other
    computes.
    """
    plural = "" if cores.number == 1 else "s"
    reason = f"2 x {cores.number} core{plural} + 1; {cores.why}"
    return 2 * cores.number + 1, Origin(origin.source, f"{origin} ({reason})")


def _crossed(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    """What is wrong although each value is of its kind."""
    problems = []
    if not os.path.isdir(values["chdir"]):
        subject = f"chdir = {_quoted(values['chdir'])}"
        problems.append(Problem(subject, origins["chdir"], "there is no such directory. Make it, or change chdir."))
    if 0 < values["max_workers"] < values["min_workers"]:
        subject = f"min_workers = {values['min_workers']}"
        reason = f"more than max_workers = {values['max_workers']} ({origins['max_workers']}). Lower one or raise the other."
        problems.append(Problem(subject, origins["min_workers"], reason))
    problems += _tls_problems(values, origins)
    if values["websocket_app"] and values["worker_class"] == "sync":
        subject = f"websocket_app = {_quoted(values['websocket_app'])}"
        reason = (
            f"a sync worker holds no WebSockets, and worker_class is sync ({origins['worker_class']})."
            " Use threaded, async or auto."
        )
        problems.append(Problem(subject, origins["websocket_app"], reason))
    fixed = [address for address in values["bind"] if address.port or not address.host]  # the kernel chooses port 0
    for address in dict.fromkeys(address for address in fixed if fixed.count(address) > 1):
        subject = f"bind has {address} twice"
        problems.append(Problem(subject, origins["bind"], "an address is listened on once. Remove one."))
    return problems


def _tls_problems(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    """Settings of TLS that are of no use without another: what was meant to be secret must not be spoken in the clear."""
    problems = []
    if not values["certfile"]:
        for name in ("keyfile", "sni_certs", "ca_certs"):
            if values[name]:
                advice = "there is no certfile, so TLS is off. Name the certificate, or remove this."
                problems.append(Problem(name, origins[name], advice))
    if values["cert_reqs"] != "none" and not values["ca_certs"]:
        subject = f"cert_reqs = {_quoted(values['cert_reqs'])}"
        problems.append(
            Problem(subject, origins["cert_reqs"], "no client can show a good certificate without ca_certs. Set it.")
        )
    return problems


def _shown(raw: Raw) -> str:
    """A wrong value for a message."""
    if SETTINGS[raw.name].kind.is_secret:
        return raw.name
    return f"{raw.name} = {_quoted(raw.value)}"


def _quoted(value: object) -> str:
    """A value on one line, text in double quotes, cut where it is long."""
    text = f"{value.__qualname__}" if isinstance(value, FunctionType | type) else repr(value)
    if isinstance(value, str):
        text = '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
