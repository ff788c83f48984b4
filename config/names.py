"""What a name that is not in the table may mean: a slip of the pen, or a setting of Gunicorn's that is not ours yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

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
