"""Kinds of value that say who stands in front of the service, and what may be believed of whom."""

from __future__ import annotations

import re

from arbiter.config.kinds import Kind, Path, Plain, Refused, Schema, Takes
from arbiter.config.lists import split_items

ANYBODY = "*"


class Networks(Kind[tuple[str, ...]]):
    """Addresses and networks of peers; ``*`` is everybody's."""

    expected = "addresses or networks, with commas, or *"
    metavar = "ADDRESSES"
    example = "127.0.0.1,10.0.0.0/8"

    def parse(self, raw: object) -> tuple[str, ...]:
        """The networks, each in its canonical form; an address stays one."""
        if raw is None:
            return ()
        return tuple(dict.fromkeys(self._network(item) for item in split_items(raw, separator=",")))

    def _network(self, item: object) -> str:
        if item == ANYBODY:
            return ANYBODY
        if not isinstance(item, str):
            raise self.refused()
        from ipaddress import ip_address, ip_network

        try:
            return str(ip_network(item) if "/" in item else ip_address(item))
        except ValueError as error:
            raise self.refused(str(error)) from None

    def schema(self) -> Schema:
        """Text, or a list."""
        return {"type": ["string", "array"], "items": {"type": "string"}}

    def render(self, value: tuple[str, ...]) -> Plain:
        """A list."""
        return list(value)


class ProxyMode(Kind[str]):
    """Which versions of the PROXY protocol are expected."""

    WORDS = ("off", "v1", "v2", "auto")
    expected = "off, v1, v2 or auto"
    example = "v2"
    metavar = "|".join(WORDS)
    takes = Takes.MAYBE
    flag_word = "auto"

    def parse(self, raw: object) -> str:
        """The word; yes and no, which Gunicorn takes as well, are `auto` and `off`."""
        text = str(raw).strip().lower() if isinstance(raw, str | bool) else ""
        word = {"true": "auto", "false": "off"}.get(text, text)
        if word not in self.WORDS:
            raise self.refused()
        return word

    def schema(self) -> Schema:
        """A word, or a boolean."""
        return {"anyOf": [{"enum": [*self.WORDS]}, {"type": ["boolean", "string"]}]}

    def render(self, value: str) -> Plain:
        """Itself."""
        return value


class Words(Kind[tuple[str, ...]]):
    """Some of a few words."""

    metavar = "WORDS"

    def __init__(self, *words: str) -> None:
        self.words = words
        self.expected = f"some of {', '.join(words)}, with commas"
        self.example = ",".join(words[:2])

    def parse(self, raw: object) -> tuple[str, ...]:
        """The words in lower case; there may be none."""
        if raw is None:
            return ()
        found = [item.lower() if isinstance(item, str) else "" for item in split_items(raw, separator=",")]
        if not set(found) <= set(self.words):
            raise self.refused()
        return tuple(word for word in self.words if word in found)

    def schema(self) -> Schema:
        """Text, or a list."""
        return {"type": ["string", "array"], "items": {"type": "string"}}

    def render(self, value: tuple[str, ...]) -> Plain:
        """A list."""
        return list(value)


class FieldNames(Kind[tuple[str, ...]]):
    """Names of header fields as they stand in the environ: upper case."""

    expected = "names of header fields, with commas"
    metavar = "NAMES"
    example = "SCRIPT_NAME,REMOTE_USER"
    _NAME = r"(?a)[A-Z0-9_-]+|\*"

    def parse(self, raw: object) -> tuple[str, ...]:
        """The names in upper case; there may be none."""
        if raw is None:
            return ()
        found = [item.upper() if isinstance(item, str) else "" for item in split_items(raw, separator=",")]
        if not all(re.fullmatch(self._NAME, name) for name in found):
            raise self.refused()
        return tuple(dict.fromkeys(found))

    def schema(self) -> Schema:
        """Text, or a list."""
        return {"type": ["string", "array"], "items": {"type": "string"}}

    def render(self, value: tuple[str, ...]) -> Plain:
        """A list."""
        return list(value)


