"""What a name that is not in the table may mean: a slip of the pen, or a setting of Gunicorn's.

Of Gunicorn's settings those that mean something here are rows of `schema`. The others are in `NOTES`: they are accepted, and
one line says why they have no effect and what to use instead. A few have another name here (`ALIASES`).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from arbiter.config.kinds import Takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Every setting of Gunicorn 27.0.1, from `gunicorn.config.KNOWN_SETTINGS`, so that none is ever silently ignored.
GUNICORN = frozenset(
    """
    access_log_format accesslog asgi_disconnect_grace_period asgi_lifespan asgi_loop backlog bind ca_certs capture_output
    casefold_http_method cert_reqs certfile chdir check_config child_exit ciphers config control_socket
    control_socket_disable control_socket_mode daemon default_proc_name dirty_apps dirty_graceful_timeout
    dirty_post_fork dirty_threads dirty_timeout dirty_worker_exit dirty_worker_init dirty_workers
    disable_redirect_access_to_syslog do_handshake_on_connect dogstatsd_tags enable_backlog_metric
    enable_stdio_inheritance errorlog forwarded_allow_ips forwarder_headers graceful_timeout group header_map
    http2_cleartext http2_initial_window_size http2_max_concurrent_streams http2_max_frame_size
    http2_max_header_list_size http_parser http_protocols initgroups keepalive keyfile limit_request_field_size
    limit_request_fields limit_request_line logconfig logconfig_dict logconfig_json logger_class loglevel max_requests
    max_requests_jitter nworkers_changed on_dirty_starting on_exit on_reload on_starting paste
    permit_obsolete_folding permit_unconventional_http_method permit_unconventional_http_version pidfile post_fork
    post_request post_worker_init pre_exec pre_fork pre_request preload_app print_config proc_name protocol
    proxy_allow_ips proxy_protocol pythonpath raw_env raw_paste_global_conf reload reload_engine reload_extra_files
    reuse_port root_path secure_scheme_headers sendfile spew ssl_context ssl_version statsd_host statsd_prefix
    strip_header_spaces suppress_ragged_eofs syslog syslog_addr syslog_facility syslog_prefix threads timeout
    tmp_upload_dir umask user uwsgi_allow_ips websocket_max_message_size when_ready wsgi_app worker_abort worker_class
    worker_connections worker_exit worker_int worker_tmp_dir workers
    """.split()  # noqa: SIM905 - a hundred quoted names are harder to check against Gunicorn's own list
)

UNSUPPORTED = "Gunicorn has it, Arbiter does not support it yet."


class Note(NamedTuple):
    """A setting of Gunicorn's that is accepted and has no effect."""

    default: object
    """Gunicorn's; a file that says the same has nothing to be told."""
    advice: str
    """Why it has no effect, and what to use instead."""
    flags: tuple[str, ...] = ()
    takes: Takes = Takes.ONE


_NO_DIRTY: Final = (
    "Arbiter has no dirty workers. Give long jobs to a task queue (Celery, RQ, Dramatiq), or to a service of their own."
)
_NO_CONTROL: Final = "there is no control socket. Signals do what it does, and arbiterctl sends them: arbiterctl --help."
_NO_TUNING: Final = "windows follow what the application reads, so that a connection's memory is bounded by itself."
_STRICT: Final = "readers that differ on this can be made to see other requests than Arbiter does. Mend the client, or "

