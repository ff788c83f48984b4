"""What every worker of a service needs, loaded once: by the supervisor, before it forks the first of them.

A module that a worker imports itself is the worker's own: its memory is there once for each worker, and so is the processor
time that it took (five Django workers: 13 MB of 178, 0.2 s of each boot). And a worker that is forked next month gets what the
supervisor was started with, whatever has been installed over it in the meantime.

Rules: Arbiter's modules, and those of the libraries that it needs for these settings; never the application's, nor what a
setting names. None of them starts a thread, opens a descriptor or makes a loop when it is imported. What can't be imported is
left to the worker, whose boot fails by it and says so; there too is loaded what has turned out to be needed only then.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from arbiter.workers.base import PLACES, class_place, kind_for
from arbiter.workers.protocols.http1 import head_parser

if TYPE_CHECKING:
    from arbiter.config.schema import Settings

_SETS_LIBRARIES_UP: Final = ("OPENSSL_", "PYTHON")
"""What the names of environment variables begin with that OpenSSL and Python's library look at when they are loaded: where a
worker is to be given some (`raw_env`), it has to load them itself."""


def lay_in(kind: str, settings: Settings) -> None:
    """Import what workers of this kind (of `contract.KINDS`, or `contract.AUTO`) need under these settings. Never raises."""
    if any(name.startswith(_SETS_LIBRARIES_UP) for name, _ in settings.raw_env):
        return
    for module in needed(kind, settings):
        with suppress(Exception):  # it is missing, or broken: see above
            importlib.import_module(module)
    with suppress(Exception):  # as above
        head_parser(settings.http)


def needed(kind: str, settings: Settings) -> list[str]:
    """The modules, of which each imports more."""
    is_asgi = settings.interface == "asgi" or (settings.interface == "auto" and _sounds_like_asgi(kind, settings))
    kind = kind_for(kind, settings, is_asgi=is_asgi)
    modules = ["ctypes", class_place(kind, is_asgi=is_asgi).partition(":")[0]]  # ctypes: see `heap`
    if settings.user or settings.group:  # who drops privileges loads all kinds before: see `load_application`
        modules += [place.partition(":")[0] for place in PLACES]
    if settings.preload_app:
        modules.append("arbiter.workers.template")
    is_on_loop = is_asgi or kind == "async"
    if is_on_loop:
        modules.append("arbiter.workers.background")
        if settings.asgi_loop in {"auto", "uvloop"}:
            modules.append("uvloop")
    if settings.certfile:
        modules += ["arbiter.workers.tls", "arbiter.workers.tls_on_loop"]
    if (
        kind != "sync"
        and settings.protocol == "http"
        and (settings.http2 == "on" or (settings.http2 == "auto" and settings.certfile))
    ):
        modules.append("arbiter.workers.http2_connection" if is_on_loop else "arbiter.workers.http2_in_threads")
    return modules


def _sounds_like_asgi(kind: str, settings: Settings) -> bool:
    """A guess about an application that is not loaded yet. If it is wrong, some modules are in memory for nothing."""
    return kind == "async" or "asgi" in (settings.wsgi_app or "").lower()
