"""The uwsgi protocol, read without a socket; every packet whole and byte by byte."""

from __future__ import annotations

import struct

import pytest

from arbiter.workers.protocols.http1 import head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import Refusal, Request
from arbiter.workers.protocols.uwsgi import UwsgiConnection

LIMITS = Limits.of(request_line=4094, fields=100, field_size=8190, body=1_000_000)
BASE = {"REQUEST_METHOD": "POST", "REQUEST_URI": "/a%20b?x=1", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "a.example"}


def packet(variables: dict[str, str], *more: tuple[str, str], modifiers: tuple[int, int] = (0, 0), cut: int = 0) -> bytes:
    body = b""
    for name, value in (*variables.items(), *more):
        for text in (name.encode("latin-1"), value.encode("latin-1")):
            body += struct.pack("<H", len(text)) + text
    body = body[: len(body) - cut]
    return bytes([modifiers[0]]) + struct.pack("<H", len(body)) + bytes([modifiers[1]]) + body


def read(raw: bytes) -> tuple[Request | None, UwsgiConnection]:
    """The request of it whole, which must be that of it byte by byte."""
    whole = UwsgiConnection(head_parser("auto"), LIMITS)
    whole.feed(raw)
    found = whole.next_request()
    slow, other = UwsgiConnection(head_parser("auto"), LIMITS), None
    for at in range(len(raw)):
        slow.feed(raw[at : at + 1])
        other = other or slow.next_request()
    assert (other, slow.variables) == (found, whole.variables)
    return found, whole


def test_variables_are_a_request_and_what_the_front_end_says_beside_it() -> None:
    own = {"REMOTE_ADDR": "192.0.2.1", "HTTPS": "on", "wsgi.input": "x", "X.Y": "z"}
    found, connection = read(packet({**BASE, "CONTENT_LENGTH": "5", "HTTP_X_A": "1", **own}) + b"hello")

    assert found
    assert (found.method, found.path, found.query, found.length) == (b"POST", b"/a%20b", b"x=1", 5)
    assert dict(found.fields) == {b"host": b"a.example", b"content-length": b"5", b"x-a": b"1"}
    assert (found.version, found.persistent) == ("HTTP/1.0", False)
    assert connection.variables == {"REMOTE_ADDR": "192.0.2.1", "HTTPS": "on"}
    assert connection.next_body() == b"hello"


def test_the_path_of_the_front_end_goes_before_the_targets() -> None:
    found, _ = read(packet({**BASE, "PATH_INFO": "/re written"}))

    assert found
    assert found.path == b"/re%20written"


def test_a_body_that_the_front_end_has_read_has_its_length() -> None:
    """Nginx passes the client's own framing on, and has undone it."""
    framing = {
        "HTTP_TRANSFER_ENCODING": "chunked",
        "HTTP_CONTENT_LENGTH": "9",
        "HTTP_CONNECTION": "upgrade",
        "HTTP_EXPECT": "x",
    }
    found, _ = read(packet({**BASE, "CONTENT_LENGTH": "5", **framing}))

    assert found
    assert (found.length, found.upgrade) == (5, b"")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n", 400),
        (packet(BASE, modifiers=(5, 0)), 400),
        (packet(BASE, modifiers=(0, 1)), 400),
        (packet(BASE, cut=1), 400),
        (packet({}), 400),
        (packet({**BASE, "REQUEST_METHOD": "get"}), 400),
        (packet({**BASE, "REQUEST_URI": "/a b"}), 400),
        (packet({**BASE, "REQUEST_METHOD": "CONNECT"}), 501),
        (packet({**BASE, "REQUEST_METHOD": "TRACE"}), 501),
        (packet({**BASE, "PATH_INFO": "/a\0"}), 400),
        (packet({**BASE, "PATH_INFO": "/a/../../b"}), 400),
        (packet({**BASE, "PATH_INFO": "a"}), 400),
        (packet({**BASE, "HTTP_HOST": "a b"}), 400),
        (packet({**BASE, "HTTP_X": "a\nb"}), 400),
        (packet({**BASE, "HTTP_X Y": "a"}), 400),
        (packet({**BASE, "CONTENT_LENGTH": "5x"}), 400),
        (packet({**BASE, "CONTENT_LENGTH": "1000001"}), 413),
        (packet({**BASE, "HTTP_TRANSFER_ENCODING": "chunked"}), 400),
        (packet({**BASE, "REQUEST_URI": "/" + "a" * 5000}), 414),
        (packet(BASE, ("REQUEST_METHOD", "POST")), 400),
        (packet(BASE, ("CONTENT_LENGTH", "5"), ("CONTENT_LENGTH", "5")), 400),
        (packet(BASE, ("REMOTE_ADDR", "192.0.2.1"), ("REMOTE_ADDR", "192.0.2.1")), 400),
        (packet(BASE, ("HTTP_HOST", "a.example")), 400),
        (packet(BASE, ("HTTP_AUTHORIZATION", "a"), ("HTTP_AUTHORIZATION", "b")), 400),
        (packet({**BASE, "HTTP_X": "a" * 9000}), 431),
        (packet({**BASE, **{f"HTTP_X{at}": "" for at in range(101)}}), 431),
        (packet({**BASE, **{f"X{at}": "" for at in range(200)}}), 431),
    ],
)  # fmt: skip
def test_a_packet_that_is_malformed_or_asks_for_too_much_is_refused(raw: bytes, status: int) -> None:
    connection = UwsgiConnection(head_parser("auto"), LIMITS)
    connection.feed(raw)
    with pytest.raises(Refusal) as refused:
        connection.next_request()
    assert refused.value.status == status


def test_fields_that_the_client_has_sent_twice_are_those_of_http() -> None:
    """Nginx before 1.23 makes two variables of them."""
    fields = [("HTTP_COOKIE", "a=b"), ("HTTP_VIA", "1.1 x"), ("HTTP_COOKIE", "c=d"), ("HTTP_VIA", "1.1 y")]
    found, _ = read(packet(BASE, *fields))

    assert found
    assert found.fields[1:] == [(b"cookie", b"a=b"), (b"via", b"1.1 x"), (b"cookie", b"c=d"), (b"via", b"1.1 y")]


def test_a_host_that_the_client_has_not_sent_may_be_an_empty_variable() -> None:
    found, _ = read(packet({**BASE, "HTTP_HOST": "", "SERVER_PROTOCOL": "HTTP/1.0"}))

    assert found
    assert found.fields == []


def test_a_packet_that_is_not_whole_is_waited_for() -> None:
    raw = packet(BASE)
    for end in range(len(raw)):
        assert read(raw[:end])[0] is None
