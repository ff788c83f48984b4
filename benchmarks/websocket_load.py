"""A closed loop of WebSocket echoes: each connection sends a text message, and the next one when it has come back.

A process of its own, like wrk, which prints one line of JSON. Frames are written and masked once, so that most of the time is
the server's; each reply is compared with what was sent.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import statistics
import time
from typing import Final

HANDSHAKE: Final = (
    b"GET /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PATIENCE: Final = 10.0


KEY: Final = b"\x37\xfa\x21\x3d"
"""A client has to draw one for each frame; what it is makes no difference to a server."""


def text_frame(payload: bytes, *, masked: bool) -> bytes:
    """A text message of at most 125 bytes."""
    if masked:
        return bytes((0x81, 0x80 | len(payload))) + KEY + bytes(byte ^ KEY[at % 4] for at, byte in enumerate(payload))
    return bytes((0x81, len(payload))) + payload


def connect(port: int) -> socket.socket:
    """A WebSocket that is open.

    Raises:
        RuntimeError: the server answered something else.
    """
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = client.recv(4096)
        if not data:
            break
        head += data
    if not head.startswith(b"HTTP/1.1 101 "):
        raise RuntimeError(f"no WebSocket: {head!r}")
    return client


def measure(port: int, connections: int, size: int, seconds: float) -> dict[str, float]:
    """What `load.Load` wants to know."""
    payload = b"x" * size
    message, reply = text_frame(payload, masked=True), text_frame(payload, masked=False)
    clients = [connect(port) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    sent: dict[socket.socket, float] = {}
    partial: dict[socket.socket, bytes] = {}
    waits: list[float] = []
    requests = errors = 0
    for client in clients:
        selector.register(client, selectors.EVENT_READ, client)
        sent[client] = time.perf_counter()
        client.sendall(message)
    begun = now = time.perf_counter()
    while now - begun < seconds and clients:
        ready = selector.select(PATIENCE)
        if not ready:
            errors += len(clients)
            break
        for key, _ in ready:
            client = key.data
            data = client.recv(4096)
            if data != reply:
                data = partial.pop(client, b"") + data
                if data != reply:
                    if data and reply.startswith(data):
                        partial[client] = data
                        continue
                    if not data.startswith(b"\x89"):  # a ping, which is nobody's answer
                        errors += 1
                        selector.unregister(client)
                        clients.remove(client)
                        continue
                    partial[client] = data[2 + data[1] :]
                    if partial[client] != reply:
                        continue
                    del partial[client]
            now = time.perf_counter()
            requests += 1
            if not requests % 16:
                waits.append(now - sent[client])
            sent[client] = now
            client.sendall(message)
    elapsed = time.perf_counter() - begun
    for client in clients:
        client.close()
    cuts = statistics.quantiles(waits, n=100) if len(waits) > 1 else [0.0] * 99
    return {
        "requests": requests,
        "seconds": elapsed,
        "p50_us": cuts[49] * 1e6,
        "p99_us": cuts[98] * 1e6,
        "errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    print(json.dumps(measure(options.port, options.connections, options.size, options.seconds)))


if __name__ == "__main__":
    main()
