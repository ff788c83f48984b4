"""``wsgi.input``: the content of a request, read from the connection only as the application asks for it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.response import CONTINUE

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from arbiter.workers.interfaces.transport import Transport
    from arbiter.workers.protocols.http1 import Connection
    from arbiter.workers.protocols.policy import Request

_BUFFER: Final = 64 * 1024
"""What lines are looked for in; as much as one read of the socket brings."""


class MalformedBodyError(OSError):
    """The rest of the body can't be read: it breaks the protocol or a limit. An OSError, as applications expect here."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Body(io.RawIOBase):
    """The content as a raw stream; `io.BufferedReader` makes lines and exact reads of it.

    The first read sends 100-continue if the client waits for it and nothing of the answer has been sent.
    """

    def __init__(self, connection: Connection, transport: Transport, arrived: bytes, *, expected: bool) -> None:
        self._connection = connection
        self._transport = transport
        self._arrived = arrived
        self._expected = expected
        self.failure: Exception | None = None

    def answered(self) -> None:
        """The final response has begun: it is too late for a 100-continue."""
        self._expected = False

    def end(self) -> None:
        """The request is over: an application that reads later must not take the next request's bytes."""
        self.failure = self.failure or OSError("wsgi.input was read after its request had ended")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As `io.RawIOBase` has it.

        Raises:
            MalformedBodyError: see there.
            Disconnected, TooSlow: what became of the client.
        """
        view = memoryview(buffer).cast("B")
        data = self._next(len(view)) if view else b""
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """All that is left; raises as `readinto`."""
        pieces = []
        while piece := self._next(_BUFFER):
            pieces.append(piece)
        return b"".join(pieces)

    def _next(self, most: int) -> bytes:
        """Some content, or ``b""`` at its end. A failure stays: what came before it must not look like the whole."""
        if self.failure is not None:
            raise self.failure
        if self._arrived:
            first, self._arrived = self._arrived[:most], self._arrived[most:]
            return first
        try:
            while True:
                data = self._connection.next_body(most)
                if data is not None:
                    return data
                if self._expected:
                    self._expected = False
                    self._transport.send(CONTINUE)
                self._connection.feed(self._transport.receive())
        except Refusal as refusal:
            self.failure = MalformedBodyError(refusal)
            raise self.failure from None
        except OSError as error:
            self.failure = error
            raise


def open_input(request: Request, connection: Connection, transport: Transport) -> tuple[io.IOBase, Body | None]:
    """``wsgi.input`` for the request, and the stream below it if the connection is still to be read.

    What has come together with the head is judged here, before the application sees anything.

    Raises:
        Refusal: what has come of the body is malformed.
    """
    if not request.length:
        return io.BytesIO(), None
    pieces = []
    while piece := connection.next_body():
        pieces.append(piece)
    arrived = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if connection.body_ended:
        return io.BytesIO(arrived), None
    # Who sends content at once does not wait for a 100 (RFC 9110 section 10.1.1 lets us leave it out then).
    body = Body(connection, transport, arrived, expected=request.expects_continue and not arrived)
    return io.BufferedReader(body, _BUFFER), body
