"""Deadlines, drain and lifespan of the async worker: what happens when somebody takes too long, or the worker is to go."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from asgi_serving import GET, ask, connected, events, get, serve, wait_event
from serving import Response
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

APP = """
import asyncio, json, os, time

def note(**event):
    with open("seen.log", "a") as file:
        file.write(json.dumps(event) + "\\n")

async def start(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})

async def body(send, data=b"", more=False):
    await send({"type": "http.response.body", "body": data, "more_body": more})

async def lifespan(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note(event="shutdown")
    await send({"type": "lifespan.shutdown.complete"})

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    path = scope["path"]
    if path == "/hangs":
        note(event="hanging")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note(event="cancelled")
            raise
    if path == "/halfway":
        await start(send)
        await body(send, b"half", more=True)
        await asyncio.sleep(60)
    if path == "/extends":
        scope["extensions"]["arbiter.extend_deadline"](20)
        await asyncio.sleep(2)
    if path == "/stubborn":
        end = time.monotonic() + 6
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                note(event="ignored")
    if path == "/blocks":
        note(event="blocking")
        the_line_that_blocks = time.sleep(float(scope["query_string"] or b"60"))
    if path == "/sse":
        await start(send)
        await body(send, b"data: 1\\n\\n", more=True)
        note(event="sse")
        message = await receive()
        while message["type"] == "http.request":
            message = await receive()
        note(event="told", message=message["type"])
        if scope["query_string"] == b"polite":
            return await body(send, b"bye")
        while True:
            await asyncio.sleep(0.05)
    if path == "/read":
        note(event="reading")
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return note(event="disconnect")
    await start(send)
    await body(send, str(os.getpid()).encode())
"""


def test_a_request_that_takes_too_long_is_cancelled_and_answered_504(arbiter: Arbiter) -> None:
    """The log shows where it waited; who had begun to answer is cut short; who asks for more time has it."""
    server = serve(arbiter, APP, "--request-timeout", "1")

    response = ask(server, get("/hangs"))
    assert (response.status, response[b"connection"]) == (504, b"close")
    wait_event(server, event="cancelled")
    server.wait_log(r"GET /hangs takes longer than request_timeout \(1 s\): cancelled after 1\.\d s\. It was at:")
    assert server.count(r"live\.py.*in application") == 1
    assert "await asyncio.sleep(60)" in server.log()
    with connected(server, get("/halfway")) as client:
        assert client.rest().endswith(b"\r\n\r\n4\r\nhalf\r\n")
    assert ask(server, get("/extends")).status == 200
    assert server.count("Traceback") == 0


def test_a_task_that_ignores_its_cancellation_has_its_worker_replaced(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP, "--request-timeout", "1", "--graceful-timeout", "10")
    (worker,) = server.workers()

    assert ask(server, get("/stubborn")).status == 504
    server.wait_log("GET /stubborn ignores its cancellation")

    until(lambda: server.workers() and server.workers()[0].pid != worker.pid and len(server.workers()) == 1, "a successor")
    assert ask(server).status == 200


def test_a_blocked_loop_is_reported_with_its_stack_and_then_replaced(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP, "--loop-lag-warning", "0.5", "--timeout", "3")
    (worker,) = server.workers()

    with connected(server, get("/blocks")) as client:
        wait_event(server, event="blocking")
        server.wait_log("the event loop has been blocked for")
        assert "GET /blocks" in server.log()
        assert "the_line_that_blocks" in server.log()
        assert client.rest() == b""

    until(lambda: len(server.workers()) == 1 and server.workers()[0].pid != worker.pid, "a successor")
    assert int(ask(server).body) != worker.pid


def test_a_loop_that_was_blocked_and_goes_on_is_reported_once_and_lives(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP, "--loop-lag-warning", "0.3")
    (worker,) = server.workers()

    assert ask(server, get("/blocks?1.5")).status == 200
    assert int(ask(server).body) == worker.pid
    assert server.count("the event loop has been blocked for") == 1


def test_slow_clients_lose_their_connections_and_nobody_else_anything(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP, "--head-timeout", "1", "--write-timeout", "1", "--keep-alive", "1")

    with (
        connected(server) as silent,
        connected(server, b"GET / HT") as trickles,
        connected(server, GET) as kept,
        connected(server, b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc") as slow,
    ):
        kept.response()
        assert silent.rest() == b""
        assert Response(trickles.rest()).status == 408
        assert kept.rest() == b""
        assert Response(slow.rest()).status == 408
        wait_event(server, event="disconnect")
    assert ask(server).status == 200


def test_a_body_that_trickles_has_no_more_time_than_one_that_stops(arbiter: Arbiter) -> None:
    """A byte now and then is no stride: it would hold a connection, or a thread of a WSGI application's, for ever."""
    server = serve(arbiter, APP, "--write-timeout", "2")
    head = b"POST /read HTTP/1.1\r\nHost: a\r\n"
    with (
        connected(server, head + b"Content-Length: 1000\r\n\r\n") as sized,
        connected(server, head + b"Transfer-Encoding: chunked\r\n\r\n") as chunked,
        connected(server, head + b"Content-Length: 100000\r\n\r\n") as steady,
    ):
        for _ in range(5):
            sized.send(b"x")
            chunked.send(b"1\r\nx\r\n")
            steady.send(b"x" * 20_000)
            time.sleep(0.5)  # a stride each time, and more than write_timeout in all
        assert steady.response().status == 200
        assert Response(sized.until(b"\r\n\r\n")).status == 408
        assert Response(chunked.until(b"\r\n\r\n")).status == 408


def test_sse_clients_that_never_leave_do_not_hold_up_a_stop(arbiter: Arbiter) -> None:
    """The story.

    1. Clients hold event streams open, one whose application ends when it is told, one whose never does.
    2. TERM.
    Result: both are told at half of the grace; the polite one ends whole, the other is cut short; the lifespan is shut down;
    all of it within graceful_timeout and a second, and with status 0.
    """
    server = serve(arbiter, APP, "--graceful-timeout", "4")
    with (
        connected(server, get("/sse?polite")) as polite,
        connected(server, get("/sse")) as rude,
        connected(server, GET) as idle,
    ):
        idle.response()
        polite.until(b"data: 1")
        rude.until(b"data: 1")
        until(lambda: len(events(server)) == 2, "both streams")

        began = time.monotonic()
        server.send(signal.SIGTERM)
        assert idle.rest() == b""
        assert time.monotonic() - began < 2, "the idle connection was not closed at once"
        assert polite.rest().endswith(b"3\r\nbye\r\n0\r\n\r\n")
        assert time.monotonic() - began > 1.5
        assert not rude.rest().endswith(b"0\r\n\r\n")
        assert server.wait_exit() == 0
        assert time.monotonic() - began < 4 + 1 + 1  # the last second is the machine's

    assert [event["event"] for event in events(server)].count("told") == 2
    assert events(server)[-1] == {"event": "shutdown"}


def test_a_request_under_way_is_finished_by_a_worker_that_retires_and_its_connection_closed(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP)
    with connected(server, b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na") as client:
        wait_event(server, event="reading")
        server.send(signal.SIGHUP)
        server.wait_log("gen=1 .*retiring")
        client.send(b"bc")
        response = client.response()
        assert (response.status, response[b"connection"]) == (200, b"close")
        assert client.rest() == b""


LIFESPAN = """
import os

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        %s
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})
"""


@pytest.mark.parametrize(
    ("mode", "does", "told"),
    [
        (
            "auto",
            'await receive(); await send({"type": "lifespan.startup.failed", "message": "no database"}); return',
            "no database",
        ),
        ("on", 'raise RuntimeError("unknown to me")', "unknown to me"),
        ("on", "return", "it returned without an answer"),
    ],
)
def test_a_lifespan_that_fails_is_a_worker_that_did_not_boot(arbiter: Arbiter, mode: str, does: str, told: str) -> None:
    arbiter.write("live.py", LIFESPAN % does)

    status, words = arbiter.fail("-k", "async", "-w", "1", "--lifespan", mode, "live")

    assert status == 3
    assert told in words
    assert "starting up (ASGI lifespan)" in words


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_an_application_without_a_lifespan_is_served(arbiter: Arbiter, mode: str) -> None:
    server = serve(arbiter, LIFESPAN % 'raise AssertionError("http only")', "--lifespan", mode)

    assert ask(server).body == b"served"
    assert server.count("http only") == 0


def test_a_reload_whose_lifespan_fails_is_refused_with_the_reason_and_the_old_worker_serves_on(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP)
    (worker,) = server.workers()
    arbiter.write(
        "live.py",
        LIFESPAN % 'await receive(); await send({"type": "lifespan.startup.failed", "message": "no database"}); return',
    )

    server.send(signal.SIGHUP)

    server.wait_log("no database")
    assert int(ask(server).body) == worker.pid


def test_cancel_on_disconnect_cancels(arbiter: Arbiter) -> None:
    server = serve(arbiter, APP, "--cancel-on-disconnect")
    with connected(server, get("/hangs")):
        wait_event(server, event="hanging")
        time.sleep(0.2)
    wait_event(server, event="cancelled")
    assert server.count("Traceback") == 0


def test_asgi_2_is_served_as_it_is(arbiter: Arbiter) -> None:
    source = """
class application:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        if self.scope["type"] == "lifespan":
            raise AssertionError("http only")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"two"})
"""
    server = serve(arbiter, source)

    assert ask(server).body == b"two"
