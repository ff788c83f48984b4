"""What one worker hands over is what another takes: a connection, unread, and all that is known of it."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from serving import GET, LIMITS, PATIENCE

from arbiter.workers.client import Client, Stage
from arbiter.workers.handoff import Handoff, can_move
from arbiter.workers.poller import Poller
from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.slack import Slack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def handoff() -> Iterator[Handoff]:
    inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (inbox, outbox):
        end.setblocking(False)
    with inbox, outbox:
        yield Handoff((inbox, outbox))


@pytest.fixture
def peer() -> Iterator[tuple[socket.socket, Client]]:
    """A client's end of a TCP connection, and what a worker has of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        end = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        descriptor, address = listener._accept()  # type: ignore[attr-defined]  # typeshed has no private names
    environ = {"SERVER_NAME": "10.0.0.1", "SERVER_PORT": "8000", "PROXY_PROTOCOL": "TCP4", "SCRIPT_NAME": ""}
    accepted = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    with end, closing(accepted):
        yield end, Client(accepted, address, environ, Connection(head_parser("h11"), LIMITS), 1.0, Slack(0, 0))


@pytest.mark.parametrize("stage", [Stage.KEPT, Stage.FRESH])
def test_a_connection_and_what_is_known_of_it_go_over(
    handoff: Handoff, peer: tuple[socket.socket, Client], stage: Stage
) -> None:
    end, client = peer
    end.sendall(GET)
    client.stage, client.since = stage, 123.25
    assert handoff.take() is None

    waiting = [handoff.is_waiting]
    assert handoff.give(client)
    client.close()
    waiting.append(handoff.is_waiting)
    handed = handoff.take()
    waiting.append(handoff.is_waiting)

    assert handed
    with closing(handed.connection) as connection:
        assert handed[1:] == (("10.0.0.1", "8000"), end.getsockname(), {"PROXY_PROTOCOL": "TCP4"}, stage is Stage.KEPT, 123.25)
        assert connection.recv(65536) == GET
        connection.send(b"hello")
        assert end.recv(16) == b"hello"
        assert not os.get_inheritable(connection.fileno())
    assert waiting == [False, True, False]


def test_without_descriptors_nothing_is_taken_and_nothing_is_lost(handoff: Handoff, peer: tuple[socket.socket, Client]) -> None:
    """recvmsg(2) would drop the connection, and its client would be reset."""
    end, client = peer
    end.sendall(GET)
    assert handoff.give(client)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)  # the lowest that is free
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            handoff.take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    client.close()
    handed = handoff.take()

    assert handed
    with closing(handed.connection) as connection:
        assert connection.recv(65536) == GET


def test_what_can_not_be_sent_stays(handoff: Handoff, peer: tuple[socket.socket, Client]) -> None:
    _, client = peer
    given = 0
    while handoff.give(client):
        given += 1
    taken = 0
    while handed := handoff.take():
        handed.connection.close()
        taken += 1
    client.close()

    assert taken == given > 1


def test_only_a_connection_that_nothing_was_read_of_can_move(peer: tuple[socket.socket, Client]) -> None:
    end, client = peer

    def moves(**state: Any) -> bool:
        for name, value in {"stage": Stage.KEPT, "opening": None, **state}.items():
            setattr(client, name, value)
        return can_move(client)

    assert not moves()  # nothing has come
    end.sendall(GET)

    assert [stage for stage in Stage if moves(stage=stage)] == [Stage.FRESH, Stage.KEPT]
    assert not moves(stage=Stage.FRESH, opening=object())
    client.secure(object())  # type: ignore[arg-type]  # what it is does not matter: it is TLS
    assert not moves()


def test_a_poller_that_turns_clients_away_hears_them_again_once_somebody_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        poller = Poller([listener], 10)
        poller.listen()
        poller.turn_away()
        with socket.create_connection(listener.getsockname()):
            looked: Any = []
            waited: Any = []
            poller.poll(0, looked)
            poller.poll(PATIENCE, waited)

            assert (looked, waited) == ([], [listener])
            poller.stop_listening()
            poller.turn_away()
            still: Any = []
            poller.poll(0.001, still)
            assert still == []  # who does not listen at all is not to begin
