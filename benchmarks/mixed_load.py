"""An open loop: requests come at random moments whether or not the last ones are answered, and some of them are slow.

A latency is counted from the moment at which the request was due, so a server that makes everybody wait can't hide it (wrk's
closed loop would send less meanwhile). What is reported are the latencies of the quick requests. The moments come from a
seed: in one round every server meets the same ones. Run as a process, on the load generator's core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 10.0
"""Seconds after which a request has failed."""


class Arrival(NamedTuple):
    """A request that is to come."""

    at: float
    """Seconds after the start."""
    slow: bool


def schedule(rate: float, seconds: float, slow: float, seed: int) -> Iterator[Arrival]:
    """A Poisson process of `rate` requests a second, of which a share is slow: which, is chance too, so they do meet."""
    chance, at = random.Random(seed), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        yield Arrival(at, chance.random() < slow)


def percentile(values: list[float], share: float) -> float:
    """The value that this share of the sorted values does not exceed (nearest rank); 0 of none."""
    return values[min(len(values) - 1, max(0, -int(-len(values) * share // 1) - 1))] if values else 0.0


class Client:
    """Connections to one server."""

    def __init__(self, port: int, *, fresh: bool, connections: int) -> None:
        self.port, self.fresh = port, fresh
        self.idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None] = asyncio.Queue()
        for _ in range(connections):
            self.idle.put_nowait(None)  # not connected yet

    async def ask(self, path: str) -> None:
        """One request and its whole response.

        Raises:
            OSError, EOFError: there is none, or no good one.
        """
        if self.fresh:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                await self._exchange(reader, writer, path, "Connection: close\r\n")
            finally:
                writer.close()
            return
        pair = await self.idle.get()  # first in, first out: all connections have their turn
        kept = False
        try:
            pair = pair or await asyncio.open_connection("127.0.0.1", self.port)
            kept = await self._exchange(*pair, path, "")
        finally:
            if pair and not kept:
                pair[1].close()
            self.idle.put_nowait(pair if kept else None)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, fields: str) -> bool:
        """Whether the connection may be used again."""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(None, 1)[0]))
        if not head.startswith(b"http/1.1 200"):
            raise ConnectionError(head.decode("latin-1"))
        return b"close" not in head.partition(b"\r\nconnection:")[2].partition(b"\r\n")[0]


async def run(arguments: argparse.Namespace) -> dict[str, float]:
    """The figures, under the names that wrk.lua gives them."""
    client = Client(arguments.port, fresh=arguments.fresh, connections=arguments.connections)
    quick: list[float] = []
    errors = 0
    start = time.monotonic()

    async def one(arrival: Arrival) -> None:
        nonlocal errors
        try:
            async with asyncio.timeout(PATIENCE):
                await client.ask("/slow" if arrival.slow else "/")
        except (OSError, EOFError, TimeoutError, ValueError, IndexError):
            errors += 1
        else:
            if not arrival.slow:
                quick.append((time.monotonic() - start - arrival.at) * 1e6)

    sent = 0
    async with asyncio.TaskGroup() as tasks:
        for arrival in schedule(arguments.rate, arguments.seconds, arguments.slow, arguments.seed):
            await asyncio.sleep(start + arrival.at - time.monotonic())
            tasks.create_task(one(arrival))
            sent += 1
    quick.sort()
    return {
        "requests": sent - errors,
        "seconds": time.monotonic() - start,
        "p50_us": percentile(quick, 0.5),
        "p99_us": percentile(quick, 0.99),
        "errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"port": int, "seconds": float, "rate": float, "slow": float, "seed": int, "connections": int}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--fresh", action="store_true")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
