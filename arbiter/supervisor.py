"""The loop: wait, observe, reconcile, perform. No policy is in it, and nothing in it waits but the kernel.

Each effect, each command and each kind of news has its few lines here, which is why it is long. What they decide by is in
`fleet`; what a generation holds is in `estate`, when hooks are called in `moments`, and what the service manager is told in
`notices`.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, TypeVar

import setproctitle

from arbiter import __version__, facts
from arbiter.bulletin import compose
from arbiter.errors import StartError, why
from arbiter.estate import Estate
from arbiter.facts import Force
from arbiter.fleet import Fleet
from arbiter.kernel import Kernel, Posix
from arbiter.lifecycle import Ask
from arbiter.moments import Moments
from arbiter.news import News
from arbiter.notices import Notices
from arbiter.rehearsal import LOADING, Rehearsed, problem
from arbiter.signals import Command, cutting
from arbiter.sockets import queue_length
from arbiter.spawn import share_stock
from arbiter.systemd import Notifier, monotonic_usec
from arbiter.upgrade import Bequest, Neighbours
from arbiter.workers.contract import AUTO, Drain, Exit, ReopenLogs, Retire, choose_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from signal import Signals

    from arbiter.blueprint import Blueprint
    from arbiter.config.resolve import Resolved
    from arbiter.daemon import Daemon
    from arbiter.develop import Watcher
    from arbiter.facts import Effect, Fact
    from arbiter.hooks import Hooks
    from arbiter.logs import Log
    from arbiter.upgrade import Predecessor
    from arbiter.workers.contract import WorkerId

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
        self._rehearsing = 0
        """The number of the generation whose settings are tried; 0 for none."""
        self._code: int | None = None
        self._moments = Moments()
        self._measured = -1
        self._measure_at = 0.0
        self._estate = Estate(self._notifier, before_us.bequest if before_us else Bequest())
        try:
            os.chdir(resolved.settings.chdir)
            self._estate.claim_pidfile(resolved.settings.pidfile)
            blueprint = self._draw(resolved)
            self._estate.listeners.forget_returned()
            self._estate.listeners.forget_inherited()
        except OSError as error:
            self._estate.close()
            raise StartError(f"can't enter {error.filename}: {error.strerror}. Check --chdir.") from error
        except StartError:
            self._estate.close()
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
        first = self._estate.blueprints[1]
        setproctitle.setproctitle(f"arbiter: supervisor [{first.title}]")
        self._kernel: Kernel = Posix(self._let_go_in_child, self._neighbours)
        self._started = self._kernel.now()
        self._remote(self._kernel.post)
        try:
            self._greet(first)
            if self._resolved.settings.reload:
                from arbiter.develop import Watcher

                self._watcher = Watcher(self._resolved.settings)
            share_stock(first.kind, first.settings)
            code = self._loop()
            self._moments.call("on_exit")
            return code
        finally:
            self._remote(None)
            if self._watcher:
                self._watcher.close()
            if self._neighbours.part():
                self._inherit()
            self._kernel.close()
            self._estate.close()
            gc.unfreeze()  # what `share_stock` has frozen may be a program's that goes on

    def _loop(self) -> int:
        while True:
            effects = self._fleet.reconcile(self._kernel.now())
            if not any(isinstance(effect, facts.Adopt) for effect in effects):  # else it is for those who rule then: `_adopt`
                self._moments.count(self._fleet.count)
            self._measure()
            for effect in effects:
                self._shield(self._perform, effect)
            self._notify()
            self._announce()  # last: when arbiterctl ends that waits for a reload, the service manager has been told of it too
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
        self._moments.before(fact, self._fleet, self._kernel.pid)
        self._fleet.observe(fact, self._kernel.now())
        self._moments.after(fact, self._kernel.pid)

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
                self._fork(worker, self._estate.blueprints[generation])
            case facts.Retire(worker, last):
                self._kernel.tell(worker, Retire(last and self._estate.listeners.has_doors))
            case facts.Drain():
                self._kernel.tell_all(Drain())
            case facts.Kill(worker, force):
                self._kernel.kill(worker, force)
            case facts.Dump(worker):
                self._kernel.dump(worker)
                self._abort(worker)
            case facts.ShutDoors():
                self._estate.listeners.shut()
            case facts.EndDoors():
                if self._estate.listeners.end_if_empty():
                    self._observe(facts.DoorsEnded())
            case facts.Tell():
                self._tell(effect)
            case facts.Serving():
                self._serving()
            case facts.Adopt(generation):
                self._adopt(self._estate.blueprints[generation])
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
                self._kernel.forget(generation)
                self._estate.forget(generation)
            case facts.Finish(code):
                self._code = code

    # Workers ----------------------------------------------------------------------------------------------------------

    def _adopt(self, blueprint: Blueprint) -> None:
        """The service goes by this generation from now on."""
        self._log = blueprint.log
        self._moments.adopt(blueprint.hooks, self._fleet.count)
        self._kernel.watch(blueprint.settings.touch_reload)
        if not self._is_quiet:
            self._estate.listeners.keep_over_restart()

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
        if self._estate.blueprints[stuck.generation].settings.worker_abort is not None:
            self._kernel.kill(id, Force.ABORT)

    def _measure(self) -> None:
        """Tell statsd how many workers there are, and how many connections wait, where that is wanted."""
        if not (measure := getattr(self._log, "measure", None)):
            return
        if (count := len(self._fleet.workers)) != self._measured:
            self._measured = count
            measure("gunicorn.workers", count, "gauge", f"{count} workers")
        current = self._fleet.current
        if current and self._estate.blueprints[current.number].settings.enable_backlog_metric:
            now = self._kernel.now()
            if now >= self._measure_at:
                self._measure_at = now + 1.0
                waiting = sum(queue_length(listener) for listener in self._estate.blueprints[current.number].listeners)
                measure("gunicorn.backlog", waiting, "histogram", f"{waiting} connections wait to be accepted")

    # Generations ------------------------------------------------------------------------------------------------------

    def _draw(self, resolved: Resolved) -> Blueprint:
        """The blueprint of generation `self._number`, its sockets and logs opened.

        Raises:
            StartError: one of them can't be; what was opened for it is closed by the next `Estate.tidy`.
        """
        return self._estate.draw(resolved, self._number, self._opener(resolved))

    def _opener(self, resolved: Resolved) -> Callable[[Log], Hooks | None]:
        """What opens the hooks of these settings when their log is open."""
        count = self._fleet.count if self._number > 1 else resolved.settings.workers
        return lambda log: self._moments.open(resolved, log, self._number, count)

    def _settle_log(self) -> None:
        """What was tried of another log configuration is over."""
        if settle := getattr(self._log, "settle", None):
            settle()

    def _reload(self) -> None:
        """Have the settings of a new generation tried, apart; `_rehearsed` goes on with it."""
        if self._number != self._rehearsing:  # else nothing has come of that number yet: the newer wish has it
            self._number += 1
        self._rehearsing = self._number
        if lines := self._notices.reload(self._fleet, self._number, monotonic_usec()):
            self._notifier.tell(*lines)
        try:
            self._kernel.rehearse(self._number, self._rehearse)
        except OSError as error:
            self._log.warning(f"the settings can not be tried apart first ({why(error)}): they are loaded here at once")
            self._rehearsed(Rehearsed(self._number, ""))

    def _rehearse(self) -> None:
        """In a process that does nothing else: run all of the operator's that `_rehearsed` is going to run here."""
        setproctitle.setproctitle("arbiter: the settings of a reload are tried")
        resolved = self._resolved.again()
        self._estate.rehearse(resolved, self._number, self._opener(resolved))

    def _rehearsed(self, said: Rehearsed) -> None:
        """Resolve the settings anew and put the result on trial; on any error everything stays as it is."""
        self._rehearsing = 0
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
        self._estate.tidy()
        problems = "\n  ".join(why.splitlines())
        self._log.error(f"reload refused, nothing has changed. Fix this and send HUP again:\n  {problems}")
        self._moments.tell("reload_refused", why)
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

    def _let_go_in_child(self, blueprint: Blueprint | None) -> None:
        """In a worker, right after its fork: close what is the supervisor's own, or another generation's.

        In a child that is no worker (None) the logs stay open.
        """
        self._estate.leave_in_child(blueprint)
        if self._daemon:
            self._daemon.forget()
        if self._watcher:
            self._watcher.forget()
        self._notifier.close()

    # Before and after us ----------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        try:
            self._neighbours.launch(self._resolved, self._estate.bequeath(), lambda: self._moments.call("pre_exec"))
        except OSError as error:
            self._observe(facts.SuccessorGone(f"could not be started: {why(error)}"))

    def _hand_over(self) -> None:
        """The service is our successor's. What has a name stays ours until we leave, in case it dies before."""
        if not (successor := self._neighbours.successor):
            return  # it has gone in the meantime
        self._estate.share(successor.pid)
        self._kernel.watch(None)
        self._notifier.tell(f"MAINPID={successor.pid}", "READY=1")
        self._neighbours.tell(Command.REIGN)

    def _take_back(self) -> None:
        self._neighbours.tell(Command.ABDICATE)
        self._estate.own()
        if current := self._fleet.current:
            self._kernel.watch(self._estate.blueprints[current.number].settings.touch_reload)
        self._notifier.tell(f"MAINPID={os.getpid()}", "READY=1")

    def _inherit(self) -> None:
        """Our predecessor has gone: its names are ours, and those that we don't want go."""
        self._estate.inherit()
        self._speak(loud=True)

    def _speak(self, *, loud: bool) -> None:
        self._is_quiet = not loud
        if loud and self._fleet.current:
            self._estate.listeners.keep_over_restart()

    # Words ------------------------------------------------------------------------------------------------------------

    def _greet(self, blueprint: Blueprint) -> None:
        pid = os.getpid()
        where = ", ".join(self._estate.listeners.names())
        if blueprint.settings.certfile:
            where = where.replace("http://", "https://")
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
        self._moments.call("when_ready")
        if self._daemon:
            self._daemon.settle()
            self._estate.recapture()

    def _announce(self) -> None:
        """Show whoever asks (`arbiterctl`) what the service is at."""
        bulletin = compose(
            self._fleet, self._notices, self._kernel.place, version=__version__, pid=os.getpid(), started=self._started
        )
        self._kernel.announce(bulletin)

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
        self._moments.hear(told.news, sentence)
        if told.id:
            log = self._log.bind(worker=told.id.slot, generation=told.generation)
            log.write(level, sentence, self._kernel.pid(told.id))
        else:
            self._log.bind(worker=None, generation=told.generation).write(level, sentence)

    def _reopen_logs(self) -> None:
        for error in self._estate.reopen_logs():
            self._log.error(f"{error} The file that is open goes on being written.")
        if logger := getattr(self._log, "logger", None):
            logger.reopen_files()
        self._kernel.tell_all(ReopenLogs())
        self._log.info("log files reopened")


def _clock() -> str:
    """The time of day, for people."""
    return time.strftime("%H:%M")


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
