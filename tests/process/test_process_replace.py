"""Workers that are replaced because they are worn out, or because somebody says so, and what ends a service.

Each is replaced by its successor, never before it: capacity does not fall by our own doing. That is read from the log, where
every step of every worker is a line, by `audit`; a client that never stops asking sees nothing of it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from harness import app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from clients import Client
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

EXTRAS = """
import os, time
_plain, _hoard = application, []

def hoard(environ):
    _hoard.append(b"x" * int(environ["QUERY_STRING"]) * 2**20)
    if environ["PATH_INFO"] == "/hoard/held":
        open(f"held-{os.getpid()}", "x").close()
        while not os.path.exists("release"):
            time.sleep(0.01)

def application(environ, start_response):
    if environ["PATH_INFO"].startswith("/hoard"):
        hoard(environ)
    return _plain(environ, start_response)
"""
"""To be added to `harness.APP`: ``/hoard?20`` has the worker use 20 MiB more for ever, ``/hoard/held?20`` does not return."""

COUNT = 3


class Steps(NamedTuple):
    """What the log tells of how workers came and went, up to the stop of the service."""

    replaced: int
    """How many were told to retire."""
    fewest: int
    """Ready workers, from when all were ready for the first time."""
    most: int
    """Workers that boot or are ready."""
    most_booting: int
    """Workers that boot, from when all were ready for the first time."""


def audit(server: Server, count: int = COUNT) -> Steps:
    """Read the log of a server that logs what is debug."""
    booting: set[str] = set()
    ready: set[str] = set()
    replaced, fewest, most, most_booting, is_complete = 0, count, 0, 0, False
    for pid, step in re.findall(
        r"pid=(\d+) (booting|ready after|retiring:|was killed|stuck|stopping:|quitting:|uses \d)", server.log()
    ):
        if step in ("stopping:", "quitting:"):
            break
        if step == "booting":
            booting.add(pid)
        elif step == "ready after":
            booting.discard(pid)
            ready.add(pid)
        else:
            replaced += step == "retiring:"
            booting.discard(pid)
            ready.discard(pid)
        is_complete = is_complete or len(ready) == count
        most = max(most, len(booting | ready))
        if is_complete:
            fewest, most_booting = min(fewest, len(ready)), max(most_booting, len(booting))
    return Steps(replaced, fewest, most, most_booting)


def assert_nobody_noticed(server: Server, client: Client, *, at_least: int, count: int = COUNT) -> None:
    """So many were replaced, one at a time, each by a successor that was ready, and no request failed."""
    steps = audit(server, count)

    assert client.failures == []
    assert steps.replaced >= at_least
    assert steps.fewest == count
    assert steps.most == count + 1
    assert steps.most_booting == 1


def test_a_worker_that_has_served_max_requests_is_replaced_one_at_a_time_by_one_that_is_ready(arbiter: Arbiter) -> None:
    """1. All workers wear out at about the same time, again and again. Result: one is replaced after the other."""
    server = arbiter.serve(
        "--max-requests", "20", "--max-requests-jitter", "10", "--log-level", "debug", workers=COUNT, bind="unix:sock"
    )

    with server.client(threads=3) as client:
        server.wait_log(r"left after .* \(it has served 20 requests \(max_requests\)\)", times=6, patience=60)

    assert_nobody_noticed(server, client, at_least=6)
    assert server.count(r"to be replaced: it has served 20 requests") >= 6


def test_a_worker_that_has_been_ready_for_max_lifetime_is_replaced_one_at_a_time_by_one_that_is_ready(
    arbiter: Arbiter,
) -> None:
    server = arbiter.serve("--max-lifetime", "1s", "--max-lifetime-jitter", "1s", "--log-level", "debug", workers=COUNT)

    with server.client() as client:
        server.wait_log(r"left after .* \(it has served for \d+ s \(max_lifetime\)\)", times=5, patience=60)

    assert_nobody_noticed(server, client, at_least=5)


def test_a_lifetime_that_is_shorter_than_a_boot_still_leaves_all_workers_serving(arbiter: Arbiter) -> None:
    """1. max_lifetime 0.1 s, an import of 0.3 s. Result: a successor is always under way, and nobody is missed."""
    arbiter.write("live.py", app("one", at_import="\ntime.sleep(0.3)\n"))
    server = arbiter.serve("--max-lifetime", "0.1s", "--log-level", "debug", workers=2)

    with server.client() as client:
        server.wait_log(r"left after .*max_lifetime", times=4, patience=60)

    assert_nobody_noticed(server, client, at_least=4, count=2)


@pytest.mark.slow
def test_a_worker_that_grows_above_max_worker_memory_is_replaced_by_one_that_is_ready(arbiter: Arbiter) -> None:
    """1. One worker takes 100 MiB more. Result: its siblings stay, it serves until its successor is ready, nobody notices."""
    arbiter.write("live.py", app("one", at_import=EXTRAS))
    server = arbiter.serve("--max-worker-memory", "80MiB", "--log-level", "debug", workers=COUNT)
    before = server.wait_workers(COUNT)

    with server.client() as client:
        grown = int(server.get("/hoard?100").text.split()[1])
        found = server.wait_log(rf"pid={grown} to be replaced: it uses (\d+) MiB, max_worker_memory is 80 MiB")
        server.wait_log(rf"pid={grown} left after")
        client.more(10)
    after = server.wait_workers(COUNT)

    assert_nobody_noticed(server, client, at_least=1)
    assert 100 <= int(found[1]) < 200
    assert set(pids(before)) - set(pids(after)) == {grown}


@pytest.mark.slow
def test_a_worker_above_max_worker_memory_hard_is_killed_and_its_stacks_show_what_it_was_at(arbiter: Arbiter) -> None:
    """Result: only its own request is lost; the log says the size and the function; the kernel is not accused."""
    arbiter.write("live.py", app("one", at_import=EXTRAS))
    server = arbiter.serve("--max-worker-memory", "60MiB", "--max-worker-memory-hard", "80MiB", workers=COUNT)
    before = server.wait_workers(COUNT)

    with server.client() as client:
        lost = server.ask("/hoard/held?100")
        (grown,) = server.wait_held()
        server.wait_log(rf"pid={grown} uses 1\d\d MiB, the hard limit is 80 MiB\. It is killed, its slot tried again now\.")
        server.wait_log(rf'pid={grown} what it was at:\n(?:.*\n)*?  File ".*live\.py", line \d+ in hoard\n')
        until(lambda: grown not in pids(server.children()), f"the end of worker {grown}")
        after = server.wait_workers(COUNT)
        client.more(10)

    assert isinstance(lost.outcome(), Exception)
    assert client.failures == []
    assert set(pids(before)) - set(pids(after)) == {grown}
    assert server.count("out of memory") == 0


@pytest.mark.slow
def test_a_service_gives_up_when_nobody_is_ready_for_give_up_after_and_not_before(arbiter: Arbiter) -> None:
    """1. The code breaks, and one of two workers dies: its slot fails for longer than give_up_after. 2. The other dies.

    Result: while one serves the service goes on; when none does it ends with 3, give_up_after later.
    """
    server = arbiter.serve("--give-up-after", "2s", workers=2)
    first, second = server.wait_workers(2)
    arbiter.write("live.py", "import nosuch_module\n")
    server.expect("nosuch_module")

    with server.client() as client:
        os.kill(first.pid, signal.SIGKILL)
        began = time.monotonic()
        server.wait_log(r"worker=1 .* failed while importing live: .*\(4 times so far\)", patience=60)
        until(lambda: time.monotonic() - began > 2.5, "more than give_up_after with one worker")
        client.more(10)
        mourned = list(client.failures)
        client.give_up()
    os.kill(second.pid, signal.SIGKILL)
    began = time.monotonic()
    status = server.ended(patience=30)
    took = time.monotonic() - began

    assert len(mourned) <= 1
    assert status == 3
    assert 2 <= took < 10
    assert server.count(r"no worker has been ready for 2\.\d s \(give_up_after\): giving up") == 1


@pytest.mark.slow
def test_without_give_up_after_a_service_that_can_not_boot_is_tried_on_and_recovers(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=1)
    (only,) = server.wait_workers(1)
    arbiter.write("live.py", "import nosuch_module\n")
    server.expect("nosuch_module")
    os.kill(only.pid, signal.SIGKILL)
    server.wait_log(r"failed while importing live: .*\(4 times so far\)", patience=60)
    arbiter.write("live.py", app("mended"))
    answered = until(lambda: server.ask("/").reply().text, "an answer")

    assert answered.startswith("mended ")


def test_a_worker_that_lived_for_min_uptime_is_no_part_of_a_crash_loop(arbiter: Arbiter) -> None:
    """1. A worker exits, again and again, each time older than min_uptime. Result: never a back-off."""
    server = arbiter.serve("--min-uptime", "0.3s", workers=1)

    for times in range(1, 5):
        server.wait_log("worker=1 .* ready after", times=times)
        ready = time.monotonic()
        until(lambda ready=ready: time.monotonic() - ready > 0.5, "an age above min_uptime")  # type: ignore[misc]  # a default
        assert isinstance(server.ask("/exit").outcome(), Exception)
    server.wait_log("worker=1 .* ready after", times=5)

    assert server.count(r"exited with status 3 after .* Its slot gets a new worker now\.") == 4


def test_a_worker_that_dies_younger_than_min_uptime_waits_longer_each_time(arbiter: Arbiter) -> None:
    server = arbiter.serve("--min-uptime", "60s", workers=1)

    for times in range(1, 5):
        server.wait_log("worker=1 .* ready after", times=times)
        assert isinstance(server.ask("/exit").outcome(), Exception)
    server.wait_log("worker=1 .* ready after", times=5)

    waits = re.findall(r"exited with status 3 after .* Its slot gets a new worker (now|in [\d.]+ s)\.", server.log())
    assert waits[0] == "now"
    assert len(waits) == 3, "the 1st, 2nd and 4th time are told"
    assert 0.1 < float(waits[1].split()[1]) < float(waits[2].split()[1]) <= 2.0


@pytest.mark.slow
def test_a_touched_file_reloads_and_one_that_is_removed_does_not(arbiter: Arbiter) -> None:
    """1. touch: reload. 2. Removed: nothing. 3. There again, also by a rename: reload. Nobody loses a request."""
    flag = arbiter.write("restart.txt", "")
    server = arbiter.serve("--touch-reload", str(flag), workers=2)

    with server.client() as client:
        arbiter.write("live.py", app("two"))
        os.utime(flag)
        server.wait_log("reload done: all 2 workers")
        until(lambda: client.heard("two"), "the new application")
        flag.unlink()
        seen = server.wait_workers(2, generation=2)
        settled = time.monotonic()
        until(lambda: time.monotonic() - settled > 2.5, "two turns of the loop, and nothing happens")
        assert pids(server.workers()) == pids(seen)
        arbiter.write("live.py", app("three"))
        arbiter.write("restart.txt", "")
        server.wait_log("reload done: all 2 workers", times=2)
        until(lambda: client.heard("three"), "the newest application")

    assert client.failures == []
    assert server.count("reload: one worker of the new generation") == 2


WARMED = """
_asked, _cold = [], application

