"""From argv to a running service: the only place that prints and exits."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Final

from arbiter import __version__
from arbiter.config.argv import INIT, Action
from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import resolve
from arbiter.config.sources import INHERIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbiter.config.resolve import Resolved
    from arbiter.daemon import Daemon
    from arbiter.upgrade import Predecessor


OK: Final = 0
USAGE: Final = 2
"""`contract.Exit` has them too; but most of what is here is over before the contract could be imported."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `arbiter`. Returns the exit status (`contract.Exit`)."""
    _fill_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    if INIT in words:
        return _init(words)
    before_us = None
    if INHERIT in os.environ:
        from arbiter.upgrade import predecessor

        try:
            before_us = predecessor(os.environ)
        except ValueError as error:
            print(f"arbiter: {error}", file=sys.stderr)
            return USAGE
    try:
        resolved = resolve(words, os.environ, _cwd())
    except ConfigError as error:
        for problem in error.problems:
            print(f"arbiter: {problem}", file=sys.stderr)
        _tell_who_waits(str(error), before_us)
        return USAGE
    match resolved.action:
        case Action.HELP:
            from arbiter.config.render import help_entry, help_text

            print(help_entry(resolved.about) if resolved.about else help_text(), end="")
        case Action.VERSION:
            print(f"arbiter {__version__}")
        case Action.PRINT:
            from arbiter.config.render import CONFIG_FORMATS

            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a real stdout is a TextIOWrapper
            print(CONFIG_FORMATS[resolved.about](resolved), end="")
        case Action.SCHEMA:
            from arbiter.config.render import schema_text

            print(schema_text(), end="")
        case Action.COMPLETION:
            from arbiter.config.completion import SCRIPTS

            print(SCRIPTS[resolved.about](), end="")
        case Action.CHECK:
            return _check(resolved)
        case Action.RUN:
            return _run(resolved, before_us)
    return OK


def _init(words: Sequence[str]) -> int:
    from arbiter import scaffold

    directory = _cwd()
    try:
        plan = scaffold.plan(words, directory, os.environ)
        written, kept = scaffold.write(plan.files, directory)
    except ConfigError as error:
        for problem in error.problems:
            print(f"arbiter: {problem}", file=sys.stderr)
        return USAGE
    except OSError as error:
        from arbiter.workers.contract import Exit

        print(f"arbiter: can't write {error.filename}: {error.strerror}.", file=sys.stderr)
        return Exit.START
    for path in written:
        print(f"wrote {path}")
    for path in kept:
        print(f"kept {path}, which is there: remove it to have it made anew.")
    for sentence in plan.words:
        print(sentence)
    return OK


def _check(resolved: Resolved) -> int:
    """See whether the settings would serve: they are sound, so the files of TLS, and whether the application loads.

    Never where workers are forked: it imports ssl, and the application.
    """
    from arbiter.workers.contract import CHECK_ENTRY, Exit

    for warning in resolved.warnings:
        print(f"arbiter: {warning}", file=sys.stderr)
    if resolved.settings.certfile:
        tls = importlib.import_module("arbiter.workers.tls")
        try:
            tls.check(resolved.settings)
        except tls.TlsError as error:
            print(f"arbiter: {error}. Workers read it as the user who starts Arbiter.", file=sys.stderr)
            return Exit.START
    module, _, name = CHECK_ENTRY.partition(":")
    if failed := getattr(importlib.import_module(module), name)(resolved.settings):
        print(f"arbiter: failed while {failed.phase}: {failed.error}\n{failed.traceback}".rstrip(), file=sys.stderr)
        return int(failed.code)
    print("The configuration is sound.")
    return OK


def _fill_standard_streams() -> None:
    """Give the null device to standard streams that were closed: what is opened next would get their numbers, and the log."""
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one: those below are open
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 - for ever


def _cwd() -> str:
    """The working directory, by the name that the shell knows it by.

    A release directory is often a link that is moved before a reload: its real path would pin the old release.
    """
    told, real = os.environ.get("PWD", ""), os.getcwd()
    try:
        return told if os.path.isabs(told) and os.path.samefile(told, real) else real
    except OSError:
        return real


def _run(resolved: Resolved, before_us: Predecessor | None) -> int:
    if before_us or not resolved.settings.daemon:  # whom a daemon has started is in the background already
        return _serve(resolved, before_us=before_us)
    from arbiter.daemon import run_as_daemon

    return run_as_daemon(lambda daemon: _serve(resolved, daemon))


def _serve(resolved: Resolved, daemon: Daemon | None = None, before_us: Predecessor | None = None) -> int:
    from arbiter.errors import StartError
    from arbiter.supervisor import serve
    from arbiter.workers.contract import Exit

    try:
        return serve(resolved, daemon, before_us)
    except StartError as error:
        print(f"arbiter: {error}", file=sys.stderr)
        _tell_who_waits(str(error), before_us)
        return Exit.START


def _tell_who_waits(error: str, before_us: Predecessor | None) -> None:
    """Have the log of the supervisor that goes on show why this one does not, or `systemctl status` why there is none."""
    if before_us:
        before_us.fail(error)
        return
    from arbiter.notices import one_line
    from arbiter.systemd import Notifier

    Notifier(os.environ).tell(f"STATUS={one_line(f'cannot start: {error}')}")
