"""``wsgi.file_wrapper``: a file as a response body, by sendfile where that sends the same bytes as reading would."""

from __future__ import annotations

import io
import os
import stat
from typing import Any, Final, NamedTuple, Self

_BLOCK: Final = 64 * 1024
"""Least to read at once; the block size an application names is a suggestion (PEP 3333), and 4 or 8 KiB costs more calls
than copies."""


class Region(NamedTuple):
    """Part of a regular file, to be sent by the kernel."""

    fd: int
    offset: int
    size: int


class FileWrapper:
    """PEP 3333's file wrapper: an iterator over the blocks of a file-like object, with the names of wsgiref's."""

    __slots__ = ("blksize", "close", "filelike")

    def __init__(self, filelike: Any, block_size: int = _BLOCK) -> None:
        self.filelike = filelike
        self.blksize = max(block_size, _BLOCK)
        if hasattr(filelike, "close"):
            self.close = filelike.close  # only if there is one: the server calls what it finds

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.blksize)
        if not block:
            raise StopIteration
        return block

    def region(self) -> Region | None:
        """What is left of the file, if the kernel can send it; None for everything else.

        Only for files just as `open` makes them: other objects have a ``fileno()`` too and read something else
        (gzip.GzipFile its archive, a subclass whatever it likes).
        """
        file = self.filelike
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
