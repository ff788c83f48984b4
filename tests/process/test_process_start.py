"""Starting: nothing is called ready before it serves, and what can't start says why, once, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest
from clients import ask
from harness import APP, app, unprivileged
from waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Arbiter

pytestmark = pytest.mark.process

QUICK = 10.0
"""Seconds within which a start that can't succeed is over. The promise is one second; the machine may be busy."""


def test_the_service_is_ready_only_when_its_first_worker_serves(arbiter: Arbiter) -> None:
    """An application that takes as long to import as the test wants.

    1. The address is there at once, and a request waits in the backlog.
    2. As long as the import goes on, the log calls nothing ready or serving.
    3. The import ends. Result: the request is answered, and only then more workers are forked.
    """
    arbiter.write("live.py", app("one", at_import="\nwhile not os.path.exists('release'): time.sleep(0.01)\n"))
    server = arbiter.launch("-w", "3", "--log-level", "debug", "live")

    waiting = server.ask("/")
    server.wait_log("booting")
    until(lambda: [child for child in server.workers() if child.slot == 1], "the first worker")
    before = server.log()
    server.release()
    reply = waiting.reply()
    server.wait_ready()

    assert "ready" not in before
    assert "serving:" not in before
    assert before.count(" booting\n") == 1
    assert reply.text.startswith("one ")
    assert re.search(r"worker=1 gen=1 .* ready after .*\n.* serving: .*\n(.*\n)*.*worker=2 gen=1 .* ready", server.log())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('the database is away')\n", "while importing live: RuntimeError: the database is away"),
        ("import sys\nsys.exit(0)\n", "while importing live: SystemExit: 0"),
        ("import nosuchlibrary\n", "while importing live: ModuleNotFoundError: No module named 'nosuchlibrary'"),
        ("def application(:\n", "while importing live: SyntaxError: "),
    ],
    ids=["raises", "exits", "lacks a library", "has a syntax error"],
)
def test_an_application_that_raises_at_import_ends_the_start_with_3_and_its_traceback_once(
    arbiter: Arbiter, source: str, said: str
) -> None:
    """Result: one line that says why, the application's traceback below it, no second worker, no pid file."""
    arbiter.write("live.py", source)

    began = time.monotonic()
    status, log = arbiter.fail("-w", "3", "--pid", "pid", "--log-level", "debug", "live")
    took = time.monotonic() - began

    assert status == 3
    assert said in log
    assert len(re.findall(r'live\.py", line \d', log)) == 1
    assert "/workers/app.py" not in log
    assert log.count(" booting\n") == 1
    assert took < QUICK


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("import os\nos._exit(7)\n", "exited with status 7"),
        ("import os\nos._exit(0)\n", "exited with status 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "was killed by SIGSEGV"),
    ],
    ids=["status 7", "status 0", "SIGSEGV"],
)
def test_a_worker_that_dies_at_import_ends_the_start_with_3_and_how_it_died(arbiter: Arbiter, source: str, how: str) -> None:
    arbiter.write("live.py", source)

    status, log = arbiter.fail("-w", "3", "--pid", "pid", "--log-level", "debug", "live", patience=QUICK)

    assert status == 3
    assert f"cannot start: worker=1 {how} while booting" in log
    assert log.count(" booting\n") == 1


def test_a_first_worker_that_hangs_at_import_ends_the_start_with_3_after_boot_timeout(arbiter: Arbiter) -> None:
    arbiter.write("live.py", "import time\ntime.sleep(600)\n")

    began = time.monotonic()
    status, log = arbiter.fail("-w", "3", "--boot-timeout", "2", "--pid", "pid", "--log-level", "debug", "live")
    took = time.monotonic() - began

    assert status == 3
    assert "cannot start: worker=1 was not ready within boot_timeout (2 s)" in log
    assert log.count(" booting\n") == 1
    assert 2 <= took < 2 + QUICK


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch:app", "no module named 'nosuch'"),
        ("live.inner:app", "no module named 'live.inner'"),
        ("live:nosuch", "'live' has no 'nosuch'. Did you mean live:application?"),
        ("live:NAME", "'NAME' in 'live' is not an application: it is a str"),
        ("live:NAME()", "'NAME' in 'live' can't be called: it is a str"),
    ],
)
def test_an_application_that_is_not_there_ends_the_start_with_4_and_one_message(arbiter: Arbiter, name: str, said: str) -> None:
    arbiter.write("live.py", APP)

    status, log = arbiter.fail("-w", "3", "--pid", "pid", "--log-level", "debug", name, patience=QUICK)

    assert status == 4
    assert said in log
    assert "Traceback" not in log
    assert log.count(" booting\n") == 1


