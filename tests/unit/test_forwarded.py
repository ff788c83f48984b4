"""What proxies say of a request, and of whom it is believed."""

from __future__ import annotations

import pytest

from arbiter.workers.protocols.forwarded import Forwarding, Peer, Told, shown
from arbiter.workers.protocols.policy import Refusal, Request
from arbiter.workers.protocols.trust import Trust, plain_host

SCHEMES = (("X-FORWARDED-PROTOCOL", "ssl"), ("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on"))
ALL = ("for", "proto", "host", "port", "prefix")
NAMED = ("SCRIPT_NAME", "PATH_INFO", "REMOTE_USER")


def request(*fields: tuple[str, str]) -> Request:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in (("host", "inner"), *fields)]
    return Request(b"GET", b"/", b"/", b"", "HTTP/1.1", encoded, 0, True, False, b"", {}, {})


def told(
    *fields: tuple[str, str],
    trusted: bool = True,
    facts: tuple[str, ...] = ALL,
    header_map: str = "drop",
    networks: tuple[str, ...] = ("10.0.0.0/8", "2001:db8::/32"),
) -> Told | None:
    rules = Forwarding(Trust(networks), facts=facts, scheme_headers=SCHEMES, forwarder_headers=NAMED, header_map=header_map)
    return rules.read(request(*fields), trusted=trusted)


def client(*fields: tuple[str, str], networks: tuple[str, ...] = ("10.0.0.0/8", "2001:db8::/32")) -> Peer | None:
    found = told(*fields, networks=networks)
    assert found
    return found.client


