"""The event loop that the setting `asgi_loop` names."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any


class LoopError(Exception):
    """It can't be had; the message says why, and what to do."""


def new_loop(choice: str) -> asyncio.AbstractEventLoop:
    """A new loop: ``auto`` is uvloop where it is installed, ``uvloop``, ``asyncio``, or ``module:factory``.

    Raises:
        LoopError: it is not installed, or the factory is not there, raises, or gives something else.
    """
    if choice == "auto":
        try:
            return _uvloop()
        except ImportError:
            return asyncio.SelectorEventLoop()
    if choice == "asyncio":
        return asyncio.SelectorEventLoop()
    if choice == "uvloop":
        try:
            return _uvloop()
        except ImportError as error:
            raise LoopError(f"uvloop can't be imported ({error}): pip install uvloop, or set asgi_loop to asyncio") from error
    module, _, name = choice.partition(":")
    try:
        factory: Any = importlib.import_module(module)
        for part in (name or "new_event_loop").split("."):
            factory = getattr(factory, part)
        loop = factory()
    except Exception as error:
        raise LoopError(f"asgi_loop = {choice}: {type(error).__name__}: {error}") from error
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise LoopError(f"asgi_loop = {choice}: it gave a {type(loop).__name__}, not an event loop")
    return loop


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
