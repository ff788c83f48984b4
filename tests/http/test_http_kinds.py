"""Which kind of worker serves which application, and what is particular where the two do not match by themselves."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import pytest
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import asyncio, functools, os, pathlib, threading, time
from arbiter.portal import loop, submit

def wait(name, want):
    end = time.monotonic() + 20
    pathlib.Path(f"in-{name}-{threading.get_ident()}").touch()
    while not os.path.exists(want) and time.monotonic() < end:
        time.sleep(0.01)

async def who():
    return threading.current_thread().name

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    body = b"wsgi"
    if path == "/held":
        wait("held", "release")
    elif path == "/io":
        assert environ["arbiter.io_bound"]()
        wait("io", "release")
    elif path == "/hang":
        while True:
            time.sleep(0.01)
    elif path == "/extend":
        environ["arbiter.extend_deadline"](30)
        time.sleep(1.5)
    elif path == "/loop":
        body = f"{threading.current_thread().name} {submit(who()).result(20)}".encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        pathlib.Path("shut-down").touch()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/hang":
        await asyncio.sleep(60)
    if scope["path"] == "/held":
        pathlib.Path(f"in-held-{id(scope)}").touch()
        while not os.path.exists("release"):
            await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"asgi"})

class Double:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await asgi(self.scope, receive, send)

async def broken(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

hidden = lambda *args: asgi(*args)
partial = functools.partial(asgi)
"""


def serve(arbiter: Arbiter, name: str, *arguments: str) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.launch("-w", "1", *arguments, f"live:{name}").wait_ready()


def inside(server: Server, name: str, count: int) -> None:
    until(lambda: len(list(server.folder.glob(f"in-{name}-*"))) == count, f"{count} requests in /{name}")


@pytest.mark.parametrize(
    ("name", "arguments", "serves"),
    [
        ("asgi", (), "async, for live:asgi is ASGI"),
        ("partial", ("--threads", "3"), "async, for live:partial is ASGI"),
        ("Double", (), "async, for live:Double is ASGI 2"),
        ("wsgi", (), "sync, for live:wsgi is WSGI"),
        ("wsgi", ("--threads", "3"), "threaded, for live:wsgi is WSGI"),
        ("wsgi", ("--preload",), "sync, for live:wsgi is WSGI"),
        ("asgi", ("--preload",), "async, for live:asgi is ASGI"),
        ("hidden", ("--interface", "asgi"), "async, for live:hidden is ASGI"),
    ],
)
def test_auto_looks_at_the_application_and_says_what_it_saw(
    arbiter: Arbiter, name: str, arguments: tuple[str, ...], serves: str
) -> None:
    server = serve(arbiter, name, *arguments)

    assert re.search(rf"worker=1 .* ready after [\d.]+ s; {serves}$", server.log(), re.MULTILINE)
    assert "(async if it is an ASGI application)" in server.log().partition("\n")[0]
    assert server.get("/").text == ("wsgi" if name == "wsgi" else "asgi")


def test_a_kind_that_was_named_is_taken_as_it_is_and_needs_no_words(arbiter: Arbiter) -> None:
    server = serve(arbiter, "asgi", "-k", "threaded")

    assert "1 threaded worker for live:asgi, supervisor" in server.log()
    assert re.search(r"worker=1 .* ready after [\d.]+ s$", server.log(), re.MULTILINE)


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_an_asgi_application_that_can_not_start_fails_the_boot_of_every_kind(arbiter: Arbiter, kind: str) -> None:
    arbiter.write("live.py", APP)
    status, words = arbiter.fail("-k", kind, "-w", "1", "live:broken")

    assert status == 3
    assert "no database" in words


def test_a_sync_worker_has_one_asgi_request_at_a_time_and_its_timeout_ends_it(arbiter: Arbiter) -> None:
    server = serve(arbiter, "asgi", "-k", "sync", "--timeout", "2")
    (worker,) = server.workers()
    held, waiting = server.ask("/held"), None
    inside(server, "held", 1)
    waiting = server.ask("/")
    server.release()
    assert held.reply().text == "asgi"
    assert waiting.reply().text == "asgi"

    assert server.get("/hang").status == 504
    assert server.get("/").text == "asgi"
    assert server.workers()[0].pid == worker.pid
    assert server.stop() == 0
    assert (server.folder / "shut-down").exists()


def test_a_wsgi_application_on_a_loop_has_as_many_threads_as_were_asked_for(arbiter: Arbiter) -> None:
    """Two threads: two requests are held; a third waits, though its client is let in. Those that only wait do not count."""
    server = serve(arbiter, "wsgi", "-k", "async", "--threads", "2")
    waits = [server.ask("/io") for _ in range(3)]
    inside(server, "io", 3)
    held = [server.ask("/held") for _ in range(3)]
    inside(server, "held", 2)
    with pytest.raises(AssertionError), contextlib.suppress(TimeoutError):
        until(lambda: len(list(server.folder.glob("in-held-*"))) == 3, "a third, which must not come", patience=0.5)
    server.release()

    assert {asking.reply().text for asking in (*waits, *held)} == {"wsgi"}
    assert server.get("/loop").text.endswith(" MainThread")


def test_a_wsgi_request_on_a_loop_is_cancelled_at_its_limit_unless_it_asks_for_more(arbiter: Arbiter) -> None:
    server = serve(arbiter, "wsgi", "-k", "async", "--request-timeout", "0.8")
    (worker,) = server.workers()

    assert server.get("/hang").status == 504
    assert server.get("/extend").text == "wsgi"
    assert server.get("/").text == "wsgi"
    assert server.workers()[0].pid == worker.pid
    assert "in wsgi\n    time.sleep(0.01)" in server.log()  # where its thread was
    assert "is to be replaced" not in server.log()


def test_a_worker_that_leaves_waits_for_the_thread_of_a_request(arbiter: Arbiter) -> None:
    server = serve(arbiter, "wsgi", "-k", "async")
    held = server.ask("/held")
    inside(server, "held", 1)
    server.process.terminate()
    server.wait_log("retiring")
    server.release()

    assert held.reply().text == "wsgi"
    assert server.ended() == 0


EARLY = """
import time
from arbiter.workers.pool import Pool

enter = Pool.enter

def late(self, job):
    place = enter(self, job)
    time.sleep(0.05)  # the thread is through with the request before the loop goes on
    return place

Pool.enter = late

def application(environ, start_response):
    environ["arbiter.io_bound"]()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_a_thread_that_is_quicker_than_the_loop_that_woke_it_serves_its_request(arbiter: Arbiter) -> None:
    arbiter.write("live.py", EARLY)
    server = arbiter.serve("--worker-class", "async", "--threads", "2", workers=1)

    assert [server.get() for _ in range(3)] == [(200, "ok")] * 3
