"""Log lines of the supervisor and of its workers: one format, one write per line, and never a reason to stop.

`[2026-11-20 10:35:04.123 +0000] [INFO] worker=3 gen=1 pid=4711 ready after 0.21 s`

Not `logging`: it would be half of the supervisor's memory, its locks don't mix with fork, and a full disk or a closed
stderr must not reach the loop as an exception. A line goes out whole (PIPE_BUF and O_APPEND keep lines of several processes
apart). A reader that has stopped reading holds nobody up: after a moment lines are dropped, counted, and the number is told.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
import time
from os import getpid
from typing import TYPE_CHECKING, Final

from arbiter.errors import StartError, why

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
"""The levels of `logging`, by name."""

PATIENCE_MS: Final = 200
"""How long a line waits for a reader that doesn't read; once it was in vain, lines don't wait until one has gone through."""
PIECE: Final = select.PIPE_BUF
"""poll(2) promises room for this many bytes of a pipe, so such a write can't block; nor do bytes of another process get among
them (pipe(7))."""
_REPEAT: Final = 60.0
"""Seconds for which a log whose disk is full now and then is not complained of again."""


class Sink:
    """A file, or a standard stream (``-``), that takes whole lines. Shared by logs of the same place; survives forks."""

    def __init__(self, path: str, stream: int = 2) -> None:
        """Open it; `stream` is the descriptor that ``-`` stands for.

        Raises:
            StartError: it can't be opened.
        """
        self.path = path
        self._stream = stream
        self.fd = self._open()
        self._lost = 0
        self._is_torn = False
        """What it ends with is not a whole line."""
        self._complain: Callable[[str], None] | None = None
        self._silent_until = 0.0  # monotonic seconds
        self._captures = False
        self._poll: select.poll | None = None
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):  # a file never makes anybody wait for its reader
            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLOUT)

    def _open(self) -> int:
        if self.path == "-":
            return self._stream
        try:
            # Non-blocking: else a named pipe without a reader would make its opener wait for one.
            return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise StartError(
                f"can't open the log {self.path}: {why(error)}. Check --error-logfile, --access-logfile."
            ) from error

    def reopen(self) -> None:
        """Open the file again under its name. If that fails, the old one goes on being written.

        Raises:
            StartError: it can't be opened.
        """
        if self.path == "-":
            return
        fresh = self._open()
        os.dup2(fresh, self.fd, inheritable=False)
        os.close(fresh)
        if self._captures:
            self.capture()

    def capture(self) -> None:
        """Have the process's standard output and standard error end here too, also after `reopen`. For a file only."""
        if self.path == "-":
            return
        self._captures = True
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(self.fd, number)
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)  # else what is printed comes when the process ends

    def recapture(self) -> None:
        """The standard streams have been given away: capture them again, if they were captured."""
        if self._captures:
            self.capture()

    def write(self, lines: bytes) -> None:
        """Write lines, newlines included. Never raises, and waits for a reader no longer than `PATIENCE_MS`."""
        note = b""
        if self._lost:
            torn = b"\n" if self._is_torn else b""
            note = b"%b(%d log lines were lost: nobody read them, or the disk was full)\n" % (torn, self._lost)
            lines = note + lines
        done = 0
        try:
            while done < len(lines):
                if self._poll and not self._poll.poll(0 if self._lost else PATIENCE_MS):
                    raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
                done += os.write(self.fd, _piece(lines, done) if self._poll or done else lines)
        except OSError as error:
            self._lose(lines, done, len(note), error)
        else:
            self._lost = 0
            self._is_torn = False

    def _lose(self, lines: bytes, done: int, note: int, error: OSError) -> None:
        """`done` bytes of these lines were written, of which the first `note` say how many were lost before."""
        is_first = not self._lost
        self._lost = lines.count(b"\n", done) if done >= note else self._lost + lines.count(b"\n", note)
        if done:
            self._is_torn = not lines.endswith(b"\n", 0, done)
        now = time.monotonic()
        if is_first and self._complain and now >= self._silent_until:
            self._silent_until = now + _REPEAT
            self._complain(
                f"the access log can't be written: {why(error)}. Requests are served on, and lines are lost until it can be."
            )

    def complain_to(self, complain: Callable[[str], None]) -> None:
        """Have `complain` told when lines of the access log begin to be lost: the log itself can't say it."""
        self._complain = complain

    def close(self) -> None:
        """Close the file; a standard stream is not ours to close."""
        if self.path != "-":
            os.close(self.fd)


def _piece(lines: bytes, start: int) -> bytes:
    """From there on as many whole lines as a pipe takes in one; of a line that is longer, so much of it."""
    if len(lines) - start <= PIECE:
        return lines[start:]
    end = lines.rfind(b"\n", start, start + PIECE) + 1
    return lines[start : end or start + PIECE]


class Log:
    """Lines of one identity at one level and above, into a sink."""

    def __init__(self, sink: Sink, level: str, *, worker: int | None = None, generation: int = 1) -> None:
        self._sink = sink
        self._level = level
        self._worker, self._generation = worker, generation

    def bind(self, *, worker: int | None, generation: int) -> Log:
        """The same log for another identity."""
        return Log(self._sink, self._level, worker=worker, generation=generation)

    def reopen(self) -> None:
        """See `Sink.reopen`."""
        self._sink.reopen()

    def write(self, level: str, text: str, pid: int | None = None) -> None:
        """A line at `level`; `pid` when it is about another process than this one."""
        if LEVELS[level] < LEVELS[self._level]:
            return
        now = time.time()
        local = time.localtime(now)
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', local)}.{int(now % 1 * 1000):03d} {time.strftime('%z', local)}"
        worker = "-" if self._worker is None else self._worker
        line = f"[{stamp}] [{level.upper()}] worker={worker} gen={self._generation} pid={pid or getpid()} {text}\n"
        self._sink.write(line.encode("utf-8", "backslashreplace"))

    def debug(self, text: str) -> None:
        self.write("debug", text)

    def info(self, text: str) -> None:
        self.write("info", text)

    def warning(self, text: str) -> None:
        self.write("warning", text)

    def error(self, text: str) -> None:
        self.write("error", text)

    def critical(self, text: str) -> None:
        self.write("critical", text)

    def exception(self, text: str) -> None:
        """An error, and the traceback of the exception that is being handled."""
        import traceback  # rare, and the supervisor is to stay small

        self.write("error", f"{text}\n{traceback.format_exc().rstrip()}")
