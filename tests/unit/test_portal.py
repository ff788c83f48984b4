"""The background loop, in this process and in plain ones: no worker is needed for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from serving import PATIENCE, Journal
from waiting import until

from arbiter.portal import loop, submit
from arbiter.workers import portal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

name: ContextVar[str] = ContextVar("name", default="nobody")


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    """A process that has not used the portal yet; its log."""
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = (
        uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    )
    monkeypatch.setattr(portal, "_portal", portal._Portal())
    portal.furnish(factory=factory, log=(journal := Journal()))
    yield journal
    portal.outlast(0.0)


async def give(value: Any, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    if isinstance(value, BaseException):
        raise value
    return value


def test_there_is_one_loop_and_it_runs_in_a_thread_of_its_own() -> None:
    before = threading.active_count()

    async def here() -> tuple[asyncio.AbstractEventLoop, int]:
        return asyncio.get_running_loop(), threading.get_ident()

    found, thread = submit(here()).result(PATIENCE)

    assert found is loop() is loop()
    assert thread != threading.get_ident()
    assert submit(here()).result(PATIENCE) == (found, thread)
    assert threading.active_count() == before + 1


def test_a_task_sees_the_context_of_its_caller_and_changes_only_its_own() -> None:
    async def work() -> str:
        before = name.get()
        name.set("task")
        return before

    name.set("caller")
    assert submit(work()).result(PATIENCE) == "caller"
    assert name.get() == "caller"


def test_a_failure_is_raised_where_it_is_asked_for_and_nowhere_else(log: Journal) -> None:
    with pytest.raises(ValueError, match="wanted"):
        submit(give(ValueError("wanted"))).result(PATIENCE)
    assert isinstance(submit(give(KeyError("wanted"))).exception(PATIENCE), KeyError)
    told: list[BaseException | None] = []
    submit(give(OSError("wanted"))).add_done_callback(lambda future: told.append(future.exception()))
    until(lambda: told, "the callback")

    assert log.text == ""


def test_a_failure_that_nobody_asks_for_is_logged_with_its_traceback(log: Journal) -> None:
    submit(give(ValueError("forgotten")))
    until(lambda: "forgotten" in log.text, "the line in the log")

    assert log.text.startswith("error: the task give (")
    assert "which nobody waits for, failed:\nTraceback" in log.text


def test_cancelling_a_future_cancels_its_task() -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            ended.set()
            raise

    future = submit(wait())
    submit(give(0)).result(PATIENCE)
    assert future.cancel()
    assert ended.wait(PATIENCE)
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_a_task_that_has_not_begun_can_be_cancelled() -> None:
    held, may_go_on = threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        may_go_on.wait(PATIENCE)  # nothing else begins meanwhile

    submit(hold())
    assert held.wait(PATIENCE)
    assert submit(give(1)).cancel()
    may_go_on.set()


def test_a_task_that_cancels_itself_is_a_cancelled_future(log: Journal) -> None:
    with pytest.raises(CancelledError):
        submit(give(asyncio.CancelledError())).result(PATIENCE)
    submit(give(asyncio.CancelledError()))
    submit(give(0)).result(PATIENCE)

    assert log.text == ""


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()])
def test_a_task_that_wants_the_process_to_end_ends_alone(end: BaseException) -> None:
    other = submit(give("alive", 0.05))
    assert submit(give(end)).exception(PATIENCE) is end
    assert other.result(PATIENCE) == "alive"
    assert submit(give("still")).result(PATIENCE) == "still"


def test_waiting_on_the_loop_for_the_loop_is_an_error_and_no_deadlock() -> None:
    async def wrong() -> None:
        submit(give(0)).result()

    async def right() -> Any:
        return await asyncio.wrap_future(submit(give("value")))

    with pytest.raises(RuntimeError, match="wrap_future"):
        submit(wrong()).result(PATIENCE)
    assert submit(right()).result(PATIENCE) == "value"


def test_only_coroutines_are_taken() -> None:
    with pytest.raises(TypeError, match=r"like submit\(fetch\(url\)\)"):
        submit(give)  # type: ignore[arg-type]


def test_a_process_that_is_refused_a_loop_is_told_why() -> None:
    portal.refuse("not here, because")
    coroutine = give(0)
    with pytest.raises(RuntimeError, match="not here, because"):
        submit(coroutine)
    coroutine.close()
    with pytest.raises(RuntimeError, match="not here, because"):
        loop()
    portal.refuse("")
    assert submit(give("here")).result(PATIENCE) == "here"


def test_a_forked_child_has_a_loop_of_its_own_and_leaves_the_parents_alone() -> None:
    before = loop()
    child = os.fork()
    if not child:
        try:
            good = submit(give("child")).result(PATIENCE) == "child" and loop() is not before
            os._exit(0 if good else 1)
        finally:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert submit(give("parent", 0.01)).result(PATIENCE) == "parent"
    assert loop() is before


def test_a_thread_that_waits_can_be_woken() -> None:
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            submit(give(0, PATIENCE)).result()
        except CancelledError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    background = portal._portal.open()
    until(lambda: thread.ident in background._waiting, "the thread to wait")
    portal.interrupt(threading.get_ident())  # waits for nothing: nothing happens
    portal.interrupt(thread.ident or 0)
    thread.join(PATIENCE)

    assert len(failures) == 1
    assert not background._waiting


# The end --------------------------------------------------------------------------------------------------------------


def test_tasks_and_what_they_submit_in_turn_are_waited_for(log: Journal) -> None:
    done: list[str] = []

    async def outer() -> None:
        await asyncio.sleep(0.05)
        done.append("outer")
        submit(inner())

    async def inner() -> None:
        await asyncio.sleep(0.05)
        done.append("inner")

    submit(outer())
    portal.outlast(PATIENCE)

    assert done == ["outer", "inner"]
    assert log.text == ""


def test_a_task_that_takes_too_long_is_cancelled_and_named(log: Journal) -> None:
    began = time.monotonic()
    ended = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    submit(endless())
    submit(give(0)).result(PATIENCE)
    portal.outlast(0.2)

    assert ended.is_set()
    assert time.monotonic() - began < PATIENCE / 2
    (line,) = log.lines
    assert "endless" in line
    assert f"({__file__}:" in line
    assert "has not ended within 0.2 s: it is cancelled" in line


def test_a_task_that_ignores_its_cancellation_holds_nobody(log: Journal) -> None:
    began = time.monotonic()

    async def deaf() -> None:
        while not free.is_set():
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                pass

    free = threading.Event()
    submit(deaf())
    portal.outlast(0.0)
    assert time.monotonic() - began < PATIENCE / 2
    assert "deaf" in log.text
    free.set()


def test_a_blocked_loop_holds_nobody() -> None:
    async def block() -> None:
        free.wait(PATIENCE)

    free = threading.Event()
    began = time.monotonic()
    submit(block())
    portal.outlast(0.0)
    assert time.monotonic() - began < PATIENCE / 2
    free.set()


# Plain processes ------------------------------------------------------------------------------------------------------


def run(folder: Path, program: str) -> str:
    """What a program prints that has nothing of a worker."""
    (folder / "program.py").write_text(program)
    result = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("log", ["asyncio"], indirect=True)
def test_an_idle_loop_costs_nothing(tmp_path: Path) -> None:
    program = """
