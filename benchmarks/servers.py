"""The servers: one row each. A new one is a row here, and a line in requirements.txt (built.txt if it has to be compiled).

Access logs are off, limits on connections are above what any workload opens, idle connections are kept for longer than any
workload lasts; everything else is as it comes. What is written to a log goes to a file.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from dataclasses import dataclass
from typing import Final

from benchmarks.workloads import ASGI, FLEET, HELLO, HTTP2, WSGI, Feature, Workload

HERE: Final = os.path.dirname(os.path.abspath(__file__))

IDLE: Final = frozenset({Feature.IDLE})
WORKERS: Final = frozenset({Feature.WORKERS})


def installed(package: str) -> str | None:
    """The version of a distribution, None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started."""

    name: str
    package: str
    """Its distribution on PyPI; empty for a limit, which is a file here."""
    command: str
    """With {python}, {bin} (scripts), {here} (this folder), {port}, {workers}, {threads}, {app}."""
    has: frozenset[Feature]
    hint: str = ""
    """What its installation needs besides pip."""
    note: str = ""
    """What one has to know to read its figures."""
    is_asgi: bool = False
    """It serves ASGI, and is measured with what it answers only."""
    only: frozenset[str] = frozenset()
    """The workloads that it is measured with; empty: all that it serves."""

    @property
    def ours(self) -> bool:
        """Whether it is the one that the others are compared to."""
        return self.package == "arbiter-server"

    @property
    def limit(self) -> bool:
        """Whether it is no server, but the least that a Python program must do."""
        return not self.package

    @property
    def version(self) -> str | None:
        """The version that is installed, None if it is not."""
        return installed(self.package) if self.package else "-"

    def serves(self, workload: Workload) -> bool:
        """Whether there is something to measure."""
        return workload.needs <= self.has and (not self.only or workload.name in self.only)

    @property
    def interface(self) -> str:
        """Which of an application's callables it serves."""
        return "asgi" if self.is_asgi or self.has & {Feature.ASGI, Feature.HTTP2} else "wsgi"

    def words(self, workload: Workload, port: int) -> list[str]:
        """The command line."""
        values = {
            "python": sys.executable,
            "bin": os.path.dirname(sys.executable),
            "here": HERE,
            "port": port,
            "workers": workload.workers,
            "threads": workload.threads,
            "app": f"{workload.app}:{self.interface}",
        }
        return [word.format(**values) for word in self.command.split()]


ARBITER: Final = "{python} -m arbiter --bind 127.0.0.1:{port} -w {workers} "
GUNICORN: Final = "{python} -m gunicorn -b 127.0.0.1:{port} -w {workers} --worker-connections 4000 --keep-alive 60 "
GRANIAN: Final = "{python} -m granian --host 127.0.0.1 --port {port} --workers {workers} --backlog 2048 --log-level warning "
KEEP: Final = "--keep-alive 60 --worker-connections 4000 "

BUILD: Final = "a C compiler and Python's headers (Debian: gcc python3-dev)"
CLOSES: Final = (
    "closes every connection after its response (its keep-alive holds a process per connection), also a stream that has no"
    " length, whose end by closing wrk counts as a failed read"
)

SYNC: Final = HELLO | WSGI | WORKERS
THREADED: Final = HELLO | FLEET | IDLE
SOCKETS: Final = frozenset({Feature.WEBSOCKET})
LOGGED: Final = frozenset({"hello", "browser"})
"""What a line of an access log costs is the same for every other response."""
ASYNC: Final = HELLO | ASGI | WORKERS | IDLE

