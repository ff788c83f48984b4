"""Exchanges that call the operator's hooks pre_request and post_request around the application, for either interface.

What pre_request raises is answered as an application's failure; post_request comes when the application has ended, whatever
became of it, in the thread that ran it. Where there are no such hooks, nobody has these classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from arbiter.workers.interfaces import asgi, wsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arbiter.workers.contract import Hooks

W = TypeVar("W", bound=wsgi.Exchange)
A = TypeVar("A", bound=asgi.Exchange)


def watched(exchange: type[W], hooks: Hooks) -> type[W]:
    """A class of exchange as it is but for the hooks, for a WSGI application."""

    class WatchedExchange(exchange):  # type: ignore[misc, valid-type]  # mypy knows no class that is a value
        __slots__ = ()

        def run(self, app: wsgi.Application, environ: dict[str, Any]) -> None:
            req: Any = None

            def with_hook(environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], None]]) -> Iterable[bytes]:
                nonlocal req
                req = hooks.pre_request(self.request)
                return app(environ, start_response)

            super().run(with_hook, environ)
            if req is not None:
                hooks.post_request(req, environ, self)

    return WatchedExchange


def watched_asgi(exchange: type[A], hooks: Hooks) -> type[A]:
    """A class of exchange as it is but for the hooks, for an ASGI application."""

    class WatchedExchange(exchange):  # type: ignore[misc, valid-type]  # as above
        __slots__ = ()

        async def run(self, app: asgi.Application) -> None:
            req: Any = None

            async def with_hook(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
                nonlocal req
                req = hooks.pre_request(self.request)
                await app(scope, receive, send)

            await super().run(with_hook)
            if req is not None:
                hooks.post_request(req, self.scope, self)

    return WatchedExchange
