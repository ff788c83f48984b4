"""Access log lines: Gunicorn's atoms, and nothing that a client sends can break out of its field."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.config.kinds import Refused
from arbiter.config.lists import Skips
from arbiter.workers import accessformat
from arbiter.workers.accessformat import QUEUE, REQUEST_ID, Entry, Format
from arbiter.workers.accesslog import HELD, MANY, AccessLog, Ids
from arbiter.workers.protocols.policy import admit

if TYPE_CHECKING:
    from collections.abc import Callable

COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


def never(text: str) -> None:
    raise AssertionError(text)


class Lines:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    def complain_to(self, complain: Callable[[str], None]) -> None: ...

    def reopen(self) -> None: ...


def entry(fields: dict[bytes, bytes] | None = None, **changes: Any) -> Entry:
    request = admit(b"GET", b"/a%20b?q=1", 1, [(b"host", b"a"), *(fields or {}).items()], 0)
    made = Entry("192.0.2.7", request, 200, 1234, 3.25, [("Content-Type", "a/b"), ("X-Two", "1")], {"KEY": "value"})
    return made._replace(**changes)


def lines(log: AccessLog, writer: Lines, *entries: Entry) -> list[str]:
    """The lines that entries make, without their line ends."""
    for each in entries:
        log.add(*each)
    log.flush()
    text = b"".join(writer.lines).decode()
    assert text.endswith("\n") or not text
    return text.splitlines()


def line(form: str, fields: dict[bytes, bytes] | None = None, **changes: Any) -> str:
    """The one line that an entry makes, without its line end."""
    writer = Lines()
    (only,) = lines(AccessLog(compiled(form), writer, never), writer, entry(fields, **changes))
    return only


compiled = cache(Format)


@pytest.mark.parametrize(
    ("atom", "expected"),
    [
        ("%(h)s", "192.0.2.7"),
        ("%(l)s", "-"),
        ("%(u)s", "-"),
        ("%(r)s", "GET /a%20b?q=1 HTTP/1.1"),
        ("%(m)s", "GET"),
        ("%(U)s", "/a%20b"),
        ("%(q)s", "q=1"),
        ("%(H)s", "HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(B)s", "1234"),
        ("%(b)s", "1234"),
        ("%(f)s", "-"),
        ("%(a)s", "-"),
        ("%(T)s", "3"),
        ("%(M)s", "3250"),
        ("%(D)s", "3250000"),
        ("%(L)s", "3.250000"),
        pytest.param("%(p)s", f"<{os.getpid()}>", id="pid"),  # the same name in every process of xdist
        ("%({Host}i)s", "a"),
        ("%({nosuch}i)s", "-"),
        ("%({content-type}o)s", "a/b"),
        ("%({X-Two}o)s", "1"),
        ("%({nosuch}o)s", "-"),
        ("%({KEY}e)s", "value"),
        ("%({nosuch}e)s", "-"),
        ("%(Z)s", "-"),
        ("%(nosuch)s", "-"),
        ("%(cpu)s", "-"),
        ("%(queue)s", "-"),
        ("%(id)s", "-"),
        ('{text0} {status} \\ """ \'', '{text0} {status} \\ """ \''),
        ("%({'\\\"}i)s%({\\n'\"}e)s", "--"),
        ("100%% %d {}", "100% %d {}"),
        ("", ""),
    ],
)
def test_each_atom_says_what_it_says_in_gunicorn(atom: str, expected: str) -> None:
    assert line(atom) == expected


def test_the_default_format_is_apaches_combined_one() -> None:
    text = line(COMBINED, {b"referer": b"http://r.example/", b"user-agent": b"curl/8"})

    assert re.fullmatch(
        r'192\.0\.2\.7 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a%20b\?q=1 HTTP/1\.1" 200 1234 '
        r'"http://r\.example/" "curl/8"',
        text,
    )


def test_nothing_sent_and_no_address_are_dashes() -> None:
    assert line("%(h)s %(b)s %(B)s", remote="", sent=0) == "- - 0"


