"""Kinds whose values may be code: hooks, and the classes of workers and loggers.

A Python file gives functions and classes; every other source names them, as `module:attribute`. A name is not imported here:
only the process that calls it knows where its modules are.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from arbiter.config.kinds import Kind, Plain, Schema

if TYPE_CHECKING:
    from collections.abc import Mapping

Code = Callable[..., Any] | str
"""A function or a class, or its name as `module:attribute`."""

_NAME: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"


def reference(raw: str) -> str:
    """`module:attribute` from that, or from `module.attribute`, which is Gunicorn's form; empty when it is neither."""
    text = raw.strip()
    if re.fullmatch(rf"{_NAME}:{_NAME}", text):
        return text
    module, dot, attribute = text.rpartition(".")
    return f"{module}:{attribute}" if dot and re.fullmatch(_NAME, text) else ""


class Hook(Kind[Code | None]):
    """A function to be called when something happens; None: nothing is called."""

    takes_code = True
    metavar = "MODULE:FUNCTION"
    example = "project.hooks:on_event"

    def __init__(self, *parameters: str, fewest: int | None = None) -> None:
        """`parameters`: what it is called with; `fewest`: how many of them, from the left, a function must at least take."""
        self.parameters = parameters
        self.fewest = len(parameters) if fewest is None else fewest
        self.expected = f"a function of ({', '.join(parameters)}), or its name as module:function"

    def parse(self, raw: object) -> Code | None:
        """The function, or its name as `module:function`; None also from ""."""
        if raw is None or raw == "":
            return None
        if isinstance(raw, str):
            if name := reference(raw):
                return name
            raise self.refused()
        if not callable(raw):
            raise self.refused()
        if not self.arguments(raw):
            raise self.refused(f"it does not take {len(self.parameters)} argument{'s' * (len(self.parameters) != 1)}")
        return raw

    def arguments(self, function: Callable[..., Any]) -> int:
        """With how many arguments it is to be called: as many as it takes; 0 if it does not take so few or so many."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a callable in C that does not tell
            return len(self.parameters)
        for count in range(len(self.parameters), self.fewest - 1, -1):
            try:
                signature.bind(*self.parameters[:count])
            except TypeError:
                continue
            return count
        return 0

    def render(self, value: Code | None) -> Plain:
        """Its name; that of a function in a configuration file can't be imported, but it can be found."""
        return "" if value is None else named(value)


class WorkerClass(Kind[str]):
    """A kind of worker, by our name or by one that other servers have for it."""

    takes_code = True
    expected = "auto, sync, threaded or async, or Gunicorn's or uvicorn's name for one of them"
    example = "threaded"
    metavar = "auto|sync|threaded|async"
    WORDS: Final[Mapping[str, str]] = MappingProxyType(
        {
            "auto": "auto",
            "sync": "sync",
            "threaded": "threaded",
            "async": "async",
            "gthread": "threaded",
            "asgi": "async",
            "gunicorn.workers.sync.SyncWorker": "sync",
            "gunicorn.workers.gthread.ThreadWorker": "threaded",
            "gunicorn.workers.gasgi.ASGIWorker": "async",
            "uvicorn.workers.UvicornWorker": "async",
            "uvicorn.workers.UvicornH11Worker": "async",
            "uvicorn_worker.UvicornWorker": "async",
            "uvicorn_worker.UvicornH11Worker": "async",
            "uvicorn_worker._workers.UvicornWorker": "async",
            "uvicorn_worker._workers.UvicornH11Worker": "async",
        }
    )
    _GREEN: Final = "there are no green threads: use threaded, with as many threads as requests wait at a time, or async"
    _TORNADO: Final = "Tornado's own loop is not run: use async with an ASGI application, or tornado.wsgi in threaded"
    _AIOHTTP: Final = "aiohttp's applications speak neither WSGI nor ASGI: run them by aiohttp, or serve an ASGI application"
    GONE: Final[Mapping[str, str]] = MappingProxyType(
        {
            "gevent": _GREEN,
            "gevent_wsgi": _GREEN,
            "gevent_pywsgi": _GREEN,
            "eventlet": _GREEN,
            "gunicorn.workers.ggevent.GeventWorker": _GREEN,
            "gunicorn.workers.geventlet.EventletWorker": _GREEN,
            "meinheld.gmeinheld.MeinheldWorker": _GREEN,
            "egg:meinheld#gunicorn_worker": _GREEN,
            "tornado": _TORNADO,
            "gunicorn.workers.gtornado.TornadoWorker": _TORNADO,
            "gaiohttp": _AIOHTTP,
            "aiohttp.GunicornWebWorker": _AIOHTTP,
            "aiohttp.GunicornUVLoopWebWorker": _AIOHTTP,
            "aiohttp.worker.GunicornWebWorker": _AIOHTTP,
            "aiohttp.worker.GunicornUVLoopWebWorker": _AIOHTTP,
        }
    )

    def parse(self, raw: object) -> str:
        """auto, sync, threaded or async."""
        name = f"{raw.__module__}.{raw.__qualname__}" if isinstance(raw, type) else raw
        if not isinstance(name, str):
            raise self.refused()
        name = name.strip().replace(":", ".") if "egg:" not in name else name.strip().removeprefix("egg:gunicorn#")
        if found := self.WORDS.get(name) or self.WORDS.get(name.lower()):
            return found
        if reason := self.GONE.get(name) or self.GONE.get(name.lower()):
            raise self.refused(reason)
        if "." in name:
            raise self.refused(f"{self._own(raw)} is a worker of another server, and Arbiter runs its own only")
        raise self.refused()

    def schema(self) -> Schema:
        """All the names."""
        return {"enum": [*self.WORDS]}

    def _own(self, raw: object) -> str:
        """A class by its name, and by that of what it is made from, if that has another name here."""
        if not isinstance(raw, type):
            return "this"
        known = (f"{base.__module__}.{base.__qualname__}" for base in raw.__mro__[1:])
        ours = next((self.WORDS[base] for base in known if base in self.WORDS), "")
        return f"this is made from what is called {ours} here, but" if ours else "this"

    def render(self, value: str) -> Plain:
        """Itself."""
        return value


def named(code: Code) -> str:
    """`module:attribute` of a function or a class."""
    if isinstance(code, str):
        return code
    name = getattr(code, "__qualname__", None) or type(code).__qualname__
    return f"{getattr(code, '__module__', None) or type(code).__module__}:{name}"