SERVERS: Final = (
    Server("limit-canned", "", "{python} {here}/limits/canned.py {port}", HELLO | IDLE),
    Server("limit-environ", "", "{python} {here}/limits/environ.py {port} {app}", HELLO | IDLE),
    Server("arbiter-sync", "arbiter-server", ARBITER + "-k sync {app}", SYNC),
    Server("arbiter-sync-log", "arbiter-server", ARBITER + "-k sync --access-logfile access.log {app}", HELLO, only=LOGGED),
    Server("arbiter-threaded", "arbiter-server", ARBITER + KEEP + "-k threaded --threads {threads} {app}", THREADED),
    Server(
        "arbiter-threaded-log",
        "arbiter-server",
        ARBITER + KEEP + "-k threaded --threads {threads} --access-logfile access.log {app}",
        HELLO,
        only=LOGGED,
    ),
    Server("arbiter-async", "arbiter-server", ARBITER + KEEP + "-k async {app}", ASYNC | HTTP2 | SOCKETS),
    Server(
        "arbiter-async-log",
        "arbiter-server",
        ARBITER + KEEP + "-k async --access-logfile access.log {app}",
        HELLO,
        is_asgi=True,
        only=LOGGED,
    ),
    Server("gunicorn-sync", "gunicorn", GUNICORN + "-k sync {app}", SYNC),
    Server("gunicorn-gthread", "gunicorn", GUNICORN + "-k gthread --threads {threads} {app}", THREADED),
    Server(
        "gunicorn-gthread-log",
        "gunicorn",
        GUNICORN + "-k gthread --threads {threads} --access-logfile access.log {app}",
        HELLO,
        only=LOGGED,
    ),
    Server("gunicorn-asgi", "gunicorn", GUNICORN + "-k asgi {app}", ASYNC | SOCKETS),
    Server(
        "gunicorn-http2",
        "gunicorn",
        GUNICORN + "-k asgi --http-protocols h2,h1 --http2-cleartext prior-knowledge {app}",
        HTTP2,
    ),
    Server("granian", "granian", GRANIAN + "--interface wsgi --blocking-threads {threads} {app}", THREADED),
    Server("granian-asgi", "granian", GRANIAN + "--interface asgi {app}", ASYNC | HTTP2 | SOCKETS),
    Server(
        "hypercorn",
        "hypercorn",
        "{bin}/hypercorn -b 127.0.0.1:{port} -w {workers} -k uvloop --keep-alive 60 --log-level warning {app}",
        ASYNC | HTTP2 | SOCKETS,
    ),
    Server(
        "daphne",
        "daphne",
        "{bin}/daphne -b 127.0.0.1 -p {port} --http-timeout 60 --verbosity 0 {app}",
        HELLO | ASGI | IDLE | SOCKETS,
    ),
    Server(
        "uwsgi",
        "uWSGI",
        "{bin}/uwsgi --http-socket 127.0.0.1:{port} -H {bin}/.. --module {app} --master --processes {workers} --need-app"
        " --listen 1024 --disable-logging --die-on-term --add-header Connection:close",
        SYNC,
        BUILD,
        CLOSES,
    ),
    Server(
        "uwsgi-threads",
        "uWSGI",
        "{bin}/uwsgi --http-socket 127.0.0.1:{port} -H {bin}/.. --module {app} --master --processes {workers} --need-app"
        " --threads {threads} --listen 1024 --disable-logging --die-on-term --add-header Connection:close",
        SYNC | FLEET,
        BUILD,
        CLOSES,
        only=frozenset({"mix", "mix-kept", "post", "file"}),
    ),
    Server(
        "waitress",
        "waitress",
        "{python} -m waitress --listen=127.0.0.1:{port} --threads={threads} --connection-limit=4000 --asyncore-use-poll {app}",
        HELLO | WSGI | IDLE,
    ),
    Server("cheroot", "cheroot", "{python} {here}/embed.py cheroot {port} {app} {threads}", HELLO | WSGI | IDLE),
    Server(
        "bjoern",
        "bjoern",
        "{python} {here}/embed.py bjoern {port} {app}",
        HELLO | WSGI | IDLE,
        f"{BUILD}, and libev (Debian: libev-dev)",
    ),
    Server(
        "uvicorn",
        "uvicorn",
        "{python} -m uvicorn --host 127.0.0.1 --port {port} --loop uvloop --http httptools --no-access-log"
        " --log-level warning --timeout-keep-alive 60 {app}",
        HELLO | ASGI | IDLE | SOCKETS,
    ),
    Server(
        "uvicorn-log",
        "uvicorn",
        "{python} -m uvicorn --host 127.0.0.1 --port {port} --loop uvloop --http httptools --timeout-keep-alive 60 {app}",
        HELLO,
        is_asgi=True,
        only=LOGGED,
    ),
)

BY_NAME: Final = {server.name: server for server in SERVERS}