@pytest.mark.parametrize(
    ("credentials", "user"),
    [
        (b"Basic YWxpY2U6c2VjcmV0", "alice"),
        (b"basic YWxpY2U6c2VjcmV0", "alice"),
        (b"Basic YWxpY2U", "-"),
        (b"Basic /w==", "-"),
        (b"Basic YSJiCjpj", 'a\\"b\\n'),
        (b"Bearer YWxpY2U6c2VjcmV0", "-"),
        (b"", "-"),
    ],
)
def test_the_user_is_the_name_in_basic_credentials(credentials: bytes, user: str) -> None:
    assert line("%(u)s", {b"authorization": credentials}) == user


JSON = '{"r": "%(r)s", "a": "%(a)s", "o": "%({X-Out}o)s", "e": "%({KEY}e)s", "s": %(s)s}'


@given(agent=st.binary(min_size=1), out=st.text(min_size=1), value=st.text(min_size=1))
def test_a_json_format_stays_json_whatever_is_in_the_fields(agent: bytes, out: str, value: str) -> None:
    text = line(JSON, {b"user-agent": agent}, headers=[("X-Out", out)], environ={"KEY": value})

    assert text.isascii()
    assert text.isprintable()
    found = json.loads(text)
    assert (found["a"], found["o"], found["e"]) == (agent.decode("latin-1"), out, value)


def test_a_quote_in_the_target_does_not_end_the_field() -> None:
    request = admit(b"GET", b'/" 200 1 "\\', 1, [(b"host", b"a")], 0)

    assert line('"%(r)s" %(s)s', request=request) == '"GET /\\" 200 1 \\"\\\\ HTTP/1.1" 200'


def test_fields_of_the_response_may_be_bytes_as_asgi_applications_give_them() -> None:
    assert line("%({X-Out}o)s", headers=[(b"x-out", b"a"), (b"X-Out", b"b")]) == "a,b"


def test_the_last_field_of_a_name_is_shown_as_in_gunicorn() -> None:
    request = admit(b"GET", b"/", 1, [(b"host", b"a"), (b"user-agent", b"one"), (b"user-agent", b"two")], 0)

    assert line("%(a)s", request=request) == "two"


def test_a_json_line_has_numbers_as_numbers_and_null_for_what_is_missing() -> None:
    writer = Lines()
    full = entry(
        {b"user-agent": b'curl "8"', b"authorization": b"Basic YWxpY2U6c2VjcmV0"},
        environ={REQUEST_ID: "r-1", QUEUE: 4000},
        cpu=17,
    )
    first, second = map(json.loads, lines(AccessLog(Format("", as_json=True), writer, never), writer, full, entry(remote="")))

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", first.pop("time"))
    assert first == {
        "remote": "192.0.2.7",
        "user": "alice",
        "method": "GET",
        "path": "/a%20b",
        "query": "q=1",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 1234,
        "seconds": 3.25,
        "cpu_us": 17,
        "queue_us": 4000,
        "host": "a",
        "referer": None,
        "user_agent": 'curl "8"',
        "request_id": "r-1",
        "pid": os.getpid(),
    }
    assert [second[key] for key in ("remote", "user", "cpu_us", "queue_us", "user_agent", "request_id")] == [None] * 6


@pytest.mark.parametrize("strange", ["7\n", 1.5, True, None, b"7"])
def test_a_wait_that_the_application_has_made_up_is_unknown(strange: object) -> None:
    writer = Lines()
    (text,) = lines(AccessLog(Format("", as_json=True), writer, never), writer, entry(environ={QUEUE: strange}))

    assert json.loads(text)["queue_us"] is None
    assert line("%(queue)s", environ={QUEUE: strange}) == "-"
    assert line("%(queue)s", environ={QUEUE: 0}) == "0"


def test_what_no_line_shows_is_not_measured() -> None:
    plain = AccessLog(Format(COMBINED), Lines(), never)
    assert not plain.wants_seconds
    assert not plain.wants_cpu
    assert not plain.wants_id
    assert not plain.wants_queue
    assert AccessLog(Format("%(queue)s"), Lines(), never).wants_queue
    assert AccessLog(Format("%(D)s"), Lines(), never).wants_seconds