class FieldValues(Kind[tuple[tuple[str, str], ...]]):
    """Names of header fields, and a value for each."""

    expected = "NAME=value, with commas, or a table"
    metavar = "NAME=VALUE"
    example = "X-FORWARDED-PROTO=https"
    _NAME = r"(?a)[A-Za-z0-9_-]+"

    def parse(self, raw: object) -> tuple[tuple[str, str], ...]:
        """The pairs, names in upper case; there may be none."""
        if raw is None:
            return ()
        if isinstance(raw, dict):
            pairs = list(raw.items())
        else:
            pairs = [str(item).partition("=")[::2] for item in split_items(raw, separator=",")]
        for name, value in pairs:
            if not (isinstance(name, str) and re.fullmatch(self._NAME, name.strip()) and isinstance(value, str)):
                raise self.refused()
            if not value.strip() or not value.isascii() or not value.isprintable() or "," in value:
                raise self.refused()
        return tuple({name.strip().upper(): value.strip() for name, value in pairs}.items())

    def schema(self) -> Schema:
        """Text, a list of it, or a table."""
        return {"type": ["string", "array", "object"]}

    def render(self, value: tuple[tuple[str, str], ...]) -> Plain:
        """A list of "NAME=value"."""
        return [f"{name}={text}" for name, text in value]


class Verification(Kind[str]):
    """Whether clients are asked for certificates."""

    WORDS = ("none", "optional", "required")  # in the order of ssl.VerifyMode, whose numbers Gunicorn takes
    expected = "none, optional or required"
    example = "required"
    metavar = "|".join(WORDS)

    def parse(self, raw: object) -> str:
        """The word, from itself, from ``ssl.CERT_REQUIRED`` and its kin, or from their numbers."""
        text = (str(int(raw)) if isinstance(raw, int) else raw) if isinstance(raw, int | str) else ""
        word = text.strip().lower().removeprefix("cert_")
        if word in ("0", "1", "2"):
            word = self.WORDS[int(word)]
        if isinstance(raw, bool) or word not in self.WORDS:
            raise self.refused()
        return word

    def schema(self) -> Schema:
        """A word, or Gunicorn's number."""
        return {"anyOf": [{"enum": [*self.WORDS]}, {"type": ["integer", "string"]}]}

    def render(self, value: str) -> Plain:
        """Itself."""
        return value


class NamedCertificates(Kind[tuple[tuple[str, str, str], ...]]):
    """Certificates by the names that clients ask for: name, file of the certificate, file of the key."""

    expected = "name=certificate or name=certificate:key"
    example = "shop.example=/etc/tls/shop.pem:/etc/tls/shop.key"
    metavar = "NAME=CERT:KEY"
    takes = Takes.MANY
    _path = Path(example="/etc/tls/shop.pem")
    # A host name, or one below any name: RFC 6125 section 6.4.3 has the wildcard as the whole leftmost label.
    _NAME = r"(?ai)(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"

    def parse(self, raw: object) -> tuple[tuple[str, str, str], ...]:
        """The three, from a table whose values are `cert`, `cert:key` or `[cert, key]`, or from text."""
        if raw is None:
            return ()
        if isinstance(raw, dict):
            found = [self._entry(name, files) for name, files in raw.items()]
        else:
            found = []
            for item in split_items(raw, separator=","):
                name, _, files = item.partition("=") if isinstance(item, str) else ("", "", "")
                found.append(self._entry(name, files))
        return tuple({entry[0]: entry for entry in found}.values())

    def _entry(self, name: object, files: object) -> tuple[str, str, str]:
        parts = files.split(":") if isinstance(files, str) else files
        if not isinstance(name, str) or not re.fullmatch(self._NAME, name.strip()):
            raise self.refused()
        if not isinstance(parts, list | tuple) or len(parts) not in (1, 2):
            raise self.refused()
        try:
            certificate, *key = [self._path.parse(part) for part in parts]
        except Refused:
            raise self.refused() from None
        return name.strip().lower(), certificate, key[0] if key else ""

    def schema(self) -> Schema:
        """Text, a list of it, or a table."""
        return {"type": ["string", "array", "object"]}

    def render(self, value: tuple[tuple[str, str, str], ...]) -> Plain:
        """A list of "name=certificate:key"."""
        return [f"{name}={certificate}{':' if key else ''}{key}" for name, certificate, key in value]

    def anchored(self, value: tuple[tuple[str, str, str], ...], directory: str) -> tuple[tuple[str, str, str], ...]:
        """Absolute paths."""
        return tuple(
            (name, self._path.anchored(certificate, directory), self._path.anchored(key, directory) if key else "")
            for name, certificate, key in value
        )
