"""What crosses the line between supervisor and worker: messages of the channel, rows of the scoreboard, exit statuses."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, get_args, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbiter.workers import contract
from arbiter.workers.contract import (
    BUCKETS,
    COUNTERS,
    KINDS,
    MAX_MESSAGE,
    ROW_SIZE,
    TEXT_SIZE,
    ChannelError,
    Decoder,
    Doing,
    Exit,
    Failed,
    Message,
    Ready,
    ReopenLogs,
    Retire,
    Row,
    Spent,
    Word,
    WorkerId,
    client_name,
    encode,
)

if TYPE_CHECKING:
    from pathlib import Path

BY_TYPE: dict[object, st.SearchStrategy[object]] = {
    str: st.text(max_size=200),
    int: st.integers(-(2**63), 2**63),
    bool: st.booleans(),
}


def of_class(kind: type[Message]) -> st.SearchStrategy[Message]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: BY_TYPE[hints[field.name]] for field in fields(kind)})


messages: st.SearchStrategy[Message] = st.one_of(*(of_class(kind) for kind in get_args(Message)))


# The channel ----------------------------------------------------------------------------------------------------------


@given(sent=st.lists(messages, max_size=5), cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_messages_arrive_as_they_were_sent_however_the_stream_is_cut(sent: list[Message], cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in sent)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = Decoder()

    received = [message for start, end in pairwise(edges) for message in decoder.feed(stream[start:end])]

    assert sent == received


def test_messages_arrive_byte_by_byte() -> None:
    sent: list[Message] = [
        Ready(),
        Failed("importing shop.wsgi", "ImportError: no\nsuch", "Traceback …", 3),
        Retire(last=True),
        ReopenLogs(),
    ]
    decoder = Decoder()

    received = [message for byte in b"".join(encode(message) for message in sent) for message in decoder.feed(bytes([byte]))]

    assert sent == received


@given(message=messages)
def test_a_message_is_one_line(message: Message) -> None:
    assert encode(message).index(b"\n") == len(encode(message)) - 1


@pytest.mark.parametrize("character", ["x", "\0", "\n", "é", "\udc80"])
def test_a_message_that_is_too_long_loses_its_middle_and_nothing_else(character: str) -> None:
    """Whatever JSON makes of the character, the line fits, and the ends of the text, which tell most, are there."""
    text = f"Traceback{character * MAX_MESSAGE}ModuleNotFoundError"

    line = encode(Failed("importing", text, text, 3))
    (received,) = Decoder().feed(line)

    assert len(line) <= MAX_MESSAGE
    assert isinstance(received, Failed)
    assert (received.phase, received.code) == ("importing", 3)
    for shortened in (received.error, received.traceback):
        assert shortened.startswith("Traceback")
        assert "\n  ...\n" in shortened
        assert shortened.endswith("ModuleNotFoundError")


def test_a_long_message_of_emoji_fits() -> None:
    text = "\U0001f600" * MAX_MESSAGE

    assert len(encode(Failed(text, text, text, 3))) <= MAX_MESSAGE


@pytest.mark.parametrize("length", [MAX_MESSAGE - 200, MAX_MESSAGE - 60, MAX_MESSAGE - 24, MAX_MESSAGE - 23, MAX_MESSAGE])
def test_texts_near_the_limit_arrive(length: int) -> None:
    line = encode(Spent("x" * length))

    (received,) = Decoder().feed(line)

    assert isinstance(received, Spent)
    assert len(line) <= MAX_MESSAGE
    assert len(received.why) == length or "\n  ...\n" in received.why


def test_a_line_without_end_is_refused() -> None:
    decoder = Decoder()
    assert list(decoder.feed(b"x" * MAX_MESSAGE)) == []

    with pytest.raises(ChannelError, match="a line of over 65536 bytes"):
        list(decoder.feed(b"x"))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"null",
        b"3",
        b'"ready"',
        b"[]",
        b"{}",
        b'{"say": "shout"}',
        b'{"say": ["ready"]}',
        b'{"say": null}',
        b'{"say": "ready", "why": "no such field"}',
        b'{"say": "spent"}',
        b'{"say": "failed", "phase": "importing"}',
        b'{"say": "spent", "why": "x"',
        b'{"say": "spent", "why": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_a_message_is_refused(line: bytes) -> None:
    with pytest.raises(ChannelError, match="not a message"):
        list(Decoder().feed(line + b"\n"))


def test_a_deeply_nested_line_is_refused() -> None:
    with pytest.raises(ChannelError):
        list(Decoder().feed(b"[" * 60_000 + b"\n"))


@pytest.mark.parametrize(
    "line",
    [
        b'{"say": "spent", "why": 3}',
        b'{"say": "failed", "phase": "a", "error": "b", "traceback": null, "code": 3}',
        b'{"say": "failed", "phase": "a", "error": "b", "traceback": "c", "code": []}',
    ],
)
def test_a_field_of_the_wrong_type_is_refused(line: bytes) -> None:
    with pytest.raises(ChannelError):
        list(Decoder().feed(line + b"\n"))


@given(garbage=st.binary(max_size=300))
@example(b'{"say":"ready"}\n\n')
def test_garbage_is_refused_or_waited_on_and_nothing_else(garbage: bytes) -> None:
    try:
        assert all(isinstance(message, get_args(Message)) for message in Decoder().feed(garbage))
    except ChannelError:
        assert b"\n" in garbage


@given(before=messages)
def test_the_messages_before_garbage_arrive(before: Message) -> None:
    feed = Decoder().feed(encode(before) + b"garbage\n")

    assert next(feed) == before
    with pytest.raises(ChannelError):
        next(feed)


def test_the_names_of_messages_are_what_the_line_says() -> None:
    assert json.loads(encode(Spent("max_requests"))) == {"say": "spent", "why": "max_requests"}
    assert len({kind.name for kind in get_args(Message)}) == len(get_args(Message))


# Exit statuses and names ----------------------------------------------------------------------------------------------


def test_every_exit_status_has_a_meaning_of_its_own() -> None:
    assert len({status.meaning for status in Exit}) == len(Exit)
    assert [status for status in Exit if not status] == [Exit.OK]


def test_a_worker_id_is_its_slot_and_its_spawn() -> None:
    assert WorkerId(slot=3, spawn=7) == (3, 7)


def test_every_kind_says_where_its_class_is() -> None:
    assert all(module.startswith("arbiter.workers.") and name for module, _, name in (k.partition(":") for k in KINDS.values()))


# The scoreboard's row -------------------------------------------------------------------------------------------------


class Clock:
    """Monotonic nanoseconds that pass when told."""

    def __init__(self) -> None:
        self.nanoseconds = 5_000_000_000

    def __call__(self) -> int:
        return self.nanoseconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(contract, "monotonic_ns", clock)
    return clock


@pytest.fixture
def page() -> memoryview:
    """A real shared page, with room for three rows."""
    return memoryview(mmap.mmap(-1, 3 * ROW_SIZE))


def row() -> Row:
    return Row(memoryview(bytearray(ROW_SIZE)))


def test_a_free_row_says_nothing() -> None:
    seen = row().read()

    assert seen.doing is Doing.NOTHING
    assert (seen.deadline, seen.started, seen.text, seen.requests, seen.sent, seen.busy) == (0.0, 0.0, "", 0, 0, 0.0)
    assert seen.statuses == (0,) * 5
    assert seen.latency == (0,) * BUCKETS


def test_a_request_is_seen_from_its_begin_to_its_end(clock: Clock) -> None:
    """1. A request begins at 5 s. 2. It ends a quarter of a second later with 1234 bytes. Result: every counter has it once."""
    watched = row()
    watched.begin(b"GET", b"/shop?page=2")
    during = watched.read()
    assert (during.doing, during.started, during.text, during.client) == (Doing.APP, 5.0, "GET /shop?page=2", "")
    assert watched.describe(7.25) == "GET /shop?page=2 for 2.2 s (in the application)"
    assert watched.started() == 5.0
    assert during.requests == 0

    clock.nanoseconds += 250_000_000
    watched.end(200, 1234)
    after = watched.read()
    assert (after.doing, after.started) == (Doing.IDLE, 0.0)
    assert (after.requests, after.sent, after.busy) == (1, 1234, 0.25)
    assert after.statuses == (0, 1, 0, 0, 0)
    assert sum(after.latency) == after.latency[18] == 1  # 2**17 <= 250 000 microseconds < 2**18


@pytest.mark.parametrize(
    ("microseconds", "bucket"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (2**22 - 1, 22), (2**22, 23), (2**23 - 1, 23), (2**23, 23), (2**40, 23)],
)
def test_bucket_k_holds_from_two_to_the_k_less_one_to_two_to_the_k_microseconds(
    clock: Clock, microseconds: int, bucket: int
) -> None:
    timed = row()
    timed.begin(b"GET", b"/")
    clock.nanoseconds += microseconds * 1000 + 999
    timed.end(200, 0)
    timed.waited(microseconds)

    latency, waits = timed.read().latency, timed.read().waits
    assert latency == waits == tuple(int(k == bucket) for k in range(BUCKETS))


@pytest.mark.parametrize(
    ("status", "at"),
    [
        (100, 0),
        (199, 0),
        (200, 1),
        (299, 1),
        (304, 2),
        (404, 3),
        (499, 3),
        (500, 4),
        (599, 4),
        (0, 4),
        (99, 4),
        (600, 4),
        (-1, 4),
    ],
)
def test_answers_are_counted_by_class_and_nonsense_is_a_server_error(status: int, at: int) -> None:
    counted = row()
    counted.begin(b"GET", b"/")
    counted.end(status, 0)

    assert counted.read().statuses == tuple(int(k == at) for k in range(5))


@given(method=st.binary(max_size=30), target=st.binary(max_size=3 * ROW_SIZE))
@example(b"GET", b"/\x1b]0;owned\x07\r\nHTTP/1.1 200 OK")
@example(b"GET", b"/\xc2\x85\xe2\x80\xae")
def test_a_hostile_target_is_one_harmless_beginning_of_a_line(method: bytes, target: bytes) -> None:
    """No control character, no line end, nothing beyond ASCII reaches a log; and nothing beyond the row is written."""
    page = bytearray(3 * ROW_SIZE)
    hit = Row(memoryview(page)[ROW_SIZE : 2 * ROW_SIZE])
    hit.begin(method, target)

    text = hit.read().text
    assert text.isascii()
    assert text.isprintable()
    assert text.encode().decode("unicode_escape").encode("latin-1") == (method + b" " + target)[: TEXT_SIZE - 1]
    assert not any(page[:ROW_SIZE])
    assert not any(page[2 * ROW_SIZE :])


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (("127.0.0.1", 4711), "127.0.0.1:4711"),
        (("2001:db8::7", 4711, 0, 0), "[2001:db8::7]:4711"),
        ("", "unix"),
        ("/run/a client", "unix"),
        (b"\0abstract", "unix"),
    ],
)
def test_the_client_is_named_beside_its_request_however_long_that_is(address: object, name: str) -> None:
    """Two requests, of which the first is longer than a row. Result: who asks is whole, and so is the sentence about it."""
    named = row()
    named.begin(b"GET", b"/" * ROW_SIZE, client_name(address))
    assert named.read().client == name
    named.end(200, 0)
    named.begin(b"PUT", b"/a", client_name(address))

    assert (named.read().client, named.read().text) == (name, "PUT /a")
    assert named.describe(named.started() + 1, thread=3) == f"PUT /a from {name} for 1.0 s (in the application, thread 3)"


def test_a_shorter_target_leaves_nothing_of_the_longer_one_before_it() -> None:
    reused = row()
    reused.begin(b"POST", b"/a/long/secret")
    reused.end(200, 0)
    reused.begin(b"GET", b"/")

    assert reused.read().text == "GET /"


def test_a_worker_vouches_for_itself_until_a_deadline() -> None:
    vouched = row()
    vouched.beat(1234.5)
    assert (vouched.deadline(), vouched.read().deadline) == (1234.5, 1234.5)

    vouched.beat(0.0)
    assert vouched.deadline() == 0.0


@pytest.mark.parametrize("doing", Doing)
def test_a_phase_is_seen(doing: Doing) -> None:
    watched = row()
    watched.phase(doing)

    assert watched.read().doing is doing


def test_a_cleared_row_is_free_again() -> None:
    page = bytearray(b"\xff" * (3 * ROW_SIZE))
    cleared = Row(memoryview(page)[ROW_SIZE : 2 * ROW_SIZE])
    cleared.clear()

    assert bytes(page) == b"\xff" * ROW_SIZE + bytes(ROW_SIZE) + b"\xff" * ROW_SIZE


def test_the_counters_of_the_dead_are_added_up() -> None:
    first, second = row(), row()
    for counted, status in ((first, 200), (second, 404), (second, 500)):
        counted.begin(b"GET", b"/")
        counted.end(status, 10)
    second.waited(3)

    total = second.added_to(first.added_to([0] * COUNTERS))

    def at(word: int) -> int:
        return total[word - Word.REQUESTS]

    assert len(total) == COUNTERS
    assert (at(Word.REQUESTS), at(Word.BYTES)) == (3, 30)
    assert [at(Word.STATUS + k) for k in range(5)] == [0, 1, 0, 1, 1]
    assert sum(at(Word.LATENCY + k) for k in range(BUCKETS)) == 3
    assert [at(Word.WAITS + k) for k in range(4)] == [0, 0, 1, 0]


def test_the_words_of_a_row_do_not_overlap_and_fit() -> None:
    spans = {Word.STATUS: 5, Word.LATENCY: BUCKETS, Word.WAITS: BUCKETS}
    taken = [word + k for word in Word for k in range(spans.get(word, 1))]

    assert len(set(taken)) == len(taken)
    assert 8 * (max(taken) + 1) == contract.TEXT_OFFSET
    assert ROW_SIZE % 64 == 0
    assert TEXT_SIZE >= 64


WRITER = """
import mmap, sys, time
from arbiter.workers.contract import ROW_SIZE, Row
with open(sys.argv[1], "r+b") as file:
    row, number = Row(memoryview(mmap.mmap(file.fileno(), ROW_SIZE))), 0
    print(flush=True)
    while True:
        number += 1
        row.begin(b"GET", b"/" + str(number).encode() * 20)
        time.sleep(0.00001)  # as an application would: a process that sleeps is rarely made to wait while it is inside
        row.end(200, 7)
        time.sleep(0.00001)
