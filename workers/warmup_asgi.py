"""`warmup` for ASGI applications, on the worker's own loop."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from arbiter.workers.interfaces.asgi_scope import connection_scope, http_scope
from arbiter.workers.warmup import request_of

if TYPE_CHECKING:
    from arbiter.workers.interfaces.asgi import Exchange
    from arbiter.workers.protocols.policy import Fields, Refusal
    from arbiter.workers.site import Site


class _NowhereStream:
    """A `Stream` to nobody, of a request without a body."""

    blocked = False
    body_ended = True
    sends_files = False

    def read(self) -> bytes | None:
        return b""

    def send_early_hints(self, fields: Fields, headers: list[tuple[bytes, bytes]]) -> None:
        pass

    def send_head(self, exchange: Exchange, body: bytes, known: int, *, ended: bool) -> None:
        pass

    def send_body(self, body: bytes, *, ended: bool) -> None:
        pass

    def send_file(self, fd: int, offset: int, count: int, *, ended: bool) -> None:  # noqa: ARG002 - as `Stream` has it
        os.close(fd)

    def send_trailers(self, block: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        pass

    def refuse(self, refusal: Refusal, *, head_only: bool) -> int:  # noqa: ARG002 - as `Stream` has it
        return 0

    def abort(self) -> None:
        pass

    def complete(self) -> None:
        pass


class _Uncounted:
    """A `Host` of requests that nobody made."""

    cancels_on_disconnect = False

    def __init__(self, site: Site) -> None:
        self.loop = site.loop
        self.log = site.log

    def hold(self, exchange: Exchange) -> None:
        pass

    def answered(self, exchange: Exchange) -> None:
        pass

    def ended(self, exchange: Exchange) -> None:
        pass


async def warm_up_asgi(site: Site, path: str) -> int:
    """The status with which the ASGI application of `site` answers ``GET path``; a failure is in the log already.

    Raises:
        Refusal: `path` is not a request's target.
    """
    connection = site.parser()
    connection.feed(request_of(path))
    request = connection.next_request()
    if request is None:
        raise AssertionError("a whole head is a request or a refusal")
    template = connection_scope(scheme="http", server=("127.0.0.1", 0), client=("127.0.0.1", 0), root_path=site.root_path)
    scope = {**http_scope(template, request), "state": site.state.copy(), "extensions": {}}
    exchange = site.exchange(_Uncounted(site), _NowhereStream(), request, scope, time.monotonic())
    await site.loop.create_task(exchange.run(site.app), context=site.context.copy() if site.context else None)
    return exchange.status
