"""What is posted is understood by a reader of this version and of others."""

from __future__ import annotations

import json

import pytest

from arbiter.bulletin import Bulletin, Entry, decode

POSTED = Bulletin(pid=4711, version="1.0", status="2/2 ready", workers=(Entry(worker=1, gen=2, phase="ready", pid=4712),))


def test_what_is_posted_is_what_is_read() -> None:
    assert decode(POSTED.encode()) == POSTED


def test_a_reader_of_another_version_reads_what_it_knows() -> None:
    """After an installation, and before the upgrade of what runs: a reload must be possible."""
    told = json.loads(POSTED.encode())
    told["mood"] = told["workers"][0]["mood"] = "new"
    del told["status"], told["workers"][0]["phase"]

    assert decode(json.dumps(told)) == Bulletin(pid=4711, version="1.0", workers=(Entry(worker=1, gen=2, pid=4712),))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1, "workers": [2]}', "nothing"])
def test_what_is_no_bulletin_is_an_error_of_one_kind(text: str) -> None:
    with pytest.raises(ValueError, match=r"not understood|Expecting value"):
        decode(text)
