"""Logs: one form of line, the access log, and rotation without a lost line."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

import pytest
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process


def test_every_line_names_time_level_worker_generation_and_pid(arbiter: Arbiter) -> None:
    server = arbiter.serve()
    pids = {str(server.pid), *(str(worker.pid) for worker in server.wait_workers(2))}
    server.stop()
    form = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+0000\] \[[A-Z]+\] worker=(?:-|\d+) gen=1 pid=(\d+) \S.*"
    matches = [re.fullmatch(form, line) for line in server.log().splitlines()]

    assert None not in matches
    assert {match[1] for match in matches if match} == pids


def test_after_a_rotation_and_usr1_every_process_writes_to_the_new_file(arbiter: Arbiter) -> None:
    """1. The log is renamed: all go on writing to it. 2. USR1. 3. A worker and the supervisor log. Result: in the new file."""
    server = arbiter.serve("--error-logfile", "error.log", "--access-logfile", "access.log", workers=1)
    assert server.get("/").status == 200
    for name in ("error.log", "access.log"):
        (server.folder / name).rename(server.folder / f"{name}.1")
    assert server.get("/before").status == 200
    until(lambda: "/before" in (server.folder / "access.log.1").read_text(), "the access in the old file")

    server.send(signal.SIGUSR1)
    until(server.log_path.exists, "the new file")
    server.wait_log("log files reopened")
    until(
        lambda: server.get("/after").status == 200 and "/after" in (server.folder / "access.log").read_text(),
        "the new access log",
    )
    server.send(signal.SIGTTOU)
    server.wait_log("TTOU ignored")

    assert "/after" not in (server.folder / "access.log.1").read_text()
    assert "log files reopened" not in (server.folder / "error.log.1").read_text()


def test_rotations_under_load_lose_no_request_and_no_access_line(arbiter: Arbiter) -> None:
    """1. A client asks. 2. Ten times the log is renamed and USR1 is sent. Result: a line for each reply, in one of the files."""
    server = arbiter.serve("--access-logfile", "access.log", "--access-logformat", "%(r)s", workers=2)

    with server.client() as client:
        for number in range(10):
            (server.folder / "access.log").rename(server.folder / f"access.log.{number}")
            server.send(signal.SIGUSR1)
            until((server.folder / "access.log").exists, "the new file")
            client.more(10)

    def lines() -> list[str]:
        return [line for path in server.folder.glob("access.log*") for line in path.read_text().splitlines()]

    until(lambda: len(lines()) >= len(client.replies), "a line for each request")
    assert client.failures == []
    assert lines() == ["GET / HTTP/1.1"] * len(client.replies)


def test_the_access_log_has_gunicorns_form(arbiter: Arbiter) -> None:
    server = arbiter.serve("--access-logfile", "-", workers=1)
    body = server.get('/a%20b?c="d"').text
    line = until(server.out, "the line")

    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /a%20b\?c=\\"d\\" HTTP/1\.1" 200 '
        rf'{len(body)} "-" "-"\n',
        line,
    )


def test_a_refused_reopening_keeps_the_file_that_is_open(arbiter: Arbiter) -> None:
    """1. The log's folder is moved away. 2. USR1. Result: an error in the old file, which goes on being written."""
    arbiter.folder.joinpath("logs").mkdir()
    server = arbiter.serve("--error-logfile", "logs/error.log", workers=1)
    (server.folder / "logs").rename(server.folder / "moved")
    server.log_path = server.folder / "moved" / "error.log"

    server.send(signal.SIGUSR1)
    server.wait_log(r"can't open the log .*logs/error\.log: No such file or directory\..* goes on being written")
    server.send(signal.SIGTTOU)
    server.wait_log("TTOU ignored")


APP_ID = """
def application(environ, start_response):
    data = environ["arbiter.request_id"].encode()
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return [data]
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_application_and_the_log_call_a_request_by_the_same_id_and_health_checks_make_no_line(
    arbiter: Arbiter, threads: str
) -> None:
    """1. Two requests, a health check, and one without a page. Result: lines for the first two, with the ids that they gave."""
    log = ["--access-logfile", "-", "--access-log-json", "--access-log-skip", "2xx /healthz", "--access-log-skip", "404"]
    arbiter.write("live.py", APP_ID)
    server = arbiter.serve(*log, "--health-path", "/healthz", "--threads", threads, workers=1)
    given = [server.get(path).text for path in ("/healthz", "/one", "/two")]
    until(lambda: server.out().count("\n") == 2, "two lines")
    found = [json.loads(line) for line in server.out().splitlines()]

    assert [line["request_id"] for line in found] == given[1:]
    assert [line["path"] for line in found] == ["/one", "/two"]
    assert len({*given[1:]}) == 2
    assert all(line["cpu_us"] >= 0 and line["seconds"] > 0 and line["status"] == 200 for line in found)
