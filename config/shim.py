"""What `import gunicorn` finds while a configuration file runs where Gunicorn is not installed.

Files that were written for Gunicorn name its classes: `from gunicorn.glogging import Logger`, to make a logger of their own
from it, or `from gunicorn.arbiter import Arbiter`, for an annotation. They get ours, which have the same attributes. Where
Gunicorn is installed, it is what they find; and when the file has run, nothing of this is left, so that no library takes
Gunicorn for installed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PLACES: Final[Mapping[str, Mapping[str, str]]] = {
    "gunicorn": {},
    "gunicorn.app": {},
    "gunicorn.app.base": {"BaseApplication": "arbiter.app.base", "Application": "arbiter.app.base"},
    "gunicorn.arbiter": {"Arbiter": "arbiter.facade:Server"},
    "gunicorn.config": {"Config": "arbiter.facade"},
    "gunicorn.errors": {"ConfigError": "arbiter.config.provenance", "HaltServer": "arbiter.errors:StartError"},
    "gunicorn.glogging": {"Logger": "arbiter.glogging", "SafeAtoms": "arbiter.glogging", "CONFIG_DEFAULTS": "arbiter.glogging"},
    "gunicorn.http": {"Request": "arbiter.facade"},
    "gunicorn.http.message": {"Request": "arbiter.facade"},
    "gunicorn.http.wsgi": {"Response": "arbiter.facade"},
    "gunicorn.instrument": {},
    "gunicorn.instrument.statsd": {"Statsd": "arbiter.glogging"},
    "gunicorn.workers": {},
    "gunicorn.workers.base": {"Worker": "arbiter.facade"},
    "gunicorn.workers.gthread": {"ThreadWorker": "arbiter.facade"},
    "gunicorn.workers.sync": {"SyncWorker": "arbiter.facade"},
}
"""For each module, where its names are: a module that has the same name, or `module:name`. By name, because the configuration
knows nobody."""


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        place = _PLACES.get(self.__name__, {}).get(name)
        if place is None:
            raise AttributeError(f"Arbiter stands in for Gunicorn here, and has no {self.__name__}.{name}")
        module, _, other = place.partition(":")
        found = getattr(import_module(module), other or name)
        if isinstance(found, type) and self.__name__.startswith("gunicorn.workers."):
            found = type(name, (found,), {"__module__": self.__name__})  # `worker_class` tells kinds by their names
        setattr(self, name, found)
        return found


class _Finder:
    """Asked last of all finders: only where nobody else has a Gunicorn."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(name, _Finder, is_package=True) if name in _PLACES else None  # type: ignore[arg-type]  # it is a loader

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        if module.__name__ == "gunicorn":
            module.__dict__.update(__version__="27.0.1", version_info=(27, 0, 1), SERVER="gunicorn", SERVER_SOFTWARE="arbiter")


@contextmanager
def standing_in() -> Iterator[None]:
    """Have ours found in the place of Gunicorn's modules, where there are none, while the block runs."""
    sys.meta_path.append(_Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)
        for name in [name for name, module in sys.modules.items() if type(module) is _Module]:
            del sys.modules[name]
