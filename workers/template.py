"""A template's life in the child: it loads the application once, then forks a worker for each order, until it is killed.

Workers share with it, and with each other, all memory that nobody has written since (fork(2), copy on write). What Python
itself would write is kept from it: garbage is collected before, and what is left is taken out of the collector's sight.

Rules: a worker is forked by a process between, which leaves at once, so that its parent is the supervisor, which reaps it; a
template has the default dispositions of all signals, whatever it does; in a worker nothing of the template's is left open.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers import copies, heap, portal
from arbiter.workers.app import BootError
from arbiter.workers.base import live, load_application, reopen, settle_in, take_application
from arbiter.workers.contract import MAX_MESSAGE, Born, Decoder, Exit, NotBorn, Ready, ReopenLogs, Spawn, encode

if TYPE_CHECKING:
    from arbiter.workers.contract import Message, Order, TemplateOrder

OWN_DESCRIPTORS: Final = 3
"""How many descriptors come with an order: the worker's channel, its dump pipe, its lifeline."""

_NO_PORTAL: Final = (
    "arbiter.portal can't be used while the application is loaded with --preload: the loop's thread would stay behind when the "
    "workers are forked. Use it on first use, in the worker; or do without --preload."
)


def run(order: TemplateOrder) -> int:
    """A template's whole life, and then that of each worker that it forks. Called in the child, by `spawn`.

    Returns:
        The exit status, of the template or of a worker: it returns once in each process.
    """
    settle_in(order, "template")
    copies.own((order.channel.fileno(),), order.log)
    began = time.monotonic()
    inherited = _sockets()
    portal.refuse(_NO_PORTAL)
    try:
        app = take_application(order, load_application)
    except BootError as error:
        _say(order, error.failed)
        return error.failed.code
    copies.disown()
    gc.collect()
    heap.trim()
    gc.freeze()
    order.log.info(f"template: application loaded after {time.monotonic() - began:.2f} s; workers are forked from it")
    _warn(order, inherited)
    _say(order, Ready())
    if not (worker := _fork_workers(order)):
        return Exit.OK

    def loaded(_order: Order) -> Any:
        return app

    portal.refuse("")
    return live(worker, loaded)


def _fork_workers(order: TemplateOrder) -> Order | None:
    """Fork a worker whenever the supervisor says so. In each worker: its order. In the template, at the end: None."""
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(order.channel, MAX_MESSAGE, OWN_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None  # the application has closed it: a new template is made when one is needed
        if not data:
            return None
        for message in Decoder().feed(data):  # a packet is one whole message
            match message:
                case Spawn():
                    if worker := _bear(order, message, descriptors):
                        return worker
                case ReopenLogs():
                    reopen(order)
                case _:
                    pass


def _bear(order: TemplateOrder, spawn: Spawn, descriptors: list[int]) -> Order | None:
    """Fork a worker. In the worker: its order. In the template: None, when the supervisor has been told how it went."""
    try:
        if len(descriptors) < OWN_DESCRIPTORS:  # recvmsg(2): those that find no room are lost
            _say(order, NotBorn(spawn.spawn, "the template has no descriptors left (RLIMIT_NOFILE)"))
            return None
        if not _is_worker(order, spawn.spawn):
            return None
        channel, dump, lifeline = descriptors
        os.dup2(dump, order.dump, inheritable=False)  # in one step: stacks may be asked for at any time
        os.dup2(lifeline, order.lifeline, inheritable=False)
        order.channel.close()
        return order.worker(spawn, socket.socket(fileno=os.dup(channel)))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _is_worker(order: TemplateOrder, spawn: int) -> bool:
    """Fork twice. In the grandchild: True. In the template: False, when the process between has left."""
    if order.hooks:
        order.hooks.before_fork()
    sys.stdout.flush()  # else what is in the buffers comes out twice
    sys.stderr.flush()
    # A signal must find either the template or the worker, never the process between: it could be lost with that.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        try:
            between = os.fork()
        except OSError as error:
            _say(order, NotBorn(spawn, error.strerror or str(error)))
            return False
        if between == 0:
            _fork_and_leave(order, spawn)
            return True
        if not _has_left_well(between):
            _say(order, NotBorn(spawn, "the process that was to fork it has been killed"))
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork_and_leave(order: TemplateOrder, spawn: int) -> None:
    """In the process between: fork the worker, say its pid, and end. Returns in the worker."""
    try:
        pid = os.fork()
    except OSError as error:
        _say(order, NotBorn(spawn, error.strerror or str(error)))
        os._exit(0)
    if pid:
        _say(order, Born(spawn, pid))
        os._exit(0)


def _has_left_well(between: int) -> bool:
    try:
        return os.waitpid(between, 0)[1] == 0
    except ChildProcessError:
        return True  # the application has SIGCHLD ignored, and so the kernel has reaped it


def _say(order: TemplateOrder, message: Message) -> None:
    try:
        order.channel.sendall(encode(message))
    except OSError:
        pass  # nobody is there to hear: then the lifeline ends this process


# What does not survive a fork -----------------------------------------------------------------------------------------


def _warn(order: TemplateOrder, inherited: set[tuple[int, int]]) -> None:
    """Name what the application has made that its workers will not have, or will have all together."""
    if threads := _threads():
        order.log.warning(
            f"template: threads run after the import of {order.title}: {', '.join(threads)}. Workers are forked without them, "
            "and what they have locked stays locked there. Start threads in the worker, on first use; or do without --preload."
        )
    if opened := [_describe(descriptor) for descriptor, _ in sorted(_sockets() - inherited)]:
        order.log.warning(
            f"template: sockets are open after the import of {order.title}: {', '.join(opened)}. All workers would share "
            "them, and read each other's answers. Close them, or connect in the worker, on first use; or do without --preload."
        )


def _threads() -> list[str]:
    """The names of all threads but this one, also of those that Python does not know."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = []
    for entry in os.listdir("/proc/self/task"):
        if (number := int(entry)) != threading.get_native_id():
            try:
                with open(f"/proc/self/task/{number}/comm") as file:
                    found.append(known.get(number) or f"{file.read().strip()} (not Python's)")
            except OSError:
                pass  # it has just ended
    return sorted(found)


def _sockets() -> set[tuple[int, int]]:
    """Descriptor and inode of every open socket."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(entry))
        except OSError:
            continue  # the descriptor by which the directory was read
        if stat.S_ISSOCK(status.st_mode):
            found.add((int(entry), status.st_ino))
    return found


def _describe(descriptor: int) -> str:
    """A socket in a few words: whom it leads to, or where it is."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        try:
            where, what = copy.getpeername(), "connected to"
        except OSError:
            where, what = copy.getsockname(), "at"
    if isinstance(where, tuple):
        return f"{what} {where[0]}:{where[1]}"
    return f"{what} {where!r}" if where else "one of a pair"
