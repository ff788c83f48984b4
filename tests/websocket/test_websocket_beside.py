"""One site, two applications: HTTP goes to the one, WebSockets to the other, in the same workers and on the same port."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import statistics
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from websocket_client import RawWebSocket, open_websocket
from wire import TEXT, close, frame

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

PAGES = """
import os

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"page {os.getpid()} {environ.get('HTTP_UPGRADE', '')}".encode()]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["of"] = "pages"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"page {os.getpid()} {scope['state']['of']}".encode()})
"""
SOCKETS = """
import json, os

class Application:
    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["of"] = "sockets"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            open("stopped", "w").close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            said = {"pid": os.getpid(), "of": scope["state"]["of"], "heard": message["text"]}
            await send({"type": "websocket.send", "text": json.dumps(said)})

application = Application()
"""

COUNTING = """
heard = 0

async def application(scope, receive, send):
    global heard
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            heard += 1
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % heard})
"""


def serve(arbiter: Arbiter, pages: str, *arguments: str) -> Server:
    arbiter.write("pages.py", PAGES)
    arbiter.write("sockets.py", SOCKETS)
    return arbiter.launch("-w", "1", *arguments, "--websocket-app", "sockets", f"pages:{pages}").wait_ready()


def page(server: Server) -> str:
    return httpx.get("http://{}:{}".format(*server.tcp)).text


@pytest.mark.parametrize(
    ("pages", "kind"),
    [
        ("wsgi", ()),
        ("wsgi", ("-k", "threaded", "--threads", "2")),
        ("wsgi", ("-k", "async")),
        ("asgi", ("-k", "threaded", "--threads", "2")),
    ],
    ids=["wsgi-auto", "wsgi-threaded", "wsgi-async", "asgi-threaded"],
)
def test_pages_and_sockets_come_from_one_worker(arbiter: Arbiter, pages: str, kind: tuple[str, ...]) -> None:
    """1. A WebSocket stays open; pages are asked for beside it; the WebSocket answers still.

    Result: both come from the same process, each from its own application with its own lifespan, whose end is told.
    """
    server = serve(arbiter, pages, *kind)
    (worker,) = server.workers()
    state = " pages" if pages == "asgi" else " "
    with open_websocket(server, "/anything") as client:
        for word in (b"before", b"after"):
            client.send(frame(TEXT, word))
            expected = {"pid": worker.pid, "of": "sockets", "heard": word.decode()}
            assert json.loads(client.read_frame()[1]) == expected
            for _ in range(3):
                assert page(server) == f"page {worker.pid}{state}"
        client.send(close(1000))
        assert client.rest() == b"\x88\x02\x03\xe8"
    assert server.stop() == 0
    assert (server.folder / "stopped").exists()


def test_a_sync_worker_turns_websockets_away_and_serves_pages(arbiter: Arbiter) -> None:
    arbiter.write("pages.py", PAGES)
    server = arbiter.launch("-w", "1", "-k", "sync", "pages:asgi").wait_ready()
    with open_websocket(server) as client:
        assert client.head.startswith(b"HTTP/1.1 501 ")
        assert b"use worker_class = threaded, async or auto" in client.rest()
    assert page(server).endswith(" pages")
    assert "501, A sync worker holds no WebSockets" in server.log()


def test_a_reload_whose_websocket_application_is_broken_is_refused(arbiter: Arbiter) -> None:
    """The sockets' module raises, then is one of WSGI; both reloads are refused with the reason, and the old one serves on."""
    server = serve(arbiter, "wsgi")
    server.expect("KeyError: 'mistake'")
    with open_websocket(server) as client:
        arbiter.write("sockets.py", "raise KeyError('mistake')")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log(r"reload refused: .*KeyError: 'mistake'")
        arbiter.write("sockets.py", "def application(environ, start_response): pass")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log(r"reload refused: .*it is a WSGI application, and WebSockets need ASGI")
        client.send(frame(TEXT, b"still here?"))
        assert b"still here?" in client.read_frame()[1]
        assert page(server).startswith("page")


def test_a_handshake_is_a_request_like_others_where_nobody_serves_websockets(arbiter: Arbiter) -> None:
    arbiter.write("pages.py", PAGES)
    server = arbiter.launch("-w", "1", "-k", "async", "pages:wsgi").wait_ready()
    with open_websocket(server) as client:
        assert client.head.startswith(b"HTTP/1.1 200 OK")


def test_who_sends_message_upon_message_has_one_turn_while_others_wait(arbiter: Arbiter) -> None:
    """1. Four clients send the smallest messages, and pieces of one, without end. 2. Pages tell how many messages were heard.

    Result: few come between two pages, not all that one read of each client brings (10,000).
    """
    arbiter.write("counting.py", COUNTING)
    server = arbiter.launch("-w", "1", "-k", "async", "counting:application").wait_ready()

    flood = (frame(TEXT) * 20 + frame(TEXT, fin=False) + frame(0, fin=False) * 20 + frame(0)) * 300

    def send(client: RawWebSocket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.send(flood)

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(open_websocket(server)) for _ in range(4)]
        for client in clients:
            threading.Thread(target=send, args=(client,), daemon=True).start()
        pages = stack.enter_context(httpx.Client())
        counted = [int(pages.get("http://{}:{}".format(*server.tcp)).text) for _ in range(40)]
    between = statistics.median(later - earlier for earlier, later in itertools.pairwise(counted[10:]))

    server.stop(signal.SIGQUIT)  # what the kernel holds of the flood is for nobody
    assert 0 < between < 4000  # some 300; 20,000 when all that was read comes first
