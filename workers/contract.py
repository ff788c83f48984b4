"""All that the supervisor and a worker know of each other: the one module of workers that the supervisor may import.

Four things cross the line between the two processes, and each is defined here and nowhere else, however long that gets:

* the **order**: what a worker, or the template that forks workers, is told at its fork (it travels in memory, by ``fork()``);
* the **channel**: one socket per worker or template that carries small JSON lines in both directions;
* the **exit code**: the worker's last word, and the supervisor's too;
* the **row**: the worker's line of the scoreboard, one writer, many readers.

Rules: nothing here performs a system call beyond a clock read, nothing here imports the server, and a message that its
reader does not understand must be refused, never guessed.
"""

from __future__ import annotations

import json
import signal
import struct
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from arbiter.config.schema import Settings

KINDS: Final[Mapping[str, str]] = {
    "sync": "arbiter.workers.sync:SyncWorker",
    "threaded": "arbiter.workers.threaded:ThreadedWorker",
    "async": "arbiter.workers.asynchronous:AsyncWorker",
}
"""Worker kinds by name: where the class is, as ``module:class``."""

AUTO: Final = "auto"
"""In place of a kind: the worker chooses when it has the application, and says so when it is ready."""


def choose_kind(*, is_asgi: bool, threads: int, has_websockets: bool) -> str:
    """The kind of worker that suits an application best; `has_websockets`: one of its own serves them."""
    return "async" if is_asgi or has_websockets else "threaded" if threads > 1 else "sync"


ENTRY: Final = "arbiter.workers.base:run"
TEMPLATE_ENTRY: Final = "arbiter.workers.template:run"
"""What a child runs: `run(order) -> exit status`. By name, for the same reason."""
STOCK_ENTRY: Final = "arbiter.workers.stock:lay_in"
"""What loads what all workers need, in the supervisor: `lay_in(kind, settings)`."""
CHECK_ENTRY: Final = "arbiter.workers.check:check"
"""What loads the application for ``--check-config``: `check(settings) -> Failed | None`."""


DUMP_SIGNAL: Final = signal.SIGRTMIN + 1
"""Makes a worker write the stacks of all its threads into its pipe, in C, whatever it does (faulthandler). A real-time signal,
which applications and libraries leave alone. By default it would end the process: sent to ready workers and to booting ones,
which handle it from their first moment on."""


class WorkerId(NamedTuple):
    """A worker's name for its whole life, given before its fork; the pid is the kernel's affair."""

    slot: int
    """The place it fills, 1..N: stable, and reused by successors (``ARBITER_WORKER_ID``)."""
    spawn: int
    """Which fork of this supervisor it is, counted from 1: never reused."""


class Exit(IntEnum):
    """What an exit status of Arbiter says. Workers and supervisor share the table; docs are made from it."""

    OK = 0
    START = 1
    USAGE = 2
    BOOT = 3
    NOT_FOUND = 4

    @property
    def meaning(self) -> str:
        """The sentence that the documentation prints beside the number."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Exit.OK: "Stopped as asked.",
    Exit.START: "Could not start: an address, a file or a permission that the start needs is not to be had.",
    Exit.USAGE: "A setting or an argument is wrong; all problems are listed.",
    Exit.BOOT: "The first worker did not boot: the application raised, hung or died while it was imported.",
    Exit.NOT_FOUND: "The application was not found: no such module or attribute, or it is not callable.",
}


class Log(Protocol):
    """What a worker needs of a log: the supervisor makes it, the fork carries it over."""

    def debug(self, text: str) -> None: ...
    def info(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def error(self, text: str) -> None: ...
    def exception(self, text: str) -> None:
        """``error`` with the traceback of the exception being handled below it."""

    def bind(self, *, worker: int, generation: int) -> Log:
        """The same log for another identity; the pid is read anew."""

    def reopen(self) -> None:
        """Open the files again under their names (after rotation)."""


class Writer(Protocol):
    """Where access log lines go; the supervisor opens it, the fork carries it over."""

    def write(self, lines: bytes) -> None:
        """Write lines, newlines included. Never raises."""

    def complain_to(self, complain: Callable[[str], None]) -> None:
        """Have `complain` told when lines begin to be lost."""

    def reopen(self) -> None:
        """Open the file again under its name (after rotation)."""


class Hooks(Protocol):
    """The operator's functions, as a worker calls them: one method for each moment; it does nothing where there is none.

    `post_fork`, `after_fork` and `post_worker_init` raise what they raise: the boot has failed. So does `pre_request`: its
    request has, and `ssl_context`: there is no TLS. All others log it.
    """

    watches_requests: bool
    """Whether there is any need to call the two about requests."""

    def has(self, name: str) -> bool:
        """Whether there is a function of that name."""

    def before_fork(self) -> None:
        """In the template."""

    def after_fork(self) -> None:
        """In a worker that a template has forked, before anything else."""

    def post_fork(self, sockets: Sequence[Any]) -> None:
        """In any worker, before the application is loaded; called also where there is no such function."""

    def post_worker_init(self, rows: Sequence[Row], app: Any, replace: Callable[[], None]) -> None:
        """When the application is loaded. `replace` has the worker replaced."""

    def ssl_context(self, factory: Callable[[], Any]) -> Any:
        """The SSLContext to be used in place of the factory's; only where there is such a function."""

    def worker_int(self) -> None: ...
    def worker_abort(self) -> None: ...
    def worker_exit(self) -> None: ...
    def pre_request(self, request: Any) -> Any:
        """Before a request; gives what `post_request` is to be given."""

    def post_request(self, req: Any, environ: dict[str, Any], exchange: Any) -> None:
        """After it, whatever became of it."""


