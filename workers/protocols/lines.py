"""Line by line through a head or a trailer section, when it is incomplete or wrong.

The whole-head pattern (`grammar.HEAD`) is the quick way for a head that came in one piece and is sound. Everything else
comes here, where each line is looked at once however it trickles in. The verdict depends only on the bytes in their
order, never on how they were cut: a line is judged when it is complete, or when it has grown over its limit, and the
first fault wins. A test holds the two ways to the same answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from arbiter.workers.protocols.grammar import FIELD_LINE, LINE_END, METHOD, REQUEST_LINE, TARGET
from arbiter.workers.protocols.policy import Refusal

if TYPE_CHECKING:
    from arbiter.workers.protocols.limits import Limits

_METHOD: Final = re.compile(METHOD)
_TARGET: Final = re.compile(TARGET)
_HANDSHAKE: Final = 22  # a TLS record's type (RFC 8446 section 5.1): what a client sends first that expects HTTPS here


class LineReader:
    """Finds the end of one head (or trailer section) in a buffer that grows; of no use after it was found or refused."""

    __slots__ = ("_field_size", "_fields", "_line", "_line_limit", "_searched", "_total", "_what", "count")

    def __init__(self, limits: Limits, *, trailers: bool = False) -> None:
        self._line = 0  # where the first line not judged yet begins; all offsets count from the head's first byte
        self._searched = 0
        self._fields = limits.fields
        self._field_size = limits.field_size
        self._total = limits.trailers if trailers else limits.head
        self._line_limit = limits.field_size if trailers else limits.request_line
        self._what = "trailer section" if trailers else "head"
        self.count = 0 if trailers else -2  # field lines so far; -2: nothing, -1: one empty line, before a request line

    def end(self, buffer: bytes, start: int) -> int | None:
        """Where the head that begins at `start` ends, its last empty line included; None if that has not come yet.

        Called again with more data, `buffer[start:]` must begin with what it began with before.

        Raises:
            Refusal: 400, 414, 431, 501 or 505.
        """
        if self.count < 0 and buffer[start] == _HANDSHAKE:
            raise Refusal(400, "This port speaks plain HTTP, and TLS was sent to it: its addresses begin with http.")
        while True:
            match = LINE_END.search(buffer, start + self._searched)
            begin = start + self._line
            if match is None:
                self._searched = max(self._line, len(buffer) - start - 1)  # a CR at the end is looked at again
                self._check_length(len(buffer) - begin - buffer.endswith(b"\r", begin))
                return None
            line = buffer[begin : match.start()]
            self._check_length(len(line))
            if match[0] != b"\r\n":
                bare = "LF" if match[0] == b"\n" else "CR"
                raise Refusal(400, f"A line of the {self._what} ends with a bare {bare}.")
            self._line = self._searched = match.end() - start
            if self.count < 0:
                self._judge_first(line)
            elif not line:
                return match.end()
            else:
                self._judge_field(line)

    def _check_length(self, length: int) -> None:
        limit = min(self._line_limit, self._total - self._line - 2)  # its line end counts in the total
        if length <= limit:
            return
        if self.count < 0:
            raise Refusal(414, "The request line is too long.")
        if limit == self._line_limit:
            raise Refusal(431, f"A field line of the {self._what} is too long.")
        raise Refusal(431, f"The {self._what} is too large.")

    def _judge_first(self, line: bytes) -> None:
        if not line and self.count == -2:
            self.count = -1
            return
        match = REQUEST_LINE.fullmatch(line)
        if not match:
            raise Refusal(400, "The request line is not a method, a target and a version with one space between.")
        if match[3] != b"1" or match[4] not in b"01":
            raise Refusal(505, "The versions known here are HTTP/1.1 and HTTP/1.0.")
        if not _METHOD.fullmatch(match[1]):
            raise Refusal(400, "The method is not 3 to 20 characters of A-Z, '-' and '_'; or PRI.")
        if not _TARGET.fullmatch(match[2]):
            raise Refusal(400, "The request target holds a character that no URI has.")
        self.count = 0
        self._line_limit = self._field_size

    def _judge_field(self, line: bytes) -> None:
        self.count += 1
        if self.count > self._fields:
            raise Refusal(431, f"The {self._what} has too many fields.")
        if FIELD_LINE.fullmatch(line):
            return
        if line[0] in b" \t":
            raise Refusal(400, f"A field of the {self._what} is folded over lines, or blanks stand before the first.")
        name, colon, _ = line.partition(b":")
        if not colon:
            raise Refusal(400, f"A field line of the {self._what} has no colon.")
        if name.endswith((b" ", b"\t")):
            raise Refusal(400, f"Blanks before the colon of a field in the {self._what}.")
        if not FIELD_LINE.fullmatch(name + b":"):
            raise Refusal(400, f"A field name in the {self._what} is not a token.")
        raise Refusal(400, f"A control character in a field of the {self._what}.")
