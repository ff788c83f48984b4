"""`--reload`, for development: who watches the sources, and what a browser is shown while they are broken.

A change is a reload like any other, so it cuts no request. When it is refused, or the first start fails, a generation whose
application is an error page takes the place of the old one, by a reload again; the next change that loads takes its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from arbiter.config.schema import SETTINGS
from arbiter.watch import Watch

if TYPE_CHECKING:
    from arbiter.config.schema import Settings

PAGE: Final = "arbiter.workers.error_page:page"
"""A factory of applications. Imported by name, in a worker."""
LONGEST: Final = 32 * 1024
"""Characters of an error that are shown: its end, where Python says what is wrong."""


class Watcher:
    """The process of `arbiter.watch`, from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        """Start it. Supervisor side, before the first fork."""
        watch = Watch(
            folders=list(dict.fromkeys([settings.chdir, *settings.pythonpath, *settings.reload_dir])),
            files=list(settings.reload_extra_files),
            include=["*.py", *settings.reload_include],
            exclude=list(settings.reload_exclude),
            engine=settings.reload_engine,
            since=time.time_ns(),
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "arbiter.watch", str(os.getpid())], stdin=subprocess.PIPE, text=True
        )
        if self._process.stdin:
            self._process.stdin.write(json.dumps(watch._asdict()) + "\n")
            self._process.stdin.flush()

    def forget(self) -> None:
        """In a child: it must not keep the process alive."""
        if self._process.stdin:
            os.close(self._process.stdin.fileno())

    def close(self) -> None:
        """End it."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.kill()  # it has nothing to lose, and may be in the middle of a wait
        self._process.wait()


def quick(settings: Settings) -> Settings:
    """The settings with which a change is seen soon: nobody waits for proof, and all workers are replaced at once."""
    return replace(settings, prove=0.0, surge=max(settings.surge, settings.workers))


def error_page(settings: Settings, error: str) -> Settings:
    """The settings of workers that show an error instead of the application."""
    text = error if len(error) <= LONGEST else f"...\n{error[-LONGEST:]}"
    return replace(
        quick(settings),
        wsgi_app=f"{PAGE}({text!r})",
        proc_name=settings.proc_name or settings.wsgi_app,
        worker_class="sync",
        threads=SETTINGS["threads"].default,
        preload_app=False,
        warmup=(),
    )
