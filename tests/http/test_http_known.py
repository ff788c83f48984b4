"""What is remembered of heads and of response fields changes nothing but the time that they take."""

from __future__ import annotations

import itertools
import re
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from feeding import FEEDINGS, LIMITS, PARSERS, REQUESTS, feed, load, whole

from arbiter.workers.interfaces.asgi_scope import connection_scope, http_scope, websocket_scope
from arbiter.workers.interfaces.wsgi_environ import add_request, listener_environ, worker_environ
from arbiter.workers.protocols import http1, policy, response
from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import BadResponseError, Refusal, admit, check_byte_fields, check_fields, check_status
from arbiter.workers.protocols.response import build
from arbiter.workers.protocols.websocket_handshake import Offer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.protocols.response import Head

SCOPE = connection_scope(scheme="http", server=("127.0.0.1", 80), client=("127.0.0.1", 4711), root_path="")
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    http1._known.clear()
    policy._sections.clear()
    yield
    http1._known.clear()
    policy._sections.clear()


@pytest.mark.parametrize("parser", PARSERS)
def test_every_request_of_the_corpus_is_read_alike_the_first_and_the_next_time(parser: str) -> None:
    for path in sorted(REQUESTS.glob("*/*.http")):
        raw, _ = load(path)
        http1._known.clear()
        first = feed(parser, whole(raw))
        for cut in FEEDINGS:
            assert (path, feed(parser, cut(raw))) == (path, first)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_known_section_behind_another_line_means_what_it_means_to_who_does_not_know_it(parser: str) -> None:
    """Each section of the corpus, behind lines with other methods, targets and versions; sound ones and not."""
    lines = [
        f"{method} {target} HTTP/1.{minor}".encode()
        for method, target, minor in itertools.product(
            ("GET", "HEAD", "POST", "OPTIONS", "X-OWN", "CONNECT", "PRI", "get"),
            ("/", "/a?b#c", "/%00", "/../x", "//", "*", "http://b.example/x", "a"),
            (0, 1, 2),
        )
    ]
    sections = sorted({raw.partition(b"\r\n")[2] for path in REQUESTS.glob("*/*.http") for raw, _ in [load(path)]})
    for section in sections:
        for line in lines[:: len(lines) // 24]:
            raw = line + b"\r\n" + section
            http1._known.clear()
            alone = feed(parser, whole(raw))
            for first in (b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.0\r\n"):
                feed(parser, whole(first + section))
            assert (raw, feed(parser, whole(raw))) == (raw, alone)


@pytest.mark.parametrize("parser", PARSERS)
def test_no_parser_has_an_opinion_of_a_target_in_origin_form(parser: str) -> None:
    """The premise: a known section is not shown to the parser again, whatever the target is now."""
    parse = head_parser(parser)
    characters = [bytes([byte]) for byte in range(0x21, 0x7F)]
    for target in (b"/" + one + two for one in characters for two in characters):
        head = parse(b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert (head.target, head.dispute) == (target, "")


def test_limits_hold_for_what_is_known() -> None:
    """Another connection had room for it."""
    parse = head_parser("httptools")
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nX: y\r\n\r\n"
    for limits, status in (
        (Limits.of(request_line=0, fields=100, field_size=0, body=5), 413),
        (Limits.of(request_line=0, fields=2, field_size=0, body=0), 431),
        (Limits.of(request_line=10, fields=100, field_size=0, body=0), 414),
        (Limits.of(request_line=0, fields=100, field_size=10, body=0), 431),
    ):
        (roomy := Connection(parse, LIMITS)).feed(raw)
        assert roomy.next_request() is not None
        (tight := Connection(parse, limits)).feed(raw)
        with pytest.raises(Refusal) as caught:
            tight.next_request()
        assert status == caught.value.status


def test_what_an_application_does_to_the_fields_of_one_request_is_not_in_the_next() -> None:
    for _ in range(3):
        (connection := Connection(head_parser("httptools"), LIMITS)).feed(GET)
        request = connection.next_request()
        assert request is not None
        assert request.fields == [(b"host", b"a.example"), (b"x", b"y")]
        http_scope(SCOPE, request)["headers"].append((b"x", b"z"))


def test_clients_that_make_up_heads_do_not_make_us_grow() -> None:
    for number in range(1000):
        feed("httptools", whole(re.sub(rb"y", b"%d" % number, GET)))
    feed("httptools", whole(re.sub(rb"y", b"y" * 5000, GET)))
    (known,) = http1._known.values()

    for kind in known:
        assert 0 < len(kind) <= http1._KNOWN_KEPT
        assert max(map(len, kind)) <= http1._KNOWN_SIZE


def test_response_fields_are_judged_alike_the_first_and_the_next_time() -> None:
    plain = [("Content-Type", "a/b"), ("Content-Length", "5"), ("Connection", "close")]
    first = check_fields(plain)

    assert check_fields(list(plain)) is first  # remembered
    unkept = check_fields([list(pair) for pair in plain])  # type: ignore[misc]  # pairs that can't be remembered
    assert unkept == first._replace(is_known=False)
    for bad in ([("X", "a\nb")], [("X y", "a")], [("Content-Length", "5"), ("Content-Length", "5")]):
        for _ in range(2):
            with pytest.raises(BadResponseError):
                check_fields(bad)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([(bytearray(b"x"), b"y")], "the response field name bytearray(b'x') is not bytes"),
        ([("x", b"y")], "the response field name 'x' is not bytes"),
        ([(b"x", "y")], "the value of the response field b'x' is not bytes: 'y'"),
        ([(b"content-length", 5)], "the value of the response field b'content-length' is not bytes: 5"),
        ([(b"connection", "close")], "the value of the response field b'connection' is not bytes: 'close'"),
    ],
)
def test_what_is_not_bytes_in_a_response_field_is_named(headers: Any, words: str) -> None:
    for _ in range(2):
        with pytest.raises(TypeError) as raised:
            check_byte_fields(headers)
        assert words == str(raised.value)


def test_the_fields_of_both_interfaces_follow_one_rule() -> None:
    sections = [
        [("X", "a"), ("Content-Length", " 5\t"), ("Connection", "x, Close"), ("Server", "b"), ("Date", "c")],
        [("Keep-Alive", "x"), ("Upgrade", "x"), ("Set-Cookie", "\xe9"), ("Set-Cookie", "b")],
        [("Content-Length", "5"), ("content-length", "5")],
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [("Content-Length", "\xa05")],
        [("Content-Length", "5\x0b")],
        [("Content-Length", "5\r\n")],
        [("X", "a\r\nb")],
        [("X", "a\0")],
        [("X Y", "a")],
        [("", "a")],
    ]
    for section in sections:
        outcomes = []
        octets = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in section]
        for check in (partial(check_fields, section), partial(check_byte_fields, octets)):
            try:
                outcomes.append(repr(check()))
            except BadResponseError as error:
                outcomes.append(str(error).replace(" b'", " '"))
        assert outcomes[0] == outcomes[1]


