"""`--reload`: a change is seen soon, cuts no request, and while the code is broken every client is shown why."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from harness import app
from waiting import until

from arbiter.watch import Watch, has_missed, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

ENGINES = pytest.mark.parametrize("engine", ["inotify", "poll"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def answer(server: Server) -> tuple[int, str]:
    reply = server.get("/")
    return reply.status, reply.text


def shows(server: Server, *words: str) -> Callable[[], bool]:
    def is_shown() -> bool:
        status, text = answer(server)
        return status == 503 and all(word in text for word in words)

    return is_shown


@ENGINES
def test_changes_are_served_soon_and_errors_are_shown_until_they_are_mended(arbiter: Arbiter, engine: str) -> None:
    """1. A change. 2. A broken one. 3. A mended one; all under load.

    Result: the new code answers; then the error, with its traceback; then the new code; no connection fails meanwhile.
    """
    server = arbiter.serve("--reload", "--reload-engine", engine)
    server.expect("ZeroDivisionError")
    with server.client() as client:
        client.more(5)
        arbiter.write("live.py", app("two"))
        until(lambda: answer(server)[1].startswith("two "), "the change")
        arbiter.write("live.py", app("three", at_import="\n1 / 0\n"))
        until(shows(server, "ZeroDivisionError", "live.py", "1 / 0"), "the error")
        arbiter.write("live.py", app("four"))
        until(lambda: answer(server)[1].startswith("four "), "the mended code")
        client.more(5)

    assert {failure.what.partition("\n")[0] for failure in client.failures} <= {"503: The application can't be loaded:"}


def test_a_first_start_that_fails_shows_the_error_and_then_the_application(arbiter: Arbiter) -> None:
    """1. Start with broken code. 2. Mend it. Result: 503 with the error, as HTML to a browser; then the application."""
    arbiter.write("live.py", "import nosuchmodule\n" + app("one"))
    words = ("--reload", "--reload-engine", "poll", "-w", "1", "live")
    server = arbiter.launch(*words, bind=f"127.0.0.1:{free_port()}").wait_ready()
    server.expect("nosuchmodule")
    until(shows(server, "nosuchmodule"), "the error")
    with httpx.Client(base_url=f"http://{server.tcp[0]}:{server.tcp[1]}") as browser:
        page = browser.get("/", headers={"Accept": "text/html"})
    arbiter.write("live.py", app("two"))
    until(lambda: answer(server)[1].startswith("two "), "the mended code")

    assert page.status_code == 503
    assert page.headers["content-type"].startswith("text/html")
    assert "No module named &#x27;nosuchmodule&#x27;" in page.text


def test_a_configuration_that_is_broken_is_shown_too(arbiter: Arbiter) -> None:
    arbiter.write("arbiter.toml", "workers = 1\n")
    server = arbiter.serve("--reload", "--reload-engine", "poll", "--reload-include", "arbiter.toml", workers=1)
    arbiter.write("arbiter.toml", "wokers = 1\n")
    until(shows(server, "unknown setting 'wokers'", "did you mean 'workers'?"), "the error")
    arbiter.write("arbiter.toml", "workers = 1\n")
    until(lambda: answer(server)[0] == 200, "the application")


def test_the_watcher_ends_with_the_supervisor_however_that_ends(arbiter: Arbiter) -> None:
    server = arbiter.serve("--reload", workers=1)
    server.send(signal.SIGKILL)

    assert server.ended() == -signal.SIGKILL


# What is watched ------------------------------------------------------------------------------------------------------


def watch(folder: Path, **changes: Any) -> Watch:
    return Watch([str(folder)], [], ["*.py"], [], "poll", 0)._replace(**changes)


def names(folder: Path, watch: Watch) -> set[str]:
    return {os.path.relpath(path, folder) for path in snapshot(watch)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (
        "app.py",
        "shop/views.py",
        "shop/page.html",
        "shop/migrations/0001.py",
        "api_pb2.py",
        ".git/hook.py",
        "__pycache__/app.py",
        "env/pyvenv.cfg",
        "env/lib/a.py",
        "node_modules/x.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def test_sources_are_watched_and_neither_caches_nor_environments(project: Path) -> None:
    assert names(project, watch(project)) == {"app.py", "shop/views.py", "shop/migrations/0001.py", "api_pb2.py"}


def test_what_is_included_excluded_or_named_is_heeded(project: Path) -> None:
    chosen = watch(
        project,
        include=["*.py", "*.html"],
        exclude=["migrations", "*_pb2.py"],
        files=[str(project / "env" / "lib" / "a.py")],
    )

    assert names(project, chosen) == {"app.py", "shop/views.py", "shop/page.html", "env/lib/a.py"}


def test_a_change_before_anybody_watched_is_not_missed_and_one_before_the_start_or_from_the_future_is_none(
    project: Path,
) -> None:
    for path in snapshot(watch(project)):
        os.utime(path, ns=(100, 100))
    os.utime(project / "app.py", ns=(200, 200))

    assert has_missed(watch(project, since=199), 200)
    assert not has_missed(watch(project, since=200), 300)
    assert not has_missed(watch(project, since=150), 199)
