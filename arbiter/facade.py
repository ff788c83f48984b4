"""What hooks are called with: objects with the attributes that Gunicorn's have, as configuration files use them.

They show and change nothing of their own accord, but for `Worker.alive`: set to False, it has the worker replaced, which is
what files do that watch memory. What a hook sets on one of them besides, it finds again: `Server` lives as long as the
supervisor, a `Worker` is made before its fork and goes with it into the child.
"""

from __future__ import annotations

import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from arbiter.config.logkinds import StatsdAddress
from arbiter.config.names import ALIASES, GUNICORN, NOTES
from arbiter.config.schema import SETTINGS

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Log as Lines
    from arbiter.workers.contract import Row, WorkerId

LEVELS: Final = {"critical": 50, "error": 40, "warning": 30, "info": 20, "debug": 10}


class Log:
    """Gunicorn's logger: messages with %-arguments, into our log."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def debug(self, msg: object, *args: object, **options: Any) -> None:
        self.log("debug", msg, *args, **options)

    def info(self, msg: object, *args: object, **options: Any) -> None:
        self.log("info", msg, *args, **options)

    def warning(self, msg: object, *args: object, **options: Any) -> None:
        self.log("warning", msg, *args, **options)

    warn = warning

    def error(self, msg: object, *args: object, **options: Any) -> None:
        self.log("error", msg, *args, **options)

    def critical(self, msg: object, *args: object, **options: Any) -> None:
        self.log("critical", msg, *args, **options)

    def exception(self, msg: object, *args: object, **options: Any) -> None:
        self.log("error", msg, *args, **{"exc_info": True, **options})

    def log(self, lvl: int | str, msg: object, *args: object, exc_info: Any = None, **_: object) -> None:
        """A line; a level as `logging` has it, a name or a number."""
        if isinstance(lvl, int):
            lvl = next((name for name, number in LEVELS.items() if lvl >= number), "debug")
        text = str(msg)
        if args:
            try:  # as logging does: one mapping is for %(name)s
                text %= args[0] if len(args) == 1 and isinstance(args[0], dict) else args
            except (TypeError, ValueError, KeyError):
                text = " ".join(map(str, (msg, *args)))
        if exc_info:
            text = _with_traceback(text, exc_info)
        level = lvl.lower() if lvl.lower() in LEVELS else "info"
        write: Callable[[str], None] = getattr(self._lines, level, self._lines.error)
        write(text)

    def reopen_files(self) -> None:
        """Open the files again under their names."""
        self._lines.reopen()


def _with_traceback(text: str, exc_info: Any) -> str:
    import sys
    import traceback

    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    return text + "\n" + "".join(traceback.format_exception(error)).rstrip() if error else text


class Entry:
    """One of `Config.settings`."""

    def __init__(self, name: str, value: Any, default: Any, section: str) -> None:
        self.name, self.value, self.default, self.section = name, value, default, section

    def get(self) -> Any:
        """The value."""
        return self.value


class Config:
    """The settings by Gunicorn's names, in Gunicorn's types. Read only."""

    def __init__(self, settings: Settings, noted: Mapping[str, object] | None = None) -> None:
        """`noted`: what was said of settings that mean nothing here."""
        object.__setattr__(self, "_settings", settings)
        object.__setattr__(self, "_noted", noted or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # not looked for in the table: pickle and copy ask before there is one
            raise AttributeError(name)
        settings: Settings = self._settings
        if name in _VIEWS:
            return _VIEWS[name](settings)
        if row := SETTINGS.get(name):
            value = getattr(settings, name)
            if row.kind.takes_code and name != "worker_class":
                return value if callable(value) else value or _nothing
            return _theirs(value)
        if alias := ALIASES.get(name):
            value = getattr(settings, alias.name)
            return next((theirs for theirs, ours in alias.words.items() if ours == value), value)
        if note := NOTES.get(name):
            return _as(note.default, self._noted.get(name, note.default))
        if name in GUNICORN:
            return None
        raise AttributeError(f"No configuration setting for: {name}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} can't be set here: a hook comes too late. Set it in the configuration file.")

    @property
    def settings(self) -> dict[str, Entry]:
        """Every setting by name, ours and Gunicorn's."""
        names = [*SETTINGS, *sorted(GUNICORN - set(SETTINGS))]
        return {name: self._entry(name) for name in names}

    def _entry(self, name: str) -> Entry:
        row = SETTINGS.get(name)
        default = _theirs(row.default) if row else NOTES[name].default if name in NOTES else None
        return Entry(name, getattr(self, name), default, row.section if row else "Gunicorn")


