"""Faults of --preload: workers and templates are killed, stopped and refused; the service serves on and recovers."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import procfs
import pytest
from clients import LONGEST_GAP, Reply, ask
from harness import app, unprivileged
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

HANGS = "\nopen('hanging', 'x').close()\ntime.sleep(600)\n"
SPINS = "\nopen('hanging', 'x').close()\nwhile True: pass\n"
"""What hangs an import, once it has said so."""


@contextlib.contextmanager
def limited(pid: int, what: str, most: int, prefix: Sequence[str] = ()) -> Iterator[None]:
    """A process is allowed only so much of something, for a while; `prefix` makes us a user who may say so."""

    def prlimit(*arguments: str) -> str:
        return subprocess.run(
            [*prefix, "prlimit", f"--pid={pid}", *arguments], check=True, capture_output=True, text=True
        ).stdout

    before = prlimit(f"--{what}", "--output=SOFT", "--noheadings", "--raw").strip()
    prlimit(f"--{what}={most}:")
    try:
        yield
    finally:
        prlimit(f"--{what}={before}:")


def killed(server: Server, *victims: int) -> None:
    """SIGKILL to these processes, all before any is waited for; they are gone."""
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(victims) & set(pids(server.children())), f"the end of {victims}")


def template(server: Server) -> int:
    """The pid of the only template."""
    (found,) = until(lambda: server.templates() if len(server.templates()) == 1 else [], lambda: f"{server.children()}")
    return found.pid


def test_a_killed_worker_is_replaced_from_the_same_template_and_costs_at_most_its_own_request(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", workers=3)
    before, mother = server.wait_workers(3), template(server)

    with server.client(threads=3) as client:
        killed(server, before[1].pid)
        after = server.wait_workers(3)
        client.more(20)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert [worker.slot for worker in after] == [1, 2, 3]
    assert set(pids(before)) - set(pids(after)) == {before[1].pid}
    assert template(server) == mother
    assert server.count(r"worker=2 gen=1 .* was killed by SIGKILL after .* s\. Its slot gets a new worker now\.") == 1


def test_all_workers_killed_at_once_are_replaced_and_queued_requests_are_answered(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", workers=3)
    before = server.wait_workers(3)

    with server.client(threads=3) as client:
        killed(server, *pids(before))
        after = server.wait_workers(3)
        client.more(20)

    assert len(client.failures) <= 3
    assert client.longest_gap < LONGEST_GAP
    assert [worker.slot for worker in after] == [1, 2, 3]


def test_code_that_broke_on_disk_harms_nobody_while_the_template_lives(arbiter: Arbiter) -> None:
    """The row in which other servers end: one worker dies, and what is on disk can't be imported any more.

    1. A client asks. 2. The code breaks. 3. SIGKILL to each worker, twice. 4. HUP. 5. SIGKILL again. 6. It is mended, HUP.
    Result: always three workers again, of the old code; HUP is refused; then it is the new code.
    """
    server = arbiter.serve("--preload", workers=3)
    server.expect("RuntimeError: boom")
    server.wait_workers(3)

    with server.client(threads=3) as client:
        arbiter.write("live.py", "raise RuntimeError('boom')\n")
        for _ in range(2):
            for slot in range(3):
                killed(server, server.workers()[slot].pid)
                server.wait_workers(3, generation=1)
        server.send(signal.SIGHUP)
        server.wait_log(r"reload refused: .* RuntimeError: boom\. gen=1 keeps serving \([23] workers\)")  # one may still boot
        killed(server, server.workers()[0].pid)
        server.wait_workers(3, generation=1)
        client.more(20)
        arbiter.write("live.py", app("two"))
        server.send(signal.SIGHUP)
        server.wait_workers(3, generation=3)
        client.more(20)

    assert len(client.failures) <= 7
    assert client.longest_gap < LONGEST_GAP
    assert client.names == {"one", "two"}
    assert server.count(r"^Traceback") == 1


def test_a_killed_template_harms_nobody_and_is_made_anew_when_it_is_needed(arbiter: Arbiter) -> None:
    """1. A client asks. 2. SIGKILL to the template. 3. SIGKILL to a worker. Result: told, no failure, then a new template."""
    server = arbiter.serve("--preload", workers=3)
    before, mother = server.wait_workers(3), template(server)

    with server.client() as client:
        killed(server, mother)
        server.wait_log(rf"\[WARNING\] worker=- gen=1 pid={mother} the template was killed by SIGKILL\. The workers that live")
        client.more(20)
        between, failures = server.wait_workers(3), list(client.failures)
        killed(server, before[0].pid)
        after = server.wait_workers(3)

    assert failures == []
    assert pids(between) == pids(before)
    assert template(server) != mother
    assert pids(after)[1:] == pids(before)[1:]
    assert len(client.failures) <= 1


def test_a_template_killed_together_with_workers_is_made_anew_at_once(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", workers=3)
    before, mother = server.wait_workers(3), template(server)

    with server.client(threads=3) as client:
        killed(server, before[0].pid, mother, before[1].pid)
        server.wait_workers(3)
        client.more(20)

    assert len(client.failures) <= 2
    assert client.longest_gap < LONGEST_GAP
    assert template(server) != mother


def test_a_template_that_died_while_the_code_is_broken_costs_only_the_slots_that_need_it(arbiter: Arbiter) -> None:
    """1. The code breaks; template and one of three workers die. 2. It is mended; nobody sends a signal.

    Result: the slot is tried with back-off and told the 1st, 2nd, 4th time; the others serve; then three workers again.
    """
    server = arbiter.serve("--preload", workers=3)
    server.expect("RuntimeError: boom")
    before, mother = server.wait_workers(3), template(server)

    with server.client() as client:
        arbiter.write("live.py", "raise RuntimeError('boom')\n")
        killed(server, before[0].pid, mother)
        server.wait_log(r"worker=1 gen=1 .* failed while importing live: RuntimeError: boom \(4 times so far\)")
        alive = server.workers()
        arbiter.write("live.py", app("two"))
        server.wait_workers(3)
        client.more(20)

    assert set(pids(before)[1:]) <= set(pids(alive))
    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert server.count(r"^Traceback") == 3


def test_a_stopped_template_is_killed_after_boot_timeout_and_made_anew(arbiter: Arbiter) -> None:
    """1. SIGSTOP to the template. 2. SIGKILL to a worker. Result: its successor has a new template; the others are the same."""
    server = arbiter.serve("--preload", "--boot-timeout", "3", workers=3)
    before, mother = server.wait_workers(3), template(server)

    with server.client() as client:
        os.kill(mother, signal.SIGSTOP)
        killed(server, before[0].pid)
        server.wait_log(r"worker=1 gen=1 .* not ready within boot_timeout")
        until(lambda: mother not in pids(server.children()), "the end of the stopped template")
        after = server.wait_workers(3)
        client.more(20)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert pids(after)[1:] == pids(before)[1:]
    assert template(server) != mother


def test_a_stopped_template_does_not_hold_up_a_stop_or_a_reload(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", workers=2)
    os.kill(template(server), signal.SIGSTOP)
    server.send(signal.SIGHUP)
    server.wait_log("reload done")
    server.wait_workers(2, generation=2)
    os.kill(template(server), signal.SIGSTOP)
    began = time.monotonic()

    assert server.stop() == 0
    assert time.monotonic() - began < 3


def in_a_request(server: Server) -> None:
    server.ask("/held")
    server.wait_held()


def in_an_import(server: Server) -> None:
    (server.folder / "live.py").write_text(app("two", at_import=HANGS))
    server.send(signal.SIGHUP)
    until((server.folder / "hanging").exists, "a template in its import")


def in_a_busy_import(server: Server) -> None:
    (server.folder / "live.py").write_text(app("two", at_import=SPINS))
    server.send(signal.SIGHUP)
    until((server.folder / "hanging").exists, "a template in its import")


def in_a_roll(server: Server) -> None:
    server.send(signal.SIGHUP)
    server.wait_log("has proven itself")


def idle(_server: Server) -> None:
    pass


@pytest.mark.parametrize("busy", [idle, in_a_request, in_an_import, in_a_busy_import, in_a_roll])
def test_workers_and_templates_are_gone_two_seconds_after_their_supervisor_is_killed(arbiter: Arbiter, busy: object) -> None:
    assert callable(busy)
    server = arbiter.serve("--preload", "--pid", "pid", workers=3, bind="unix:sock")
    busy(server)
    server.keeps = server.files  # nobody is there to remove them

    server.process.kill()
    server.wait_exit()
    began = time.monotonic()
    until(lambda: not server.members(), lambda: f"the end of {server.members()}")
    took = time.monotonic() - began
    server.check()

    assert took < 2


def test_a_template_that_cannot_fork_backs_off_and_is_asked_until_it_works(arbiter: Arbiter, tmp_path: Path) -> None:
    """EAGAIN: the user may have no more processes (root always may, so the server runs as somebody else).

    1. A client asks. 2. fork() begins to fail in the template; a worker dies; TTIN. 3. fork() works again.
    Result: the others serve all the time; the log is not flooded; then all that was asked for is done.
    """
    somebody = unprivileged(tmp_path)
    server = arbiter.serve("--preload", workers=3, prefix=somebody)
    before, mother = server.wait_workers(3), template(server)

    with server.client() as client:
        with limited(mother, "nproc", 0, somebody):
            killed(server, before[0].pid)
            server.wait_log(r"fork\(\) failed: Resource temporarily unavailable\. Tried again in ")
            server.send(signal.SIGTTIN)
            server.wait_log(r"fork\(\) failed: .*", times=3)  # the 4th time
            client.more(20)
            between = server.workers()
        server.wait_workers(4)
        client.more(20)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert pids(before)[1:] == pids(between)
    assert template(server) == mother


def test_a_template_without_descriptors_says_so_and_is_asked_until_it_has_some(arbiter: Arbiter) -> None:
    """What recvmsg finds no room for is lost: the order comes without its descriptors."""
    server = arbiter.serve("--preload", workers=3)
    before, mother = server.wait_workers(3), template(server)
    open_ones = procfs.descriptors(mother)

    with server.client() as client:
        with limited(mother, "nofile", procfs.lowest_free_descriptor(mother)):
            killed(server, before[0].pid)
            server.wait_log(r"fork\(\) failed: the template has no descriptors left", times=2)
            client.more(20)
            between = server.workers()
        server.wait_workers(3)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert pids(before)[1:] == pids(between)
    assert procfs.descriptors(mother) == open_ones


DIES_BETWEEN = """
def die_between():
    if os.path.exists("die-between"):
        os.unlink("die-between")
        os.kill(os.getpid(), signal.SIGKILL)