class Interrupted(BaseException):
    """Raised in a worker's main thread by SIGINT or SIGQUIT: leave now. Nothing but the worker's base may catch it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to be; made by the supervisor just before the fork, read by the child only."""

    id: WorkerId
    generation: int
    settings: Settings
    kind: str
    """A key of `KINDS`, or `AUTO`."""
    listeners: tuple[socket.socket, ...]
    """Listening, non-blocking, shared with all other workers of the generation. Those of its slot come first."""
    own: int
    """How many are of its slot. The others are of other slots: it serves them when their workers don't (`reuse_port`)."""
    channel: socket.socket
    lifeline: int
    """Read end of a pipe whose write end only the supervisor holds: end of file means that it is gone. Opened for this worker
    alone, so that the kernel's signal about it goes to this worker."""
    dump: int
    """Write end of a pipe: where the stacks of all threads go on `DUMP_SIGNAL`."""
    rows: tuple[Row, ...]
    """The worker's own, then one for each of its threads, if it has threads."""
    log: Log
    access: Writer | None
    title: str
    """What a process list calls the application."""
    hooks: Hooks | None = None
    loader: Callable[[], Any] | None = None
    """Gives the application, where the settings do not name it."""
    handoff: tuple[socket.socket, socket.socket] | None = None
    """The two ends of a SOCK_SEQPACKET pair, non-blocking, shared with all other workers of the service: connections that a
    worker has no thread for go into the second and come out of the first. None: there is nobody to share them with."""

    @property
    def row(self) -> Row:
        """The worker's own row."""
        return self.rows[0]


@dataclass(frozen=True, slots=True)
class TemplateOrder:
    """What a template is to be: a process that loads the application and then forks workers, by orders over its channel."""

    generation: int
    settings: Settings
    kind: str
    channel: socket.socket
    """SOCK_SEQPACKET: a packet is one message, and the descriptors of a `Spawn` come with it."""
    lifeline: int
    dump: int
    log: Log
    access: Writer | None
    title: str
    worker: Callable[[Spawn, socket.socket], Order]
    """The order of a worker whose channel this is, and whose lifeline and dump pipe have taken the places of these."""
    hooks: Hooks | None = None
    loader: Callable[[], Any] | None = None
    """Gives the application, where the settings do not name it."""


# The channel ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker -> supervisor: the application is loaded and requests are being accepted."""

    name: ClassVar = "ready"
    serves: str = ""
    """What `auto` has made of it, and why, for a sentence: ``async, since live:app is an ASGI application``."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker -> supervisor: the boot failed; the worker exits with `code` right after."""

    name: ClassVar = "failed"
    phase: str
    """What it was doing, for a sentence: ``importing shop.wsgi``."""
    error: str
    """One line: ``ModuleNotFoundError: No module named 'redis'``."""
    traceback: str
    """The application's part of the traceback; may be empty."""
    code: int
    """One of `Exit`."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Worker -> supervisor: replace me when you can; I serve until you tell me to retire."""

    name: ClassVar = "spent"
    why: str


