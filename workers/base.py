"""A worker's life in the child: order, signals, application, READY, serve, drain, exit.

What all kinds share is here: how a worker hears (channel, signals, lifeline) and how it waits. A kind has one method of its
own, `serve`. Rules: the application is loaded with the default dispositions of all signals, so that a boot that hangs
can be ended by any of them; after READY nothing but `poll` blocks without a deadline; `Interrupted` is caught here only.
"""

from __future__ import annotations

import atexit
import errno
import faulthandler
import fcntl
import gc
import importlib
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from math import inf
from signal import Signals
from typing import TYPE_CHECKING, Any, Final

import setproctitle

from arbiter.workers import copies, heap, portal
from arbiter.workers.app import BootError, load, raised
from arbiter.workers.contract import (
    AUTO,
    DUMP_SIGNAL,
    KINDS,
    Decoder,
    Doing,
    Drain,
    Exit,
    Failed,
    Interrupted,
    Ready,
    ReopenLogs,
    Retire,
    Retiring,
    Spent,
    choose_kind,
    encode,
)
from arbiter.workers.detection import Interface, as_asgi3, interface_of
from arbiter.workers.privileges import drop
from arbiter.workers.protocols.http1 import head_parser
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.transport import queue_wait

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Hooks, Message, Order, TemplateOrder

WAIT: Final = select.EPOLLIN | select.EPOLLEXCLUSIVE
"""How to wait for a connection: the kernel wakes one worker for it, the first in line that waits (epoll_ctl(2))."""
ID_VARIABLE: Final = "ARBITER_WORKER_ID"
"""The environment variable in which a worker finds its slot."""
ORPHAN_GRACE: Final = 1.0
"""Seconds that a worker takes to finish its request once the supervisor is gone: long enough for a usual request, short
enough that a new service can have the sockets before anybody asks why it doesn't start."""
BREATH: Final = 0.5
"""Seconds until accept is tried again without descriptors, as nginx's accept_mutex_delay: the connection stays in the
backlog and would wake us at once."""
_REPEAT: Final = 10.0
"""Seconds from one complaint about descriptors to the next: a client that takes them all must not fill the disk as well."""
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
LONGEST_POLL: Final = 15.0
"""Longest wait for a connection, in seconds, whatever the timeout: each ends in an attempt to accept, which finds a
connection whose wake-up went to a worker that was stopped before it could accept."""


_ABORTED: Final = "SIGABRT"


