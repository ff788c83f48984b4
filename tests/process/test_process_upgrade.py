"""USR2 and WINCH: a new supervisor takes over on the same sockets; workers rest, and come back. Failures: tests/faults."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import procfs
import pytest
from clients import Asking, Reply, ask
from harness import app
from heirs import NOT_ALONE, Watch, begin, leave, stop, supervisors, upgrade, workers
from manager import Manager, passing
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

KEEP = ("--upgrade-keep", "600")
"""Longer than any test."""
WAITS = "\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
"""What holds an import until the test wants it to end."""


# A good upgrade -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock", "unix:@arbiter-upgrade"])
def test_an_upgrade_brings_new_code_on_the_same_socket(arbiter: Arbiter, bind: str) -> None:
    """1. New code is installed. 2. USR2. 3. The old supervisor leaves. 4. TERM to the new one.

    Result: status 0 for both; the socket's file is the same one from start to end, and is removed at the end.
    """
    server = arbiter.serve(bind=bind, workers=2)
    address = "\0arbiter-upgrade" if "@" in bind else server.address
    path = server.folder / "sock"
    inode = path.stat().st_ino if bind == "unix:sock" else 0
    arbiter.write("live.py", app("two"))
    fresh = upgrade(server)
    leave(server)

    assert ask(address).text.startswith("two ")
    assert sorted(worker.slot for worker in workers(fresh)) == [1, 2]
    assert not inode or path.stat().st_ino == inode
    stop(server, fresh)


def test_the_pid_file_names_the_ruling_supervisor_at_every_moment(arbiter: Arbiter, tmp_path: Path) -> None:
    """Two upgrades, one after the other; the file is read all the time. Result: first, second, third, no file; nothing else."""
    server = arbiter.serve("--pid", "pid", workers=1)
    inode = (tmp_path / "pid").stat().st_ino
    with Watch(tmp_path / "pid") as watch:
        second = upgrade(server)
        leave(server)
        third = upgrade(server, second)
        until(lambda: procfs.find(second) is None, "the end of the second")
        same = (tmp_path / "pid").stat().st_ino == inode
        stop(server, third)
        until(lambda: watch.seen[-1] == "nothing", "the end of the file")

    assert watch.seen == [str(server.pid), str(second), str(third), "nothing"]
    assert same


def test_until_all_workers_of_the_new_one_are_ready_nothing_changes(arbiter: Arbiter, tmp_path: Path) -> None:
    """1. The import of the new code is held. 2. USR2, and USR2 again, and a reload that is waited for. 3. It is let go.

    Result: the old one serves and owns the pid file; the second USR2 and the reload are ignored, and who waits is told so.
    """
    server = arbiter.serve("--pid", "pid", workers=2)
    before = server.wait_workers(2)
    arbiter.write("live.py", app("two", at_import=WAITS))
    fresh = begin(server)
    until(lambda: len([found for found in procfs.everyone() if found.parent == fresh]) == 1, "its first worker")
    server.send(signal.SIGUSR2)
    server.wait_log("upgrade ignored: one is under way")
    command: list[str | Path] = [Path(sys.executable).with_name("arbiterctl"), "--pid", "pid", "--wait", "reload"]
    reload = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    server.wait_log("reload ignored: an upgrade is under way")

    assert reload.returncode == 1
    assert "an upgrade was under way, which loads everything anew" in reload.stderr
    assert server.get().text.startswith("one ")
    assert procfs.pids(server.workers()) == procfs.pids(before)
    assert (tmp_path / "pid").read_text() == f"{server.pid}\n"
    (server.folder / "go").touch()
    leave(server)
    assert server.get().text.startswith("two ")
    assert (tmp_path / "pid").read_text() == f"{fresh}\n"
    stop(server, fresh)


def test_a_request_in_the_old_one_is_finished(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=1)
    held = server.ask("/held")
    (busy,) = server.wait_held()
    fresh = upgrade(server)
    server.wait_log(r"retiring: the new supervisor serves")
    server.release()

    assert held.reply() == Reply(200, f"one {busy}")
    leave(server)
    stop(server, fresh)


def test_it_starts_as_the_old_one_was_started(arbiter: Arbiter) -> None:
    """1. A server starts in a directory that is a link, with a relative path on its command line. 2. The link is moved. 3. USR2.

    Result: the new one is where the link leads now, with the environment of the start and nothing that was said to it alone.
    """
    tells = "\nwith open('environment', 'w') as file:\n    file.write(repr(sorted(os.environ.items())))\n"
    for release in ("a", "b"):
        arbiter.write(f"{release}/live.py", app(release, at_import=tells))
        arbiter.write(f"{release}/arbiter.toml", "timeout = 20\n")
    link = arbiter.folder / "current"
    link.symlink_to("a")
    there = ("sh", "-c", 'cd current && exec "$@"', "sh")
    server = arbiter.launch(
        "-w", "1", "-c", "arbiter.toml", "live", prefix=there, env={"ANSWER": "42", "ARBITER_PROVE": "0"}
    ).wait_ready()
    link.unlink()
    link.symlink_to("b")
    fresh = upgrade(server)
    leave(server)

    assert server.get().text.startswith("b ")
    before, after = ((arbiter.folder / release / "environment").read_text() for release in ("a", "b"))
    assert after == before
    assert "('ANSWER', '42')" in after
    stop(server, fresh)


def test_a_line_of_upgrades_leaks_no_descriptor(arbiter: Arbiter) -> None:
    """Three upgrades. Result: the last supervisor, and its worker, have open what the first ones had."""
    server = arbiter.serve("--pid", "pid", bind="unix:sock", workers=1)
    (worker,) = server.wait_workers(1)
    before = procfs.descriptors(server.pid), procfs.descriptors(worker.pid)
    pid = server.pid
    for _ in range(3):
        old, pid = pid, upgrade(server, pid)
        until(lambda old=old: old == server.pid or not procfs.find(old), "the end of the old one")  # type: ignore[misc]
        leave(server)
    (worker,) = workers(pid)
    until(lambda: procfs.descriptors(pid) == before[0], lambda: f"{before[0]}; it has {procfs.descriptors(pid)}")

    assert procfs.descriptors(worker.pid) == before[1]
    stop(server, pid)


def test_settings_of_the_new_one_decide_and_names_that_are_not_wanted_go(arbiter: Arbiter) -> None:
    """The new configuration has another socket, another pid file and another count.

    Result: what was only the old one's is removed when that one leaves; the socket of both is the same all the time.
    """
    arbiter.write("arbiter.toml", 'bind = ["unix:both", "unix:old"]\npidfile = "pid-old"\nworkers = 1\nwsgi_app = "live"\n')
    arbiter.write("live.py", app("one"))
    server = arbiter.launch(bind=None, makes=["both", "old", "new", "pid-old", "pid-new"]).wait_ready()
    inode = os.stat("both", dir_fd=(folder := os.open(arbiter.folder, os.O_RDONLY))).st_ino
    os.close(folder)
    arbiter.write("arbiter.toml", 'bind = ["unix:both", "unix:new"]\npidfile = "pid-new"\nworkers = 3\nwsgi_app = "live"\n')
    fresh = upgrade(server)
    leave(server)
    until(lambda: not (arbiter.folder / "old").exists(), "the end of the old socket")
    until(lambda: not (arbiter.folder / "pid-old").exists(), "the end of the old pid file")

    assert len(workers(fresh)) == 3
    assert (arbiter.folder / "both").stat().st_ino == inode
    assert (arbiter.folder / "pid-new").read_text() == f"{fresh}\n"
    assert ask(str(arbiter.folder / "both")).status == ask(str(arbiter.folder / "new")).status == 200
    stop(server, fresh)


def test_after_an_upgrade_everything_works_as_before(arbiter: Arbiter) -> None:
    server = arbiter.serve("--pid", "pid", workers=1)
    fresh = upgrade(server)
    leave(server)
    arbiter.write("live.py", app("two"))
    os.kill(fresh, signal.SIGHUP)
    until(lambda: server.count("reload done") == 1, "the reload")
    os.kill(fresh, signal.SIGTTIN)
    until(lambda: len(workers(fresh)) == 2, "one worker more")

    assert server.get().text.startswith("two ")
    stop(server, fresh)


# The keep -------------------------------------------------------------------------------------------------------------


def test_the_old_one_stays_for_its_keep_without_workers_and_leaves(arbiter: Arbiter) -> None:
    server = arbiter.serve("--upgrade-keep", "1", workers=1)
    fresh = upgrade(server)
    rested(server)
    stayed = server.process.poll() is None
    begun = server.count(NOT_ALONE)
    os.kill(fresh, signal.SIGUSR2)
    until(lambda: server.count(NOT_ALONE) > begun, "an answer to USR2")

    assert stayed
    leave(server)
    assert server.count("upgrade done: this supervisor leaves") == 1
    stop(server, fresh)


def rested(server: Server) -> None:
    until(lambda: not server.workers(), lambda: f"the rest of all workers: {server.children()}")


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_a_new_one_that_ends_within_the_keep_gives_the_service_back(
    arbiter: Arbiter, bind: str, number: signal.Signals
) -> None:
    """Killed, or stopped by an operator who has seen enough. Result: pid file and socket are the old one's; it serves."""
    server = arbiter.serve("--pid", "pid", *KEEP, bind=bind, workers=2)
    with Watch(server.folder / "pid") as watch:
        fresh = upgrade(server)
        rested(server)
        os.kill(fresh, number)
        server.wait_log("this one takes the service back")
        server.wait_workers(2)

    assert server.get().text.startswith("one ")
    assert watch.seen == [str(server.pid), str(fresh), str(server.pid)]
    assert server.stop() == 0


