"""The answer to health checks (`health_path`), given by the worker in the application's place.

It tells a load balancer whether to send more, which no application knows: a service that drains is well, and wants no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arbiter.workers.interfaces.wsgi import Application


_WELL: Final = (200, b"ok\n")
_LEAVING: Final = (503, b"draining\n")


def with_health(app: Application, path: str, is_leaving: Callable[[], bool]) -> Application:
    """`app`, but for GET and HEAD of exactly this path: 200 ``ok``, or 503 ``draining`` when `is_leaving` says so."""

    def application(environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], None]]) -> Iterable[bytes]:
        is_check = environ["REQUEST_METHOD"] in ("GET", "HEAD") and environ["REQUEST_URI"].partition("?")[0] == path
        if not is_check:
            return app(environ, start_response)
        code, body = _LEAVING if is_leaving() else _WELL
        fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response("200 OK" if code == 200 else "503 Service Unavailable", fields)
        return [body]

    return application


def health_application(is_leaving: Callable[[], bool]) -> Any:
    """The same answer as an ASGI application, for whoever has looked at method and path itself."""

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        code, body = _LEAVING if is_leaving() else _WELL
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application
