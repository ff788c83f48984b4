"""What a user gets: from the wheel, from an editable install, and from `make serve` in a bare checkout.

Every install here goes into a new venv outside the tree, so nothing that only the tree has can help. One process runs the
whole file (xdist_group): the wheel is built and installed once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import arbiter

if TYPE_CHECKING:
    from collections.abc import Iterator

# 300 s: a venv and its packages from the index, on a machine that is busy with the other tests.
pytestmark = [pytest.mark.xdist_group("install"), pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
# What is made, not written: a bare checkout has none of it.
MADE = (
    ".git",
    ".venv*",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "build",
    "dist",
    "db.sqlite3*",
    ".secret_key",
)

# Without what `make test` adds to it for pytest, or hands down to a make below it.
USERS_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"PYTHONSAFEPATH", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
}

APPLICATION = """
def application(environ, start_response):
    body = b"served"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
WHERE = """
import importlib.util
for name in ("config", "workers", "arbiter.config", "arbiter.workers", "arbiter.workers.protocols", "arbiter.workers.interfaces"):
    print(name, importlib.util.find_spec(name) is not None)
"""
ONLY_ARBITER = """\
config False
workers False
arbiter.config True
arbiter.workers True
arbiter.workers.protocols True
arbiter.workers.interfaces True
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def new_venv(where: Path, *packages: str | Path) -> Path:
    """The bin folder of a new venv with `packages` (pip's arguments) in it."""
    venv.create(where, with_pip=True)
    run(where / "bin/python", "-m", "pip", "install", "--quiet", *packages)
    return where / "bin"


def copy_of(tree: Path, to: Path) -> Path:
    """`tree` at `to`, without what is made in it."""
    return Path(shutil.copytree(tree, to, symlinks=True, ignore=shutil.ignore_patterns(*MADE)))


class Server(NamedTuple):
    """A server under test, in a process group of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def get(self, path: str = "/") -> str:
        """The body of the answer to a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return str(response.read().decode())

    def stop(self) -> int:
        """The exit status after a TERM, once no process of the group is left."""
        self.process.terminate()
        status = self.process.wait(20)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return status
            time.sleep(0.02)
        pytest.fail(f"processes are left 5 s after the exit:\n{self.log.read_text()}")


@contextlib.contextmanager
def served(*command: str | Path, cwd: Path, log: Path, boot: float = 30.0) -> Iterator[Server]:
    """A server that answers, on a free port; nothing is left of it afterwards. `boot` is in seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**USERS_ENVIRONMENT, "ARBITER_BIND": address},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, f"http://{address}", log)
    try:
        end = time.monotonic() + boot
        while not _answers(server):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"no answer in {boot:g} s; exit status {process.poll()}; log:\n{log.read_text()}")
            time.sleep(0.05)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left: that is the good case
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(server: Server) -> bool:
    try:
        server.get()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where pip reaches no package index: without one no venv can be filled."""
    fetched = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--retries=0",
            "--timeout=10",
            "--no-deps",
            "setuptools>=77",
        ],
        cwd=tmp_path_factory.mktemp("registry"),
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        pytest.skip(f"pip reaches no package index: {fetched.stderr.strip()[-200:]}")


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory, registry: None) -> Path:
    """The folder with the sdist, and with the wheel that was built from the sdist."""
    made = tmp_path_factory.mktemp("distributions")
    tree = copy_of(ROOT, made / "tree")
    run(sys.executable, "-m", "build", "--outdir", made, tree)
    return made


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new venv with the wheel in it."""
    return new_venv(tmp_path_factory.mktemp("installed") / "venv", wheel)


@pytest.fixture(scope="session")
def editable(tmp_path_factory: pytest.TempPathFactory, registry: None) -> Path:
    """The bin folder of a new venv with an editable install of a tree that lacks the two links."""
    where = tmp_path_factory.mktemp("editable")
    tree = copy_of(ROOT, where / "tree")
    for link in ("workers", "config"):
        (tree / "arbiter" / link).unlink()
    return new_venv(where / "venv", "--editable", tree)


def test_the_wheel_and_the_sdist_hold_every_module_and_the_type_marker(wheel: Path, distributions: Path) -> None:
    modules = {
        f"{package}/{path.relative_to(ROOT / folder)}"
        for package, folder in (("arbiter", "arbiter"), ("arbiter/workers", "workers"), ("arbiter/config", "config"))
        for path in (ROOT / folder).rglob("*.py")
    }

    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}

    assert modules | {"arbiter/py.typed"} == in_wheel
    assert {"pyproject.toml", "README.md", "LICENSE", "workers/contract.py"} <= in_sdist


def test_an_install_offers_arbiter_and_never_a_top_level_config_or_workers(installed: Path, tmp_path: Path) -> None:
    found = run(installed / "python", "-I", "-c", WHERE, cwd=tmp_path)

    assert found == ONLY_ARBITER


def test_an_editable_install_needs_no_links_and_has_no_top_level_config_or_workers(editable: Path, tmp_path: Path) -> None:
    found = run(editable / "python", "-I", "-c", WHERE, cwd=tmp_path)

    assert found == ONLY_ARBITER


def test_the_command_and_the_module_say_the_same_version(installed: Path, tmp_path: Path) -> None:
    by_command = run(installed / "arbiter", "--version", cwd=tmp_path)
    by_module = run(installed / "python", "-m", "arbiter", "--version", cwd=tmp_path)

    assert by_command == by_module
    assert arbiter.__version__ in by_command


def test_an_installed_wheel_serves_and_stops_on_term(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "site_wsgi.py").write_text(APPLICATION)

    with served(installed / "arbiter", "-w", "2", "site_wsgi:application", cwd=tmp_path, log=tmp_path / "log") as server:
        body = server.get()
        status = server.stop()

    assert body == "served"
    assert status == 0


@pytest.mark.parametrize("install", ["installed", "editable"])
def test_an_application_with_its_own_config_and_workers_packages_is_served(
    install: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for package in ("config", "workers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"OWNER = 'the {package} of the application'\n")
    (tmp_path / "site_own.py").write_text(
        APPLICATION.replace('b"served"', "f'{config.OWNER}, {workers.OWNER}'.encode()") + "\nimport config, workers\n"
    )
    bin_folder: Path = request.getfixturevalue(install)

    with served(bin_folder / "arbiter", "-w", "2", "site_own:application", cwd=tmp_path, log=tmp_path / "log") as server:
        body = server.get()

    assert body == "the config of the application, the workers of the application"


def test_make_serve_serves_the_demo_from_a_bare_checkout_and_stops_on_term(registry: None, tmp_path: Path) -> None:
    """One command on a fresh machine.

    1. The tree is copied without anything that is made in it; `make -C ... serve` runs from another folder.
    2. It makes .venv, installs, migrates, serves: the page counts, an upload is hashed.
    3. TERM to make: everything is gone, exit status 0 of the server or make's own for TERM.
    Result: a second run counts on from where the first one stopped.
    """
    if shutil.which("make") is None:
        pytest.skip("make is not installed: apt-get install make")
    tree = copy_of(ROOT, tmp_path / "tree")
    upload = os.urandom(3_000_000)
    digests, visits = [], []

    for _ in range(2):
        with served("make", "-C", tree, "serve", cwd=tmp_path, log=tmp_path / "log", boot=240) as server:
            server.get()
            visits.append(json.loads(server.get("/json"))["visits"])
            for body in (upload, iter([upload[:1000], upload[1000:]])):  # with its length, and chunked
                request = urllib.request.Request(server.url + "/upload", body, {"Content-Type": "application/octet-stream"})
                with urllib.request.urlopen(request, timeout=10) as response:
                    digests.append(json.load(response))
            server.stop()

    assert digests == [{"size": len(upload), "sha256": hashlib.sha256(upload).hexdigest()}] * 4
    assert visits[1] == visits[0] + 2  # what `served` asked until it got an answer, and one more
