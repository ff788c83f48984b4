"""Stopping: gracefully, quickly, at once; and always, whatever else is going on."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from clients import Reply
from harness import app
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from pathlib import Path

    from clients import Address
    from harness import Arbiter

pytestmark = pytest.mark.process

HANGS = "\nopen('hanging', 'x').close()\ntime.sleep(600)\n"
"""What hangs an import, once it has said so."""


def test_term_lets_a_request_in_flight_finish_and_exits_with_0(arbiter: Arbiter) -> None:
    """1. A request is in the application. 2. TERM. 3. The other worker leaves; the request goes on as long as it wants.

    Result: the whole response, then status 0.
    """
    server = arbiter.serve(workers=2)
    held = server.ask("/held")
    (busy,) = server.wait_held()
    server.send(signal.SIGTERM)
    until(lambda: [worker.pid for worker in server.workers()] == [busy], "the end of the idle worker")
    server.release()

    assert held.reply() == Reply(200, f"one {busy}")
    assert server.ended() == 0
    assert server.count("stopping: workers finish their requests") == 1


def test_term_under_load_answers_every_request_that_a_worker_has_taken(arbiter: Arbiter) -> None:
    """A client asks while the server stops.

    Result: what comes too late is not answered at all; no response that was begun is cut short, none is an error.
    """
    server = arbiter.serve(workers=3)
    client = server.client(threads=4, pause=0.0)

    with client:
        client.more(100)
        server.send(signal.SIGTERM)
        status = server.ended()
        until(lambda: client.failures, "the client's notice of the end")
        client.give_up()

    too_late = ("ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected")
    assert status == 0
    assert not [failure for failure in client.failures if not failure.what.startswith(too_late)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_interrupt_requests_and_exit_with_0_within_a_moment(arbiter: Arbiter, number: signal.Signals) -> None:
    server = arbiter.serve(workers=2)
    held = server.ask("/held")
    server.wait_held()

    began = time.monotonic()
    server.send(number)
    status = server.ended()
    took = time.monotonic() - began

    assert status == 0
    assert took < 3
    assert not isinstance(held.outcome(), Reply)
    assert server.count("quitting: workers are interrupted") == 1


def test_a_second_term_interrupts_and_a_third_kills(arbiter: Arbiter) -> None:
    """A request that nothing in Python ends.

    1. TERM waits for it. 2. TERM interrupts the workers. 3. TERM kills. Result: at once, status 0.
    """
    server = arbiter.serve(workers=2)
    deaf = server.ask("/deaf")
    server.wait_held()

    server.send(signal.SIGTERM)
    server.wait_log("stopping:")
    server.send(signal.SIGTERM)
    server.wait_log("quitting:")
    server.send(signal.SIGTERM)
    status = server.ended()

    assert status == 0
    assert not isinstance(deaf.outcome(), Reply)
    assert server.count("stopping:") == server.count("quitting:") == 1


def test_what_does_not_heed_a_quick_stop_is_killed_after_a_moment(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=2)
    server.ask("/deaf")
    server.wait_held()

    began = time.monotonic()
    server.send(signal.SIGINT)
    status = server.ended()
    took = time.monotonic() - began

    assert status == 0
    assert 1 <= took < 4
    assert server.count(r"did not leave within 1\.0 s \(quick stop\). It is killed.") == 1


def test_a_request_that_outlasts_graceful_timeout_is_killed_and_the_log_says_so(arbiter: Arbiter) -> None:
    server = arbiter.serve("--graceful-timeout", "1", workers=2)
    held = server.ask("/held")
    server.wait_held()

    began = time.monotonic()
    server.send(signal.SIGTERM)
    status = server.ended()
    took = time.monotonic() - began

    assert status == 0
    assert 1 <= took < 4
    assert not isinstance(held.outcome(), Reply)
    assert server.count(r"did not leave within 1\.0 s \(the service stops\). It is killed.") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_a_reload_wins_at_once(arbiter: Arbiter, number: signal.Signals) -> None:
    """1. HUP: the canary hangs in its import. 2. TERM or INT. Result: status 0 at once, not after the boot_timeout."""
    server = arbiter.serve(workers=2)
    arbiter.write("live.py", app("two", at_import=HANGS))
    server.send(signal.SIGHUP)
    until((server.folder / "hanging").exists, "a canary in its import")

    began = time.monotonic()
    server.send(number)
    status = server.ended()
    took = time.monotonic() - began

    assert status == 0
    assert took < 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_first_boot_wins_at_once(arbiter: Arbiter, number: signal.Signals) -> None:
    arbiter.write("live.py", app("one", at_import=HANGS))
    server = arbiter.launch("--pid", "pid", "live")
    until((server.folder / "hanging").exists, "a worker in its import")

    began = time.monotonic()
    server.send(number)
    status = server.ended()
    took = time.monotonic() - began

    assert status == 0
    assert took < 2


def test_a_stop_in_the_middle_of_a_roll_wins_at_once(arbiter: Arbiter) -> None:
    """1. HUP of a good application with many workers. 2. TERM as soon as the first is replaced. Result: status 0."""
    server = arbiter.serve(workers=6)
    arbiter.write("live.py", app("two"))
    server.send(signal.SIGHUP)
    server.wait_log("the new generation has proven itself")
    server.send(signal.SIGTERM)

    assert server.ended() == 0


def test_a_reload_that_comes_after_the_stop_is_ignored(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=2)
    held = server.ask("/held")
    server.wait_held()
    server.send(signal.SIGTERM)
    server.wait_log("stopping:")
    server.send(signal.SIGHUP)
    server.wait_log("reload ignored: the service is ending")
    server.release()

    assert held.reply().status == 200
    assert server.ended() == 0


def test_exit_functions_of_the_application_run_when_a_worker_leaves(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import="\nimport atexit\natexit.register(lambda: open('left', 'x').close())\n"))
    server = arbiter.serve(workers=1)

    assert server.stop() == 0
    assert (server.folder / "left").exists()


def connect(address: Address) -> socket.socket:
    client = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock"])
def test_who_waits_in_the_backlog_at_a_stop_is_served(arbiter: Arbiter, bind: str) -> None:
    """1. One worker, held in a request. 2. Ten more requests wait in the kernel. 3. TERM. 4. The held one is let go.

    Result: all eleven are answered, and the service ends.
    """
    server = arbiter.serve(workers=1, bind=bind)
    held = server.ask("/held")
    server.wait_held()
    waiting = [connect(server.address) for _ in range(10)]
    for client in waiting:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    server.send(signal.SIGTERM)
    server.wait_log("stopping:")
    server.release()

    assert held.reply().status == 200
    for client in waiting:
        with client, client.makefile("rb") as reply:
            assert reply.readline() == b"HTTP/1.1 200 OK\r\n"
    assert server.ended() == 0


def test_asking_again_and_again_for_the_end_does_not_spoil_it(arbiter: Arbiter, tmp_path: Path) -> None:
    """1. TERM, without a pause, until the process is gone: also while it clears up. Result: status 0, and nothing is left."""
    for _ in range(3):
        server = arbiter.serve("--pid", tmp_path / "pid", workers=1, bind=f"unix:{tmp_path}/sock")
        while server.process.poll() is None:
            server.send(signal.SIGTERM)

        assert server.ended() == 0