NOTES: Final[Mapping[str, Note]] = MappingProxyType(
    {
        "config": Note("./gunicorn.conf.py", "a file cannot name another one. Use -c, or the variable ARBITER_CONFIG."),
        "check_config": Note(False, "it is an action, not a setting. Run arbiter --check-config."),
        "print_config": Note(False, "it is an action, not a setting. Run arbiter --print-config."),
        "default_proc_name": Note("gunicorn", "processes are called after the application. Use proc_name for another name."),
        "worker_tmp_dir": Note(
            None,
            "workers show that they live in shared memory. There is no file that a slow disk could hold up.",
            ("--worker-tmp-dir",),
        ),
        "tmp_upload_dir": Note(
            None, "no body is written to a file. Where an application keeps uploads is its own setting, or TMPDIR."
        ),
        "ssl_version": Note(
            2,  # ssl.PROTOCOL_TLS
            "Gunicorn ignores it as well. The oldest version that is spoken is tls_minimum: 1.2 or 1.3.",
            ("--ssl-version",),
        ),
        "do_handshake_on_connect": Note(
            False,
            "the handshake is done as the client's messages come in, and never holds a thread. It has handshake_timeout.",
            ("--do-handshake-on-connect",),
            Takes.NONE,
        ),
        "spew": Note(
            False,
            "tracing every line would stop a service. Use slow_request_time, which logs stacks, or a profiler like py-spy.",
            ("--spew",),
            Takes.NONE,
        ),
        "enable_stdio_inheritance": Note(
            False,
            "a daemon keeps its terminal until it serves, and then lets go of it. Use errorlog and capture_output.",
            ("-R", "--enable-stdio-inheritance"),
            Takes.NONE,
        ),
        "paste": Note(
            None,
            'load the file in a module of yours, application = paste.deploy.loadapp("config:/path/to.ini"), and serve that.',
            ("--paste", "--paster"),
        ),
        "raw_paste_global_conf": Note([], "give it to paste.deploy.loadapp, as global_conf.", ("--paste-global",), Takes.MANY),
        "permit_obsolete_folding": Note(
            False, f"{_STRICT}have a proxy in front unfold its header lines.", ("--permit-obsolete-folding",), Takes.NONE
        ),
        "strip_header_spaces": Note(
            False, f"{_STRICT}have a proxy in front strip the spaces.", ("--strip-header-spaces",), Takes.NONE
        ),
        "permit_unconventional_http_method": Note(
            False,
            "methods are 3 to 20 characters of A-Z, 0-9, - and _, whether registered or not. Name yours so.",
            ("--permit-unconventional-http-method",),
            Takes.NONE,
        ),
        "permit_unconventional_http_version": Note(
            False,
            f"{_STRICT}have a proxy in front speak HTTP/1.1.",
            ("--permit-unconventional-http-version",),
            Takes.NONE,
        ),
        "casefold_http_method": Note(
            False,
            "methods are case-sensitive (RFC 9110). Mend the client.",
            ("--casefold-http-method",),
            Takes.NONE,
        ),
        "asgi_disconnect_grace_period": Note(
            3,
            "an application is told at once that its client has gone, and ends by itself. cancel_on_disconnect cancels it, "
            "request_timeout bounds it.",
            ("--asgi-disconnect-grace-period",),
        ),
        "control_socket": Note(None, _NO_CONTROL, ("--control-socket",)),
        "control_socket_mode": Note(0o600, _NO_CONTROL, ("--control-socket-mode",)),
        "control_socket_disable": Note(False, _NO_CONTROL, ("--no-control-socket",), Takes.NONE),
        "http2_cleartext": Note(
            "off", "HTTP/2 without TLS belongs to http2: auto and on take it, off does not.", ("--http2-cleartext",)
        ),
        "http2_initial_window_size": Note(65535, _NO_TUNING, ("--http2-initial-window-size",)),
        "http2_max_frame_size": Note(
            16384, "frames are of the size that every peer takes (RFC 9113 section 4.2).", ("--http2-max-frame-size",)
        ),
        "http2_max_header_list_size": Note(
            65536,
            "fields are bounded in every protocol by limit_request_fields and limit_request_field_size.",
            ("--http2-max-header-list-size",),
        ),
        "dirty_apps": Note([], _NO_DIRTY, ("--dirty-app",), Takes.MANY),
        "dirty_workers": Note(0, _NO_DIRTY, ("--dirty-workers",)),
        "dirty_timeout": Note(300, _NO_DIRTY, ("--dirty-timeout",)),
        "dirty_threads": Note(1, _NO_DIRTY, ("--dirty-threads",)),
        "dirty_graceful_timeout": Note(30, _NO_DIRTY, ("--dirty-graceful-timeout",)),
        "on_dirty_starting": Note(None, _NO_DIRTY),
        "dirty_post_fork": Note(None, _NO_DIRTY),
        "dirty_worker_init": Note(None, _NO_DIRTY),
        "dirty_worker_exit": Note(None, _NO_DIRTY),
    }
)


class Alias(NamedTuple):
    """A setting of Gunicorn's that has another name here."""

    name: str
    flags: tuple[str, ...]
    words: Mapping[str, str]
    """Values that have another name too."""

    def value(self, given: object) -> object:
        """The value as the other setting has it."""
        return self.words.get(given.strip().lower(), given) if isinstance(given, str) else given


ALIASES: Final[Mapping[str, Alias]] = MappingProxyType(
    {
        "http_parser": Alias("http", ("--http-parser",), MappingProxyType({"fast": "httptools", "python": "h11"})),
        "http_protocols": Alias(
            "http2",
            ("--http-protocols",),
            MappingProxyType({"h1": "off", "h2": "on", "h1,h2": "auto", "h2,h1": "auto"}),
        ),
        "websocket_max_message_size": Alias("ws_max_size", ("--websocket-max-message-size",), MappingProxyType({})),
    }
)

# Two names are near when difflib's ratio reaches this. `bnd` and `tiemout` do (0.857); `workers_per_core`, a helper
# that many public Gunicorn files have, does not come near `workers` (0.61), nor `web_concurrency` to anything.
NEAR = 0.8


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None."""
    import difflib

    known = tuple(known)
    bare = _bare(name)
    for candidate in known:
        if _bare(candidate) == bare:  # log_level for loglevel, worker-class for worker_class
            return candidate
    matches = difflib.get_close_matches(name.lower(), known, n=1, cutoff=NEAR)
    return matches[0] if matches else None


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
