"""An application that forks: what it forks is never another worker, whatever it does, and leaves nothing of ours occupied."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Final

import pytest
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

WSGI: Final = """
import multiprocessing, os, sys, time

if os.fork() == 0:
    sys.exit(0)

def stay():
    open("stays", "w").close()
    while os.path.exists("stays"):
        time.sleep(0.01)

def terminated():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    child.terminate()
    child.join()
    return child.exitcode

def act(path):
    if path == "/returns":
        os.fork()
    elif path == "/exits":
        os.fork() or sys.exit(7)
    elif path == "/raises":
        if os.fork() == 0:
            raise LookupError("in the copy")
    elif path == "/stays":
        os.fork() or (stay(), os._exit(0))
    elif path == "/terminated":
        return terminated()

def application(environ, start_response):
    said = act(environ["PATH_INFO"])
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/streams":
        return (b"piece" for _ in range(2) if _ == 0 or os.fork() >= 0)
    return [f"{said}".encode()]
"""
ASGI: Final = (
    WSGI
    + """
import asyncio

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    path = scope["path"]
    said = act(path)
    if path == "/streams" and os.fork() == 0:
        await asyncio.sleep(600)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"piecepiece" if path == "/streams" else f"{said}".encode()})
"""
)


@pytest.mark.parametrize(
    ("kind", "app"),
    [("sync", WSGI), ("threaded", WSGI), ("async", WSGI), ("async", ASGI)],
    ids=["sync", "threads", "wsgi", "asgi"],
)
def test_what_an_application_forks_is_no_second_worker_and_occupies_nothing(arbiter: Arbiter, kind: str, app: str) -> None:
    """1. Its import forks, and so do requests: the child returns, exits, raises, suspends; is terminated; stays. 2. TERM.

    Result: each is answered once, by the worker; the copies are gone, with a line about those that came back; the stop does not
    wait for the one that stays, nor does it hold the port.
    """
    arbiter.write("live.py", app)
    server = arbiter.launch("-k", kind, "--threads", "2", "-w", "2", "live").wait_ready()
    before = server.wait_workers(2)

    with server.client() as client:
        replies = [server.get(path) for path in ("/returns", "/exits", "/raises", "/streams", "/terminated", "/stays")]
        until((server.folder / "stays").exists, "the child that stays")
        client.more(10)
        until(lambda: len(server.members()) == 4, lambda: f"the end of the copies: {server.members()}")
    server.wait_log("has forked came back from the application")
    server.wait_log("has forked raised LookupError: in the copy")
    after = server.wait_workers(2)
    server.send(signal.SIGTERM)
    status = server.wait_exit()
    with socket.create_server(server.tcp):
        pass
    (server.folder / "stays").unlink()

    assert [reply.status for reply in replies] == [200] * 6
    assert [reply.text for reply in replies[3:5]] == ["piecepiece", str(-signal.SIGTERM)]
    assert client.failures == []
    assert [worker.pid for worker in after] == [worker.pid for worker in before]
    assert status == 0
