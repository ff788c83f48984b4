"""One measurement: start a server on a core of its own, see that it answers rightly, load it, read /proc, end it.

Rules: the server and the load generator never share a core (on a machine that has two); a server is started anew for every
measurement, so none inherits another's memory; what is started is ended by pid, whatever happens.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks import procfs, websocket_load
from benchmarks.figures import Sample
from benchmarks.load import IdleConnections, ask_http2, generate, warm_up
from benchmarks.servers import HERE
from benchmarks.workloads import FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.servers import Server
    from benchmarks.workloads import Workload

BOOT: Final = 20.0
"""Seconds that a server has until its first response: Django with five workers takes 2 on one core."""
STOP: Final = 5.0
"""Seconds that it has to end after SIGKILL."""
WARM: Final = 0.3
"""Seconds of load for each worker before the measurement: what a framework imports on the first request of each of five
workers was most of the memory figures' CPU time without it."""
START: Final = 1.1
"""Seconds that a server takes until it has been checked, and to end, in the mean: for a forecast."""
QUIET: Final = 0.5
"""Seconds in which a server with several workers uses no more than a tick once all of them are ready."""
DESCRIPTORS: Final = 8192
"""Enough for 1000 idle connections on both sides, and for Granian's backpressure."""


class CannotMeasureError(Exception):
    """Why there is no figure."""


class Cores(NamedTuple):
    """Who runs where."""

    server: int
    load: int


def take_cores() -> Cores:
    """Move this process, and so its load generators, to the first core that it may use; servers get the last one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    return Cores(server=cores[-1], load=cores[0])


def measure(server: Server, workload: Workload, folder: str, core: int, seconds: int, seed: int) -> Sample:
    """The figures of one server under one workload.

    Args:
        server: what is measured.
        workload: what it has to do.
        folder: an empty one, for the server's files.
        core: the server's.
        seconds: of load.
        seed: of the open loop's moments.

    Raises:
        CannotMeasureError: it did not start, or does not answer as it must.

    """
    with running(server, workload, folder, core) as (pid, port):
        check(workload, port)
        if workload.workers > 1:
            settle(pid)
        try:
            with IdleConnections(port, workload.idle) as idle:
                warm_up(workload, port, WARM * workload.workers, seed)
                before = procfs.cpu_seconds(pid)
                load = generate(workload, port, seconds * workload.longer, seed)
                after = procfs.cpu_seconds(pid)
                memory = procfs.pss_bytes(pid)
                lost = idle.lost()
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise CannotMeasureError(f"the load failed: {error}") from error
        return Sample(load.requests, load.seconds, after - before, load.p50_us, load.p99_us, memory, load.errors + lost)


@contextlib.contextmanager
def running(server: Server, workload: Workload, folder: str, core: int) -> Iterator[tuple[int, int]]:
    """The pid, which is its session too, and the port of a server that listens; it is gone afterwards.

    Raises:
        CannotMeasureError: it did not start.
    """
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ARBITER_", "GUNICORN_"))}
    environment |= {"PYTHONPATH": f"{HERE}/apps", "PYTHONSAFEPATH": "1"}
    if workload.reply == FILE_BYTES:
        environment["BENCH_FILE"] = _big_file(folder)
    log_path = os.path.join(folder, "server.log")
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *server.words(workload, port)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + BOOT
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                how = (
                    f"ended with status {process.returncode}" if process.returncode is not None else f"silent for {BOOT:.0f} s"
                )
                raise CannotMeasureError(f"it did not start ({how}): {_last_words(log_path)}")
            time.sleep(0.02)
        try:
            yield process.pid, port
        except CannotMeasureError as error:
            raise CannotMeasureError(f"{error}. Its log ends: {_last_words(log_path)}") from error
    finally:
        _end(process)


def settle(session: int) -> None:
    """Wait until the server does nothing: the first of several workers answers before the others have loaded anything."""
    deadline, used = time.monotonic() + BOOT, -1.0
    while (now := procfs.cpu_seconds(session)) > used + procfs.TICK and time.monotonic() < deadline:
        used = now
        time.sleep(QUIET)


def check(workload: Workload, port: int) -> None:
    """Ask once, as the load will.

    Raises:
        CannotMeasureError: the response is not what the workload expects.
    """
    if workload.echo:
        _check_echo(workload, port)
        return
    if workload.streams:
        status, size = ask_http2(workload, port)
    else:
        status, size = _ask(workload, port)
    if (status, size) != (200, workload.reply):
        raise CannotMeasureError(f"{workload.path} answered {status} with {size} bytes, and not 200 with {workload.reply}")


def _ask(workload: Workload, port: int) -> tuple[int, int]:
    """Status and length of one response."""
    fields = dict(header.split(": ", 1) for header in workload.headers)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=BOOT)) as connection:
        try:
            connection.request("POST" if workload.body else "GET", workload.path, b"x" * workload.body or None, fields)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CannotMeasureError(f"no whole response to {workload.path}: {error!r}") from error
    return response.status, len(data)


def _check_echo(workload: Workload, port: int) -> None:
    try:
        seen = websocket_load.measure(port, connections=1, size=workload.echo, seconds=0.1)
    except (OSError, RuntimeError) as error:
        raise CannotMeasureError(f"no WebSocket at {workload.path}: {error}") from error
    if seen["errors"] or not seen["requests"]:
        raise CannotMeasureError(f"{workload.path} does not send back what it gets")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _big_file(folder: str) -> str:
    path = os.path.join(folder, "file")
    with open(path, "wb") as file:
        file.write(bytes(FILE_BYTES))  # written, not a hole: holes are read from nowhere
    return path


def _last_words(path: str) -> str:
    with open(path, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill all of its session at once: how gracefully it ends is no figure, and takes some of them more than a second."""
    for member in procfs.members(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)
    process.wait(STOP)