class Worker(ABC):
    """What every kind of worker has."""

    def __init__(self, order: Order, app: Any) -> None:
        self.order = order
        self.settings = order.settings
        self.app = app
        self.log = order.log
        self.access = order.access
        if self.access:
            self.access.complain_to(order.log.warning)
        self.row = order.row
        self.listeners = order.listeners
        self.serves = ""
        """What it has become by itself, and why: for the log. Empty: what it was told."""
        self.retiring = False
        """Whether it has been told to go: finish, and return from `serve`."""
        self.last = False
        """Whether nobody comes after it: when `retiring`, it first takes all that waits in the backlog."""
        self.draining = False
        """Whether the service is about to stop: health checks say no, all else is as before."""
        self.retired_at = inf
        """When it was told to go, in monotonic seconds."""
        self._interrupted = False
        self._orphan = False
        self._decoder = Decoder()
        self._by_fd = {listener.fileno(): listener for listener in order.listeners}
        self._foreign = frozenset(order.listeners[order.own :])
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._epoll.register(order.channel, select.EPOLLIN)
        self._epoll.register(order.lifeline, 0)  # EPOLLHUP needs no asking for

        self._silent_until = 0.0  # what accept fails with is told again then
        self.measures_waits = bool(self.settings.max_workers)
        """Whether `note_wait` has anything to do."""
        self._quota = 0
        if self.settings.max_requests:
            self._quota = self.settings.max_requests + random.randint(0, self.settings.max_requests_jitter)  # noqa: S311 - no secret
        self._requests_left = self._quota
        self._counting = threading.Lock()

    @abstractmethod
    def warm(self, path: str) -> int:
        """The status with which the application answers a GET of `path`, made in this process.

        Raises:
            Refusal: `path` is not a request's target.
        """

    @abstractmethod
    def serve(self) -> None:
        """Serve until `retiring`, then finish what was begun, and return."""

    def poll(self, timeout: float | None = None) -> list[socket.socket]:
        """The listeners that may have a connection; waits up to `timeout` seconds for one, or for an order.

        Vouches for the worker meanwhile. May return listeners that have none, or nothing: look at `retiring`, ask again.
        """
        patience = min(self.settings.timeout / 2 or LONGEST_POLL, LONGEST_POLL)
        wait = patience if timeout is None else min(timeout, patience)
        self.vouch()
        ready = self._epoll.poll(wait)
        self.vouch()
        return self.attend(ready) if ready else list(self.listeners)

    def attend(self, ready: list[tuple[int, int]]) -> list[socket.socket]:
        """Hear what has come by the descriptors of `orders`; the listeners among them are returned."""
        found = []
        for fd, _ in ready:
            if listener := self._by_fd.get(fd):
                found.append(listener)
                if listener in self._foreign:  # stand at the end of the line: its own worker is asked first from now on
                    with suppress(OSError, ValueError):  # closed: the supervisor is gone
                        self._epoll.unregister(listener)
                        self._epoll.register(listener, WAIT)
            elif fd == self._wake_read:
                os.read(fd, 4096)
            elif fd == self.order.lifeline:
                self._orphaned()
            else:
                self._hear()
        return found

    @property
    def orders(self) -> int:
        """A descriptor that can be read from when `attend` has something to hear: for those who wait elsewhere."""
        return self._epoll.fileno()

    def poll_orders(self) -> list[tuple[int, int]]:
        """What `attend` wants, without waiting."""
        return self._epoll.poll(0)

    def close(self) -> None:  # noqa: B027 - most kinds have nothing to close
        """The end of a worker that was made, however it ends; after `serve`, if it came to that. Never raises."""

    def accept_descriptor(self, listener: socket.socket) -> tuple[int, Any] | None:
        """A connection that waits, and its address; None if there is none or it can't be had."""
        try:
            # What socket.accept does, without turning three numbers into enums: 2 us of about 40.
            accepted: tuple[int, Any] = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  see above
        except OSError as error:
            self.not_accepted(error)
            return None
        return accepted

    def not_accepted(self, error: OSError) -> None:
        """Why accept has given no connection; take a breath if it will give none for a while.

        Raises:
            OSError: `error`, if it is none that accept is known to give.
        """
        if isinstance(error, BlockingIOError | ConnectionAbortedError):
            return  # another worker was quicker, or the client has gone
        if error.errno in (errno.EINVAL, errno.EBADF):
            return  # the doors are closed, by the supervisor or because it is gone: nobody is there, nobody comes
        if error.errno not in _NO_DESCRIPTORS:
            raise error
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _REPEAT
            self.log.warning(
                f"accept failed: {error.strerror}. Connections wait; trying again in {BREATH} s, or without the idle."
            )
        self.breathe()

    @abstractmethod
    def breathe(self) -> None:
        """Do not accept for `BREATH` seconds."""

    def vouch(self) -> None:
        """Say that the worker is alive and expects to say so again within `timeout`."""
        timeout = self.settings.timeout
        self.row.beat(time.monotonic() + timeout if timeout else 0.0)

    def count_request(self) -> None:
        """A request is over; the one that uses up `max_requests` makes the worker ask for a successor. For any thread."""
        if not self._quota:
            return
        with self._counting:
            self._requests_left -= 1
            is_last = self._requests_left == 0
        if is_last:
            self.say(Spent(f"it has served {self._quota} requests (max_requests)"))

    def note_wait(self, client: socket.SocketType) -> None:
        """Count how long a connection that was just accepted lay in the kernel, where the load is measured.

        tcp_info's tcpi_last_data_recv (tcp(7)): milliseconds since its last bytes came, or since it was established. Right
        after accept that is the time that nobody had for it. Unix sockets have no such thing.
        """
        if self.measures_waits and client.family != socket.AF_UNIX:
            self.row.waited(int(queue_wait(client) * 1e6))

    def ask_for_successor(self) -> None:
        """A hook has set worker.alive = False."""
        self.say(Spent("a hook set worker.alive to False"))

    def say(self, message: Message) -> None:
        """Tell the supervisor; if it is not there to hear, the lifeline tells us so soon enough."""
        try:
            self.order.channel.sendall(encode(message))
        except OSError:
            pass

    def listen(self) -> None:
        """Have `poll` wait for connections too. A kind that waits for them elsewhere does so here."""
        for listener in self.listeners:
            self._epoll.register(listener, WAIT)

    def start(self) -> None:
        """Take signals, wait on the listeners, and say READY."""
        self.listen()
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGQUIT, self._on_interrupt)
        signal.signal(signal.SIGUSR1, self._on_reopen)
        signal.signal(signal.SIGIO, self._on_lifeline)
        self.vouch()
        self.row.phase(Doing.IDLE)
        self.say(Ready(self.serves))

    def _hear(self) -> None:
        """Read the channel."""
        try:
            data = self.order.channel.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # reset: the supervisor was killed before it had read our last words
        if not data:
            self._orphaned()
        for message in self._decoder.feed(data):
            match message:
                case Retire(last):
                    self._retire()
                    self.last = self.last or last
                case Drain():
                    self.draining = True
                case ReopenLogs():
                    reopen(self.order)

    def _retire(self) -> None:
        self.retiring = True
        self.retired_at = min(self.retired_at, time.monotonic())

    def _on_term(self, _signum: int, _frame: FrameType | None) -> None:
        if not self.retiring:
            self._retire()
            self.say(Retiring("SIGTERM was sent to the worker itself"))

    def _on_interrupt(self, signum: int, _frame: FrameType | None) -> None:
        if not self._interrupted:  # once is enough: the way out must not be interrupted
            self._interrupted = True
            if self.order.hooks:
                self.order.hooks.worker_int()
            raise Interrupted(Signals(signum).name)

    def _on_reopen(self, _signum: int, _frame: FrameType | None) -> None:
        reopen(self.order)

    def _on_lifeline(self, _signum: int, _frame: FrameType | None) -> None:
        """SIGIO: the pipe's other end was closed. It comes in the middle of a request too, where nothing polls."""
        self._orphaned()

    def _orphaned(self) -> None:
        """The supervisor is gone: finish the request within `ORPHAN_GRACE`; the kernel sees to it, whatever Python does."""
        if self._orphan:
            return  # poll and SIGIO both tell; the second may come in the middle of the first
        self._orphan = True
        self._retire()
        self.last = False
        for listener in self.listeners:
            listener.close()  # at once: whoever is started in the supervisor's place wants the address
        for descriptor in (self.order.lifeline, self.order.channel.fileno()):
            with suppress(OSError):
                self._epoll.unregister(descriptor)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, ORPHAN_GRACE)
        self.log.warning("the supervisor is gone; leaving")


