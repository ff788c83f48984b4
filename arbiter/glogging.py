"""Logging by the standard library, as Gunicorn does it: for logconfig, syslog, statsd and loggers of one's own.

`Logger` has the methods and attributes of Gunicorn's, which classes in the wild override: setup, access, atoms, now, the
formats, and the two loggers `gunicorn.error` and `gunicorn.access`, which configurations name. It is imported only where a
setting asks for it: everybody else's lines are written by `logs`, without `logging`.
"""

from __future__ import annotations

import copy
import logging
import logging.config
import logging.handlers
import os
import re
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

CONFIG_DEFAULTS: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        name: {"level": "INFO", "handlers": [handler], "propagate": True, "qualname": name}
        for name, handler in (("gunicorn.error", "error_console"), ("gunicorn.access", "console"))
    },
    "handlers": {
        name: {"class": "logging.StreamHandler", "formatter": "generic", "stream": f"ext://sys.{stream}"}
        for name, stream in (("console", "stdout"), ("error_console", "stderr"))
    },
    "formatters": {
        "generic": {
            "class": "logging.Formatter",
            "format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
            "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
        }
    },
}
"""What a logconfig_dict or logconfig_json is laid over, key by key: Gunicorn's names, so that files may refer to them."""

_OURS: Final = "_arbiter"
"""Marks handlers that `setup` has made, to be replaced by the next."""


class SafeAtoms(dict[str, Any]):
    """Atoms of an access log line: headers in any case, quotes escaped, `-` for what is missing."""

    def __init__(self, atoms: Mapping[str, Any]) -> None:
        super().__init__(
            (key, value.replace("\\", "\\\\").replace('"', '\\"') if isinstance(value, str) else value)
            for key, value in atoms.items()
        )

    def __getitem__(self, key: str) -> Any:
        return self.get(key.lower() if key.startswith("{") else key, "-")


