"""The answer to health checks (`health_path`), given by the worker in the application's place.

It tells a load balancer whether to send more, which no application knows: a service that drains is well, and wants no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arbiter.workers.interfaces.wsgi import Application


def with_health(app: Application, path: str, is_leaving: Callable[[], bool]) -> Application:
    """`app`, but for GET and HEAD of exactly this path: 200 ``ok``, or 503 ``draining`` when `is_leaving` says so."""

    def application(environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], None]]) -> Iterable[bytes]:
        is_check = environ["REQUEST_METHOD"] in ("GET", "HEAD") and environ["REQUEST_URI"].partition("?")[0] == path
        if not is_check:
            return app(environ, start_response)
        status, body = ("503 Service Unavailable", b"draining\n") if is_leaving() else ("200 OK", b"ok\n")
        fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(status, fields)
        return [body]

    return application
