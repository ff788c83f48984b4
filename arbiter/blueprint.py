"""What the supervisor holds for a generation: its settings and the resources that its workers are forked with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from arbiter.facts import Plan
from arbiter.workers.contract import AUTO, Order, TemplateOrder, WorkerId

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from arbiter.config.schema import Settings
    from arbiter.hooks import Hooks
    from arbiter.logs import Log, Sink
    from arbiter.workers.contract import Row, Spawn, Writer


ABORT_GRACE: Final = 1.0
"""Seconds for the hook worker_abort, between SIGABRT and SIGKILL: as Gunicorn's loop gives it."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One generation, as far as the operating system is concerned."""

    number: int
    settings: Settings
    kind: str
    """A key of `contract.KINDS`, or ``auto``: then the worker chooses, when it has the application."""
    groups: tuple[tuple[socket.socket, ...], ...]
    """Its listening sockets by address; several at one address: one for each slot (`reuse_port`)."""
    log: Log
    access: Writer | None
    sinks: frozenset[Sink]
    """Where it logs to, all of it."""
    loader: Callable[[], Any] | None = None
    """Gives the application, where it is not named but given by a program."""
    hooks: Hooks | None = None
    """The operator's functions; None if there are none."""
    handoff: tuple[socket.socket, socket.socket] | None = None
    """As `Order.handoff`."""

    @property
    def app(self) -> str:
        """The application, as it was named: ``project.wsgi:application``."""
        return self.settings.wsgi_app or ""

    @property
    def title(self) -> str:
        """What a process list calls it, after the role."""
        return self.settings.proc_name or self.app

    @property
    def listeners(self) -> tuple[socket.socket, ...]:
        """All its listening sockets."""
        return tuple(chain.from_iterable(self.groups))

    @property
    def threads(self) -> int:
        """How many requests a worker serves at the same time."""
        return self.settings.threads if self._may_have_threads else 1

    @property
    def _may_have_threads(self) -> bool:
        return may_have_threads(self.kind, self.settings)

    @property
    def rows(self) -> int:
        """How many rows of the scoreboard a worker has: its own, and one for each thread that it may ever have."""
        return 1 + self.settings.threads + self.settings.io_threads if self._may_have_threads else 1

    @property
    def plan(self) -> Plan:
        """What the policy needs of the settings."""
        settings = self.settings
        return Plan(
            count=settings.workers,
            surge=settings.surge,
            boot_timeout=settings.boot_timeout,
            prove=settings.prove,
            graceful_timeout=settings.graceful_timeout,
            min_uptime=settings.min_uptime,
            max_lifetime=settings.max_lifetime,
            max_lifetime_jitter=settings.max_lifetime_jitter,
            max_worker_memory=settings.max_worker_memory,
            max_worker_memory_hard=settings.max_worker_memory_hard,
            give_up_after=settings.give_up_after,
            min_workers=settings.min_workers,
            max_workers=settings.max_workers,
            drain_delay=settings.drain_delay,
            upgrade_keep=settings.upgrade_keep,
            abort_grace=ABORT_GRACE if settings.worker_abort is not None else 0.0,
        )

    def order(self, id: WorkerId, rows: tuple[Row, ...], channel: socket.socket, dump: int, lifeline: int) -> Order:  # noqa: A002
        """What a worker of this generation is told; what is not the generation's is its own."""
        own = {group[(id.slot - 1) % len(group)] for group in self.groups}  # who was added by signal shares a socket
        log = self.log.bind(worker=id.slot, generation=self.number)
        return Order(
            id=id,
            generation=self.number,
            settings=self.settings,
            kind=self.kind,
            listeners=tuple(sorted(self.listeners, key=lambda listener: listener not in own)),
            own=len(own),
            channel=channel,
            lifeline=lifeline,
            dump=dump,
            rows=rows,
            log=log,
            access=self.access,
            title=self.title,
            hooks=self.hooks.in_worker(id, log) if self.hooks else None,
            loader=self.loader,
            handoff=self.handoff,
        )

    def template_order(
        self, rows: Callable[[int, int], tuple[Row, ...]], channel: socket.socket, dump: int, lifeline: int
    ) -> TemplateOrder:
        """What the template of this generation is told; `rows` gives the rows of its workers by the number of the first."""

        def worker(spawn: Spawn, channel: socket.socket) -> Order:
            return self.order(WorkerId(spawn.slot, spawn.spawn), rows(spawn.place, self.rows), channel, dump, lifeline)

        return TemplateOrder(
            generation=self.number,
            settings=self.settings,
            kind=self.kind,
            channel=channel,
            lifeline=lifeline,
            dump=dump,
            log=self.log,
            access=self.access,
            title=self.title,
            worker=worker,
            hooks=self.hooks.in_template(self.log) if self.hooks else None,
            loader=self.loader,
        )


def may_have_threads(kind: str, settings: Settings) -> bool:
    """Whether a worker of this kind may serve requests in threads of its own."""
    return kind == "threaded" or (kind == AUTO and settings.threads > 1)