def run(order: Order) -> int:
    """A worker's whole life. Called once in the child, by `spawn`. Returns the exit status."""
    return live(order, load_application)


def live(order: Order, application: Callable[[Order], Any]) -> int:
    """A worker's whole life with the application that `application` gives. Returns the exit status."""
    settle_in(order, f"worker {order.id.slot}")
    wires = (order.channel.fileno(), order.dump, order.lifeline)
    shared = (*order.listeners, *(order.handoff or ()))
    copies.own((*(each.fileno() for each in shared), *wires), order.log)
    os.environ[ID_VARIABLE] = str(order.id.slot)
    portal.furnish(factory=partial(_new_loop, order.settings.asgi_loop), log=order.log)
    heap.keep()
    hooks = order.hooks
    code = Exit.OK
    try:
        if hooks:
            prepare(order.settings)
            if order.settings.preload_app:
                attempt("after_fork", hooks.after_fork)
            attempt("post_fork", lambda: hooks.post_fork(order.listeners))
            if hooks.has("worker_abort"):
                signal.signal(signal.SIGABRT, partial(_on_abort, hooks))
        app = take_application(order, application)
        worker = _hire(order, app)
        try:
            if hooks:
                attempt("post_worker_init", lambda: hooks.post_worker_init(order.rows, app, worker.ask_for_successor))
            _warm_up(worker)
            gc.collect()
            heap.trim()
            gc.freeze()  # the application's modules are here to stay: no pass of the collector, in a request, has to see them
            worker.start()
            worker.serve()
        finally:
            worker.close()
        # Half of the grace, as for streams: what is cancelled needs time to end, and who retires us kills at its end.
        portal.outlast(max(0.0, worker.retired_at + order.settings.graceful_timeout / 2 - time.monotonic()))
    except BootError as error:
        order.channel.sendall(encode(error.failed))
        if hooks:
            hooks.worker_exit()
        return error.failed.code
    except OSError:
        if not _has_lost_descriptors(order):
            raise
        return Exit.BOOT
    except Interrupted as interruption:
        portal.outlast(0.0)
        code = Exit.START if interruption.args == (_ABORTED,) else Exit.OK
    if hooks:
        hooks.worker_exit()
    _run_exit_functions(order)
    return code


