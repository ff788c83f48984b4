"""The threaded worker as a real server, over real sockets: what each client sees."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest
from serving import Response
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import os, sys, time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    body = str(os.getpid()).encode()
    headers = [("Content-Type", "text/plain")]
    if path == "/boom":
        raise RuntimeError("secret detail")
    if path == "/exit":
        sys.exit(3)
    if path == "/read":
        body = environ["wsgi.input"].read()
    elif path == "/ignore":
        body = b"ignored"
    elif path == "/echo":
        body = environ["QUERY_STRING"].encode()
    elif path == "/multithread":
        body = str(environ["wsgi.multithread"]).encode()
    elif path == "/closing":
        headers.append(("Connection", "close"))
    elif path == "/peer":
        body = f"{environ.get('REMOTE_ADDR')} {environ.get('REMOTE_PORT')}".encode()
    elif path == "/large":
        body = b"x" * int(environ["QUERY_STRING"])
    elif path == "/pieces":
        start_response("200 OK", headers)
        return iter([b"x" * 300_000] * int(environ["QUERY_STRING"]))
    elif path == "/file":
        file = open("large", "rb")
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file)
    elif path == "/burst":
        def burst():
            for number in range(50):
                yield b"row %d\\n" % number
            while not os.path.exists("release"):
                time.sleep(0.01)
            for number in range(50):
                yield b"row %d\\n" % number
            raise OSError("the disk has gone")
        start_response("200 OK", headers)
        return burst()
    elif path in ("/held", "/waiting"):
        if path == "/waiting":
            body = str(environ["arbiter.io_bound"]()).encode()
        open(environ["QUERY_STRING"], "x").close()
        while not os.path.exists("release"):
            time.sleep(0.01)
    start_response("200 OK", headers)
    return [body]
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SMALL = 16 * 1024
"""A receive buffer that makes the kernel take little of a large response for the client, and still moves megabytes a second."""
LARGE = 12_000_000
"""Bytes that no kernel takes from a server at once for a client that does not read: Linux lets a send buffer grow to 4 MiB
(net.ipv4.tcp_wmem), three times less."""
ROOM = ("--response-buffer", "16MiB")
"""Room for one such response."""


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def post(path: str, body: bytes, *fields: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body


def serve(arbiter: Arbiter, *arguments: str, workers: int = 1, threads: int = 2) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve("-k", "threaded", "--threads", str(threads), *arguments, workers=workers)


class Peer:
    """A client that reads response after response."""

    def __init__(self, server: Server, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(20)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(server.tcp)
        self._data = bytearray()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def until(self, enough: int | bytes) -> bytes:
        while (enough not in self._data) if isinstance(enough, bytes) else (len(self._data) < enough):
            data = self.socket.recv(65536)
            assert data, f"closed after {bytes(self._data[:200])!r}"
            self._data += data
        end = self._data.index(enough) + len(enough) if isinstance(enough, bytes) else enough
        found = bytes(self._data[:end])
        del self._data[:end]
        return found

    def response(self) -> Response:
        """The next response, which has a Content-Length or is chunked."""
        raw = self.until(b"\r\n\r\n")
        head = Response(raw)
        if head[b"transfer-encoding"]:
            while True:
                line = self.until(b"\r\n")
                raw += line + self.until(int(line, 16) + 2)
                if int(line, 16) == 0:
                    return Response(raw)
        return Response(raw + self.until(int(head[b"content-length"] or b"0")))

    def ask(self, data: bytes = GET) -> Response:
        self.send(data)
        return self.response()

    def rest(self) -> bytes:
        """What comes until the connection ends."""
        data = bytes(self._data)
        self._data.clear()
        with contextlib.suppress(ConnectionResetError):
            while piece := self.socket.recv(65536):
                data += piece
        return data

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed, and says nothing more."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1) == b""
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(20)


@contextlib.contextmanager
def connected(server: Server, data: bytes = b"", receive_buffer: int = 0) -> Iterator[Peer]:
    peer = Peer(server, receive_buffer)
    try:
        peer.send(data)
        yield peer
    finally:
        peer.socket.close()


# Connections ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_a_connection_serves_request_after_request(arbiter: Arbiter, parser: str) -> None:
    server = serve(arbiter, "--http", parser)
    with connected(server) as peer:
        for number in range(100):
            response = peer.ask(get(f"/echo?{number}"))
            assert (response.status, response[b"connection"], response.body) == (200, None, b"%d" % number)


def test_a_connection_is_kept_only_if_both_want_it(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    cases = [
        (get("/", "Connection: close"), b"close"),
        (get("/closing"), b"close"),
        (b"GET / HTTP/1.0\r\n\r\n", None),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n", b"keep-alive"),
    ]
    for raw, said in cases:
        with connected(server, raw) as peer:
            assert peer.response()[b"connection"] == said
            if said == b"keep-alive":
                assert peer.ask().status == 200
            else:
                assert peer.rest() == b""


def test_pipelined_requests_are_answered_in_their_order(arbiter: Arbiter) -> None:
    server = serve(arbiter, threads=4)
    with connected(server) as peer:
        peer.send(b"".join(get(f"/echo?{number}") for number in range(200)) + post("/read", b"body") + GET[:20])

        assert [peer.response().body for _ in range(200)] == [b"%d" % number for number in range(200)]
        assert peer.response().body == b"body"
        peer.send(GET[20:])
        assert peer.response().status == 200


def test_a_client_that_pipelines_without_end_does_not_keep_others_waiting(arbiter: Arbiter) -> None:
    server = serve(arbiter, threads=1)
    with connected(server) as greedy, connected(server) as modest:
        greedy.send(GET * 2000)
        assert modest.ask().status == 200
        assert all(greedy.response().status == 200 for _ in range(2000))


def test_a_head_that_comes_byte_by_byte_is_a_request(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with connected(server) as peer:
        for _ in range(2):
            for byte in get("/echo?hi"):
                peer.send(bytes([byte]))
            assert peer.response().body == b"hi"


def test_an_idle_connection_is_closed_after_keepalive_and_not_before(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--keep-alive", "1")
    with connected(server) as peer:
        peer.ask()
        began = time.monotonic()

        assert peer.rest() == b""
        assert 0.9 < time.monotonic() - began < 5


def test_keepalive_0_keeps_no_connection(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--keep-alive", "0")
    with connected(server) as peer:
        assert peer.ask()[b"connection"] == b"close"
        assert peer.rest() == b""


def test_many_idle_connections_hold_no_thread(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(server, GET)) for _ in range(200)]
        for peer in idle:
            peer.response()
        silent = [stack.enter_context(connected(server)) for _ in range(100)]
        half = [stack.enter_context(connected(server, GET[:-2])) for _ in range(100)]

        with connected(server) as peer:
            for _ in range(20):
                assert peer.ask().status == 200
        assert not any(peer.is_closed for peer in [*idle, *silent, *half])
        assert all(peer.ask(rest).status == 200 for peer, rest in [(idle[0], GET), (silent[0], GET), (half[0], b"\r\n")])
        assert len(os.listdir(f"/proc/{server.workers()[0].pid}/task")) == 3


def test_at_worker_connections_the_longest_idle_make_room(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--worker-connections", "10")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(server)) for _ in range(10)]
        for peer in peers:
            peer.ask()
        with connected(server) as newcomer:
            assert newcomer.ask().status == 200
        until(lambda: peers[0].is_closed, "the end of the longest idle")
        assert not any(peer.is_closed for peer in peers[1:])


def test_at_worker_connections_nobody_is_accepted_who_has_no_room(arbiter: Arbiter) -> None:
    """The two who are there are in the middle of a body, and none of them goes for a third."""
    server = serve(arbiter, "--worker-connections", "2")
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(connected(server, post("/read", b"ab")[:-1])) for _ in range(2)]
        waiting = stack.enter_context(connected(server, GET))
        time.sleep(0.5)  # nothing is to happen

        assert not any(peer.is_closed for peer in senders)
        assert senders[0].ask(b"b").body == b"ab"
        senders[0].socket.close()
        assert waiting.response().status == 200


# Heads and bodies -----------------------------------------------------------------------------------------------------


ERRORS = [
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n", 413),
    (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n", 414),
    (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200, 431),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    (b"GET / HTTP/3.0\r\n\r\n", 505),
    (b"GET /boom HTTP/1.1\r\nHost: a\r\n\r\n", 500),
    (b"GET /exit HTTP/1.1\r\nHost: a\r\n\r\n", 500),
]


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_every_error_is_a_complete_response_and_the_worker_goes_on(arbiter: Arbiter, parser: str) -> None:
    server = serve(arbiter, "--limit-request-body", "1000", "--http", parser)
    server.expect("secret detail", "SystemExit")
    (worker,) = server.workers()

    for raw, status in ERRORS:
        for before in (b"", GET):  # as the first request, and after another
            with connected(server, before) as peer:
                if before:
                    peer.response()
                response = peer.ask(raw)
                assert (response.status, raw) == (status, raw)
                assert response[b"connection"] == b"close"
                assert response.body.startswith(b"%d " % status)
                assert b"secret" not in response.body
                assert peer.rest() == b""
        with connected(server) as peer:
            assert peer.ask().body == b"%d" % worker.pid


def test_a_body_of_any_size_is_whole_and_the_connection_goes_on(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    for size in (0, 1, 65_535, 65_536, 65_537, 3_000_000):
        body = os.urandom(size)
        with connected(server) as peer:
            for _ in range(2):
                assert peer.ask(post("/read", body)).body == body
            pieces = [body[at : at + 7000] for at in range(0, size, 7000)]
            chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            assert peer.ask(b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked).body == body
            assert peer.ask().status == 200


def test_a_body_that_trickles_holds_no_thread(arbiter: Arbiter) -> None:
    """Three bodies stop in their midst; there are two threads. All get their answers in the end."""
    server = serve(arbiter)
    raw = post("/read", b"abcdef")
    chunked = b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\n"
    with connected(server, raw[:-3]) as one, connected(server, raw[:-6]) as two, connected(server, chunked) as three:
        with connected(server) as peer:
            for _ in range(5):
                assert peer.ask().status == 200

        assert one.ask(b"def").body == b"abcdef"
        assert three.ask(b"def\r\n0\r\n\r\n").body == b"abcdef"
        for byte in b"abcdef":
            two.send(bytes([byte]))
        assert two.response().body == b"abcdef"


@pytest.mark.parametrize("size", [2, 100_000])
def test_100_continue_comes_at_once_and_the_wait_for_the_body_holds_no_thread(arbiter: Arbiter, size: int) -> None:
    server = serve(arbiter)
    head = post("/read", b"x" * size, "Expect: 100-continue")[:-size]
    with connected(server, head) as one, connected(server, head) as two, connected(server, head) as three:
        for peer in (one, two, three):
            assert peer.socket.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        with connected(server) as peer:
            assert peer.ask().status == 200
        for peer in (one, two, three):
            assert peer.ask(b"x" * size).body == b"x" * size


def test_what_the_application_does_not_read_is_not_the_next_request(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with connected(server, post("/ignore", GET)) as small:
        assert small.response().body == b"ignored"
        assert small.ask().status == 200
    with connected(server, post("/ignore", GET * 10_000)) as large:
        response = large.response()
        assert (response.body, response[b"connection"]) == (b"ignored", None)
        assert large.rest() == b""


def test_a_trickled_head_ends_at_its_deadline_and_is_told_so(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--head-timeout", "0.5")
    began, raw = time.monotonic(), b""
    with connected(server) as peer:
        peer.socket.settimeout(0.05)
        with contextlib.suppress(OSError):
            while time.monotonic() < began + 10:
                peer.send(b"X")
                with contextlib.suppress(TimeoutError):
                    raw = peer.socket.recv(65536)
                    break
        peer.socket.settimeout(20)

        assert Response(raw).status == 408
        assert time.monotonic() - began < 5


def test_a_silent_client_is_closed_at_the_deadline_without_a_word(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--head-timeout", "0.2")
    before = server.log()
    with connected(server) as peer:
        assert peer.rest() == b""
    assert server.log() == before


def test_a_body_that_stops_is_told_so_and_ends(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--write-timeout", "0.5")
    with connected(server, post("/read", b"abc")[:-1]) as peer:
        assert Response(peer.rest()).status == 408


def test_a_client_that_leaves_is_not_worth_a_word(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    before = server.log()
    for data in (b"", b"GET / HT", post("/read", b"abc")[:-1], GET):
        for how in (struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)):
            with connected(server, data) as peer:
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
    with connected(server) as peer:
        assert peer.ask().status == 200
    assert server.log() == before


def test_a_client_that_closes_its_sending_side_gets_its_answer(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with connected(server, GET) as peer:
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.response().status == 200
        assert peer.rest() == b""


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_refused_client_that_is_still_sending_gets_its_answer(arbiter: Arbiter, size: int) -> None:
    """Without lingering the kernel resets the connection, and the answer is lost."""
    server = serve(arbiter, "--limit-request-body", "10")
    with connected(server) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        peer.send(b"x" * size)

        assert Response(peer.rest()).status == 413


# Responses ------------------------------------------------------------------------------------------------------------


def test_pieces_given_at_once_arrive_while_the_application_makes_the_next(arbiter: Arbiter) -> None:
    """PEP 3333: a piece is not held back until the next one comes, though many leave in one send."""
    server = serve(arbiter)
    with connected(server, get("/burst")) as peer:
        peer.until(b"row 49\n\r\n")
        server.release()
        raw = peer.rest()
    rows = b"".join(b"%x\r\nrow %d\n\r\n" % (len(b"row %d\n" % number), number) for number in range(50))
    assert raw == rows, "the end is missing, and nothing else"
    server.expect("the disk has gone")


@pytest.mark.parametrize("path", [f"/large?{LARGE}", f"/pieces?{LARGE // 300_000}", "/file"])
def test_a_slow_reader_holds_no_thread(arbiter: Arbiter, path: str) -> None:
    """1. Three clients ask and read nothing; there are two threads. 2. Others ask. Result: served; then the three read all."""
    arbiter.write("large", "x" * LARGE)
    server = serve(arbiter, *ROOM)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server, get(path), receive_buffer=SMALL)) for _ in range(3)]
        with connected(server) as peer:
            for _ in range(10):
                assert peer.ask().status == 200

        for reader in slow:
            assert reader.response().body == b"x" * LARGE
            assert reader.ask().status == 200


@pytest.mark.parametrize("spool", ["512MiB", "16MiB", "0"])
def test_a_response_above_the_buffer_keeps_nobody_waiting_and_is_whole(arbiter: Arbiter, spool: str) -> None:
    """It waits on disk, or partly so (2 of 12 MB), or its thread waits, in whose place another one serves."""
    server = serve(arbiter, "--response-buffer", "10000", "--response-spool", spool, threads=1)
    for path in (f"/large?{LARGE}", f"/pieces?{LARGE // 300_000}"):
        with connected(server, get(path), receive_buffer=SMALL) as reader:
            with connected(server, GET) as other:
                assert other.response().status == 200
            assert reader.response().body == b"x" * LARGE
            assert reader.ask().status == 200


def test_responses_to_pipelined_requests_wait_for_a_slow_reader(arbiter: Arbiter) -> None:
    server = serve(arbiter, *ROOM)
    with connected(server, get(f"/large?{LARGE}") * 3 + get("/echo?end"), receive_buffer=SMALL) as reader:
        for _ in range(3):
            assert reader.response().body == b"x" * LARGE
        assert reader.response().body == b"end"


def test_who_reads_nothing_at_all_is_reset_after_write_timeout(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--write-timeout", "0.5", *ROOM)
    with connected(server, get(f"/large?{LARGE}"), receive_buffer=SMALL) as reader:
        server.wait_log("a client was too slow to read the response")
        with pytest.raises(AssertionError):
            Response(reader.rest()).body  # noqa: B018  the property asserts


def test_a_file_that_shrinks_while_a_slow_reader_takes_it_ends_in_a_reset(arbiter: Arbiter) -> None:
    large = arbiter.write("large", "x" * LARGE)
    server = serve(arbiter)
    server.expect("shorter while it was sent")  # if a thread sees it; the poller, which sends for slow readers, is silent
    with connected(server, get("/file"), receive_buffer=SMALL) as reader:
        reader.socket.recv(1)
        os.truncate(large, 1_000_000)
        assert len(reader.rest()) < LARGE
    with connected(server) as peer:
        assert peer.ask().status == 200


def test_a_file_is_closed_after_it_was_sent(arbiter: Arbiter) -> None:
    arbiter.write("large", "x" * LARGE)
    server = serve(arbiter)
    pid = server.workers()[0].pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for end in (True, False):
        with connected(server, get("/file"), receive_buffer=SMALL) as reader:
            if end:
                assert len(reader.response().body) == LARGE
            else:
                reader.socket.recv(1)
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before, "its descriptors to be what they were")


# The environ ----------------------------------------------------------------------------------------------------------


def test_the_environ_says_that_there_are_threads_and_who_asks(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with connected(server) as peer:
        host, port = peer.socket.getsockname()
        assert peer.ask(get("/multithread")).body == b"True"
        assert peer.ask(get("/peer")).body == f"{host} {port}".encode()


def test_a_unix_socket_has_a_peer_without_address(arbiter: Arbiter) -> None:
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", bind="unix:sock")

    assert server.get("/peer").text == " None"


def test_the_access_log_has_a_line_for_each_request(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--access-logfile", "-", "--access-logformat", '%(h)s "%(r)s" %(s)s %(B)s')
    server.expect("secret detail")
    with connected(server) as peer:
        peer.ask(get("/echo?abc"))
        until(lambda: server.out().count("\n") == 1, "the line, before the next request")
        peer.ask(get("/boom"))
    server.stop()

    assert server.out().splitlines() == [
        '127.0.0.1 "GET /echo?abc HTTP/1.1" 200 3',
        '127.0.0.1 "GET /boom HTTP/1.1" 500 0',
    ]


# The end --------------------------------------------------------------------------------------------------------------


def connect(server: Server) -> socket.socket:
    """A connection, also to a unix socket."""
    client = socket.socket(socket.AF_UNIX if isinstance(server.address, str) else socket.AF_INET)
    client.settimeout(20)
    client.connect(server.address)
    return client


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock"])
def test_a_stop_serves_what_was_asked_before_it_and_waits_for_nobody_else(arbiter: Arbiter, bind: str) -> None:
    """The worker is the last, and both of its threads are busy.

    1. Two requests hold the threads; a client is idle after its request, one has never said anything. 2. Ten more ask, and
    wait in the kernel. 3. TERM. 4. The two are let go.

    Result: the idle are closed, everyone else has an answer that says that it is the last, and the server ends with 0.
    """
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", workers=1, bind=bind)
    with contextlib.ExitStack() as stack:
        idle, silent = [stack.enter_context(connect(server)) for _ in range(2)]
        idle.sendall(GET)
        assert Response(idle.recv(65536)).status == 200
        held = [stack.enter_context(connect(server)) for _ in range(2)]
        for number, client in enumerate(held):
            client.sendall(get(f"/held?{number}"))
        until(lambda: all((server.folder / str(number)).exists() for number in range(2)), "two held requests")
        waiting = [stack.enter_context(connect(server)) for _ in range(10)]
        for client in waiting:
            client.sendall(GET)
        server.send(signal.SIGTERM)
        server.wait_log("stopping:")
        assert (idle.recv(1), silent.recv(1)) == (b"", b"")
        server.release()

        for client in [*held, *waiting]:
            response = Response(client.recv(65536))
            assert (response.status, response[b"connection"]) == (200, b"close")
            assert client.recv(1) == b""
        assert server.ended() == 0


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:sock"])
def test_an_idle_server_stops_at_once(arbiter: Arbiter, bind: str) -> None:
    """Whatever its clients are in the middle of that is not a request: connections kept and fresh, for each of four workers."""
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", workers=4, bind=bind)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(20)]
        for client in clients[:10]:
            client.sendall(GET)
            assert Response(client.recv(65536)).status == 200
        began = time.monotonic()

        assert server.stop() == 0
        assert time.monotonic() - began < 5
        assert all(client.recv(1) == b"" for client in clients)


# Threads --------------------------------------------------------------------------------------------------------------


def test_max_requests_are_counted_exactly_by_all_threads_together(arbiter: Arbiter) -> None:
    """Four threads, four connections, 100 requests each. Result: the worker says so at the hundredth, once, and serves on."""
    server = serve(arbiter, "--max-requests", "100", threads=4)
    (first,) = server.workers()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(server)) for _ in range(3)]
        for _ in range(33):
            for peer in peers:
                peer.send(GET)
            assert {peer.response().body for peer in peers} == {b"%d" % first.pid}
        assert server.count("max_requests") == 0  # after 99
        assert peers[0].ask().body == b"%d" % first.pid
        server.wait_log(r"it has served 100 requests \(max_requests\)")
    server.wait_log(r"worker=1 .* left after")

    assert server.count(r"to be replaced: it has served 100 requests") == 1


def test_a_request_that_only_waits_can_leave_its_place_to_another(arbiter: Arbiter) -> None:
    """1. Two threads, and three requests that wait and have said so by ``arbiter.io_bound``. 2. Others ask. Result: served."""
    server = serve(arbiter)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connected(server, get(f"/waiting?{number}"))) for number in range(3)]
        until(lambda: all((server.folder / str(number)).exists() for number in range(3)), "three held requests")
        with connected(server) as peer:
            for _ in range(20):
                assert peer.ask().status == 200
        server.release()
        assert all(peer.response().body == b"True" for peer in waiting)
        assert all(peer.ask().status == 200 for peer in waiting)
