"""The main job, whole: the Django project of deploy/demo under nine workers, with a client that never stops asking."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import Connection

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(180)]

DEMO = Path(__file__).parents[2] / "deploy/demo"
PATIENCE = 90.0
"""Seconds for nine imports of Django, one after the other, on a machine that is busy with the other tests."""


@pytest.fixture
def demo(arbiter: Arbiter, tmp_path: Path) -> Server:
    """The demo, served, on a database of its own."""
    env = {"DEMO_DATABASE": str(tmp_path / "db.sqlite3"), "DEMO_SECRET_KEY": "of this test", "PYTHONDONTWRITEBYTECODE": "1"}
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=DEMO, env={**os.environ, **env, "PYTHONPATH": str(DEMO)}, check=True)
    server = arbiter.launch("-w", "9", "--chdir", DEMO, "project.wsgi:application", env=env)
    return server.wait_ready(PATIENCE)


def test_the_demo_is_reloaded_and_stopped_under_load_and_loses_no_request(demo: Server) -> None:
    """1. A client asks for the page that counts. 2. HUP: nine workers are replaced. 3. TTOU, TTIN. 4. TERM during a stream.

    Result: no failure; every visit was counted once; the stream comes to its end; status 0.
    """
    with demo.client(threads=3, path="/") as client:
        client.more(10)
        demo.send(signal.SIGHUP)
        demo.wait_log("reload done: all 9 workers", patience=PATIENCE)
        demo.send(signal.SIGTTOU)
        demo.wait_workers(8)
        demo.send(signal.SIGTTIN)
        demo.wait_log(r"gen=2 .* ready after", times=10, patience=PATIENCE)
        client.more(10)
    visits = sorted(int(found[1]) for _, text in client.replies if (found := re.search(r'id="visit">(\d+)<', text)))
    with contextlib.closing(Connection(demo.address, timeout=PATIENCE)) as connection:
        connection.request("GET", "/stream?lines=20")
        response = connection.getresponse()
        first = response.readline()
        demo.send(signal.SIGTERM)
        rest = response.read().splitlines()

    assert client.failures == []
    assert visits == list(range(1, len(client.replies) + 1))
    assert first.startswith(b"1 of 20, ")
    assert [line.partition(b",")[0] for line in rest] == [b"%d of 20" % number for number in range(2, 21)]
    assert demo.ended(PATIENCE) == 0
