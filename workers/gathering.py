"""Small pieces of a response, given in quick succession, leave together.

An application that streams gives piece after piece: rows of a table, blocks of a file, lines of a template. A send for each is
a system call and a packet for each, and wakes the client for each, which costs more than all that is done for the piece
otherwise. So once some pieces have come at once, the next are gathered until they are worth a send.

PEP 3333 ("Buffering and Streaming") forbids to hold a piece back until the next one comes, unless its transmission goes on
while the application makes that: a thread of its own sends what has waited for `HOLD`, whatever the application does. It is
started by the first worker's first stream, and wakes only while something is held. An application that gives a piece now and
then (an event, a progress, a token) has each sent at once: nothing is held before `_AFTER` pieces have come without a pause.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

HOLD: Final = 0.005
"""Seconds that a piece is held, at most: as long as a thread that computes keeps the interpreter from all others anyway
(sys.getswitchinterval)."""
_ENOUGH: Final = 128 * 1024
"""Bytes that are worth a send: two packets of the loopback device, whose largest has 64 KiB. Of 1 MiB in pieces of 16 KiB, 64
took 896 us with 48 KiB, 830 with 64, 734 with 128, 709 with 256, and 1408 without (CPU, medians of 9)."""
_PAUSE: Final = 0.001
"""Seconds between two pieces that are a pause."""
_AFTER: Final = 4
"""Pieces without a pause before one is held: more than a head, a title and a first row, which are to be seen early."""


class Wire(Protocol):
    """What pieces are sent over."""

    def send(self, *parts: bytes) -> None:
        """As `Transport` has it, in the thread whose request it is."""

    def offer(self, data: bytes) -> int:
        """Send what the client takes without waiting; how many bytes. From another thread, while its own does not send."""


class Gatherer:
    """What one thread's request has given, and has not been sent. All methods but `send_held` are for that thread."""

    __slots__ = ("_at", "_lock", "_pieces", "_row", "_wait", "_wire", "awaited", "size")

    def __init__(self, wait: Callable[[Gatherer], None]) -> None:
        """`wait`: has `send_held` called within `HOLD`, and again until nothing is held."""
        self._wait = wait
        self.awaited = False
        """`send_held` will be called."""
        self._pieces: deque[bytes] = deque()
        self._lock = threading.Lock()  # whoever takes pieces out has it until they are sent, or no other thread would send them
        self._wire: Wire
        self.size = 0
        """Bytes since this thread has sent: more than are held, if another one has sent meanwhile."""
        self._row = 0  # pieces that came without a pause
        self._at = 0.0  # monotonic seconds: when the last one had been dealt with

    def send(self, wire: Wire, parts: tuple[bytes, ...]) -> None:
        """Send a piece, at once or with those that come at once.

        Raises:
            Disconnected, TooSlow: as `Transport.send`, for this piece or one before.
        """
        now = monotonic()
        if now - self._at > _PAUSE:
            self._row = 0
        self._at = now
        size = sum(map(len, parts))
        if self._row < _AFTER or size >= _ENOUGH:
            self._row += 1
            if self.size:
                self._send_all()
            wire.send(*parts)
            self._at = monotonic()
            return
        self._wire = wire
        self._pieces += parts
        self.size += size
        if self.size >= _ENOUGH:
            self._send_all()
            self._at = monotonic()
        elif not self.awaited:
            self.awaited = True
            self._wait(self)

    def settle(self) -> None:
        """Send what is held: the response ends with it, or must be known to have got so far. Raises as `send`."""
        self._row = 0
        if self.size:
            self._send_all()

    def drop(self) -> None:
        """Forget what is held: the response is cut short."""
        self._row = 0
        self._take()

    def _take(self) -> bytes:
        """All that is held, once nobody else is sending of it."""
        with self._lock:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self.size = 0
        return data

    def _send_all(self) -> None:
        if data := self._take():
            self._wire.send(data)

    def send_held(self) -> bool:
        """Send what is held, as far as the client takes it; whether something is held still. For another thread."""
        with self._lock:
            pieces = self._pieces
            data = b"".join([pieces.popleft() for _ in range(len(pieces))])  # its own thread may add to them meanwhile
            if data and (rest := data[self._wire.offer(data) :]):
                pieces.appendleft(rest)
            self.awaited = False  # before looking: who adds one from now on waits anew
            self.awaited = bool(pieces)
            return self.awaited


class Sender:
    """The thread that sends what applications hold up."""

    def __init__(self) -> None:
        """Starts no thread yet."""
        self._held: set[Gatherer] = set()
        self._lock = threading.Lock()
        self._bell = threading.Semaphore(0)
        self._is_running = False

    def wait(self, gatherer: Gatherer) -> None:
        """See `Gatherer`. For any thread."""
        with self._lock:
            self._held.add(gatherer)
            rings = len(self._held) == 1
            starts, self._is_running = not self._is_running, True
        if starts:
            threading.Thread(target=self._run, name="arbiter-sender", daemon=True).start()
        if rings:
            self._bell.release()

    def _run(self) -> None:
        while True:
            self._bell.acquire()
            is_needed = True
            while is_needed:
                sleep(HOLD)
                with self._lock:
                    self._held = {gatherer for gatherer in self._held if gatherer.send_held()}
                    is_needed = bool(self._held)
