"""One background event loop per process, within reach of any synchronous code: applications know it as `arbiter.portal`.

Theory: the loop is made on first use, and nothing of asyncio is imported before (`background` holds what needs it). In a
worker whose own loop runs (async) that loop is lent out instead. A fork leaves the loop's thread behind, so a child makes its
own; and a template, whose loop no worker would have, must not make one.

It works in any process: in a worker as the worker says (`furnish`), elsewhere with the best loop there is and `logging`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from arbiter.workers.background import Background
    from arbiter.workers.contract import Log

T = TypeVar("T")


class _Portal:
    """What this process knows of its loop."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.background: Background | None = None
        """None: nobody has needed it yet."""
        self.factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        self.log: Log | None = None
        self.refusal = ""
        """Why there must be none; empty: there may."""
        self.lost: list[Background] = []
        """Of the processes that this one was forked from. Kept, for a loop that is freed closes what it shares with them."""

    def open(self) -> Background:
        """The loop, made if need be."""
        if (background := self.background) is not None:
            return background
        if self.refusal:
            raise RuntimeError(self.refusal)
        with self.lock:
            if self.background is None:
                from arbiter.workers.background import Background

                self.background = Background.start(self.factory, self.log)
            return self.background


_portal = _Portal()


# For applications ------------------------------------------------------------------------------------------------------


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the background loop, in a copy of the caller's context.

    Returns:
        Its future: wait for the `result`, or leave it. An exception that nobody asks for is logged. Cancelling the future
        cancels the task. Waiting for it on the loop itself is an error: await ``asyncio.wrap_future(...)`` there.

    Raises:
        TypeError: not a coroutine.
        RuntimeError: the application is being preloaded, where there can be no loop.
    """
    return _portal.open().submit(coroutine)


def loop() -> asyncio.AbstractEventLoop:
    """The background loop, running; made if need be.

    Raises:
        RuntimeError: as `submit`.
    """
    return _portal.open().loop


# For workers -----------------------------------------------------------------------------------------------------------


def furnish(*, factory: Callable[[], asyncio.AbstractEventLoop] | None, log: Log) -> None:
    """Say how a loop is made when one is needed (None: the best there is), and where it tells what went wrong."""
    _portal.factory, _portal.log = factory, log


def refuse(why: str) -> None:
    """Have the application get this error in place of a loop; empty: it may have one again."""
    _portal.refusal = why


def adopt(loop: asyncio.AbstractEventLoop) -> None:
    """Lend out this loop, which the calling thread runs. Its owner calls ``await settle(...)`` before it stops it."""
    from arbiter.workers.background import Background

    with _portal.lock:
        _portal.background = Background(loop, _portal.log, threading.get_ident())


def outlast(seconds: float) -> None:
    """Wait so long for what applications have submitted, cancel the rest, and name it in the log.

    In a worker that has lent out its own loop it does nothing: that worker has waited before it stopped the loop.
    """
    if background := _portal.background:
        background.outlast(seconds)


async def settle(seconds: float) -> None:
    """As `outlast`, on the loop itself."""
    if background := _portal.background:
        await background.settle(seconds)


def interrupt(thread: int) -> None:
    """If this thread waits for a future of ours, cancel that: the thread wakes, and its request may be ended."""
    if background := _portal.background:
        background.interrupt(thread)


def _forget() -> None:
    """In a child, right after its fork: no thread runs the loop here."""
    if _portal.background:
        _portal.lost.append(_portal.background)
        _portal.background = None
    _portal.lock = threading.Lock()  # whoever held it was not forked


os.register_at_fork(after_in_child=_forget)
