"""--preload: the application is loaded once, in a template that forks the workers; all else is as ever."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import procfs
import pytest
from clients import LONGEST_GAP, ask
from harness import APP, app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

COUNTS = "\nwith open('imports', 'a') as file: file.write(f'{os.getpid()}\\n')\n"
"""Done at import: says which process it is."""
HANGS = "\nopen('hanging', 'x').close()\ntime.sleep(600)\n"
"""What hangs an import, once it has said so."""


def imports(server: Server) -> list[int]:
    """The processes that have imported the application."""
    return [int(line) for line in (server.folder / "imports").read_text().split()]


def reload(server: Server, generation: int, workers: int) -> None:
    """HUP, and wait until only workers of `generation` are left."""
    server.send(signal.SIGHUP)
    server.wait_log(rf"gen={generation} .* reload done: all {workers} workers")
    server.wait_workers(workers, generation)


def opened(pid: int) -> list[str]:
    """What a process has open; the files that the harness has made for this server have names like those of another."""
    return [re.sub(r"server-\d+", "server", name) for name in procfs.descriptors(pid)]


def only_template(server: Server, generation: int) -> procfs.Process:
    """The only template, once there is only one, and it is of this generation."""
    found = until(
        lambda: [t for t in server.templates() if len(server.templates()) == 1 and t.generation == generation],
        lambda: f"one template of generation {generation}: {server.children()}",
    )
    return found[0]


def test_the_application_is_loaded_once_and_every_worker_is_a_child_of_the_supervisor(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import=COUNTS))
    server = arbiter.serve("--preload", workers=4)
    workers = server.wait_workers(4)
    template = only_template(server, 1)

    assert imports(server) == [template.pid]
    assert [worker.slot for worker in workers] == [1, 2, 3, 4]
    assert {worker.parent for worker in [*workers, template]} == {server.pid}
    assert template.title == "arbiter: template (gen 1) [live]"
    assert workers[2].title == "arbiter: worker 3 (gen 1) [live]"


def test_a_worker_knows_its_slot_and_not_the_service_manager(arbiter: Arbiter) -> None:
    arbiter.write("live.py", APP)
    server = arbiter.serve("--preload", "-e", "COLOUR=blue", workers=1, env={"LISTEN_FDNAMES": "x", "WATCHDOG_USEC": "9"})

    assert server.get("/env?ARBITER_WORKER_ID").text == "1"
    assert server.get("/env?COLOUR").text == "blue"
    assert server.get("/env?LISTEN_FDNAMES").text == server.get("/env?WATCHDOG_USEC").text == ""


def test_a_reload_makes_a_new_template_loses_no_request_and_ends_the_old_one(arbiter: Arbiter) -> None:
    """1. A client asks. 2. New code, HUP. Result: no failure, no gap; the new code was imported once; one template."""
    arbiter.write("live.py", app("one", at_import=COUNTS))
    server = arbiter.serve("--preload", workers=3)
    before = server.wait_workers(3)
    arbiter.write("live.py", app("two", at_import=COUNTS))

    with server.client() as client:
        reload(server, generation=2, workers=3)
        client.more(20)
    after = server.workers()
    template = only_template(server, 2)

    assert client.failures == []
    assert client.heard("two")
    assert client.longest_gap < LONGEST_GAP
    assert [worker.slot for worker in after] == [1, 2, 3]
    assert not set(pids(before)) & set(pids(after))
    assert imports(server)[1:] == [template.pid]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise RuntimeError('boom')\n", "failed while importing live: RuntimeError: boom."),
        ("import os\nos._exit(1)\n", "exited with status 1 while booting."),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "was killed by SIGSEGV while booting."),
        ("", "failed while finding live:application: 'live' has no 'application'."),
        ("import time\ntime.sleep(600)\n", "was not ready within boot_timeout (1 s)."),
        ("while True: pass\n", "was not ready within boot_timeout (1 s)."),
        ("import os, time\nos.closerange(3, 1000)\ntime.sleep(600)\n", "was not ready within boot_timeout (1 s)."),
        (app("two", at_import="\nos.closerange(3, 1000)\n"), "was killed by SIGIO|exited with status 0 while booting."),
    ],
    ids=["raises", "exits", "SIGSEGV", "is empty", "hangs", "spins", "closes all and hangs", "closes all"],
)
def test_a_reload_of_an_application_that_cannot_boot_is_refused_and_leaves_the_template_that_works(
    arbiter: Arbiter, source: str, why: str
) -> None:
    """1. A client asks. 2. Broken code, HUP. 3. SIGKILL to a worker. 4. The code is mended, HUP.

    Result: one line with the reason; the killed worker comes back, of the old code; then the reload works.
    """
    server = arbiter.serve("--preload", workers=2)
    server.expect("RuntimeError: boom", "Bad file descriptor")
    before, template = server.wait_workers(2), only_template(server, 1)

    with server.client() as client:
        if "boot_timeout" in why:
            arbiter.write("arbiter.toml", "boot_timeout = 1\n")
        arbiter.write("live.py", source)
        server.send(signal.SIGHUP)
        said = server.wait_log(
            r"reload refused: worker=\d+ gen=2 (.*) gen=1 keeps serving \(2 workers\)\. Fix and send HUP again\."
        )
        after = server.wait_workers(2)
        kept = only_template(server, 1)
        os.kill(after[0].pid, signal.SIGKILL)
        until(lambda: after[0].pid not in pids(server.children()), "its end")
        respawned = server.wait_workers(2, generation=1)
        client.more(20)
        arbiter.write("arbiter.toml", "")
        arbiter.write("live.py", app("three"))
        reload(server, generation=3, workers=2)
        client.more(20)

    assert said[1] in why.split("|")
    assert (kept.pid, kept.generation) == (template.pid, 1)
    assert pids(before) == pids(after)
    assert respawned[1].pid == before[1].pid
    assert len(client.failures) <= 1
    assert client.names == {"one", "three"}
    assert client.longest_gap < LONGEST_GAP
    only_template(server, 3)


@pytest.mark.parametrize(("source", "status"), [("raise RuntimeError('boom')\n", 3), ("import os\nos._exit(1)\n", 3), ("", 4)])
def test_an_application_that_cannot_boot_ends_the_start_as_without_preload(arbiter: Arbiter, source: str, status: int) -> None:
    arbiter.write("live.py", source)
    code, words = arbiter.fail("--preload", "live")

    assert code == status
    assert words.count("cannot start: worker=1") == 1
    assert words.count("Traceback") == ("boom" in source)


def test_an_import_that_hangs_is_shown_in_the_log_with_its_line(arbiter: Arbiter) -> None:
    """What the template is at is what the worker waits for."""
    arbiter.write("live.py", "import time\n\n\ndef connect():\n    time.sleep(600)\n\n\nconnect()\n")
    code, words = arbiter.fail("--preload", "--boot-timeout", "2", "live")

    assert code == 3
    assert 'live.py", line 5 in connect' in words
    assert "/arbiter/spawn.py" not in words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("to", ["supervisor", "group"])
def test_a_stop_leaves_no_template(arbiter: Arbiter, number: signal.Signals, to: str) -> None:
    """The group: what a terminal does on Ctrl-C, and what some service managers do."""
    server = arbiter.serve("--preload", workers=2)
    began = time.monotonic()
    if to == "group":
        os.killpg(server.pid, number)
        status = server.ended()
    else:
        status = server.stop(number)

    assert status == 0
    assert time.monotonic() - began < 3
    assert not server.members()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_a_template_boots_wins_at_once(arbiter: Arbiter, number: signal.Signals) -> None:
    """1. The template of a reload hangs at import. 2. TERM, or INT. Result: the end, within a moment."""
    server = arbiter.serve("--preload", workers=2)
    arbiter.write("live.py", app("two", at_import=HANGS))
    server.send(signal.SIGHUP)
    until((server.folder / "hanging").exists, "a template in its import")
    began = time.monotonic()

    assert server.stop(number) == 0
    assert time.monotonic() - began < 3


def test_a_stop_during_the_first_boot_of_a_template_wins_at_once(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import=HANGS))
    server = arbiter.launch("-w", "2", "--preload", "live")
    until((server.folder / "hanging").exists, "a template in its import")
    began = time.monotonic()

    assert server.stop() == 0
    assert time.monotonic() - began < 3


def test_a_second_reload_takes_the_place_of_one_whose_template_hangs(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", workers=2)

    with server.client() as client:
        arbiter.write("live.py", app("two", at_import=HANGS))
        server.send(signal.SIGHUP)
        until((server.folder / "hanging").exists, "a template in its import")
        arbiter.write("live.py", app("three"))
        began = time.monotonic()
        reload(server, generation=3, workers=2)
        took = time.monotonic() - began

    assert client.failures == []
    assert client.names == {"one", "three"}
    assert took < 5
    only_template(server, 3)


def test_preload_is_switched_on_and_off_by_a_reload(arbiter: Arbiter) -> None:
    arbiter.write("arbiter.toml", "workers = 2\n")
    arbiter.write("live.py", APP)
    server = arbiter.launch("live").wait_ready()

    with server.client() as client:
        arbiter.write("arbiter.toml", "workers = 2\npreload_app = true\n")
        reload(server, generation=2, workers=2)
        only_template(server, 2)
        arbiter.write("arbiter.toml", "workers = 2\n")
        reload(server, generation=3, workers=2)
        until(lambda: not server.templates(), "the end of the template")

    assert client.failures == []


def test_more_workers_and_successors_come_from_the_template(arbiter: Arbiter) -> None:
    """1. TTIN, TTIN, TTOU. 2. A client asks until all have been replaced (max_requests). Result: one import, no failure."""
    arbiter.write("live.py", app("one", at_import=COUNTS))
    server = arbiter.serve("--preload", "--max-requests", "30", workers=2)
    before = server.wait_workers(2)
    server.send(signal.SIGTTIN)
    server.wait_workers(3)
    server.send(signal.SIGTTIN)
    server.wait_workers(4)
    server.send(signal.SIGTTOU)
    server.wait_workers(3)

    with server.client() as client:
        until(lambda: not set(pids(before)) & set(pids(server.children())), "the end of the first ones")
        client.more(20)

    assert client.failures == []
    assert len(imports(server)) == 1


def test_a_reload_during_the_first_boot_makes_the_service_start_with_the_new_code(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import=HANGS))
    server = arbiter.launch("-w", "2", "--preload", "live")
    until((server.folder / "hanging").exists, "a template in its import")
    arbiter.write("live.py", app("two"))
    server.send(signal.SIGHUP)
    server.wait_log("serving:")

    assert server.get().text.startswith("two ")
    server.wait_workers(2, generation=2)
    only_template(server, 2)


def test_after_a_rotation_workers_that_come_later_write_to_the_new_file(arbiter: Arbiter) -> None:
    """1. The access log is renamed, USR1. 2. The worker is killed. Result: its successor, forked later, has the new file."""
    server = arbiter.serve("--preload", "--access-logfile", "access.log", workers=1)
    (server.folder / "access.log").rename(server.folder / "access.log.1")
    server.send(signal.SIGUSR1)
    server.wait_log("log files reopened")
    (first,) = server.wait_workers(1)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.pid not in pids(server.children()), "its end")
    server.wait_workers(1)

    assert server.get("/later").status == 200
    until(lambda: "/later" in (server.folder / "access.log").read_text(), "its line in the new file")
    assert "/later" not in (server.folder / "access.log.1").read_text()


def test_nothing_leaks_by_reloads_and_a_worker_has_open_what_it_has_without_a_template(arbiter: Arbiter) -> None:
    """1. Reloads, good and refused, and killed workers. Result: as many descriptors as before, in each kind of process."""
    plain = arbiter.serve("--error-logfile", "plain.log")
    expected = opened(plain.wait_workers(2)[0].pid)
    plain.stop()
    server = arbiter.serve("--preload", "--error-logfile", "plain.log")
    server.expect("RuntimeError: boom")
    of_worker = opened(server.wait_workers(2)[0].pid)
    before = opened(server.pid), opened(only_template(server, 1).pid)

    for number in range(3):
        arbiter.write("live.py", "raise RuntimeError('boom')")
        server.send(signal.SIGHUP)
        server.wait_log("reload refused", times=number + 1)
        arbiter.write("live.py", app("good"))
        reload(server, generation=3 + 2 * number, workers=2)
        (first, _) = server.wait_workers(2)
        os.kill(first.pid, signal.SIGKILL)
        until(lambda gone=first.pid: gone not in pids(server.children()), "its end")  # type: ignore[misc]  # a default binds it
        server.wait_workers(2)
    after = opened(server.pid), opened(only_template(server, 7).pid)

    until(lambda: opened(server.workers()[0].pid) == expected, "what a worker has open: one is just booting")
    assert of_worker == expected
    assert before == after


def test_threads_and_sockets_that_exist_at_the_fork_are_named_in_a_warning(arbiter: Arbiter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        port = database.getsockname()[1]
        source = f"""