@pytest.mark.parametrize(
    ("value", "peer"),
    [
        ("192.0.2.1", Peer("192.0.2.1", 0)),
        ("192.0.2.9, 192.0.2.1", Peer("192.0.2.1", 0)),
        ("192.0.2.1, 10.1.1.1,10.2.2.2", Peer("192.0.2.1", 0)),
        ("10.9.9.9, 10.1.1.1", Peer("10.9.9.9", 0)),
        ("6.6.6.6, unknown, 10.1.1.1", Peer("10.1.1.1", 0)),
        ("6.6.6.6, 10.1.1.1 evil", None),
        ("unknown", None),
        ("", None),
        ("192.0.2.1:4711, 10.0.0.1:80", Peer("192.0.2.1", 4711)),
        ("[2001:DB8:1::1]:80, 2001:db8::2", Peer("2001:db8:1::1", 80)),
        ("192.0.2.1, ::ffff:10.0.0.1", Peer("192.0.2.1", 0)),
        ("192.0.2.1:99999", None),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_not_trusted(value: str, peer: Peer | None) -> None:
    assert client(("x-forwarded-for", value)) == peer


def test_fields_of_one_name_are_one_list() -> None:
    assert client(("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1, 10.0.0.1")) == Peer("192.0.2.1", 0)


def test_whoever_trusts_everybody_gets_the_leftmost() -> None:
    assert client(("x-forwarded-for", "6.6.6.6, 192.0.2.1"), networks=("*",)) == Peer("6.6.6.6", 0)


@pytest.mark.parametrize(
    ("value", "peer", "scheme"),
    [
        ("for=192.0.2.1", Peer("192.0.2.1", 0), ""),
        ('For="[2001:db9::1]:4711";proto=HTTPS', Peer("2001:db9::1", 4711), "https"),
        ("for=6.6.6.6;proto=http, for=192.0.2.1;proto=https, for=10.0.0.1;proto=http", Peer("192.0.2.1", 0), "https"),
        ("for=_hidden;proto=https", None, "https"),
        ('for="192.0.2.1:80" ; by=10.0.0.1 ;host="a\\"b"', Peer("192.0.2.1", 80), ""),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(value: str, peer: Peer | None, scheme: str) -> None:
    found = told(("forwarded", value), facts=("for", "proto"))

    assert found
    assert (found.client, found.scheme) == (peer, scheme)


@pytest.mark.parametrize("value", ["for", "for=a b", 'for="a', "for=a;;x", "for=a;for=b", "=a", "for=a,b", "for==a"])
def test_a_malformed_forwarded_is_refused(value: str) -> None:
    with pytest.raises(Refusal):
        told(("forwarded", value))


@pytest.mark.parametrize(
    "fields",
    [
        (("x-forwarded-proto", "https"), ("x-forwarded-ssl", "off")),
        (("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")),
        (("x-forwarded-proto", "http"), ("forwarded", "proto=https")),
        (("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2")),
        (("forwarded", "proto=gopher"),),
        (("x-forwarded-host", "a b"),),
        (("x-forwarded-host", "[1:2:3:4:5:6:7:8:9]"),),
        (("x-forwarded-port", "0"),),
        (("x-forwarded-port", "http"),),
        (("x-forwarded-prefix", "//evil.example"),),
        (("x-forwarded-prefix", "/a/../b"),),
        (("x-forwarded-prefix", "shop"),),
    ],
)
def test_what_contradicts_itself_or_is_of_no_form_is_refused(fields: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Refusal) as refused:
        told(*fields)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("field", "scheme"),
    [(("x-forwarded-proto", "https"), "https"), (("x-forwarded-ssl", "on"), "https"), (("x-forwarded-protocol", "ssl"), "https"), (("x-forwarded-proto", "HTTPS"), "http"), (("x-forwarded-proto", "https,http"), "http")],
)  # fmt: skip
def test_the_scheme_is_told_as_gunicorn_reads_it(field: tuple[str, str], scheme: str) -> None:
    found = told(field)

    assert found
    assert found.scheme == scheme


def test_host_port_and_prefix_are_the_peers_own_words_and_only_where_they_are_wanted() -> None:
    fields = (("x-forwarded-host", "evil, shop.example"), ("x-forwarded-port", "8443"), ("x-forwarded-prefix", "/shop/"))
    found = told(*fields)

    assert found
    assert (found.port, found.prefix) == ("8443", "/shop")
    assert [value for name, value in found.applied(request(*fields)).fields if name == b"host"] == [b"shop.example"]
    assert told(*fields, facts=("for", "proto")) is None


def test_nobody_else_is_believed_in_anything() -> None:
    fields = (("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("script_name", "/x"), ("forwarded", "for"))

    assert told(*fields, trusted=False) is None


def test_names_with_underscores_become_variables_for_a_forwarder_and_push_their_doubles_out() -> None:
    found = told(("remote_user", "alice"), ("remote-user", "mallory"), ("x_other", "1"), ("script_name", "/shop"))

    assert found
    assert found.variables == {"HTTP_REMOTE_USER": "alice", "HTTP_SCRIPT_NAME": "/shop"}
    assert b"remote-user" not in dict(found.fields or ())
    assert b"host" in dict(found.fields or ())


def test_header_map_decides_about_all_other_names_with_underscores() -> None:
    for trusted in (True, False):
        with pytest.raises(Refusal):
            told(("x_other", "1"), trusted=trusted, header_map="refuse")
        found = told(("x_other", "1"), trusted=trusted, header_map="dangerous")
        assert found
        assert found.variables == {"HTTP_X_OTHER": "1"}
    assert told(("remote_user", "alice"), header_map="refuse")


@pytest.mark.parametrize(
    ("trusted", "header_map", "seen"),
    [(False, "drop", []), (True, "drop", ["remote_user"]), (False, "dangerous", ["remote_user", "x_other"])],
)
def test_names_with_underscores_are_shown_to_asgi_where_they_are_variables_of_wsgi(
    trusted: bool, header_map: str, seen: list[str]
) -> None:
    sent = (("remote_user", "alice"), ("x_other", "1"), ("x-other", "2"))
    found = told(*sent, trusted=trusted, header_map=header_map)
    served = found.applied(request(*sent)) if found else request(*sent)

    assert [name.decode() for name, _ in shown(served)] == ["host", *seen, "x-other"]
    assert shown(served) is shown(served)  # made once for all requests that share it


@pytest.mark.parametrize(
    ("value", "moment"),
    [("t=1700000000.25", 1700000000.25), ("1700000000250", 1700000000.25), ("t=1700000000250000", 1700000000.25), ("soon", 0.0), ("-1", 0.0), ("1" * 30, 0.0)],
)  # fmt: skip
def test_the_moment_at_which_the_first_proxy_had_it_is_read_in_any_unit(value: str, moment: float) -> None:
    found = told(("x-request-start", value))

    assert found
    assert found.began == pytest.approx(moment)


@pytest.mark.parametrize(
    ("networks", "host", "covered"),
    [
        (("127.0.0.1",), "127.0.0.1", True),
        (("127.0.0.1",), "127.0.0.2", False),
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "2001:db8::1", False),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("10.0.0.0/8",), "no address", False),
        (("*",), "192.0.2.1", True),
        ((), "192.0.2.1", False),
        ((), "", True),
    ],
)
def test_peers_are_told_by_address_and_network(networks: tuple[str, ...], host: str, covered: bool) -> None:
    trust = Trust(networks)

    assert [trust.covers(host) for _ in range(2)] == [covered] * 2


def test_an_ipv4_client_of_a_socket_for_both_families_is_one() -> None:
    assert plain_host("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_host("::ffff:0:1") == "::ffff:0:1"
