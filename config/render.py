"""The table as text: `--help`, `--print-config`, and docs/settings.md. Pure: text goes out, nobody prints.

docs/settings.md is written with `python -m arbiter.config.render > docs/settings.md`; a test fails when it is stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from arbiter.config.argv import ACTION_OPTIONS, CONFIG_OPTION
from arbiter.config.schema import SECTIONS, SETTINGS

if TYPE_CHECKING:
    from arbiter.config.kinds import Plain
    from arbiter.config.resolve import Resolved
    from arbiter.config.schema import Setting

USAGE = "usage: arbiter [OPTIONS] [MODULE:ATTR]"
HELP_COLUMN = 34  # where the explanations begin: wider than most flags, and they still end before column 120

_DOCS_HEAD = """\
# Settings

<!-- Made from the table in config/schema.py. Change it there, then: python -m arbiter.config.render > docs/settings.md -->

A setting has one name in every place. Values come from, weakest first:

1. the defaults below;
2. the environment: `PORT` and `WEB_CONCURRENCY`, then `ARBITER_CMD_ARGS` (a command line), then `ARBITER_<SETTING>`;
3. one file: the one that `-c` (or `ARBITER_CONFIG`) names, else the first of `arbiter.toml`, `[tool.arbiter]` in
   `pyproject.toml`, `arbiter.conf.py` and `gunicorn.conf.py` in the working directory;
4. the command line.

`arbiter --print-config` shows every value and where it came from; `arbiter --check-config` finds every mistake at once.
"Applies: reload" means that SIGHUP is enough; "restart", that the running value is kept until the next start.

Times are seconds, or have a unit: `500ms`, `30s`, `2m`, `1h`. Sizes are bytes, or have a unit: `64KiB`, `1M` (1024 x
1024), `1MB` (1000 x 1000). Relative paths start at `chdir`.
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


def literal(value: Plain) -> str:
    """A value as TOML writes it, which for these types is as JSON does, but for DEL."""
    import json

    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def default_text(row: Setting) -> str:
    """The default in words, or as it is written."""
    if row.default_text:
        return row.default_text
    plain = row.kind.render(row.default)
    if isinstance(plain, list):
        return ", ".join(plain) or "none"
    return str(plain) or "none"


def help_text() -> str:
    """`--help`: one line for each option, grouped."""
    parts = [USAGE, "", "Serve a Python web application with worker processes."]
    for section in SECTIONS:
        rows = [row for row in SETTINGS.values() if row.section == section and row.flags]
        parts += ["", f"{section}:"]
        parts += [_help_line(row.flags, row.kind.metavar, f"{row.summary} [{default_text(row)}]") for row in rows]
    parts += ["", "Commands:"]
    parts += [_help_line(*option) for option in (CONFIG_OPTION, *ACTION_OPTIONS.values())]
    parts += ["", "Every setting in full: docs/settings.md. SIGHUP reloads, SIGTERM stops."]
    return "\n".join(parts) + "\n"


def _help_line(flags: tuple[str, ...], metavar: str, doc: str) -> str:
    short = next((flag for flag in flags if not flag.startswith("--")), "")
    long = next(flag for flag in flags if flag.startswith("--"))
    left = f"  {short + ',' if short else '':3} {long} {metavar}".rstrip()
    gap = "\n" + " " * HELP_COLUMN if len(left) > HELP_COLUMN - 2 else " " * (HELP_COLUMN - len(left))
    return left + gap + doc


def docs_text() -> str:
    """docs/settings.md."""
    parts = [_DOCS_HEAD]
    for section in SECTIONS:
        parts.append(f"## {section}\n")
        parts += [_docs_entry(row) for row in SETTINGS.values() if row.section == section]
    return "\n".join(parts)


def _docs_entry(row: Setting) -> str:
    variables = [row.variable, *(name for name, _ in row.environment)]
    facts = [
        f"default: {'' if row.default_text else '`'}{default_text(row)}{'' if row.default_text else '`'}",
        f"takes: {row.kind.expected}; like `{row.kind.example}`",
        *([f"flag: {_code(row.flags)}"] if row.flags else []),
        f"environment: {_code(variables)}",
        f"applies: {row.applies}",
    ]
    return f"### {row.name}\n\n{row.doc}\n\n" + "".join(f"* {fact}\n" for fact in facts)


def _code(words: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    import sys

    sys.stdout.write(docs_text())