def _as(default: Any, value: Any) -> Any:
    """What was said of a setting that means nothing here, in the type of its default: flags and variables give text."""
    if isinstance(value, str) and isinstance(default, bool):
        return value.strip().lower() == "true"
    if isinstance(value, str) and isinstance(default, int) and value.strip().isdigit():
        return int(value)
    return value


def _nothing(*_: object) -> None:
    """The hook that is called where none is set."""


def _theirs(value: Any) -> Any:
    """A value as Gunicorn would have it: whole seconds as int, tuples as lists, addresses as text."""
    if isinstance(value, tuple):
        return [_theirs(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return (
        value if value is None or isinstance(value, str | int | float | bool | dict | list) or callable(value) else str(value)
    )


def _uid(settings: Settings) -> int:
    import pwd

    user = settings.user
    return os.geteuid() if user is None else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid


def _gid(settings: Settings) -> int:
    import grp
    import pwd

    group = settings.group
    if group is not None:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    if settings.user is None:
        return os.getegid()
    try:
        return pwd.getpwuid(_uid(settings)).pw_gid
    except KeyError:
        return os.getegid()


def _dotted(code: Any) -> Any:
    return code.replace(":", ".") if isinstance(code, str) else code


def _address(settings: Settings) -> list[Any]:
    return [(one.host, one.port) if one.host else one.path or one.fd for one in settings.bind]


_VIEWS: Final[Mapping[str, Callable[[Settings], Any]]] = {
    "address": _address,
    "uid": _uid,
    "user": _uid,
    "gid": _gid,
    "group": _gid,
    "env": lambda settings: dict(settings.raw_env),
    "raw_env": lambda settings: [f"{name}={value}" for name, value in settings.raw_env],
    "pythonpath": lambda settings: ",".join(settings.pythonpath) or None,
    "proc_name": lambda settings: settings.proc_name or settings.wsgi_app or "arbiter",
    "default_proc_name": lambda settings: settings.wsgi_app or "arbiter",
    "worker_class_str": lambda settings: settings.worker_class,
    "logconfig_dict": lambda settings: settings.logconfig_dict or {},
    "logger_class": lambda settings: _dotted(settings.logger_class) or "gunicorn.glogging.Logger",
    "statsd_host": lambda settings: StatsdAddress.place(settings.statsd_host) if settings.statsd_host else None,
    "statsd_prefix": lambda settings: settings.statsd_prefix or "",
    "dogstatsd_tags": lambda settings: settings.dogstatsd_tags or "",
    "is_ssl": lambda settings: bool(getattr(settings, "certfile", None) or getattr(settings, "keyfile", None)),
    "config": lambda _: None,
}


class Server:
    """Gunicorn's Arbiter, as hooks know it."""

    master_name = "Master"
    master_pid = 0
    reexec_pid = 0

    def __init__(self, cfg: Config, log: Any) -> None:
        self.cfg = cfg
        self.log = log
        self.pid = os.getpid()
        self.num_workers = 0
        self.worker_age = 0
        self.WORKERS: dict[int, Worker] = {}
        """By pid: those that live."""
        self.LISTENERS: Sequence[socket.socket] = ()
        self.workers: dict[WorkerId, Worker] = {}
        """The same by our own names, and with those that are just being forked."""

    @property
    def address(self) -> list[Any]:
        """Where it listens: (host, port), or a path."""
        found: list[Any] = self.cfg.address
        return found

    @property
    def timeout(self) -> Any:
        """The setting."""
        return self.cfg.timeout

    @property
    def proc_name(self) -> str:
        """What processes are called."""
        return str(self.cfg.proc_name)

    def expect(self, id: WorkerId, cfg: Config, log: Any) -> Worker:  # noqa: A002 - its name everywhere
        """A worker that is about to be forked. Supervisor side."""
        self.worker_age = max(self.worker_age, id.spawn)
        worker = self.workers[id] = Worker(id, cfg, log, self.pid)
        return worker

    def enter(self, id: WorkerId, pid: int | None) -> None:  # noqa: A002
        """The worker lives, and this is its pid. Supervisor side."""
        if pid and (worker := self.workers.get(id)):
            worker.pid = pid
            self.WORKERS[pid] = worker

    def remove(self, id: WorkerId) -> Worker | None:  # noqa: A002
        """The worker lives no more. Supervisor side."""
        worker = self.workers.pop(id, None)
        if worker:
            worker.leave()
            if isinstance(worker.pid, int):
                self.WORKERS.pop(worker.pid, None)
        return worker


class Worker:
    """Gunicorn's Worker, as hooks know it."""

    def __init__(self, id: WorkerId, cfg: Config, log: Any, ppid: int) -> None:  # noqa: A002 - its name everywhere
        self.id = id
        self.age = id.spawn
        self.slot = id.slot
        """Ours: the place that it fills, 1..N; a successor has the same."""
        self.pid: int | str = "[booting]"
        self.ppid = ppid
        self.cfg = cfg
        self.log = log
        self.booted = False
        self.aborted = False
        self.timeout = cfg.timeout / 2.0
        self.sockets: Sequence[socket.socket] = ()
        self.app: Any = None
        """The application, once it is loaded."""
        self.tmp = Heart()
        self._alive = True
        self._rows: Sequence[Row] = ()
        self._replace: Callable[[], None] | None = None

    def __str__(self) -> str:
        return f"<Worker {self.pid}>"

    @property
    def wsgi(self) -> Any:
        """The application, by Gunicorn's other name."""
        return self.app

    @property
    def nr(self) -> int:
        """Requests that it has served, with those that it is in."""
        return sum(seen.requests + bool(seen.started) for seen in (row.read() for row in self._rows))

    @property
    def alive(self) -> bool:
        """Whether it serves on. Set to False, it asks to be replaced, and serves until its successor is ready."""
        return self._alive

    @alive.setter
    def alive(self, value: bool) -> None:
        if self._alive and not value and self._replace:
            self._replace()
        self._alive = bool(value)

    def attach(self, rows: Sequence[Row], app: Any, replace: Callable[[], None]) -> None:
        """In the worker: what it is made of, now that it is there."""
        self._rows, self.app, self._replace = rows, app, replace

    def leave(self) -> None:
        """It is on its way out, or has gone."""
        self._alive = False

    def notify(self) -> None:
        """Nothing: a worker vouches for itself where it waits and where it works."""


class Heart:
    """Gunicorn's WorkerTmp: the file that is no file here (see `worker_tmp_dir`)."""

    def last_update(self) -> float:
        """Now."""
        return time.monotonic()

    def notify(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Timeout:
    """A worker that was stuck, and is killed for it: what the hook worker_timed_out is told."""

    def __init__(self, worker: Worker, generation: int, doing: str, stacks: str) -> None:
        self.worker = worker
        self.pid = worker.pid
        self.slot = worker.slot
        self.generation = generation
        self.doing = doing
        """The request, who asks, for how long, and where it is."""
        self.stacks = stacks
        """Of all its threads; empty when it did not answer."""

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid}): {self.doing}"


class Request:
    """Gunicorn's Request, as pre_request and post_request know it."""

    def __init__(self, request: Any) -> None:
        """From `workers.protocols.policy.Request`."""
        self.method = request.method.decode("latin-1")
        self.uri = request.target.decode("latin-1")
        self.path = request.path.decode("latin-1")
        self.query = request.query.decode("latin-1")
        self.fragment = self.uri.partition("#")[2]
        self.version = (1, int(request.version[-1])) if request.version.startswith("HTTP/1.") else (2, 0)
        self.headers = [(name.decode("latin-1").upper(), value.decode("latin-1")) for name, value in request.fields]
        self.trailers: list[tuple[str, str]] = []
        self.body: Any = None
        """What the application reads: only in post_request, and only what it has left."""


class Response:
    """Gunicorn's Response, as post_request knows it."""

    headers_sent = True

    def __init__(self, code: int, headers: Sequence[tuple[str, str]], sent: int, line: str = "") -> None:
        self.status_code = code
        self.status = line or f"{code} {_phrase(code)}".rstrip()
        self.headers = list(headers)
        self.sent = sent
        self.response_length = next((int(value) for key, value in headers if key.lower() == "content-length"), None)


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return ""


def as_text(value: str | bytes) -> str:
    """A name or a value of a field, which ASGI applications give as bytes."""
    return value if isinstance(value, str) else value.decode("latin-1")


def environ_of(req: Request, remote: str, version: str) -> dict[str, Any]:
    """What loggers and hooks look up of a request that had no WSGI environ."""
    environ = {
        "REMOTE_ADDR": remote,
        "REQUEST_METHOD": req.method,
        "RAW_URI": req.uri,
        "PATH_INFO": req.path,
        "QUERY_STRING": req.query,
        "SERVER_PROTOCOL": version,
    }
    environ.update((f"HTTP_{name.replace('-', '_')}", value) for name, value in req.headers)
    return environ
