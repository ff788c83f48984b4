"""The event loop behind `portal`: a loop in a thread, and the tasks that other threads have given it.

Rules: nothing wakes the loop but work; a task's failure is told to whoever waits or, if nobody does, to the log; SystemExit in
a task is that task's failure, and the loop goes on.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import traceback
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from inspect import iscoroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

    from arbiter.workers.contract import Log

T = TypeVar("T")

AT_EXIT: Final = 5.0
"""Seconds that tasks may take at the end of a process that is no worker; a worker has `graceful_timeout`."""
CLEAN_UP: Final = 1.0
"""Seconds that a cancelled task may take to end. The loop does not wait for one that ignores it."""


class Promise(Future[T]):
    """The result of a task, for other threads."""

    def __init__(self, home: Background, name: str) -> None:
        super().__init__()
        self._home = home
        self._name = name
        self._is_asked = False

    def result(self, timeout: float | None = None) -> T:
        with self._home.waiting(self):
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        with self._home.waiting(self):
            return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        self._is_asked = True  # it is told, and may ask
        super().add_done_callback(fn)

    def asked(self) -> None:
        """Somebody wants to know how it ends."""
        self._is_asked = True

    def bind(self, task: asyncio.Task[T]) -> None:
        """Cancelling this from now on cancels the task."""
        super().add_done_callback(partial(_follow, self._home.loop, task))  # not of itself: nobody would see it forgotten

    def settle(self, task: asyncio.Task[T]) -> None:
        """Take over what became of the task."""
        failure = None if task.cancelled() else task.exception()
        if task.cancelled():
            self.cancel()
        if not self.set_running_or_notify_cancel():
            return
        if failure is None:
            self.set_result(task.result())
        else:
            self.set_exception(failure)

    def __del__(self) -> None:
        if not self._is_asked and self.done() and not self.cancelled() and (failure := super().exception()):
            trace = "".join(traceback.format_exception(failure)).rstrip()
            self._home.log.error(f"the task {self._name}, which nobody waits for, failed:\n{trace}")


def _follow(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], _promise: Future[Any]) -> None:
    """A promise is done, so its task is, or is not wanted any more."""
    if not task.done():
        with suppress(RuntimeError):  # the loop is closed: so is the task
            loop.call_soon_threadsafe(task.cancel)


class _Waiting:
    """That this thread waits for a promise: so that it can be woken when its request must end."""

    __slots__ = ("_promise", "_waiting")

    def __init__(self, waiting: dict[int, Promise[Any]], promise: Promise[Any]) -> None:
        self._waiting = waiting
        self._promise = promise

    def __enter__(self) -> None:
        self._waiting[get_ident()] = self._promise

    def __exit__(self, *_: object) -> None:
        del self._waiting[get_ident()]


class Background:
    """A loop that runs, and what it was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log | None, thread: int) -> None:
        """Over a loop that this thread runs, now or soon."""
        self.loop = loop
        self.log: Log | logging.Logger = log or logging.getLogger("arbiter.portal")
        self._thread = thread
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: dict[int, Promise[Any]] = {}
        self._patience = AT_EXIT

    @classmethod
    def start(cls, factory: Callable[[], asyncio.AbstractEventLoop] | None, log: Log | None) -> Background:
        """A loop of this making, in a thread of its own, which ends with the process."""
        loop = (factory or best_loop)()
        thread = threading.Thread(target=_run, args=(loop,), name="arbiter-portal", daemon=True)
        thread.start()
        background = cls(loop, log, thread.ident or 0)
        atexit.register(background._close, thread)
        return background

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Promise[T]:
        """As `portal.submit`."""
        if not iscoroutine(coroutine):
            raise TypeError(f"submit() takes a coroutine, like submit(fetch(url)), not {coroutine!r}")
        promise: Promise[T] = Promise(self, describe(coroutine))
        try:
            self.loop.call_soon_threadsafe(self._begin, coroutine, promise, copy_context())
        except RuntimeError:
            coroutine.close()
            raise RuntimeError(f"the task {describe(coroutine)} comes too late: the event loop is closed") from None
        return promise

    def _begin(self, coroutine: Coroutine[Any, Any, T], promise: Promise[T], context: Context) -> None:
        if promise.cancelled():
            coroutine.close()
            return
        task = self.loop.create_task(coroutine, context=context)
        self._tasks.add(task)
        promise.bind(task)
        task.add_done_callback(partial(self._end, promise))

    def _end(self, promise: Promise[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        promise.settle(task)

    def waiting(self, promise: Promise[Any]) -> _Waiting:
        """A context in which this thread waits for the promise.

        Raises:
            RuntimeError: it would do so for ever.
        """
        promise.asked()
        if get_ident() == self._thread and not promise.done():
            raise RuntimeError(
                "this thread runs the event loop on which the result is made, and would wait for ever: "
                "await asyncio.wrap_future(...) here instead"
            )
        return _Waiting(self._waiting, promise)

    def interrupt(self, thread: int) -> None:
        """Cancel what this thread waits for."""
        if promise := self._waiting.get(thread):
            promise.cancel()

    # The end ----------------------------------------------------------------------------------------------------------

    def outlast(self, seconds: float) -> None:
        """As `portal.outlast`; nothing on the loop's own thread, whose owner sees to it."""
        if get_ident() == self._thread:
            return
        self._patience = 0.0
        self._call(self.settle(seconds), seconds + 2 * CLEAN_UP)

    async def settle(self, seconds: float) -> None:
        """As `portal.settle`."""
        deadline = self.loop.time() + seconds
        while self._tasks and (left := deadline - self.loop.time()) > 0:  # those that end may have submitted others
            await asyncio.wait(set(self._tasks), timeout=left)
        late = set(self._tasks)
        for task in late:
            self.log.warning(f"the task {_where(task)} has not ended within {seconds:.1f} s: it is cancelled")
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CLEAN_UP)

    def _close(self, thread: threading.Thread) -> None:
        """At the end of the process: what was submitted may end, all else is cancelled, as `asyncio.run` does."""
        if self._thread != thread.ident or not thread.is_alive():
            return
        self._call(self.settle(self._patience), self._patience + 2 * CLEAN_UP)
        self._call(self._wind_up(), 2 * CLEAN_UP)
        self.loop.call_soon_threadsafe(self.loop.stop)
        thread.join(CLEAN_UP)
        if not thread.is_alive():
            self.loop.close()

    async def _wind_up(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=CLEAN_UP)
        await self.loop.shutdown_asyncgens()

    def _call(self, coroutine: Coroutine[Any, Any, None], seconds: float) -> None:
        """Run it on the loop, unless something blocks that for so long."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """The thread."""
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue  # a task's, which has it: see Task.__step; the others go on
        return


def best_loop() -> asyncio.AbstractEventLoop:
    """A new loop of uvloop's where that is installed, else of asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def describe(coroutine: Coroutine[Any, Any, Any]) -> str:
    """A coroutine's name and where it is written."""
    code = getattr(coroutine, "cr_code", None)
    name: str = getattr(coroutine, "__qualname__", None) or repr(coroutine)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name


def _where(task: asyncio.Task[Any]) -> str:
    """A task's name, where it is written, and the line that it waits in."""
    coroutine = task.get_coro()
    name = describe(coroutine) if iscoroutine(coroutine) else repr(coroutine)
    frames = task.get_stack(limit=1)
    return f"{name}, now in line {frames[0].f_lineno}," if frames else name
