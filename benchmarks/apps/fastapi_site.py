"""One FastAPI view."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from payload import PAYLOAD

asgi = FastAPI()


@asgi.get("/json")
async def view() -> dict[str, Any]:
    return PAYLOAD