def test_an_address_in_use_is_one_message_and_status_1_and_its_user_goes_on(arbiter: Arbiter) -> None:
    first = arbiter.serve()
    host, port = first.tcp

    status, log = arbiter.fail("live", bind=f"{host}:{port}")

    assert status == 1
    assert log == (
        f"arbiter: can't listen on {host}:{port}: Address already in use. "
        "Another process listens there: stop it, or choose another address with --bind.\n"
    )
    assert first.get().status == 200


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--pid", "can't write the pid file {path}: {why}. Choose another with --pid, or none."),
        ("--error-logfile", "can't open the log {path}: {why}. Check --error-logfile, --access-logfile."),
        ("--access-logfile", "can't open the log {path}: {why}. Check --error-logfile, --access-logfile."),
    ],
)
@pytest.mark.parametrize("why", ["Permission denied", "No such file or directory"])
def test_a_directory_that_cannot_be_written_is_one_message_and_status_1(
    arbiter: Arbiter, tmp_path: Path, option: str, said: str, why: str
) -> None:
    arbiter.write("live.py", APP)
    locked = tmp_path / "locked"
    if why == "Permission denied":
        locked.mkdir(0o555)

    status, log = arbiter.fail(option, locked / "file", "live", prefix=unprivileged(tmp_path))

    assert status == 1
    assert log == f"arbiter: {said.format(path=locked / 'file', why=why)}\n"