"""


def test_a_reader_never_sees_half_a_request(tmp_path: Path) -> None:
    """Another process writes requests whose parts belong together; what is read at any moment belongs together."""
    path = tmp_path / "row"
    path.write_bytes(bytes(ROW_SIZE))
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        try:
            with path.open("rb") as file:
                page = memoryview(mmap.mmap(file.fileno(), ROW_SIZE, access=mmap.ACCESS_READ))
            checked = sum(is_whole(page) for _ in range(20000))
        finally:
            writer.kill()

    assert checked > 1000


def is_whole(page: memoryview) -> bool:
    """Reads once, and checks what was read; False when nothing can be asked of it, as the writer was stopped inside.

    Who reads looks again for a while only: a writer that died inside must not hold it. So on a busy machine one that is away
    from the processor inside may be read as it has left the row.
    """
    sequence = page.cast("Q")
    before = sequence[Word.SEQUENCE]
    seen = Row(page).read()
    if before % 2 or sequence[Word.SEQUENCE] % 2:
        return False
    number = seen.text.removeprefix("GET /")
    assert number == number[: len(number) // 20] * 20
    assert seen.requests == seen.statuses[1] == sum(seen.latency)
    assert seen.sent == 7 * seen.requests
    assert (seen.doing is Doing.APP) == bool(seen.started)
    return True


def test_a_row_whose_writer_died_inside_is_read_as_it_was_left() -> None:
    page = memoryview(bytearray(ROW_SIZE))
    left = Row(page)
    left.begin(b"GET", b"/last")
    page.cast("Q")[Word.SEQUENCE] += 1  # as if SIGKILL had come within `end`

    assert left.read().text == "GET /last"


def test_rows_of_one_shared_page_are_apart(page: memoryview) -> None:
    """What one process writes into its row of an anonymous shared mapping, another reads, and no neighbour is touched."""
    rows = [Row(page[k * ROW_SIZE : (k + 1) * ROW_SIZE]) for k in range(3)]
    rows[1].begin(b"GET", b"/middle")

    assert [seen.read().text for seen in rows] == ["", "GET /middle", ""]