@given(agent=st.binary(), host=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1))
def test_a_json_line_is_json_whatever_a_client_sends(agent: bytes, host: str) -> None:
    writer = Lines()
    (text,) = lines(
        AccessLog(Format("", as_json=True), writer, never), writer, entry({b"user-agent": agent, b"referer": host.encode()})
    )

    found = json.loads(text)
    assert (found["user_agent"], found["referer"]) == (agent.decode("latin-1") or None, host)


@pytest.mark.parametrize(
    ("rules", "shown"),
    [
        ("", ["200 /", "304 /", "200 /static/a", "200 /healthz", "503 /healthz"]),
        ("304", ["200 /", "200 /static/a", "200 /healthz", "503 /healthz"]),
        ("2xx", ["304 /", "503 /healthz"]),
        ("/healthz, /static/*", ["200 /", "304 /"]),
        ("2xx /healthz", ["200 /", "304 /", "200 /static/a", "503 /healthz"]),
        ("/static", ["200 /", "304 /", "200 /static/a", "200 /healthz", "503 /healthz"]),
    ],
)
def test_what_is_to_be_skipped_makes_no_line_and_all_else_does(rules: str, shown: list[str]) -> None:
    writer = Lines()
    log = AccessLog(Format("%(s)s %(U)s", skip=Skips().parse(rules)), writer, never)
    cases = ((200, b"/"), (304, b"/"), (200, b"/static/a"), (200, b"/healthz"), (503, b"/healthz"))
    entries = [entry(request=admit(b"GET", path, 1, [(b"host", b"a")], 0), status=status) for status, path in cases]

    assert lines(log, writer, *entries) == shown


@pytest.mark.parametrize("wrong", ["healthz", "99", "600", "4x", "200/healthz", "*", "/a*b", "200 300", "/a b", "-"])
def test_a_rule_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(Refused):
        Skips().parse([wrong])


def test_rules_are_shown_as_they_are_read() -> None:
    rules = ["304", "3xx", "/healthz", "/static/*", "2xx /healthz", "404 /favicon.ico"]

    assert Skips().render(Skips().parse(rules)) == rules


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"01J9-Z_x.y:z+/=", True),
        (b"a" * 128, True),
        (b"a" * 129, False),
        (b"a b", False),
        (b'a"', False),
        (b"", False),
        (b"\xff", False),
    ],
)
def test_a_clients_id_is_kept_if_it_is_sound_and_replaced_otherwise(sent: bytes, kept: bool) -> None:
    ids = Ids()
    given_id = ids.of(entry({b"x-request-id": sent}).request)

    assert (given_id == sent.decode("latin-1")) is kept
    assert ids.of(entry().request) != given_id


def test_no_line_is_lost_doubled_or_before_its_time_when_threads_add_and_flush_at_once() -> None:
    writer = Lines()
    log = AccessLog(Format("%(U)s"), writer, never)

    def work(name: int) -> None:
        for number in range(500):
            log.add(*entry(request=admit(b"GET", b"/%d/%d" % (name, number), 1, [(b"host", b"a")], 0)))
            if number % 7 == 0:
                log.flush()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush()

    found = b"".join(writer.lines).decode().split()
    assert len(found) == 4 * 500
    for name in range(4):
        assert [f"/{name}/{number}" for number in range(500)] == [path for path in found if path.startswith(f"/{name}/")]


def test_a_line_says_what_was_so_when_the_request_was_over() -> None:
    """1. Of two requests the application changes headers and environ afterwards, before lines are made.

    Result: the lines have what was there before.
    """
    writer = Lines()
    log = AccessLog(Format("%(s)s %({X-Two}o)s %({KEY}e)s %(queue)s %(id)s"), writer, never)
    over = entry(headers=[("X-Two", "a")], environ={"KEY": "b", QUEUE: 5, REQUEST_ID: "c"})
    log.add(*over)
    exchange = SimpleNamespace(request=over.request, status=404, sent=3, headers=[("X-Two", "d")])
    environ: dict[str, Any] = {"KEY": "e", "REMOTE_ADDR": "192.0.2.1"}
    log.note(exchange, environ, time.monotonic(), 0)

    for changed in (over.headers, exchange.headers, over.environ, environ):
        assert isinstance(changed, list | dict)
        changed.clear()
    exchange.status = 0
    log.flush()

    assert writer.lines == [b"200 a b 5 c\n404 d e - -\n"]


