r"""Byte strings through a parser, cut in every way that matters, and the corpus they come from.

A corpus file holds a byte string, then a line ``---``, then what must come of it as a Python literal. In the byte string a
line end of the file means nothing; ``\r``, ``\n``, ``\t``, ``\\`` and ``\xNN`` mean what they mean in Python.
"""

from __future__ import annotations

import ast
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REQUESTS = Path(__file__).parent / "requests"
PARSERS = ("httptools", "h11")
LIMITS = Limits.of(request_line=4094, fields=100, field_size=8190, body=1_000_000)


@dataclass
class Outcome:
    """All that a connection made of some bytes."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    refusal: tuple[int, str] | None = None
    pending: int = 0


def load(path: Path) -> tuple[bytes, Any]:
    raw, _, expected = path.read_text(encoding="ascii").partition("\n---\n")
    text = raw.replace("\n", "")
    return text.encode().decode("unicode_escape").encode("latin-1"), ast.literal_eval(expected)


def feed(parser: str, pieces: Iterable[bytes], limits: Limits = LIMITS) -> Outcome:
    """What comes of `pieces`, received one after another."""
    connection = Connection(head_parser(parser), limits)
    outcome = Outcome()
    body: list[bytes] | None = None
    try:
        for piece in pieces:
            connection.feed(piece)
            while True:
                if body is None:
                    request = connection.next_request()
                    if request is None:
                        break
                    body = []
                    outcome.requests.append({**request._asdict(), "trailers": []})
                data = connection.next_body()
                if data is None:
                    break
                if data:
                    body.append(data)
                    continue
                assert connection.body_ended
                outcome.requests[-1].update(body=b"".join(body), trailers=connection.trailers)
                body = None
    except Refusal as refusal:
        outcome.refusal = refusal.status, refusal.reason
    else:
        outcome.pending = connection.pending
    return outcome


def whole(raw: bytes) -> Iterator[bytes]:
    yield raw


def byte_by_byte(raw: bytes) -> Iterator[bytes]:
    for at in range(len(raw)):
        yield raw[at : at + 1]


def in_pieces(raw: bytes, seed: int = 1) -> Iterator[bytes]:
    """Cut at random; the seed makes a failure repeatable."""
    dice = random.Random(seed)
    at = 0
    while at < len(raw):
        size = dice.choice((1, 2, 3, 7, 20, 100))
        yield raw[at : at + size]
        at += size


FEEDINGS = (whole, byte_by_byte, in_pieces)
