"""The same small application for WSGI and ASGI: hello, an upload, a stream, a file, and a slow request."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HELLO = b"Hello, world!\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))]
CHUNK, CHUNKS = b"x" * (16 << 10), 64
SLOW = 0.2
NAP = 0.01
BLOCK = 64 << 10


def chunks() -> Iterator[bytes]:
    for _ in range(CHUNKS):
        yield CHUNK


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/":
        start_response("200 OK", HEADERS.copy())
        return [HELLO]
    if path == "/post":
        data = b"%d" % len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
        return [data]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return chunks()
    if path == "/file":
        file = open(os.environ["BENCH_FILE"], "rb")  # noqa: SIM115  the server closes it
        size = str(os.fstat(file.fileno()).st_size)
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", size)])
        wrapper = environ.get("wsgi.file_wrapper")
        return wrapper(file, BLOCK) if wrapper else iter(lambda: file.read(BLOCK), b"")
    time.sleep(SLOW)
    start_response("200 OK", HEADERS.copy())
    return [HELLO]


RAW = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(HELLO))]


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await echo(receive, send)
        return
    path, data, headers = scope["path"], HELLO, RAW
    if path == "/post":
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        data = b"%d" % size
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(data))]
    elif path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for chunk in chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})
        return
    elif path == "/slow":
        await asyncio.sleep(SLOW)
    elif path == "/sleep":
        await asyncio.sleep(NAP)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def echo(receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
    """Send each message of a WebSocket back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if (text := message.get("text")) is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