@dataclass(frozen=True, slots=True)
class Retiring:
    """Worker -> supervisor: I have stopped accepting on my own account and leave when my work is done."""

    name: ClassVar = "retiring"
    why: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Supervisor -> worker: stop accepting, finish what you have, leave."""

    name: ClassVar = "retire"
    last: bool = False
    """The whole service ends and nobody new gets in: take what waits in the backlog with you."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Supervisor -> worker: the service is about to stop. Serve on, but say no to health checks."""

    name: ClassVar = "drain"


@dataclass(frozen=True, slots=True)
class ReopenLogs:
    """Supervisor -> worker: open the log files again under their names."""

    name: ClassVar = "reopen-logs"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Supervisor -> template: fork this worker. With it come the worker's channel, dump pipe and lifeline."""

    name: ClassVar = "spawn"
    slot: int
    spawn: int
    place: int
    """The number of its first row on the scoreboard."""


@dataclass(frozen=True, slots=True)
class Born:
    """Template -> supervisor: the worker lives."""

    name: ClassVar = "born"
    spawn: int
    pid: int


@dataclass(frozen=True, slots=True)
class NotBorn:
    """Template -> supervisor: the worker could not be forked."""

    name: ClassVar = "not-born"
    spawn: int
    error: str


Message: TypeAlias = Ready | Failed | Spent | Retiring | Retire | Drain | ReopenLogs | Spawn | Born | NotBorn
_MESSAGES: Final[Mapping[str, type[Message]]] = {
    m.name: m for m in (Ready, Failed, Spent, Retiring, Retire, Drain, ReopenLogs, Spawn, Born, NotBorn)
}

MAX_MESSAGE: Final = 64 * 1024
"""Longest line on a channel, in bytes. A traceback of Python's deepest default recursion, once its repeats are folded,
is under 32 KiB; twice that is room. A peer that sends more has lost its framing."""


class ChannelError(ValueError):
    """The peer sent something that is not a message; the channel is of no use any more."""


def encode(message: Message) -> bytes:
    """One line for the channel. Long texts lose their middle: the first and the last lines of a traceback tell most."""
    given = asdict(message)
    line = json.dumps({"say": message.name, **given}).encode()
    if len(line) >= MAX_MESSAGE:
        # JSON escapes make at most twelve bytes of one character: two surrogates.
        room = MAX_MESSAGE // (16 * max(1, len(given)))
        given = {k: _without_middle(v, room) if isinstance(v, str) else v for k, v in given.items()}
        line = json.dumps({"say": message.name, **given}).encode()
    return line + b"\n"


