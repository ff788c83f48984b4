"""The benchmarks measure real servers truly, and leave none of them behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import procfs
from benchmarks.figures import Run
from benchmarks.load import IdleConnections
from benchmarks.measure import CannotMeasureError, check, running
from benchmarks.servers import BY_NAME, SERVERS, Server
from benchmarks.workloads import BY_NAME as WORKLOADS
from benchmarks.workloads import HELLO

ROOT = Path(__file__).parents[2]
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
CORE = max(os.sched_getaffinity(0))

pytestmark = pytest.mark.process


def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields() -> None:
    line = "42 (a) (b c) S 1 42 17 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 100 0 0"

    assert procfs.Process(pid=42, session=17, ticks=33, reaped=77) == procfs.parse(line)


def test_the_time_of_a_tree_holds_the_living_and_the_dead() -> None:
    """1. A process burns 0.3 s, as does a child that it waits for, and one that goes on to live.

    Result: its session has used 0.9 s, and memory.
    """
    program = (
        "import subprocess, sys\n"
        f"burn = {BURN!r}\n"
        "exec(burn)\n"
        "subprocess.run([sys.executable, '-c', burn], check=True)\n"
        "child = subprocess.Popen([sys.executable, '-c', burn + 'print(1, flush=True); input()'], stdin=subprocess.PIPE)\n"
        "input(); child.communicate(b'\\n')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        used, memory = procfs.cpu_seconds(process.pid), procfs.pss_bytes(process.pid)
        process.communicate(b"\n")

    assert used + procfs.TICK >= 0.9  # what the dead have used is cut to whole ticks
    assert used < 2.0  # starting three interpreters is the rest
    assert memory > 2_000_000
    assert process.returncode == 0


def test_a_server_that_does_not_start_says_why_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    broken = Server("broken", "", "{python} -m there_is_no_such_module {port}", HELLO)

    with (
        pytest.raises(CannotMeasureError, match=r"status 1.*there_is_no_such_module"),
        running(broken, WORKLOADS["hello"], str(tmp_path), CORE) as (pid, _),
    ):
        pytest.fail(f"it runs: {pid}")


def test_a_server_is_checked_pinned_and_gone_afterwards(tmp_path: Path) -> None:
    with running(BY_NAME["limit-environ"], WORKLOADS["hello"], str(tmp_path), CORE) as (pid, port):
        check(WORKLOADS["hello"], port)
        assert {CORE} == os.sched_getaffinity(pid)
        assert [pid] == [member.pid for member in procfs.members(pid)]

    assert procfs.members(pid) == []


def test_a_wrong_answer_is_no_figure(tmp_path: Path) -> None:
    server = BY_NAME["limit-environ"]
    with (
        running(server, WORKLOADS["hello"], str(tmp_path), CORE) as (_, port),
        pytest.raises(CannotMeasureError, match="200 with 14 bytes, and not 200 with 15"),
    ):
        check(replace(WORKLOADS["hello"], reply=15), port)


def test_idle_connections_that_the_server_closes_are_counted(tmp_path: Path) -> None:
    with (
        running(BY_NAME["limit-canned"], WORKLOADS["hello"], str(tmp_path), CORE) as (pid, port),
        IdleConnections(port, 5) as idle,
    ):
        assert idle.lost() == 0
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while idle.lost() < 5 and time.monotonic() < deadline:
            time.sleep(0.01)

        assert idle.lost() == 5


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("wrk") is None or shutil.which("h2load") is None,
    reason="needs the load generators wrk and h2load (Debian: apt-get install wrk nghttp2-client)",
)
def test_every_kind_of_arbiter_can_be_measured(tmp_path: Path) -> None:
    ours = [server.name for server in SERVERS if server.ours]
    output = tmp_path / "result.json"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # python -m, from the root
    words = [
        "--servers",
        ",".join(ours),
        "--workloads",
        "hello,http2",
        "--seconds",
        "1",
        "--rounds",
        "1",
        "--output",
        str(output),
    ]

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.from_json(output.read_text())
    measured = {server: samples[0] for (workload, server), samples in run.cells.items() if workload == "hello"}
    assert run.cells["http2", "arbiter-async"][0].requests > 100
    assert run.cells["http2", "arbiter-async"][0].errors == 0
    assert {"arbiter-sync", "arbiter-sync-log"} <= measured.keys(), done.stdout
    for sample in measured.values():
        assert sample.requests > 100
        assert sample.errors == 0
        assert 0 < sample.cpu_seconds <= sample.seconds * 1.2
        assert sample.pss_bytes > 5_000_000
    assert {f"arbiter-{kind} / hello" for kind in ("sync", "threaded", "async")} == run.log_costs.keys()
    for name in set(ours) - measured.keys():  # a kind of worker that there is not yet
        assert "worker_class" in run.skipped[f"hello / {name}"]
