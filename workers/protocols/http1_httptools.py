"""Heads by httptools (llhttp, C): the quick parser.

It is handed whole heads that `grammar.HEAD` has proved sound, since llhttp has no limits and lets bare LF, blanks and more
pass; a new parser object for each head costs 0.2 us and keeps one request from colouring the next.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from arbiter.workers.protocols.http1 import Head, as_written


class _Parts:
    """The parser's callbacks."""

    __slots__ = ("fields", "target")

    # The parser looks for each of these in every new object: found, one costs a fifth of an AttributeError that is not raised.
    on_message_begin = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = on_status = None

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.target = b""

    def on_url(self, target: bytes) -> None:
        self.target = target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip()))


def parse(head: bytes) -> Head:
    """The parts of a whole, sound head."""
    parts = _Parts()
    parser = HttpRequestParser(parts)
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        pass  # the caller's affair: llhttp only tells that it would read no further
    except HttpParserError as error:
        return _without_method(head, f"The head was refused by llhttp: {type(error).__name__}.")
    return Head(parser.get_method(), parts.target, parts.fields)


def _without_method(head: bytes, dispute: str) -> Head:
    """The parts of a head that llhttp refuses, perhaps for its method alone.

    llhttp takes a method outside of its own table for a syntax error, and gives some within it grammars of their own;
    RFC 9110 section 9.1 leaves the list open. So the head is read once more as a GET: nothing else depends on the method.
    """
    written = as_written(head, dispute)
    parts = _Parts()
    try:
        HttpRequestParser(parts).feed_data(head.replace(written.method, b"GET", 1))
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        return written
    return Head(written.method, parts.target, parts.fields)
