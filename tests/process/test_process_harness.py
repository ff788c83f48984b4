"""The harness itself: what every test asserts at its end is seen when it is not so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import app
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

ORPHAN = "\nif os.fork() == 0: time.sleep(600)\n"
SOCKET = "\nimport socket\nsocket.socket(socket.AF_UNIX).bind('left')\n"
TRACEBACK = "\nimport traceback\ntry: 1 / 0\nexcept ZeroDivisionError: traceback.print_exc()\n"


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (ORPHAN, "the end of all its processes"),
        (SOCKET, "it left files behind"),
        (TRACEBACK, "a traceback that no test expects"),
    ],
    ids=["an orphan", "a socket file", "a traceback"],
)
def test_what_a_server_leaves_behind_is_seen(arbiter: Arbiter, fault: str, seen: str) -> None:
    arbiter.write("live.py", app("one", at_import=fault))
    server = arbiter.serve(workers=1)

    with pytest.raises(AssertionError, match=seen):
        server.stop()


def test_a_file_in_shared_memory_that_is_left_behind_is_seen(arbiter: Arbiter) -> None:
    left = Path(f"/dev/shm/arbiter-test-{os.getpid()}")
    maps = f"\nimport mmap\nleft = open('{left}', 'w+b')\nleft.truncate(4096)\nheld = mmap.mmap(left.fileno(), 4096)\n"
    arbiter.write("live.py", app("one", at_import=maps))
    server = arbiter.serve(workers=1)

    try:
        with pytest.raises(AssertionError, match="it left shared memory behind"):
            server.stop()
    finally:
        left.unlink()


def test_a_client_sees_every_refusal(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=1)

    with server.client() as client:
        client.more(5)
        server.stop()
        until(lambda: len(client.failures) >= 5, "five refusals")
        client.give_up()

    assert any(failure.what.startswith("ConnectionRefusedError") for failure in client.failures)
