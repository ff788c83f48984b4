"""An application by its name, embedded: `run` is the command `arbiter`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from arbiter.app.base import Application


class WSGIApplication(Application):
    """A program that serves the application named on its command line, or in `app_uri`."""

    app_uri: str | None = None

    def init(self, parser: Any, opts: Any, args: list[str]) -> dict[str, object] | None:
        """The application's name is the first word."""
        del parser, opts
        if args:
            self.app_uri = args[0]
        return None

    def load(self) -> Any:
        """The application. Called in the worker, whose module this is found by name in."""
        return import_module("arbiter.workers.app").load(self.app_uri or str(self.cfg.wsgi_app or ""))


def run(prog: str | None = None) -> None:
    """The command `arbiter`, to its end."""
    del prog
    from arbiter.cli import main

    sys.exit(main())
