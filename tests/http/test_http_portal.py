"""The portal in real workers: what a WSGI application gets of it, and what becomes of its tasks when the worker leaves."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import asyncio, contextvars, os, pathlib, threading, time
from arbiter.portal import loop, submit

who = contextvars.ContextVar("who", default="nobody")

async def greet():
    await asyncio.sleep(0.01)
    return f"{who.get()} {asyncio.get_running_loop() is loop()} {threading.current_thread().name}"

async def leave(seconds):
    pathlib.Path("began").touch()
    await asyncio.sleep(seconds)
    pathlib.Path("finished").touch()

async def endless():
    pathlib.Path("began").touch()
    try:
        await asyncio.Event().wait()
    finally:
        pathlib.Path("cleaned").touch()

async def boom():
    raise RuntimeError("forgotten by the view")

def application(environ, start_response):
    path = environ["PATH_INFO"]
    body = b""
    if path == "/greet":
        who.set(environ["QUERY_STRING"])
        body = submit(greet()).result(10).encode()
    elif path == "/leave":
        submit(leave(1.0))
    elif path == "/endless":
        submit(endless())
    elif path == "/boom":
        submit(boom())
    elif path == "/wait":
        submit(asyncio.sleep(30)).result()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""

KINDS = {"sync": ["-k", "sync"], "threaded": ["-k", "threaded", "--threads", "2"], "async": ["-k", "async"]}
THREADS = {"sync": "arbiter-portal", "threaded": "arbiter-portal", "async": "MainThread"}
"""Where the loop runs: in the async worker it is the worker's own."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serve(arbiter: Arbiter, kind: str, *arguments: str) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve(*KINDS[kind], *arguments, workers=1)


def until_exists(server: Server, name: str) -> None:
    until((server.folder / name).exists, f"the file {name}")


def test_a_view_waits_for_async_code_and_leaves_some_for_later(arbiter: Arbiter, kind: str) -> None:
    server = serve(arbiter, kind)
    server.expect("forgotten by the view")
    for name in ("alice", "bob"):
        assert server.get(f"/greet?{name}").text == f"{name} True {THREADS[kind]}"
    assert server.get("/boom").status == 200
    until(lambda: "forgotten by the view" in server.log(), "the line in the log")
    assert server.get("/leave").status == 200
    until_exists(server, "began")
    assert not (server.folder / "finished").exists()

    assert server.stop() == 0  # and waits for the task
    assert (server.folder / "finished").exists()
    assert "is cancelled" not in server.log()


def test_a_task_that_never_ends_is_cancelled_in_time_and_named(arbiter: Arbiter, kind: str) -> None:
    server = serve(arbiter, kind, "--graceful-timeout", "4")
    server.get("/endless")
    until_exists(server, "began")

    assert server.stop() == 0
    assert (server.folder / "cleaned").exists()
    assert server.log().count("the task endless (") == 1
    assert "It is killed" not in server.log()


def test_a_worker_that_is_interrupted_waits_for_no_task(arbiter: Arbiter, kind: str) -> None:
    server = serve(arbiter, kind, "--graceful-timeout", "60")
    server.get("/endless")
    until_exists(server, "began")

    assert server.stop(signal.SIGQUIT) == 0
    assert (server.folder / "cleaned").exists()


def test_a_request_that_waits_for_the_loop_is_cancelled_at_its_limit(arbiter: Arbiter) -> None:
    server = serve(arbiter, "threaded", "--request-timeout", "0.5")
    server.expect("OverrunError")
    (worker,) = server.workers()

    assert server.get("/wait").status == 504
    assert server.get("/greet?alice").status == 200
    assert server.workers()[0].pid == worker.pid


def test_preload_says_clearly_that_a_loop_would_not_survive_the_fork(arbiter: Arbiter) -> None:
    arbiter.write("live.py", "from arbiter.portal import loop\nloop()\n" + APP)
    status, words = arbiter.fail("--preload", "-w", "1", "live")

    assert status == 3
    assert "arbiter.portal can't be used while the application is loaded with --preload" in words


def test_preloaded_workers_have_a_loop_each(arbiter: Arbiter) -> None:
    server = serve(arbiter, "sync", "--preload")
    assert server.get("/greet?alice").text == "alice True arbiter-portal"


FLASK = """
import asyncio
import httpx
from flask import Flask
from arbiter.portal import submit

app = Flask(__name__)
client = httpx.AsyncClient()

@app.get("/prices")
def prices():
    tea = submit(client.get("http://{address}/greet?tea"))
    cake = submit(client.get("http://{address}/greet?cake"))
    return {{"tea": tea.result(10).text, "cake": cake.result(10).text}}
"""


def test_the_example_of_the_documentation_works(arbiter: Arbiter, kind: str) -> None:
    """A Flask view asks another server twice with an async client that all views share."""
    other = serve(arbiter, "threaded")
    host, port = other.tcp
    arbiter.write("shop.py", FLASK.format(address=f"{host}:{port}"))
    server = arbiter.launch(*KINDS[kind], "-w", "1", "shop:app").wait_ready()

    for _ in range(3):
        reply = server.get("/prices")
        assert reply.status == 200
        assert "tea True arbiter-portal" in reply.text
        assert "cake True arbiter-portal" in reply.text


def test_the_loop_is_the_one_that_the_settings_name(arbiter: Arbiter) -> None:
    arbiter.write("mine.py", "import asyncio\n\nclass Loop(asyncio.SelectorEventLoop):\n    pass\n")
    arbiter.write(
        "live.py",
        """
from arbiter.portal import loop

def application(environ, start_response):
    start_response("200 OK", [])
    return [type(loop()).__name__.encode()]
""",
    )
    server = arbiter.serve("-k", "sync", "--loop", "mine:Loop", workers=1)

    assert server.get("/").text == "Loop"
