"""A reload's settings are loaded in a process of their own first, so that whatever they do, they do it there.

A configuration file is a program. At a reload the supervisor has to execute it itself, as hooks are functions of it; but one
that calls os._exit, crashes in C, hangs there or closes every descriptor would end the service or freeze it. So a forked
child loads it before, and the supervisor only if the child came through. Rules:

* nothing waits: the child is started, and its exit is heard of by SIGCHLD like any; one that never comes to an end is ended
  by faulthandler's watchdog, which tells the line and needs no interpreter lock, and one that escapes this by SIGKILL;
* it came through only if it has *said* so: an exit status of 0 is also os._exit(0)'s;
* it has its own process group, which is killed before its pid is free: no helper that the file starts outlives it.

The file is executed twice in an accepted reload. Rejected: to pass the values on instead (functions can't be, and what a file
does to the environment on purpose would be lost), and to judge by deadlines alone (what hangs in C can't keep any).
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import re
import signal
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, NoReturn

from arbiter.child import await_end, signal_name
from arbiter.config.provenance import ConfigError
from arbiter.errors import StartError
from arbiter.fork import fork
from arbiter.signals import Cut
from arbiter.spawn import SUPERVISORS_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable

LOADING: Final = 10.0
"""Seconds that settings may take to load at a reload; secrets fetched over a network take a second or two."""
_ESCAPED: Final = 1.0
"""Seconds after which SIGKILL ends what the watchdog has not: a process that was stopped, or has taken the watchdog away."""
_STANDARD: Final = 2
"""Up to this number descriptors are standard input, output and error."""
_LOADED: Final = "loaded"
_LONGEST: Final = 32768
"""Bytes of a report: half of what a pipe holds (pipe(7)), so that it is written whole though nobody reads yet."""
_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)
"""How faulthandler writes one; the innermost is the first."""
_FATAL: Final = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """The settings of this generation have been tried; `problem` is what is wrong with them, empty for nothing."""

    generation: int
    problem: str


@dataclass(slots=True)
class _Child:
    """Known by its pid until it is reaped, and not a moment longer."""

    generation: int
    pid: int
    report: int
    """Read end of the pipe that it says its result into; non-blocking."""
    until: float


class Rehearsals:
    """The child that tries settings, when there is one: the newest wish is the only one that counts."""

    def __init__(self) -> None:
        self._child: _Child | None = None

    @property
    def wake_at(self) -> float:
        """When `listen` has something to do though no child has exited."""
        return self._child.until if self._child else inf

    @property
    def pid(self) -> int:
        """Of the child, which `listen` reaps and nobody else; 0 when there is none."""
        return self._child.pid if self._child else 0

    def begin(self, generation: int, load: Callable[[], object], undo: Callable[[], None], now: float) -> None:
        """Have a child `load` settings; one that still does is ended. `undo`, in the child, closes what is the supervisor's.

        Raises:
            OSError: no process could be had.
        """
        self.cancel()
        report, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = fork(lambda: _rehearse(load, undo, theirs))
        except OSError:
            os.close(report)
            raise
        finally:
            os.close(theirs)
        with contextlib.suppress(OSError):  # the child does it too: whoever is first
            os.setpgid(pid, pid)
        self._child = _Child(generation, pid, report, now + LOADING + _ESCAPED)

    def listen(self, now: float) -> list[Rehearsed]:
        """What has come of it, once."""
        child = self._child
        if not child:
            return []
        # Not reaped yet, so that its pid, and its group's number with it, are still its own.
        ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if not ended and now < child.until:
            return []
        said = _read(child.report)
        self.cancel()
        if not ended:
            return [Rehearsed(child.generation, f"{_TOO_LONG}, and could not be interrupted. It was given up.")]
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return [Rehearsed(child.generation, _judge(code, said))]

    def cancel(self, *, at_end: bool = False) -> None:
        """End the child, and all that it has started; and wait for it, if this is the end."""
        if not (child := self._child):
            return
        self._child = None
        with contextlib.suppress(OSError):  # no group: it has not come to that yet, and is alone
            os.killpg(child.pid, signal.SIGKILL)
        os.kill(child.pid, signal.SIGKILL)
        os.close(child.report)
        if at_end:
            await_end(child.pid)
        else:
            os.waitpid(child.pid, os.WNOHANG)  # or a moment later, with all the others, when nobody knows it any more

    def forget(self) -> None:
        """In another child, right after its fork: close what is the supervisor's."""
        if self._child:
            os.close(self._child.report)


