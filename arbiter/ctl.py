"""``arbiterctl``: tell a running supervisor what to do, wait for what comes of it, and see what it is at.

A client: it finds the supervisor by its pid file and sends the signal that the table in `arbiter.signals` has for the verb.
The file's lock says whether its owner lives, so a stale file never sends a signal to a stranger. What comes of it is read in
the owner's memory (`scoreboard`): the service is asked nothing, so asking can't make it worse.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING, Final

from arbiter.bulletin import decode, report, table
from arbiter.errors import why
from arbiter.scoreboard import Reading, find
from arbiter.signals import SIGNALS, Command
from arbiter.workers.contract import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS: Final = {row.command.value: number for number, row in SIGNALS.items() if row.verb}
STATUS: Final = "status"
STATUS_DOC: Final = "Show the service, its workers and what they are at; exit status 0 if it serves. Sends no signal."
WAITED: Final = (Command.STOP.value, Command.QUIT.value, Command.RELOAD.value)
"""What `--wait` waits for the end of."""
_AGAIN: Final = 0.05
"""Seconds from one look to the next: a canary takes longer, and a look costs less than a thousandth of that."""

_HEARD: Final = 1.0
"""Seconds for workers of the old generation to hear that they are to retire, and to leave if they are idle: until then they may
take one request more. Who is busy finishes that request, and takes none."""


class _NotRunningError(Exception):
    """There is nobody to tell, or not any more."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `arbiterctl`. Returns the exit status (`contract.Exit`)."""
    lines = [f"  {row.command.value:<12} {row.doc}" for row in SIGNALS.values() if row.verb]
    parser = argparse.ArgumentParser(
        prog="arbiterctl",
        description="Tell a running Arbiter what to do, or see what it is at.",
        epilog="\n".join(["verbs:", *lines, f"  {STATUS:<12} {STATUS_DOC}"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("-p", "--pid", metavar="FILE", help="the pid file that the server was started with")
    whom.add_argument("--main-pid", type=int, metavar="NUMBER", help="the server's process: $MAINPID of systemd's")
    parser.add_argument(
        "-w",
        "--wait",
        action="store_true",
        help="of reload, stop and quit: wait for the end, and say what came of it: exit status 1 if a reload was refused",
    )
    parser.add_argument("--timeout", type=float, default=inf, metavar="SECONDS", help="wait no longer: exit status 1")
    parser.add_argument("--json", action="store_true", help="of status: for programs")
    parser.add_argument("verb", choices=sorted([*VERBS, STATUS]))
    options = parser.parse_args(argv)
    if options.wait and options.verb not in WAITED:
        parser.error(f"--wait is for {', '.join(WAITED)}: nothing tells when {options.verb} is over")
    try:
        return _act(options)
    except (OSError, ValueError, _NotRunningError) as error:
        name = options.pid or f"process {options.main_pid}"
        print(f"arbiterctl: {name}: {why(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return Exit.START


def _act(options: argparse.Namespace) -> int:
    pid = running(options)
    if not options.pid:
        options.main_pid = pid  # the child that led to it may be gone in a moment
    if options.verb == STATUS:
        return _show(Reading.of(pid), as_json=options.json)
    if options.wait:
        until = time.monotonic() + options.timeout
        return _reload(options, pid, until) if options.verb == Command.RELOAD.value else _stop(options, pid, until)
    os.kill(pid, VERBS[options.verb])
    return Exit.OK


def _reload(options: argparse.Namespace, pid: int, until: float) -> int:
    """Reload, and wait until it is decided and, if it was accepted, who comes is served by the new generation only."""
    reading = Reading.of(pid)
    before = decode(reading.notice()).reloads
    os.kill(pid, VERBS[options.verb])
    while True:
        bulletin = decode(reading.notice())
        if bulletin.reloads != before and not bulletin.is_reloading:
            break
        if running(options) != pid:
            raise _NotRunningError("another server has taken its place, before the reload was decided")
        _wait(until, f"the reload is not decided yet, and goes on: {bulletin.status}")
    heard = time.monotonic() + _HEARD
    while any(entry.phase == "retiring" for entry in bulletin.workers) and time.monotonic() < heard:
        time.sleep(_AGAIN)  # as in `_wait`
        bulletin = decode(reading.notice())
    if bulletin.refusal or not bulletin.is_serving:
        print(f"arbiterctl: {bulletin.refusal or bulletin.status}", file=sys.stderr)
        return Exit.START
    print(bulletin.status)
    return Exit.OK


def _stop(options: argparse.Namespace, pid: int, until: float) -> int:
    """Stop, and wait until the supervisor has gone."""
    os.kill(pid, VERBS[options.verb])
    while True:
        try:
            if running(options) != pid:
                return Exit.OK  # the next service has begun already
        except _NotRunningError:
            return Exit.OK
        _wait(until, "it has not ended yet, and goes on with that")


def _wait(until: float, what: str) -> None:
    if time.monotonic() >= until:
        raise TimeoutError(what)
    time.sleep(_AGAIN)  # what is waited for happens in another process's memory, which wakes nobody


def _show(reading: Reading, *, as_json: bool) -> int:
    bulletin = decode(reading.notice())
    told = report(bulletin, reading.rows, time.monotonic())
    print(json.dumps(told) if as_json else "\n".join(table(told)))
    return Exit.OK if bulletin.is_serving else Exit.START


def running(options: argparse.Namespace) -> int:
    """The pid of the supervisor that is meant.

    Raises:
        _NotRunningError: it is not there.
    """
    try:
        return owner(options.pid) if options.pid else supervisor(options.main_pid)
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else error
        hint = f"Is the server running, with --pid {options.pid}?" if options.pid else "Is it the main process of the service?"
        raise _NotRunningError(f"{reason}. {hint}") from error


def supervisor(pid: int) -> int:
    """The pid of the supervisor that this process is, or whose child it is.

    For a moment after an upgrade such a child is the service's main process (`systemd.Notifier.introduce`).

    Raises:
        OSError: there is no such process, or it is not ours to look at.
        ValueError: it is no supervisor, nor has one.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        parent = int(file.read().rpartition(b") ")[2].split()[1])  # the name may hold spaces and parentheses: proc_pid_stat(5)
    for candidate in (pid, parent):
        if any(decode(Reading(page).notice()).pid == candidate for page in find(candidate)):
            return candidate
    raise ValueError("it is no supervisor of this version")


def owner(path: str) -> int:
    """The pid of the supervisor that holds the pid file.

    Raises:
        OSError: the file can't be read.
        ValueError: nobody holds it, or it holds no pid.
    """
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read(32))
    raise ValueError("no running server holds this file")
