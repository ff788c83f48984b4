"""Logging by Python's `logging`, statsd and syslog: what Gunicorn's settings promise, over real sockets and files."""

from __future__ import annotations

import json
import re
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Arbiter

pytestmark = pytest.mark.process

PRINTING = """
import sys
def application(environ, start_response):
    print("printed", environ["PATH_INFO"])
    sys.stderr.write("written\\n")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Made-By", "us")])
    return [b"ok"]
"""


def received(channel: socket.socket) -> list[str]:
    """The datagrams that have come."""
    found = []
    channel.setblocking(False)
    while True:
        try:
            found.append(channel.recv(65536).decode())
        except BlockingIOError:
            return found


@pytest.mark.parametrize("kind", ["udp", "unix"])
@pytest.mark.parametrize("worker", ["sync", "threaded"])
def test_statsd_is_told_what_gunicorn_tells_it(arbiter: Arbiter, tmp_path: Path, kind: str, worker: str) -> None:
    """Story: one request, with a prefix and tags. Result: Gunicorn's metrics by name, and the access log is not needed."""
    channel = socket.socket(socket.AF_INET if kind == "udp" else socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(("127.0.0.1", 0) if kind == "udp" else str(tmp_path / "statsd"))
    place = f"127.0.0.1:{channel.getsockname()[1]}" if kind == "udp" else f"unix://{tmp_path}/statsd"
    flags = ["--statsd-host", place, "--statsd-prefix", "shop.", "--dogstatsd-tags", "env:test", "--enable-backlog-metric"]
    arbiter.write("live.py", PRINTING)
    server = arbiter.launch("-k", worker, "-w", "1", *flags, "live", makes=[]).wait_ready()
    server.get("/a")
    said: list[str] = []

    def complete() -> bool:
        said.extend(received(channel))
        text = "\n".join(said)
        wanted = ("requests", "status.200", "duration", "gunicorn.workers:1|", "backlog")  # each is a datagram of its own
        return all(word in text for word in wanted)

    until(complete, lambda: f"the metrics; there were {said}")
    channel.close()
    (tmp_path / "statsd").unlink(missing_ok=True)
    assert "shop.gunicorn.requests:1|c|@1.0|#env:test" in said
    assert "shop.gunicorn.request.status.200:1|c|@1.0|#env:test" in said
    assert "shop.gunicorn.workers:1|g|#env:test" in said
    assert any(re.fullmatch(r"shop\.gunicorn\.request\.duration:\d+\.\d+\|ms\|#env:test", one) for one in said)
    assert any(re.fullmatch(r"shop\.gunicorn\.backlog:\d+\|h\|#env:test", one) for one in said)


def test_syslog_gets_both_logs_as_gunicorn_sends_them(arbiter: Arbiter, tmp_path: Path) -> None:
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.bind(("127.0.0.1", 0))
    arbiter.write("live.py", PRINTING)
    to = ["--log-syslog", "--log-syslog-to", f"udp://127.0.0.1:{channel.getsockname()[1]}", "--log-syslog-facility", "local3"]
    server = arbiter.launch("-w", "1", *to, "--log-syslog-prefix", "shop", "live").wait_ready()
    server.get("/b")
    said: list[str] = []

    def has_come() -> bool:
        said.extend(received(channel))
        return any("/b" in one for one in said)

    until(has_come, "the access log")
    channel.close()

    local3 = 19 * 8
    assert any(re.match(rf"<{local3 + 6}>gunicorn\.shop\.error: \[\d+\] worker=- gen=1 pid=\d+ arbiter ", one) for one in said)
    assert any(
        re.match(rf'<{local3 + 6}>gunicorn\.shop\.access: \[\d+\] 127\.0\.0\.1 - - .*"GET /b HTTP/1\.1" 200', one)
        for one in said
    )


JSON_LOG = """
import json, logging

class Lines(logging.Formatter):
    def format(self, record):
        return json.dumps({"at": record.name, "level": record.levelname, "text": record.getMessage(), "w": getattr(record, "worker", None)})

logconfig_dict = {
    "version": 1,
    "formatters": {"json": {"()": Lines}},
    "handlers": {"out": {"class": "logging.FileHandler", "filename": "all.json", "formatter": "json"}},
    "root": {"level": "INFO", "handlers": ["out"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["out"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["out"], "propagate": False},
    },
}
access_log_format = "%(m)s %(U)s %(s)s %({x-made-by}o)s"
"""


def test_a_logconfig_dict_makes_json_of_both_logs_and_a_wrong_one_refuses_the_reload(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: JSON lines of supervisor, worker and requests; then a reload with a handler that there is none of; then rotation."""
    arbiter.write("live.py", PRINTING)
    arbiter.write("gunicorn.conf.py", JSON_LOG)
    server = arbiter.launch("-w", "1", "live")
    path = tmp_path / "all.json"

    def lines(name: str = "all.json") -> list[dict[str, object]]:
        file = tmp_path / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    until(lambda: any("all 1 workers are ready" in str(line["text"]) for line in lines()), "the start")
    found = re.search(r"http://([\d.]+):(\d+)", path.read_text())
    assert found
    server.listens = (found[1], int(found[2]))
    server.get("/c")
    until(lambda: any(line["text"] == "GET /c 200 us" for line in lines()), "the access log")
    assert {line["w"] for line in lines() if "ready after" in str(line["text"])} == {1}

    arbiter.write("gunicorn.conf.py", JSON_LOG.replace('"handlers": ["out"], "propagate"', '"handlers": ["none"], "propagate"'))
    server.send(signal.SIGHUP)
    until(
        lambda: any("reload refused" in str(line["text"]) and "logconfig_dict" in str(line["text"]) for line in lines()),
        "the refusal",
    )
    server.get("/d")
    until(lambda: any(line["text"] == "GET /d 200 us" for line in lines()), "the access log")

    path.rename(tmp_path / "old.json")
    server.send(signal.SIGUSR1)
    until(lambda: any("log files reopened" in str(line["text"]) for line in lines()), "a new file")
    server.get("/e")
    until(lambda: any(line["text"] == "GET /e 200 us" for line in lines()), "the access log in the new file")


def test_a_logger_made_from_gunicorns_is_called_for_every_line_and_request(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: the usual class that keeps health checks out of the access log, where Gunicorn is not installed."""
    arbiter.write("live.py", PRINTING)
    arbiter.write(
        "gunicorn.conf.py",
        "from gunicorn import glogging\n"
        "class Quiet(glogging.Logger):\n"
        "    def setup(self, cfg):\n"
        "        super().setup(cfg)\n"
        "        self.error_log.info('set up for %s', cfg.proc_name)\n"
        "    def access(self, resp, req, environ, request_time):\n"
        "        if req.path != '/healthz':\n"
        "            super().access(resp, req, environ, request_time)\n"
        "    def atoms(self, resp, req, environ, request_time):\n"
        "        return {**super().atoms(resp, req, environ, request_time), 'mine': 'yes'}\n"
        "logger_class = Quiet\naccesslog = '-'\naccess_log_format = '%(m)s %(U)s %(mine)s %(s)s %(B)s'\n"
        "def post_fork(server, worker):\n    server.log.info('%s is %s', 'log', type(server.log).__name__)\n",
    )
    server = arbiter.launch("-w", "1", "live").wait_ready()
    server.get("/healthz")
    server.get("/f")
    until(lambda: "GET /f yes 200 2" in server.out(), "the access log")

    assert "/healthz yes" not in server.out()
    assert server.count("set up for live") == 1
    assert server.count("log is Quiet") == 1


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("logconfig_dict = {'version': 2}", "can't log as logconfig_dict says: ValueError: Unsupported version: 2"),
        ("logconfig = 'gone.ini'", "can't log as logconfig says: FileNotFoundError"),
        ("logger_class = 'no.such.Logger'", "can't log as logger_class says: ModuleNotFoundError: No module named 'no'"),
        ("logconfig_dict = [1]", "logconfig_dict = [1] (gunicorn.conf.py:1): expected a table, or JSON"),
        ("statsd_host = 'x:y'", 'statsd_host = "x:y" (gunicorn.conf.py:1): expected host:port, or unix:///path'),
        ("syslog_facility = 'loud'", 'syslog_facility = "loud" (gunicorn.conf.py:1): expected user, auth'),
    ],
)
def test_a_log_that_is_configured_wrongly_names_the_setting(arbiter: Arbiter, source: str, told: str) -> None:
    arbiter.write("live.py", PRINTING)
    arbiter.write("gunicorn.conf.py", source)
    status, words = arbiter.fail("-w", "1", "live")

    assert status in (1, 2)
    assert told in words


