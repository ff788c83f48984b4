"""The server's side of one HTTP/1 connection: bytes in, requests and content out, no I/O.

Three readers share the work. `grammar.HEAD` finds a head's end and proves that each of its bytes is allowed; the parser
that the setting `http` names (httptools or h11) takes the head apart; `policy.admit` judges what it found. A parser is
given whole, sound heads only, so an idle connection holds no parser, and what a parser would let pass (llhttp: blanks,
no limits; h11: repairs of Content-Length) has been settled before or is judged after. A head that the parser refuses is
refused, with the policy's reason where it has one.

The caller's loop, blocking or not::

    connection.feed(data)                          # whatever was received
    request = connection.next_request()            # None: feed more
    while (data := connection.next_body()) != b"": # None: feed more;  b"": the body has ended
        ...
    request = connection.next_request()            # a pipelined one may be there already

After a `Refusal` the connection is of no use: send the answer and close.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from arbiter.workers.protocols.body import Chunked, Sized
from arbiter.workers.protocols.grammar import FIELDS, FRAMING_TAB, HEAD, ORIGIN_LINE
from arbiter.workers.protocols.lines import LineReader
from arbiter.workers.protocols.policy import CHUNKED, Refusal, Request, admit, readmit

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping

    from arbiter.workers.protocols.limits import Limits

READ_SIZE: Final = 80 * 1024
"""Bytes to ask of a socket at once: the largest head, or a head and a block of 64 KiB, which many clients send, is one read
(two cost a sixth of the request). Larger reads gained nothing on uploads, and from 128 KiB on malloc asks the kernel."""
_PIECES: Final = 16
"""Pieces of content to keep apart before they are joined: a body that comes in large reads is not copied for it."""


class Head(NamedTuple):
    """What a parser read in a head."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    """Names in lower case, values without blanks around them."""
    dispute: str = ""
    """Not empty: the parser refuses the head, for this reason; the rest is as written."""


class HeadParser(Protocol):
    """A parser, as `Connection` uses it: a whole head in (`grammar.HEAD`), its parts out. Never raises."""

    def __call__(self, head: bytes) -> Head: ...


def head_parser(choice: str) -> HeadParser:
    """The parser of that name: ``httptools``, ``h11``, or ``auto`` for httptools where it is installed.

    Raises:
        ImportError: it is not installed.
    """
    if choice != "h11":
        try:
            from arbiter.workers.protocols.http1_httptools import parse
        except ImportError:
            if choice != "auto":
                raise
        else:
            return parse
    from arbiter.workers.protocols.http1_h11 import parse as parse_h11

    return parse_h11


def as_written(head: bytes, dispute: str) -> Head:
    """A sound head taken apart by the grammar alone: for a parser that will not."""
    match = HEAD.fullmatch(head)
    if match is None:
        raise AssertionError(f"not a whole and sound head: {head!r}")
    fields = [(name.lower(), value.rstrip(b" \t")) for name, value in FIELDS.findall(head, match.end(3))]
    return Head(match[1], match[2], fields, dispute)


class _Known(NamedTuple):
    """Heads that one parser and the policy have let through, and what became of them.

    A client repeats itself: its next request has the same version and fields very often, and often the same head. What both
    parser and policy say is a function of these bytes; of the version and the field section alone, as long as the target is in
    origin-form and the method is one that applications get to see. A test holds that against the whole corpus.

    All threads read and write here: each step is one of a dict's own.
    """

    heads: dict[bytes, Request]
    sections: dict[bytes, Request]
    """From the minor version's digit on."""

    def learn(self, kind: dict[bytes, Request], key: bytes, request: Request) -> None:
        """Remember one more. When they are too many all are forgotten: cheaper than to tell which was used last."""
        if len(kind) >= _KNOWN_KEPT:
            kind.clear()
        kind[key] = request


_known: dict[HeadParser, _Known] = {}
_KNOWN_KEPT: Final = 128
_KNOWN_SIZE: Final = 2 * 1024
"""How many of either, and of how many bytes at most: a client chooses them, so they must not make us grow. Together under
2 MiB with what is made of them."""
_END: Final = b"\r\n\r\n"


