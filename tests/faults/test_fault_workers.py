"""Workers that are killed, stopped, stuck, or break: each is replaced, its siblings serve on, and the log says why."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from clients import LONGEST_GAP, Reply
from harness import app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process


def replaced(server: Server, pid: int, count: int) -> None:
    """Wait until there are `count` workers again, and the one of this number is none of them."""
    until(lambda: pid not in pids(server.children()), f"the end of worker {pid}")
    server.wait_workers(count)


def test_a_killed_worker_is_replaced_in_its_slot_and_costs_at_most_its_own_request(arbiter: Arbiter) -> None:
    """1. A client asks. 2. SIGKILL to a worker. Result: the same slots, one new process, no gap."""
    server = arbiter.serve(workers=3)
    before = server.wait_workers(3)

    with server.client(threads=3) as client:
        os.kill(before[1].pid, signal.SIGKILL)
        replaced(server, before[1].pid, 3)
        client.more(20)
    after = server.workers()

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert [worker.slot for worker in after] == [1, 2, 3]
    assert set(pids(before)) - set(pids(after)) == {before[1].pid}
    assert server.count(r"worker=2 gen=1 .* was killed by SIGKILL after .* s\. Its slot gets a new worker now\.") == 1


def test_a_worker_killed_by_a_signal_that_has_no_name_is_replaced_like_any(arbiter: Arbiter) -> None:
    """Real-time signals between the first and the last have numbers only."""
    server = arbiter.serve(workers=2)
    before = server.wait_workers(2)

    with server.client() as client:
        os.kill(before[0].pid, signal.SIGRTMIN + 7)
        replaced(server, before[0].pid, 2)
        client.more(20)

    assert len(client.failures) <= 1
    assert server.count(rf"was killed by signal {signal.SIGRTMIN + 7} after") == 1


def test_all_workers_killed_at_once_are_replaced_and_queued_requests_are_answered(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=3)
    before = server.wait_workers(3)

    with server.client(threads=3) as client:
        for worker in before:
            os.kill(worker.pid, signal.SIGKILL)
        until(lambda: not set(pids(before)) & set(pids(server.children())), "their end")
        after = server.wait_workers(3)
        client.more(20)

    assert len(client.failures) <= 3
    assert client.longest_gap < LONGEST_GAP
    assert [worker.slot for worker in after] == [1, 2, 3]


def test_a_worker_that_is_killed_again_and_again_backs_off_and_its_siblings_serve(arbiter: Arbiter) -> None:
    """1. The worker of slot 1 is killed five times. Result: never more than 2 s until the next; the siblings are the same."""
    server = arbiter.serve(workers=3)
    siblings = server.wait_workers(3)[1:]

    with server.client() as client:
        for kills in range(5):
            server.wait_log("worker=1 gen=1 .* ready after", times=kills + 1)
            first = server.wait_workers(3)[0]
            os.kill(first.pid, signal.SIGKILL)
            replaced(server, first.pid, 3)
        client.more(20)

    assert len(client.failures) <= 5
    assert client.longest_gap < LONGEST_GAP
    assert pids(siblings) == pids(server.workers())[1:]
    assert server.count("was killed by SIGKILL") == 3  # told the 1st, 2nd and 4th time
    assert server.count(r"\(4 times so far\)") == 1


def test_a_worker_that_somebody_asks_to_leave_finishes_its_request_and_is_replaced(arbiter: Arbiter) -> None:
    """1. A request is in a worker. 2. TERM to that worker, as by an operator or the system. Result: nothing is lost."""
    server = arbiter.serve(workers=2)
    held = server.ask("/held")
    (busy,) = server.wait_held()

    with server.client() as client:
        os.kill(busy, signal.SIGTERM)
        server.wait_log("retiring: SIGTERM was sent to the worker itself")
        until(lambda: len(server.workers()) == 3, "its successor beside it")
        server.release()
        replaced(server, busy, 2)

    assert held.reply() == Reply(200, f"one {busy}")
    assert client.failures == []


def test_a_stopped_worker_is_killed_and_replaced_within_its_timeout(arbiter: Arbiter) -> None:
    """1. A client asks. 2. SIGSTOP to a worker. Result: told, killed, replaced; the siblings answer meanwhile."""
    server = arbiter.serve("--timeout", "1", workers=3)
    before = server.wait_workers(3)

    with server.client(threads=3) as client:
        os.kill(before[0].pid, signal.SIGSTOP)
        server.wait_log(r"worker=1 gen=1 .* stuck: .* It is killed, and its slot gets a new worker")
        replaced(server, before[0].pid, 3)
        client.more(20)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP


def test_a_stopped_worker_does_not_hold_up_a_stop(arbiter: Arbiter) -> None:
    server = arbiter.serve("--graceful-timeout", "1", workers=2)
    (first, _) = server.wait_workers(2)
    os.kill(first.pid, signal.SIGSTOP)

    began = time.monotonic()
    status = server.stop()
    took = time.monotonic() - began

    assert status == 0
    assert took < 4


def test_a_request_that_outlasts_timeout_is_named_in_the_log_and_its_worker_replaced(arbiter: Arbiter) -> None:
    """1. A request never ends. Result: the log names it, its age and where it is; the client of the others sees nothing."""
    server = arbiter.serve("--timeout", "1", workers=2)

    with server.client() as client:
        held = server.ask("/held?report=7")
        (stuck,) = server.wait_held()
        server.wait_log(
            rf"pid={stuck} stuck: GET /held\?report=7 from 127\.0\.0\.1:\d+ for [\d.]+ s \(in the application\)\. It is killed, and its slot gets a new"
        )
        replaced(server, stuck, 2)
        client.more(20)

    assert not isinstance(held.outcome(), Reply)
    assert client.failures == []
    assert client.longest_gap < LONGEST_GAP


def test_a_worker_that_leaves_in_the_middle_of_a_request_is_replaced_and_the_request_named(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=2)
    before = server.wait_workers(2)

    with server.client() as client:
        lost = server.ask("/exit").outcome()
        server.wait_log(
            r"exited with status 3 after .* s\. Its slot gets a new worker now\. "
            r"It was in: GET /exit from 127\.0\.0\.1:\d+ for \d\.\d s \(in the application\)\."
        )
        until(lambda: set(pids(before)) - set(pids(server.children())), "its end")
        server.wait_workers(2)

    assert not isinstance(lost, Reply)
    assert client.failures == []


def test_a_worker_whose_application_closes_all_its_descriptors_is_replaced(arbiter: Arbiter) -> None:
    """What a library does that makes a daemon of its process: the channel and the listeners are gone with the rest."""
    server = arbiter.serve(workers=2)
    server.expect("Bad file descriptor")  # of the connection that it closed under its request
    before = server.wait_workers(2)

    with server.client() as client:
        server.ask("/close").outcome()
        until(lambda: set(pids(before)) - set(pids(server.children())), "its end")
        server.wait_workers(2)
        client.more(20)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert server.count("the application has closed file descriptors that are not its own") == 1


def test_code_that_broke_on_disk_harms_only_the_worker_that_has_to_boot_from_it(arbiter: Arbiter) -> None:
    """The row in which other servers end: one worker dies, and what is on disk can't be imported any more.

    1. A client asks. 2. The code breaks. 3. SIGKILL to one of three workers. 4. Its slot is tried 0, 0.25, 0.5, 1 ... s
    later, each a quarter shorter at most. 5. The code is mended; nobody sends a signal. Result: three workers again, two
    of them the same as ever.
    """
    server = arbiter.serve(workers=3)
    server.expect("RuntimeError: boom")
    siblings = server.wait_workers(3)[1:]

    with server.client() as client:
        arbiter.write("live.py", "raise RuntimeError('boom')\n")
        began = time.monotonic()
        os.kill(server.workers()[0].pid, signal.SIGKILL)
        server.wait_log(r"\(4 times so far\)")
        took = time.monotonic() - began
        alive = server.workers()
        arbiter.write("live.py", app("two"))
        server.wait_workers(3)
        client.more(20)

    assert took >= 0.75 * (0.25 + 0.5 + 1)
    assert set(pids(siblings)) <= set(pids(alive))
    assert pids(siblings) == pids(server.workers())[1:]
    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert server.count("failed while importing live: RuntimeError: boom") == 3  # the 1st, 2nd and 4th time
    assert server.count(r"^Traceback") == 3


def test_a_broken_reload_while_a_slot_is_in_a_crash_loop_changes_nothing(arbiter: Arbiter) -> None:
    """1. The code breaks, a worker dies. 2. HUP. Result: refused; the siblings go on; a mended HUP ends it all."""
    server = arbiter.serve(workers=3)
    server.expect("RuntimeError: boom")
    siblings = server.wait_workers(3)[1:]
    good = (server.folder / "live.py").read_text()

    with server.client() as client:
        arbiter.write("live.py", "raise RuntimeError('boom')\n")
        os.kill(server.workers()[0].pid, signal.SIGKILL)
        server.wait_log("tried again in")
        server.send(signal.SIGHUP)
        server.wait_log(r"reload refused: .* RuntimeError: boom\. gen=1 keeps serving \(2 workers\)")
        client.more(20)
        alive = server.workers()
        arbiter.write("live.py", good)
        server.send(signal.SIGHUP)
        server.wait_workers(3, generation=3)

    assert set(pids(siblings)) <= set(pids(alive))
    assert len(client.failures) <= 1
