"""The table of settings. Everything else about settings is derived from it.

Each row is one field of `Settings`: its type for mypy, and beside it how it is read, its default, its flags, where it
stands in the documentation, and what a reload does with it. The command line, the environment, both kinds of file,
`--help`, `--print-config` and docs/settings.md are all made from these rows, so a setting is added here and nowhere
else. Three rules:

* a setting that Gunicorn has keeps Gunicorn's name, flags, meaning and, unless the doc says why not, default;
* a setting that nothing honours does not exist;
* the first sentence of a doc is the line that `--help` shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from arbiter.config import callables, fronts, kinds, lists, logkinds
from arbiter.config.addresses import Address, parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
Applies = Literal["reload", "restart"]

_ROW = "arbiter.setting"  # where a field's metadata keeps its row
_INT_MAX = 2**31 - 1  # listen(2) takes a C int

# The access log line of Gunicorn: the "combined" format of Apache, whose atoms it borrowed.
GUNICORN_ACCESS_LOG = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


class Setting(NamedTuple):
    """One row of the table: what the sources, the help and the documentation need of a setting."""

    name: str
    default: Any
    kind: kinds.Kind[Any]
    section: str
    doc: str
    flags: tuple[str, ...]
    applies: Applies
    environment: tuple[tuple[str, str], ...]
    default_text: str

    @property
    def variable(self) -> str:
        """Its own environment variable."""
        return f"ARBITER_{self.name.upper()}"

    @property
    def summary(self) -> str:
        """The first sentence of its documentation, without the full stop."""
        return self.doc.partition(". ")[0].removesuffix(".")

    @property
    def flag(self) -> str:
        """The flag that messages name."""
        return next((flag for flag in self.flags if flag.startswith("--")), self.variable)


def setting(
    kind: kinds.Kind[T],
    *,
    default: T,
    section: str,
    doc: str,
    flags: tuple[str, ...] = (),
    applies: Applies = "reload",
    environment: tuple[tuple[str, str], ...] = (),
    default_text: str = "",
) -> T:
    """A row of the table, to be the default of a field of `Settings`.

    Args:
        kind: how values are read and written.
        default: the value when no source gives one.
        section: the heading it stands under, in `--help` and in the documentation.
        doc: sentences of Markdown; the first is the help line.
        flags: on the command line, short before long.
        applies: "reload" when SIGHUP is enough to change it, "restart" when it is kept until the next start.
        environment: variables other than its own that give it, with the form of the value ("{}" is the variable's).
        default_text: the default in words, where it is worked out from the machine.

    """
    row = Setting("", default, kind, section, doc, flags, applies, environment, default_text)  # the field names it
    return field(default=default, metadata={_ROW: row})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting with its final value. Durations are seconds, sizes are bytes; `resolve` makes paths absolute."""

    wsgi_app: str | None = setting(
        kinds.Nullable(kinds.Import()),
        default=None,
        section="Application",
        doc="The application to serve, as `module:attribute`. The attribute defaults to `application`; "
        "`module:factory()` calls a factory. On the command line it is the argument without a flag.",
    )
    websocket_app: str | None = setting(
        kinds.Nullable(kinds.Import()),
        default=None,
        section="Application",
        flags=("--websocket-app",),
        doc="Another application, for WebSockets. They go to it, an ASGI application like `project.asgi:application`, on "
        "the same port and in the same workers; all HTTP goes to the first, which may be WSGI. `worker_class` must not be "
        "`sync`; with `auto` the workers are async.",
    )
    chdir: str = setting(
        kinds.Path(example="/srv/project"),
        default=".",
        section="Application",
        flags=("--chdir",),
        doc="Work in this directory. The application is imported from it, and relative paths in other settings start here.",
    )
    pythonpath: tuple[str, ...] = setting(
        lists.Paths(example="lib,vendor"),
        default=(),
        section="Application",
        flags=("--pythonpath",),
        doc="Import from these directories as well. They come before everything else on `sys.path`.",
    )
    raw_env: tuple[tuple[str, str], ...] = setting(
        lists.EnvPairs(),
        default=(),
        section="Application",
        flags=("-e", "--env"),
        doc="Set an environment variable for the application; repeat for more. In a file: a list of `NAME=value`, or "
        "a table. Values that look like secrets are never printed.",
    )
    preload_app: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Application",
        flags=("--preload",),
        doc="Load the application once, and fork the workers from there. They share its memory, and boot in milliseconds. "
        "SIGHUP loads it anew. See docs/preload.md for what an application must not do then.",
    )
    bind: tuple[Address, ...] = setting(
        lists.Addresses(),
        default=(parse_address("127.0.0.1:8000"),),
        section="Sockets",
        flags=("-b", "--bind"),
        environment=(("PORT", "0.0.0.0:{}"),),  # what platforms such as Heroku set; Gunicorn reads it the same way
        doc="Listen on this address; repeat for more. Forms: `host:port`, `[v6]:port`, `host` (port 8000), `:port` "
        "(every IPv4 address), `port` (127.0.0.1), `unix:/path`, `unix:@abstract`, `fd://N` (a socket that was "
        "inherited). Port 0 lets the kernel choose.",
    )
    unix_socket_mode: int | None = setting(
        kinds.Nullable(kinds.Mode()),
        default=None,
        default_text="by umask",
        section="Sockets",
        flags=("--unix-socket-mode",),
        doc="The mode of Unix sockets' files, in octal. Who may write may connect. Without it, `umask` says which.",
    )
    unix_socket_owner: str | None = setting(
        kinds.Nullable(kinds.Text(example="www-data:www-data")),
        default=None,
        default_text="the starter",
        section="Sockets",
        flags=("--unix-socket-owner",),
        doc="The owner of Unix sockets' files. As chown(1) takes it: `user`, `user:group` or `:group`, names or numbers.",
    )
    ipv6_only: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Sockets",
        flags=("--ipv6-only",),
        doc="Take IPv6 clients only at an address like [::]:8000. Otherwise those of IPv4 come in as well, unless `bind` has "
        "an IPv4 address with the same port.",
    )
    backlog: int = setting(
        kinds.Whole(1, _INT_MAX, example=2048),
        default=2048,
        section="Sockets",
        flags=("--backlog",),
        doc="Connections that may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.",
    )
    reuse_port: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Sockets",
        flags=("--reuse-port",),
        applies="restart",
        doc="Give each worker a queue of its own at each TCP port (SO_REUSEPORT). The kernel spreads connections evenly, and "
        "many cores don't wait for one lock. The queues are the supervisor's and outlast workers; a worker serves its own "
        "first, then those whose workers are busy or gone, so nobody waits for one worker and nothing is lost.",
    )
    workers: int = setting(
        kinds.Count(),
        default=kinds.Count.AUTO,
        default_text="2 x cores + 1",
        section="Workers",
        flags=("-w", "--workers"),
        environment=(("WEB_CONCURRENCY", "{}"),),
        doc="Worker processes. `auto` is 2 x cores + 1, where cores respects CPU affinity and the CPU quota of the "
        "container. Gunicorn's default is 1.",
    )
    min_workers: int = setting(
        kinds.Whole(1, example=2),
        default=1,
        section="Workers",
        flags=("--min-workers",),
        doc="The fewest workers that a low load leaves. Only with `max_workers`.",
    )
    max_workers: int = setting(
        kinds.Whole(example=16),
        default=0,
        section="Workers",
        flags=("--max-workers",),
        doc="The most workers that a high load calls for. The number follows how busy workers are and how long connections "
        "wait for one: quickly up, slowly down, and within the memory that there is. It starts at `workers`. 0: fixed.",
    )
    worker_class: str = setting(
        callables.WorkerClass(),
        default="auto",
        section="Workers",
        flags=("-k", "--worker-class"),
        doc="The kind of worker. `sync` serves one request at a time and keeps no connection; `threaded` serves `threads` at "
        "a time and keeps connections; `async` serves any number on an event loop. Each serves WSGI and "
        "ASGI (see `interface`). `auto` is async for an ASGI application; for WSGI it is threaded with `threads` above 1, else "
        "sync; so is `sync`, as in Gunicorn. "
        "Gunicorn's and uvicorn's names for these are taken too: `gthread`, `asgi`, `uvicorn.workers.UvicornWorker` and so on.",
    )
    interface: str = setting(
        kinds.Choice("auto", "wsgi", "asgi"),
        default="auto",
        section="Workers",
        flags=("--interface",),
        doc="What the application speaks. `auto` looks at it: a coroutine function, or what is called like one, speaks ASGI. "
        "Every kind of worker serves both; ASGI 2 is told by itself.",
    )
    threads: int = setting(
        kinds.Whole(1, 512, example=4),
        default=1,
        section="Workers",
        flags=("--threads",),
        doc="Requests that a threaded worker serves at the same time. Connections that wait for something take no thread. "
        "In an async worker: requests at the same time in a WSGI application, or with 1, `io_threads` of them.",
    )
    io_threads: int = setting(
        kinds.Whole(0, 512, example=16),
        default=16,
        section="Workers",
        flags=("--io-threads",),
        doc="Threads more for requests that only wait. In a threaded worker a request that calls "
        '`environ["arbiter.io_bound"]()`, or whose client keeps it waiting, does not count as one of `threads`; at most so '
        "many do. Where more clients keep threads waiting, and others need one, who has read nothing for 1 s, or moved less "
        "than 16 KiB in 5 s, loses its connection.",
    )
    worker_connections: int = setting(
        kinds.Whole(1, example=1000),
        default=1000,
        section="Workers",
        flags=("--worker-connections",),
        doc="Connections that a worker has open. In a sync worker, those that it waits for. With so many, the longest idle are "
        "closed to make room; where none is idle, who has been slow for longest to send a head (1 s) or 16 KiB of a body "
        "(5 s); and where there is none of those, others wait to be accepted, here or by another worker. A sync worker closes "
        "the slowest in any case.",
    )
    asgi_loop: str = setting(
        kinds.ChoiceOrImport("auto", "uvloop", "asyncio"),
        default="auto",
        section="Workers",
        flags=("--loop", "--asgi-loop"),
        doc="The event loop of an async worker, and of the portal in the others. `auto` is uvloop where it is installed; "
        "`module:factory` is called for a loop.",
    )
    asgi_lifespan: str = setting(
        kinds.Choice("auto", "on", "off"),
        default="auto",
        section="Workers",
        flags=("--lifespan", "--asgi-lifespan"),
        doc="Whether ASGI applications are told of a worker's start and end. One that says that it can't start fails the boot. "
        "With `auto`, one that raises takes no part; with `on`, that fails the boot too.",
    )
    cancel_on_disconnect: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Workers",
        flags=("--cancel-on-disconnect",),
        doc="Cancel the task of an ASGI request whose client has gone. Without it the application learns of it when it next "
        "receives (`http.disconnect`) or sends (an OSError).",
    )
    limit_connections_per_address: int = setting(
        kinds.Whole(example=100),
        default=0,
        default_text="no limit",
        section="Workers",
        flags=("--limit-connections-per-address",),
        doc="Connections that one address may have open with one worker. More are answered with 503. Behind a "
        "proxy all come from its address, unless it speaks the PROXY protocol. 0: no limit.",
    )
    min_uptime: float = setting(
        kinds.Duration(example="5s"),
        default=5.0,
        section="Workers",
        flags=("--min-uptime",),
        doc="A worker that lived this long ends a crash loop. Until then each restart of it waits longer than the one before.",
    )
    max_requests: int = setting(
        kinds.Whole(example=1000),
        default=0,
        section="Workers",
        flags=("--max-requests",),
        doc="Replace a worker after this many requests. It serves until its successor is ready. 0: never.",
    )
    max_requests_jitter: int = setting(
        kinds.Whole(example=100),
        default=0,
        section="Workers",
        flags=("--max-requests-jitter",),
        doc="Up to this many requests more, different for each worker. So not all are replaced at the same time.",
    )
    max_lifetime: float = setting(
        kinds.Duration(example="12h"),
        default=0.0,
        section="Workers",
        flags=("--max-lifetime",),
        doc="Replace a worker that has been ready for so long. It serves until its successor is ready. 0: never.",
    )
    max_lifetime_jitter: float = setting(
        kinds.Duration(example="1h"),
        default=0.0,
        section="Workers",
        flags=("--max-lifetime-jitter",),
        doc="Up to this much later, different for each worker.",
    )
    max_worker_memory: int = setting(
        kinds.Size(example="400MiB"),
        default=0,
        section="Workers",
        flags=("--max-worker-memory",),
        doc="Replace a worker that uses more memory than this. What counts is its proportional share (PSS), looked at every "
        "5 seconds. It serves until its successor is ready. 0: no limit.",
    )
    max_worker_memory_hard: int = setting(
        kinds.Size(example="800MiB"),
        default=0,
        section="Workers",
        flags=("--max-worker-memory-hard",),
        doc="Kill a worker that uses more memory than this. Its stacks are logged before. 0: no limit.",
    )
    give_up_after: float = setting(
        kinds.Duration(example="5m"),
        default=0.0,
        section="Workers",
        flags=("--give-up-after",),
        doc="End the service with an error when no worker is ready for so long. 0: never; workers are tried again for ever.",
    )
    touch_reload: str | None = setting(
        kinds.Nullable(kinds.Path(example="/srv/project/reload")),
        default=None,
        default_text="none",
        section="Reload",
        flags=("--touch-reload",),
        doc="Reload when the time of this file changes, as SIGHUP does.",
    )
    upgrade_keep: float = setting(
        kinds.Duration(example="60s"),
        default=0.0,
        section="Reload",
        flags=("--upgrade-keep",),
        doc="How long the old supervisor stays after an upgrade (SIGUSR2), without workers. If the new one ends in that time, "
        "for whatever reason, the old one takes the service back; SIGHUP to the old one makes it do so. See docs/upgrade.md.",
    )
    warmup: tuple[str, ...] = setting(
        lists.Targets(),
        default=(),
        section="Reload",
        flags=("--warmup",),
        doc="Request these paths in each new worker before it is ready, inside the process. An answer of 500 or above fails "
        "its boot.",
    )
    prove: float = setting(
        kinds.Duration(example="1s"),
        default=1.0,
        section="Reload",
        flags=("--prove",),
        doc="How long the first worker of a reload must stay ready. Only then are the others replaced; if it dies "
        "first, the reload is refused and the old workers go on.",
    )
    surge: int = setting(
        kinds.Whole(1, example=1),
        default=1,
        section="Reload",
        flags=("--surge",),
        doc="Workers above the count while others are replaced. More makes a reload quicker, and takes more memory "
        "while it runs.",
    )
    reload: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Development",
        flags=("--reload",),
        applies="restart",
        doc="Reload when a source changes: for development. No request is cut; while the code can't be loaded, every client is "
        "shown the error. With the extra `reload` (watchfiles) the kernel tells of changes; else they are looked for twice a "
        "second.",
    )
    reload_engine: str = setting(
        kinds.Choice("auto", "inotify", "poll"),
        default="auto",
        section="Development",
        flags=("--reload-engine",),
        applies="restart",
        doc="How changes are noticed. `inotify` is watchfiles, `poll` looks twice a second; `auto` is watchfiles where it is "
        "installed.",
    )
    reload_dir: tuple[str, ...] = setting(
        lists.Paths(example="../shared"),
        default=(),
        section="Development",
        flags=("--reload-dir",),
        applies="restart",
        doc="Watch these directories as well. `chdir` and `pythonpath` are watched anyway; folders whose name begins with a "
        "dot, virtual environments and installed packages are not.",
    )
    reload_include: tuple[str, ...] = setting(
        lists.Patterns(example="*.html,*.yaml"),
        default=(),
        section="Development",
        flags=("--reload-include",),
        applies="restart",
        doc="Watch files with such names as well, templates for example. `*.py` is watched anyway.",
    )
    reload_exclude: tuple[str, ...] = setting(
        lists.Patterns(example="migrations,*_pb2.py"),
        default=(),
        section="Development",
        flags=("--reload-exclude",),
        applies="restart",
        doc="Don't watch files and folders with such names or paths.",
    )
    reload_extra_files: tuple[str, ...] = setting(
        lists.Paths(example="settings.yaml"),
        default=(),
        section="Development",
        flags=("--reload-extra-file",),
        applies="restart",
        doc="Watch these files as well, whatever their names.",
    )
    boot_timeout: float = setting(
        kinds.Duration(0.1, example="60s"),
        default=60.0,
        section="Deadlines",
        flags=("--boot-timeout",),
        doc="How long a worker may take to become ready. A worker that is still importing after this is killed.",
    )
    timeout: float = setting(
        kinds.Duration(example="30s"),
        default=30.0,
        section="Deadlines",
        flags=("-t", "--timeout"),
        doc="How long a worker may be stuck. In a sync worker this is the time for a whole request. The worker is "
        "replaced after it. 0: for ever.",
    )
    request_timeout: float = setting(
        kinds.Duration(example="20s"),
        default=0.0,
        section="Deadlines",
        flags=("--request-timeout",),
        doc="How long a request may take. It is cancelled after that, by an exception raised in it, and its client is "
        "answered 504; the worker lives. A request that can give itself more time calls "
        '`environ["arbiter.extend_deadline"](seconds)`, or in ASGI `scope["extensions"]["arbiter.extend_deadline"](seconds)`. '
        "0: for ever.",
    )
    slow_request_time: float = setting(
        kinds.Duration(example="5s"),
        default=0.0,
        section="Deadlines",
        flags=("--slow-request-time",),
        doc="Log requests that take longer than this, with the stacks of their worker. They are not harmed. 0: never.",
    )
    loop_lag_warning: float = setting(
        kinds.Duration(example="1s"),
        default=1.0,
        section="Deadlines",
        flags=("--loop-lag-warning",),
        doc="Log what blocks an async worker's event loop for so long. The stack of it is shown. `timeout` replaces a worker "
        "whose loop stays blocked. 0: never.",
    )
    queue_timeout: float = setting(
        kinds.Duration(example="5s"),
        default=0.0,
        section="Deadlines",
        flags=("--queue-timeout",),
        doc="How long a request may have waited for a worker. One that has waited longer is answered with 503 and Retry-After, "
        "without the application: whoever sent it has given up, or will ask again. The wait is what the kernel knows of it "
        "(TCP only), or since the X-Request-Start or X-Queue-Start of a proxy in `forwarded_allow_ips`, if that is longer. "
        "A request that came before the one ahead of it on its connection was answered has waited since that answer. "
        "0: for ever.",
    )
    graceful_timeout: float = setting(
        kinds.Duration(example="30s"),
        default=30.0,
        section="Deadlines",
        flags=("--graceful-timeout",),
        doc="How long requests may go on after a stop or a reload. Workers that are still busy are killed then.",
    )
    drain_delay: float = setting(
        kinds.Duration(example="10s"),
        default=0.0,
        section="Deadlines",
        flags=("--drain-delay",),
        doc="How long a graceful stop still serves, while the health check says no. A load balancer turns away in that time, "
        "and no client is refused. A second SIGTERM ends it.",
    )
    head_timeout: float = setting(
        kinds.Duration(0.1, example="10s"),
        default=10.0,
        section="Deadlines",
        flags=("--head-timeout",),
        doc="How long a client may take to send a request's head. Its connection is closed after that.",
    )
    write_timeout: float = setting(
        kinds.Duration(0.1, example="30s"),
        default=30.0,
        section="Deadlines",
        flags=("--write-timeout",),
        doc="How long a client may read nothing of a response. Its connection is closed after that.",
    )
    keepalive: float = setting(
        kinds.Duration(example="75s"),
        default=75.0,
        section="Deadlines",
        flags=("--keep-alive",),
        doc="How long a threaded or async worker keeps a connection for the next request. It must be longer than a proxy in "
        "front keeps it idle (nginx and AWS: 60 s), or now and then a request meets a connection that is being closed; "
        "Gunicorn's 2 s are not. An idle connection takes no thread. 0: no connection is kept.",
    )
    http: str = setting(
        kinds.Choice("auto", "httptools", "h11"),
        default="auto",
        section="HTTP",
        flags=("--http",),
        doc="The HTTP parser. `httptools` is fast and in C, `h11` is in Python; both follow the same rules. `auto` is "
        "httptools where it is installed.",
    )
    http2: str = setting(
        kinds.Choice("auto", "on", "off"),
        default="auto",
        section="HTTP",
        flags=("--http2",),
        doc="Whether an async or threaded worker speaks HTTP/2. Over TLS where the client chooses it (ALPN); without TLS where "
        "the client begins with it or asks for it (`Upgrade: h2c`). It needs the extra `http2` (`pip install "
        "'arbiter-server[http2]'`): where that is not installed, `auto` serves HTTP/1.1 only and `on` does not start. A proxy "
        "that passes `Upgrade: h2c` on gives its clients a connection that it does not look into: have it remove the field "
        "(nginx does), or choose `off`.",
    )
    http2_max_concurrent_streams: int = setting(
        kinds.Whole(1, 10_000, example=100),
        default=100,
        section="HTTP",
        flags=("--http2-max-concurrent-streams",),
        doc="How many requests one HTTP/2 connection may have open.",
    )
    root_path: str | None = setting(
        kinds.Nullable(lists.Target(example="/shop")),
        default=None,
        default_text="the root",
        section="HTTP",
        flags=("--root-path",),
        doc="Where an ASGI application is mounted. It stands before every path, whether or not a proxy has cut it off.",
    )
    health_path: str | None = setting(
        kinds.Nullable(lists.Target(example="/healthz")),
        default=None,
        default_text="none",
        section="HTTP",
        flags=("--health-path",),
        doc="Answer GET and HEAD of exactly this path without the application. The answer is 200 `ok`, or 503 `draining` once "
        "a graceful stop has begun (see `drain_delay`) and from a worker that is about to leave.",
    )
    limit_request_line: int = setting(
        kinds.Size(example="4094"),
        default=4094,
        section="HTTP",
        flags=("--limit-request-line",),
        doc="Bytes in a request line. A longer one is answered with 414. 0: no limit.",
    )
    limit_request_fields: int = setting(
        kinds.Whole(example=100),
        default=100,
        section="HTTP",
        flags=("--limit-request-fields",),
        doc="Header fields in a request. More are answered with 431. 0: no limit.",
    )
    limit_request_field_size: int = setting(
        kinds.Size(example="8190"),
        default=8190,
        section="HTTP",
        flags=("--limit-request-field-size", "--limit-request-field_size"),  # the second is Gunicorn's spelling
        doc="Bytes in one header field, name and value. A longer one is answered with 431. 0: no limit.",
    )
    limit_request_body: int = setting(
        kinds.Size(example="10MiB"),
        default=0,
        default_text="no limit",
        section="HTTP",
        flags=("--limit-request-body",),
        doc="Bytes in a request's body. A longer one is answered with 413. 0: no limit.",
    )
    body_buffer: int = setting(
        kinds.Size(example="64KiB"),
        default=64 * 1024,
        section="HTTP",
        flags=("--body-buffer",),
        doc="Bytes of a body that are read before its request takes a thread. In a sync worker: before it is served. More is "
        "read as the application asks for it.",
    )
    response_buffer: int = setting(
        kinds.Size(example="1MiB"),
        default=1024 * 1024,
        section="HTTP",
        flags=("--response-buffer",),
        doc="Bytes of a response that a worker keeps in memory for a slow client. What is more goes to disk "
        "(`response_spool`). It takes no thread to send them. Files need no room. For threaded and sync workers.",
    )
    response_spool: int = setting(
        kinds.Size(example="512MiB"),
        default=512 * 1024 * 1024,
        section="HTTP",
        flags=("--response-spool",),
        doc="Bytes of disk that a threaded or sync worker takes for slow clients. What they have not read of their responses, "
        "beyond `response_buffer`, waits in files without a name, in the folder that TMPDIR names or the system's. A response "
        "gets an eighth of them at most; a larger one holds a thread for the rest, which does not count as one of `threads` "
        "(see `io_threads`), or its sync worker, up to `write_timeout`. 0: none.",
    )
    sendfile: bool = setting(
        kinds.Allowed(),
        default=True,
        section="HTTP",
        flags=("--no-sendfile",),
        environment=(("SENDFILE", "{}"),),
        doc="Send files by sendfile(2), from the disk's cache to the socket. Without it they are read and written in pieces, "
        "for file systems that sendfile does not work on, such as shared folders of virtual machines. ASGI applications are "
        "not offered `http.response.pathsend` then: middleware, which may want to compress a file, does not see those that go "
        "that way.",
    )
    ws_max_size: int = setting(
        kinds.Size(example="1MiB"),
        default=16 * 1024 * 1024,
        section="WebSocket",
        flags=("--ws-max-size",),
        doc="Largest WebSocket message that clients may send. It is measured decompressed; a longer one closes the WebSocket "
        "with code 1009.",
    )
    ws_max_queue: int = setting(
        kinds.Whole(1, 1_000_000, example=32),
        default=32,
        section="WebSocket",
        flags=("--ws-max-queue",),
        doc="How many messages of a WebSocket may wait. When so many, or 64 KiB, have not been received by the application, "
        "nothing more is read of that client until it receives some.",
    )
    ws_ping_interval: float = setting(
        kinds.Duration(example="20s"),
        default=20.0,
        section="WebSocket",
        flags=("--ws-ping-interval",),
        doc="How often WebSocket clients are pinged. So those that have vanished are noticed, and proxies do not close what is "
        "idle. 0: never.",
    )
    ws_ping_timeout: float = setting(
        kinds.Duration(example="20s"),
        default=20.0,
        section="WebSocket",
        flags=("--ws-ping-timeout",),
        doc="How long a client may take to answer a ping. After that its WebSocket is closed with code 1011. 0: for ever.",
    )
    ws_per_message_deflate: bool = setting(
        kinds.Boolean(),
        default=False,
        section="WebSocket",
        flags=("--ws-per-message-deflate",),
        doc="Compress WebSocket messages, where the client can. With permessage-deflate (RFC 7692): it costs about 45 KB for "
        "each such client, and much more time than a message does otherwise.",
    )
    ws_per_message_deflate_threshold: int = setting(
        kinds.Size(example="1KiB"),
        default=1024,
        section="WebSocket",
        flags=("--ws-per-message-deflate-threshold",),
        doc="Smallest WebSocket message that is compressed.",
    )
    certfile: str | None = setting(
        kinds.Nullable(kinds.Path(example="/etc/tls/fullchain.pem")),
        default=None,
        default_text="none",
        section="TLS",
        flags=("--certfile",),
        doc="Speak HTTPS on every address, with the certificate in this file. It is in PEM form, its chain after it. Workers "
        "read it before they drop privileges, and again when the file changes: new connections get the new certificate, "
        "without a reload. See docs/tls.md.",
    )
    keyfile: str | None = setting(
        kinds.Nullable(kinds.Path(example="/etc/tls/privkey.pem")),
        default=None,
        default_text="in certfile",
        section="TLS",
        flags=("--keyfile",),
        doc="The certificate's key, in PEM form and not encrypted. Only the user who starts Arbiter need be able to read it.",
    )
    sni_certs: tuple[tuple[str, str, str], ...] = setting(
        fronts.NamedCertificates(),
        default=(),
        section="TLS",
        flags=("--sni-cert",),
        doc="Other certificates for clients that ask for these names; repeat for more. A name is a host name, or `*.` and "
        "one: then it stands for all names that have one label more. In a file also a table: `name = [cert, key]`. Who asks "
        "for no name, or another, gets `certfile`.",
    )
    ca_certs: str | None = setting(
        kinds.Nullable(kinds.Path(example="/etc/tls/clients.pem")),
        default=None,
        default_text="none",
        section="TLS",
        flags=("--ca-certs",),
        doc="The authorities whose client certificates are good, in one PEM file.",
    )
    cert_reqs: str = setting(
        fronts.Verification(),
        default="none",
        section="TLS",
        flags=("--cert-reqs",),
        doc="Whether clients are asked for a certificate. It must be of `ca_certs`. `optional`: who shows one must show a good "
        "one; `required`: who shows none is refused, in the handshake. Gunicorn's 0, 1 and 2 mean the same. What it says is in "
        "the environ, as `SSL_CLIENT_S_DN` and others.",
    )
    ciphers: str | None = setting(
        kinds.Nullable(kinds.Text(example="ECDHE+AESGCM")),
        default=None,
        default_text="Python's",
        section="TLS",
        flags=("--ciphers",),
        doc="Ciphers of TLS 1.2, as OpenSSL lists them. Those of TLS 1.3 are all good and stay.",
    )
    tls_minimum: str = setting(
        kinds.Choice("1.2", "1.3"),
        default="1.2",
        section="TLS",
        flags=("--tls-minimum",),
        doc="The oldest version of TLS that is spoken.",
    )
    ssl_context: callables.Code | None = setting(
        callables.Hook("config", "default_ssl_context_factory"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker for each certificate, when its files are read; gives the SSLContext to be used. Without "
        "arguments, `default_ssl_context_factory` gives the one that would be used, with the certificate, `ca_certs` and the "
        "other settings, to be changed or replaced. What it raises fails the boot, or keeps the old certificate.",
    )
    handshake_timeout: float = setting(
        kinds.Duration(0.1, example="10s"),
        default=10.0,
        section="TLS",
        flags=("--handshake-timeout",),
        doc="How long a client may take for the TLS handshake. Its connection is closed after that; until then it takes no "
        "thread of a threaded worker.",
    )
    suppress_ragged_eofs: bool = setting(
        kinds.Boolean(),
        default=True,
        section="TLS",
        flags=("--suppress-ragged-eofs",),
        doc="Take the end of a connection for an end, though TLS has not announced it. Many clients leave so.",
    )
    proxy_protocol: str = setting(
        fronts.ProxyMode(),
        default="off",
        section="Proxies",
        flags=("--proxy-protocol",),
        doc="Expect a PROXY header at the beginning of each connection. `auto` takes versions 1 and 2. It is expected, and "
        "must be there, from peers in `proxy_allow_ips`; the address in it is REMOTE_ADDR. The flag alone means `auto`. "
        "See docs/proxies.md.",
    )
    proxy_allow_ips: tuple[str, ...] = setting(
        fronts.Networks(),
        default=("127.0.0.1", "::1"),
        section="Proxies",
        flags=("--proxy-allow-from",),
        doc="Peers that send PROXY headers. Addresses and networks, or `*`. Unix sockets always count.",
    )
    forwarded_allow_ips: tuple[str, ...] = setting(
        fronts.Networks(),
        default=("127.0.0.1", "::1"),
        section="Proxies",
        flags=("--forwarded-allow-ips",),
        environment=(("FORWARDED_ALLOW_IPS", "{}"),),
        doc="Proxies that are believed what they say of their clients. Addresses and networks, or `*`. Unix sockets always "
        "count. What the others say is not looked at.",
    )
    forwarded_facts: tuple[str, ...] = setting(
        fronts.Words("for", "proto", "host", "port", "prefix"),
        default=("for", "proto"),
        section="Proxies",
        flags=("--forwarded-facts",),
        doc="What a believed proxy may say of its clients. `for`: REMOTE_ADDR is the rightmost address in Forwarded or "
        "X-Forwarded-For that is not a believed proxy's; `proto`: the scheme, in Forwarded; `host`, `port`, `prefix`: "
        "HTTP_HOST, SERVER_PORT and SCRIPT_NAME, only for a proxy that sets these fields itself. Without `for`, REMOTE_ADDR is "
        "the proxy's, as in Gunicorn.",
    )
    protocol: str = setting(
        kinds.Choice("http", "uwsgi"),
        default="http",
        section="Proxies",
        flags=("--protocol",),
        doc="What is spoken on every address. `uwsgi` is the protocol of nginx's `uwsgi_pass`; each connection has one "
        "request. See docs/proxies.md.",
    )
    uwsgi_allow_ips: tuple[str, ...] = setting(
        fronts.Networks(),
        default=("127.0.0.1", "::1"),
        section="Proxies",
        flags=("--uwsgi-allow-from",),
        doc="Peers that may speak the uwsgi protocol. Addresses and networks, or `*`; others are answered with 403. Unix "
        "sockets always count.",
    )
    secure_scheme_headers: tuple[tuple[str, str], ...] = setting(
        fronts.FieldValues(),
        default=(("X-FORWARDED-PROTOCOL", "ssl"), ("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on")),
        section="Proxies",
        doc="Header fields by which a believed proxy says that a request came by HTTPS. Each has the value that says so; any "
        "other says http, and two fields that contradict each other are answered with 400.",
    )
    forwarder_headers: tuple[str, ...] = setting(
        fronts.FieldNames(),
        default=("SCRIPT_NAME", "PATH_INFO"),
        section="Proxies",
        flags=("--forwarder-headers",),
        doc="Fields with underscores that a believed proxy may set. SCRIPT_NAME becomes the variable of that name, "
        "the others HTTP_ and the name.",
    )
    header_map: str = setting(
        kinds.Choice("drop", "refuse", "dangerous"),
        default="drop",
        section="Proxies",
        flags=("--header-map",),
        doc="What to do with other header fields that have an underscore in their names. `X_A` and `X-A` are one variable, so "
        "they are dropped; `refuse` answers 400, `dangerous` lets them be the variable.",
    )
    errorlog: str = setting(
        kinds.Path(example="/var/log/arbiter/error.log", dash="standard error"),
        default="-",
        section="Logging",
        flags=("--error-logfile", "--log-file"),
        doc="Write the log here. `-` is standard error. SIGUSR1 opens the file again after it was moved.",
    )
    loglevel: str = setting(
        kinds.Choice(
            "debug", "info", "warning", "error", "critical", others=MappingProxyType({"warn": "warning", "fatal": "critical"})
        ),
        default="info",
        section="Logging",
        flags=("--log-level",),
        doc="The least severe line that is logged.",
    )
    accesslog: str | None = setting(
        kinds.Nullable(kinds.Path(example="/var/log/arbiter/access.log", dash="standard output")),
        default=None,
        default_text="off",
        section="Logging",
        flags=("--access-logfile",),
        doc="Write one line for each request here. `-` is standard output. Empty: none.",
    )
    access_log_format: str = setting(
        kinds.Text(example="%(h)s %(r)s %(s)s"),
        default=GUNICORN_ACCESS_LOG,
        default_text="Apache's combined format",
        section="Logging",
        flags=("--access-logformat",),
        doc="The form of an access log line. The atoms are Gunicorn's, and three more. `%(cpu)s` is the processor time in "
        "microseconds; an async worker does not know it. `%(queue)s` is how long the request has waited for the worker, "
        "in microseconds, as `queue_timeout` has it; the kernel's clock ticks in milliseconds. `%(id)s` is the "
        "request's id: the client's `X-Request-ID`, if that is up to 128 letters, digits and `._:+/=-`, else a new one; "
        "the application finds it in the environ, or the scope, as `arbiter.request_id`.",
    )
    access_log_json: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Logging",
        flags=("--access-log-json",),
        doc="Write the access log as JSON, an object on each line. It takes the place of `access_log_format`; numbers are "
        "numbers, and what is missing is `null`.",
    )
    access_log_skip: tuple[lists.Skip, ...] = setting(
        lists.Skips(),
        default=(),
        section="Logging",
        flags=("--access-log-skip",),
        doc="Requests that make no line in the access log; repeat for more. Each is a status (`304`, `3xx`), a path "
        "(`/healthz`, `/static/*`), or both (`2xx /healthz`).",
    )
    capture_output: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Logging",
        flags=("--capture-output",),
        applies="restart",
        doc="Send what is printed to the error log. That is standard output and standard error, if `errorlog` is a file.",
    )
    logger_class: callables.Code | None = setting(
        logkinds.LoggerClass(),
        default=None,
        default_text="Arbiter's own",
        section="Logging",
        flags=("--logger-class",),
        doc="Log by this class. It is made from `arbiter.glogging.Logger`, or from `gunicorn.glogging.Logger`, which means "
        "the same here, and logs by Python's `logging`, to the loggers `gunicorn.error` and `gunicorn.access`.",
    )
    logconfig: str | None = setting(
        kinds.Nullable(kinds.Path(example="/etc/project/logging.ini")),
        default=None,
        default_text="none",
        section="Logging",
        flags=("--log-config",),
        doc="Configure Python's logging from this file. It is in the form of `logging.config.fileConfig`; the loggers are "
        "`gunicorn.error` and `gunicorn.access`.",
    )
    logconfig_dict: dict[str, Any] | None = setting(
        logkinds.Table(),
        default=None,
        default_text="none",
        section="Logging",
        doc="Configure Python's `logging` from this table, in the form of `logging.config.dictConfig`, laid over a "
        "configuration that logs both loggers to the standard streams. It comes before `logconfig_json` and `logconfig`.",
    )
    logconfig_json: str | None = setting(
        kinds.Nullable(kinds.Path(example="/etc/project/logging.json")),
        default=None,
        default_text="none",
        section="Logging",
        flags=("--log-config-json",),
        doc="Configure Python's logging from this file of JSON. See `logconfig_dict`; it comes before `logconfig`.",
    )
    syslog: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Logging",
        flags=("--log-syslog",),
        doc="Send the log, and the access log, to syslog as well.",
    )
    syslog_addr: str = setting(
        logkinds.SyslogAddress(),
        default="udp://localhost:514",
        section="Logging",
        flags=("--log-syslog-to",),
        doc="Where syslog listens. `unix:///dev/log` is the local one.",
    )
    syslog_prefix: str | None = setting(
        kinds.Nullable(kinds.Text(example="shop")),
        default=None,
        default_text="the process's name",
        section="Logging",
        flags=("--log-syslog-prefix",),
        doc="The program's name in syslog. Lines are of `gunicorn.PREFIX.error` and `gunicorn.PREFIX.access`, as Gunicorn's.",
    )
    syslog_facility: str = setting(
        kinds.Choice(
            "user",
            "auth",
            "authpriv",
            "cron",
            "daemon",
            "ftp",
            "kern",
            "lpr",
            "mail",
            "news",
            "security",
            "syslog",
            "uucp",
            "local0",
            "local1",
            "local2",
            "local3",
            "local4",
            "local5",
            "local6",
            "local7",
            metavar="FACILITY",
        ),
        default="user",
        section="Logging",
        flags=("--log-syslog-facility",),
        doc="The facility of lines in syslog.",
    )
    disable_redirect_access_to_syslog: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Logging",
        flags=("--disable-redirect-access-to-syslog",),
        doc="Keep the access log out of syslog.",
    )
    statsd_host: str | None = setting(
        logkinds.StatsdAddress(),
        default=None,
        default_text="none",
        section="Logging",
        flags=("--statsd-host",),
        doc="Count in the statsd that listens here. It is told of requests, answers, durations, log lines and workers, by UDP "
        "or a Unix socket.",
    )
    statsd_prefix: str | None = setting(
        kinds.Nullable(kinds.Text(example="shop")),
        default=None,
        default_text="none",
        section="Logging",
        flags=("--statsd-prefix",),
        doc="What comes before the metrics' names, with a dot after it.",
    )
    dogstatsd_tags: str | None = setting(
        kinds.Nullable(kinds.Text(example="env:prod,team:shop")),
        default=None,
        default_text="none",
        section="Logging",
        flags=("--dogstatsd-tags",),
        doc="Tags for every metric, with commas: for a statsd that understands Datadog's.",
    )
    enable_backlog_metric: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Logging",
        flags=("--enable-backlog-metric",),
        doc="Tell statsd once a second how many connections wait to be accepted.",
    )
    on_starting: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor before it listens. What it raises ends the start.",
    )
    on_reload: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when a reload has read its settings, before its first worker is forked.",
    )
    when_ready: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when the service can be used: the first worker is ready. (In Gunicorn: before there is "
        "any.)",
    )
    pre_fork: callables.Code | None = setting(
        callables.Hook("server", "worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor before a worker is forked.",
    )
    post_fork: callables.Code | None = setting(
        callables.Hook("server", "worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker right after its fork, before privileges are dropped and the application is loaded (with "
        "`preload_app`: it has been loaded).",
    )
    post_worker_init: callables.Code | None = setting(
        callables.Hook("worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker when the application is loaded, before `warmup` and the first request.",
    )
    worker_int: callables.Code | None = setting(
        callables.Hook("worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker that is interrupted, by SIGINT or SIGQUIT.",
    )
    worker_abort: callables.Code | None = setting(
        callables.Hook("worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker that is stuck (see `timeout`), or that was sent SIGABRT. It is killed a second later.",
    )
    pre_exec: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in an upgrade (SIGUSR2), in the new process, before it executes the new version.",
    )
    pre_request: callables.Code | None = setting(
        callables.Hook("worker", "req"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker before each request; with an ASGI application on its event loop. What it raises is answered "
        "500.",
    )
    post_request: callables.Code | None = setting(
        callables.Hook("worker", "req", "environ", "resp", fewest=2),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker after each request, when the application has ended; with an ASGI application on its event "
        "loop. It may take the first 2 or 3 only.",
    )
    child_exit: callables.Code | None = setting(
        callables.Hook("server", "worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when a worker has ended, however it did; `worker.pid` is what it was.",
    )
    worker_exit: callables.Code | None = setting(
        callables.Hook("server", "worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in a worker before it ends. Not if it is killed.",
    )
    nworkers_changed: callables.Code | None = setting(
        callables.Hook("server", "new_value", "old_value"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when another number of workers is wanted: at the start (from None), by signal, by load, "
        "by reload.",
    )
    on_exit: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when all workers have ended, before it ends itself.",
    )
    worker_ready: callables.Code | None = setting(
        callables.Hook("server", "worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when a worker is ready.",
    )
    all_workers_ready: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when all workers are ready: after the start, and at the end of each reload.",
    )
    worker_timed_out: callables.Code | None = setting(
        callables.Hook("info"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor for a worker that is stuck, before it is killed. `info` has `worker`, `pid`, `slot`, "
        "`generation`, `doing` (the request, how long, where) and `stacks`.",
    )
    reload_refused: callables.Code | None = setting(
        callables.Hook("error"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when a reload is refused, with the reason in words. The old workers serve on.",
    )
    drain_started: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called in the supervisor when a graceful stop begins, with `drain_delay` before the last requests.",
    )
    before_fork: callables.Code | None = setting(
        callables.Hook("server"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called with `preload_app` in the process that has the application loaded, before each worker that it forks: the "
        "place to close what must not be shared.",
    )
    after_fork: callables.Code | None = setting(
        callables.Hook("worker"),
        default=None,
        default_text="none",
        section="Hooks",
        doc="Called with `preload_app` in a worker right after its fork, before `post_fork`: the place to open it again.",
    )
    pidfile: str | None = setting(
        kinds.Nullable(kinds.Path(example="/run/arbiter.pid")),
        default=None,
        default_text="none",
        section="Process",
        flags=("-p", "--pid"),
        applies="restart",
        doc="Write the supervisor's process id to this file. It is removed when the supervisor ends.",
    )
    daemon: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Process",
        flags=("-D", "--daemon"),
        applies="restart",
        doc="Run in the background. The command returns when the service serves, or with its error. Not needed under "
        "systemd or in a container.",
    )
    user: str | None = setting(
        kinds.Nullable(kinds.Account(example="www-data")),
        default=None,
        default_text="unchanged",
        section="Process",
        flags=("-u", "--user"),
        doc="Run workers as this user, a name or a number. The supervisor stays who started it, so ports below 1024 and "
        "root's files can be used.",
    )
    group: str | None = setting(
        kinds.Nullable(kinds.Account(example="www-data")),
        default=None,
        default_text="the user's",
        section="Process",
        flags=("-g", "--group"),
        doc="Run workers in this group, a name or a number.",
    )
    initgroups: bool = setting(
        kinds.Boolean(),
        default=False,
        section="Process",
        flags=("--initgroups",),
        doc="Give workers all groups that the user is in. Without it they have one group.",
    )
    umask: int = setting(
        kinds.Mode(),
        default=0,
        section="Process",
        flags=("-m", "--umask"),
        doc="The file mode mask of workers and of Unix sockets. 0, Gunicorn's default, takes no permission away.",
    )
    proc_name: str | None = setting(
        kinds.Nullable(kinds.Text(example="shop")),
        default=None,
        default_text="the application",
        section="Process",
        flags=("-n", "--name"),
        doc="The name in process titles.",
    )


SETTINGS: Mapping[str, Setting] = MappingProxyType({f.name: f.metadata[_ROW]._replace(name=f.name) for f in fields(Settings)})
STANDARD_LOGGING: tuple[str, ...] = ("logger_class", "logconfig", "logconfig_dict", "logconfig_json", "syslog", "statsd_host")
"""The settings that need Python's `logging`; without them neither it nor `glogging` is configured."""
HOOKS: tuple[str, ...] = tuple(name for name, row in SETTINGS.items() if isinstance(row.kind, callables.Hook))
"""The settings that are functions to be called."""
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(row.section for row in SETTINGS.values()))
