"""Signals as the loop gets them."""

from __future__ import annotations

import subprocess
import sys

STORM = """
from signal import Signals
from arbiter.signals import Inbox

inbox = Inbox()
for number in [Signals.SIGTTIN, *[Signals.SIGHUP] * 100, Signals.SIGTTIN, Signals.SIGUSR1, Signals.SIGHUP, Signals.SIGTERM]:
    inbox.post(number)
print(*(command.value for command in inbox.read()), "and", *inbox.read())
"""


def test_a_hundred_wishes_to_reload_that_came_together_are_one_and_each_worker_more_counts() -> None:
    """In a process of its own, whose handlers it may take."""
    said = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["more", "more", "reopen-logs", "reload", "stop", "and"]