def test_hup_to_the_old_one_takes_the_service_back_once_all_its_workers_are_ready(arbiter: Arbiter) -> None:
    """Back-out: 1. USR2. 2. TTIN to the old one. 3. The old code is installed again. 4. HUP to the old one.

    Result: TTIN is refused; after HUP the new one serves until all of the old one's workers do, then it is stopped.
    """
    server = arbiter.serve("--pid", "pid", *KEEP, bind="unix:sock", workers=2)
    arbiter.write("live.py", app("two"))
    fresh = upgrade(server)
    rested(server)
    server.send(signal.SIGTTIN)
    server.wait_log("TTIN ignored: the new supervisor serves")
    arbiter.write("live.py", app("three"))
    server.send(signal.SIGHUP)
    server.wait_log("it takes the service back, and the new one is stopped")
    until(lambda: supervisors(server) == [server.pid], "the end of the new one")
    server.wait_workers(2, generation=2)

    assert server.get().text.startswith("three ")
    assert (server.folder / "pid").read_text() == f"{server.pid}\n"
    fresh = upgrade(server)
    os.kill(server.pid, signal.SIGTERM)
    leave(server)
    stop(server, fresh)


def test_code_that_is_no_good_is_not_taken_back_to(arbiter: Arbiter) -> None:
    """HUP to the old one within its keep, and the code does not boot. Result: refused; the new one serves on."""
    server = arbiter.serve(*KEEP, workers=1)
    fresh = upgrade(server)
    rested(server)
    arbiter.write("live.py", "raise RuntimeError('boom')\n")
    server.expect("boom")
    server.send(signal.SIGHUP)
    server.wait_log("reload refused")

    assert server.get().text.startswith("one ")
    assert len(workers(fresh)) == 1
    server.send(signal.SIGTERM)
    leave(server)
    stop(server, fresh)