class Logger:
    """Gunicorn's logger. `cfg` has the settings by Gunicorn's names."""

    LOG_LEVELS: Final[Mapping[str, int]] = {
        "critical": logging.CRITICAL,
        "error": logging.ERROR,
        "warning": logging.WARNING,
        "info": logging.INFO,
        "debug": logging.DEBUG,
    }
    loglevel = logging.INFO
    error_fmt = "%(asctime)s [%(levelname)s] %(message)s"
    datefmt = "[%Y-%m-%d %H:%M:%S %z]"
    access_fmt = "%(message)s"
    syslog_fmt = "[%(process)d] %(message)s"
    atoms_wrapper_class: type[Any] = SafeAtoms

    def __init__(self, cfg: Any) -> None:
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        for log in (self.error_log, self.access_log):
            log.propagate = False
        self.cfg = cfg
        self.setup(cfg)

    def setup(self, cfg: Any) -> None:
        """Make handlers for these settings, in the place of those that were made before.

        Raises:
            Exception: whatever `logging` says of a configuration that is wrong.
        """
        self.cfg = cfg
        self.loglevel = self.LOG_LEVELS.get(cfg.loglevel.lower(), logging.INFO)
        self.error_log.setLevel(self.loglevel)
        self.access_log.setLevel(logging.INFO)
        self._remove_ours()
        self._add(self.error_log, cfg.errorlog, logging.Formatter(self.error_fmt, self.datefmt), sys.stderr)
        if cfg.accesslog is not None:
            self._add(self.access_log, cfg.accesslog, logging.Formatter(self.access_fmt), sys.stdout)
        if cfg.syslog:
            self._add_syslog(self.error_log, "error")
            if not cfg.disable_redirect_access_to_syslog:
                self._add_syslog(self.access_log, "access")
        if cfg.logconfig_dict:
            logging.config.dictConfig(_over_defaults(cfg.logconfig_dict))
        elif cfg.logconfig_json:
            import json

            with open(cfg.logconfig_json, encoding="utf-8") as file:
                logging.config.dictConfig(_over_defaults(json.load(file)))
        elif cfg.logconfig:
            if not os.path.exists(cfg.logconfig):
                raise FileNotFoundError(2, "No such file or directory", cfg.logconfig)
            where = {"__file__": cfg.logconfig, "here": os.path.dirname(cfg.logconfig)}
            logging.config.fileConfig(cfg.logconfig, defaults=where, disable_existing_loggers=False)

    def _remove_ours(self) -> None:
        for log in (self.error_log, self.access_log):
            for handler in [handler for handler in log.handlers if hasattr(handler, _OURS)]:
                log.removeHandler(handler)
                handler.close()

    def _add(self, log: logging.Logger, output: str, form: logging.Formatter, stream: Any) -> None:
        handler = logging.StreamHandler(stream) if output == "-" else logging.FileHandler(output)
        handler.setFormatter(form)
        setattr(handler, _OURS, True)
        log.addHandler(handler)

    def _add_syslog(self, log: logging.Logger, role: str) -> None:
        cfg = self.cfg
        name = cfg.syslog_prefix or cfg.proc_name.replace(":", ".")
        kind, address = _syslog_place(cfg.syslog_addr)
        facility = logging.handlers.SysLogHandler.facility_names[cfg.syslog_facility.lower()]
        handler = logging.handlers.SysLogHandler(address, facility, kind)
        handler.setFormatter(logging.Formatter(f"gunicorn.{name}.{role}: {self.syslog_fmt}"))
        setattr(handler, _OURS, True)
        log.addHandler(handler)

    # Lines ------------------------------------------------------------------------------------------------------------

    def critical(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.critical(msg, *args, **kwargs)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.error(msg, *args, **kwargs)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.warning(msg, *args, **kwargs)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.info(msg, *args, **kwargs)

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.debug(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.exception(msg, *args, **kwargs)

    def log(self, lvl: int | str, msg: Any, *args: Any, **kwargs: Any) -> None:
        """A line; a level by name or number."""
        number = self.LOG_LEVELS.get(lvl.lower(), logging.INFO) if isinstance(lvl, str) else lvl
        self.error_log.log(number, msg, *args, **kwargs)

    # Requests ---------------------------------------------------------------------------------------------------------

    @property
    def access_log_enabled(self) -> bool:
        """Whether anybody wants a line for each request."""
        cfg = self.cfg
        to_syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
        return bool(cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or to_syslog)

    def atoms(self, resp: Any, req: Any, environ: Mapping[str, Any], request_time: timedelta) -> dict[str, Any]:
        """The values of a line, by their letters."""
        micros = request_time.seconds * 1_000_000 + request_time.microseconds
        status = resp.status.split(None, 1)[0] if isinstance(resp.status, str) else resp.status
        found = {
            "h": environ.get("REMOTE_ADDR", "-"),
            "l": "-",
            "u": _user(environ) or "-",
            "t": self.now(),
            "r": f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}",
            "s": status,
            "m": environ.get("REQUEST_METHOD"),
            "U": environ.get("PATH_INFO"),
            "q": environ.get("QUERY_STRING"),
            "H": environ.get("SERVER_PROTOCOL"),
            "b": "-" if resp.sent is None else str(resp.sent),
            "B": resp.sent,
            "f": environ.get("HTTP_REFERER", "-"),
            "a": environ.get("HTTP_USER_AGENT", "-"),
            "T": request_time.seconds,
            "D": micros,
            "M": micros // 1000,
            "L": f"{micros / 1e6:.6f}",
            "p": f"<{os.getpid()}>",
        }
        for letter, pairs in (("i", _pairs(getattr(req, "headers", req))), ("o", _pairs(resp.headers)), ("e", environ.items())):
            found.update((f"{{{str(name).lower()}}}{letter}", value) for name, value in pairs)
        return found

    def access(self, resp: Any, req: Any, environ: Mapping[str, Any], request_time: timedelta) -> None:
        """A request is over. Called in the worker."""
        if not self.access_log_enabled:
            return
        try:
            self.access_log.info(
                self.cfg.access_log_format, self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
            )
        except Exception:  # noqa: BLE001 - logged with its traceback
            self.exception("a line of the access log could not be made")

    def now(self) -> str:
        """The time as Apache writes it."""
        return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")

    # Files ------------------------------------------------------------------------------------------------------------

    def reopen_files(self) -> None:
        """Open every log file again under its name; one that can't be, goes on being written."""
        for handler in _handlers():
            if isinstance(handler, logging.FileHandler) and handler.stream:
                handler.acquire()
                try:
                    fresh = handler._open()  # noqa: SLF001 - what `logging.handlers` calls itself for this
                    handler.stream.close()
                    handler.stream = fresh
                except OSError as error:
                    self.error("%s can't be opened again: %s", handler.baseFilename, error.strerror)
                finally:
                    handler.release()

    def close_on_exec(self) -> None:
        """Nothing: Python's files are not inherited by programs."""


class Statsd(Logger):
    """The same, and what happens is counted by a statsd, under Gunicorn's names."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.prefix = cfg.statsd_prefix.rstrip(".") + "." if cfg.statsd_prefix else ""
        self.dogstatsd_tags = cfg.dogstatsd_tags
        self.sock: socket.socket | None = None
        place = cfg.statsd_host  # as `socket.connect` takes it
        family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)  # a statsd that does not read must not hold up a request
            sock.connect(place)
        except OSError as error:
            super().warning("statsd at %s is not to be had: %s. Nothing is counted.", cfg.statsd_host, error.strerror or error)
        else:
            self.sock = sock

    def critical(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        super().critical(msg, *args, **kwargs)
        self.increment("gunicorn.log.critical", 1)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        super().error(msg, *args, **kwargs)
        self.increment("gunicorn.log.error", 1)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        super().warning(msg, *args, **kwargs)
        self.increment("gunicorn.log.warning", 1)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        super().exception(msg, *args, **kwargs)
        self.increment("gunicorn.log.exception", 1)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.INFO, msg, *args, **kwargs)

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.DEBUG, msg, *args, **kwargs)

    def log(self, lvl: int | str, msg: Any, *args: Any, **kwargs: Any) -> None:
        """A line, or a metric (`extra` with metric, value and mtype), or both."""
        extra = kwargs.get("extra") or {}
        metric, value = extra.get("metric"), extra.get("value")
        measure = {"gauge": self.gauge, "counter": self.increment, "histogram": self.histogram, "timer": self.timer}
        if metric and value is not None and (send := measure.get(extra.get("mtype", ""))):
            send(metric, value)
        if msg:
            super().log(lvl, msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: Mapping[str, Any], request_time: timedelta) -> None:
        """A request is over: counted, timed, and logged if anybody wants that."""
        super().access(resp, req, environ, request_time)
        status = int(str(resp.status).split(None, 1)[0])
        self.timer("gunicorn.request.duration", request_time.seconds * 1000 + request_time.microseconds / 1000)
        self.increment("gunicorn.requests", 1)
        self.increment(f"gunicorn.request.status.{status}", 1)

    def gauge(self, name: str, value: float) -> None:
        """A level."""
        self._send(f"{name}:{value}|g")

    def increment(self, name: str, value: float, sampling_rate: float = 1.0) -> None:
        """So much more of something."""
        self._send(f"{name}:{value}|c|@{sampling_rate}")

    def decrement(self, name: str, value: float, sampling_rate: float = 1.0) -> None:
        """So much less."""
        self._send(f"{name}:-{value}|c|@{sampling_rate}")

    def timer(self, name: str, value: float) -> None:
        """Milliseconds."""
        self._send(f"{name}:{value}|ms")

    def histogram(self, name: str, value: float) -> None:
        """One of many values."""
        self._send(f"{name}:{value}|h")

    def _send(self, text: str) -> None:
        if self.sock:
            tags = f"|#{self.dogstatsd_tags}" if self.dogstatsd_tags else ""
            try:
                self.sock.send(f"{self.prefix}{text}{tags}".encode("ascii", "replace"))
            except OSError:
                pass  # nobody listens, or not quickly enough: a number is lost, and that is statsd's bargain


def _over_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(CONFIG_DEFAULTS), **given}


def _handlers() -> list[logging.Handler]:
    """Every handler of every logger, once."""
    loggers = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    return list(dict.fromkeys(handler for logger in loggers for handler in logger.handlers))


def _pairs(headers: Any) -> Iterable[tuple[Any, Any]]:
    found: Iterable[tuple[Any, Any]] = headers.items() if hasattr(headers, "items") else headers
    return found


def _user(environ: Mapping[str, Any]) -> str:
    """The name in HTTP Basic credentials."""
    import base64
    import binascii

    scheme, _, credentials = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[0].decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _syslog_place(address: str) -> tuple[socket.SocketKind | None, Any]:
    """The kind of socket (None: whichever works) and the address of a `syslog_addr`."""
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        path, _, kind = rest.partition("#")
        return {"dgram": socket.SOCK_DGRAM, "stream": socket.SOCK_STREAM}.get(kind), path
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]*))(?::(\d+))?", rest)
    host = (match[1] or match[2]) if match else ""
    port = int(match[3]) if match and match[3] else logging.handlers.SYSLOG_UDP_PORT
    return socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM, (host or "localhost", port)