class Connection:
    """What has been received on one connection and not been taken yet."""

    variables: Mapping[str, str] = MappingProxyType({})
    """What a front end says of the connection, as keys of the environ: see `uwsgi`."""

    __slots__ = ("_ahead", "_at", "_body", "_brief", "_buffer", "_known", "_limits", "_lines", "_parse", "_plain")

    def __init__(self, parse: HeadParser, limits: Limits) -> None:
        self._parse = parse
        self._limits = limits
        self._known = _known.get(parse) or _known.setdefault(parse, _Known({}, {}))
        self._plain = min(limits.request_line, limits.field_size, limits.head)  # a head this short breaks no length
        self._brief = min(self._plain, _KNOWN_SIZE)
        self._buffer = b""
        self._at = 0
        self._lines: LineReader | None = None
        self._body: Sized | Chunked | None = None
        self._ahead: list[bytes] = []  # content that `read_ahead` has taken

    def feed(self, data: bytes) -> None:
        """Take what was received. No end of file: that a client has gone is the caller's to tell."""
        rest = self._buffer[self._at :] if self._at < len(self._buffer) else b""
        # Joining copies what waits, at most one head or one chunk line: no more than the kernel did to receive `data`.
        self._buffer = rest + data if rest else data
        self._at = 0

    def next_request(self) -> Request | None:
        """The next request, if its whole head is here; None: feed more. The body before it must have ended.

        Raises:
            Refusal: any of its statuses but 408.
        """
        buffer, start = self._buffer, self._at
        brief = b""
        if self._lines is None:
            if not start and len(buffer) <= self._brief:
                # Nearly always: one head, which is known, and nothing else. 0.4 us less than looking for its end.
                request = self._known.heads.get(buffer)
                if request is not None and not request.length and len(request.fields) <= self._limits.fields:
                    self._at = len(buffer)
                    self._body = None
                    return request
            end = buffer.find(_END, start) + 4
            if 4 <= end - start <= self._brief:  # 4: it begins with its end
                brief = buffer[start:end]
                request = self._recall(brief)
                if request:
                    return self._begin(request, end)
        match = None if self._lines else HEAD.match(buffer, start)
        if match is None or match.end() - start > self._plain:
            match = self._match_by_lines(buffer, start)
            if match is None:
                return None
        end = match.end()
        if buffer.find(b"\t", start, end) >= 0 and FRAMING_TAB.search(buffer, start, end):
            raise Refusal(400, "A tab in a field that tells where the message goes or ends.")
        head = self._parse(buffer if end - start == len(buffer) else buffer[start:end])
        if len(head.fields) > self._limits.fields:
            raise Refusal(431, "The head has too many fields.")
        request = admit(head.method, head.target, match[3] == b"1", head.fields, self._limits.body)
        if head.dispute:
            raise Refusal(400, head.dispute)
        if line := ORIGIN_LINE.match(brief):
            known = self._known
            known.learn(known.heads, brief, request)
            known.learn(known.sections, brief[line.start(3) :], request)
        return self._begin(request, end)

    def _recall(self, head: bytes) -> Request | None:
        """The request of a head that is known, or whose fields are.

        Args:
            head: up to the first empty line, so that it is the whole head if it is known: those are sound. Short enough to
                break no limit on lengths.

        Raises:
            Refusal: 400, for its target.
        """
        known = self._known
        request = known.heads.get(head)
        line = None
        if request is None:
            line = ORIGIN_LINE.match(head)
            request = known.sections.get(head[line.start(3) :]) if line else None
            if request is None:
                return None
        if request.length > self._limits.body or len(request.fields) > self._limits.fields:
            return None
        if line:
            request = readmit(line[1], line[2], request)
            known.learn(known.heads, head, request)
        return request

    def _begin(self, request: Request, end: int) -> Request:
        """The request's head ends at `end`: what follows is its body."""
        self._at = end
        length = request.length
        self._body = None if not length else Chunked(self._limits) if length == CHUNKED else Sized(length)
        return request

    def _match_by_lines(self, buffer: bytes, start: int) -> re.Match[bytes] | None:
        """The match of a head that came in pieces, or is long, or is refused here."""
        if start == len(buffer):
            return None
        if self._lines is None:
            self._lines = LineReader(self._limits)
        end = self._lines.end(buffer, start)
        if end is None:
            return None
        self._lines = None
        match = HEAD.match(buffer, start, end)
        if match is None:
            raise AssertionError(f"the grammar disagrees with itself: {buffer[start:end]!r}")
        return match

    def next_body(self, most: int = READ_SIZE) -> bytes | None:
        """At most `most` (over 0) bytes of the current request's content.

        Returns:
            Some bytes; or None: feed more; or ``b""``: the body has ended (and stays so).

        Raises:
            Refusal: 400 or 413, in a chunked body only.
        """
        if self._body is None:
            return b""
        if self._ahead:
            return self._next_ahead(most)
        data, self._at = self._body.take(self._buffer, self._at, most)
        return data

    def read_ahead(self, most: int) -> bool:
        """Take what is here of the current request's content, for `next_body` to give it later.

        Returns:
            Whether that is enough: the content is whole, or `most` bytes of it and more. Otherwise feed more.

        Raises:
            Refusal: 400 or 413, in a chunked body only.
        """
        if self._body is None:
            return True
        while not self._body.ended:
            data, self._at = self._body.take(self._buffer, self._at, READ_SIZE)
            if data is None:
                break
            if data:
                self._ahead.append(data)
        if len(self._ahead) > _PIECES:  # an object for each byte that trickles in would take forty times its room
            self._ahead = [b"".join(self._ahead)]
        return self._body.ended or sum(map(len, self._ahead)) >= most

    def _next_ahead(self, most: int) -> bytes:
        piece = self._ahead.pop(0)
        if len(piece) > most:
            self._ahead.insert(0, piece[most:])
            piece = piece[:most]
        return piece

    @property
    def body_ended(self) -> bool:
        """All content of the current request has been taken: the next one may follow."""
        return self._body is None or (self._body.ended and not self._ahead)

    @property
    def is_whole(self) -> bool:
        """All content of the current request is here, taken or not."""
        return self._body is None or self._body.ended

    @property
    def trailers(self) -> list[tuple[bytes, bytes]]:
        """Trailer fields of the current request, after its body has ended. Never to be mixed with its fields."""
        return self._body.trailers if isinstance(self._body, Chunked) else []

    @property
    def is_clear(self) -> bool:
        """Nothing is under way, and nothing waits: a body that has ended, or none, and nothing behind it."""
        return self._at == len(self._buffer) and (self._body is None or (self._body.ended and not self._ahead))

    @property
    def pending(self) -> int:
        """Bytes received and not taken. None before a request: a client that leaves now leaves without an answer."""
        return len(self._buffer) - self._at

    def take_rest(self) -> bytes:
        """Everything not taken yet, for the protocol that an upgrade switches to."""
        rest = self._buffer[self._at :]
        self._at = len(self._buffer)
        return rest

    def put_back(self, rest: bytes) -> None:
        """Nothing was switched to: what `take_rest` gave is the next request after all."""
        self._at -= len(rest)
