"""What a worker's boot leaves free is given back, what requests leave is kept for the next. In processes of their own: a heap forgets nothing it has learned."""

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


HOLES = """
from arbiter.workers import heap
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
heap.keep()
kept, freed = [], []
for number in range(1000):
    freed.append(bytes(20_000))
    kept.append(bytes([number % 256]) * 1_000)  # no constant, which would be one object for all
freed.clear()
before = resident()
heap.trim()
print(before - resident())
"""


def test_what_lies_free_between_what_is_used_is_given_back_when_a_worker_has_booted() -> None:
    given_back = int(subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True).stdout)

    assert given_back > 10_000_000  # of 20 MB: a page with something in it stays
