"""A server answers every mistake, and survives every flood, over real sockets as the engine does without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import Arbiter
from http2_cases import CASES, RAW
from http2_floods import FLOODS
from http2_serving import peer, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Server

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("http2-sockets")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of them: what a connection does must not be felt on others."""
    launcher = Arbiter(tmp_path_factory.mktemp("http2"))
    try:
        yield serve(launcher, "--head-timeout", "20s")
    finally:
        launcher.finish()


@pytest.mark.parametrize("number", [*CASES, *RAW])
def test_server_answers_the_case(server: Server, number: str) -> None:
    with peer(server, greet=number in CASES) as p:
        (CASES.get(number) or RAW[number])(p)


@pytest.mark.parametrize("name", FLOODS)
def test_flood_ends_its_connection_and_no_other(server: Server, name: str) -> None:
    with peer(server) as bystander, peer(server) as p:
        bystander.ask(1)
        FLOODS[name](p)

        assert bystander.response(1)[0] == 200
        bystander.ask(3)
        assert bystander.response(3) == (200, b"hello, world\n")
