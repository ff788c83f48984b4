"""The operator's functions, called at Gunicorn's moments: what they are given, where they run, and what they may not break.

In the supervisor a hook runs between two turns of the loop, with the environment and the import path of the application. What
it raises is logged with its traceback, and changes nothing: only on_starting, at the very first start, can refuse it. A
hook that blocks, blocks the loop; a signal that ends the service ends the hook first.

In a worker, post_fork, after_fork and post_worker_init are part of its boot: what they raise fails it, and so, in a reload's
first worker, the reload. All others are logged.

Each generation has its own, read anew with its settings. Functions come from a Python file as they are; those that are named
are imported where they run: the supervisor's own in the supervisor, anew each time, all others in the worker.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from arbiter.config.callables import Hook, named
from arbiter.config.schema import SETTINGS
from arbiter.config.shim import standing_in
from arbiter.errors import StartError
from arbiter.facade import Config, Log, Request, Response, Server, Timeout, Worker, as_text, environ_of
from arbiter.signals import Cut, cutting
from arbiter.workers.contract import WorkerId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Log as Lines
    from arbiter.workers.contract import Row

SUPERVISORS: Final = (
    "on_starting",
    "on_reload",
    "when_ready",
    "pre_fork",
    "child_exit",
    "nworkers_changed",
    "pre_exec",
    "on_exit",
    "worker_ready",
    "all_workers_ready",
    "worker_timed_out",
    "reload_refused",
    "drain_started",
)
"""Those that run in the supervisor."""
WORKERS: Final = (
    "post_fork",
    "post_worker_init",
    "pre_request",
    "post_request",
    "worker_int",
    "worker_abort",
    "worker_exit",
    "before_fork",
    "after_fork",
    "ssl_context",
)
"""Those that run in a worker, or in the template that it is forked from."""


class Hooks:
    """Those of one generation, in the supervisor."""

    def __init__(self, settings: Settings, noted: Mapping[str, object], lines: Lines, server: Server | None) -> None:
        """`lines`: the generation's log; `server`: that of the generation before.

        Raises:
            StartError: a function of the supervisor's is named that is not to be had.
        """
        self._settings = settings
        self.cfg = Config(settings, noted)
        self.log = _as_gunicorns(lines)
        self._lines = lines
        self.server = server or Server(self.cfg, self.log)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._on_way: dict[WorkerId, str] = {}
        """Those that were found to be stuck, and what they were doing."""
        with self._surroundings():
            for name in SUPERVISORS:
                if (code := getattr(settings, name)) is not None:
                    self._functions[name] = _imported(name, code, is_anew=True)

    def rule(self) -> None:
        """These are the service's hooks from now on, and what they see are its settings."""
        self.server.cfg, self.server.log = self.cfg, self.log

    def has(self, name: str) -> bool:
        """Whether there is such a function of the supervisor's."""
        return name in self._functions

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the supervisor's, if there is one, with the server first; what it raises is logged."""
        self.tell(name, self.server, *arguments)

    def tell(self, name: str, *arguments: object) -> None:
        """The same for a function that is not given the server."""
        if not (function := self._functions.get(name)):
            return
        try:
            with self._surroundings(), standing_in(), cutting():
                function(*arguments)
        except (Exception, SystemExit):  # noqa: BLE001 - logged with its traceback, by the log's exception()
            self._lines.exception(f"the hook {name} raised; the service goes on without what it was to do")
        except Cut as cut:
            self._lines.warning(f"the hook {name} was cut short by {cut}, which it did not hear")

    def begin(self) -> None:
        """The service starts: on_starting.

        Raises:
            StartError: it raised.
        """
        if function := self._functions.get("on_starting"):
            try:
                with self._surroundings():
                    function(self.server)
            except (Exception, SystemExit) as error:
                self._lines.exception("the hook on_starting raised")
                raise StartError(f"the hook on_starting raised {_told(error)}. Nothing was started.") from error

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """The environment and the import path that the application has, for as long as a hook runs."""
        path = [*self._settings.pythonpath, self._settings.chdir]
        before = {name: os.environ.get(name) for name, _ in self._settings.raw_env}
        os.environ.update(self._settings.raw_env)
        sys.path[:0] = path
        try:
            yield
        finally:
            for entry in path:
                if entry in sys.path:
                    sys.path.remove(entry)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    # Workers, seen from the supervisor --------------------------------------------------------------------------------

    def worker(self, id: WorkerId) -> Worker:  # noqa: A002 - its name everywhere
        """What hooks are given for this worker."""
        return self.server.workers.get(id) or self.server.expect(id, self.cfg, self.log)

    def bury(self, id: WorkerId, pid: int | None) -> None:  # noqa: A002
        """A worker that had this pid has ended, or (None) was never born: child_exit."""
        known = self.server.remove(id)
        if pid:
            known = known or Worker(id, self.cfg, self.log, self.server.pid)  # it is older than the hooks
            known.pid = pid
            known.leave()
            self.call("child_exit", known)

    def suspect(self, id: WorkerId, doing: str) -> None:  # noqa: A002
        """The worker is stuck; its stacks will follow."""
        if self.has("worker_timed_out"):
            self._on_way[id] = doing

    def explain(self, id: WorkerId, generation: int, stacks: str) -> None:  # noqa: A002
        """The stacks of a worker have come: worker_timed_out, if it is stuck."""
        if doing := self._on_way.pop(id, None):
            self.tell("worker_timed_out", Timeout(self.worker(id), generation, doing, stacks))

    # Workers, seen from themselves ------------------------------------------------------------------------------------

    def in_worker(self, id: WorkerId, lines: Lines) -> InWorker | None:  # noqa: A002
        """What the worker is given to call; None if there is nothing. Made in the parent of its fork."""
        codes = {name: code for name in WORKERS if (code := getattr(self._settings, name)) is not None}
        return InWorker(codes, self.server, self.worker(id), lines) if codes else None

    def in_template(self, lines: Lines) -> InWorker | None:
        """The same for a template, which is to call before_fork and ssl_context."""
        names = ("before_fork", "ssl_context")
        codes = {name: code for name in names if (code := getattr(self._settings, name)) is not None}
        if not codes:
            return None
        nobody = Worker(WorkerId(0, 0), self.cfg, self.log, self.server.pid)
        return InWorker(codes, self.server, nobody, lines)