def take_application(order: Order | TemplateOrder, load: Callable[[Any], Any]) -> Any:
    """The application that `load` gives; a copy of this process that it has forked does not come back from here.

    Raises:
        BootError: it can't be had.
    """
    try:
        app = load(order)
    except BootError as error:
        if copies.this.is_copy:
            copies.leave(error.__cause__)
        raise
    if copies.this.is_copy:
        copies.leave()
    return app


def attempt(hook: str, call: Callable[[], None]) -> None:
    """Call a hook that is part of the boot.

    Raises:
        BootError: it raised.
    """
    try:
        call()
    except Interrupted:
        raise
    except BaseException as error:  # an operator's function may raise anything, sys.exit() included
        if copies.this.is_copy:
            copies.leave(error)
        raise raised(f"calling the hook {hook}", error) from error


def _on_abort(hooks: Hooks, _signum: int, _frame: FrameType | None) -> None:
    """SIGABRT, where there is a hook worker_abort; else its default action ends the process."""
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    hooks.worker_abort()
    raise Interrupted(_ABORTED)


def prepare(settings: Settings) -> None:
    """What applications and hooks see before anything of theirs runs: environment and import path."""
    os.environ.update((name, value) for name, value in settings.raw_env if name != ID_VARIABLE)  # its value is ours to say
    path = [*settings.pythonpath, settings.chdir]
    if sys.path[: len(path)] != path:
        sys.path[:0] = path


def _new_loop(choice: str) -> asyncio.AbstractEventLoop:
    from arbiter.workers.loops import new_loop  # when it is needed: it needs asyncio

    return new_loop(choice)


def _hire(order: Order, app: Any) -> Worker:
    """The worker that serves `app`: of the kind that was ordered or, by `AUTO`, suits it best.

    Raises:
        BootError: there is none under these settings.
    """
    try:
        head_parser(order.settings.http)
    except ImportError as error:
        reason = f"http = {order.settings.http}: it can't be imported ({error}): pip install httptools, or set http to auto"
        raise BootError(Failed("loading the HTTP parser", reason, "", Exit.BOOT)) from error
    interface = interface_of(app, order.settings.interface)
    kind = kind_for(order.kind, order.settings, is_asgi=interface.is_asgi)
    worker = worker_class(kind, interface)(order, as_asgi3(app) if interface is Interface.ASGI2 else app)
    if order.kind == AUTO:
        worker.serves = f"{kind}, for {order.title} is {interface.value}"
    return worker


def kind_for(kind: str, settings: Settings, *, is_asgi: bool) -> str:
    """The key of `KINDS` that an order for `kind`, which may be `AUTO`, comes to with such an application."""
    has_websockets = settings.websocket_app is not None
    if kind == AUTO:
        kind = choose_kind(is_asgi=is_asgi, threads=settings.threads, has_websockets=has_websockets)
    if has_websockets and kind == "threaded":
        kind = "async"  # WebSockets live on a loop, and so, in threads from there, does what is beside them
    return kind


def settle_in(order: Order | TemplateOrder, role: str) -> None:
    """Give this process its title, and make it show its stacks when asked and leave when the supervisor is gone.

    What it has inherited is frozen: the garbage collector writes to every object that it looks at, so its first pass during the
    import of the application would make a private copy of all that the supervisor has loaded (4 MB in each worker).
    """
    gc.freeze()
    setproctitle.setproctitle(f"arbiter: {role} (gen {order.generation}) [{order.title}]")
    faulthandler.register(DUMP_SIGNAL, order.dump, all_threads=True)
    _watch_lifeline(order.lifeline)


