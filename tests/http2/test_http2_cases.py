"""The engine answers each mistake as RFC 9113 and RFC 7541 want it: h2spec's cases, without a socket."""

from __future__ import annotations

import pytest
from http2_cases import CASES, RAW
from http2_wire import EngineWire, Peer


@pytest.mark.parametrize("number", [*CASES, *RAW])
def test_engine_answers_the_case(number: str) -> None:
    if number in RAW:
        RAW[number](Peer(EngineWire(), greet=False))
    else:
        CASES[number](Peer(EngineWire()))
