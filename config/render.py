"""The table as text: `--help`, `--print-config`, the JSON schema, and docs/settings.md. Pure: nobody prints.

docs/settings.md is written with `python -m arbiter.config.render > docs/settings.md`, docs/arbiter.schema.json with
`python -m arbiter.config.render schema > docs/arbiter.schema.json`; a test fails when one of them is stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from arbiter.config.argv import OPTIONS, setting_called
from arbiter.config.names import ALIASES, NOTES
from arbiter.config.provenance import Source
from arbiter.config.schema import SECTIONS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from arbiter.config.kinds import Plain
    from arbiter.config.resolve import Resolved
    from arbiter.config.schema import Setting

USAGE = "usage: arbiter [OPTIONS] [MODULE:ATTR]"
HELP_WIDTH = 100  # of the running text of `--help NAME`
HELP_COLUMN = 34  # where the explanations begin: wider than most flags, and they still end before column 120

_DOCS_HEAD = """\
# Settings

<!-- Made from the table in config/schema.py. Change it there, then: python -m arbiter.config.render > docs/settings.md -->

A setting has one name in every place. Values come from, weakest first:

1. the defaults below;
2. the environment: `PORT` and `WEB_CONCURRENCY`, then `GUNICORN_CMD_ARGS` and `ARBITER_CMD_ARGS` (command lines), then
   `ARBITER_<SETTING>`;
3. one file: the one that `-c` (or `ARBITER_CONFIG`) names, else the first of `arbiter.toml`, `[tool.arbiter]` in
   `pyproject.toml`, `arbiter.conf.py` and `gunicorn.conf.py` in the working directory;
4. the command line.

`arbiter --print-config` shows every value and where it came from; `arbiter --check-config` finds every mistake at once.
"Applies: reload" means that SIGHUP is enough; "restart", that the running value is kept until the next start.

Times are seconds, or have a unit: `500ms`, `30s`, `2m`, `1h`. Sizes are bytes, or have a unit: `64KiB`, `1M` (1024 x
1024), `1MB` (1000 x 1000). Relative paths start at `chdir`.
"""


_DOCS_OTHERS = """\
## Gunicorn's other settings

Every setting of Gunicorn 27 is known by its name and its flag. Those that are not above have another name here, or are
accepted without effect, so that an existing file is served as it is: one line in the log, and in the answer of
`arbiter --check-config`, says why and what to use instead. Values that are Gunicorn's default are passed over.
"""


class Line(NamedTuple):
    """One resolved setting, ready to be shown: no secret is in it."""

    name: str
    value: Plain
    origin: str


def config_lines(resolved: Resolved) -> list[Line]:
    """Every setting in the table's order, secrets masked: what every format of `--print-config` is made from."""
    return [
        Line(name, row.kind.masked(getattr(resolved.settings, name)), str(resolved.origins[name]))
        for name, row in SETTINGS.items()
    ]


def config_text(resolved: Resolved) -> str:
    """`--print-config`: `name = value  # origin` on each line, which is TOML."""
    lines = [(f"{line.name} = {literal(line.value)}", line.origin) for line in config_lines(resolved)]
    width = max(len(text) for text, _ in lines if len(text) <= 60)  # one long value must not push all origins away
    return "".join(f"{text:{width}}  # {origin}\n" for text, origin in lines)


def config_toml(resolved: Resolved) -> str:
    """`--print-config --format toml`: a file that means the same; what is at its default is a comment in it."""
    lines = {line.name: line for line in config_lines(resolved)}
    parts = []
    for section in SECTIONS:
        parts.append(f"# {section}\n\n")
        for name, row in SETTINGS.items():
            if row.section == section:
                line = lines[name]
                hidden = "# " if resolved.origins[name].source is Source.DEFAULT else ""
                parts.append(f"{hidden}{name} = {literal(line.value)}  # {line.origin}\n")
        parts.append("\n")
    return "".join(parts)[:-1]


def config_json(resolved: Resolved) -> str:
    """`--print-config --format json`: for programs. Durations are text with a unit, sizes are bytes."""
    import json

    settings = {line.name: {"value": line.value, "origin": line.origin} for line in config_lines(resolved)}
    whole = {"file": resolved.file, "warnings": list(resolved.warnings), "settings": settings}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


