"""The reference pages that are made from the code's own tables: signals, exit statuses, lines of the log.

Run as ``python docs/make_reference.py``, which writes docs/reference/process.md and log.md; a test fails when they are stale.
"""

from __future__ import annotations

import re
from pathlib import Path

from arbiter.news import News
from arbiter.signals import SIGNALS
from arbiter.workers.contract import Exit

HERE = Path(__file__).parent / "reference"


def process_page() -> str:
    """Signals and exit statuses."""
    signals = "".join(
        f"| `{number.name}` | {f'`{row.command.value}`' if row.verb else ''} | {row.doc} |\n" for number, row in SIGNALS.items()
    )
    exits = "".join(f"| {code.value} | {code.meaning} |\n" for code in Exit)
    return f"""\
# Signals and exit statuses

<!-- Made by docs/make_reference.py from the tables in arbiter/signals.py and workers/contract.py. -->

## Signals

Send them to the supervisor, whose pid is in its first log line, in `pidfile`, and systemd's `$MAINPID`.
`arbiterctl -p PIDFILE VERB` sends the same.

| signal | verb | what it does |
|---|---|---|
{signals}
A worker that gets SIGTERM itself finishes its requests and leaves; it is replaced.

## Exit statuses

| status | meaning |
|---|---|
{exits}"""


def log_page() -> str:
    """What the log can say."""
    rows = "".join(f"| {news.level} | {_shown(news.sentence)} |\n" for news in News)
    return f"""\
# Lines of the log

<!-- Made by docs/make_reference.py from the table in arbiter/news.py. -->

Each line begins with time, level, `worker=` (its slot; `-` is the supervisor), `gen=` (the generation: which reload) and
`pid=`. Words in italics are filled in. Besides these there are a worker's own lines, and what the application writes to
`wsgi.errors`.

| level | line |
|---|---|
{rows}"""


def _shown(sentence: str) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", r"*\1*", sentence).replace("|", "\\|").replace("<", "&lt;")


PAGES = {"process.md": process_page, "log.md": log_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