os.register_at_fork(after_in_child=die_between)
"""
"""The first child of the next fork is killed at once: that is the process between template and worker."""
DIES_AT_BIRTH = """
def die_at_birth():
    global forks
    forks += 1
    if forks == 2 and os.path.exists("die-at-birth"):
        os.kill(os.getpid(), signal.SIGKILL)
forks = 0
os.register_at_fork(after_in_child=die_at_birth)
"""
"""Every grandchild of the template is killed before it has run any code of Arbiter's."""


def test_a_process_between_that_is_killed_is_a_fork_that_failed(arbiter: Arbiter) -> None:
    arbiter.write("live.py", app("one", at_import=DIES_BETWEEN))
    server = arbiter.serve("--preload", workers=2)
    before, mother = server.wait_workers(2), template(server)

    with server.client() as client:
        (server.folder / "die-between").touch()
        killed(server, before[0].pid)
        server.wait_log(r"fork\(\) failed: the process that was to fork it has been killed\. Tried again in")
        server.wait_workers(2)
        client.more(20)

    assert len(client.failures) <= 1
    assert template(server) == mother


def test_workers_that_are_killed_at_their_birth_are_a_crash_loop_like_any(arbiter: Arbiter) -> None:
    """1. Each new worker is killed before it runs. 2. No longer so. Result: told the 1st, 2nd, 4th time; then all is well."""
    arbiter.write("live.py", app("one", at_import=DIES_AT_BIRTH))
    server = arbiter.serve("--preload", workers=2)
    before, mother = server.wait_workers(2), template(server)

    with server.client() as client:
        (server.folder / "die-at-birth").touch()
        killed(server, before[0].pid)
        server.wait_log(r"was killed by SIGKILL while booting after .* s \(4 times so far\)")
        (server.folder / "die-at-birth").unlink()
        after = server.wait_workers(2)
        client.more(20)

    assert len(client.failures) <= 1
    assert client.longest_gap < LONGEST_GAP
    assert after[1].pid == before[1].pid
    assert template(server) == mother
    assert server.count("was killed by SIGKILL while booting") == 3


