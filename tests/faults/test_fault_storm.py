"""A storm of reloads: 3000 posts while HUP, TTIN and TTOU come, at first faster than one fork, then slower; none fails.

After Puma's test of the same kind (test_integration_cluster.rb, hot restart does not drop connections).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from clients import ask
from procfs import descriptors
from waiting import until

if TYPE_CHECKING:
    from clients import Address
    from harness import Arbiter

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(180)]

THREADS, REQUESTS, SIZE = 10, 3000, 16 * 1024
STORM = (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTOU) * 6
FIRST_GAP, GROWTH, LONGEST_GAP = 0.02, 1.2, 1.0
"""Seconds between two signals: from within one fork to longer than a whole roll takes."""


class Poster(threading.Thread):
    """Posts random bodies until it is told that it is enough; each response is the digest of what came in, whole."""

    def __init__(self, address: Address, enough: threading.Event) -> None:
        super().__init__()
        self.address, self.enough = address, enough
        self.count, self.failures = 0, list[str]()

    def run(self) -> None:
        while not self.enough.is_set():
            body = os.urandom(SIZE)
            try:
                reply = ask(self.address, "/digest", body, timeout=30)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            else:
                if reply != (200, hashlib.sha256(body).hexdigest()):
                    self.failures.append(f"{reply.status}: {reply.text[:200]}")
            self.count += 1


ASGI = """
import hashlib

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        digest.update(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": digest.hexdigest().encode()})
"""
BINDS = {"tcp": ("127.0.0.1:0",), "unix": ("unix:sock",), "shared": ("127.0.0.1:0", "--reuse-port")}


@pytest.mark.parametrize(
    ("kind", "bind"),
    [("sync", "tcp"), ("sync", "unix"), ("threaded", "tcp"), ("threaded", "unix"), ("threaded", "shared"), ("async", "tcp")],
)
def test_a_storm_of_reloads_under_posts_loses_none(arbiter: Arbiter, kind: str, bind: str) -> None:
    """1. Ten threads post bodies of 16 KiB, 3000 at least. 2. HUP, TTIN, HUP, TTOU ... with growing gaps, 24 signals.

    Result: no failure; then as many workers as were asked for, of the last generation, and no descriptor more than before.
    """
    where, *flags = BINDS[bind]
    if kind == "async":
        arbiter.write("live.py", ASGI)
    server = arbiter.serve("-k", kind, *flags, workers=3, bind=where)
    server.wait_workers(3)
    before = descriptors(server.pid)
    enough = threading.Event()
    posters = [Poster(server.address, enough) for _ in range(THREADS)]

    for poster in posters:
        poster.start()
    try:
        gap = FIRST_GAP
        for number in STORM:
            server.send(number)
            time.sleep(gap)  # not for luck: the gaps are the storm
            gap = min(gap * GROWTH, LONGEST_GAP)
        until(lambda: sum(poster.count for poster in posters) >= REQUESTS, f"{REQUESTS} requests", patience=120)
    finally:
        enough.set()
        for poster in posters:
            poster.join()
    reloads = server.count(" reload: one worker of the new generation is booted")
    server.wait_log(rf"gen={1 + reloads} .* reload done")
    server.wait_workers(3, generation=1 + reloads)

    assert [failure for poster in posters for failure in poster.failures] == []
    assert reloads >= len(STORM) / 8  # a HUP that comes while the settings of the one before are tried takes its place
    assert before == descriptors(server.pid)
