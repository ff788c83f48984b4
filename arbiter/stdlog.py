"""Our log's words through a Gunicorn-like logger, where a setting wants one: see `glogging`.

A generation's logger is made when its settings are read, so a configuration that `logging` refuses refuses the reload. What
`logging` keeps is the process's, and the generation before must go on with its own: `settle` gives it that again.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from arbiter.errors import StartError
from arbiter.facade import Config, Request, Response, as_text, environ_of
from arbiter.glogging import Logger, Statsd
from arbiter.logs import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from arbiter.config.lists import Skip
    from arbiter.config.schema import Settings
    from arbiter.logs import Sink


class StandardLog(Log):
    """`logs.Log` whose lines a logger takes; what even that can't, goes to the sink."""

    def __init__(self, sink: Sink, level: str, logger: Any, *, worker: int | None = None, generation: int = 1) -> None:
        super().__init__(sink, level, worker=worker, generation=generation)
        self.logger = logger

    def bind(self, *, worker: int | None, generation: int) -> StandardLog:
        return StandardLog(self._sink, self._level, self.logger, worker=worker, generation=generation)

    def settle(self) -> None:
        """Have `logging` be as this generation's settings say: another one's are to be tried no longer."""
        try:
            self.logger.setup(self.logger.cfg)
        except Exception:  # noqa: BLE001 - logged with its traceback; it was sound when it was first read
            super().exception("the log's former configuration could not be restored")

    def reopen(self) -> None:
        super().reopen()
        self.logger.reopen_files()

    def write(self, level: str, text: str, pid: int | None = None) -> None:
        self._pass_on(level, text, pid)

    def exception(self, text: str) -> None:
        self._pass_on("exception", text, None)

    def measure(self, name: str, value: float, kind: str, text: str) -> None:
        """A metric, as Gunicorn's loggers take it, and a line of debugging."""
        self._pass_on("debug", text, None, metric=name, value=value, mtype=kind)

    def _pass_on(self, method: str, text: str, pid: int | None, **extra: object) -> None:
        worker = "-" if self._worker is None else self._worker
        pid = pid or os.getpid()
        known = {"worker": worker, "generation": self._generation, "about_pid": pid, **extra}
        try:
            getattr(self.logger, method)(f"worker={worker} gen={self._generation} pid={pid} {text}", extra=known)
        except Exception:  # noqa: BLE001 - a logger of the operator's must not be what ends the service
            super().write("error", f"{text}\n(the logger {type(self.logger).__name__} failed to log this)", pid)


class StandardAccess:
    """The access log by a logger: `contract.Writer`, and `note`, which takes entries whole."""

    def __init__(self, logger: Any, skip: Sequence[Skip]) -> None:
        self._logger = logger
        self.skip = skip

    def write(self, lines: bytes) -> None:
        """Lines that somebody has made already."""
        self._logger.access_log.info(lines.decode("utf-8", "replace").rstrip("\n"))

    def complain_to(self, complain: Callable[[str], None]) -> None:
        """Nothing: the logger's handlers say themselves what they can't write."""

    def reopen(self) -> None:
        """Nothing: the logger opens its files again, all of them."""

    def note(self, entry: Any) -> None:
        """A request that is over: an `accesslog.Entry`. Called in the worker; raises nothing."""
        try:
            req = Request(entry.request)
            headers = [(as_text(name), as_text(value)) for name, value in entry.headers]
            environ = (
                entry.environ if "REQUEST_METHOD" in entry.environ else environ_of(req, entry.remote, entry.request.version)
            )
            resp = Response(entry.status, headers, entry.sent)
            self._logger.access(resp, req, environ, timedelta(seconds=entry.seconds))
        except Exception:
            self._logger.exception("the logger's access() raised")


def open_log(settings: Settings, noted: Mapping[str, object], sink: Sink, generation: int) -> StandardLog:
    """The log that the settings ask for.

    Raises:
        StartError: its class is not to be had, or it refuses its configuration.
    """
    cfg = Config(settings, noted)
    with _importing_from([*settings.pythonpath, settings.chdir]):
        try:
            kind = _class(settings)
            logger = kind(cfg)
        except (Exception, SystemExit) as error:
            raise StartError(f"can't log as {_what(settings)} says: {_told(error)}") from error
    return StandardLog(sink, settings.loglevel, logger, generation=generation)


def _class(settings: Settings) -> Any:
    code = settings.logger_class
    if code is None:
        return Statsd if settings.statsd_host else Logger
    if not isinstance(code, str):
        return code
    import importlib

    from arbiter.config.shim import standing_in

    module, _, name = code.partition(":")
    with standing_in():
        return getattr(importlib.import_module(module), name)


def _what(settings: Settings) -> str:
    """The setting that most likely has it wrong."""
    for name in ("logconfig_dict", "logconfig_json", "logconfig", "logger_class", "syslog"):
        if getattr(settings, name):
            return name
    return "statsd_host"


def _told(error: BaseException) -> str:
    cause = error.__cause__
    why = f"{type(error).__name__}: {error}" + (f" ({cause})" if cause and str(cause) not in str(error) else "")
    return f"{why}. See logging.config in Python's documentation for its form."


@contextmanager
def _importing_from(path: list[str]) -> Iterator[None]:
    sys.path[:0] = path
    try:
        yield
    finally:
        for entry in path:
            if entry in sys.path:
                sys.path.remove(entry)
