"""HUP: a reload that works loses nothing, and one that can't work changes nothing. A client asks all the time."""

from __future__ import annotations

import re
import signal
import socket
import time
from typing import TYPE_CHECKING

import procfs
import pytest
from clients import LONGEST_GAP, Client, ask
from harness import app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

HANGS = "\nopen('hanging', 'x').close()\ntime.sleep(600)\n"
"""What hangs an import, once it has said so."""


def reload(server: Server, generation: int, workers: int) -> None:
    """HUP, and wait until only workers of `generation` are left."""
    server.send(signal.SIGHUP)
    server.wait_log(rf"gen={generation} .* reload done: all {workers} workers")
    server.wait_workers(workers, generation)


def test_a_good_reload_loses_no_request_and_replaces_every_worker(arbiter: Arbiter) -> None:
    """1. A client asks. 2. New code, HUP. Result: no failure, no gap, only new workers in the same slots."""
    server = arbiter.serve(workers=3)
    before = server.wait_workers(3)
    arbiter.write("live.py", app("two"))

    with server.client() as client:
        reload(server, generation=2, workers=3)
        client.more(20)
    after = server.workers()

    assert client.failures == []
    assert client.heard("two")
    assert client.longest_gap < LONGEST_GAP
    assert [worker.slot for worker in after] == [1, 2, 3]
    assert not set(pids(before)) & set(pids(after))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise RuntimeError('boom')\n", "failed while importing live: RuntimeError: boom."),
        ("import os\nos._exit(1)\n", "exited with status 1 while booting."),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "was killed by SIGSEGV while booting."),
        ("application = 7\n", "failed while finding live: 'application' in 'live' is not an application: it is a int."),
        ("", "failed while finding live:application: 'live' has no 'application'."),
        ("import time\ntime.sleep(600)\n", "was not ready within boot_timeout (1 s)."),
        ("while True: pass\n", "was not ready within boot_timeout (1 s)."),
    ],
    ids=["raises", "exits", "SIGSEGV", "is no application", "is empty", "hangs", "spins"],
)
def test_a_reload_of_an_application_that_cannot_boot_is_refused_and_touches_nobody(
    arbiter: Arbiter, source: str, why: str
) -> None:
    """1. A client asks. 2. Broken code, HUP. 3. The code is mended, HUP.

    Result: one line with the reason, the same workers as before, no failure; then the reload works.
    """
    server = arbiter.serve(workers=2)
    server.expect("RuntimeError: boom")
    before = server.wait_workers(2)

    with server.client() as client:
        if "boot_timeout" in why:
            arbiter.write("arbiter.toml", "boot_timeout = 1\n")
        arbiter.write("live.py", source)
        server.send(signal.SIGHUP)
        said = server.wait_log(
            r"reload refused: worker=\d+ gen=2 (.*) gen=1 keeps serving \(2 workers\)\. Fix and send HUP again\."
        )
        after = server.wait_workers(2)
        client.more(20)
        arbiter.write("arbiter.toml", "")
        arbiter.write("live.py", app("three"))
        reload(server, generation=3, workers=2)
        client.more(20)

    assert said[1] == why
    assert pids(before) == pids(after)
    assert client.failures == []
    assert client.names == {"one", "three"}
    assert client.longest_gap < LONGEST_GAP
    assert server.count("Traceback") == ("boom" in why)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ('workers = "two\n', r"arbiter\.toml"),
        ("workers = 0\n", r"workers = 0 \(arbiter\.toml:1\)"),
        ('timeout = "soon"\n', r'timeout = "soon" \(arbiter\.toml:1\)'),
        ("wokers = 2\n", r"unknown setting 'wokers' \(arbiter\.toml:1\): did you mean 'workers'\?"),
        (None, r"there is no such file any more"),
    ],
    ids=["syntax error", "out of range", "wrong type", "unknown setting", "file gone"],
)
def test_a_reload_of_a_broken_configuration_is_refused_at_once_and_names_file_and_line(
    arbiter: Arbiter, config: str | None, why: str
) -> None:
    """1. A client asks. 2. The configuration file breaks, HUP. 3. It is mended, with one worker more, HUP.

    Result: the log names the fault, nothing is forked for it, no failure; then there is one worker more.
    """
    path = arbiter.write("arbiter.toml", "workers = 2\n")
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("--log-level", "debug", "live").wait_ready()
    before = server.wait_workers(2)

    with server.client() as client:
        path.unlink() if config is None else arbiter.write("arbiter.toml", config)
        server.send(signal.SIGHUP)
        server.wait_log(rf"reload refused, nothing has changed\. Fix this and send HUP again:\n  .*{why}")
        client.more(20)
        after = server.wait_workers(2)
        forks = server.count(r" booting$")
        arbiter.write("arbiter.toml", "workers = 3\n")
        reload(server, generation=3, workers=3)

    assert pids(before) == pids(after)
    assert forks == 2
    assert client.failures == []


