"""Each framework with its real package, served by every kind of worker that its interface suggests.

One server per framework and kind: a page, a body that is echoed, a stream, and where the framework has them a WebSocket.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest
from websockets.sync.client import connect

if TYPE_CHECKING:
    from harness import Arbiter

pytestmark = [pytest.mark.process, pytest.mark.slow]


class Framework(NamedTuple):
    """An application: ``GET /hello/<name>`` greets as JSON, ``POST /echo`` gives the body back, ``GET /stream`` three lines."""

    source: str
    is_asgi: bool = False
    has_websocket: bool = False
    """``/ws`` gives messages back."""
    reads_chunked: bool = True
    """It takes a body without Content-Length from a server that has ended it (``wsgi.input_terminated``)."""


FLASK = """
from flask import Flask, Response, jsonify, request
application = Flask(__name__)

@application.get("/hello/<name>")
def hello(name):
    return jsonify(hello=name)

@application.post("/echo")
def echo():
    return Response(request.get_data())

@application.get("/stream")
def stream():
    return Response(f"{n}\\n" for n in range(3))
"""
BOTTLE = """
from bottle import Bottle, request
application = Bottle()

@application.get("/hello/<name>")
def hello(name):
    return {"hello": name}

@application.post("/echo")
def echo():
    return request.body.read()

@application.get("/stream")
def stream():
    return (f"{n}\\n".encode() for n in range(3))
"""
PYRAMID = """
from pyramid.config import Configurator
from pyramid.response import Response

with Configurator() as config:
    for name, path in (("hello", "/hello/{name}"), ("echo", "/echo"), ("stream", "/stream")):
        config.add_route(name, path)
    config.add_view(lambda request: {"hello": request.matchdict["name"]}, route_name="hello", renderer="json")
    config.add_view(lambda request: Response(request.body), route_name="echo")
    config.add_view(lambda request: Response(app_iter=(f"{n}\\n".encode() for n in range(3))), route_name="stream")
    application = config.make_wsgi_app()
"""
FALCON = """
import falcon

class Hello:
    def on_get(self, request, response, name):
        response.media = {"hello": name}

class Echo:
    def on_post(self, request, response):
        response.data = request.bounded_stream.read()

class Stream:
    def on_get(self, request, response):
        response.stream = (f"{n}\\n".encode() for n in range(3))

application = falcon.App()
application.add_route("/hello/{name}", Hello())
application.add_route("/echo", Echo())
application.add_route("/stream", Stream())
"""
DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(DEBUG=False, SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[], USE_TZ=True)
django.setup()

def stream(request):
    return StreamingHttpResponse(f"{n}\\n" for n in range(3))

async def stream_async(request):
    async def lines():
        for n in range(3):
            yield f"{n}\\n"
    return StreamingHttpResponse(lines())

urlpatterns = [
    path("hello/<name>", lambda request, name: JsonResponse({"hello": name})),
    path("echo", lambda request: HttpResponse(request.body)),
    path("stream", STREAM),
]
"""
DJANGO_WSGI = (
    DJANGO.replace("STREAM", "stream")
    + """
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""
)
DJANGO_ASGI = (
    DJANGO.replace("STREAM", "stream_async")
    + """
from django.core.asgi import get_asgi_application
application = get_asgi_application()
"""
)
CHANNELS = (
    DJANGO_ASGI
    + """
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter

class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)

application = ProtocolTypeRouter({"http": application, "websocket": URLRouter([path("ws", Echo.as_asgi())])})
"""
)
STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

async def hello(request):
    return JSONResponse({"hello": request.path_params["name"]})

async def echo(request):
    return Response(await request.body())

async def stream(request):
    async def lines():
        for n in range(3):
            yield f"{n}\\n"
    return StreamingResponse(lines())

async def ws(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)

application = Starlette(routes=[
    Route("/hello/{name}", hello),
    Route("/echo", echo, methods=["POST"]),
    Route("/stream", stream),
    WebSocketRoute("/ws", ws),
])
"""
FASTAPI = """
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
application = FastAPI()

@application.get("/hello/{name}")
def hello(name: str):
    return {"hello": name}

@application.post("/echo")
async def echo(request: Request):
    return Response(await request.body())

@application.get("/stream")
async def stream():
    return StreamingResponse(f"{n}\\n" for n in range(3))

@application.websocket("/ws")
async def ws(websocket: WebSocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)
"""
QUART = """
from quart import Quart, Response, request, websocket
application = Quart(__name__)

@application.get("/hello/<name>")
async def hello(name):
    return {"hello": name}

@application.post("/echo")
async def echo():
    return Response(await request.get_data())

@application.get("/stream")
async def stream():
    async def lines():
        for n in range(3):
            yield f"{n}\\n".encode()
    return lines(), 200

@application.websocket("/ws")
async def ws():
    while True:
        await websocket.send(await websocket.receive())
"""
LITESTAR = """
from litestar import Litestar, Request, get, post, websocket_listener
from litestar.response import Stream

@get("/hello/{name:str}")
async def hello(name: str) -> dict[str, str]:
    return {"hello": name}

@post("/echo", status_code=200, media_type="application/octet-stream")
async def echo(request: Request) -> bytes:
    return await request.body()

@get("/stream", sync_to_thread=False)
def stream() -> Stream:
    async def lines():
        for n in range(3):
            yield f"{n}\\n".encode()
    return Stream(lines())

@websocket_listener("/ws")
async def ws(data: str) -> str:
    return data

application = Litestar([hello, echo, stream, ws])
"""
FALCON_ASGI = """
import falcon.asgi

class Hello:
    async def on_get(self, request, response, name):
        response.media = {"hello": name}

class Echo:
    async def on_post(self, request, response):
        response.data = await request.bounded_stream.read()

class Stream:
    async def on_get(self, request, response):
        async def lines():
            for n in range(3):
                yield f"{n}\\n".encode()
        response.stream = lines()

class Socket:
    async def on_websocket(self, request, ws):
        await ws.accept()
        try:
            while True:
                await ws.send_text(await ws.receive_text())
        except falcon.WebSocketDisconnected:
            pass

application = falcon.asgi.App()
application.add_route("/hello/{name}", Hello())
application.add_route("/echo", Echo())
application.add_route("/stream", Stream())
application.add_route("/ws", Socket())
"""

