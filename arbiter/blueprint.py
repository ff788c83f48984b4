"""What the supervisor holds for a generation: its settings and the resources that its workers are forked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from arbiter.facts import Plan

if TYPE_CHECKING:
    import socket

    from arbiter.config.schema import Settings
    from arbiter.logs import Log, Sink


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One generation, as far as the operating system is concerned."""

    number: int
    settings: Settings
    kind: str
    listeners: tuple[socket.socket, ...]
    log: Log
    access: Sink | None
    sinks: frozenset[Sink]
    """Where it logs to, all of it."""

    @property
    def app(self) -> str:
        """The application, as it was named: ``project.wsgi:application``."""
        return self.settings.wsgi_app or ""

    @property
    def title(self) -> str:
        """What a process list calls it, after the role."""
        return self.settings.proc_name or self.app

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
            upgrade_keep=settings.upgrade_keep,
        )
