"""Makes `benchmarks` importable. The repository's root is on no path in tests, lest `config` and `workers` be (docs/adr/0001)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"

spec = importlib.util.spec_from_file_location("benchmarks", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
assert spec
sys.modules.setdefault("benchmarks", importlib.util.module_from_spec(spec))
