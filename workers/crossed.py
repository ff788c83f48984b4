"""Kinds of worker for applications that speak the other interface: WSGI in the async worker, ASGI in the sync worker.

Whatever is ASGI runs on an event loop, which only the async worker has; so what the others are for it is the async worker
within their limits. The threaded worker has no limit that matters to ASGI, and so is the async worker itself: one that is
told to be threaded for the sake of a WSGI application serves an ASGI application just as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.asynchronous import AsyncWorker
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.wsgi_on_loop import Exchange, Gateway

if TYPE_CHECKING:
    from arbiter.workers.contract import Order
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.site import Site


class LoopGatewayWorker(AsyncWorker):
    """The async worker for a WSGI application: `threads` requests at a time are in it, or `io_threads` if that is 1."""

    @property
    def lifespan_mode(self) -> str:
        return "off"

    def furnish(self, site: Site) -> None:
        settings = self.settings
        site.app = Gateway(
            self.app,
            self.loop,
            self.log,
            site.fronts,
            hooks=self.order.hooks,
            # One is the default, and no wish: who wants a WSGI application to be served one by one takes the sync worker.
            threads=settings.threads if settings.threads > 1 else settings.io_threads or 1,
            spare=settings.io_threads,
            body_buffer=settings.body_buffer,
        )
        site.exchange = Exchange
        site.tells_environ = True
        if settings.websocket_app is None:
            site.upgrades.pop(b"websocket", None)  # WSGI has none: the request is served as what it is without
        site.cancels_on_disconnect = False  # what it writes next tells it


class OneByOneWorker(AsyncWorker):
    """The sync worker for an ASGI application: one connection at a time, which ends with its first response.

    `timeout`, which in a sync worker is the time for a whole request, ends the request here and not the worker. There are no
    WebSockets: one that is open would keep everybody else waiting, for as long as its client likes.
    """

    def __init__(self, order: Order, app: Any) -> None:
        settings = order.settings
        limited = replace(
            settings,
            worker_connections=1,
            keepalive=0.0,
            http2="off",  # which is many requests at a time
            request_timeout=settings.request_timeout or settings.timeout,
        )
        super().__init__(replace(order, settings=limited), app)

    def furnish(self, site: Site) -> None:
        site.upgrades[b"websocket"] = _refuse_websocket


def _refuse_websocket(connection: Any, request: Request | None, rest: bytes) -> bool:  # noqa: ARG001 - as `Site.upgrades` has it
    connection.turn_away(_NO_WEBSOCKETS)
    return True


_NO_WEBSOCKETS: Final = Refusal(501, "A sync worker holds no WebSockets: use worker_class = threaded, async or auto.")
