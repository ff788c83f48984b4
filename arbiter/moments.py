"""When the supervisor calls the operator's hooks: which fact, count or news is which of Gunicorn's moments.

What hooks are given, and what they may not break, is in `hooks`, which is imported only where settings have any: few do, and
the supervisor is to stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arbiter import facts
from arbiter.config.schema import HOOKS
from arbiter.lifecycle import Phase
from arbiter.news import News

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.config.resolve import Resolved
    from arbiter.facts import Fact
    from arbiter.fleet import Fleet
    from arbiter.hooks import Hooks
    from arbiter.logs import Log
    from arbiter.workers.contract import WorkerId


class Moments:
    """The hooks of the generation that the service goes by, if it has any: without, each method does nothing."""

    def __init__(self) -> None:
        self._hooks: Hooks | None = None
        self._has_drained = False

    def open(self, resolved: Resolved, log: Log, number: int, count: int) -> Hooks | None:
        """The hooks of generation `number`, if it has any; those of the first see the service begin, before it listens.

        `count` is how many workers are wanted.

        Raises:
            StartError: a function is not to be had, or on_starting raised.
        """
        if all(getattr(resolved.settings, name) is None for name in HOOKS):
            return None
        from arbiter.hooks import Hooks

        hooks = Hooks(resolved.settings, resolved.noted, log, self._hooks.server if self._hooks else None)
        if number == 1:
            self._hooks = hooks
            hooks.server.num_workers = count
            hooks.call("nworkers_changed", count, None)
            hooks.begin()
        elif not self._hooks:
            hooks.server.num_workers = count
        return hooks

    def adopt(self, hooks: Hooks | None, count: int) -> None:
        """The service goes by another generation, whose hooks these are; `count` workers are wanted."""
        self._hooks = hooks
        if hooks:
            hooks.rule()
            self.count(count)

    def call(self, name: str, *arguments: object) -> None:
        """Call this one, with the server first."""
        if self._hooks:
            self._hooks.call(name, *arguments)

    def tell(self, name: str, *arguments: object) -> None:
        """Call this one, which is not given the server."""
        if self._hooks:
            self._hooks.tell(name, *arguments)

    def count(self, count: int) -> None:
        """So many workers are wanted: nworkers_changed, if it were others before."""
        if self._hooks and count != (before := self._hooks.server.num_workers):
            self._hooks.server.num_workers = count
            self._hooks.call("nworkers_changed", count, before)

    def before(self, fact: Fact, fleet: Fleet, pid: Callable[[WorkerId], int | None]) -> None:
        """Call what wants to know of a fact, while the books still have the worker as it was."""
        if not (hooks := self._hooks):
            return
        match fact:
            case facts.SaidReady(id):
                worker = fleet.workers.get(id)
                if worker and worker.phase is Phase.BOOTING:
                    known = hooks.worker(id)
                    hooks.server.enter(id, pid(id))
                    known.booted = True
                    hooks.call("worker_ready", known)
            case facts.Overdue(id, doing):
                worker = fleet.workers.get(id)
                if worker and worker.phase is Phase.READY:
                    hooks.suspect(id, doing)
            case facts.Dumped(id, stacks):
                if worker := fleet.workers.get(id):
                    hooks.explain(id, worker.generation, stacks)

    def after(self, fact: Fact, pid: Callable[[WorkerId], int | None]) -> None:
        """Call what wants to know of a worker's end, when the books have it."""
        if not self._hooks:
            return
        match fact:
            case facts.Exited(id):
                self._hooks.bury(id, pid(id))
            case facts.NotForked(id):
                self._hooks.bury(id, None)

    def hear(self, news: News, sentence: str) -> None:
        """Call what wants to know of these news, which the log tells in this sentence."""
        match news:
            case News.ALL_READY | News.RELOADED:
                self.call("all_workers_ready")
            case News.REFUSED:
                self.tell("reload_refused", sentence)
            case News.DRAINING | News.STOPPING | News.QUITTING if self._hooks and not self._has_drained:
                self._has_drained = True
                self.call("drain_started")
