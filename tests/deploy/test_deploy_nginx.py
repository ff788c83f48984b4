"""Behind a real nginx: proxy_pass over TCP and a Unix socket, uwsgi_pass, and the PROXY protocol of its stream module."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest
from fronts import free_port, nginx
from waiting import PATIENCE

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = pytest.mark.process

APP = """
import hashlib, json

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    told = {key: value for key, value in environ.items() if isinstance(value, str)}
    yield json.dumps({**told, "digest": hashlib.sha256(body).hexdigest()}).encode()
    yield b" " * 100000
"""
NGINX = """
user root; daemon off; pid nginx.pid; error_log nginx.err warn; worker_processes 1;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; uwsgi_temp_path uwsgi; fastcgi_temp_path fastcgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{front};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto https;
    location /tcp {{ proxy_pass http://127.0.0.1:{tcp}; }}
    location /unix {{ proxy_pass http://unix:{unix}:; }}
    location /uwsgi {{ include /etc/nginx/uwsgi_params; uwsgi_pass 127.0.0.1:{uwsgi}; }}
  }}
}}
stream {{
  server {{ listen 127.0.0.1:{stream}; proxy_protocol on; proxy_pass 127.0.0.1:{proxied}; }}
}}
"""
KINDS = [("--worker-class", "sync"), ("--worker-class", "threaded", "--threads", "2")]


def ask(port: int, path: str, body: bytes | None = None, *, chunked: bool = False) -> dict[str, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        pieces = iter([body[:1000], body[1000:]]) if chunked and body else body
        connection.request("POST" if body else "GET", path, pieces, {"X-Forwarded-For": "6.6.6.6"}, encode_chunked=chunked)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        found: dict[str, str] = json.loads(response.read())
        return found


@pytest.mark.parametrize("kind", KINDS, ids=["sync", "threaded"])
def test_every_way_that_nginx_has_leads_to_the_application_and_tells_it_who_the_client_is(
    arbiter: Arbiter, kind: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("nginx")  # each server is held to leave no socket in its own folder
    arbiter.write("live.py", APP)
    tcp = arbiter.serve(*kind, workers=1)
    uwsgi = arbiter.serve(*kind, "--protocol", "uwsgi", workers=1)
    proxied = arbiter.serve(*kind, "--proxy-protocol", "v1", "--forwarded-allow-ips", "192.0.2.1", workers=1)
    arbiter.serve(*kind, bind=f"unix:{elsewhere}/sock", workers=1)
    front, stream = free_port(), free_port()
    text = NGINX.format(
        front=front, stream=stream, tcp=tcp.tcp[1], uwsgi=uwsgi.tcp[1], proxied=proxied.tcp[1], unix=elsewhere / "sock"
    )
    body = os.urandom(100_000)
    digest = hashlib.sha256(body).hexdigest()
    with nginx(arbiter.folder, text, front):
        for path in ("/tcp", "/unix", "/uwsgi"):
            found = ask(front, f"{path}/a%20b?c=d")
            assert (found["REMOTE_ADDR"], found["PATH_INFO"], found["QUERY_STRING"]) == (
                "6.6.6.6" if path != "/uwsgi" else "127.0.0.1",
                f"{path}/a b",
                "c=d",
            )
            assert found["wsgi.url_scheme"] == ("https" if path != "/uwsgi" else "http")
            assert found["HTTP_HOST"].partition(":")[0] == "127.0.0.1"  # nginx tells uwsgi_pass no port
            for chunked in (False, True):
                assert ask(front, path, body, chunked=chunked)["digest"] == digest
        with socket.create_connection(("127.0.0.1", front), timeout=PATIENCE) as client:
            client.sendall(b"GET /uwsgi HTTP/1.0\r\nVia: 1.1 a\r\nVia: 1.1 b\r\n\r\n")  # two variables, and an empty HTTP_HOST
            with client.makefile("rb") as answer:
                assert b'"HTTP_VIA": "1.1 a,1.1 b"' in answer.read()
        found = ask(stream, "/")
        assert (found["REMOTE_ADDR"], found["PROXY_PROTOCOL"], found["PROXY_PORT"]) == ("127.0.0.1", "TCP4", str(stream))
