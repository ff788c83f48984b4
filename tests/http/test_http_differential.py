"""Near-valid requests by grammar: both parsers, however the bytes are cut, must come to one answer.

And the answer must be strict: whatever is let through must be sound to h11 and to llhttp by themselves, in their own reading.
"""

from __future__ import annotations

import h11
import httptools
from feeding import LIMITS, PARSERS, byte_by_byte, feed, in_pieces, whole
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arbiter.workers.protocols.grammar import HEAD
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.lines import LineReader
from arbiter.workers.protocols.policy import Refusal

RARE = st.sampled_from([b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\x00", b"\x0b", b":", b";", b",", b"a", b"\x7f", b"\xff"])


def often(common: bytes, *others: bytes) -> st.SearchStrategy[bytes]:
    """Mostly the right thing, sometimes another, rarely noise."""
    return st.one_of(st.just(common), st.just(common), st.just(common), st.sampled_from([common, *others]), RARE)


LINE_END = often(b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r")
BLANK = often(b" ", b"", b"  ", b"\t")
METHOD = often(b"GET", b"POST", b"OPTIONS", b"CONNECT", b"HEAD", b"PRI", b"BREW", b"get", b"G", b"SOURCE", b"M-SEARCH", b"GE T")
TARGET = often(
    b"/",
    b"*",
    b"/a?b#c",
    b"http://a/x",
    b"https://a?b",
    b"a:80",
    b"//a",
    b"/%00",
    b"http://",
    b"/\xe9",
    b"/a b",
    b"?x",
    b"#",
    b"/\\",
)
VERSION = often(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"")
NAME = often(
    b"X",
    b"Host",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Connection",
    b"Expect",
    b"Upgrade",
    b"content-length",
    b"X ",
    b" X",
    b"X\xe9",
)
VALUE = often(
    b"y", b"a", b"3", b"0", b"+3", b"3, 3", b"03", b"99999999999999999999", b"chunked", b"CHUNKED", b"gzip, chunked", b"chunked, chunked",
    b"identity", b"chunked ", b"\x0bchunked", b"close", b"keep-alive", b"upgrade", b"h2c", b"websocket", b"100-continue", b"a\x01b", b"a\r\n b", b"",
)  # fmt: skip
FIELD = st.builds(lambda *parts: b"".join(parts), NAME, often(b": ", b":", b" : ", b":\t"), VALUE, LINE_END)
FRAMED = st.sampled_from(
    [b"", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nTrailer: a\r\n"]
)
CHUNK = st.builds(
    lambda *parts: b"".join(parts),
    often(b"3", b"03", b"0x3", b"-3", b"3 ", b"F", b"ffffffffffffffff", b""),
    often(b"", b";a", b";a=b", b';a="b;c"', b"; a", b";", b";a=\n"),
    LINE_END,
    often(b"abc", b"ab", b"abcd"),
    LINE_END,
)
BODY = st.one_of(
    st.just(b""),
    st.just(b"abc"),
    st.builds(
        lambda chunks, last, trailers, end: b"".join([*chunks, last, *trailers, end]),
        st.lists(CHUNK, max_size=3),
        often(b"0\r\n", b"0\n", b"00\r\n", b"0;a\r\n", b"0 \r\n"),
        st.lists(FIELD, max_size=2),
        LINE_END,
    ),
)
HEADS = st.builds(
    lambda first, *rest: b"".join([first, *rest[:-4], *rest[-4], rest[-3], rest[-2], rest[-1]]),
    often(b"", b"\r\n", b"\n", b"\r\n\r\n"),
    METHOD,
    BLANK,
    TARGET,
    BLANK,
    VERSION,
    LINE_END,
    st.lists(FIELD, max_size=4),
    often(b"Host: a\r\n", b"", b"Host: a\r\nHost: b\r\n", b"Host: a,b\r\n"),
    FRAMED,
    LINE_END,
)
REQUESTS = st.builds(
    lambda head, body, after: head + body + after, HEADS, BODY, st.sampled_from([b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
)


@settings(max_examples=400, deadline=None)
@given(raw=REQUESTS, seed=st.integers(0, 9))
@example(raw=b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", seed=0)
def test_both_parsers_give_one_answer_however_the_bytes_are_cut(raw: bytes, seed: int) -> None:
    expected = feed("httptools", whole(raw))

    for parser in PARSERS:
        for pieces in (whole(raw), byte_by_byte(raw), in_pieces(raw, seed)):
            outcome = feed(parser, pieces)
            assert expected.refusal == outcome.refusal
            assert len(expected.requests) == len(outcome.requests)
            if expected.refusal is None:
                assert expected == outcome
    # A parser's own refusal would be a rule that the policy lacks.
    assert expected.refusal is None or "by" not in expected.refusal[1].split()[-2:]


@settings(max_examples=400, deadline=None)
@given(raw=HEADS)
def test_the_quick_way_and_the_line_by_line_way_let_the_same_heads_through(raw: bytes) -> None:
    match = HEAD.match(raw)
    try:
        end = LineReader(LIMITS).end(raw, 0)
    except Refusal:
        end = None

    assert (match.end() if match else None) == end


@settings(max_examples=400, deadline=None)
@given(raw=REQUESTS)
def test_what_is_let_through_is_sound_to_h11_and_llhttp_by_themselves(raw: bytes) -> None:
    outcome = feed("httptools", whole(raw))
    if outcome.refusal is not None or outcome.pending or len(outcome.requests) != 1 or "body" not in outcome.requests[0]:
        return
    request = outcome.requests[0]
    raw = raw.removeprefix(b"\r\n")  # h11 does not skip the empty line that RFC 9112 section 2.2 lets precede a request
    raw = raw.replace(request["method"], b"GET", 1)  # llhttp knows a few methods only

    reader = h11.Connection(h11.SERVER)
    reader.receive_data(raw)
    head = reader.next_event()
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += event.data

    assert isinstance(head, h11.Request)
    assert isinstance(event, h11.EndOfMessage)
    assert (request["target"], request["body"]) == (head.target, body)

    class Callbacks:
        body = b""
        complete = 0

        def on_body(self, data: bytes) -> None:
            self.body += data

        def on_message_complete(self) -> None:
            self.complete += 1

    callbacks = Callbacks()
    try:
        httptools.HttpRequestParser(callbacks).feed_data(raw)
    except httptools.HttpParserUpgrade:
        return  # it stops before the body
    assert (1, request["body"]) == (callbacks.complete, callbacks.body)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    first=st.integers(1, 40),
    limits=st.builds(
        lambda line, fields, size, head: Limits(request_line=line, fields=fields, field_size=size, head=head),
        st.integers(14, 40), st.integers(1, 6), st.integers(3, 40), st.integers(20, 150),
    ),
)  # fmt: skip
def test_limits_refuse_the_same_heads_however_they_are_cut(lengths: list[int], first: int, limits: Limits) -> None:
    fields = b"".join(b"X:" + b"v" * length + b"\r\n" for length in lengths)
    raw = b"GET /" + b"a" * first + b" HTTP/1.0\r\n" + fields + b"\r\n"
    expected = feed("httptools", whole(raw), limits)

    for pieces in (byte_by_byte(raw), in_pieces(raw)):
        assert expected.refusal == feed("h11", pieces, limits).refusal

    too_large = (
        first + 14 > limits.request_line
        or len(lengths) > limits.fields
        or max(lengths) + 2 > limits.field_size
        or len(raw) > limits.head
    )
    assert too_large == (expected.refusal is not None)
