"""What a worker has for clients that are slow to read: memory for each of them, and disk for all of them together.

What a client does not take of a response waits in memory, up to `room` bytes, and behind that in a file without a name, so
that the thread that has made it serves others. nginx and waitress do the same. Where the disk has no more to give, a thread
waits for its client, as one does for the rest of a body; see `client`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHARE: Final = 8
"""A response gets at most one part in so many of the disk: an endless one is not to take what is there for all."""
BLOCK: Final = 256 * 1024
"""Bytes to read back at once, and to have in memory of what is on disk: what a socket takes of a client that reads again."""


class Slack:
    """A worker's. For several threads."""

    def __init__(self, room: int, disk: int) -> None:
        """Nothing is taken yet.

        Args:
            room: bytes of memory for each client.
            disk: bytes of disk for all of them; 0: none.
        """
        self.room = room
        self.share = disk // _SHARE
        """Bytes of disk for each response."""
        self.is_short = False
        """Somebody has asked for disk in vain since something was given back."""
        self._disk = disk
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Whether there are so many bytes of disk; they are the caller's then."""
        with self._lock:
            self.is_short = count > self._disk
            if not self.is_short:
                self._disk -= count
            return not self.is_short

    def give_back(self, count: int) -> None:
        """So many bytes of disk are free again."""
        with self._lock:
            self._disk += count
            self.is_short = False


class Overflow:
    """The part of one response that is on disk: a queue of bytes. For one thread at a time."""

    __slots__ = ("_end", "_fd", "_slack", "_start")

    def __init__(self, slack: Slack) -> None:
        """Empty: without a file."""
        self._slack = slack
        self._fd = -1
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def append(self, views: Sequence[memoryview]) -> bool:
        """Put these at the end; False: there is no disk for them, and nothing has changed."""
        slack = self._slack
        size = sum(map(len, views))
        if self._end + size > slack.share or not slack.take(size):
            return False
        try:
            if self._fd < 0:
                self._fd = _open_file()
            at = self._end
            for view in views:
                at = self._write(view, at)
        except OSError:  # the disk is full, or there is no descriptor left
            slack.give_back(size)
            if not self._end:
                self.close()
            return False
        self._end = at
        return True

    def _write(self, view: memoryview, at: int) -> int:
        while view:
            written = os.pwrite(self._fd, view, at)
            at += written
            view = view[written:]
        return at

    def take(self) -> bytes:
        """Some bytes from the beginning. With the last of them the disk is given back.

        Raises:
            OSError: the disk does not give back what it was given.
        """
        block = os.pread(self._fd, min(BLOCK, len(self)), self._start)
        self._start += len(block)
        if not len(self):
            self.close()
        return block

    def close(self) -> None:
        """Forget what is here."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._end:
            self._slack.give_back(self._end)
            self._start = self._end = 0


def _open_file() -> int:
    """A file that no other process can open, where TMPDIR says, or in the system's folder for such files.

    Raises:
        OSError: there is no such folder, or it has no room.
    """
    import tempfile  # not before it is needed

    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
