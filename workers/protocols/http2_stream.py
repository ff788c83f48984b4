"""One stream of an HTTP/2 connection: a request, and what both sides have said and may say of it (RFC 9113 section 5).

The fields below `owner` are the connection's (`http2`), which decides about them; nobody else writes to them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arbiter.workers.protocols.policy import Refusal, Request


class Stream:
    """One request and its response."""

    __slots__ = (
        "coda",
        "counted",
        "credit",
        "end",
        "held",
        "id",
        "left",
        "moved",
        "newsworthy",
        "owed",
        "owned",
        "owner",
        "pieces",
        "queue",
        "queued",
        "ready",
        "receiving",
        "refusal",
        "request",
        "reset",
        "room",
        "sending",
        "trailers",
        "window",
    )

    def __init__(self, number: int, request: Request, credit: int, window: int, room: int) -> None:
        length = request.length
        self.id = number
        self.request = request
        """Not to be changed: requests that are the same share it."""
        self.owner: Any = None
        """Whatever the caller wants to find again."""
        self.reset: int | None = None
        """The error code by which the stream was ended before its time, by either side."""
        self.receiving = length != 0
        """The client has not ended its side."""
        self.sending = True
        """END_STREAM has not been sent (nor RST_STREAM)."""
        self.trailers: list[tuple[bytes, bytes]] = []
        """Of the request, after its body has ended. Never to be mixed with its fields."""
        self.queued = 0
        """Bytes of content that wait for the client's window, or for their turn."""
        self.moved = 0
        """Bytes of content received and sent so far."""
        self.held = 0
        """Bytes of content that wait to be taken."""
        self.pieces: list[bytes] = []  # these bytes
        self.credit = credit  # bytes of DATA that the client may send
        self.owed = 0  # bytes that were taken, and the client was not told of
        self.left = length  # bytes that Content-Length still promises; negative: no promise
        self.room = room  # bytes that limit_request_body still lets in
        self.refusal: Refusal | None = None  # what is wrong with the content
        self.window = window  # bytes of DATA that we may send
        self.queue: deque[bytes | memoryview] = deque()
        self.end = False  # END_STREAM follows the queue
        self.coda = b""  # trailers that follow the queue
        self.ready = False  # is in the connection's turn
        self.counted = True  # against the number of concurrent streams
        self.owned = True  # until `Connection.release`
        self.newsworthy = False  # is in the list that `Connection.receive` will give

    def next_piece(self, most: int) -> bytes | memoryview:
        """At most `most` (over 0) bytes off the queue, which must not be empty; short pieces are joined."""
        queue = self.queue
        piece = queue.popleft()
        if len(piece) > most:
            view = memoryview(piece)  # or the rest would be copied once per frame
            queue.appendleft(view[most:])
            return view[:most]
        if not queue or len(piece) + len(queue[0]) > most:
            return piece
        pieces = [piece]
        most -= len(piece)
        while queue and len(queue[0]) <= most:
            piece = queue.popleft()
            most -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)
