"""Real servers for tests: start one, ask it without ever stopping, hurt it, and see that nothing is left of it.

Theory: a server is started with `start_new_session`, so all that it ever forks is found in /proc by its session, orphans
included. Every wait is for a condition with a generous deadline (`PATIENCE`): quick when all is well, and on a loaded
machine late rather than wrong. Rules: no sleeping for luck; every server is checked at the end of its test, by
`Server.stop` or by the fixture; a traceback in a log is a failure unless the test has said that it comes (`expect`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import procfs
from clients import Asking, Client, Reply, ask
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clients import Address

BASE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("ARBITER_", "GUNICORN_", "LISTEN_", "NOTIFY_", "WATCHDOG_"))
    and name not in {"PORT", "WEB_CONCURRENCY"}
}
"""The environment of a server: ours, without what would configure it. No .pyc files: tests change sources faster than the
whole seconds in which a .pyc remembers its source."""
BASE |= {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "", "TZ": "UTC"}

APP = """
import hashlib, os, signal, time

NAME = "one"

def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
    body = f"{NAME} {os.getpid()}"
    if path == "/held":  # a request that is in the application for as long as the test wants
        open(f"held-{os.getpid()}", "x").close()
        while not os.path.exists("release"):
            time.sleep(0.01)
    elif path == "/deaf":  # held, and nothing that Python does ends it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
        open(f"held-{os.getpid()}", "x").close()
        while not os.path.exists("release"):
            time.sleep(0.01)
    elif path == "/digest":
        digest, left = hashlib.sha256(), int(environ["CONTENT_LENGTH"])
        while left and (data := environ["wsgi.input"].read(min(left, 65536))):
            digest.update(data)
            left -= len(data)
        body = digest.hexdigest()
    elif path == "/exit":
        os._exit(3)
    elif path == "/close":  # what a library does that makes a daemon of its process
        os.closerange(3, 1000)
    elif path == "/env":
        body = os.environ.get(query, "")
    data = body.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]
