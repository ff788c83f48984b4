"""The corpus of requests, through both parsers, cut in three ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from feeding import FEEDINGS, PARSERS, REQUESTS, feed, load, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Feeding = Callable[[bytes], Iterator[bytes]]


def cases(kind: str) -> list[object]:
    return [pytest.param(path, id=path.stem) for path in sorted((REQUESTS / kind).glob("*.http"))]


@pytest.mark.parametrize("cut", FEEDINGS)
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("path", cases("valid"))
def test_a_valid_request_is_read_as_it_was_meant(path: Path, parser: str, cut: Feeding) -> None:
    raw, expected = load(path)

    outcome = feed(parser, cut(raw))

    assert (outcome.refusal, outcome.pending) == (None, 0)
    assert len(expected) == len(outcome.requests)
    for wanted, request in zip(expected, outcome.requests, strict=True):
        assert wanted == {key: request[key] for key in wanted}


@pytest.mark.parametrize("cut", FEEDINGS)
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("path", cases("invalid"))
def test_an_invalid_request_is_refused_with_its_status(path: Path, parser: str, cut: Feeding) -> None:
    raw, status = load(path)

    outcome = feed(parser, cut(raw))

    assert outcome.refusal is not None
    assert status == outcome.refusal[0]


@pytest.mark.parametrize("path", cases("valid") + cases("invalid"))
def test_neither_the_parser_nor_the_cut_changes_the_outcome(path: Path) -> None:
    """The reason too: it must come from the policy, never from one parser."""
    raw, _ = load(path)
    first = feed(PARSERS[0], whole(raw))

    for parser in PARSERS:
        for cut in FEEDINGS:
            outcome = feed(parser, cut(raw))
            assert first.refusal == outcome.refusal
            assert [r.get("body") for r in first.requests if "body" in r] == [
                r.get("body") for r in outcome.requests if "body" in r
            ]
            assert [r["fields"] for r in first.requests] == [r["fields"] for r in outcome.requests]
