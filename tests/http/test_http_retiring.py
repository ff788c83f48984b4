"""A worker that is told to go, in the very moment in which the kernel has woken it, and nobody else, for a connection."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

SCRIPT = """
import os, socket, sys, time

from arbiter.config.resolve import resolve
from arbiter.logs import Log, Sink
from arbiter.scoreboard import Scoreboard
from arbiter.workers.contract import Order, WorkerId
from arbiter.workers.threaded import ThreadedWorker


def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


settings = resolve(["live:application", "--threads", "2"], {}, os.getcwd()).settings
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
channel, _supervisor = socket.socketpair()
channel.setblocking(False)
alive, _lifeline = os.pipe()
order = Order(
    id=WorkerId(1, 1), generation=1, settings=settings, kind="threaded", listeners=(listener,), own=1, channel=channel,
    lifeline=alive, dump=-1, rows=Scoreboard().take(1 + settings.threads + settings.io_threads), log=Log(Sink("-"), "warning"), access=None, title="",
)
worker = ThreadedWorker(order, application)
client = socket.create_connection(listener.getsockname(), timeout=20)
client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")

# It does not wait on the listener: what it accepts from here on, it accepts because it looks.
worker.retiring, worker.retired_at, worker.last = True, time.monotonic() - float(sys.argv[1]), False
worker.serve()

client.settimeout(0 if worker.retired_at < time.monotonic() - 100 else 20)
try:
    print(client.recv(65536).decode())
except BlockingIOError:
    print("left to its successor")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("ago", "wanted"),
    [(0, "HTTP/1.1 200 OK"), (1000, "left to its successor")],
    ids=["just told to go", "told long ago"],
)
def test_a_connection_that_a_worker_was_woken_for_is_not_left_behind_when_it_retires(ago: int, wanted: str) -> None:
    """The successor is not woken for it: a client would wait until somebody else comes.

    Result: it is served by the worker that has been told to go. Long after that none is: others are woken for those.
    """
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(ago)], capture_output=True, text=True, timeout=50, check=False)

    assert (done.returncode, done.stdout.partition("\n")[0].strip(), done.stderr) == (0, wanted, "")