class Mute:
    """What an application may put into its environ."""

    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(("form", "kept"), [("%(s)s %({KEY}e)s", b"200 -\n"), ("%(s)s %(h)s", b"200 192.0.2.7\n")])
def test_a_line_that_cant_be_made_is_told_of_and_all_others_are_written(form: str, kept: bytes) -> None:
    writer, told = Lines(), list[str]()
    log = AccessLog(Format(form), writer, told.append)
    fine = entry(environ={})
    log.add(*fine)
    log.note(fine, {"REMOTE_ADDR": Mute(), "KEY": Mute()}, 0.0, 0)
    log.add(*fine)
    log.flush()

    assert told == ["a request has no line in the access log, since that can't be made"]
    assert [2 * kept] == writer.lines


def test_what_is_taken_is_bounded_when_nobody_ever_has_time_to_write() -> None:
    writer = Lines()
    log = AccessLog(compiled("%(s)s"), writer, never)
    for _ in range(2 * MANY):
        log.add(*entry())

    assert writer.lines == [b"200\n" * MANY] * 2


def test_texts_that_are_kept_stay_bounded_whatever_clients_invent() -> None:
    for number in range(3000):
        line("%(a)s", {b"user-agent": b"agent-%d" % number})

    assert len(accessformat._texts) <= accessformat._KEPT


HOSTILE = b'one" 200 1 "\\ \x7f\xe9'


@pytest.mark.parametrize(
    "form", [COMBINED, JSON, '%(u)s%({x-a}i)s %(r)s%(m)s %(U)s%(q)s "%(H)s" %(s)s %({X-Two}o)s %({KEY}e)s']
)
def test_a_head_that_comes_again_makes_the_line_that_it_made_before(form: str) -> None:
    """1. Two formats get the same request twice, with all that was made of it, and another client, status and size.

    Result: its lines are those of requests that never came before, each in its own format.
    """
    fields = {b"referer": HOSTILE, b"user-agent": HOSTILE, b"x-a": HOSTILE, b"authorization": b"Basic YSJiCjpj"}
    changed: dict[str, Any] = {"remote": "192.0.2.9", "status": 404, "sent": 0}
    first = entry(fields)

    found = [undated(line(a_form, request=first.request, **more)) for more in ({}, changed) for a_form in (form, "%(a)s%(r)s")]
    anew = [undated(line(a_form, fields, **more)) for more in ({}, changed) for a_form in (form, "%(a)s%(r)s")]

    assert found == anew
    assert first.request.of_head


def test_what_is_kept_of_a_head_is_no_longer_than_a_head_that_may_come_again() -> None:
    long = entry({b"user-agent": b"\xff" * 1000})

    assert line("%(a)s", request=long.request) == "\\u00ff" * 1000
    assert {} == long.request.of_fields == long.request.of_head


def test_lines_are_written_at_once_after_a_pause_and_together_within_a_moment() -> None:
    writer = Lines()
    log = AccessLog(compiled("%(s)s"), writer, never)

    assert log.write_behind(5.0) == 5.0
    log.add(*entry())
    assert log.write_behind(5.0) == 5.0
    assert writer.lines == [b"200\n"]
    log.add(*entry())
    log.add(*entry())
    while (patience := log.write_behind(5.0)) < 5.0:
        assert patience <= HELD
        time.sleep(patience)
    assert writer.lines == [b"200\n", b"200\n200\n"]


def undated(text: str) -> str:
    return re.sub(r"\[\d\d/.*? [+-]\d{4}\]", "[]", text)
