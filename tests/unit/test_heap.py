"""The memory that a worker frees is kept for its next request. In processes of their own: a heap forgets nothing it has learned."""

from __future__ import annotations

import subprocess
import sys

UPLOADS = """
import resource, sys
from arbiter.workers import heap
if sys.argv[1:]:
    heap.keep()
def turn():
    blocks = [bytes(range(256)) * 256 for _ in range(32)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words: str) -> int:
    """Page faults of 20 turns with 32 blocks of 64 KiB each."""
    return int(subprocess.run([sys.executable, "-c", UPLOADS, *words], capture_output=True, text=True, check=True).stdout)


def test_what_uploads_have_freed_is_not_faulted_in_again() -> None:
    assert faults("keep") < 20 * 32 < faults()
