"""The async worker as a real server: its life, from the lifespan's start to the last response."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from asgi_serving import GET, LOOPS, PARSERS, connected, events, get, serve, wait_event

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

APP = """
import json, os

def note(**event):
    with open("seen.log", "a") as file:
        file.write(json.dumps({"pid": os.getpid(), **event}) + "\\n")

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        note(lifespan="startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        note(lifespan="shutdown")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("parser", PARSERS)
def test_a_worker_serves_kept_connections_between_the_two_ends_of_its_lifespan(
    arbiter: Arbiter, parser: str, loop: str
) -> None:
    """A life.

    1. A worker starts; the application has been told before the first request comes.
    2. One connection carries three requests.
    3. TERM: the worker closes the idle connection, tells the application, and leaves.
    Result: three answers of one process, one start, one end, status 0.
    """
    server = serve(arbiter, APP, "--http", parser, "--loop", loop)
    (worker,) = server.workers()

    assert [event["lifespan"] for event in events(server)] == ["startup"]
    with connected(server) as client:
        for _ in range(3):
            assert client.ask(GET).body == b"%d" % worker.pid

        assert server.stop() == 0
        assert client.rest() == b""
    assert [event["lifespan"] for event in events(server)] == ["startup", "shutdown"]


def test_a_reload_hands_over_without_a_failure_and_ends_the_old_lifespan(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP, workers=2)
    old = {worker.pid for worker in server.workers()}
    with server.client(threads=2) as client:
        server.send(signal.SIGHUP)
        server.wait_workers(2, generation=2)
        client.more(5)

    assert client.failures == []
    for pid in old:
        assert wait_event(server, pid=pid, lifespan="shutdown")


def test_a_client_that_asks_for_it_has_its_connection_closed(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP)
    with connected(server) as client:
        assert client.ask(get("/x", "Connection: close"))[b"connection"] == b"close"
        assert client.rest() == b""
