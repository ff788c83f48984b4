"""Where log lines go: whole, whoever else writes there, and counted where they can't."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from arbiter.logs import PIECE, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def packets() -> Iterator[tuple[Sink, int]]:
    """A sink over a pipe, and the end by which each write is read as it was written (O_DIRECT, pipe(2))."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    try:
        yield Sink("-", writer), reader
    finally:
        os.close(reader)
        os.close(writer)


def read_all(reader: int) -> list[bytes]:
    found = []
    try:
        while data := os.read(reader, PIECE):
            found.append(data)
    except BlockingIOError:
        pass
    return found


@given(st.lists(st.integers(0, PIECE - 1), min_size=1, max_size=9))
def test_into_a_pipe_go_whole_lines_that_no_other_process_gets_between(sizes: list[int]) -> None:
    lines = [b"%d" % (number % 10) * size + b"\n" for number, size in enumerate(sizes)]
    with packets() as (sink, reader):
        sink.write(b"".join(lines))
        found = read_all(reader)

    assert b"".join(found) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in found)


def test_a_line_that_is_longer_than_a_pipe_takes_in_one_goes_in_parts() -> None:
    line = b"x" * (2 * PIECE) + b"\n"
    with packets() as (sink, reader):
        sink.write(b"before\n" + line + b"after\n")
        found = read_all(reader)

    assert b"".join(found) == b"before\n" + line + b"after\n"


def test_a_file_takes_all_that_is_written_at_once(tmp_path: Path) -> None:
    lines = b"".join(b"%d\n" % number for number in range(PIECE))
    Sink(str(tmp_path / "log")).write(lines)

    assert (tmp_path / "log").read_bytes() == lines


def test_each_line_that_nobody_reads_is_counted() -> None:
    with packets() as (sink, reader):
        lines = b"y" * 100 + b"\n"
        written = 0
        complaints: list[str] = []
        sink.complain_to(complaints.append)
        while not complaints:
            sink.write(lines * 50)
            written += 50
        sink.write(lines * 7)
        kept = b"".join(read_all(reader)).count(b"\n")
        sink.write(b"next\n")
        *_, last = read_all(reader)

    assert last == b"(%d log lines were lost: nobody read them, or the disk was full)\nnext\n" % (written + 7 - kept)
    assert complaints == [
        "the access log can't be written: nobody reads it. Requests are served on, and lines are lost until it can be."
    ]


def test_a_disk_that_fills_in_the_middle_of_a_line_is_told_of_on_a_line_of_its_own(tmp_path: Path) -> None:
    """RLIMIT_FSIZE has a write end early as a full disk does."""
    sink = Sink(str(tmp_path / "log"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
    try:
        sink.write(b"0123456789\n" * 4)
        sink.write(b"0123456789\n" * 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sink.write(b"next\n")
    sink.write(b"last\n")
    sink.close()

    assert (tmp_path / "log").read_text().splitlines() == [
        "0123456789",
        "0123456789",
        "012",
        "(4 log lines were lost: nobody read them, or the disk was full)",
        "next",
        "last",
    ]


def test_a_disk_that_is_full_again_and_again_is_complained_of_once_a_minute(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path / "log"))
    complaints: list[str] = []
    sink.complain_to(complaints.append)
    full, file = os.open("/dev/full", os.O_WRONLY), os.dup(sink.fd)
    for place in (full, file, full, file):
        os.dup2(place, sink.fd)
        sink.write(b"a line\n")
    for descriptor in (full, file):
        os.close(descriptor)
    sink.close()

    assert len(complaints) == 1
    assert "No space left on device" in complaints[0]