def application(environ, start_response):
    _asked.append(environ["PATH_INFO"])
    if environ["PATH_INFO"] == "/asked":
        data = " ".join(_asked).encode()
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data]
    if environ["PATH_INFO"] == "/broken":
        start_response("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]
    if environ["PATH_INFO"] == "/raises":
        raise LookupError("the cache is cold")
    return _cold(environ, start_response)
"""
"""To be added to `harness.APP`: ``/asked`` tells what its process was asked so far."""


def test_every_worker_is_warm_before_it_is_asked_by_anybody_else(arbiter: Arbiter) -> None:
    """1. Workers that ask their application two paths at boot. Result: so has every worker, of reloads too, 404 or not."""
    arbiter.write("live.py", app("one", at_import=WARMED))
    server = arbiter.serve("--warmup", "/one,/two?x=1", workers=2)
    first = server.get("/asked").text
    server.send(signal.SIGHUP)
    server.wait_workers(2, generation=2)
    second = server.get("/asked").text

    assert first == second == "/one /two /asked"


@pytest.mark.parametrize(("path", "why"), [("/broken", ""), ("/raises", "the cache is cold")])
def test_a_warm_up_that_fails_refuses_a_reload_and_a_first_start_and_names_the_path(
    arbiter: Arbiter, path: str, why: str
) -> None:
    """1. A good service is reloaded with a warm-up that fails. 2. The same as a first start.

    Result: refused, nobody notices, and the log says path and status; then status 3, and the same words.
    """
    arbiter.write("arbiter.toml", 'workers = 2\nwarmup = ["/good"]\n')
    arbiter.write("live.py", app("one", at_import=WARMED))
    server = arbiter.launch("live").wait_ready()
    server.expect("the cache is cold")
    before = server.wait_workers(2)
    with server.client() as client:
        arbiter.write("arbiter.toml", f'workers = 2\nwarmup = ["/good", "{path}"]\n')
        server.send(signal.SIGHUP)
        server.wait_log(
            rf"reload refused: worker=\d gen=2 failed while warming up with GET {path}: the application answered 500"
        )
        client.more(10)
        after = server.wait_workers(2)
    status, log = arbiter.fail("live")

    assert client.failures == []
    assert pids(before) == pids(after)
    assert why in server.log()
    assert status == 3
    assert f"cannot start: worker=1 failed while warming up with GET {path}: the application answered 500" in log


LOADED = """
_quick = application

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.1)
    return _quick(environ, start_response)
