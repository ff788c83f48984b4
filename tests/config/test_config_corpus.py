"""Configuration files in the manner of public deployments: run unmodified, and each mutation told apart.

A file's first comments say how it is run: `env:` variables, `log:`, `out:` and `exit:` what must be found (in the log, on
standard output, in either after the stop), `exists:` files, `asgi` and `tls`.
"""

from __future__ import annotations

import os
import re
import shlex
import ssl
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from waiting import PATIENCE, until

from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness import Arbiter

CORPUS = Path(__file__).parent / "gunicorn" / "corpus"
FILES = sorted(path.stem for path in CORPUS.glob("*.py"))

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served " + environ["wsgi.url_scheme"].encode()]
"""
ASGI = """
async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"served " + scope["scheme"].encode()})
"""
HELPERS = {
    "metrics_helper.py": "def mark_process_dead(pid, path):\n    open(f'{path}/dead-{pid}', 'w').close()\n",
    "pools.py": "class Pool:\n    def __init__(self, name): self.name = name\n    def close(self): self.name = ''\n",
    "settings_helper.py": "BASE = {'bind': '127.0.0.1:8000', 'workers': 2, 'env': {'A': '1'}}\nworkers = 9\n",
    "hooks_helper.py": "def post_fork(server, worker):\n    server.log.info('born by a helper')\n\ndef when_ready(server):\n    pass\n",
    "dot.env": "DOT_WORKERS=1\nDOT_APP=live:application\n",
}


def said(source: str, word: str) -> list[str]:
    """What the comments of a file say after this word."""
    return [line.partition(": ")[2] for line in source.splitlines() if line.startswith(f"# {word}:")]


def environment(source: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in said(source, "env") for pair in shlex.split(line))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in HELPERS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def certificate(folder: Path) -> None:
    made = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    made.private_key_pem.write_to_path(str(folder / "key.pem"))
    for part in made.cert_chain_pems:
        part.write_to_path(str(folder / "cert.pem"), append=True)


def ask_by_tls(host: str, port: int) -> str:
    """The body of the answer, whoever the server says it is."""
    context = ssl._create_unverified_context()
    with urllib.request.urlopen(f"https://{host}:{port}/", context=context, timeout=PATIENCE) as response:
        text: str = response.read().decode()
        return text


def _is_in(text: Callable[[], str], part: str) -> bool:
    return part in text()


@pytest.mark.process
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_gunicorns_is_run_unmodified(arbiter: Arbiter, folder: Path, name: str) -> None:
    """Story: start with the file, on a port of the test's; one request; stop. Result: what the file's comments say."""
    source = (CORPUS / f"{name}.py").read_text()
    (folder / "gunicorn.conf.py").write_text(source)
    arbiter.write("live.py", ASGI if "# asgi\n" in source else APP)
    is_tls = "# tls\n" in source
    if is_tls:
        certificate(folder)
    if "# quiet\n" in source:  # its log level hides the lines that the harness looks for
        more: list[str] = ["--log-level", "info"]
    else:
        more = []
    to_file = ["--error-logfile", "error.log"] if "error.log" in source else []
    words = [] if "wsgi_app" in source else ["live:application"]
    server = arbiter.launch(*more, *to_file, *words, env=environment(source), makes=["app.pid"] if "app.pid" in source else [])
    server.wait_log(r"all \d+ workers are ready")
    if is_tls:
        assert ask_by_tls(*server.tcp) == "served https"
    else:
        assert server.get("/").text == "served http"
    for pattern in said(source, "log"):
        server.wait_log(pattern)
    for pattern in said(source, "out"):
        until(partial(_is_in, server.out, pattern), pattern)
    for path in said(source, "exists"):
        until((folder / path).exists, path)
    assert server.stop() == 0
    for pattern in said(source, "exit"):
        assert re.search(pattern, server.everything()), pattern


@pytest.fixture
def untouched() -> Iterator[None]:
    """What configuration files do to the process on purpose is undone."""
    before, path, modules = dict(os.environ), list(sys.path), set(sys.modules)
    yield
    os.environ.clear()
    os.environ.update(before)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", "") and "pytest-" in str(sys.modules[name].__file__):
            del sys.modules[name]


MUTATIONS = {
    "a misspelt name": ("wokers = 3\n", "unknown setting 'wokers' (gunicorn.conf.py:{line}): did you mean 'workers'?"),
    "a misspelt hook": (
        "def post_frok(server, worker):\n    pass\n",
        "unknown hook 'post_frok' (gunicorn.conf.py:{line}): did you mean 'post_fork'?",
    ),
    "a wrong type": (
        "workers = 'many'\n",
        'workers = "many" (gunicorn.conf.py:{line}): expected a whole number or "auto", like 4.',
    ),
    "a hook of the wrong form": (
        "def child_exit(server):\n    pass\n",
        "child_exit = child_exit (gunicorn.conf.py:{line}): it does not take 2 arguments; expected a function of (server, worker)",
    ),
    "a worker that is not to be had": (
        "worker_class = 'gevent'\n",
        'worker_class = "gevent" (gunicorn.conf.py:{line}): there are no',
    ),
    "a missing module": (
        "import no_such_module\n",
        "cannot run the configuration file (gunicorn.conf.py:{line}): ModuleNotFoundError: No module named 'no_such_module'.",
    ),
    "a syntax error": (
        "workers = = 3\n",
        "cannot run the configuration file (gunicorn.conf.py:{line}): SyntaxError: invalid syntax.",
    ),
    "an exception": (
        "1 / 0\n",
        "cannot run the configuration file (gunicorn.conf.py:{line}): ZeroDivisionError: division by zero.",
    ),
    "an impossible combination": (
        "min_workers = 9\nmax_workers = 2\n",
        "min_workers = 9 (gunicorn.conf.py:{line}): more than max_workers = 2 (gunicorn.conf.py:",
    ),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", FILES)
def test_every_mutation_of_a_file_is_told_with_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source = (CORPUS / f"{name}.py").read_text()
    if "# tls\n" in source:
        certificate(folder)
    environ = environment(source)
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(folder)
    (folder / "gunicorn.conf.py").write_text(source)
    resolve(["live:application"], environ, str(folder))
    line = len(source.splitlines()) + 1
    for what, (addition, told) in MUTATIONS.items():
        (folder / "gunicorn.conf.py").write_text(source + addition)
        with pytest.raises(ConfigError) as error:
            resolve(["live:application"], environ, str(folder))
        assert told.format(line=line) in str(error.value), what
