"""Values that say who stands in front of the service: networks, certificates by name."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from arbiter.config import fronts
from arbiter.config.kinds import Kind, Refused
from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import resolve

if TYPE_CHECKING:
    from pathlib import Path

READINGS: list[tuple[Kind[Any], object, object]] = [
    (fronts.Networks(), "127.0.0.1, ::1", ("127.0.0.1", "::1")),
    (fronts.Networks(), ["10.0.0.0/8", "2001:DB8::/32"], ("10.0.0.0/8", "2001:db8::/32")),
    (fronts.Networks(), "*", ("*",)),
    (fronts.Networks(), "", ()),
    (fronts.ProxyMode(), True, "auto"),
    (fronts.ProxyMode(), "V2", "v2"),
    (fronts.ProxyMode(), False, "off"),
    (fronts.Words("for", "proto"), "Proto,for", ("for", "proto")),
    (fronts.Words("for", "proto"), [], ()),
    (fronts.FieldNames(), "script_name,*", ("SCRIPT_NAME", "*")),
    (fronts.FieldValues(), {"x-forwarded-proto": "https"}, (("X-FORWARDED-PROTO", "https"),)),
    (fronts.FieldValues(), "A=1,B=2", (("A", "1"), ("B", "2"))),
    (fronts.FieldValues(), {}, ()),
    (fronts.Verification(), "required", "required"),
    (fronts.Verification(), "CERT_OPTIONAL", "optional"),
    (fronts.Verification(), ssl.CERT_REQUIRED, "required"),
    (fronts.Verification(), 0, "none"),
    (fronts.NamedCertificates(), "A.example=a.pem", (("a.example", "a.pem", ""),)),
    (fronts.NamedCertificates(), ["*.a.example=a.pem:a.key"], (("*.a.example", "a.pem", "a.key"),)),
    (
        fronts.NamedCertificates(),
        {"a.example": ["a.pem", "a.key"], "b": "b.pem"},
        (("a.example", "a.pem", "a.key"), ("b", "b.pem", "")),
    ),
]
REFUSED: list[tuple[Kind[Any], object]] = [
    *((fronts.Networks(), raw) for raw in ("localhost", "10.0.0.1/8", "1.2.3", ["*", 1], "1.2.3.4:80")),
    *((fronts.ProxyMode(), raw) for raw in ("v3", 1, None)),
    *((fronts.Words("for", "proto"), raw) for raw in ("by", 3)),
    *((fronts.FieldNames(), raw) for raw in ("a b", 3)),
    *((fronts.FieldValues(), raw) for raw in ("A", "A=", "=1", {"A": 1}, {"A": "\n"}, {"A": "1,2"})),
    *((fronts.Verification(), raw) for raw in (3, True, "maybe", None)),
    *(
        (fronts.NamedCertificates(), raw)
        for raw in ("a.pem", "=a.pem", "a=", "*=a.pem", "a.*.b=a.pem", {"a": ["a", "b", "c"]}, {1: "a"}, "a=b:c:d")
    ),
]


@pytest.mark.parametrize(("kind", "raw", "value"), READINGS)
def test_every_form_of_a_value_is_read_and_written_so_that_it_is_read_back(kind: Kind[Any], raw: object, value: object) -> None:
    assert kind.parse(raw) == value
    assert kind.parse(kind.render(kind.parse(raw))) == value


@pytest.mark.parametrize(("kind", "raw"), REFUSED)
def test_a_value_with_two_meanings_or_none_is_refused(kind: Kind[Any], raw: object) -> None:
    with pytest.raises(Refused, match="expected"):
        kind.parse(raw)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("keyfile = 'a.key'", "keyfile (arbiter.toml:1): there is no certfile, so TLS is off"),
        ("certfile = 'a'\ncert_reqs = 'required'", "no client can show a good certificate without ca_certs"),
    ],
)
def test_a_setting_of_tls_that_does_nothing_without_another_is_a_problem(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "arbiter.toml").write_text(text)

    with pytest.raises(ConfigError) as refused:
        resolve(["a:b"], {}, str(tmp_path))
    assert told in str(refused.value)
