"""What a browser is shown in development while the application can't be loaded: the error, until it can."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE: Final = """\
<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="1">
<title>The application can't be loaded</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color-scheme: light dark }}
h1 {{ font-size: 1.4rem }}
pre {{ font: 14px/1.5 ui-monospace, monospace; padding: 1rem; overflow: auto; border-left: 4px solid #c33; background: #c331 }}
</style>
<h1>The application can't be loaded</h1>
<pre>{error}</pre>
<p>This page looks again every second, and goes when the code loads. Only <code>arbiter --reload</code> has it.</p>
"""


def page(error: str) -> Callable[[dict[str, Any], Callable[..., Any]], list[bytes]]:
    """A WSGI application that shows `error` to everybody, as 503; as HTML to who takes it."""
    html, text = _PAGE.format(error=escape(error)).encode(), f"The application can't be loaded:\n\n{error}\n".encode()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        is_browser = "text/html" in environ.get("HTTP_ACCEPT", "")
        body = html if is_browser else text
        kind = f"text/{'html' if is_browser else 'plain'}; charset=utf-8"
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Retry-After", "1"),
        ]
        start_response("503 Service Unavailable", headers)
        return [body]

    return application
