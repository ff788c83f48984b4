"""Makes `world` and `auditor` importable: pytest's `importlib` mode puts no folder of tests on the path."""

from __future__ import annotations

import os
import sys

from hypothesis import HealthCheck, Phase, settings

sys.path.insert(0, os.path.dirname(__file__))

# A turn of the simulated world costs what it costs on a loaded machine: time limits per example only make tests flaky.
settings.register_profile(
    "fleet", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
# For `mutants.py`: whether there is a counterexample, not which is the shortest.
settings.register_profile("hunt", settings.get_profile("fleet"), phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("fleet")
