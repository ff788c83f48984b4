"""The server inside of a program: `arbiter.serve(app, workers=2)`, or `Arbiter(...).run()`, to be stopped from any thread.

Nothing is read but what is given: no command line, no environment, no file. The supervisor runs in the calling process, in its
main thread, because signals go there; workers are forked from it, and have the application as it is in memory.
"""

from __future__ import annotations

import inspect
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

from arbiter.config.resolve import resolve_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Arbiter:
    """One service, to be run once."""

    def __init__(
        self,
        settings: Mapping[str, object] | Callable[[], Mapping[str, object]] | None = None,
        *,
        app: Any = None,
        loader: Callable[[], Any] | None = None,
        **more: object,
    ) -> None:
        """Resolve the settings.

        Args:
            settings: by name, as in a Python file; or what gives them, which is called again at each reload.
            app: the application, or its name; else `wsgi_app` among the settings is one.
            loader: gives the application; called in each worker.
            more: more settings.

        Raises:
            arbiter.config.provenance.ConfigError: with every problem that was found.
        """
        if isinstance(app, str):
            more["wsgi_app"] = app
        elif app is not None:
            loader = _Given(app)
            if "worker_class" not in {**more, **(settings if isinstance(settings, dict) else {})} and _is_asgi(app):
                more["worker_class"] = "async"

        def given() -> dict[str, object]:
            values = settings() if callable(settings) else settings
            found = {**(values or {}), **more}
            if loader:
                found.setdefault("wsgi_app", _name(app))
            return found

        self._resolved = resolve_values(given, loader, os.getcwd())
        self._remote: Final = _Remote()

    def run(self) -> int:
        """Serve until told to stop, by `stop` or a signal. The exit status: 0 if all is well.

        Raises:
            arbiter.errors.StartError: the service can't start: an address, a file or a permission is not to be had.
            RuntimeError: this is not the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("run() needs the main thread: signals go there. In tests, use arbiter.testing.running().")
        from arbiter.signals import SIGNALS
        from arbiter.supervisor import Supervisor

        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        directory = os.getcwd()
        try:
            return Supervisor(self._resolved, remote=self._remote.connect).run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.chdir(directory)

    def stop(self, *, graceful: bool = True) -> None:
        """Have `run` return: when requests are finished, or at once. For any thread, before and after `run` too."""
        self._remote.ask(signal.SIGTERM if graceful else signal.SIGINT)

    def reload(self) -> None:
        """Do what SIGHUP does. For any thread."""
        self._remote.ask(signal.SIGHUP)


class _Remote:
    """What is asked of a service, from any thread, whether it runs yet, still, or not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._post: Callable[[signal.Signals], None] | None = None
        self._waiting: list[signal.Signals] = []

    def connect(self, post: Callable[[signal.Signals], None] | None) -> None:
        """The service runs, and is asked by `post`; or (None) does not any more."""
        with self._lock:
            self._post = post
            for number in self._waiting if post else ():
                post(number)  # type: ignore[misc]  # mypy does not see that there are none without it
            self._waiting.clear()

    def ask(self, number: signal.Signals) -> None:
        """Ask now, or as soon as it runs."""
        with self._lock:
            if self._post:
                self._post(number)
            else:
                self._waiting.append(number)


def serve(app: Any, **settings: object) -> int:
    """Serve an application, or one by its name, until told to stop by a signal. The exit status.

    Raises:
        arbiter.config.provenance.ConfigError: a setting is wrong.
        arbiter.errors.StartError: the service can't start.
    """
    return Arbiter(settings, app=app).run()


class _Given:
    """Gives an application that is in memory."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self) -> Any:
        return self._app


def _is_asgi(app: Any) -> bool:
    """Whether it is called as ASGI 3 has it."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004 - for its kind


def _name(app: Any) -> str:
    """What process lists and logs call it."""
    name = "" if app is None else getattr(app, "__name__", None) or type(app).__name__
    return f"embedded:{name}" if str(name).isidentifier() else "embedded:application"
