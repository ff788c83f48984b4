"""WebSockets of the frameworks that people use, unmodified, on a real async worker."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import httpx
import pytest
import websockets

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

FASTAPI = """
from fastapi import Depends, FastAPI, Query, WebSocket, WebSocketDisconnect, WebSocketException
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import JSONResponse
from starlette.routing import Mount, WebSocketRoute

application = FastAPI()
left = []

async def token(token: str = Query()):
    if token != "right":
        raise WebSocketException(code=4003, reason="wrong token")
    return token

@application.get("/left")
async def get_left():
    return left

@application.websocket("/room/{name}")
async def room(socket: WebSocket, name: str, token: str = Depends(token)):
    await socket.accept()
    try:
        while True:
            await socket.send_json({"room": name, "got": await socket.receive_json()})
    except WebSocketDisconnect as gone:
        left.append([gone.code, gone.reason])

@application.websocket("/denied")
async def denied(socket: WebSocket):
    await socket.send_denial_response(JSONResponse({"why": "no"}, status_code=401))

class Shout(WebSocketEndpoint):
    encoding = "text"
    async def on_receive(self, websocket, data):
        await websocket.send_text(data.upper())

application.mount("/starlette", Starlette(routes=[WebSocketRoute("/shout", Shout)]))
"""

CHANNELS = """
from django.conf import settings

settings.configure(
    SECRET_KEY="s", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.http import HttpResponse
from django.urls import path

class Chat(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        if self.room == "closed":
            await self.close()
            return
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept("chat")

    async def receive_json(self, content):
        await self.channel_layer.group_send(self.room, {"type": "say", "content": content})

    async def say(self, event):
        await self.send_json(event["content"])

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)
        await self.channel_layer.group_send(self.room, {"type": "say", "content": {"left": code}})

urlpatterns = [path("", lambda request: HttpResponse("page for " + request.method))]
application = ProtocolTypeRouter({"http": django, "websocket": URLRouter([path("chat/<room>", Chat.as_asgi())])})
"""


def _get(server: Server, path: str) -> str:
    response = httpx.get("http://{}:{}".format(*server.tcp) + path)
    assert response.status_code == 200
    return response.text


def test_fastapi_and_starlette_talk_over_websockets(arbiter: Arbiter) -> None:
    """Parameters, dependencies, JSON, a refusal in each of their ways, and the code with which a client leaves."""
    arbiter.write("live.py", FASTAPI)
    server = arbiter.serve("-k", "async", workers=1)
    base = "ws://{}:{}".format(*server.tcp)

    async def talk() -> None:
        async with websockets.connect(f"{base}/room/blue?token=right") as client:
            for number in range(3):
                await client.send(json.dumps({"number": number}))
                assert json.loads(await client.recv()) == {"room": "blue", "got": {"number": number}}
            await client.close(4444, "had enough")
        async with websockets.connect(f"{base}/starlette/shout") as client:
            await client.send("hear me")
            assert await client.recv() == "HEAR ME"
        for path, status in (("/room/blue?token=wrong", 403), ("/denied", 401), ("/nowhere", 403)):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(base + path)
            assert refused.value.response.status_code == status

    asyncio.run(talk())
    assert json.loads(_get(server, "/left")) == [[4444, "had enough"]]


def test_django_channels_serves_a_page_and_a_chat(arbiter: Arbiter) -> None:
    """Two clients in a room hear each other, and that one of them has left; the page beside it is Django's."""
    arbiter.write("live.py", CHANNELS)
    server = arbiter.serve("-k", "async", workers=1)
    base = "ws://{}:{}".format(*server.tcp)

    async def talk() -> None:
        async with websockets.connect(f"{base}/chat/red", subprotocols=["chat"]) as one:  # type: ignore[list-item]
            assert one.subprotocol == "chat"
            async with websockets.connect(f"{base}/chat/red", subprotocols=["chat"]) as two:  # type: ignore[list-item]
                await two.send('{"said": "hello"}')
                assert json.loads(await one.recv()) == json.loads(await two.recv()) == {"said": "hello"}
                await two.close(1001)
            assert json.loads(await one.recv()) == {"left": 1001}
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/chat/closed")
        assert refused.value.response.status_code == 403

    asyncio.run(talk())
    assert _get(server, "/") == "page for GET"
