"""{sync, threaded, async} x {WSGI, ASGI} x {httptools, h11} x {TCP, unix, TLS}: one suite of behaviours for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from behaviour import ASGI, WSGI, Site, finish_what_was_begun, try_all
from certificates import Authority

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

KINDS = {
    "sync": ["-k", "sync"],
    "threaded": ["-k", "threaded", "--threads", "4"],
    "async": ["-k", "async", "--threads", "4"],
}
SOURCES = {"wsgi": WSGI, "asgi": ASGI}
CONF = """
def note(*words):
    with open("hooks", "a") as file:
        file.write(" ".join(words) + "\\n")

def pre_request(worker, req):
    note("pre", req.method, req.uri)

def post_request(worker, req, environ, resp):
    note("post", environ["REQUEST_METHOD"], req.uri, resp.status, dict(resp.headers).get("Content-Type", "-"))

accesslog = "access.log"
access_log_format = "%(m)s %(U)s %(s)s %({REQUEST_METHOD}e)s %({app.word}e)s"
"""
"""What an operator of Gunicorn's may have."""
SECRETS = ("secret of the start", "secret of the middle", "SystemExit: 3", "longer than the Content-Length")


@pytest.mark.parametrize("parser", ["httptools", "h11"])
@pytest.mark.parametrize("interface", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_interface_behaves_alike_in_every_worker(arbiter: Arbiter, kind: str, interface: str, parser: str) -> None:
    """One server per combination, which listens on TCP and on a unix socket; both are tried.

    Result: behaviours, hooks and access log are the same.
    """
    arbiter.write("live.py", SOURCES[interface])
    arbiter.write("gunicorn.conf.py", CONF)
    path = f"{arbiter.folder}/web.sock"
    server = arbiter.serve(*KINDS[kind], "--http", parser, "--bind", f"unix:{path}", workers=1)
    server.expect(*SECRETS)
    sites = [
        Site(
            server, address, None, interface, kind != "sync", 1 if kind == "sync" else 4, f"{kind}-{interface}-{parser}-{name}"
        )
        for name, address in (("unix", path), ("tcp", server.tcp))
    ]
    for site in sites:
        try_all(site)
    finish_what_was_begun(sites[-1])

    assert "inside Arbiter" not in server.log()
    assert sites[0].seen(lifespan="lifespan.shutdown") == (1 if interface == "asgi" else 0)
    hooks = (arbiter.folder / "hooks").read_text().splitlines()
    log = (arbiter.folder / "access.log").read_text().splitlines()
    if interface == "wsgi":
        assert log.count("GET /phrase 299 GET changed by the application") == len(sites)
        assert hooks.count("post GET /phrase 299 All Very Well text/plain") == len(sites)
    else:
        assert "GET /boom 500 - -" in log
    assert {"pre HEAD /", "pre GET /boom", "post GET /boom 500 Internal Server Error -"} <= set(hooks)
    assert len([line for line in hooks if line.startswith("pre ")]) == len([line for line in hooks if line.startswith("post ")])


# Whoever parses sees the same bytes with and without TLS: each parser once in each kind of worker.
@pytest.mark.parametrize(("interface", "parser"), [("wsgi", "httptools"), ("asgi", "h11")])
@pytest.mark.parametrize("kind", KINDS)
def test_every_interface_behaves_alike_under_tls(arbiter: Arbiter, kind: str, interface: str, parser: str) -> None:
    arbiter.write("live.py", SOURCES[interface])
    authority = Authority(arbiter.folder / "tls")
    certificate, key = authority.issue("server", "localhost")
    server = arbiter.serve(*KINDS[kind], "--http", parser, "--certfile", certificate, "--keyfile", key, workers=1)
    server.expect(*SECRETS)
    threads = 1 if kind == "sync" else 4
    site = Site(server, server.tcp, authority.client(), interface, kind != "sync", threads, f"{kind}-{interface}-{parser}-tls")
    try_all(site)
    finish_what_was_begun(site)

    assert "inside Arbiter" not in server.log()
