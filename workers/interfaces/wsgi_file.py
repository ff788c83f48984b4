"""``wsgi.file_wrapper``: a file as a response body, by sendfile where that sends the same bytes as reading would."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK: Final = 64 * 1024
"""Least to read at once; the block size an application names is a suggestion (PEP 3333), and 4 or 8 KiB costs more calls
than copies."""


class Region(NamedTuple):
    """Part of a regular file, to be sent by the kernel."""

    fd: int
    offset: int
    size: int


class FileWrapper:
    """PEP 3333's file wrapper: an iterable over the blocks of a file-like object."""

    __slots__ = ("_block_size", "_file", "close")

    def __init__(self, filelike: Any, block_size: int = _BLOCK) -> None:
        self._file = filelike
        self._block_size = max(block_size, _BLOCK)
        if hasattr(filelike, "close"):
            self.close = filelike.close  # only if there is one: the server calls what it finds

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(self._block_size):
            yield block

    def region(self) -> Region | None:
        """What is left of the file, if the kernel can send it; None for everything else.

        Only for files just as `open` makes them: other objects have a ``fileno()`` too and read something else
        (gzip.GzipFile its archive, a subclass whatever it likes).
        """
        file = self._file
        raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
        if type(raw) is not io.FileIO:
            return None
        try:
            if file is not raw:
                file.flush()
            fd, offset = file.fileno(), file.tell()
            status = os.fstat(fd)
        except (OSError, ValueError):  # closed, or not seekable
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return Region(fd, offset, max(0, status.st_size - offset))


class PlainFileWrapper(FileWrapper):
    """A file wrapper whose file is read, and never left to the kernel."""

    __slots__ = ()

    def region(self) -> None:
        """None."""
