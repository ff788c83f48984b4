"""systemd's side channel, word by word: a socket of ours listens in the manager's place. The real one: tests/faults."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import time
from typing import TYPE_CHECKING

import procfs
import pytest
from clients import ask
from harness import APP, app
from manager import Manager, passing
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

STATES = ("READY=", "RELOADING=", "STOPPING=")
WAITS = "\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
"""What holds an import until the test wants it to end."""


@pytest.fixture
def manager(arbiter: Arbiter) -> Iterator[Manager]:
    """It hears nobody but supervisors, whatever the test does."""
    manager = Manager()
    try:
        yield manager
        strangers = {message.pid for message in manager.hear()} - {server.pid for server in arbiter.servers}
        assert not strangers, f"others than a supervisor have spoken to the manager: {strangers}"
    finally:
        manager.close()


def reload(server: Server, source: str) -> None:
    (server.folder / "live.py").write_text(source)
    server.send(signal.SIGHUP)


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_is_said_once_and_not_before_a_worker_serves(
    arbiter: Arbiter, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    """1. The import of the application is held. 2. It is let go. 3. TERM.

    Result: more time is asked for before, READY=1 comes after, STOPPING=1 at the end, each once; only the supervisor speaks.
    """
    manager = Manager(str(tmp_path_factory.mktemp("manager") / "notify")) if kind == "path" else Manager()
    arbiter.write("live.py", app("one", at_import=WAITS))
    server = arbiter.launch("-w", "2", "live", env=manager.env)
    manager.wait("EXTEND_TIMEOUT_USEC=15000000")
    status = manager.status
    until(lambda: len(server.children()) == 1, "the first worker")
    before = manager.lines(*STATES)
    (server.folder / "go").touch()
    manager.wait("READY=1")
    reply = server.get()
    manager.wait("2/2 ready, 0 busy, gen 1")
    server.stop()
    states, senders = manager.lines(*STATES), {message.pid for message in manager.said}
    manager.close()

    assert before == []
    assert status == "starting: 0/2 ready"
    assert reply.status == 200
    assert states == ["READY=1", "STOPPING=1"]
    assert senders == {server.pid}


@pytest.mark.parametrize(
    ("arguments", "source", "why"),
    [
        (["live"], "raise RuntimeError('boom')\n", "worker=1 failed while importing live: RuntimeError: boom."),
        (["nowhere"], APP, "worker=1 failed while importing nowhere: "),
        (["--wokers", "2", "live"], APP, "wokers"),
        (["--pid", "none/pid", "live"], APP, "none/pid"),
    ],
    ids=["the application raises", "there is no application", "wrong settings", "no pid file"],
)
def test_a_start_that_fails_says_why_and_never_ready(
    arbiter: Arbiter, manager: Manager, arguments: list[str], source: str, why: str
) -> None:
    arbiter.write("live.py", source)
    status, _ = arbiter.fail(*arguments, env=manager.env)

    assert status != 0
    assert manager.status.startswith("cannot start: ")
    assert why in manager.status
    assert manager.lines("READY=", "RELOADING=") == []


def test_a_good_reload_is_reloading_until_every_worker_is_new(arbiter: Arbiter, manager: Manager) -> None:
    """1. HUP; the canary's import is held. 2. It is let go.

    Result: RELOADING=1 with the time of the HUP at once, READY=1 when the roll is over, no old worker being left then.
    """
    server = arbiter.serve(workers=3, env=manager.env)
    before = time.monotonic_ns() // 1000
    reload(server, app("two", at_import=WAITS))
    manager.wait("RELOADING=1")
    manager.wait("gen 2 on trial")
    held = manager.lines(*STATES)
    (server.folder / "go").touch()
    manager.wait("READY=1", times=2)
    generations = {worker.generation for worker in server.workers() if worker.state != "Z"}
    at = int(manager.lines("MONOTONIC_USEC=")[0].partition("=")[2])
    time_asked = manager.lines("EXTEND_TIMEOUT_USEC=")
    ready = [message.lines for message in manager.hear() if "READY=1" in message.lines][-1]

    assert held == ["READY=1", "RELOADING=1"]
    assert manager.lines(*STATES) == ["READY=1", "RELOADING=1", "READY=1"]
    assert before <= at <= time.monotonic_ns() // 1000
    assert 2 in generations
    assert len(time_asked) >= 2  # at the start, and for the trial
    assert "STATUS=3/3 ready, 0 busy, gen 2" in ready


def test_reloads_that_are_refused_are_reloading_for_a_moment_and_the_status_says_why(
    arbiter: Arbiter, manager: Manager
) -> None:
    """1. HUP: the settings are wrong. 2. HUP: the application raises. 3. HUP: all is well.

    Result: RELOADING=1 and READY=1 for each; the reason and the time of day stay in the status until the good one.
    """
    arbiter.write("arbiter.toml", 'wsgi_app = "live"\nworkers = 2\n')
    arbiter.write("live.py", APP)
    server = arbiter.launch(env=manager.env).wait_ready()
    server.expect("RuntimeError: boom")
    manager.wait("2/2 ready")

    (server.folder / "arbiter.toml").write_text('wsgi_app = "live"\nworkers = 0\n')
    server.send(signal.SIGHUP)
    manager.wait("READY=1", times=2)
    by_settings = manager.status
    (server.folder / "arbiter.toml").write_text('wsgi_app = "live"\nworkers = 2\n')
    reload(server, "raise RuntimeError('boom')\n")
    manager.wait("READY=1", times=3)
    by_application = manager.status
    reload(server, app("two"))
    manager.wait("READY=1", times=4)

    refused = r"2/2 ready, 0 busy, gen 1, last reload refused \d\d:\d\d: "
    assert re.match(rf"{refused}workers = 0 \(arbiter\.toml:2\)", by_settings)
    assert re.fullmatch(rf"{refused}failed while importing live: RuntimeError: boom\.", by_application)
    assert manager.status == "2/2 ready, 0 busy, gen 4"
    assert manager.lines(*STATES) == ["READY=1", *["RELOADING=1", "READY=1"] * 3]


def test_a_reload_that_takes_the_place_of_another_makes_one_long_reload(arbiter: Arbiter, manager: Manager) -> None:
    """1. HUP; the canary hangs in its import. 2. HUP with better code.

    Result: RELOADING=1 for each, as the manager waits for the answer to its own signal, and one READY=1 at the end.
    """
    server = arbiter.serve(workers=2, env=manager.env)
    reload(server, app("two", at_import=WAITS))
    manager.wait("gen 2 on trial")
    reload(server, app("three"))
    manager.wait("READY=1", times=2)

    assert manager.lines(*STATES) == ["READY=1", "RELOADING=1", "RELOADING=1", "READY=1"]
    assert manager.status == "2/2 ready, 0 busy, gen 3"


def test_a_stop_during_a_reload_is_stopping_and_never_ready_again(arbiter: Arbiter, manager: Manager) -> None:
    server = arbiter.serve(workers=2, env=manager.env)
    reload(server, app("two", at_import=WAITS))
    manager.wait("gen 2 on trial")
    server.stop()

    assert manager.lines(*STATES) == ["READY=1", "RELOADING=1", "STOPPING=1"]
    assert manager.status == "stopped"


def test_a_reload_that_comes_after_the_stop_is_no_news(arbiter: Arbiter, manager: Manager) -> None:
    server = arbiter.serve(workers=2, env=manager.env)
    held = server.ask("/held")
    server.wait_held()
    server.send(signal.SIGTERM)
    manager.wait("stopping: 1 left, 1 busy")
    server.send(signal.SIGHUP)
    server.wait_log("reload ignored")
    server.release()

    assert held.reply().status == 200
    assert server.ended() == 0
    assert manager.lines(*STATES) == ["READY=1", "STOPPING=1"]


# Time, life, numbers --------------------------------------------------------------------------------------------------


def test_time_is_asked_for_again_and_again_while_a_boot_or_a_drain_takes_long_and_never_in_between(
    arbiter: Arbiter, manager: Manager
) -> None:
    """1. The import takes six seconds. 2. The service serves. 3. TERM; a request takes six seconds.

    Result: within each of the two, time is asked for twice, and five seconds apart; while it serves, never.
    """

    def asked() -> int:
        return len(manager.lines("EXTEND_TIMEOUT_USEC="))

    arbiter.write("live.py", app("one", at_import=WAITS))
    server = arbiter.launch("-w", "1", "live", env=manager.env)
    began = time.monotonic()
    manager.wait("EXTEND_TIMEOUT_USEC=", times=2)
    booting = time.monotonic() - began
    (server.folder / "go").touch()
    server.wait_ready()
    held = server.ask("/held")
    server.wait_held()
    manager.wait("1 busy")
    serving = asked()
    server.send(signal.SIGTERM)
    manager.wait("EXTEND_TIMEOUT_USEC=", times=serving + 2)
    server.release()

    assert held.reply().status == 200
    assert server.ended() == 0
    assert 4.5 < booting < 10
    assert serving <= 3


def test_a_status_of_numbers_comes_at_most_once_a_second(arbiter: Arbiter, manager: Manager) -> None:
    """A client asks all the time for three seconds, so that the number of the busy changes all the time."""
    server = arbiter.serve(workers=2, env=manager.env)
    manager.wait("2/2 ready")
    before = len(manager.lines("STATUS="))
    began = time.monotonic()
    with server.client(threads=3, pause=0.0) as client:
        while time.monotonic() < began + 3:
            client.more(20)
    took = time.monotonic() - began

    assert client.failures == []
    assert len(manager.lines("STATUS=")) - before <= took + 1


def test_the_watchdog_is_patted_in_time_also_when_no_worker_can_boot(arbiter: Arbiter, manager: Manager) -> None:
    """1. The service serves. 2. The code is broken and all workers are killed: they are tried again and again. 3. It mends.

    Result: never a whole WatchdogSec between two signs of life, as a new start could do no better, and would end for good.
    """
    server = arbiter.serve(workers=2, env=manager.env | {"WATCHDOG_USEC": "1000000"})
    server.expect("RuntimeError: boom")
    manager.wait("WATCHDOG=1")
    arbiter.write("live.py", "raise RuntimeError('boom')\n")
    for worker in server.workers():
        os.kill(worker.pid, signal.SIGKILL)
    times = [time.monotonic()]
    while len(times) < 8:
        manager.wait("WATCHDOG=1", times=len(manager.lines("WATCHDOG=")) + 1)
        times.append(time.monotonic())
    broken = manager.status
    arbiter.write("live.py", app("two"))
    until(lambda: manager.status.startswith("2/2 ready"), lambda: f"two workers: {manager.status}")

    assert broken.startswith("0/2 ready")
    assert max(after - before for before, after in itertools.pairwise(times)) < 1.0


def test_a_watchdog_that_is_for_another_process_hears_nothing(arbiter: Arbiter, manager: Manager) -> None:
    env = manager.env | {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}
    server = arbiter.serve(workers=1, env=env)
    manager.wait("1/1 ready")
    server.stop()

    assert manager.lines("WATCHDOG=") == []


def test_ready_is_not_lost_when_the_manager_is_too_busy_to_read(arbiter: Arbiter, manager: Manager) -> None:
    """1. The manager's queue is full of others' messages. 2. The service starts. 3. The manager reads.

    Result: READY=1 comes, and the service has not waited for it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"STATUS=of another", manager.address.replace("@", "\0", 1))
    server = arbiter.serve(workers=2, env=manager.env)
    reply = server.get()
    lines = manager.wait("READY=1")

    assert reply.status == 200
    assert lines.count("READY=1") == 1
    manager.said = [message for message in manager.said if "STATUS=of another" not in message.lines]