def _without_middle(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room // 2]}\n  ...\n{text[-room // 2 :]}"


class Decoder:
    """Lines of a channel, as they come in pieces, into messages."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes.

        Raises:
            ChannelError: not a message, or longer than `MAX_MESSAGE`; the decoder is of no use after it.
        """
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            yield self._decode(line)
        if len(self._pending) > MAX_MESSAGE:
            raise ChannelError(f"a line of over {MAX_MESSAGE} bytes")

    @staticmethod
    def _decode(line: bytes) -> Message:
        try:
            given = json.loads(line)
            message = _MESSAGES[given.pop("say")](**given)
            if any(type(given[field.name]).__name__ != field.type for field in fields(message) if field.name in given):
                raise TypeError("a field of another type")  # noqa: TRY301 - answered below with the other misreadings
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ChannelError(f"not a message: {line[:80]!r}") from error
        return message


# The scoreboard's row -------------------------------------------------------------------------------------------------


class Doing(IntEnum):
    """What a worker (or one thread of it) is doing now."""

    NOTHING = 0
    """The row is free, or its worker is booting."""
    IDLE = 1
    READING = 2
    """Reading a request's head or body."""
    APP = 3
    """In the application."""
    WRITING = 4
    """Sending the response."""


_DOINGS: Final = {Doing.READING: "reading the request", Doing.APP: "in the application", Doing.WRITING: "sending the response"}


class Word(IntEnum):
    """Where each 64-bit word of a row lies. All times are CLOCK_MONOTONIC nanoseconds; 0 means none."""

    SEQUENCE = 0
    """Seqlock: odd while the writer is inside. Readers try again until they see the same even number twice."""
    DOING = 1
    DEADLINE = 2
    """The moment until which the worker vouches for itself; past it, it is stuck."""
    STARTED = 3
    """When the current request's first byte was read."""
    REQUESTS = 4
    BYTES = 5
    """Sent to clients, heads and bodies."""
    BUSY = 6
    """Nanoseconds spent on requests that have ended."""
    STATUS = 7
    """Five words: answers by status class, 1xx to 5xx."""
    LATENCY = 12
    """`BUCKETS` words: requests by duration, bucket k holds those of 2**(k-1) <= microseconds < 2**k."""
    WAITS = 36
    """`BUCKETS` words: connections by the time they lay in the kernel before a worker took them; see LATENCY."""
    TEXT_LENGTH = 60


BUCKETS: Final = 24
"""2**23 microseconds is 8.4 s; the last bucket holds all that took longer."""
TEXT_OFFSET: Final = 8 * (Word.TEXT_LENGTH + 1)
ROW_SIZE: Final = 1024
"""Bytes of a row: whole cache lines, so that two writers never share one (64 bytes on x86-64 and most ARM)."""
TEXT_SIZE: Final = ROW_SIZE - TEXT_OFFSET
"""Room for the client, the method and the target's beginning; enough to recognise a request."""


def client_name(address: object) -> bytes:
    """What a row calls a client with this address, as ``accept()`` gives it: ``127.0.0.1:4711``, ``[::1]:4711``, ``unix``."""
    if isinstance(address, tuple):
        host, port, *rest = address
        return f"[{host}]:{port}".encode() if rest else f"{host}:{port}".encode()  # IPv6 has a flow and a scope besides
    return b"unix"


class Seen(NamedTuple):
    """A consistent copy of a row."""

    doing: Doing
    deadline: float
    """Monotonic seconds; 0.0 means none."""
    started: float
    """Monotonic seconds; 0.0 outside a request."""
    text: str
    """Method and target (its beginning), escaped for a log line."""
    requests: int
    sent: int
    busy: float
    """Seconds."""
    statuses: tuple[int, ...]
    latency: tuple[int, ...]
    waits: tuple[int, ...]
    client: str = ""
    """Who asks (`client_name`); empty where that is not known."""


def steady(words: memoryview, copy: Callable[[], bytes]) -> bytes:
    """A copy that no writer has changed meanwhile; the first of `words` is the writer's `Word.SEQUENCE`."""
    copied = b""
    for _ in range(100):  # a writer is inside for microseconds, or has died there
        before = words[0]
        copied = copy()
        if before % 2 == 0 and words[0] == before:
            break
    return copied


_TEXT_AT: Final = 8 * Word.TEXT_LENGTH
_put_text: Final = struct.Struct(f"Q{TEXT_SIZE}s").pack_into
"""A half of what a store of one word and a slice of a memoryview take."""


class Row:
    """One line of the scoreboard: written by one worker (or thread), read by anyone.

    A store of one aligned word is atomic on every platform that CPython runs on; several words that belong together are
    bracketed by `Word.SEQUENCE`.
    """

    __slots__ = ("_bytes", "_words")

    def __init__(self, page: memoryview) -> None:
        """Over `ROW_SIZE` writable, 8-byte aligned bytes of shared memory."""
        self._bytes = page
        self._words = page.cast("Q")

    def clear(self) -> None:
        """Make the row free. Supervisor side, when no worker owns it."""
        self._bytes[:] = bytes(ROW_SIZE)

    def beat(self, deadline: float) -> None:
        """Vouch for this worker until `deadline` (monotonic seconds; 0.0: no deadline). Worker side."""
        self._words[2] = int(deadline * 1e9)

    def phase(self, doing: Doing) -> None:
        """Say what the worker does now. Worker side."""
        self._words[1] = doing

    def begin(self, method: bytes, target: bytes, client: bytes = b"", vouched: int = 0) -> int:
        """A request of `client` (`client_name`) has been read: it goes to the application now. Worker side.

        Args:
            method: of the request, as the target.
            target: its beginning will do.
            client: who asks.
            vouched: nanoseconds for which the worker vouches for itself from now on; 0: as long as it has said before.

        Returns:
            Now, in monotonic nanoseconds.
        """
        words = self._words
        text = b"%b %b %b" % (client, method, target)
        size = len(text)
        now = monotonic_ns()
        sequence = words[0]
        words[0] = sequence + 1
        words[1] = 3
        words[3] = now
        if vouched:
            words[2] = now + vouched
        _put_text(self._bytes, _TEXT_AT, min(size, TEXT_SIZE), text)  # cuts the text
        words[0] = sequence + 2
        return now

    def waited(self, microseconds: int) -> None:
        """A connection has been taken that lay so long in the kernel. Worker side."""
        bucket = microseconds.bit_length()
        self._words[36 + (bucket if bucket < BUCKETS else BUCKETS - 1)] += 1

    def end(self, status: int, sent: int) -> int:
        """The request of the last `begin` is over: `status` was answered with `sent` bytes. Worker side.

        Returns:
            Nanoseconds that it took.
        """
        words = self._words
        took = monotonic_ns() - words[3]
        bucket = (took // 1000).bit_length()
        sequence = words[0]
        words[0] = sequence + 1
        words[1] = 1
        words[3] = 0
        words[4] += 1
        words[5] += sent
        words[6] += took
        words[6 + status // 100 if 100 <= status < 600 else 11] += 1
        words[12 + (bucket if bucket < BUCKETS else BUCKETS - 1)] += 1
        words[0] = sequence + 2
        return took

    def count(self, status: int, sent: int, took: int) -> None:
        """One of many concurrent requests is over, which took so many nanoseconds: `end` without a `begin`. Worker side.

        It adds nothing to BUSY: requests that wait beside each other keep nobody busy. See `spent`. Counters only grow, and a
        reader that sees one of them a request ahead of the others sees nothing wrong: no seqlock.
        """
        words = self._words
        bucket = (took // 1000).bit_length()
        words[4] += 1
        words[5] += sent
        words[6 + status // 100 if 100 <= status < 600 else 11] += 1
        words[12 + (bucket if bucket < BUCKETS else BUCKETS - 1)] += 1

    def rest(self) -> None:
        """What the last `begin` has told of goes on, and does not hold the worker up any more. Worker side."""
        self._words[3] = 0

    def spent(self, nanoseconds: int) -> None:
        """A worker with many concurrent requests was busy for so long, whatever with. Worker side."""
        self._words[6] += nanoseconds

    def read(self) -> Seen:
        """What the row says now. Any process; a writer that died inside `begin` or `end` is read as it left the row."""
        copy = steady(self._words, lambda: bytes(self._bytes))
        words = memoryview(copy).cast("Q")
        client, _, text = copy[TEXT_OFFSET : TEXT_OFFSET + min(words[Word.TEXT_LENGTH], TEXT_SIZE)].partition(b" ")
        return Seen(
            doing=Doing(words[Word.DOING]),
            deadline=words[Word.DEADLINE] / 1e9,
            started=words[Word.STARTED] / 1e9,
            text=ascii(text.decode("latin-1"))[1:-1],
            requests=words[Word.REQUESTS],
            sent=words[Word.BYTES],
            busy=words[Word.BUSY] / 1e9,
            statuses=tuple(words[Word.STATUS : Word.STATUS + 5]),
            latency=tuple(words[Word.LATENCY : Word.LATENCY + BUCKETS]),
            waits=tuple(words[Word.WAITS : Word.WAITS + BUCKETS]),
            client=ascii(client.decode("latin-1"))[1:-1],
        )

    def describe(self, now: float, thread: int = 0) -> str:
        """What its writer is at, for a sentence; `thread` is its number in the worker, if it is one of several."""
        seen = self.read()
        if not seen.started:
            return "idle, and not heard of (stopped by a signal?)" if seen.doing is Doing.IDLE else "reading a request"
        client = f" from {seen.client}" if seen.client else ""
        where = _DOINGS.get(seen.doing, "between requests") + (f", thread {thread}" if thread else "")
        return f"{seen.text}{client} for {now - seen.started:.1f} s ({where})"

    def started(self) -> float:
        """When the current request began, in monotonic seconds; 0.0 between requests. One aligned word: no seqlock."""
        return self._words[3] / 1e9

    def deadline(self) -> float:
        """When the worker's word runs out, in monotonic seconds; 0.0 means never. One aligned word: no seqlock."""
        return self._words[2] / 1e9

    def added_to(self, total: Sequence[int]) -> list[int]:
        """`total` (`COUNTERS` words) with this row's counters added. Supervisor side."""
        counters = self._words[Word.REQUESTS : Word.REQUESTS + COUNTERS]
        return [a + b for a, b in zip(total, counters, strict=True)]


def requests(rows: Sequence[Row], now: float) -> list[str]:
    """The requests that the writers of these rows are in, the oldest first, each for a sentence; `now`: monotonic seconds."""
    busy = sorted((started, thread) for thread, row in enumerate(rows) if (started := row.started()))
    return [rows[thread].describe(now, thread) for _, thread in busy]


COUNTERS: Final = Word.TEXT_LENGTH - Word.REQUESTS
"""How many counter words a row has, from REQUESTS on."""
