"""What --preload saves: memory of five workers of the demo (deploy/demo), and how long a worker takes to boot.

python -m benchmarks.memory [workers]: a table, for docs/preload.md. Memory is the proportional share (PSS) of all processes
of the service together, the supervisor and the template included, once after the start and once after some requests.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.procfs import pss_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

DEMO: Final = os.path.join(os.path.dirname(__file__), "../deploy/demo")
PATIENCE: Final = 60.0
"""Seconds for five imports of Django, one after the other, on a busy machine."""
REQUESTS: Final = 500
PATHS: Final = ("/json", "/async", "/stream?lines=2")


class Figures(NamedTuple):
    """Of one way to serve."""

    started: int
    """Bytes."""
    loaded: int
    """Bytes, after `REQUESTS`."""
    boot: float
    """Seconds from the fork of a successor to its being ready, as the log has it."""


def main(workers: int) -> None:
    rows = [("each worker loads it", measure(workers)), ("--preload", measure(workers, "--preload"))]
    print(f"| {workers} workers of deploy/demo | memory after start | after {REQUESTS} requests | a worker boots in |")
    print("|---|---|---|---|")
    for name, figures in rows:
        print(f"| {name} | {figures.started / 1e6:.0f} MB | {figures.loaded / 1e6:.0f} MB | {figures.boot:.2f} s |")


def measure(workers: int, *flags: str) -> Figures:
    """The figures of a service with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        environ = {**os.environ, "DEMO_DATABASE": os.path.join(folder, "db.sqlite3"), "DEMO_SECRET_KEY": "of a benchmark"}
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=DEMO, env={**environ, "PYTHONPATH": DEMO}, check=True)
        words = ["-w", str(workers), "-b", "127.0.0.1:0", "--error-logfile", log, *flags, "project.wsgi:application"]
        server = subprocess.Popen([sys.executable, "-m", "arbiter", *words], cwd=DEMO, env=environ, start_new_session=True)
        try:
            wait_for(server, log, rf"all {workers} workers are ready")
            started = pss_bytes(server.pid)
            ask(int(wait_for(server, log, r"listening on http://127\.0\.0\.1:(\d+)")[0][1]))
            loaded = pss_bytes(server.pid)
            ready = r"worker=(\d+) .* pid=(\d+) ready after ([\d.]+) s"
            found = wait_for(server, log, ready, workers)
            os.kill(int(found[0][2]), signal.SIGKILL)
            boot = float(wait_for(server, log, ready, workers + 1)[-1][3])
        finally:
            server.terminate()
            server.wait(PATIENCE)
    return Figures(started, loaded, boot)


def ask(port: int) -> None:
    """Some requests, so that the workers have written what they write."""
    for number in range(REQUESTS):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", PATHS[number % len(PATHS)])
        status = connection.getresponse().status
        if status != http.HTTPStatus.OK:
            raise RuntimeError(f"{PATHS[number % len(PATHS)]} was answered with {status}")
        connection.close()


def wait_for(server: subprocess.Popen[bytes], log: str, pattern: str, times: int = 1) -> Sequence[re.Match[str]]:
    """The places in the log where the pattern is found, once there are so many."""
    end = time.monotonic() + PATIENCE
    while True:
        text = ""
        if os.path.exists(log):
            with open(log) as file:
                text = file.read()
        if len(found := list(re.finditer(pattern, text))) >= times:
            return found
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"no {pattern!r} in the log:\n{text}")
        time.sleep(0.02)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