def test_a_service_that_was_suspended_whole_kills_nobody_when_it_wakes(arbiter: Arbiter) -> None:
    server = arbiter.serve("--preload", "--timeout", "2", workers=2)
    before, mother = server.wait_workers(2), template(server)
    everybody = [server.pid, mother, *pids(before)]

    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3.5)  # longer than every deadline, and than what counts as sleep
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
    server.wait_log(r"the supervisor did not run for [\d.]+ s")

    assert server.get().status == 200
    assert pids(before) == pids(server.wait_workers(2))
    assert template(server) == mother


def test_a_supervisor_that_was_stopped_while_a_template_booted_goes_on_with_the_reload(arbiter: Arbiter) -> None:
    """The template is ready meanwhile, but its worker is ordered only when the supervisor wakes: it must have the time."""
    server = arbiter.serve("--preload", "--boot-timeout", "3", workers=2)
    arbiter.write("live.py", app("two", at_import="\nopen('importing', 'a').close()\ntime.sleep(0.3)\n"))

    with server.client() as client:
        server.send(signal.SIGHUP)
        until((server.folder / "importing").exists, "a template in its import")
        server.send(signal.SIGSTOP)
        time.sleep(3.5)
        server.send(signal.SIGCONT)
        server.wait_log("reload done")

    assert client.failures == []
    server.wait_workers(2, generation=2)


