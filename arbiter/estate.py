"""What the supervisor holds for its generations, and gives back: sockets, files that are logged to, the pid file, blueprints.

Everything is held by name (an address, a path) and shared by the generations that name it: a new one is opened before an old
one is closed, and `tidy` closes what no generation uses any more. So a reload that is refused has only to be forgotten.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from arbiter.blueprint import Blueprint, may_have_threads
from arbiter.config.schema import STANDARD_LOGGING
from arbiter.errors import StartError, why
from arbiter.listeners import Listeners
from arbiter.logs import Log, Sink
from arbiter.pidfile import PidFile
from arbiter.scoreboard import ROWS
from arbiter.sockets import Form
from arbiter.systemd import Store, passed
from arbiter.upgrade import Bequest
from arbiter.workers.contract import AUTO, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.config.resolve import Resolved
    from arbiter.config.schema import Settings
    from arbiter.hooks import Hooks
    from arbiter.systemd import Notifier
    from arbiter.workers.contract import Writer

    Pair = tuple[socket.socket, socket.socket]


class Estate:
    """Of one supervisor."""

    def __init__(self, notifier: Notifier, bequest: Bequest) -> None:
        """With what systemd has passed, and what a predecessor leaves to us.

        Raises:
            StartError: systemd has passed as a socket what is none.
        """
        self.listeners = Listeners(passed(os.environ), Store(os.environ, notifier), bequest.sockets)
        self.blueprints: dict[int, Blueprint] = {}
        """By the number of the generation: of all that have a worker, or are on trial."""
        self._sinks: dict[tuple[str, int], Sink] = {}
        self._handoffs: dict[str, Pair] = {}
        """By the protocol of the connections that go through them: whoever takes one must speak it."""
        self._pidfile: PidFile | None = None
        self._old_pidfile = PidFile(*bequest.pidfile) if bequest.pidfile else None
        """That of our predecessor, if it is not ours as well."""

    def claim_pidfile(self, path: str | None) -> None:
        """Take the pid file at `path`, if there is to be one; that of our predecessor may be the same.

        Raises:
            StartError: another service has it, or it can't be written.
        """
        if path and self._old_pidfile and self._old_pidfile.is_at(path):
            self._pidfile, self._old_pidfile = self._old_pidfile, None
        elif path:
            self._pidfile = PidFile(path)

    # Generations ------------------------------------------------------------------------------------------------------

    def draw(self, resolved: Resolved, number: int, open_hooks: Callable[[Log], Hooks | None]) -> Blueprint:
        """The blueprint of this generation, its sockets and logs opened; its hooks are opened before it listens.

        Raises:
            StartError: one of them can't be; what was opened for it is closed by the next `tidy`.
        """
        settings = resolved.settings
        if settings.reload:
            from arbiter.develop import quick

            settings = quick(settings)
        error_sink = self._sink(settings.errorlog, 2)
        access_sink = self._sink(settings.accesslog, 1) if settings.accesslog else None
        log = _open_log(resolved, number, error_sink)
        access: Writer | None = access_sink
        if logger := getattr(log, "logger", None):
            from arbiter.stdlog import StandardAccess

            access = StandardAccess(logger, settings.access_log_skip)
        hooks = open_hooks(log)
        kind = _kind(settings)
        blueprint = Blueprint(
            number=number,
            settings=settings,
            kind=kind,
            groups=self.listeners.get(settings.bind, settings.backlog, Form.of(settings), _share(settings)),
            log=log,
            access=access,
            sinks=frozenset(sink for sink in (error_sink, access_sink) if sink),
            hooks=hooks,
            loader=resolved.loader,
            handoff=self._handoff(kind, settings),
        )
        if (most := max(settings.workers, settings.max_workers) + settings.surge) * blueprint.rows > ROWS:
            raise StartError(f"workers = {most - settings.surge}: that many, with their threads, are too many for one service.")
        if hooks:
            hooks.server.LISTENERS = blueprint.listeners
        self.blueprints[number] = blueprint
        return blueprint

    def rehearse(self, resolved: Resolved, number: int, open_hooks: Callable[[Log], Hooks | None]) -> None:
        """Run all of the operator's code that `draw` would run, in a process that may come to harm by it.

        Raises:
            StartError: as `draw`.
        """
        open_hooks(_open_log(resolved, number, self._sink(resolved.settings.errorlog, 2)))

    def forget(self, generation: int) -> None:
        """A generation has no workers any more, or was refused."""
        del self.blueprints[generation]
        self.tidy()

    def tidy(self) -> None:
        """Let go of what no generation uses."""
        kept = self.blueprints.values()
        self.listeners.keep_only(blueprint.groups for blueprint in kept)
        used = {sink for blueprint in kept for sink in blueprint.sinks}
        for key in [key for key, sink in self._sinks.items() if sink not in used]:
            self._sinks.pop(key).close()
        for protocol, pair in list(self._handoffs.items()):
            if all(blueprint.handoff is not pair for blueprint in kept):
                _close(self._handoffs.pop(protocol))

    def close(self) -> None:
        """Give everything back: the end of the service, or of a start that failed."""
        self.listeners.close()
        self.blueprints.clear()
        self.tidy()
        for pidfile in (self._pidfile, self._old_pidfile):
            if pidfile:
                pidfile.remove()

    def leave_in_child(self, blueprint: Blueprint | None) -> None:
        """In a worker of this generation, right after its fork: close what is the supervisor's own, or another generation's.

        In a child that is no worker (None) the logs stay open.
        """
        self.listeners.leave_only(blueprint.listeners if blueprint else ())
        for sink in self._sinks.values():
            if blueprint and sink not in blueprint.sinks:
                sink.close()
        for pair in self._handoffs.values():
            if not blueprint or pair is not blueprint.handoff:
                _close(pair)
        for pidfile in (self._pidfile, self._old_pidfile):
            if pidfile:
                pidfile.forget()  # else its lock would live as long as the last worker

    def _handoff(self, kind: str, settings: Settings) -> Pair | None:
        """What workers hand connections to each other through, if there is more than one, with threads, and no TLS.

        Raises:
            StartError: there are no descriptors left.
        """
        if settings.certfile or not may_have_threads(kind, settings) or max(settings.workers, settings.max_workers) < 2:
            return None
        if settings.protocol not in self._handoffs:
            try:
                pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:
                raise StartError(f"can't make the sockets that workers share: {why(error)}.") from error
            for end in pair:
                end.setblocking(False)
            self._handoffs[settings.protocol] = pair
        return self._handoffs[settings.protocol]

    # Logs -------------------------------------------------------------------------------------------------------------

    def _sink(self, path: str, stream: int) -> Sink:
        key = (path, stream if path == "-" else -1)
        if key not in self._sinks:
            self._sinks[key] = Sink(path, stream)
        return self._sinks[key]

    def reopen_logs(self) -> list[StartError]:
        """Open all files by their names again. Returns why, for each that can't be: it goes on being written as it is."""
        errors = []
        for sink in self._sinks.values():
            try:
                sink.reopen()
            except StartError as error:
                errors.append(error)
        return errors

    def recapture(self) -> None:
        """Standard output and error have been replaced, by a daemon's: what captures them does so again."""
        for sink in self._sinks.values():
            sink.recapture()

    # Upgrades ---------------------------------------------------------------------------------------------------------

    def bequeath(self) -> Bequest:
        """What a successor is to have."""
        pidfile = self._pidfile.bequeath() if self._pidfile else None
        return Bequest(self.listeners.bequeath(), pidfile)

    def share(self, pid: int) -> None:
        """The service is that of a successor with this pid. Names stay ours until we leave, in case it dies before."""
        self.listeners.share()
        if self._pidfile:
            self._pidfile.give(pid)

    def own(self) -> None:
        """The service is ours again, or for the first time."""
        self.listeners.own()
        if self._pidfile:
            self._pidfile.own()

    def inherit(self) -> None:
        """Our predecessor has gone: its names are ours, and those that we don't want go."""
        self.own()
        if self._old_pidfile:
            self._old_pidfile.own()
            self._old_pidfile.remove()
            self._old_pidfile = None


