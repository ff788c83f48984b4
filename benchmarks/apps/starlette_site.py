"""One Starlette view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from payload import PAYLOAD
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request


async def view(_request: Request) -> JSONResponse:
    return JSONResponse(PAYLOAD)


asgi = Starlette(routes=[Route("/json", view)])
