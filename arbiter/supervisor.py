"""The loop: wait, observe, reconcile, perform. No policy is in it, and nothing in it waits but the kernel.

What is here besides the loop is the supervisor's estate: blueprints of generations, sockets, logs, the pid file, and the calls
of hooks. It is long since each effect, command and kind of news has its few lines here, where all that they touch is at hand;
what they decide by is elsewhere.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

import setproctitle

from arbiter import __version__, facts
from arbiter.blueprint import Blueprint
from arbiter.config.schema import HOOKS, STANDARD_LOGGING
from arbiter.errors import StartError, why
from arbiter.facts import Force
from arbiter.fleet import Fleet
from arbiter.kernel import Kernel, Posix
from arbiter.lifecycle import Ask, Phase
from arbiter.listeners import Listeners
from arbiter.logs import Log, Sink
from arbiter.news import News
from arbiter.notices import Notices
from arbiter.pidfile import PidFile
from arbiter.rehearsal import LOADING, Rehearsed, problem
from arbiter.scoreboard import ROWS
from arbiter.signals import Command, cutting
from arbiter.sockets import Form, queue_length
from arbiter.systemd import Notifier, Store, monotonic_usec, passed
from arbiter.upgrade import Bequest, Neighbours
from arbiter.workers.contract import AUTO, KINDS, Drain, Exit, ReopenLogs, Retire, choose_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from signal import Signals

    from arbiter.config.resolve import Resolved
    from arbiter.config.schema import Settings
    from arbiter.daemon import Daemon
    from arbiter.develop import Watcher
    from arbiter.facts import Effect, Fact
    from arbiter.hooks import Hooks
    from arbiter.upgrade import Predecessor
    from arbiter.workers.contract import WorkerId, Writer

_HOOKS: Final = frozenset({News.ALL_READY, News.RELOADED, News.REFUSED, News.DRAINING, News.STOPPING, News.QUITTING})
"""News of which hooks are told."""


Thing = TypeVar("Thing", "Effect", Command, Rehearsed)


class Supervisor:
    """One service, from its start to its end, in this process."""

    def __init__(
        self,
        resolved: Resolved,
        daemon: Daemon | None = None,
        before_us: Predecessor | None = None,
        remote: Callable[[Callable[[Signals], None] | None], None] = lambda _: None,
    ) -> None:
        """Take hold of all that the first generation needs: logs, sockets, pid file; of what a predecessor has, its own.

        `remote` is given what any thread may ask the service by, as a signal would, and None when there is nobody to ask.

        Raises:
            StartError: something is not to be had; what was taken has been given back.
        """
        self._resolved = resolved
        self._daemon = daemon
        self._remote = remote
        self._neighbours = Neighbours(before_us)
        self._is_quiet = before_us is not None
        """Whether it is for our predecessor to talk to the service manager."""
        self._notifier = Notifier(os.environ)
        self._notices = Notices(self._notifier.watchdog)
        self._number = 1
        self._code: int | None = None
        self._hooks: Hooks | None = None
        """Those of the generation that the service goes by."""
        self._has_drained = False
        self._measured = -1
        self._measure_at = 0.0
        self._blueprints: dict[int, Blueprint] = {}
        self._sinks: dict[tuple[str, int], Sink] = {}
        bequest = before_us.bequest if before_us else Bequest()
        self._listeners = Listeners(passed(os.environ), Store(os.environ, self._notifier), bequest.sockets)
        self._pidfile: PidFile | None = None
        self._old_pidfile = PidFile(*bequest.pidfile) if bequest.pidfile else None
        """That of our predecessor, if it is not ours as well."""
        try:
            os.chdir(resolved.settings.chdir)
            self._choose_pidfile(resolved.settings.pidfile)
            blueprint = self._draw(resolved)
            self._listeners.forget_returned()
            self._listeners.forget_inherited()
        except OSError as error:
            self._let_go()
            raise StartError(f"can't enter {error.filename}: {error.strerror}. Check --chdir.") from error
        except StartError:
            self._let_go()
            raise
        self._log = blueprint.log
        self._fleet = Fleet(blueprint.plan)
        self._watcher: Watcher | None = None
        self.error = ""
        """Why the application can't be loaded, when it can't."""
        self._page = 0
        """The youngest generation that shows an error, in development."""

    def run(self) -> int:
        """Serve until told to end. Returns the exit status (`contract.Exit`)."""
        first = self._blueprints[1]
        setproctitle.setproctitle(f"arbiter: supervisor [{first.title}]")
        self._kernel: Kernel = Posix(self._let_go_in_child, self._neighbours)
        self._remote(self._kernel.post)
        try:
            self._greet(first)
            if self._resolved.settings.reload:
                from arbiter.develop import Watcher

                self._watcher = Watcher(self._resolved.settings)
            code = self._loop()
            if self._hooks:
                self._hooks.call("on_exit")
            return code
        finally:
            self._remote(None)
            if self._watcher:
                self._watcher.close()
            if self._neighbours.part():
                self._inherit()
            self._kernel.close()
            self._let_go()

    def _loop(self) -> int:
        while True:
            effects = self._fleet.reconcile(self._kernel.now())
            self._count_workers(effects)
            self._measure()
            for effect in effects:
                self._shield(self._perform, effect)
            self._notify()
            if self._code is not None:
                return self._code
            for happening in self._kernel.wait(min(self._fleet.wake_at(), self._notices.wake_at(self._kernel.now()))):
                if isinstance(happening, Command):
                    self._shield(self._obey, happening)
                elif isinstance(happening, Rehearsed):
                    self._shield(self._rehearsed, happening)
                else:
                    self._observe(happening)

    def _shield(self, act: Callable[[Thing], None], thing: Thing) -> None:
        """Do it. What nobody has foreseen ends this act and not the service: the policy has a deadline for whatever it asks."""
        try:
            act(thing)
        except Exception:  # noqa: BLE001 - the loop must survive each turn
            self._log.exception(f"a mistake of Arbiter's own; the service goes on. Please report it, with this: {thing!r}")

    def _observe(self, fact: Fact) -> None:
        if self._hooks and not isinstance(fact, facts.Exited):
            self._call_about(fact, self._hooks)
        self._fleet.observe(fact, self._kernel.now())
        if self._hooks and isinstance(fact, facts.Exited | facts.NotForked):
            self._hooks.bury(fact.id, None if isinstance(fact, facts.NotForked) else self._kernel.pid(fact.id))

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
            case Command.UPGRADE:
                self._observe(facts.UpgradeAsked(self._neighbours.obstacle(os.environ)))
            case Command.REST:
                self._observe(facts.Rest())
            case Command.REIGN:
                self._speak(loud=True)
            case Command.ABDICATE:
                self._speak(loud=False)
            case Command.INHERIT:
                self._inherit()
            case Command.ADOPTED:
                self._notifier.introduce()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case facts.Fork(worker, generation):
                self._fork(worker, self._blueprints[generation])
            case facts.Retire(worker, last):
                self._kernel.tell(worker, Retire(last and self._listeners.has_doors))
            case facts.Drain():
                self._kernel.tell_all(Drain())
            case facts.Kill(worker, force):
                self._kernel.kill(worker, force)
            case facts.Dump(worker):
                self._kernel.dump(worker)
                self._abort(worker)
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
                self._hooks = self._blueprints[generation].hooks
                if self._hooks:
                    self._hooks.rule()
                    self._count_workers()
                self._kernel.watch(self._blueprints[generation].settings.touch_reload)
                if not self._is_quiet:
                    self._listeners.keep_over_restart()
            case facts.Complete():
                self._neighbours.say_ready()
            case facts.Launch():
                self._launch()
            case facts.HandOver():
                self._hand_over()
            case facts.TakeBack():
                self._take_back()
            case facts.StopSuccessor(force):
                self._neighbours.stop(force)
            case facts.Forget(generation):
                self._forget(generation)
            case facts.Finish(code):
                self._code = code

    # Hooks ------------------------------------------------------------------------------------------------------------

    def _fork(self, worker: WorkerId, blueprint: Blueprint) -> None:
        hooks = blueprint.hooks
        if hooks:
            hooks.call("pre_fork", hooks.worker(worker))
        try:
            self._kernel.fork(worker, blueprint)
        except OSError as error:
            self._observe(facts.NotForked(worker, error.strerror or str(error)))
            return
        if hooks and not blueprint.settings.preload_app:  # else it is not born yet, and the pid is its template's
            hooks.server.enter(worker, self._kernel.pid(worker))

    def _abort(self, id: WorkerId) -> None:  # noqa: A002 - its name everywhere
        """Have a stuck worker call worker_abort. Its stacks, asked for just before, are written first: in C, not in Python."""
        stuck = self._fleet.workers.get(id)
        if not (stuck and stuck.condemned and stuck.ready_at < inf):
            return
        if self._blueprints[stuck.generation].settings.worker_abort is not None:
            self._kernel.kill(id, Force.ABORT)

    def _call_about(self, fact: Fact, hooks: Hooks) -> None:
        """Call what wants to know of a fact, while the books still have the worker as it was."""
        match fact:
            case facts.SaidReady(id):
                worker = self._fleet.workers.get(id)
                if worker and worker.phase is Phase.BOOTING:
                    known = hooks.worker(id)
                    hooks.server.enter(id, self._kernel.pid(id))
                    known.booted = True
                    hooks.call("worker_ready", known)
            case facts.Overdue(id, doing):
                worker = self._fleet.workers.get(id)
                if worker and worker.phase is Phase.READY:
                    hooks.suspect(id, doing)
            case facts.Dumped(id, stacks):
                if worker := self._fleet.workers.get(id):
                    hooks.explain(id, worker.generation, stacks)

    def _count_workers(self, effects: Sequence[Effect] = ()) -> None:
        """Call nworkers_changed, if it has changed: before what follows from it, and by who rules after it."""
        if not self._hooks or any(isinstance(effect, facts.Adopt) for effect in effects):
            return
        if (count := self._fleet.count) != self._hooks.server.num_workers:
            before, self._hooks.server.num_workers = self._hooks.server.num_workers, count
            self._hooks.call("nworkers_changed", count, before)

    def _measure(self) -> None:
        """Tell statsd how many workers there are, and how many connections wait, where that is wanted."""
        if not (measure := getattr(self._log, "measure", None)):
            return
        if (count := len(self._fleet.workers)) != self._measured:
            self._measured = count
            measure("gunicorn.workers", count, "gauge", f"{count} workers")
        current = self._fleet.current
        if current and self._blueprints[current.number].settings.enable_backlog_metric:
            now = self._kernel.now()
            if now >= self._measure_at:
                self._measure_at = now + 1.0
                waiting = sum(queue_length(listener) for listener in self._blueprints[current.number].listeners)
                measure("gunicorn.backlog", waiting, "histogram", f"{waiting} connections wait to be accepted")

    # Generations ------------------------------------------------------------------------------------------------------

    def _draw(self, resolved: Resolved) -> Blueprint:
        """The blueprint of generation `self._number`, its sockets and logs opened.

        Raises:
            StartError: one of them can't be; what was opened for it is closed by the next `_tidy`.
        """
        settings = resolved.settings
        if settings.reload:
            from arbiter.develop import quick

            settings = quick(settings)
        error_sink = self._sink(settings.errorlog, 2)
        access_sink = self._sink(settings.accesslog, 1) if settings.accesslog else None
        log = self._open_log(resolved, error_sink)
        access: Writer | None = access_sink
        if logger := getattr(log, "logger", None):
            from arbiter.stdlog import StandardAccess

            access = StandardAccess(logger, settings.access_log_skip)
        hooks = self._open_hooks(resolved, log)
        blueprint = Blueprint(
            number=self._number,
            settings=settings,
            kind=_kind(settings),
            groups=self._listeners.get(settings.bind, settings.backlog, Form.of(settings), _share(settings)),
            log=log,
            access=access,
            sinks=frozenset(sink for sink in (error_sink, access_sink) if sink),
            hooks=hooks,
            loader=resolved.loader,
        )
        if (most := max(settings.workers, settings.max_workers) + settings.surge) * blueprint.rows > ROWS:
            raise StartError(f"workers = {most - settings.surge}: that many, with their threads, are too many for one service.")
        if hooks:
            hooks.server.LISTENERS = blueprint.listeners
        self._blueprints[self._number] = blueprint
        return blueprint

    def _open_log(self, resolved: Resolved, sink: Sink) -> Log:
        """The log of a generation.

        Raises:
            StartError: it is configured wrongly.
        """
        settings = resolved.settings
        if settings.capture_output and self._number == 1:
            sink.capture()
        if not any(getattr(settings, name) for name in STANDARD_LOGGING):
            return Log(sink, settings.loglevel, generation=self._number)
        from arbiter.stdlog import open_log

        return open_log(settings, resolved.noted, sink, self._number)

    def _settle_log(self) -> None:
        """What was tried of another log configuration is over."""
        if settle := getattr(self._log, "settle", None):
            settle()

    def _open_hooks(self, resolved: Resolved, log: Log) -> Hooks | None:
        """The hooks of a generation, if it has any; those of the first see the service begin, before it listens.

        Raises:
            StartError: a function is not to be had, or on_starting raised.
        """
        if all(getattr(resolved.settings, name) is None for name in HOOKS):
            return None
        from arbiter.hooks import Hooks  # few have any, and the supervisor is to stay small

        hooks = Hooks(resolved.settings, resolved.noted, log, self._hooks.server if self._hooks else None)
        if self._number == 1:
            self._hooks = hooks
            hooks.server.num_workers = resolved.settings.workers
            hooks.call("nworkers_changed", resolved.settings.workers, None)
            hooks.begin()
        elif not self._hooks:
            hooks.server.num_workers = self._fleet.count
        return hooks

    def _sink(self, path: str, stream: int) -> Sink:
        key = (path, stream if path == "-" else -1)
        if key not in self._sinks:
            self._sinks[key] = Sink(path, stream)
        return self._sinks[key]

    def _reload(self) -> None:
        """Have the settings of a new generation tried, apart; `_rehearsed` goes on with it."""
        self._number += 1
        if lines := self._notices.reload(self._fleet, self._number, monotonic_usec()):
            self._notifier.tell(*lines)
        try:
            self._kernel.rehearse(self._number, self._rehearse)
        except OSError as error:
            self._refuse(f"no process could be forked to try the settings: {why(error)}.")

    def _rehearse(self) -> None:
        """In a process that does nothing else: run all of the operator's that `_rehearsed` is going to run here."""
        setproctitle.setproctitle("arbiter: the settings of a reload are tried")
        resolved = self._resolved.again()
        self._open_hooks(resolved, self._open_log(resolved, self._sink(resolved.settings.errorlog, 2)))

    def _rehearsed(self, said: Rehearsed) -> None:
        """Resolve the settings anew and put the result on trial; on any error everything stays as it is."""
        if said.problem:
            self._refuse(said.problem)
            return
        if self._fleet.standing.is_leaving:
            self._log.write(News.TOO_LATE.level, News.TOO_LATE.sentence)
            return
        if self._number != said.generation:  # an error page has come between
            self._number += 1
        try:
            with self._guarded(), cutting(LOADING):
                resolved = self._resolved.again()
                blueprint = self._draw(resolved)
        except BaseException as error:  # noqa: BLE001 - a configuration file is a program: it may raise anything
            self._refuse(problem(error))
            return
        for warning in resolved.warnings:
            self._log.warning(warning)
        self._resolved = resolved
        if blueprint.hooks:
            blueprint.hooks.call("on_reload")
        self._notices.propose()
        self._observe(facts.Proposed(blueprint.number, blueprint.plan))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever code of the operator's does to this process that the service can't do without, undo it."""
        us = os.getpid()
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield
        finally:
            if os.getpid() != us:
                os._exit(Exit.OK)  # a copy that it has forked and let run on: one supervisor is enough
            os.fchdir(here)
            os.close(here)
            self._kernel.rearm()

    def _refuse(self, why: str) -> None:
        """Settings can't be tried as a generation: say so, and leave no trace of them."""
        self._settle_log()
        self._tidy()
        problems = "\n  ".join(why.splitlines())
        self._log.error(f"reload refused, nothing has changed. Fix this and send HUP again:\n  {problems}")
        if self._hooks:
            self._hooks.tell("reload_refused", why)
        self._notices.refuse(why, _clock())
        self._show(why)

    def _show(self, error: str) -> None:
        """In development: have an error page take the place of an application that can't be loaded."""
        if not self._resolved.settings.reload or self._fleet.current is None or self._number == self._page:
            return
        from arbiter.develop import error_page

        self._page = self._number = self._number + 1
        settings = error_page(self._resolved.settings, error)
        blueprint = self._draw(replace(self._resolved, settings=settings))
        self._observe(facts.Proposed(blueprint.number, blueprint.plan))

    def _forget(self, generation: int) -> None:
        del self._blueprints[generation]
        self._kernel.forget(generation)
        self._tidy()

    def _tidy(self) -> None:
        """Let go of what no generation uses."""
        kept = self._blueprints.values()
        self._listeners.keep_only(blueprint.groups for blueprint in kept)
        used = {sink for blueprint in kept for sink in blueprint.sinks}
        for key in [key for key, sink in self._sinks.items() if sink not in used]:
            self._sinks.pop(key).close()

    def _let_go_in_child(self, blueprint: Blueprint | None) -> None:
        """In a worker, right after its fork: close what is the supervisor's own, or another generation's.

        In a child that is no worker (None) the logs stay open.
        """
        self._listeners.leave_only(blueprint.listeners if blueprint else ())
        for sink in self._sinks.values():
            if blueprint and sink not in blueprint.sinks:
                sink.close()
        for pidfile in (self._pidfile, self._old_pidfile):
            if pidfile:
                pidfile.forget()  # else its lock would live as long as the last worker
        if self._daemon:
            self._daemon.forget()
        if self._watcher:
            self._watcher.forget()
        self._notifier.close()

    # Before and after us ----------------------------------------------------------------------------------------------

    def _choose_pidfile(self, path: str | None) -> None:
        if path and self._old_pidfile and self._old_pidfile.is_at(path):
            self._pidfile, self._old_pidfile = self._old_pidfile, None
        elif path:
            self._pidfile = PidFile(path)

    def _launch(self) -> None:
        pidfile = self._pidfile.bequeath() if self._pidfile else None
        try:
            hooks = self._hooks
            before = (lambda: hooks.call("pre_exec")) if hooks and hooks.has("pre_exec") else None
            self._neighbours.launch(self._resolved, Bequest(self._listeners.bequeath(), pidfile), before)
        except OSError as error:
            self._observe(facts.SuccessorGone(f"could not be started: {why(error)}"))

    def _hand_over(self) -> None:
        """The service is our successor's. What has a name stays ours until we leave, in case it dies before."""
        if not (successor := self._neighbours.successor):
            return  # it has gone in the meantime
        self._listeners.share()
        if self._pidfile:
            self._pidfile.give(successor.pid)
        self._kernel.watch(None)
        self._notifier.tell(f"MAINPID={successor.pid}", "READY=1")
        self._neighbours.tell(Command.REIGN)

    def _take_back(self) -> None:
        self._neighbours.tell(Command.ABDICATE)
        self._own()
        if current := self._fleet.current:
            self._kernel.watch(self._blueprints[current.number].settings.touch_reload)
        self._notifier.tell(f"MAINPID={os.getpid()}", "READY=1")

    def _inherit(self) -> None:
        """Our predecessor has gone: its names are ours, and those that we don't want go."""
        self._own()
        if self._old_pidfile:
            self._old_pidfile.own()
            self._old_pidfile.remove()
            self._old_pidfile = None
        self._speak(loud=True)

    def _own(self) -> None:
        self._listeners.own()
        if self._pidfile:
            self._pidfile.own()

    def _speak(self, *, loud: bool) -> None:
        self._is_quiet = not loud
        if loud and self._fleet.current:
            self._listeners.keep_over_restart()

    # Words ------------------------------------------------------------------------------------------------------------

    def _greet(self, blueprint: Blueprint) -> None:
        pid = os.getpid()
        where = ", ".join(self._listeners.names())
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        count = blueprint.settings.workers
        kind, otherwise = blueprint.kind, ""
        if kind == AUTO:  # the application is not loaded yet: the worker says what it has become, when it is ready
            kind = choose_kind(
                is_asgi=False,
                threads=blueprint.settings.threads,
                has_websockets=blueprint.settings.websocket_app is not None,
            )
            otherwise = "" if kind == "async" else " (async if it is an ASGI application)"
        self._log.info(
            f"arbiter {__version__} (Python {python}) listening on {where}: {count} {kind} "
            f"worker{'s' * (count != 1)} for {blueprint.app.partition('(')[0]}{otherwise}, supervisor pid {pid}. "
            f"Reload: kill -HUP {pid}. Stop: kill -TERM {pid}, or Ctrl-C."
        )
        for warning in self._resolved.warnings:
            self._log.warning(warning)

    def _serving(self) -> None:
        """The service is up: tell whoever waits for that."""
        if self._hooks:
            self._hooks.call("when_ready")
        if self._daemon:
            self._daemon.settle()
            for sink in self._sinks.values():
                sink.recapture()

    def _notify(self) -> None:
        """Tell the service manager, if there is one, what has changed."""
        if self._is_quiet or not self._notifier or not self._notifier.flush():
            return
        is_responsive = any(self._kernel.is_responsive(worker.id) for worker in self._fleet.active if worker.serves)
        now = self._kernel.now()
        if lines := self._notices.turn(self._fleet, self._kernel.busy(), is_responsive=is_responsive, now=now):
            self._notifier.tell(*lines)

    def _tell(self, told: facts.Tell) -> None:
        self._notices.hear(told.news, told.words, _clock())
        if told.news is News.REFUSED:
            self._settle_log()
        if told.news in (News.REFUSED, News.NEVER_SERVED):
            self.error = f"{told.words['why']}\n{told.words['traceback']}".strip()
            self._show(self.error)
        level, sentence = told.news.level, told.news.sentence.format(**told.words)
        if self._hooks and told.news in _HOOKS:
            self._call_for(told.news, sentence, self._hooks)
        if told.id:
            log = self._log.bind(worker=told.id.slot, generation=told.generation)
            log.write(level, sentence, self._kernel.pid(told.id))
        else:
            self._log.bind(worker=None, generation=told.generation).write(level, sentence)

    def _call_for(self, news: News, sentence: str, hooks: Hooks) -> None:
        match news:
            case News.ALL_READY | News.RELOADED:
                hooks.call("all_workers_ready")
            case News.REFUSED:
                hooks.tell("reload_refused", sentence)
            case _:
                if not self._has_drained:
                    self._has_drained = True
                    hooks.call("drain_started")

    def _reopen_logs(self) -> None:
        for sink in self._sinks.values():
            try:
                sink.reopen()
            except StartError as error:
                self._log.error(f"{error} The file that is open goes on being written.")
        if logger := getattr(self._log, "logger", None):
            logger.reopen_files()
        self._kernel.tell_all(ReopenLogs())
        self._log.info("log files reopened")

    def _let_go(self) -> None:
        self._listeners.close()
        self._blueprints.clear()
        self._tidy()
        for pidfile in (self._pidfile, self._old_pidfile):
            if pidfile:
                pidfile.remove()


def _clock() -> str:
    """The time of day, for people."""
    return time.strftime("%H:%M")


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


def serve(resolved: Resolved, daemon: Daemon | None = None, before_us: Predecessor | None = None) -> int:
    """Run a service with these settings in this process until it ends; its exit status (`contract.Exit`).

    `before_us` is the supervisor that has started this process, to take its place.

    Raises:
        StartError: it can't start.
    """
    supervisor = Supervisor(resolved, daemon, before_us)
    code = supervisor.run()
    while resolved.settings.reload and code in (Exit.BOOT, Exit.NOT_FOUND):
        from arbiter.develop import error_page

        shown = replace(resolved, settings=error_page(resolved.settings, supervisor.error))
        supervisor = Supervisor(shown, daemon)
        code = supervisor.run()
    return code
