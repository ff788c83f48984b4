"""Two Starlette views: JSON, and a short stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from payload import PAYLOAD
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request


async def view(_request: Request) -> JSONResponse:
    return JSONResponse(PAYLOAD)


async def lines() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"ten bytes\n"


async def stream(_request: Request) -> StreamingResponse:
    return StreamingResponse(lines(), media_type="text/plain")


asgi = Starlette(routes=[Route("/json", view), Route("/stream", stream)])