"""
"""An application that does what the path says; `app` makes another generation of it."""


def app(name: str, *, at_import: str = "") -> str:
    """The source of `APP` that answers with this name, and does something more when it is imported."""
    return APP.replace('"one"', repr(name)) + at_import


@dataclass
class Server:
    """A server under test."""

    process: subprocess.Popen[bytes]
    folder: Path
    log_path: Path
    out_path: Path
    err_path: Path
    files: frozenset[str] = frozenset()
    """What its command line has it make, and it has to remove: sockets, the pid file."""
    keeps: frozenset[str] = frozenset()
    """What it must leave alone."""
    expected: list[str] = field(default_factory=list)
    listens: Address | None = None
    checked: bool = False
    shared: set[str] = field(default_factory=set)

    @property
    def pid(self) -> int:
        return self.process.pid

    # Looking

    def log(self) -> str:
        """All that it has logged, and written to standard error."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def out(self) -> str:
        """All that it has written to standard output."""
        return self.out_path.read_text(errors="replace")

    def everything(self) -> str:
        """All that it has written anywhere, its own words last."""
        return self.out() + (self.err_path.read_text(errors="replace") if self.err_path != self.log_path else "") + self.log()

    def count(self, pattern: str) -> int:
        """How often the pattern is found in the log."""
        return len(re.findall(pattern, self.log(), re.MULTILINE))

    def wait_log(self, pattern: str, times: int = 1, patience: float = PATIENCE) -> re.Match[str]:
        """The `times`-th place in the log where the pattern is found."""

        def found() -> list[re.Match[str]]:
            ended = self.process.poll() is not None  # before the log is read: what it logged last is in it
            matches = list(re.finditer(pattern, self.log(), re.MULTILINE))
            assert len(matches) >= times or not ended, (
                f"it exited with status {self.process.returncode} and had not logged {pattern!r} {times} times"
            )
            return matches[times - 1 :]

        return until(found, f"{pattern!r} in the log, {times} times", patience)[0]

    @property
    def address(self) -> Address:
        """Where it listens, as its first line says."""
        if self.listens is None:
            found = self.wait_log(r"listening on (?:https?://([\d.]+):(\d+)|unix:([^,:]+))")
            self.listens = (found[1], int(found[2])) if found[1] else found[3]
        return self.listens

    @property
    def tcp(self) -> tuple[str, int]:
        """Host and port."""
        address = self.address
        assert isinstance(address, tuple)
        return address

    def members(self) -> list[procfs.Process]:
        """All living processes of its session: it, its workers, orphans."""
        return [found for found in procfs.everyone() if found.session == self.pid and found.state not in "ZX"]

    def children(self) -> list[procfs.Process]:
        """Its child processes, zombies included."""
        return [found for found in procfs.everyone() if found.parent == self.pid]

    def workers(self) -> list[procfs.Process]:
        """Its living workers by slot; those that have just been forked have no title yet, and are not among them."""
        return sorted(
            (found for found in self.children() if found.slot and found.state not in "ZX"),
            key=lambda worker: (worker.slot, worker.pid),
        )

    def templates(self) -> list[procfs.Process]:
        """Its living templates (`--preload`), the oldest generation first."""
        found = [found for found in self.children() if found.is_template and found.state not in "ZX"]
        return sorted(found, key=lambda template: template.generation)

    # Waiting

    def wait_ready(self, patience: float = PATIENCE) -> Server:
        """Wait for all workers of the first generation."""
        self.wait_log(r"all \d+ workers are ready", patience=patience)
        return self

    def wait_workers(self, count: int, generation: int = 0) -> list[procfs.Process]:
        """Wait for exactly so many workers, none of them of another generation (0: any), and nothing else but templates."""

        def found() -> list[procfs.Process]:
            workers = self.workers()
            fits = all(worker.generation == generation for worker in workers) if generation else True
            others = sum(not child.is_template for child in self.children())
            return workers if fits and len(workers) == count == others else []

        return until(found, lambda: f"{count} workers of generation {generation or 'any'}; there are {self.children()}")

    def wait_exit(self, patience: float = PATIENCE) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(patience)

    def wait_held(self, count: int = 1) -> list[int]:
        """The pids of the workers that are in ``/held``, when there are so many."""

        def held() -> list[int]:
            return [int(path.name.partition("-")[2]) for path in self.folder.glob("held-*")]

        return until(lambda: held() if len(held()) >= count else [], f"{count} held requests")

    # Acting

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str = "/") -> Reply:
        return ask(self.address, path)

    def ask(self, path: str) -> Asking:
        """Begin a request and go on."""
        return Asking(self.address, path)

    def client(self, *, threads: int = 2, path: str = "/", pause: float = 0.003) -> Client:
        """A client that never stops asking."""
        return Client(self.address, threads=threads, path=path, pause=pause)

    def release(self) -> None:
        """Let the requests to ``/held`` end."""
        (self.folder / "release").touch()

    def expect(self, *texts: str) -> None:
        """Tracebacks with one of these texts in them are the application's: the test wants them."""
        self.expected += texts

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after this signal; it has left nothing behind."""
        if self.process.poll() is None:
            self._look_for_zombies()
            self._look_at_memory()
            self.process.send_signal(number)
        return self.ended()

    def ended(self, patience: float = PATIENCE) -> int:
        """Its exit status, once it has ended of itself or by an earlier signal; it has left nothing behind."""
        status = self.wait_exit(patience)
        self.check()
        return status

    # What every test asserts

    def _look_for_zombies(self) -> None:
        # One that has just died is reaped within a moment: it is one that stays that is a fault.
        until(
            lambda: not any(child.state == "Z" for child in self.children()),
            lambda: f"the end of zombies; there are {self.children()}",
        )

    def _look_at_memory(self) -> None:
        for member in self.members():
            self.shared |= procfs.shared_memory(member.pid)

    def check(self) -> None:
        """Assert that it is gone, with all that it had made, and that its log is clean."""
        self.checked = True
        assert self.process.poll() is not None, "it still runs"
        until(lambda: not self.members(), lambda: f"the end of all its processes: {self.members()}", patience=3.0)
        left = {name for name in self.files if os.path.lexists(name)}
        left |= {str(path) for path in self.folder.rglob("*") if _is_socket(path)}
        assert left == self.keeps, f"it left files behind, or took away what was not its own: {left}, not {self.keeps}"
        assert not [name for name in self.shared if os.path.exists(name)], "it left shared memory behind"
        surprises = [text for text in _tracebacks(self.everything()) if not any(word in text for word in self.expected)]
        assert not surprises, "a traceback that no test expects:\n" + "\n".join(surprises)

    def clean_up(self) -> None:
        """End whatever still lives of it, by pid."""
        for member in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)


class Arbiter:
    """Starts servers in one folder. The fixture `arbiter`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []

    def write(self, name: str, text: str) -> Path:
        """Write a file of the application, or of its configuration, whole: nobody ever reads half of it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (draft := path.with_name(f".{path.name}.draft")).write_text(text)
        draft.replace(path)
        return path

    def launch(
        self,
        *arguments: str | Path,
        bind: str | None = "127.0.0.1:0",
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        makes: Sequence[str | Path] = (),
        keeps: Sequence[str | Path] = (),
    ) -> Server:
        """Start a server and go on at once.

        Args:
            arguments: the command line; ``--prove 0`` stands before it, so that reloads are quick unless a test wants else.
            bind: where to listen; None when the arguments or the configuration say it.
            env: variables more than the usual ones.
            prefix: a program that becomes the server, with its arguments.
            stderr: a descriptor for its standard error, in place of the log file.
            pass_fds: descriptors that it inherits, under the same numbers.
            makes: files that it must remove, besides the socket of a ``unix:`` bind and the file of ``--pid``.
            keeps: files that it must not remove, among those.

        """
        number = len(self.servers) + 1
        words = [*(["--bind", bind] if bind else []), "--prove", "0", *map(str, arguments)]
        log, out = self.folder / f"server-{number}.log", self.folder / f"server-{number}.out"
        own = [self.folder / name for name in makes]
        own += [self.folder / after for before, after in itertools.pairwise(words) if before == "--pid"]
        own += [self.folder / word.partition(":")[2] for word in words if word.startswith("unix:") and "@" not in word]
        with log.open("ab") as log_file, out.open("ab") as out_file:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "arbiter", *words],
                cwd=self.folder,
                env={**BASE, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=log_file if stderr is None else stderr,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        own_log = self.folder / words[words.index("--error-logfile") + 1] if "--error-logfile" in words else log
        server = Server(process, self.folder, own_log, out, log, frozenset(map(str, own)), frozenset(map(str, keeps)))
        self.servers.append(server)
        return server

    def serve(
        self,
        *arguments: str | Path,
        workers: int = 2,
        bind: str | None = "127.0.0.1:0",
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        keeps: Sequence[str | Path] = (),
    ) -> Server:
        """Start a server of ``live.py`` (`APP` unless the test has written another) and wait until all workers are ready."""
        if not (self.folder / "live.py").exists():
            self.write("live.py", APP)
        words = ("-w", str(workers), *arguments, "live")
        return self.launch(*words, bind=bind, env=env, prefix=prefix, pass_fds=pass_fds, keeps=keeps).wait_ready()

    def fail(
        self,
        *arguments: str | Path,
        bind: str | None = "127.0.0.1:0",
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        keeps: Sequence[str | Path] = (),
        patience: float = PATIENCE,
    ) -> tuple[int, str]:
        """Exit status and all words of a server that can't start."""
        server = self.launch(*arguments, bind=bind, env=env, prefix=prefix, keeps=keeps)
        server.expect("Traceback")  # which, and how many, is for the test to say
        status = server.wait_exit(patience)
        server.check()
        return status, server.everything()

    def finish(self) -> None:
        """Stop and check every server that the test has not; then nothing lives, whatever the result."""
        try:
            for server in self.servers:
                if server.process.poll() is None:
                    assert server.stop() == 0, "it did not stop with status 0 when asked at the end of the test"
                elif not server.checked:
                    server.check()
        finally:
            for server in self.servers:
                server.clean_up()

    def evidence(self) -> list[tuple[str, str]]:
        """Headings and texts for the report of a failure."""
        return [(f"log of server {server.pid} in {self.folder}", server.everything()) for server in self.servers]


def unprivileged(folder: Path) -> tuple[str, ...]:
    """A prefix that runs a program without root's powers, as a user nobody else is; empty when we have none anyway.

    It may still read everything (CAP_DAC_READ_SEARCH), as a checkout may lie in root's home, and write in `folder`.
    """
    if os.geteuid():
        return ()
    assert shutil.which("setpriv"), "setpriv is part of util-linux, which Debian always has"
    user = 50_000 + os.getpid() % 10_000  # one for each test process: RLIMIT_NPROC counts by user
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)
    can = "-all,+dac_read_search"
    caps = (f"--inh-caps={can}", "--ambient-caps=+dac_read_search", f"--bounding-set={can}")
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *caps, "--")


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _tracebacks(text: str) -> list[str]:
    """Every traceback, each with the log line before it; and what an interpreter says when it dies or leaks."""
    records = re.split(r"^(?=\[\d{4}-\d\d-\d\d )", text, flags=re.MULTILINE)
    alarms = ("Traceback (most recent call last)", "Fatal Python error", "please report it", "Exception ignored in")
    return [record for record in records if any(alarm in record for alarm in alarms)]
