"""What the documentation tells its reader to do, taken from its pages.

A comment before a block says what it is:

* ``<!-- file: NAME -->``, ``<!-- append: NAME -->``: the block is a file of the reader's, or the end of one;
* ``<!-- run -->``: its commands are run, in order, in one shell; each prints the lines below it, where ``...`` is anything;
* ``<!-- run, and fails -->``: the same, and each ends with an error;
* ``<!-- not run: REASON -->``: its commands can't be run by a test, for this reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
_STEP: Final = re.compile(
    r"<!-- (?:(?P<how>file|append): (?P<name>\S+)|(?P<run>run|run, and fails)) -->\n```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMANDS: Final = re.compile(r"(?P<before>[^\n]*)\n```(?:console|sh|shell|bash)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK: Final = "@@@"


@dataclass(frozen=True)
class Command:
    """One command of a page, and the lines that the page shows below it."""

    text: str
    shown: str
    fails: bool


@dataclass(frozen=True)
class Guide:
    """The steps of a page, as a script for bash."""

    page: Path
    commands: tuple[Command, ...]
    script: str

    def check(self, output: str) -> None:
        """What the script has printed is what the page shows."""
        found = output.split(f"{_MARK}\n")[1:]
        assert len(found) == len(self.commands), output
        for command, text in zip(self.commands, found, strict=True):
            assert ("FAILED" in text) == command.fails, f"{self.page.name}: {command.text}\n{text}"
            for line in command.shown.strip().splitlines():
                pattern = ".*".join(map(re.escape, line.split("...")))
                assert re.search(pattern, text), f"{self.page.name}: {command.text}: expected {line!r} in\n{text}"


def read(page: Path, text: str = "", *, log: str = "", after: str = "") -> Guide:
    """The steps of a page, or of this part of it.

    A command in the background, a server, has its log in the file `log`, and is followed by `after`.
    """
    commands, script = [], []
    for match in _STEP.finditer(text or page.read_text()):
        name = match["name"]
        if name:
            sign = ">" if match["how"] == "file" else ">>"
            script.append(f"mkdir -p \"$(dirname '{name}')\"\ncat {sign} '{name}' <<'END'\n{match['text']}END")
            continue
        for block in re.split(r"^[$#] ", match["text"], flags=re.MULTILINE)[1:]:
            command, _, shown = block.partition("\n")
            commands.append(Command(command, shown, match["run"] != "run"))
            if log and command.endswith("&"):
                script.append(f"echo '{_MARK}'; {command[:-1]} 2>{log} &\n{after}")
            else:
                script.append(f"echo '{_MARK}'; {command}\ntest $? = 0 || echo FAILED")
    return Guide(page, tuple(commands), "\n".join(script))


def unmarked(page: Path) -> list[str]:
    """Blocks with commands that are neither run nor said not to be."""
    return [
        f"{page.relative_to(ROOT)}: {match['text'].splitlines()[0]}"
        for match in _COMMANDS.finditer(page.read_text())
        if not re.fullmatch(r"<!-- (run|run, and fails|not run: \S.{9,}) -->", match["before"])
    ]
