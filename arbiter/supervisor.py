"""The loop: wait, observe, reconcile, perform. No policy is in it, and nothing in it waits but the kernel.

What is here besides the loop is the supervisor's estate: blueprints of generations, sockets, logs, the pid file.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import setproctitle

from arbiter import __version__, facts
from arbiter.blueprint import Blueprint
from arbiter.config.provenance import ConfigError
from arbiter.errors import StartError
from arbiter.fleet import Fleet
from arbiter.kernel import Kernel, Posix
from arbiter.lifecycle import Ask
from arbiter.listeners import Listeners
from arbiter.logs import Log, Sink
from arbiter.pidfile import PidFile
from arbiter.signals import Command
from arbiter.systemd import Notifier, passed
from arbiter.workers.contract import ReopenLogs, Retire

if TYPE_CHECKING:
    from arbiter.config.resolve import Resolved
    from arbiter.daemon import Daemon
    from arbiter.facts import Effect, Fact


class Supervisor:
    """One service, from its start to its end, in this process."""

    def __init__(self, resolved: Resolved, daemon: Daemon | None = None) -> None:
        """Take hold of all that the first generation needs: logs, sockets, pid file.

        Raises:
            StartError: something is not to be had; what was taken has been given back.
        """
        self._resolved = resolved
        self._daemon = daemon
        self._notifier = Notifier(os.environ)
        self._number = 1
        self._code: int | None = None
        self._blueprints: dict[int, Blueprint] = {}
        self._sinks: dict[tuple[str, int], Sink] = {}
        self._listeners = Listeners(passed(os.environ))
        self._pidfile: PidFile | None = None
        try:
            os.chdir(resolved.settings.chdir)
            blueprint = self._draw(resolved)
            if path := resolved.settings.pidfile:
                self._pidfile = PidFile(path)
        except OSError as error:
            self._let_go()
            raise StartError(f"can't enter {error.filename}: {error.strerror}. Check --chdir.") from error
        except StartError:
            self._let_go()
            raise
        self._log = blueprint.log
        self._fleet = Fleet(blueprint.plan)

    def run(self) -> int:
        """Serve until told to end. Returns the exit status (`contract.Exit`)."""
        first = self._blueprints[1]
        setproctitle.setproctitle(f"arbiter: supervisor [{first.title}]")
        self._kernel: Kernel = Posix(self._let_go_in_child)
        try:
            self._greet(first)
            return self._loop()
        finally:
            self._kernel.close()
            self._let_go()

    def _loop(self) -> int:
        while True:
            for effect in self._fleet.reconcile(self._kernel.now()):
                self._perform(effect)
            if self._code is not None:
                return self._code
            for happening in self._kernel.wait(self._fleet.wake_at()):
                if isinstance(happening, Command):
                    self._obey(happening)
                else:
                    self._observe(happening)

    def _observe(self, fact: Fact) -> None:
        self._fleet.observe(fact, self._kernel.now())

    def _obey(self, command: Command) -> None:
        match command:
            case Command.STOP:
                self._observe(facts.Asked(Ask.STOP))
            case Command.QUIT:
                self._observe(facts.Asked(Ask.QUIT))
            case Command.MORE:
                self._observe(facts.Scaled(+1))
            case Command.FEWER:
                self._observe(facts.Scaled(-1))
            case Command.RELOAD:
                self._reload()
            case Command.REOPEN_LOGS:
                self._reopen_logs()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case facts.Fork(worker, generation):
                try:
                    self._kernel.fork(worker, self._blueprints[generation])
                except OSError as error:
                    self._observe(facts.NotForked(worker, error.strerror or str(error)))
            case facts.Retire(worker, last):
                self._kernel.tell(worker, Retire(last))
            case facts.Kill(worker, force):
                self._kernel.kill(worker, force)
            case facts.Dump(worker):
                self._kernel.dump(worker)
            case facts.ShutDoors():
                self._listeners.shut()
            case facts.EndDoors():
                if self._listeners.end_if_empty():
                    self._observe(facts.DoorsEnded())
            case facts.Tell():
                self._tell(effect)
            case facts.Serving():
                self._serving()
            case facts.Adopt(generation):
                self._log = self._blueprints[generation].log
                self._kernel.watch(self._blueprints[generation].settings.touch_reload)
            case facts.Forget(generation):
                self._forget(generation)
            case facts.Finish(code):
                self._code = code

    # Generations ------------------------------------------------------------------------------------------------------

    def _draw(self, resolved: Resolved) -> Blueprint:
        """The blueprint of generation `self._number`, its sockets and logs opened.

        Raises:
            StartError: one of them can't be; what was opened for it is closed by the next `_tidy`.
        """
        settings = resolved.settings
        error_sink = self._sink(settings.errorlog, 2)
        access_sink = self._sink(settings.accesslog, 1) if settings.accesslog else None
        blueprint = self._blueprints[self._number] = Blueprint(
            number=self._number,
            settings=settings,
            kind="sync" if settings.worker_class == "auto" else settings.worker_class,
            listeners=self._listeners.get(settings.bind, settings.backlog, settings.umask),
            log=Log(error_sink, settings.loglevel, generation=self._number),
            access=access_sink,
            sinks=frozenset(sink for sink in (error_sink, access_sink) if sink),
        )
        return blueprint

    def _sink(self, path: str, stream: int) -> Sink:
        key = (path, stream if path == "-" else -1)
        if key not in self._sinks:
            self._sinks[key] = Sink(path, stream)
        return self._sinks[key]

    def _reload(self) -> None:
        """Resolve the settings anew and put the result on trial; on any error everything stays as it is."""
        self._number += 1
        try:
            resolved = self._resolved.again()
            blueprint = self._draw(resolved)
        except (ConfigError, StartError) as error:
            self._tidy()
            problems = "\n  ".join(str(error).splitlines())
            self._log.error(f"reload refused, nothing has changed. Fix this and send HUP again:\n  {problems}")
            return
        for warning in resolved.warnings:
            self._log.warning(warning)
        self._resolved = resolved
        self._observe(facts.Proposed(blueprint.number, blueprint.plan))

    def _forget(self, generation: int) -> None:
        del self._blueprints[generation]
        self._tidy()

    def _tidy(self) -> None:
        """Let go of what no generation uses."""
        kept = self._blueprints.values()
        self._listeners.keep_only(listener for blueprint in kept for listener in blueprint.listeners)
        used = {sink for blueprint in kept for sink in blueprint.sinks}
        for key in [key for key, sink in self._sinks.items() if sink not in used]:
            self._sinks.pop(key).close()

    def _let_go_in_child(self, blueprint: Blueprint) -> None:
        """In a worker, right after its fork: close what is the supervisor's own, or another generation's."""
        self._listeners.leave_only(blueprint.listeners)
        for sink in self._sinks.values():
            if sink not in blueprint.sinks:
                sink.close()
        if self._pidfile:
            self._pidfile.forget()  # else its lock would live as long as the last worker
        if self._daemon:
            self._daemon.forget()

    # Words ------------------------------------------------------------------------------------------------------------

    def _greet(self, blueprint: Blueprint) -> None:
        pid = os.getpid()
        where = ", ".join(self._listeners.names())
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        count = blueprint.settings.workers
        self._log.info(
            f"arbiter {__version__} (Python {python}) listening on {where}: {count} {blueprint.kind} "
            f"worker{'s' * (count != 1)} for {blueprint.app}, supervisor pid {pid}. "
            f"Reload: kill -HUP {pid}. Stop: kill -TERM {pid}, or Ctrl-C."
        )
        for warning in self._resolved.warnings:
            self._log.warning(warning)

    def _serving(self) -> None:
        """The service is up: tell whoever waits for that."""
        if self._daemon:
            self._daemon.settle()
        self._notifier.tell("READY=1")

    def _tell(self, told: facts.Tell) -> None:
        level, sentence = told.news.level, told.news.sentence.format(**told.words)
        if told.id:
            log = self._log.bind(worker=told.id.slot, generation=told.generation)
            log.write(level, sentence, self._kernel.pid(told.id))
        else:
            self._log.bind(worker=None, generation=told.generation).write(level, sentence)

    def _reopen_logs(self) -> None:
        for sink in self._sinks.values():
            try:
                sink.reopen()
            except StartError as error:
                self._log.error(f"{error} The file that is open goes on being written.")
        for worker in self._kernel.everyone():
            self._kernel.tell(worker, ReopenLogs())
        self._log.info("log files reopened")

    def _let_go(self) -> None:
        self._blueprints.clear()
        self._tidy()
        if self._pidfile:
            self._pidfile.remove()


def serve(resolved: Resolved, daemon: Daemon | None = None) -> int:
    """Run a service with these settings in this process until it ends; its exit status (`contract.Exit`).

    Raises:
        StartError: it can't start.
    """
    return Supervisor(resolved, daemon).run()
