"""The supervisor itself is killed, or stopped: workers never outlive it, and nobody is punished for its sleep."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import procfs
import pytest
from clients import LONGEST_GAP
from harness import app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

SLEEP = 3.0
"""Seconds for which something is stopped: longer than every deadline of the server, and than what counts as sleep."""
SHORT = ("--timeout", "2", "--boot-timeout", "2", "--graceful-timeout", "1")


def in_a_request(server: Server) -> None:
    server.ask("/held")
    server.wait_held()


def in_a_deaf_request(server: Server) -> None:
    server.ask("/deaf")
    server.wait_held()


def in_an_import(server: Server) -> None:
    (server.folder / "live.py").write_text(app("two", at_import="\nopen('hanging', 'x').close()\ntime.sleep(600)\n"))
    server.send(signal.SIGHUP)
    until((server.folder / "hanging").exists, "a canary in its import")


def in_a_busy_import(server: Server) -> None:
    (server.folder / "live.py").write_text(app("two", at_import="\nopen('hanging', 'x').close()\nwhile True: pass\n"))
    server.send(signal.SIGHUP)
    until((server.folder / "hanging").exists, "a canary in its import")


def idle(_server: Server) -> None:
    pass


@pytest.mark.parametrize("busy", [idle, in_a_request, in_a_deaf_request, in_an_import, in_a_busy_import])
def test_workers_are_gone_two_seconds_after_their_supervisor_is_killed(arbiter: Arbiter, busy: object) -> None:
    """1. A worker is idle, in a request, or in an import without end. 2. SIGKILL to the supervisor. 3. A new one is started.

    Result: no process is left of the first; the second takes over its pid file and its socket.
    """
    assert callable(busy)
    server = arbiter.serve("--pid", "pid", workers=3, bind="unix:sock")
    busy(server)
    server.keeps = server.files  # nobody is there to remove them

    server.process.kill()
    server.wait_exit()
    began = time.monotonic()
    until(lambda: not server.members(), lambda: f"the end of {server.members()}")
    took = time.monotonic() - began
    server.check()
    arbiter.write("live.py", app("three"))
    successor = arbiter.serve("--pid", "pid", bind="unix:sock")

    assert took < 2
    assert successor.get().text.startswith("three ")
    assert (server.folder / "pid").read_text() == f"{successor.pid}\n"


def test_a_worker_whose_last_words_nobody_has_read_leaves_as_quietly_as_any_other(arbiter: Arbiter) -> None:
    """1. SIGSTOP to the supervisor. 2. Its worker has served `max_requests`, and says so. 3. SIGKILL to the supervisor.

    Result: the worker's channel is reset instead of at its end; it leaves without a traceback.
    """
    server = arbiter.serve("--max-requests", "1", workers=1)
    server.send(signal.SIGSTOP)
    until(lambda: [found.state for found in server.members() if found.pid == server.pid] == ["T"], "a stopped supervisor")
    replies = [server.get() for _ in range(2)]  # before the second, the worker has spoken
    server.process.kill()
    server.wait_exit()
    until(lambda: not server.members(), lambda: f"the end of {server.members()}")

    assert [reply.status for reply in replies] == [200, 200]
    server.check()


def test_a_killed_supervisor_holds_its_pid_file_no_longer_though_a_worker_still_answers(arbiter: Arbiter) -> None:
    """1. A request is in a worker. 2. SIGKILL to the supervisor. 3. A new one is started at once with the same pid file.

    Result: it is not refused because of a worker that still has its moment.
    """
    server = arbiter.serve("--pid", "pid", workers=2)
    server.ask("/held")
    (busy,) = server.wait_held()
    os.kill(busy, signal.SIGSTOP)  # so that its moment lasts until the successor is there, however long that takes
    server.process.kill()
    server.wait_exit()
    successor = arbiter.serve("--pid", "pid")
    alive = procfs.find(busy)
    os.kill(busy, signal.SIGCONT)
    server.keeps = server.files  # it is the successor's now

    assert alive
    assert (server.folder / "pid").read_text() == f"{successor.pid}\n"


def test_a_request_in_flight_is_finished_when_the_supervisor_is_killed_if_it_takes_no_longer_than_a_moment(
    arbiter: Arbiter,
) -> None:
    server = arbiter.serve(workers=1)
    held = server.ask("/held")
    server.wait_held()

    server.process.kill()
    server.wait_exit()
    server.release()

    assert held.reply().status == 200
    server.check()


def test_a_supervisor_that_was_stopped_kills_nobody_when_it_wakes(arbiter: Arbiter) -> None:
    """1. Deadlines of 1 and 2 s, a client asks. 2. The supervisor is stopped for 3 s. 3. It wakes.

    Result: the workers serve all the time, and are the same after it.
    """
    server = arbiter.serve(*SHORT, workers=2)
    before = server.wait_workers(2)

    with server.client() as client:
        server.send(signal.SIGSTOP)
        time.sleep(SLEEP)
        server.send(signal.SIGCONT)
        server.wait_log(r"the supervisor did not run for [\d.]+ s")
        client.more(50)

    assert client.failures == []
    assert client.longest_gap < LONGEST_GAP
    assert pids(before) == pids(server.wait_workers(2))


def test_a_supervisor_that_was_stopped_during_a_reload_goes_on_with_it(arbiter: Arbiter) -> None:
    """1. HUP; the canary boots. 2. The supervisor is stopped for longer than boot_timeout. Result: the reload is done."""
    server = arbiter.serve(*SHORT, workers=2)
    arbiter.write("live.py", app("two", at_import="\nopen('importing', 'a').close()\ntime.sleep(0.3)\n"))

    with server.client() as client:
        server.send(signal.SIGHUP)
        until((server.folder / "importing").exists, "a canary in its import")
        server.send(signal.SIGSTOP)
        time.sleep(SLEEP)
        server.send(signal.SIGCONT)
        server.wait_log("reload done")

    assert client.failures == []
    server.wait_workers(2, generation=2)


@pytest.mark.parametrize("first", ["supervisor", "workers"])
def test_a_service_that_was_suspended_whole_kills_nobody_when_it_wakes(arbiter: Arbiter, first: str) -> None:
    """A laptop's lid, a paused virtual machine: all processes are stopped for longer than every deadline.

    1. A request is in a worker; all are stopped for 3 s. 2. All go on, in either order. Result: nobody is killed, and the
    request is answered.
    """
    server = arbiter.serve("--timeout", "2", "--graceful-timeout", "1", workers=2)
    before = server.wait_workers(2)
    held = server.ask("/held")
    server.wait_held()
    everybody = [server.pid, *pids(before)]

    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(SLEEP)
    for pid in everybody if first == "supervisor" else reversed(everybody):
        os.kill(pid, signal.SIGCONT)
    server.wait_log(r"the supervisor did not run for [\d.]+ s")
    server.release()

    assert held.reply().status == 200
    assert server.get().status == 200
    assert pids(before) == pids(server.wait_workers(2))
    assert server.count("stuck") == 0


def test_signals_that_come_while_it_is_stopped_are_obeyed_when_it_wakes(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=2)
    server.send(signal.SIGSTOP)
    arbiter.write("live.py", app("two"))
    server.send(signal.SIGHUP)
    server.send(signal.SIGUSR1)
    server.send(signal.SIGCONT)

    server.wait_log("log files reopened")
    server.wait_workers(2, generation=2)


def test_a_new_service_gets_the_socket_at_once_though_an_orphan_still_answers(arbiter: Arbiter) -> None:
    """1. A request is in a worker. 2. SIGKILL to the supervisor. 3. A new one is started at once on the same socket.

    Result: it serves: the orphan has let go of the address, though it finishes its request.
    """
    server = arbiter.serve(workers=2, bind="unix:sock")
    server.ask("/held")
    server.wait_held()
    server.keeps = server.files  # nobody is there to remove them

    server.process.kill()
    server.wait_exit()
    until(lambda: "the supervisor is gone" in server.log(), "the orphan's notice")
    successor = arbiter.serve(bind="unix:sock")

    assert successor.get().status == 200
    server.release()
    until(lambda: not server.members(), lambda: f"the end of {server.members()}")
