"""Resource limits of a server under test, for a while."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def limited(pid: int, what: str, most: int, prefix: Sequence[str] = ()) -> Iterator[None]:
    """A process is allowed only so much of something, for a while; `prefix` makes us a user who may say so."""

    def prlimit(*arguments: str) -> str:
        return subprocess.run(
            [*prefix, "prlimit", f"--pid={pid}", *arguments], check=True, capture_output=True, text=True
        ).stdout

    before = prlimit(f"--{what}", "--output=SOFT", "--noheadings", "--raw").strip()
    prlimit(f"--{what}={most}:")
    try:
        yield
    finally:
        prlimit(f"--{what}={before}:")
