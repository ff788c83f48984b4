"""The properties of the policy are proven to see: each mistake that `mutants.py` knows is noticed by some test of this folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes on a loaded machine with two cores: dozens of runs of this folder's tests
def test_every_mutant_of_the_policy_is_killed() -> None:
    script = Path(__file__).with_name("mutants.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
