"""The load: wrk and h2load for closed loops, mixed_load.py for the open one, websocket_load.py, connections that only exist.

Loopback only. Whatever is started here ends by itself after the seconds asked for, or is ended.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from benchmarks.servers import HERE

if TYPE_CHECKING:
    from benchmarks.workloads import Workload

WRK: Final = shutil.which("wrk")

H2LOAD: Final = shutil.which("h2load")

WHOLE: Final = 60
"""Seconds that a load is started for that is to be ended."""

GRACE: Final = 30.0
"""Seconds more than the load's own until it is ended: its requests' time-out (10 s), and a machine that is busy."""


class Load(NamedTuple):
    """What the load generator has seen."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int


def generate(workload: Workload, port: int, seconds: float, seed: int) -> Load:
    """Load the server on this port.

    Raises:
        RuntimeError: the load generator failed, and what it said.
    """
    if workload.streams:
        return _http2_loop(workload, port, seconds)
    if workload.echo:
        words = _echoes(workload, port, seconds)
    elif workload.rate:
        words = _open_loop(workload, port, seconds, seed)
    else:
        words = _closed_loop(workload, port, seconds)
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + GRACE, check=False)
    try:
        return Load(**json.loads(done.stdout.strip().rpartition("\n")[2]))
    except ValueError:
        raise RuntimeError(f"{words[0]} failed with status {done.returncode}: {done.stderr or done.stdout}") from None


def warm_up(workload: Workload, port: int, seconds: float, seed: int) -> None:
    """The same load before what is measured.

    Raises:
        RuntimeError: as `generate`.
    """
    if workload.streams or workload.echo or workload.rate:
        generate(workload, port, seconds, seed)
        return
    with subprocess.Popen(_closed_loop(workload, port, WHOLE), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as wrk:
        try:
            wrk.wait(seconds)
        except subprocess.TimeoutExpired:
            wrk.send_signal(signal.SIGINT)  # it knows whole seconds only, and ends by this as by its time
        if wrk.wait(GRACE):
            raise RuntimeError(f"wrk failed with status {wrk.returncode}")


def _closed_loop(workload: Workload, port: int, seconds: float) -> list[str]:
    fields = [word for header in workload.headers for word in ("-H", header)]
    url = f"http://127.0.0.1:{port}{workload.path}"
    shape = ["-t1", f"-c{workload.connections}", f"-d{seconds:.0f}s", "--timeout", "10s"]
    return [WRK or "wrk", *shape, *fields, "-s", f"{HERE}/wrk.lua", url, "--", str(workload.body)]


def _http2_loop(workload: Workload, port: int, seconds: float) -> Load:
    """As `generate`, by h2load, which logs each request: when it began, its status, and its microseconds."""
    fields = [word for header in workload.headers for word in ("-H", header)]
    url = f"http://127.0.0.1:{port}{workload.path}"
    shape = ["-t1", f"-c{workload.connections}", f"-m{workload.streams}", f"-D{seconds * 1000:.0f}ms", "-T10"]
    with tempfile.TemporaryDirectory(prefix="arbiter-bench-") as folder:
        log = os.path.join(folder, "log")
        words = [H2LOAD or "h2load", *shape, *fields, f"--log-file={log}", url]
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + GRACE, check=False)
        counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
        if done.returncode or not counts:
            raise RuntimeError(f"h2load failed with status {done.returncode}: {done.stderr or done.stdout}")
        with open(log) as file:
            rows = [line.split() for line in file]
    times = sorted(float(micros) for _, status, micros in rows if status == "200")
    if not times:
        raise RuntimeError("h2load had no response")
    errors = int(counts[2]) + int(counts[3]) + len(rows) - len(times)
    return Load(int(counts[1]), seconds, times[len(times) // 2], times[len(times) * 99 // 100], errors)


def ask_http2(workload: Workload, port: int) -> tuple[int, int]:
    """Status (0 for any but 200) and length of one response over HTTP/2."""
    url = f"http://127.0.0.1:{port}{workload.path}"
    words = [H2LOAD or "h2load", "-n1", "-c1", *[word for header in workload.headers for word in ("-H", header)], url]
    told = subprocess.run(words, capture_output=True, text=True, timeout=GRACE, check=False).stdout
    size = re.search(r"\((\d+)\) data", told)
    return (200 if "status codes: 1 2xx" in told else 0), int(size[1]) if size else 0


def _open_loop(workload: Workload, port: int, seconds: float, seed: int) -> list[str]:
    numbers = {
        "port": port,
        "seconds": seconds,
        "rate": workload.rate,
        "slow": workload.slow,
        "seed": seed,
        "connections": workload.connections,
    }
    flags = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    return [sys.executable, f"{HERE}/mixed_load.py", *flags, *(["--fresh"] if workload.fresh else [])]


def _echoes(workload: Workload, port: int, seconds: float) -> list[str]:
    numbers = {"port": port, "connections": workload.connections, "size": workload.echo, "seconds": seconds}
    flags = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    return [sys.executable, f"{HERE}/websocket_load.py", *flags]


class IdleConnections:
    """Connections that have had one response each, and are silent while the `with` block runs."""

    def __init__(self, port: int, count: int) -> None:
        self.port, self.count = port, count
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        for _ in range(self.count):
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
            self.sockets.append(connection)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            connection.recv(65536)
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.sockets:
            connection.close()

    def lost(self) -> int:
        """How many of them the server has closed."""
        return sum(map(_is_closed, self.sockets))


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass  # the rest of a response that came in two pieces
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
