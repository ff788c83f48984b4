"""Handing a connection to whichever worker has a thread for it: a listening socket for connections that exist already.

All workers of a service inherit both ends of one socket pair, as they inherit the listeners. A worker whose threads are all
busy sends connections on which a request has come, and nothing of it has been read, into one end (SCM_RIGHTS, unix(7)); the
other end is polled like a listener, by workers that have a free thread, the sender included. What is in between is the
kernel's: a worker that dies takes none of it along.

No more than `AT_ONCE` are handed over before those have been taken. So what is in the queue is there because somebody is
about to take it; where all workers are busy, connections stay where they are, and nothing is paid for moving them.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import termios
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arbiter.workers.client import Stage

if TYPE_CHECKING:
    from arbiter.workers.client import Client

AT_ONCE: Final = 4
"""A free worker takes and answers one in a tenth of a millisecond. The more there are, the longer the last of them waits if
the free thread is gone when it is its turn."""
_LONGEST: Final = 4096
"""Bytes of what is said of a connection: addresses, of which the longest is a unix socket's of 108."""
_ROOM: Final = socket.CMSG_SPACE(4)
"""For one descriptor, a C int."""
_NONE: Final = bytes(4)  # an int, 0


class Handed(NamedTuple):
    """A connection, and what the worker that takes it can't see of it."""

    connection: socket.SocketType
    server: tuple[str, str]
    """SERVER_NAME and SERVER_PORT: its listener's."""
    address: Any
    """The client's, as ``accept()`` gives it or as a proxy does."""
    shown: dict[str, str]
    """What a PROXY header has added to the environ."""
    is_kept: bool
    """It has had a response."""
    since: float
    """Monotonic seconds: when it had that, or when it came."""


class Handoff:
    """A worker's copy of the two ends. Each of the verbs is for one thread at a time."""

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        """`ends`: as `Order.handoff` has them."""
        self.inbox, self._outbox = ends

    @property
    def is_waiting(self) -> bool:
        """Whether a connection waits to be taken."""
        return fcntl.ioctl(self.inbox, termios.FIONREAD, _NONE) != _NONE

    def give(self, client: Client) -> bool:
        """Hand over a connection on which a request waits unread: the caller closes its copy then. False: it could not be.

        What keeps it here is nobody's fault, and temporary: the queue's size, or the descriptors that a user may have on
        their way (ETOOMANYREFS, unix(7)).
        """
        environ = client.environ
        said = {
            "server": (environ["SERVER_NAME"], environ["SERVER_PORT"]),
            "family": client.family,
            "address": client.address if isinstance(client.address, tuple) else None,
            "shown": {name: environ[name] for name in environ if name.startswith("PROXY_")},
            "kept": client.stage is Stage.KEPT,
            "since": client.since,
        }
        try:
            socket.send_fds(self._outbox, [json.dumps(said).encode()], [client.fd])
        except OSError:
            return False
        return True

    def take(self) -> Handed | None:
        """A connection that waits, if there is one.

        Raises:
            OSError: there is no descriptor for it. It waits on.
        """
        # recvmsg(2) drops a descriptor that finds no room, and with it the connection: see that there is room.
        os.close(os.dup(self.inbox.fileno()))
        try:
            # Not by socket.recv_fds: it forgets the flags (3.11), and what the application starts would inherit the connection.
            data, ((_, _, descriptor),), _, _ = self.inbox.recvmsg(_LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        # The sender may be of another version: a reload to another kind loads what is installed then. Names may be added,
        # and never changed.
        said = json.loads(data)
        return Handed(
            socket.SocketType(said["family"], socket.SOCK_STREAM, 0, int.from_bytes(descriptor, sys.byteorder)),
            tuple(said["server"]),
            tuple(said["address"]) if said["address"] else "",
            said["shown"],
            said["kept"],
            said["since"],
        )


def can_move(client: Client) -> bool:
    """Whether a connection can go to another worker: something waits on it, and all that came before has been answered.

    Under TLS the keys can't be handed over, and half a request is in this process's memory.
    """
    is_between = client.stage is Stage.KEPT or client.stage is Stage.FRESH
    return is_between and client.opening is None and not client.is_secured and client.unread
