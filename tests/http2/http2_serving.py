"""An ASGI application under a real server that speaks HTTP/2, and clients of it: what tests over sockets share."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from http2_wire import Peer, SocketWire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

APP = """
import asyncio, hashlib, json, os

def note(**event):
    with open("seen.log", "a") as file:
        file.write(json.dumps({"pid": os.getpid(), **event}) + "\\n")

async def whole(receive):
    pieces, trailers = [], []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)

async def answer(send, body, status=200, headers=(), **more):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain"), *headers], **more})
    await send({"type": "http.response.body", "body": body})

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    path, query = scope["path"], scope["query_string"].decode()
    if path == "/scope":
        keys = ("http_version", "method", "scheme", "path", "raw_path", "query_string", "headers")
        shown = {key: scope[key] if isinstance(scope[key], str) else repr(scope[key]) for key in keys}
        scope["headers"].append((b"x-mine", b"1"))
        await answer(send, json.dumps(shown).encode())
    elif path == "/sleep":
        await asyncio.sleep(float(query))
        await answer(send, b"slept")
    elif path == "/large":
        size = int(query)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while size:
            piece = min(size, 100_000)
            size -= piece
            try:
                await send({"type": "http.response.body", "body": b"x" * piece, "more_body": size > 0})
            except OSError as error:
                note(large=type(error).__name__, left=size)
                raise
            note(sent=piece)
    elif path == "/digest":
        digest = hashlib.sha256()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                note(digest="disconnect")
                return
            digest.update(message["body"])
            if not message["more_body"]:
                break
        await answer(send, digest.hexdigest().encode())
    elif path == "/unread":
        await answer(send, b"no, thanks")
    elif path == "/early":
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await answer(send, b"late")
    elif path == "/trailers":
        await answer(send, b"body", trailers=True)
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42")]})
    elif path == "/wait":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        note(wait="begun")
        while (await receive())["type"] != "http.disconnect":
            pass
        note(wait="disconnect")
        await send({"type": "http.response.body", "body": b"last"})
    elif path == "/fail":
        raise ValueError("before")
    elif path == "/cut":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise ValueError("in the middle")
    elif path == "/held":
        open(f"held-{os.getpid()}", "x").close()
        while not os.path.exists("release"):
            await asyncio.sleep(0.01)
        await answer(send, b"held")
    elif path == "/pid":
        await answer(send, str(os.getpid()).encode())
    else:
        body = await whole(receive)
        if body is not None:
            await answer(send, body or b"hello, world\\n")
"""


def serve(arbiter: Arbiter, *arguments: str, workers: int = 1) -> Server:
    """A server of `APP`, with async workers."""
    arbiter.write("live.py", APP)
    return arbiter.serve("-k", "async", "--lifespan", "off", *arguments, workers=workers)


@contextlib.contextmanager
def peer(server: Server, *, greet: bool = True, settings: bytes = b"") -> Iterator[Peer]:
    """A client on a connection of its own."""
    with socket.create_connection(server.tcp, timeout=20) as client:
        yield Peer(SocketWire(client), greet=greet, settings=settings)