def test_a_response_head_is_alike_the_first_and_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All framings, methods, versions and wishes, twice in one second; then again in the next one."""
    now = 1_700_000_000.5
    monkeypatch.setattr(response, "time", SimpleNamespace(time=lambda: now, gmtime=time.gmtime))
    cases = [
        (
            admit(method, b"/", minor, [(b"host", b"a"), (b"connection", wish)], 9),
            status,
            check_fields(fields),
            known,
            persistent,
        )
        for method, minor, wish, status, fields, known, persistent in itertools.product(
            (b"GET", b"HEAD"),
            (0, 1),
            (b"close", b"keep-alive"),
            ("200 OK", "204 No Content", "304 Not Modified"),
            ([], [("Content-Length", "5")], [("Connection", "close")], [("Server", "x")], [("Set-Cookie", "a=b")]),
            (-1, 0, 5),
            (True, False),
        )
    ]

    def heads() -> list[Head]:
        return [
            build(request, *check_status(status), fields, known=known, persistent=persistent)
            for request, status, fields, known, persistent in cases
        ]

    first, again = heads(), heads()
    kept = dict(response._stamp.known)
    now += 1
    later = heads()

    assert first == again
    assert 0 < len(kept) <= response._HEADS_KEPT
    assert not any(b"Set-Cookie" in head.data for head in kept.values())
    assert [head.data.replace(b":20 GMT", b":21 GMT") for head in first] == [head.data for head in later]
    monkeypatch.setattr(response, "_HEADS_KEPT", 0)
    response._stamp.known.clear()
    assert later == heads()


def test_an_environ_is_alike_the_first_and_the_next_time_and_its_own() -> None:
    worker = worker_environ(errors=None, multithread=True, multiprocess=True, script_name="/shop")
    one, other = (listener_environ(worker, address) for address in (("127.0.0.1", 80), ("127.0.0.2", 8080)))
    connection = Connection(head_parser("h11"), LIMITS)
    connection.feed(GET)
    request = connection.next_request()
    assert request

    for listener in (one, other, one):
        plain = {**listener}
        add_request(plain, request, "input")
        for _ in range(2):
            environ = listener.of(request)
            add_request(environ, request, "input")
            assert plain == environ
            environ.clear()  # the application's


@pytest.mark.parametrize("target", [b"/a", b"/a%20b?q=%41", b"/shop/a", b"*"])
def test_a_scope_is_alike_the_first_and_the_next_time_and_its_own(target: bytes) -> None:
    """Wherever the application is mounted, for each client, over HTTP and WebSocket, whatever the application has done to it."""
    line = b"OPTIONS *" if target == b"*" else b"GET " + target
    data = line + b" HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\n"

    def request() -> Request:
        (connection := Connection(head_parser("httptools"), LIMITS)).feed(data)
        found = connection.next_request()
        assert found
        return found

    mounted = {**SCOPE, "root_path": "/shop", "client": ("127.0.0.9", 1), "scheme": "https"}
    places = [(template, make) for template in (SCOPE, mounted) for make in (http_scope, _websocket)]
    fresh = []
    for template, make in places:
        http1._known.clear()
        fresh.append(make(template, request()))
    http1._known.clear()

    for _ in range(2):
        for (template, make), expected in zip(places, fresh, strict=True):
            scope = make(template, request())
            assert expected == scope
            for value in (scope["asgi"], scope["headers"], scope):
                value.clear()  # the application's


def _websocket(template: dict[str, Any], request: Request) -> dict[str, Any]:
    return websocket_scope(template, request, Offer(b"key", ["chat"], []))


def test_response_fields_that_differ_each_time_or_are_secret_are_not_kept() -> None:
    for name in ("Set-Cookie", "ETag", "Last-Modified", "Expires", "Location", "Date", "set-cookie"):
        check_fields([("Content-Type", "a/b"), (name, "x")])
    check_fields([("X", "y" * 5000)])
    check_fields([(f"X-{number}", "y") for number in range(100)])
    assert not policy._sections
    for number in range(1000):
        check_fields([("Content-Length", str(number))])

    assert 0 < len(policy._sections) <= policy._SECTIONS_KEPT
