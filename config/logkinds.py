"""Kinds of the settings about logging: a table, a logger's class, and the addresses of statsd and syslog."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from arbiter.config.callables import Code, named, reference
from arbiter.config.kinds import Kind, Plain

if TYPE_CHECKING:
    from arbiter.config.kinds import Schema


class Table(Kind[dict[str, Any] | None]):
    """A table of anything: a dict, a TOML table, or JSON; None if there is nothing in it."""

    expected = "a table, or JSON"
    example = '{"version": 1}'
    metavar = "JSON"

    def parse(self, raw: object) -> dict[str, Any] | None:
        """The table."""
        if raw is None or raw == "":
            return None
        if isinstance(raw, str):
            import json

            try:
                raw = json.loads(raw)
            except (ValueError, RecursionError):
                raise self.refused() from None
        if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
            raise self.refused()
        return raw or None

    def schema(self) -> Schema:
        """An object, or text."""
        return {"type": ["object", "string"]}

    def render(self, value: dict[str, Any] | None) -> Plain:
        """JSON; what JSON can't hold is shown by its repr."""
        if not value:
            return ""
        import json

        return json.dumps(value, default=repr)


class LoggerClass(Kind[Code | None]):
    """The class that logs; None: Arbiter's own."""

    takes_code = True
    expected = "a class, or its name as module:class"
    example = "project.logs:Logger"
    metavar = "MODULE:CLASS"
    OURS: Final = frozenset({"", "simple", "gunicorn.glogging:Logger", "gunicorn.instrument.statsd:Statsd"})

    def parse(self, raw: object) -> Code | None:
        """The class or its name."""
        if raw is None:
            return None
        if isinstance(raw, str):
            name = reference(raw) or raw.strip()
            if name in self.OURS:
                return None
            if ":" not in name:
                raise self.refused()
            return name
        if not isinstance(raw, type):
            raise self.refused()
        return None if named(raw) in self.OURS else raw

    def render(self, value: Code | None) -> Plain:
        """Its name."""
        return "" if value is None else named(value)


class StatsdAddress(Kind[str | None]):
    """Where statsd listens; None: nowhere."""

    expected = "host:port, or unix:///path"
    example = "localhost:8125"
    metavar = "ADDRESS"
    PORT: Final = 8125
    _FORM: Final = r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?"

    def parse(self, raw: object) -> str | None:
        """`host:port`, or `unix://` and a path."""
        if raw is None or raw == "":
            return None
        text = raw.strip() if isinstance(raw, str) else ""
        if text.startswith("unix:") and len(text) > len("unix:///"):
            return "unix://" + text.removeprefix("unix:").removeprefix("//")
        match = re.fullmatch(self._FORM, text.removeprefix("udp://"))
        if not match or int(match[2] or self.PORT) > 65535:
            raise self.refused()
        return f"{match[1]}:{match[2] or self.PORT}"

    @staticmethod
    def place(value: str) -> tuple[str, int] | str:
        """As `socket.connect` takes it."""
        if value.startswith("unix://"):
            return value.removeprefix("unix://")
        host, _, port = value.rpartition(":")
        return host.strip("[]"), int(port)

    def render(self, value: str | None) -> Plain:
        """Itself."""
        return value or ""


class SyslogAddress(Kind[str]):
    """Where syslog listens."""

    expected = "udp://host:port, tcp://host:port or unix:///path, which may end in #dgram or #stream"
    example = "udp://localhost:514"
    metavar = "ADDRESS"
    _FORM: Final = r"(?:udp|tcp)://(?:\[[0-9A-Fa-f:.]+\]|[\w.-]*)(?::\d{1,5})?|unix://[^#\0]+(?:#(?:dgram|stream))?"

    def parse(self, raw: object) -> str:
        """Itself."""
        text = raw.strip() if isinstance(raw, str) else ""
        if not re.fullmatch(self._FORM, text):
            raise self.refused()
        return text

    def render(self, value: str) -> Plain:
        """Itself."""
        return value