def test_a_unix_socket_in_a_directory_that_cannot_be_written_is_one_message_and_status_1(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    arbiter.write("live.py", APP)
    (tmp_path / "locked").mkdir(0o555)

    status, log = arbiter.fail("live", bind=f"unix:{tmp_path}/locked/sock", prefix=unprivileged(tmp_path))

    assert status == 1
    assert log.startswith(f"arbiter: can't listen on unix:{tmp_path}/locked/sock: Permission denied.")
    assert log.count("\n") == 1


def test_a_directory_to_work_in_that_is_not_there_is_one_message_and_status_2(arbiter: Arbiter) -> None:
    status, log = arbiter.fail("--chdir", "/nosuch", "live")

    assert status == 2
    assert log == 'arbiter: chdir = "/nosuch" (--chdir): there is no such directory. Make it, or change chdir.\n'


def test_wrong_settings_are_told_all_together_with_status_2(arbiter: Arbiter) -> None:
    arbiter.write("arbiter.toml", 'wokers = 7\ntimeout = "soon"\n')

    status, log = arbiter.fail("live")

    assert status == 2
    assert "unknown setting 'wokers' (arbiter.toml:1): did you mean 'workers'?" in log
    assert 'timeout = "soon" (arbiter.toml:2): ' in log
    assert log.count("\n") == 2


def test_the_first_lines_say_version_address_workers_and_how_to_reload_and_stop(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=3)
    host, port = server.tcp
    first = server.log().partition("\n")[0]

    assert re.search(r"\[INFO\] worker=- gen=1 pid=\d+ arbiter \d+\.\d+\.\d+ \(Python 3\.\d+\) ", first)
    assert f"listening on http://{host}:{port}: 3 sync workers for live" in first
    assert f"kill -HUP {server.pid}" in first
    assert f"kill -TERM {server.pid}" in first


@pytest.mark.parametrize(
    ("arguments", "env", "count"),
    [
        ((), {}, 0),
        (("-w", "auto"), {}, 0),
        ((), {"WEB_CONCURRENCY": "auto"}, 0),
        ((), {"WEB_CONCURRENCY": "2"}, 2),
        (("-w", "1"), {"WEB_CONCURRENCY": "2"}, 1),
        (("-w", "auto"), {"WEB_CONCURRENCY": "1"}, 0),
    ],
)
def test_the_number_of_workers_comes_from_the_flag_then_web_concurrency_then_the_cores(
    arbiter: Arbiter, arguments: tuple[str, ...], env: dict[str, str], count: int
) -> None:
    """0 stands for 2 x cores + 1; the server may use one core (its affinity is set before it starts), so that is 3."""
    arbiter.write("live.py", APP)
    core = min(os.sched_getaffinity(0))

    server = arbiter.launch(*arguments, "live", env=env, prefix=("taskset", "-c", str(core)))
    workers = server.wait_workers(count or 3)

    server.wait_log(rf"{count or 3} sync workers? for live")
    assert [worker.slot for worker in workers] == list(range(1, (count or 3) + 1))


def test_process_titles_name_role_slot_generation_and_application(arbiter: Arbiter) -> None:
    server = arbiter.serve()
    workers = server.wait_workers(2)
    (main,) = [member for member in server.members() if member.pid == server.pid]

    assert main.title == "arbiter: supervisor [live]"
    assert [worker.title for worker in workers] == [f"arbiter: worker {slot} (gen 1) [live]" for slot in (1, 2)]


def test_a_worker_finds_its_slot_in_the_environment_and_nothing_of_the_supervisors_notify_socket(arbiter: Arbiter) -> None:
    server = arbiter.serve("--env", "COLOUR=green", workers=1, env={"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1"})

    assert server.get("/env?ARBITER_WORKER_ID").text == "1"
    assert server.get("/env?COLOUR").text == "green"
    assert server.get("/env?NOTIFY_SOCKET").text == ""
    assert server.get("/env?WATCHDOG_USEC").text == ""


def test_a_pid_file_holds_the_supervisor_and_is_removed_at_the_end(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve("--pid", "pid")
    text = (tmp_path / "pid").read_text()
    status = server.stop()

    assert text == f"{server.pid}\n"
    assert status == 0
    assert not (tmp_path / "pid").exists()


def test_a_second_instance_with_the_same_pid_file_is_refused_and_the_first_goes_on(arbiter: Arbiter, tmp_path: Path) -> None:
    """1. A server holds a pid file. 2. Another is started with it. Result: status 1, one message, nothing is touched."""
    first = arbiter.serve("--pid", "pid")

    status, log = arbiter.fail("--pid", "pid", "live", keeps=[tmp_path / "pid"])

    assert status == 1
    assert log == (
        f"arbiter: already running: pid {first.pid} holds the pid file {tmp_path}/pid. "
        "Stop it first, or choose another with --pid.\n"
    )
    assert (tmp_path / "pid").read_text() == f"{first.pid}\n"
    assert first.get().status == 200


def test_a_stale_pid_file_is_taken_over_also_when_its_number_lives_again(arbiter: Arbiter, tmp_path: Path) -> None:
    """A file of a program long gone, whose number now belongs to somebody who started later: this very test."""
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    os.utime(tmp_path / "pid", (1, 1))

    server = arbiter.serve("--pid", "pid")

    assert (tmp_path / "pid").read_text() == f"{server.pid}\n"


def test_a_pid_file_of_a_living_program_that_does_not_lock_is_respected(arbiter: Arbiter, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")

    status, log = arbiter.fail("--pid", "pid", "live", keeps=[tmp_path / "pid"])

    assert status == 1
    assert f"belongs to pid {os.getpid()}, which is alive" in log
    assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_pid_file_that_somebody_else_has_put_in_its_place_is_left_alone(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve("--pid", "pid")
    arbiter.write("pid", "somebody else's\n")
    server.keeps = frozenset([str(tmp_path / "pid")])

    assert server.stop() == 0
    assert (tmp_path / "pid").read_text() == "somebody else's\n"


def test_a_unix_socket_is_served_and_its_file_is_removed(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve(bind="unix:sock")

    assert server.address == str(tmp_path / "sock")
    assert server.get().status == 200
    assert server.stop() == 0
    assert not (tmp_path / "sock").exists()


def test_a_stale_unix_socket_is_replaced(arbiter: Arbiter, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "sock"))

    server = arbiter.serve(bind="unix:sock")

    assert server.get().status == 200


def test_a_unix_socket_that_somebody_serves_is_refused_and_left_alone(arbiter: Arbiter, tmp_path: Path) -> None:
    """1. A server listens on a Unix socket. 2. A second one is told to. Result: status 1, and the first goes on."""
    first = arbiter.serve(bind="unix:sock")

    status, log = arbiter.fail("live", bind="unix:sock", keeps=[tmp_path / "sock"])

    assert status == 1
    assert "Address already in use" in log
    assert first.get().status == 200


def test_a_file_that_is_no_socket_is_left_alone(arbiter: Arbiter, tmp_path: Path) -> None:
    (tmp_path / "sock").write_text("precious")

    status, log = arbiter.fail("live", bind="unix:sock", keeps=[tmp_path / "sock"])

    assert status == 1
    assert "not a socket" in log
    assert (tmp_path / "sock").read_text() == "precious"


def test_a_socket_file_that_somebody_else_has_put_in_its_place_is_left_alone(arbiter: Arbiter, tmp_path: Path) -> None:
    server = arbiter.serve(bind="unix:sock")
    (tmp_path / "sock").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "sock"))
        server.keeps = frozenset([str(tmp_path / "sock")])

        assert server.stop() == 0
        assert (tmp_path / "sock").is_socket()


def test_several_addresses_are_served_together(arbiter: Arbiter, tmp_path: Path) -> None:
    arbiter.write("live.py", APP)
    server = arbiter.launch("--bind", "unix:sock", "-w", "2", "live").wait_ready()

    assert server.get().status == 200
    assert ask(str(tmp_path / "sock")).status == 200


@pytest.mark.parametrize(
    ("source", "status", "told"),
    [
        ("def application(e, s): ...", 0, "The configuration is sound."),
        ("import nosuchmodule", 3, "failed while importing live: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("app = 1", 4, "'live' has no 'application'"),
        ("import os\nassert os.environ['WHERE'] == 'here'\ndef application(e, s): ...", 0, "The configuration is sound."),
    ],
)
def test_check_config_loads_the_application_and_starts_nothing(arbiter: Arbiter, source: str, status: int, told: str) -> None:
    arbiter.write("live.py", source)
    found, words = arbiter.fail("--check-config", "-e", "WHERE=here", "live")

    assert (found, told in words) == (status, True), words
    assert "listening" not in words