def test_without_a_keep_term_to_the_new_one_ends_the_whole_service(arbiter: Arbiter) -> None:
    """1. A request keeps the old one from leaving. 2. The service is stopped, by its pid file. 3. The request ends.

    Result: both end; nobody takes anything back.
    """
    server = arbiter.serve("--pid", "pid", bind="unix:sock", workers=1)
    held = server.ask("/held")
    server.wait_held()
    fresh = upgrade(server)
    os.kill(int((server.folder / "pid").read_text()), signal.SIGTERM)
    server.wait_log("this one, which was leaving, ends with it")
    gone = procfs.find(fresh) is None
    server.release()

    assert gone
    assert held.reply().status == 200
    assert server.ended() == 0


@pytest.mark.parametrize("who", ["the old one", "the new one"])
def test_a_touched_file_reloads_whoever_serves_and_not_who_is_kept(arbiter: Arbiter, who: str) -> None:
    """`touch_reload` is watched by both processes' settings. Result: only the one that serves reloads."""
    touched = arbiter.write("touched", "")
    server = arbiter.serve("--touch-reload", "touched", *KEEP, workers=1)
    fresh = upgrade(server)
    rested(server)
    serving = fresh
    if who == "the old one":
        os.kill(fresh, signal.SIGKILL)
        server.wait_log("this one takes the service back")
        server.wait_workers(1)
        serving = server.pid
    os.utime(touched, (1.0, 1.0))
    until(lambda: server.count("reload done") == 1, "the reload")

    assert server.count(rf"pid={serving} reload done") == 1
    if serving == fresh:
        server.send(signal.SIGTERM)
        leave(server)
        stop(server, fresh)