import socket, threading
connection = socket.create_connection(("127.0.0.1", {port}))
pair = socket.socketpair()
threading.Thread(target=time.sleep, args=[600], name="flusher", daemon=True).start()
"""
        arbiter.write("live.py", app("one", at_import=source))
        server = arbiter.serve("--preload", workers=2)

    assert server.count(r"\[WARNING\] .* threads run after the import of live: flusher\. Workers are forked without them") == 1
    assert (
        server.count(rf"\[WARNING\] .* sockets are open .*: connected to 127\.0\.0\.1:{port}, one of a pair, one of a pair\.")
        == 1
    )


def test_an_application_without_threads_and_sockets_is_not_warned_of(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", bind="unix:sock")

    assert server.count("WARNING") == 0


def user_of(pid: int) -> int:
    """Who a process runs as (proc_pid_status(5))."""
    found = re.search(r"^Uid:\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


SMALL = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
"""Imports nothing: Python's own library may lie where another user can't read."""


def test_workers_that_have_dropped_privileges_in_their_template_still_leave_with_the_supervisor(arbiter: Arbiter) -> None:
    """A process that has changed its user may not open what its parent opened: its lifeline has to come from there.

    1. As root, as another user; else as who we are. 2. SIGKILL to the supervisor. Result: nobody is left within 2 s.
    """
    user = str(os.geteuid() or 54321)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "live.py").write_text(SMALL)
        server = arbiter.launch("-w", "2", "--preload", "--user", user, "--chdir", folder, "live").wait_ready()
        people = [user_of(pid) for pid in pids([*server.wait_workers(2), only_template(server, 1)])]
        answered = server.get().status

        server.process.kill()
        server.wait_exit()
        began = time.monotonic()
        until(lambda: not server.members(), lambda: f"the end of {server.members()}")

    assert answered == 200
    assert people == [int(user)] * 3
    assert time.monotonic() - began < 2


def test_exit_functions_of_the_application_run_when_a_worker_leaves(arbiter: Arbiter) -> None:
    """As in Gunicorn: what is registered at import, in the template, is run by each worker."""
    leaves = "\nimport atexit\natexit.register(lambda: open(f'left-{os.getpid()}', 'x').close())\n"
    arbiter.write("live.py", app("one", at_import=leaves))
    server = arbiter.serve("--preload", workers=2)
    workers = server.wait_workers(2)
    server.stop()

    assert {path.name for path in server.folder.glob("left-*")} == {f"left-{pid}" for pid in pids(workers)}


def test_two_addresses_are_served_and_a_changed_one_is_closed_with_the_old_template(arbiter: Arbiter) -> None:
    arbiter.write("arbiter.toml", 'workers = 2\npreload_app = true\nbind = ["127.0.0.1:0", "unix:sock"]\n')
    arbiter.write("live.py", APP)
    server = arbiter.launch("live", bind=None, makes=["sock"]).wait_ready()
    where = str(server.folder / "sock")
    assert ask(where).status == server.get().status == 200

    arbiter.write("arbiter.toml", 'workers = 2\npreload_app = true\nbind = ["unix:sock"]\n')
    reload(server, generation=2, workers=2)
    only_template(server, 2)

    assert ask(where).status == 200
    with pytest.raises(ConnectionRefusedError):
        server.get()


LARGE = "\ndata = [str(number) * 3 for number in range(400_000)]\n"
"""Some 25 MiB of Python objects."""


def weight(server: Server) -> int:
    """What the service uses in all, in bytes: the proportional shares of all its processes, after some requests."""
    for _ in range(20):
        assert server.get().status == 200
    return sum(procfs.memory(member.pid) for member in server.members())


def test_four_workers_of_a_large_application_use_much_less_memory_than_without_preload(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import=LARGE))
    plain = weight(arbiter.serve(workers=4))
    shared = weight(arbiter.serve("--preload", workers=4))

    assert shared < 0.6 * plain
