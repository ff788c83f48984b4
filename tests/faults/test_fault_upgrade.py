"""Upgrades that go well, badly, or too far: whoever serves goes on serving, and in the end nobody is left over."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import procfs
import pytest
from harness import app, unprivileged
from heirs import Watch, begin, children, leave, stop, supervisors, upgrade, workers
from limits import limited
from waiting import PATIENCE, until

import arbiter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

PACKAGE = Path(arbiter.__file__).resolve().parent
WAITS = "\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
HANGS = "\nopen('hanging', 'x').close()\ntime.sleep(600)\n"


def nobody_is_left(server: Server) -> None:
    until(lambda: not server.members(), lambda: f"the end of all processes: {server.members()}")


# A client that never stops asking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock"])
def test_a_line_of_upgrades_costs_no_request(arbiter: Arbiter, bind: str) -> None:
    """A client asks all the time. 1. New code, USR2. 2. The same again, to the new one. 3. And again.

    Result: not one failure; the last replies are of the last code.
    """
    server = arbiter.serve("--pid", "pid", bind=bind, workers=2)
    pid = server.pid
    with server.client(threads=4) as client:
        client.more(50)
        for name in ("two", "three", "four"):
            arbiter.write("live.py", app(name))
            old, pid = pid, upgrade(server, pid)
            leave(server)
            until(lambda old=old: not (found := procfs.find(old)) or found.state == "Z", "the end of the old one")  # type: ignore[misc]
            client.more(20)
        last = client.replies[-1][1]

    assert client.failures == []
    assert last.startswith("four ")
    assert client.names == {"one", "two", "three", "four"}
    stop(server, pid)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock"])
def test_to_and_fro_costs_no_request_but_those_in_the_killed_workers(arbiter: Arbiter, bind: str) -> None:
    """A client asks all the time. 1. USR2. 2. TERM to the new one: back. 3. USR2. 4. HUP to the old one: back."""
    server = arbiter.serve("--upgrade-keep", "600", "--pid", "pid", bind=bind, workers=2)
    with server.client(threads=4) as client:
        first = upgrade(server)
        client.more(50)
        os.kill(first, signal.SIGTERM)
        server.wait_log("this one takes the service back")
        server.wait_workers(2)
        client.more(50)
        second = upgrade(server)
        until(lambda: not server.workers(), "the rest of the old one's workers")
        server.send(signal.SIGHUP)
        server.wait_log("it takes the service back, and the new one is stopped")
        until(lambda: procfs.find(second) is None, "the end of the new one")
        client.more(50)

    assert client.failures == []
    assert server.stop() == 0


def test_a_new_one_that_is_killed_within_the_keep_costs_only_what_was_in_its_workers(arbiter: Arbiter) -> None:
    """1. USR2. 2. SIGKILL to the new supervisor, while a client asks. Its workers finish what they have, and leave."""
    server = arbiter.serve("--upgrade-keep", "600", "--pid", "pid", workers=2)
    fresh = upgrade(server)
    until(lambda: not server.workers(), "the rest of the old one's workers")
    with server.client(threads=4) as client:
        client.more(50)
        os.kill(fresh, signal.SIGKILL)
        server.wait_log(r"the new supervisor was killed by SIGKILL: this one takes the service back")
        server.wait_workers(2)
        client.more(50)

    assert client.failures == []
    assert (server.folder / "pid").read_text() == f"{server.pid}\n"
    assert server.stop() == 0


# New versions that are no good ------------------------------------------------------------------------------------------


def spoil(arbiter: Arbiter, how: str, taken: socket.socket) -> str:
    """Make the next start fail; what the log is to say of it."""
    if how == "the application raises":
        arbiter.write("live.py", "raise RuntimeError('boom')\n")
        return r"exited with status 3: The first worker did not boot"
    if how == "there is no application":
        (arbiter.folder / "live.py").unlink()
        return r"exited with status 4: The application was not found"
    if how == "the application hangs":
        arbiter.write("live.py", app("two", at_import=HANGS))
        arbiter.write("arbiter.toml", 'bind = ["unix:sock"]\nboot_timeout = 1\n')
        return r"exited with status 3: "
    if how == "wrong settings":
        arbiter.write("arbiter.toml", "wokers = 3\ntimeout = 'abc'\n")
        return r"exited with status 2: .*wokers.*; .*timeout"
    if how == "an address in use":
        arbiter.write("arbiter.toml", f'bind = ["unix:sock", "127.0.0.1:{taken.getsockname()[1]}"]\n')
        return r"exited with status 1: can't listen on 127\.0\.0\.1:\d+: Address already in use"
    if how == "the interpreter is gone":
        (arbiter.folder / "bin" / "python").unlink()
        return r"exited with status 1: can't run .*/bin/python: No such file or directory"
    assert how == "the directory is gone"
    (arbiter.folder / "place").rmdir()
    return r"exited with status 1: can't enter .*/place: No such file or directory"


def in_a_place_of_its_own(arbiter: Arbiter) -> tuple[Sequence[str], dict[str, str]]:
    """A prefix and an environment for a server in a directory, and with an interpreter, that can go away."""
    (arbiter.folder / "place").mkdir()
    (arbiter.folder / "bin").mkdir()
    (arbiter.folder / "bin" / "python").symlink_to(sys.executable)
    script = f'cd place && shift && exec {arbiter.folder}/bin/python "$@"'
    paths = [str(PACKAGE.parent), *(path for path in sys.path if path.endswith("site-packages"))]
    return ("sh", "-c", script, "sh"), {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize(
    "how",
    [
        "the application raises",
        "there is no application",
        "the application hangs",
        "wrong settings",
        "an address in use",
        "the interpreter is gone",
        "the directory is gone",
    ],
)
def test_a_new_version_that_fails_leaves_the_old_one_serving(arbiter: Arbiter, how: str) -> None:
    """1. What is installed is spoilt. 2. USR2, while a client asks. 3. It is repaired. 4. USR2.

    Result: the first is refused with one line that says why, nothing of it is left, and not one request fails; the second
    succeeds as if the first had not been.
    """
    arbiter.write("live.py", app("one"))
    arbiter.write("arbiter.toml", 'bind = ["unix:sock"]\n')
    config = ("-c", str(arbiter.folder / "arbiter.toml"), "--chdir", str(arbiter.folder), "--pid", str(arbiter.folder / "pid"))
    prefix, env = in_a_place_of_its_own(arbiter)
    server = arbiter.launch(*config, "-w", "2", "live", bind=None, prefix=prefix, env=env, makes=["sock"]).wait_ready()
    before = server.wait_workers(2), procfs.descriptors(server.pid)
    inodes = [(arbiter.folder / name).stat().st_ino for name in ("sock", "pid")]
    server.expect("Traceback")
    with (
        server.client() as client,
        Watch(arbiter.folder / "pid") as watch,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        said = spoil(arbiter, how, taken)
        server.send(signal.SIGUSR2)
        server.wait_log(rf"\[ERROR\] .* upgrade refused: the new supervisor {said}.*This one keeps serving")
        client.more(10)
        until(lambda: len(server.children()) == 2, "the end of all that came of it")

    assert client.failures == []
    assert client.names == {"one"}
    assert watch.seen == [str(server.pid)]
    assert procfs.pids(server.wait_workers(2)) == procfs.pids(before[0])
    assert procfs.descriptors(server.pid) == before[1]
    assert [(arbiter.folder / name).stat().st_ino for name in ("sock", "pid")] == inodes
    assert server.count("upgrade refused") == 1

    arbiter.write("live.py", app("two"))
    arbiter.write("arbiter.toml", 'bind = ["unix:sock"]\n')
    (arbiter.folder / "place").mkdir(exist_ok=True)
    if not (arbiter.folder / "bin" / "python").is_symlink():
        (arbiter.folder / "bin" / "python").symlink_to(sys.executable)
    fresh = upgrade(server)
    leave(server)
    assert server.get().text.startswith("two ")
    stop(server, fresh)


@pytest.mark.slow
def test_a_new_supervisor_that_hangs_before_it_begins_is_stopped(arbiter: Arbiter) -> None:
    """Its configuration is a program that does not end. Result: refused after two boots and ten seconds."""
    conf = arbiter.write("arbiter.conf.py", "boot_timeout = 3\nworkers = 1\n")
    arbiter.write("live.py", app("one"))
    server = arbiter.launch("-c", "arbiter.conf.py", "live").wait_ready()
    conf.write_text("import time\ntime.sleep(600)\n")
    with server.client() as client:
        begin(server)
        server.wait_log(r"did not have all its workers ready within 16 s\. This one keeps serving", patience=16 + PATIENCE)
        server.wait_workers(1)

    assert client.failures == []
    conf.write_text("workers = 1\n")
    fresh = upgrade(server)
    leave(server)
    stop(server, fresh)


def test_a_fork_that_fails_refuses_the_upgrade(arbiter: Arbiter) -> None:
    """EAGAIN for the new supervisor itself (root may always fork, so the server runs as somebody else)."""
    somebody = unprivileged(arbiter.folder)
    server = arbiter.serve(workers=1, prefix=somebody)
    with limited(server.pid, "nproc", 0, somebody):
        server.send(signal.SIGUSR2)
        server.wait_log("upgrade refused: the new supervisor could not be started: Resource temporarily unavailable")

    assert server.get().status == 200
    fresh = upgrade(server)
    leave(server)
    stop(server, fresh)


# At the wrong moment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["at once", "in its import"])
def test_term_during_an_upgrade_wins_at_once(arbiter: Arbiter, number: signal.Signals, moment: str) -> None:
    """1. USR2; the new one hangs in its import. 2. TERM. Result: both end within moments; no file is left."""
    server = arbiter.serve("--pid", "pid", bind="unix:sock", workers=2)
    arbiter.write("live.py", app("two", at_import=HANGS))
    server.send(signal.SIGUSR2)
    if moment == "in its import":
        until((server.folder / "hanging").exists, "a worker in its import")
    server.send(number)

    assert server.ended(patience=5.0) == 0
    assert server.count("taken over") == 0


def test_an_impatient_operator_gets_sigkill_for_both(arbiter: Arbiter) -> None:
    """The new one is stopped (SIGSTOP) and hears nothing. 1. TERM, three times. Result: nobody is left."""
    server = arbiter.serve(workers=1)
    arbiter.write("live.py", app("two", at_import=WAITS))
    fresh = begin(server)
    until(lambda: children(fresh), "its first worker")
    os.kill(fresh, signal.SIGSTOP)
    for times in (1, 2, 3):
        server.send(signal.SIGTERM)
        until(lambda: server.count("stopping:|quitting:|killing all") >= times, "an answer")  # noqa: B023 - used at once

    assert server.ended(patience=5.0) == 0


def test_a_storm_of_upgrades_reloads_and_changes_of_count_costs_no_request(arbiter: Arbiter) -> None:
    """A client asks all the time; whoever the pid file names gets USR2, HUP, TTIN, TTOU as quickly as it answers.

    Result: not one failure in three upgrades and more; then TERM to whoever it is ends it all, with nothing left behind.
    """
    server = arbiter.serve("--pid", "pid", bind="unix:sock", workers=2)
    pidfile = server.folder / "pid"

    def ruler() -> int:
        return int(pidfile.read_text())

    with server.client(threads=4, pause=0.0) as client:
        for times in (1, 2, 3):
            for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGTTIN, signal.SIGUSR2, signal.SIGTTOU, signal.SIGHUP):
                os.kill(ruler(), number)
                client.more(5)
            for number in itertools.cycle((signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)):
                if server.count("taken over") >= times:
                    break
                os.kill(ruler(), number)  # ignored while the reload is on trial, or an upgrade is under way
                client.more(5)

    assert client.failures == []
    while server.members():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(ruler(), signal.SIGTERM)
        with contextlib.suppress(AssertionError):  # an upgrade that was under way had its last moment after ours
            until(lambda: not server.members(), "the end of all processes", patience=2.0)
    assert server.ended() == 0


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04])
def test_one_that_is_stopped_while_the_other_leaves_leaves_nothing_behind(arbiter: Arbiter, delay: float) -> None:
    """1. USR2. 2. The new one is stopped at about the moment in which the old one leaves: each might think that the other stays.

    Result: pid file and socket are removed, whoever was the last.
    """
    server = arbiter.serve("--pid", "pid", bind="unix:sock", workers=1)
    fresh = upgrade(server)
    time.sleep(delay)  # not to wait for anything: to meet another moment
    os.kill(fresh, signal.SIGTERM)
    nobody_is_left(server)

    assert server.ended() == 0


# Whoever dies -----------------------------------------------------------------------------------------------------------


def test_a_new_one_that_is_killed_while_it_starts_is_as_if_it_had_never_been(arbiter: Arbiter) -> None:
    server = arbiter.serve("--pid", "pid", bind="unix:sock", workers=1)
    before = server.wait_workers(1)
    arbiter.write("live.py", app("two", at_import=WAITS))
    fresh = begin(server)
    until(lambda: children(fresh), "its first worker")
    os.kill(fresh, signal.SIGKILL)
    server.wait_log("upgrade refused: the new supervisor was killed by SIGKILL. This one keeps serving")
    until(lambda: len(server.members()) == 2, "the end of its worker")

    assert procfs.pids(server.workers()) == procfs.pids(before)
    assert server.get().text.startswith("one ")
    assert (server.folder / "pid").read_text() == f"{server.pid}\n"
    assert server.stop() == 0


@pytest.mark.parametrize("moment", ["while it starts", "within the keep"])
def test_when_the_old_one_is_killed_the_new_one_has_everything(arbiter: Arbiter, moment: str) -> None:
    """1. USR2. 2. SIGKILL to the old supervisor. Result: the new one serves, owns pid file and socket, and removes both."""
    server = arbiter.serve("--pid", "pid", "--upgrade-keep", "600", bind="unix:sock", workers=1)
    arbiter.write("live.py", app("two", at_import=WAITS))
    fresh = begin(server)
    until(lambda: children(fresh), "its first worker")
    if moment == "within the keep":
        (server.folder / "go").touch()
        until(lambda: server.count("taken over") == 1, "its taking over")
    server.send(signal.SIGKILL)
    server.wait_exit()
    (server.folder / "go").touch()
    until(lambda: (server.folder / "pid").read_text() == f"{fresh}\n", "its pid in the file")
    until(lambda: server.count("all 1 workers are ready") == 2, "its worker")

    assert server.get().text.startswith("two ")
    os.kill(fresh, signal.SIGHUP)
    until(lambda: server.count("reload done") == 1, "a reload")
    os.kill(fresh, signal.SIGTERM)
    nobody_is_left(server)
    server.check()


def test_both_told_to_stop_at_once_leave_nothing(arbiter: Arbiter) -> None:
    """What a service manager does to a unit: TERM to every process of it, within the keep."""
    server = arbiter.serve("--pid", "pid", "--upgrade-keep", "600", bind="unix:sock", workers=2)
    fresh = upgrade(server)
    until(lambda: not server.workers(), "the rest of the old one's workers")
    for pid in (fresh, server.pid):
        os.kill(pid, signal.SIGTERM)
    nobody_is_left(server)

    assert server.ended() == 0


def test_an_installation_that_is_replaced_whole_is_what_runs_next(arbiter: Arbiter) -> None:
    """Arbiter itself is new: its package is another directory behind the same link. Result: the new one's words are in the log."""
    for version in ("1.0.0", "2.0.0"):
        copy = arbiter.folder / f"release-{version}" / "arbiter"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "__init__.py").write_text(f'__version__ = "{version}"\n')
    link = arbiter.folder / "installed"
    link.symlink_to("release-1.0.0")
    server = arbiter.serve(workers=1, env={"PYTHONPATH": str(link)})
    (aside := arbiter.folder / "next").symlink_to("release-2.0.0")
    aside.replace(link)
    fresh = upgrade(server)
    leave(server)

    assert server.count(r"arbiter 1\.0\.0 ") == server.count(r"arbiter 2\.0\.0 ") == 1
    assert supervisors(server) == [fresh]
    assert len(workers(fresh)) == 1
    stop(server, fresh)