def test_a_reload_of_a_python_configuration_that_raises_is_refused_at_once(arbiter: Arbiter) -> None:
    arbiter.write("gunicorn.conf.py", "workers = 2\n")
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("live").wait_ready()
    before = server.wait_workers(2)

    with server.client() as client:
        arbiter.write("gunicorn.conf.py", "workers = 2\n1 / 0\n")
        server.send(signal.SIGHUP)
        server.wait_log(r"reload refused, nothing has changed\. .*\n  .*gunicorn\.conf\.py.*ZeroDivisionError")
        client.more(20)

    assert client.failures == []
    assert pids(before) == pids(server.workers())


def test_an_application_that_is_slow_to_import_leaves_no_gap(arbiter: Arbiter) -> None:
    """The import takes longer than any gap that is allowed: the old worker serves meanwhile."""
    server = arbiter.serve(workers=1)

    with server.client() as client:
        arbiter.write("live.py", app("two", at_import=f"\ntime.sleep({LONGEST_GAP + 1})\n"))
        reload(server, generation=2, workers=1)

    assert client.failures == []
    assert client.longest_gap < LONGEST_GAP


def test_a_request_in_flight_is_finished_by_the_worker_that_has_it(arbiter: Arbiter) -> None:
    """1. A request is in the old application. 2. HUP; the roll goes on to its end beside it. Result: the old reply."""
    server = arbiter.serve(workers=2)
    held = server.ask("/held")
    (busy,) = server.wait_held()
    arbiter.write("live.py", app("two"))
    server.send(signal.SIGHUP)
    server.wait_log("reload done")
    server.release()

    assert held.reply().text == f"one {busy}"
    server.wait_workers(2, generation=2)


