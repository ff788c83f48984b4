"""Addresses: every form that people write, and the reason when one is wrong."""

from __future__ import annotations

import pytest

from arbiter.config.addresses import MAX_UNIX_PATH, Address, Scheme, parse_address
from arbiter.config.kinds import Refused
from arbiter.config.lists import Addresses


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("Example.ORG:80", "example.org:80"),
        ("localhost", "localhost:8000"),
        (":9000", "0.0.0.0:9000"),
        ("9000", "127.0.0.1:9000"),
        ("0", "127.0.0.1:0"),
        ("[::1]:8000", "[::1]:8000"),
        ("[::1]", "[::1]:8000"),
        ("[FE80::1%eth0]:1", "[fe80::1%eth0]:1"),
        ("tcp://10.0.0.1:80", "10.0.0.1:80"),
        ("tcp://[::]:80", "[::]:80"),
        ("unix:/run/app.sock", "unix:/run/app.sock"),
        ("unix:///run/app.sock", "unix:/run/app.sock"),
        ("unix:app.sock", "unix:app.sock"),
        ("unix:@arbiter", "unix:@arbiter"),
        ("fd://3", "fd://3"),
    ],
)
def test_every_form_has_one_canonical_form(text: str, canonical: str) -> None:
    address = parse_address(text)

    assert canonical == str(address)
    assert address == parse_address(canonical)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the host is missing"),
        ("localhost:", "the port number is missing"),
        ("localhost:http", '"http" is not a port number'),
        ("localhost:99999", "the port is above 65535"),
        ("localhost:-1", '"-1" is not a port number'),
        ("::1", "an IPv6 address needs brackets, like [::1]:8000"),
        ("[::1", "an IPv6 address is written [::1]:8000"),
        ("[::1]8000", "an IPv6 address is written [::1]:8000"),
        ("[nonsense]:80", '"nonsense" is not an IPv6 address'),
        ("[::1]:", None),
        ("a b:80", '"a b" is not a host name'),
        ("/run/app.sock", '"/run/app.sock" is not a host name'),
        ("unix:", "the socket's path is missing"),
        ("unix:@", "the socket's path is missing"),
        ("unix:/a\0b", "a path holds no NUL"),
        ("unix:/" + "x" * MAX_UNIX_PATH, "the kernel takes at most 107 bytes for the path of a socket"),
        ("fd://x", '"x" is not a file descriptor number'),
        ("fd://", "the file descriptor number is missing"),
    ],
)
def test_a_wrong_address_is_refused_with_its_reason(text: str, reason: str | None) -> None:
    with pytest.raises(ValueError) as error:
        parse_address(text)

    assert str(error.value) == (reason or "the port number is missing")


def test_addresses_come_from_a_list_from_commas_and_from_a_bare_port() -> None:
    one, two = parse_address("a:1"), parse_address("b:2")

    assert (one, two) == Addresses().parse(["a:1", "b:2"])
    assert (one, two) == Addresses().parse("a:1, b:2")
    assert (one, two) == Addresses().parse(("a:1,b:2",))
    assert Addresses().parse(8001) == (parse_address("8001"),)


@pytest.mark.parametrize("raw", [[], "", ",", True, [None], 1.5, {"a": 1}])
def test_what_holds_no_address_is_refused(raw: object) -> None:
    with pytest.raises(Refused, match="expected host:port"):
        Addresses().parse(raw)


def test_the_reason_and_the_example_stand_in_one_message() -> None:
    with pytest.raises(Refused) as refused:
        Addresses().parse("localhost:99999")

    expected = "the port is above 65535; expected host:port, [v6]:port, unix:/path or fd://N, like 127.0.0.1:8000."
    assert expected == str(refused.value)


def test_only_a_socket_file_is_placed_in_a_directory() -> None:
    assert parse_address("unix:app.sock").anchored("/srv") == Address(Scheme.UNIX, path="/srv/app.sock")
    assert parse_address("unix:@app").anchored("/srv") == parse_address("unix:@app")
    assert parse_address("a:1").anchored("/srv") == parse_address("a:1")


def test_only_an_abstract_socket_has_no_file() -> None:
    assert parse_address("unix:@app").is_abstract
    assert not parse_address("unix:./@app").is_abstract
    assert not parse_address("a:1").is_abstract
