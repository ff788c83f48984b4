"""The system says no: no process, no descriptor, no room, nobody who reads. The service serves on, and recovers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import procfs
import pytest
from clients import LONGEST_GAP, ask
from harness import APP, app, unprivileged
from limits import limited
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Arbiter, Server

pytestmark = pytest.mark.process


def test_a_fork_that_fails_backs_off_and_is_tried_until_it_works(arbiter: Arbiter, tmp_path: Path) -> None:
    """EAGAIN: the user may have no more processes (root always may, so the server runs as somebody else).

    1. A client asks. 2. fork() begins to fail; a worker dies; new code, HUP, TTIN. 3. fork() works again.
    Result: the others serve all the time; the log is not flooded; then all that was asked for is done.
    """
    somebody = unprivileged(tmp_path)
    server = arbiter.serve(workers=3, prefix=somebody)
    before = server.wait_workers(3)

    with server.client() as client:
        with limited(server.pid, "nproc", 0, somebody):
            os.kill(before[0].pid, signal.SIGKILL)
            server.wait_log(r"fork\(\) failed: Resource temporarily unavailable\. Tried again in ")
            arbiter.write("live.py", app("two"))
            server.send(signal.SIGHUP)
            server.send(signal.SIGTTIN)
            server.wait_log(r"fork\(\) failed: .*", times=3)  # the 4th time
            client.more(20)
            between = server.workers()
        server.wait_workers(4, generation=2)
        client.more(20)

    assert len(client.failures) <= 1  # of the worker that was killed
    assert client.longest_gap < LONGEST_GAP
    assert pids(before)[1:] == pids(between)
    assert client.heard("two")


def test_a_first_fork_that_fails_is_tried_again(arbiter: Arbiter, tmp_path: Path) -> None:
    """Even at the start a fork() that fails is a moment's want, not a broken application."""
    arbiter.write("live.py", APP)
    somebody = unprivileged(tmp_path)
    server = arbiter.launch("-w", "2", "live", prefix=(*somebody, "prlimit", "--nproc=0:", "--"))
    server.wait_log(r"fork\(\) failed")
    subprocess.run([*somebody, "prlimit", f"--pid={server.pid}", "--nproc=1000:"], check=True)

    server.wait_ready()
    assert server.get().status == 200


def test_a_supervisor_without_descriptors_serves_on_and_recovers(arbiter: Arbiter) -> None:
    """EMFILE where a worker's channel is made. 1. A worker dies, HUP. 2. There are descriptors again. Result: all is done."""
    server = arbiter.serve(workers=3)
    before = server.wait_workers(3)

    with server.client() as client:
        with limited(server.pid, "nofile", procfs.lowest_free_descriptor(server.pid)):
            os.kill(before[0].pid, signal.SIGKILL)
            server.wait_log(r"fork\(\) failed: Too many open files", times=2)
            client.more(20)
            between = server.workers()
        server.wait_workers(3)
        server.send(signal.SIGHUP)
        server.wait_workers(3, generation=2)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert set(pids(before)[1:]) <= set(pids(between))


def test_a_worker_without_descriptors_neither_dies_nor_spins_and_accepts_again(arbiter: Arbiter) -> None:
    """EMFILE on accept, by which an epoll loop spins. 1. A request waits. 2. A second passes. 3. There are descriptors again.

    Result: little processor time was used, the same worker answers.
    """
    server = arbiter.serve(workers=1)
    (worker,) = server.wait_workers(1)

    with limited(worker.pid, "nofile", procfs.lowest_free_descriptor(worker.pid)):
        waiting = server.ask("/")
        before = procfs.processor_time(worker.pid)
        time.sleep(1.0)  # what is measured: one second of its life
        used = procfs.processor_time(worker.pid) - before
        assert waiting.is_alive()

    assert waiting.reply().text == f"one {worker.pid}"
    assert used < 0.3


