"""The demo keeps its promises whatever serves it: here its WSGI and ASGI applications are called directly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "deploy/demo"

# A WSGI server of one request after the other, as small as can be: prints the visit numbers that the pages show.
VISITS = """
import re, sys
from wsgiref.util import setup_testing_defaults
from project.wsgi import application

for _ in range(int(sys.argv[1])):
    environ = {"HTTP_HOST": "127.0.0.1"}
    setup_testing_defaults(environ)
    answer = application(environ, lambda status, headers: None)
    print(re.search(r'id="visit">(\\d+)<', b"".join(answer).decode()).group(1))
    answer.close()
"""
# What a client of each interface gets from each view.
ANSWERS = """
import asyncio, hashlib, io, json, sys, time
from django.test import AsyncClient, Client
import django; django.setup()

interface, data = sys.argv[1], b"x" * 3_000_000
if interface == "WSGI":
    client = Client()
    get, post = client.get, client.post
    def text(answer): return answer.getvalue().decode()
else:
    client = AsyncClient()
    runner = asyncio.Runner()
    def get(path): return runner.run(client.get(path))
    def post(path, *a, **k): return runner.run(client.post(path, *a, **k))
    async def collect(answer): return b"".join([p async for p in answer]).decode()
    def text(answer):
        return runner.run(collect(answer)) if answer.streaming else answer.content.decode()

page = text(get("/"))
links = [l for l in ("/json", "/async", "/stream", "/upload", "/slow") if f'href="{l}' in page]
assert len(links) == 5, page
facts = json.loads(text(get("/json")))
assert facts["interface"] == interface and facts["visits"] == 1, facts
assert json.loads(text(get("/async")))["milliseconds"] < 900
lines = text(get("/stream?lines=3")).splitlines()
assert len(lines) == 3 and lines[0].startswith("1 of 3"), lines
began = time.monotonic()
assert text(get("/slow?seconds=0.2")).startswith("Slept 0.2 s")
assert time.monotonic() - began >= 0.2
expected = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
file = io.BytesIO(data)
file.name = "data.bin"
assert json.loads(text(post("/upload", {"file": file}))) == expected
assert json.loads(text(post("/upload", data, content_type="application/octet-stream"))) == expected
assert post("/upload", {"other": "1"}).status_code == 400
assert 'method="post"' in text(get("/upload"))
assert get("/nosuch").status_code == 404
"""


def demo(code: str, *arguments: str, database: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=DEMO,
        env={
            **os.environ,
            "PYTHONPATH": str(DEMO),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DEMO_DATABASE": str(database),
            "DEMO_ALLOWED_HOSTS": "testserver",  # the host of Django's test clients
            "DEMO_SECRET_KEY": "of this test",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (0, "")
    return out


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite3"
    migrate = "import sys; from django.core.management import call_command as call; import django; django.setup(); call('migrate', verbosity=0)"
    output(demo(migrate, database=path))
    return path


def test_nine_processes_count_every_visit_once_and_never_find_the_database_locked(database: Path) -> None:
    processes = [demo(VISITS, "30", database=database) for _ in range(9)]

    visits = sorted(int(number) for process in processes for number in output(process).split())

    assert list(range(1, 271)) == visits


@pytest.mark.parametrize("interface", ["WSGI", "ASGI"])
def test_every_view_answers_over_both_interfaces(interface: str, database: Path) -> None:
    output(demo(ANSWERS, interface, database=database))


def test_processes_that_start_together_make_one_secret_key(tmp_path: Path) -> None:
    """Two hundred keys, because a start is a race that is lost rarely."""
    keys = [tmp_path / f"key-{number}" for number in range(200)]
    code = (
        "import pathlib, sys, time; from project.secret import secret_key\n"
        "folder, start = pathlib.Path(sys.argv[1]), float(sys.argv[2])\n"
        "time.sleep(max(0, start - time.monotonic()))\n"
        "for number in range(200): print(secret_key(folder / f'key-{number}'))"
    )
    start = time.monotonic() + 1  # when all have imported what they need; if some have not, the race is only shorter

    processes = [demo(code, str(tmp_path), str(start), database=tmp_path / "unused") for _ in range(9)]
    seen = {tuple(output(process).split()) for process in processes}

    assert seen == {tuple(key.read_text() for key in keys)}
    assert len(set(*seen)) == len(keys)
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert sorted(keys) == sorted(tmp_path.iterdir())