def test_a_request_that_is_half_sent_is_finished_across_a_reload(arbiter: Arbiter) -> None:
    """1. A client has sent half of a head. 2. HUP; all other workers are replaced. 3. It sends the rest. Result: a reply."""
    server = arbiter.serve(workers=2)
    with socket.create_connection(server.tcp, timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        until(lambda: _taken(connection), "a worker that has taken the connection")
        arbiter.write("live.py", app("two"))
        server.send(signal.SIGHUP)
        server.wait_log("reload done")
        connection.sendall(b"half\r\n\r\n")
        with connection.makefile("rb") as response:
            whole = response.read()

    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\none " in whole
    server.wait_workers(2, generation=2)


def _taken(connection: socket.socket) -> bool:
    """Whether the server has read all that was sent: its end of the connection has an inode and an empty queue.

    While it lies in the listener's backlog it has none, as no process has it (/proc/net/tcp: fields 5 and 10).
    """
    here, there = connection.getsockname()[1], connection.getpeername()[1]
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(f":{there:04X}") and fields[2].endswith(f":{here:04X}"):
                return fields[9] != "0" and fields[4].endswith(":00000000")
    return False


def test_a_second_reload_takes_the_place_of_one_on_trial(arbiter: Arbiter) -> None:
    """1. HUP: the canary hangs at import. 2. The code is mended, HUP. Result: no wait for the boot_timeout of the first."""
    server = arbiter.serve(workers=2)

    with server.client() as client:
        arbiter.write("live.py", app("two", at_import=HANGS))
        server.send(signal.SIGHUP)
        until((server.folder / "hanging").exists, "a canary in its import")
        arbiter.write("live.py", app("three"))
        began = time.monotonic()
        reload(server, generation=3, workers=2)
        took = time.monotonic() - began

    assert client.failures == []
    assert client.names == {"one", "three"}
    assert took < 5
    assert server.count("takes the place of the generation on trial") == 1


def test_a_canary_that_dies_while_it_is_proven_refuses_its_generation(arbiter: Arbiter) -> None:
    """Ready is not enough: a worker that dies half a second later, within `prove`, was no good."""
    server = arbiter.serve("--prove", "20", workers=2)
    before = server.wait_workers(2)
    dies = "\nimport threading\nthreading.Timer(0.3, os._exit, [9]).start()\n"

    with server.client() as client:
        arbiter.write("live.py", app("two", at_import=dies))
        server.send(signal.SIGHUP)
        server.wait_log(r"reload refused: worker=1 gen=2 exited with status 9\. gen=1 keeps serving \(2 workers\)")
        client.more(20)

    assert len(client.failures) <= 2  # those that the canary had taken
    assert pids(before) == pids(server.wait_workers(2))


def test_a_canary_serves_for_the_time_of_its_proof_before_anybody_is_replaced(arbiter: Arbiter) -> None:
    server = arbiter.serve("--prove", "1", workers=2)
    arbiter.write("live.py", app("two"))

    with server.client() as client:
        server.send(signal.SIGHUP)
        ready = server.wait_log(r"^\[\S+ (\S+) .* gen=2 .* ready after")
        server.wait_log("reload done")
    promoted = re.search(r"^\[\S+ (\S+) .* has proven itself", server.log(), re.MULTILINE)

    assert client.failures == []
    assert promoted
    assert _seconds(promoted[1]) - _seconds(ready[1]) >= 0.99


def _seconds(stamp: str) -> float:
    hours, minutes, seconds = stamp.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_reloads_leak_no_descriptor_and_no_process(arbiter: Arbiter) -> None:
    """Ten reloads, good and refused. Result: the supervisor has open what it had, and so has a worker."""
    server = arbiter.serve("--error-logfile", "error.log", "--access-logfile", "access.log")
    server.expect("RuntimeError: boom")
    workers = server.wait_workers(2)
    before = procfs.descriptors(server.pid), procfs.descriptors(workers[0].pid)

    for number in range(5):
        arbiter.write("live.py", "raise RuntimeError('boom')")
        server.send(signal.SIGHUP)
        server.wait_log("reload refused", times=number + 1)
        arbiter.write("live.py", app("good"))
        reload(server, generation=3 + 2 * number, workers=2)
    workers = server.wait_workers(2)
    after = procfs.descriptors(server.pid), procfs.descriptors(workers[0].pid)

    assert before == after


def test_a_reload_during_the_first_boot_makes_the_service_start_with_the_new_code(arbiter: Arbiter) -> None:
    """1. The first worker hangs at import. 2. The code is mended, HUP. Result: the service comes up; nothing exits."""
    arbiter.write("live.py", app("one", at_import=HANGS))
    server = arbiter.launch("-w", "2", "live")
    until((server.folder / "hanging").exists, "a worker in its import")
    arbiter.write("live.py", app("two"))
    server.send(signal.SIGHUP)
    server.wait_log("serving:")

    assert server.get().text.startswith("two ")
    server.wait_workers(2, generation=2)


def test_a_changed_address_is_opened_before_the_old_one_is_closed(arbiter: Arbiter) -> None:
    """1. One address. 2. HUP with a Unix socket more: both are served, the first without a break. 3. HUP without the first.

    Result: the first is closed, the second is served.
    """
    arbiter.write("arbiter.toml", 'workers = 2\nbind = ["127.0.0.1:0"]\n')
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("live", bind=None, makes=["sock"]).wait_ready()
    where = str(server.folder / "sock")

    with server.client() as client:
        arbiter.write("arbiter.toml", 'workers = 2\nbind = ["127.0.0.1:0", "unix:sock"]\n')
        reload(server, generation=2, workers=2)
        client.more(10)
        assert ask(where).status == 200
    with Client(where) as other:
        arbiter.write("arbiter.toml", 'workers = 2\nbind = ["unix:sock"]\n')
        reload(server, generation=3, workers=2)
        other.more(10)

    assert client.failures == []
    assert other.failures == []
    with pytest.raises(ConnectionRefusedError):
        server.get()


def test_an_address_that_cannot_be_had_refuses_the_reload(arbiter: Arbiter) -> None:
    arbiter.write("arbiter.toml", 'workers = 2\nbind = ["127.0.0.1:0"]\n')
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("live", bind=None).wait_ready()
    before = server.wait_workers(2), procfs.descriptors(server.pid)

    with server.client() as client, socket.create_server(("127.0.0.1", 0)) as taken:
        arbiter.write("arbiter.toml", f'bind = ["unix:sock", "127.0.0.1:{taken.getsockname()[1]}"]\n')
        server.send(signal.SIGHUP)
        server.wait_log(
            r"reload refused, nothing has changed\. .*\n  can't listen on 127\.0\.0\.1:\d+: Address already in use\."
        )
        client.more(10)

    assert client.failures == []
    assert pids(before[0]) == pids(server.wait_workers(2))
    assert before[1] == procfs.descriptors(server.pid)
    assert not (server.folder / "sock").exists()


def test_settings_that_need_a_restart_are_kept_and_named(arbiter: Arbiter) -> None:
    arbiter.write("arbiter.toml", 'workers = 2\npidfile = "pid"\n')
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("live", makes=["pid"]).wait_ready()
    arbiter.write("arbiter.toml", 'workers = 2\npidfile = "other"\n')
    reload(server, generation=2, workers=2)

    assert server.count(r"\[WARNING\] .* pidfile \(arbiter\.toml:2\) has changed: restart to apply it\.") == 1
    assert (server.folder / "pid").read_text() == f"{server.pid}\n"
    assert not (server.folder / "other").exists()


def test_a_unix_socket_whose_file_was_removed_is_made_anew_by_a_reload_and_only_by_one_that_is_accepted(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    """1. The file is removed. 2. A reload is refused: nothing has changed. 3. HUP. Result: reachable; the file goes at the end."""
    server = arbiter.serve(workers=2, bind=f"unix:{tmp_path}/sock")
    server.expect("RuntimeError: boom")
    before = server.get().status
    (tmp_path / "sock").unlink()
    arbiter.write("live.py", "raise RuntimeError('boom')\n")
    server.send(signal.SIGHUP)
    server.wait_log("reload refused")
    until(lambda: not (tmp_path / "sock").exists(), "the end of the file that the refused reload made")
    for name in ("two", "three"):
        arbiter.write("live.py", app(name))
        server.send(signal.SIGHUP)
        server.wait_log("reload done", times=1 if name == "two" else 2)
        # A worker that has just been told to retire may have one request more.
        until(lambda name=name: server.get().text.startswith(f"{name} "), name)  # type: ignore[misc]  # a loop's variable

    assert before == 200
    assert server.stop() == 0
