"""What every worker needs is loaded once, by the supervisor: workers share it, and need no files for it any more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

MODULES = """
import json, os, sys

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(sorted(sys.modules)).encode()]

async def in_asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(sorted(sys.modules)).encode()})
"""
CONF = """
import json, os, sys

def pre_fork(server, worker):  # in the supervisor
    with open("supervisor.json", "w") as file:
        json.dump({"modules": sorted(sys.modules), "threads": len(os.listdir("/proc/self/task"))}, file)
"""
OURS = ("arbiter.", "httptools", "h11", "wsproto", "uvloop", "asyncio", "ssl", "ctypes")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("-k", "sync"), "application"),
        (("-k", "auto", "--threads", "2"), "application"),
        (("-k", "async"), "in_asgi"),
        (("-k", "async", "--interface", "wsgi"), "application"),
    ],
)
def test_what_every_worker_needs_is_loaded_once_before_the_first_fork(
    arbiter: Arbiter, words: tuple[str, ...], name: str
) -> None:
    """1. A server tells what is loaded, where. Result: a worker has nothing of ours that the supervisor has not.

    That has neither the application nor what applications call, and one thread; most of a worker's memory is shared.
    """
    arbiter.write("live.py", MODULES)
    arbiter.write("conf.py", CONF)
    server = arbiter.launch("-c", "conf.py", "-w", "3", *words, f"live:{name}").wait_ready()

    worker = set(json.loads(server.get().text))
    supervisor = json.loads((arbiter.folder / "supervisor.json").read_text())
    own = [private(found.pid) for found in server.workers()]

    assert {module for module in worker - set(supervisor["modules"]) if module.startswith(OURS)} == set()
    assert not {"live", "arbiter.portal"} & set(supervisor["modules"])
    assert supervisor["threads"] == 1
    # Half of it with CPython 3.11, where each use of an object writes to it; 0.8 if each had loaded it for itself.
    assert statistics.median(own) < 0.65


def test_the_next_worker_is_what_the_supervisor_is_whatever_has_become_of_its_files(arbiter: Arbiter) -> None:
    """1. An installation serves. 2. Its workers' files go, as in an upgrade. 3. A worker is killed. Result: it is replaced."""
    source = Path(__file__).parents[2]
    package = arbiter.folder / "installed/arbiter"
    without = shutil.ignore_patterns("__pycache__", "workers", "config")
    shutil.copytree(source / "arbiter", package, ignore=without)
    for name in ("workers", "config"):
        shutil.copytree(source / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    server = arbiter.serve("-k", "threaded", "--threads", "2", env={"PYTHONPATH": str(package.parent)})
    before = server.wait_workers(2)
    shutil.rmtree(package / "workers")

    os.kill(before[0].pid, signal.SIGKILL)
    server.wait_log(r"worker=1 .* ready after", times=2)

    assert server.get().text.startswith("one ")


def test_a_reload_to_another_kind_of_worker_loads_nothing_in_the_supervisor_that_serves(arbiter: Arbiter) -> None:
    """1. Sync workers. 2. HUP, now they are async. Result: they serve, and have loaded themselves what was missing."""
    arbiter.write("live.py", MODULES)
    arbiter.write("conf.py", CONF + 'worker_class = "sync"\n')
    server = arbiter.launch("-c", "conf.py", "-w", "2", "live").wait_ready()
    arbiter.write("conf.py", CONF + 'worker_class = "async"\n')

    server.send(signal.SIGHUP)
    server.wait_log("reload done: all 2 workers")
    supervisor = json.loads((arbiter.folder / "supervisor.json").read_text())

    assert "arbiter.workers.crossed" in json.loads(server.get().text)
    assert "arbiter.workers.crossed" not in supervisor["modules"]


def test_what_cannot_be_loaded_is_told_by_the_worker_that_needs_it(arbiter: Arbiter) -> None:
    """1. A library is missing. Result: the boot fails as if nobody had tried before, and the supervisor lives to say so."""
    arbiter.write("live.py", MODULES)
    arbiter.write("conf.py", 'import sys\nsys.modules["httptools"] = None\nhttp = "httptools"\n')

    status, words = arbiter.fail("-c", "conf.py", "-w", "1", "live")

    assert status == 3
    assert "import of httptools halted" in words
    assert "cannot start: worker=1 failed while loading the HTTP parser" in words
    assert "pip install httptools, or set http to auto" in words


def private(pid: int) -> float:
    """How much of a process's memory that is no file's is not shared with any other."""
    figures = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        figures[name] = int(value.split()[0])
    return figures["Private_Dirty"] / figures["Anonymous"]
