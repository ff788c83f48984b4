"""A handshake is judged by what RFC 6455 section 4.2 asks of it, and answered with the one header policy."""

from __future__ import annotations

import re

import pytest

from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import BadResponseError, Fields, Refusal, Request, check_fields
from arbiter.workers.protocols.websocket_deflate import Agreement
from arbiter.workers.protocols.websocket_handshake import Offer, accept, judge, refuse

NO_FIELDS = Fields(b"", -1, close=False, dated=False, named=False)
OFFER = Offer(b"dGhlIHNhbXBsZSBub25jZQ==", ["chat", "superchat"], ["permessage-deflate"])
SOUND = {
    "Host": "a.example",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request(line: str = "GET /chat HTTP/1.1", extra: str = "", **changes: str | None) -> Request:
    fields = {**SOUND, **{name.replace("_", "-"): value for name, value in changes.items()}}
    text = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    connection = Connection(head_parser("auto"), Limits())
    connection.feed(f"{line}\r\n{text}{extra}\r\n".encode())
    request = connection.next_request()
    assert request is not None
    return request


def test_a_sound_handshake_is_let_through_with_what_it_offers() -> None:
    asked = request(
        extra="Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: third\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    )

    assert judge(asked) == Offer(
        b"dGhlIHNhbXBsZSBub25jZQ==", ["chat", "superchat", "third"], ["permessage-deflate; client_max_window_bits"]
    )


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(Sec_WebSocket_Version="8"), 426),
        (request(Sec_WebSocket_Version="13, 8"), 426),
        (request(Sec_WebSocket_Version=None), 426),
        (request(Sec_WebSocket_Key=None), 400),
        (request(Sec_WebSocket_Key=""), 400),
        (request(Sec_WebSocket_Key="c2hvcnQ="), 400),
        (request(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZXh4eHg="), 400),
        (request(Sec_WebSocket_Key="!!!!IHNhbXBsZSBub25jZQ=="), 400),
        (request(extra="Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
        (request(Content_Length="1"), 400),
        (request(Transfer_Encoding="chunked"), 400),
        (request("POST /chat HTTP/1.1"), 405),
    ],
)
def test_an_unsound_handshake_is_refused(asked: Request, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        judge(asked)

    assert status == caught.value.status
    assert refuse(caught.value).startswith(b"HTTP/1.1 %d " % status)


def test_a_client_of_another_version_is_told_ours() -> None:
    with pytest.raises(Refusal) as caught:
        judge(request(Sec_WebSocket_Version="7"))

    assert b"\r\nSec-WebSocket-Version: 13\r\n" in refuse(caught.value)


def test_the_answer_has_the_key_of_rfc_6455_and_what_was_chosen() -> None:
    fields = check_fields([("X-Served-By", "a"), ("Content-Length", "5"), ("Connection", "close"), ("Server", "mine")])
    head = accept(OFFER, "superchat", Agreement(answer="permessage-deflate; server_no_context_takeover"), fields)
    lines = head.split(b"\r\n")

    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert head.endswith(b"\r\n\r\n")
    assert lines.count(b"Connection: Upgrade") == 1
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert b"Sec-WebSocket-Protocol: superchat" in lines
    assert b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover" in lines
    assert b"X-Served-By: a" in lines
    assert b"Server: mine" in lines
    assert b"Server: arbiter" not in lines
    assert not re.search(rb"(?i)content-length|close", head)


@pytest.mark.parametrize("name", ["Sec-WebSocket-Accept", "sec-websocket-extensions", "SEC-WEBSOCKET-PROTOCOL"])
def test_the_servers_fields_are_not_the_applications(name: str) -> None:
    with pytest.raises(BadResponseError, match="the server's"):
        accept(OFFER, None, None, check_fields([(name, "x")]))


def test_a_subprotocol_that_was_not_offered_is_not_chosen() -> None:
    with pytest.raises(BadResponseError, match="not one that the client offers"):
        accept(OFFER, "graphql-ws", None, NO_FIELDS)


def test_no_field_of_the_applications_may_split_the_answer() -> None:
    with pytest.raises(BadResponseError):
        check_fields([("X-A", "b\r\nX-C: d")])
