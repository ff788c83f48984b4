"""WSGI and ASGI applications are told apart, in every shape that users and frameworks give them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import warnings
from typing import Any

import pytest

from arbiter.workers.detection import Interface, as_asgi3, detect

WSGI, ASGI3, ASGI2 = Interface


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> Any: ...


def returns_coroutine(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


def double(scope: Any) -> Any:
    async def instance(receive: Any, send: Any) -> None:
        await send({"type": scope["type"], "got": await receive()})

    return instance


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return wrapper


def bare(function: Any) -> Any:
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def with_more(more: Any, scope: Any, receive: Any, send: Any) -> Any: ...


def with_options(environ: Any, start_response: Any, debug: Any = False) -> Any: ...


class Asgi:
    def __init__(self, *options: Any) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...

    @classmethod
    async def made(cls, scope: Any, receive: Any, send: Any) -> None: ...

    @staticmethod
    async def loose(scope: Any, receive: Any, send: Any) -> None: ...


class Slotted:
    """As Sentry's middleware: the call is an attribute of the instance."""

    __slots__ = ("__call__",)

    def __init__(self) -> None:
        self.__call__ = asgi


class Wrapping:
    """Middleware that is declared without `async`."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return asgi(scope, receive, send)


class DecoratedCall:
    @decorated
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Awaited:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any:
        yield


class Double:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class Wsgi:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...

    def method(self, environ: Any, start_response: Any) -> Any: ...


class WsgiAnswer:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Any:
        yield b""


class Marked:
    """As asgiref marks callables that give coroutines."""

    _is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", object())

    def __call__(self, *args: Any) -> Any: ...


class Anything:
    """Has every attribute, as mocks and lazy objects do."""

    def __getattr__(self, name: str) -> Any:
        return Anything()

    def __call__(self, environ: Any, start_response: Any) -> Any: ...


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        pytest.param(app, interface, id=f"{name}-{interface.value}")
        for name, app, interface in [
            ("function", asgi, ASGI3),
            ("gives a coroutine", returns_coroutine, ASGI3),
            ("partial", functools.partial(asgi), ASGI3),
            ("partial of more", functools.partial(with_more, 1), ASGI3),
            ("partial of a partial", functools.partial(functools.partial(asgi)), ASGI3),
            ("decorated", decorated(asgi), ASGI3),
            ("twice decorated partial", decorated(functools.partial(decorated(asgi))), ASGI3),
            ("object", Asgi(), ASGI3),
            ("method", Asgi().method, ASGI3),
            ("class method", Asgi.made, ASGI3),
            ("static method", Asgi.loose, ASGI3),
            ("call in a slot", Slotted(), ASGI3),
            ("call without async", Wrapping(), ASGI3),
            ("call decorated", DecoratedCall(), ASGI3),
            ("awaited class", Awaited, ASGI3),
            ("marked", Marked(), ASGI3),
            ("function", double, ASGI2),
            ("class", Double, ASGI2),
            ("partial", functools.partial(double), ASGI2),
            ("adapted", as_asgi3(double), ASGI3),
            ("adapted class", as_asgi3(Double), ASGI3),
            ("function", wsgi, WSGI),
            ("with options", with_options, WSGI),
            ("undeclared wrapper", bare(wsgi), WSGI),
            ("partial", functools.partial(wsgi), WSGI),
            ("decorated", decorated(wsgi), WSGI),
            ("object", Wsgi(), WSGI),
            ("method", Wsgi().method, WSGI),
            ("class", WsgiAnswer, WSGI),
            ("has everything", Anything(), WSGI),
            ("built in", dict, WSGI),
            ("without a signature", print, WSGI),
        ]
    ],
)
def test_each_shape_is_told(app: Any, interface: Interface) -> None:
    assert detect(app) is interface


def test_an_asgi_2_application_is_called_twice_by_an_asgi_3_call() -> None:
    sent: list[Any] = []

    async def receive() -> str:
        return "message"

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(as_asgi3(double)({"type": "http"}, receive, send))

    assert sent == [{"type": "http", "got": "message"}]


def frameworks() -> list[tuple[Any, Interface]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their own deprecations
        import bottle
        import falcon
        import falcon.asgi
        import fastapi
        import flask
        import starlette.applications
        from a2wsgi import ASGIMiddleware
        from asgiref.wsgi import WsgiToAsgi
        from django.conf import settings
        from django.core.handlers.asgi import ASGIHandler
        from django.core.handlers.wsgi import WSGIHandler

        if not settings.configured:
            settings.configure()
        make_asgi: Any = WsgiToAsgi
        starlette_app: Any = starlette.applications.Starlette()
        return [
            (starlette_app, ASGI3),
            (fastapi.FastAPI(), ASGI3),
            (falcon.asgi.App(), ASGI3),
            (ASGIHandler(), ASGI3),
            (make_asgi(wsgi), ASGI3),
            (flask.Flask("a"), WSGI),
            (flask.Flask("a").wsgi_app, WSGI),
            (falcon.App(), WSGI),
            (bottle.Bottle(), WSGI),
            (WSGIHandler(), WSGI),
            (ASGIMiddleware(starlette_app), WSGI),
        ]


def test_the_frameworks_are_told() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "unused")
    apps = frameworks()

    assert [(type(app), detect(app)) for app, _ in apps] == [(type(app), interface) for app, interface in apps]
    assert all(inspect.isroutine(app) or callable(app) for app, _ in apps)
