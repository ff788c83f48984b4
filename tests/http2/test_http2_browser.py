"""A real browser: fetches and WebSockets over HTTP/2 (RFC 8441), a WebSocket over HTTP/1.1, and events through a reload."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from certificates import Authority
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Arbiter

pytestmark = pytest.mark.process

APP = '''
import asyncio, hashlib, json, os

PAGE = """<!doctype html><title>page</title><script>
const report = (name, value) => fetch("/report", {method: "POST", body: JSON.stringify([name, value])});
window.onerror = (message) => report("failed", message);
window.onunhandledrejection = (event) => report("failed", String(event.reason));

function talk(name, url) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url + "/" + name, ["soap", "chat"]);
    socket.binaryType = "arraybuffer";
    const heard = [];
    socket.onopen = () => { socket.send("gr\\\\u00fc\\\\u00dfe"); socket.send(new Uint8Array(70000).fill(7)); };
    socket.onmessage = (event) => {
      heard.push(typeof event.data === "string" ? event.data : event.data.byteLength);
      if (heard.length === 3) {
        report(name, {heard, protocol: socket.protocol, extensions: socket.extensions});
        resolve(socket);
      }
    };
    socket.onerror = () => report(name, "error");
    socket.onclose = (event) => report(name + " closed", [event.code, event.wasClean]);
  });
}

async function main() {
  const body = new Uint8Array(300000).fill(3);
  const asked = Array.from({length: 8}, (_, i) => fetch("/echo/" + i, {method: "POST", body}).then((r) => r.text()));
  report("fetches", await Promise.all(asked));
  const here = "wss://" + location.host;
  const first = await talk("first", here);
  await talk("second", here);
  await talk("alone", here.replace("localhost", "127.0.0.1"));
  first.close(4000, "enough");
  const pids = new Set();
  const events = new EventSource("/events");
  events.onmessage = (event) => {
    if (!pids.has(event.data)) {
      pids.add(event.data);
      report("events", [...pids]);
      if (pids.size === 2) talk("again", here);
    }
  };
}
main();
</script>"""

async def answer(send, body, kind=b"text/plain"):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})

async def application(scope, receive, send):
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        await send({"type": "websocket.send", "text": scope["http_version"]})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
        return
    if path == "/events":
        gone = asyncio.ensure_future(receive())  # the request, which has no body
        await gone
        gone = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"retry: 50\\n\\n", "more_body": True})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % os.getpid(), "more_body": True})
            await asyncio.wait([gone], timeout=0.1)
        await send({"type": "http.response.body", "body": b""})
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    if path == "/report":
        with open("report.log", "ab") as file:
            file.write(body + b"\\n")
        await answer(send, b"")
    elif path.startswith("/echo"):
        await answer(send, f"{scope['http_version']} {len(body)} {path[6:]}".encode())
    elif path == "/":
        await answer(send, PAGE.encode(), b"text/html")
    else:
        await answer(send, b"")
'''


@contextlib.contextmanager
def browser(folder: Path, url: str) -> Iterator[None]:
    """Chromium without a window, at this page."""
    words = [
        "chromium",
        "--headless",
        "--no-sandbox",  # it runs as root in CI
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--ignore-certificate-errors",
        f"--user-data-dir={folder / 'browser'}",
        "--remote-debugging-port=0",  # without one it ends when the page is loaded
        url,
    ]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_a_browser_talks_over_http2_and_through_a_reload(arbiter: Arbiter) -> None:
    """A visit.

    1. The page, and eight uploads at once: all over HTTP/2.
    2. WebSockets to the page's own server go over its HTTP/2 connection, those to another name of it over HTTP/1.1; text, 70000
       bytes, a subprotocol, compression; one is closed by the page.
    3. A reload: the WebSockets that are open are told 1012, the events go on from the new worker, and so does a new WebSocket.
    """
    arbiter.write("live.py", APP)
    authority = Authority(arbiter.folder / "tls")
    certificate, key = authority.issue("site", "localhost", "127.0.0.1")
    server = arbiter.serve(
        "-k", "async", "--lifespan", "off", "--certfile", certificate, "--keyfile", key,
        "--ws-per-message-deflate", "--graceful-timeout", "2", workers=1,
    )  # fmt: skip
    (old,) = server.workers()
    log = server.folder / "report.log"

    def told(name: str, times: int = 1) -> object:
        """What the page has reported under this name."""

        def values() -> list[object]:
            lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            assert "failed" not in dict(lines), lines
            return [value for key, value in lines if key == name]

        until(lambda: len(values()) >= times, lambda: f"{name}: {log.read_text()}", patience=60)
        return values()[-1]

    def sound(version: str) -> object:
        extensions = "permessage-deflate; client_max_window_bits=12"  # the answer to what Chromium offers
        return {"heard": [version, "grüße", 70000], "protocol": "chat", "extensions": extensions}

    assert f"listening on https://127.0.0.1:{server.tcp[1]}: " in server.log()
    with browser(server.folder, f"https://localhost:{server.tcp[1]}/"):
        assert told("fetches") == [f"2 300000 {number}" for number in range(8)]
        assert told("first") == told("second") == sound("2")
        assert told("alone") == sound("1.1")
        assert told("first closed") == [4000, True]
        assert told("events") == [str(old.pid)]
        server.send(signal.SIGHUP)
        assert told("second closed") == told("alone closed") == [1012, True]
        new = next(worker for worker in server.workers() if worker.pid != old.pid)
        assert told("events", 2) == [str(old.pid), str(new.pid)]
        assert told("again") == sound("2")
    assert server.stop() == 0
