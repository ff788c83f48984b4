"""The workloads: one row each. A new one is a row here, and a path in an application of benchmarks/apps.

Every response is checked (status 200, length) before it is measured: a server that is quick because it answers wrongly is
an error, no figure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.figures import Metric


class Feature(enum.Enum):
    """What a server must have for a workload."""

    HELLO = "answers GET /"
    WSGI = "runs any WSGI application"
    ASGI = "runs any ASGI application"
    WEBSOCKET = "speaks WebSocket"
    IDLE = "holds a thousand idle connections"
    WORKERS = "has several processes"
    THREADS = "has several threads"
    HTTP2 = "speaks HTTP/2 without TLS"


FILE_BYTES: Final = 10 << 20
"""The size of the file that is served."""

BROWSER: Final = (
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.5",
    "Cache-Control: max-age=0",
    "Cookie: sessionid=0123456789abcdef0123456789abcdef; csrftoken=abcdefghijklmnopqrstuvwxyz012345",
    "Referer: http://127.0.0.1/a/page/before/this/one",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
)
"""The ten fields that Firefox 133 sends besides Host and Connection."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A load, and the server it is for."""

    name: str
    title: str
    """In tables and charts."""
    app: str = "plain"
    """A module of benchmarks/apps."""
    path: str = "/"
    needs: frozenset[Feature] = frozenset({Feature.WSGI})
    """A server that has all of these can be measured."""
    reply: int = 14
    """Bytes of a right response's body; 14 is `Hello, world!`."""
    connections: int = 32
    headers: tuple[str, ...] = ()
    body: int = 0
    """Bytes to POST; 0 is a GET."""
    workers: int = 1
    threads: int = 4
    """Of a server that has threads: the four of `--threads 4` in speed comparisons of Gunicorn."""
    idle: int = 0
    """Connections that have had one response and then ask for nothing more."""
    slow: float = 0.0
    """The share of requests to /slow (200 ms), in an open loop of `rate` requests a second; 0 is wrk's closed loop."""
    rate: int = 0
    fresh: bool = False
    """In the open loop: a connection for each request, as from a front end without keep-alive, and not from a pool."""
    streams: int = 0
    """Requests that each connection has open over HTTP/2, from h2load; 0 is HTTP/1.1."""
    echo: int = 0
    """Bytes of the text messages that are sent over WebSockets and come back; 0 is HTTP."""
    longer: int = 1
    """By what factor this workload is measured longer than others."""
    is_extra: bool = False
    """It is measured when it is named, or all are asked for: it says little that another one does not."""
    metric: Metric = Metric.CPU


HTTP2: Final = frozenset({Feature.HTTP2})
WSGI, ASGI, HELLO = frozenset({Feature.WSGI}), frozenset({Feature.ASGI}), frozenset({Feature.HELLO})
FLEET: Final = frozenset({Feature.WSGI, Feature.WORKERS, Feature.THREADS})

MIX: Final = Workload(
    "mix",
    "1 % slow, new connections",
    needs=FLEET,
    workers=2,
    threads=2,
    slow=0.01,
    rate=300,
    fresh=True,
    longer=6,
    metric=Metric.P99,
)
"""300 a second, of which 3 take 200 ms: by Erlang's loss formula all four threads are in slow requests 0.3 % of the time,
so a server that shares them has a p99 of a quick request; both threads of one worker are 3 % of the time, so a worker that
takes connections it has no thread for shows in the p99. Six times longer: a p99 of 300 requests would be 3 of them."""

WORKLOADS: Final = (
    Workload("hello", "hello, keep-alive, 32 connections", needs=HELLO),
    Workload("hello-1", "hello, keep-alive, 1 connection", needs=HELLO, connections=1),
    Workload("browser", "hello, browser headers", needs=HELLO, headers=BROWSER),
    Workload("close", "hello, connection: close", needs=HELLO, headers=("Connection: close",)),
    Workload("http2", "hello, HTTP/2, 8 connections with 10 streams", needs=HTTP2, connections=8, streams=10),
    Workload("http2-1", "hello, HTTP/2, 16 connections with 1 stream", needs=HTTP2, connections=16, streams=1, is_extra=True),
    Workload(
        "http2-browser",
        "hello, HTTP/2, browser headers",
        "plain",
        "/",
        HTTP2,
        headers=BROWSER,
        connections=8,
        streams=10,
        is_extra=True,
    ),
    Workload("flask", "Flask, JSON", app="flask_site", path="/json", reply=83),
    Workload("django", "Django, JSON", app="django_site", path="/json", reply=92),
    Workload("fastapi", "FastAPI, JSON", app="fastapi_site", path="/json", needs=ASGI, reply=82),
    Workload("starlette", "Starlette, JSON", app="starlette_site", path="/json", needs=ASGI, reply=82, is_extra=True),
    Workload("post", "POST of 64 KiB", path="/post", reply=5, body=64 << 10),
    Workload("stream", "stream of 1 MiB in 16 KiB chunks", path="/stream", reply=1 << 20),
    Workload("post-asgi", "ASGI, POST of 64 KiB", path="/post", needs=ASGI, reply=5, body=64 << 10),
    Workload("stream-asgi", "ASGI, stream of 1 MiB in 16 KiB chunks", path="/stream", needs=ASGI, reply=1 << 20),
    Workload("starlette-stream", "Starlette, StreamingResponse", app="starlette_site", path="/stream", needs=ASGI, reply=30),
    Workload("sleep", "ASGI, 10 ms of sleep, 256 connections", path="/sleep", needs=ASGI, connections=256),
    Workload("file", "file of 10 MiB, wsgi.file_wrapper", path="/file", reply=FILE_BYTES, connections=8),
    Workload(
        "websocket",
        "WebSocket echo of 64 B, 16 connections",
        path="/echo",
        needs=frozenset({Feature.WEBSOCKET}),
        reply=64,
        connections=16,
        echo=64,
    ),
    Workload("idle", "hello beside 1000 idle connections", needs=HELLO | {Feature.IDLE}, idle=1000),
    MIX,
    replace(MIX, name="mix-kept", title="1 % slow, kept connections", connections=16, fresh=False),
    Workload(
        "memory", "5 workers with Django", "django_site", "/json", WSGI | {Feature.WORKERS}, 92, workers=5, metric=Metric.PSS
    ),
)

COMPARED: Final = {
    "hello": {"gunicorn-gthread", "granian", "uvicorn", "granian-asgi", "uvicorn-log"},
    "hello-1": {"gunicorn-gthread", "granian"},
    "browser": {"gunicorn-gthread", "granian", "uvicorn", "granian-asgi"},
    "close": {"gunicorn-sync", "uwsgi", "uvicorn", "granian-asgi"},
    "http2": {"gunicorn-http2", "hypercorn"},
    "flask": {"gunicorn-gthread", "granian"},
    "fastapi": {"uvicorn", "granian-asgi"},
    "post": {"gunicorn-gthread", "granian"},
    "stream": {"gunicorn-gthread", "bjoern"},
    "post-asgi": {"uvicorn", "granian-asgi"},
    "starlette-stream": {"uvicorn"},
    "file": {"gunicorn-gthread", "uwsgi"},
    "websocket": {"uvicorn"},
    "mix": {"gunicorn-gthread"},
    "mix-kept": {"gunicorn-gthread"},
    "memory": {"gunicorn-gthread"},
}
"""The servers that Arbiter's figures are to be so many times better than. They and Arbiter are measured in every round, others
in one of `SELDOM`: they give the picture, and need no third digit."""
SELDOM: Final = 5

BY_NAME: Final = {workload.name: workload for workload in WORKLOADS}
