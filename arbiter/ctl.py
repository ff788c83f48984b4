"""``arbiterctl``: tell a running supervisor what to do.

A client: it finds the supervisor by its pid file and sends the signal that the table in `arbiter.signals` has for the verb.
The file's lock says whether its owner lives, so a stale file never sends a signal to a stranger.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from typing import TYPE_CHECKING

from arbiter.errors import why
from arbiter.signals import SIGNALS
from arbiter.workers.contract import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {row.command.value: number for number, row in SIGNALS.items() if row.verb}


def main(argv: Sequence[str] | None = None) -> int:
    """The command `arbiterctl`. Returns the exit status (`contract.Exit`)."""
    lines = [f"  {row.command.value:<12} {row.doc}" for row in SIGNALS.values() if row.verb]
    parser = argparse.ArgumentParser(
        prog="arbiterctl",
        description="Tell a running Arbiter what to do.",
        epilog="verbs:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-p", "--pid", required=True, metavar="FILE", help="the pid file that the server was started with")
    parser.add_argument("verb", choices=sorted(VERBS))
    options = parser.parse_args(argv)
    try:
        pid = owner(options.pid)
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else error
        print(f"arbiterctl: {options.pid}: {reason}. Is the server running, with --pid {options.pid}?", file=sys.stderr)
        return Exit.START
    os.kill(pid, VERBS[options.verb])
    return Exit.OK


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
