"""`--check-config`: whether the application loads, in a process that serves nobody and ends after it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from arbiter.workers.app import BootError, load
from arbiter.workers.base import prepare

if TYPE_CHECKING:
    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Failed


def check(settings: Settings) -> Failed | None:
    """Load the applications as a worker does, but for the user, which only root could become; None if that works."""
    prepare(settings)
    os.umask(settings.umask)
    try:
        os.chdir(settings.chdir)
        for name in filter(None, (settings.wsgi_app, settings.websocket_app)):
            load(name)
    except BootError as error:
        return error.failed
    return None
