"""`arbiter --init`: the application is found, what is written works, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import procfs
import pytest
import yaml
from clients import ask
from harness import BASE
from waiting import PATIENCE

from arbiter import templates
from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import resolve
from arbiter.project import ASGI, NOTHING, WSGI, Project, find
from arbiter.scaffold import SHOWN, configuration, plan, write
from arbiter.workers import site, threaded

ROOT = Path(__file__).parents[2]


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


DJANGO = {
    "manage.py": "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n",
    "shop/__init__.py": "",
    "shop/settings.py": "STATIC_URL = 'static/'\nSTATIC_ROOT = BASE_DIR / 'collected'\n",
    "shop/wsgi.py": "application = None\n",
    "shop/asgi.py": "application = None\n",
}


@pytest.mark.parametrize(
    ("files", "app", "interface", "path"),
    [
        pytest.param(DJANGO, "shop.wsgi:application", WSGI, ".", id="Django"),
        pytest.param(
            {**DJANGO, "shop/asgi.py": "application = ProtocolTypeRouter({})\n"},
            "shop.asgi:application",
            ASGI,
            ".",
            id="Channels",
        ),
        pytest.param(
            {
                "manage.py": 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")\n',
                "config/wsgi.py": "",
                "config/settings/local.py": "",
            },
            "config.wsgi:application",
            WSGI,
            ".",
            id="settings in a package",
        ),
        pytest.param({"app.py": "from flask import Flask\napp = Flask(__name__)\n"}, "app:app", WSGI, ".", id="Flask"),
        pytest.param(
            {
                "src/shop/__init__.py": "import flask\ndef create_app(config=None):\n    app = flask.Flask('shop')\n    return app\n"
            },
            "shop:create_app()",
            WSGI,
            "src",
            id="Flask's factory under src",
        ),
        pytest.param({"main.py": "from fastapi import FastAPI\napi = FastAPI()\n"}, "main:api", ASGI, ".", id="FastAPI"),
        pytest.param(
            {"web/server.py": "application = Starlette(routes=[])\n"}, "web.server:application", ASGI, ".", id="Starlette"
        ),
        pytest.param(
            {"app.py": "app = FastAPI()\n", "tests/other.py": "application = FastAPI()\n", "broken.py": "app = FastAPI(\n"},
            "app:app",
            ASGI,
            ".",
            id="tests and broken files are passed over",
        ),
        pytest.param(
            {"app.py": "def create_app(config):\n    return Flask('a')\n"}, "", WSGI, ".", id="a factory that wants more"
        ),
        pytest.param({"notes.txt": "Flask(__name__)"}, "", WSGI, ".", id="nothing"),
    ],
)
def test_the_application_of_a_directory_is_found(
    tmp_path: Path, files: dict[str, str], app: str, interface: str, path: str
) -> None:
    found = find(str(lay(tmp_path, files)))

    assert (found.app, found.interface, found.path) == (app, interface, path)


@pytest.mark.parametrize("project", [NOTHING, Project("shop.wsgi:application", "Flask", WSGI, "src", "src/shop.py:3")])
def test_a_new_configuration_is_sound_as_it_is_and_with_every_comment_taken_off(tmp_path: Path, project: Project) -> None:
    (tmp_path / "src").mkdir()
    text = configuration(project, "127.0.0.1:8000")
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "arbiter.toml").write_text(text)
    plain = resolve(["--print-config"], {}, str(tmp_path))
    (tmp_path / "arbiter.toml").write_text(uncommented)
    full = resolve([], {}, str(tmp_path))

    assert plain.settings.wsgi_app == (project.app or None)
    assert {"wsgi_app", "bind", *SHOWN} <= set(tomllib.loads(uncommented))
    assert all(str(full.origins[name]).startswith("arbiter.toml:") for name in SHOWN)


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text("workers = 3\n")
    written, kept = write({"arbiter.toml": "", "deploy/a.service": "x"}, str(tmp_path))

    assert (written, kept) == (["deploy/a.service"], ["arbiter.toml"])
    assert (tmp_path / "arbiter.toml").read_text() == "workers = 3\n"


def test_a_configuration_of_gunicorns_is_translated_with_its_meaning(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "import multiprocessing\n"
        "wsgi_app = 'shop.wsgi'\n"
        "bind = ['unix:/run/a.sock', '[::1]:1']\n"
        "workers = multiprocessing.cpu_count() * 2 + 1\n"
        "timeout = 90\n"
        "raw_env = ['A=1', 'SECRET=x']\n"
        "umask = 0o007\n"
    )
    made = plan(["--init", "--from-gunicorn", "gunicorn.conf.py"], str(tmp_path), {})
    before = resolve(["-c", "gunicorn.conf.py"], {}, str(tmp_path)).settings
    write(made.files, str(tmp_path))

    assert resolve(["-c", "arbiter.toml"], {}, str(tmp_path)).settings == before


def test_a_function_in_a_configuration_of_gunicorns_is_not_named_where_nobody_finds_it(tmp_path: Path) -> None:
    """With when_ready = "__config__:when_ready" in the new file, --check-config was content and the start failed."""
    (tmp_path / "gunicorn.conf.py").write_text("workers = 3\n\ndef when_ready(server):\n    pass\n")
    made = plan(["--init", "--from-gunicorn", "gunicorn.conf.py"], str(tmp_path), {})

    assert "when_ready" not in tomllib.loads(made.files["arbiter.toml"])
    assert any('when_ready = "hooks:when_ready"' in word for word in made.words)


def test_a_configuration_of_gunicorns_that_is_wrong_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("workers = 'many'\n")

    with pytest.raises(ConfigError, match=r"gunicorn\.conf\.py:1"):
        plan(["--init", "--from-gunicorn", "gunicorn.conf.py"], str(tmp_path), {})


def init(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "arbiter", "--init", *words],
        cwd=folder,
        env={**BASE, "PWD": str(folder)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


ALL = ("--systemd", "--nginx", "--haproxy", "--docker", "--kubernetes", "--name", "My Shop")


@pytest.mark.process
def test_the_command_writes_all_that_it_is_asked_for_and_says_what_to_do_with_it(tmp_path: Path) -> None:
    """1. --init in a Django project. 2. Once more. Result: the files and their next steps; then everything is kept."""
    lay(tmp_path, DJANGO)
    first, second = init(tmp_path, *ALL), init(tmp_path, *ALL)

    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} - set(DJANGO)
    assert files == {
        "arbiter.toml",
        "Dockerfile",
        ".dockerignore",
        "compose.yaml",
        "deploy/my-shop.service",
        "deploy/my-shop.socket",
        "deploy/my-shop.nginx.conf",
        "deploy/my-shop.haproxy.cfg",
        "deploy/kubernetes.yaml",
    }
    assert "The application is shop.wsgi:application (Django, manage.py)." in first
    assert all(f"wrote {name}\n" in first and f"kept {name}, which is there" in second for name in files)
    assert str(tmp_path / "collected") in (tmp_path / "deploy/my-shop.nginx.conf").read_text()
    settings = resolve([], {}, str(tmp_path)).settings
    assert settings.health_path == "/healthz", "what HAProxy asks must be there"
    assert settings.warmup == ("/",), "Django reads urls.py with the first request only"
    assert "RUN pip install arbiter-server django\n" in (tmp_path / "Dockerfile").read_text()


# deploy/ --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", templates.DEPLOY)
def test_the_files_of_deploy_are_fresh(path: str) -> None:
    assert (ROOT / "deploy" / path).read_text() == templates.DEPLOY[path], "run: python -m arbiter.templates deploy"


def test_nginx_ends_an_idle_connection_before_a_worker_that_is_replaced_does() -> None:
    """With 60 s here, 10 of 2101 requests of clients that pause for 0.3 s got a 502 over reloads; with this none of 1254."""
    (idle,) = re.findall(r"keepalive_timeout (\d+)ms;", templates.DEPLOY["nginx/site.conf"])

    assert int(idle) / 1000 < min(site.QUIET, threaded._QUIET)


def test_kubernetes_gives_a_pod_the_time_that_arbiter_takes_to_drain() -> None:
    deployment, service = yaml.safe_load_all(templates.kubernetes("shop", graceful_timeout=30))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (delay,) = (each["value"] for each in container["env"] if each["name"] == "ARBITER_DRAIN_DELAY")

    assert pod["terminationGracePeriodSeconds"] >= int(delay.removesuffix("s")) + 30 + templates.DRAIN
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert container["readinessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/healthz"


def _command(dockerfile: str) -> list[str]:
    (line,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    words: list[str] = json.loads(line)
    return words


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can make a PID namespace")
def test_the_containers_command_serves_and_stops_as_process_1(tmp_path: Path) -> None:
    """1. The Dockerfile's CMD as process 1, on a read-only root. 2. A health check. 3. TERM. Result: 200; status 0."""
    lay(tmp_path, {"app.py": "def application(e, s):\n    s('200 OK', [])\n    return [b'x']\n"})
    first, *words = _command(templates.dockerfile(python="3.13", install="", app="app"))
    assert first == "arbiter"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words[words.index("0.0.0.0:8000")] = f"127.0.0.1:{port}"
    script = f"""
set -e
mount --bind {tmp_path} {tmp_path}  # /tmp may be a file system of its own
mount -o remount,ro,bind {tmp_path}
mount -o remount,ro,bind /
cd {tmp_path}
if touch written 2>/dev/null; then exit 9; fi
exec {sys.executable} -m arbiter "$@"
"""
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh", *words],
        env={**BASE, "WEB_CONCURRENCY": "2"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "2 workers" in line and "ready" in line:
                break
        (pid,) = (found.pid for found in procfs.everyone() if found.parent == process.pid)
        reply = ask(("127.0.0.1", port), "/healthz")
        os.kill(pid, signal.SIGTERM)
        rest = process.communicate(timeout=PATIENCE)[0]

        assert reply.status == 200, "".join(lines)
        assert process.returncode == 0, rest
        assert "supervisor pid 1." in "".join(lines)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
