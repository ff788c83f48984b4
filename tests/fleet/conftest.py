"""Makes `world` and `auditor` importable: pytest's `importlib` mode puts no folder of tests on the path."""

from __future__ import annotations

import os
import sys

from hypothesis import Phase, settings

sys.path.insert(0, os.path.dirname(__file__))

# For `mutants.py`: whether there is a counterexample, not which is the shortest.
settings.register_profile("hunt", settings.get_profile("house"), phases=[Phase.explicit, Phase.generate], database=None)