def _watch_lifeline(lifeline: int) -> None:
    """Have the kernel send SIGIO when the supervisor is gone (fcntl(2), F_SETOWN and O_ASYNC; pipes do it on Linux).

    Until `Worker.start` its default action ends the process, also in the middle of an import that hangs. The owner belongs
    to the open file: had this process not one of its own, only the youngest of all workers would be told.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it went before we looked
        os._exit(Exit.OK)


def reopen(order: Order | TemplateOrder) -> None:
    """Open the log files again under their names."""
    try:
        order.log.reopen()
        if order.access:
            order.access.reopen()
    except Exception as error:  # noqa: BLE001 - a log that can't be reopened is no reason to stop serving
        order.log.warning(f"{error} The file that is open goes on being written.")


_CROSSED: Final = {
    ("sync", True): "arbiter.workers.crossed:OneByOneWorker",
    ("threaded", True): "arbiter.workers.asynchronous:AsyncWorker",
    ("async", False): "arbiter.workers.crossed:LoopGatewayWorker",
}
"""By kind, and whether the application is ASGI: who serves it, where that is not who serves the other interface."""
PLACES: Final = (*KINDS.values(), *_CROSSED.values())
"""Where all classes of workers are."""


def worker_class(kind: str, interface: Interface) -> type[Worker]:
    """The class of this kind of worker for such an application."""
    return _class_at(class_place(kind, is_asgi=interface.is_asgi))


def class_place(kind: str, *, is_asgi: bool) -> str:
    """Where the class of this kind of worker for such an application is, as ``module:class``."""
    return _CROSSED.get((kind, is_asgi)) or KINDS[kind]


def _class_at(place: str) -> type[Worker]:
    module, _, name = place.partition(":")
    found: type[Worker] = getattr(importlib.import_module(module), name)
    return found


def load_application(order: Order | TemplateOrder) -> Any:
    """The application, in a process that has become what applications are promised: user, directory, environment.

    Raises:
        BootError: it can't be had.
    """
    settings = order.settings
    if settings.certfile:
        _read_keys(order)
    if settings.user or settings.group:  # before they are taken on: Arbiter itself may be installed where they can't read
        for place in PLACES:
            _class_at(place)
    prepare(settings)
    os.umask(settings.umask)
    try:
        drop(settings.user, settings.group, initgroups=settings.initgroups)
    except (OSError, LookupError) as error:
        wanted = f"user {settings.user}, group {settings.group}"
        raise BootError(Failed(f"becoming {wanted}", f"{error}. Only root may change.", "", Exit.BOOT)) from error
    try:
        os.chdir(settings.chdir)
    except OSError as error:
        raise BootError(Failed("entering its directory", f"{settings.chdir}: {error.strerror}", "", Exit.BOOT)) from error
    return _from_program(order.loader) if order.loader else load(settings.wsgi_app or "")


def _read_keys(order: Order | TemplateOrder) -> None:
    """Read what TLS needs, as the user that started us: the key's file may be root's only.

    Raises:
        BootError: it is of no use.
    """
    from arbiter.workers import tls

    customize = None
    if order.hooks and order.hooks.has("ssl_context"):
        prepare(order.settings)  # it may have to be imported
        customize = order.hooks.ssl_context
    try:
        tls.prepare(order.settings, order.log, customize)
    except tls.TlsError as error:
        raise BootError(Failed("reading the files of TLS", str(error), "", Exit.START)) from error


def _has_lost_descriptors(order: Order) -> bool:
    """Whether somebody has closed what the worker was given to hear of its supervisor; if so, the log says it."""
    try:
        os.fstat(order.lifeline)
    except OSError:
        pass
    else:
        return False
    order.log.error(
        "the application has closed file descriptors that are not its own: this worker can't go on. Does it make a daemon of "
        "its process?"
    )
    return True


def _from_program(loader: Callable[[], Any]) -> Any:
    """The application of a program that embeds the server."""
    try:
        return loader()
    except Interrupted:
        raise
    except BaseException as error:  # the program's own
        raise raised("loading the application that the program gives", error) from error


def _warm_up(worker: Worker) -> None:
    for path in worker.settings.warmup:
        during = f"warming up with GET {path}"
        try:
            status = worker.warm(path)
        except Refusal as refusal:
            raise BootError(Failed(during, f"not a request: {refusal.reason}", "", Exit.BOOT)) from refusal
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise BootError(Failed(during, f"the application answered {status}; see the lines before this", "", Exit.BOOT))


def _run_exit_functions(order: Order) -> None:
    """What the application has registered with atexit: `os._exit`, which ends a child, runs none of it."""
    try:
        atexit._run_exitfuncs()  # noqa: SLF001 - there is no public name
    except Exception:  # the application's own
        order.log.exception("an atexit function of the application raised")
