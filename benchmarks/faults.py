"""The same faults for every server, one after the other: what happened, requests lost, and the longest time without a reply.

    python benchmarks/faults.py                          # Arbiter only
    python benchmarks/faults.py --peers VENV/bin         # beside gunicorn and uvicorn, installed in that venv

Each server runs two workers and a tiny application on a free port of 127.0.0.1. Four clients ask in a closed loop, a new
connection for each request, and never stop while the fault happens. A request is lost when it is refused, reset, cut short,
answered with another status than 200, or not answered within five seconds.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = 4
PATIENCE = 5.0
"""Seconds after which a client takes a request for lost."""

GOOD = """\
import os, time
def application(environ, start_response):
    if environ["PATH_INFO"] == "/stuck":
        time.sleep(600)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"].endswith("shutdown"):
                return
    if scope["path"] == "/stuck":
        time.sleep(600)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
RAISES = "raise RuntimeError('this code is broken')\n"
SLOW = "import time; time.sleep(4)\n" + GOOD


@dataclass
class Server:
    """A running server of one kind."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def change(self, text: str) -> None:
        (self.folder / "live.py").write_text(text)

    def signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def workers(self) -> list[int]:
        """The pids of its children that serve, youngest last."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                stat = (path / "stat").read_text().rsplit(")", 1)[1].split()
                command = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == self.process.pid and stat[0] != "Z" and b"resource_tracker" not in command:
                found.append(int(path.name))
        return sorted(found)


@dataclass
class Clients:
    """Clients that never stop asking."""

    port: int
    lost: int = 0
    replies: int = 0
    last: float = field(default_factory=time.monotonic)
    gap: float = 0.0
    _going: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        for thread in self._threads:
            thread.join()
        self._note()

    def _note(self) -> None:
        now = time.monotonic()
        self.gap, self.last = max(self.gap, now - self.last), now

    def _ask(self) -> None:
        while self._going:
            good = get(self.port) == 200
            with self._lock:
                if good:
                    self.replies += 1
                    self._note()
                else:
                    self.lost += 1
            time.sleep(0.002 if good else 0.05)


def get(port: int, path: str = "/") -> int:
    """The status of a GET; 0 when there was no whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status if response.read() == b"ok" else 0
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def start(name: str, peers: str, folder: Path) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bind = f"127.0.0.1:{port}"
    commands = {
        "arbiter": [sys.executable, "-m", "arbiter", "-w", "2", "-b", bind, "-t", "3", "live:application"],
        "arbiter threaded": [
            *(sys.executable, "-m", "arbiter", "-k", "threaded", "-w", "2", "--threads", "2", "-b", bind),
            *("-t", "3", "--request-timeout", "3", "live:application"),
        ],
        "gunicorn": [f"{peers}/gunicorn", "-w", "2", "-b", bind, "-t", "3", "live:application"],
        "gunicorn gthread": [f"{peers}/gunicorn", "-w", "2", "--threads", "2", "-b", bind, "-t", "3", "live:application"],
        "uvicorn": [f"{peers}/uvicorn", "--workers", "2", "--port", str(port), "--no-access-log", "live:asgi"],
    }
    (folder / "live.py").write_text(GOOD)
    process = subprocess.Popen(
        commands[name],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("wb"),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)},
        start_new_session=True,
    )
    server = Server(name, process, port, folder)
    wait(lambda: get(port) == 200 and len(server.workers()) >= 2, 20)
    time.sleep(1.5)  # past the time in which a death counts as part of the start
    return server


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def hup_good(server: Server) -> None:
    server.signal(signal.SIGHUP)
    time.sleep(4)


def hup_raises(server: Server) -> None:
    server.change(RAISES)
    server.signal(signal.SIGHUP)
    time.sleep(4)


def hup_slow(server: Server) -> None:
    server.change(SLOW)
    server.signal(signal.SIGHUP)
    time.sleep(11)


def worker_killed(server: Server) -> None:
    os.kill(server.workers()[-1], signal.SIGKILL)
    time.sleep(4)


def worker_killed_code_broken(server: Server) -> None:
    server.change(RAISES)
    os.kill(server.workers()[-1], signal.SIGKILL)
    time.sleep(5)


def stuck(server: Server) -> None:
    """One request that never ends, in one of two workers; does anybody ever free the worker."""
    asker = threading.Thread(target=get, args=(server.port, "/stuck"))
    asker.start()
    asker.join()
    time.sleep(3)


def stopped(server: Server) -> None:
    pid = server.workers()[-1]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(8)
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


def supervisor_killed(server: Server) -> None:
    server.process.kill()
    time.sleep(3)


FAULTS: dict[str, Callable[[Server], None]] = {
    "HUP, the code is fine": hup_good,
    "HUP, new code raises at import": hup_raises,
    "HUP, the application needs 4 s to import": hup_slow,
    "a worker is killed (SIGKILL)": worker_killed,
    "a worker is killed, the code on disk is broken": worker_killed_code_broken,
    "a request is stuck for ever": stuck,
    "a worker is stopped (SIGSTOP) for 8 s": stopped,
    "the supervisor is killed (SIGKILL)": supervisor_killed,
}


def try_fault(name: str, fault: Callable[[Server], None], peers: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        server = start(name, peers, Path(folder))
        try:
            with Clients(server.port) as clients:
                time.sleep(0.5)
                fault(server)
                if fault is supervisor_killed:
                    left = "nobody answers any more" if get(server.port) == 0 else "orphans still answer"
                else:
                    alive = server.process.poll()
                    left = f"{len(server.workers())} workers" if alive is None else f"server gone, status {alive}"
            return f"{left}; {clients.lost} lost of {clients.lost + clients.replies}; {clients.gap:.2f} s"
        finally:
            end(server)


def end(server: Server) -> None:
    """Nothing is left: the session that we started, and nothing else."""
    server.signal(signal.SIGTERM)
    try:
        server.process.wait(5)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(server.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    server.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="the bin folder of a venv with gunicorn and uvicorn")
    options = parser.parse_args()
    servers = ["arbiter", "arbiter threaded", *(["gunicorn", "gunicorn gthread", "uvicorn"] if options.peers else [])]
    print(f"| fault | {' | '.join(servers)} |\n|{'---|' * (len(servers) + 1)}", flush=True)
    for text, fault in FAULTS.items():
        cells = [try_fault(name, fault, options.peers) for name in servers]
        print(f"| {text} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
