"""The shared page as another process reads it."""

from __future__ import annotations

import os
import subprocess

import pytest

from arbiter.scoreboard import Reading, Scoreboard, find


def new() -> tuple[Scoreboard, Reading]:
    """A page, and what another process would see of it. This one may still have those of other tests."""
    others = find(os.getpid())
    board = Scoreboard()
    (path,) = set(find(os.getpid())).difference(others)
    return board, Reading(path)


def test_what_is_posted_last_is_read_whole_however_long_what_was_before() -> None:
    board, reading = new()
    assert reading.notice() == ""

    for text in ("a" * 5000, "schön", "", "b"):
        board.post(text)
        assert reading.notice() == text


def test_rows_are_read_as_their_writers_leave_them() -> None:
    board, reading = new()
    rows = board.take(3)
    rows[1].begin(b"GET", b"/report", b"10.0.0.7:4711")

    seen = [row.read() for row in reading.rows(board.number(rows), 3)]

    assert [(one.client, one.text) for one in seen] == [("", ""), ("10.0.0.7:4711", "GET /report"), ("", "")]


def test_a_process_without_a_page_is_an_error_that_says_so() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            with pytest.raises(FileNotFoundError, match="shows nothing"):
                Reading.of(stranger.pid)
        finally:
            stranger.kill()