def test_a_manager_that_is_gone_harms_nobody(arbiter: Arbiter) -> None:
    manager = Manager()
    manager.close()
    server = arbiter.serve(workers=2, env=manager.env | {"WATCHDOG_USEC": "100000"})

    assert server.get().status == 200


def test_what_systemd_says_to_the_supervisor_reaches_neither_workers_nor_programs_that_they_start(
    arbiter: Arbiter, manager: Manager
) -> None:
    """Result: none of the variables, and not one descriptor more than in a worker that nobody manages."""
    source = APP.replace(
        'body = os.environ.get(query, "")',
        'body = __import__("subprocess").run(["env"], capture_output=True, text=True).stdout',
    )
    arbiter.write("live.py", source)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        prefix, fds = passing({"web": listener.fileno()})
        env = manager.env | {"WATCHDOG_USEC": "5000000", "FDSTORE": "4"}
        server = arbiter.serve(workers=1, env=env, prefix=prefix, pass_fds=fds)
        alone = arbiter.serve(workers=1)
        told = server.get("/env").text

        assert "ARBITER_WORKER_ID=1" in told
        assert not re.findall(r"^(?:NOTIFY|WATCHDOG|LISTEN|FDSTORE)\w*=", told, re.MULTILINE)
        (managed,), (unmanaged,) = server.workers(), alone.workers()
        assert procfs.descriptors(managed.pid) == [
            name.replace(str(alone.log_path), str(server.log_path)).replace(str(alone.out_path), str(server.out_path))
            for name in procfs.descriptors(unmanaged.pid)
        ]
        server.stop()


