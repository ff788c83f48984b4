"""Access log lines: Gunicorn's atoms, and nothing that a client sends can break out of its field."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.workers.accesslog import AccessLog, Entry
from arbiter.workers.protocols.policy import admit

COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


class Lines:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    def reopen(self) -> None: ...


def line(form: str, fields: dict[bytes, bytes] | None = None, **changes: Any) -> str:
    """The one line that an entry makes, without its line end."""
    request = admit(b"GET", b"/a%20b?q=1", 1, [(b"host", b"a"), *(fields or {}).items()], 0)
    entry = Entry("192.0.2.7", request, 200, 1234, 3.25, [("Content-Type", "a/b"), ("X-Two", "1")], {"KEY": "value"})
    writer = Lines()
    log = AccessLog(form, writer)
    log.add(entry._replace(**changes))
    log.flush()
    assert len(writer.lines) == 1
    text = writer.lines[0].decode()
    assert text.endswith("\n")
    return text[:-1]


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
    entry = json.loads(text)
    assert (entry["a"], entry["o"], entry["e"]) == (agent.decode("latin-1"), out, value)


def test_a_quote_in_the_target_does_not_end_the_field() -> None:
    request = admit(b"GET", b'/" 200 1 "\\', 1, [(b"host", b"a")], 0)

    assert line('"%(r)s" %(s)s', request=request) == '"GET /\\" 200 1 \\"\\\\ HTTP/1.1" 200'