CONFIG_FORMATS: Mapping[str, Callable[[Resolved], str]] = {"text": config_text, "toml": config_toml, "json": config_json}


def literal(value: Plain) -> str:
    """A value as TOML writes it, which for these types is as JSON does, but for DEL."""
    import json

    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def default_text(row: Setting) -> str:
    """The default in words, or as it is written."""
    if row.default_text:
        return row.default_text
    plain = row.kind.render(row.default)
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, list):
        return ", ".join(plain) or "none"
    return str(plain) or "none"


def help_text() -> str:
    """`--help`: one line for each option, grouped."""
    parts = [USAGE, "", "Serve a Python web application with worker processes."]
    for section in SECTIONS:
        rows = [row for row in SETTINGS.values() if row.section == section and row.flags]
        parts += ["", f"{section}:"] if rows else []
        parts += [_help_line(row.flags, row.kind.metavar, f"{row.summary} [{default_text(row)}]") for row in rows]
    parts += ["", "Commands:"]
    parts += [_help_line(option.flags, option.metavar, option.doc) for option in OPTIONS]
    parts += ["", "All about one setting: arbiter --help NAME. SIGHUP reloads, SIGTERM stops."]
    return "\n".join(parts) + "\n"


def _help_line(flags: tuple[str, ...], metavar: str, doc: str) -> str:
    short = next((flag for flag in flags if not flag.startswith("--")), "")
    long = next(flag for flag in flags if flag.startswith("--"))
    left = f"  {short + ',' if short else '':3} {long} {metavar}".rstrip()
    gap = "\n" + " " * HELP_COLUMN if len(left) > HELP_COLUMN - 2 else " " * (HELP_COLUMN - len(left))
    return left + gap + doc


def help_entry(name: str) -> str:
    """`--help NAME`: all that the documentation says of a setting, as plain text.

    Raises:
        LookupError: there is no such setting.
    """
    import textwrap

    row = setting_called(name)
    if row is None:
        raise LookupError(name)
    doc = textwrap.fill(row.doc.replace("`", ""), HELP_WIDTH)
    return f"{row.name}\n\n{doc}\n\n" + "".join(f"  {fact.replace('`', '')}\n" for fact in _facts(row))


def schema_text() -> str:
    """`--print-schema`: the JSON Schema of arbiter.toml, by which editors complete and check it."""
    import json

    properties = {
        name: {"description": row.doc, "default": row.kind.render(row.default), **row.kind.schema()}
        for name, row in SETTINGS.items()
    }
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "arbiter.toml",
        "description": "The configuration of Arbiter. See docs/settings.md.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def docs_text() -> str:
    """docs/settings.md."""
    parts = [_DOCS_HEAD]
    for section in SECTIONS:
        parts.append(f"## {section}\n")
        parts += [_docs_entry(row) for row in SETTINGS.values() if row.section == section]
    parts.append(_DOCS_OTHERS)
    for name, alias in ALIASES.items():
        words = ", ".join(f"`{theirs}` is `{ours}`" for theirs, ours in alias.words.items())
        parts.append(
            f"### {name}\n\n[{alias.name}](#{alias.name}), by Gunicorn's name: {words}.\n\n* flag: {_code(alias.flags)}\n"
        )
    for name, note in NOTES.items():
        flags = f"\n* flag: {_code(note.flags)}\n" if note.flags else ""
        parts.append(f"### {name}\n\nNo effect: {note.advice}\n{flags}")
    return "\n".join(parts)


def _docs_entry(row: Setting) -> str:
    return f"### {row.name}\n\n{row.doc}\n\n" + "".join(f"* {fact}\n" for fact in _facts(row))


def _facts(row: Setting) -> list[str]:
    variables = [row.variable, *(name for name, _ in row.environment)]
    return [
        f"default: {'' if row.default_text else '`'}{default_text(row)}{'' if row.default_text else '`'}",
        f"takes: {row.kind.expected}; like `{row.kind.example}`",
        *([f"flag: {_code(row.flags)}"] if row.flags else []),
        f"environment: {_code(variables)}",
        f"applies: {row.applies}",
    ]


def _code(words: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    import sys

    sys.stdout.write(schema_text() if "schema" in sys.argv[1:] else docs_text())