# Sockets --------------------------------------------------------------------------------------------------------------


def test_sockets_of_a_socket_unit_take_the_place_of_bind_and_who_waits_is_served_by_the_next_start(
    arbiter: Arbiter, manager: Manager, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """1. A start with a TCP and a Unix socket, and a `bind` that is in use. 2. A stop. 3. A client asks. 4. A start.

    Result: both sockets answer, nothing is bound; after the stop they still listen, and the client gets its reply.
    """
    path = str(tmp_path_factory.mktemp("sockets") / "web")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        prefix, fds = passing({"web": tcp.fileno(), "": unix.fileno()})
        taken = f"127.0.0.1:{tcp.getsockname()[1]}"
        server = arbiter.serve(workers=2, bind=taken, env=manager.env, prefix=prefix, pass_fds=fds)
        replies = [ask(tcp.getsockname()), ask(path)]
        server.stop()
        waiting = socket.create_connection(tcp.getsockname())
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        arbiter.serve(workers=2, bind=taken, env=manager.env, prefix=prefix, pass_fds=fds)
        with waiting:
            late = waiting.makefile("rb").read()

        assert [reply.status for reply in replies] == [200, 200]
        assert late.startswith(b"HTTP/1.1 200 OK\r\n")
        assert os.path.exists(path)
        assert manager.lines("FDSTORE") == []
        arbiter.servers[-1].stop()


def test_descriptors_that_were_passed_to_another_process_are_not_touched(arbiter: Arbiter) -> None:
    server = arbiter.serve(workers=1, env={"LISTEN_PID": "1", "LISTEN_FDS": "1"})

    assert server.get().status == 200


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pipe", "systemd passed descriptor 3 (web), which is no socket"),
        ("datagram", "fd://3 is not a listening socket"),
    ],
)
def test_a_passed_descriptor_that_nobody_can_listen_on_is_one_message_and_status_1(
    arbiter: Arbiter, manager: Manager, kind: str, why: str
) -> None:
    arbiter.write("live.py", APP)
    read_end, write_end = os.pipe()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        prefix, fds = passing({"web": read_end if kind == "pipe" else datagram.fileno()})
        server = arbiter.launch("live", env=manager.env, prefix=prefix, pass_fds=fds)
        status = server.ended()
    os.close(read_end)
    os.close(write_end)

    assert status == 1
    assert why in server.everything()
    assert "Traceback" not in server.everything()
    assert manager.status.startswith(f"cannot start: {why}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("kind", ["tcp", "unix", "shared"])
def test_sockets_in_the_store_serve_a_restart_without_one_failure(arbiter: Arbiter, manager: Manager, kind: str) -> None:
    """A client asks all the time. 1. A start; the manager keeps the socket. 2. Stop and start, three times.

    Result: the socket is given to the manager before READY=1, under one name for ever; not one request fails. The same for
    the two sockets of a shared port (`--reuse-port`).
    """
    shared = ["--reuse-port"] if kind == "shared" else []
    bind, keeps = (f"127.0.0.1:{free_port()}", []) if kind != "unix" else ("unix:sock", [arbiter.folder / "sock"])
    env = manager.env | {"FDSTORE": "4"}
    server = arbiter.serve(*shared, workers=2, bind=bind, env=env, keeps=keeps)
    said = manager.wait("READY=1")
    names = set(manager.store)

    with server.client(threads=3) as client:
        for _ in range(3):
            client.more(50)
            server.stop()
            prefix, fds = passing(manager.store)
            server = arbiter.serve(*shared, workers=2, bind=bind, env=env, prefix=prefix, pass_fds=fds, keeps=keeps)
        client.more(50)

    assert client.failures == []
    assert said.index("FDSTORE=1") < said.index("READY=1")
    assert len(names) == 1 + len(shared)
    assert set(manager.store) == names
    assert manager.lines("FDSTOREREMOVE") == []
    server.stop()


def test_who_waits_when_the_supervisor_is_killed_is_served_by_the_next_start(arbiter: Arbiter, manager: Manager) -> None:
    """1. Every worker is in a request. 2. Others wait in the queue. 3. SIGKILL to the supervisor. 4. A start.

    Result: only those who were in a worker have lost their request.
    """
    bind, env = f"127.0.0.1:{free_port()}", manager.env | {"FDSTORE": "4"}
    server = arbiter.serve(workers=2, bind=bind, env=env)
    inside = [server.ask("/held") for _ in range(2)]
    server.wait_held(2)
    waiting = [server.ask("/") for _ in range(5)]
    until(lambda: _queued(server.tcp[1]) == 5, "five in the queue")
    manager.hear()
    server.process.kill()
    server.ended()
    prefix, fds = passing(manager.store)
    arbiter.serve(workers=2, bind=bind, env=env, prefix=prefix, pass_fds=fds)

    assert [asking.reply().status for asking in waiting] == [200] * 5
    assert not [asking for asking in inside if not isinstance(asking.outcome(), Exception)]


def test_who_waits_when_the_service_stops_is_left_to_the_next_start(arbiter: Arbiter, manager: Manager) -> None:
    """1. The only worker is in a request. 2. Others wait in the queue. 3. TERM, and the request ends. 4. A start.

    Result: the worker looks for its orders after one more at most, however many wait; the next start answers the others.
    """
    arbiter.write("live.py", APP.replace("data = body.encode()", "data = body.encode()\n    time.sleep(0.05)"))
    bind, env = f"127.0.0.1:{free_port()}", manager.env | {"FDSTORE": "4"}
    server = arbiter.serve(workers=1, bind=bind, env=env)
    held = server.ask("/held")
    (old,) = server.wait_held()
    waiting = [server.ask("/") for _ in range(5)]
    until(lambda: _queued(server.tcp[1]) == 5, "five in the queue")
    server.send(signal.SIGTERM)
    server.wait_log("stopping:")
    server.release()
    reply = held.reply()
    status = server.ended()
    manager.hear()
    prefix, fds = passing(manager.store)
    arbiter.serve(workers=1, bind=bind, env=env, prefix=prefix, pass_fds=fds)

    assert (reply.text, status) == (f"one {old}", 0)
    assert [asking.reply().status for asking in waiting] == [200] * 5
    assert [asking.reply().text for asking in waiting].count(f"one {old}") <= 1


def _queued(port: int) -> int:
    """Connections that wait in the queue of a listening TCP socket."""
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":  # TCP_LISTEN
                return int(fields[4].partition(":")[2], 16)
    return 0


def test_a_socket_that_a_reload_does_not_want_any_more_leaves_the_store_and_its_successor_takes_its_place(
    arbiter: Arbiter, manager: Manager
) -> None:
    """1. HUP with another `bind`, and an application that raises. 2. HUP with good code.

    Result: the refused one changes nothing in the store; then the new socket is in it, and the old one is gone with its file.
    """
    arbiter.write("live.py", APP)
    arbiter.write("arbiter.toml", 'wsgi_app = "live"\nworkers = 2\nbind = "unix:old"\n')
    server = arbiter.launch(bind=None, env=manager.env | {"FDSTORE": "4"}, keeps=[arbiter.folder / "new"]).wait_ready()
    server.expect("RuntimeError: boom")
    manager.wait("READY=1")
    (old,) = manager.store

    arbiter.write("arbiter.toml", 'wsgi_app = "live"\nworkers = 2\nbind = "unix:new"\n')
    reload(server, "raise RuntimeError('boom')\n")
    manager.wait("READY=1", times=2)
    refused = list(manager.store)
    reload(server, app("two"))
    manager.wait("READY=1", times=3)
    until(lambda: manager.hear() and len(manager.store) == 1, lambda: f"one socket in the store, not {manager.store}")
    server.wait_workers(2, 3)

    assert refused == [old]
    assert old not in manager.store
    assert ask(str(server.folder / "new")).status == 200
    assert not (server.folder / "old").exists()
    assert server.stop() == 0


@pytest.mark.parametrize("reason", ["another bind", "the file is gone"])
def test_a_stored_socket_that_is_of_no_use_leaves_the_store_and_a_new_one_is_bound(
    arbiter: Arbiter, manager: Manager, reason: str
) -> None:
    """1. A start on a Unix socket, and a stop. 2. Its file is removed, or `bind` is changed. 3. A start.

    Result: the service can be reached, and the old socket is kept no longer.
    """
    env = manager.env | {"FDSTORE": "4"}
    first = arbiter.serve(workers=1, bind="unix:old", env=env, keeps=[arbiter.folder / "old"])
    manager.wait("READY=1")
    (old,) = manager.store
    first.stop()
    (arbiter.folder / "old").unlink()
    name = "new" if reason == "another bind" else "old"
    prefix, fds = passing(manager.store)
    server = arbiter.serve(workers=1, bind=f"unix:{name}", env=env, prefix=prefix, pass_fds=fds, keeps=[arbiter.folder / name])
    manager.wait("READY=1", times=2)

    assert server.get().status == 200
    assert len(manager.store) == 1
    assert old not in manager.store
    server.stop()


def test_without_a_store_nothing_is_kept_and_a_stop_closes_the_socket(arbiter: Arbiter, manager: Manager) -> None:
    server = arbiter.serve(workers=2, env=manager.env)
    address = server.tcp
    manager.wait("READY=1")
    server.stop()

    assert manager.lines("FDSTORE") == []
    with pytest.raises(ConnectionRefusedError):
        ask(address)


def test_a_store_with_room_for_one_keeps_one_and_the_other_socket_is_closed(arbiter: Arbiter, manager: Manager) -> None:
    two = ("--bind", "unix:two")
    server = arbiter.serve(*two, workers=1, bind="unix:one", env=manager.env | {"FDSTORE": "1"}, keeps=[arbiter.folder / "one"])
    manager.wait("READY=1")
    server.stop()

    assert len(manager.store) == 1
    assert not (arbiter.folder / "two").exists()
