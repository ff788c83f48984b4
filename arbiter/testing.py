"""A real server for tests: `with running(app) as url:` serves an application that is in memory, by forked workers.

The service is a child process with everything that a deployment has; the test goes on in its own. The child has what the test's
process had in memory at that moment, so an application may be made in a test, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import tempfile
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAVING: Final = 5.0
"""Seconds that the service may take to end, after its own `graceful_timeout`."""


class NotServingError(RuntimeError):
    """The application could not be served; the message is the service's log."""


@contextlib.contextmanager
def running(app: Any, *, patience: float = 30.0, **settings: object) -> Iterator[str]:
    """Serve an application, or one by its name, for as long as the block runs; gives its URL: ``http://127.0.0.1:4711``.

    Args:
        app: WSGI or ASGI.
        patience: seconds within which it must be ready.
        settings: any but `bind`; one worker, and five seconds of `graceful_timeout`, unless said otherwise.

    Raises:
        NotServingError: it could not be served.
    """
    settings = {"workers": 1, "graceful_timeout": 5.0, "prove": 0.0, **settings}
    with socket.socket() as listener, tempfile.TemporaryFile() as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        read_end, write_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork() among threads: the child uses none of their locks
            pid = os.fork()
        if pid == 0:
            os.close(read_end)
            _be_the_service(app, settings, listener, write_end, log.fileno())
        os.close(write_end)
        try:
            _await_ready(read_end, patience, log)
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            os.close(read_end)
            _end(pid, settings["graceful_timeout"])


def _be_the_service(app: Any, settings: dict[str, object], listener: socket.socket, ready: int, log: int) -> None:
    """In the child: serve, and end the process."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _die_with_parent()
        if "errorlog" not in settings:
            os.dup2(log, 2)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for ever; the test's own may be no file at all
        users = settings.get("when_ready")

        def when_ready(server: Any) -> None:
            os.write(ready, b"r")
            os.close(ready)
            if callable(users):
                users(server)

        from arbiter.embed import Arbiter

        settings.update(bind=f"fd://{listener.fileno()}", when_ready=when_ready)
        code = Arbiter(settings, app=app).run()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must not run the test once more
        os.write(log, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the test's process ends (PR_SET_PDEATHSIG, prctl(2)); Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _await_ready(read_end: int, patience: float, log: Any) -> None:
    if select.select([read_end], [], [], patience)[0] and os.read(read_end, 1):
        return
    log.seek(0)
    raise NotServingError(log.read().decode("utf-8", "replace") or f"it was not ready within {patience:g} s")


def _end(pid: int, grace: object) -> None:
    os.kill(pid, signal.SIGTERM)  # not reaped yet, so the pid is still its own
    deadline = time.monotonic() + (grace if isinstance(grace, int | float) else 0.0) + LEAVING
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.01)