def test_a_template_is_upgraded_with_its_service(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", workers=2)
    arbiter.write("live.py", app("two"))
    fresh = upgrade(server)
    leave(server)

    assert server.get().text.startswith("two ")
    assert len(workers(fresh)) == 2
    stop(server, fresh)


# Others who care ------------------------------------------------------------------------------------------------------


def test_the_service_manager_hears_of_the_new_main_process_when_it_serves(arbiter: Arbiter) -> None:
    """Result: one READY of each, MAINPID in between, said by the old one; the new one is silent until then.

    When the old one has gone, a child of the new one is the main process for a moment, and hands that back.
    """
    manager = Manager()
    arbiter.write("live.py", app("one"))
    server = arbiter.serve(workers=1, env=manager.env)
    fresh = upgrade(server)
    leave(server)
    until(
        lambda: any(f"MAINPID={fresh}" in message.lines and message.pid != server.pid for message in manager.hear()),
        "the introduction",
    )
    stand_in = next(
        message.pid for message in manager.said if f"MAINPID={fresh}" in message.lines and message.pid != server.pid
    )
    stop(server, fresh)
    words = ("READY=", "MAINPID=", "STOPPING=", "RELOADING=")
    said = [(message.pid, line) for message in manager.hear() for line in message.lines if line.startswith(words)]
    manager.close()

    assert said == [
        (server.pid, "READY=1"),
        (server.pid, f"MAINPID={fresh}"),
        (server.pid, "READY=1"),
        (fresh, "READY=1"),
        (fresh, f"MAINPID={stand_in}"),
        (stand_in, f"MAINPID={fresh}"),
        (fresh, "STOPPING=1"),
    ]


def test_the_service_manager_hears_who_is_the_main_process_when_the_service_is_taken_back(arbiter: Arbiter) -> None:
    manager = Manager()
    server = arbiter.serve(*KEEP, workers=1, env=manager.env)
    fresh = upgrade(server)
    os.kill(fresh, signal.SIGKILL)
    server.wait_log("this one takes the service back")
    server.wait_workers(1)
    server.stop()
    said = [line for message in manager.hear() if message.pid == server.pid for line in message.lines]
    manager.close()

    assert [line for line in said if line.startswith("MAINPID=")] == [f"MAINPID={fresh}", f"MAINPID={server.pid}"]
    assert said[-1] == "STATUS=stopped"


def test_sockets_of_a_socket_unit_and_of_the_store_are_passed_on(arbiter: Arbiter) -> None:
    """Result: the new one serves on both; neither is shut or removed when it ends, for they are the manager's."""
    manager = Manager()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        prefix, fds = passing({"web": listener.fileno()})
        server = arbiter.serve(workers=1, env=manager.env | {"FDSTORE": "4"}, prefix=prefix, pass_fds=fds)
        arbiter.write("live.py", app("two"))
        fresh = upgrade(server)
        leave(server)
        text = ask(listener.getsockname()).text
        stop(server, fresh)

        assert text.startswith("two ")
        with socket.create_connection(listener.getsockname()):
            pass  # it still listens
    manager.close()


def test_a_stored_socket_stays_stored_over_an_upgrade(arbiter: Arbiter) -> None:
    """Result: one name in the store from the start of the first to after the end of the second; who connects then waits."""
    manager = Manager()
    server = arbiter.serve(workers=1, env=manager.env | {"FDSTORE": "4"})
    manager.wait("FDSTORE=1")
    names = set(manager.store)
    fresh = upgrade(server)
    leave(server)
    stop(server, fresh)
    manager.hear()

    assert set(manager.store) == names
    with socket.create_connection(server.tcp):
        pass
    manager.close()


@pytest.mark.parametrize("what", ["pid file", "TCP socket", "Unix socket"])
def test_a_second_instance_is_refused_and_leaves_the_first_untouched(arbiter: Arbiter, what: str) -> None:
    """Before, during (within the keep) and after an upgrade."""
    server = arbiter.serve("--pid", "pid", "--bind", "unix:sock", *KEEP, workers=1)
    host, port = server.tcp
    arguments, bind, why = {
        "pid file": (("--pid", "pid"), "127.0.0.1:0", "already running: pid {pid} holds the pid file"),
        "TCP socket": ((), f"{host}:{port}", "can't listen on"),
        "Unix socket": ((), "unix:sock", "can't listen on"),
    }[what]
    kept = ["pid", "sock"]

    def refused(pid: int) -> None:
        """The second fails; the first has all that it had."""
        inodes = [os.stat(server.folder / name).st_ino for name in kept]
        keeps = [server.folder / name for name in (kept if what == "pid file" else ["sock"])]
        status, words = arbiter.fail("-w", "1", *arguments, "live", bind=bind, keeps=keeps)

        assert status == 1
        assert why.format(pid=pid) in words
        assert ask((host, port)).status == ask(str(server.folder / "sock")).status == 200
        assert (server.folder / "pid").read_text() == f"{pid}\n"
        assert [os.stat(server.folder / name).st_ino for name in kept] == inodes

    refused(server.pid)
    fresh = upgrade(server)
    refused(fresh)
    server.send(signal.SIGTERM)
    leave(server)
    refused(fresh)
    stop(server, fresh)


def test_process_1_is_not_upgraded_because_its_end_ends_the_container(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=1, prefix=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    (first,) = until(lambda: supervisors(server), "the supervisor")
    os.kill(first, signal.SIGUSR2)

    server.wait_log("upgrade ignored: this is process 1, and the container would end with it")
    assert server.get().status == 200
    os.kill(first, signal.SIGTERM)
    assert server.ended() == 0


def test_a_unit_that_systemd_would_stop_with_the_old_process_is_not_upgraded(arbiter: Arbiter) -> None:
    """Type=simple: this very process is what systemd has started, and it can't be told of another."""
    started_by_systemd = ("sh", "-c", 'export SYSTEMD_EXEC_PID=$$ && exec "$@"', "sh")
    server = arbiter.serve(workers=1, prefix=started_by_systemd)
    server.send(signal.SIGUSR2)

    server.wait_log("upgrade ignored: systemd would stop the unit when this process ends. Give it Type=notify")
    assert server.get().status == 200


@pytest.mark.parametrize("text", ["1", "{}", '{"sockets": [], "pidfile": null, "channel": 99}', "not even JSON"])
def test_what_one_supervisor_tells_another_is_not_for_people_to_set(arbiter: Arbiter, text: str) -> None:
    status, words = arbiter.fail("live", env={"ARBITER_INHERIT": text})

    assert status == 2
    assert "ARBITER_INHERIT is for one Arbiter to tell another. Don't set it" in words
    assert "Traceback" not in words


# -D -------------------------------------------------------------------------------------------------------------------


def test_a_daemon_is_upgraded_and_rests_like_any_other(arbiter: Arbiter, tmp_path: Path) -> None:
    """1. -D. 2. WINCH, TTIN. 3. USR2: the new one is no daemon's daemon. 4. USR2 again. 5. TERM."""
    arbiter.write("live.py", app("one"))
    command = arbiter.launch("-D", "--pid", "pid", "--error-logfile", "log", "-w", "1", "live", bind="unix:sock")
    assert command.wait_exit() == 0
    first = int((tmp_path / "pid").read_text())
    until(lambda: command.count("all 1 workers are ready") == 1, "its worker")
    os.kill(first, signal.SIGWINCH)
    until(lambda: not workers(first), "the rest of its worker")
    os.kill(first, signal.SIGTTIN)
    until(lambda: workers(first), "its worker")
    os.kill(first, signal.SIGUSR2)
    second = until(lambda: (pid := int((tmp_path / "pid").read_text())) != first and pid, "the second")
    until(lambda: procfs.find(first) is None, "the end of the first")
    found = procfs.find(second)

    assert found
    assert found.session != command.pid
    assert ask(str(tmp_path / "sock")).status == 200
    os.kill(second, signal.SIGTERM)
    until(lambda: procfs.find(second) is None, "the end of the second")
    command.check()


# WINCH ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGHUP])
def test_winch_retires_all_workers_and_ttin_or_hup_bring_them_back(arbiter: Arbiter, number: signal.Signals) -> None:
    """1. WINCH. 2. A client connects. 3. TTIN, or HUP. Result: the same number of workers as before; the client is answered."""
    server = arbiter.serve(workers=2)
    server.send(signal.SIGWINCH)
    server.wait_log("all workers are retired by signal; TTIN or HUP brings them back")
    rested(server)
    waiting = Asking(server.address, "/")
    server.send(number)

    assert waiting.reply().text.startswith("one ")
    server.wait_workers(2)


def test_a_resized_terminal_costs_no_worker(arbiter: Arbiter) -> None:
    """1. A server runs in the foreground of a terminal, whose size changes. 2. WINCH by a process.

    Result: nothing for the first; the second retires the workers.
    """
    terminal, theirs = os.openpty()
    # The leader of a session without a terminal gets the first that it opens: tty(4).
    foreground = ("sh", "-c", f'exec "$@" <{os.ttyname(theirs)}', "sh")
    server = arbiter.serve(workers=1, prefix=foreground)
    before = server.wait_workers(1)
    for rows in (30, 40):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, 80, 0, 0))
    server.send(signal.SIGUSR1)
    server.wait_log("log files reopened")  # a turn of the loop later

    assert procfs.pids(server.workers()) == procfs.pids(before)
    assert server.count("retired by signal") == 0
    server.send(signal.SIGWINCH)
    rested(server)
    os.close(theirs)
    server.stop()
    os.close(terminal)


def test_an_upgrade_of_a_resting_service_brings_workers(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=1)
    server.send(signal.SIGWINCH)
    rested(server)
    fresh = upgrade(server)
    leave(server)

    assert server.get().status == 200
    stop(server, fresh)
