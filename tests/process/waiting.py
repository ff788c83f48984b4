"""The only way in which a test of real servers waits: for a condition, with a deadline that means a fault."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that a condition may take which takes milliseconds on an idle machine."""
TICK = 0.01
"""Seconds between two looks at a condition."""


def until(condition: Callable[[], T], what: Callable[[], str] | str, patience: float = PATIENCE) -> T:
    """The first true result of `condition`; fails, naming `what` was waited for and did not come."""
    end = time.monotonic() + patience
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:g} s in vain for {what if isinstance(what, str) else what()}")
        time.sleep(TICK)
    return result
