"""What is remembered of heads and of response fields changes nothing but the time that they take."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import pytest
from feeding import FEEDINGS, LIMITS, PARSERS, REQUESTS, feed, load, whole

from arbiter.workers.interfaces.asgi_scope import connection_scope, http_scope
from arbiter.workers.protocols import http1, policy
from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import BadResponseError, Refusal, check_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    assert check_fields([list(pair) for pair in plain]) == first  # type: ignore[misc]  # pairs that can't be remembered
    for bad in ([("X", "a\nb")], [("X y", "a")], [("Content-Length", "5"), ("Content-Length", "5")]):
        for _ in range(2):
            with pytest.raises(BadResponseError):
                check_fields(bad)


def test_response_fields_that_differ_each_time_or_are_secret_are_not_kept() -> None:
    for name in ("Set-Cookie", "ETag", "Last-Modified", "Expires", "Location", "Date", "set-cookie"):
        check_fields([("Content-Type", "a/b"), (name, "x")])
    check_fields([("X", "y" * 5000)])
    check_fields([(f"X-{number}", "y") for number in range(100)])
    assert not policy._sections
    for number in range(1000):
        check_fields([("Content-Length", str(number))])

    assert 0 < len(policy._sections) <= policy._SECTIONS_KEPT
