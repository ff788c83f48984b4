"""What can't be timed from outside: a worker whose exit is reaped before its template has said that it lives.

The real kernel drives a real template here, in a process of its own, step by step.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from harness import BASE
from waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.process

APP = """
import os, signal
def die_at_birth():
    global forks
    forks += 1
    if forks == 2 and os.path.exists("die-at-birth"):
        os.kill(os.getpid(), signal.SIGKILL)
forks = 0
os.register_at_fork(after_in_child=die_at_birth)
def application(environ, start_response): ...
"""
STEPS = """
import os, sys, time
from arbiter import facts
from arbiter.blueprint import Blueprint
from arbiter.config.resolve import resolve
from arbiter.kernel import Posix
from arbiter.logs import Log, Sink
from arbiter.facts import Force
from arbiter.upgrade import Neighbours
from arbiter.workers.contract import WorkerId

settings = resolve(["--preload", "live"], {}, os.getcwd()).settings
sink = Sink("-")
blueprint = Blueprint(1, settings, "sync", (), Log(sink, "info"), None, frozenset({sink}))
kernel = Posix(lambda blueprint: None, Neighbours(None))

def heard(kind, id):
    "All facts up to the first of this kind about this worker."
    found, end = [], time.monotonic() + 20
    while not any(isinstance(fact, kind) and fact.id == id for fact in found):
        assert time.monotonic() < end, found
        found += kernel.wait(time.monotonic() + 0.1)
    return [fact for fact in found if getattr(fact, "id", None) == id]

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]

def zombies():
    "Our dead children that have not been reaped."
    return [pid for pid in children() if open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] == "Z"]

def until(condition):
    end = time.monotonic() + 20
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return result
"""

STORIES = {
    "its exit is reaped before its birth is heard of": """
kernel.fork(WorkerId(1, 1), blueprint)
assert [type(fact) for fact in heard(facts.SaidReady, WorkerId(1, 1))] == [facts.SaidReady]
open("die-at-birth", "x").close()
taken = len(os.listdir("/proc/self/fd"))
kernel.fork(WorkerId(2, 2), blueprint)
(pid,) = until(zombies)
early = []
kernel._reap(early, [])                              # what has exited, and nothing else
assert early == [], early
assert kernel.pid(WorkerId(2, 2)) not in (None, pid)  # its template's, as long as nothing else is known
assert heard(facts.Exited, WorkerId(2, 2)) == [facts.Exited(WorkerId(2, 2), None, "SIGKILL")]
assert kernel.pid(WorkerId(2, 2)) == pid              # for the log
assert len(os.listdir("/proc/self/fd")) == taken
assert kernel.board.take(1) and not zombies()
""",
    "it is told to leave before it lives": """
kernel.fork(WorkerId(1, 1), blueprint)
heard(facts.SaidReady, WorkerId(1, 1))
kernel.fork(WorkerId(2, 2), blueprint)
kernel.kill(WorkerId(2, 2), Force.ASK)
*_, end = heard(facts.Exited, WorkerId(2, 2))
# By the signal itself; or as a worker that obeys it, when it was ready before we had heard of its birth.
assert end in (facts.Exited(WorkerId(2, 2), None, "SIGTERM"), facts.Exited(WorkerId(2, 2), 0)), end
""",
    "it is killed while its template boots, and another waits with it": """
kernel.fork(WorkerId(1, 1), blueprint)
kernel.fork(WorkerId(2, 2), blueprint)
template = kernel.pid(WorkerId(1, 1))
assert template == kernel.pid(WorkerId(2, 2)) and template is not None
kernel.kill(WorkerId(1, 1), Force.ASK)
assert heard(facts.Exited, WorkerId(1, 1)) == [facts.Exited(WorkerId(1, 1), None, "SIGTERM")]
assert [type(fact) for fact in heard(facts.SaidReady, WorkerId(2, 2))] == [facts.SaidReady]
""",
    "its template is stopped, and it is killed": """
import signal
kernel.fork(WorkerId(1, 1), blueprint)
template = kernel.pid(WorkerId(1, 1))
heard(facts.SaidReady, WorkerId(1, 1))
os.kill(template, signal.SIGSTOP)
kernel.fork(WorkerId(2, 2), blueprint)
kernel.kill(WorkerId(2, 2), Force.ASK)
kernel.dump(WorkerId(2, 2))
assert heard(facts.Dumped, WorkerId(2, 2)) == [facts.Dumped(WorkerId(2, 2), "")]
kernel.kill(WorkerId(2, 2), Force.END)
kernel.fork(WorkerId(3, 3), blueprint)
assert heard(facts.Exited, WorkerId(2, 2)) == [facts.Exited(WorkerId(2, 2), None, "SIGKILL")]
assert [type(fact) for fact in heard(facts.SaidReady, WorkerId(3, 3))] == [facts.SaidReady]
assert kernel.pid(WorkerId(1, 1)) is not None
""",
    "its template's stacks are asked for, and it is born before they come": """
import signal
kernel.fork(WorkerId(1, 1), blueprint)
template = kernel.pid(WorkerId(1, 1))
heard(facts.SaidReady, WorkerId(1, 1))
os.kill(template, signal.SIGSTOP)
kernel.fork(WorkerId(2, 2), blueprint)
kernel.dump(WorkerId(2, 2))
os.kill(template, signal.SIGCONT)
heard(facts.SaidReady, WorkerId(2, 2))
os.kill(template, signal.SIGKILL)
until(lambda: template in zombies())
assert facts.Dumped in [type(fact) for fact in heard(facts.Dumped, WorkerId(2, 2))]
""",
    "what has tried settings exits between being listened to and the reaping of all": """
from arbiter.rehearsal import Rehearsed
listen = kernel._rehearsals.listen
def listen_too_early(now):
    kernel._rehearsals.listen = listen
    return [] if until(zombies) else None
kernel._rehearsals.listen = listen_too_early
kernel.rehearse(7, lambda: None)
found, end = [], time.monotonic() + 20
while Rehearsed(7, "") not in found:
    assert time.monotonic() < end, found
    found += kernel.wait(time.monotonic() + 0.1)
assert not zombies()
""",
}


END = """
templates = set(kernel._nursery._living)
kernel.close()
assert not templates & set(children())
os.write(1, b"all is well")
"""


@pytest.mark.parametrize("story", STORIES)
def test_a_worker_of_a_template_is_accounted_for_when(tmp_path: Path, story: str) -> None:
    (tmp_path / "live.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "-c", STEPS + STORIES[story] + END],
        cwd=tmp_path,
        env=BASE,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )

    assert (done.returncode, done.stdout) == (0, "all is well"), done.stderr