class Poster(threading.Thread):
    """Posts random bodies until it is told that it is enough; each response is the digest of what came in, whole."""

    def __init__(self, server: Server, enough: threading.Event) -> None:
        super().__init__()
        self.server, self.enough = server, enough
        self.count, self.failures = 0, list[str]()

    def run(self) -> None:
        while not self.enough.is_set():
            body = os.urandom(16 * 1024)
            try:
                reply = ask(self.server.address, "/digest", body, timeout=30)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            else:
                if reply != Reply(200, hashlib.sha256(body).hexdigest()):
                    self.failures.append(f"{reply.status}: {reply.text[:200]}")
            self.count += 1


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock"], ids=["tcp", "unix"])
def test_a_storm_of_reloads_and_killed_templates_under_posts_loses_none(arbiter: Arbiter, bind: str) -> None:
    """1. Six threads post, 1500 times at least. 2. HUP, TTIN, HUP, TTOU ...; every third time, SIGKILL to a template.

    Result: no failure; then as many workers as were asked for, of the last generation, and no descriptor more than before.
    """
    server = arbiter.serve("--preload", workers=3, bind=bind)
    server.wait_workers(3)
    before = procfs.descriptors(server.pid)
    enough = threading.Event()
    posters = [Poster(server, enough) for _ in range(6)]

    for poster in posters:
        poster.start()
    try:
        gap = 0.02
        for turn, number in enumerate((signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTOU) * 6):
            server.send(number)
            time.sleep(gap)  # not for luck: the gaps are the storm
            gap = min(gap * 1.2, 1.0)
            if turn % 3 == 0 and (templates := server.templates()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(templates[-1].pid, signal.SIGKILL)
        until(lambda: sum(poster.count for poster in posters) >= 1500, "1500 requests", patience=120)
        reloads = 1 + server.count(" reload: one worker of the new generation is booted")
        server.send(signal.SIGHUP)
        server.wait_workers(3, generation=1 + reloads)
    finally:
        enough.set()
        for poster in posters:
            poster.join()
    template(server)

    assert [failure for poster in posters for failure in poster.failures] == []
    assert reloads >= 6
    until(  # a process that has just ended is let go of when it is reaped
        lambda: before == procfs.descriptors(server.pid),
        lambda: f"no descriptor more than {before}; there are {procfs.descriptors(server.pid)}",
    )
