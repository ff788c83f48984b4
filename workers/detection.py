"""Which interface an application speaks: told from what it is, without calling it.

WSGI is a callable of two arguments (PEP 3333), ASGI 3 a coroutine function of three, ASGI 2 a callable of one that gives a
coroutine function of two. An application may be a function, a method, an object with `__call__`, a class whose instances are
answers, a partial, or decorated; so being a coroutine function decides first, wherever it is said, and arguments decide only
for those that are none. Who is misread says it by the setting `interface`.
"""

from __future__ import annotations

import functools
import inspect
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interface(Enum):
    """What an application speaks."""

    WSGI = "WSGI"
    ASGI3 = "ASGI"
    ASGI2 = "ASGI 2"

    @property
    def is_asgi(self) -> bool:
        """Either version."""
        return self is not Interface.WSGI


_ASGI3_NAMES: Final = ["scope", "receive", "send"]


def detect(app: Any) -> Interface:
    """The interface of `app`, a callable."""
    if getattr(app, "_asgi_single_callable", None) is True:  # asgiref's marks, for what can't be seen
        return Interface.ASGI3
    if getattr(app, "_asgi_double_callable", None) is True:
        return Interface.ASGI2
    *_, target = _layers(app)
    if _is_coroutine_function(app):
        return Interface.ASGI3
    if inspect.isclass(target):
        # PEP 3333 has classes as applications: an instance is the iterable. ASGI's are awaited, or called once more.
        if hasattr(target, "__await__"):
            return Interface.ASGI3
        return Interface.ASGI2 if _is_coroutine_function(target.__call__) else Interface.WSGI
    if _is_coroutine_function(getattr(target, "__call__", None)):  # noqa: B004 - asked for its kind
        return Interface.ASGI3
    return _by_arguments(app)


def interface_of(app: Any, choice: str) -> Interface:
    """What `app` is to be taken for: what `detect` says, unless the setting `interface` says otherwise."""
    found = detect(app)
    if choice == "wsgi":
        return Interface.WSGI
    if choice == "asgi" and found is Interface.WSGI:
        return Interface.ASGI3
    return found


def as_asgi3(app: Any) -> Any:
    """An ASGI 2 application as one of ASGI 3."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    return application


def _layers(app: Any) -> Iterator[Any]:
    """`app`, and what partials and well-behaved decorators (`functools.wraps`) are around, from the outside in."""
    for _ in range(100):  # a chain that never ends is somebody's `__getattr__`
        yield app
        if isinstance(app, (functools.partial, functools.partialmethod)):
            app = app.func
        elif inspect.isroutine(app) and (inner := getattr(app, "__wrapped__", None)) is not None:
            app = inner
        else:
            return


def _is_coroutine_function(found: Any) -> bool:
    # The mark is that of asyncio and asgiref for callables that give coroutines and are not declared so.
    return any(
        inspect.iscoroutinefunction(layer) or type(getattr(layer, "_is_coroutine", None)) is object for layer in _layers(found)
    )


def _by_arguments(app: Any) -> Interface:
    """Told by what it must be called with; WSGI when that can't be seen."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (ValueError, TypeError):
        return Interface.WSGI
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return Interface.WSGI
    required = [p for p in positional if p.default is p.empty]
    if [p.name for p in positional[:3]] == _ASGI3_NAMES or len(required) == len(_ASGI3_NAMES):
        return Interface.ASGI3
    return Interface.ASGI2 if len(positional) == 1 else Interface.WSGI
