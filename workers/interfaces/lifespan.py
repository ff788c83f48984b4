"""The ASGI lifespan protocol: the application is told when its worker starts to serve, and when it has served.

A start that fails is a boot that failed, which the supervisor treats as such (a reload is refused, with the reason). An
application that does not know the protocol raises at once; by ``auto`` that means so, by ``on`` it is a failure. A shutdown
is told to whoever has been told of a start, whatever happened in between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from arbiter.workers.contract import Exit, Failed
from arbiter.workers.interfaces.asgi_scope import LIFESPAN_SPEC, VERSION
from arbiter.workers.stacks import application_traceback, one_line

if TYPE_CHECKING:
    from contextvars import Context

    from arbiter.workers.contract import Log
    from arbiter.workers.interfaces.asgi import Application, Message

_STARTING = "starting up (ASGI lifespan)"


class Lifespan:
    """One worker's lifespan: `start` once, then `stop` once."""

    def __init__(self, app: Application, mode: str, log: Log, context: Context) -> None:
        """Nothing is run yet.

        Args:
            app: the application.
            mode: ``auto``, ``on`` or ``off``.
            log: for what goes wrong later than a boot error can tell it.
            context: that of the application's task; requests get copies of it afterwards.
        """
        self._app = app
        self._mode = mode
        self._log = log
        self._context = context
        self.state: dict[str, Any] = {}
        """What the application has put there at its start; each request gets a copy."""
        self._task: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._answer: asyncio.Future[str] | None = None
        self._is_up = False

    async def start(self) -> Failed | None:
        """Tell the application, and wait for its answer, however long it takes: `boot_timeout` bounds it.

        Returns:
            Why the boot has failed: the application says that it can't start, or, by ``on``, does not know the protocol.
        """
        if self._mode == "off":
            return None
        answer = await self._tell("lifespan.startup")
        if answer == "lifespan.startup.complete":
            self._is_up = True
            return None
        task = self._task
        failure = task.exception() if task and task.done() and not task.cancelled() else None
        if answer.startswith("lifespan.startup.failed"):
            said = answer.removeprefix("lifespan.startup.failed").strip()
            await self._wait_for_end(5.0)
            if failure is None and task is not None and task.done() and not task.cancelled():
                failure = task.exception()
            # Starlette's message is the traceback, which is shown apart.
            reason = said.splitlines()[-1] if said else one_line(failure) if failure else "it gave no reason"
            shown = said + "\n" if "\n" in said else application_traceback(failure)
            return Failed(_STARTING, reason, shown, Exit.BOOT)
        if self._mode == "on":
            reason = f"{one_line(failure)}" if failure else "it returned without an answer to lifespan.startup"
            return Failed(_STARTING, f"{reason} (lifespan is on)", application_traceback(failure), Exit.BOOT)
        self._log.debug(
            f"the application does not take part in ASGI's lifespan: {one_line(failure) if failure else 'it returned at once'}"
        )
        return None

    async def stop(self, patience: float) -> None:
        """Tell the application that it has served, and wait up to `patience` seconds for it. Never raises."""
        if not self._is_up:
            return
        self._is_up = False
        try:
            answer = await asyncio.wait_for(self._tell("lifespan.shutdown"), patience)
        except TimeoutError:
            self._log.error(f"the application's lifespan shutdown took longer than {patience:.1f} s: it is cancelled")
            if self._task is not None:
                self._task.cancel()
            await self._wait_for_end(1.0)
            return
        task = self._task
        await self._wait_for_end(patience)
        failure = task.exception() if task and task.done() and not task.cancelled() else None
        if failure is not None:
            self._log.error(f"the application failed in its lifespan shutdown\n{application_traceback(failure)}".rstrip())
        elif answer != "lifespan.shutdown.complete":
            said = answer.removeprefix("lifespan.shutdown.failed").strip() or "it gave no reason"
            self._log.error(f"the application's lifespan shutdown failed: {said}")

    async def _tell(self, event: str) -> str:
        """The application's answer to `event`, with its message behind it; empty if it has ended without one."""
        loop = asyncio.get_running_loop()
        self._answer = answer = loop.create_future()
        await self._events.put({"type": event})
        if self._task is None:
            self._task = loop.create_task(self._run(), name="lifespan", context=self._context)
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else ""

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": VERSION, "spec_version": LIFESPAN_SPEC}, "state": self.state}
        await self._app(scope, self._events.get, self._send)

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind not in _ANSWERS:
            raise RuntimeError(f"ASGI's lifespan has no message {kind!r}")
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(f"{kind} {message.get('message', '')}".strip())

    async def _wait_for_end(self, patience: float) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=patience)


_ANSWERS = frozenset(
    {"lifespan.startup.complete", "lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
)