def _close(pair: Pair) -> None:
    for end in pair:
        end.close()


def _open_log(resolved: Resolved, number: int, sink: Sink) -> Log:
    """The log of a generation.

    Raises:
        StartError: it is configured wrongly.
    """
    settings = resolved.settings
    if settings.capture_output and number == 1:
        sink.capture()
    if not any(getattr(settings, name) for name in STANDARD_LOGGING):
        return Log(sink, settings.loglevel, generation=number)
    from arbiter.stdlog import open_log

    return open_log(settings, resolved.noted, sink, number)


def _share(settings: Settings) -> int:
    """How many sockets a port is to have: one for each worker that the settings call for, or one that is not shared (0)."""
    return max(settings.workers, settings.max_workers) if settings.reuse_port else 0


def _kind(settings: Settings) -> str:
    """The kind of worker that `worker_class` names: a key of `contract.KINDS`, or `AUTO`.

    As in Gunicorn, several threads make a sync worker a threaded one.

    Raises:
        StartError: there is no such kind.
    """
    if settings.worker_class == "sync" and settings.threads > 1:
        return "threaded"
    if settings.worker_class not in (AUTO, *KINDS):
        raise StartError(f"worker_class = {settings.worker_class}: this version has {', '.join(KINDS)}. Choose one of these.")
    return settings.worker_class
