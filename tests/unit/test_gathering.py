"""Pieces of a response that are gathered: none is lost, doubled or out of order, and none is held for long."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from arbiter.workers.gathering import Gatherer, Sender

PIECES = st.lists(
    st.tuples(st.integers(0, 40_000), st.sampled_from(["piece", "piece", "piece", "look", "settle"])), max_size=60
)


class Client:
    """A wire that keeps what is sent, and takes of what is offered no more than it is told to."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.data = bytearray()
        self.sends = 0
        self.room = room

    def send(self, *parts: bytes) -> None:
        self.sends += 1
        self.data += b"".join(parts)

    def offer(self, data: bytes) -> int:
        self.data += data[: self.room]
        return min(len(data), self.room)


@given(PIECES, st.integers(0, 5000))
def test_what_is_given_is_sent_in_order_whoever_sends_it(steps: list[tuple[int, str]], room: int) -> None:
    client = Client(room)
    gatherer = Gatherer(lambda _: None)
    given = bytearray()
    for number, (size, what) in enumerate(steps):
        if what == "look":
            gatherer.send_held()
            continue
        if what == "settle":
            gatherer.settle()
            assert client.data == given
        piece = bytes([number % 251]) * size
        given += b"<" + piece + b">"
        gatherer.send(client, (b"<", piece, b">"))
        assert given.startswith(client.data)
    gatherer.settle()
    assert client.data == given
    assert not gatherer.send_held()


def test_a_thousand_rows_are_a_few_sends() -> None:
    client = Client()
    gatherer = Gatherer(lambda _: None)
    for number in range(1000):
        gatherer.send(client, (b"%099d\n" % number,))
    gatherer.settle()
    assert len(client.data) == 100_000
    assert client.sends < 100  # a few are sent at once, and more where this process had to wait for the processor


def test_what_was_held_when_the_client_went_is_forgotten() -> None:
    gatherer = Gatherer(lambda _: None)
    client, other = Client(), Client()
    given = 0
    while given == len(client.data):
        gatherer.send(client, (b"x",))
        given += 1
    gatherer.drop()
    gatherer.settle()
    assert not gatherer.send_held()
    assert len(client.data) < given
    gatherer.send(other, (b"y",))
    assert other.data == b"y"


def test_pieces_that_two_threads_send_are_whole_and_in_order() -> None:
    """The application's thread gives as quickly as it can, the sender's takes as often as it can."""
    client, given = Client(700), bytearray()
    gatherer = Gatherer(lambda _: None)
    stop = threading.Event()

    def take() -> None:
        while not stop.is_set():
            gatherer.send_held()

    taker = threading.Thread(target=take)
    taker.start()
    try:
        for number in range(20_000):
            piece = b"%d," % number
            given += piece
            gatherer.send(client, (piece,))
        gatherer.settle()
    finally:
        stop.set()
        taker.join()
    assert client.data == given


def test_what_an_application_holds_up_is_sent_meanwhile() -> None:
    arrived = threading.Event()

    class Waiting(Client):
        def offer(self, data: bytes) -> int:
            taken = Client.offer(self, data)
            arrived.set()
            return taken

    sender = Sender()
    gatherer = Gatherer(sender.wait)
    client = Waiting()
    for _ in range(3):  # again when the sender has had nothing to do
        arrived.clear()
        until(lambda: not gatherer.awaited, "nothing held")
        for _ in range(10):
            gatherer.send(client, (b"piece",))
        assert arrived.wait(20)
