"""PEP 3333 over a real connection: what an application may do, and what becomes of what it may not."""

from __future__ import annotations

import io
import itertools
import os
import random
import select
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from feeding import PARSERS
from serving import GET, PATIENCE, Response, Serving, ask

from arbiter.workers.contract import Doing, Interrupted
from arbiter.workers.interfaces.wsgi_file import FileWrapper, PlainFileWrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLAIN = [("Content-Type", "text/plain")]


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: a.example", *fields, b"", body])


def answering(*pieces: bytes, status: str = "200 OK", headers: Any = PLAIN) -> Callable[..., Any]:
    """An application that yields these pieces."""

    def app(_environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        yield from pieces

    return app


def giving(result: Any, status: str = "200 OK", headers: Any = PLAIN) -> Callable[..., Any]:
    """An application that returns this result."""

    def app(_environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        return result

    return app


class Closing:
    """An iterable that counts how often it is closed."""

    def __init__(self, pieces: Any) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        self.closed += 1


# Compliance -----------------------------------------------------------------------------------------------------------

REQUESTS = [
    GET,
    request(b"HEAD / HTTP/1.1"),
    request(b"GET / HTTP/1.0"),
    request(b"POST /a%20b?c=d HTTP/1.1", b"Content-Length: 5", b"Content-Type: text/plain", body=b"a\nb\nc"),
    request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", body=b"5\r\na\nb\nc\r\n0\r\n\r\n"),
]


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("raw", REQUESTS)
def test_wsgiref_finds_no_fault_with_the_server(raw: bytes, parser: str) -> None:
    @validator
    def app(environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"]
        read = [body.read(1), body.readline(), *body.readlines(), body.read(-1)]
        environ["wsgi.errors"].write("")
        environ["wsgi.errors"].flush()
        start_response("200 OK", PLAIN)
        return [b"".join(read)] if environ["REQUEST_METHOD"] != "HEAD" else []

    response, serving = ask(app, raw, parser=parser)

    assert serving.log.text == ""
    assert response.status == 200
    assert (b"a\nb\nc" if b"POST" in raw else b"") == response.body


def test_the_environ_says_what_pep_3333_and_gunicorn_say() -> None:
    seen = {}

    def app(environ: Any, start_response: Any) -> Any:
        seen.update(environ)
        start_response("204 No Content", [])
        return []

    raw = request(
        b"GET /shop/caf%C3%A9%2Fx?q=%20 HTTP/1.1",
        b"Content-Type: a/b",
        b"X-Two: 1",
        b"x-two: 2",
        b"Cookie: a=1",
        b"Cookie: b=2",
        b"X_Forwarded_For: spoofed",
        b"Proxy: http://evil.example",
        b"X-Latin: \xe9",
        b"X.Dot: y",
    )
    ask(app, raw, script_name="/shop")

    assert {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/caf\xc3\xa9/x",
        "QUERY_STRING": "q=%20",
        "RAW_URI": "/shop/caf%C3%A9%2Fx?q=%20",
        "REQUEST_URI": "/shop/caf%C3%A9%2Fx?q=%20",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "arbiter",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "4711",
        "CONTENT_TYPE": "a/b",
        "HTTP_HOST": "a.example",
        "HTTP_X_TWO": "1,2",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_LATIN": "\xe9",
        "HTTP_X.DOT": "y",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
    } == {key: value for key, value in seen.items() if key not in ("wsgi.input", "wsgi.errors", "wsgi.early_hints")}


@pytest.mark.parametrize(
    ("target", "path"), [(b"/shop", ""), (b"/shop/", "/"), (b"/shopping", "/shopping"), (b"/cut/off", "/cut/off")]
)
def test_the_mount_point_is_taken_off_the_path_where_it_is(target: bytes, path: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return [environ["PATH_INFO"].encode()]

    response, _ = ask(app, request(b"GET " + target + b" HTTP/1.1"), script_name="/shop")

    assert path == response.body.decode()


def test_what_is_written_to_wsgi_errors_goes_to_the_log() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        print("look here", file=environ["wsgi.errors"])
        environ["wsgi.errors"].writelines(["one\n", "two\n"])
        start_response("200 OK", PLAIN)
        return [b""]

    _, serving = ask(app)

    assert serving.log.lines == ["error: look here", "error: one", "error: two"]


# Framing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [[b"hello"], (b"hello",), [b"he", b"", b"llo"], [b"hello", b""]])
def test_a_list_gets_a_content_length(result: Any) -> None:
    response, serving = ask(giving(result))

    assert (response[b"content-length"], response[b"transfer-encoding"]) == (b"5", None)
    assert response.body == b"hello"
    assert serving.join().sent == 5


@pytest.mark.parametrize("result", [[], [b""], (), iter([]), iter([b""])])
def test_an_empty_body_gets_content_length_zero(result: Any) -> None:
    response, _ = ask(giving(result))

    assert (response[b"content-length"], response.body) == (b"0", b"")


def test_an_iterator_is_chunked_for_http_1_1_and_ends_the_connection_for_http_1_0() -> None:
    chunked, _ = ask(answering(b"ab", b"", b"cde"))
    closed, _ = ask(answering(b"ab", b"", b"cde"), b"GET / HTTP/1.0\r\n\r\n")

    assert chunked.rest == b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    assert (closed[b"content-length"], closed[b"transfer-encoding"], closed.rest) == (None, None, b"abcde")


def test_a_body_that_the_connection_delimits_ends_it_though_the_client_asked_to_keep_it() -> None:
    raw = request(b"GET / HTTP/1.0", b"Connection: keep-alive")

    response, serving = ask(answering(b"ab"), raw, persistent=True)

    assert (response[b"connection"], serving.join().persistent) == (None, False)


def test_an_iterator_with_a_content_length_is_sent_as_it_is() -> None:
    response, _ = ask(answering(b"ab", b"cde", headers=[*PLAIN, ("Content-Length", "5")]))

    assert (response[b"content-length"], response[b"transfer-encoding"], response.rest) == (b"5", None, b"abcde")


def test_blanks_around_a_content_length_are_no_part_of_it() -> None:
    response, serving = ask(giving([b"hello"], headers=[("Content-Length", " 5\t")]))

    assert (response.status, response.rest, serving.log.text) == (200, b"hello", "")


def test_head_and_a_small_body_leave_in_one_send() -> None:
    with Serving(giving([b"hello"])) as serving:
        serving.send(GET)
        serving.join()
        everything = serving.client.recv(65536)

    assert everything.endswith(b"\r\n\r\nhello")


def test_the_head_waits_for_the_first_piece_of_body_and_no_longer() -> None:
    """1. The application has yielded nothing: nothing is sent.  2. It yields a piece and waits.  Result: the piece is here."""
    begun, go_on, received = threading.Event(), threading.Event(), threading.Event()

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        yield b""
        begun.set()
        assert go_on.wait(PATIENCE)
        yield b"first"
        assert received.wait(PATIENCE)
        yield b"second"

    with Serving(app) as serving:
        serving.send(GET)
        assert begun.wait(PATIENCE)
        assert select.select([serving.client], [], [], 0)[0] == []
        go_on.set()
        assert serving.receive(b"first\r\n").endswith(b"\r\n\r\n5\r\nfirst\r\n")
        received.set()
        assert serving.receive() == b"6\r\nsecond\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("app", "length"),
    [
        (giving([b"hello"]), b"5"),
        (giving([]), None),
        (giving([], headers=[("Content-Length", "77")]), b"77"),
        (giving([b"hello"], headers=[("Content-Length", "77")]), b"77"),
        (answering(b"hello", b"world"), None),
    ],
)
def test_head_is_answered_without_a_body_and_with_the_length_that_get_would_have(app: Any, length: bytes | None) -> None:
    response, serving = ask(app, request(b"HEAD / HTTP/1.1"))

    assert (200, length, b"") == (response.status, response[b"content-length"], response.rest)
    assert response[b"transfer-encoding"] is None
    assert serving.log.text == ""


@pytest.mark.parametrize(("status", "length"), [("204 No Content", None), ("304 Not Modified", b"3")])
def test_statuses_without_a_body_have_none(status: str, length: bytes | None) -> None:
    response, _ = ask(giving([b"abc"], status, [("Content-Length", "3")]))

    assert (length, None, b"") == (response[b"content-length"], response[b"transfer-encoding"], response.rest)


def test_a_stream_is_not_read_further_than_the_head_when_no_body_is_wanted() -> None:
    result = Closing(itertools.repeat(b"x"))

    response, _ = ask(giving(result), request(b"HEAD / HTTP/1.1"))

    assert (response.status, response.rest, result.closed) == (200, b"", 1)


def test_write_sends_at_once_and_goes_before_the_result() -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", PLAIN)
        write(b"")
        write(b"one,")
        write(b"two,")
        return [b"three"]

    response, _ = ask(app)

    assert response.body == b"one,two,three"


def hinting(*hints: Any) -> Callable[..., Any]:
    """An application that gives each of these as early hints, then answers with what came of it."""

    def app(environ: Any, start_response: Any) -> Any:
        said = []
        for hint in hints:
            try:
                environ["wsgi.early_hints"](hint)
            except (TypeError, ValueError) as error:
                said.append(type(error).__name__)
        start_response("200 OK", PLAIN)
        environ["wsgi.early_hints"]([("Link", "</too-soon.css>")])
        yield " ".join(said).encode() or b"fine"
        environ["wsgi.early_hints"]([("Link", "</too-late.css>")])

    return app


def test_early_hints_go_before_the_response_and_never_into_it() -> None:
    with Serving(hinting([("Link", "</a.css>; rel=preload"), ("Link", "</b.js>")], [("Link", "</c.js>")])) as serving:
        serving.send(GET)
        first, second, third, rest = serving.receive().split(b"\r\n\r\n", 3)

    assert first == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>"
    assert second == b"HTTP/1.1 103 Early Hints\r\nLink: </c.js>"
    assert third == b"HTTP/1.1 103 Early Hints\r\nLink: </too-soon.css>"
    assert Response(rest).status == 200
    assert Response(rest).body == b"fine"
    assert serving.join().status == 200


def test_early_hints_are_not_sent_to_http_1_0() -> None:
    response, _ = ask(hinting([("Link", "</a.css>")]), b"GET / HTTP/1.0\r\n\r\n")

    assert (response.status, response.rest) == (200, b"fine")


def test_early_hints_that_would_break_the_message_are_not_sent() -> None:
    bad: list[Any] = [[("Link", "a\r\nX: y")], [("L\nnk", "a")], [("Content-Length", "5")], [("Link", b"a")], ["Link"]]
    with Serving(hinting(*bad)) as serving:
        serving.send(GET)
        hint, rest = serving.receive().split(b"\r\n\r\n", 1)

    assert hint == b"HTTP/1.1 103 Early Hints\r\nLink: </too-soon.css>"
    assert Response(rest).body == b"BadResponseError BadResponseError BadResponseError TypeError ValueError"


def test_date_and_server_are_the_applications_if_it_brings_them() -> None:
    ours, _ = ask(giving([b""]))
    own, _ = ask(giving([b""], headers=[("date", "then"), ("Server", "mine")]))

    assert (ours[b"server"], (ours[b"date"] or b"").endswith(b" GMT")) == (b"arbiter", True)
    assert (own[b"server"], own[b"date"]) == (b"mine", b"then")


@pytest.mark.parametrize(
    ("raw", "headers", "persistent", "field"),
    [
        (GET, [], True, None),
        (request(b"GET / HTTP/1.1", b"Connection: close"), [], False, b"close"),
        (GET, [("Connection", "close")], False, b"close"),
        (request(b"GET / HTTP/1.0"), [], False, None),
        (request(b"GET / HTTP/1.0", b"Connection: keep-alive"), [], True, b"keep-alive"),
    ],
)
def test_the_connection_stays_open_if_client_worker_and_application_agree(
    raw: bytes, headers: Any, persistent: bool, field: bytes | None
) -> None:
    response, serving = ask(giving([b"x"], headers=headers), raw, persistent=True)

    assert (persistent, field) == (serving.join().persistent, response[b"connection"])


def test_hop_by_hop_fields_of_an_application_never_leave() -> None:
    headers = [
        ("Connection", "keep-alive, x"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Proxy-Connection", "keep-alive"),
        ("X-Kept", "y"),
    ]
    response, _ = ask(giving([b"hello"], headers=headers))

    assert [name for name, _ in response.fields] == [b"Date", b"Server", b"X-Kept", b"Connection", b"Content-Length"]
    assert (response[b"connection"], response.body) == (b"close", b"hello")


# What must not be sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [("X", "a\r\nSet-Cookie: b")],
        [("X", "a\nb")],
        [("X", "a\rb")],
        [("X", "a\x00b")],
        [("X", "a\x0bb")],
        [("X", "a\x7fb")],
        [("X", "\u20ac")],
        [("X\r\nY", "a")],
        [("X Y", "a")],
        [("X:", "a")],
        [("", "a")],
        [("X\xe9", "a")],
        [("X", 1)],
        [("X", b"a")],
        [(b"X", "a")],
        [("X", None)],
        [("X",)],
        [("Content-Length", "five")],
        [("Content-Length", "-1")],
        [("Content-Length", "+5")],
        [("Content-Length", "5, 5")],
        [("Content-Length", "5"), ("content-length", "5")],
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [("Content-Length", "4")],
        [("Content-Length", "6")],
        None,
    ],
)
def test_response_fields_that_would_break_the_message_are_a_500(headers: Any) -> None:
    response, serving = ask(giving([b"hello"], headers=headers))

    assert response.status == 500
    assert b"Traceback" not in response.body
    assert serving.log.text.count("Traceback") == 1


@pytest.mark.parametrize(
    "status", ["200\r\nX: y", "OK", "", "20 OK", "2000 OK", "100 Continue", "101 x", 200, b"200 OK", "200 \u20ac", "099 x"]
)
def test_a_bad_status_is_a_500(status: Any) -> None:
    response, serving = ask(giving([b"hello"], status))

    assert response.status == 500
    assert serving.log.text.count("Traceback") == 1


@pytest.mark.parametrize("status", ["200", "200 ", "299 Fine and dandy", "404 Caf\xe9", "999 Nines"])
def test_a_status_may_have_any_reason_or_none(status: str) -> None:
    response, _ = ask(giving([b"hello"], status))

    assert int(status[:3]) == response.status


def test_blanks_before_a_value_are_one_blank() -> None:
    response, _ = ask(giving([b"x"], headers=[("Set-Cookie", " a=b"), ("X-A", "c:  d"), ("X-B", "  \t e")]))

    assert [value for name, value in response.fields if name in {b"Set-Cookie", b"X-A", b"X-B"}] == [b"a=b", b"c:  d", b"e"]


class Word(str):
    """What escapes by itself, say."""

    __slots__ = ()


def test_a_name_value_or_status_that_is_more_than_a_string_is_one() -> None:
    """Whether the same was seen before, or not."""
    for _ in range(2):
        response, _ = ask(giving([b"hello"], Word("299 Never seen"), headers=[(Word("X-Never-Seen"), Word("y"))]))

        assert (response.status, response[b"x-never-seen"]) == (299, b"y")


@pytest.mark.parametrize("pieces", [(b"hel", b"lo!"), (b"hello!",), (b"hello", b"!")])
def test_no_more_than_the_content_length_is_ever_sent(pieces: tuple[bytes, ...]) -> None:
    response, serving = ask(answering(*pieces, headers=[("Content-Length", "5")]), persistent=True)

    assert (response.status, response.rest) == (200, b"hello")
    assert not serving.join().persistent
    assert "longer than the Content-Length" in serving.log.text


def test_less_than_the_content_length_ends_the_connection() -> None:
    response, serving = ask(answering(b"hel", headers=[("Content-Length", "5")]), persistent=True)

    assert (response[b"content-length"], response.rest) == (b"5", b"hel")
    assert not serving.join().persistent
    assert "2 bytes shorter" in serving.log.text


# Failures -------------------------------------------------------------------------------------------------------------


class Unwanted(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize(
    "error", [ValueError("secret"), SystemExit(1), KeyboardInterrupt(), Unwanted("secret"), GeneratorExit()]
)
@pytest.mark.parametrize("raw", [GET, request(b"GET / HTTP/1.0"), request(b"HEAD / HTTP/1.1")])
def test_whatever_is_raised_before_the_first_byte_is_a_500_and_logged_once(error: BaseException, raw: bytes) -> None:
    def at_call(_environ: Any, _start_response: Any) -> Any:
        raise error

    def at_iteration(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [*PLAIN, ("Content-Length", "3")])
        yield b""
        raise error

    for app in (at_call, at_iteration):
        response, serving = ask(app, raw)

        assert (response.status, response[b"connection"]) == (500, b"close")
        assert b"secret" not in response.rest
        assert b"HEAD" in raw or int(response[b"content-length"] or b"") == len(response.rest)
        assert serving.log.text.count("Traceback") == 1
        assert type(error).__name__ in serving.log.text
        assert serving.log.text.startswith("error: " + raw[: raw.index(b" HTTP")].decode())


def test_what_is_raised_after_the_first_byte_cuts_a_chunked_body_short() -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        yield b"abc"
        raise ValueError("late")

    response, serving = ask(app, persistent=True)

    assert (response.status, response.rest) == (200, b"3\r\nabc\r\n")
    assert not serving.join().persistent
    assert serving.log.text.count("Traceback") == 1


def test_what_is_raised_after_the_first_byte_resets_a_connection_whose_end_would_look_like_the_bodys() -> None:
    """HTTP/1.0 without a length: only a reset tells the client that something is missing."""

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        yield b"abc"
        raise ValueError("late")

    _, serving = ask(app, b"GET / HTTP/1.0\r\n\r\n")

    assert serving.join().reset


def test_interrupted_passes_through_after_close_was_called() -> None:
    result = Closing(itertools.chain([b"x"], _raising(Interrupted("SIGINT"))))

    _, serving = ask(giving(result))

    assert serving.interrupted is not None
    assert result.closed == 1


def _raising(error: BaseException) -> Iterator[bytes]:
    yield from ()
    raise error


@pytest.mark.parametrize(
    "result",
    [
        Closing([b"a", b"b"]),
        Closing([]),
        Closing(["not bytes"]),
        Closing(_raising(ValueError())),
        Closing(itertools.chain([b"a"], _raising(ValueError()))),
    ],
)
def test_close_is_called_exactly_once(result: Closing) -> None:
    ask(giving(result))

    assert result.closed == 1


def test_close_is_called_once_when_the_client_has_gone() -> None:
    result = Closing(itertools.repeat(b"x" * 65536))
    with Serving(giving(result)) as serving:
        serving.send(GET)
        serving.receive(b"x")
        serving.client.close()
        exchange = serving.join()

    assert (result.closed, exchange.status, serving.log.text) == (1, 200, "")


def test_a_close_that_raises_is_logged_and_changes_no_complete_response() -> None:
    class Bad(list):  # type: ignore[type-arg]
        def close(self) -> None:
            raise ValueError("in close")

    response, serving = ask(giving(Bad([b"hello"])))

    assert (response.status, response.body) == (200, b"hello")
    assert "after its response was complete" in serving.log.text


@pytest.mark.parametrize("result", [None, 5, "text", ["text"], [5], iter(["text"]), iter([None]), [b"a", "b"]])
def test_a_result_that_is_no_iterable_of_bytes_is_a_500(result: Any) -> None:
    response, serving = ask(giving(result))

    assert response.status == 500
    assert "TypeError" in serving.log.text


@pytest.mark.parametrize("result", [[b"x"], [], iter([b"x"]), iter([])])
def test_a_body_without_start_response_is_a_500(result: Any) -> None:
    response, serving = ask(lambda _environ, _start_response: result)

    assert response.status == 500
    assert "without calling start_response" in serving.log.text


# start_response's exc_info --------------------------------------------------------------------------------------------


def test_start_response_twice_is_an_error_without_exc_info() -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        start_response("200 OK", PLAIN)
        return [b""]

    response, serving = ask(app)

    assert response.status == 500
    assert "twice without exc_info" in serving.log.text


def test_exc_info_replaces_a_head_that_has_not_been_sent() -> None:
    import sys

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-Old", "1")])
        try:
            int("")
        except ValueError:
            start_response("503 Sorry", [("X-New", "2")], sys.exc_info())
        return [b"sorry"]

    response, serving = ask(app)

    assert (response.status, response[b"x-old"], response[b"x-new"], response.body) == (503, None, b"2", b"sorry")
    assert serving.log.text == ""


def test_exc_info_is_raised_again_once_the_head_was_sent() -> None:
    import sys

    raised = []

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)(b"abc")
        try:
            int("mine")
        except ValueError:
            try:
                start_response("503 Sorry", [], sys.exc_info())
            except ValueError as error:
                raised.append(error)
                raise
        return []

    response, serving = ask(app)

    assert "mine" in str(raised[0])
    assert (response.status, response.rest) == (200, b"3\r\nabc\r\n")
    assert serving.log.text.count("Traceback (most recent call last)") == 1


# wsgi.input -----------------------------------------------------------------------------------------------------------


def echo(environ: Any, start_response: Any) -> Any:
    data = environ["wsgi.input"].read()
    start_response("200 OK", PLAIN)
    return [data]


@pytest.mark.parametrize("read", ["read()", "read(-1)", "read(None)", "exact", "readline", "readlines", "iterate", "small"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_every_way_of_reading_gives_the_whole_body(read: str, chunked: bool, late: bool) -> None:
    content = random.Random(7).randbytes(70_000) + b"\n" * 500 + b"last line without an end"
    body = content
    if chunked:
        cuts = [0, 1, 2, 100, 40_000, 69_999, len(content)]
        body = b"".join(b"%x\r\n%b\r\n" % (b - a, content[a:b]) for a, b in itertools.pairwise(cuts)) + b"0\r\nA: b\r\n\r\n"
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(content)

    def app(environ: Any, start_response: Any) -> Any:
        source = environ["wsgi.input"]
        match read:
            case "exact":
                data = source.read(len(content) - 1) + source.read(1)
            case "readline":
                data = b"".join(iter(source.readline, b""))
            case "readlines":
                data = b"".join(source.readlines())
            case "iterate":
                data = b"".join(source)
            case "small":
                data = b"".join(iter(lambda: source.read(7), b""))
            case _:
                data = eval(f"source.{read}")
        assert b"" == source.read() == source.read(1) == source.readline()
        start_response("200 OK", PLAIN)
        return [data]

    with Serving(app) as serving:
        head = request(b"POST / HTTP/1.1", framing)
        if late:
            serving.send(head)
            serving.send(body[:5])
            serving.send(body[5:])
        else:
            serving.send(head + body)
        response = Response(serving.receive())

    assert content == response.body
    assert serving.log.text == ""


def test_a_read_of_a_size_is_never_short_before_the_end() -> None:
    sizes = []

    def app(environ: Any, start_response: Any) -> Any:
        source = environ["wsgi.input"]
        while data := source.read(1000):
            sizes.append(len(data))
        start_response("200 OK", PLAIN)
        return [b""]

    with Serving(app) as serving:
        serving.send(request(b"POST / HTTP/1.1", b"Content-Length: 2500"))
        for _ in range(25):
            serving.send(b"x" * 100)
        serving.receive()

    assert sizes == [1000, 1000, 500]


def test_100_continue_is_sent_only_when_the_application_reads() -> None:
    raw = request(b"POST / HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue")
    with Serving(echo) as serving:
        serving.send(raw)
        assert serving.receive(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        serving.send(b"hello")
        assert Response(serving.receive()).body == b"hello"

    refused, serving = ask(giving([b"no"], "403 Forbidden"), raw, persistent=True)
    assert (refused.status, refused.body) == (403, b"no")
    assert not serving.join().persistent


def test_100_continue_is_not_sent_to_a_client_that_has_not_waited() -> None:
    response, _ = ask(echo, request(b"POST / HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"))

    assert (response.status, response.body) == (200, b"hello")


def test_100_continue_is_not_sent_after_the_response_has_begun() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", PLAIN)
        write(b"early,")
        return [environ["wsgi.input"].read()]

    with Serving(app) as serving:
        serving.send(request(b"POST / HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue"))
        head = serving.receive(b"early,\r\n")
        serving.send(b"hello")
        response = Response(head + serving.receive())

    assert (response.status, response.body) == (200, b"early,hello")


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize(("rest", "status"), [(b"zz\r\n", 400), (b"f4240\r\n", 413)])
def test_a_body_that_turns_out_wrong_is_refused_whatever_the_application_makes_of_it(
    rest: bytes, status: int, swallowed: bool
) -> None:
    called = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        called.set()
        try:
            environ["wsgi.input"].read()
        except OSError:
            if not swallowed:
                raise
        start_response("200 OK", PLAIN)
        return [b"fine"]

    with Serving(app) as serving:
        serving.send(request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n"))
        assert called.wait(PATIENCE)
        serving.send(rest)
        response = Response(serving.receive())

    assert response.status == status
    assert serving.log.text == ""


def test_a_body_that_came_malformed_with_the_head_is_refused_before_the_application_is_called() -> None:
    called = []

    def app(environ: Any, start_response: Any) -> Any:
        called.append(environ)
        start_response("200 OK", PLAIN)
        return [b""]

    response, _ = ask(app, request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", body=b"3\r\nabcd\r\n0\r\n\r\n"))

    assert (response.status, called) == (400, [])


def test_a_client_that_leaves_in_its_body_is_an_oserror_to_the_application_and_no_line_in_the_log() -> None:
    seen = []

    def app(environ: Any, start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            seen.append(error)
            raise
        start_response("200 OK", PLAIN)
        return [b""]

    with Serving(app) as serving:
        serving.send(request(b"POST / HTTP/1.1", b"Content-Length: 5", body=b"ab"))
        serving.client.close()
        exchange = serving.join()

    assert (len(seen), exchange.status, serving.log.text) == (1, 499, "")


def test_a_slow_body_is_a_408_and_the_phases_say_what_was_waited_for() -> None:
    with Serving(echo, patience=0.05) as serving:
        serving.send(request(b"POST / HTTP/1.1", b"Content-Length: 5", body=b"ab"))
        response = Response(serving.receive())
        serving.join()

    assert response.status == 408
    assert Doing.READING in serving.phases
    assert "Traceback" not in serving.log.text


def test_an_input_kept_after_its_request_gives_nothing_of_the_next_one() -> None:
    kept = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append(environ["wsgi.input"])
        start_response("200 OK", PLAIN)
        return [b""]

    ask(app, request(b"POST / HTTP/1.1", b"Content-Length: 5", body=b"ab"))

    with pytest.raises(OSError, match="after its request had ended"):
        kept[0].read(5)


def test_an_unread_body_closes_the_connection_and_a_read_one_does_not() -> None:
    raw = request(b"POST / HTTP/1.1", b"Content-Length: 100000", body=b"ab")

    assert not ask(giving([b""]), raw, persistent=True)[1].join().persistent
    assert ask(echo, request(b"POST / HTTP/1.1", b"Content-Length: 2", body=b"ab"), persistent=True)[1].join().persistent


# Files ----------------------------------------------------------------------------------------------------------------


def wrapping(file: Any, headers: Any = PLAIN) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file, 4096)

    return app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(3).randbytes(1_000_000))
    return path


@pytest.mark.parametrize("seek", [0, 1, 999_000, 999_999, 1_000_000])
@pytest.mark.parametrize("buffering", [0, -1])
def test_a_file_is_sent_from_where_it_stands_with_its_length(file: Path, seek: int, buffering: int) -> None:
    opened = file.open("rb", buffering=buffering)
    opened.seek(seek)

    response, serving = ask(wrapping(opened), send_buffer=8192)

    assert b"%d" % (1_000_000 - seek) == response[b"content-length"]
    assert file.read_bytes()[seek:] == response.body
    assert opened.closed
    assert 1_000_000 - seek == serving.join().sent


def test_a_file_read_from_before_continues_where_the_application_stopped(file: Path) -> None:
    opened = file.open("rb")
    opened.read(10)  # the descriptor itself stands at the end of a whole buffer now

    response, _ = ask(wrapping(opened))

    assert file.read_bytes()[10:] == response.body


def test_a_content_length_shorter_than_the_file_is_obeyed(file: Path) -> None:
    response, serving = ask(wrapping(file.open("rb"), [("Content-Length", "100000")]))

    assert file.read_bytes()[:100_000] == response.body
    assert serving.log.text == ""


def test_a_content_length_longer_than_the_file_is_a_500(file: Path) -> None:
    response, _ = ask(wrapping(file.open("rb"), [("Content-Length", "1000001")]))

    assert response.status == 500


def test_a_file_that_shrinks_while_it_is_sent_is_noticed(file: Path) -> None:
    opened = file.open("rb")

    with Serving(wrapping(opened), send_buffer=8192) as serving:
        serving.send(GET)
        first = serving.receive(b"\r\n\r\n")
        os.truncate(file, 300_000)
        rest = serving.receive()
        exchange = serving.join()

    assert len(first + rest) < 1_000_000
    assert not exchange.persistent
    assert "shorter while it was sent" in serving.log.text


class Upper:
    """A file-like object with a descriptor that reads something else."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.fileno = self._file.fileno
        self.tell = self._file.tell
        self.close = self._file.close

    def read(self, size: int) -> bytes:
        return self._file.read(size).upper()


def test_what_only_looks_like_a_file_is_read_and_not_sent_by_its_descriptor(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "text"
    path.write_bytes(b"lower case\n" * 10_000)
    packed = tmp_path / "text.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))

    upper, _ = ask(wrapping(Upper(path)))
    unpacked, _ = ask(wrapping(gzip.open(packed)))  # noqa: SIM115  the server closes it
    in_memory, _ = ask(wrapping(io.BytesIO(b"abc")))

    assert upper.body == b"LOWER CASE\n" * 10_000
    assert unpacked.body == b"lower case\n" * 10_000
    assert in_memory.body == b"abc"


def test_the_file_wrapper_is_an_iterator_with_the_names_of_wsgiref() -> None:
    wrapper = FileWrapper(io.BytesIO(b"abc"), 4096)

    assert (next(wrapper), next(wrapper, None), wrapper.filelike.closed) == (b"abc", None, False)
    assert wrapper.blksize >= 4096


def test_a_pipe_as_a_file_is_read() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"through a pipe")
    os.close(write_end)

    response, _ = ask(wrapping(os.fdopen(read_end, "rb")))

    assert response.body == b"through a pipe"


def test_a_file_for_head_is_not_sent(file: Path) -> None:
    response, _ = ask(wrapping(file.open("rb")), request(b"HEAD / HTTP/1.1"))

    assert (response[b"content-length"], response.rest) == (b"1000000", b"")


# Slow readers ---------------------------------------------------------------------------------------------------------


def test_a_client_that_reads_nothing_is_given_up() -> None:
    with Serving(answering(*[b"x" * 100_000] * 10), patience=0.05, send_buffer=8192) as serving:
        serving.send(GET)
        exchange = serving.join()

    assert exchange.reset
    assert Doing.WRITING in serving.phases
    assert "too slow to read the response" in serving.log.text
    assert "Traceback" not in serving.log.text


@pytest.mark.parametrize("sizes", [[1], [200_000], [1, 65_536, 70_000, 1]])
def test_large_pieces_arrive_whole_at_a_slow_but_steady_reader(sizes: list[int]) -> None:
    dice = random.Random(11)
    pieces = [dice.randbytes(size) for size in sizes]

    response, _ = ask(answering(*pieces), send_buffer=4096)

    assert b"".join(pieces) == response.body


def test_a_file_is_sent_whole_without_sendfile_too(tmp_path: Path) -> None:
    """Story: `sendfile = false`. The kernel is not asked to send, whatever the file, and the bytes are the same."""
    (tmp_path / "file").write_bytes(content := random.randbytes(200_000))

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return PlainFileWrapper((tmp_path / "file").open("rb"))

    response, serving = ask(app)

    with (tmp_path / "file").open("rb") as file:
        assert FileWrapper(file).region()
        assert not getattr(PlainFileWrapper(file), "region")()  # noqa: B009 - mypy knows, and would not have it asked
    assert content == response.body
    assert serving.log.lines == []