def test_a_full_disk_under_the_log_stops_nothing_and_lost_lines_are_counted(arbiter: Arbiter) -> None:
    """RLIMIT_FSIZE fails the write as a full disk does.

    1. The log can't grow. 2. A worker dies, HUP, TTIN. 3. There is room again; TTOU. Result: all was done, and the next line
    says how many were lost.
    """
    server = arbiter.serve("--error-logfile", "error.log", workers=2)
    before = server.wait_workers(2)

    with server.client() as client:
        size = server.log_path.stat().st_size
        with limited(server.pid, "fsize", size):
            os.kill(before[0].pid, signal.SIGKILL)
            until(lambda: before[0].pid not in pids(server.children()), "the worker's end")
            server.wait_workers(2)
            arbiter.write("live.py", app("two"))
            server.send(signal.SIGHUP)
            server.wait_workers(2, generation=2)
            server.send(signal.SIGTTIN)
            server.wait_workers(3)
            client.more(20)
            grown = server.log_path.stat().st_size - size
        server.send(signal.SIGTTOU)
        server.wait_log(r"\(\d+ log lines were lost: nobody read them, or the disk was full\)")
        server.wait_workers(2)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert grown == 0


def test_a_full_disk_under_the_access_log_stops_no_request_and_is_told_of_once(arbiter: Arbiter) -> None:
    server = arbiter.serve("--access-logfile", "/dev/full", workers=1)

    with server.client() as client:
        client.more(50)

    assert client.failures == []
    assert server.count(r"WARNING.* the access log can't be written: No space left on device\.") == 1


def worked(server: Server, fresh: str) -> None:
    """Have supervisor and workers do all that they log about, then boot the `fresh` code, stop; all of it works."""
    address = str(server.folder / "sock")

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ask(address).status == 200
        return False

    until(answers, "the first answer")
    before = server.wait_workers(2)
    os.kill(before[0].pid, signal.SIGKILL)
    until(lambda: before[0].pid not in pids(server.children()), "the worker's end")
    server.wait_workers(2)
    (server.folder / "live.py").write_text("raise RuntimeError('boom')")
    server.send(signal.SIGHUP)
    (server.folder / "live.py").write_text(fresh)
    server.send(signal.SIGHUP)
    until(lambda: not set(pids(before)) & set(pids(server.children())) and server.wait_workers(2), "the roll")
    server.send(signal.SIGUSR1)
    server.send(signal.SIGTTIN)
    server.wait_workers(3)

    assert ask(address).status == 200
    assert server.stop() == 0


NOISY = APP + "\nimport sys\nprint('noise', file=sys.stderr or sys.stdout)\nos.write(2, b'noise ' * 10)\n"
"""An application that writes to standard error, as Python code and as a C library does."""


@pytest.mark.parametrize("redirections", ["2>&-", "<&- >&- 2>&-"], ids=["standard error", "all standard streams"])
def test_closed_standard_streams_stop_nothing(arbiter: Arbiter, redirections: str) -> None:
    """Descriptor 2 is free: what is opened next must not get it, or the log would be written into it."""
    arbiter.write("live.py", APP)

    worked(arbiter.launch("-w", "2", "live", bind="unix:sock", prefix=("sh", "-c", f'exec "$@" {redirections}', "sh")), NOISY)


def test_a_reader_of_the_log_that_is_gone_stops_nothing(arbiter: Arbiter) -> None:
    """EPIPE, and SIGPIPE: `arbiter ... 2>&1 | head`."""
    arbiter.write("live.py", APP)
    read_end, write_end = os.pipe()
    os.close(read_end)

    try:
        server = arbiter.launch("-w", "2", "live", bind="unix:sock", stderr=write_end)
    finally:
        os.close(write_end)
    worked(server, app("two"))


def test_a_reader_of_the_log_that_does_not_read_stops_nothing(arbiter: Arbiter) -> None:
    """A pipe that is full. Result: the service works, lines are lost, and the number is told once somebody reads."""
    arbiter.write("live.py", APP)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write_end, b"." * 4096):
            pass
    os.set_blocking(write_end, True)

    try:
        server = arbiter.launch("-w", "2", "live", bind="unix:sock", stderr=write_end)
        address = str(server.folder / "sock")
        until(lambda: os.path.exists(address) and ask(address).status == 200, "the first answer")
        server.wait_workers(2)
        server.send(signal.SIGHUP)
        until(lambda: {worker.generation for worker in server.workers()} == {2}, "the roll")
        while os.read(read_end, 65536).strip(b"."):
            pass
        server.send(signal.SIGTTIN)
        server.wait_workers(3)
        said = os.read(read_end, 65536)
        assert server.stop() == 0
    finally:
        os.close(write_end)
        os.close(read_end)

    assert b" log lines were lost: nobody read them" in said