"""
"""To be added to `harness.APP`: ``/slow`` takes 0.1 s, of which no processor has any."""


def scaled(server: Server) -> list[int]:
    """The numbers of workers that the load has called for, in order."""
    return [int(count) for count in re.findall(r" (\d+) workers wanted \(\d+ before\)", server.log())]


@pytest.mark.slow
def test_load_makes_more_workers_within_seconds_and_never_more_than_max_workers(arbiter: Arbiter) -> None:
    """1. One worker of at most three, six clients. Result: three within seconds, never four, no request fails.

    2. HUP under that load. Result: three of the new generation, and the load adds nobody while they are replaced.
    """
    arbiter.write("live.py", app("one", at_import=LOADED))
    server = arbiter.serve("--max-workers", "3", "--log-level", "debug", workers=1)

    with server.client(threads=6, path="/slow") as client:
        began = time.monotonic()
        server.wait_workers(3)
        took = time.monotonic() - began
        until(lambda: server.count("ready after") == 3, "three that are ready")
        client.more(30)
        alone = audit(server)
        arbiter.write("live.py", app("two", at_import=LOADED))
        server.send(signal.SIGHUP)
        server.wait_log("reload done: all 3 workers are of the new generation")
        until(lambda: client.heard("two"), "the new application")
        server.wait_workers(3, generation=2)
        server.send(signal.SIGTTIN)
        server.wait_log("workers wanted: 3, the most that the settings allow: ignored")
        client.more(10)
        server.wait_workers(3)

    assert took < 10
    assert client.failures == []
    assert max(scaled(server)) == 3
    assert alone.most == 3
    assert audit(server).most <= 4, "max_workers and the surge of the reload"


def test_signals_move_the_number_between_min_workers_and_max_workers_and_say_when_they_can_not(arbiter: Arbiter) -> None:
    server = arbiter.serve("--min-workers", "1", "--max-workers", "2", workers=1)

    server.send(signal.SIGTTOU)
    server.wait_log("WARNING.* workers wanted: 1, the fewest that the settings allow: ignored")
    server.wait_workers(1)
    server.send(signal.SIGTTIN)
    server.wait_workers(2)
    server.send(signal.SIGTTIN)
    server.wait_log("WARNING.* workers wanted: 2, the most that the settings allow: ignored")
    server.wait_workers(2)
    server.send(signal.SIGTTOU)
    server.wait_workers(1)


def test_each_worker_has_its_own_share_of_max_requests_jitter(arbiter: Arbiter) -> None:
    """1. Workers are worn out by 10 requests, or up to 1000 more. 2. Eight of them are.

    Result: none before its tenth request, none after its 1010th, and not all at the same number.
    """
    server = arbiter.serve("--max-requests", "10", "--max-requests-jitter", "1000", workers=2)
    with server.client(threads=4, pause=0.0) as client:
        server.wait_log(r"it has served \d+ requests \(max_requests\)", times=4, patience=40)
    shares = [int(found) for found in re.findall(r"to be replaced: it has served (\d+) requests", server.log())]

    assert client.failures == []
    assert all(10 <= share <= 1010 for share in shares)
    assert len(set(shares)) > 1
