"""Programs that embed the server: typed, in Gunicorn's classes, and in tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from harness import BASE
from waiting import PATIENCE, until

from arbiter import embed
from arbiter.app.base import BaseApplication
from arbiter.config.provenance import ConfigError
from arbiter.testing import NotServingError, running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.process


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        text: str = response.read().decode()
        return text


def living(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("settings", [{}, {"worker_class": "threaded", "threads": 2}, {"preload_app": True}])
def test_an_application_in_memory_is_served_by_forked_workers_and_nothing_is_left(settings: dict[str, Any]) -> None:
    """Story: an application that exists in the test only, with what the test has in memory."""
    seen: list[str] = ["of the test"]

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{seen[0]} {os.getpid()} {os.getppid()}".encode()]

    with running(app, **settings) as url:
        *words, worker, boss = get(f"{url}/x").split()
        assert (words, living(int(worker))) == (["of", "the", "test"], True)
        assert os.getpid() not in (int(worker), int(boss))
    until(lambda: not living(int(worker)) and not living(int(boss)), "the end of its processes")


def test_an_asgi_application_is_told_by_itself() -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"asgi"})

    with running(app) as url:
        assert get(url) == "asgi"


def test_an_application_that_cannot_be_served_says_why() -> None:
    with pytest.raises(NotServingError, match="no module named 'no_such_module'"), running("no_such_module:app"):
        pass
    with pytest.raises(NotServingError, match=r"unknown setting 'wokers' .*: did you mean 'workers'"), running(print, wokers=2):
        pass


def test_a_setting_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        embed.Arbiter({"workers": "many"}, app=print, timeout=-1)

    assert [str(problem).partition(":")[0] for problem in error.value.problems] == [
        'workers = "many" (given by the program)',
        "timeout = -1 (given by the program)",
    ]


PROGRAM = """
import sys, threading, time, urllib.request, signal, socket
import arbiter
from arbiter import Arbiter

free = socket.socket(); free.bind(("127.0.0.1", 0)); port = free.getsockname()[1]; free.close()

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"embedded"]

service = Arbiter({"bind": f"127.0.0.1:{port}"}, app=app, workers=1)

def ask():
    for _ in range(300):
        try:
            print(urllib.request.urlopen(f"http://127.0.0.1:{port}/").read().decode(), flush=True)
            break
        except OSError:
            time.sleep(0.05)
    service.stop()

before = signal.getsignal(signal.SIGTERM)
threading.Thread(target=ask).start()
print("status", service.run(), signal.getsignal(signal.SIGTERM) is before)
later = Arbiter(app=app, bind="127.0.0.1:0", workers=1)
later.stop()
print("again", later.run())
"""

GUNICORNS = """
import os
from arbiter.app.base import BaseApplication
from arbiter.app.wsgiapp import WSGIApplication

def handler(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [os.environ["FROM_LOAD"].encode()]

class Standalone(BaseApplication):
    def __init__(self, app, options=None):
        self.options = options or {}
        self.application = app
        super().__init__()

    def load_config(self):
        config = {key: value for key, value in self.options.items() if key in self.cfg.settings and value is not None}
        for key, value in config.items():
            self.cfg.set(key.lower(), value)

    def load(self):
        os.environ["FROM_LOAD"] = f"loaded in {os.getpid() != BOSS}"
        return self.application

def when_ready(server):
    print(server.cfg.workers, server.cfg.bind, server.cfg.timeout, flush=True)
    READY.set()

def worker_ready(server, worker):
    import threading, signal, urllib.request
    host, port = server.LISTENERS[0].getsockname()
    def ask():
        READY.wait()
        print(urllib.request.urlopen(f"http://{host}:{port}/").read().decode(), flush=True)
        os.kill(BOSS, signal.SIGTERM)
    threading.Thread(target=ask, daemon=True).start()

import threading
READY = threading.Event()
BOSS = os.getpid()
Standalone(handler, {"bind": "127.0.0.1:0", "workers": 1, "timeout": 7, "when_ready": when_ready, "nothing": 1,
    "worker_ready": worker_ready, "worker_tmp_dir": "/dev/shm"}).run()
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (PROGRAM, ["embedded", "status 0 True", "again 0"]),
        (GUNICORNS, ["1 ['127.0.0.1:0'] 7", "loaded in True"]),
    ],
)
def test_a_program_serves_and_goes_on_when_it_is_stopped(tmp_path: Path, program: str, said: list[str]) -> None:
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=BASE, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stderr
    assert "Traceback" not in done.stderr


def test_gunicorns_class_ends_the_program_when_its_settings_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    class Wrong(BaseApplication):
        def load_config(self) -> None:
            self.cfg.set("wokers", 2)

    with pytest.raises(SystemExit) as left:
        Wrong()

    assert left.value.code == 1
    assert "No configuration setting for: wokers. Did you mean workers?" in capsys.readouterr().err


def test_it_runs_in_the_main_thread_only() -> None:
    found: list[str] = []

    def run() -> None:
        try:
            embed.serve(print, bind="127.0.0.1:0")
        except RuntimeError as error:
            found.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)

    assert found == ["run() needs the main thread: signals go there. In tests, use arbiter.testing.running()."]