def test_what_is_printed_goes_to_the_error_log_and_follows_its_rotation(arbiter: Arbiter, tmp_path: Path) -> None:
    arbiter.write("live.py", PRINTING)
    server = arbiter.launch("-w", "1", "--capture-output", "--error-logfile", "error.log", "live").wait_ready()
    server.get("/g")
    until(lambda: server.count("^printed /g$") == 1 and server.count("^written$") == 1, "what was printed")
    (tmp_path / "error.log").rename(tmp_path / "old.log")
    server.send(signal.SIGUSR1)
    server.wait_log("log files reopened")

    def printed() -> bool:
        server.get("/h")
        return server.count("^printed /h$") > 0

    until(printed, "what was printed, in the new file")
    assert "/g" not in server.log()


def test_without_such_a_setting_what_configures_logging_is_not_even_imported(arbiter: Arbiter) -> None:
    """Story: a hook looks what the supervisor has imported."""
    arbiter.write("live.py", PRINTING)
    arbiter.write(
        "gunicorn.conf.py",
        "import sys\ndef when_ready(server):\n    server.log.info('arbiter.glogging' in sys.modules or 'logging.config' in sys.modules)\n",
    )
    server = arbiter.launch("-w", "1", "--access-logfile", "-", "live").wait_ready()

    assert server.count("pid=\\d+ False$") == 1
