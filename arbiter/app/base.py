"""Programs that embed their server, as they do with Gunicorn: a class that loads its settings and its application.

`load` is called in each worker (with `preload_app`: in the template), `load_config` at the start and at each reload.
"""

from __future__ import annotations

import sys
from typing import Any

from arbiter.config.kinds import Refused
from arbiter.config.names import ALIASES, NOTES, nearest
from arbiter.config.schema import SETTINGS, Settings
from arbiter.facade import Config as View
from arbiter.facade import Entry


class Config:
    """Settings by Gunicorn's names: read as attributes, changed by `set`."""

    def __init__(self) -> None:
        self.given: dict[str, object] = {}
        """What has been set, as it was."""
        self._values: dict[str, Any] = {}

    def set(self, name: str, value: object) -> None:
        """Set a setting.

        Raises:
            AttributeError: there is none of that name.
            ValueError: the value is not of its kind.
        """
        row = SETTINGS.get(name)
        if row is None and name not in NOTES and name not in ALIASES:
            near = nearest(name, SETTINGS)
            raise AttributeError(f"No configuration setting for: {name}" + (f". Did you mean {near}?" if near else ""))
        if row:
            try:
                self._values[name] = row.kind.parse(value)
            except Refused as refused:
                raise ValueError(f"{name} = {value!r}: {refused}") from None
        self.given[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "given":
            raise AttributeError(name)
        return getattr(View(Settings(**self._values), self.given), name)

    @property
    def settings(self) -> dict[str, Entry]:
        """Every setting by name."""
        return View(Settings(**self._values), self.given).settings


class BaseApplication:
    """What Gunicorn's is: subclasses have `load_config`, which sets settings on `self.cfg`, and `load`, which gives the
    application."""  # noqa: D205, D209 - one sentence, too long for one line

    def __init__(self, usage: str | None = None, prog: str | None = None) -> None:
        self.usage = usage
        self.prog = prog
        self.cfg = Config()
        self.callable: Any = None
        self.logger: Any = None
        self.do_load_config()

    def do_load_config(self) -> None:
        """Load the settings; the program ends if they are wrong."""
        try:
            self.load_default_config()
            self.load_config()
        except Exception as error:  # noqa: BLE001 - whatever a subclass raises is what is wrong with the settings
            sys.stderr.write(f"\nError: {error}\n")
            sys.exit(1)

    def load_default_config(self) -> None:
        """Begin with the defaults."""
        self.cfg = Config()

    def load_config(self) -> None:
        """Set the settings on `self.cfg`: for subclasses."""
        raise NotImplementedError

    def load(self) -> Any:
        """The application: for subclasses. Called in the worker."""
        raise NotImplementedError

    def wsgi(self) -> Any:
        """The application, loaded when it is first asked for."""
        if self.callable is None:
            self.callable = self.load()
        return self.callable

    def reload(self) -> None:
        """Load the settings anew."""
        self.do_load_config()

    def _settings(self) -> dict[str, object]:
        """The settings, loaded anew: what a reload asks for."""
        self.load_default_config()
        self.load_config()
        return self.cfg.given

    def run(self) -> None:
        """Serve until told to stop, then end the program."""
        from arbiter.embed import Arbiter

        sys.exit(Arbiter(self._settings, loader=self.wsgi).run())


class Application(BaseApplication):
    """A program with Gunicorn's command line, environment and files: subclasses have `init`, which may give settings, and
    `load`."""  # noqa: D205, D209 - as above

    def init(self, parser: Any, opts: Any, args: list[str]) -> dict[str, object] | None:
        """Settings of the program's own, weaker than what its user says; `args` are the words without a flag."""
        raise NotImplementedError

    def load_config(self) -> None:
        import os

        from arbiter.config.argv import make_parser
        from arbiter.config.sources import gather

        parser = make_parser(SETTINGS.values())
        opts, rest = parser.parse_known_args()
        word = getattr(opts, "wsgi_app", None)
        own = self.init(parser, opts, [*([word] if word else []), *rest]) or {}
        found = gather(sys.argv[1:], os.environ, os.getcwd())
        if found.problems:
            raise ValueError("\n".join(map(str, found.problems)))
        for name, value in (*own.items(), *((raw.name, raw.value) for raw in found.raws)):
            self.cfg.set(name.lower(), value)