class InWorker:
    """Those of one worker, called in it: `contract.Hooks`."""

    def __init__(self, codes: Mapping[str, Any], server: Server, worker: Worker, lines: Lines) -> None:
        self._codes = codes
        self._functions: dict[str, Callable[..., Any]] = {}
        self._server = server
        self._worker = worker
        self._lines = lines
        self.watches_requests = "pre_request" in codes or "post_request" in codes
        self._wanted = 4

    def has(self, name: str) -> bool:
        return name in self._codes

    def before_fork(self) -> None:
        self._call("before_fork", self._server)

    def after_fork(self) -> None:
        self._settle()
        self._begin("after_fork", self._worker)

    def post_fork(self, sockets: Sequence[Any]) -> None:
        self._settle()
        self._worker.sockets = sockets
        self._begin("post_fork", self._server, self._worker)

    def _settle(self) -> None:
        """Make what this process sees of itself true, and import what is named."""
        self._worker.pid = os.getpid()
        self._worker.log = self._server.log = _as_gunicorns(self._lines)
        for name, code in self._codes.items():
            self._functions[name] = _imported(name, code)
        if (function := self._functions.get("post_request")) and isinstance(kind := SETTINGS["post_request"].kind, Hook):
            self._wanted = kind.arguments(function)

    def post_worker_init(self, rows: Sequence[Row], app: Any, replace: Callable[[], None]) -> None:
        self._worker.attach(rows, app, replace)
        self._begin("post_worker_init", self._worker)
        self._worker.booted = True

    def ssl_context(self, factory: Callable[[], Any]) -> Any:
        if "ssl_context" not in self._functions:  # the keys are read before anything else, by the template too
            self._functions["ssl_context"] = _imported("ssl_context", self._codes["ssl_context"])
        return self._functions["ssl_context"](self._server.cfg, factory)

    def worker_int(self) -> None:
        self._worker.leave()
        self._call("worker_int", self._worker)

    def worker_abort(self) -> None:
        self._worker.leave()
        self._worker.aborted = True
        self._call("worker_abort", self._worker)

    def worker_exit(self) -> None:
        self._worker.leave()
        self._call("worker_exit", self._server, self._worker)

    def pre_request(self, request: Any) -> Request:
        req = Request(request)
        if function := self._functions.get("pre_request"):
            function(self._worker, req)
        return req

    def post_request(self, req: Request, environ: dict[str, Any], exchange: Any) -> None:
        if "post_request" not in self._functions:
            return
        if "REQUEST_METHOD" not in environ:  # it is ASGI's scope
            client = environ.get("client")
            environ = environ_of(req, client[0] if client else "", exchange.request.version)
        req.body = environ.get("wsgi.input")
        headers = [(as_text(name), as_text(value)) for name, value in exchange.headers]
        resp = Response(exchange.status, headers, exchange.sent, getattr(exchange, "status_text", ""))
        self._call("post_request", *(self._worker, req, environ, resp)[: self._wanted])

    def _begin(self, name: str, *arguments: object) -> None:
        """Call a function whose failure is the worker's."""
        if function := self._functions.get(name):
            function(*arguments)

    def _call(self, name: str, *arguments: object) -> None:
        """Call a function whose failure is only logged."""
        try:
            if name in self._codes and name not in self._functions:  # it ends before it has begun, or is the template
                self._functions[name] = _imported(name, self._codes[name])
            self._begin(name, *arguments)
        except (Exception, SystemExit):  # noqa: BLE001 - logged with its traceback, by the log's exception()
            self._lines.exception(f"the hook {name} raised")


def _as_gunicorns(lines: Lines) -> Any:
    """A log with the methods of Gunicorn's: the operator's own logger, where there is one."""
    return getattr(lines, "logger", None) or Log(lines)


def _imported(name: str, code: Any, *, is_anew: bool = False) -> Callable[..., Any]:
    """The function of a hook. `is_anew`: its module is executed again, and not kept: workers import their own.

    Raises:
        StartError: it is named, and not to be had, or of no use.
    """
    if not isinstance(code, str):
        function: Callable[..., Any] = code
        return function
    import importlib

    module_name, _, attribute = code.partition(":")
    before = sys.modules.pop(module_name, None) if is_anew else None
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise StartError(f"{name} = {code}: {_told(error)}. Check the name, pythonpath and chdir.") from error
    finally:
        if is_anew:
            sys.modules.pop(module_name, None)
            if before is not None:
                sys.modules[module_name] = before
    kind = SETTINGS[name].kind
    if not callable(found) or (isinstance(kind, Hook) and not kind.arguments(found)):
        raise StartError(f"{name} = {named(code)}: expected {kind.expected}.")
    result: Callable[..., Any] = found
    return result


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
