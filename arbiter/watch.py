"""The process that looks for changed sources, for `--reload`: ``python -m arbiter.watch PID``, a `Watch` on standard input.

It sends SIGHUP to the supervisor, for whom a change is a reload like any other: what is broken harms nobody. It is a process
of its own since watching takes threads, and a process that forks must have one. It ends when standard input does: with the
supervisor, however that ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD: Final = 0.5
"""Seconds between two looks where nothing tells of changes. A look at 1000 files takes about 5 ms."""
CALM: Final = 0.1
"""Seconds without another change before one is told: editors and version control write many files at a time."""
IGNORED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
"""Folders that hold no source, besides those whose name begins with a dot."""


class Watch(NamedTuple):
    """What is looked after."""

    folders: list[str]
    files: list[str]
    """Single files, whatever their name."""
    include: list[str]
    """Patterns of names (fnmatch) of files that matter."""
    exclude: list[str]
    """Patterns of names of files and folders, or of paths, that don't."""
    engine: str
    """``auto``, ``inotify`` (watchfiles), or ``poll``."""
    since: int
    """When the supervisor began, in nanoseconds of the wall clock, as files have them."""

    def matters(self, path: str) -> bool:
        """Whether a change of this file is one."""
        if path in self.files:
            return True
        name = os.path.basename(path)
        if not any(fnmatch(name, pattern) for pattern in self.include):
            return False
        return not any(self.is_out(path, folder) for folder in self.folders)

    def is_out(self, path: str, folder: str) -> bool:
        """Whether a path in a folder is excluded, by itself or by a folder on the way to it."""
        parts = os.path.relpath(path, folder).split(os.sep)
        if parts[0] == os.pardir:
            return False
        excluded = (fnmatch(path, pattern) or any(fnmatch(part, pattern) for part in parts) for pattern in self.exclude)
        return any(part in IGNORED or part.startswith(".") for part in parts) or any(excluded)


def snapshot(watch: Watch) -> dict[str, int]:
    """The times of all files that matter, by path."""
    found = {}
    paths = [*watch.files]
    for folder in watch.folders:
        for where, folders, names in os.walk(folder):
            # An environment lies in many projects, and has more files than they.
            folders[:] = [
                name
                for name in folders
                if not watch.is_out(os.path.join(where, name), folder)
                and not os.path.exists(os.path.join(where, name, "pyvenv.cfg"))
            ]
            paths += [os.path.join(where, name) for name in names]
    for path in paths:
        if path not in found and watch.matters(path):
            try:
                found[path] = os.stat(path).st_mtime_ns
            except OSError:
                pass  # gone meanwhile
    return found


def changes(watch: Watch) -> Iterator[bool]:
    """Whether something has changed, again and again; once for many changes that come together."""
    if watch.engine != "poll":
        try:
            import watchfiles
        except ImportError:
            if watch.engine != "auto":
                sys.stderr.write("arbiter: reload_engine = inotify needs watchfiles: pip install 'arbiter-server[reload]'\n")
        else:
            known = {os.path.dirname(path) for path in watch.files}
            places = [path for path in {*watch.folders, *known} if os.path.isdir(path)]
            for found in watchfiles.watch(
                *places,
                watch_filter=None,
                raise_interrupt=False,
                rust_timeout=int(PERIOD * 1000),
                step=int(CALM * 1000),
                yield_on_timeout=True,
            ):
                yield any(watch.matters(path) for _, path in found)
            return
    before = snapshot(watch)
    while True:
        time.sleep(PERIOD)
        after = snapshot(watch)
        has_changed = after != before
        while after != before:
            time.sleep(CALM)
            before, after = after, snapshot(watch)
        yield has_changed


def has_missed(watch: Watch, now: int) -> bool:
    """Whether something has changed since the supervisor began: it serves before this process, which takes a moment, looks."""
    return any(watch.since < changed <= now for changed in snapshot(watch).values())


def main() -> None:
    """Watch until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    pid = int(sys.argv[1])
    watch = Watch(**json.loads(sys.stdin.readline()))
    is_first = True
    for has_changed in changes(watch):
        if select.select([sys.stdin], [], [], 0)[0]:
            return
        if has_changed or (is_first and has_missed(watch, time.time_ns())):
            os.kill(pid, signal.SIGHUP)
        is_first = False


if __name__ == "__main__":
    main()
