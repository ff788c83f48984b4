"""What a connection of the async worker reads at once."""

from __future__ import annotations

import asyncio
import socket
import time

from arbiter.workers.hub import Hub, HubTransport


class _Receiver(asyncio.Protocol):
    """Takes long over each read, at first."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.is_slow = True
        self.has_read = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.has_read.set()
        if self.is_slow:
            time.sleep(0.003)


async def _sizes_read(first: bytes, second: bytes) -> tuple[list[int], list[int]]:
    """Of the first bytes, over which the protocol takes long, and of the second."""
    loop = asyncio.get_running_loop()
    hub = Hub(loop, (), lambda _: False)
    client, server = socket.socketpair()
    with client:
        client.setblocking(False)
        receiver = _Receiver()
        HubTransport(hub, socket.SocketType(server.family, server.type, 0, server.detach()), "", receiver)
        sizes = []
        for data in (first, second):
            receiver.sizes = []
            await loop.sock_sendall(client, data)
            while sum(receiver.sizes) < len(data):
                receiver.has_read.clear()
                await receiver.has_read.wait()
            sizes.append(receiver.sizes)
            receiver.is_slow = False
        hub.close()
        return sizes[0], sizes[1]


def test_who_keeps_the_loop_busy_with_each_read_is_read_less_of_at_once_and_more_again_later() -> None:
    slow, quick = asyncio.run(_sizes_read(b"x" * 300_000, b"x" * 300_000))

    assert max(slow[5:]) <= 4096
    assert max(quick) > 16 * 1024