_TOO_LONG: Final = f"loading the settings took longer than {LOADING:g} s"


def problem(error: BaseException) -> str:
    """Why a generation can't even be tried."""
    if isinstance(error, ConfigError | StartError):
        return str(error)
    import traceback  # rare, and the supervisor is to stay small

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name != "_on_signal"]
    frame = frames[-1] if frames else None
    where = f" ({frame.filename}:{frame.lineno}, in {frame.name})" if frame else ""
    if isinstance(error, Cut):
        return f"{_TOO_LONG}, or the service is to end. It was given up{where}."
    return "".join(traceback.format_exception_only(error)).strip() + where


def _rehearse(load: Callable[[], object], undo: Callable[[], None], report: int) -> NoReturn:
    """In the child, signals being blocked: its whole life."""
    try:
        os.setpgid(0, 0)
        before = _descriptors()
        undo()
        atexit._clear()  # what the supervisor registered is the supervisor's  # noqa: SLF001 - there is no public name
        for number in SUPERVISORS_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # `pkill -HUP arbiter` is meant for the supervisor
        faulthandler.enable(report)
        faulthandler.dump_traceback_later(LOADING, exit=True, file=report)
        us, files = os.getpid(), _plugged(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            load()
            said = _LOADED
        except BaseException as error:  # noqa: BLE001 - it is a program: it may raise anything
            said = problem(error)
        if os.getpid() == us and _are_open(files):  # else it is a copy, which the file has forked and let run on; or mute
            os.write(report, said.encode("utf-8", "backslashreplace")[:_LONGEST])
    finally:
        os._exit(0)


def _plugged(numbers: set[int]) -> dict[int, os.stat_result]:
    """What is open under these numbers, all of which the supervisor uses: /dev/null, where its own has been closed here."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in numbers:
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number, inheritable=False)
    return {number: os.fstat(number) for number in numbers}


def _are_open(files: dict[int, os.stat_result]) -> bool:
    """Whether the same files are open as before."""
    try:
        return all(os.path.samestat(os.fstat(number), file) for number, file in files.items())
    except OSError:
        return False


def _descriptors() -> set[int]:
    """The numbers of open files, the standard ones left out: those are anybody's to redirect."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if number > _STANDARD}


def _read(report: int) -> str:
    with contextlib.suppress(BlockingIOError):  # somebody else still has its other end
        return os.read(report, 2 * _LONGEST).decode("utf-8", "replace")
    return ""


def _judge(code: int, said: str) -> str:
    """What is wrong with the settings that a process was to load which ended so (by a signal, if negative); empty: nothing."""
    if code == 0 and said == _LOADED:
        return ""
    if code == 0 and said:
        return said
    frame = _FRAME.search(said)
    where = f" ({frame['file']}:{frame['line']}, in {frame['name']})" if frame else ""
    if said.startswith("Timeout"):
        return f"{_TOO_LONG}. It was given up{where}."
    if code < 0:
        fatal = _FATAL.search(said)
        what = f": {fatal[1]}" if fatal else ""
        return f"the process that tried the settings was killed by {signal_name(-code)}{what}{where}. They were tried apart."
    if code == 0 and not said:
        return (
            "the configuration file ends the process that tries it, by os._exit(0) or the like, or closes descriptors that are "
            "not its own: it would have ended the service."
        )
    return f"the configuration file ends the process that tries it, with status {code}: it would have ended the service."