import asyncio, os, time
from arbiter.portal import submit

def used():
    with open(f"/proc/self/task/{thread}/status") as status, open(f"/proc/self/task/{thread}/stat") as stat:
        switches = [line.split()[1] for line in status if line.startswith(("voluntary_ctxt", "nonvoluntary_ctxt"))]
        return switches, stat.read().rpartition(")")[2].split()[11:13]

async def native():
    import threading
    return threading.get_native_id()

thread = submit(native()).result()
time.sleep(0.1)
before = used()
time.sleep(1.0)
print(before == used() or (before, used()))
"""

    assert run(tmp_path, program) == "True\n"


@pytest.mark.parametrize("log", ["asyncio"], indirect=True)
def test_a_plain_process_ends_with_its_tasks_and_tells_what_it_lost(tmp_path: Path) -> None:
    program = """
import asyncio, atexit, logging
from arbiter.portal import submit

logging.basicConfig(format="%(name)s %(message)s")

async def finish():
    await asyncio.sleep(0.1)
    print("finished", flush=True)

async def fail():
    raise ValueError("lost")

async def library():
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)

async def begin():
    kept.append(asyncio.create_task(library()))
    await asyncio.sleep(0)

kept = []

submit(fail())
submit(begin()).result()
atexit.register(lambda: print(submit(asyncio.sleep(0, "at exit")).result(), flush=True))
submit(finish())
"""

    out = run(tmp_path, program)

    assert "at exit\n" in out
    assert "finished\n" in out
    assert "cleaned up\n" in out
    assert "arbiter.portal the task fail (" in out
    assert "ValueError: lost" in out
    assert "Exception ignored" not in out
    assert "was destroyed" not in out


@pytest.mark.parametrize("log", ["asyncio"], indirect=True)
def test_the_module_for_applications_needs_no_event_loop_until_it_is_used(tmp_path: Path) -> None:
    program = """
import sys
import arbiter.portal, arbiter.workers.base
print(sorted({"asyncio", "uvloop", "ssl", "concurrent"} & set(sys.modules)))
"""

    assert run(tmp_path, program) == "[]\n"


@pytest.mark.parametrize("log", ["asyncio"], indirect=True)
def test_the_supervisor_has_nothing_of_the_portal(tmp_path: Path) -> None:
    program = "import sys, arbiter.cli, arbiter.supervisor; print([name for name in sys.modules if 'portal' in name])"

    assert run(tmp_path, program) == "[]\n"