FRAMEWORKS = {
    "flask": Framework(FLASK),
    "bottle": Framework(BOTTLE, reads_chunked=False),
    "pyramid": Framework(PYRAMID),
    "falcon": Framework(FALCON, reads_chunked=False),
    "django": Framework(DJANGO_WSGI, reads_chunked=False),
    "django-asgi": Framework(DJANGO_ASGI, is_asgi=True),
    "channels": Framework(CHANNELS, is_asgi=True, has_websocket=True),
    "starlette": Framework(STARLETTE, is_asgi=True, has_websocket=True),
    "fastapi": Framework(FASTAPI, is_asgi=True, has_websocket=True),
    "quart": Framework(QUART, is_asgi=True, has_websocket=True),
    "litestar": Framework(LITESTAR, is_asgi=True, has_websocket=True),
    "falcon-asgi": Framework(FALCON_ASGI, is_asgi=True, has_websocket=True),
}
CASES = [(name, "auto") for name in FRAMEWORKS] + [("flask", "threaded"), ("django", "async"), ("starlette", "threaded")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_framework_is_served_as_its_users_expect(arbiter: Arbiter, name: str, kind: str) -> None:
    """1. A page, an upload, a stream, a WebSocket. 2. A reload. 3. The page again. Result: the framework's own answers, no error."""
    framework = FRAMEWORKS[name]
    arbiter.write("live.py", framework.source)
    server = arbiter.serve("-k", kind, workers=1)
    host = "{}:{}".format(*server.tcp)
    body = bytes(range(256)) * 1024
    with httpx.Client(base_url=f"http://{host}", timeout=30) as client:
        page = client.get("/hello/w%C3%B6rld")
        echo = client.post("/echo", content=body)
        chunked = client.post("/echo", content=iter([body[:1000], body[1000:]])) if framework.reads_chunked else echo
        stream = client.get("/stream")
        missing = client.get("/nosuchpage")
    if framework.has_websocket and kind == "auto":
        with connect(f"ws://{host}/ws") as websocket:
            websocket.send("grüße")
            greeting = websocket.recv(timeout=30)
    else:
        greeting = "grüße"
    server.send(signal.SIGHUP)
    server.wait_log("reload done")
    again = httpx.get(f"http://{host}/hello/again", timeout=30)

    assert page.json() == {"hello": "wörld"}
    assert (echo.content, chunked.content) == (body, body)
    assert stream.text == "0\n1\n2\n"
    assert missing.status_code == 404
    assert greeting == "grüße"
    assert again.json() == {"hello": "again"}
    assert " [ERROR] " not in server.log()


FILES = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse
from starlette.routing import Route

application = Starlette(routes=[Route("/", lambda request: FileResponse("live.py"))], middleware=[Middleware(GZipMiddleware, 10)])
"""


@pytest.mark.parametrize(("words", "encoding"), [((), None), (("--no-sendfile",), "gzip")])
def test_middleware_gets_to_see_files_where_they_are_not_left_to_the_kernel(
    arbiter: Arbiter, words: tuple[str, ...], encoding: str | None
) -> None:
    arbiter.write("live.py", FILES)
    server = arbiter.serve("-k", "async", "--lifespan", "off", *words, workers=1)

    answer = httpx.get("http://{}:{}/".format(*server.tcp), timeout=30)

    assert (answer.text, answer.headers.get("content-encoding")) == (FILES, encoding)
