"""Kinds of value: what is written can be read back, and what is refused says what was expected."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.config import callables, kinds, lists, logkinds
from arbiter.config.addresses import Address, Scheme
from arbiter.config.schema import SETTINGS

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABEL, min_size=1, max_size=3).map(".".join).filter(lambda host: not host.isdecimal())
IPV6 = st.ip_addresses(v=6).map(str)
NO_COMMA = st.text(st.characters(codec="utf-8", exclude_characters=",\0"), min_size=1, max_size=25).map(str.strip)
TCP = st.builds(Address, st.just(Scheme.TCP), host=HOSTS | IPV6, port=st.integers(0, 65535))
UNIX = st.builds(
    Address,
    st.just(Scheme.UNIX),
    path=NO_COMMA.map("/run/{}".format) | NO_COMMA.filter(lambda name: name and len(name) < 20).map("@{}".format),
)
FD = st.builds(Address, st.just(Scheme.FD), fd=st.integers(0, 2**16))
ADDRESSES = TCP | UNIX | FD
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="=\0\n"), min_size=1).filter(lambda s: s == s.strip())
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
STRIPPED = TEXTS.map(str.strip).filter(bool)

KINDS_AND_VALUES: list[tuple[kinds.Kind[Any], st.SearchStrategy[Any]]] = [
    (kinds.Boolean(), st.booleans()),
    (kinds.Whole(-5, 2**31 - 1, example=1), st.integers(-5, 2**31 - 1)),
    (kinds.Count(), st.integers(0, 10**6)),
    (kinds.Duration(), st.floats(0, kinds.Duration.MAXIMUM)),
    (kinds.Size(), st.integers(0, kinds.Size.MAXIMUM)),
    (kinds.Mode(), st.integers(0, 0o777)),
    (kinds.Choice("auto", "sync"), st.sampled_from(["auto", "sync"])),
    (kinds.Text(example="x"), STRIPPED),
    (kinds.Account(example="www-data"), STRIPPED),
    (logkinds.LoggerClass(), st.sampled_from([None, "project.logs:Logger"])),
    (logkinds.StatsdAddress(), st.sampled_from([None, "localhost:8125", "[::1]:9", "unix:///run/statsd"])),
    (logkinds.SyslogAddress(), st.sampled_from(["udp://localhost:514", "unix:///dev/log#dgram", "tcp://[::1]:1"])),
    (callables.Hook("server", "worker"), st.sampled_from([None, "project.hooks:born"])),
    (callables.WorkerClass(), st.sampled_from(["auto", "sync", "threaded", "async"])),
    (kinds.Path(example="x", dash="standard output"), STRIPPED),
    (kinds.Import(), st.sampled_from(["app", "a.b:c", "a.b:c.d", "a:make()", "a:make('x', y=1)", "münchen.wsgi:app"])),
    (kinds.Nullable(kinds.Whole(example=1)), st.none() | st.integers(0, 100)),
    (lists.Addresses(), st.lists(ADDRESSES, min_size=1, max_size=4).map(tuple)),
    (lists.Paths(example="x"), st.lists(NO_COMMA.filter(bool), max_size=4).map(tuple)),
    (lists.Target(example="/x"), st.from_regex(r"/[!->@-~]*", fullmatch=True)),
    (logkinds.Table(), st.none() | st.dictionaries(st.text(), st.text() | st.integers(), min_size=1, max_size=4)),
    (lists.EnvPairs(), st.dictionaries(NAMES, TEXTS, max_size=4).map(lambda pairs: tuple(pairs.items()))),
]


@given(st.data())
@pytest.mark.parametrize(("kind", "values"), KINDS_AND_VALUES, ids=lambda x: getattr(type(x), "__name__", ""))
def test_a_rendered_value_is_read_back_as_itself(
    kind: kinds.Kind[Any], values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)

    assert value == kind.parse(kind.render(value))


@given(st.data())
@pytest.mark.parametrize(("kind", "values"), KINDS_AND_VALUES[:17], ids=lambda x: getattr(type(x), "__name__", ""))
def test_the_environment_says_the_same_as_a_file(
    kind: kinds.Kind[Any], values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)

    assert value == kind.parse(str(kind.render(value)))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.text() | st.integers() | st.none()),
    st.dictionaries(st.text(), st.text() | st.integers()),
    st.just(object()),
)


@given(JUNK)
@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS_AND_VALUES], ids=lambda kind: type(kind).__name__)
def test_anything_at_all_is_read_or_refused_and_nothing_else_is_raised(kind: kinds.Kind[Any], junk: object) -> None:
    try:
        value = kind.parse(junk)
    except kinds.Refused as refused:
        message = str(refused)
        assert message.endswith(f"expected {kind.expected}, like {kind.example}.")
    else:
        assert value == kind.parse(kind.render(value))


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS_AND_VALUES], ids=lambda kind: type(kind).__name__)
def test_the_example_of_a_kind_is_accepted_by_it(kind: kinds.Kind[Any]) -> None:
    if isinstance(kind, kinds.Whole):
        kind.parse(int(kind.example))
    kind.parse(kind.example)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_example_and_the_default_of_a_setting_are_accepted_by_it(name: str) -> None:
    row = SETTINGS[name]
    row.kind.parse(row.kind.example)

    assert row.default == row.kind.parse(row.kind.render(row.default))


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [(30, 30.0), (0.5, 0.5), ("30", 30.0), ("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), (" 1.5 S", 1.5)],
)
def test_a_duration_is_seconds_or_has_a_unit(raw: object, seconds: float) -> None:
    assert seconds == kinds.Duration().parse(raw)


@pytest.mark.parametrize("raw", [-1, "-1s", "1d", "", True, float("nan"), float("inf"), 10**400, "9" * 400, None])
def test_a_duration_that_is_no_time_is_refused(raw: object) -> None:
    with pytest.raises(kinds.Refused, match="expected a time, in seconds or with ms, s, m or h, like 30s"):
        kinds.Duration().parse(raw)


def test_a_duration_below_its_least_is_refused() -> None:
    with pytest.raises(kinds.Refused, match=r"^expected a time of at least 0\.1s, in seconds"):
        kinds.Duration(0.1).parse("50ms")


@pytest.mark.parametrize(
    ("raw", "size"),
    [(65536, 65536), ("64KiB", 65536), ("64k", 65536), ("1M", 2**20), ("1MB", 10**6), ("2 GiB", 2**31), ("7b", 7)],
)
def test_a_size_is_bytes_or_has_a_unit_as_dd_reads_it(raw: object, size: int) -> None:
    assert size == kinds.Size().parse(raw)


@pytest.mark.parametrize("raw", [-1, 1.0, "1.5M", "1T", "K", True, 2**63])
def test_a_size_that_is_none_is_refused(raw: object) -> None:
    with pytest.raises(kinds.Refused, match="expected a size in bytes or with KiB, MiB or GiB, like 64KiB"):
        kinds.Size().parse(raw)


@pytest.mark.parametrize(("raw", "bits"), [("22", 0o22), ("022", 0o22), ("0o022", 0o22), (0o22, 0o22)])
def test_permission_bits_in_text_are_octal(raw: object, bits: int) -> None:
    assert bits == kinds.Mode().parse(raw)


@pytest.mark.parametrize(("raw", "truth"), [(True, True), ("yes", True), ("ON", True), ("0", False), ("false", False)])
def test_a_boolean_may_be_a_word(raw: object, truth: bool) -> None:
    assert kinds.Boolean().parse(raw) is truth


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("abc", 'expected a whole number or "auto", like 4.'),
        (4.0, 'expected a whole number or "auto", like 4.'),
        (True, 'expected a whole number or "auto", like 4.'),
        ("٤", 'expected a whole number or "auto", like 4.'),
        (0, '0 is below 1; expected a whole number or "auto", like 4.'),
        ("-3", '-3 is below 1; expected a whole number or "auto", like 4.'),
    ],
)
def test_a_count_that_is_none_is_refused_with_the_reason(raw: object, message: str) -> None:
    with pytest.raises(kinds.Refused) as refused:
        kinds.Count().parse(raw)

    assert message == str(refused.value)


def test_a_whole_number_outside_its_bounds_is_refused_with_the_bounds() -> None:
    with pytest.raises(kinds.Refused) as refused:
        kinds.Whole(1, 9, example=5).parse(10)

    assert str(refused.value) == "expected a whole number from 1 to 9, like 5."


@pytest.mark.parametrize("raw", ["project/wsgi.py", "wsgi.py"])
def test_a_file_given_for_a_module_is_named_as_a_file(raw: str) -> None:
    with pytest.raises(kinds.Refused) as refused:
        kinds.Import().parse(raw)

    assert str(refused.value) == "this is a file; expected module:attribute, like project.wsgi:application."


@pytest.mark.parametrize("raw", ["", ":app", "a:", "a b:c", "a..b", "a:b c", "1a:b", "a:b)", 4, None])
def test_what_cannot_be_imported_is_refused(raw: object) -> None:
    with pytest.raises(kinds.Refused):
        kinds.Import().parse(raw)


def test_a_pathlib_path_is_a_path() -> None:
    assert kinds.Path(example="x").parse(pathlib.Path("/run/a.pid")) == "/run/a.pid"


def test_a_relative_path_is_placed_in_a_directory_and_a_dash_is_not() -> None:
    log = kinds.Path(example="x", dash="standard output")

    assert log.anchored("../a.log", "/srv/app") == "/srv/a.log"
    assert log.anchored("/var/a.log", "/srv/app") == "/var/a.log"
    assert log.anchored("-", "/srv/app") == "-"
    assert kinds.Path(example="x").anchored("-", "/srv") == "/srv/-"
    assert kinds.Nullable(log).anchored(None, "/srv/app") is None
    assert kinds.Nullable(log).anchored("a", "/srv/app") == "/srv/app/a"
    assert lists.Paths(example="x").anchored(("lib", "/opt"), "/srv") == ("/srv/lib", "/opt")


@pytest.mark.parametrize("raw", ["", "healthz", "http://host/healthz", "/health z", "/h\n", "/\xe4", "/healthz?full", 5, None])
def test_what_is_no_path_of_a_request_is_refused(raw: object) -> None:
    with pytest.raises(kinds.Refused, match=r"^expected a path that begins with /"):
        lists.Target(example="/healthz").parse(raw)


def test_environment_pairs_come_from_a_list_a_table_or_lines() -> None:
    kind = lists.EnvPairs()
    pairs = (("A", "1,2"), ("B", "x=y"))

    assert pairs == kind.parse(["A=1,2", "B=x=y"])
    assert pairs == kind.parse({"A": "1,2", "B": "x=y"})
    assert pairs == kind.parse("A=1,2\nB=x=y\n")
    assert kind.parse(None) == ()


def test_the_last_value_of_a_variable_wins() -> None:
    assert lists.EnvPairs().parse(["A=1", "B=2", "A=3"]) == (("A", "3"), ("B", "2"))


@pytest.mark.parametrize("raw", ["A", ["=1"], [1], {"A": 1}, {"": "x"}, {"A=B": "x"}, ["A=\0"], 5])
def test_environment_pairs_that_the_kernel_would_not_take_are_refused(raw: object) -> None:
    with pytest.raises(kinds.Refused, match=r"^expected NAME=value, like DJANGO_SETTINGS_MODULE=project\.settings\.$"):
        lists.EnvPairs().parse(raw)


@pytest.mark.parametrize(
    ("pair", "shown"),
    [
        (("SECRET_KEY", "hunter2"), "SECRET_KEY=***"),
        (("db_password", "hunter2"), "db_password=***"),
        (("API_TOKEN", ""), "API_TOKEN=***"),
        (("DATABASE_URL", "postgres://shop:hunter2@db/shop"), "DATABASE_URL=postgres://shop:***@db/shop"),
        (("REDIS", "redis://:hunter2@cache:6379/0"), "REDIS=redis://:***@cache:6379/0"),
        (("DEBUG", "1"), "DEBUG=1"),
        (("URL", "https://example.org:8000/@x"), "URL=https://example.org:8000/@x"),
    ],
)
def test_a_secret_is_masked_and_nothing_else_is(pair: tuple[str, str], shown: str) -> None:
    assert lists.EnvPairs().masked((pair,)) == [shown]
